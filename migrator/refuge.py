"""A stream without its target: what changes is kept in the ledger, and the source's log can go.

While the target answers, nothing here runs. Only one process can read a slot; whoever else tries
stands by.
"""

import threading
import time
from contextlib import ExitStack, closing
from typing import LiteralString

import psycopg

from estate.config import DatabaseConfig
from estate.connections import DatabaseUnreachable, connect
from estate.errors import ExitCode, SplitctlError, in_one_line
from migrator import kept, publication, slots
from migrator import statements as s
from migrator.capture import Capture
from migrator.changes import Batch, Collector
from migrator.kept import TakenBack
from migrator.mapping import Stream
from migrator.pgoutput import lsn_number
from migrator.reading import read
from migrator.replication import Reader, ReplicationEnded, SlotBusy, System
from migrator.stream_health import StreamHealth

IDLE_S = 0.1
HEARTBEAT_S = 1.0
LOOK_S = 1.0
# Whoever takes it can be written to again, which a standby or a full disk cannot.
PROBE: LiteralString = "SELECT pg_logical_emit_message(true, 'splitctl.look', '')"


class NoRefuge(SplitctlError):
    """The target of stream '{stream}' is away, and its changed keys find no refuge in the ledger
    ({reason}). Nothing is lost: until then the source keeps its log, and its disk fills."""

    hint = "splitctl doctor"
    exit_code = ExitCode.PRECONDITION


def take_refuge(
    stream: Stream, health: StreamHealth, stop: threading.Event, absence: "Absence"
) -> None:
    """Keep what changes in the ledger until the target answers, or `stop` is set.

    Raises NoRefuge, SlotBusy when another worker reads the slot, TakenBack, StreamStopped, or what
    ends a connection.
    """
    try:
        refuge = Refuge(stream, health)
    except SlotBusy:
        raise
    except (SplitctlError, psycopg.Error) as error:
        raise NoRefuge(stream=stream.name, reason=in_one_line(error)) from error
    with closing(refuge):
        health.turn("refuge", absence.reason)
        try:
            refuge.run(stop)
        except TakenBack:
            # The target answers, if not to us: whoever it answers to goes first.
            absence.ended()
            raise


def answers(database: DatabaseConfig) -> bool:
    """Whether something can be committed there now."""
    try:
        with connect(database, "look") as connection:
            connection.execute(PROBE)
    except (DatabaseUnreachable, psycopg.Error):
        return False
    except SplitctlError:
        # It answered: our own connections are all taken, for example.
        return True
    return True


def _names(error: Exception, database: DatabaseConfig) -> bool:
    return isinstance(error, DatabaseUnreachable) and error.facts["database"] == database.name


class Absence:
    """Since when a target has been away, as far as one stream's thread has found out.

    `reason` is what it last found.
    """

    def __init__(self, target: DatabaseConfig, patience_s: float) -> None:
        self._target, self._patience_s = target, patience_s
        self._since: float | None = None
        self.reason = ""

    def ended(self) -> None:
        """It has answered."""
        self._since = None

    def is_long(self, error: Exception) -> bool:
        """Look again after this error of a session: has it been away for long enough?"""
        now, self.reason = time.monotonic(), in_one_line(error)
        # A lost connection, a full disk, or something else altogether: only asking helps.
        if not _names(error, self._target) and answers(self._target):
            self._since = None
        elif self._since is None:
            self._since = now
        return self._since is not None and now - self._since >= self._patience_s


class Refuge:
    """One stay, from the slot to the target's return. `close` lets go of the slot."""

    def __init__(self, stream: Stream, health: StreamHealth) -> None:
        self._stream, self._health = stream, health
        self._next_heartbeat = 0.0
        self._stack = ExitStack()
        try:
            purpose = f"refuge {stream.name}"
            self._source = self._stack.enter_context(connect(stream.source, purpose))
            reader = Reader(stream.source, f"log {stream.name}")
            names = publication.check(self._source, stream)
            self._capture = Capture(reader, Collector(stream), names)
            self._stack.callback(self._capture.close)
            self._system = reader.system()
            ends = reader.timeline_ends(self._system.timeline)
            reader.start(stream.slot, stream.publication, self._confirmed())
            # Asked again: until the slot was ours, another could move it.
            self._since = self._confirmed()
            reader.confirm(self._since)
            kept.prepare(stream)
            ledger = connect(stream.ledger, f"refuge {stream.name}")
            self._ledger = self._stack.enter_context(ledger)
            self._settle_in(ends)
            self._capture.start()
        except BaseException:
            self._stack.close()
            raise

    def close(self) -> None:
        """End all connections; the slot is free afterwards."""
        self._stack.close()

    def run(self, stop: threading.Event) -> None:
        """Keep what changes until the target answers, or `stop` is set."""
        returned = _looking_out(self._stream.target, stop)
        try:
            while not (stop.is_set() or returned.is_set()):
                batch = self._capture.take(IDLE_S)
                if batch is not None:
                    self._keep(batch)
                self._tick()
        finally:
            returned.set()

    def _confirmed(self) -> int:
        slot = slots.find(self._source, self._stream.slot)
        if slot is None:
            reason = f"the slot {self._stream.slot} is gone"
            raise ReplicationEnded(database=self._stream.source.name, reason=reason)
        return lsn_number(slot.lsn)

    def _settle_in(self, ends: dict[int, int]) -> None:
        """Go on with what is held, if it leads up to here; otherwise hold anew from here on."""
        name, held = self._stream.name, kept.find(self._ledger, self._stream.name)
        if held and held.covers(self._since, self._since) and _same(self._system, ends, held):
            kept.go_on(self._ledger, name, self._system)
        else:
            kept.begin(self._ledger, name, self._system, self._since)
        self._health.refuge = kept.count(self._ledger, name)

    def _keep(self, batch: Batch) -> None:
        # Whoever reads these keys later, on the target's return, must see their change (law L3).
        read(self._source, self._stream.opposite, {}, batch.xids)
        kept.keep(self._ledger, self._stream.name, self._system, self._since, batch)
        if not batch.part:
            self._since = batch.lsn
            self._capture.confirm(batch.lsn)

    def _tick(self) -> None:
        now = time.monotonic()
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + HEARTBEAT_S
            # Where nothing changes, the log of everything else must go too.
            publication.check(self._source, self._stream)
            self._source.execute(s.HEARTBEAT, (self._stream.name,))
            self._health.refuge = kept.count(self._ledger, self._stream.name)
            self._health.lag_bytes = max(self._capture.wal_end - self._since, 0)


def _same(system: System, ends: dict[int, int], held: kept.Kept) -> bool:
    """Whether what was held was read on this server, and on a timeline that leads to this one."""
    if system.system_id != held.system_id:
        return False
    return system.timeline == held.timeline or held.end <= ends.get(held.timeline, -1)


def _looking_out(target: DatabaseConfig, stop: threading.Event) -> threading.Event:
    """Set when the target answers; whoever sets it before ends the looking out.

    In a thread of its own: a silent server takes its time, and the log must be read meanwhile.
    """
    returned = threading.Event()

    def look() -> None:
        while not (stop.is_set() or returned.wait(LOOK_S)):
            if answers(target):
                returned.set()

    threading.Thread(target=look, name=f"look-out {target.name}", daemon=True).start()
    return returned
