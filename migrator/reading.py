"""Reading a batch's rows on the source, from a snapshot that sees every transaction of it (L3)."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from estate.errors import ExitCode, SplitctlError
from migrator import statements as s
from migrator.changes import MappingKey
from migrator.mapping import Key, Shape, key_arguments
from migrator.plan import Routed
from migrator.statements import Statements
from migrator.visibility import unseen

Connection = psycopg.Connection[Any]
FIRST_PAUSE_S = 0.001
LONGEST_PAUSE_S = 0.05
LIMIT_S = 30.0


class StillInvisible(SplitctlError):
    """Transactions {xids} are in the log of '{database}', but after {seconds:.0f} s no snapshot
    sees them yet: most likely they wait for a synchronous standby."""

    hint = "splitctl doctor"
    exit_code = ExitCode.PRECONDITION


class RouteMissing(psycopg.DataError):
    """A mapping gave a row without its stable id."""


@dataclass(frozen=True)
class Prepared:
    """A mapping with the statements made for it."""

    shape: Shape
    statements: Statements


@dataclass(frozen=True)
class Reading:
    """What the source gives for keys of one mapping.

    `canonical` leads from a key as the log has it to its text in the target; `rows` go by the
    latter.
    """

    canonical: dict[Key, Key]
    rows: dict[Key, list[Routed]]


@dataclass(frozen=True)
class Seen:
    """What one snapshot of the source shows: rows by mapping, and the opposite stream's parked
    keys, which it keeps there."""

    readings: dict[str, Reading]
    waiting: frozenset[MappingKey]


def read(
    connection: Connection,
    opposite: str,
    wanted: Mapping[str, tuple[Prepared, list[Key]]],
    xids: Iterable[int],
) -> Seen:
    """Rows of all these keys, from one snapshot. Raises StillInvisible, or what a query raises."""
    awaited = frozenset(xids)
    pause, started = FIRST_PAUSE_S, time.monotonic()
    while True:
        with connection.pipeline():
            connection.execute(s.BEGIN_READ)
            shown = connection.execute(s.SNAPSHOT)
            parked = connection.execute(s.WAITING, (opposite,))
            cursors = {
                name: _ask(connection, prepared, keys) for name, (prepared, keys) in wanted.items()
            }
            connection.execute(s.COMMIT)
        found = shown.fetchone()
        assert found is not None
        missing = unseen(awaited, str(found[0]))
        if not missing:
            return Seen(
                {name: _reading(wanted[name], *cursors[name]) for name in wanted},
                frozenset((name, tuple(json.loads(key))) for name, key, *_ in parked.fetchall()),
            )
        pause = _pause(connection, missing, started, pause)


def snapshot(connection: Connection, opposite: str, xids: Iterable[int]) -> frozenset[MappingKey]:
    """Open a snapshot that sees these transactions; it stays open. Returns the parked keys of the
    opposite stream, which that keeps here. Raises StillInvisible."""
    awaited = frozenset(xids)
    pause, started = FIRST_PAUSE_S, time.monotonic()
    while True:
        with connection.pipeline():
            connection.execute(s.BEGIN_READ)
            seen = connection.execute(s.SNAPSHOT)
            parked = connection.execute(s.WAITING, (opposite,))
        found = seen.fetchone()
        assert found is not None
        missing = unseen(awaited, str(found[0]))
        if not missing:
            return frozenset((row[0], tuple(json.loads(row[1]))) for row in parked.fetchall())
        connection.execute(s.COMMIT)
        pause = _pause(connection, missing, started, pause)


def _pause(connection: Connection, missing: set[int], started: float, pause: float) -> float:
    """Wait a little for transactions to become visible. Returns the next pause."""
    elapsed = time.monotonic() - started
    if elapsed > LIMIT_S:
        numbers = ", ".join(map(str, sorted(missing)[:5]))
        raise StillInvisible(xids=numbers, database=connection.info.dbname, seconds=elapsed)
    time.sleep(pause)
    return min(pause * 2, LONGEST_PAUSE_S)


Asked = tuple[psycopg.Cursor[Any], psycopg.Cursor[Any] | None]


def _ask(connection: Connection, prepared: Prepared, keys: list[Key]) -> Asked:
    canonical = None
    if not prepared.shape.canonical:
        parts = [list(part) for part in zip(*keys, strict=True)]
        canonical = connection.execute(prepared.statements.canonical, parts)
    rows = connection.execute(prepared.statements.rows, key_arguments(keys))
    return rows, canonical


def _reading(
    wanted: tuple[Prepared, list[Key]],
    cursor: psycopg.Cursor[Any],
    canonical: psycopg.Cursor[Any] | None,
) -> Reading:
    prepared, keys = wanted
    texts = keys if canonical is None else [tuple(row) for row in canonical.fetchall()]
    positions = prepared.shape.key_positions
    rows: dict[Key, list[Routed]] = {}
    for found in cursor.fetchall():
        if found[-1] is None:
            name = prepared.shape.mapping.name
            raise RouteMissing(f"{name} gives a row whose splitctl_route is null")
        row = tuple(found[:-1])
        rows.setdefault(tuple(row[n] for n in positions), []).append(Routed(row, found[-1]))
    return Reading(dict(zip(keys, texts, strict=True)), rows)
