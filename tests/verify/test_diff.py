"""The run over tables at rest: what is seeded is found, and nothing else."""

from collections.abc import Callable

import psycopg
import pytest

from estate.config import UnknownName
from migrator.barrier import Marker
from tests.verify.conftest import Library, Passed
from verify import diff, selftest
from verify.barriers import SyncNotEnabled
from verify.passes import Limits, Progress
from verify.sides import Connection, ConnectionLost
from verify.subject import MappingNotComparable, TableArchived, UnknownMapping
from verify.verdict import SHOWN, MappingVerdict, Verdict

SMALL = Limits(rows_in_hand=50)


def verify(library: Library, *mappings: str, limits: Limits = SMALL) -> Verdict:
    return diff.run(library.config, None, list(mappings), barriers=Passed(), limits=limits)


def only(verdict: Verdict, mapping: str) -> MappingVerdict:
    return next(m for m in verdict.mappings if m.mapping == f"lending.{mapping}")


def counts(verdict: Verdict) -> dict[str, int]:
    totals = verdict.totals()
    return {name: totals[name] for name in ("mismatched", "missing", "extra", "inconclusive")}


NOTHING = {"mismatched": 0, "missing": 0, "extra": 0, "inconclusive": 0}


def test_equal_tables_are_equal_in_both_directions(library: Library) -> None:
    verdict = verify(library)
    assert verdict.verdict == "equal", verdict.to_text()
    assert verdict.hashing == "record"
    compared = {m.mapping: m.rows_compared for m in verdict.mappings}
    assert compared == {
        "lending.forward.loans": 400,
        "lending.forward.loan_lines": 600,
        "lending.forward.shelves": 20,
        "lending.reverse.loan_book": 400,
        "lending.reverse.loan_line": 600,
        "lending.reverse.shelf": 20,
    }
    assert set(verdict.barriers) == {"lending.forward", "lending.reverse"}
    assert all(b["b0"] and b["b1"] for b in verdict.barriers.values())


# Each change of the new side, and the columns it must be reported under.
CHANGES = {
    "a cent": ("UPDATE loans SET fee = fee + 0.01 WHERE nr = 33", {"fee": 1}),
    "a number's last digit": ("UPDATE loans SET ratio = ratio + 0.001 WHERE nr = 33", {"ratio": 1}),
    "letter case": ("UPDATE loans SET title = upper(title) WHERE nr = 33", {"title": 1}),
    "a trailing space": ("UPDATE loans SET title = title || ' ' WHERE nr = 33", {"title": 1}),
    "a microsecond": (
        "UPDATE loans SET taken_at = taken_at + interval '1 us' WHERE nr = 33",
        {"taken_at": 1},
    ),
    "another time zone": (
        "UPDATE loans SET taken_at = taken_at::timestamp AT TIME ZONE '+01' WHERE nr = 33",
        {"taken_at": 1},
    ),
    "a JSON value": (
        """UPDATE loans SET extra = extra || '{"n": 34}' WHERE nr = 33""",
        {"extra": 1},
    ),
    "JSON nesting": (
        """UPDATE loans SET extra = '{"n": 33, "l": [[33], 34]}' WHERE nr = 33""",
        {"extra": 1},
    ),
    "NULL for a value": ("UPDATE loans SET extra = NULL WHERE nr = 33", {"extra": 1}),
    "an enum": ("UPDATE loans SET state = 'lost' WHERE nr = 33", {"state": 1}),
    "a double's last bit": ("UPDATE loans SET weight = 11.000000000000002 WHERE nr = 33",
                            {"weight": 1}),
    "a swapped value": (
        "UPDATE loans SET fee = CASE nr WHEN 33 THEN 34.34 ELSE 33.33 END WHERE nr IN (33, 34)",
        {"fee": 2},
    ),
    "two columns of a row": (
        "UPDATE loans SET open = NOT open, due = due + 1 WHERE nr = 34",
        {"due": 1, "open": 1},
    ),
}  # fmt: skip


@pytest.fixture
def prepared(library: Library) -> Library:
    """Row 33 and 34 with values that every change can change."""
    state = "UPDATE loan_book SET state = 'out', extra = '{\"n\": 33, \"l\": [[33, 34]]}'"
    library.old.execute(f"{state}, weight = 11 WHERE number = 33".encode())
    library.copy()
    return library


