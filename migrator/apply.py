"""Writing a batch into the target: mark, claim, owner, rows and position in one transaction.

A part that cannot be written is halved until the key that is to blame stands alone; it is parked
with its reason, and everything else goes on.
"""

import json
import logging
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from graphlib import CycleError, TopologicalSorter
from typing import Any

import psycopg

from estate.errors import ExitCode, SplitctlError
from migrator import mapping as m
from migrator import statements as s
from migrator.changes import Batch, MappingKey
from migrator.collisions import Collisions, KeysMissing
from migrator.control import MARK
from migrator.faults import Faults
from migrator.mapping import Key, Stream, key_arguments
from migrator.ownership import Ownership
from migrator.pgoutput import lsn_text
from migrator.plan import Plan, Reference, Standing, Work, decide, pick
from migrator.reading import Connection, Prepared, Reading, read

log = logging.getLogger(__name__)
PART = 5_000
FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 1.0
LIMIT_S = 60.0
TRANSIENT = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.QueryCanceled,
)
# What a row can be to blame for: bad values (22), broken constraints (23), a trigger's refusal
# (P0), a limit that a value goes beyond (54).
BLAME = ("22", "23", "P0", "54")


class Superseded(SplitctlError):
    """Another worker has taken over stream '{stream}'; this one wrote nothing more."""

    hint = "splitctl sync status"
    exit_code = ExitCode.PRECONDITION


class StatesMoved(Exception):
    """The state of a mapping is no longer what the part was made for. Nothing was written."""


@dataclass(frozen=True)
class Position:
    """How far the source's log is carried once a part is written."""

    lsn: int
    committed: datetime
    heartbeat: datetime | None


@dataclass(frozen=True)
class Part:
    """Keys that are written in one transaction. `generations`: they come from the spool."""

    carry: tuple[MappingKey, ...] = ()
    spool: tuple[MappingKey, ...] = ()
    position: Position | None = None
    xids: frozenset[int] = frozenset()
    generations: dict[Key, int] | None = None
    merged: frozenset[MappingKey] = frozenset()
    collisions: frozenset[tuple[str, str]] = frozenset()

    @property
    def state(self) -> str:
        """The state that the mappings of its carried keys must have."""
        return "live" if self.generations is None else "drain"


@dataclass
class Outcome:
    """What was written."""

    upserted: int = 0
    deleted: int = 0
    spooled: int = 0
    strays: int = 0
    parked: int = 0

    def add(self, other: "Outcome") -> None:
        """Count the other's in."""
        self.upserted += other.upserted
        self.deleted += other.deleted
        self.spooled += other.spooled
        self.strays += other.strays
        self.parked += other.parked


@dataclass
class Waiting:
    """A key that is parked in the target: why, how often it was tried, and when next."""

    reason: str
    attempts: int = 0
    due: float = 0.0


