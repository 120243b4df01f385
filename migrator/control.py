"""The control schema of a data database: putting it in and taking it out again."""

from pathlib import Path
from typing import Any, LiteralString

import psycopg

from estate.errors import ExitCode, SplitctlError

SCHEMA = "splitctl_sync"
DDL = Path(__file__).with_name("control.sql")

# Messages in the WAL: what the tool wrote itself, where a reader must have come, proof of life.
APPLIED = "splitctl.applied"
MARKER = "splitctl.marker"
HEARTBEAT = "splitctl.heartbeat"

# Two commands that install at the same moment must not meet inside CREATE ... IF NOT EXISTS.
LOCK: LiteralString = "SELECT pg_advisory_xact_lock(hashtextextended('splitctl control schema', 0))"
EXISTS: LiteralString = "SELECT to_regnamespace('splitctl_sync') IS NOT NULL"
NEWEST: LiteralString = "SELECT to_regprocedure('splitctl_sync.serves(text,text,text)') IS NOT NULL"
TABLE_EXISTS: LiteralString = "SELECT to_regclass('splitctl_sync.owner') IS NOT NULL"
DROP: LiteralString = "DROP SCHEMA IF EXISTS splitctl_sync CASCADE"
MARK: LiteralString = "SELECT pg_logical_emit_message(true, 'splitctl.applied', %s)"


class ControlSchemaMissing(SplitctlError):
    """Database '{database}' has no control schema: sync is not enabled there."""

    hint = "splitctl sync enable {domain}"
    exit_code = ExitCode.PRECONDITION


def installed(connection: psycopg.Connection[Any]) -> bool:
    """Whether the control schema and its tables are there."""
    row = connection.execute(TABLE_EXISTS).fetchone()
    return bool(row and row[0])


def install(connection: psycopg.Connection[Any]) -> None:
    """Create what is missing of the control schema; what is there stays as it is."""
    with connection.transaction():
        connection.execute(LOCK)
        connection.execute(DDL.read_bytes(), prepare=False)


def bring_up(connection: psycopg.Connection[Any]) -> None:
    """Add what an older version did not have; one that is complete is not even locked."""
    row = connection.execute(NEWEST).fetchone()
    if not row or not row[0]:
        install(connection)


def drop(connection: psycopg.Connection[Any]) -> bool:
    """Remove the control schema with all it holds. Returns whether there was one."""
    with connection.transaction():
        connection.execute(LOCK)
        row = connection.execute(EXISTS).fetchone()
        connection.execute(DROP)
    return bool(row and row[0])


def mark(connection: psycopg.Connection[Any], stream: str) -> None:
    """Mark the open transaction as written by this stream: its very first statement.

    Readers of the opposite direction skip a transaction that is marked so (law L5).
    """
    connection.execute(MARK, (stream,))


def require(connection: psycopg.Connection[Any], database: str, domain: str) -> None:
    """Raise ControlSchemaMissing unless the schema is installed."""
    if not installed(connection):
        raise ControlSchemaMissing(database=database, domain=domain)
