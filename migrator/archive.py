"""The last act on the old side: its tables get another name, and can have the old one back.

Nothing is copied or dropped. Mappings that would read or write the renamed tables go to the spool
in the same breath, so that a key changed meanwhile waits instead of failing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from estate.config import BUCKETS, Config
from estate.connections import connect
from estate.errors import ExitCode, SplitctlError
from migrator import control, ownership, states
from migrator.mapping import Stream, streams

Connection = psycopg.Connection[Any]
PREFIX = "archived_"
LONGEST_NAME = 63
# A rename needs the tables for itself for a moment; while it waits, everybody else waits behind it.
LOCK_TIMEOUT = "500ms"
PAUSE_S = 0.5
LIMIT_S = 30.0

EXISTS: LiteralString = "SELECT to_regclass(format('public.%%I', %s::text)) IS NOT NULL"
LOCK_LIMIT: LiteralString = "SELECT set_config('lock_timeout', %s, true)"


class StillInUse(SplitctlError):
    """Domain '{domain}' cannot be archived: the old side still owns buckets from {new_below} on.
    Nothing was changed."""

    hint = "splitctl rollout advance {domain}"
    exit_code = ExitCode.PRECONDITION


class NameTaken(SplitctlError):
    """Database '{database}' has both '{first}' and '{second}': one of them is in the way.
    Nothing was changed."""

    hint = "rename or drop the one that is not the tool's, then type the same command again"
    exit_code = ExitCode.PRECONDITION


class NameTooLong(SplitctlError):
    """The name '{name}' is longer than PostgreSQL allows. Nothing was changed."""

    hint = "rename the table by hand to something shorter first"
    exit_code = ExitCode.PRECONDITION


class TablesBusy(SplitctlError):
    """The tables of domain '{domain}' in database '{database}' are in use by a transaction that
    does not end; nothing was renamed within {seconds:.0f} s."""

    hint = "end the oldest transaction in '{database}', then type the same command again"
    exit_code = ExitCode.PRECONDITION


class TableGone(SplitctlError):
    """Database '{database}' has neither '{first}' nor '{second}'. Nothing was changed."""

    hint = "splitctl schema status"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Renamed:
    """What an act did: tables renamed now (from, to), and those that had the name already."""

    domain: str
    renamed: tuple[tuple[str, str], ...]
    already: tuple[str, ...]


def archive(config: Config, domain: str) -> Renamed:
    """Rename the old side's mapped tables to archived_<name>; again: nothing to do.

    Raises StillInUse unless the new side owns everything, NameTaken, TablesBusy.
    """
    both = {stream.direction: stream for stream in streams(config, domain)}
    forward, reverse = both["forward"], both["reverse"]
    names = {name: archived_name(name) for name in _tables(reverse)}
    with connect(reverse.target, "archive") as old:
        control.require(old, reverse.target.name, domain)
        _check_owner(old, domain)
        # Forward reads these tables: it stops first, in its own target.
        with connect(forward.target, "archive") as new:
            states.spool(new, forward.name)
        return _rename(old, reverse, names, states.spool)


def undo(config: Config, domain: str) -> Renamed:
    """Give the tables their names back and let both directions carry what waited."""
    both = {stream.direction: stream for stream in streams(config, domain)}
    forward, reverse = both["forward"], both["reverse"]
    names = {archived_name(name): name for name in _tables(reverse)}
    with connect(reverse.target, "archive") as old:
        control.require(old, reverse.target.name, domain)
        result = _rename(old, reverse, names, states.resume)
        with connect(forward.target, "archive") as new:
            states.resume(new, forward.name)
        return result


def is_archived(old: Connection, reverse: Stream) -> bool:
    """Whether any of the old tables stands only under its archived name."""
    names = [mapping.target for mapping in reverse.mappings]
    return any(not _exists(old, n) and _exists(old, archived_name(n)) for n in names)


def archived_name(table: str) -> str:
    """The name a table has once it is archived. Raises NameTooLong."""
    name = PREFIX + table
    if len(name.encode()) > LONGEST_NAME:
        raise NameTooLong(name=name)
    return name


def _tables(reverse: Stream) -> list[str]:
    return sorted({mapping.config.target for mapping in reverse.mappings})


def _check_owner(old: Connection, domain: str) -> None:
    owner = ownership.read(old, domain)
    if owner is not None and owner.new_below < BUCKETS:
        raise StillInUse(domain=domain, new_below=owner.new_below)


def _rename(
    old: Connection,
    reverse: Stream,
    names: dict[str, str],
    set_states: Callable[[Connection, str], int],
) -> Renamed:
    """All in one transaction: mapping states, locks, renames."""
    started = time.monotonic()
    domain = reverse.domain.name
    while True:
        try:
            with old.transaction():
                old.execute(LOCK_LIMIT, (LOCK_TIMEOUT,))
                # States before tables: the sync worker locks in this order too.
                set_states(old, reverse.name)
                todo = [pair for pair in names.items() if _to_be_renamed(old, reverse, *pair)]
                if todo:
                    tables = sql.SQL(", ").join(sql.Identifier("public", name) for name, _ in todo)
                    lock = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(tables)
                    old.execute(lock)
                for name, wanted in todo:
                    rename = sql.SQL("ALTER TABLE {} RENAME TO {}")
                    old.execute(
                        rename.format(sql.Identifier("public", name), sql.Identifier(wanted))
                    )
            done = {name for name, _ in todo}
            already = tuple(wanted for name, wanted in names.items() if name not in done)
            return Renamed(domain, tuple(todo), already)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            seconds = time.monotonic() - started
            if seconds > LIMIT_S:
                raise TablesBusy(
                    domain=domain, database=reverse.target.name, seconds=seconds
                ) from None
            time.sleep(PAUSE_S)


def _to_be_renamed(old: Connection, reverse: Stream, name: str, wanted: str) -> bool:
    there, taken = _exists(old, name), _exists(old, wanted)
    if there and taken:
        raise NameTaken(database=reverse.target.name, first=name, second=wanted)
    if not there and not taken:
        raise TableGone(database=reverse.target.name, first=name, second=wanted)
    return there


def _exists(old: Connection, name: str) -> bool:
    row = old.execute(EXISTS, (name,)).fetchone()
    return bool(row and row[0])
