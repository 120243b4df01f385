"""The scripts a DBA runs once per database: the tool's role, and its removal."""

from dataclasses import dataclass

from psycopg import sql

from estate.config import Config, DatabaseConfig
from estate.connections import parameters
from estate.errors import ExitCode, SplitctlError

GRANT = """\
-- splitctl: the tool's role in database {database}.
-- Run by a superuser:  psql -v ON_ERROR_STOP=1 -d {database} -f grants.sql
-- Running it again changes nothing.
-- Then set its password, which stands nowhere in this file:  \\password {role}
-- pg_hba.conf must let the role connect to this database; reading the log needs no line of its own
-- (`replication=database` matches the database's name, not the word "replication").
DO $splitctl$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {role_text}) THEN
        CREATE ROLE {role} LOGIN;
    END IF;
END
$splitctl$;
-- REPLICATION reads the log. The role is no superuser, and the tool needs no extension.
ALTER ROLE {role} LOGIN INHERIT REPLICATION;
-- Since when a transaction is open, so that whoever holds the log back is named with its age.
GRANT pg_read_all_stats TO {role};
{membership}-- CREATE: a schema and the publications. TEMPORARY: the stage of the backfill.
GRANT CONNECT, CREATE, TEMPORARY ON DATABASE {database_name} TO {role};
"""
MEMBERSHIP = """\
-- Publications and sequences can only be changed by the tables' owner: be a member of it.
GRANT {owner} TO {role};
"""
REVOKE = """\
-- splitctl: takes the tool's role out of database {database}. First: splitctl sync teardown
-- Run by a superuser:  psql -v ON_ERROR_STOP=1 -d {database} -f revoke.sql
-- Running it again changes nothing. The role itself goes with the last database it works in.
DO $splitctl$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {role_text}) THEN
        RAISE NOTICE 'role % is gone already', {role_text};
        RETURN;
    END IF;
    IF to_regnamespace('splitctl_sync') IS NOT NULL THEN
        RAISE EXCEPTION 'the schema splitctl_sync is still here'
            USING HINT = 'splitctl sync teardown';
    END IF;
    REVOKE CONNECT, CREATE, TEMPORARY ON DATABASE {database_name} FROM {role};
{withdrawal}    BEGIN
        DROP ROLE {role};
    EXCEPTION WHEN dependent_objects_still_exist THEN
        RAISE NOTICE 'role % still has rights in another database: run its script there too',
            {role_text};
    END;
END
$splitctl$;
"""
WITHDRAWAL = """\
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {owner_text}) THEN
        REVOKE {owner} FROM {role};
    END IF;
"""


class RoleUnnamed(SplitctlError):
    """The connection string of database '{database}' names no {part}, so no script can be made."""

    hint = "add {part}=... to the connection string of databases.{database}.dsn"
    exit_code = ExitCode.USAGE


@dataclass(frozen=True)
class _Names:
    database: str
    role: str
    owner: str | None


def script(config: Config, database: str) -> str:
    """SQL that gives the tool its role in this database. Holds no password.

    The role is the user of the database's connection string. Raises RoleUnnamed, SecretMissing.
    """
    names = _names(config.database(database))
    membership = ""
    if names.owner is not None:
        membership = MEMBERSHIP.format(owner=_name(names.owner), role=_name(names.role))
    return GRANT.format(membership=membership, **_words(names))


def revoke_script(config: Config, database: str) -> str:
    """SQL that removes the role again. Raises RoleUnnamed, SecretMissing."""
    names = _names(config.database(database))
    withdrawal = ""
    if names.owner is not None:
        withdrawal = WITHDRAWAL.format(
            owner=_name(names.owner), owner_text=_text(names.owner), role=_name(names.role)
        )
    return REVOKE.format(withdrawal=withdrawal, **_words(names))


def _names(database: DatabaseConfig) -> _Names:
    parts = parameters(database)
    found = {"user": str(parts.get("user") or ""), "dbname": str(parts.get("dbname") or "")}
    for part, value in found.items():
        if not value:
            raise RoleUnnamed(database=database.name, part=part)
    owner = database.owner_role if database.owner_role != found["user"] else None
    return _Names(found["dbname"], found["user"], owner)


def _words(names: _Names) -> dict[str, str]:
    return {
        "database": names.database,
        "database_name": _name(names.database),
        "role": _name(names.role),
        "role_text": _text(names.role),
    }


def _name(value: str) -> str:
    return sql.Identifier(value).as_string()


def _text(value: str) -> str:
    return sql.Literal(value).as_string()
