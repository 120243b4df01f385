"""Suspects, looked at again after a barrier, with growing patience.

A key that differs may only be on its way. What differs is a *difference* when it showed one and
the same unequal pair of values at LOOKS barriers in a row, with nothing pending at any of them.
Two would do for a key that stands still; but a value that swings between two states, under a sync
that is always a little behind, can show the same pair twice, and each further look at an uneven
moment makes that rarer. A key that keeps moving is different only in the columns of which this
holds; otherwise it stays inconclusive, and the columns that were never equal are named.
"""

import random
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice

from verify.rows import Difference, Pair, RowDifference, Values, by_key, compare
from verify.scan import Suspects, read_keys
from verify.sides import Both, ComparisonFailed
from verify.subject import Subject

LOOKS = 10
KEYS_PER_READ = 500
FIRST_PAUSE_S = 0.005
PAUSE_GROWTH = 1.5
LONGEST_PAUSE_S = 0.25

# A row, and the column in which it differs; None when the row is missing or too many.
Spot = tuple[Values, str | None]


@dataclass
class Suspect:
    """One driving key under suspicion, and what its looks have shown so far.

    `runs` holds, for each place that differs now, its pair and at how many looks in a row it was
    that pair. `unequal` are the places that differed at every look, with whatever values.
    """

    key: Values
    looks: int = 0
    runs: dict[Spot, tuple[Pair, int]] = field(default_factory=dict)
    unequal: set[Spot] = field(default_factory=set)

    def look(self, differences: list[RowDifference]) -> list[RowDifference]:
        """Note what was read after a barrier; returns what is proved to differ by now."""
        spots = dict(_spots(differences))
        before = self.runs
        self.runs = {}
        for spot, pair in spots.items():
            last, times = before.get(spot, (pair, 0))
            self.runs[spot] = (pair, times + 1 if last == pair else 1)
        self.unequal = self.unequal & spots.keys() if self.looks else set(spots)
        self.looks += 1
        return [kept for found in differences if (kept := self._proved(found)) is not None]

    def _proved(self, difference: RowDifference) -> RowDifference | None:
        proved = {spot for spot, (_, times) in self.runs.items() if times >= LOOKS}
        row = difference.identity
        if difference.what is not Difference.MISMATCHED:
            return difference if (row, None) in proved else None
        pairs = {name: pair for name, pair in difference.pairs.items() if (row, name) in proved}
        return RowDifference(difference.what, row, pairs) if pairs else None


@dataclass(frozen=True)
class Confirmed:
    """A row that differs: under which driving key, how, and when that was proved."""

    key: Values
    difference: RowDifference
    at: datetime


@dataclass(frozen=True)
class Settled:
    """What became of one mapping's suspects. `problems` say why some could not be looked at."""

    confirmed: list[Confirmed]
    inconclusive: list[Suspect]
    problems: list[str] = field(default_factory=list)


def _spots(differences: Iterable[RowDifference]) -> Iterable[tuple[Spot, Pair]]:
    for difference in differences:
        if difference.what is Difference.MISMATCHED:
            for column, pair in difference.pairs.items():
                yield (difference.identity, column), pair
        else:
            yield (difference.identity, None), (difference.what.value, None)


def settle(
    suspects: list[tuple[Subject, Suspects]],
    both: Both,
    barrier: Callable[[], bool],
    patience_s: float,
    deadline: float | None = None,
) -> list[Settled]:
    """Look at suspects again and again until each is equal, different, or patience ends.

    `barrier` waits until everything written on either side before its call was carried to the
    other, and says whether that came true. Without it nothing can be confirmed. Each suspect gets
    at least LOOKS looks, however short the patience; what a database refuses to answer is told of
    that mapping alone. Raises ConnectionLost. At `deadline`, a monotonic time, it ends.
    Returns one Settled for each mapping given, in the same order.
    """
    open_: list[dict[tuple[Hashable, ...], Suspect]] = [
        {canonical: Suspect(key) for canonical, key in found.items()} for _, found in suspects
    ]
    results = [Settled([], []) for _ in suspects]
    started = time.monotonic()
    looks = 0
    pause = FIRST_PAUSE_S
    while any(open_) and (looks < LOOKS or time.monotonic() - started < patience_s):
        if deadline is not None and time.monotonic() > deadline:
            break
        if looks:
            # Uneven, so that no writer's own rhythm is met again and again.
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(pause * PAUSE_GROWTH, LONGEST_PAUSE_S)
        if not barrier():
            break
        looks += 1
        for (subject, _), waiting, result in zip(suspects, open_, results, strict=True):
            try:
                _look(subject, both, waiting, result)
            except ComparisonFailed as error:
                result.problems.append(f"{subject.name}: {error}")
                result.inconclusive.extend(waiting.values())
                waiting.clear()
    for waiting, result in zip(open_, results, strict=True):
        result.inconclusive.extend(waiting.values())
    return results


def _look(
    subject: Subject,
    both: Both,
    waiting: dict[tuple[Hashable, ...], Suspect],
    result: Settled,
) -> None:
    """Read all open suspects of one mapping once; those that are settled leave `waiting`."""
    for batch in _batches(list(waiting), KEYS_PER_READ):
        source, target = read_keys(subject, both, {key: waiting[key].key for key in batch})
        groups = by_key(subject.shape, source, target)
        for canonical in batch:
            rows = groups.get(canonical)
            differences = compare(subject.shape, rows) if rows else []
            suspect = waiting[canonical]
            proved = suspect.look(differences) if differences else []
            now = datetime.now(UTC)
            result.confirmed.extend(Confirmed(suspect.key, found, now) for found in proved)
            if proved or not differences:
                del waiting[canonical]


def _batches(keys: list[tuple[Hashable, ...]], size: int) -> Iterable[list[tuple[Hashable, ...]]]:
    rest = iter(keys)
    while batch := list(islice(rest, size)):
        yield batch
