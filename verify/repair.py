"""The plan of a repair: for each differing row what would change, on which side, by whose truth.

The truth is what the side holds that owns the row's customer (law L5). Nothing is written by hand:
the owner's own stream is asked to carry the key again, so that what differs goes the way that every
change goes. Planning changes nothing.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from estate.config import Config
from estate.connections import operator
from estate.errors import ExitCode, SplitctlError
from migrator.changes import MappingKey
from migrator.mapping import Key, Shape, Side
from migrator.ownership import Ownership
from migrator.plan import Values, pick
from verify import diff
from verify.barriers import Barriers
from verify.findings import shown
from verify.passes import Limits, OnProgress
from verify.rows import plain_key
from verify.sides import Both, open_both
from verify.subject import select
from verify.truth import Held, Truth
from verify.verdict import SHOWN, Verdict, Word


class OwnerMoving(SplitctlError):
    """The two sides of '{domain}' do not say the same about who owns what, so there is no truth to
    repair from. Nothing was changed."""

    hint = "splitctl status"
    exit_code = ExitCode.PRECONDITION


class PlanUnreadable(SplitctlError):
    """'{path}' is not a repair plan: {reason}. Nothing was changed."""

    hint = "splitctl verify repair DOMAIN, which writes one"
    exit_code = ExitCode.USAGE


class PlanOfAnother(SplitctlError):
    """The plan was made for {made}, not for {asked}. Nothing was changed."""

    hint = "splitctl verify repair {domain}, which writes one for it"
    exit_code = ExitCode.USAGE


@dataclass(frozen=True)
class Change:
    """What would become of one row: the columns by name, with the value that is there and the one
    that comes; None where there is no row, or no value."""

    act: Literal["insert", "update", "delete"]
    row: dict[str, str | None]
    columns: dict[str, tuple[str | None, str | None]]


@dataclass(frozen=True)
class Repair:
    """One key that the stream of `mapping` is to carry again, to `table` of `database`.

    `truth` is the side whose rows stand; `seal` names the rows that both sides held. `found` are
    the keys under which the comparison saw it, in either direction.
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

    `verdict` and `barriers` are those of the comparison on which it rests.
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
    form: Literal[1] = field(default=1)

    def save(self, path: Path) -> None:
        """Write it to a file that its owner alone can read: it holds customers' rows. Raises
        OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(_FORM.dump_json(self, indent=1) + b"\n")

    def counts(self) -> Counter[tuple[str, str, str, str]]:
        """How many rows of which table would be inserted, updated or deleted, by whose truth."""
        return Counter(
            (repair.database, repair.table, change.act, repair.truth)
            for repair in self.repairs
            for change in repair.changes
        )


_FORM = TypeAdapter(Plan)


def load(path: Path, environment: str, domain: str) -> Plan:
    """A plan from its file. Raises PlanUnreadable or PlanOfAnother."""
    try:
        found = _FORM.validate_json(path.read_bytes())
    except OSError as error:
        raise PlanUnreadable(path=path, reason=error.strerror or error) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = f"{where}: {first['msg']}" if where else first["msg"]
        raise PlanUnreadable(path=path, reason=reason) from error
    made, asked = (found.environment, found.domain), (environment, domain)
    if made != asked:
        told = (f"domain '{name}' of '{place}'" for place, name in (made, asked))
        raise PlanOfAnother(made=next(told), asked=next(told), domain=domain)
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
    )


class _Planning:
    """From differing keys to the keys that their owners' streams are to carry again."""

    def __init__(self, config: Config, domain: str, both: Both) -> None:
        self._config, self._truth = config, Truth(config, domain, both)
        owner = self._truth.ownership()
        if owner is None:
            raise OwnerMoving(domain=domain)
        self._owner: Ownership = owner
        self._beyond: list[Beyond] = []
        # Each key to be asked for, with the keys under which it was found to differ.
        self._asked: dict[MappingKey, list[MappingKey]] = {}

    def of(self, verdict: Verdict) -> tuple[list[Repair], list[Beyond]]:
        """What can be repaired, and what cannot."""
        led: dict[MappingKey, list[MappingKey]] = {}
        for item in verdict.mappings:
            led |= self._judged(item.mapping, item.differing)
        looked = self._look(dict.fromkeys(lead for leads in led.values() for lead in leads))
        for found, leads in led.items():
            mending = [lead for lead in leads if self._mends(lead, looked[lead])]
            for lead in mending:
                self._asked.setdefault(lead, []).append(found)
            if not mending:
                self._cannot(*found, "no mapping carries what differs back from its owner's side")
        held = self._look(self._asked)
        repairs = [
            self._repair(name, held[name], found)
            for name, found in self._asked.items()
            if held[name].differs
        ]
        return repairs, self._beyond

    def _judged(self, mapping: str, keys: Iterable[Values]) -> dict[MappingKey, list[MappingKey]]:
        """Ask for what the mapping's own stream can mend; returns what is for the opposite one."""
        whole: list[MappingKey] = []
        for key in keys:
            named = plain_key(key)
            if named is None:
                self._cannot(mapping, key, "a key that is not whole is none to sync")
            else:
                whole.append((mapping, named))
        led: dict[MappingKey, list[MappingKey]] = {}
        stream = self._truth.stream(mapping)
        for name, held in self._look(whole).items():
            if held.owner == stream.source_side:
                self._asked.setdefault(name, []).append(name)
            elif held.owner is not None:
                led[name] = list(held.leads)
            elif held.given or held.standing:
                self._cannot(*name, "its rows belong to customers of both sides")
        return led

    def _look(self, names: Iterable[MappingKey]) -> dict[MappingKey, Held]:
        by_mapping: dict[str, list[Key]] = {}
        for mapping, key in names:
            by_mapping.setdefault(mapping, []).append(key)
        return {
            (mapping, key): held
            for mapping, keys in by_mapping.items()
            for key, held in self._truth.look(mapping, keys, self._owner).items()
        }

    def _mends(self, name: MappingKey, held: Held) -> bool:
        return held.differs and held.owner == self._truth.stream(name[0]).source_side

    def _cannot(self, mapping: str, key: Values, why: str) -> None:
        self._beyond.append(Beyond(mapping, key, why))

    def _repair(self, name: MappingKey, held: Held, found: list[MappingKey]) -> Repair:
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
            tuple(found),
        )


