"""Little is carried at once, much in large batches, and a stream that is behind in larger ones."""

import pytest

from migrator.capture import ENOUGH, PLENTY
from migrator.pace import AT_ONCE, BEHIND_S, CATCH_UP, Pace


def spread(transactions: int, seconds: float) -> list[int]:
    """Commit times of so many transactions, evenly over so many seconds."""
    return [int(n * seconds * 1e6 / max(transactions, 1)) for n in range(transactions)]


@pytest.mark.parametrize(
    ("transactions", "seconds"), [(0, 0.0), (99, 0.0), (100, 0.002), (999, 0.002), (5_000, 0.5)]
)
def test_the_more_happens_the_longer_it_gathers(transactions: int, seconds: float) -> None:
    pace = Pace(100.0)
    assert pace.gathering == AT_ONCE
    pace.carried(spread(transactions, 0.9), 0.01)
    pace.look(101.0)
    assert (pace.gathering.seconds, pace.gathering.enough) == (seconds, ENOUGH)
    pace.look(102.0)
    assert pace.gathering == AT_ONCE, "a rate is one of the last second"


def test_a_stream_that_is_behind_gathers_until_it_is_back() -> None:
    pace = Pace(0.0)
    pace.carried([7], BEHIND_S + 0.1)
    assert pace.gathering == CATCH_UP and CATCH_UP.enough == PLENTY
    pace.carried([8], BEHIND_S - 0.1)
    assert pace.gathering == AT_ONCE


def test_what_waited_for_the_worker_is_no_high_rate() -> None:
    """A worker that comes back carries a minute in a second: each was one of few all the same."""
    pace = Pace(0.0)
    pace.carried(spread(12_000, 60.0), 0.1)
    pace.look(1.0)
    assert pace.gathering.seconds == 0.002


def test_a_stream_with_nothing_to_carry_is_not_behind() -> None:
    pace = Pace(0.0)
    pace.carried([7], BEHIND_S + 60)
    pace.look(1.0)
    assert pace.gathering == CATCH_UP
    pace.look(2.0)
    assert pace.gathering == AT_ONCE


def test_a_look_without_time_in_between_changes_nothing() -> None:
    pace = Pace(5.0)
    pace.carried(spread(2_000, 0.9), 0.0)
    pace.look(6.0)
    before = pace.gathering
    pace.look(6.0)
    assert pace.gathering == before
