"""Latencies of a load: every request's own figure is kept, so percentiles are exact. Pure.

Latency counts from the moment a request was due, not from the one in which it was sent: a server
that stalls is then charged for everybody who would have come meanwhile (Gil Tene, "How NOT to
Measure Latency": coordinated omission). Service time counts from the sending. All in seconds.
"""

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

NOBODY = "nobody"  # the side of a request that was not answered


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The value at or below which `share` of all lie (nearest rank); None without values."""
    if not ordered:
        return None
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True)
class Asked:
    """One request. It was `due`, and its customer `free` to send it; then it `began` and `ended`.

    `side`: who served it. `failure`: why it is not as expected.
    """

    step: str
    due: float
    free: float
    began: float
    ended: float
    side: str = NOBODY
    failure: str | None = None

    @property
    def latency(self) -> float:
        """As whoever came when it was due has waited."""
        return self.ended - self.due

    @property
    def service(self) -> float:
        """From the sending."""
        return self.ended - self.began

    @property
    def late(self) -> float:
        """How long the generator itself kept it back: nobody else was waited for."""
        return self.began - max(self.due, self.free)


@dataclass(frozen=True)
class Figures:
    """What requests of one kind came to. Milliseconds; `service_p95` counts from the sending."""

    name: str
    requests: int
    failed: int
    p50: float
    p95: float
    p99: float
    max: float
    service_p95: float


@dataclass
class Series:
    """The figures of requests of one kind: 16 bytes each."""

    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    services: "array[float]" = field(default_factory=lambda: array("d"))
    failed: int = 0

    def add(self, asked: Asked) -> None:
        """Count one."""
        self.latencies.append(asked.latency)
        self.services.append(asked.service)
        self.failed += asked.failure is not None

    def figures(self, name: str) -> Figures:
        """Of at least one request."""
        ordered = sorted(self.latencies)
        p50, p95, p99, most = (_ms(ordered, share) for share in (0.5, 0.95, 0.99, 1.0))
        service = _ms(sorted(self.services), 0.95)
        return Figures(name, len(ordered), self.failed, p50, p95, p99, most, service)


def _ms(ordered: Sequence[float], share: float) -> float:
    return round(1000 * (percentile(ordered, share) or 0.0), 2)


@dataclass
class Record:
    """Everything a load has asked. `second` gives what came since it was last asked."""

    sides: dict[str, Series] = field(default_factory=dict)
    steps: dict[tuple[str, str], Series] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    lates: "array[float]" = field(default_factory=lambda: array("d"))
    requests: int = 0
    failed: int = 0
    _recent: list[Asked] = field(default_factory=list)

    def add(self, asked: Asked) -> None:
        """Count a request that has ended, in whatever way."""
        self.requests += 1
        self.sides.setdefault(asked.side, Series()).add(asked)
        self.steps.setdefault((asked.step, asked.side), Series()).add(asked)
        self.lates.append(asked.late)
        if asked.failure is not None:
            self.failed += 1
            self.reasons[f"{asked.step} ({asked.side}): {asked.failure}"] += 1
        self._recent.append(asked)

    def never_begun(self, due: float, ended: float) -> None:
        """Count an arrival for which no customer was free to the end: it waited at least so long.

        That is the server's doing, not the generator's.
        """
        self.add(Asked("arrival", due, ended, ended, ended, failure="no customer was free"))

    def second(self) -> list[Asked]:
        """What was added since the last time."""
        recent, self._recent = self._recent, []
        return recent

    def late_ms(self) -> tuple[float, float, float]:
        """How late requests were sent by the generator's own doing: p50, p99 and the most."""
        ordered = sorted(self.lates)
        return _ms(ordered, 0.5), _ms(ordered, 0.99), _ms(ordered, 1.0)
