"""Which verification the gates rest on, by what was found out since it began. No database."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from estate.ledger import VerdictRecord
from rollout.evidence import trusted
from verify.verdict import CHECKED, FOUND, INVARIANTS, VERIFY

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def record(name: str, verdict: str, began_s: float, age_s: float, **data: Any) -> VerdictRecord:
    """A record whose evidence began so many seconds ago, and which is so old."""
    at, began = (NOW - timedelta(seconds=seconds) for seconds in (age_s, began_s))
    return VerdictRecord(at, began, "x", VERIFY, name, verdict, data, age_s)


class Kept:
    """A ledger of these records, the newest first."""

    def __init__(self, *records: VerdictRecord) -> None:
        self._records = records

    def verdicts(self, domain: str, name: str, limit: int) -> list[VerdictRecord]:
        """Those of this name."""
        return [item for item in self._records if item.name == name][:limit]

    def latest_verdict(self, domain: str, name: str) -> VerdictRecord | None:
        """The first of them."""
        return next(iter(self.verdicts(domain, name, 1)), None)


def seen(*records: VerdictRecord) -> tuple[str, float]:
    """Verdict and age of what is trusted."""
    ledger: Any = Kept(*records)
    found = trusted(ledger, "x")
    assert found is not None
    return found.verdict, found.age_s


EQUAL = record(VERIFY, "equal", 1000, 990)
WITH_INVARIANTS = record(VERIFY, "equal", 1000, 990, invariants=[{"invariant": "x: sums"}])
COVERED = record(CHECKED, "equal", 2000, 10, behind_s=60)


@pytest.mark.parametrize(
    ("records", "wanted"),
    [
        ([EQUAL], ("equal", 990)),
        ([EQUAL, COVERED], ("equal", 70)),
        # It was not heard of everything since the run began.
        ([EQUAL, record(CHECKED, "equal", 999, 10, behind_s=60)], ("equal", 990)),
        # Nobody asked the invariants since.
        ([WITH_INVARIANTS, COVERED], ("equal", 990)),
        ([WITH_INVARIANTS, COVERED, record(INVARIANTS, "equal", 301, 300)], ("equal", 300)),
        ([WITH_INVARIANTS, COVERED, record(INVARIANTS, "different", 301, 300)], ("different", 300)),
        ([EQUAL, COVERED, record(FOUND, "different", 20, 20)], ("different", 20)),
        # A whole run that began later has seen it, if it could tell.
        ([EQUAL, record(FOUND, "different", 1001, 1)], ("equal", 990)),
        (
            [record(VERIFY, "inconclusive", 10, 9), EQUAL, record(FOUND, "different", 20, 20)],
            ("different", 20),
        ),
    ],
)
def test_trust(records: list[VerdictRecord], wanted: tuple[str, float]) -> None:
    assert seen(*records) == wanted
