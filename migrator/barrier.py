"""The barrier: has everything written on the source until now been carried to the target?

"Caught up" never means that the lag looks small. A marker is written on the source; it is passed
when the target has committed a position beyond it and no key of the stream that was changed before
it waits anywhere. Keys that were changed later hold up nothing: where customers write all the time,
there are always some.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from estate.connections import connect
from estate.errors import ExitCode, SplitctlError
from migrator.mapping import Stream

FIRST_PAUSE_S = 0.002
LONGEST_PAUSE_S = 0.05
PAUSE_GROWTH = 1.5

MARK: LiteralString = "SELECT pg_logical_emit_message(true, 'splitctl.marker', %s)::text"
# Position and pending keys are read in one statement, so from one snapshot: a worker that parks a
# key commits it together with its position, and is seen with both or with neither.
# A key without a position may have been changed at any time.
STATE: LiteralString = """
WITH older AS (
    SELECT 'spooled' AS reason FROM splitctl_sync.spool
     WHERE stream = %(stream)s AND (lsn IS NULL OR lsn < %(lsn)s::pg_lsn)
     UNION ALL
    SELECT reason FROM splitctl_sync.waiting
     WHERE stream = %(stream)s AND (lsn IS NULL OR lsn < %(lsn)s::pg_lsn))
SELECT (SELECT lsn > %(lsn)s::pg_lsn FROM splitctl_sync.progress WHERE stream = %(stream)s),
       count(*),
       count(*) FILTER (WHERE reason IN ('stray-pending', 'asked')),
       count(*) FILTER (WHERE reason = 'parent')
  FROM older
"""

# Whoever holds one of these modes on a table has written to it or locked rows to do so.
# SHARE UPDATE EXCLUSIVE (vacuum, analyze) and SHARE (create index) write no rows. A lock that is
# still waited for counts: its transaction will write as soon as it gets it.
# Our own sessions are left out: what they write is marked and is not carried back.
WRITERS: LiteralString = """
SELECT DISTINCT l.virtualtransaction
  FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'relation'
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.relation = ANY(%s::oid[])
   AND l.mode IN ('RowShareLock', 'RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
                  'AccessExclusiveLock')
   AND l.pid IS DISTINCT FROM pg_backend_pid()
   AND NOT (coalesce(a.application_name LIKE 'splitctl %%', false)
            AND a.usename = current_user)
"""
ALIVE: LiteralString = (
    "SELECT DISTINCT virtualtransaction FROM pg_locks WHERE virtualtransaction = ANY(%s::text[])"
)
OIDS: LiteralString = """
SELECT name, to_regclass(format('public.%%I', name))::oid FROM unnest(%s::text[]) AS t(name)
"""
PREPARED = "-1/"


class TablesMissing(SplitctlError):
    """There is no table {tables} in database '{database}': its writers cannot be waited for."""

    hint = "splitctl schema status"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Marker:
    """A position in the source's WAL that a stream has to pass."""

    stream: str
    lsn: str


@dataclass(frozen=True)
class Passing:
    """What the target says: whether its position is beyond the marker, and what still waits.

    `pending` keys are older than the marker, as far as anybody knows. `contested` of them wait for
    what the opposite stream has of them, `parentless` for a parent.
    """

    position_passed: bool
    pending: int
    contested: int = 0
    parentless: int = 0

    @property
    def passed(self) -> bool:
        """Both: beyond the marker and nothing older pending."""
        return self.position_passed and self.pending == 0

    @property
    def disputed(self) -> bool:
        """Nothing is left but keys that both sides changed, and what hangs on them: only a new
        owner ends their wait."""
        decided = self.contested > 0 and self.pending == self.contested + self.parentless
        return self.position_passed and decided


@dataclass(frozen=True)
class BarrierResult:
    """The end of a wait. `pending` counts keys older than the marker that are spooled or wait, for
    whatever reason."""

    passed: bool
    seconds: float
    pending: int
    marker: Marker


@dataclass(frozen=True)
class Quiesced:
    """The end of a wait for writers. `holdouts` are those still there, as PostgreSQL names them."""

    quiet: bool
    seconds: float
    waited_for: int
    holdouts: tuple[str, ...]

    def __bool__(self) -> bool:
        return self.quiet


