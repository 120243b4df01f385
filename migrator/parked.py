"""What the sync has put aside, row by row: strays with both versions, and keys that wait."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, LiteralString, TypeVar

import psycopg

from estate.config import Config
from estate.connections import connect
from estate.errors import ExitCode, SplitctlError, in_one_line
from migrator import control
from migrator.mapping import Stream, streams

Connection = psycopg.Connection[Any]
Which = Literal["open", "all"]
LIMIT = 100
NUMBER = re.compile("[0-9]{1,18}")
T = TypeVar("T")
REFUSED = "the target refuses it"
# The words of the control schema, for a person.
REASONS = {
    "parent": "its parent has not arrived",
    "unwritable": REFUSED,
    "stray-pending": "both sides changed it",
    "asked": "the two sides do not agree who owns it",
}

STRAYS: LiteralString = """
SELECT id, mapping, key, seen_at, source_rows, target_rows, settled_at, settled_how
  FROM splitctl_sync.stray
 WHERE stream = %(stream)s AND (settled_at IS NULL OR %(which)s = 'all')
 ORDER BY id DESC LIMIT %(limit)s
"""
WAITING: LiteralString = """
SELECT mapping, key, reason, detail, since, attempts FROM splitctl_sync.waiting
 WHERE stream = %(stream)s ORDER BY since, mapping, key LIMIT %(limit)s
"""
SETTLE: LiteralString = """
UPDATE splitctl_sync.stray SET settled_at = clock_timestamp(), settled_how = 'by hand: ' || %s
 WHERE stream = %s AND id = %s AND settled_at IS NULL
"""
KNOWN: LiteralString = "SELECT 1 FROM splitctl_sync.stray WHERE stream = %s AND id = %s"


class NothingSaid(SplitctlError):
    """A stray is settled by saying what was done about it. Nothing was changed."""

    hint = "splitctl sync settle STRAY --how 'the customer was called'"
    exit_code = ExitCode.USAGE


class NoSuchStray(SplitctlError):
    """There is no stray '{stray}'. Nothing was changed."""

    hint = "splitctl sync strays --all"
    exit_code = ExitCode.USAGE


@dataclass(frozen=True)
class StrayRow:
    """A change on the side that did not own the key.

    `changed` is what stood there, `owned` what the owner's side held; both as lists of rows, empty
    where there was none. `settled`: what became of it, None while nobody decided.
    """

    stray: str
    key: str
    seen_at: datetime
    changed: list[dict[str, Any]]
    owned: list[dict[str, Any]]
    settled_at: datetime | None
    settled: str | None


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
class Settled:
    """Strays that somebody declared settled now, and those that were settled before."""

    now: int
    before: int
    next_command: str = "splitctl sync strays"


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


def settle(config: Config, names: Sequence[str], how: str) -> Settled:
    """Declare strays settled, each named as `strays` names it. The data stays as it is.

    All of them must be there, or nothing is changed. Raises NoSuchStray, NothingSaid,
    DatabaseUnreachable.
    """
    if not how.strip():
        raise NothingSaid
    known = {stream.name: stream for stream in streams(config)}
    wanted: dict[str, set[int]] = {}
    for name in names:
        stream, _, number = name.rpartition("/")
        if stream not in known or not NUMBER.fullmatch(number):
            raise NoSuchStray(stray=name)
        wanted.setdefault(stream, set()).add(int(number))
    for stream, numbers in wanted.items():
        with _books(known[stream]) as target:
            for each in numbers:
                if target is None or not target.execute(KNOWN, (stream, each)).fetchone():
                    raise NoSuchStray(stray=f"{stream}/{each}")
    now = 0
    for stream, numbers in wanted.items():
        with connect(known[stream].target, "settle") as target, target.transaction():
            for each in numbers:
                now += target.execute(SETTLE, (how, stream, each)).rowcount
    return Settled(now, sum(len(numbers) for numbers in wanted.values()) - now)


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
) -> StrayRow:
    table = mapping.removeprefix(f"{stream.name}.")
    name = f"{stream.name}/{number}"
    return StrayRow(
        name, f"{table} {_key(key)}", seen_at, changed or [], owned or [], settled_at, settled
    )


def _key(parts: list[str]) -> str:
    return ", ".join(parts)
