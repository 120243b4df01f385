"""The statements with which a stream reads its source and writes its target, made per mapping."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from estate.catalog import Column, ForeignKey
from migrator import fragments as f
from migrator import mapping as m
from migrator.changes import MappingKey
from migrator.mapping import Shape
from migrator.opposite import Way

BEGIN: LiteralString = "BEGIN"
COMMIT: LiteralString = "COMMIT"
BEGIN_READ: LiteralString = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
SNAPSHOT: LiteralString = "SELECT pg_current_snapshot()::text"
# Whoever reads it has read every transaction below the horizon that it carries.
HEARTBEAT: LiteralString = """
SELECT pg_logical_emit_message(true, 'splitctl.heartbeat', concat_ws(
    ' ', %s::text, pg_snapshot_xmin(pg_current_snapshot()), clock_timestamp()))
"""
HORIZON: LiteralString = "SELECT horizon::text FROM splitctl_sync.progress WHERE stream = %s"
PUBLISH: LiteralString = """
UPDATE splitctl_sync.progress SET horizon = %s::text::xid8 WHERE stream = %s AND worker_epoch = %s
"""
OWN_IDS: LiteralString = "SELECT xid::text FROM splitctl_sync.own_write WHERE stream = %s"
# Without a horizon nobody asks for them.
OWN_IDS_PAST: LiteralString = """
DELETE FROM splitctl_sync.own_write
 WHERE stream = %(stream)s
   AND (%(horizon)s::text IS NULL OR xid < %(horizon)s::text::xid8)
"""
# Whoever wrote a row that was seen before has a smaller id. One that still runs may have a greater.
NEXT_ID: LiteralString = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"

# The worker's claim and its position, in the transaction that writes the data (laws L4 and L5).
CLAIM: LiteralString = """
UPDATE splitctl_sync.progress
   SET lsn = greatest(lsn, %(lsn)s::pg_lsn),
       source_commit_at = coalesce(%(committed)s::timestamptz, source_commit_at),
       heartbeat_at = coalesce(%(heartbeat)s::timestamptz, heartbeat_at),
       updated_at = CASE WHEN %(lsn)s::pg_lsn IS NULL THEN updated_at ELSE clock_timestamp() END
 WHERE stream = %(stream)s AND worker_epoch = %(epoch)s
"""
# How a transaction that writes rows goes on after its mark: its own id written down, the owner and
# the states of the mappings locked. No row without the claim. One statement, because it is run for
# every few rows.
_ENTERING: LiteralString = """
, own AS (
    INSERT INTO splitctl_sync.own_write (stream, xid)
    SELECT stream, pg_current_xact_id() FROM claim RETURNING xid
), owner AS (
    SELECT new_below, epoch FROM splitctl_sync.owner WHERE domain = %(domain)s FOR SHARE
), states AS (
    SELECT mapping, state FROM splitctl_sync.mapping_state WHERE stream = %(stream)s FOR SHARE
)
SELECT own.xid::text, owner.new_below, owner.epoch,
       (SELECT jsonb_object_agg(mapping, state) FROM states)
  FROM own LEFT JOIN owner ON true
"""
_BESIDE: LiteralString = """
SELECT stream FROM splitctl_sync.progress
 WHERE stream = %(stream)s AND worker_epoch = %(epoch)s FOR SHARE
"""
ENTER: LiteralString = f"WITH claim AS ({CLAIM} RETURNING stream){_ENTERING}"
# For one of several that write at once: their rows come before the position.
ENTER_BESIDE: LiteralString = f"WITH claim AS ({_BESIDE}){_ENTERING}"
OWNER: LiteralString = (
    "SELECT new_below, epoch FROM splitctl_sync.owner WHERE domain = %s FOR SHARE"
)
STATES_SEEN: LiteralString = (
    "SELECT mapping, state FROM splitctl_sync.mapping_state WHERE stream = %s"
)
# In the order of the keys, as every writer does it, so that two never wait for each other.
# A key that is spooled again still stands for its first change, or for one that nobody can date.
SPOOL: LiteralString = """
INSERT INTO splitctl_sync.spool AS s (stream, mapping, key, lsn)
SELECT %s, u.mapping, u.key::jsonb, %s::pg_lsn
  FROM unnest(%s::text[], %s::text[]) AS u(mapping, key)
 ORDER BY u.mapping, u.key::jsonb
ON CONFLICT (stream, mapping, key) DO UPDATE
   SET gen = s.gen + 1, lsn = CASE WHEN excluded.lsn IS NOT NULL THEN s.lsn END
