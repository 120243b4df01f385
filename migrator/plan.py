"""What to do with a batch, decided from what both sides hold. Pure: no database, no clock.

Each key is treated as a whole: it is carried, or it is a stray, or it waits (for a parent, or for
the opposite stream to see a change that would be written over). What becomes of a stray is decided
in `rules`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from estate.config import StrayRule
from migrator.changes import MappingKey
from migrator.mapping import Key, Row, Side
from migrator.ownership import Ownership
from migrator.rules import NOTHING_KNOWN, OWNER_WINS, Facts, Verdict, verdict

Values = tuple[str | None, ...]


@dataclass(frozen=True)
class Routed:
    """A row that the mapping gives for a key, and the stable id to which it belongs."""

    row: Row
    route: str


@dataclass(frozen=True)
class Standing:
    """A row that stands in the target now.

    `fresh`: somebody else wrote it, and the opposite stream has not looked at that yet. `leads`:
    the keys of the opposite stream to which it belongs. `xmin`: the 32-bit id of its writer.
    `elsewhere`: it has another driving key there; the source gives its primary key under this one.
    """

    primary: Values
    route: str | None
    fresh: bool = False
    leads: tuple[MappingKey, ...] = ()
    xmin: int = 0
    elsewhere: bool = False


@dataclass(frozen=True)
class Reference:
    """A foreign key of the target: where its columns stand in a row, and what they refer to.

    `parent` is the mapping of the same stream that fills the referenced table, if there is one;
    `parent_positions` is where the referenced columns stand in the parent's rows.
    `present` are the referenced values that the target holds now.
    """

    name: str
    positions: tuple[int, ...]
    parent: str | None
    parent_positions: tuple[int, ...]
    refers_to_primary: bool
    present: frozenset[Values]


@dataclass(frozen=True)
class Work:
    """The keys of one mapping, with what the source gives and what the target holds for each.

    `undecided` are those whose rows wait in the opposite stream. `asked` are those that it has
    asked for, having kept its own version. `facts` are known of those that are foreign. `kept` are
    those whose rows may not be deleted now: for each, what hangs on them and stays.
    """

    mapping: str
    primary_positions: tuple[int, ...]
    keys: tuple[Key, ...]
    rows: dict[Key, list[Routed]]
    standing: dict[Key, list[Standing]]
    references: tuple[Reference, ...] = ()
    undecided: frozenset[Key] = frozenset()
    asked: frozenset[Key] = frozenset()
    rule: StrayRule = OWNER_WINS
    facts: Facts = NOTHING_KNOWN
    kept: Mapping[Key, tuple[MappingKey, ...]] = field(default_factory=dict)


@dataclass
class Plan:
    """The outcome for every key. Mappings stand in the order parents first.

    `late` are deleted after the upserts: what hangs on them now is moved by those.
    `strays` give way to the owner's version; `across` are written over it all the same; at
    `stopped` the stream ends; `passed` were stopped at, and somebody has decided since. `claimed`
    are those of the contested that are ours to write only because they were asked for, `kept` those
    that something hangs on, and that.
    """

    upserts: dict[str, list[Row]] = field(default_factory=dict)
    deletes: dict[str, list[Values]] = field(default_factory=dict)
    late: dict[str, list[Values]] = field(default_factory=dict)
    strays: list[MappingKey] = field(default_factory=list)
    across: list[MappingKey] = field(default_factory=list)
    stopped: list[MappingKey] = field(default_factory=list)
    passed: list[MappingKey] = field(default_factory=list)
    parentless: dict[MappingKey, str] = field(default_factory=dict)
    contested: dict[MappingKey, str] = field(default_factory=dict)
    claimed: set[MappingKey] = field(default_factory=set)
    kept: dict[MappingKey, tuple[MappingKey, ...]] = field(default_factory=dict)
    ambiguous: dict[MappingKey, str] = field(default_factory=dict)
    settled: list[MappingKey] = field(default_factory=list)


def owns(ownership: Ownership | None, side: Side, route: str | None) -> bool:
    """Whether this side owns the bucket. Without an owner row everything belongs to old.

    A row without a stable id has exactly one owner too: that of the empty id.
    """
    if ownership is None:
        return side == "old"
    return ownership.owner(route or "") == side


def foreign(work: Work, ownership: Ownership | None, side: Side) -> tuple[Key, ...]:
    """The keys of this work that the stream's source, `side`, does not own."""
    return tuple(key for key in work.keys if not _is_own(work, key, ownership, side))


