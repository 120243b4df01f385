"""Strays settled by a person: declared so, or by having one of the two versions stand.

The owner's version is asked for, in its log, as a stray's rule does it. The stray's version is
written as a change of the owner's side, without a mark: its own direction carries it from there, so
that nothing of this goes round. Each stream's strays are settled in one transaction, or not at all.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, LiteralString

import psycopg
from psycopg import sql

from estate.config import Config
from estate.connections import connect, operator
from estate.errors import ExitCode, SplitctlError, in_one_line
from migrator import control
from migrator import fragments as f
from migrator import statements as s
from migrator.changes import MappingKey
from migrator.mapping import Key, Row, Stream, key_arguments, other, streams
from migrator.ownership import Ownership
from migrator.plan import Values, owns, pick
from migrator.prepared import Mappings
from migrator.reading import Connection, Prepared
from migrator.strays import Held, ask_again, held

Keep = Literal["owner", "stray"]
NUMBER = re.compile("[0-9]{1,18}")

FOUND: LiteralString = """
SELECT id, mapping, key::text, source_rows, target_rows, leads, outcome, settled_at IS NOT NULL
  FROM splitctl_sync.stray WHERE stream = %s AND id = ANY(%s) ORDER BY id FOR UPDATE
"""
SETTLED: LiteralString = """
UPDATE splitctl_sync.stray
   SET settled_at = clock_timestamp(), settled_how = %s, settled_by = %s
 WHERE id = ANY(%s)
