"""One pass over a mapping: ranges of the driving key, checksums, and the keys that are suspect.

Equal ranges cost one aggregate on each side. An unequal range is looked at in buckets of its
keys, and only the rows of unequal buckets are fetched. What differs then is a suspect, no more:
it may have been on its way.
"""

import math
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field

from psycopg import sql

from verify import checksum
from verify.checksum import Checksum, Hashing, Key, Range, Side
from verify.rows import KeyRows, RowDifference, Values, by_key, compare, plain_key
from verify.sides import Both
from verify.subject import Subject

ROWS_PER_RANGE = 10_000
# Up to this many rows are fetched at once, instead of asking for buckets first.
ROWS_IN_HAND = 500
# Ranges of a key without a usable index cost a scan each, so there are at most about so many.
UNINDEXED_RANGES = 32
OVERSIZE = 2
DENSE = checksum.BUCKETS // 2

Suspects = dict[tuple[Hashable, ...], Values]
Groups = dict[tuple[Hashable, ...], KeyRows]
Differences = dict[tuple[Hashable, ...], list[RowDifference]]


@dataclass(frozen=True)
class Scanned:
    """One range is done. `rows` counts the side that holds more of them.

    `suspects` are the keys that differed when their rows were read, `differences` how.
    """

    within: Range
    rows: int
    equal: bool
    suspects: Suspects
    differences: Differences


@dataclass
class Scan:
    """A pass over one mapping; iterate `results()`.

    `done` and `total` count ranges (the total is an estimate). When `limit` suspects were given
    out, further unequal ranges are not looked into; their rows are counted in `unexamined`.
    """

    subject: Subject
    both: Both
    hashing: Hashing
    rows_per_range: int = ROWS_PER_RANGE
    limit: int = 10_000
    rows_in_hand: int = ROWS_IN_HAND
    done: int = 0
    suspects: int = 0
    unexamined: int = 0
    _dense: bool = field(default=False)

    @property
    def total(self) -> int:
        """How many ranges there are, as far as is known; never less than what is done."""
        return max(self.done, math.ceil(self.subject.estimated_rows / self.rows_per_range) + 1)

    def results(self) -> Iterator[Scanned]:
        """Compare range after range. Each reads with a snapshot of its own."""
        for within in self.ranges():
            yield from self.compare(within)

    def ranges(self) -> Iterator[Range]:
        """Ranges in key order, with open ends, and one for keys that are not whole.

        Every possible key lies in exactly one of them.
        """
        target, source = self.subject.target, self.subject.source
        lower: Key | None = None
        for side in (target, source):
            # Bounds are the target's; what the source holds beyond the last of them is cut by its
            # own, so that an empty target does not make one range of everything.
            for bound in self._bounds(side, Range(lower)):
                yield Range(lower, bound)
                lower = bound
        yield Range(lower, None)
        yield Range(nulls=True)

    def _bounds(self, side: Side, within: Range) -> Iterator[Key]:
        if not self.subject.target.indexed:
            rows = max(self.rows_per_range, self.subject.estimated_rows // UNINDEXED_RANGES)
            yield from self._all_bounds(side, within, rows)
            return
        lower = within.lower
        while True:
            query = checksum.next_bound(side, Range(lower), self.rows_per_range)
            found = self.both.fetch(side.connection, query)
            if not found:
                return
            lower = tuple(found[0])
            yield lower

    def _all_bounds(self, side: Side, within: Range, rows: int) -> Iterator[Key]:
        previous = within.lower
        for row in self.both.fetch(side.connection, checksum.all_bounds(side, within, rows)):
            # Many rows of one driving key may span several bounds; a range is never empty.
            if tuple(row) not in (previous, within.upper):
                previous = tuple(row)
                yield previous

    def compare(self, within: Range) -> Iterator[Scanned]:
        """Compare one range; one that holds far too much is cut first."""
        source, target = self._checksums(within)
        rows = max(source[0], target[0])
        if source == target:
            self.done += 1
            yield Scanned(within, rows, True, {}, {})
            return
        if self.suspects >= self.limit:
            self.done += 1
            self.unexamined += rows
            yield Scanned(within, rows, False, {}, {})
            return
        if rows > OVERSIZE * self.rows_per_range and not within.nulls:
            larger = self.subject.source if source[0] >= target[0] else self.subject.target
            bounds = list(self._all_bounds(larger, within, self.rows_per_range))
            if bounds:
                lowers = [within.lower, *bounds]
                uppers = [*bounds, within.upper]
                for lower, upper in zip(lowers, uppers, strict=True):
                    yield from self.compare(Range(lower, upper))
                return
        groups = self._drill(within, rows)
        found = {key: compare(self.subject.shape, held) for key, held in groups.items()}
        differences = {key: list_ for key, list_ in found.items() if list_}
        suspects = {key: groups[key].key for key in differences}
        self._dense = rows > self.rows_in_hand and 2 * len(suspects) > len(groups) > DENSE
        self.suspects += len(suspects)
        self.done += 1
        yield Scanned(within, rows, False, suspects, differences)

    def _checksums(self, within: Range) -> tuple[Checksum, Checksum]:
        source, target = self.both.rows(
            self.subject.source,
            self.subject.target,
            lambda side: checksum.checksum(side, within, self.hashing),
        )
        return source[0], target[0]

    def _drill(self, within: Range, rows: int) -> Groups:
        """Both sides' rows of the unequal part of a range, by driving key."""
        buckets = set(range(checksum.BUCKETS))
        # A table that differs everywhere is fetched as it is: asking for buckets would be in vain.
        if rows > self.rows_in_hand and not self._dense:
            source, target = self.both.rows(
                self.subject.source,
                self.subject.target,
                lambda side: checksum.bucket_checksums(side, within, self.hashing),
            )
            here = {row[0]: row[1:] for row in source}
            there = {row[0]: row[1:] for row in target}
            buckets = {b for b in here.keys() | there.keys() if here.get(b) != there.get(b)}
        if not buckets:
            return {}
        source, target = self.both.rows(
            self.subject.source,
            self.subject.target,
            lambda side: checksum.bucket_rows(side, within, buckets),
        )
        return by_key(self.subject.shape, split(self.subject, source), split(self.subject, target))


def split(subject: Subject, rows: list[tuple[str | None, ...]]) -> Iterator[checksum.Row]:
    """Fetched rows, taken apart into driving key and values."""
    width = len(subject.source.key)
    return ((row[:width], row[width:]) for row in rows)


def read_keys(
    subject: Subject, both: Both, suspects: Suspects
) -> tuple[list[checksum.Row], list[checksum.Row]]:
    """Both sides' rows of the given driving keys, read at the same time.

    Keys that are not whole are read together: there is no other way to name them.
    """
    whole = [key for key in map(plain_key, suspects.values()) if key is not None]
    found: tuple[list[checksum.Row], list[checksum.Row]] = ([], [])
    queries: list[Callable[[Side], sql.Composed]] = []
    if whole:
        queries.append(lambda side: checksum.rows_of_keys(side, whole))
    if len(whole) < len(suspects):
        every = range(checksum.BUCKETS)
        queries.append(lambda side: checksum.bucket_rows(side, Range(nulls=True), every))
    for query in queries:
        for rows, fetched in zip(
            found, both.rows(subject.source, subject.target, query), strict=True
        ):
            rows.extend(split(subject, fetched))
    return found
