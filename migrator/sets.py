"""The statements with which many rows of a mapping are written at once, from a stage in the target.

The check that nobody else has written a row stands in the write's own condition; afterwards one
look finds the keys that are not settled. A look-up by primary key is a subquery on purpose: the
planner knows nothing of a stage that is filled anew each time, and would read the whole table.
"""

from dataclasses import dataclass

from psycopg import sql

from migrator import fragments as f
from migrator import mapping as m
from migrator.mapping import Shape
from migrator.statements import comparable

# Types whose binary form is the same on every server that we know; arrays carry type numbers.
BINARY = frozenset(
    [
        "uuid",
        "smallint",
        "integer",
        "bigint",
        "boolean",
        "date",
        "timestamp with time zone",
        "timestamp without time zone",
        "numeric",
        "text",
        "jsonb",
        "bytea",
    ]
)
# Ids that nobody has yet count too, as far as they are given out while the statement runs; an id
# far ahead is an old one whose row was frozen long ago.
AHEAD = 1 << 20

STAGE = sql.SQL(
    "CREATE TEMP TABLE {name} ON COMMIT DELETE ROWS AS"
    " SELECT {columns}, NULL::text AS splitctl_route FROM {table} WITH NO DATA"
)
NEVER_NULL = sql.SQL("ALTER TABLE {name} ALTER splitctl_route SET NOT NULL")
LOCK = sql.SQL("LOCK TABLE {table} IN ROW EXCLUSIVE MODE")
OUT = sql.SQL(
    "COPY (SELECT {columns}, q.splitctl_route::text FROM (\n{query}\n) q WHERE {condition})"
    " TO STDOUT WITH (FORMAT {form})"
)
IN = sql.SQL("COPY {name} FROM STDIN WITH (FORMAT {form})")
# A key is treated as a whole: one row that is not ours keeps all of them.
NOT_OURS = sql.SQL("""
DELETE FROM {name} s WHERE ({key}) IN
 (SELECT {key} FROM {name} s WHERE NOT ({ours}))
""")
UPSERT = sql.SQL(
    "INSERT INTO {table} AS t ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {name} s"
    " ON CONFLICT ({primary}) DO {action}"
)
UPDATE = sql.SQL("UPDATE SET {changes} WHERE {ours} AND ({before}) IS DISTINCT FROM ({after})")
NOT_GIVEN = sql.SQL(
    "SELECT {texts} FROM unnest({arrays}) AS u({names})"
    " WHERE NOT EXISTS (SELECT FROM {name} s WHERE {match})"
)
NOT_WRITTEN = sql.SQL(
    "SELECT {texts} FROM {name} s"
    " WHERE (SELECT true FROM {table} t WHERE {match} AND {ours} LIMIT 1) IS NULL"
)
LEFT_STANDING = sql.SQL(
    "SELECT {texts} FROM {table} t WHERE {condition}"
    " AND NOT EXISTS (SELECT FROM {name} s WHERE {match})"
)
# Row by row: whether it is ours to write. Written since the opposite stream looked, and not by us,
# it is not.
UNTOUCHED = sql.SQL(
    "(%(horizon)s::bigint IS NULL"
    " OR (t.xmin::text::bigint - %(horizon)s::bigint) & 4294967295 >= %(window)s::bigint"
    " OR t.xmin::text::bigint = ANY(%(own)s::bigint[]))"
)
BUCKET = sql.SQL(
    "(splitctl_sync.bucket(coalesce(({route})::text, '')) < %(below)s::int) = %(new)s::bool"
)


