"""One pass over a mapping: checksums, buckets where they differ, and the keys that are suspect.

Equal sides cost one aggregate each. Where they differ, rows are counted into buckets by their key,
and of the buckets that differ each row's key and hash are fetched. What differs then is a suspect,
no more: it may have been on its way.
"""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from verify import checksum
from verify.checksum import COARSE, FINE, FINEST, NOTHING, Checksum, Hashing, Side
from verify.reading import Reading
from verify.rows import Values, plain_key
from verify.sides import Both
from verify.subject import Subject

# So many rows of each side are in hand at once: some 20 MB.
ROWS_IN_HAND = 100_000
# Each slice answers with a row for each bucket: all slices together so many, or some slices more.
BUCKETS_ANSWERED, FEWEST_SLICES = 1 << 16, 4
# A bucket of more rows costs more to fetch, once it differs, than to cut at the first pass.
ROWS_IN_A_BUCKET = 512
# So many buckets are asked for at once: some 20 MB of each side.
MOST_BUCKETS = 1 << 16
# Cutting unequal buckets finer is worth another pass if fewer than so many of their rows are left.
WORTH = 0.5

Suspects = dict[tuple[Hashable, ...], Values]
Sums = dict[int, Checksum]


@dataclass
class Scan:
    """A pass over one mapping; call `run` or `run_in_buckets`, once.

    Then `rows` are those of the side that holds more, and `equal` says whether the first checksums
    were. When `limit` suspects were found, the rest is not looked at: `unexamined` counts rows.
    """

    subject: Subject
    reading: Reading
    hashing: Hashing
    limit: int = 10_000
    rows_in_hand: int = ROWS_IN_HAND
    rows: int = 0
    equal: bool = False
    unexamined: int = 0

    def run(self) -> Suspects:
        """Compare by one checksum a side; look closer only where they differ."""
        source, target = self.checksums()
        self.rows = max(source[0], target[0])
        self.equal = source == target
        if self.equal:
            return {}
        if self.rows <= self.rows_in_hand:
            return self._suspects(COARSE, None, self.limit)
        return self.run_in_buckets()

    def run_in_buckets(self) -> Suspects:
        """Compare by buckets at once: where sides are written to, one checksum seldom agrees."""
        bits = _bits(self.rows or self.subject.estimated_rows)
        sums = self._bucket_checksums(bits, None, bits)
        self.rows = max(sum(found[0] for found in side.values()) for side in sums)
        unequal = _unequal(*sums)
        self.equal = not unequal
        while sum(unequal.values()) > self.rows_in_hand:
            more = (MOST_BUCKETS // len(unequal)).bit_length() - 1
            if more < 1 or bits + more > FINEST:
                break
            finer = _unequal(*self._bucket_checksums(bits + more, unequal, bits))
            worth = sum(finer.values()) < WORTH * sum(unequal.values())
            bits, unequal = bits + more, finer
            if not worth:
                break
        suspects: Suspects = {}
        for batch in _batches(unequal, self.rows_in_hand):
            if len(suspects) >= self.limit:
                self.unexamined += sum(unequal[bucket] for bucket in batch)
            else:
                suspects.update(self._suspects(bits, batch, self.limit - len(suspects)))
        return suspects

    def checksums(self) -> tuple[Checksum, Checksum]:
        """The checksum of each side."""
        totals = _Total(), _Total()
        self.reading.read(
            self.subject,
            lambda side, relation: checksum.checksum(
                side, relation, self.hashing, self.subject.choice
            ),
            (totals[0].take, totals[1].take),
        )
        return totals[0].sum, totals[1].sum

    def _bucket_checksums(
        self, bits: int, within: Collection[int] | None, bits_within: int
    ) -> tuple[Sums, Sums]:
        chosen = 1 << bits_within if within is None else len(within)
        buckets = chosen << (bits - bits_within)
        parents = None if within is None else (bits_within, list(within))
        totals = _Totals(), _Totals()
        self.reading.read(
            self.subject,
            lambda side, relation: checksum.bucket_checksums(
                side, relation, self.hashing, self.subject.choice, bits, parents
            ),
            (totals[0].take, totals[1].take),
            max(FEWEST_SLICES, BUCKETS_ANSWERED // buckets),
        )
        return totals[0].sums, totals[1].sums

    def _suspects(self, bits: int, buckets: list[int] | None, limit: int) -> Suspects:
        """The keys of these buckets, all if None, whose rows differ by hash, or in number."""
        fetched: tuple[list[Any], list[Any]] = ([], [])
        self.reading.read(
            self.subject,
            lambda side, relation: checksum.bucket_keys(
                side, relation, self.hashing, self.subject.choice, bits, buckets
            ),
            (fetched[0].extend, fetched[1].extend),
        )
        canonical = self.subject.shape.canonical_key
        held = [Counter((canonical(row[:-1]), row[-1]) for row in rows) for rows in fetched]
        differing = {key for key, _ in (held[0] - held[1]) + (held[1] - held[0])}
        found: Suspects = {}
        # The source's text of a key is the one that is shown and asked for.
        for rows in fetched[::-1]:
            for row in rows:
                if (key := canonical(row[:-1])) in differing:
                    found[key] = row[:-1]
        kept = dict(list(found.items())[:limit])
        self.unexamined += len(found) - len(kept)
        return kept


def _bits(rows: int) -> int:
    """So many bits name the buckets of a first pass over so many rows."""
    return min(max(COARSE, (rows // ROWS_IN_A_BUCKET).bit_length()), FINE)


class _Total:
    """The checksum of all slices together."""

    def __init__(self) -> None:
        self.sum: Checksum = NOTHING

    def take(self, rows: Iterable[Any]) -> None:
        """The checksums of a slice."""
        for count, plain, mixed in rows:
            self.sum = _added(self.sum, (count, plain, mixed))


class _Totals:
    """The checksums of all slices together, by bucket."""

    def __init__(self) -> None:
        self.sums: Sums = {}

    def take(self, rows: Iterable[Any]) -> None:
        """The buckets of a slice."""
        for bucket, count, plain, mixed in rows:
            before = self.sums.get(bucket, NOTHING)
            self.sums[bucket] = _added(before, (count, plain, mixed))


def _added(one: Checksum, other: Checksum) -> Checksum:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def _unequal(source: Sums, target: Sums) -> dict[int, int]:
    """The buckets that differ, with the rows of the side that holds more."""
    return {
        bucket: max(here[0], there[0])
        for bucket in sorted(source.keys() | target.keys())
        if (here := source.get(bucket, NOTHING)) != (there := target.get(bucket, NOTHING))
    }


def _batches(rows: dict[int, int], most: int) -> Iterator[list[int]]:
    """Buckets together as long as their rows are no more than that."""
    batch: list[int] = []
    held = 0
    for bucket, number in rows.items():
        if batch and held + number > most:
            yield batch
            batch, held = [], 0
        batch.append(bucket)
        held += number
    if batch:
        yield batch


def split(subject: Subject, rows: Iterable[tuple[str | None, ...]]) -> Iterator[checksum.Row]:
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
        queries.append(checksum.rows_without_key)
    for query in queries:
        for rows, fetched in zip(
            found, both.rows(subject.source, subject.target, query), strict=True
        ):
            rows.extend(split(subject, fetched))
    return found
