"""From the log to keys: committed transactions become a set of (mapping, driving key) (law L2).

A batch remembers which transactions it comes from, so that it is read only from a snapshot that
already sees them (law L3).
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain
from operator import itemgetter
from typing import Any

from estate.errors import ExitCode, SplitctlError
from migrator.control import APPLIED, HEARTBEAT, MARKER
from migrator.mapping import Key, Mapping, Stream
from migrator.pgoutput import (
    BEGIN,
    CHANGES,
    COMMIT,
    LEFT_OUT,
    Begin,
    Change,
    Commit,
    Decoder,
    Event,
    Message,
    Relation,
    Truncate,
    Value,
    begin,
    commit,
)

MappingKey = tuple[str, Key]
# What one changed row leads to.
Keys = tuple[MappingKey, ...]
# So many different changes are remembered with the keys that they lead to.
KNOWN = 50_000
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

    `again` are those among them that nobody changed: the opposite stream asked for them, in the
    commit at this position.
    `lsn` is the position behind the last of them, `since` that of the first commit that brought
    one. `commit_us` holds the commit times (microseconds since 1970) of those that brought keys.
    `horizon`: every transaction of the source below this 64-bit id is in this batch or an earlier
    one. `altered`: base tables have other columns than before. `urgent`: somebody waits for the
    position itself.
    `part`: these are keys of one transaction whose end was not read yet; there is no position.
    `told_at` says what else may be asked: where each key was told of last.
    """

    keys: dict[MappingKey, None] = field(default_factory=dict)
    again: dict[MappingKey, int] = field(default_factory=dict)
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
    _commits: dict[Keys, int] = field(default_factory=dict)

    def told_at(self, name: MappingKey) -> int:
        """The position of the last commit that told of this key; if unknown, one that is later."""
        return self._told.get(name, self.lsn)

    @cached_property
    def _told(self) -> dict[MappingKey, int]:
        # Only the ledger asks for it, so it is not made before.
        told: dict[MappingKey, int] = {}
        for keys, lsn in self._commits.items():
            for name in keys:
                told[name] = max(lsn, told.get(name, 0))
        return told

    @property
    def worth_storing(self) -> bool:
        """Whether the position has to be committed for it.

        Transactions that the tool wrote itself only move it in memory: each commit of a position
        is such a transaction, and the two directions would answer each other for ever.
        """
        return bool(self.keys or self.again) or self.urgent or self.heartbeat_at is not None

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
        self._known: dict[bytes | None, Keys] = {}
        # Whole transactions: what they tell, and what their rows lead to, with the position of the
        # last commit, which the batch has when it is taken.
        self._batch = Batch()
        self._whole: dict[Keys, int] = {}
        # The one that has begun: its Begin, its rows, and its messages, which count from its end.
        self._begin: tuple[int, int, int] | None = None
        self._first = False
        self._skipped = False
        self._open: dict[Keys, int] = {}
        self._said = Batch()
        self._says = False

    @property
    def wanted(self) -> dict[str, tuple[str, ...]]:
        """The columns to decode of each base table."""
        return {table: columns for table, (columns, _) in self._leads.items()}

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction has begun and its end has not come yet."""
        return self._begin is not None

    @property
    def pending(self) -> int:
        """Changed rows gathered so far, each counted once."""
        return len(self._whole) + len(self._open)

    @property
    def unfinished(self) -> int:
        """How many rows of the transaction that has begun are held here."""
        return len(self._open)

    @property
    def held(self) -> int:
        """How much is held of whole transactions: their rows, or themselves if these are more."""
        return max(len(self._whole), len(self._batch.commit_us))

    @property
    def urgent(self) -> bool:
        """Whether somebody waits for the position itself."""
        return self._batch.urgent

    @property
    def worth_storing(self) -> bool:
        """Whether the position has to be committed for what whole transactions brought."""
        return bool(self._whole) or self._batch.worth_storing

    def take(self) -> Batch:
        """Hand over what whole transactions brought, and begin a new batch."""
        batch, self._batch = self._batch, Batch()
        batch._commits, self._whole = self._whole, {}
        keys = dict.fromkeys(chain.from_iterable(batch._commits))
        for name, lsn in batch.again.items():
            batch._commits[(name,)] = max(lsn, batch._commits.get((name,), 0))
        # A key that was changed as well is not a quiet one any more.
        batch.again = {name: lsn for name, lsn in batch.again.items() if name not in keys}
        keys.update(dict.fromkeys(batch.again))
        batch.keys = keys
        return batch

    def take_part(self) -> Batch:
        """Hand over keys of a transaction that is too large to be kept until its end.

        It has been committed on the source, as everything in the log; but the position stays before
        it, so the part must be written down where a second reading of it does no harm.
        """
        assert self._begin is not None
        commits, self._open = self._open, {}
        keys = dict.fromkeys(chain.from_iterable(commits))
        lsn, _, xid = self._begin
        altered, self._said.altered = self._said.altered, False
        return Batch(keys, xids={xid}, part=True, since=lsn, altered=altered, _commits=commits)

    def take_in(self, decoder: Decoder, messages: Iterable[bytes]) -> None:
        """Take in messages as they come, and what they mean. Raises Malformed, or as `feed` does.

        Bursts bring some hundred thousand of them a second, so the common ones take short ways: a
        change that was seen before, of the same few rows most likely, is not decoded once more.
        """
        known, head = self._known, decoder.head
        at = self._begin[0] if self._begin else 0
        for message in messages:
            kind = message[0]
            if kind in CHANGES:
                # Our own transactions are long sometimes, and nobody needs their rows.
                if self._skipped:
                    continue
                same = head(message)
                keys = known.get(same)
                if keys is None:
                    keys = self._keys_of(decoder.decode(message))
                    if same is not None:
                        if len(known) >= KNOWN:
                            known.clear()
                        known[same] = keys
                self._first = False
                self._open[keys] = at
            elif kind == BEGIN:
                began = begin(message)
                at = began[0]
                self._begins(began)
            elif kind == COMMIT:
                _, end_lsn, commit_us = commit(message)
                self._ends(end_lsn, commit_us)
            else:
                self.feed(decoder.decode(message))

    def feed(self, event: Event) -> None:
        """Take in one event. Raises StreamStopped with the reason."""
        if type(event) is Change:
            self._first = False
            if not self._skipped:
                assert self._begin is not None
                self._open[self._keys_of(event)] = self._begin[0]
        elif type(event) is Begin:
            self._begins(event)
        elif type(event) is Commit:
            self._ends(event.end_lsn, event.commit_us)
        elif type(event) is Message:
            self._message(event)
        elif type(event) is Relation:
            self._relation(event)
        elif type(event) is Truncate:
            self._truncate(event)

    def _begins(self, begin: tuple[int, int, int]) -> None:
        self._begin, self._first, self._skipped = begin, True, False

    def _ends(self, end_lsn: int, commit_us: int) -> None:
        begin, batch = self._begin, self._batch
        assert begin is not None
        if self._open or self._said.again:
            self._whole.update(self._open)
            self._open.clear()
            lsn, _, xid = begin
            batch.xids.add(xid)
            batch.since = batch.since or lsn
            batch.commit_us.append(commit_us)
        if self._says:
            # Not when they are read: handed over before the commit, they would have no position.
            self._say()
        batch.lsn, batch.last_commit_us = end_lsn, commit_us
        self._begin = None

    def _say(self) -> None:
        batch, said = self._batch, self._said
        batch.again |= said.again
        if said.heartbeat_at is not None:
            batch.horizon, batch.heartbeat_at = said.horizon, said.heartbeat_at
        batch.urgent |= said.urgent
        batch.altered |= said.altered
        self._said, self._says = Batch(), False

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
            self._said.urgent = self._says = True
        elif event.prefix == AGAIN:
            self._asked_again(event.content)
        elif event.prefix == HEARTBEAT:
            stream, horizon, stamp = event.content.decode(errors="replace").split(" ", 2)
            if stream == self._stream.name:
                said = self._said
                said.horizon, said.heartbeat_at = int(horizon), datetime.fromisoformat(stamp)
                self._says = True

    def _asked_again(self, content: bytes) -> None:
        """Keys that the opposite stream wants from here; its transaction is skipped otherwise."""
        asked = json.loads(content)
        if asked["stream"] == self._stream.name:
            known = {mapping.name for mapping in self._stream.mappings}
            assert self._begin is not None
            names = [(name, tuple(key)) for name, key in asked["keys"] if name in known]
            self._said.again |= dict.fromkeys(names, self._begin[0])
            self._says = True

    def _relation(self, event: Relation) -> None:
        self._known.clear()
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
        if self._layouts.get(event.oid) != layout:
            self._said.altered = self._says = True
        self._layouts[event.oid] = layout

    def _keys_of(self, event: Event) -> Keys:
        """The keys that the old and the new version of a row lead to."""
        assert type(event) is Change
        relation, kind, old, new = event
        if self._hidden and kind != "I" and relation.oid in self._hidden:
            columns = self._hidden[relation.oid]
            raise self._stop(KeyNotInIdentity, table=relation.name, columns=columns)
        if old is None:
            assert new is not None
            return self._lead(relation.name, new)
        keys = self._lead(relation.name, old)
        if new is None:
            return keys
        if LEFT_OUT in new:
            # A large value that was not touched is left out of the new tuple, never of the old.
            pairs = zip(new, old, strict=True)
            new = tuple([before if value is LEFT_OUT else value for value, before in pairs])
        return keys + self._lead(relation.name, new)

    def _lead(self, table: str, values: tuple[Value, ...]) -> Keys:
        found = self._leads.get(table)
        if found is None:
            raise self._stop(TableUnknown, table=table)
        columns, leads = found
        keys = [(name, pick(values)) for name, pick in leads]
        if None in values or LEFT_OUT in values:
            for _, key in keys:
                if LEFT_OUT in key and None not in key:
                    pairs = zip(columns, values, strict=True)
                    hidden = ", ".join(column for column, value in pairs if value is LEFT_OUT)
                    raise self._stop(KeyNotInIdentity, table=table, columns=hidden)
            # A null leads nowhere: nothing stands under it in the target.
            keys = [(name, key) for name, key in keys if None not in key]
        return tuple(keys)

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
