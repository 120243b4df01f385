"""What a fence is made of: its lease with those who wait, how it is seen, and how it ended."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Ending = Literal["switched", "released", "expired", "broken"]


class FenceRefused(Exception):
    """What was asked does not fit the epoch or the fence that stands."""


class FenceMissing(Exception):
    """There is no fence of this domain and epoch."""


class Cancellable(Protocol):
    """What a timer gives back."""

    def cancel(self) -> None:
        """Do not call."""


Clock = Callable[[], float]
Timer = Callable[[float, Callable[[], None]], Cancellable]


@dataclass(frozen=True, slots=True)
class FenceView:
    """A fence as seen at one moment. Durations in milliseconds."""

    epoch: int
    low: int
    high: int
    state: Literal["holding", "released"]
    in_flight: int
    held: int
    expires_in_ms: int


@dataclass(frozen=True, slots=True)
class Ended:
    """What a fence had cost when it ended. `held_ms_max` is rounded up."""

    epoch: int
    how: Ending
    held_requests: int
    held_ms_max: int


@dataclass(slots=True)
class Lease:
    """One fence. `returning` marks the hold of a rollback, which cannot be renewed or switched.

    `peers` are asked before it ends; `question` is that moment's timer.
    """

    epoch: int
    low: int
    high: int
    expires_at: float
    returning: bool
    peers: Sequence[str] = ()
    asked: bool = False
    released: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: dict[int, float] = field(default_factory=dict)  # ticket -> since, oldest first
    held_requests: int = 0
    longest: float = 0.0
    alarm: Cancellable | None = None
    question: Cancellable | None = None

    def silence(self) -> None:
        """Stop both timers."""
        for timer in (self.alarm, self.question):
            if timer is not None:
                timer.cancel()
