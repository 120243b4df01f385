"""One operator at a time: a lock that a session holds, and a row that says who holds it.

The session's advisory lock is what counts. It ends with the session, so a command that was killed
leaves nothing but its row, and the next one takes it over.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, LiteralString

import psycopg

from estate.ledger.records import LockRecord

Connection = psycopg.Connection[Any]
# A killed command's session needs a moment to be noticed by its server.
PATIENCE_S = 1.0
PAUSE_S = 0.1

TAKE: LiteralString = "SELECT pg_try_advisory_lock(hashtextextended('splitctl operator', 0))"
GIVE_BACK: LiteralString = "SELECT pg_advisory_unlock(hashtextextended('splitctl operator', 0))"
SHARED: LiteralString = (
    "SELECT pg_try_advisory_lock_shared(hashtextextended('splitctl operator', 0))"
)
SHARED_BACK: LiteralString = (
    "SELECT pg_advisory_unlock_shared(hashtextextended('splitctl operator', 0))"
)
SAY: LiteralString = """
INSERT INTO splitctl.operator_lock (id, operator, host, command, since)
VALUES (1, %s, %s, %s, clock_timestamp())
ON CONFLICT (id) DO UPDATE SET operator = excluded.operator, host = excluded.host,
       command = excluded.command, since = excluded.since
"""
UNSAY: LiteralString = "DELETE FROM splitctl.operator_lock WHERE id = 1"
WHO: LiteralString = (
    "SELECT operator, host, command, since FROM splitctl.operator_lock WHERE id = 1"
)


def take(connection: Connection, operator: str, host: str, command: str) -> bool:
    """Take the lock for this session, or return False when another session keeps it."""
    deadline = time.monotonic() + PATIENCE_S
    while not _true(connection, TAKE):
        if time.monotonic() >= deadline:
            return False
        time.sleep(PAUSE_S)
    connection.execute(SAY, (operator, host, command))
    return True


def release(connection: Connection) -> None:
    """Give the lock back; a dead session has given it back already."""
    with suppress(psycopg.Error):
        connection.execute(UNSAY)
        connection.execute(GIVE_BACK)


@contextmanager
def closing(connection: Connection) -> Iterator[Connection]:
    """Release and close at the end, whatever happened."""
    try:
        yield connection
    finally:
        release(connection)
        connection.close()


def holder(connection: Connection) -> LockRecord | None:
    """Who holds the lock now; a row of a dead session is nobody."""
    if _true(connection, SHARED):
        connection.execute(SHARED_BACK)
        return None
    row = connection.execute(WHO).fetchone()
    return LockRecord(*row) if row else None


def _true(connection: Connection, query: LiteralString) -> bool:
    row = connection.execute(query).fetchone()
    return bool(row and row[0])
