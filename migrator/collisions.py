"""Rows that exchange a unique value: no single statement can write them one after the other.

The rows that hold a wanted value now are given a stand-in value first, inside the same
transaction, so that nobody ever sees it. A row is never deleted for this: that could cascade.
Keys that hold a wanted value and are not in the batch are merged into it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from estate.catalog import Column
from migrator import fragments as f
from migrator.changes import MappingKey
from migrator.mapping import Key, Shape, target_types
from migrator.plan import Plan, Values, pick
from migrator.reading import Prepared

Statement = tuple[sql.Composed, list[list[str | None]]]

# Columns of a unique index on plain columns; one on expressions has a 0 among them.
INDEX: LiteralString = """
SELECT array_agg(a.attname::text ORDER BY k.n)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
  CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n)
  LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum AND k.attnum > 0
 WHERE i.indrelid = %s AND c.relname = %s AND i.indisunique AND k.n <= i.indnkeyatts
HAVING bool_and(k.attnum > 0)
"""
HOLDERS = sql.SQL(
    "SELECT {primary}, {key} FROM {table} AS t JOIN unnest({arrays}) AS u({names}) ON {condition}"
)
STAND_IN = sql.SQL(
    "UPDATE {table} AS t SET {column} = {value} FROM unnest({arrays}) AS u({names})"
    " WHERE {condition}"
)
STAND_INS: dict[str, LiteralString] = {
    "uuid": "gen_random_uuid()",
    "text": "left(md5(random()::text || t.ctid::text), {length})",
    "bigint": "-(random() * 9e18)::bigint - 1",
    "integer": "-(random() * 2e9)::integer - 1",
}
SHORTEST_TEXT = 8
LONGEST_TEXT = 32


class KeysMissing(Exception):
    """The batch needs these keys too: their rows hold unique values that it wants to write."""

    def __init__(self, names: list[MappingKey], constraint: str) -> None:
        self.names = names
        self.constraint = constraint
        super().__init__(f"unique value of {constraint} is held by another row")


@dataclass(frozen=True)
class Place:
    """A unique index of a mapping's target, and the column that takes a stand-in."""

    columns: tuple[str, ...]
    column: Column


class Collisions:
    """Finds out who holds the unique values that a batch wants."""

    def __init__(self, target: psycopg.Connection[Any]) -> None:
        self._target = target
        self._places: dict[tuple[str, str], Place] = {}

    def of(self, error: psycopg.Error, targets: Mapping[str, Prepared]) -> tuple[str, str] | None:
        """(mapping, index) of a collision that a stand-in may solve, else None."""
        table, index = error.diag.table_name, error.diag.constraint_name
        if not isinstance(error, psycopg.errors.UniqueViolation) or not index:
            return None
        prepared = targets.get(table or "")
        if prepared is None:
            return None
        place = self._place(prepared.shape, index)
        if place is None:
            return None
        name = (prepared.shape.mapping.name, index)
        self._places[name] = place
        return name

    def step_aside(
        self,
        collisions: Iterable[tuple[str, str]],
        prepared: Mapping[str, Prepared],
        plan: Plan,
    ) -> list[Statement]:
        """Statements that move the present holders aside. Raises KeysMissing."""
        statements = []
        for name, index in collisions:
            rows = plan.upserts.get(name, [])
            if not rows:
                continue
            shape, place = prepared[name].shape, self._places[(name, index)]
            coming = {pick(row, shape.primary_positions) for row in rows}
            going = set(plan.deletes.get(name, []))
            late = set(plan.late.get(name, []))
            held = self._held(shape, place, rows)
            strangers = [
                (name, key) for primary, key in held.items() if primary not in coming | going | late
            ]
            if strangers:
                below = [hangs for stranger in strangers for hangs in plan.kept.get(stranger, ())]
                raise KeysMissing(strangers + below, index)
            moving = [primary for primary in held if primary in coming | late]
            if moving:
                columns = [list(column) for column in zip(*moving, strict=True)]
                statements.append((_stand_in(shape, place), columns))
        return statements

    def _held(
        self, shape: Shape, place: Place, rows: list[tuple[str | None, ...]]
    ) -> dict[Values, Key]:
        """Primary and driving keys of the target's rows that hold one of the wanted values."""
        positions = [shape.columns.index(name) for name in place.columns]
        values = {pick(row, positions) for row in rows}
        asked = [list(column) for column in zip(*values, strict=True)]
        primary, key = shape.table.primary_key, shape.mapping.key
        query = HOLDERS.format(
            primary=f.texts("t", primary),
            key=f.texts("t", key),
            table=f.table(shape.table.name),
            arrays=f.arrays(len(positions)),
            names=f.names(len(positions)),
            condition=f.equal("t", place.columns, target_types(shape, place.columns)),
        )
        found = self._target.execute(query, asked).fetchall()
        width = len(primary)
        return {tuple(row[:width]): tuple(row[width:]) for row in found}

    def _place(self, shape: Shape, index: str) -> Place | None:
        row = self._target.execute(INDEX, (shape.table.oid, index)).fetchone()
        if row is None or not set(row[0]) <= set(shape.columns):
            return None
        bound = set(shape.table.primary_key)
        bound.update(name for key in shape.table.foreign_keys for name in key.columns)
        free = [c for name in row[0] if name not in bound and (c := shape.table.column(name))]
        chosen = [c for c in free if not c.not_null] or [c for c in free if _value(c) is not None]
        return Place(tuple(row[0]), chosen[0]) if chosen else None


def _stand_in(shape: Shape, place: Place) -> sql.Composed:
    primary = shape.table.primary_key
    return STAND_IN.format(
        table=f.table(shape.table.name),
        column=f.identifier(place.column.name),
        value=_value(place.column),
        arrays=f.arrays(len(primary)),
        names=f.names(len(primary)),
        condition=f.equal("t", primary, target_types(shape, primary)),
    )


def _value(column: Column) -> sql.Composable | None:
    """A value that no other row has; NULL where it is allowed."""
    if not column.not_null:
        return sql.SQL("NULL")
    kind = "text" if column.type.startswith("character varying") else column.type
    if kind not in STAND_INS:
        return None
    length = LONGEST_TEXT
    if "(" in column.type:
        length = min(length, int(column.type.partition("(")[2].rstrip(")")))
    if length < SHORTEST_TEXT:
        return None
    return sql.SQL(STAND_INS[kind]).format(length=sql.Literal(length))
