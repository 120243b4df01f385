"""Copying the rows of a stream's mappings, each the way that its target allows.

An empty table, of a domain of which the new side owns nothing, is filled without its keys. Any
other is copied in chunks that never overwrite, each committed with its place.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from graphlib import CycleError, TopologicalSorter
from typing import Any, LiteralString

import psycopg
from psycopg.types.json import Jsonb

from estate import catalog
from estate.config import BackfillConfig
from estate.errors import ExitCode, SplitctlError, in_one_line
from migrator import chunk, control, filling, ranges, setaside, slots
from migrator.building import Building
from migrator.filling import Filling
from migrator.mapping import Key, Mapping, Shape, Stream, shape
from migrator.ranges import Pace, Range
from migrator.throttle import Throttle

log = logging.getLogger(__name__)
Connection = psycopg.Connection[Any]
Tell = Callable[[str, str | None, int], None]
# The most keys of a chunk: they travel as parameters.
CHUNK_KEYS = 5_000
HORIZON_LIMIT_S = 600.0
PAUSE_S = 0.1
ATTEMPTS = 5
NOT_TO_BE_TAKEN = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.DependentObjectsStillExist,
    psycopg.errors.FeatureNotSupported,
)
AGAIN = (psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable)

HORIZON: LiteralString = """
SELECT pg_snapshot_xmin(pg_current_snapshot()) >= h.below
  FROM splitctl_sync.slot_horizon h WHERE h.stream = %s
"""
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
PENDING: LiteralString = """
SELECT 1 FROM splitctl_sync.backfill
 WHERE stream = %s AND mapping = %s AND state = 'pending' FOR UPDATE
"""
BEGIN_COPY: LiteralString = """
UPDATE splitctl_sync.backfill
   SET state = 'copying', way = %s, keys_total = %s, started_at = coalesce(started_at, now())
 WHERE stream = %s AND mapping = %s
"""
WAYS: LiteralString = """
SELECT mapping, way FROM splitctl_sync.backfill WHERE stream = %s AND state = 'copying'
"""
# An estimate; it is negative where nobody has ever counted.
KEYS_TOTAL: LiteralString = """
SELECT greatest(reltuples, 0)::bigint FROM pg_class
 WHERE oid = to_regclass(format('public.%%I', %s::text))
"""
FILLED: LiteralString = """
WITH done AS (
    DELETE FROM splitctl_sync.backfill_range r
     USING splitctl_sync.backfill b
     WHERE b.stream = %(stream)s AND b.mapping = %(mapping)s AND b.way = 'build'
       AND r.stream = b.stream AND r.mapping = b.mapping
    RETURNING r.mapping, r.rows, r.keys),
sums AS (SELECT mapping, sum(rows) AS rows, sum(keys) AS keys, count(*) AS chunks
           FROM done GROUP BY mapping)
UPDATE splitctl_sync.backfill b
   SET state = 'copied', finished_at = clock_timestamp(), rows = coalesce(s.rows, 0),
       keys = coalesce(s.keys, 0), chunks = coalesce(s.chunks, 0)
  FROM splitctl_sync.backfill o LEFT JOIN sums s USING (mapping)
 WHERE o.stream = %(stream)s AND o.mapping = %(mapping)s AND o.way = 'build'
   AND o.state = 'copying' AND b.stream = o.stream AND b.mapping = o.mapping
RETURNING b.mapping
"""
LONG_WORK: LiteralString = "SET LOCAL statement_timeout = '15min'"
READ_ONLY: LiteralString = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
ADVANCE: LiteralString = """
UPDATE splitctl_sync.backfill
   SET last_key = %s, rows = rows + %s, keys = keys + %s, chunks = chunks + 1
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


class TransactionsUnderWay(SplitctlError):
    """A transaction that is older than the slot of stream '{stream}' does not end: {culprit}.
    Nothing was copied, because its rows could be missed."""

    hint = "end it, then: splitctl backfill run {domain}"
    exit_code = ExitCode.PRECONDITION


class NotEnabled(SplitctlError):
    """Sync of domain '{domain}' is not enabled, so a backfill would miss what changes meanwhile."""

    hint = "splitctl sync enable {domain}"
    exit_code = ExitCode.PRECONDITION


