"""The plan of a repair: for each differing row what would change, on which side, by whose truth.

The truth is what the side holds that owns the row's customer (law L5). Nothing is written by hand:
the owner's own stream is asked to carry the key again, so that what differs goes the way that every
change goes. Planning changes nothing.
"""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from estate.config import Config
from estate.connections import operator
from estate.errors import ExitCode, SplitctlError
from migrator.changes import MappingKey
from migrator.mapping import Key, Shape, Side
from migrator.plan import Values, pick
from verify import diff, obstacles
from verify.barriers import Barriers
from verify.findings import shown
from verify.passes import Limits, OnProgress
from verify.rows import plain_key
from verify.sides import Both, open_both
from verify.subject import Subject, select
from verify.truth import Held, Truth
from verify.verdict import SHOWN, Verdict, Word

Act = Literal["insert", "update", "delete"]
# A value of a document is cut there on a screen.
LONGEST = 60


class OwnerMoving(SplitctlError):
    """The two sides of '{domain}' do not say the same about who owns what, so there is no truth to
    repair from. Nothing was changed."""

    hint = "splitctl status"
    exit_code = ExitCode.PRECONDITION


class PlanUnreadable(SplitctlError):
    """'{path}' is not a repair plan: {reason}. Nothing was changed."""

    hint = "splitctl verify repair {domain}, which writes one"
    exit_code = ExitCode.USAGE


class PlanOfAnother(SplitctlError):
    """The plan was made for {made}, not for {asked}. Nothing was changed."""

    hint = "splitctl verify repair {domain}, which writes one for it"
    exit_code = ExitCode.USAGE


@dataclass(frozen=True)
class Change:
    """What would become of one row: the columns by name, with the value that is there and the one
    that comes; None where there is no row, or no value."""

    act: Act
    row: dict[str, str | None]
    columns: dict[str, tuple[str | None, str | None]]


@dataclass(frozen=True)
class Repair:
    """One key that the stream of `mapping` is to carry again, to `table` of `database`.

    `key` is written as the source's log has it. `truth` is the side whose rows stand; `seal` names
    the rows that both sides held. `found` are the keys to be compared, in the targets' text: its
    own, and those under which it was seen to differ, in either direction.
    """

    mapping: str
    key: tuple[str, ...]
    truth: Side
    database: str
    table: str
    changes: tuple[Change, ...]
    seal: str
    found: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Beyond:
    """A key that differs and that sync cannot mend, and why."""

    mapping: str
    key: tuple[str | None, ...]
    why: str


@dataclass(frozen=True)
class Plan:
    """What would be repaired in one domain. Entries may be taken out of its file, not put in.

    `verdict` and `barriers` are those of the comparison on which it rests; of `unsure` keys that
    could not tell whether they differ.
    """

    environment: str
    domain: str
    made_at: datetime
    made_by: str
    verdict: Word
    barriers: dict[str, dict[str, str | None]]
    repairs: tuple[Repair, ...]
    beyond: tuple[Beyond, ...]
    reasons: tuple[str, ...] = ()
    unsure: int = 0
    form: Literal[1] = 1

    @property
    def complete(self) -> bool:
        """Whether all was compared, and all that differs can be repaired."""
        return not (self.reasons or self.unsure or self.beyond or self.verdict == "inconclusive")

    def save(self, path: Path) -> None:
        """Write it, at once or not at all, for its owner alone to read: it holds customers' rows.
        Raises OSError."""
        write_private(path, _FORM.dump_json(self, indent=1) + b"\n")

    def counts(self) -> Counter[tuple[str, str, str, str]]:
        """How many rows of which table would be inserted, updated or deleted, by whose truth."""
        return Counter(
            (repair.database, repair.table, change.act, repair.truth)
            for repair in self.repairs
            for change in repair.changes
        )


_FORM = TypeAdapter(Plan)


