"""What a repair must not touch: rows without their parent, and rows on which others hang.

Sync would park such keys, and no barrier of its stream would be passed until somebody helps; a
deleted row would take along what is in no plan and in no undo.
"""

from collections.abc import Iterable, Mapping

from estate.catalog import ForeignKey
from migrator.changes import MappingKey
from migrator.plan import Values, pick
from verify.truth import Held, Truth, writable

Repairs = Mapping[MappingKey, Held]


def free(repairs: Repairs, truth: Truth) -> tuple[dict[MappingKey, Held], dict[MappingKey, str]]:
    """The repairs that can be carried, and why the others cannot. Raises what `truth` raises."""
    left, refused = dict(repairs), dict[MappingKey, str]()
    while found := _obstacles(left, truth):
        # Others may have counted on these.
        refused |= found
        left = {name: held for name, held in left.items() if name not in found}
    return left, refused


def _obstacles(repairs: Repairs, truth: Truth) -> dict[MappingKey, str]:
    found: dict[MappingKey, str] = {}
    for stream in {truth.stream(mapping).name for mapping, _ in repairs}:
        ours = {n: held for n, held in repairs.items() if truth.stream(n[0]).name == stream}
        for mapping in {mapping for mapping, _ in ours}:
            of_mapping = {name: held for name, held in ours.items() if name[0] == mapping}
            for reference in truth.references(mapping):
                found |= _parentless(mapping, of_mapping, reference, ours, truth)
            for table, reference in truth.referring(mapping):
                found |= _hung_on(mapping, of_mapping, table, reference, ours, truth)
    return found


def _parentless(
    mapping: str, repairs: Repairs, reference: ForeignKey, ours: Repairs, truth: Truth
) -> dict[MappingKey, str]:
    columns = truth.shape(mapping).columns
    positions = [columns.index(name) for name in reference.columns]
    wanted: dict[Values, list[MappingKey]] = {}
    for name, held in repairs.items():
        for row in held.given:
            value = pick(row, positions)
            if None not in value:
                wanted.setdefault(value, []).append(name)
    if not wanted:
        return {}
    there = truth.parents(mapping, reference, list(wanted))
    there |= {
        pick(row, [truth.shape(parent).columns.index(c) for c in reference.referenced_columns])
        for (parent, _), held in ours.items()
        if truth.shape(parent).table.name == reference.referenced_table
        and set(reference.referenced_columns) <= set(truth.shape(parent).columns)
        for row in held.given
    }
    why = f"its row of '{reference.referenced_table}' is not there"
    return {name: why for value in wanted.keys() - there for name in wanted[value]}


def _hung_on(
    mapping: str,
    repairs: Repairs,
    table: str,
    reference: ForeignKey,
    ours: Repairs,
    truth: Truth,
) -> dict[MappingKey, str]:
    columns = writable(truth.shape(mapping))
    if not set(reference.referenced_columns) <= set(columns):
        return {}
    positions = [columns.index(name) for name in reference.referenced_columns]
    gone: dict[Values, MappingKey] = {}
    for name, held in repairs.items():
        kept = _primaries(mapping, held.given, truth)
        for row, whole in zip(held.standing, held.whole, strict=True):
            if pick(row, truth.shape(mapping).primary_positions) not in kept:
                gone[pick(whole, positions)] = name
    if not gone:
        return {}
    planned = {
        primary
        for (child, _), held in ours.items()
        if truth.shape(child).table.name == table
        for primary in _primaries(child, (*held.standing, *held.given), truth)
    }
    hanging = truth.children(mapping, table, reference, list(gone))
    why = f"rows of '{table}' hang on it that are not in the plan"
    return {gone[value]: why for value, primary in hanging if primary not in planned}


def _primaries(mapping: str, rows: Iterable[Values], truth: Truth) -> set[Values]:
    positions = truth.shape(mapping).primary_positions
    return {pick(row, positions) for row in rows}
