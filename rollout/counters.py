"""What gateways counted, and what of it belongs to a window. Pure: no clock, no network.

A counter only grows, until its process starts anew and it begins at zero. A window adds up the
growth, gateway by gateway, so a restart costs at most what was counted between two looks.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

Side = Literal["old", "new"]
SIDES: tuple[Side, ...] = ("old", "new")


@dataclass(frozen=True)
class Count:
    """Requests of one domain and side: all, those answered 5xx, and a histogram of seconds.

    `buckets` maps an upper edge in seconds to the number at or below it; the last edge is inf.
    `customers` is no counter: the customers' buckets served since the flags last changed, None
    where they are not counted.
    """

    requests: float = 0.0
    errors: float = 0.0
    buckets: Mapping[float, float] = field(default_factory=dict)
    customers: float | None = None

    def __add__(self, other: "Count") -> "Count":
        edges = {*self.buckets, *other.buckets}
        return Count(
            self.requests + other.requests,
            self.errors + other.errors,
            {e: self.buckets.get(e, 0.0) + other.buckets.get(e, 0.0) for e in sorted(edges)},
        )

    def since(self, before: "Count") -> "Count":
        """The growth since an earlier look at the same process."""
        return Count(
            self.requests - before.requests,
            self.errors - before.errors,
            {edge: n - before.buckets.get(edge, 0.0) for edge, n in self.buckets.items()},
        )

    def shrank(self, before: "Count") -> bool:
        """Whether any figure is smaller than before: then another process counted it."""
        return (
            self.requests < before.requests
            or self.errors < before.errors
            or any(self.buckets.get(edge, 0.0) < n for edge, n in before.buckets.items())
        )

    def quantile(self, share: float) -> float | None:
        """The seconds below which this share lies, interpolated within its bucket.

        None without observations; inf when it lies beyond the last finite edge.
        """
        edges = sorted(self.buckets)
        total = self.buckets[edges[-1]] if edges else 0.0
        if total <= 0:
            return None
        rank, low, below = share * total, 0.0, 0.0
        for edge in edges:
            upto = self.buckets[edge]
            if upto >= rank:
                if math.isinf(edge):
                    return math.inf
                part = (rank - below) / (upto - below) if upto > below else 1.0
                return low + (edge - low) * part
            low, below = edge, upto
        return math.inf

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        buckets = [[str(edge), number] for edge, number in self.buckets.items()]
        return {
            "requests": self.requests,
            "errors": self.errors,
            "buckets": buckets,
            "customers": self.customers,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        buckets = {float(edge): float(number) for edge, number in data.get("buckets", [])}
        told = data.get("customers")
        customers = None if told is None else float(told)
        return cls(float(data["requests"]), float(data["errors"]), buckets, customers)


Counts = Mapping[Side, Count]


@dataclass(frozen=True)
class Snapshot:
    """One look at every gateway: counts by gateway, domain and side, or why there are none.

    epochs: of the flags under which each gateway counted, by domain, where it tells them
    behind_s: how old what was seen may be, in seconds
    """

    gateways: Mapping[str, Mapping[str, Counts]] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    epochs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    behind_s: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every gateway answered with counters."""
        return bool(self.gateways) and not self.problems

    def under(self, domain: str, epoch: int, since_s: float = math.inf) -> "Snapshot":
        """What was counted since a step with this epoch, so many seconds ago.

        What comes by way of a store may be from before the step: it says nothing of the phase. An
        epoch of 0 is none: flags that were never set have it, and some ways to set them. Where
        none is told, only time tells that what was seen is from after the step.
        """
        early: dict[str, str] = {}
        for url in sorted(self.gateways):
            told = self.epochs.get(url, {}).get(domain, 0)
            if 0 < told < epoch:
                early[url] = "it was not seen under the flags of the step yet"
            elif told <= 0 and since_s < self.behind_s:
                early[url] = (
                    f"it tells no epoch of its flags, so for {self.behind_s:g} s after the step"
                    " what is seen of it may be from before"
                )
        return replace(
            self,
            gateways={url: all_ for url, all_ in self.gateways.items() if url not in early},
            problems={**self.problems, **early},
        )


@dataclass(frozen=True)
class Window:
    """The growth of one domain's counters since the window was opened.

    `last` is what each gateway had counted at the latest look.
    """

    total: Counts = field(default_factory=dict)
    last: Mapping[str, Counts] = field(default_factory=dict)

    @classmethod
    def opened(cls, snapshot: Snapshot, domain: str) -> Self:
        """A window that begins with this look."""
        return cls({}, {url: dict(all_.get(domain, {})) for url, all_ in snapshot.gateways.items()})

    def advanced(self, snapshot: Snapshot, domain: str) -> "Window":
        """The window up to this look. A gateway seen for the first time begins to count here.

        One that others were seen without, and that nobody misses, serves no customers any more.
        """
        total: dict[Side, Count] = dict(self.total)
        last: dict[str, Counts] = dict(self.last)
        if snapshot.gateways:
            for url in {*last} - {*snapshot.gateways} - {*snapshot.problems}:
                last[url] = {s: replace(count, customers=None) for s, count in last[url].items()}
        for url, domains in snapshot.gateways.items():
            now = dict(domains.get(domain, {}))
            if url in self.last:
                for side, growth in _growth(self.last[url], now):
                    total[side] = total.get(side, Count()) + growth
            last[url] = now
        return Window(total, last)

    def side(self, side: Side) -> Count:
        """What one side answered in the window."""
        return self.total.get(side, Count())

    @property
    def share(self) -> float | None:
        """The new side's share of the customers, or of the requests where nobody counts customers;
        None without any."""
        new, old = self._customers("new"), self._customers("old")
        if self.customers is None:
            new, old = self.side("new").requests, self.side("old").requests
        return new / (new + old) if new + old else None

    @property
    def customers(self) -> float | None:
        """Different customers that were surely seen; None where gateways do not count them.

        Each gateway counts a customer once, and many are seen by several: only those of one
        gateway, the busiest, are certain to be different ones.
        """
        told = [counts.values() for counts in self.last.values()]
        numbers = [[c.customers for c in counts if c.customers is not None] for counts in told]
        return max((sum(found) for found in numbers if found), default=None)

    def _customers(self, side: Side) -> float:
        counts = (counts.get(side, Count()).customers for counts in self.last.values())
        return sum(number for number in counts if number is not None)

    def to_json(self) -> dict[str, Any]:
        """Plain data for the ledger."""
        return {
            "total": {side: count.to_json() for side, count in self.total.items()},
            "last": {
                url: {side: count.to_json() for side, count in counts.items()}
                for url, counts in self.last.items()
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` gave; an empty object is an empty window."""
        return cls(
            _counts(data.get("total", {})),
            {url: _counts(counts) for url, counts in data.get("last", {}).items()},
        )


def _counts(data: Mapping[str, Any]) -> dict[Side, Count]:
    return {side: Count.from_json(data[side]) for side in SIDES if side in data}


def _growth(before: Counts, now: Counts) -> Iterable[tuple[Side, Count]]:
    """By side. One figure that shrank means a new process, so all of its figures began at zero."""
    nothing = Count()
    anew = any(now.get(side, nothing).shrank(count) for side, count in before.items())
    for side, count in now.items():
        yield side, count if anew else count.since(before.get(side, nothing))
