"""Numbers that two sides hand out while a split runs, and that must never be the same.

Once shared, the old side hands out odd numbers and the new side even ones, above everything either
side has used. Two sequences are a pair when a mapping carries the column they feed.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from estate.catalog import table
from estate.config import Config, Problem
from estate.connections import connect
from estate.errors import ExitCode, SplitctlError
from migrator.mapping import Side, Stream, columns, streams

Connection = psycopg.Connection[Any]
STEP = 2
REMAINDER: dict[Side, int] = {"old": 1, "new": 0}
# How long an insert on the source may have to wait for us, and for how long we try.
LOCK_TIMEOUT = "1s"
ATTEMPTS = 20
PAUSE_S = 0.25

SETTINGS: LiteralString = """
SELECT n.nspname, c.relname, s.seqincrement, s.seqmax
  FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE s.seqrelid = to_regclass(%s)
"""
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
# The table and column that a sequence feeds ('a': serial, 'i': identity).
FEEDS: LiteralString = """
SELECT c.relname, a.attname FROM pg_depend d
  JOIN pg_class c ON c.oid = d.refobjid JOIN pg_attribute a ON a.attrelid = c.oid
   AND a.attnum = d.refobjsubid
 WHERE d.classid = 'pg_class'::regclass AND d.objid = to_regclass(%s) AND d.deptype IN ('a', 'i')
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
class Member:
    """One sequence: the side it counts on, and the column it feeds."""

    side: Side
    table: str
    column: str
    sequence: str

    def __str__(self) -> str:
        return f"{self.side}.{self.table}.{self.column}"


@dataclass(frozen=True)
class SharedOut:
    """Columns whose sequence was set now, and those that were right already."""

    changed: tuple[str, ...]
    kept: tuple[str, ...]


@dataclass(frozen=True)
class _Sequence:
    """A sequence as it is now; `following` is the number it hands out next."""

    name: sql.Identifier
    step: int
    limit: int
    following: int


def share_out(config: Config, domain: str) -> SharedOut:
    """Let the old side count odd and the new side even; what is right already stays.

    The control schema must be there. Raises SequenceBusy, SequenceTooFull.
    """
    changed: list[str] = []
    kept: list[str] = []
    with _sides(config, domain) as connections:
        for group in _groups(config, domain, connections):
            if all(_right(connections[member.side], member) for member in group):
                kept += map(str, group)
            else:
                _set(connections, domain, group)
                changed += map(str, group)
    return SharedOut(tuple(changed), tuple(kept))


def check(config: Config, domain: str) -> list[Problem]:
    """Every sequence of mapped tables that could hand out a number of the other side."""
    with _sides(config, domain) as connections:
        return [
            Problem(
                key=str(member),
                reason=f"{member.sequence} may hand out numbers of the other side",
                remedy=f"splitctl sync enable {domain}",
            )
            for group in _groups(config, domain, connections)
            for member in group
            if not _right(connections[member.side], member)
        ]


def restore(connection: Connection, domain: str) -> tuple[str, ...]:
    """Let this database's sequences count as before. Returns their names.

    Rows carried from the other side may be above the sequence: it goes on behind all of them.
    Raises SequenceBusy.
    """
    restored = []
    for name, step in connection.execute(REMEMBERED, (domain,)).fetchall():

        def put_back(name: str = str(name), step: int = int(step)) -> None:
            feeds = connection.execute(FEEDS, (name,)).fetchone()
            if _exists(connection, name) and feeds is not None:
                _count_by(connection, name, step)
                highest = _highest(connection, str(feeds[0]), str(feeds[1]))
                now = _read(connection, name)
                _restart(connection, now.name, max(now.following, highest + 1))
            connection.execute(FORGET, (domain, name))

        _patiently(connection, str(name), put_back)
        restored.append(str(name))
    return tuple(restored)


@contextmanager
def _sides(config: Config, domain: str) -> Iterator[dict[Side, Connection]]:
    names = config.domains[domain]
    with ExitStack() as stack:
        yield {
            "old": stack.enter_context(connect(config.database(names.old), "sequences")),
            "new": stack.enter_context(connect(config.database(names.new), "sequences")),
        }


def _groups(
    config: Config, domain: str, connections: dict[Side, Connection]
) -> list[tuple[Member, ...]]:
    """Sequences that count for the same logical column; a lone one is shared out all the same.

    Two columns are the same when each one's table is a source of the other one's mapping and they
    have the same name, or are the only carried ones.
    """
    both = {stream.direction: stream for stream in streams(config, domain)}
    new = _carried(connections["old"], connections["new"], both["forward"], "new")
    old = _carried(connections["new"], connections["old"], both["reverse"], "old")
    groups: list[tuple[Member, ...]] = []
    paired: set[Member] = set()
    for member, origins in new.items():
        near = [
            other
            for other, sources in old.items()
            if other.table in origins and member.table in sources and other not in paired
        ]
        same_name = [other for other in near if other.column == member.column]
        match = same_name or (near if len(near) == 1 else [])
        groups.append((match[0], member) if match else (member,))
        paired.update(match[:1])
    return groups + [(member,) for member in old if member not in paired]


def _carried(
    source: Connection, target: Connection, stream: Stream, side: Side
) -> dict[Member, set[str]]:
    """Sequence-fed columns that the mappings write, with the base tables they come from."""
    found = {}
    for mapping in stream.mappings:
        found_table = table(target, mapping.target)
        written = set(columns(source, mapping))
        for column, sequence in found_table.sequences.items():
            if column in written:
                member = Member(side, mapping.target, column, sequence)
                found[member] = set(mapping.config.sources)
    return found


def _right(connection: Connection, member: Member) -> bool:
    now = _read(connection, member.sequence)
    return now.step == STEP and now.following % STEP == REMAINDER[member.side]


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
            before = _read(connection, member.sequence)
            if before.step != STEP:
                connection.execute(REMEMBER, (domain, member.sequence, before.step))
            _count_by(connection, member.sequence, STEP)
            lock_from(index + 1)

        _patiently(connection, member.sequence, locked)

    lock_from(0)


def _restart_all(
    connections: dict[Side, Connection], group: tuple[Member, ...], highest: int
) -> None:
    states = {member: _read(connections[member.side], member.sequence) for member in group}
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


def _exists(connection: Connection, sequence: str) -> bool:
    return connection.execute(SETTINGS, (sequence,)).fetchone() is not None


def _read(connection: Connection, sequence: str) -> _Sequence:
    row = connection.execute(SETTINGS, (sequence,)).fetchone()
    assert row is not None, sequence
    name = sql.Identifier(str(row[0]), str(row[1]))
    step, limit = int(row[2]), int(row[3])
    query = sql.SQL("SELECT last_value, is_called FROM {}").format(name)
    value = connection.execute(query).fetchone()
    assert value is not None
    last, called = int(value[0]), bool(value[1])
    return _Sequence(name, step, limit, last + step if called else last)


def _count_by(connection: Connection, sequence: str, step: int) -> None:
    name = _read(connection, sequence).name
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
