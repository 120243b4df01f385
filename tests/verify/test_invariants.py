"""What must be true of the data: it holds, it is broken, or it is not known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from estate.config import InvariantConfig
from tests.verify.conftest import Library, Passed
from verify import diff, invariants, page
from verify.passes import Limits
from verify.sides import Both
from verify.verdict import InvariantVerdict

FEES = "SELECT number AS loan, fee FROM loan_book WHERE fee < 0"
DAYS_OLD = "SELECT due, count(*) AS loans, sum(fee) AS fees FROM loan_book GROUP BY due"
DAYS_NEW = "SELECT due, count(*) AS loans, sum(fee) AS fees FROM loans GROUP BY due"

Make = Callable[..., InvariantConfig]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A function that makes an invariant: texts by key, and sides."""

    def made(name: str, **given: Any) -> InvariantConfig:
        values: dict[str, Any] = {"name": name}
        for key, value in given.items():
            if key == "sides":
                values[key] = value
                continue
            path = tmp_path / f"{name} {key}.sql"
            path.write_text(value, encoding="utf-8")
            values[key] = str(path)
        return InvariantConfig.model_validate(values)

    return made


def ask(library: Library, *chosen: InvariantConfig) -> list[InvariantVerdict]:
    object.__setattr__(library.config.domains["lending"], "invariants", list(chosen))
    return diff.invariants(library.config, "lending", Passed()).invariants


def test_what_holds_and_what_is_broken(library: Library, make: Make) -> None:
    chosen = make("fees", query=FEES, sides=["old"]), make("days", old=DAYS_OLD, new=DAYS_NEW)
    # 1.0 and 1.00 are one number.
    library.new.execute("ALTER TABLE loans ALTER fee TYPE numeric(12, 5)")
    assert [item.verdict for item in ask(library, *chosen)] == ["holds", "holds"]
    library.old.execute("UPDATE loan_book SET fee = -1 WHERE number IN (7, 8)")
    fees, days = ask(library, *chosen)
    assert (fees.verdict, fees.broken) == ("broken", 2)
    assert {row["loan"] for row in fees.rows} == {7, 8}
    assert (days.verdict, days.broken) == ("broken", 1)
    (row,) = days.rows
    assert row["old"]["loans"] == row["new"]["loans"]
    assert row["old"]["fees"] < row["new"]["fees"]


def test_a_day_that_only_one_side_has(library: Library, make: Make) -> None:
    library.new.execute("UPDATE loans SET due = '1999-01-01', fee = 'NaN' WHERE nr = 7")
    library.old.execute("UPDATE loan_book SET fee = 'NaN' WHERE number = 8")
    library.new.execute("UPDATE loans SET fee = 'NaN' WHERE nr = 8")
    (days,) = ask(library, make("days", old=DAYS_OLD, new=DAYS_NEW))
    assert days.broken == 2
    lone = next(row for row in days.rows if row["old"] is None)
    assert lone["new"]["loans"] == 1


def test_what_is_on_its_way_breaks_nothing(library: Library, make: Make) -> None:
    library.old.execute("UPDATE loan_book SET fee = -1 WHERE number = 7")

    class Carrying(Passed):
        def mark(self, source: Any, stream: str) -> Any:
            if self.waits >= 4:
                library.old.execute("UPDATE loan_book SET fee = 1 WHERE number = 7")
            return super().mark(source, stream)

    object.__setattr__(
        library.config.domains["lending"], "invariants", [make("fees", query=FEES, sides=["old"])]
    )
    (fees,) = diff.invariants(library.config, None, Carrying()).invariants
    assert fees.verdict == "holds"


def test_rows_that_never_stand_still_are_not_told(
    library: Library, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invariants, "FIRST_PAUSE_S", 0.001)
    real = invariants._rows
    turn = iter(range(1000))

    def moving(both: Both, connection: Any, text: str, most: int) -> list[dict[str, Any]]:
        return [{"n": 1, "value": next(turn)}, *real(both, connection, text, most)]

    monkeypatch.setattr(invariants, "_rows", moving)
    monkeypatch.setattr(diff, "Limits", lambda: Limits(patience_s=0.2))
    text = "SELECT 2 AS n, 1 AS value"
    (swinging,) = ask(library, make("swinging", old=text, new=text))
    assert (swinging.verdict, swinging.broken, swinging.moving) == ("inconclusive", 0, 1)


def test_a_query_that_is_refused_is_told_and_the_others_are_asked(
    library: Library, make: Make
) -> None:
    wrong, writing, right = ask(
        library,
        make("wrong", query="SELECT nothing FROM loan_book", sides=["old"]),
        make("writing", query="SELECT set_config('x.y', '1', true), 1 / 0", sides=["new"]),
        make("right", query=FEES, sides=["old"]),
    )
    assert wrong.verdict == writing.verdict == "inconclusive"
    assert '"nothing" does not exist' in (wrong.problem or "")
    assert "division by zero" in (writing.problem or "")
    assert right.verdict == "holds"


def test_nothing_can_be_written_by_an_invariant(library: Library, make: Make) -> None:
    library.new.execute("CREATE FUNCTION gone() RETURNS integer LANGUAGE sql AS"
                        " $$ DELETE FROM loans; SELECT 1 $$")  # fmt: skip
    library.new.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO verify_reader")
    (writing,) = ask(library, make("writing", query="SELECT gone()", sides=["new"]))
    assert "read-only transaction" in (writing.problem or "")
    assert library.new.execute("SELECT count(*) FROM loans").fetchone() == (400,)


