"""Copying the rows of a stream's mappings, chunk by chunk, each committed with its place."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from graphlib import CycleError, TopologicalSorter
from typing import Any, LiteralString

import psycopg
from psycopg.types.json import Jsonb

from estate import catalog
from estate.errors import ExitCode, SplitctlError, in_one_line
from migrator import chunk, control, slots
from migrator.mapping import Key, Mapping, Shape, Stream, shape

Connection = psycopg.Connection[Any]
Tell = Callable[[str, str | None, int], None]
CHUNK_KEYS = 5_000
HORIZON_LIMIT_S = 600.0
PAUSE_S = 0.1
ATTEMPTS = 5
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
BEGIN_COPY: LiteralString = """
UPDATE splitctl_sync.backfill SET state = 'copying', started_at = coalesce(started_at, now())
 WHERE stream = %s AND mapping = %s AND state = 'pending'
"""
LONG_WORK: LiteralString = "SET LOCAL statement_timeout = '15min'"
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

    def __init__(self, source: Connection, target: Connection, stream: Stream, tell: Tell) -> None:
        self.source, self.target, self.stream, self.tell = source, target, stream, tell
        self.rows = 0

    def copy(self, mappings: list[Mapping]) -> None:
        """Copy these, parents before children. Raises TransactionsUnderWay, RowNotCarried."""
        if mappings:
            self._await_older_transactions()
        for mapping in parents_first(self.target, mappings):
            self._copy(shape(self.source, self.target, mapping))

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

    def _copy(self, shape: Shape) -> None:
        mapping = shape.mapping.name
        _again(lambda: self._begin(shape))
        chunk.prepare_stage(self.target, shape)
        bases = chunk.bases(self.source, shape)
        while _again(lambda: self._chunk(shape, bases)):
            self.tell("copying", mapping, self.rows)
        _again(lambda: self._finish(mapping))

    def _begin(self, shape: Shape) -> bool:
        """What stands in the target already is not trusted: the worker will read it again."""
        stream, mapping = self.stream.name, shape.mapping.name
        with self.target.transaction():
            control.mark(self.target, stream)
            if self.target.execute(BEGIN_COPY, (stream, mapping)).rowcount:
                self.target.execute(LONG_WORK)
                chunk.spool_standing(self.target, shape, stream, self._new_below())
        return True

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
            reason=in_one_line(error.diag.message_primary or error),
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
