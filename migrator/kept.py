"""What the ledger keeps of a stream whose target is away, and how that comes back to the target.

One row says what is held: every key that changed behind `begin` up to `end`. It is true by itself,
whoever wrote it and when: it grows only by a batch that begins within it, and in the transaction
that adds the batch's keys. A key is one row, however often it changed.

`begin` is where the slot stood, which a source that crashed may have set back: some of the keys
were carried before. They are told by the position of their last commit, and stay behind: the owner
may have moved since, and then they would be taken for strays.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from estate.connections import DatabaseUnreachable, connect
from estate.errors import ExitCode, SplitctlError
from migrator import control
from migrator import statements as s
from migrator.changes import Batch
from migrator.entering import Superseded
from migrator.mapping import Stream
from migrator.pgoutput import lsn_text
from migrator.replication import System

log = logging.getLogger(__name__)
Connection = psycopg.Connection[Any]
CHUNK = 10_000
ASKED = "asked for by the opposite stream while the target was away"

THERE: LiteralString = "SELECT to_regclass('splitctl.refuge') IS NOT NULL"
FIND: LiteralString = """
SELECT system_id, timeline, from_lsn, to_lsn FROM splitctl.refuge WHERE stream = %s
"""
COUNT: LiteralString = "SELECT count(*) FROM splitctl.refuge_key WHERE stream = %s"
BEGIN: LiteralString = """
INSERT INTO splitctl.refuge (stream, system_id, timeline, from_lsn, to_lsn)
VALUES (%(stream)s, %(system_id)s, %(timeline)s, %(lsn)s, %(lsn)s)
"""
MOVE: LiteralString = "UPDATE splitctl.refuge SET timeline = %s WHERE stream = %s"
# Nothing may be missing between what is held and what is added.
EXTEND: LiteralString = """
UPDATE splitctl.refuge SET to_lsn = greatest(to_lsn, %(end)s)
 WHERE stream = %(stream)s AND system_id = %(system_id)s AND timeline = %(timeline)s
   AND %(begin)s BETWEEN from_lsn AND to_lsn
"""
# A key that was changed as well as asked for was changed. What is not known stays unknown: it may
# be the later.
KEEP: LiteralString = """
INSERT INTO splitctl.refuge_key AS k (stream, mapping, key, asked, told_at)
SELECT %s, u.mapping, u.key::jsonb, u.asked, u.told_at
  FROM unnest(%s::text[], %s::text[], %s::bool[], %s::bigint[]) AS u(mapping, key, asked, told_at)
ON CONFLICT (stream, mapping, key) DO UPDATE
   SET asked = k.asked AND excluded.asked,
       told_at = CASE WHEN k.told_at IS NOT NULL THEN greatest(k.told_at, excluded.told_at) END
"""
CHUNKS: LiteralString = """
SELECT mapping, key::text, asked FROM splitctl.refuge_key
 WHERE stream = %s AND mapping = ANY(%s) AND (mapping, key) > (%s, %s::jsonb)
   AND (told_at IS NULL OR told_at >= %s)
 ORDER BY mapping, key LIMIT %s
"""
# Below every array.
LOWEST = ("", "null")
DISCARD: LiteralString = "DELETE FROM splitctl.refuge WHERE stream = %s AND to_lsn = %s"
DISCARD_ALL: LiteralString = "DELETE FROM splitctl.refuge WHERE stream = ANY(%s)"
DISCARD_KEYS: LiteralString = "DELETE FROM splitctl.refuge_key WHERE stream = ANY(%s)"
# In the target. One that waits there already is tried again anyway.
WAIT_ASKED: LiteralString = """
INSERT INTO splitctl_sync.waiting (stream, mapping, key, reason, detail, lsn)
SELECT %s, u.mapping, u.key::jsonb, 'asked', %s, %s::pg_lsn
  FROM unnest(%s::text[], %s::text[]) AS u(mapping, key)
ON CONFLICT (stream, mapping, key) DO NOTHING
"""


class LedgerNeeded(SplitctlError):
    """Stream '{stream}' waits for the ledger: what changed while the target was away is kept there,
    and it cannot be reached ({reason}). Nothing is lost; until then the source keeps its log."""

    hint = "bring the ledger's database back; splitctl doctor"
    exit_code = ExitCode.PRECONDITION


class TakenBack(SplitctlError):
    """What was kept of stream '{stream}' was taken back by another worker: its target answers
    there. Nothing is lost."""

    hint = "splitctl sync status"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Kept:
    """What is held of a stream: all that changed behind `begin` up to `end`, on this server."""

    system_id: str
    timeline: int
    begin: int
    end: int

    def covers(self, stored: int, confirmed: int) -> bool:
        """Whether it holds everything between a target's position and a slot's."""
        return self.begin <= stored and confirmed <= self.end


@contextmanager
def needed(stream: Stream) -> Iterator[Connection]:
    """The ledger, for a stream that cannot go on without it. Raises LedgerNeeded."""
    try:
        with connect(stream.ledger, f"refuge {stream.name}") as ledger:
            if find(ledger, stream.name):
                # An earlier version may have kept it, and nobody else need have come since.
                prepare(stream)
            yield ledger
    except DatabaseUnreachable as error:
        raise LedgerNeeded(stream=stream.name, reason=error.facts["reason"]) from error


def prepare(stream: Stream) -> None:
    """Bring the ledger's tables up to date. Raises what the ledger raises."""
    # Only here, and only now: a stream whose target answers needs nothing of the ledger.
    from estate.ledger import Ledger

    with Ledger(stream.ledger, "sync run") as ledger:
        ledger.prepare()


