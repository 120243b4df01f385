"""What stands between an empty table and the fastest copy into it: taken off, and put back.

Keys, indexes, foreign keys from the table and to it, triggers and the replica identity are written
down as the statements that restore them, in the transaction that takes them off. So they can be put
back after whatever happens in between.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from estate import catalog
from migrator import control
from migrator import fragments as f
from migrator.mapping import Stream

Connection = psycopg.Connection[Any]
GUARD = "splitctl_only_backfill"
FILLING: LiteralString = "SELECT set_config('splitctl.filling', 'on', true)"
LOCK = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE")
ANY_ROW = sql.SQL("SELECT EXISTS (SELECT FROM {})")
# Tables that are more than a heap with btree-like keys keep what they have.
UNFIT: LiteralString = """
SELECT CASE
    WHEN c.relkind <> 'r' OR c.relispartition THEN 'it is partitioned'
    WHEN EXISTS (SELECT FROM pg_inherits h WHERE c.oid IN (h.inhrelid, h.inhparent))
         THEN 'it inherits, or is inherited from'
    WHEN c.relrowsecurity THEN 'it has row security'
    WHEN c.relhasrules THEN 'it has rules'
    WHEN EXISTS (SELECT FROM pg_constraint o WHERE o.conrelid = c.oid AND o.contype = 'x')
         THEN 'it has an exclusion constraint'
    WHEN EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid
                    AND (NOT i.indisvalid OR i.indisexclusion))
         THEN 'it has an index that is not valid, or excludes'
    WHEN EXISTS (SELECT FROM pg_constraint o
                  WHERE o.contype = 'f' AND c.oid IN (o.conrelid, o.confrelid)
                    AND o.conparentid <> 0)
         THEN 'a partitioned table refers to it'
    END
  FROM pg_class c WHERE c.oid = %s
"""
FOREIGN_KEYS: LiteralString = """
SELECT 'foreign key', c.relname::text, o.conname::text,
       jsonb_build_object(
           'columns', (SELECT jsonb_agg(a.attname ORDER BY k.i)
                         FROM unnest(o.conkey) WITH ORDINALITY k(n, i)
                         JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.n),
           'table', r.relname,
           'referenced', (SELECT jsonb_agg(a.attname ORDER BY k.i)
                            FROM unnest(o.confkey) WITH ORDINALITY k(n, i)
                            JOIN pg_attribute a ON a.attrelid = o.confrelid AND a.attnum = k.n),
           'cascades', o.confdeltype::text = 'c'),
       array_remove(ARRAY[
           format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', o.conrelid::regclass, o.conname,
                  pg_get_constraintdef(o.oid)),
           CASE WHEN d.description IS NOT NULL
                THEN format('COMMENT ON CONSTRAINT %%I ON %%s IS %%L', o.conname,
                            o.conrelid::regclass, d.description) END], NULL),
       format('ALTER TABLE %%s DROP CONSTRAINT %%I', o.conrelid::regclass, o.conname)
  FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid JOIN pg_class r ON r.oid = o.confrelid
  LEFT JOIN pg_description d ON d.objoid = o.oid AND d.classoid = 'pg_constraint'::regclass
 WHERE o.contype = 'f' AND %s IN (o.conrelid, o.confrelid) AND o.conparentid = 0
 ORDER BY o.oid
