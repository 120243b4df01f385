"""The copy of what was there before sync began: forward, in ranges or chunks of driving keys.

Slot first, then the wait for every transaction that was under way, then the copy. While a mapping
is copied, its changed keys go to the spool; afterwards the sync worker drains them and goes live.
What is copied and how far it is commit together, so a killed run goes on where it was.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, LiteralString

import psycopg

from estate.config import Config
from estate.connections import connect
from estate.errors import ExitCode, SplitctlError
from migrator import control, filling, slots
from migrator.copying import Copying, NotEnabled
from migrator.mapping import Stream, streams
from migrator.throttle import Throttle

Connection = psycopg.Connection[Any]
# The worker gets this long to make no headway at all before we say that it does not run.
STALL_LIMIT_S = 60.0
LOCK_LIMIT_S = 10.0
PAUSE_S = 0.1
TELL_EVERY_S = 1.0

LOCK: LiteralString = "SELECT pg_try_advisory_lock(hashtextextended('splitctl backfill ' || %s, 0))"
UNLOCK: LiteralString = "SELECT pg_advisory_unlock(hashtextextended('splitctl backfill ' || %s, 0))"
# Rows and keys of ranges count before their mapping is copied; a recent rate tells more than the
# whole time's, which may hold pauses.
STATUS: LiteralString = """
WITH done AS (
    SELECT mapping, sum(rows)::bigint AS rows, sum(keys)::bigint AS keys, count(*) AS ranges,
           (sum(rows) FILTER (WHERE recent))::bigint AS recent_rows,
           (sum(keys) FILTER (WHERE recent))::bigint AS recent_keys
      FROM (SELECT *, finished_at > now() - %(recent)s * interval '1 second' AS recent
              FROM splitctl_sync.backfill_range WHERE stream = %(stream)s) r GROUP BY mapping)
SELECT b.mapping,
       CASE WHEN b.state = 'copying' AND b.way = 'build' THEN 'building' ELSE b.state END,
       coalesce(m.state, 'spool'), b.rows + coalesce(d.rows, 0), b.chunks + coalesce(d.ranges, 0),
       b.started_at, b.finished_at,
       (SELECT count(*) FROM splitctl_sync.spool s
         WHERE s.stream = b.stream AND s.mapping = b.mapping)
     + (SELECT count(*) FROM splitctl_sync.waiting w
         WHERE w.stream = b.stream AND w.mapping = b.mapping),
       b.keys + coalesce(d.keys, 0), b.keys_total, d.recent_rows, d.recent_keys,
       extract(epoch FROM coalesce(b.finished_at, now()) - b.started_at)::float8,
       c.paused_at IS NOT NULL,
       c.throttled_by
  FROM splitctl_sync.backfill b
  LEFT JOIN splitctl_sync.mapping_state m USING (stream, mapping)
  LEFT JOIN splitctl_sync.backfill_control c USING (stream)
  LEFT JOIN done d ON d.mapping = b.mapping
 WHERE b.stream = %(stream)s ORDER BY b.started_at NULLS LAST, b.mapping
"""
RECENT_S = 30.0
# It is not done before it is copied, whatever the estimate says.
NEARLY = 0.99
PAUSE: LiteralString = """
INSERT INTO splitctl_sync.backfill_control AS c (stream, paused_at) VALUES (%s, now())
ON CONFLICT (stream) DO UPDATE SET paused_at = coalesce(c.paused_at, excluded.paused_at)
"""
RESUME: LiteralString = """
UPDATE splitctl_sync.backfill_control SET paused_at = NULL
 WHERE stream = %s AND paused_at IS NOT NULL
"""
THROTTLED: LiteralString = """
INSERT INTO splitctl_sync.backfill_control AS c (stream, throttled_by, told_at)
VALUES (%s, %s, now())
ON CONFLICT (stream) DO UPDATE SET throttled_by = excluded.throttled_by, told_at = excluded.told_at
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
    """The copy of one mapping. `copy` is pending, copying, building (its keys) or copied; `sync`
    spool, drain or live.

    `pending` counts changed keys that wait. Times are UTC. `done` is an estimated share, `eta_s`
    seconds until the last row by the recent rate. `held_by`: a pause, or what slows it down.
    """

    mapping: str
    copy: str
    sync: str
    rows: int
    chunks: int
    started_at: datetime | None
    finished_at: datetime | None
    pending: int
    rows_per_s: float | None = None
    done: float | None = None
    eta_s: float | None = None
    held_by: str | None = None


@dataclass(frozen=True)
class BackfillProgress:
    """What is being done: `waiting` for transactions, `copying` a mapping, `decoding` the log up to
    the copy's end, `building` keys, or `draining`. `held_by` says why it goes slowly."""

    doing: str
    mapping: str | None
    rows: int
    pending: int
    held_by: str | None = None