@dataclass
class Applier:
    """Writes one stream's batches. Its connections are its own; it holds the stream's claim."""

    stream: Stream
    source: Connection
    target: Connection
    epoch: int
    faults: Faults = field(default_factory=Faults)
    breathe: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._prepared: dict[str, Prepared] = {}
        self._order: list[str] = []
        self._collisions = Collisions(self.target)
        self.waiting: dict[MappingKey, Waiting] = {}
        self.states: dict[str, str] = {}
        self.load()

    def load(self) -> None:
        """Read states and waiting keys from the target."""
        self.load_states()
        found = self.target.execute(s.WAITING, (self.stream.name,)).fetchall()
        known = {mapping.name for mapping in self.stream.mappings}
        self.waiting = {
            (name, tuple(json.loads(key))): Waiting(reason, attempts)
            for name, key, reason, attempts in found
            if name in known
        }

    def load_states(self) -> None:
        """Read the states of the mappings, which backfill and archive change."""
        self.states = dict(self.target.execute(s.STATES_SEEN, (self.stream.name,)).fetchall())

    def apply(self, batch: Batch) -> Outcome:
        """Write a batch and its position. Raises Superseded, or what stops the stream."""
        position = Position(batch.lsn, batch.source_commit_at, batch.heartbeat_at)
        keys = [name for name in batch.keys if not self.faults.forgets(name)]
        return self._write(self._sorted(Part(tuple(keys), (), position, frozenset(batch.xids))))

    def retry(self, names: Sequence[MappingKey]) -> Outcome:
        """Try keys that wait once more, as far as their mappings are live."""
        live = tuple(name for name in names if self.states.get(name[0]) == "live")
        return self._write(Part(live)) if live else Outcome()

    def drain(self, name: str, limit: int = PART) -> bool:
        """Carry up to `limit` keys from the spool of a mapping; False when it went live instead."""
        found = self.target.execute(s.SPOOLED, (self.stream.name, name, limit)).fetchall()
        generations = {tuple(json.loads(key)): int(gen) for key, gen in found}
        if generations:
            keys = tuple((name, key) for key in generations)
            self._write(Part(keys, generations=generations))
            return True
        with self.target.transaction():
            self.target.execute(MARK, (self.stream.name,))
            self._check_claim(self.target.execute(s.CLAIM, self._claim(None)))
            names = {"stream": self.stream.name, "mapping": name}
            moved = self.target.execute(s.GO_LIVE, names).rowcount
        self.load()
        return not moved

    def drainable(self) -> list[str]:
        """Mappings to drain now: those whose parents are live already."""
        draining = [name for name, state in self.states.items() if state == "drain"]
        if not draining:
            return []
        by_target = {mapping.target: mapping.name for mapping in self.stream.mappings}
        for name in draining:
            self._prepare(name)
        ready = []
        for name in draining:
            keys = self._prepared[name].shape.table.foreign_keys
            parents = {
                by_target[key.referenced_table] for key in keys if key.referenced_table in by_target
            } - {name}
            # In a ring of references somebody has to begin.
            earlier = [
                p
                for p in parents
                if p not in self._order or self._order.index(p) < self._order.index(name)
            ]
            if all(self.states.get(parent) == "live" for parent in earlier):
                ready.append(name)
        return ready

    # One part, whatever happens

    def _write(self, part: Part) -> Outcome:
        outcome = Outcome()
        carry = self._parents_first(part.carry)
        while len(carry) > PART:
            outcome.add(self._attempt(replace(part, carry=carry[:PART], spool=(), position=None)))
            carry = carry[PART:]
            self.breathe()
        outcome.add(self._attempt(replace(part, carry=carry)))
        return outcome

    def _attempt(self, part: Part) -> Outcome:
        started, pause = time.monotonic(), FIRST_PAUSE_S
        while True:
            try:
                return self._once(part)
            except StatesMoved:
                self._reset()
                self.load()
                if part.generations is not None:
                    return Outcome()
                part = self._sorted(part)
            except KeysMissing as missing:
                self._reset()
                added = tuple(name for name in missing.names if name not in part.carry)
                if not added:
                    return self._halve(part, str(missing))
                part = replace(
                    part, carry=part.carry + added, merged=part.merged | frozenset(added)
                )
            except TRANSIENT as error:
                self._reset()
                if time.monotonic() - started > LIMIT_S:
                    raise
                log.info("%s: tried again: %s", self.stream.name, error)
                # Jitter: two that met in a deadlock must not meet again.
                time.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(pause * 2, LONGEST_PAUSE_S)
                self.breathe()
            except psycopg.Error as error:
                if not _of_a_row(error) or not part.carry:
                    raise
                self._reset()
                collision = self._collisions.of(error, self._targets())
                if collision is not None and collision not in part.collisions:
                    part = replace(part, collisions=part.collisions | {collision})
                    continue
                return self._halve(part, (error.diag.message_primary or str(error)).strip())

    def _halve(self, part: Part, detail: str) -> Outcome:
        keys = tuple(name for name in part.carry if name not in part.merged)
        part = replace(part, carry=keys, merged=frozenset(), collisions=frozenset())
        if len(keys) == 1:
            log.warning("%s: %s %s cannot be written: %s", self.stream.name, *keys[0], detail)
            return self._park(part, keys[0], detail)
        middle = len(keys) // 2
        outcome = self._attempt(replace(part, carry=keys[:middle], spool=(), position=None))
        outcome.add(self._attempt(replace(part, carry=keys[middle:])))
        return outcome

    def _park(self, part: Part, name: MappingKey, detail: str) -> Outcome:
        with self.target.transaction():
            self.target.execute(MARK, (self.stream.name,))
            self._check_claim(self.target.execute(s.CLAIM, self._claim(part.position)))
            waiting = {name: ("unwritable", detail)}
            self._note(part, waiting, [])
        self._remember(waiting, [])
        return Outcome(parked=1, spooled=len(part.spool))

    # One transaction

    def _once(self, part: Part) -> Outcome:
        wanted: dict[str, tuple[Prepared, list[Key]]] = {}
        for name, key in part.carry:
            if name not in wanted:
                wanted[name] = (self._prepare(name), [])
            wanted[name][1].append(key)
        wanted = {name: wanted[name] for name in self._order if name in wanted}
        readings: dict[str, Reading] = {}
        if wanted or part.xids:
            # Keys for the spool are not read now, but whoever reads them later must see the change.
            readings = self._staled(read(self.source, wanted, part.xids))
        if not part.carry and not part.spool:
            return self._position_only(part)
        works, ownership = self._look(part, wanted, readings)
        plan = decide(works, ownership, self.stream.source_side)
        return self._commit(part, wanted, readings, plan, ownership)

    def _position_only(self, part: Part) -> Outcome:
        with self.target.pipeline():
            self.target.execute(s.BEGIN)
            self.target.execute(MARK, (self.stream.name,))
            claim = self.target.execute(s.CLAIM, self._claim(part.position))
            self.target.execute(s.COMMIT)
        self._check_claim(claim)
        return Outcome()

    def _look(
        self,
        part: Part,
        wanted: dict[str, tuple[Prepared, list[Key]]],
        readings: dict[str, Reading],
    ) -> tuple[list[Work], Ownership | None]:
        """Begin the transaction and look at what the target holds for these keys."""
        target, name = self.target, self.stream.name
        standing: dict[str, psycopg.Cursor[Any]] = {}
        parents: dict[str, list[psycopg.Cursor[Any] | None]] = {}
        with target.pipeline():
            target.execute(s.BEGIN)
            target.execute(MARK, (name,))
            claim = target.execute(s.CLAIM, self._claim(part.position))
            owner = target.execute(s.OWNER, (self.stream.domain.name,))
            states = target.execute(s.STATES, (name,))
            for item, (prepared, _) in wanted.items():
                keys = list(dict.fromkeys(readings[item].canonical.values()))
                query = prepared.statements.standing
                standing[item] = target.execute(query, key_arguments(keys))
                parents[item] = self._ask_parents(prepared, readings[item])
        self._check_claim(claim)
        self._check_states(part, dict(states.fetchall()))
        row = owner.fetchone()
        ownership = Ownership(int(row[0]), int(row[1])) if row else None
        works = []
        for item, (prepared, _) in wanted.items():
            present = [
                frozenset(tuple(found) for found in cursor.fetchall()) if cursor else frozenset()
                for cursor in parents[item]
            ]
            works.append(
                Work(
                    mapping=item,
                    primary_positions=prepared.shape.primary_positions,
                    keys=tuple(dict.fromkeys(readings[item].canonical.values())),
                    rows=readings[item].rows,
                    standing=_standing(prepared, standing[item]),
                    references=self._references(prepared, present),
                )
            )
        return works, ownership

    def _commit(
        self,
        part: Part,
        wanted: dict[str, tuple[Prepared, list[Key]]],
        readings: dict[str, Reading],
        plan: Plan,
        ownership: Ownership | None,
    ) -> Outcome:
        """Write what was planned, and the bookkeeping, and commit."""
        raw = _raw_names(readings)
        strays = [name for name in plan.strays if not set(raw[name]) <= part.merged]
        waiting = {
            name: (reason, detail)
            for reason, found in (("parent", plan.parentless), ("unwritable", plan.ambiguous))
            for key, detail in found.items()
            for name in raw[key]
        }
        settled = [name for key in (*plan.settled, *plan.strays) for name in raw[key]]
        versions = self._versions(wanted, strays)
        parked = self._collisions.holders(part.collisions, wanted, plan)
        writes: list[psycopg.Cursor[Any]] = []
        deletes: list[psycopg.Cursor[Any]] = []
        target = self.target
        with target.pipeline():
            for name in reversed(list(plan.deletes)):
                gone = [row for row in plan.deletes[name] if not self.faults.skips((name, row))]
                if gone:
                    columns = [list(column) for column in zip(*gone, strict=True)]
                    query = wanted[name][0].statements.delete
                    deletes.append(target.execute(query, columns))
            for statement, arguments in parked:
                target.execute(statement, arguments)
            for name, rows in plan.upserts.items():
                if rows:
                    query = wanted[name][0].statements.upsert
                    writes.append(target.execute(query, (_records(rows),)))
            self._note(part, waiting, settled)
            self._note_strays(part, strays, readings, versions, ownership)
            target.execute(s.COMMIT)
        self._remember(waiting, settled)
        return Outcome(
            upserted=sum(cursor.rowcount for cursor in writes),
            deleted=sum(cursor.rowcount for cursor in deletes),
            spooled=len(part.spool),
            strays=len(strays),
            parked=len(waiting),
        )

    def _note(
        self,
        part: Part,
        waiting: dict[MappingKey, tuple[str, str]],
        settled: Iterable[MappingKey],
    ) -> None:
        """Bookkeeping of the part's own transaction: spool, waiting keys, drained keys."""
        name = self.stream.name
        if part.spool:
            self.target.execute(s.SPOOL, (name, *_columns(part.spool)))
        known = [key for key in settled if key in self.waiting]
        if known:
            self.target.execute(s.WAIT_NO_MORE, (*_columns(known), name))
        if waiting:
            lsn = lsn_text(part.position.lsn) if part.position else None
            reasons = [list(column) for column in zip(*waiting.values(), strict=True)]
            self.target.execute(s.WAIT, (name, lsn, *_columns(waiting), *reasons))
        if part.generations is not None:
            drained = [key for key in part.carry if key not in part.merged]
            gens = [part.generations[key] for _, key in drained]
            if drained:
                keys = [json.dumps(key) for _, key in drained]
                self.target.execute(s.UNSPOOL, (keys, gens, name, drained[0][0]))

    def _note_strays(
        self,
        part: Part,
        strays: list[MappingKey],
        readings: dict[str, Reading],
        versions: dict[MappingKey, str],
        ownership: Ownership | None,
    ) -> None:
        if not strays:
            return
        rows = []
        for name, key in strays:
            columns = self._prepared[name].shape.columns
            found = readings[name].rows.get(key, [])
            rows.append(json.dumps([dict(zip(columns, r.row, strict=True)) for r in found]))
        held = [versions.get(name, "[]") for name in strays]
        lsn = lsn_text(part.position.lsn) if part.position else None
        epoch = ownership.epoch if ownership else None
        log.warning("%s: %d stray(s), first %s %s", self.stream.name, len(strays), *strays[0])
        self.target.execute(s.STRAY, (self.stream.name, epoch, lsn, *_columns(strays), rows, held))

    # Smaller parts

    def _versions(
        self, wanted: dict[str, tuple[Prepared, list[Key]]], strays: list[MappingKey]
    ) -> dict[MappingKey, str]:
        """The target's rows of stray keys, as JSON."""
        found: dict[MappingKey, str] = {}
        for name in {name for name, _ in strays}:
            keys = [key for item, key in strays if item == name]
            query = wanted[name][0].statements.versions
            for row in self.target.execute(query, key_arguments(keys)).fetchall():
                found[(name, tuple(row[:-1]))] = row[-1]
        return found

    def _ask_parents(
        self, prepared: Prepared, reading: Reading
    ) -> list[psycopg.Cursor[Any] | None]:
        cursors: list[psycopg.Cursor[Any] | None] = []
        rows = [item.row for found in reading.rows.values() for item in found]
        for key, query in zip(
            prepared.statements.references, prepared.statements.parents, strict=True
        ):
            positions = [prepared.shape.columns.index(column) for column in key.columns]
            values = {pick(row, positions) for row in rows}
            whole = [value for value in values if None not in value]
            asked = [list(column) for column in zip(*whole, strict=True)]
            cursors.append(self.target.execute(query, asked) if asked else None)
        return cursors

    def _references(
        self, prepared: Prepared, present: list[frozenset[tuple[str | None, ...]]]
    ) -> tuple[Reference, ...]:
        by_target = {p.shape.table.name: p.shape for p in self._prepared.values()}
        columns, found = prepared.shape.columns, []
        for key, values in zip(prepared.statements.references, present, strict=True):
            parent = by_target.get(key.referenced_table)
            if parent is not None and not set(key.referenced_columns) <= set(parent.columns):
                parent = None
            found.append(
                Reference(
                    name=key.name,
                    positions=tuple(columns.index(column) for column in key.columns),
                    parent=parent.mapping.name if parent else None,
                    parent_positions=tuple(
                        parent.columns.index(column) for column in key.referenced_columns
                    )
                    if parent
                    else (),
                    refers_to_primary=parent is not None
                    and key.referenced_columns == parent.table.primary_key,
                    present=values,
                )
            )
        return tuple(found)

    def _staled(self, readings: dict[str, Reading]) -> dict[str, Reading]:
        if self.faults:
            for name, reading in readings.items():
                for key in set(reading.canonical.values()):
                    rows = self.faults.version((name, key), reading.rows.get(key, []))
                    reading.rows[key] = rows
        return readings

    def _prepare(self, name: str) -> Prepared:
        """A mapping's statements; made when first needed, since archived tables have none."""
        if name not in self._prepared:
            shape = m.shape(self.source, self.target, self.stream.mapping(name))
            self._prepared[name] = Prepared(shape, s.make(shape))
            self._order = _parents_before_children(self._prepared)
        return self._prepared[name]

    def _parents_first(self, names: tuple[MappingKey, ...]) -> tuple[MappingKey, ...]:
        for name in {name for name, _ in names}:
            self._prepare(name)
        place = {name: number for number, name in enumerate(self._order)}
        return tuple(sorted(names, key=lambda item: place[item[0]]))

    def _sorted(self, part: Part) -> Part:
        """Its keys, each to be carried or spooled as the state of its mapping says now."""
        names = tuple(name for name in (*part.carry, *part.spool) if name not in part.merged)
        carry = tuple(name for name in names if self.states.get(name[0]) == "live")
        spool = tuple(name for name in names if self.states.get(name[0]) != "live")
        return replace(part, carry=carry, spool=spool, merged=frozenset())

    def _targets(self) -> dict[str, Prepared]:
        return {prepared.shape.table.name: prepared for prepared in self._prepared.values()}

    def _claim(self, position: Position | None) -> dict[str, Any]:
        return {
            "stream": self.stream.name,
            "epoch": self.epoch,
            "lsn": lsn_text(position.lsn) if position else None,
            "committed": position.committed if position else None,
            "heartbeat": position.heartbeat if position else None,
        }

    def _check_claim(self, cursor: psycopg.Cursor[Any]) -> None:
        if cursor.rowcount != 1:
            self._reset()
            raise Superseded(stream=self.stream.name)

    def _check_states(self, part: Part, states: dict[str, str]) -> None:
        carried = {name for name, _ in part.carry}
        spooled = {name for name, _ in part.spool}
        if any(states.get(name) != part.state for name in carried) or any(
            states.get(name) == "live" for name in spooled
        ):
            raise StatesMoved

    def _remember(
        self, waiting: dict[MappingKey, tuple[str, str]], settled: Iterable[MappingKey]
    ) -> None:
        for name in settled:
            self.waiting.pop(name, None)
        for name, (reason, _) in waiting.items():
            before = self.waiting.get(name)
            self.waiting[name] = Waiting(reason, before.attempts + 1 if before else 0)

    def _reset(self) -> None:
        """Roll back on both sides. Raises OperationalError when a connection is gone."""
        for connection in (self.target, self.source):
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                connection.execute(s.ROLLBACK)


