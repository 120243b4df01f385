"""From the log to keys: committed transactions become a set of (mapping, driving key) (law L2).

A batch remembers which transactions it comes from, so that it is read only from a snapshot that
already sees them (law L3).
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

from estate.errors import ExitCode, SplitctlError
from migrator.control import APPLIED, HEARTBEAT, MARKER
from migrator.mapping import Key, Mapping, Stream
from migrator.pgoutput import (
    LEFT_OUT,
    Begin,
    Change,
    Commit,
    Event,
    Message,
    Relation,
    Truncate,
    Value,
)

MappingKey = tuple[str, Key]
# Asks a stream to carry keys once more, though nothing changed: its target had a stray there.
AGAIN = "splitctl.again"


class StreamStopped(SplitctlError):
    """A stream stops, because going on would lose or spread a mistake."""

    exit_code = ExitCode.PRECONDITION


class TableTruncated(StreamStopped):
    """Stream '{stream}' stops: {tables} was truncated on the source. Nothing was carried over:
    a truncate never spreads."""

    hint = "splitctl sync teardown {domain}, then enable and backfill it anew"


class TableChanged(StreamStopped):
    """Stream '{stream}' stops: table '{table}' has no column {columns} any more, which leads to a
    driving key. Nothing after that point was carried over."""

    hint = "correct sources.{table} of the mappings, or give it back, then start: splitctl sync run"


class KeyNotInIdentity(StreamStopped):
    """Stream '{stream}' stops: column {columns} of table '{table}' leads to a driving key and is
    not in its replica identity, so a row that was changed or deleted does not say which key it
    had. Nothing after that point was carried over."""

    hint = (
        "alter table {table} replica identity full, or using a unique index with that column; then"
        " splitctl sync teardown {domain}, enable and backfill it anew"
    )


class TableUnknown(StreamStopped):
    """Stream '{stream}' stops: the log has changes of table '{table}', which no mapping reads."""

    hint = "give the table its name back, or correct the mappings, then start: splitctl sync run"


@dataclass
class Batch:
    """Changed keys of committed transactions, in the order in which they first appeared.

    `again` are those among them that nobody changed: the opposite stream asked for them.
    `lsn` is the position behind the last of them, `since` that of the first commit that brought
    one. `commit_us` holds the commit times (microseconds since 1970) of those that brought keys.
    `horizon`: every transaction of the source below this 64-bit id is in this batch or an earlier
    one. `altered`: base tables have other columns than before. `urgent`: somebody waits for the
    position itself.
    `part`: these are keys of one transaction whose end was not read yet; there is no position.
    """

    keys: dict[MappingKey, None] = field(default_factory=dict)
    again: set[MappingKey] = field(default_factory=set)
    xids: set[int] = field(default_factory=set)
    lsn: int = 0
    last_commit_us: int = 0
    commit_us: list[int] = field(default_factory=list)
    heartbeat_at: datetime | None = None
    horizon: int | None = None
    altered: bool = False
    urgent: bool = False
    part: bool = False
    since: int = 0

    @property
    def worth_storing(self) -> bool:
        """Whether the position has to be committed for it.

        Transactions that the tool wrote itself only move it in memory: each commit of a position
        is such a transaction, and the two directions would answer each other for ever.
        """
        return bool(self.keys) or self.urgent or self.heartbeat_at is not None

    @property
    def source_commit_at(self) -> datetime:
        """When the last of its transactions was committed, by the source's clock."""
        return datetime.fromtimestamp(self.last_commit_us / 1e6, UTC)