"""
# Behind the last one that was taken: what lay before it is gone, and stepping over millions of
# dead rows again and again would take longer than the work.
SPOOLED: LiteralString = """
SELECT key::text, gen FROM splitctl_sync.spool
 WHERE stream = %(stream)s AND mapping = %(mapping)s AND key > coalesce(%(after)s::jsonb, 'null')
 ORDER BY key LIMIT %(limit)s
"""
# Only the generation that was read is taken out: a key that changed since then stays.
UNSPOOL: LiteralString = """
DELETE FROM splitctl_sync.spool s
 USING unnest(%s::text[], %s::bigint[]) AS u(key, gen)
 WHERE s.stream = %s AND s.mapping = %s AND s.key = u.key::jsonb AND s.gen = u.gen
"""
GO_LIVE: LiteralString = """
UPDATE splitctl_sync.mapping_state SET state = 'live', changed_at = clock_timestamp()
 WHERE stream = %(stream)s AND mapping = %(mapping)s AND state = 'drain'
   AND NOT EXISTS (SELECT FROM splitctl_sync.spool
                    WHERE stream = %(stream)s AND mapping = %(mapping)s)
"""
# Keys of theirs lie in the spool: what comes after them joins the queue.
DRAIN: LiteralString = """
UPDATE splitctl_sync.mapping_state SET state = 'drain', changed_at = clock_timestamp()
 WHERE stream = %s AND mapping = ANY(%s) AND state = 'live'
"""
# Asked every second: a large number is one that the planner knows of.
SPOOL_COUNT: LiteralString = """
SELECT CASE WHEN counted.keys < 20000 THEN counted.keys
            ELSE greatest(counted.keys, (SELECT reltuples::bigint FROM pg_class
                                       WHERE oid = 'splitctl_sync.spool'::regclass)) END
  FROM (SELECT count(*) AS keys
          FROM (SELECT FROM splitctl_sync.spool WHERE stream = %s LIMIT 20000) AS few) AS counted
"""
WAITING: LiteralString = """
SELECT mapping, key::text, reason, attempts FROM splitctl_sync.waiting WHERE stream = %s
"""
# One that is parked while it is drained takes its position along from the spool.
WAIT: LiteralString = """
INSERT INTO splitctl_sync.waiting AS w (stream, mapping, key, reason, detail, lsn)
SELECT %(stream)s, u.mapping, u.key::jsonb, u.reason, u.detail,
       coalesce(%(lsn)s::pg_lsn,
                (SELECT p.lsn FROM splitctl_sync.spool p
                  WHERE (p.stream, p.mapping, p.key) = (%(stream)s, u.mapping, u.key::jsonb)))
  FROM unnest(%(mappings)s::text[], %(keys)s::text[], %(reasons)s::text[], %(details)s::text[])
       AS u(mapping, key, reason, detail)
ON CONFLICT (stream, mapping, key) DO UPDATE
   SET reason = excluded.reason, detail = excluded.detail, attempts = w.attempts + 1
"""
WAIT_NO_MORE: LiteralString = """
DELETE FROM splitctl_sync.waiting w USING unnest(%s::text[], %s::text[]) AS u(mapping, key)
 WHERE w.stream = %s AND w.mapping = u.mapping AND w.key = u.key::jsonb
"""
# Run on the source, where the opposite stream keeps its strays: those whose owner's version
# this stream has carried since.
SETTLE: LiteralString = """
UPDATE splitctl_sync.stray
   SET settled_at = clock_timestamp(), settled_how = 'the owner''s version was carried over it'
 WHERE stream = %s AND settled_at IS NULL AND asked_in < %s::text::xid8