def write_private(path: Path, content: bytes) -> None:
    """A whole file or none, on the disk when this returns, for its owner alone. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def load(path: Path, environment: str, domain: str) -> Plan:
    """A plan from its file. Raises PlanUnreadable or PlanOfAnother."""
    try:
        found = _FORM.validate_json(path.read_bytes())
    except OSError as error:
        reason = error.strerror or error
        raise PlanUnreadable(path=path, reason=reason, domain=domain) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = f"{where}: {first['msg']}" if where else first["msg"]
        raise PlanUnreadable(path=path, reason=reason, domain=domain) from error
    if (found.environment, found.domain) != (environment, domain):
        made = f"domain '{found.domain}' of '{found.environment}'"
        asked = f"domain '{domain}' of '{environment}'"
        raise PlanOfAnother(made=made, asked=asked, domain=domain)
    return found


def plan(
    config: Config,
    domain: str,
    mappings: list[str] | None,
    *,
    limits: Limits | None = None,
    barriers: Barriers | None = None,
    on_progress: OnProgress | None = None,
) -> Plan:
    """Compare, and find for each difference who has the truth and what it would change.

    Raises what `diff.run` raises, OwnerMoving, and MappingMismatch.
    """
    # All mappings by name: the invariants are not asked, which no repair can mend.
    names = [name for chosen in select(config, domain, mappings) for name in chosen.mappings]
    verdict = diff.run(
        config, domain, names, on_progress=on_progress, barriers=barriers, limits=limits
    )
    repairs: list[Repair] = []
    beyond: list[Beyond] = []
    if any(item.differing for item in verdict.mappings):
        sides = config.domain(domain)
        with open_both(config.database(sides.old), config.database(sides.new)) as both:
            repairs, beyond = _Planning(config, domain, both).of(verdict)
    return Plan(
        config.environment,
        domain,
        datetime.now(UTC),
        operator(),
        verdict.verdict,
        verdict.barriers,
        tuple(repairs),
        tuple(beyond),
        tuple(verdict.reasons),
        verdict.totals()["inconclusive"],
    )


class _Planning:
    """From differing keys to the keys that their owners' streams are to carry again."""

    def __init__(self, config: Config, domain: str, both: Both) -> None:
        self._truth = Truth(config, domain, both)
        owner = self._truth.ownership()
        if owner is None:
            raise OwnerMoving(domain=domain)
        self._owner = owner
        self._subjects: dict[str, Subject] = {
            subject.name: subject
            for selection in select(config, domain, None)
            for subject in diff.subjects_of(selection, both)
        }
        self._beyond: list[Beyond] = []
        # What is to be asked for, by the log's keys, and the targets' keys that it would mend.
        self._held: dict[MappingKey, Held] = {}
        self._found: dict[MappingKey, list[MappingKey]] = {}

    def of(self, verdict: Verdict) -> tuple[list[Repair], list[Beyond]]:
        """What can be repaired, and what cannot."""
        led: dict[MappingKey, tuple[MappingKey, ...]] = {}
        for item in verdict.mappings:
            led |= self._judged(item.mapping, item.differing)
        looked = self._look(lead for leads in led.values() for lead in leads)
        for found, leads in led.items():
            mending = [lead for lead in leads if lead in looked and self._mends(lead, looked[lead])]
            for lead in mending:
                self._ask(lead, looked[lead], found)
            if not mending:
                self._cannot(*found, "no mapping carries what differs back from its owner's side")
        held, refused = obstacles.free(self._held, self._truth)
        for (mapping, key), why in refused.items():
            self._cannot(mapping, key, why)
        return [self._repair(name, held[name]) for name in held], self._beyond

    def _judged(
        self, mapping: str, keys: Iterable[Values]
    ) -> dict[MappingKey, tuple[MappingKey, ...]]:
        """Ask for what the mapping's own stream can mend; returns what is for the opposite one."""
        whole: list[Key] = []
        for key in keys:
            named = plain_key(key)
            if named is None:
                self._cannot(mapping, key, "a key that is not whole is none to sync")
            else:
                whole.append(named)
        logged = self._truth.as_logged(self._subjects[mapping], whole)
        looked = self._look((mapping, raw) for raws in logged.values() for raw in raws)
        side = self._truth.stream(mapping).source_side
        led: dict[MappingKey, tuple[MappingKey, ...]] = {}
        for stored, raws in logged.items():
            held = looked.get((mapping, raws[0]))
            if held is None:
                self._cannot(mapping, stored, "the source can hold no such key")
            elif len(raws) > 1:
                self._cannot(mapping, stored, "the source writes this key in several ways")
            elif self._doubled(mapping, held):
                self._cannot(mapping, stored, "the mapping gives two rows with one primary key")
            elif held.owner == side:
                self._ask((mapping, raws[0]), held, (mapping, stored))
            elif held.owner is not None:
                led[(mapping, stored)] = held.leads
            elif held.given or held.standing:
                self._cannot(mapping, stored, "its rows belong to customers of both sides")
        return led

    def _look(self, names: Iterable[MappingKey]) -> dict[MappingKey, Held]:
        by_mapping: dict[str, dict[Key, None]] = {}
        for mapping, key in names:
            by_mapping.setdefault(mapping, {})[key] = None
        return {
            (mapping, key): held
            for mapping, keys in by_mapping.items()
            for key, held in self._truth.look(mapping, list(keys), self._owner).items()
        }

    def _mends(self, name: MappingKey, held: Held) -> bool:
        own = held.owner == self._truth.stream(name[0]).source_side
        return held.differs and own and not self._doubled(name[0], held)

    def _doubled(self, mapping: str, held: Held) -> bool:
        positions = self._truth.shape(mapping).primary_positions
        return len({pick(row, positions) for row in held.given}) < len(held.given)

    def _ask(self, name: MappingKey, held: Held, found: MappingKey) -> None:
        if held.differs:
            self._held[name] = held
            self._found.setdefault(name, [(name[0], held.stored)]).append(found)

    def _cannot(self, mapping: str, key: Values, why: str) -> None:
        self._beyond.append(Beyond(mapping, key, why))

    def _repair(self, name: MappingKey, held: Held) -> Repair:
        mapping, key = name
        stream = self._truth.stream(mapping)
        shape = self._truth.shape(mapping)
        return Repair(
            mapping,
            key,
            stream.source_side,
            stream.target.name,
            shape.table.name,
            tuple(changes(shape, held)),
            held.seal,
            tuple(dict.fromkeys(self._found[name])),
        )