def decide(works: Sequence[Work], ownership: Ownership | None, side: Side) -> Plan:
    """Plan a batch whose works stand parents first; `side` is the stream's source."""
    plan = Plan()
    for work in works:
        own = [item.row for rows in work.rows.values() for item in rows]
        returned = Counter(pick(row, work.primary_positions) for row in own)
        available = _available(work, own, plan)
        upserts: list[Row] = []
        deletes: list[Values] = []
        for key in work.keys:
            rows, standing = work.rows.get(key, []), work.standing.get(key, [])
            name = (work.mapping, key)
            if not _is_own(work, key, ownership, side):
                sentence = verdict(work.rule, key, work.facts)
                if sentence is Verdict.CARRIED and _can_be_written(rows, work, returned, available):
                    upserts += [item.row for item in rows]
                    plan.across.append(name)
                else:
                    _of(plan, sentence).append(name)
                continue
            if any(returned[pick(item.row, work.primary_positions)] > 1 for item in rows):
                plan.ambiguous[name] = "the mapping gives two rows with the same primary key"
                continue
            if key in work.undecided or any(item.fresh for item in standing):
                # Written over now, the other side's version would be lost without a trace.
                plan.contested[name] = "the other side changed it too, and that is carried first"
                if not _belongs(rows, standing, ownership, side):
                    plan.claimed.add(name)
                continue
            if key in work.kept:
                plan.kept[name] = work.kept[key]
                plan.contested[name] = _told(plan.kept[name][0])
                continue
            missing = _missing(rows, available)
            if missing is not None:
                plan.parentless[name] = missing
                continue
            upserts += [item.row for item in rows]
            deletes += [item.primary for item in standing if item.primary not in returned]
            plan.settled.append(name)
        plan.upserts[work.mapping] = upserts
        plan.deletes[work.mapping] = deletes
    return plan


def pick(row: Sequence[str | None], positions: Iterable[int]) -> Values:
    """The values at these positions."""
    return tuple(row[position] for position in positions)


def _is_own(work: Work, key: Key, ownership: Ownership | None, side: Side) -> bool:
    """Whether the source may write the key.

    A row may go from one customer to another, whose bucket is the other side's. Each version then
    names an owner of its own, and that one side owns both cannot be said of either. The side that
    gives its row away may carry it; a row that it took from the other side is a stray, and when
    the other side is asked for its version, that one may be written over it. So each has an end.
    """
    rows, standing = work.rows.get(key, []), work.standing.get(key, [])
    if _belongs(rows, standing, ownership, side):
        return True
    if not rows or not standing:
        return False
    gives = all(item.route is not None and owns(ownership, side, item.route) for item in standing)
    if gives:
        stands = {item.primary for item in standing}
        contested = key in work.undecided or any(item.fresh for item in standing)
        # When both sides give it away, each would wait for the other: old waits, new gives way.
        return not (contested and side == "new") and all(
            pick(item.row, work.primary_positions) in stands
            for item in rows
            if not owns(ownership, side, item.route)
        )
    return key in work.asked and all(owns(ownership, side, item.route) for item in rows)


def _belongs(
    rows: list[Routed], standing: list[Standing], ownership: Ownership | None, side: Side
) -> bool:
    return all(owns(ownership, side, route) for route in _routes(rows, standing))


def _told(below: MappingKey) -> str:
    table, key = below[0].rpartition(".")[2], ", ".join(below[1])
    return f"{table} {key} refers to it and would be deleted too: that is carried first"


def _of(plan: Plan, sentence: Verdict) -> list[MappingKey]:
    match sentence:
        case Verdict.STOPPED:
            return plan.stopped
        case Verdict.PASSED:
            return plan.passed
    # One that was to be carried and cannot be written either.
    return plan.strays


def _can_be_written(
    rows: list[Routed],
    work: Work,
    returned: Counter[Values],
    available: list[tuple[Reference, set[Values]]],
) -> bool:
    twice = any(returned[pick(item.row, work.primary_positions)] > 1 for item in rows)
    return not twice and _missing(rows, available) is None


def _routes(rows: list[Routed], standing: list[Standing]) -> set[str | None]:
    routes: set[str | None] = {item.route for item in rows}
    # A target row whose id cannot be found (its parent is gone) says nothing beside source rows.
    routes |= {item.route for item in standing if item.route is not None or not rows}
    return routes


def _missing(rows: list[Routed], available: list[tuple[Reference, set[Values]]]) -> str | None:
    """The foreign key whose parent is neither in the target nor in this batch, in words."""
    for reference, values in available:
        for item in rows:
            wanted = pick(item.row, reference.positions)
            # With a null in it a foreign key asks for nothing.
            if None not in wanted and wanted not in values:
                return f"{reference.name}: no parent {', '.join(map(str, wanted))}"
    return None


def _available(work: Work, own: list[Row], plan: Plan) -> list[tuple[Reference, set[Values]]]:
    """For each reference: what stands in the target afterwards, as far as this batch decides."""
    found = []
    for reference in work.references:
        parent = reference.parent or ""
        values = set(reference.present)
        if reference.refers_to_primary:
            values.difference_update(plan.deletes.get(parent, ()))
        # A row may refer to one of its own table, which comes with the same statement.
        coming = own if parent == work.mapping else plan.upserts.get(parent, [])
        values.update(pick(row, reference.parent_positions) for row in coming)
        found.append((reference, values))
    return found
