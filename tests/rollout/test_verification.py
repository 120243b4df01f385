"""The ledger keeps each domain's own part of a verdict."""

from datetime import UTC, datetime

import pytest

from rollout.verification import of_domain
from verify.verdict import MappingVerdict, Verdict

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def verdict(*reasons: str, mismatched: int = 0) -> Verdict:
    barriers: dict[str, dict[str, str | None]] = {
        name: {"b0": "0/1", "b1": "0/2"} for name in ("loans.forward", "fines.forward")
    }
    mappings = [
        MappingVerdict("loans.forward.loan", rows_compared=5, mismatched=mismatched),
        MappingVerdict("fines.forward.fine", rows_compared=5),
    ]
    word = "different" if mismatched else "inconclusive" if reasons else "equal"
    return Verdict(word, NOW, NOW, barriers, mappings, list(reasons))  # type: ignore[arg-type]


def test_an_equal_verdict_is_equal_for_each() -> None:
    assert of_domain(verdict(), "loans").verdict == "equal"
    assert list(of_domain(verdict(), "loans").barriers) == ["loans.forward"]


def test_a_difference_belongs_to_its_own_domain() -> None:
    assert of_domain(verdict(mismatched=1), "loans").verdict == "different"
    assert of_domain(verdict(mismatched=1), "fines").verdict == "equal"


def test_a_late_barrier_makes_only_its_own_domain_inconclusive() -> None:
    late = verdict("loans.forward: the barrier was not passed")
    assert of_domain(late, "loans").verdict == "inconclusive"
    assert of_domain(late, "fines").verdict == "equal"


@pytest.mark.parametrize("domain", ["loans", "fines"])
def test_a_reason_without_a_stream_concerns_all(domain: str) -> None:
    assert of_domain(verdict("the hashes differ"), domain).verdict == "inconclusive"


def test_a_domain_that_was_not_compared_is_not_equal() -> None:
    assert of_domain(verdict(), "others").verdict == "inconclusive"
