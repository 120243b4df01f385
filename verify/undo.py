"""The undo of a repair: a script of SQL for one database, which a DBA can read before it is run.

It gives back the rows as they stood, where they still are what the repair made of them. Its
transaction is marked as sync's own, so that the other direction does not carry it: the difference
is there again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import sql

from estate.catalog import ForeignKey
from estate.connections import SETTINGS
from migrator.control import APPLIED
from migrator.mapping import Shape, Stream
from migrator.ownership import Ownership
from migrator.plan import Values, pick
from verify.truth import Held, writable

HEAD = """\
-- splitctl: undo of a repair of {database}, made {made}.
-- It gives back what the repair changed, where nobody has changed it since: a statement that says 0
-- has found a row that is another one by now, or on which other rows hang, and left it alone (each
-- DELETE stands here twice: unique values are freed first, parents go last). Once a customer has
-- moved it refuses to run.
-- psql --set ON_ERROR_STOP=1 --file THIS_FILE "a connection to {database}"
"""
MARK = sql.SQL("SELECT pg_logical_emit_message(true, {}, {})")
# Locked until the end: no step moves the owner meanwhile.
OWNER = sql.SQL("""DO $splitctl$ BEGIN
  PERFORM FROM splitctl_sync.owner WHERE domain = {domain} AND epoch = {epoch} FOR SHARE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'customers have moved since this repair: nothing is undone';
  END IF;
END $splitctl$""")
UPDATE = sql.SQL("UPDATE {table} AS t SET {changes} WHERE {condition}")
DELETE = sql.SQL("DELETE FROM {table} AS t WHERE {condition}")
INSERT = sql.SQL(
    "INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({values})"
    " ON CONFLICT ({primary}) DO NOTHING"
)
NONE_HANGS = sql.SQL("NOT EXISTS (SELECT FROM {table} AS c WHERE {condition})")
CONJUNCTION, COMMA = sql.SQL(" AND "), sql.SQL(", ")


@dataclass(frozen=True)
class Repaired:
    """What a repair changes under one key, and the foreign keys that lead to its table."""

    shape: Shape
    held: Held
    referring: Sequence[tuple[str, ForeignKey]]


def script(stream: Stream, owner: Ownership, made: str, repaired: Sequence[Repaired]) -> str:
    """The script for what a stream's repair changes; tables stand parents before children."""
    lines = [HEAD.format(database=stream.target.name, made=made), "BEGIN;"]
    statements: list[sql.Composable] = [
        sql.SQL("SET LOCAL {} = {}").format(sql.SQL(name), sql.Literal(value))
        for name, value in SETTINGS.items()
        if not name.endswith("timeout") and not name.startswith("default_")
    ]
    # Before any row: only a transaction's first message vouches for it.
    statements.append(MARK.format(sql.Literal(APPLIED), sql.Literal(stream.name)))
    domain, epoch = sql.Literal(stream.domain.name), sql.Literal(owner.epoch)
    statements.append(OWNER.format(domain=domain, epoch=epoch))
    # Unique values are freed first; what others hang on goes when they have left it.
    removing = [statement for item in reversed(repaired) for statement in _deletes(item)]
    statements += removing
    statements += [statement for item in repaired for statement in _writes(item)]
    statements += removing
    lines += [f"{statement.as_string()};" for statement in statements]
    lines.append("COMMIT;")
    return "\n".join(lines) + "\n"


def _rows(item: Repaired) -> tuple[dict[Values, Values], dict[Values, Values]]:
    positions = item.shape.primary_positions
    before = {pick(row, positions): row for row in item.held.standing}
    after = {pick(row, positions): row for row in item.held.given}
    return before, after


def _deletes(item: Repaired) -> Iterable[sql.Composed]:
    """Rows that the repair inserts, unless others have come to hang on them."""
    before, after = _rows(item)
    for primary, row in after.items():
        if primary not in before:
            conditions = [_is(item.shape, row)]
            for table, reference in item.referring:
                pairs = zip(reference.columns, reference.referenced_columns, strict=True)
                same = CONJUNCTION.join(
                    sql.SQL("{} = {}").format(sql.Identifier("c", own), sql.Identifier("t", its))
                    for own, its in pairs
                )
                if table == item.shape.table.name:
                    same = sql.SQL("{} AND c.ctid <> t.ctid").format(same)
                hangs = NONE_HANGS.format(table=sql.Identifier("public", table), condition=same)
                conditions.append(hangs)
            yield DELETE.format(table=_table(item.shape), condition=CONJUNCTION.join(conditions))


def _writes(item: Repaired) -> Iterable[sql.Composed]:
    """Rows that the repair deletes or changes."""
    before, after = _rows(item)
    shape = item.shape
    positions = shape.primary_positions
    whole = dict(
        zip((pick(r, positions) for r in item.held.standing), item.held.whole, strict=True)
    )
    for primary, row in before.items():
        there = after.get(primary)
        if there is None:
            yield INSERT.format(
                table=_table(shape),
                columns=COMMA.join(map(sql.Identifier, writable(shape))),
                values=COMMA.join(map(sql.Literal, whole[primary])),
                primary=COMMA.join(map(sql.Identifier, shape.table.primary_key)),
            )
        elif there != row:
            changed = [
                sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(text))
                for name, text, new in zip(shape.columns, row, there, strict=True)
                if text != new
            ]
            yield UPDATE.format(
                table=_table(shape),
                changes=COMMA.join(changed),
                condition=_is(shape, there),
            )


def _is(shape: Shape, row: Values) -> sql.Composed:
    """The row of this primary key, if its mapped columns are just these."""
    primary = [
        sql.SQL("t.{} = {}").format(sql.Identifier(name), sql.Literal(text))
        for name, text in zip(
            shape.table.primary_key, pick(row, shape.primary_positions), strict=True
        )
    ]
    kinds = {column.name: column.type for column in shape.table.columns}
    as_text = sql.SQL('({}::{})::text COLLATE "C"')
    same = sql.SQL("ROW({}) IS NOT DISTINCT FROM ROW({})").format(
        COMMA.join(
            as_text.format(sql.Identifier("t", name), sql.SQL(kinds[name]))
            for name in shape.columns
        ),
        COMMA.join(
            as_text.format(sql.Literal(text), sql.SQL(kinds[name]))
            for name, text in zip(shape.columns, row, strict=True)
        ),
    )
    return CONJUNCTION.join([*primary, same])


def _table(shape: Shape) -> sql.Identifier:
    return sql.Identifier("public", shape.table.name)
