"""What is happening now, in one place: the monitor and the story write it, the view reads it."""

import threading
import time
from collections import deque
from dataclasses import dataclass, field


@dataclass
class DomainScene:
    """A domain's percentage: asked by the story, served by gateways, measured at shoppers.

    `held`: requests that have waited at a fence so far, over all gateways.
    """

    stage: str = "off"
    asked: int = 0
    served: str = "-"
    measured: float | None = None
    held: int = 0


@dataclass
class StreamScene:
    """One direction of sync: lag in ms, keys not carried yet, keys changed on the wrong side."""

    lag_ms: float | None = None
    pending: int | None = None
    strays: int | None = None


@dataclass(frozen=True)
class Event:
    """Something worth a line. `at` counts seconds from the start; `kind` is step, command, ..."""

    at: float
    kind: str
    text: str


@dataclass
class Scene:
    """The whole scene. `events` is complete; `tail` is what the live view shows of it."""

    environment: str
    started: float = field(default_factory=time.monotonic)
    step: str = "starting"
    command: str = ""
    progress: str = ""
    domains: dict[str, DomainScene] = field(default_factory=dict)
    streams: dict[str, StreamScene] = field(default_factory=dict)
    gates: dict[str, str] = field(default_factory=dict)
    writes: int = 0
    requests: int = 0
    failed: int = 0
    longest_hold_ms: int = 0
    events: list[Event] = field(default_factory=list)
    tail: deque[Event] = field(default_factory=lambda: deque(maxlen=9))
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def tell(self, kind: str, text: str) -> Event:
        """Record an event and return it."""
        event = Event(round(self.seconds, 2), kind, text)
        with self.lock:
            self.events.append(event)
            self.tail.append(event)
        return event