def _of_a_row(error: psycopg.Error) -> bool:
    """Whether a row's values may be to blame, rather than the connection or the statement."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.DataError)
    return error.sqlstate.startswith(BLAME)


def _standing(prepared: Prepared, cursor: psycopg.Cursor[Any]) -> dict[Key, list[Standing]]:
    width = len(prepared.shape.table.primary_key)
    found: dict[Key, list[Standing]] = {}
    for row in cursor.fetchall():
        found.setdefault(tuple(row[width:-1]), []).append(Standing(tuple(row[:width]), row[-1]))
    return found


def _raw_names(readings: dict[str, Reading]) -> dict[MappingKey, list[MappingKey]]:
    """For each key in the target's text: the texts under which the log has it."""
    names: dict[MappingKey, list[MappingKey]] = {}
    for mapping, reading in readings.items():
        for raw, canonical in reading.canonical.items():
            names.setdefault((mapping, canonical), []).append((mapping, raw))
    return names


def _columns(names: Iterable[MappingKey]) -> tuple[list[str], list[str]]:
    """Mapping names, and keys as JSON arrays."""
    pairs = list(names)
    return [name for name, _ in pairs], [json.dumps(key) for _, key in pairs]


def _records(rows: list[tuple[str | None, ...]]) -> str:
    names = [f"u{number}" for number in range(len(rows[0]))]
    return json.dumps([dict(zip(names, row, strict=True)) for row in rows])


def _parents_before_children(prepared: dict[str, Prepared]) -> list[str]:
    by_target = {item.shape.table.name: name for name, item in prepared.items()}
    graph = {
        name: {
            by_target[key.referenced_table]
            for key in item.shape.table.foreign_keys
            if key.referenced_table in by_target
        }
        - {name}
        for name, item in prepared.items()
    }
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError:
        # Tables that refer to each other in a ring have no order; late parents are waited for.
        return list(prepared)
