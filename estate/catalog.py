"""What the PostgreSQL catalogue says of a table: columns, keys, identity, sequences."""

from dataclasses import dataclass
from typing import Any, Literal, LiteralString

import psycopg

from estate.errors import ExitCode, SplitctlError

ReplicaIdentity = Literal["default", "nothing", "full", "index"]
_IDENTITY: dict[str, ReplicaIdentity] = {
    "d": "default",
    "n": "nothing",
    "f": "full",
    "i": "index",
}


class TableMissing(SplitctlError):
    """There is no table '{table}' in database '{database}'. Nothing was changed."""

    hint = "splitctl schema status"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Column:
    """A column: `type` as format_type writes it; `category` is pg_type.typcategory.

    `base` is the type below a domain, or None. `always`: it is GENERATED ALWAYS AS IDENTITY, so
    that no UPDATE may set it.
    """

    name: str
    type: str
    category: str
    not_null: bool
    has_default: bool
    generated: bool
    base: str | None = None
    always: bool = False


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key of a table; columns and referenced columns stand in the same order."""

    name: str
    columns: tuple[str, ...]
    referenced_table: str
    referenced_columns: tuple[str, ...]
    on_delete_cascade: bool


@dataclass(frozen=True)
class Table:
    """A table in schema public. `sequences` maps a column to the sequence that feeds it.

    `layout` is another text when its columns or their types are others: see LAYOUTS.
    """

    oid: int
    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    foreign_keys: tuple[ForeignKey, ...]
    replica_identity: ReplicaIdentity
    identity_columns: tuple[str, ...]
    sequences: dict[str, str]
    layout: str

    def column(self, name: str) -> Column | None:
        """The column of this name, or None."""
        return next((column for column in self.columns if column.name == name), None)


TABLE: LiteralString = """
SELECT c.oid, c.relreplident::text FROM pg_class c
 WHERE c.oid = to_regclass(format('public.%%I', %s::text)) AND c.relkind IN ('r', 'p')
"""
# A default may name a sequence that the column does not own.
COLUMNS: LiteralString = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), t.typcategory::text,
       a.attnotnull OR t.typnotnull, a.atthasdef OR a.attidentity <> '', a.attgenerated <> '',
       CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END,
       a.attidentity = 'a',
       coalesce(pg_get_serial_sequence(format('public.%%I', %s::text), a.attname), (
           SELECT format('%%I.%%I', n.nspname, s.relname)
             FROM pg_attrdef d JOIN pg_depend u ON u.objid = d.oid
              AND u.classid = 'pg_attrdef'::regclass AND u.refclassid = 'pg_class'::regclass
             JOIN pg_class s ON s.oid = u.refobjid AND s.relkind = 'S'
             JOIN pg_namespace n ON n.oid = s.relnamespace
            WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum ORDER BY s.oid LIMIT 1))
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
 WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
# One row per column of the replica identity's index (the primary key, or the index chosen).
INDEX_COLUMNS: LiteralString = """
SELECT i.indisprimary, i.indisreplident, a.attname
  FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n)
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
 WHERE i.indrelid = %s AND (i.indisprimary OR i.indisreplident) AND k.n <= i.indnkeyatts
 ORDER BY i.indexrelid, k.n
"""
# For each of these tables, its columns and their types in one text.
LAYOUTS: LiteralString = """
SELECT attrelid, string_agg(concat_ws(' ', attname, atttypid, atttypmod), ',' ORDER BY attnum)
  FROM pg_attribute
 WHERE attrelid = ANY(%s::oid[]) AND attnum > 0 AND NOT attisdropped GROUP BY attrelid
"""
FOREIGN_KEYS: LiteralString = """
SELECT o.conname, r.relname, o.confdeltype::text = 'c',
       ARRAY(SELECT a.attname::text FROM unnest(o.conkey) WITH ORDINALITY k(n, i)
             JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.n ORDER BY k.i),
       ARRAY(SELECT a.attname::text FROM unnest(o.confkey) WITH ORDINALITY k(n, i)
             JOIN pg_attribute a ON a.attrelid = o.confrelid AND a.attnum = k.n ORDER BY k.i)
  FROM pg_constraint o JOIN pg_class r ON r.oid = o.confrelid
 WHERE o.conrelid = %s AND o.contype = 'f' ORDER BY o.conname
"""
# The same, as those have it to whom they refer; a partition's is its table's.
REFERRING: LiteralString = """
SELECT c.relname, o.conname, r.relname, o.confdeltype::text = 'c',
       ARRAY(SELECT a.attname::text FROM unnest(o.conkey) WITH ORDINALITY k(n, i)
             JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.n ORDER BY k.i),
       ARRAY(SELECT a.attname::text FROM unnest(o.confkey) WITH ORDINALITY k(n, i)
             JOIN pg_attribute a ON a.attrelid = o.confrelid AND a.attnum = k.n ORDER BY k.i)
  FROM pg_constraint o JOIN pg_class r ON r.oid = o.confrelid JOIN pg_class c ON c.oid = o.conrelid
 WHERE o.confrelid = ANY(%s::oid[]) AND o.contype = 'f' AND o.conparentid = 0
   AND c.relnamespace = 'public'::regnamespace ORDER BY c.relname, o.conname
"""


def table(connection: psycopg.Connection[Any], name: str) -> Table:
    """Read one table of schema public from the catalogue. Raises TableMissing."""
    head = connection.execute(TABLE, (name,)).fetchone()
    if head is None:
        raise TableMissing(table=name, database=connection.info.dbname)
    oid, replident = int(head[0]), str(head[1])
    # Before the columns: of what is changed in between, the layout is then the older one.
    layout = layouts(connection, [oid]).get(oid, "")
    columns = connection.execute(COLUMNS, (name, oid)).fetchall()
    index = connection.execute(INDEX_COLUMNS, (oid,)).fetchall()
    primary_key = tuple(str(row[2]) for row in index if row[0])
    identity = _IDENTITY[replident]
    if identity == "full":
        # What the server computes is not in the log.
        identity_columns = tuple(str(row[0]) for row in columns if not row[5])
    elif identity == "index":
        identity_columns = tuple(str(row[2]) for row in index if row[1])
    elif identity == "default":
        identity_columns = primary_key
    else:
        identity_columns = ()
    return Table(
        oid=oid,
        name=name,
        columns=tuple(Column(*row[:8]) for row in columns),
        primary_key=primary_key,
        foreign_keys=tuple(
            ForeignKey(str(row[0]), tuple(row[3]), str(row[1]), tuple(row[4]), bool(row[2]))
            for row in connection.execute(FOREIGN_KEYS, (oid,)).fetchall()
        ),
        replica_identity=identity,
        identity_columns=identity_columns,
        sequences={str(row[0]): str(row[8]) for row in columns if row[8] is not None},
        layout=layout,
    )


def referring(connection: psycopg.Connection[Any], oids: list[int]) -> list[tuple[str, ForeignKey]]:
    """The foreign keys that refer to these tables, each with the table that has it."""
    return [
        (str(row[0]), ForeignKey(str(row[1]), tuple(row[4]), str(row[2]), tuple(row[5]), row[3]))
        for row in connection.execute(REFERRING, (oids,)).fetchall()
    ]


def layouts(connection: psycopg.Connection[Any], oids: list[int]) -> dict[int, str]:
    """The layouts of these tables by oid, as far as they are there."""
    return dict(connection.execute(LAYOUTS, (oids,)).fetchall())
