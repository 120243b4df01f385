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
from typing import Any, LiteralString

import psycopg

from estate.config import Config
from estate.connections import connect
from estate.errors import ExitCode, SplitctlError
from migrator import control, slots
from migrator.copying import Copying, NotEnabled
from migrator.mapping import Stream, streams

Connection = psycopg.Connection[Any]
# The worker gets this long to make no headway at all before we say that it does not run.
STALL_LIMIT_S = 60.0
LOCK_LIMIT_S = 10.0
PAUSE_S = 0.1
TELL_EVERY_S = 1.0

LOCK: LiteralString = "SELECT pg_try_advisory_lock(hashtextextended('splitctl backfill ' || %s, 0))"
UNLOCK: LiteralString = "SELECT pg_advisory_unlock(hashtextextended('splitctl backfill ' || %s, 0))"
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

    @property
    def next_command(self) -> str:
        """Prove it."""
        return f"splitctl verify run --domain {self.domain}"


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
        tell = _Teller(on_progress)
        done = {item.mapping for item in _read(target, stream) if item.copy == "copied"}
        work = Copying(source, target, stream, tell)
        work.copy([mapping for mapping in stream.mappings if mapping.name not in done])
        _await_live(target, stream, work.rows, tell)
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


def _await_live(target: Connection, stream: Stream, rows: int, tell: "_Teller") -> None:
    """Until the worker has drained every mapping. Raises BackfillStalled, NotEnabled."""
    best: tuple[int, int] | None = None
    changed_at = time.monotonic()
    while True:
        found = _read(target, stream)
        pending = sum(item.pending for item in found)
        live = [item for item in found if item.sync == "live"]
        if len(live) == len(found):
            return
        if any(item.copy == "copied" and item.sync == "spool" for item in found):
            raise NotEnabled(domain=stream.domain.name)
        tell("draining", None, rows, pending)
        # More mappings live, or fewer keys pending than ever before.
        if best is None or (len(live), -pending) > best:
            best, changed_at = (len(live), -pending), time.monotonic()
        seconds = time.monotonic() - changed_at
        if seconds > STALL_LIMIT_S:
            raise BackfillStalled(domain=stream.domain.name, pending=pending, seconds=seconds)
        time.sleep(PAUSE_S)


class _Teller:
    """Tells each new thing at once, and the same thing once a second."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._told: tuple[str, str | None] | None = None
        self._told_at = 0.0

    def __call__(self, doing: str, mapping: str | None, rows: int, pending: int = 0) -> None:
        now = time.monotonic()
        if self._told == (doing, mapping) and now - self._told_at < TELL_EVERY_S:
            return
        self._told, self._told_at = (doing, mapping), now
        self._on_progress(BackfillProgress(doing, mapping, rows, pending))


def _first(cursor: psycopg.Cursor[Any]) -> Any:
    row = cursor.fetchone()
    return row[0] if row else None
