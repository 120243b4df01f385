"""What a plan tells of customers, before anybody is moved."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.foresight import Way, movers_per_s, sentences, strays_at_most
from rollout.step_plan import StepPlan

FENCED = Way("admin", None, False, 2000)
REFUSING = Way("environment", 45.0, True, 2000)
OPEN = Way("environment", 45.0, False, 2000)


def step(start: int, to: int) -> StepPlan:
    return StepPlan("d", start, to, 2, "ann@host")


def test_a_fence_holds_everybody_once() -> None:
    told = sentences(step(10, 50), FENCED, 80.0)
    assert told[0] == (
        "40 % of the customers change side, to the new one; they send some 80.0 requests a second"
    )
    assert told[1] == (
        "each waits once, for at most 2,000 ms, at a fence; nobody alternates, "
        "no strays are expected"
    )


def test_services_that_refuse_leave_no_strays_however_long_gateways_differ() -> None:
    told = sentences(step(10, 50), REFUSING, 80.0)
    assert "gateways differ for some 45 s (driver environment)" in told
    assert "nobody alternates" in told[-1]
    assert strays_at_most(REFUSING, 80.0) == 0


def test_services_that_take_everybody_leave_as_many_strays_as_are_written_meanwhile() -> None:
    told = sentences(step(10, 50), OPEN, 80.0)
    assert "up to 3,600 strays" in told[-1]
    assert "or the driver admin, none" in told[-1]


def test_without_a_window_no_number_is_made_up() -> None:
    assert "as many strays as they write" in sentences(step(10, 50), OPEN, None)[-1]
    assert strays_at_most(OPEN, None) is None
    assert movers_per_s(step(10, 50), 0, 10) is None
    assert movers_per_s(step(10, 50), 10, 0) is None


@pytest.mark.parametrize(("start", "to", "side"), [(0, 10, "new"), (50, 10, "old")])
def test_it_says_where_they_go(start: int, to: int, side: str) -> None:
    assert f"to the {side} one" in sentences(step(start, to), FENCED, None)[0]


@given(st.integers(0, 99), st.integers(1, 100), st.floats(1, 1e6))
def test_who_moves_sends_his_share(start: int, width: int, requests: float) -> None:
    to = min(start + width, 100)
    per_s = movers_per_s(step(start, to), requests, 1.0)
    assert per_s == pytest.approx(requests * (to - start) / 100)