@dataclass(frozen=True)
class SetStatements:
    """All statements of one mapping that work on whole sets, in the order in which they are run.

    `stage` makes the stage, once for a connection. `lock` keeps the target's columns as they are.
    `out` (parameters: `key_arguments`) and `into` move rows from the source to the stage.
    `not_ours` and `upsert` take `Guard.arguments`. `unsettled` finds the keys that are not settled
    then: those without rows (parameters: one array for each key column), those with rows that were
    not written (`Guard.arguments`), and those under which rows stand that were not given
    (`key_arguments`; None where that cannot be).
    """

    stage: tuple[sql.Composed, ...]
    lock: sql.Composed
    out: sql.Composed
    into: sql.Composed
    not_ours: sql.Composed | None
    upsert: sql.Composed
    not_given: sql.Composed
    not_written: sql.Composed
    left_standing: sql.Composed | None


def make(shape: Shape, number: int, *, shared: bool) -> SetStatements:
    """Compose the statements for a stage of this number.

    `shared`: both sides own buckets, so that each row is asked for its own.
    """
    name = sql.Identifier("pg_temp", f"splitctl_set_{number}")
    table = f.table(shape.table.name)
    key, primary = shape.mapping.key, shape.table.primary_key
    form = sql.SQL("binary" if _same_in_binary(shape) else "text")
    columns = f.listed(map(f.identifier, shape.columns))
    same = f.together(sql.SQL("t.{0} = s.{0}").format(f.identifier(part)) for part in primary)
    ours = sql.SQL("{} AND {}").format(UNTOUCHED, _bucket(m.route(shape.mapping)))
    words = {"name": name, "table": table, "ours": ours if shared else UNTOUCHED}
    key_types = m.target_types(shape, key)
    bare = sql.SQL("({}) = ({})").format(
        f.columns("s", key), f.listed(f.cast(n, kind) for n, kind in enumerate(key_types))
    )
    not_ours = NOT_OURS.format(
        name=name, key=f.columns("s", key), ours=_bucket(sql.SQL("s.splitctl_route"))
    )
    return SetStatements(
        stage=(
            STAGE.format(
                name=sql.Identifier(f"splitctl_set_{number}"), columns=columns, table=table
            ),
            NEVER_NULL.format(name=name),
        ),
        lock=LOCK.format(table=table),
        out=OUT.format(
            columns=f.casts_of("q", shape.columns, shape.casts),
            query=m.query(shape.mapping),
            condition=m.keys_condition(shape, "q", source=True),
            form=form,
        ),
        into=IN.format(name=name, form=form),
        not_ours=not_ours if shared else None,
        upsert=UPSERT.format(
            **words,
            columns=columns,
            primary=f.listed(map(f.identifier, primary)),
            action=_action(shape, words["ours"]),
        ),
        not_given=NOT_GIVEN.format(
            texts=f.listed(f.value(n) for n in range(len(key))),
            arrays=f.arrays(len(key)),
            names=f.names(len(key)),
            name=name,
            match=bare,
        ),
        not_written=NOT_WRITTEN.format(**words, texts=f.texts("s", key), match=same),
        left_standing=None
        if set(key) == set(primary)
        else LEFT_STANDING.format(
            **words, texts=f.texts("t", key), condition=m.keys_condition(shape, "t"), match=same
        ),
    )


def _bucket(route: sql.Composable) -> sql.Composed:
    return BUCKET.format(route=route)


def _action(shape: Shape, ours: sql.Composable) -> sql.Composable:
    primary = shape.table.primary_key
    others = [c for n in shape.columns if (c := shape.table.column(n)) and n not in primary]
    if not others:
        return sql.SQL("NOTHING")
    pairs = [sql.SQL("{0} = excluded.{0}").format(f.identifier(c.name)) for c in others]
    return UPDATE.format(
        changes=f.listed(pairs),
        ours=ours,
        before=f.listed(comparable("t", column) for column in others),
        after=f.listed(comparable("excluded", column) for column in others),
    )


def _same_in_binary(shape: Shape) -> bool:
    """Whether the rows may travel in binary: each column in a type that both sides know alike."""
    for name, cast in zip(shape.columns, shape.casts, strict=True):
        column = shape.table.column(name)
        assert column is not None
        kind = m.travel_type(column)
        if cast != kind or kind.split("(", maxsplit=1)[0] not in BINARY:
            return False
    return True
