"""How long a stream gathers before it writes.

A batch costs about as much whether it brings one key or a hundred, and what it costs is taken from
the cores that the shop needs. So where little happens each change is carried at once, and where
much happens many are carried together. Somebody who waits for a position is never kept waiting.
"""

from dataclasses import dataclass
from typing import Final

from migrator.capture import ENOUGH, PLENTY


@dataclass(frozen=True)
class Gathering:
    """Gather for so many seconds, or until so many rows are held."""

    seconds: float
    enough: int = ENOUGH


AT_ONCE: Final = Gathering(0.0)
# From so many transactions a second on.
BY_RATE: Final = ((1_000.0, Gathering(0.5)), (100.0, Gathering(0.005)))
# A stream that is so far behind comes back sooner when a key that changes again and again is
# carried once for all of it. Not for longer: who is told to leave has two seconds.
BEHIND_S: Final = 5.0
CATCH_UP: Final = Gathering(1.0, PLENTY)


class Pace:
    """Watches what a stream carries. Times are seconds of a clock that never goes back."""

    def __init__(self, now: float) -> None:
        self._counted_at, self._transactions = now, 0
        self._per_s, self._age_s = 0.0, 0.0

    def carried(self, transactions: int, age_s: float) -> None:
        """A batch was written; its last transaction was committed so long ago."""
        self._transactions += transactions
        self._age_s = age_s

    def look(self, now: float) -> None:
        """Measure the rate; about once a second."""
        elapsed = now - self._counted_at
        if elapsed > 0:
            self._per_s = self._transactions / elapsed
            self._counted_at, self._transactions = now, 0

    @property
    def gathering(self) -> Gathering:
        """What is good for the next batch."""
        if self._age_s > BEHIND_S:
            return CATCH_UP
        return next((found for least, found in BY_RATE if self._per_s >= least), AT_ONCE)