"""

CANONICAL = sql.SQL(
    "SELECT {columns} FROM unnest({arrays}) WITH ORDINALITY AS u({names}, n) ORDER BY n"
)
# Locked: what is looked at stays as it is until it is written.
STANDING = sql.SQL(
    "SELECT {primary}, {key}, t.xmin::text, ({route})::text, {leads}"
    " FROM {table} AS t WHERE {condition}"
    " FOR NO KEY UPDATE OF t"
)
# Rows that the mapping gives under another driving key than the one they have in the target.
STANDING_ELSEWHERE = sql.SQL(
    "SELECT {primary}, {key}, t.xmin::text, ({route})::text, {leads}"
    " FROM {table} AS t JOIN unnest({arrays}) AS u({names}) ON {condition}"
    " FOR NO KEY UPDATE OF t"
)
# Nothing can come to refer to them from here on.
HOLD = sql.SQL(
    "SELECT FROM {table} AS t JOIN unnest({arrays}) AS u({names}) ON {condition} FOR UPDATE OF t"
)
# Rows that refer to these of another table, each with the primary key of that one.
HANGING = sql.SQL(
    "SELECT {above}, {primary}, {key}, t.xmin::text, ({route})::text, {leads}"
    " FROM {table} AS t JOIN {parent} AS splitctl_p ON {refers}"
    " JOIN unnest({arrays}) AS u({names}) ON {condition}"
    " FOR NO KEY UPDATE OF t"
)
VERSIONS = sql.SQL(
    "SELECT {key}, jsonb_agg(to_jsonb(t) ORDER BY {primary})::text,"
    " jsonb_agg(jsonb_build_array({columns}))::text"
    " FROM {table} AS t WHERE {condition} GROUP BY {key}"
)
PARENTS = sql.SQL(
    "SELECT {names} FROM unnest({arrays}) AS u({names})"
    " WHERE EXISTS (SELECT FROM {table} AS p WHERE {condition})"
)
DELETE = sql.SQL("DELETE FROM {table} AS t USING unnest({arrays}) AS u({names}) WHERE {condition}")
# For rows that did not stand when they were looked for: one that somebody has inserted since then
# is not written over, it fails.
INSERT = sql.SQL(
    "INSERT INTO {table} AS t ({columns}) OVERRIDING SYSTEM VALUE"
    " SELECT {values} FROM json_to_recordset(%s::json) AS u({record})"
)
UPSERT = sql.SQL("{insert} ON CONFLICT ({primary}) DO {action}")
UPDATE = sql.SQL("UPDATE SET {changes} WHERE ({before}) IS DISTINCT FROM ({after})")
# Compared as they are; everything else by its text, so that 1.0 and 1.00 inside a document, or
# letters that a collation calls equal, are seen as a change.
PLAIN_TYPES = frozenset(
    [
        "uuid",
        "smallint",
        "integer",
        "bigint",
        "boolean",
        "date",
        "timestamp with time zone",
        "timestamp without time zone",
        "bytea",
    ]
)


@dataclass(frozen=True)
class Statements:
    """All statements of one mapping. Text in, text out; keys and rows are tuples of texts.

    Put together as bytes once: done at each use it would be a tenth of the worker's time.
    `elsewhere` is None where the primary key says the driving key.
    """

    rows: bytes
    canonical: bytes
    standing: bytes
    elsewhere: bytes | None
    versions: bytes
    delete: bytes
    insert: bytes
    upsert: bytes
    parents: tuple[bytes, ...]
    references: tuple[ForeignKey, ...]
    ways: tuple[Way, ...]


def make(shape: Shape, ways: tuple[Way, ...]) -> Statements:
    """Compose the statements of a mapping; `ways` lead from its target to the opposite stream."""
    look = _look(shape, ways)
    table = f.table(shape.table.name)
    key, primary = shape.mapping.key, shape.table.primary_key
    condition = m.keys_condition(shape, "t")
    references = tuple(
        reference
        for reference in shape.table.foreign_keys
        if set(reference.columns) <= set(shape.columns)
    )
    insert = _insert(shape, table)
    return Statements(
        rows=f.fixed(m.rows_by_keys(shape)),
        canonical=f.fixed(_canonical(shape)),
        standing=f.fixed(STANDING.format(**look, condition=condition)),
        elsewhere=None
        if set(key) <= set(primary)
        else f.fixed(
            STANDING_ELSEWHERE.format(
                **look,
                arrays=f.arrays(len(primary)),
                names=f.names(len(primary)),
                condition=f.equal("t", primary, m.target_types(shape, primary)),
            )
        ),
        versions=f.fixed(
            VERSIONS.format(
                primary=f.columns("t", primary),
                key=f.texts("t", key),
                columns=f.texts("t", shape.columns),
                table=table,
                condition=condition,
            )
        ),
        delete=f.fixed(
            DELETE.format(
                table=table,
                arrays=f.arrays(len(primary)),
                names=f.names(len(primary)),
                condition=f.equal("t", primary, m.target_types(shape, primary)),
            )
        ),
        insert=f.fixed(insert),
        upsert=f.fixed(_upsert(shape, insert)),
        parents=tuple(f.fixed(_parents(shape, reference)) for reference in references),
        references=references,
        ways=ways,
    )


def hold(shape: Shape) -> sql.Composed:
    """Lock rows, by their primary keys, that are to be deleted."""
    return HOLD.format(table=f.table(shape.table.name), **_of_primary(shape, "t"))


def hanging(
    shape: Shape, ways: tuple[Way, ...], parent: Shape, reference: ForeignKey
) -> sql.Composed:
    """Rows that refer to these of the parent's table, by its primary keys; locked from then on."""
    pairs = zip(reference.columns, reference.referenced_columns, strict=True)
    return HANGING.format(
        **_look(shape, ways),
        above=f.texts("splitctl_p", parent.table.primary_key),
        parent=f.table(parent.table.name),
        refers=f.together(
            sql.SQL("{} = {}").format(f.identifier("t", own), f.identifier("splitctl_p", its))
            for own, its in pairs
        ),
        **_of_primary(parent, "splitctl_p"),
    )