class Collector:
    """Gathers events into batches. Whole transactions only: `in_transaction` tells the middle."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._leads = _leads(stream.mappings)
        self._layouts: dict[int, tuple[tuple[str, ...], tuple[int, ...]]] = {}
        self._hidden: dict[int, str] = {}
        self._altered = False
        self._batch = Batch()
        self._begin: Begin | None = None
        self._first = False
        self._skipped = False
        self._keys: dict[MappingKey, None] = {}
        self._again: set[MappingKey] = set()
        self._beat: tuple[int, datetime] | None = None
        self._urgent = False

    @property
    def wanted(self) -> dict[str, tuple[str, ...]]:
        """The columns to decode of each base table."""
        return {table: columns for table, (columns, _) in self._leads.items()}

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction has begun and its end has not come yet."""
        return self._begin is not None

    @property
    def skipping(self) -> bool:
        """Whether the transaction that has begun is one of ours, whose rows lead nowhere."""
        return self._skipped and self._begin is not None

    @property
    def pending(self) -> int:
        """Keys gathered so far."""
        return len(self._batch.keys) + len(self._keys)

    @property
    def unfinished(self) -> int:
        """How many keys of the transaction that has begun are held here."""
        return len(self._keys)

    @property
    def held(self) -> int:
        """How much is held of whole transactions: their keys, or themselves if these are more."""
        return max(len(self._batch.keys), len(self._batch.commit_us))

    @property
    def batch(self) -> Batch:
        """What has been gathered; `take` removes it."""
        return self._batch

    def take(self) -> Batch:
        """Hand over what whole transactions brought, and begin a new batch."""
        batch, self._batch = self._batch, Batch()
        return batch

    def take_part(self) -> Batch:
        """Hand over keys of a transaction that is too large to be kept until its end.

        It has been committed on the source, as everything in the log; but the position stays before
        it, so the part must be written down where a second reading of it does no harm.
        """
        assert self._begin is not None
        keys, self._keys = self._keys, {}
        begin = self._begin
        return Batch(keys, xids={begin.xid}, part=True, since=begin.final_lsn)

    def feed(self, event: Event) -> None:
        """Take in one event. Raises StreamStopped with the reason."""
        if type(event) is Change:
            self._first = False
            if not self._skipped:
                self._change(event)
        elif type(event) is Begin:
            self._begin, self._first, self._skipped = event, True, False
        elif type(event) is Commit:
            self._commit(event)
        elif type(event) is Message:
            self._message(event)
        elif type(event) is Relation:
            self._relation(event)
        elif type(event) is Truncate:
            self._truncate(event)

    def _commit(self, event: Commit) -> None:
        begin, batch = self._begin, self._batch
        assert begin is not None
        if self._keys or self._again:
            # A key that was changed as well is not a quiet one any more.
            if self._again or batch.again:
                batch.again.update(name for name in self._again if name not in batch.keys)
                batch.again.difference_update(self._keys)
                batch.keys.update(dict.fromkeys(self._again))
                self._again = set()
            batch.keys.update(self._keys)
            batch.xids.add(begin.xid)
            batch.since = batch.since or begin.final_lsn
            batch.commit_us.append(event.commit_us)
            self._keys = {}
        # Not when they are read: handed over before the commit, they would have no position.
        if self._beat is not None:
            batch.horizon, batch.heartbeat_at = self._beat
        batch.urgent |= self._urgent
        batch.lsn, batch.last_commit_us = event.end_lsn, event.commit_us
        batch.altered |= self._altered
        self._begin, self._beat = None, None
        self._urgent = self._altered = False

    def _truncate(self, event: Truncate) -> None:
        self._first = False
        if not self._skipped:
            tables = ", ".join(relation.name for relation in event.relations)
            raise self._stop(TableTruncated, tables=tables)

    def _message(self, event: Message) -> None:
        first, self._first = self._first, False
        if event.prefix == APPLIED:
            stream = event.content.decode(errors="replace")
            # Only as the first message: later ones cannot vouch for what came before them.
            if first and stream.rpartition(".")[0] == self._stream.domain.name:
                self._skipped = True
        elif event.prefix == MARKER:
            self._urgent = True
        elif event.prefix == AGAIN:
            self._asked_again(event.content)
        elif event.prefix == HEARTBEAT:
            stream, horizon, stamp = event.content.decode(errors="replace").split(" ", 2)
            if stream == self._stream.name:
                self._beat = int(horizon), datetime.fromisoformat(stamp)

    def _asked_again(self, content: bytes) -> None:
        """Keys that the opposite stream wants from here; its transaction is skipped otherwise."""
        asked = json.loads(content)
        if asked["stream"] == self._stream.name:
            known = {mapping.name for mapping in self._stream.mappings}
            self._again.update((name, tuple(key)) for name, key in asked["keys"] if name in known)

    def _relation(self, event: Relation) -> None:
        if event.name not in self._leads:
            # A partition is told of beside its table, in whose name its changes come.
            return
        columns, _ = self._leads[event.name]
        gone = [name for name in columns if name not in event.columns]
        if gone:
            raise self._stop(TableChanged, table=event.name, columns=", ".join(gone))
        hidden = [name for name in columns if name not in event.identity]
        if hidden:
            self._hidden[event.oid] = ", ".join(hidden)
        else:
            self._hidden.pop(event.oid, None)
        # The rows are read anew: of other columns only the mappings' statements need to know.
        layout = (event.columns, event.types)
        self._altered |= self._layouts.get(event.oid) != layout
        self._layouts[event.oid] = layout

    def _change(self, change: Change) -> None:
        """Note the keys that the old and the new version of a row lead to."""
        relation, kind, old, new = change
        if self._hidden and kind != "I" and relation.oid in self._hidden:
            columns = self._hidden[relation.oid]
            raise self._stop(KeyNotInIdentity, table=relation.name, columns=columns)
        if old is not None:
            self._lead(relation.name, old)
            if new is not None and LEFT_OUT in new:
                # A large value that was not touched is left out of the new tuple, never of the old.
                pairs = zip(new, old, strict=True)
                new = tuple([before if value is LEFT_OUT else value for value, before in pairs])
        if new is not None:
            self._lead(relation.name, new)

    def _lead(self, table: str, values: tuple[Value, ...]) -> None:
        found = self._leads.get(table)
        if found is None:
            raise self._stop(TableUnknown, table=table)
        columns, leads = found
        for name, pick in leads:
            key = pick(values)
            # A null leads nowhere: nothing stands under it in the target.
            if None in key:
                continue
            if LEFT_OUT in key:
                hidden = [c for c, value in zip(columns, values, strict=True) if value is LEFT_OUT]
                raise self._stop(KeyNotInIdentity, table=table, columns=", ".join(hidden))
            self._keys[(name, key)] = None

    def _stop(self, kind: type[StreamStopped], **facts: str) -> StreamStopped:
        return kind(stream=self._stream.name, domain=self._stream.domain.name, **facts)


