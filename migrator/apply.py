"""Carrying a stream's batches, whatever happens on the way.

A deadlock or a lock that was not given: the whole part again. A value that cannot be written: the
part is halved until the key that is to blame stands alone; it is parked with its reason, and
everything else goes on. A lost connection is the session's business: it begins anew from the
position that the target has committed.
"""

import json
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import psycopg

from migrator import statements as s
from migrator.changes import Batch, MappingKey
from migrator.collisions import KeysMissing
from migrator.entering import Superseded
from migrator.lanes import MOST_OWN, Lanes, Load, plain
from migrator.mapping import Stream
from migrator.parts import Outcome, Part, Position, Waiting
from migrator.reading import Connection
from migrator.refusals import TRANSIENT, of_a_row
from migrator.writing import LayoutMoved, StatesMoved, Writer

__all__ = ["Applier", "Leaving", "Outcome", "Superseded"]

log = logging.getLogger(__name__)
# The most keys of one transaction here; from so many on, the lanes have them first; and the most
# that are taken from the spool at once.
PART = 5_000
MANY = 200
DRAIN = 50_000
FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 1.0
LIMIT_S = 60.0
# How often a part is looked at anew because a row of it was inserted meanwhile.
TAKEN = 3


class Leaving(Exception):
    """The worker was told to leave in the middle of a large batch. Its position was not moved: what
    was written is found so when it is read again."""


