"""Figures that a worker keeps of what goes by, in constant space: quantiles and rates.

Written by one thread and read by any other without a lock: what a reader takes is a copy made in
one step, or a single value.
"""

import math
from collections import deque
from collections.abc import Sequence

# Each step of the quantile sketch is 2 % wider than the one before, from a microsecond to a month.
GROWTH = 1.02
SMALLEST_S = 1e-6
STEPS = math.ceil(math.log(31 * 86_400 / SMALLEST_S, GROWTH)) + 1
# A rate over less than this says nothing yet.
SHORTEST_S = 0.5


class Quantiles:
    """Counts durations (seconds) in steps of 2 %, so that quantiles need no samples kept."""

    def __init__(self) -> None:
        # Of a fixed length: whoever reads while it is written meets no list that grows.
        self._counts = [0] * STEPS
        self.largest = 0.0

    @property
    def count(self) -> int:
        """How many durations were counted."""
        return sum(self._counts)

    def add(self, seconds: float, count: int = 1) -> None:
        """Count a duration, or several that are the same."""
        step = int(math.log(max(seconds, SMALLEST_S) / SMALLEST_S, GROWTH))
        # The largest first: a reader in between must not take a quantile for more than it.
        self.largest = max(self.largest, seconds)
        self._counts[min(step, STEPS - 1)] += count

    def at(self, share: float) -> float | None:
        """The duration (seconds) below which this share lies; None without any."""
        return self.at_each((share,))[0]

    def at_each(self, shares: Sequence[float]) -> list[float | None]:
        """The same for several shares, all of one moment."""
        counts = self._counts.copy()
        total, largest = sum(counts), self.largest
        return [_at(counts, share * total, largest) if total else None for share in shares]


def _at(counts: Sequence[int], share: float, largest: float) -> float:
    wanted, seen = math.ceil(share), 0
    # The last step has no upper end: there, and above all, it is the largest.
    for step, count in enumerate(counts[:-1]):
        seen += count
        if count and seen >= wanted:
            return min(SMALLEST_S * GROWTH ** (step + 1), largest)
    return largest


class Rate:
    """How fast a total grows, over the last `window_s` seconds.

    `per_s` is None until that was seen, and again when the total has begun anew.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, float]] = deque()
        self.per_s: float | None = None

    def add(self, now: float, total: float) -> None:
        """The total at this moment, in seconds of a clock that never goes back."""
        seen = self._seen
        if seen and total < seen[-1][1]:
            seen.clear()
        seen.append((now, total))
        while len(seen) > 2 and seen[1][0] <= now - self._window_s:
            seen.popleft()
        began, before = seen[0]
        span = now - began
        self.per_s = (total - before) / span if span >= SHORTEST_S else None
