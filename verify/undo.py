"""The undo of a repair: a script of SQL for one database, which a DBA can read before it is run.

It gives back the rows as they stood, where they still are what the repair made of them. Its
transaction is marked as sync's own, so that the other direction does not carry it: the difference
is there again.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from psycopg import sql

from estate.connections import SETTINGS
from migrator.control import APPLIED
from migrator.mapping import Shape, Stream
from migrator.plan import Values, pick
from verify.truth import Held

# Those in which the values of a script are written.
FORMS = ("TimeZone", "DateStyle", "IntervalStyle", "extra_float_digits", "bytea_output")
HEAD = """\
-- splitctl: undo of a repair of {database}, made {made}.
-- It gives back what the repair changed, where nobody has changed it since: a statement that says 0
-- has found a row that is another one by now, and left it alone.
-- psql --set ON_ERROR_STOP=1 --file THIS_FILE "a connection to {database}"
"""
UPDATE = sql.SQL("UPDATE {table} AS t SET {changes} WHERE {condition}")
DELETE = sql.SQL("DELETE FROM {table} AS t WHERE {condition}")
INSERT = sql.SQL(
    "INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns}"
    " FROM jsonb_populate_record(NULL::{table}, {row}) ON CONFLICT DO NOTHING"
)


def script(stream: Stream, made: str, repaired: Sequence[tuple[Shape, Held]]) -> str:
    """The script for what a stream's repair changes; tables stand parents before children."""
    lines = [HEAD.format(database=stream.target.name, made=made), "BEGIN;"]
    lines += [f"SET LOCAL {name} = {_text(SETTINGS[name])};" for name in FORMS]
    lines.append("SET LOCAL search_path = public;")
    mark = sql.SQL("SELECT pg_logical_emit_message(true, {}, {});")
    # Before any row: only a transaction's first message vouches for it.
    lines.append(mark.format(APPLIED, stream.name).as_string())
    for shape, held in reversed(repaired):
        lines += [f"{statement.as_string()};" for statement in _deletes(shape, held)]
    for shape, held in repaired:
        lines += [f"{statement.as_string()};" for statement in _writes(shape, held)]
    lines.append("COMMIT;")
    return "\n".join(lines) + "\n"


def _rows(shape: Shape, held: Held) -> tuple[dict[Values, Values], dict[Values, Values]]:
    positions = shape.primary_positions
    before = {pick(row, positions): row for row in held.standing}
    after = {pick(row, positions): row for row in held.given}
    return before, after


def _deletes(shape: Shape, held: Held) -> Iterable[sql.Composed]:
    """Rows that the repair inserts."""
    before, after = _rows(shape, held)
    for primary, row in after.items():
        if primary not in before:
            yield DELETE.format(table=_table(shape), condition=_is(shape, row))


def _writes(shape: Shape, held: Held) -> Iterable[sql.Composed]:
    """Rows that the repair deletes or changes."""
    before, after = _rows(shape, held)
    for primary, row in before.items():
        there = after.get(primary)
        if there is None:
            yield _given_back(shape, held, primary)
        elif there != row:
            changed = [
                (name, text)
                for name, text, new in zip(shape.columns, row, there, strict=True)
                if text != new
            ]
            yield UPDATE.format(
                table=_table(shape),
                changes=sql.SQL(", ").join(
                    sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(text))
                    for name, text in changed
                ),
                condition=_is(shape, there),
            )


def _given_back(shape: Shape, held: Held, primary: Values) -> sql.Composed:
    positions = shape.primary_positions
    number = [pick(row, positions) for row in held.standing].index(primary)
    row: dict[str, Any] = json.loads(held.whole[number])
    generated = {column.name for column in shape.table.columns if column.generated}
    columns = sql.SQL(", ").join(sql.Identifier(name) for name in row if name not in generated)
    # The text itself: read into Python, a number could lose digits.
    return INSERT.format(table=_table(shape), columns=columns, row=sql.Literal(held.whole[number]))


def _is(shape: Shape, row: Values) -> sql.Composed:
    """The row of this primary key, if its mapped columns are just these."""
    fields = [sql.SQL("t.{}::text").format(sql.Identifier(name)) for name in shape.columns]
    primary = [
        sql.SQL("t.{} = {}").format(sql.Identifier(name), sql.Literal(text))
        for name, text in zip(
            shape.table.primary_key, pick(row, shape.primary_positions), strict=True
        )
    ]
    same = sql.SQL("ROW({}) IS NOT DISTINCT FROM ROW({})").format(
        sql.SQL(", ").join(fields),
        sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Literal(text)) for text in row),
    )
    return sql.SQL(" AND ").join([*primary, same])


def _table(shape: Shape) -> sql.Identifier:
    return sql.Identifier("public", shape.table.name)


def _text(text: str) -> str:
    return sql.Literal(text).as_string()
