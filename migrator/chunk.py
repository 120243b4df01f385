"""One chunk of a backfill: keys from a base table, their rows through the mapping, into the target.

The target's transaction is the caller's: what is written here commits with the caller's progress.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from estate import catalog
from estate.errors import ExitCode, SplitctlError
from migrator import fragments as f
from migrator.mapping import Key, Shape, key_arguments, route, rows_by_keys
from migrator.statements import SPOOL, name_arguments

Connection = psycopg.Connection[Any]
STAGE = sql.Identifier("pg_temp", "splitctl_stage")
NAME = sql.Identifier("splitctl_stage")
ROW_ERRORS = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.RaiseException)

DROP_STAGE = sql.SQL("DROP TABLE IF EXISTS {stage}")
# The target's own column types, so that a value that does not fit is found here.
CREATE_STAGE = sql.SQL(
    "CREATE TEMP TABLE {name} ON COMMIT DELETE ROWS AS"
    " SELECT {columns}, NULL::text AS splitctl_route FROM {table} WITH NO DATA"
)
COPY_IN = sql.SQL("COPY {stage} FROM STDIN")
COPY_OUT = sql.SQL("COPY ({rows}) TO STDOUT")
NEVER_NULL = sql.SQL("ALTER TABLE {stage} ALTER splitctl_route SET NOT NULL")
# Law L5: what the target's side owns is not ours to write.
NOT_OURS = sql.SQL("DELETE FROM {stage} WHERE splitctl_sync.bucket(splitctl_route) < %s")
HOMELESS = sql.SQL("""
DELETE FROM {stage} s WHERE {given} AND NOT EXISTS (SELECT FROM {parent} p WHERE {match}){own}
RETURNING {key}
""")
AMONG_US = sql.SQL(" AND NOT EXISTS (SELECT FROM {stage} p WHERE {match})")
# Never overwrites: a row that stands there was written by somebody who knew better.
INSERT = sql.SQL(
    "INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {stage}"
    " ON CONFLICT DO NOTHING"
)
LEFT_OUT = sql.SQL(
    "SELECT DISTINCT {key} FROM {stage} s WHERE NOT EXISTS (SELECT FROM {table} t WHERE {same})"
)
# Only keys that the source owns: the other side's rows are not ours to read again.
STANDING = sql.SQL("""
INSERT INTO splitctl_sync.spool (stream, mapping, key)
SELECT %s, %s, k.key FROM (
    SELECT DISTINCT jsonb_build_array({key}) AS key FROM {table} AS t
     WHERE splitctl_sync.bucket(coalesce(({route})::text, '')) >= %s
) AS k ORDER BY k.key
ON CONFLICT (stream, mapping, key) DO UPDATE SET gen = splitctl_sync.spool.gen + 1, lsn = NULL
""")


class RowNotCarried(SplitctlError):
    """Mapping '{mapping}' cannot carry the row with {key}: {reason}. What was copied before it
    stays; nothing else was changed."""

    hint = "mend the row or {query}, then: splitctl backfill run {domain}"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Base:
    """A base table of a mapping: which columns lead to the key, and their types."""

    table: str
    columns: tuple[str, ...]
    types: tuple[str, ...]


@dataclass(frozen=True)
class Keys:
    """Driving keys in the order of the base table: as the mapping compares them, and the last one
    as the base table holds it."""

    keys: list[Key]
    last: list[str]


def bases(source: Connection, shape: Shape) -> list[Base]:
    """The base tables of a mapping, first the one whose primary key is the driving key."""
    found = []
    for name, leading in shape.mapping.config.sources.items():
        table = catalog.table(source, name)
        columns = tuple(leading[part] for part in shape.mapping.key)
        types = tuple(column.type for part in columns if (column := table.column(part)))
        found.append((set(columns) != set(table.primary_key), Base(name, columns, types)))
    return [base for _, base in sorted(found, key=lambda item: item[0])]


def last_key(source: Connection, base: Base) -> Key | None:
    """The highest driving key of a base table now; None when it has none.

    What comes beyond it later is in the log: to copy it too would be a chase without end.
    """
    own = [f.identifier("b", column) for column in base.columns]
    query = sql.SQL("SELECT {} FROM {} AS b WHERE {} ORDER BY {} LIMIT 1").format(
        f.texts("b", base.columns),
        f.table(base.table),
        f.together(sql.SQL("{} IS NOT NULL").format(column) for column in own),
        f.listed(sql.SQL("{} DESC").format(column) for column in own),
    )
    row = source.execute(query, ()).fetchone()
    return tuple(row) if row else None


def next_keys(
    source: Connection,
    shape: Shape,
    base: Base,
    before: list[Base],
    last: list[str],
    size: int,
    upto: Key | None = None,
) -> Keys:
    """The next driving keys of this base table after `last` (empty: from its beginning), and not
    beyond `upto`.

    Keys of the base tables before it are left out where types allow to compare: they were copied
    with those, and one that was added there since is in the log.
    """
    own = [f.identifier("b", column) for column in base.columns]
    conditions = [sql.SQL("{} IS NOT NULL").format(column) for column in own]
    values = f.listed(
        sql.SQL("{}::{}").format(sql.Placeholder(), f.verbatim(kind)) for kind in base.types
    )
    if last:
        conditions.append(sql.SQL("({}) > ({})").format(f.listed(own), values))
    if upto is not None:
        conditions.append(sql.SQL("({}) <= ({})").format(f.listed(own), values))
    for other in before:
        if other.types == base.types:
            conditions.append(_not_in(other, own))
    query = sql.SQL("SELECT DISTINCT {} FROM {} AS b WHERE {} ORDER BY {} LIMIT {}").format(
        f.listed(own),
        f.table(base.table),
        f.together(conditions),
        f.listed(own),
        sql.Literal(size),
    )
    casts = [shape.cast(part) for part in shape.mapping.key]
    outer = sql.SQL("SELECT {}, {} FROM ({}) AS k ORDER BY {}").format(
        f.texts("k", base.columns),
        f.texts_of("k", base.columns, casts),
        query,
        f.columns("k", base.columns),
    )
    rows = source.execute(outer, (*last, *(upto or ()))).fetchall()
    width = len(base.columns)
    keys = list(dict.fromkeys(tuple(row[width:]) for row in rows))
    return Keys(keys, list(rows[-1][:width]) if rows else last)


def _not_in(other: Base, own: list[sql.Identifier]) -> sql.Composed:
    match = f.together(
        sql.SQL("o.{} = {}").format(f.identifier(theirs), ours)
        for theirs, ours in zip(other.columns, own, strict=True)
    )
    statement = sql.SQL("NOT EXISTS (SELECT FROM {} AS o WHERE {})")
    return statement.format(f.table(other.table), match)


def spool_standing(target: Connection, shape: Shape, stream: str, new_below: int) -> int:
    """Spool the keys of all rows that stand in the target. Returns how many.

    They are from an earlier sync, or of unknown origin: a chunk does not overwrite them, and would
    not see that their source row is gone.
    """
    key = f.texts("t", shape.mapping.key)
    statement = STANDING.format(key=key, table=_table(shape), route=route(shape.mapping))
    return target.execute(statement, (stream, shape.mapping.name, new_below)).rowcount


def prepare_stage(target: Connection, shape: Shape) -> None:
    """Make the empty stage for a mapping, in a transaction of its own."""
    with target.transaction():
        target.execute(DROP_STAGE.format(stage=STAGE))
        target.execute(
            CREATE_STAGE.format(name=NAME, columns=_columns(shape), table=_table(shape)), ()
        )
        target.execute(NEVER_NULL.format(stage=STAGE))


def carry(
    source: Connection,
    target: Connection,
    shape: Shape,
    stream: str,
    keys: list[Key],
    new_below: int,
) -> int:
    """Copy the rows of these keys; what cannot stand yet goes to the spool. Returns rows written.

    `source` has its snapshot open; `target` its marked transaction, which holds the owner row that
    says `new_below`. Raises a psycopg error of ROW_ERRORS when a row does not fit.
    """
    rows = rows_by_keys(shape)
    with (
        source.cursor().copy(COPY_OUT.format(rows=rows), key_arguments(keys)) as out,
        target.cursor().copy(COPY_IN.format(stage=STAGE)) as into,
    ):
        for block in out:
            into.write(block)
    if new_below:
        target.execute(NOT_OURS.format(stage=STAGE), (new_below,))
    homeless = set(_homeless(target, shape))
    written = target.execute(
        INSERT.format(table=_table(shape), columns=_columns(shape), stage=STAGE), ()
    ).rowcount
    homeless.update(_left_out(target, shape))
    if homeless:
        found = name_arguments((shape.mapping.name, key) for key in homeless)
        # When they changed nobody knows: older than any barrier.
        target.execute(SPOOL, (stream, None, *found))
    return written


def _homeless(target: Connection, shape: Shape) -> Iterator[Key]:
    """Take rows whose parent is absent out of the stage, and those that hang on them."""
    found = True
    while found:
        found = False
        for foreign in shape.table.foreign_keys:
            if not set(foreign.columns) <= set(shape.columns):
                continue
            pairs = list(zip(foreign.columns, foreign.referenced_columns, strict=True))
            given = f.together(
                sql.SQL("s.{} IS NOT NULL").format(f.identifier(column)) for column, _ in pairs
            )
            match = f.together(
                sql.SQL("p.{} = s.{}").format(f.identifier(theirs), f.identifier(ours))
                for ours, theirs in pairs
            )
            itself = foreign.referenced_table == shape.table.name
            rows = target.execute(
                HOMELESS.format(
                    stage=STAGE,
                    given=given,
                    parent=f.table(foreign.referenced_table),
                    match=match,
                    own=AMONG_US.format(stage=STAGE, match=match) if itself else sql.SQL(""),
                    key=_key(shape),
                ),
                (),
            ).fetchall()
            found = found or (bool(rows) and itself)
            yield from (tuple(row) for row in rows)


def _left_out(target: Connection, shape: Shape) -> Iterator[Key]:
    """Keys of rows that met another row's unique value: apply settles them, or reports them."""
    same = f.together(
        sql.SQL("t.{0} = s.{0}").format(f.identifier(column)) for column in shape.table.primary_key
    )
    rows = target.execute(
        LEFT_OUT.format(key=_key(shape), stage=STAGE, table=_table(shape), same=same), ()
    ).fetchall()
    yield from (tuple(row) for row in rows)


def _key(shape: Shape) -> sql.Composed:
    return f.texts_of("s", shape.mapping.key, [shape.cast(part) for part in shape.mapping.key])


def _columns(shape: Shape) -> sql.Composed:
    return f.listed(map(f.identifier, shape.columns))


def _table(shape: Shape) -> sql.Identifier:
    return f.table(shape.table.name)