def changes(shape: Shape, held: Held) -> Iterable[Change]:
    """What would become of each row that differs; sensitive values are not shown."""
    hidden = frozenset(shape.mapping.config.sensitive)
    positions = shape.primary_positions
    coming = {pick(row, positions): row for row in held.given}
    there = {pick(row, positions): row for row in held.standing}
    nothing: Values = (None,) * len(shape.columns)
    for primary in dict.fromkeys([*there, *coming]):
        before, after = there.get(primary), coming.get(primary)
        if before == after:
            continue
        act: Act = "insert" if before is None else "delete" if after is None else "update"
        key = zip(shape.table.primary_key, primary, strict=True)
        pairs = zip(shape.columns, before or nothing, after or nothing, strict=True)
        yield Change(
            act,
            {name: shown(name, text, hidden) for name, text in key},
            {
                name: (shown(name, is_, hidden), shown(name, becomes, hidden))
                for name, is_, becomes in pairs
                if is_ != becomes
            },
        )


def in_words(found: Plan) -> str:
    """The plan for a person: how many rows of which tables, the first ones, and what is beyond."""
    rows = sum(len(repair.changes) for repair in found.repairs)
    lines = [f"{rows:,} row(s) of {len(found.repairs):,} key(s) would be repaired"]
    lines += [f"  {reason}" for reason in found.reasons]
    if found.unsure:
        lines.append(f"  {found.unsure:,} more could not be told: this is not all that differs")
    for (database, table, act, truth), count in sorted(found.counts().items()):
        lines.append(f"  {database}.{table}: {act} {count:,}, as the {truth} side has it")
    first = [(repair, change) for repair in found.repairs for change in repair.changes][:SHOWN]
    if first:
        lines.append("")
    for repair, change in first:
        key = ", ".join(f"{name}={text}" for name, text in change.row.items())
        lines.append(f"{repair.database}.{repair.table} [{key}] {_told(change)}")
    if found.beyond:
        lines += ["", f"{len(found.beyond):,} key(s) cannot be repaired so:"]
    for item in found.beyond[:SHOWN]:
        lines.append(f"  {item.mapping} [{', '.join(map(str, item.key))}]: {item.why}")
    return "\n".join(lines)


def _told(change: Change) -> str:
    match change.act:
        case "delete":
            return "delete"
        case "insert":
            columns = (f"{name} {_quoted(new)}" for name, (_, new) in change.columns.items())
        case "update":
            pairs = change.columns.items()
            columns = (f"{name} {_quoted(is_)} -> {_quoted(new)}" for name, (is_, new) in pairs)
    return f"{change.act}: {', '.join(columns)}"


def _quoted(text: str | None) -> str:
    if text is None:
        return "NULL"
    return repr(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")
