"""What the sync has put aside, row by row: strays with both versions, and keys that wait."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, LiteralString, TypeVar

import psycopg

from estate.config import Config
from estate.connections import connect
from estate.errors import SplitctlError, in_one_line
from migrator import control
from migrator.mapping import Stream, streams

Connection = psycopg.Connection[Any]
Which = Literal["open", "all"]
LIMIT = 100
T = TypeVar("T")
REFUSED = "the target refuses it"
# The words of the control schema, for a person.
REASONS = {
    "parent": "its parent has not arrived",
    "unwritable": REFUSED,
    "stray-pending": "both sides changed it",
    "asked": "the two sides do not agree who owns it",
}

OUTCOMES = {
    "kept": "the owner's version stands",
    "carried": "carried across, over the owner's version",
    "stopped": "the stream waits at it",
    "passed": "the stream had stopped at it",
}

STRAYS: LiteralString = """
SELECT id, mapping, key, seen_at, source_rows, target_rows, settled_at, settled_how, settled_by,
       outcome
  FROM splitctl_sync.stray
 WHERE stream = %(stream)s AND (settled_at IS NULL OR %(which)s = 'all')
 ORDER BY id DESC LIMIT %(limit)s
"""
WAITING: LiteralString = """
SELECT mapping, key, reason, detail, since, attempts FROM splitctl_sync.waiting
 WHERE stream = %(stream)s ORDER BY since, mapping, key LIMIT %(limit)s
"""


@dataclass(frozen=True)
class StrayRow:
    """A change on the side that did not own the key.

    `changed` is what stood there, `owned` what the owner's side held; both as lists of rows, empty
    where there was none. `rule`: what its mapping's rule did. `settled`: what became of it, None
    while nobody decided; `settled_by` is the person who did.
    """

    stray: str
    key: str
    seen_at: datetime
    changed: list[dict[str, Any]]
    owned: list[dict[str, Any]]
    settled_at: datetime | None
    settled: str | None
    settled_by: str | None = None
    rule: str = OUTCOMES["kept"]


@dataclass(frozen=True)
class WaitingKey:
    """A key that was read from the log and could not be carried yet, and why."""

    mapping: str
    key: str
    reason: str
    detail: str
    since: datetime
    attempts: int


@dataclass(frozen=True)
class Aside(Generic[T]):
    """What was found, and the streams whose books could not be read, with the reason."""

    rows: list[T]
    away: list[str]


def strays(config: Config, domain: str | None, which: Which, limit: int = LIMIT) -> Aside[StrayRow]:
    """Strays of a domain, or of all, the oldest first; the newest `limit` of each stream.

    Raises UnknownName. A database that is away is told: the other one's books may be what counts.
    """

    def look(stream: Stream, target: Connection) -> list[StrayRow]:
        asked = {"stream": stream.name, "which": which, "limit": limit}
        return [_stray(stream, *row) for row in reversed(target.execute(STRAYS, asked).fetchall())]

    return _each(config, domain, look)


def waiting(config: Config, domain: str | None, limit: int = LIMIT) -> Aside[WaitingKey]:
    """Waiting keys of a domain, or of all; those that wait longest first, `limit` of each stream.

    Raises UnknownName. A database that is away is told.
    """

    def look(stream: Stream, target: Connection) -> list[WaitingKey]:
        rows = target.execute(WAITING, {"stream": stream.name, "limit": limit}).fetchall()
        return [
            WaitingKey(name, _key(key), REASONS[reason], detail or "", since, attempts)
            for name, key, reason, detail, since, attempts in rows
        ]

    return _each(config, domain, look)


def _each(
    config: Config, domain: str | None, look: Callable[[Stream, Connection], list[T]]
) -> Aside[T]:
    found: Aside[T] = Aside([], [])
    for stream in streams(config, domain):
        try:
            with _books(stream) as target:
                if target is not None:
                    found.rows.extend(look(stream, target))
        except (SplitctlError, psycopg.Error) as error:
            found.away.append(f"{stream.name}: {in_one_line(error)}")
    return found


@contextmanager
def _books(stream: Stream) -> Iterator[Connection | None]:
    """The target, where a stream keeps its books; None when sync was never enabled there."""
    with connect(stream.target, "look aside") as target:
        yield target if control.installed(target) else None


def _stray(
    stream: Stream,
    number: int,
    mapping: str,
    key: list[str],
    seen_at: datetime,
    changed: list[dict[str, Any]] | None,
    owned: list[dict[str, Any]] | None,
    settled_at: datetime | None,
    settled: str | None,
    settled_by: str | None,
    outcome: str,
) -> StrayRow:
    table = mapping.removeprefix(f"{stream.name}.")
    name = f"{stream.name}/{number}"
    return StrayRow(
        stray=name,
        key=f"{table} {_key(key)}",
        seen_at=seen_at,
        changed=changed or [],
        owned=owned or [],
        settled_at=settled_at,
        settled=settled,
        settled_by=settled_by,
        rule=OUTCOMES[outcome],
    )


def _key(parts: list[str]) -> str:
    return ", ".join(parts)