def test_each_seeded_change_is_found_and_no_other(prepared: Library) -> None:
    library = prepared
    assert counts(verify(library, "loans")) == NOTHING
    library.new.execute("BEGIN")
    library.new.execute("CREATE TABLE kept AS TABLE loans")
    library.new.execute("COMMIT")
    for name, (change, columns) in CHANGES.items():
        library.new.execute(change.encode())
        verdict = verify(library, "loans")
        found = only(verdict, "forward.loans")
        assert (found.columns, verdict.verdict) == (columns, "different"), name
        expected = 2 if name == "a swapped value" else 1
        assert counts(verdict) == {**NOTHING, "mismatched": expected}, name
        with library.new.transaction():
            library.new.execute("TRUNCATE loans")
            library.new.execute("INSERT INTO loans TABLE kept")


def test_values_that_are_written_differently_but_are_equal(library: Library) -> None:
    new = library.new
    new.execute("UPDATE loans SET ratio = ratio::numeric(30, 20) WHERE ratio <> 'NaN'")
    new.execute("""UPDATE shelves SET raw = '{"a":[1.00],  "b":1}'""")
    new.execute("UPDATE loans SET weight = 0 WHERE weight = 0")
    new.execute("""UPDATE loans SET extra = replace(extra::text, '], "n"', '.0], "n"')::jsonb""")
    library.new.execute("UPDATE loans SET card = trim(card)")
    verdict = verify(library)
    assert verdict.verdict == "equal", verdict.to_text()


def test_missing_and_extra_rows_are_named_with_the_side_that_has_them(library: Library) -> None:
    library.new.execute("DELETE FROM loans WHERE nr = 77")
    library.new.execute("INSERT INTO loans (place, nr, title) VALUES ('~ after all', 99999, 'x')")
    library.new.execute("INSERT INTO loans (place, nr, title) VALUES ('', -1, 'y')")
    verdict = verify(library, "forward.loans")
    assert counts(verdict) == {**NOTHING, "missing": 1, "extra": 2}
    samples = {sample.key["nr"]: sample for sample in only(verdict, "forward.loans").samples}
    assert samples["77"].what == "missing"
    assert samples["77"].old["title"] == "Title 77"
    assert samples["77"].new is None
    assert samples["99999"].new["title"] == "x"
    assert samples["-1"].old is None
    assert samples["-1"].key == {"place": "", "nr": "-1"}
    # Seen from the way back the same rows are extra and missing, on the same sides.
    back = verify(library, "reverse.loan_book")
    assert counts(back) == {**NOTHING, "missing": 2, "extra": 1}
    samples = {sample.key["number"]: sample for sample in only(back, "reverse.loan_book").samples}
    assert samples["77"].old["title"] == "Title 77"
    assert samples["77"].new is None


def test_rows_beyond_the_targets_last_key_are_seen(library: Library) -> None:
    library.old.execute("INSERT INTO loan_book (branch, number) SELECT '~', i"
                        " FROM generate_series(1, 120) AS i")  # fmt: skip
    assert counts(verify(library, "forward.loans")) == {**NOTHING, "missing": 120}


def test_one_row_of_a_key_with_several(library: Library) -> None:
    # Number 3 has three lines: the first with NULL, the second with an empty remark.
    library.new.execute("UPDATE loan_lines SET remark = NULL WHERE nr = 3 AND remark = ''")
    library.new.execute("DELETE FROM loan_lines WHERE nr = 3 AND remark = 'line 3'")
    verdict = verify(library, "forward.loan_lines")
    assert counts(verdict) == {**NOTHING, "mismatched": 1, "missing": 1}
    samples = {sample.what: sample for sample in only(verdict, "forward.loan_lines").samples}
    changed, missing = samples["mismatched"], samples["missing"]
    assert (changed.column, changed.old, changed.new) == ("remark", "", None)
    assert missing.old["remark"] == "line 3"
    assert missing.key == {"place": "zoo", "nr": "3", "id": missing.old["id"]}


def test_an_empty_target_is_all_missing(library: Library) -> None:
    library.new.execute("TRUNCATE loans")
    assert counts(verify(library, "forward.loans")) == {**NOTHING, "missing": 400}
    back = verify(library, "reverse.loan_book")
    assert counts(back) == {**NOTHING, "extra": 400}
    assert len(only(back, "reverse.loan_book").samples) == SHOWN


@pytest.mark.parametrize("rows_in_hand", [1, 20, 399, 1000])
def test_a_hole_is_counted_however_few_rows_are_in_hand(
    library: Library, rows_in_hand: int
) -> None:
    library.new.execute("DELETE FROM loans WHERE nr BETWEEN 20 AND 390")
    verdict = verify(library, "forward.loans", limits=Limits(rows_in_hand=rows_in_hand))
    assert counts(verdict) == {**NOTHING, "missing": 371}