"""
SEEN_ANEW: LiteralString = (
    "UPDATE splitctl_sync.stray SET target_rows = %s::jsonb WHERE stream = %s AND id = %s"
)
OF_WHOLE_ROWS = sql.SQL(
    "SELECT {columns} FROM jsonb_populate_recordset(NULL::{table}, %s::jsonb) AS t"
)


class NothingSaid(SplitctlError):
    """A stray is settled by saying what was done about it, or which version is to stand. Nothing
    was changed."""

    hint = "splitctl sync settle STRAY --keep owner|stray, or --how 'the customer was called'"
    exit_code = ExitCode.USAGE


class NoSuchStray(SplitctlError):
    """There is no stray '{stray}'. Nothing was changed."""

    hint = "splitctl sync strays --all"
    exit_code = ExitCode.USAGE


class StreamWaits(SplitctlError):
    """Its stream waits at stray '{stray}': it has to know which version stands. Nothing was
    changed."""

    hint = "splitctl sync settle {stray} --keep owner|stray"
    exit_code = ExitCode.PRECONDITION


class OwnerChanged(SplitctlError):
    """Stray '{stray}' is not settled: the owner's row has been changed since the stray was kept,
    and that would be lost. No row was changed; the stray now shows what the owner holds."""

    hint = "splitctl sync strays --all  (look at both again), then the same command"
    exit_code = ExitCode.PRECONDITION


class OwnerMoved(SplitctlError):
    """Stray '{stray}' is not settled: its customer belongs to the {side} side now, where the
    stray was written. Nothing was changed."""

    hint = "splitctl sync settle {stray} --how '...'  (when the version there is the right one)"
    exit_code = ExitCode.PRECONDITION


class VersionUnknown(SplitctlError):
    """Stray '{stray}' could not be read on its side, so there is no version of it to write.
    Nothing was changed."""

    hint = "splitctl sync settle {stray} --keep owner"
    exit_code = ExitCode.PRECONDITION


class NoWayBack(SplitctlError):
    """No mapping leads from stray '{stray}' back to the side where it was written, so the owner's
    version cannot be carried there. Nothing was changed."""

    hint = "set that row right by hand, then: splitctl sync settle {stray} --how '...'"
    exit_code = ExitCode.PRECONDITION


class Refused(SplitctlError):
    """Stray '{stray}' is not settled: the owner's database refuses its version ({reason}). Nothing
    was changed."""

    hint = "settle what it refers to first, or: splitctl sync settle {stray} --keep owner"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Settled:
    """Strays settled now, and those that had been settled before.

    `written`: rows in the owner's database; `asked`: keys for which the owner's version was asked.
    """

    now: int
    before: int
    written: int = 0
    asked: int = 0
    next_command: str = "splitctl sync strays"


@dataclass(frozen=True)
class _Stray:
    number: int
    name: MappingKey
    source: list[dict[str, str | None]] | None
    target: list[Any]
    leads: list[MappingKey]
    outcome: str
    settled: bool


def settle(
    config: Config, names: Sequence[str], how: str | None, keep: Keep | None = None
) -> Settled:
    """Settle strays, each named as `sync strays` names it, and write down who did it and how.

    Without `keep` the data stays as it is, and those settled before are left alone. All of them
    must be there, or nothing is changed. Raises NoSuchStray, NothingSaid, StreamWaits,
    OwnerChanged, OwnerMoved, VersionUnknown, NoWayBack, Refused, DatabaseUnreachable.
    """
    how = (how or "").strip()
    if not how and keep is None:
        raise NothingSaid
    known = {stream.name: stream for stream in streams(config)}
    wanted: dict[str, list[int]] = {}
    for name in dict.fromkeys(names):
        stream, _, number = name.rpartition("/")
        if stream not in known or not NUMBER.fullmatch(number):
            raise NoSuchStray(stray=name)
        wanted.setdefault(stream, []).append(int(number))
    for stream, numbers in wanted.items():
        with connect(known[stream].target, "settle") as target:
            _found(target, stream, numbers)
    done = [_one_stream(known[stream], numbers, how, keep) for stream, numbers in wanted.items()]
    now, before, written, asked = (sum(figures) for figures in zip(*done, strict=True))
    return Settled(now, before, written, asked)


def _found(target: Connection, stream: str, numbers: list[int]) -> list[_Stray]:
    rows: list[Any] = []
    if control.installed(target):
        rows = target.execute(FOUND, (stream, numbers)).fetchall()
    for missing in sorted(set(numbers) - {row[0] for row in rows}):
        raise NoSuchStray(stray=f"{stream}/{missing}")
    return [
        _Stray(
            number=number,
            name=(mapping, tuple(json.loads(key))),
            source=source,
            target=there or [],
            leads=[(name, tuple(parts)) for name, parts in leads or []],
            outcome=outcome,
            settled=settled,
        )
        for number, mapping, key, source, there, leads, outcome, settled in rows
    ]


def _one_stream(
    stream: Stream, numbers: list[int], how: str, keep: Keep | None
) -> tuple[int, int, int, int]:
    """Returns how many were settled now and before, rows written and keys asked for."""
    with connect(stream.target, "settle") as target:
        changed: list[tuple[_Stray, str]] = []
        with target.transaction():
            strays = _found(target, stream.name, numbers)
            if keep is None:
                return (*_declared(target, stream, strays, how), 0, 0)
            writes = [stray for stray in strays if _is_written(stray, keep)]
            asked = [lead for stray in strays for lead in _asked(stream, stray, keep)]
            written = 0
            if writes:
                with connect(stream.source, "settle") as source:
                    desk = _Desk(stream, source, target)
                    changed = [(x, now) for x in writes if (now := desk.changed_since(x))]
                    if not changed:
                        written = desk.write(writes)
            if not changed:
                if asked:
                    ask_again(target, stream.opposite, set(asked))
                stands = "owner's version stands" if keep == "owner" else "stray's version stands"
                told = f"by hand: the {stands}" + (f"; {how}" if how else "")
                target.execute(SETTLED, (told, operator(), numbers))
        for stray, now in changed:
            if stray.outcome != "carried":
                target.execute(SEEN_ANEW, (now, stream.name, stray.number))
        for stray, _ in changed:
            raise OwnerChanged(stray=f"{stream.name}/{stray.number}")
    before = sum(stray.settled for stray in strays)
    return len(strays) - before, before, written, len(set(asked))


def _declared(
    target: Connection, stream: Stream, strays: list[_Stray], how: str
) -> tuple[int, int]:
    open_ones = [stray for stray in strays if not stray.settled]
    for stray in open_ones:
        if stray.outcome == "stopped":
            raise StreamWaits(stray=f"{stream.name}/{stray.number}")
    target.execute(SETTLED, (f"by hand: {how}", operator(), [x.number for x in open_ones]))
    return len(open_ones), len(strays) - len(open_ones)


def _is_written(stray: _Stray, keep: Keep) -> bool:
    """Whether the version that is to stand has to be written on the owner's side."""
    return (keep == "owner") == (stray.outcome == "carried")


def _asked(stream: Stream, stray: _Stray, keep: Keep) -> list[MappingKey]:
    if keep == "stray" or stray.outcome == "carried":
        return []
    if not stray.leads and stray.outcome != "stopped":
        raise NoWayBack(stray=f"{stream.name}/{stray.number}")
    return stray.leads


