"""Whether tables can be followed in the log, and written by a stream."""

from typing import Any, LiteralString

import psycopg

from estate import catalog
from estate.config import DatabaseConfig, MappingConfig
from migrator.readiness.findings import Findings, name, names
from migrator.readiness.queries import INDEXED, unindexed

Connection = psycopg.Connection[Any]

# What stores a table's rows: itself, or its partitions. Of each, the columns that the log tells of
# a row before its change, and a unique index that would tell the wanted ones. It is the partition's
# own replica identity that counts, whatever the partitioned table says.
STORES: LiteralString = """
WITH store AS (
    SELECT %(oid)s::oid AS oid FROM pg_class WHERE oid = %(oid)s AND relkind <> 'p'
    UNION ALL SELECT relid::oid FROM pg_partition_tree(%(oid)s::oid) WHERE isleaf
      AND EXISTS (SELECT FROM pg_class WHERE oid = %(oid)s AND relkind = 'p')
), usable AS (
    SELECT i.*, ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = i.indrelid
                         AND a.attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts - 1])) AS columns
      FROM pg_index i WHERE i.indrelid IN (SELECT oid FROM store)
)
SELECT c.oid::regclass::text, c.relkind::text, c.relpersistence::text, c.relreplident::text,
       CASE c.relreplident
       WHEN 'f' THEN ARRAY(SELECT attname::text FROM pg_attribute
                            WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)
       WHEN 'd' THEN (SELECT u.columns FROM usable u WHERE u.indrelid = c.oid AND u.indisprimary)
       WHEN 'i' THEN (SELECT u.columns FROM usable u WHERE u.indrelid = c.oid AND u.indisreplident)
       END,
       (SELECT u.indexrelid::regclass::text FROM usable u
         WHERE u.indrelid = c.oid AND u.indisunique AND u.indisvalid AND u.indimmediate
           AND u.indpred IS NULL AND u.indexprs IS NULL AND u.columns @> %(wanted)s::text[]
           AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = u.indrelid
                              AND NOT a.attnotnull AND a.attname::text = ANY(u.columns))
         ORDER BY cardinality(u.columns), 1 LIMIT 1)
  FROM store JOIN pg_class c ON c.oid = store.oid ORDER BY 1
"""
HEIRS: LiteralString = """
SELECT i.inhrelid::regclass::text FROM pg_inherits i
  JOIN pg_class p ON p.oid = i.inhparent AND p.relkind = 'r' WHERE i.inhparent = %s ORDER BY 1
"""
# Triggers and rules that fire for ordinary sessions, which ours is.
TRIGGERS: LiteralString = """
SELECT tgname::text, tgconstraint <> 0, pg_get_triggerdef(oid) FROM pg_trigger
 WHERE tgrelid = %s AND NOT tgisinternal AND tgenabled IN ('O', 'A') ORDER BY tgname
"""
RULES: LiteralString = """
SELECT rulename::text FROM pg_rewrite
 WHERE ev_class = %s AND rulename <> '_RETURN' AND ev_enabled IN ('O', 'A') ORDER BY rulename
"""
PRIMARY_KEY: LiteralString = """
SELECT conname::text, condeferrable FROM pg_constraint WHERE conrelid = %s AND contype = 'p'
"""
UNIQUE: LiteralString = """
SELECT c.relname::text,
       ARRAY(SELECT pg_get_indexdef(i.indexrelid, n::int, true)
               FROM generate_series(1, i.indnkeyatts) AS n ORDER BY n)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE i.indrelid = %s AND i.indisunique AND NOT i.indisprimary ORDER BY 1
"""
IDENTITIES = {"d": "default", "n": "nothing", "f": "full", "i": "index"}


def of_source(
    found: Findings,
    key: str,
    connection: Connection,
    table: catalog.Table,
    leading: dict[str, str],
) -> None:
    """A base table: each change of it must tell the driving key, the old one and the new one."""
    columns = sorted(set(leading.values()))
    unknown = [column for column in columns if table.column(column) is None]
    if unknown:
        reason = f"source {table.name} has no column {', '.join(unknown)}"
        found.problem(key, reason, f"Correct sources.{table.name}.")
        return
    computed = [c.name for c in table.columns if c.generated and c.name in columns]
    if computed:
        told = ", ".join(computed)
        reason = f"{table.name} computes {told} itself: the log does not tell it"
        found.problem(key, reason, f"Lead sources.{table.name} by the columns it is made from.")
    _stores(found, key, connection, table, columns)
    row = connection.execute(INDEXED, (table.oid, columns)).fetchone()
    if row is not None and not row[0]:
        unindexed(found, key, table.name, tuple(columns))


def _stores(
    found: Findings, key: str, connection: Connection, table: catalog.Table, columns: list[str]
) -> None:
    rows = connection.execute(STORES, {"oid": table.oid, "wanted": columns}).fetchall()
    for store, _, _, identity, told, index in rows:
        whose = table.name if len(rows) == 1 and store == table.name else f"{table.name} ({store})"
        lacking = sorted(set(columns) - set(told or ()))
        if not lacking:
            continue
        reason = (
            f"a change of {whose} would not tell its old {', '.join(lacking)}:"
            f" not in the replica identity ({IDENTITIES[identity]})"
        )
        if not told:
            reason += "; once it is published, its updates and deletions would be refused"
        how = f"USING INDEX {index.rpartition('.')[2]}" if index else "FULL"
        fix = f"ALTER TABLE {store} REPLICA IDENTITY {how};"
        found.problem(key, reason, f"In {connection.info.dbname}, as the owner:", fix)


