"""Ranges of a driving key: which are missing, where the next one ends, how big it should be.

Ranges follow each other in the order of the first base table's key. The first has no lower and the
last no upper bound, so that one pass over the mapping's key meets rows of every base table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from migrator import fragments as f
from migrator.chunk import Base, last_key
from migrator.mapping import Key, Shape, plain

Connection = psycopg.Connection[Any]
FIRST_KEYS = 10_000
FEWEST_KEYS = 500
MOST_KEYS = 5_000_000
# The opposite stream's walsender holds a transaction in memory until it has decoded all of it, each
# row with so much around it. What is larger (logical_decoding_work_mem, 64 MB for all that run at
# once) it writes to its disk and reads again, which took four times as long as decoding.
DECODED_BYTES = 16 << 20
AROUND_BYTES = 150
GROWTH = 4.0
SHARE_OF_NEWS = 0.5
INTEGERS = frozenset(["smallint", "integer", "bigint"])

# The order in which the base table's index stands: its own collation.
COLLATIONS: LiteralString = """
SELECT a.attname::text, (SELECT format('%%I.%%I', n.nspname, c.collname)
                    FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
                   WHERE c.oid = a.attcollation)
  FROM pg_attribute a
 WHERE a.attrelid = to_regclass(format('public.%%I', %s::text)) AND a.attnum > 0
"""
BOUNDARY = sql.SQL(
    "SELECT {texts} FROM (SELECT {own} FROM {table} AS b WHERE {conditions}"
    " ORDER BY {own} OFFSET {skipped} LIMIT 1) AS k"
)


@dataclass(frozen=True)
class Range:
    """Keys above `lower` up to `upper`; None is no bound. Numbers rise with the keys."""

    number: int
    lower: Key | None
    upper: Key | None


def missing(done: Sequence[Range]) -> tuple[list[Range], Range | None]:
    """What is not among the finished ranges: the gaps between them, and all that lies behind the
    last one (None when the end is copied)."""
    gaps: list[Range] = []
    number, place, ended = 0, None, False
    for item in sorted(done, key=lambda item: item.number):
        if item.lower != place:
            gaps.append(Range(number + 1, place, item.lower))
        number, place, ended = item.number, item.upper, item.upper is None
    return gaps, None if ended else Range(number + 1, place, None)


class Pace:
    """How many keys make a range that takes `seconds`, learned from those before.

    Fewer, where their rows are so large that decoding them would cost the source of the opposite
    stream more than `DECODED_BYTES`.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._rate = 0.0
        self._size = 0.0
        self.keys = FIRST_KEYS

    def weighed(self, keys: int, rows: int, size: int) -> None:
        """A range of so many keys gave so many rows of so many bytes."""
        each = (size + rows * AROUND_BYTES) / keys
        self._size = each if not self._size else self._size + SHARE_OF_NEWS * (each - self._size)

    def took(self, keys: int, seconds: float) -> None:
        """A range of so many keys took so long."""
        rate = keys / max(seconds, 0.001)
        self._rate = rate if not self._rate else self._rate + SHARE_OF_NEWS * (rate - self._rate)
        most = min(self.keys * GROWTH, MOST_KEYS)
        if self._size:
            most = min(most, DECODED_BYTES / self._size)
        self.keys = int(max(FEWEST_KEYS, min(self._rate * self._seconds, most)))


def in_order(base: Base, shape: Shape) -> bool:
    """Whether the mapping's key is ordered as the base table's own columns are."""
    return all(
        _same_order(own, wanted) for own, wanted in zip(base.types, shape.key_types, strict=True)
    )


def _same_order(own: str, wanted: str) -> bool:
    # Blanks at its end count in text, but not in character(n).
    if own.startswith("character") and not own.startswith("character varying"):
        return False
    return plain(own) == plain(wanted) or {own, wanted} <= INTEGERS


class Bounds:
    """The SQL that finds a range's end in the base table, and that selects a range's rows."""

    def __init__(self, source: Connection, shape: Shape, base: Base) -> None:
        self._base, self._shape = base, shape
        self._types = [f.verbatim(kind) for kind in shape.key_types]
        self._last = last_key(source, base)
        found = dict(source.execute(COLLATIONS, (base.table,)).fetchall())
        collations = [found.get(column) for column in base.columns]
        self._fields = [
            sql.SQL("{}{}").format(
                f.identifier("q", name),
                f.verbatim(f" COLLATE {collation}") if collation else sql.SQL(""),
            )
            for name, collation in zip(shape.mapping.key, collations, strict=True)
        ]

    def end(self, source: Connection, lower: Key | None, keys: int) -> Key | None:
        """The key that many keys above `lower`; None when there were fewer to begin with."""
        own = [f.identifier("b", column) for column in self._base.columns]
        conditions = [sql.SQL("{} IS NOT NULL").format(column) for column in own]
        if lower is not None:
            conditions.append(_compared(own, ">", self._literals(lower)))
        if self._last is not None:
            conditions.append(_compared(own, "<=", self._literals(self._last)))
        texts = [
            sql.SQL("{}::{}::text").format(f.identifier("k", column), kind)
            for column, kind in zip(self._base.columns, self._types, strict=True)
        ]
        query = BOUNDARY.format(
            texts=f.listed(texts),
            own=f.listed(own),
            table=f.table(self._base.table),
            conditions=f.together(conditions),
            skipped=sql.Literal(keys - 1),
        )
        row = source.execute(query, ()).fetchone()
        return tuple(row) if row else None

    def within(self, part: Range) -> sql.Composed:
        """The key of the query, called q, lies in the range. A key with a null lies nowhere."""
        names = self._shape.mapping.key
        conditions: list[sql.Composable] = [
            sql.SQL("{} IS NOT NULL").format(f.identifier("q", name)) for name in names
        ]
        # The first part bounds by itself as well: that reaches an index where a row of parts
        # does not.
        first = self._fields[:1]
        if part.lower is not None:
            values = self._literals(part.lower)
            conditions.append(_compared(self._fields, ">", values))
            if len(names) > 1:
                conditions.append(_compared(first, ">=", values[:1]))
        if part.upper is not None:
            values = self._literals(part.upper)
            conditions.append(_compared(self._fields, "<=", values))
            if len(names) > 1:
                conditions.append(_compared(first, "<=", values[:1]))
        return f.together(conditions)

    def _literals(self, key: Key) -> list[sql.Composable]:
        return [
            sql.SQL("{}::{}").format(f.verbatim(sql.Literal(value).as_string()), kind)
            for value, kind in zip(key, self._types, strict=True)
        ]


def _compared(
    fields: Sequence[sql.Composable], operator: LiteralString, values: Sequence[sql.Composable]
) -> sql.Composed:
    template = "{} " + operator + " {}" if len(fields) == 1 else "({}) " + operator + " ({})"
    return sql.SQL(template).format(f.listed(fields), f.listed(values))
