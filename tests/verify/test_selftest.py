"""The self-test: it passes on a sound verifier, and finds one that leaves something out."""

from collections.abc import Callable
from typing import Any

import pytest
from psycopg import sql

from tests.faulty import fault
from tests.verify.conftest import Library
from verify import checksum, rows, selftest, values
from verify.checksum import Side

COLUMNS = (
    *("place", "nr", "title", "fee", "ratio", "extra", "taken_at", "state", "weight", "card"),
    *("reader", "open", "due", "scan"),
)


@pytest.mark.every_version
def test_a_sound_verifier_finds_every_known_difference(library: Library) -> None:
    report = selftest.run(library.config)
    assert report.result == "pass", report.to_text()
    assert report.mappings == 6
    assert report.unexercised == []
    assert report.cases > 100


def test_empty_tables_are_checked_with_made_up_rows(make_library: Callable[..., Library]) -> None:
    library = make_library(rows=0, shelves=0)
    report = selftest.run(library.config)
    assert report.result == "pass", report.to_text()
    # An array of texts has no made-up value, and says so.
    assert set(report.unexercised) <= {"lending.forward.shelves.tags", "lending.reverse.shelf.tags"}


def test_a_skipped_column_is_found(make_library: Callable[..., Library]) -> None:
    library = make_library(rows=5, shelves=1)
    for column in COLUMNS:
        with fault(f"skip-column:lending.forward.loans.{column}"):
            report = selftest.run(library.config, mappings=["forward.loans"])
        assert report.result == "fail", column
        assert f"{column} changed" in {missed.case for missed in report.missed}
        assert report.exit_code == 3
        assert f"{column} changed" in report.to_text()


def test_a_checksum_that_only_adds_up_misses_the_swap(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = sql.SQL("count(*), coalesce(sum(h), 0), 0")
    monkeypatch.setattr(checksum, "_sums", lambda hashing: plain)
    report = selftest.run(library.config, mappings=["forward.loans"])
    assert report.result == "fail"
    assert all("swapped" in missed.case for missed in report.missed)


def test_a_count_alone_misses_all_but_rows(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksum, "_sums", lambda hashing: sql.SQL("count(*), 0, 0"))
    report = selftest.run(library.config, mappings=["forward.loans"])
    missed = {missed.case for missed in report.missed}
    assert {"a row is missing", "a row is too many", "a row is there twice"} & missed == set()
    assert sum(case.endswith(" changed") for case in missed) == len(COLUMNS)


def test_a_comparison_that_takes_null_for_empty_is_found(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = values.canonical
    monkeypatch.setattr(rows, "canonical", lambda kind, text: real(kind, text or ""))
    monkeypatch.setattr(rows, "equal", lambda kind, a, b: values.equal(kind, a or "", b or ""))
    report = selftest.run(library.config, mappings=["forward.loans"])
    assert {"title: NULL against empty text", "title: empty text against NULL"} <= {
        missed.case for missed in report.missed
    }


def test_rows_that_are_never_fetched_are_found(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checksum.bucket_keys

    def half(side: Side, relation: Any, *rest: Any) -> sql.Composed:
        whole = real(side, relation, *rest)
        return sql.SQL("SELECT * FROM ({}) AS s OFFSET 1").format(whole)

    monkeypatch.setattr(checksum, "bucket_keys", half)
    report = selftest.run(library.config)
    assert report.result == "fail"
