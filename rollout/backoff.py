"""Trying again later: each time twice as late."""

import random
from dataclasses import dataclass

MOST = 16


@dataclass
class Backoff:
    """Pauses between `shortest_s` and `longest_s`; `not_before` by the caller's own clock."""

    shortest_s: float
    longest_s: float
    not_before: float
    failures: int = 0

    def wait(self, clock: float) -> float:
        """It failed once more. Returns the seconds until the next try, with jitter."""
        longer = self.shortest_s * 2.0**self.failures
        seconds: float = min(self.longest_s, longer) * random.uniform(0.8, 1.2)
        self.failures = min(self.failures + 1, MOST)
        self.not_before = clock + seconds
        return seconds

    def over(self, clock: float) -> None:
        """It was done: the next time begins anew."""
        self.failures, self.not_before = 0, clock
