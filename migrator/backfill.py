"""The copy of what was there before sync began: forward, in chunks of driving keys.

Slot first, then the wait for every transaction that was under way, then the chunks. While a mapping
is copied, its changed keys go to the spool; afterwards the sync worker drains them and goes live.
A chunk and the place it ends at commit together, so a killed run goes on where it was.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from graphlib import CycleError, TopologicalSorter
from typing import Any, LiteralString

import psycopg
from psycopg.types.json import Jsonb

from estate import catalog
from estate.config import Config
from estate.connections import connect
from estate.errors import ExitCode, SplitctlError
from migrator import chunk, control, slots
from migrator.mapping import Key, Mapping, Shape, Stream, shape, streams

Connection = psycopg.Connection[Any]
CHUNK_KEYS = 5_000
HORIZON_LIMIT_S = 600.0
# The worker gets this long to make no headway at all before we say that it does not run.
STALL_LIMIT_S = 60.0
LOCK_LIMIT_S = 10.0
PAUSE_S = 0.1
ATTEMPTS = 5
AGAIN = (psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable)

HORIZON: LiteralString = """
SELECT pg_snapshot_xmin(pg_current_snapshot()) >= h.below
  FROM splitctl_sync.slot_horizon h WHERE h.stream = %s
"""
LOCK: LiteralString = "SELECT pg_try_advisory_lock(hashtextextended('splitctl backfill ' || %s, 0))"
UNLOCK: LiteralString = "SELECT pg_advisory_unlock(hashtextextended('splitctl backfill ' || %s, 0))"
# Shared with the worker, which holds it so while it spools a key: neither waits for the other, but
# nobody lets the mapping go live under us.
STATE: LiteralString = """
SELECT state FROM splitctl_sync.mapping_state WHERE stream = %s AND mapping = %s FOR SHARE
"""
PLACE: LiteralString = """
SELECT last_key FROM splitctl_sync.backfill
 WHERE stream = %s AND mapping = %s AND state = 'copying' FOR UPDATE
"""
OWNER: LiteralString = "SELECT new_below FROM splitctl_sync.owner WHERE domain = %s FOR SHARE"
BEGIN_COPY: LiteralString = """
UPDATE splitctl_sync.backfill SET state = 'copying', started_at = coalesce(started_at, now())
 WHERE stream = %s AND mapping = %s AND state = 'pending'
"""
READ_ONLY: LiteralString = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
ADVANCE: LiteralString = """
UPDATE splitctl_sync.backfill SET last_key = %s, rows = rows + %s, chunks = chunks + 1
 WHERE stream = %s AND mapping = %s
"""
COPIED: LiteralString = """
UPDATE splitctl_sync.backfill SET state = 'copied', finished_at = clock_timestamp()
 WHERE stream = %s AND mapping = %s AND state = 'copying' AND last_key ->> 'source' IS NULL
   AND last_key IS NOT NULL
"""
LET_GO: LiteralString = """
UPDATE splitctl_sync.mapping_state SET state = 'drain', changed_at = clock_timestamp()
 WHERE stream = %s AND mapping = %s AND state = 'spool'
"""
STATUS: LiteralString = """
SELECT b.mapping, b.state, coalesce(m.state, 'spool'), b.rows, b.chunks, b.started_at,
       b.finished_at,
       (SELECT count(*) FROM splitctl_sync.spool s
         WHERE s.stream = b.stream AND s.mapping = b.mapping)
     + (SELECT count(*) FROM splitctl_sync.waiting w
         WHERE w.stream = b.stream AND w.mapping = b.mapping)
  FROM splitctl_sync.backfill b LEFT JOIN splitctl_sync.mapping_state m USING (stream, mapping)
 WHERE b.stream = %s ORDER BY b.started_at NULLS LAST, b.mapping