def changes(shape: Shape, held: Held) -> Iterable[Change]:
    """What would become of each row that differs; sensitive values are not shown."""
    hidden = frozenset(shape.mapping.config.sensitive)
    positions = shape.primary_positions
    coming = {pick(row, positions): row for row in held.given}
    there = {pick(row, positions): row for row in held.standing}
    for primary in dict.fromkeys([*there, *coming]):
        before, after = there.get(primary), coming.get(primary)
        if before == after:
            continue
        act: Literal["insert", "update", "delete"] = "update"
        if before is None or after is None:
            act = "insert" if before is None else "delete"
        nothing: Values = (None,) * len(shape.columns)
        pairs = zip(shape.columns, before or nothing, after or nothing, strict=True)
        yield Change(
            act,
            {
                name: shown(name, text, hidden)
                for name, text in zip(shape.table.primary_key, primary, strict=True)
            },
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
    for (database, table, act, truth), count in sorted(found.counts().items()):
        lines.append(f"  {database}.{table}: {act} {count:,}, as the {truth} side has it")
    first = [(repair, change) for repair in found.repairs for change in repair.changes][:SHOWN]
    if first:
        lines.append("")
    for repair, change in first:
        key = ", ".join(f"{name}={text}" for name, text in change.row.items())
        told = "" if change.act == "delete" else ": " + ", ".join(
            f"{name} {_quoted(is_)} -> {_quoted(becomes)}"
            if change.act == "update"
            else f"{name} {_quoted(becomes)}"
            for name, (is_, becomes) in change.columns.items()
        )  # fmt: skip
        lines.append(f"{repair.database}.{repair.table} [{key}] {change.act}{told}")
    if found.beyond:
        lines += ["", f"{len(found.beyond):,} key(s) cannot be repaired so:"]
    for item in found.beyond[:SHOWN]:
        lines.append(f"  {item.mapping} [{', '.join(map(str, item.key))}]: {item.why}")
    return "\n".join(lines)


def _quoted(text: str | None) -> str:
    return "NULL" if text is None else repr(text)
