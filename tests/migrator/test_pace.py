"""Little is carried at once, much in large batches, and a stream that is behind in larger ones."""

import pytest

from migrator.capture import ENOUGH, PLENTY
from migrator.pace import AT_ONCE, BEHIND_S, CATCH_UP, Pace


@pytest.mark.parametrize(
    ("transactions", "seconds"), [(0, 0.0), (99, 0.0), (100, 0.005), (999, 0.005), (5_000, 0.5)]
)
def test_the_more_happens_the_longer_it_gathers(transactions: int, seconds: float) -> None:
    pace = Pace(100.0)
    assert pace.gathering == AT_ONCE
    pace.carried(transactions, 0.01)
    pace.look(101.0)
    assert (pace.gathering.seconds, pace.gathering.enough) == (seconds, ENOUGH)
    pace.look(102.0)
    assert pace.gathering == AT_ONCE, "a rate is one of the last second"


def test_a_stream_that_is_behind_gathers_until_it_is_back() -> None:
    pace = Pace(0.0)
    pace.carried(1, BEHIND_S + 0.1)
    assert pace.gathering == CATCH_UP and CATCH_UP.enough == PLENTY
    pace.carried(1, BEHIND_S - 0.1)
    assert pace.gathering == AT_ONCE


def test_a_look_without_time_in_between_changes_nothing() -> None:
    pace = Pace(5.0)
    pace.carried(2_000, 0.0)
    pace.look(6.0)
    before = pace.gathering
    pace.look(6.0)
    assert pace.gathering == before
