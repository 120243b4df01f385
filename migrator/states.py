"""What happens to the changed keys of a stream's mappings: spool, drain or live."""

from typing import Any, LiteralString

import psycopg

Connection = psycopg.Connection[Any]

CREATE: LiteralString = """
INSERT INTO splitctl_sync.mapping_state (stream, mapping, state) VALUES (%s, %s, %s)
ON CONFLICT (stream, mapping) DO NOTHING
"""
READ: LiteralString = "SELECT mapping, state FROM splitctl_sync.mapping_state WHERE stream = %s"
SPOOL: LiteralString = """
UPDATE splitctl_sync.mapping_state SET state = 'spool', changed_at = clock_timestamp()
 WHERE stream = %s AND state <> 'spool'
"""
# What is not copied yet stays in the spool: only the backfill lets it go.
RESUME: LiteralString = """
UPDATE splitctl_sync.mapping_state m SET state = 'drain', changed_at = clock_timestamp()
 WHERE m.stream = %(stream)s AND m.state = 'spool'
   AND NOT EXISTS (SELECT FROM splitctl_sync.backfill b
                    WHERE b.stream = m.stream AND b.mapping = m.mapping AND b.state <> 'copied')
"""


def create(target: Connection, stream: str, mapping: str, state: str) -> None:
    """The first state of a mapping; one that has a state keeps it."""
    target.execute(CREATE, (stream, mapping, state))


def read(target: Connection, stream: str) -> dict[str, str]:
    """The state of each mapping of the stream."""
    return {str(row[0]): str(row[1]) for row in target.execute(READ, (stream,)).fetchall()}


def spool(target: Connection, stream: str) -> int:
    """Let every changed key of the stream wait. Returns how many mappings changed their state."""
    return target.execute(SPOOL, (stream,)).rowcount


def resume(target: Connection, stream: str) -> int:
    """Let what waits be carried, and then go live. Returns how many mappings changed."""
    return target.execute(RESUME, {"stream": stream}).rowcount
