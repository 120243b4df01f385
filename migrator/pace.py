"""How long a stream gathers before it writes.

A batch costs about as much whether it brings one key or a hundred, and what it costs is taken from
the cores that the shop needs. So where little happens each change is carried at once, and where
much happens many are carried together, slice by slice with rests between them: one long piece of
work would hold up the shop's every write. Somebody who waits for a position is never kept waiting.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from migrator.capture import ENOUGH, PLENTY


@dataclass(frozen=True)
class Gathering:
    """Gather for so many seconds, or until so many rows are held.

    They are written in slices over about `over_s` seconds, or as fast as it goes. With `gulp_s` the
    log is read so often only.
    """

    seconds: float
    enough: int = ENOUGH
    over_s: float = 0.0
    gulp_s: float = 0.0


AT_ONCE: Final = Gathering(0.0)
# From so many transactions a second on.
BUSY: Final = Gathering(0.5, over_s=0.5, gulp_s=0.02)
BY_RATE: Final = ((1_000.0, BUSY), (100.0, Gathering(0.002)))
# A stream that is so far behind comes back sooner when a key that changes again and again is
# carried once for all of it. Not for longer: who is told to leave has two seconds.
BEHIND_S: Final = 5.0
CATCH_UP: Final = Gathering(1.0, PLENTY)


class Pace:
    """Watches what a stream carries. Times are seconds of a clock that never goes back."""

    def __init__(self, now: float) -> None:
        self._counted_at, self._transactions = now, 0
        self._span_us = 0
        self._per_s, self._age_s = 0.0, 0.0

    def carried(self, commit_us: Sequence[int], age_s: float) -> None:
        """A batch was written: when its transactions were committed, and how old the last one is.

        Commit times are microseconds of the source's clock.
        """
        self._transactions += len(commit_us)
        if commit_us:
            self._span_us += abs(commit_us[-1] - commit_us[0])
        self._age_s = age_s

    def look(self, now: float) -> None:
        """Measure the rate; about once a second."""
        elapsed = now - self._counted_at
        if elapsed > 0:
            # What waited for the worker came in its own time: a burst of old ones is no high rate.
            self._per_s = self._transactions / max(elapsed, self._span_us / 1e6)
            if not self._transactions:
                # A stream that has nothing to carry is not behind, whatever the last one was.
                self._age_s = 0.0
            self._counted_at, self._transactions, self._span_us = now, 0, 0

    @property
    def gathering(self) -> Gathering:
        """What is good for the next batch."""
        if self._age_s > BEHIND_S:
            return CATCH_UP
        return next((found for least, found in BY_RATE if self._per_s >= least), AT_ONCE)
