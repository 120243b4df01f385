"""A run reads more slowly while a server feels it, and as it was told; who waits hears the end."""

from typing import Any

import pytest

from estate.config.sections import VerifyConfig
from verify import calm
from verify.calm import Calm
from verify.sides import Connection


class Felt:
    """What one side asks for."""

    def __init__(self, seconds: float, reason: str | None = None) -> None:
        self.seconds, self.reason = seconds, reason

    def pause(self, connection: Any) -> float:
        """Ask for it."""
        return self.seconds


class Clock:
    """Time that goes on by sleeping alone."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """So late it is."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Go on."""
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Nobody waits for real."""
    made = Clock()
    monkeypatch.setattr(calm, "time", made)
    return made


def paused(
    monkeypatch: pytest.MonkeyPatch, old: Felt, new: Felt, share: float, clock: Clock
) -> tuple[float, str | None]:
    """How long a slice of one second makes it wait, and the reason."""
    felt = iter((old, new))
    monkeypatch.setattr(calm, "Throttle", lambda *_: next(felt))
    nobody: Any = None
    connection: Connection = nobody
    made = Calm((connection, "a"), (connection, "b"), VerifyConfig(), share)
    began = clock.now
    made.pause(1.0, lambda: False)
    return clock.now - began, made.reason


def test_it_waits_as_long_as_the_side_that_asks_for_more(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    waited, reason = paused(monkeypatch, Felt(0.5, "lag"), Felt(2.0, "sessions"), 1.0, clock)
    assert waited == pytest.approx(2.0, abs=calm.GLANCE_S)
    assert reason == "'a': lag"


def test_a_quarter_of_the_time_is_three_seconds_of_rest_for_one(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    waited, reason = paused(monkeypatch, Felt(0.0), Felt(0.0), 0.25, clock)
    assert waited == pytest.approx(3.0, abs=calm.GLANCE_S)
    assert reason == "it reads 25% of the time"


def test_where_nobody_asks_it_does_not_wait(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    assert paused(monkeypatch, Felt(0.0), Felt(0.0), 1.0, clock) == (0.0, None)


def test_a_run_that_has_ended_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    felt = iter((Felt(60.0), Felt(0.0)))
    monkeypatch.setattr(calm, "Throttle", lambda *_: next(felt))
    nobody: Any = None
    made = Calm((nobody, "a"), (nobody, "b"), VerifyConfig())
    made.pause(0.0, lambda: clock.now >= 1.0)
    assert clock.now < 1.0 + 2 * calm.GLANCE_S
