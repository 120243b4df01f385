"""One transaction in the target: mark, claim, owner, rows, bookkeeping and position (law L4)."""

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import psycopg

from estate.catalog import LAYOUTS
from migrator import look, unreadable
from migrator import statements as s
from migrator.changes import MappingKey, StreamStopped
from migrator.collisions import Collisions
from migrator.control import MARK
from migrator.entering import Superseded, entered
from migrator.families import outlived
from migrator.hanging import Families
from migrator.mapping import Key, Stream, key_arguments, other
from migrator.ownership import Ownership
from migrator.parts import Outcome, Own, Part, Position, Waiting, Waits
from migrator.pgoutput import lsn_text
from migrator.plan import Plan, Values, Work, decide, owns, pick
from migrator.prepared import Mappings
from migrator.proof import Proof
from migrator.reading import Connection, Prepared, Reading, Seen, read
from migrator.rules import why_carried
from migrator.strays import Stray, Strays


class StatesMoved(Exception):
    """The state of a mapping is no longer what the part was made for. Nothing was written."""


class LayoutMoved(Exception):
    """A target has other columns than its statements were made for. Nothing was written."""


class Writer:
    """Writes parts of one stream. `waiting` mirrors the parked keys: nobody else writes them."""

    def __init__(
        self,
        stream: Stream,
        source: Connection,
        target: Connection,
        epoch: int,
        horizon: Callable[[], int | None],
    ) -> None:
        self._stream, self._source, self._target = stream, source, target
        self._epoch, self._horizon, self.own = epoch, horizon, Own()
        self._strays = Strays(stream, target)
        self._proof = Proof(stream, source, target)
        self.mappings = Mappings(stream, source, target)
        self._families = Families(stream, source, target, self.mappings)
        self.collisions = Collisions(target)
        self.waiting: dict[MappingKey, Waiting] = {}

    @property
    def had_stopped(self) -> bool:
        """Whether strays at which the stream had stopped are to be told from others."""
        return self._strays.had_stopped

    def load(self) -> None:
        """Read from the target which keys are parked, and which transactions were ours."""
        own = self._target.execute(s.OWN_IDS, (self._stream.name,)).fetchall()
        self.own = Own(int(row[0]) for row in own)
        self._strays.load()
        found = self._target.execute(s.WAITING, (self._stream.name,)).fetchall()
        known = {mapping.name for mapping in self._stream.mappings}
        self.waiting = {
            (name, tuple(json.loads(key))): Waiting(reason, attempts)
            for name, key, reason, attempts in found
            if name in known
        }

    def write(self, part: Part) -> Outcome:
        """Read the part's keys on the source and write them. All of it, or nothing and an error.

        Raises Superseded, StatesMoved, LayoutMoved, KeysMissing, StillInvisible, StoppedAtStrays,
        or what a statement raises.
        """
        # Before the source is read: what the opposite stream sees later is then not missed.
        horizon = self._horizon()
        wanted: dict[str, tuple[Prepared, list[Key]]] = {}
        for name, key in part.carry:
            wanted.setdefault(name, (self.mappings[name], []))[1].append(key)
        wanted = {name: wanted[name] for name in self.mappings.order if name in wanted}
        seen = Seen({}, frozenset())
        if wanted or part.xids:
            # Keys for the spool are not read now, but whoever reads them later must see the change.
            seen = read(self._source, self._stream.opposite, wanted, part.xids)
        if not (part.carry or part.spool or part.postponed):
            return self._position_only(part)
        works, ownership = self._look(part, wanted, seen, horizon)
        raw = look.raw_names(seen.readings)
        quiet = {name for name, texts in raw.items() if part.quiet.issuperset(texts)}
        prepared = {name: found for name, (found, _) in wanted.items()}
        works = self._proof.facts(works, ownership, prepared, part, quiet, self.own)
        plan = decide(works, ownership, self._stream.source_side)
        if plan.stopped:
            raise self._stop(plan.stopped, prepared, seen.readings, ownership)
        if any(plan.deletes.values()):
            hanging = self._families.look(plan, works, seen.waiting, self.own, part.xids)
            plan = outlived(plan, works, hanging, ownership, self._stream.source_side)
        return self._commit(part, seen.readings, plan, works, ownership)

    def _stop(
        self,
        names: list[MappingKey],
        prepared: dict[str, Prepared],
        readings: dict[str, Reading],
        ownership: Ownership | None,
    ) -> StreamStopped:
        """Keep the strays at which the stream stops; nothing else is written with them."""
        self.reset()
        with self._target.transaction():
            self._target.execute(MARK, (self._stream.name,))
            self._check_claim(self._target.execute(s.CLAIM, self._claim(None)))
            epoch = ownership.epoch if ownership else None
            return self._strays.stop(names, prepared, readings, epoch)

    def park(self, part: Part, name: MappingKey, detail: str) -> Outcome:
        """Write the part without its one key, which cannot be written for this reason."""
        waits = {name: ("unwritable", detail)}
        # Its error may have come before anybody waited for the transactions to be visible. Whoever
        # tries it again, or drains what is spooled beside it, relies on that (law L3).
        read(self._source, self._stream.opposite, {}, part.xids)
        prepared = self.mappings[name[0]]
        key = (
            None
            if name in part.quiet
            else unreadable.known(self._source, self._target, prepared, name[1])
        )
        noted: list[Stray] = []
        with self._target.transaction():
            self._target.execute(MARK, (self._stream.name,))
            self._check_claim(self._target.execute(s.CLAIM, self._claim(part.position)))
            owner = self._target.execute(s.OWNER, (self._stream.domain.name,)).fetchone()
            if key is not None and self._is_theirs(prepared, key, owner):
                # Parked it would hold up its owner, who may well set it right.
                noted, waits = [Stray((name[0], key), "kept")], {}
                readings = unreadable.read(self._source, self._stream.opposite, prepared, name)
                lsn = part.position.lsn if part.position else None
                epoch = owner[1] if owner else None
                self._strays.keep(noted, {name[0]: prepared}, readings, epoch, lsn)
            waits |= part.waits
            self._note(part, waits, [name] if noted else [])
        self._remember(waits, [name] if noted else [])
        return Outcome(spooled=len(part.spool), strays=len(noted))

    def _is_theirs(self, prepared: Prepared, key: Key, owner: Any) -> bool:
        """Whether all rows that stand under a key are owned by the target's side."""
        ownership = Ownership(int(owner[0]), int(owner[1])) if owner else None
        cursor = self._target.execute(prepared.statements.standing, key_arguments([key]))
        held = look.standing(prepared, cursor, self.own).get(key, [])
        side = other(self._stream.source_side)
        return bool(held) and all(
            item.route is not None and owns(ownership, side, item.route) for item in held
        )

    def go_live(self, name: str) -> bool:
        """Make a drained mapping live, if its spool is empty. Returns whether it was."""
        with self._target.transaction():
            self._target.execute(MARK, (self._stream.name,))
            self._check_claim(self._target.execute(s.CLAIM, self._claim(None)))
            names = {"stream": self._stream.name, "mapping": name}
            return self._target.execute(s.GO_LIVE, names).rowcount > 0

    def forget(self) -> None:
        """Drop the ids of those transactions of ours that the opposite stream has looked beyond."""
        horizon = self._horizon()
        told = None if horizon is None else str(horizon)
        self._target.execute(s.OWN_IDS_PAST, {"stream": self._stream.name, "horizon": told})

    def reset(self) -> None:
        """Roll back on both sides. Raises OperationalError when a connection is gone."""
        for connection in (self._target, self._source):
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                # Not the bare statement: this also forgets statements that were to be prepared in
                # the part of a pipeline that the server skipped.
                connection.rollback()

    def _position_only(self, part: Part) -> Outcome:
        with self._target.pipeline():
            self._target.execute(s.BEGIN)
            self._target.execute(MARK, (self._stream.name,))
            claim = self._target.execute(s.CLAIM, self._claim(part.position))
            if part.generations is None:
                self._target.execute(s.COMMIT)
        self._check_claim(claim)
        if part.generations is not None:
            with self._target.pipeline():
                self._note(part, {}, ())
                self._target.execute(s.COMMIT)
        return Outcome()

    def spill(self, part: Part, live: Iterable[str]) -> Outcome:
        """Write the part's keys into the spool, and let their mappings drain, as far as they are
        `live`: the keys are too many to be kept until the end of their transaction."""
        read(self._source, self._stream.opposite, {}, part.xids)
        names = self._with_children({name for name, _ in part.spool}, live)
        with self._target.transaction():
            self._target.execute(MARK, (self._stream.name,))
            self._check_claim(self._target.execute(s.CLAIM, self._claim(None)))
            self._target.execute(s.DRAIN, (self._stream.name, sorted(names)))
            self._note(part, {}, ())
        return Outcome(spooled=len(part.spool))

    def _with_children(self, names: set[str], live: Iterable[str]) -> set[str]:
        """These mappings and those whose rows refer to theirs: behind a parent that lies in the
        spool every one of them would be parked."""
        found = set(names)
        for name in live:
            _ = self.mappings[name]
        for name in self.mappings.order:
            if self.mappings.parents(name) & found:
                found.add(name)
        return found

    def _look(
        self,
        part: Part,
        wanted: dict[str, tuple[Prepared, list[Key]]],
        seen: Seen,
        horizon: int | None,
    ) -> tuple[list[Work], Ownership | None]:
        """Begin the transaction and look at what the target holds for these keys."""
        target, stream, readings = self._target, self._stream, seen.readings
        keys = {name: list(dict.fromkeys(readings[name].canonical.values())) for name in wanted}
        standing: dict[str, psycopg.Cursor[Any]] = {}
        elsewhere: dict[str, psycopg.Cursor[Any]] = {}
        parents: dict[str, list[psycopg.Cursor[Any] | None]] = {}
        with target.pipeline():
            target.execute(s.BEGIN)
            target.execute(MARK, (stream.name,))
            enter = {**self._claim(part.position), "domain": stream.domain.name}
            begun = target.execute(s.ENTER, enter)
            for name, (prepared, _) in wanted.items():
                query = prepared.statements.standing
                standing[name] = target.execute(query, key_arguments(keys[name]))
                moved = prepared.statements.elsewhere
                primaries = look.primaries(prepared, readings[name])
                if moved is not None and primaries:
                    elsewhere[name] = target.execute(moved, look.in_columns(primaries))
                parents[name] = self._ask_parents(prepared, readings[name])
            following = target.execute(s.NEXT_ID)
            # Asked with the rows' tables locked: they stay so until the end.
            layouts = target.execute(LAYOUTS, ([p.shape.table.oid for p, _ in wanted.values()],))
        entry = entered(begun, stream.name)
        _check_states(part, entry.states)
        found = dict(layouts.fetchall())
        if any(found.get(p.shape.table.oid) != p.shape.table.layout for p, _ in wanted.values()):
            raise LayoutMoved
        self.own.begin(entry.own, int(following.fetchall()[0][0]), horizon)
        works = []
        for name, (prepared, _) in wanted.items():
            present = [
                frozenset(tuple(found) for found in cursor.fetchall()) if cursor else frozenset()
                for cursor in parents[name]
            ]
            held = look.standing(prepared, standing[name], self.own)
            if name in elsewhere:
                others = look.standing(prepared, elsewhere[name], self.own)
                look.put_where_they_come(held, others, prepared, readings[name])
            works.append(
                Work(
                    mapping=name,
                    primary_positions=prepared.shape.primary_positions,
                    keys=tuple(keys[name]),
                    rows=readings[name].rows,
                    standing=held,
                    references=self.mappings.references(name, present),
                    rule=prepared.shape.mapping.config.stray,
                    asked=self._asked(part, name, readings[name]),
                    undecided=look.undecided(prepared, readings[name], held, seen.waiting),
                )
            )
        return works, entry.ownership

    def _asked(self, part: Part, name: str, reading: Reading) -> frozenset[Key]:
        """The keys that the opposite stream asked for, now or before they had to wait."""
        return frozenset(
            key
            for raw, key in reading.canonical.items()
            if (name, raw) in part.asked
            or ((kept := self.waiting.get((name, raw))) and kept.reason == "asked")
        )

    def _ask_parents(
        self, prepared: Prepared, reading: Reading
    ) -> list[psycopg.Cursor[Any] | None]:
        """Ask which of the rows' parents stand in the target, per foreign key."""
        cursors: list[psycopg.Cursor[Any] | None] = []
        rows = [item.row for found in reading.rows.values() for item in found]
        made = prepared.statements
        for key, query in zip(made.references, made.parents, strict=True):
            positions = [prepared.shape.columns.index(column) for column in key.columns]
            values = {pick(row, positions) for row in rows}
            whole = [value for value in values if None not in value]
            asked = [list(column) for column in zip(*whole, strict=True)]
            cursors.append(self._target.execute(query, asked) if asked else None)
        return cursors

    def _commit(
        self,
        part: Part,
        readings: dict[str, Reading],
        plan: Plan,
        works: list[Work],
        ownership: Ownership | None,
    ) -> Outcome:
        """Write what was planned and the bookkeeping, and commit."""
        raw = look.raw_names(readings)
        held = (
            {name for key in plan.kept for name in raw[key]} - part.late if part.begins else set()
        )
        strays = [name for name in plan.strays if not set(raw[name]) <= part.quiet]
        # The owner changed since the opposite stream asked: tried again, they are strays of ours.
        kept = {
            name: "asked for by the opposite stream, but not ours to write any more"
            for name in plan.strays
            if name not in strays and part.asked.intersection(raw[name])
        }
        waits = {
            name: (reason, detail)
            for reason, found in (
                ("parent", plan.parentless),
                ("stray-pending", plan.contested),
                ("asked", {name: plan.contested[name] for name in plan.claimed}),
                ("asked", kept),
                ("unwritable", plan.ambiguous),
            )
            for key, detail in found.items()
            for name in raw[key]
            if name not in held
        }
        waits |= part.waits
        done = [*plan.settled, *plan.across, *plan.passed]
        done += [name for name in plan.strays if name not in kept]
        settled = [name for key in done for name in raw[key]]
        prepared = {name: self.mappings[name] for name in readings}
        epoch = ownership.epoch if ownership else None
        lsn = part.position.lsn if part.position else None
        noted = [Stray(name, "kept") for name in strays]
        known = {work.mapping: work for work in works}
        for name, key in plan.across:
            how = why_carried(known[name].rule, key, known[name].facts)
            noted.append(Stray((name, key), "carried", how))
        self._strays.keep(noted, prepared, readings, epoch, lsn)
        self._strays.passed(plan.passed, plan.settled)
        aside = self.collisions.step_aside(part.collisions, prepared, plan)
        writes: list[psycopg.Cursor[Any]] = []
        deletes: list[psycopg.Cursor[Any]] = []
        target = self._target
        with target.pipeline():
            deletes += self._delete(plan.deletes)
            for statement, arguments in aside:
                target.execute(statement, arguments)
            for name, rows in plan.upserts.items():
                # New ones first: a row that stands may come to refer to one of them.
                for query, chosen in look.by_standing(prepared[name], known[name], rows):
                    writes.append(target.execute(query, (s.records(chosen),)))
            deletes += self._delete(plan.late)
            carried = tuple(name for name in part.carry if name not in held)
            self._note(replace(part, carry=carried), waits, settled)
            target.execute(s.COMMIT)
        self._remember(waits, settled)
        return Outcome(
            upserted=sum(cursor.rowcount for cursor in writes),
            deleted=sum(cursor.rowcount for cursor in deletes),
            spooled=len(part.spool),
            strays=len(noted),
            across=len(plan.across),
            late=tuple(name for name in part.carry if name in held),
        )

    def _delete(self, gone: dict[str, list[Values]]) -> list[psycopg.Cursor[Any]]:
        """Delete these rows, children first."""
        return [
            self._target.execute(self.mappings[name].statements.delete, look.in_columns(rows))
            for name, rows in reversed(gone.items())
            if rows
        ]

    def _note(self, part: Part, waits: Waits, settled: Iterable[MappingKey]) -> None:
        """Bookkeeping in the part's own transaction: spool, parked keys, drained keys."""
        stream = self._stream.name
        since = None if part.since is None else lsn_text(part.since)
        if part.spool:
            self._target.execute(s.SPOOL, (stream, since, *s.name_arguments(part.spool)))
        known = [name for name in settled if name in self.waiting]
        if known:
            self._target.execute(s.WAIT_NO_MORE, (*s.name_arguments(known), stream))
        if waits:
            reasons, details = ([*column] for column in zip(*waits.values(), strict=True))
            mappings, keys = s.name_arguments(waits)
            self._target.execute(
                s.WAIT,
                {
                    "stream": stream,
                    "lsn": since,
                    "mappings": mappings,
                    "keys": keys,
                    "reasons": reasons,
                    "details": details,
                },
            )
        generations = part.generations or {}
        drained = [name for name in (*part.carry, *part.settled) if name in generations]
        if drained:
            mapping, keys = drained[0][0], [json.dumps(key) for _, key in drained]
            gens = [generations[name] for name in drained]
            self._target.execute(s.UNSPOOL, (keys, gens, stream, mapping))
            # Not when the spool is found empty: where keys change all the time it never is.
            self._target.execute(s.GO_LIVE, {"stream": stream, "mapping": mapping})

    def _remember(self, waits: Waits, settled: Iterable[MappingKey]) -> None:
        for name in settled:
            self.waiting.pop(name, None)
        for name, (reason, _) in waits.items():
            before = self.waiting.get(name)
            self.waiting[name] = Waiting(reason, before.attempts + 1 if before else 0)

    def _claim(self, position: Position | None) -> dict[str, Any]:
        return {
            "stream": self._stream.name,
            "epoch": self._epoch,
            "lsn": lsn_text(position.lsn) if position else None,
            "committed": position.committed if position else None,
            "heartbeat": position.heartbeat if position else None,
        }

    def _check_claim(self, cursor: psycopg.Cursor[Any]) -> None:
        if cursor.rowcount != 1:
            raise Superseded(stream=self._stream.name)


def _check_states(part: Part, states: dict[str, str]) -> None:
    carried = {name for name, _ in part.carry}
    spooled = {name for name, _ in part.spool}
    if any(states.get(name) != part.state for name in carried) or any(
        states.get(name) == "live" for name in spooled
    ):
        raise StatesMoved
