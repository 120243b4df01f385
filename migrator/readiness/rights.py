"""Whether the tool's own role may do what it has to, right by right. It never needs a superuser."""

from typing import Any, LiteralString

import psycopg

from estate import catalog
from estate.config import DatabaseConfig
from migrator.readiness.findings import Findings, name

Connection = psycopg.Connection[Any]

ROLE: LiteralString = """
SELECT current_user::text, r.rolsuper OR r.rolreplication,
       has_database_privilege(current_database(), 'CREATE'),
       has_database_privilege(current_database(), 'TEMPORARY'),
       has_schema_privilege('public', 'USAGE'), pg_has_role('pg_read_all_stats', 'USAGE')
  FROM pg_roles r WHERE r.rolname = current_user
"""
# Null: there is no such role. MEMBER without USAGE: it is one, and does not inherit.
MEMBER: LiteralString = """
SELECT pg_has_role(r.oid, 'USAGE'), pg_has_role(r.oid, 'MEMBER')
  FROM (VALUES (1)) AS one(row) LEFT JOIN pg_roles r ON r.rolname = %s
"""
TABLE: LiteralString = """
SELECT r.rolname::text, r.rolsuper, pg_has_role(r.oid, 'USAGE'), row_security_active(c.oid),
       ARRAY(SELECT p FROM unnest(%(wanted)s::text[]) WITH ORDINALITY AS w(p, n)
              WHERE NOT has_table_privilege(c.oid, p) ORDER BY n)
  FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE c.oid = %(oid)s
"""
READ = ["SELECT"]
WRITE = ["SELECT", "INSERT", "UPDATE", "DELETE"]


def of_role(found: Findings, connection: Connection, database: DatabaseConfig) -> bool:
    """The role's rights in the whole database. Returns whether its tables can be looked at."""
    key = f"databases.{database.name}"
    script = f"Have a DBA run this (or the whole script of: splitctl sync grants {database.name}):"
    row = connection.execute(ROLE).fetchone()
    assert row is not None
    user, replicates, creates, stages, uses, sees = row
    role, here = name(user), name(connection.info.dbname)
    for allowed, reason, fix in (
        (replicates, "has not REPLICATION", f"ALTER ROLE {role} REPLICATION;"),
        (
            creates,
            "may not create a schema or publication",
            f"GRANT CREATE ON DATABASE {here} TO {role};",
        ),
        (
            stages,
            "may not create temporary tables",
            f"GRANT TEMPORARY ON DATABASE {here} TO {role};",
        ),
        (uses, "has not USAGE on schema public", f"GRANT USAGE ON SCHEMA public TO {role};"),
    ):
        if not allowed:
            found.problem(key, f"role '{user}' {reason}", script, fix)
    if not sees:
        found.warning(
            key,
            f"role '{user}' does not see since when other roles' transactions are open",
            "So that whoever holds the log is named with its age, have a DBA run:",
            f"GRANT pg_read_all_stats TO {role};",
        )
    if database.owner_role is not None:
        _member(found, connection, database.owner_role, user, key, script)
    return bool(uses)


def _member(
    found: Findings, connection: Connection, owner: str, user: str, key: str, script: str
) -> None:
    row = connection.execute(MEMBER, (owner,)).fetchone()
    inherits, member = row or (None, None)
    if inherits is None:
        reason = f"role '{user}' is no member of '{owner}': there is no such role"
        found.problem(key, reason, f"Correct {key}.owner_role.")
    elif member and not inherits:
        # Since 16 each membership says for itself whether it inherits.
        fix = f"ALTER ROLE {name(user)} INHERIT;"
        if connection.info.server_version >= 160_000:
            fix = f"GRANT {name(owner)} TO {name(user)} WITH INHERIT TRUE;"
        found.problem(key, f"role '{user}' does not inherit the rights of '{owner}'", script, fix)
    elif not member:
        reason = f"role '{user}' is no member of '{owner}'"
        found.problem(key, reason, script, f"GRANT {name(owner)} TO {name(user)};")


def of_table(
    found: Findings,
    connection: Connection,
    database: DatabaseConfig,
    table: catalog.Table,
    wanted: list[str],
) -> None:
    """The rights on one table: its owner's, to publish it, and those it is read or written by."""
    row = connection.execute(TABLE, {"oid": table.oid, "wanted": wanted}).fetchone()
    if row is None:
        return
    owner, superuser, owns, secured, lacking = row
    key = f"databases.{database.name}.{table.name}"
    user, place = connection.info.user, f"In {connection.info.dbname}, as a DBA:"
    if not owns:
        reason = f"table {table.name} belongs to '{owner}', the tool is no member of it"
        fix = f"GRANT {name(owner)} TO {name(user)};"
        if superuser:
            # Nobody needs a superuser's rights for this: the table gets another owner.
            to = database.owner_role or user
            fix = f"ALTER TABLE {name('public', table.name)} OWNER TO {name(to)};"
        found.problem(key, reason, place, fix)
    if lacking:
        told = ", ".join(lacking)
        found.problem(
            key,
            f"role '{user}' has not {told} on {table.name}",
            f"In {connection.info.dbname}, as the owner:",
            f"GRANT {told} ON {name('public', table.name)} TO {name(user)};",
        )
    if secured:
        found.problem(
            key,
            f"row level security of {table.name} hides rows from role '{user}': they would count"
            " as deleted",
            place,
            f"ALTER ROLE {name(user)} BYPASSRLS;",
        )
