"""Filling empty tables that have no keys: ranges of driving keys, several at a time.

A range is one source snapshot, one COPY and one target transaction, in which the range is written
down as done. Whatever dies, dies with the ranges that were not finished, and exactly those are
copied again.
"""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from estate.config import BackfillConfig
from estate.connections import connect
from estate.errors import ExitCode, SplitctlError
from migrator import chunk, control, setaside
from migrator import fragments as f
from migrator.mapping import Shape, Stream, in_binary, query
from migrator.piping import pipe
from migrator.ranges import Bounds, Pace, Range, missing
from migrator.throttle import Throttle

Connection = psycopg.Connection[Any]
ATTEMPTS = 5
PAUSE_S = 0.1
AGAIN = (psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable)

DONE: LiteralString = """
SELECT number, lower_key, upper_key FROM splitctl_sync.backfill_range
 WHERE stream = %s AND mapping = %s ORDER BY number
"""
NOTE: LiteralString = """
INSERT INTO splitctl_sync.backfill_range (stream, mapping, number, lower_key, upper_key, keys, rows)
VALUES (%s, %s, %s, %s, %s, %s, %s)
"""
# Shared: whoever takes the copy back, switches the owner or lets the mapping go live waits for the
# ranges that are under way.
ALLOWED: LiteralString = """
SELECT b.state = 'copying' AND b.way = 'fill' AND m.state = 'spool'
  FROM splitctl_sync.backfill b JOIN splitctl_sync.mapping_state m USING (stream, mapping)
 WHERE b.stream = %s AND b.mapping = %s FOR SHARE
"""
OWNER: LiteralString = "SELECT new_below FROM splitctl_sync.owner WHERE domain = %s FOR SHARE"
PAUSED: LiteralString = """
SELECT paused_at IS NOT NULL FROM splitctl_sync.backfill_control WHERE stream = %s
"""
READ_ONLY: LiteralString = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
# Both ends of a pipe speak the same; a range may take long where its source is slow.
SESSION: LiteralString = (
    "SELECT set_config('client_encoding', 'UTF8', false),"
    " set_config('statement_timeout', '1h', false), set_config('jit', 'off', false)"
)
OUT = sql.SQL("COPY (SELECT {columns} FROM (\n{query}\n) q WHERE {condition}) TO STDOUT{format}")
INTO = sql.SQL("COPY {table} ({columns}) FROM STDIN{format}")
BINARY = sql.SQL(" (FORMAT binary)")

Failure = Callable[[Connection, Connection, Shape, Range, psycopg.Error], SplitctlError]


class Withdrawn(SplitctlError):
    """The copy of mapping '{mapping}' was taken back while it ran (a teardown, or a new owner)."""

    hint = "splitctl backfill status"
    exit_code = ExitCode.PRECONDITION


class BackfillPaused(SplitctlError):
    """The backfill of domain '{domain}' is paused. What was copied stays, and changed keys are
    kept meanwhile."""

    hint = "splitctl backfill resume {domain}, then: splitctl backfill run {domain}"
    exit_code = ExitCode.IN_PROGRESS


@dataclass
class Fill:
    """A mapping whose empty table is filled: what is left of it to hand out."""

    shape: Shape
    bounds: Bounds
    pace: Pace
    gaps: list[Range]
    rest: Range | None
    working: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        """The mapping's name."""
        return self.shape.mapping.name

    @property
    def left(self) -> bool:
        """Whether any range can still be taken."""
        return bool(self.gaps) or self.rest is not None

    def next(self, source: Connection) -> tuple[Range, int] | None:
        """The next range, and how many keys it was asked to have. None when all are taken."""
        with self.lock:
            if self.gaps:
                return self.gaps.pop(0), self.pace.keys
            if self.rest is None:
                return None
            rest, keys = self.rest, self.pace.keys
            end = self.bounds.end(source, rest.lower, keys)
            self.rest = None if end is None else Range(rest.number + 1, end, None)
            return Range(rest.number, rest.lower, end), keys


def prepare(source: Connection, target: Connection, stream: Stream, shape: Shape, s: float) -> Fill:
    """Look what is done of a mapping, and what is left. `s`: seconds that a range should take."""
    rows = target.execute(DONE, (stream.name, shape.mapping.name)).fetchall()
    done = [Range(int(row[0]), _key(row[1]), _key(row[2])) for row in rows]
    gaps, rest = missing(done)
    bounds = Bounds(source, shape, chunk.bases(source, shape)[0])
    return Fill(shape, bounds, Pace(s), gaps, rest)


def _key(stored: Any) -> tuple[str, ...] | None:
    return None if stored is None else tuple(stored)


