"""Parts of the data: a sample, some rows, some columns; what they tell, and what they refuse."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from tests.verify.conftest import Library, Passed
from verify import diff
from verify.passes import Limits
from verify.scope import (
    NotAPart,
    NoTouchedColumn,
    Scope,
    UnknownColumn,
    moment,
    names,
    thousandths,
)
from verify.verdict import Verdict


def verify(library: Library, scope: Scope, mapping: str = "forward.loans") -> Verdict:
    return diff.run(library.config, None, [mapping], barriers=Passed(), scope=scope)


def test_a_sample_finds_the_differences_of_its_own_keys(library: Library) -> None:
    library.new.execute("UPDATE loans SET title = 'gone'")
    verdict = verify(library, Scope(sample=250))
    assert 60 < verdict.totals()["rows_compared"] < 140
    assert verdict.totals()["mismatched"] == verdict.totals()["rows_compared"]
    assert verdict.scope == "a sample of 25.0% of the keys"
    assert "only a sample of 25.0% of the keys" in verdict.to_text()
    # The same keys every time.
    again = verify(library, Scope(sample=250)).totals()
    assert again["mismatched"] == verdict.totals()["mismatched"]


def test_a_row_that_only_one_side_chooses_is_told_as_what_it_is(library: Library) -> None:
    library.new.execute("UPDATE loans SET due = '1999-01-01' WHERE nr = 30")
    library.new.execute("UPDATE loans SET title = 'x' WHERE nr = 31")
    verdict = verify(library, Scope(where="due < '2000-01-01' -- old ones"))
    assert verdict.totals()["mismatched"] == 1
    assert verdict.totals()["missing"] == verdict.totals()["extra"] == 0
    assert verdict.mappings[0].columns == {"due": 1}


def test_a_condition_that_is_no_sql_is_a_mistake_of_usage(library: Library) -> None:
    with pytest.raises(NotAPart, match=r'nonsense = 1.*"nonsense" does not exist') as caught:
        verify(library, Scope(where="nonsense = 1"))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "text",
    [
        "true)) AS s; DELETE FROM loans; --",
        "true)\n; COMMIT; DELETE FROM loans; SELECT (true",
        "true)\n OFFSET 0) AS s; COMMIT; DELETE FROM loans; SELECT 1 --",
    ],
)
def test_a_condition_holds_no_other_statement(library: Library, text: str) -> None:
    library.new.execute("GRANT DELETE ON loans TO verify_reader")
    with pytest.raises(NotAPart):
        verify(library, Scope(where=text))
    assert library.new.execute("SELECT count(*) FROM loans").fetchone() == (400,)


def test_rows_touched_since(library: Library) -> None:
    config = library.config
    domain = config.domains["lending"]
    forward = tuple(
        mapping.model_copy(update={"touched": "taken_at" if mapping.target == "loans" else None})
        for mapping in domain.forward
    )
    object.__setattr__(domain, "forward", forward)
    newest = library.new.execute("SELECT max(taken_at) FROM loans").fetchone()
    assert newest is not None
    library.new.execute("UPDATE loans SET title = 'early' WHERE nr = 3")
    library.new.execute("UPDATE loans SET title = 'late' WHERE nr = 399")
    # The target has not heard of the change: there the row is an old one.
    library.old.execute("UPDATE loan_book SET taken_at = '2030-01-01' WHERE number = 7")
    verdict = verify(library, Scope(since=newest[0] - timedelta(seconds=5)))
    found = {sample.key["nr"] for sample in verdict.mappings[0].samples}
    assert found == {"399", "7"}
    assert verdict.totals()["mismatched"] == 2
    with pytest.raises(NoTouchedColumn, match=r"lending\.forward\.loan_lines"):
        verify(library, Scope(since=newest[0]), "forward.loan_lines")


def test_some_columns(library: Library) -> None:
    library.new.execute("UPDATE loans SET title = 'x', fee = 0 WHERE nr = 31")
    verdict = verify(library, Scope(columns=("fee", "due")))
    assert verdict.mappings[0].columns == {"fee": 1}
    assert verify(library, Scope(columns=("due",))).verdict == "equal"
    # Rows of one key are told apart all the same.
    library.new.execute("UPDATE loan_lines SET price = 9, remark = 'y' WHERE id = 5")
    lines = verify(library, Scope(columns=("remark",)), "forward.loan_lines")
    assert (lines.totals()["mismatched"], lines.mappings[0].columns) == (1, {"remark": 1})
    with pytest.raises(UnknownColumn, match="nothing"):
        verify(library, Scope(columns=("fee", "nothing")))


def test_what_the_time_did_not_allow_is_inconclusive(library: Library) -> None:
    verdict = diff.run(library.config, barriers=Passed(), limits=Limits(timeout_s=0))
    assert verdict.verdict == "inconclusive"
    assert verdict.exit_code == 4
    (reason,) = verdict.reasons
    assert "lending.forward.loans" in reason
    assert "0 s" in reason


def test_a_part_in_words_and_from_words() -> None:
    assert Scope().whole
    assert str(Scope()) == ""
    since = datetime(2026, 1, 31, 12, tzinfo=UTC)
    part = Scope(15, "a > 1", since, ("a", "b"))
    assert not part.whole
    assert str(part) == (
        "a sample of 1.5% of the keys; rows touched since 2026-01-31 12:00:00 UTC; "
        "rows where a > 1; columns a, b"
    )
    assert moment("2026-01-31T12:00") == since
    assert moment("2026-01-31T14:00+02:00") == since
    assert abs(datetime.now(UTC) - timedelta(hours=2) - moment("2h")) < timedelta(minutes=1)
    assert names(" a, b,") == ("a", "b")
    assert names(None) == ()
    assert (thousandths(100), thousandths(0.1)) == (1000, 1)
    for wrong in (0, 0.04, 101, float("nan"), float("inf")):
        with pytest.raises(NotAPart):
            thousandths(wrong)
    for text in ("yesterday", "800000d", "0001-01-01T00:00+05:00"):
        with pytest.raises(NotAPart, match=re.escape(text)):
            moment(text)
    with pytest.raises(NotAPart):
        names(" , ")
