"""Suspects, looked at again after a barrier, with growing patience.

A key that differs may only be on its way. It is *different* when two barriers in a row, with
nothing pending, show the same pair of values; three when it has been seen to move, because a value
that swings between two states can show one pair twice. A key that keeps moving is different only
where one of its columns showed one and the same unequal pair at every look; otherwise it stays
inconclusive, and the columns that were never equal are named.
"""

import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from itertools import islice

from verify.rows import Difference, KeyRows, Pair, RowDifference, Values, by_key, compare
from verify.scan import Suspects, read_keys
from verify.sides import Both
from verify.subject import Subject

KEYS_PER_READ = 500
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0
LOOKS_AT_A_HOT_KEY = 6

Spot = tuple[Values, str | None]


@dataclass
class Suspect:
    """One driving key under suspicion, and what its looks have shown so far."""

    key: Values
    looks: int = 0
    repeats: int = 0
    moved: bool = False
    last: bytes = b""
    first_seen: float = field(default_factory=time.monotonic)
    differences: list[RowDifference] = field(default_factory=list)
    steady: dict[Spot, Pair] = field(default_factory=dict)
    unequal: set[Spot] = field(default_factory=set)

    def look(self, rows: KeyRows, differences: list[RowDifference]) -> bool:
        """Note what was read after a barrier; True when that makes it a difference."""
        print_ = rows.fingerprint()
        spots = dict(_spots(differences))
        if self.looks == 0:
            self.steady, self.unequal = spots, set(spots)
        else:
            self.moved = self.moved or print_ != self.last
            self.steady = {s: pair for s, pair in self.steady.items() if spots.get(s) == pair}
            self.unequal &= spots.keys()
        self.repeats = self.repeats + 1 if print_ == self.last else 1
        self.last, self.differences = print_, differences
        self.looks += 1
        return self.repeats >= (3 if self.moved else 2)

    def steady_differences(self) -> list[RowDifference]:
        """What was wrong in the same way at every look, for a key that never stood still."""
        kept: list[RowDifference] = []
        for difference in self.differences:
            if difference.what is not Difference.MISMATCHED:
                if (difference.identity, None) in self.steady:
                    kept.append(difference)
                continue
            pairs = {
                column: pair
                for column, pair in difference.pairs.items()
                if (difference.identity, column) in self.steady
            }
            if pairs:
                kept.append(RowDifference(difference.what, difference.identity, pairs))
        return kept


@dataclass(frozen=True)
class Settled:
    """What became of one mapping's suspects."""

    confirmed: list[tuple[Values, RowDifference]]
    inconclusive: list[Suspect]


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
) -> list[Settled]:
    """Look at suspects again and again until each is equal, different, or patience ends.

    `barrier` waits until everything written on either side before its call was carried to the
    other, and says whether that came true. Without it nothing can be confirmed. Returns one
    Settled for each mapping given, in the same order.
    """
    open_: list[dict[tuple[Hashable, ...], Suspect]] = [
        {canonical: Suspect(key) for canonical, key in found.items()} for _, found in suspects
    ]
    results = [Settled([], []) for _ in suspects]
    deadline = time.monotonic() + patience_s
    pause = FIRST_PAUSE_S
    while any(open_) and barrier():
        for (subject, _), waiting, result in zip(suspects, open_, results, strict=True):
            _look(subject, both, waiting, result)
        remaining = deadline - time.monotonic()
        if not any(open_) or remaining <= 0:
            break
        moving = all(suspect.moved for waiting in open_ for suspect in waiting.values())
        if moving:
            time.sleep(min(pause, remaining))
            pause = min(pause * 2, LONGEST_PAUSE_S)
    for waiting, result in zip(open_, results, strict=True):
        for suspect in waiting.values():
            steady = suspect.steady_differences()
            if suspect.looks >= LOOKS_AT_A_HOT_KEY and steady:
                result.confirmed.extend((suspect.key, difference) for difference in steady)
            else:
                result.inconclusive.append(suspect)
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
            suspect = waiting[canonical]
            rows = groups.get(canonical)
            differences = compare(subject.shape, rows) if rows else []
            if rows is None or not differences:
                del waiting[canonical]
            elif suspect.look(rows, differences):
                result.confirmed.extend((suspect.key, found) for found in differences)
                del waiting[canonical]


def _batches(keys: list[tuple[Hashable, ...]], size: int) -> Iterable[list[tuple[Hashable, ...]]]:
    rest = iter(keys)
    while batch := list(islice(rest, size)):
        yield batch