"""


class BackfillRunning(SplitctlError):
    """Another backfill of stream '{stream}' is under way."""

    hint = "splitctl backfill status"
    exit_code = ExitCode.PRECONDITION


class BackfillStalled(SplitctlError):
    """All rows of domain '{domain}' are copied, but {pending} changed key(s) still wait and none
    was carried for {seconds:.0f} s: the sync worker does not run, or cannot write them."""

    hint = "splitctl sync status, splitctl sync run, then: splitctl backfill run {domain}"
    exit_code = ExitCode.PRECONDITION


class TransactionsUnderWay(SplitctlError):
    """A transaction that is older than the slot of stream '{stream}' does not end: {culprit}.
    Nothing was copied, because its rows could be missed."""

    hint = "end it, then: splitctl backfill run {domain}"
    exit_code = ExitCode.PRECONDITION


class NotEnabled(SplitctlError):
    """Sync of domain '{domain}' is not enabled, so a backfill would miss what changes meanwhile."""

    hint = "splitctl sync enable {domain}"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class MappingBackfill:
    """The copy of one mapping. `copy` is pending, copying or copied; `sync` spool, drain or live.

    `pending` counts changed keys that wait. Times are UTC.
    """

    mapping: str
    copy: str
    sync: str
    rows: int
    chunks: int
    started_at: datetime | None
    finished_at: datetime | None
    pending: int


@dataclass(frozen=True)
class BackfillProgress:
    """What is being done: `waiting` for transactions, `copying` a mapping, or `draining`."""

    doing: str
    mapping: str | None
    rows: int
    pending: int


@dataclass(frozen=True)
class BackfillResult:
    """A finished backfill. `rows` counts all that were copied, by killed runs too; `copied_now`
    those of this run, in `seconds` (the wait for the worker included)."""

    domain: str
    rows: int
    copied_now: int
    seconds: float
    mappings: tuple[MappingBackfill, ...]


OnProgress = Callable[[BackfillProgress], None]


def run(config: Config, domain: str, *, on_progress: OnProgress) -> BackfillResult:
    """Copy every mapping of the forward stream, and wait until all of them are live.

    Goes on where a killed run was; does nothing when all is done. Needs the sync worker for its
    last part. Raises NotEnabled, TransactionsUnderWay, BackfillRunning, RowNotCarried,
    BackfillStalled.
    """
    started = time.monotonic()
    stream = streams(config, domain)[0]
    with ExitStack() as stack:
        source = stack.enter_context(connect(stream.source, "backfill"))
        target = stack.enter_context(connect(stream.target, "backfill"))
        if slots.find(source, stream.slot) is None or not control.installed(target):
            raise NotEnabled(domain=domain)
        stack.enter_context(_alone(target, stream))
        work = _Run(source, target, stream, on_progress)
        work.copy_all()
        work.await_live()
        mappings = tuple(_read(target, stream))
    return BackfillResult(
        domain,
        rows=sum(mapping.rows for mapping in mappings),
        copied_now=work.rows,
        seconds=time.monotonic() - started,
        mappings=mappings,
    )


def status(config: Config) -> list[MappingBackfill]:
    """How far the copy of each forward mapping is. Raises DatabaseUnreachable."""
    found: list[MappingBackfill] = []
    for stream in streams(config):
        if stream.direction == "forward":
            with connect(stream.target, "backfill status") as target:
                if control.installed(target):
                    found += _read(target, stream)
    return found


def _read(target: Connection, stream: Stream) -> list[MappingBackfill]:
    return [MappingBackfill(*row) for row in target.execute(STATUS, (stream.name,)).fetchall()]


@contextmanager
def _alone(target: Connection, stream: Stream) -> Iterator[None]:
    """One backfill of a stream at a time. A killed one may need a moment to let go."""
    limit = time.monotonic() + LOCK_LIMIT_S
    while not _first(target.execute(LOCK, (stream.name,))):
        if time.monotonic() > limit:
            raise BackfillRunning(stream=stream.name)
        time.sleep(PAUSE_S)
    try:
        yield
    finally:
        if not target.closed:
            target.execute(UNLOCK, (stream.name,))


class _Run:
    """One run over all mappings of a forward stream."""

    def __init__(
        self, source: Connection, target: Connection, stream: Stream, on_progress: OnProgress
    ) -> None:
        self.source, self.target, self.stream = source, target, stream
        self.on_progress = on_progress
        self.rows = 0

    def copy_all(self) -> None:
        """Every mapping that is not copied yet, parents before children."""
        done = {item.mapping for item in _read(self.target, self.stream) if item.copy == "copied"}
        todo = [mapping for mapping in self.stream.mappings if mapping.name not in done]
        if not todo:
            return
        self._await_older_transactions()
        for mapping in parents_first(self.target, todo):
            self._copy(shape(self.source, self.target, mapping))

    def await_live(self) -> None:
        """Until the worker has drained every mapping. Raises BackfillStalled, NotEnabled."""
        best: tuple[int, int] | None = None
        changed_at = time.monotonic()
        while True:
            found = _read(self.target, self.stream)
            pending = sum(item.pending for item in found)
            live = [item for item in found if item.sync == "live"]
            if len(live) == len(found):
                return
            if any(item.copy == "copied" and item.sync == "spool" for item in found):
                raise NotEnabled(domain=self.stream.domain.name)
            self._tell("draining", None, pending)
            # More mappings live, or fewer keys pending than ever before.
            if best is None or (len(live), -pending) > best:
                best, changed_at = (len(live), -pending), time.monotonic()
            seconds = time.monotonic() - changed_at
            if seconds > STALL_LIMIT_S:
                raise BackfillStalled(
                    domain=self.stream.domain.name, pending=pending, seconds=seconds
                )
            time.sleep(PAUSE_S)

    def _await_older_transactions(self) -> None:
        """What committed before the slot began may be invisible until its transaction has ended."""
        started = time.monotonic()
        while True:
            row = self.source.execute(HORIZON, (self.stream.name,)).fetchone()
            if row is None:
                raise NotEnabled(domain=self.stream.domain.name)
            if row[0]:
                return
            self._tell("waiting", None, 0)
            if time.monotonic() - started > HORIZON_LIMIT_S:
                raise TransactionsUnderWay(
                    stream=self.stream.name,
                    domain=self.stream.domain.name,
                    culprit=slots.oldest_transaction(self.source) or "gone by now",
                )
            time.sleep(PAUSE_S)

    def _copy(self, shape: Shape) -> None:
        mapping = shape.mapping.name
        self.target.execute(BEGIN_COPY, (self.stream.name, mapping))
        chunk.prepare_stage(self.target, shape)
        bases = chunk.bases(self.source, shape)
        while _again(lambda: self._chunk(shape, bases)):
            self._tell("copying", mapping, 0)
        _again(lambda: self._finish(mapping))

    def _chunk(self, shape: Shape, bases: list[chunk.Base]) -> bool:
        """One chunk, or the step to the next base table. False when nothing is left to do."""
        stream, mapping = self.stream.name, shape.mapping.name
        keys: list[Key] = []
        try:
            with self.target.transaction():
                control.mark(self.target, stream)
                state = _first(self.target.execute(STATE, (stream, mapping)))
                place = self.target.execute(PLACE, (stream, mapping)).fetchone()
                if state != "spool" or place is None:
                    return False
                number, last = _place(bases, place[0])
                if number == len(bases):
                    return False
                with self._snapshot():
                    before, base = bases[:number], bases[number]
                    found = chunk.next_keys(self.source, shape, base, before, last, CHUNK_KEYS)
                    keys = found.keys
                    rows = self._carry(shape, keys) if keys else 0
                following = (number, found.last) if keys else (number + 1, [])
                name = bases[following[0]].table if following[0] < len(bases) else None
                self.target.execute(
                    ADVANCE, (Jsonb({"source": name, "key": following[1]}), rows, stream, mapping)
                )
        except chunk.ROW_ERRORS as error:
            raise self._culprit(shape, keys, error) from error
        self.rows += rows
        return True

    def _carry(self, shape: Shape, keys: list[Key]) -> int:
        below = _first(self.target.execute(OWNER, (self.stream.domain.name,)))
        name = self.stream.name
        return chunk.carry(self.source, self.target, shape, name, keys, int(below or 0))

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        with self.source.transaction():
            self.source.execute(READ_ONLY)
            yield

    def _finish(self, mapping: str) -> bool:
        """The copy is whole: from now on the worker carries what waits."""
        with self.target.transaction():
            if self.target.execute(COPIED, (self.stream.name, mapping)).rowcount:
                self.target.execute(LET_GO, (self.stream.name, mapping))
        return True

    def _culprit(self, shape: Shape, keys: list[Key], error: psycopg.Error) -> chunk.RowNotCarried:
        """Halve the keys until one is left that fails by itself."""
        while len(keys) > 1:
            half = len(keys) // 2
            for part in (keys[:half], keys[half:]):
                failure = self._fails(shape, part)
                if failure is not None:
                    keys, error = part, failure
                    break
            else:
                break
        names = shape.mapping.key
        if len(keys) == 1:
            values = zip(names, keys[0], strict=True)
            where = ", ".join(f"{name} = {value}" for name, value in values)
        else:
            where = f"some {', '.join(names)}" + (f" of {len(keys)}" if keys else "")
        return chunk.RowNotCarried(
            mapping=shape.mapping.name,
            key=where,
            reason=" ".join((error.diag.message_primary or str(error)).split()),
            query=shape.mapping.config.query,
            domain=self.stream.domain.name,
        )

    def _fails(self, shape: Shape, keys: list[Key]) -> psycopg.Error | None:
        try:
            with self.target.transaction(force_rollback=True):
                control.mark(self.target, self.stream.name)
                with self._snapshot():
                    self._carry(shape, keys)
        except chunk.ROW_ERRORS as error:
            return error
        return None

    def _tell(self, doing: str, mapping: str | None, pending: int) -> None:
        self.on_progress(BackfillProgress(doing, mapping, self.rows, pending))


def parents_first(target: Connection, mappings: list[Mapping]) -> list[Mapping]:
    """Mappings in an order in which a row's parents come before it, as far as there is one."""
    by_table = {mapping.target: mapping for mapping in mappings}
    graph = {
        name: {
            foreign.referenced_table
            for foreign in catalog.table(target, name).foreign_keys
            if foreign.referenced_table in by_table and foreign.referenced_table != name
        }
        for name in by_table
    }
    try:
        return [by_table[name] for name in TopologicalSorter(graph).static_order()]
    except CycleError:
        # Parents that are missing send their children to the spool, which settles it.
        return mappings


def _place(bases: list[chunk.Base], stored: Any) -> tuple[int, list[str]]:
    """The base table to go on with, and the last key there; beyond the last one: all is copied."""
    if stored is None:
        return 0, []
    names = [base.table for base in bases]
    if stored["source"] in names:
        return names.index(stored["source"]), list(stored["key"])
    return len(bases), []


def _again(work: Callable[[], bool]) -> bool:
    """Once more after a deadlock or a lock that was not got in time; nothing was changed then."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return work()
        except AGAIN:
            if attempt == ATTEMPTS:
                raise
            time.sleep(PAUSE_S * attempt)
    raise AssertionError("unreachable")


def _first(cursor: psycopg.Cursor[Any]) -> Any:
    row = cursor.fetchone()
    return row[0] if row else None