"""
INDEXES: LiteralString = """
SELECT t.relname::text, n.relname::text,
       jsonb_build_object(
           'primary', i.indisprimary,
           'unique', i.indisunique,
           'expressions', (SELECT jsonb_agg(pg_get_indexdef(i.indexrelid, k::int, true) ORDER BY k)
                             FROM generate_series(1, i.indnkeyatts) k),
           'columns', (SELECT jsonb_agg(a.attname ORDER BY k.i)
                         FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(n, i)
                         JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n
                        WHERE k.i <= i.indnkeyatts),
           'predicate', pg_get_expr(i.indpred, i.indrelid)),
       array_remove(ARRAY[
           format('SET LOCAL default_tablespace = %%L', coalesce(s.spcname::text, '')),
           pg_get_indexdef(i.indexrelid),
           CASE WHEN di.description IS NOT NULL
                THEN format('COMMENT ON INDEX %%s IS %%L', i.indexrelid::regclass, di.description)
           END], NULL)
       || ARRAY(SELECT format('ALTER INDEX %%s ALTER COLUMN %%s SET STATISTICS %%s',
                              i.indexrelid::regclass, a.attnum, a.attstattarget)
                  FROM pg_attribute a
                 WHERE a.attrelid = i.indexrelid AND coalesce(a.attstattarget, -1) >= 0),
       array_remove(ARRAY[
           CASE WHEN o.oid IS NOT NULL
                THEN format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s USING INDEX %%I%%s%%s',
                            i.indrelid::regclass, o.conname,
                            CASE o.contype WHEN 'p' THEN 'PRIMARY KEY' ELSE 'UNIQUE' END, n.relname,
                            CASE WHEN o.condeferrable THEN ' DEFERRABLE' ELSE '' END,
                            CASE WHEN o.condeferred THEN ' INITIALLY DEFERRED' ELSE '' END) END,
           CASE WHEN i.indisclustered
                THEN format('ALTER TABLE %%s CLUSTER ON %%I', i.indrelid::regclass, n.relname) END,
           CASE WHEN dc.description IS NOT NULL
                THEN format('COMMENT ON CONSTRAINT %%I ON %%s IS %%L', o.conname,
                            i.indrelid::regclass, dc.description) END], NULL),
       CASE WHEN o.oid IS NOT NULL
            THEN format('ALTER TABLE %%s DROP CONSTRAINT %%I', i.indrelid::regclass, o.conname)
            ELSE format('DROP INDEX %%s', i.indexrelid::regclass) END
  FROM pg_index i JOIN pg_class n ON n.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
  LEFT JOIN pg_constraint o ON o.conindid = i.indexrelid AND o.contype IN ('p', 'u')
  LEFT JOIN pg_tablespace s ON s.oid = n.reltablespace
  LEFT JOIN pg_description di ON di.objoid = i.indexrelid AND di.classoid = 'pg_class'::regclass
                             AND di.objsubid = 0
  LEFT JOIN pg_description dc ON dc.objoid = o.oid AND dc.classoid = 'pg_constraint'::regclass
 WHERE i.indrelid = %s ORDER BY i.indisprimary DESC, i.indexrelid
"""
# A table that is published and has no identity refuses every deletion.
IDENTITY: LiteralString = """
SELECT 'identity', c.relname::text, c.relname::text, '{}'::jsonb,
       ARRAY[format('ALTER TABLE %%s REPLICA IDENTITY %%s', c.oid::regclass,
              CASE c.relreplident WHEN 'd' THEN 'DEFAULT' WHEN 'f' THEN 'FULL'
                                  WHEN 'n' THEN 'NOTHING' ELSE
                  (SELECT format('USING INDEX %%I', n.relname)
                     FROM pg_index i JOIN pg_class n ON n.oid = i.indexrelid
                    WHERE i.indrelid = c.oid AND i.indisreplident) END)],
       format('ALTER TABLE %%s REPLICA IDENTITY FULL', c.oid::regclass)
  FROM pg_class c WHERE c.oid = %s
"""
TRIGGERS: LiteralString = """
SELECT 'trigger', c.relname::text, g.tgname::text, '{}'::jsonb,
       ARRAY[format('ALTER TABLE %%s ENABLE %%sTRIGGER %%I', c.oid::regclass,
              CASE g.tgenabled WHEN 'R' THEN 'REPLICA ' WHEN 'A' THEN 'ALWAYS ' ELSE '' END,
              g.tgname)],
       format('ALTER TABLE %%s DISABLE TRIGGER %%I', c.oid::regclass, g.tgname)
  FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
 WHERE g.tgrelid = %s AND NOT g.tgisinternal AND g.tgenabled <> 'D' ORDER BY g.tgname
