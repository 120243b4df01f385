"""SQL of the comparison: one side's checksum of a key range, its buckets, its rows.

A checksum is the count, and two sums of one 64-bit hash per row: of the hash, and of the hash
mixed again. `hash_record_extended` is linear in its columns, so that one column swapped between
two rows often leaves the plain sum as it was; mixing sees it. The mixing keeps 32 bits; the plain
sum keeps the other 32. One changed row goes unseen with a chance of 1 in 2^64.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from typing import Any

import psycopg
from psycopg import sql

from verify import pgtypes
from verify.pgtypes import PgType

BUCKETS = 64
Key = tuple[str, ...]
Checksum = tuple[int, Decimal, Decimal]
# (driving key, values), both as text; a NULL is None.
Row = tuple[tuple[str | None, ...], tuple[str | None, ...]]
CONJUNCTION = sql.SQL(" AND ")
COMMA = sql.SQL(", ")


class Hashing(StrEnum):
    """RECORD is fast but promised by no manual; MD5 of the text forms works everywhere."""

    RECORD = "record"
    MD5 = "md5"


@dataclass(frozen=True)
class Range:
    """Driving keys above `lower` and up to `upper`; None is an open end.

    `nulls` is the one range of rows whose driving key is not whole: the target may not hold such
    a row, but a query can give one.
    """

    lower: Key | None = None
    upper: Key | None = None
    nulls: bool = False


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
    """One side of a comparison: `relation` stands in FROM under the alias r."""

    connection: psycopg.Connection[Any]
    relation: sql.Composable
    key: tuple[Column, ...]
    columns: tuple[Column, ...]
    label: str
    indexed: bool = field(default=True)


def in_range(side: Side, within: Range) -> sql.Composable:
    """The condition that a row's driving key lies in the range.

    Every row lies in exactly one range of a full cut, also when its key has NULLs.
    """
    keys = [pgtypes.for_order(column.value, column.target) for column in side.key]
    if within.nulls:
        nulls = [sql.SQL("{} IS NULL").format(key) for key in keys]
        return sql.SQL("({})").format(sql.SQL(" OR ").join(nulls))
    # A row comparison is decided by its first column, so a NULL further on must be told apart.
    parts: list[sql.Composable] = [sql.SQL("{} IS NOT NULL").format(key) for key in keys]
    if within.lower is not None:
        parts.append(_row_comparison(side, keys, sql.SQL(">"), within.lower))
    if within.upper is not None:
        parts.append(_row_comparison(side, keys, sql.SQL("<="), within.upper))
    return CONJUNCTION.join(parts)


def _row_comparison(
    side: Side, keys: Sequence[sql.Composable], operator: sql.SQL, bound: Key
) -> sql.Composable:
    literals = [
        pgtypes.order_literal(text, column.target)
        for column, text in zip(side.key, bound, strict=True)
    ]
    return sql.SQL("({}) {} ({})").format(COMMA.join(keys), operator, COMMA.join(literals))


# The same expressions stand in every statement of a mapping: they are put together once.
@lru_cache
def _written(expression: Callable[..., sql.Composable], *arguments: Any) -> sql.SQL:
    text = expression(*arguments).as_string(None)
    return sql.SQL(text)


def row_hash(columns: tuple[Column, ...], hashing: Hashing) -> sql.Composable:
    """A 64-bit hash of one row's compared columns."""
    if hashing is Hashing.RECORD:
        forms = [pgtypes.for_record_hash(c.value, c.target) for c in columns]
        return sql.SQL("hash_record_extended(ROW({}), 0)").format(COMMA.join(forms))
    forms = [pgtypes.for_text_hash(c.value, c.target) for c in columns]
    digest = sql.SQL("md5(ROW({})::text)").format(COMMA.join(forms))
    return sql.SQL("('x' || substr({}, 1, 16))::bit(64)::bigint").format(digest)


def texts(columns: tuple[Column, ...]) -> sql.Composable:
    """The columns as text, comma-separated."""
    return COMMA.join(pgtypes.as_text(c.value, c.target) for c in columns)


def bucket_of(key: tuple[Column, ...]) -> sql.Composable:
    """The bucket of a row, by its driving key; one key's rows share one bucket on both sides."""
    joined = sql.SQL("concat_ws(chr(31), {})").format(texts(key))
    # Two hex digits are 256 values, cut to BUCKETS.
    return sql.SQL("(('x' || substr(md5({}), 1, 2))::bit(8)::int % {})").format(
        joined, sql.Literal(BUCKETS)
    )