@dataclass(frozen=True)
class Paused:
    """What `pause` or `resume` found: whether it changed anything, and which copies it concerns."""

    domain: str
    paused: bool
    changed: bool
    mappings: tuple[str, ...]

    @property
    def next_command(self) -> str:
        """The way on."""
        verb = "resume" if self.paused else "run"
        return f"splitctl backfill {verb} {self.domain}"


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
    last part. Raises NotEnabled, TransactionsUnderWay, BackfillRunning, BackfillPaused,
    RowNotCarried, WorkerSilent, NotRestored, BackfillStalled.
    """
    started = time.monotonic()
    stream = streams(config, domain)[0]
    with ExitStack() as stack:
        source = stack.enter_context(connect(stream.source, "backfill"))
        target = stack.enter_context(connect(stream.target, "backfill"))
        if slots.find(source, stream.slot) is None or not control.installed(target):
            raise NotEnabled(domain=domain)
        stack.enter_context(_alone(target, stream))
        control.bring_up(target)
        throttle = Throttle(source, config.backfill)
        tell = _Teller(on_progress, throttle, target, stream.name)
        stack.callback(_forget_reason, target, stream.name)
        filling.check_pause(target, stream)
        done = {item.mapping for item in _read(target, stream) if item.copy == "copied"}
        work = Copying(source, target, stream, config.backfill, throttle, tell)
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


def pause(config: Config, domain: str) -> Paused:
    """Let a running backfill stop after its present ranges; it stays so until `resume`.

    Raises NotEnabled, DatabaseUnreachable.
    """
    return _set_paused(config, domain, PAUSE, paused=True)


def resume(config: Config, domain: str) -> Paused:
    """Take the pause back. The copy goes on with `run`. Raises NotEnabled, DatabaseUnreachable."""
    return _set_paused(config, domain, RESUME, paused=False)


def _set_paused(config: Config, domain: str, statement: LiteralString, *, paused: bool) -> Paused:
    stream = streams(config, domain)[0]
    with connect(stream.target, "backfill pause") as target:
        if not control.installed(target):
            raise NotEnabled(domain=domain)
        control.bring_up(target)
        changed = target.execute(statement, (stream.name,)).rowcount > 0
        left = tuple(item.mapping for item in _read(target, stream) if item.copy != "copied")
    return Paused(domain, paused, changed, left)


def _read(target: Connection, stream: Stream) -> list[MappingBackfill]:
    rows = target.execute(STATUS, {"stream": stream.name, "recent": RECENT_S}).fetchall()
    return [_mapping(*row) for row in rows]


def _mapping(*row: Any) -> MappingBackfill:
    keys, total, recent_rows, recent_keys, elapsed, paused, throttled = row[8:]
    told = MappingBackfill(*row[:8])
    if told.copy == "pending" or elapsed is None:
        return replace(told, held_by="paused" if paused else None)
    seconds = max(float(elapsed), 0.001)
    if told.copy != "copying":
        rate = told.rows / seconds if told.copy == "copied" else None
        return replace(told, rows_per_s=rate, done=1.0)
    lately = min(seconds, RECENT_S)
    rows_per_s = float(recent_rows) / lately if recent_rows else told.rows / seconds
    keys_per_s = float(recent_keys) / lately if recent_keys else float(keys) / seconds
    done = min(float(keys) / total, NEARLY) if total else None
    eta = max(total - float(keys), 0) / keys_per_s if total and keys_per_s else None
    held = "paused" if paused else throttled
    return replace(told, rows_per_s=rows_per_s, done=done, eta_s=eta, held_by=held)


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


def _forget_reason(target: Connection, stream: str) -> None:
    """A run that has ended is not slowed down; what a killed one left, the next forgets."""
    if not target.closed:
        target.execute(THROTTLED, (stream, None))


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
    """Tells each new thing at once, and the same thing once a second.

    What slows the copy down is written into the target too: `status` asks there.
    """

    def __init__(
        self, on_progress: OnProgress, throttle: Throttle, target: Connection, stream: str
    ) -> None:
        self._on_progress, self._throttle = on_progress, throttle
        self._target, self._stream = target, stream
        self._told: tuple[str, str | None] | None = None
        self._told_at = 0.0
        self._held: str | None = None

    def __call__(self, doing: str, mapping: str | None, rows: int, pending: int = 0) -> None:
        now = time.monotonic()
        if self._told == (doing, mapping) and now - self._told_at < TELL_EVERY_S:
            return
        self._told, self._told_at = (doing, mapping), now
        held = self._throttle.reason if doing == "copying" else None
        self.note(held)
        self._on_progress(BackfillProgress(doing, mapping, rows, pending, held))

    def note(self, held: str | None) -> None:
        """Write down what holds the copy up, or that nothing does."""
        if held != self._held:
            self._held = held
            self._target.execute(THROTTLED, (self._stream, held))


def _first(cursor: psycopg.Cursor[Any]) -> Any:
    row = cursor.fetchone()
    return row[0] if row else None
