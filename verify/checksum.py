"""SQL of the comparison: one side's checksum, its buckets, their rows, and the rows of some keys.

A checksum is the count, and two sums of one 64-bit hash per row: of the hash, and of the hash
mixed again. `hash_record_extended` is linear in its columns, so that one column swapped between
two rows often leaves the plain sum as it was; mixing sees it. The mixing keeps 32 bits; the plain
sum keeps the other 32. One changed row goes unseen with a chance of 1 in 2^64.

A row's *bucket* comes from a second hash, of its driving key alone: both sides put a key's rows
into the same bucket, whatever the rows say.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

import psycopg
from psycopg import sql

from verify import pgtypes, slices
from verify.pgtypes import PgType
from verify.slices import Cut, Slice

Key = tuple[str, ...]
Checksum = tuple[int, Decimal, Decimal]
NOTHING: Checksum = (0, Decimal(0), Decimal(0))
# A bucket is a number of so many low bits of the key's hash; one of more bits lies in one of fewer.
# Grouping costs a third of a scan, into a thousand or into eight; into sixteen as much as the scan.
COARSE, FINE = 10, 13
FINEST = 48
# (driving key, values), both as text; a NULL is None.
Row = tuple[tuple[str | None, ...], tuple[str | None, ...]]
CONJUNCTION = sql.SQL(" AND ")
COMMA = sql.SQL(", ")
# Of the key's hash: the bits above those of the buckets, for samples.
SAMPLES = 1000


class Hashing(StrEnum):
    """RECORD is fast but promised by no manual; MD5 of the text forms works everywhere."""

    RECORD = "record"
    MD5 = "md5"


@dataclass(frozen=True)
class Column:
    """One compared column: its type on this side, and in the target table."""

    name: str
    here: PgType
    target: PgType

    @property
    def value(self) -> sql.Composable:
        """The column's value as the target would store it."""
        return pgtypes.stored(sql.Identifier("r", self.name), self.here, self.target)


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a query, and how it may be cut into slices, if it may."""

    connection: psycopg.Connection[Any]
    query: sql.Composable
    key: tuple[Column, ...]
    columns: tuple[Column, ...]
    label: str
    cut: Cut | None = None

    def relation(self, within: Slice | None = None) -> sql.Composable:
        """What stands in FROM under the alias r: all of the side, or a slice of it."""
        return slices.relation(self.query, self.cut.table if self.cut else None, within)


@dataclass(frozen=True)
class Choice:
    """Which rows a pass reads: those of a sample of the keys, those that a condition is true of.

    `sample` is in thousandths of all keys, the same ones on both sides. `condition` is SQL over the
    target's columns, under the alias r.
    """

    sample: int = SAMPLES
    condition: sql.Composable | None = None

    def conditions(self, side: Side, hashing: Hashing) -> list[sql.Composable]:
        """What a row has to be, besides that of its bucket."""
        found: list[sql.Composable] = []
        if self.sample < SAMPLES:
            found.append(
                sql.SQL("(({} >> 16) & 65535) % {} < {}").format(
                    key_hash(side.key, hashing), sql.Literal(SAMPLES), sql.Literal(self.sample)
                )
            )
        if self.condition is not None:
            found.append(sql.SQL("({})").format(self.condition))
        return found


EVERY_ROW = Choice()


def row_hash(columns: tuple[Column, ...], hashing: Hashing) -> sql.Composable:
    """A 64-bit hash of one row's compared columns."""
    return _hashed(columns, hashing, 0)


def key_hash(columns: tuple[Column, ...], hashing: Hashing) -> sql.Composable:
    """A 64-bit hash of one row's driving key, NULLs and all; another one than `row_hash`."""
    return _hashed(columns, hashing, 1)


def _hashed(columns: tuple[Column, ...], hashing: Hashing, seed: int) -> sql.Composable:
    if hashing is Hashing.RECORD:
        forms = [pgtypes.for_record_hash(c.value, c.target) for c in columns]
        return sql.SQL("hash_record_extended(ROW({}), {})").format(
            COMMA.join(forms), sql.Literal(seed)
        )
    forms = [pgtypes.for_text_hash(c.value, c.target) for c in columns]
    digest = sql.SQL("md5(ROW({})::text)").format(COMMA.join(forms))
    return sql.SQL("('x' || substr({}, {}, 16))::bit(64)::bigint").format(
        digest, sql.Literal(1 + 16 * seed)
    )


def texts(columns: tuple[Column, ...]) -> sql.Composable:
    """The columns as text, comma-separated."""
    return COMMA.join(pgtypes.as_text(c.value, c.target) for c in columns)


def bucket(side: Side, hashing: Hashing, bits: int) -> sql.Composable:
    """The bucket of a row: 0 <= b < 2^bits."""
    return sql.SQL("({} & {}::bigint)").format(
        key_hash(side.key, hashing), sql.Literal((1 << bits) - 1)
    )


def _sums(hashing: Hashing) -> sql.SQL:
    if hashing is Hashing.RECORD:
        return sql.SQL("count(*), coalesce(sum(h), 0), coalesce(sum(hashint8extended(h, 1)), 0)")
    return sql.SQL("count(*), coalesce(sum(h), 0), 0::numeric")