def find(ledger: Connection, stream: str) -> Kept | None:
    """What is held of this stream."""
    there = ledger.execute(THERE).fetchone()
    row = ledger.execute(FIND, (stream,)).fetchone() if there and there[0] else None
    return Kept(str(row[0]), *(int(number) for number in row[1:])) if row else None


def count(ledger: Connection, stream: str) -> int:
    """How many keys are held of it."""
    row = ledger.execute(COUNT, (stream,)).fetchone()
    return int(row[0]) if row else 0


def begin(ledger: Connection, stream: str, system: System, lsn: int) -> None:
    """Hold nothing yet, from this position on. What was held before is not needed any more."""
    with ledger.transaction():
        discard_all(ledger, [stream])
        values = {"stream": stream, "system_id": system.system_id, "timeline": system.timeline}
        ledger.execute(BEGIN, values | {"lsn": lsn})


def go_on(ledger: Connection, stream: str, system: System) -> None:
    """Go on with what is held; the server may have turned to another timeline behind it."""
    ledger.execute(MOVE, (system.timeline, stream))


def keep(ledger: Connection, stream: str, system: System, since: int, batch: Batch) -> None:
    """Add a batch that begins at `since`. Only then may its position be confirmed.

    Raises TakenBack when what was held up to there is not held any more.
    """
    names = list(batch.keys)
    values = {"stream": stream, "system_id": system.system_id, "timeline": system.timeline}
    with ledger.transaction():
        # A part of a transaction has no position of its own.
        end = max(since, batch.lsn)
        grown = ledger.execute(EXTEND, values | {"begin": since, "end": end})
        if grown.rowcount != 1:
            raise TakenBack(stream=stream)
        for at in range(0, len(names), CHUNK):
            chunk = names[at : at + CHUNK]
            asked = [name in batch.again for name in chunk]
            told_at = [batch.told_at(name) for name in chunk]
            ledger.execute(KEEP, (stream, *s.name_arguments(chunk), asked, told_at))


def take_back(
    ledger: Connection, target: Connection, stream: Stream, epoch: int, stored: int, kept: Kept
) -> int:
    """Bring what is held to the target, which stands at `stored`: the keys that were told of since
    first, then the position behind all of them.

    Killed in between, it is done again from the start, which does no harm. Returns the position.
    Raises Superseded.
    """
    while True:
        for rows in _chunks(ledger, stream, stored):
            with _claimed(target, stream.name, epoch, None):
                _put_down(target, stream.name, rows, lsn_text(stored))
        stored = kept.end
        with _claimed(target, stream.name, epoch, lsn_text(stored)):
            pass
        further = _discard(ledger, stream.name, kept)
        if further is None:
            return stored
        kept = further


def _discard(ledger: Connection, stream: str, kept: Kept) -> Kept | None:
    """Remove what the target has. Returns what is held, when it has grown meanwhile."""
    try:
        with ledger.transaction():
            if ledger.execute(DISCARD, (stream, kept.end)).rowcount == 1:
                ledger.execute(DISCARD_KEYS, ([stream],))
                return None
        return find(ledger, stream)
    except psycopg.OperationalError as error:
        # It holds nothing that the target has not, and is told from what is needed by its position.
        log.warning("%s: what was taken back is left in the ledger: %s", stream, error)
        return None


def _chunks(ledger: Connection, stream: Stream, stored: int) -> Iterator[list[Any]]:
    # Keys of a mapping that was removed meanwhile could never be carried.
    names = [mapping.name for mapping in stream.mappings]
    last = LOWEST
    while rows := ledger.execute(CHUNKS, (stream.name, names, *last, stored, CHUNK)).fetchall():
        yield rows
        last = (rows[-1][0], rows[-1][1])


@contextmanager
def _claimed(target: Connection, stream: str, epoch: int, lsn: str | None) -> Iterator[None]:
    claim = {"stream": stream, "epoch": epoch, "lsn": lsn, "committed": None, "heartbeat": None}
    with target.transaction():
        control.mark(target, stream)
        if target.execute(s.CLAIM, claim).rowcount != 1:
            raise Superseded(stream=stream)
        yield


def _put_down(target: Connection, stream: str, rows: list[Any], lsn: str) -> None:
    """Changed keys wait to be drained; those that nobody changed, until the owner rows agree."""
    changed = [(name, json.loads(key)) for name, key, asked in rows if not asked]
    asked = [(name, json.loads(key)) for name, key, asked in rows if asked]
    if changed:
        target.execute(s.DRAIN, (stream, sorted({name for name, _ in changed})))
        target.execute(s.SPOOL, (stream, lsn, *s.name_arguments(changed)))
    if asked:
        target.execute(WAIT_ASKED, (stream, ASKED, lsn, *s.name_arguments(asked)))


def discard_all(ledger: Connection, streams: list[str]) -> int:
    """Remove all that is held of these streams. Returns of how many there was something."""
    there = ledger.execute(THERE).fetchone()
    if not (there and there[0]):
        return 0
    with ledger.transaction():
        removed = ledger.execute(DISCARD_ALL, (streams,)).rowcount
        ledger.execute(DISCARD_KEYS, (streams,))
    return removed
