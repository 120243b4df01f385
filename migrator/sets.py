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
DELETE FROM {name} s WHERE ({key}) IN (SELECT {key} FROM {name} s WHERE NOT ({ours}))
""")
NOT_OURS_THERE = sql.SQL("""
DELETE FROM {name} s WHERE (SELECT true FROM {table} t WHERE {beneath} AND NOT ({ours}) LIMIT 1)
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
    " WHERE (SELECT true FROM {table} t WHERE {match} AND ({before}) IS NOT DISTINCT FROM ({after})"
    " AND (t.xmin::text::bigint = %(mine)s::bigint OR {ours}) LIMIT 1) IS NULL"
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
class Guard:
    """What the statements must know to leave alone what is not ours to write.

    `mine`: the transaction's own 64-bit id; `beyond`: one that nobody had when it began; `own`: the
    stream's ids since the horizon, as rows have them; `below`: the buckets below it are the new
    side's; `new`: the source is the new side. See `parts.Own`.
    """

    horizon: int | None
    mine: int
    beyond: int
    own: list[int]
    below: int
    new: bool

    @property
    def arguments(self) -> dict[str, object]:
        """The statements' parameters."""
        window = None if self.horizon is None else self.beyond + AHEAD - self.horizon
        return {
            "horizon": self.horizon,
            "window": window,
            "mine": self.mine & 0xFFFFFFFF,
            "own": self.own,
            "below": self.below,
            "new": self.new,
        }


@dataclass(frozen=True)
class SetStatements:
    """All statements of one mapping that work on whole sets, in the order in which they are run.

    `one_row`: a key has one row at most. `stage` makes the stage, once for a connection; `lock`
    keeps the target's columns as they are. `out` (parameters: `key_arguments`) and `into` move rows
    from the source to the stage. Keys that are not wholly ours leave it by `not_ours` and
    `not_ours_there`; `upsert` writes the rest. Not settled are then the keys without rows in the
    stage (parameters: one array for each key column), those with rows that do not stand in the
    target as they were given, and those under which other rows stand (`key_arguments`). None: that
    cannot be. Those in between take `Guard.arguments`.
    """

    one_row: bool
    stage: tuple[bytes, ...]
    lock: bytes
    out: bytes
    into: bytes
    not_ours: bytes | None
    not_ours_there: bytes | None
    upsert: bytes
    not_given: bytes
    not_written: bytes
    left_standing: bytes | None


def make(shape: Shape, number: int, *, shared: bool) -> SetStatements:
    """Compose the statements for a stage of this number.

    `shared`: both sides own buckets, so that each row is asked for its own.
    """
    name = sql.Identifier("pg_temp", f"splitctl_set_{number}")
    table = f.table(shape.table.name)
    key, primary = shape.mapping.key, shape.table.primary_key
    form = sql.SQL("binary" if m.in_binary(shape) else "text")
    columns = f.listed(map(f.identifier, shape.columns))
    same = f.together(sql.SQL("t.{0} = s.{0}").format(f.identifier(part)) for part in primary)
    ours = sql.SQL("{} AND {}").format(UNTOUCHED, _bucket(m.route(shape.mapping)))
    words = {"name": name, "table": table, "ours": ours if shared else UNTOUCHED}
    # By their text: letters that a collation calls equal are another key in the log.
    bare = f.together(
        sql.SQL('s.{}::text COLLATE "C" = {}').format(f.identifier(part), f.value(n))
        for n, part in enumerate(key)
    )
    beneath = f.together(sql.SQL("t.{0} = s.{0}").format(f.identifier(part)) for part in key)
    mapped = [c for n in shape.columns if (c := shape.table.column(n))]
    not_ours = NOT_OURS.format(
        name=name, key=f.columns("s", key), ours=_bucket(sql.SQL("s.splitctl_route"))
    )
    one_row = set(key) == set(primary)
    return SetStatements(
        one_row=one_row,
        stage=(
            f.fixed(
                STAGE.format(
                    name=sql.Identifier(f"splitctl_set_{number}"), columns=columns, table=table
                )
            ),
            f.fixed(NEVER_NULL.format(name=name)),
        ),
        lock=f.fixed(LOCK.format(table=table)),
        out=f.fixed(
            OUT.format(
                columns=f.casts_of("q", shape.columns, shape.casts),
                query=m.query(shape.mapping),
                condition=m.keys_condition(shape, "q", source=True),
                form=form,
            )
        ),
        into=f.fixed(IN.format(name=name, form=form)),
        not_ours=f.fixed(not_ours) if shared else None,
        not_ours_there=None
        if one_row
        else f.fixed(NOT_OURS_THERE.format(**words, beneath=beneath)),
        upsert=f.fixed(
            UPSERT.format(
                **words,
                columns=columns,
                primary=f.listed(map(f.identifier, primary)),
                action=_action(shape, words["ours"]),
            )
        ),
        not_given=f.fixed(
            NOT_GIVEN.format(
                texts=f.listed(f.value(n) for n in range(len(key))),
                arrays=f.arrays(len(key)),
                names=f.names(len(key)),
                name=name,
                match=bare,
            )
        ),
        not_written=f.fixed(
            NOT_WRITTEN.format(
                **words,
                texts=f.texts("s", key),
                match=same,
                before=f.listed(comparable("t", column) for column in mapped),
                after=f.listed(comparable("s", column) for column in mapped),
            )
        ),
        left_standing=None
        if one_row
        else f.fixed(
            LEFT_STANDING.format(
                **words,
                texts=f.texts("t", key),
                condition=m.keys_condition(shape, "t"),
                match=f.together([same, beneath]),
            )
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