class Filling:
    """One run over the tables that are filled, by several workers. `rows` were copied so far.

    `explain` turns the error of a range into one that names the row.
    """

    def __init__(
        self,
        stream: Stream,
        fills: list[Fill],
        settings: BackfillConfig,
        throttle: Throttle,
        explain: Failure,
    ) -> None:
        self._stream, self._fills, self._settings = stream, fills, settings
        self._throttle, self._explain = throttle, explain
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.rows = 0

    def run(self, tell: Callable[[str, str | None, int], None]) -> None:
        """Copy all that is left. Raises RowNotCarried, BackfillPaused, Withdrawn, or what a server
        says; the ranges under way are finished or left out whole."""
        if not any(fill.left for fill in self._fills):
            return
        with ThreadPoolExecutor(self._settings.workers, "backfill") as pool:
            futures = {pool.submit(self._work) for _ in range(self._settings.workers)}
            try:
                while futures:
                    done, futures = wait(futures, PAUSE_S, FIRST_COMPLETED)
                    for future in done:
                        future.result()
                    tell("copying", self._busy(), self.rows)
            finally:
                self._stop.set()

    def _busy(self) -> str | None:
        return next((fill.name for fill in self._fills if fill.working), None)

    def _work(self) -> None:
        with ExitStack() as stack:
            source = stack.enter_context(connect(self._stream.source, "backfill copy"))
            target = stack.enter_context(connect(self._stream.target, "backfill copy"))
            for connection in (source, target):
                connection.execute(SESSION)
            while not self._stop.is_set():
                fill = self._choose()
                if fill is None:
                    return
                try:
                    self._one(source, target, fill)
                finally:
                    with self._lock:
                        fill.working -= 1
                self._stop.wait(self._throttle.pause(source))

    def _choose(self) -> Fill | None:
        """The table at which the fewest are working: two that write to one wait for each other."""
        with self._lock:
            left = [fill for fill in self._fills if fill.left]
            if not left:
                return None
            fill = min(left, key=lambda fill: fill.working)
            fill.working += 1
            return fill

    def _one(self, source: Connection, target: Connection, fill: Fill) -> None:
        given = fill.next(source)
        if given is None:
            return
        part, keys = given
        started = time.monotonic()
        try:
            rows = self._patiently(source, target, fill, part, keys)
        except chunk.ROW_ERRORS as error:
            raise self._explain(source, target, fill.shape, part, error) from error
        with self._lock:
            self.rows += rows
        if part.upper is not None:
            fill.pace.took(keys, time.monotonic() - started)

    def _patiently(
        self, source: Connection, target: Connection, fill: Fill, part: Range, keys: int
    ) -> int:
        """Once more after a deadlock or a lock that was not got in time; nothing was changed."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._copy(source, target, fill, part, keys)
            except AGAIN:
                if attempt == ATTEMPTS:
                    raise
                self._stop.wait(PAUSE_S * attempt)
        raise AssertionError("unreachable")

    def _copy(
        self, source: Connection, target: Connection, fill: Fill, part: Range, keys: int
    ) -> int:
        name = self._stream.name
        with target.transaction():
            control.mark(target, name)
            target.execute(setaside.FILLING)
            self._check(target, fill)
            with source.transaction():
                source.execute(READ_ONLY)
                out, into = statements(fill.shape, fill.bounds, part)
                rows, size = pipe(source, target, _sent(source, out), _sent(target, into))
            fill.pace.weighed(keys, rows, size)
            bounds = [None if key is None else json.dumps(key) for key in (part.lower, part.upper)]
            target.execute(NOTE, (name, fill.name, part.number, *bounds, keys, rows))
        return rows

    def _check(self, target: Connection, fill: Fill) -> None:
        name, domain = self._stream.name, self._stream.domain.name
        check_pause(target, self._stream)
        allowed = target.execute(ALLOWED, (name, fill.name)).fetchone()
        owner = target.execute(OWNER, (domain,)).fetchone()
        if not (allowed and allowed[0]) or (owner and owner[0]):
            raise Withdrawn(mapping=fill.name)


def check_pause(target: Connection, stream: Stream) -> None:
    """Raise BackfillPaused when somebody asked for it."""
    paused = target.execute(PAUSED, (stream.name,)).fetchone()
    if paused and paused[0]:
        raise BackfillPaused(domain=stream.domain.name)


def statements(shape: Shape, bounds: Bounds, part: Range) -> tuple[sql.Composed, sql.Composed]:
    """COPY out of the source and COPY into the target, for one range.

    Without the route: everything is the old side's, and the source need not look it up.
    """
    form, columns = sql.SQL(""), f.texts_of("q", shape.columns, shape.casts)
    if in_binary(shape):
        form, columns = BINARY, f.casts_of("q", shape.columns, shape.casts)
    out = OUT.format(
        columns=columns, query=query(shape.mapping), condition=bounds.within(part), format=form
    )
    names = f.listed(map(f.identifier, shape.columns))
    return out, INTO.format(table=f.table(shape.table.name), columns=names, format=form)


def _sent(connection: Connection, statement: sql.Composed) -> bytes:
    """A statement that is written to be executed with parameters, as the server gets it."""
    return psycopg.ClientCursor(connection).mogrify(statement, ()).encode()