"""
KEEP: LiteralString = """
INSERT INTO splitctl_sync.set_aside (stream, mapping, kind, table_name, name, facts, restore)
VALUES (%s, %s, %s, %s, %s, %s::jsonb, %s)
"""
PUBLISHED: LiteralString = """
SELECT 1 FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
 WHERE p.pubname = %s AND r.prrelid = %s
"""
# `sync enable` puts it back as well, and teardown removes the publication.
BACK_INTO = sql.SQL("""
DO $$ BEGIN ALTER PUBLICATION {} ADD TABLE {};
EXCEPTION WHEN duplicate_object OR undefined_object THEN NULL; END $$
""")
PARTS: LiteralString = """
SELECT id, mapping, kind, table_name, name, facts, restore FROM splitctl_sync.set_aside
 WHERE stream = ANY(%s) ORDER BY id
"""
TAKE_OUT: LiteralString = "DELETE FROM splitctl_sync.set_aside WHERE id = %s"
THERE: LiteralString = "SELECT to_regclass('splitctl_sync.set_aside') IS NOT NULL"
NO_LIMIT: LiteralString = "SELECT set_config('statement_timeout', '0', true)"
GIVE_UP: LiteralString = """
UPDATE splitctl_sync.backfill SET state = 'pending', way = 'chunks'
 WHERE stream = ANY(%s) AND state = 'copying' AND way <> 'chunks'
"""
FORGET_RANGES: LiteralString = "DELETE FROM splitctl_sync.backfill_range WHERE stream = ANY(%s)"
ORDER = ("index", "key", "identity", "foreign key", "trigger", "publication", "guard")


# An index is built beside others of its table; what fastens it there (it becomes a key) needs the
# table alone, so it is a part of its own.


@dataclass(frozen=True)
class Part:
    """One thing that was set aside, and the statements that put it back, in their order."""

    id: int
    mapping: str
    kind: str
    table: str
    name: str
    facts: dict[str, Any]
    restore: list[str]

    @property
    def reference(self) -> catalog.ForeignKey:
        """A foreign key, as the catalogue tells it."""
        return catalog.ForeignKey(
            self.name,
            tuple(self.facts["columns"]),
            self.facts["table"],
            tuple(self.facts["referenced"]),
            self.facts["cascades"],
        )


def take(target: Connection, stream: Stream, mapping: str, table: catalog.Table) -> str | None:
    """Take everything off an empty table, in the caller's transaction.

    Returns why it must not be, in words; then nothing was changed. Raises InsufficientPrivilege or
    DependentObjectsStillExist: roll back to before the call then.
    """
    name = f.table(table.name)
    target.execute(LOCK.format(name))
    unfit = target.execute(UNFIT, (table.oid,)).fetchone()
    if unfit is None or unfit[0]:
        return str(unfit[0]) if unfit else "it is gone"
    row = target.execute(ANY_ROW.format(name)).fetchone()
    if row is None or row[0]:
        return "it is not empty"
    drops = []
    for query in (FOREIGN_KEYS, IDENTITY, TRIGGERS):
        for *part, drop in target.execute(query, (table.oid,)).fetchall():
            _keep(target, stream, mapping, *part)
            drops.append(drop)
    for of, index, facts, build, fasten, drop in target.execute(INDEXES, (table.oid,)).fetchall():
        _keep(target, stream, mapping, "index", of, index, facts, build)
        if fasten:
            _keep(target, stream, mapping, "key", of, index, facts, fasten)
        drops.append(drop)
    # References to a key go before the key.
    for drop in drops:
        target.execute(str(drop).encode())
    _withdraw(target, stream, mapping, table)
    guard = sql.SQL(
        "CREATE TRIGGER {} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {}"
        " FOR EACH STATEMENT EXECUTE FUNCTION splitctl_sync.only_backfill()"
    )
    drop_guard = sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(GUARD), name)
    _keep(target, stream, mapping, "guard", table.name, GUARD, {}, [drop_guard.as_string()])
    target.execute(guard.format(sql.Identifier(GUARD), name))
    return None


def _withdraw(target: Connection, stream: Stream, mapping: str, table: catalog.Table) -> None:
    """Out of the opposite stream's publication: it would send every copied row, to be skipped.

    Nobody else can write to the table meanwhile, so nothing is missed.
    """
    publication = stream.opposite_publication
    if target.execute(PUBLISHED, (publication, table.oid)).fetchone() is None:
        return
    names = (sql.Identifier(publication), f.table(table.name))
    back = BACK_INTO.format(*names).as_string()
    _keep(target, stream, mapping, "publication", table.name, publication, {}, [back])
    target.execute(sql.SQL("ALTER PUBLICATION {} DROP TABLE {}").format(*names))


def _keep(
    target: Connection,
    stream: Stream,
    mapping: str,
    kind: str,
    table: str,
    name: str,
    facts: dict[str, Any],
    restore: Sequence[str],
) -> None:
    values = (stream.name, mapping, kind, table, name, json.dumps(facts), list(restore))
    target.execute(KEEP, values)


def parts(target: Connection, streams: Iterable[str]) -> list[Part]:
    """What is set aside for these streams, in the order in which it was."""
    there = target.execute(THERE).fetchone()
    if not there or not there[0]:
        return []
    rows = target.execute(PARTS, (list(streams),)).fetchall()
    return [Part(*row) for row in rows]


def put_back(target: Connection, part: Part) -> None:
    """Run the statements of a part and forget it, in the caller's transaction."""
    for statement in part.restore:
        target.execute(statement.encode())
    target.execute(TAKE_OUT, (part.id,))