def _sums(hashing: Hashing) -> sql.SQL:
    if hashing is Hashing.RECORD:
        return sql.SQL("count(*), coalesce(sum(h), 0), coalesce(sum(hashint8extended(h, 1)), 0)")
    return sql.SQL("count(*), coalesce(sum(h), 0), 0::numeric")


def checksum(side: Side, within: Range, hashing: Hashing) -> sql.Composed:
    """One row: the checksum of a range. OFFSET 0 keeps the hash from being computed twice."""
    return sql.SQL("SELECT {} FROM (SELECT {} AS h FROM {} AS r WHERE {} OFFSET 0) AS s").format(
        _sums(hashing),
        _written(row_hash, side.columns, hashing),
        side.relation,
        in_range(side, within),
    )


def bucket_checksums(side: Side, within: Range, hashing: Hashing) -> sql.Composed:
    """One row per bucket of a range that holds anything: the bucket, then its checksum."""
    return sql.SQL(
        "SELECT b, {} FROM (SELECT {} AS b, {} AS h FROM {} AS r WHERE {} OFFSET 0) AS s GROUP BY b"
    ).format(
        _sums(hashing),
        _written(bucket_of, side.key),
        _written(row_hash, side.columns, hashing),
        side.relation,
        in_range(side, within),
    )


def _select_rows(side: Side, condition: sql.Composable) -> sql.Composed:
    return sql.SQL("SELECT {} FROM {} AS r WHERE {}").format(
        _written(texts, (*side.key, *side.columns)), side.relation, condition
    )


def bucket_rows(side: Side, within: Range, buckets: Iterable[int]) -> sql.Composed:
    """The rows of some buckets of a range: driving key, then compared columns, all as text."""
    condition = in_range(side, within)
    chosen = sorted(buckets)
    if len(chosen) < BUCKETS:
        numbers = COMMA.join(sql.Literal(number) for number in chosen)
        condition = sql.SQL("{} AND {} IN ({})").format(
            condition, _written(bucket_of, side.key), numbers
        )
    return _select_rows(side, condition)


def rows_of_keys(side: Side, keys: Sequence[Key]) -> sql.Composed:
    """The rows of some driving keys, in the same shape; it may give a few rows of other keys.

    Where the column has the target's type it is compared bare, so that its index is used.
    """
    plain = [pgtypes.matches_plainly(column.here, column.target) for column in side.key]
    left = [
        sql.Identifier("r", column.name) if bare else pgtypes.for_order(column.value, column.target)
        for column, bare in zip(side.key, plain, strict=True)
    ]
    wanted = [
        [
            sql.Literal(text) if bare else pgtypes.order_literal(text, column.target)
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
    return _select_rows(side, CONJUNCTION.join(conditions))


def next_bound(side: Side, within: Range, rows: int) -> sql.Composed:
    """At most one row: the driving key that lies `rows` rows into the range, in key order."""
    keys = [pgtypes.for_order(column.value, column.target) for column in side.key]
    return sql.SQL("SELECT {} FROM {} AS r WHERE {} ORDER BY {} OFFSET {} LIMIT 1").format(
        _written(texts, side.key),
        side.relation,
        in_range(side, within),
        COMMA.join(keys),
        sql.Literal(rows - 1),
    )


def all_bounds(side: Side, within: Range, rows: int) -> sql.Composed:
    """Every `rows`-th driving key of the range in key order, by one sort: for keys unindexed."""
    keys = COMMA.join(pgtypes.for_order(column.value, column.target) for column in side.key)
    names = [sql.Identifier(f"k{n}") for n in range(len(side.key))]
    named = COMMA.join(
        sql.SQL("{} AS {}").format(pgtypes.as_text(column.value, column.target), name)
        for column, name in zip(side.key, names, strict=True)
    )
    return sql.SQL(
        "SELECT {} FROM (SELECT {}, row_number() OVER (ORDER BY {}) AS n FROM {} AS r WHERE {})"
        " AS s WHERE n % {} = 0 ORDER BY n"
    ).format(
        COMMA.join(names), named, keys, side.relation, in_range(side, within), sql.Literal(rows)
    )
