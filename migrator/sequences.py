"""Numbers that two sides hand out while a split runs, and that must never be the same.

Once shared, the old side hands out odd numbers and the new side even ones, above everything either
side has used. What they hand out now is looked at in `shares`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from estate.config import Config
from estate.errors import ExitCode, SplitctlError
from migrator.mapping import Side
from migrator.shares import REMAINDER, STEP, Member, check, groups, is_right, read, sides

__all__ = ["SequenceBusy", "SequenceTooFull", "SharedOut", "check", "restore", "share_out"]

Connection = psycopg.Connection[Any]
# How long an insert on the source may have to wait for us, and for how long we try.
LOCK_TIMEOUT = "1s"
ATTEMPTS = 20
PAUSE_S = 0.25

REMEMBER: LiteralString = """
INSERT INTO splitctl_sync.sequence_share (domain, sequence, step) VALUES (%s, %s, %s)
ON CONFLICT (domain, sequence) DO NOTHING
"""
REMEMBERED: LiteralString = (
    "SELECT sequence, step FROM splitctl_sync.sequence_share WHERE domain = %s ORDER BY sequence"
)
FORGET: LiteralString = (
    "DELETE FROM splitctl_sync.sequence_share WHERE domain = %s AND sequence = %s"
)
# The tables and columns that a sequence feeds: it belongs to them ('a': serial, 'i': identity), or
# their default names it.
FEEDS: LiteralString = """
SELECT c.relname, a.attname FROM pg_depend d
  JOIN pg_class c ON c.oid = d.refobjid JOIN pg_attribute a ON a.attrelid = c.oid
   AND a.attnum = d.refobjsubid
 WHERE d.classid = 'pg_class'::regclass AND d.objid = to_regclass(%(sequence)s)
   AND d.deptype IN ('a', 'i')
UNION
SELECT c.relname, a.attname FROM pg_depend d
  JOIN pg_attrdef f ON f.oid = d.objid JOIN pg_class c ON c.oid = f.adrelid
  JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
 WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass
   AND d.refobjid = to_regclass(%(sequence)s)
"""
LOCK_LIMIT: LiteralString = "SELECT set_config('lock_timeout', %s, true)"


class SequenceBusy(SplitctlError):
    """The sequence {sequence} in database '{database}' is in use by a transaction that does not
    end; it was left as it is."""

    hint = "end the oldest transaction in '{database}', then type the same command again"
    exit_code = ExitCode.PRECONDITION


class SequenceTooFull(SplitctlError):
    """The sequence {sequence} in database '{database}' would start at {start}, above its greatest
    number {limit}. Nothing was changed."""

    hint = "ALTER SEQUENCE {sequence} AS bigint, and its column with it"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class SharedOut:
    """Columns whose sequence was set now, and those that were right already."""

    changed: tuple[str, ...]
    kept: tuple[str, ...]


def share_out(config: Config, domain: str) -> SharedOut:
    """Let the old side count odd and the new side even; what is right already stays.

    The control schema must be there. Raises SequenceBusy, SequenceTooFull.
    """
    changed: list[str] = []
    kept: list[str] = []
    with sides(config, domain) as connections:
        for group in groups(config, domain, connections):
            if all(is_right(connections[member.side], member) for member in group):
                kept += map(str, group)
            else:
                _set(connections, domain, group)
                changed += map(str, group)
    return SharedOut(tuple(changed), tuple(kept))


def restore(connection: Connection, domain: str) -> tuple[str, ...]:
    """Let this database's sequences count as before. Returns their names.

    Rows carried from the other side may be above the sequence: it goes on behind all of them.
    Raises SequenceBusy.
    """
    restored = []
    for name, step in connection.execute(REMEMBERED, (domain,)).fetchall():

        def put_back(name: str = str(name), step: int = int(step)) -> None:
            feeds = connection.execute(FEEDS, {"sequence": name}).fetchall()
            if feeds:
                _count_by(connection, name, step)
                highest = max(_highest(connection, str(t), str(column)) for t, column in feeds)
                now = read(connection, name)
                _restart(connection, now.name, max(now.following, highest + 1))
            connection.execute(FORGET, (domain, name))

        _patiently(connection, str(name), put_back)
        restored.append(str(name))
    return tuple(restored)


def _set(connections: dict[Side, Connection], domain: str, group: tuple[Member, ...]) -> None:
    """Set the members together, each locked, so that nobody takes a number in between.

    ALTER SEQUENCE waits for every transaction that has taken a number and makes new ones wait, so
    what is read after it stays true until the commit. Numbers that sessions have cached are void.
    """
    # The greatest number in a table may take a scan: it is looked up before anybody has to wait.
    highest = max(_highest(connections[m.side], m.table, m.column) for m in group)
    # The new side first: nobody writes there yet, so the source is locked for milliseconds.
    order = sorted(group, key=lambda member: member.side == "old")

    def lock_from(index: int) -> None:
        if index == len(order):
            _restart_all(connections, group, highest)
            return
        member = order[index]
        connection = connections[member.side]

        def locked() -> None:
            before = read(connection, member.sequence)
            if before.step != STEP:
                connection.execute(REMEMBER, (domain, member.sequence, before.step))
            _count_by(connection, member.sequence, STEP)
            lock_from(index + 1)

        _patiently(connection, member.sequence, locked)

    lock_from(0)


def _restart_all(
    connections: dict[Side, Connection], group: tuple[Member, ...], highest: int
) -> None:
    states = {member: read(connections[member.side], member.sequence) for member in group}
    start = max([highest + 1, *(state.following for state in states.values())])
    for member, state in states.items():
        own = start + (start - REMAINDER[member.side]) % STEP
        if own >= state.limit:
            raise SequenceTooFull(
                sequence=member.sequence,
                database=connections[member.side].info.dbname,
                start=own,
                limit=state.limit,
            )
        _restart(connections[member.side], state.name, own)


def _patiently(connection: Connection, sequence: str, work: Callable[[], None]) -> None:
    """Do it in one transaction; when a lock is not got soon, let go and try again later."""
    for _ in range(ATTEMPTS):
        try:
            with connection.transaction():
                connection.execute(LOCK_LIMIT, (LOCK_TIMEOUT,))
                work()
            return
        except psycopg.errors.LockNotAvailable:
            time.sleep(PAUSE_S)
    raise SequenceBusy(sequence=sequence, database=connection.info.dbname)


def _count_by(connection: Connection, sequence: str, step: int) -> None:
    name = read(connection, sequence).name
    query = sql.SQL("ALTER SEQUENCE {} INCREMENT BY {}").format(name, sql.Literal(step))
    connection.execute(query)


def _restart(connection: Connection, name: sql.Identifier, start: int) -> None:
    connection.execute(
        sql.SQL("ALTER SEQUENCE {} RESTART WITH {}").format(name, sql.Literal(start))
    )


def _highest(connection: Connection, name: str, column: str) -> int:
    query = sql.SQL("SELECT coalesce(max({}), 0) FROM {}").format(
        sql.Identifier(column), sql.Identifier("public", name)
    )
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])