def test_a_whole_run_asks_them_too(library: Library, make: Make) -> None:
    chosen = make("fees", query=FEES, sides=["old"])
    object.__setattr__(library.config.domains["lending"], "invariants", [chosen])
    library.old.execute("UPDATE loan_book SET fee = -1 WHERE number = 7")
    library.new.execute("UPDATE loans SET fee = -1 WHERE nr = 7")
    verdict = diff.run(library.config, barriers=Passed())
    assert verdict.verdict == "different"
    assert verdict.exit_code == 3
    assert verdict.totals()["mismatched"] == 0
    assert "lending: fees: BROKEN by 1 row(s)" in verdict.to_text()
    assert "side old, loan 7, fee -1.00" in verdict.to_text()
    assert verdict.to_json()["invariants"][0]["rows"] == [
        {"side": "old", "loan": 7, "fee": "-1.00"}
    ]
    assert "lending: fees" in page.render(verdict, "x", [])
    # A part of the data says nothing about them.
    part = diff.run(library.config, mappings=["forward.loans"], barriers=Passed())
    assert part.invariants == []


def test_without_a_barrier_nothing_is_asked(library: Library, make: Make) -> None:
    class Behind(Passed):
        def wait_for(self, *arguments: Any) -> Any:
            return type(super().wait_for(*arguments))(False, 9)

    chosen = make("fees", query=FEES, sides=["old"])
    object.__setattr__(library.config.domains["lending"], "invariants", [chosen])
    verdict = diff.invariants(library.config, None, Behind())
    assert verdict.verdict == "inconclusive"
    assert verdict.exit_code == 4
    assert not verdict.invariants[0].asked
    assert "fees: could not be told: sync was not seen" in invariants.Report(verdict).to_text()


def test_a_row_that_is_broken_otherwise_at_each_look_does_not_hold(
    library: Library, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invariants, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(diff, "Limits", lambda: Limits(patience_s=0.2))
    turn = iter(range(1, 1000))

    class Changing(Passed):
        def mark(self, source: Any, stream: str) -> Any:
            library.old.execute(f"UPDATE loan_book SET fee = -{next(turn)} WHERE number = 7")
            return super().mark(source, stream)

    object.__setattr__(
        library.config.domains["lending"], "invariants", [make("fees", query=FEES, sides=["old"])]
    )
    (fees,) = diff.invariants(library.config, None, Changing()).invariants
    assert (fees.verdict, fees.moving) == ("inconclusive", 1)


def test_what_moves_clears_row_by_row(
    library: Library, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each look another row is on its way: all of them are never equal at once."""
    monkeypatch.setattr(invariants, "FIRST_PAUSE_S", 0.001)
    real = invariants._rows
    turn = iter(range(1000))

    def moving(both: Both, connection: Any, text: str, most: int) -> list[dict[str, Any]]:
        rows = real(both, connection, text, most)
        if connection is both.new:
            number = next(turn)
            rows[number % len(rows)] |= {"loans": -number}
        return rows

    monkeypatch.setattr(invariants, "_rows", moving)
    texts = [
        f"SELECT {key} % 10 AS part, count(*) AS loans FROM {table} GROUP BY part"
        for key, table in (("number", "loan_book"), ("nr", "loans"))
    ]
    (days,) = ask(library, make("days", old=texts[0], new=texts[1]))
    assert days.verdict == "holds", days


def test_two_queries_that_cannot_be_told_row_by_row_are_refused(
    library: Library, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ask(
        library,
        make("twice", old="SELECT open, number FROM loan_book", new=DAYS_NEW),
        make("columns", old=DAYS_OLD, new=DAYS_NEW.replace("AS fees", "AS money")),
        make("names", old="SELECT due, sum(fee), sum(number) FROM loan_book GROUP BY due",
             new=DAYS_NEW),
    )  # fmt: skip
    assert [item.verdict for item in found] == ["inconclusive"] * 3
    assert [item.problem for item in found] == [
        "its first column names several rows on the old side",
        "its two queries give columns of different names",
        "two of its columns have one name",
    ]
    monkeypatch.setattr(invariants, "MOST_ROWS", 100)
    monkeypatch.setattr(invariants, "MOST_PARTS", 100)
    many = make("many", old="SELECT number FROM loan_book", new="SELECT nr AS number FROM loans")
    (one,) = ask(library, many)
    assert one.problem == "its query gives more than 100 rows on the old side"
    (one,) = ask(library, make("all", query="SELECT number FROM loan_book", sides=["old"]))
    assert (one.verdict, one.broken) == ("broken", 100)


def test_an_invariant_has_one_of_two_forms(make: Make) -> None:
    for given in (
        {"query": FEES},
        {"sides": ["old"]},
        {"old": FEES},
        {"old": FEES, "new": FEES, "query": FEES, "sides": ["old"]},
        {},
    ):
        with pytest.raises(ValidationError, match="either query and sides, or old and new"):
            make("wrong", **given)
    with pytest.raises(ValidationError, match="is empty"):
        make("wrong", query=" ;", sides=["old"])