class Copying:
    """One run over the mappings of a forward stream. `tell` hears of what is done, and the rows."""

    def __init__(
        self,
        source: Connection,
        target: Connection,
        stream: Stream,
        settings: BackfillConfig,
        throttle: Throttle,
        tell: Tell,
    ) -> None:
        self.source, self.target, self.stream, self.tell = source, target, stream, tell
        self._settings, self._throttle = settings, throttle
        self._seconds = settings.range.total_seconds()
        self.rows = 0

    def copy(self, mappings: list[Mapping]) -> None:
        """Copy these. Raises TransactionsUnderWay, RowNotCarried, BackfillPaused, WorkerSilent,
        NotRestored.

        None is let go before all are copied: keys and references stand only at the end.
        """
        if not mappings:
            return
        self._await_older_transactions()
        aside = setaside.parts(self.target, [self.stream.name])
        tables = {
            mapping.name: setaside.whole(self.target, mapping.target, aside) for mapping in mappings
        }
        ordered = parents_first(mappings, tables)
        shapes = [shape(self.source, self.target, m, tables[m.name]) for m in ordered]
        for item in shapes:
            _again(partial(self._begin, item))
        ways = dict(self.target.execute(WAYS, (self.stream.name,)).fetchall())
        filled = [item for item in shapes if ways.get(item.mapping.name) in ("fill", "build")]
        self._fill([item for item in filled if ways[item.mapping.name] == "fill"])
        for item in shapes:
            if ways.get(item.mapping.name) == "chunks":
                self._copy(item)
        if filled:
            Building(
                self.source, self.target, self.stream, filled, self._settings.workers, self._told
            ).run()
        for item in shapes:
            _again(partial(self._finish, item.mapping.name))

    def _told(self, doing: str, mapping: str | None) -> None:
        self.tell(doing, mapping, self.rows)

    def _fill(self, shapes: list[Shape]) -> None:
        prepare, stream = filling.prepare, self.stream
        fills = [prepare(self.source, self.target, stream, item, self._seconds) for item in shapes]
        work = Filling(stream, fills, self._settings, self._throttle, self._explain)
        try:
            work.run(self.tell)
        finally:
            self.rows += work.rows

    def _await_older_transactions(self) -> None:
        """What committed before the slot began may be invisible until its transaction has ended."""
        started = time.monotonic()
        while True:
            row = self.source.execute(HORIZON, (self.stream.name,)).fetchone()
            if row is None:
                raise NotEnabled(domain=self.stream.domain.name)
            if row[0]:
                return
            self.tell("waiting", None, self.rows)
            if time.monotonic() - started > HORIZON_LIMIT_S:
                raise TransactionsUnderWay(
                    stream=self.stream.name,
                    domain=self.stream.domain.name,
                    culprit=slots.oldest_transaction(self.source) or "gone by now",
                )
            time.sleep(PAUSE_S)

    def _begin(self, shape: Shape) -> bool:
        """Choose the way, once. What stands in the target already is not trusted: the worker will
        read it again."""
        stream, mapping = self.stream.name, shape.mapping.name
        with self.target.transaction():
            control.mark(self.target, stream)
            if self.target.execute(PENDING, (stream, mapping)).fetchone():
                base = chunk.bases(self.source, shape)[0]
                total = _first(self.source.execute(KEYS_TOTAL, (base.table,)))
                way = "fill" if self._set_aside(shape) else "chunks"
                self.target.execute(BEGIN_COPY, (way, total, stream, mapping))
                if way == "chunks":
                    self.target.execute(LONG_WORK)
                    chunk.spool_standing(self.target, shape, stream, self._new_below())
        return True

    def _set_aside(self, shape: Shape) -> bool:
        """Take the keys off the target if it can be filled without them."""
        name = shape.mapping.name
        if self._new_below() > 0:
            why: str | None = "the new side owns customers"
        elif not ranges.in_order(chunk.bases(self.source, shape)[0], shape):
            why = "its key is not ordered as in the base table"
        else:
            try:
                with self.target.transaction():
                    why = setaside.take(self.target, self.stream, name, shape.table)
            except NOT_TO_BE_TAKEN as error:
                why = in_one_line(error.diag.message_primary or error)
        if why:
            log.info("%s: copied in chunks: %s", name, why)
        return why is None

    def _copy(self, shape: Shape) -> None:
        mapping, pace = shape.mapping.name, Pace(self._seconds)
        chunk.prepare_stage(self.target, shape)
        bases = chunk.bases(self.source, shape)
        ends = [chunk.last_key(self.source, base) for base in bases]
        while _again(lambda: self._chunk(shape, bases, ends, pace)):
            self.tell("copying", mapping, self.rows)
            time.sleep(self._throttle.pause(self.source))

    def _chunk(
        self, shape: Shape, bases: list[chunk.Base], ends: list[Key | None], pace: Pace
    ) -> bool:
        """One chunk, or the step to the next base table. False when nothing is left to do."""
        stream, mapping = self.stream.name, shape.mapping.name
        keys: list[Key] = []
        started, most = time.monotonic(), min(pace.keys, CHUNK_KEYS)
        try:
            with self.target.transaction():
                control.mark(self.target, stream)
                filling.check_pause(self.target, self.stream)
                state = _first(self.target.execute(STATE, (stream, mapping)))
                place = self.target.execute(PLACE, (stream, mapping)).fetchone()
                if state != "spool" or place is None:
                    return False
                number, last = _place(bases, place[0])
                if number == len(bases):
                    return False
                with self._snapshot():
                    before, base = bases[:number], bases[number]
                    found = chunk.next_keys(
                        self.source, shape, base, before, last, most, ends[number]
                    )
                    keys = found.keys
                    rows = self._carry(shape, keys) if keys else 0
                following = (number, found.last) if keys else (number + 1, [])
                name = bases[following[0]].table if following[0] < len(bases) else None
                stored = Jsonb({"source": name, "key": following[1]})
                self.target.execute(ADVANCE, (stored, rows, len(keys), stream, mapping))
        except chunk.ROW_ERRORS as error:
            raise self._culprit(shape, keys, error) from error
        self.rows += rows
        if len(keys) == most:
            pace.took(most, time.monotonic() - started)
        return True

    def _carry(self, shape: Shape, keys: list[Key]) -> int:
        name, below = self.stream.name, self._new_below()
        return chunk.carry(self.source, self.target, shape, name, keys, below)

    def _new_below(self) -> int:
        """The buckets below it are the new side's; it stays so until this transaction ends."""
        return int(_first(self.target.execute(OWNER, (self.stream.domain.name,))) or 0)

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        with self.source.transaction():
            self.source.execute(READ_ONLY)
            yield

    def _finish(self, mapping: str) -> bool:
        """The copy is whole: from now on the worker carries what waits."""
        with self.target.transaction():
            control.mark(self.target, self.stream.name)
            named = {"stream": self.stream.name, "mapping": mapping}
            done = self.target.execute(FILLED, named).rowcount
            done += self.target.execute(COPIED, (self.stream.name, mapping)).rowcount
            if done:
                self.target.execute(LET_GO, (self.stream.name, mapping))
        return True

    def _explain(
        self,
        source: Connection,
        target: Connection,
        shape: Shape,
        part: Range,
        error: psycopg.Error,
    ) -> SplitctlError:
        """Name the row for which a range failed: by trying its keys, chunk after chunk."""
        other = Copying(
            source, target, self.stream, self._settings, self._throttle, lambda *_: None
        )
        chunk.prepare_stage(target, shape)
        base, last = chunk.bases(source, shape)[0], list(part.lower or ())
        while True:
            found = chunk.next_keys(source, shape, base, [], last, CHUNK_KEYS, part.upper)
            if not found.keys:
                return other._culprit(shape, [], error)
            failure = other._fails(shape, found.keys)
            if failure is not None:
                return other._culprit(shape, found.keys, failure)
            last = found.last

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
            reason=in_one_line(error.diag.message_primary or error),
            query=shape.mapping.config.query,
            domain=self.stream.domain.name,
        )

    def _fails(self, shape: Shape, keys: list[Key]) -> psycopg.Error | None:
        try:
            with self.target.transaction(force_rollback=True):
                control.mark(self.target, self.stream.name)
                self.target.execute(setaside.FILLING)
                with self._snapshot():
                    self._carry(shape, keys)
        except chunk.ROW_ERRORS as error:
            return error
        return None


def parents_first(mappings: list[Mapping], tables: dict[str, catalog.Table]) -> list[Mapping]:
    """Mappings in an order in which a row's parents come before it, as far as there is one.

    `tables` are their targets, by the mappings' names.
    """
    by_table = {mapping.target: mapping for mapping in mappings}
    graph = {
        mapping.target: {
            foreign.referenced_table
            for foreign in tables[mapping.name].foreign_keys
            if foreign.referenced_table in by_table and foreign.referenced_table != mapping.target
        }
        for mapping in mappings
    }
    try:
        return [by_table[name] for name in TopologicalSorter(graph).static_order()]
    except CycleError:
        # Parents that are missing send their children to the spool, which settles it.
        return mappings


def _place(bases: list[chunk.Base], stored: Any) -> tuple[int, list[str]]:
    """The base table to go on with, and the last key there; beyond the last one: all is copied."""
    names = [base.table for base in bases]
    if stored is not None and stored["source"] is None:
        return len(bases), []
    if stored is None or stored["source"] not in names:
        return 0, []
    return names.index(stored["source"]), list(stored["key"])


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
