"""Changes on the side that does not own them: kept with both versions (law L5).

Where the owner's version stands it is asked for in the same breath, by a message in the log that
the opposite stream reads: it carries those keys as if they had changed there, and the sides agree
again. A stray that was carried across is kept just so, with the version it was written over.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import LiteralString

import psycopg

from migrator import statements as s
from migrator.changes import AGAIN, MappingKey, StreamStopped
from migrator.mapping import Key, Row, Shape, Stream, key_arguments
from migrator.opposite import keys_of_rows
from migrator.pgoutput import lsn_text
from migrator.plan import Values
from migrator.reading import Connection, Prepared, Reading

log = logging.getLogger(__name__)
ASK_AGAIN: LiteralString = "SELECT pg_logical_emit_message(true, %s, %s)"
KEEP: LiteralString = """
INSERT INTO splitctl_sync.stray
       (stream, mapping, key, source_rows, target_rows, owner_epoch, lsn, leads, outcome,
        asked_in, carried_in, settled_at, settled_how)
SELECT %s, u.mapping, u.key::jsonb, u.source_rows::jsonb, u.target_rows::jsonb, %s, %s::pg_lsn,
       u.leads::jsonb, u.outcome,
       CASE WHEN u.outcome = 'kept' AND u.leads <> '[]' THEN pg_current_xact_id() END,
       CASE WHEN u.outcome = 'carried' THEN pg_current_xact_id() END,
       CASE WHEN u.outcome = 'carried' THEN clock_timestamp() END, u.how
  FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[])
       AS u(mapping, key, source_rows, target_rows, leads, outcome, how)
"""
# A stream that is started again at the same stray tells what both sides hold by now.
STOPPED_AGAIN: LiteralString = """
UPDATE splitctl_sync.stray s
   SET source_rows = u.source_rows::jsonb, target_rows = u.target_rows::jsonb, seen_at = now(),
       owner_epoch = %s
  FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[])
       AS u(mapping, key, source_rows, target_rows)
 WHERE s.stream = %s AND s.mapping = u.mapping AND s.key = u.key::jsonb
   AND s.outcome = 'stopped' AND s.settled_at IS NULL
RETURNING s.mapping, s.key::text
"""
PASSED: LiteralString = """
UPDATE splitctl_sync.stray s SET outcome = 'passed'
  FROM unnest(%s::text[], %s::text[]) AS u(mapping, key)
 WHERE s.stream = %s AND s.mapping = u.mapping AND s.key = u.key::jsonb
   AND s.outcome = 'stopped' AND s.settled_at IS NOT NULL
"""
# A move of the owner may settle them as well as a person.
OPEN_STOPS: LiteralString = """
SELECT EXISTS (SELECT FROM splitctl_sync.stray
                WHERE stream = %(stream)s AND outcome = 'stopped' AND settled_at IS NULL
                  AND owner_epoch IS NOT DISTINCT FROM
                      (SELECT epoch FROM splitctl_sync.owner WHERE domain = %(domain)s))
"""
STOPPED: LiteralString = """
SELECT EXISTS (SELECT FROM splitctl_sync.stray
                WHERE stream = %s AND outcome = 'stopped' AND settled_at IS NULL)
"""
OVERTAKEN: LiteralString = """
UPDATE splitctl_sync.stray s
   SET outcome = 'passed', settled_at = clock_timestamp(),
       settled_how = 'the owner moved, and it was carried as any other change'
  FROM unnest(%s::text[], %s::text[]) AS u(mapping, key)
 WHERE s.stream = %s AND s.mapping = u.mapping AND s.key = u.key::jsonb
   AND s.outcome = 'stopped' AND s.settled_at IS NULL