def mark(source: psycopg.Connection[Any], stream: str) -> Marker:
    """Write a marker on the source, in a transaction of its own (the connection autocommits)."""
    row = source.execute(MARK, (stream,)).fetchone()
    assert row is not None
    return Marker(stream, str(row[0]))


def look(target: psycopg.Connection[Any], marker: Marker) -> Passing:
    """How the target stands to this marker now. A stream without progress has passed nothing."""
    row = target.execute(STATE, {"lsn": marker.lsn, "stream": marker.stream}).fetchone()
    assert row is not None
    return Passing(bool(row[0]), *(int(number) for number in row[1:]))


def passed(target: psycopg.Connection[Any], marker: Marker) -> bool:
    """Whether everything before the marker is in the target."""
    return look(target, marker).passed


def wait(stream: Stream, timeout_s: float) -> BarrierResult:
    """Write a marker on the stream's source and wait until its target has passed it.

    Raises DatabaseUnreachable when a side is away; a timeout is a result, not an error.
    """
    started = time.monotonic()
    with connect(stream.target, "barrier") as target:
        with connect(stream.source, "barrier") as source:
            marker = mark(source, stream.name)
        state = wait_for(target, marker, timeout_s - (time.monotonic() - started))
    return BarrierResult(state.passed, time.monotonic() - started, state.pending, marker)


def wait_for(target: psycopg.Connection[Any], marker: Marker, timeout_s: float) -> Passing:
    """Wait for a marker that was written before. Returns the last look, passed or not."""
    started = time.monotonic()
    pause = FIRST_PAUSE_S
    while True:
        state = look(target, marker)
        elapsed = time.monotonic() - started
        if state.passed or elapsed >= timeout_s:
            return state
        time.sleep(min(pause, max(timeout_s - elapsed, 0)))
        pause = min(pause * PAUSE_GROWTH, LONGEST_PAUSE_S)


def quiesce(source: psycopg.Connection[Any], tables: Sequence[str], timeout_s: float) -> Quiesced:
    """Wait until every transaction that now writes to one of these tables has ended.

    Prepared transactions count. Transactions that begin later do not: they belong to customers
    who do not move, or are held at the gateway. Raises TablesMissing.
    """
    started = time.monotonic()
    oids = _oids(source, tables)
    tracked = _writers(source, oids)
    seen = len(tracked)
    prepared_before = {name for name in tracked if name.startswith(PREPARED)}
    pause = FIRST_PAUSE_S
    while tracked:
        elapsed = time.monotonic() - started
        if elapsed >= timeout_s:
            return Quiesced(False, elapsed, seen, tuple(sorted(tracked)))
        time.sleep(min(pause, timeout_s - elapsed))
        pause = min(pause * PAUSE_GROWTH, LONGEST_PAUSE_S)
        alive = _alive(source, tracked)
        if any(not name.startswith(PREPARED) for name in tracked - alive):
            # It is gone from its session: ended, or prepared meanwhile, and then it commits later
            # under another name. So a transaction prepared since the call is taken for it.
            now = {name for name in _writers(source, oids) if name.startswith(PREPARED)}
            alive |= now - prepared_before
        tracked = alive
    return Quiesced(True, time.monotonic() - started, seen, ())


def _oids(source: psycopg.Connection[Any], tables: Sequence[str]) -> list[int]:
    rows = source.execute(OIDS, (list(tables),)).fetchall()
    missing = sorted(str(name) for name, oid in rows if oid is None)
    if missing:
        raise TablesMissing(tables=", ".join(missing), database=source.info.dbname)
    return [int(oid) for _, oid in rows]


def _writers(source: psycopg.Connection[Any], oids: list[int]) -> set[str]:
    return {str(row[0]) for row in source.execute(WRITERS, (oids,)).fetchall()}


def _alive(source: psycopg.Connection[Any], tracked: set[str]) -> set[str]:
    return {str(row[0]) for row in source.execute(ALIVE, (sorted(tracked),)).fetchall()}