Pick = Callable[[tuple[Value, ...]], tuple[Any, ...]]
# For a base table: the columns to decode, and for each mapping how its key is picked from them.
Leads = dict[str, tuple[tuple[str, ...], tuple[tuple[str, Pick], ...]]]


def _leads(mappings: Iterable[Mapping]) -> Leads:
    columns: dict[str, list[str]] = {}
    ways: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for mapping in mappings:
        for table, leads in mapping.config.sources.items():
            known = columns.setdefault(table, [])
            known += [c for c in dict.fromkeys(leads.values()) if c not in known]
            positions = tuple(known.index(leads[part]) for part in mapping.key)
            ways.setdefault(table, []).append((mapping.name, positions))
    return {
        table: (tuple(known), tuple((name, _picker(at)) for name, at in ways[table]))
        for table, known in columns.items()
    }


def _picker(positions: tuple[int, ...]) -> Pick:
    pick: Any = itemgetter(*positions)
    return pick if len(positions) > 1 else lambda values: (pick(values),)


def widen(xid: int, near: int) -> int:
    """A transaction id of 32 bits as one of 64, next to a 64-bit id of about the same time."""
    candidate = (near & ~0xFFFFFFFF) | xid
    if candidate - near > 1 << 31:
        return candidate - (1 << 32)
    if near - candidate > 1 << 31:
        return candidate + (1 << 32)
    return candidate


def unseen(xids: Iterable[int], snapshot: str) -> set[int]:
    """Which of these 32-bit ids the snapshot (text of pg_snapshot) does not see yet, widened."""
    low, high, running = snapshot.split(":")
    xmin, xmax = int(low), int(high)
    # Nearly all of a large batch lie below everything that runs.
    recent = [xid for xid in xids if (xid - xmin) & 0xFFFFFFFF < 1 << 31]
    inside = {int(number) for number in running.split(",") if number}
    wide = {widen(xid, xmax) for xid in recent}
    return {xid for xid in wide if xid >= xmax or xid in inside}