def stored(
    found: Findings, connection: Connection, database: DatabaseConfig, table: catalog.Table
) -> None:
    """Where its rows are: here, in the log, and all under its own name."""
    key, place = f"databases.{database.name}.{table.name}", "As the owner:"
    arguments = {"oid": table.oid, "wanted": []}
    for store, kind, persistence, *_ in connection.execute(STORES, arguments).fetchall():
        if kind == "f":
            reason = f"{store} is a foreign table: its rows are elsewhere, and so is their log"
            found.problem(key, reason, "Map the table it stands for, where that is.")
        elif persistence == "u":
            reason = f"{store} is unlogged: empty after a crash, and its changes are in no log"
            found.problem(key, reason, place, f"ALTER TABLE {store} SET LOGGED;")
    for (heir,) in connection.execute(HEIRS, (table.oid,)).fetchall():
        found.problem(
            key,
            f"{heir} inherits from {table.name}: its rows are read, its changes are not followed",
            "As the owner (declare it a partition, or let it stand alone):",
            f"ALTER TABLE {heir} NO INHERIT {name('public', table.name)};",
        )


def of_target(
    found: Findings,
    key: str,
    connection: Connection,
    table: catalog.Table,
    mapping: MappingConfig,
) -> None:
    """A table that a stream writes: by its primary key, and with nothing else that acts."""
    _primary_key(found, key, connection, table, mapping)
    _triggers(found, key, connection, table)
    for (rule,) in connection.execute(RULES, (table.oid,)).fetchall():
        found.problem(
            key,
            f"rule {rule} of {table.name} changes what is carried, or forbids it",
            "As the owner (its work can be done by a trigger):",
            f"ALTER TABLE {name('public', table.name)} DISABLE RULE {name(rule)};",
        )


def _primary_key(
    found: Findings,
    key: str,
    connection: Connection,
    table: catalog.Table,
    mapping: MappingConfig,
) -> None:
    row = connection.execute(PRIMARY_KEY, (table.oid,)).fetchone()
    place, owner = name("public", table.name), "As the owner:"
    if row is None:
        found.problem(
            key,
            f"target {table.name} has no primary key: rows are written by it",
            "As the owner, if its key is the driving key (else with its own columns):",
            f"ALTER TABLE {place} ADD PRIMARY KEY ({names(list(mapping.key))});",
        )
    elif row[1]:
        columns = names(list(table.primary_key))
        found.problem(
            key,
            f"the primary key of {table.name} is deferrable: no row can be written by it",
            owner,
            f"ALTER TABLE {place} DROP CONSTRAINT {name(row[0])},"
            f" ADD CONSTRAINT {name(row[0])} PRIMARY KEY ({columns});",
        )


def _triggers(found: Findings, key: str, connection: Connection, table: catalog.Table) -> None:
    """Those that fire for what is carried. One that leaves our role out is as it should be."""
    user = connection.info.user
    for trigger, constraint, definition in connection.execute(TRIGGERS, (table.oid,)).fetchall():
        if f"CURRENT_USER <> '{user}'::name" in definition:
            continue
        found.warning(
            key,
            f"trigger {trigger} of {table.name} fires for carried rows too",
            "If what it does was done on the other side already, leave the tool's role out:",
            None if constraint else _leaving_out(definition, user),
        )


def _leaving_out(definition: str, user: str) -> str:
    """The same trigger, for everybody but this role."""
    head, call = definition.rsplit(" EXECUTE FUNCTION ", 1)
    head = head.replace("CREATE TRIGGER", "CREATE OR REPLACE TRIGGER", 1)
    before, when, condition = head.partition(" WHEN (")
    mine = f"current_user <> '{user}'"
    asked = f"{mine} AND ({condition}" if when else f"{mine})"
    return f"{before} WHEN ({asked}{')' if when else ''} EXECUTE FUNCTION {call};"


def unique(
    found: Findings,
    key: str,
    connection: Connection,
    table: catalog.Table,
    mapping: MappingConfig,
    mapped: set[str],
) -> None:
    """Unique indexes that each side keeps alone: both could give one value away.

    An index with a column of the driving key, or one that leads to a mapped parent, cannot: those
    rows belong to one side.
    """
    parents = {c for fk in table.foreign_keys if fk.referenced_table in mapped for c in fk.columns}
    settled = set(mapping.key) | set(table.primary_key) | parents
    for index, columns in connection.execute(UNIQUE, (table.oid,)).fetchall():
        if settled & {column.strip('"') for column in columns}:
            continue
        found.warning(
            key,
            f"{', '.join(columns)} of {table.name} is unique on each side alone ({index}): a value"
            " that both sides give away is parked when it is carried",
            "Let one side alone give such values, or look now and then:",
            f"splitctl sync waiting {key.split('.')[1]}",
        )
