"""One stream, connected: from the claim to the last position, in one thread."""

import gc
import logging
import threading
import time
from contextlib import ExitStack, suppress
from itertools import cycle
from typing import LiteralString

from estate.connections import connect
from estate.errors import ExitCode, SplitctlError
from migrator import control, kept, ownership, publication
from migrator import statements as s
from migrator.apply import Applier, Leaving, Outcome
from migrator.capture import Capture
from migrator.changes import Batch, Collector, StreamStopped
from migrator.health import Board
from migrator.mapping import Stream, other
from migrator.pace import Gathering, Pace
from migrator.pgoutput import lsn_number, lsn_text
from migrator.replication import Reader, System
from migrator.watch import Watch

log = logging.getLogger(__name__)
IDLE_S = 0.1
HEARTBEAT_S = 1.0
RETRY_EVERY_S = 0.05
# The pause before a key is tried again: the first, and the longest.
UNWRITABLE_S = (1.0, 60.0)
OTHERS_S = (0.05, 0.5)
RETRY_KEYS = 1_000

PROGRESS: LiteralString = "SELECT worker_epoch FROM splitctl_sync.progress WHERE stream = %s"
LOCK: LiteralString = "SELECT pg_try_advisory_lock(hashtextextended('splitctl stream ' || %s, 0))"
TAKE_OVER: LiteralString = """
UPDATE splitctl_sync.progress SET worker_epoch = worker_epoch + 1 WHERE stream = %s
RETURNING worker_epoch, system_id, timeline, lsn::text
"""
MOVE_TIMELINE: LiteralString = (
    "UPDATE splitctl_sync.progress SET timeline = %s WHERE stream = %s AND worker_epoch = %s"
)
SLOT: LiteralString = """
SELECT confirmed_flush_lsn::text, wal_status FROM pg_replication_slots
 WHERE slot_name = %s AND database = current_database()
"""
# Tables are small when a split begins, and plans made then would stay: plan anew each time.
SETTINGS: LiteralString = (
    "SELECT set_config('plan_cache_mode', 'force_custom_plan', false),"
    " set_config('jit', 'off', false)"
)
PREPARED_STATEMENTS = 1_000


class NotEnabled(SplitctlError):
    """Sync of stream '{stream}' is not enabled."""

    hint = "splitctl sync enable {domain}"
    exit_code = ExitCode.PRECONDITION


class Standby(SplitctlError):
    """Another worker carries stream '{stream}'."""

    hint = "splitctl sync status"
    exit_code = ExitCode.PRECONDITION


class SlotMissing(StreamStopped):
    """Stream '{stream}' stops: its slot {slot} on the source is {state}, so changes may be lost."""

    hint = "splitctl sync teardown {domain}, then enable and backfill it anew"


class PositionLost(StreamStopped):
    """Stream '{stream}' stops: its target stands at {stored}, but the slot was confirmed up to
    {confirmed}. The target has lost commits (a failover, most likely), and what lies between
    cannot be read again."""

    hint = "splitctl sync teardown {domain}, then enable, backfill and verify anew"


class SlotMoved(SplitctlError):
    """Stream '{stream}' begins anew: another worker confirmed {confirmed} meanwhile, because the
    target was away for it. What it kept is in the ledger."""

    hint = "splitctl sync status"
    exit_code = ExitCode.PRECONDITION


class OtherServer(StreamStopped):
    """Stream '{stream}' stops: its source is not the server it was read from ({why}), so the
    stored position {stored} means nothing there."""

    hint = "splitctl sync teardown {domain}, then enable, backfill and verify anew"