class _Patience:
    """The pauses between attempts after a deadlock or a lock that was not given."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._limit, self._pause = time.monotonic() + LIMIT_S, FIRST_PAUSE_S

    def wait(self, error: psycopg.Error) -> None:
        """Wait before the next attempt, longer each time. Raises the error when it was enough."""
        if time.monotonic() > self._limit:
            raise error
        log.info("%s: tried again: %s", self._stream, error)
        # Jitter: two that met in a deadlock must not meet again.
        time.sleep(self._pause * random.uniform(0.5, 1.5))
        self._pause = min(self._pause * 2, LONGEST_PAUSE_S)


class Applier:
    """Carries one stream. Both connections are its own; it holds the stream's claim `epoch`.

    `horizon` gives the 64-bit transaction id of the target below which the opposite stream has seen
    everything, None when that is not watched. `appliers` write large batches at once; `close` ends
    their connections. `stop` tells whether the worker is to leave; `rest` waits so many seconds, or
    shorter when somebody waits for the stream.
    """

    def __init__(
        self,
        stream: Stream,
        source: Connection,
        target: Connection,
        epoch: int,
        *,
        horizon: Callable[[], int | None] = lambda: None,
        appliers: int = 1,
        stop: Callable[[], bool] = lambda: False,
        rest: Callable[[float], None] = time.sleep,
    ) -> None:
        self._stream, self._target = stream, target
        self._horizon, self._stop, self._rest = horizon, stop, rest
        # Until then there is time for rests between the slices of a batch.
        self._rests_until = 0.0
        self._writer = Writer(stream, source, target, epoch, horizon)
        mappings = self._writer.mappings
        self._lanes = Lanes(stream, mappings, lambda: self._writer.own, epoch, appliers)
        self.states: dict[str, str] = {}
        self._drained: dict[str, str] = {}
        self.load_states()
        self._writer.load()

    def close(self) -> None:
        """End the appliers' connections."""
        self._lanes.close()

    @property
    def waiting(self) -> dict[MappingKey, Waiting]:
        """The parked keys."""
        return self._writer.waiting

    @property
    def spooling(self) -> bool:
        """Whether changes that were read may lie in the spool."""
        return any(state != "live" for state in self.states.values())

    def load_states(self) -> None:
        """Read the states of the mappings, which backfill and archive change."""
        found = self._target.execute(s.STATES_SEEN, (self._stream.name,)).fetchall()
        self.states = dict(found)

    def forget(self) -> None:
        """Drop what is kept about writes of ours that nobody can take for somebody else's."""
        self._writer.forget()

    def apply(self, batch: Batch, over_s: float = 0.0) -> Outcome:
        """Write a batch and its position. Raises Superseded, or what stops the stream.

        With time for it, `over_s` seconds, rests are taken between the slices of a large one.
        """
        self._rests_until = time.monotonic() + over_s
        if batch.altered:
            self._make_anew()
        position = Position(batch.lsn, batch.source_commit_at, batch.heartbeat_at)
        keys, xids = tuple(batch.keys), frozenset(batch.xids)
        again = frozenset(batch.again)
        part = Part((), keys, position, xids, quiet=again, asked=again, since=batch.since)
        try:
            return self._write(self._sorted(part))
        finally:
            self._rests_until = 0.0

    def apply_part(self, batch: Batch) -> Outcome:
        """Carry keys of a transaction whose end was not read yet: they are too many to keep.

        The lanes write what is plain, the rest goes to the spool. The position stays before it, so
        all of it may be read again, which does no harm. Raises Superseded, StillInvisible.
        """
        if batch.altered:
            self._make_anew()
        outcome, xids = Outcome(), frozenset(batch.xids)
        part = self._sorted(Part(tuple(batch.keys), xids=xids, since=batch.since))
        if len(part.carry) >= MANY:
            part = self._in_lanes(part, outcome)
        if self._stop():
            raise Leaving
        rest = Part(spool=(*part.carry, *part.spool), xids=xids, since=batch.since)
        patience = _Patience(self._stream.name)
        live = [name for name, state in self.states.items() if state == "live"]
        while rest.spool:
            try:
                outcome.add(self._writer.spill(rest, live))
            except TRANSIENT as error:
                self._writer.reset()
                patience.wait(error)
                continue
            self.load_states()
            break
        return outcome

    def retry(self, names: Sequence[MappingKey]) -> Outcome:
        """Try parked keys once more, as far as their mappings are live."""
        live = tuple(name for name in names if self.states.get(name[0]) == "live")
        return self._write(Part(live)) if live else Outcome()

    def drainable(self) -> list[str]:
        """Mappings to drain now: those whose parents are live already."""
        draining = [name for name, state in self.states.items() if state == "drain"]
        for name in draining:
            _ = self._writer.mappings[name]
        return [
            name
            for name in draining
            if all(self.states.get(p) == "live" for p in self._writer.mappings.parents(name))
        ]

    def drain(self, name: str) -> Outcome:
        """Carry up to DRAIN keys from a mapping's spool. It goes live with the last of them."""
        after = self._drained.pop(name, None)
        asked = {"stream": self._stream.name, "mapping": name, "after": after, "limit": DRAIN}
        found = self._target.execute(s.SPOOLED, asked).fetchall()
        generations = {(name, tuple(json.loads(key))): int(gen) for key, gen in found}
        outcome = Outcome()
        if generations:
            outcome = self._write(Part(tuple(generations), generations=generations))
        elif after is None:
            self._writer.go_live(name)
        if len(generations) < DRAIN:
            self.load_states()
        else:
            self._drained[name] = found[-1][0]
        return outcome

    def _write(self, part: Part) -> Outcome:
        outcome = Outcome()
        if len(part.carry) >= MANY:
            part = self._in_lanes(part, outcome)
        carry = self._parents_first(part.carry)
        late: tuple[MappingKey, ...] = ()
        while len(carry) + len(late) > PART:
            if self._stop():
                raise Leaving
            if not carry:
                # Deletes: children first.
                carry, late = self._parents_first(late)[::-1], ()
            done = self._attempt(part.beginning(carry[:PART]))
            outcome.add(done)
            part, carry = part.after(done), carry[PART:]
            late += done.late
        outcome.add(self._attempt(replace(part, carry=carry + late)))
        return outcome

    def _in_lanes(self, part: Part, outcome: Outcome) -> Part:
        """Let the lanes settle what is plain. Returns the part with the keys that are left."""
        waiting = self.waiting
        asked = part.quiet | part.asked
        several = [name for name in part.carry if name not in waiting and name not in asked]
        if self._writer.had_stopped or len(self._writer.own) > MOST_OWN:
            return part
        given = dict.fromkeys(plain(self._writer.mappings, several))
        rest = self._rest_between if time.monotonic() < self._rests_until else None
        done = self._lanes.carry(
            list(given), Load(part.state, part.xids, self._horizon(), self._stop, rest)
        )
        outcome.upserted += done.upserted
        for name in done.left:
            # A collation may find a row whose own key has other letters, and was not given: the key
            # that found it is left as well, and its own change comes with its own transaction.
            given.pop(name, None)
        settled = tuple(given)
        carry = tuple(name for name in part.carry if name not in given)
        return replace(part, carry=carry, settled=settled)

    def _rest_between(self, worked_s: float) -> None:
        """As long as the work took: then it has half of a core at most."""
        left_s = self._rests_until - time.monotonic()
        if left_s > 0:
            self._rest(min(worked_s, left_s))

    def _make_anew(self) -> None:
        """Tables have other columns: what was made for them is made again when it is needed."""
        self._writer.mappings.forget()
        self._lanes.forget()

    def _attempt(self, part: Part) -> Outcome:
        """Write a part, again and again or in halves, until all of it is written or parked."""
        patience = _Patience(self._stream.name)
        while True:
            try:
                return self._writer.write(part)
            except Superseded:
                self._writer.reset()
                raise
            except StatesMoved:
                self._writer.reset()
                self.load_states()
                if part.generations is not None:
                    return Outcome()
                part = self._sorted(part)
            except LayoutMoved:
                self._writer.reset()
                self._make_anew()
            except KeysMissing as missing:
                self._writer.reset()
                whole = self._merged(part, missing.names)
                if whole is None:
                    stuck = replace(part, merged=part.merged.union(missing.names))
                    return self._halve(stuck, str(missing))
                part = whole
            except TRANSIENT as error:
                self._writer.reset()
                patience.wait(error)
            except psycopg.Error as error:
                if not of_a_row(error) or not part.carry:
                    raise
                self._writer.reset()
                again = self._otherwise(part, error)
                if again is None:
                    return self._halve(part, (error.diag.message_primary or str(error)).strip())
                part = again

    def _otherwise(self, part: Part, error: psycopg.Error) -> Part | None:
        """The part as it is worth another attempt; None when a row is to blame."""
        if self._writer.mappings.moved:
            # The row may be right, and only what we knew of its column is not.
            self._make_anew()
            return part
        collision = self._writer.collisions.of(error, self._writer.mappings.by_table)
        if collision is not None and collision not in part.collisions:
            return replace(part, collisions=part.collisions | {collision})
        if isinstance(error, psycopg.errors.UniqueViolation) and part.taken < TAKEN:
            # Somebody inserted the row after we looked: now it stands, and is judged.
            return replace(part, taken=part.taken + 1)
        return None

    def _halve(self, part: Part, detail: str) -> Outcome:
        if len(part.carry) == 1:
            name = part.carry[0]
            log.warning("%s: %s %s cannot be written: %s", self._stream.name, *name, detail)
            return self._writer.park(part, name, detail)
        middle = len(part.carry) // 2
        # Merged with them once more, a half would fail like the whole, for ever.
        held = part.held | part.merged
        part = replace(part, collisions=frozenset(), merged=frozenset(), held=held)
        first = self._attempt(part.beginning(part.carry[:middle]))
        rest = part.carry[middle:] + first.late
        outcome = self._attempt(replace(part.after(first), carry=rest))
        outcome.add(first)
        return outcome

    def _merged(self, part: Part, names: list[MappingKey]) -> Part | None:
        """The part with these keys in it too; None when it has them already."""
        known = part.held.union(part.carry)
        added = tuple(
            name
            for name in dict.fromkeys(names)
            if name not in known and self.states.get(name[0]) == part.state
        )
        if not added:
            return None
        carry = self._parents_first(part.carry + added)
        # One that is parked was changed here: as a stray it must be kept like any other.
        quiet = frozenset(name for name in added if name not in self.waiting)
        merged = part.merged.union(added)
        return replace(part, carry=carry, quiet=part.quiet | quiet, merged=merged)

    def _sorted(self, part: Part) -> Part:
        """Its keys, each to be carried or spooled as the state of its mapping says now."""
        names = (*part.carry, *part.spool)
        carry = tuple(name for name in names if self.states.get(name[0]) == "live")
        rest = [name for name in names if self.states.get(name[0]) != "live"]
        # In the spool it would be forgotten that nobody changed these here.
        asked = part.postponed | part.asked.intersection(rest)
        spool = tuple(name for name in rest if name not in asked)
        return replace(part, carry=self._parents_first(carry), spool=spool, postponed=asked)

    def _parents_first(self, names: tuple[MappingKey, ...]) -> tuple[MappingKey, ...]:
        mappings = self._writer.mappings
        for name in dict.fromkeys(name for name, _ in names):
            _ = mappings[name]
        place = {name: number for number, name in enumerate(mappings.order)}
        return tuple(sorted(names, key=lambda item: place[item[0]]))