def _where(conditions: Sequence[sql.Composable]) -> sql.Composable:
    return sql.SQL(" WHERE {}").format(CONJUNCTION.join(conditions)) if conditions else sql.SQL("")


def _among(bucket_: sql.Composable, numbers: Iterable[int]) -> sql.Composable:
    return sql.SQL("{} = ANY({}::bigint[])").format(bucket_, sql.Literal(sorted(numbers)))


def checksum(
    side: Side, relation: sql.Composable, hashing: Hashing, choice: Choice
) -> sql.Composed:
    """One row: the checksum of a relation. OFFSET 0 keeps the hash from being computed twice."""
    return sql.SQL("SELECT {} FROM (SELECT {} AS h FROM {} AS r{} OFFSET 0) AS s").format(
        _sums(hashing),
        row_hash(side.columns, hashing),
        relation,
        _where(choice.conditions(side, hashing)),
    )


def bucket_checksums(
    side: Side,
    relation: sql.Composable,
    hashing: Hashing,
    choice: Choice,
    bits: int,
    parents: tuple[int, Iterable[int]] | None = None,
) -> sql.Composed:
    """One row per bucket that holds anything: the bucket, then its checksum.

    `parents` are the only buckets to look into, of fewer bits: how many, and which; None is all.
    """
    conditions = choice.conditions(side, hashing)
    if parents is not None:
        conditions.append(_among(bucket(side, hashing, parents[0]), parents[1]))
    return sql.SQL(
        "SELECT b, {} FROM (SELECT {} AS b, {} AS h FROM {} AS r{} OFFSET 0) AS s GROUP BY b"
    ).format(
        _sums(hashing),
        bucket(side, hashing, bits),
        row_hash(side.columns, hashing),
        relation,
        _where(conditions),
    )


def bucket_keys(
    side: Side,
    relation: sql.Composable,
    hashing: Hashing,
    choice: Choice,
    bits: int,
    chosen: Iterable[int] | None,
) -> sql.Composed:
    """Each row of some buckets, or of all: its driving key as text, and its hash."""
    conditions = choice.conditions(side, hashing)
    if chosen is not None:
        conditions.append(_among(bucket(side, hashing, bits), chosen))
    return sql.SQL("SELECT {}, {} FROM {} AS r{}").format(
        texts(side.key), row_hash(side.columns, hashing), relation, _where(conditions)
    )


def _rows(side: Side, condition: sql.Composable) -> sql.Composed:
    return sql.SQL("SELECT {} FROM {} AS r WHERE {}").format(
        texts((*side.key, *side.columns)), side.relation(), condition
    )


def rows_of_keys(side: Side, keys: Sequence[Key]) -> sql.Composed:
    """The whole rows of some driving keys: key, then columns; perhaps a few rows of other keys."""
    return _rows(side, _is_one_of(side, keys))


def raw_keys(side: Side, keys: Sequence[Key]) -> sql.Composed:
    """Some driving keys, each once: as the query itself gives them, then as the target has them."""
    own = COMMA.join(pgtypes.as_text(sql.Identifier("r", c.name), c.here) for c in side.key)
    return sql.SQL("SELECT DISTINCT {}, {} FROM {} AS r WHERE {}").format(
        own, texts(side.key), side.relation(), _is_one_of(side, keys)
    )


def _is_one_of(side: Side, keys: Sequence[Key]) -> sql.Composable:
    """Where the column has the target's type it is compared bare, so that its index is used."""
    plain = [pgtypes.matches_plainly(column.here, column.target) for column in side.key]
    left = [
        sql.Identifier("r", column.name) if bare else pgtypes.for_match(column.value, column.target)
        for column, bare in zip(side.key, plain, strict=True)
    ]
    wanted = [
        [
            _bare(text, column) if bare else pgtypes.match_literal(text, column.target)
            for column, text, bare in zip(side.key, key, plain, strict=True)
        ]
        for key in keys
    ]
    # Each part bounds by itself, so that it reaches an index of its own; then all together.
    conditions: list[sql.Composable] = [
        sql.SQL("{} IN ({})").format(part, COMMA.join(literals))
        for part, literals in zip(left, zip(*wanted, strict=True), strict=True)
    ]
    if len(left) > 1:
        rows = COMMA.join(sql.SQL("({})").format(COMMA.join(literals)) for literals in wanted)
        conditions.append(sql.SQL("({}) IN ({})").format(COMMA.join(left), rows))
    return CONJUNCTION.join(conditions)


def _bare(text: str, column: Column) -> sql.Composable:
    """As the column's type reads it; a whole number that is too large for it is none of its own."""
    if column.here.oid in pgtypes.INTEGERS:
        return sql.SQL("{}::bigint").format(sql.Literal(text))
    return sql.Literal(text)


def rows_without_key(side: Side) -> sql.Composed:
    """The whole rows whose driving key is not whole: the target may not hold such, a query can."""
    nulls = [sql.SQL("{} IS NULL").format(column.value) for column in side.key]
    return _rows(side, sql.SQL("({})").format(sql.SQL(" OR ").join(nulls)))
