"""What the target holds for a part's keys, as a look at it gave it, and what follows from that."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import psycopg

from migrator.changes import MappingKey
from migrator.mapping import Key
from migrator.opposite import keys_of_rows
from migrator.parts import Own
from migrator.plan import Standing, Values, Work, pick
from migrator.reading import Prepared, Reading


def standing(
    prepared: Prepared, cursor: psycopg.Cursor[Any], own: Own
) -> dict[Key, list[Standing]]:
    """The rows that a look gave, by their key."""
    found: dict[Key, list[Standing]] = {}
    for row in cursor.fetchall():
        key, item = standing_row(prepared, row, own)
        found.setdefault(key, []).append(item)
    return found


def standing_row(prepared: Prepared, row: Sequence[Any], own: Own) -> tuple[Key, Standing]:
    """A row that a look gave, and its key."""
    width = len(prepared.shape.table.primary_key)
    *key, xmin, route, values = row[width:]
    ways = prepared.statements.ways
    leads = [way.key(value) for way, value in zip(ways, values, strict=True)]
    return tuple(key), Standing(
        tuple(row[:width]),
        route,
        own.is_fresh(int(xmin)),
        tuple(lead for lead in leads if lead is not None),
        int(xmin),
    )


def primaries(prepared: Prepared, reading: Reading) -> set[Values]:
    """Of all rows that the source gives."""
    positions = prepared.shape.primary_positions
    return {pick(item.row, positions) for rows in reading.rows.values() for item in rows}


def put_where_they_come(
    held: dict[Key, list[Standing]],
    others: dict[Key, list[Standing]],
    prepared: Prepared,
    reading: Reading,
) -> None:
    """Add rows to the keys under which the source gives them, where they have another one here."""
    positions = prepared.shape.primary_positions
    comes = {pick(item.row, positions): key for key in reading.rows for item in reading.rows[key]}
    for key, found in others.items():
        for item in found:
            coming = comes.get(item.primary, key)
            if coming != key:
                held.setdefault(coming, []).append(replace(item, elsewhere=True))


def in_columns(rows: Iterable[Values]) -> list[list[str | None]]:
    """Rows as a statement's parameters: one array for each column."""
    return [list(column) for column in zip(*rows, strict=True)]


def undecided(
    prepared: Prepared,
    reading: Reading,
    held: dict[Key, list[Standing]],
    waiting: frozenset[MappingKey],
) -> frozenset[Key]:
    """The keys whose rows lead to one that is parked in the opposite stream."""
    if not waiting:
        return frozenset()
    found, ways, columns = set(), prepared.statements.ways, prepared.shape.columns
    for key in reading.canonical.values():
        rows = [item.row for item in reading.rows.get(key, [])]
        leads = set(keys_of_rows(ways, columns, rows))
        leads.update(lead for item in held.get(key, []) for lead in item.leads)
        if leads & waiting:
            found.add(key)
    return frozenset(found)


def raw_names(readings: dict[str, Reading]) -> dict[MappingKey, list[MappingKey]]:
    """For each key in the target's text: the texts under which the log has it."""
    names: dict[MappingKey, list[MappingKey]] = {}
    for mapping, reading in readings.items():
        for raw, canonical in reading.canonical.items():
            names.setdefault((mapping, canonical), []).append((mapping, raw))
    return names


def by_standing(
    prepared: Prepared, work: Work, rows: list[Values]
) -> Iterable[tuple[bytes, list[Values]]]:
    """Rows to insert, and rows that stand, locked: each with its statement, where there are any."""
    stands = {item.primary for found in work.standing.values() for item in found}
    new: list[Values] = []
    there: list[Values] = []
    for row in rows:
        (there if pick(row, work.primary_positions) in stands else new).append(row)
    if new:
        yield prepared.statements.insert, new
    if there:
        yield prepared.statements.upsert, there