class Session:
    """A stream's life between connecting and the first error or the end.

    Opens two ordinary connections, one for the log, and two for each of the `appliers` when there
    is much to write; `close` ends them. `epoch` is the worker's claim on the target's position.
    """

    def __init__(self, stream: Stream, board: Board, appliers: int) -> None:
        self._stream, self._board, self._listener = stream, board, board.listener
        self._health = board.streams[stream.name]
        self._opposite = board.streams[stream.opposite]
        self._watch = Watch(stream.name, stream.slot, stream.source.wal_disk)
        self._told = 0
        self._retried_at: int | None = None
        self._owner: ownership.Ownership | None = None
        self._owners_agree = False
        self._looked: int | None = None
        chores = (
            self._beat,
            self._check_publication,
            self._count_spooled,
            self._publish,
            self._settle,
            self._heed_owner,
            self._forget,
            self._read_horizon,
            self._watch_log,
        )
        # Each of them once a second.
        self._chores, self._chore_every_s = cycle(chores), HEARTBEAT_S / len(chores)
        self._next_chore = self._next_retry = self._next_states = 0.0
        self._pace = Pace(time.monotonic())
        self._stop = threading.Event()
        self._stack = ExitStack()
        try:
            purpose = f"sync {stream.name}"
            self._target = self._stack.enter_context(connect(stream.target, purpose))
            self._claim_lock()
            self._source = self._stack.enter_context(connect(stream.source, purpose))
            for connection in (self._target, self._source):
                connection.execute(SETTINGS)
                connection.prepared_max = PREPARED_STATEMENTS
            self._reader = Reader(stream.source, f"log {stream.name}")
            names = publication.check(self._source, stream)
            self._capture = Capture(self._reader, Collector(stream), names)
            self._stack.callback(self._capture.close)
            self.epoch, lsn = self._take_over()
            self._applier = Applier(
                stream,
                self._source,
                self._target,
                self.epoch,
                horizon=self._horizon,
                appliers=appliers,
                stop=self._told_to_leave,
                rest=self._capture.rest,
            )
            self._stack.callback(self._applier.close)
            self._stored = lsn
            self._read_horizon()
            self._reader.start(stream.slot, stream.publication, lsn)
            self._check_start(lsn)
            self._capture.start()
        except BaseException:
            self._stack.close()
            raise

    def close(self) -> None:
        """End all connections; the slot and the claim are free afterwards."""
        self._stack.close()
        if not self._stop.is_set():
            # A session refers to itself and holds what it had read ahead, and the collector comes
            # rarely: this one goes with the next. Who leaves does not wait for that.
            gc.collect()
        # What the next session may rely on stands in the database, if that still holds it.
        self._health.horizon = None

    def run(self, stop: threading.Event) -> None:
        """Carry changes until `stop` is set. Raises whatever ends the session."""
        self._health.turn("running")
        self._stop = stop
        self._listener.began(self._stream.name)
        try:
            with suppress(Leaving):
                self._carry_on(stop)
        finally:
            self._listener.ended(self._stream.name)

    def _told_to_leave(self) -> bool:
        return self._stop.is_set()

    def _carry_on(self, stop: threading.Event) -> None:
        busy = settling = False
        while not stop.is_set():
            gathering = self._pace.gathering
            batch = None if settling else self._take(busy, gathering)
            self._health.gathered = self._capture.pending
            if batch is not None:
                self._carry(batch, gathering.over_s)
            busy = self._tick()
            # What a part has left in the spool is drained first: the next part finds its mappings
            # live, and lanes write it.
            settling = busy and (settling or (batch is not None and batch.part))

    def _take(self, busy: bool, gathering: Gathering) -> Batch | None:
        """The next batch, as large as is good now; `busy`: there is other work to do."""
        if busy:
            return self._capture.take(0.0)
        return self._capture.take(IDLE_S, gathering.seconds, gathering.enough, gathering.gulp_s)

    def _carry(self, batch: Batch, over_s: float) -> None:
        if batch.part:
            outcome = self._applier.apply_part(batch)
            self._count(outcome, [])
            self._let_know(batch, outcome)
            return
        # Somebody who waits for the position has closed a fence.
        outcome = self._applier.apply(batch, 0.0 if batch.urgent else over_s)
        committed = time.time()
        age_s = committed + self._clock_ahead_s - batch.last_commit_us / 1e6
        self._pace.carried(batch.commit_us, age_s)
        self._stored = batch.lsn
        self._capture.confirm(batch.lsn)
        # A key that only went to the spool was not carried: its delay is not known yet.
        delays = [] if outcome.spooled else [committed - us / 1e6 for us in batch.commit_us]
        self._count(outcome, delays)
        self._let_know(batch, outcome)
        if batch.heartbeat_at is not None:
            self._health.beat(batch.heartbeat_at)
            self._looked = batch.horizon

    def _let_know(self, batch: Batch, outcome: Outcome) -> None:
        name = self._stream.name
        if batch.altered:
            self._listener.altered(name)
        if outcome.spooled:
            self._listener.missed(name)
        else:
            self._listener.heard(name, batch.keys)

    @property
    def _clock_ahead_s(self) -> float:
        seen = self._health.seen
        return seen.log.clock_ahead_s if seen else 0.0

    def _count(self, outcome: Outcome, delays_s: list[float]) -> None:
        rows = outcome.upserted + outcome.deleted
        strays, across = outcome.strays, outcome.across
        self._board.carried(self._stream.name, delays_s, rows, strays, across)
        health = self._health
        health.upserted += outcome.upserted
        health.deleted += outcome.deleted
        health.waiting = len(self._applier.waiting)

    def _tick(self) -> bool:
        """What has to be done between batches. True when there is more of it to do at once."""
        now = time.monotonic()
        # One after the other, spread over the second: done at once they would hold up every
        # hundredth change.
        while now >= self._next_chore:
            next(self._chores)()
            late = now - self._next_chore > HEARTBEAT_S
            self._next_chore = (now if late else self._next_chore) + self._chore_every_s
        self._retry(now)
        if self._applier.spooling and now >= self._next_states:
            # A backfill that has copied everything waits for us to see it.
            self._applier.load_states()
            self._next_states = now + IDLE_S
        busy = False
        for name in self._applier.drainable():
            self._applier.drain(name)
            busy = True
        if busy:
            self._listener.missed(self._stream.name)
        return busy

    def _beat(self) -> None:
        self._pace.look(time.monotonic())
        self._source.execute(s.HEARTBEAT, (self._stream.name,))

    def _check_publication(self) -> None:
        publication.check(self._source, self._stream)

    def _count_spooled(self) -> None:
        """How much is pending, in the states that others may have changed."""
        self._applier.load_states()
        row = self._target.execute(s.SPOOL_COUNT, (self._stream.name,)).fetchone()
        self._health.spooled = int(row[0]) if row else 0

    def _watch_log(self) -> None:
        self._health.look(self._watch.look(self._source, self._target))
        self._health.lag_bytes = max(self._capture.wal_end - self._stored, 0)

    def _publish(self) -> None:
        """Let the opposite stream know what has been decided of its target's changes.

        Not while some lie in the spool. Parked keys hold up nothing: the opposite stream looks for
        each of its own among them.
        """
        health = self._health
        if self._looked is None or self._looked == health.horizon or self._applier.spooling:
            return
        health.horizon = self._looked
        self._target.execute(s.PUBLISH, (health.horizon, self._stream.name, self.epoch))

    def _settle(self) -> None:
        """The opposite stream's strays whose owner's version has arrived in the target by now.

        What was asked for before the horizon has been carried, unless a key still waits somewhere.
        """
        health = self._health
        if health.horizon is not None and not health.spooled and not self._applier.waiting:
            arguments = (self._stream.opposite, health.horizon)
            settled = self._source.execute(s.SETTLE, arguments).rowcount
            if settled:
                log.info("%s: %d stray(s) settled", self._stream.opposite, settled)

    def _retry(self, now: float) -> None:
        """Try waiting keys once more: soon, as far as others bring what they wait for."""
        waiting = self._applier.waiting
        if not waiting or now < self._next_retry:
            return
        if self._opposite.state != "running":
            self._read_horizon()
        horizon = self._horizon()
        if horizon != self._retried_at:
            # All of them at once: what was changed together is then seen together.
            self._retried_at = horizon
            for contested in waiting.values():
                if contested.reason == "stray-pending":
                    contested.due = 0.0
        self._next_retry = now + RETRY_EVERY_S
        due = [
            name
            for name, item in waiting.items()
            # Tried before the owner rows agree, it would be a stray here, asked for there, and so
            # on without end.
            if item.due <= now and (item.reason != "asked" or self._owners_agree)
        ]
        due = sorted(due, key=lambda name: waiting[name].attempts)[:RETRY_KEYS]
        if not due:
            return
        if any(waiting[name].reason == "stray-pending" for name in due):
            # The opposite stream need not wait for its own heartbeat to learn how far it is.
            self._target.execute(s.HEARTBEAT, (self._opposite.name,))
        self._count(self._applier.retry(due), [])
        self._listener.heard(self._stream.name, due)
        for name in due:
            item = waiting.get(name)
            if item is not None:
                first, longest = UNWRITABLE_S if item.reason == "unwritable" else OTHERS_S
                item.due = now + min(first * 2 ** min(item.attempts, 20), longest)

    def _heed_owner(self) -> None:
        """A new owner decides keys that could not be decided before: they need not wait longer."""
        domain, side = self._stream.domain.name, self._stream.source_side
        owner, before = (
            ownership.read(connection, domain) for connection in (self._target, self._source)
        )
        found = {(domain, side): before, (domain, other(side)): owner}
        self._health.owners = {key: told for key, told in found.items() if told is not None}
        self._owners_agree = owner == before
        if owner != self._owner:
            self._owner = owner
            for item in self._applier.waiting.values():
                item.due = 0.0

    def _forget(self) -> None:
        self._applier.forget()

    def _read_horizon(self) -> None:
        """How far the opposite stream was when it last told, in whatever process it ran."""
        found = self._source.execute(s.HORIZON, (self._opposite.name,)).fetchone()
        self._told = int(found[0]) if found and found[0] else 0

    def _horizon(self) -> int | None:
        """How far the opposite stream has decided of this target's changes; None when it does not
        look.

        One that does not go on now looks again later, however long that takes: until then a key
        that both sides may have changed waits. Only one that was torn down is not waited for.
        """
        if self._opposite.state == "disabled":
            return None
        return max(self._opposite.horizon or 0, self._told)

    # The beginning

    def _claim_lock(self) -> None:
        name = self._stream.name
        if not control.installed(self._target):
            raise NotEnabled(stream=name, domain=self._stream.domain.name)
        if self._target.execute(PROGRESS, (name,)).fetchone() is None:
            raise NotEnabled(stream=name, domain=self._stream.domain.name)
        row = self._target.execute(LOCK, (name,)).fetchone()
        if not row or not row[0]:
            raise Standby(stream=name)

    def _take_over(self) -> tuple[int, int]:
        """Raise the worker's epoch. Returns it and the position to read from.

        Raises SlotMissing, PositionLost or OtherServer when the stored position cannot be trusted.
        """
        name, domain = self._stream.name, self._stream.domain.name
        system = self._reader.system()
        row = self._target.execute(TAKE_OVER, (name,)).fetchone()
        if row is None:
            raise NotEnabled(stream=name, domain=domain)
        epoch, system_id, timeline, stored = int(row[0]), row[1], int(row[2]), row[3]
        self._check_server(system, system_id, timeline, lsn_number(stored))
        slot = self._source.execute(SLOT, (self._stream.slot,)).fetchone()
        if slot is None or slot[1] == "lost":
            state = "gone" if slot is None else "lost"
            raise SlotMissing(stream=name, domain=domain, slot=self._stream.slot, state=state)
        if slot[0] is not None and lsn_number(stored) < lsn_number(slot[0]):
            # No loss, if it found refuge in the ledger while the target was away.
            at = lsn_number(stored)
            with kept.needed(self._stream) as ledger:
                held = kept.find(ledger, name)
                if held is None or not held.covers(at, lsn_number(slot[0])):
                    raise PositionLost(stream=name, domain=domain, stored=stored, confirmed=slot[0])
                self._check_server(system, held.system_id, held.timeline, held.end)
                taken = kept.take_back(ledger, self._target, self._stream, epoch, at, held)
            stored = lsn_text(taken)
            self._health.refuge = 0
        if timeline != system.timeline:
            self._target.execute(MOVE_TIMELINE, (system.timeline, name, epoch))
        return epoch, lsn_number(stored)

    def _check_start(self, lsn: int) -> None:
        """The server begins where the slot was confirmed, if that is further: found too late.

        Raises SlotMoved. From here on nobody else can move it.
        """
        slot = self._source.execute(SLOT, (self._stream.slot,)).fetchone()
        if slot is not None and slot[0] is not None and lsn < lsn_number(slot[0]):
            raise SlotMoved(stream=self._stream.name, confirmed=slot[0])

    def _check_server(self, system: System, system_id: str, timeline: int, stored: int) -> None:
        why = None
        if system.system_id != system_id:
            why = f"system id {system.system_id} instead of {system_id}"
        elif system.timeline < timeline:
            why = f"timeline {system.timeline} is before {timeline}"
        elif system.timeline > timeline:
            end = self._reader.timeline_ends(system.timeline).get(timeline)
            if end is None or end < stored:
                turned = "unknown" if end is None else lsn_text(end)
                why = f"timeline {timeline} ended at {turned}"
        if why:
            name, domain = self._stream.name, self._stream.domain.name
            raise OtherServer(stream=name, domain=domain, why=why, stored=lsn_text(stored))


def still_stands(stream: Stream, epoch: int) -> bool:
    """Whether its target still has the position that a worker of this epoch read from.

    After teardown and enable epochs begin anew. Raises DatabaseUnreachable.
    """
    with connect(stream.target, f"look {stream.name}") as target:
        if not control.installed(target):
            return False
        row = target.execute(PROGRESS, (stream.name,)).fetchone()
        return row is not None and int(row[0]) >= epoch