def _look(shape: Shape, ways: tuple[Way, ...]) -> dict[str, sql.Composable]:
    """What is asked of every row that stands."""
    return {
        "primary": f.texts("t", shape.table.primary_key),
        "key": f.texts("t", shape.mapping.key),
        "route": m.route(shape.mapping),
        "leads": _leads(ways),
        "table": f.table(shape.table.name),
    }


def _of_primary(shape: Shape, alias: str) -> dict[str, sql.Composable]:
    """The parts of a statement about rows of these primary keys."""
    primary = shape.table.primary_key
    return {
        "arrays": f.arrays(len(primary)),
        "names": f.names(len(primary)),
        "condition": f.equal(alias, primary, m.target_types(shape, primary)),
    }


def _leads(ways: tuple[Way, ...]) -> sql.Composed:
    """One array for each way: the values of its columns, as the log has them."""
    arrays = [sql.SQL("ARRAY[{}]").format(f.texts("t", way.columns)) for way in ways]
    return sql.SQL("jsonb_build_array({})").format(f.listed(arrays))


def _canonical(shape: Shape) -> sql.Composed:
    """The text that a key has in the target, from its text in the log."""
    casts = [shape.cast(name) for name in shape.mapping.key]
    columns = [
        sql.SQL("{}::{}::{}::text").format(f.value(n), f.verbatim(own), f.verbatim(wanted))
        for n, (own, wanted) in enumerate(zip(shape.key_types, casts, strict=True))
    ]
    return CANONICAL.format(
        columns=f.listed(columns), arrays=f.arrays(len(casts)), names=f.names(len(casts))
    )


def _parents(shape: Shape, reference: ForeignKey) -> sql.Composed:
    """Which of these referenced values stand in the parent table."""
    count = len(reference.columns)
    return PARENTS.format(
        names=f.names(count),
        arrays=f.arrays(count),
        table=f.table(reference.referenced_table),
        condition=f.equal(
            "p", reference.referenced_columns, m.target_types(shape, reference.columns)
        ),
    )


def _insert(shape: Shape, table: sql.Identifier) -> sql.Composed:
    columns = [column for name in shape.columns if (column := shape.table.column(name))]
    return INSERT.format(
        table=table,
        columns=f.listed(f.identifier(column.name) for column in columns),
        values=f.listed(_assigned(n, column) for n, column in enumerate(columns)),
        record=f.record(len(columns)),
    )


def _upsert(shape: Shape, insert: sql.Composed) -> sql.Composed:
    columns = [column for name in shape.columns if (column := shape.table.column(name))]
    primary = shape.table.primary_key
    others = [column for column in columns if column.name not in primary]
    action: sql.Composable = sql.SQL("NOTHING")
    if others:
        pairs = [sql.SQL("{0} = excluded.{0}").format(f.identifier(c.name)) for c in others]
        action = UPDATE.format(
            changes=f.listed(pairs),
            before=f.listed(comparable("t", column) for column in others),
            after=f.listed(comparable("excluded", column) for column in others),
        )
    return UPSERT.format(
        insert=insert,
        primary=f.listed(map(f.identifier, primary)),
        action=action,
    )


def _assigned(number: int, column: Column) -> sql.Composable:
    """A text on its way into a column. Plain text is left to the assignment, which does not cut."""
    kind = m.travel_type(column)
    if kind == "text":
        return f.value(number)
    return sql.SQL("{}::{}").format(f.value(number), f.verbatim(kind))


def comparable(alias: str, column: Column) -> sql.Composable:
    """The column in a form in which every change is seen."""
    field = f.identifier(alias, column.name)
    if column.type.split("(", maxsplit=1)[0] in PLAIN_TYPES:
        return field
    return sql.SQL('{}::text COLLATE "C"').format(field)


def name_arguments(names: Iterable[MappingKey]) -> tuple[list[str], list[str]]:
    """Parameters that name keys: their mappings, and themselves as JSON arrays."""
    pairs = list(names)
    return [name for name, _ in pairs], [json.dumps(key) for _, key in pairs]


def records(rows: Sequence[Sequence[str | None]]) -> str:
    """The parameter of an insert or upsert: rows of texts as JSON."""
    names = [f"u{number}" for number in range(len(rows[0]))]
    return json.dumps([dict(zip(names, row, strict=True)) for row in rows])