def abandon(target: Connection, streams: Sequence[str]) -> list[str]:
    """Give up what is being filled: the tables are empty again and have all they had.

    What was copied is a part of what the old side holds, and nobody else has written there. A table
    to which rows elsewhere refer already keeps its copy. Returns the tables that were emptied.
    Raises LockNotAvailable while a range is being copied.
    """
    if not parts(target, streams):
        return []
    with target.transaction():
        control.mark(target, streams[0])
        # Waits for ranges under way, and tells their workers.
        target.execute(GIVE_UP, (list(streams),))
        target.execute(FILLING)
        target.execute(NO_LIMIT)
        found = parts(target, streams)
        tables = [part.table for part in found if part.kind == "guard"]
        emptied = bool(tables) and _empty(target, tables)
        for part in in_order(found):
            put_back(target, part)
        target.execute(FORGET_RANGES, (list(streams),))
    return tables if emptied else []


def _empty(target: Connection, tables: Sequence[str]) -> bool:
    try:
        with target.transaction():
            target.execute(sql.SQL("TRUNCATE {}").format(f.listed(map(f.table, tables))))
    except psycopg.errors.FeatureNotSupported:
        return False
    return True


def in_order(found: Iterable[Part]) -> list[Part]:
    """Parts in an order in which each finds what it needs: indexes first, the guard last."""
    return sorted(found, key=lambda part: (ORDER.index(part.kind), part.id))


def whole(target: Connection, name: str, found: Iterable[Part]) -> catalog.Table:
    """A table as it is with what is set aside put back. Raises TableMissing."""
    table = catalog.table(target, name)
    mine = [part for part in found if part.table == name]
    primary = [tuple(p.facts["columns"]) for p in mine if p.kind == "key" and p.facts["primary"]]
    references = tuple(part.reference for part in mine if part.kind == "foreign key")
    return replace(
        table,
        primary_key=primary[0] if primary else table.primary_key,
        foreign_keys=table.foreign_keys + references,
    )