class _Desk:
    """Writes versions of strays as changes of the owner's side, in its open transaction."""

    def __init__(self, stream: Stream, source: Connection, target: Connection) -> None:
        self._stream, self._target = stream, target
        self._mappings = Mappings(stream, source, target)
        self._ownership: Ownership | None = None

    def changed_since(self, stray: _Stray) -> str | None:
        """What the owner holds now, as JSON, if that is not what the stray was kept beside."""
        prepared = self._mappings[stray.name[0]]
        self._standing(prepared, stray.name[1])
        now = self._held(stray)
        if set(now.rows) == set(self._wanted(stray, prepared)):
            return None
        if stray.outcome == "carried":
            same = set(now.rows) == set(_rows(prepared, stray.source or []))
        else:
            same = _in_order(json.loads(now.version)) == _in_order(stray.target)
        return None if same else now.version

    def write(self, strays: list[_Stray]) -> int:
        """Returns the number of rows written or deleted.

        Raises OwnerMoved, VersionUnknown, Refused.
        """
        row = self._target.execute(s.OWNER, (self._stream.domain.name,)).fetchone()
        self._ownership = Ownership(int(row[0]), int(row[1])) if row else None
        place = {name: number for number, name in enumerate(self._mappings.order)}
        first = sorted(strays, key=lambda stray: place[stray.name[0]])
        count = 0
        for stray in first:
            with self._told(stray):
                count += self._upsert(stray)
        for stray in reversed(first):
            with self._told(stray):
                count += self._delete(stray)
        return count

    def _upsert(self, stray: _Stray) -> int:
        prepared = self._mappings[stray.name[0]]
        wanted = self._wanted(stray, prepared)
        stands = self._owned(stray, prepared)
        count = 0
        for there in (False, True):
            positions = prepared.shape.primary_positions
            rows = [row for row in wanted if (pick(row, positions) in stands) == there]
            query = prepared.statements.upsert if there else prepared.statements.insert
            if rows:
                count += self._target.execute(query, (s.records(rows),)).rowcount
        self._owned(stray, prepared)
        return count

    def _delete(self, stray: _Stray) -> int:
        prepared = self._mappings[stray.name[0]]
        positions = prepared.shape.primary_positions
        wanted = {pick(row, positions) for row in self._wanted(stray, prepared)}
        gone = [primary for primary in self._owned(stray, prepared) if primary not in wanted]
        if not gone:
            return 0
        columns = [list(column) for column in zip(*gone, strict=True)]
        return self._target.execute(prepared.statements.delete, columns).rowcount

    def _wanted(self, stray: _Stray, prepared: Prepared) -> list[Row]:
        if stray.outcome == "carried":
            shape = prepared.shape
            query = OF_WHOLE_ROWS.format(
                columns=f.texts("t", shape.columns), table=f.table(shape.table.name)
            )
            return self._target.execute(query, (json.dumps(stray.target),)).fetchall()
        if stray.source is None:
            raise VersionUnknown(stray=self._name(stray))
        return _rows(prepared, stray.source)

    def _standing(self, prepared: Prepared, key: Key) -> list[tuple[Values, str | None]]:
        """Primary keys and routes of what stands under a key; locked from then on."""
        width = len(prepared.shape.table.primary_key)
        found = self._target.execute(prepared.statements.standing, key_arguments([key]))
        return [(tuple(row[:width]), row[-2]) for row in found.fetchall()]

    def _owned(self, stray: _Stray, prepared: Prepared) -> set[Values]:
        """Primary keys of what stands under its key, if all of it belongs to this side."""
        found = self._standing(prepared, stray.name[1])
        side = self._stream.source_side
        for _, route in found:
            if route is not None and not owns(self._ownership, other(side), route):
                raise OwnerMoved(stray=self._name(stray), side=side)
        return {primary for primary, _ in found}

    def _held(self, stray: _Stray) -> Held:
        return held(self._target, [stray.name], {stray.name[0]: self._mappings[stray.name[0]]})[
            stray.name
        ]

    def _name(self, stray: _Stray) -> str:
        return f"{self._stream.name}/{stray.number}"

    @contextmanager
    def _told(self, stray: _Stray) -> Iterator[None]:
        try:
            yield
        except (psycopg.IntegrityError, psycopg.DataError, psycopg.errors.RaiseException) as error:
            reason = in_one_line(error)
            raise Refused(stray=self._name(stray), reason=reason) from error


def _rows(prepared: Prepared, objects: list[dict[str, str | None]]) -> list[Row]:
    return [tuple(item.get(name) for name in prepared.shape.columns) for item in objects]


def _in_order(rows: list[Any]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)
