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
            gone = _gone(mapping, of_mapping, truth)
            if not gone:
                continue
            found |= _given_elsewhere(mapping, gone, truth)
            if truth.referred_from_outside(mapping):
                found |= {name: "tables of other schemas refer to its table" for name, _ in gone}
            for table, reference in truth.referring(mapping):
                found |= _hung_on(mapping, gone, table, reference, ours, truth)
    return found


def _gone(mapping: str, repairs: Repairs, truth: Truth) -> list[tuple[MappingKey, Values]]:
    """The rows, whole, that would be deleted: none of the repairs gives them."""
    kept = {row for held in repairs.values() for row in _primaries(mapping, held.given, truth)}
    positions = truth.shape(mapping).primary_positions
    return [
        (name, whole)
        for name, held in repairs.items()
        for row, whole in zip(held.standing, held.whole, strict=True)
        if pick(row, positions) not in kept
    ]


def _given_elsewhere(
    mapping: str, gone: list[tuple[MappingKey, Values]], truth: Truth
) -> dict[MappingKey, str]:
    shape = truth.shape(mapping)
    if set(shape.mapping.key) <= set(shape.table.primary_key):
        return {}
    columns = writable(shape)
    positions = [columns.index(name) for name in shape.table.primary_key]
    primaries = {name: pick(whole, positions) for name, whole in gone}
    given = truth.given_by_the_source(mapping, list(primaries.values()))
    why = "the mapping gives its row under another key, which is not in the plan"
    return {name: why for name, primary in primaries.items() if primary in given}


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
    deleted: list[tuple[MappingKey, Values]],
    table: str,
    reference: ForeignKey,
    ours: Repairs,
    truth: Truth,
) -> dict[MappingKey, str]:
    columns = writable(truth.shape(mapping))
    if not set(reference.referenced_columns) <= set(columns):
        return {}
    positions = [columns.index(name) for name in reference.referenced_columns]
    gone = {pick(whole, positions): name for name, whole in deleted}
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