"""


class StoppedAtStrays(StreamStopped):
    """Stream '{stream}' stops, as the rule of {mappings} says: {count} key(s) were changed on the
    side that does not own them, first {first}. Both versions are kept, and nothing that came later
    is lost: it waits in the log."""

    hint = "splitctl sync strays {domain}, then: splitctl sync settle STRAY --keep owner|stray"


@dataclass(frozen=True)
class Held:
    """What the target holds for a key: whole rows as JSON, and their mapped columns as texts."""

    version: str = "[]"
    rows: tuple[Values, ...] = ()


@dataclass(frozen=True)
class Stray:
    """A stray to be written down: what is done about it, and for one that is settled, how."""

    name: MappingKey
    outcome: str
    how: str | None = None


def given(shape: Shape, rows: Iterable[Row]) -> str:
    """Rows that a mapping gives, as a stray keeps them: JSON objects of texts."""
    return json.dumps([dict(zip(shape.columns, row, strict=True)) for row in rows])


def held(
    target: Connection, names: Iterable[MappingKey], prepared: Mapping[str, Prepared]
) -> dict[MappingKey, Held]:
    """What the target holds for each of these keys, which are in its own text."""
    wanted: dict[str, list[Key]] = {}
    found: dict[MappingKey, Held] = {}
    for name, key in names:
        wanted.setdefault(name, []).append(key)
        found[(name, key)] = Held()
    for name, keys in wanted.items():
        query = prepared[name].statements.versions
        for row in target.execute(query, key_arguments(keys)).fetchall():
            *key, version, texts = row
            rows = tuple(tuple(values) for values in json.loads(texts))
            found[(name, tuple(key))] = Held(version, rows)
    return found


def waits_for_a_person(target: Connection, stream: Stream) -> bool:
    """Whether the stream stopped at strays that nobody has settled yet, under the same owner."""
    values = {"stream": stream.name, "domain": stream.domain.name}
    try:
        row = target.execute(OPEN_STOPS, values).fetchone()
    except psycopg.errors.UndefinedTable:
        return False
    return bool(row and row[0])


class Strays:
    """Keeps strays of one stream in its target, inside the transaction that is open there."""

    def __init__(self, stream: Stream, target: Connection) -> None:
        self._stream, self._target = stream, target
        self.had_stopped = False

    def load(self) -> None:
        """Find out whether the stream had stopped at strays when it was last carried."""
        row = self._target.execute(STOPPED, (self._stream.name,)).fetchone()
        self.had_stopped = bool(row and row[0])

    def keep(
        self,
        strays: list[Stray],
        prepared: Mapping[str, Prepared],
        readings: Mapping[str, Reading],
        epoch: int | None,
        lsn: int | None,
    ) -> None:
        """Write them down with both versions, and ask for the owner's where that one stands.

        One whose mapping has no reading could not be read: its own version is not known.
        """
        if not strays:
            return
        log.warning(
            "%s: %d stray(s), the first %s %s", self._stream.name, len(strays), *strays[0].name
        )
        versions = held(self._target, [stray.name for stray in strays], prepared)
        again: set[tuple[str, Key]] = set()
        rows: list[tuple[str | None, ...]] = []
        for stray in strays:
            name, key = stray.name
            shape, ways = prepared[name].shape, prepared[name].statements.ways
            mine = None
            if name in readings:
                mine = [item.row for item in readings[name].rows.get(key, [])]
            there = versions[stray.name]
            leads = set(keys_of_rows(ways, shape.columns, [*(mine or ()), *there.rows]))
            if stray.outcome == "kept":
                again |= leads
            rows.append(
                (
                    name,
                    json.dumps(key),
                    None if mine is None else given(shape, mine),
                    there.version,
                    json.dumps(sorted(leads)),
                    stray.outcome,
                    stray.how,
                )
            )
        columns = [list(column) for column in zip(*rows, strict=True)]
        position = None if lsn is None else lsn_text(lsn)
        self._target.execute(KEEP, (self._stream.name, epoch, position, *columns))
        if again:
            ask_again(self._target, self._stream.opposite, again)

    def stop(
        self,
        names: list[MappingKey],
        prepared: Mapping[str, Prepared],
        readings: Mapping[str, Reading],
        epoch: int | None,
    ) -> StoppedAtStrays:
        """Write down those at which the stream stops. Returns the error that says so."""
        versions = held(self._target, names, prepared)
        known = self._target.execute(
            STOPPED_AGAIN,
            (
                epoch,
                *s.name_arguments(names),
                [
                    given(prepared[name].shape, [r.row for r in readings[name].rows.get(key, [])])
                    for name, key in names
                ],
                [versions[name].version for name in names],
                self._stream.name,
            ),
        ).fetchall()
        there = {(name, tuple(json.loads(key))) for name, key in known}
        new = [Stray(name, "stopped") for name in names if name not in there]
        self.keep(new, prepared, readings, epoch, None)
        first = f"{names[0][0]} {', '.join(names[0][1])}"
        return StoppedAtStrays(
            stream=self._stream.name,
            domain=self._stream.domain.name,
            mappings=", ".join(dict.fromkeys(name for name, _ in names)),
            count=len(names),
            first=first,
        )

    def passed(self, names: list[MappingKey], settled: list[MappingKey]) -> None:
        """The stream goes on behind strays at which it had stopped: those that a person has
        decided, and those among the settled keys that belong to this side by now."""
        if names:
            self._target.execute(PASSED, (*s.name_arguments(names), self._stream.name))
        if settled and self.had_stopped:
            self._target.execute(OVERTAKEN, (*s.name_arguments(settled), self._stream.name))


def ask_again(connection: Connection, stream: str, keys: Iterable[MappingKey]) -> None:
    """Ask a stream, in its source's log, to carry these keys as if they had changed."""
    content = json.dumps({"stream": stream, "keys": sorted(keys)})
    connection.execute(ASK_AGAIN, (AGAIN, content))
