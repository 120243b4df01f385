"""Publications and replication slots on a stream's source."""

import time
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import pq, sql

from estate.config import DatabaseConfig
from estate.connections import replication_connection
from estate.errors import ExitCode, SplitctlError
from migrator import holding

Connection = psycopg.Connection[Any]
PLUGIN = "pgoutput"
# A slot begins when every transaction under way has ended; a lock timeout does not fit that wait.
CREATE_LIMIT = "60s"
DROP_LIMIT_S = 20.0
PAUSE_S = 0.1

PUBLISHED: LiteralString = """
SELECT c.relname FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
  JOIN pg_class c ON c.oid = r.prrelid WHERE p.pubname = %s ORDER BY 1
"""
PUBLICATION: LiteralString = "SELECT 1 FROM pg_publication WHERE pubname = %s"
SLOT: LiteralString = """
SELECT confirmed_flush_lsn::text, active_pid, wal_status = 'lost' FROM pg_replication_slots
 WHERE slot_name = %s AND database = current_database()
"""
ELSEWHERE: LiteralString = """
SELECT database FROM pg_replication_slots
 WHERE slot_name = %s AND database IS DISTINCT FROM current_database()
"""
CREATE: LiteralString = "SELECT lsn::text FROM pg_create_logical_replication_slot(%s, %s)"
DROP: LiteralString = "SELECT pg_drop_replication_slot(%s)"
TERMINATE: LiteralString = "SELECT pg_terminate_backend(%s)"
LIMITS: LiteralString = (
    "SELECT set_config('statement_timeout', %s, true), set_config('lock_timeout', '0', true)"
)


class SlotBlocked(SplitctlError):
    """The slot {slot} could not be made in database '{database}': a transaction does not end.
    The oldest is {culprit}. Nothing was left behind."""

    hint = "end it, then type the same command again"
    exit_code = ExitCode.PRECONDITION


class TablesBusy(SplitctlError):
    """The publication {publication} in database '{database}' could not be set: a lock on its tables
    was not to be had. The oldest transaction is {culprit}."""

    hint = "wait for it, or end it, then type the same command again"
    exit_code = ExitCode.PRECONDITION


class SlotInUse(SplitctlError):
    """The slot {slot} in database '{database}' is still read by process {pid};
    it was not dropped."""

    hint = "end `splitctl sync run`, then type the same command again"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Identity:
    """Which cluster a position belongs to: its system id and its timeline."""

    system_id: str
    timeline: int


@dataclass(frozen=True)
class Slot:
    """A slot: the position it is confirmed up to, and the process that reads it.

    `lost`: the server has given up log that it needs, so that it can never be read again.
    """

    lsn: str
    active_pid: int | None
    lost: bool = False


def identify(database: DatabaseConfig) -> Identity:
    """Ask the server who it is, over a walsender connection. Raises DatabaseUnreachable."""
    connection = replication_connection(database, "identify")
    try:
        result = connection.exec_(b"IDENTIFY_SYSTEM")
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise psycopg.OperationalError(connection.get_error_message())
        system_id, timeline = result.get_value(0, 0), result.get_value(0, 1)
        assert system_id is not None and timeline is not None
        return Identity(system_id.decode(), int(timeline))
    finally:
        connection.finish()


def publish(source: Connection, publication: str, tables: list[str], database: str) -> bool:
    """Make the publication hold exactly these tables. Returns whether anything was changed.

    Raises TablesBusy, naming the oldest transaction.
    """
    wanted = sorted(set(tables))
    name = sql.Identifier(publication)
    listed = sql.SQL(", ").join(sql.Identifier("public", table) for table in wanted)
    # A partitioned table's changes are told under its own name, which is what mappings know.
    statement = "CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = true)"
    if source.execute(PUBLICATION, (publication,)).fetchone() is not None:
        if published(source, publication) == wanted:
            return False
        statement = "ALTER PUBLICATION {} SET TABLE {}"
    try:
        source.execute(sql.SQL(statement).format(name, listed))
    except psycopg.errors.LockNotAvailable:
        culprit = oldest_transaction(source) or "gone by now"
        raise TablesBusy(publication=publication, database=database, culprit=culprit) from None
    return True


def published(source: Connection, publication: str) -> list[str]:
    """The tables of a publication, sorted; empty when there is none."""
    return [str(row[0]) for row in source.execute(PUBLISHED, (publication,)).fetchall()]


def unpublish(source: Connection, publication: str) -> bool:
    """Drop the publication. Returns whether there was one."""
    there = source.execute(PUBLICATION, (publication,)).fetchone() is not None
    source.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(publication)))
    return there


def find(source: Connection, slot: str) -> Slot | None:
    """The slot of this name in this database."""
    row = source.execute(SLOT, (slot,)).fetchone()
    return Slot(str(row[0]), int(row[1]) if row[1] else None, bool(row[2])) if row else None


def elsewhere(source: Connection, slot: str) -> str | None:
    """The other database of this server that has a slot of this name; names are the server's."""
    row = source.execute(ELSEWHERE, (slot,)).fetchone()
    return str(row[0]) if row else None


def create(source: Connection, slot: str, database: str) -> Slot:
    """Make a slot. Raises SlotBlocked, naming the transaction that is in the way."""
    try:
        with source.transaction():
            source.execute(LIMITS, (CREATE_LIMIT,))
            row = source.execute(CREATE, (slot, PLUGIN)).fetchone()
    except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable):
        culprit = oldest_transaction(source) or "gone by now"
        raise SlotBlocked(slot=slot, database=database, culprit=culprit) from None
    assert row is not None
    return Slot(str(row[0]), None)


def drop(source: Connection, slot: str, database: str) -> bool:
    """Drop the slot, ending the tool's own session that reads it. Raises SlotInUse.

    Returns whether there was one.
    """
    limit = time.monotonic() + DROP_LIMIT_S
    found = find(source, slot)
    if found is None:
        return False
    while found is not None:
        pid = found.active_pid
        if pid is not None:
            source.execute(TERMINATE, (pid,))
            time.sleep(PAUSE_S)
        try:
            source.execute(DROP, (slot,))
        except psycopg.errors.ObjectInUse:
            if time.monotonic() > limit:
                raise SlotInUse(slot=slot, database=database, pid=pid) from None
        except psycopg.errors.UndefinedObject:
            pass
        found = find(source, slot)
    return True


def oldest_transaction(connection: Connection) -> str | None:
    """The oldest transaction that has written, in words, or None."""
    found = holding.oldest(connection)
    return str(found) if found else None