def test_a_wholly_different_table_stops_at_the_limit_of_suspects(library: Library) -> None:
    library.new.execute("UPDATE loans SET title = 'gone'")
    verdict = verify(library, "loans", limits=Limits(rows_in_hand=50, suspects=100))
    found = counts(verdict)
    assert verdict.verdict == "different"
    assert found["mismatched"] == 100
    assert found["mismatched"] + found["inconclusive"] == 400


def test_a_key_that_is_not_whole_is_seen(library: Library) -> None:
    library.old.execute("ALTER TABLE shelf DROP CONSTRAINT shelf_pkey")
    library.old.execute("ALTER TABLE shelf ALTER id DROP NOT NULL")
    library.old.execute("INSERT INTO shelf (id, name) VALUES (NULL, 'lost')")
    verdict = verify(library, "shelves")
    assert counts(verdict) == {**NOTHING, "missing": 1}
    assert only(verdict, "forward.shelves").samples[0].key == {"id": None}


def test_servers_that_hash_differently_are_compared_by_md5(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verify.sides.CALIBRATION", "SELECT pg_backend_pid()")
    assert verify(library).hashing == "md5"
    assert counts(verify(library)) == NOTHING
    library.new.execute("UPDATE loans SET fee = CASE nr WHEN 33 THEN 34.34 ELSE 33.33 END"
                        " WHERE nr IN (33, 34)")  # fmt: skip
    assert counts(verify(library, "loans")) == {**NOTHING, "mismatched": 2}


def test_progress_tells_how_far_each_mapping_is(library: Library) -> None:
    seen: list[Progress] = []
    diff.run(library.config, on_progress=seen.append, barriers=Passed(), limits=SMALL)
    last = {progress.mapping: progress for progress in seen}
    assert len(last) == 6
    for progress in last.values():
        assert (progress.share, progress.suspects) == (1.0, 0)
    assert "loans: 400 rows" in str(last["lending.forward.loans"])


def test_the_verdict_as_data_and_as_text(library: Library) -> None:
    library.new.execute("UPDATE loans SET title = NULL WHERE nr = 7")
    verdict = verify(library)
    data = verdict.to_json()
    assert data["verdict"] == "different"
    assert data["mismatched"] == 2
    assert verdict.exit_code == 3
    sample = data["mappings"][0]["samples"][0]
    assert data["started_at"] <= sample.pop("first_seen") < sample.pop("confirmed_at")
    assert sample == {
        "key": {"place": "ape", "nr": "7"},
        "what": "mismatched",
        "column": "title",
        "old": "Title 7",
        "new": None,
    }
    assert "place=ape, nr=7] title: old 'Title 7', new NULL" in verdict.to_text()


def test_sensitive_columns_are_compared_and_never_shown(library: Library) -> None:
    mapping = library.config.domains["lending"].forward[0]
    object.__setattr__(mapping, "sensitive", ("title", "reader"))
    library.new.execute("UPDATE loans SET title = 'Secret 7', fee = 1.5 WHERE nr = 7")
    library.new.execute("UPDATE loans SET title = NULL WHERE nr = 8")
    library.new.execute("DELETE FROM loans WHERE nr = 9")
    verdict = verify(library, "forward.loans")
    assert counts(verdict) == {**NOTHING, "mismatched": 2, "missing": 1}
    told = verdict.to_text() + str(verdict.to_json())
    assert "Secret" not in told
    assert "Title" not in told
    assert "reader-" not in told
    samples = {(s.key["nr"], s.column): s for s in only(verdict, "forward.loans").samples}
    seen = samples["7", "title"]
    assert (seen.old, seen.new) == ("(not shown)", "(not shown)")
    assert (samples["8", "title"].new, samples["7", "fee"].new) == (None, "1.50")
    assert samples["9", None].old["title"] == "(not shown)"
    assert samples["9", None].old["fee"] == "9.09"


def test_a_value_that_cannot_be_read_stops_its_mapping_alone_and_is_not_told(
    library: Library,
) -> None:
    library.old.execute("INSERT INTO loan_line (branch, number, copy_id)"
                        " SELECT branch, number, 'secret 4711' FROM loan_book LIMIT 1")  # fmt: skip
    library.new.execute("UPDATE loans SET title = 'x' WHERE nr = 3")
    verdict = verify(library)
    assert verdict.verdict == "different"
    assert only(verdict, "forward.loans").mismatched == 1
    assert only(verdict, "forward.loan_lines").verdict == "inconclusive"
    (reason,) = verdict.reasons
    assert reason.startswith("lending.forward.loan_lines: 'old' could not answer")
    assert "invalid input syntax for type uuid" in reason
    assert "4711" not in reason


def test_a_role_with_little_time_for_statements_is_no_hindrance(library: Library) -> None:
    for connection in (library.old, library.new):
        connection.execute("CREATE FUNCTION slow(t text) RETURNS text LANGUAGE plpgsql AS"
                           " $$ BEGIN PERFORM pg_sleep(0.005); RETURN t; END $$")  # fmt: skip
        connection.execute("SET search_path = public")
    mapping = library.config.domains["lending"].forward[0]
    query = mapping.sql.replace("title,", "slow(title) AS title,")
    object.__setattr__(mapping, "_sql", query)
    library.old.execute("ALTER ROLE verify_reader SET statement_timeout = '300ms'")
    try:
        verdict = verify(library, "forward.loans")
    finally:
        library.old.execute("ALTER ROLE verify_reader RESET statement_timeout")
    assert verdict.verdict == "equal", verdict.to_text()
    assert only(verdict, "forward.loans").seconds > 1


def test_names_that_are_not_known(library: Library) -> None:
    with pytest.raises(UnknownMapping, match=r"lending\.forward\.loans"):
        verify(library, "nothing")
    with pytest.raises(UnknownName):
        diff.run(library.config, "nowhere", barriers=Passed())


def test_archived_tables_are_told_apart_from_missing_ones(library: Library) -> None:
    library.old.execute("ALTER TABLE shelf RENAME TO archived_shelf")
    for mapping in ("forward.shelves", "reverse.shelf"):
        with pytest.raises(TableArchived, match="archived_shelf"):
            verify(library, mapping)
    library.old.execute("DROP TABLE archived_shelf")
    with pytest.raises(MappingNotComparable, match="shelf"):
        verify(library, "forward.shelves")


def test_of_all_domains_those_are_compared_that_have_two_sides(library: Library) -> None:
    lending = library.config.domain("lending")
    others = lending.model_copy(
        update={
            "name": "shelving",
            "forward": [item for item in lending.forward if item.target == "shelves"],
            "reverse": [item for item in lending.reverse if item.target == "shelf"],
        }
    )
    domains = {"lending": lending, "shelving": others}
    config = library.config.model_copy(update={"domains": domains})
    library.old.execute("ALTER TABLE loan_book RENAME TO archived_loan_book")
    assert selftest.run(config).mappings == 2
    verdict = diff.run(config, barriers=Passed())
    assert verdict.verdict == "equal", verdict.to_text()
    assert [item.mapping for item in verdict.mappings] == [
        "shelving.forward.shelves",
        "shelving.reverse.shelf",
    ]
    assert "not compared: lending: " in verdict.to_text()
    with pytest.raises(TableArchived):
        diff.run(config, "lending", barriers=Passed())
    with pytest.raises(TableArchived):
        diff.run(config.model_copy(update={"domains": {"lending": lending}}), barriers=Passed())


def test_a_role_without_rights_and_a_dropped_column_are_clear_errors(library: Library) -> None:
    library.new.execute("REVOKE SELECT ON loans FROM PUBLIC, verify_reader")
    with pytest.raises(MappingNotComparable, match="permission denied for table loans"):
        verify(library, "forward.loans")
    library.new.execute("ALTER TABLE shelves DROP COLUMN name")
    with pytest.raises(MappingNotComparable, match="name"):
        verify(library, "forward.shelves")


def test_sync_that_was_never_enabled_is_a_clear_error(library: Library) -> None:
    with pytest.raises(SyncNotEnabled, match=r"lending\.forward"):
        diff.run(library.config)


def test_a_lost_connection_is_inconclusive_not_a_traceback(
    library: Library, make_broken: Callable[[], Passed]
) -> None:
    with pytest.raises(ConnectionLost) as caught:
        diff.run(library.config, barriers=make_broken())
    assert caught.value.exit_code == 4


@pytest.fixture
def make_broken(library: Library) -> Callable[[], Passed]:
    """Barriers that cut the verifier's connections, as a restart of the server would."""

    class Cutting(Passed):
        def mark(self, source: Connection, stream: str) -> Marker:
            with psycopg.connect(library.databases["new"].dsn, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'splitctl verify'"
                )
            return super().mark(source, stream)

    return Cutting
