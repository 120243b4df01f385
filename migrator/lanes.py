"""Several appliers that write many keys at once; a key always goes to the same one.

What they settle is plain: rows that the source owns, that nobody else has written, whose parents
are there. Every other key is given back, and the careful way (`writing`) has the last word on it.
Rows are committed here without a position: read again after a crash they are the same.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import psycopg

from estate.catalog import LAYOUTS
from estate.config import BUCKETS
from estate.connections import connect
from estate.errors import SplitctlError
from migrator import sets
from migrator import statements as s
from migrator.changes import MappingKey
from migrator.control import MARK
from migrator.entering import entered
from migrator.mapping import Key, Stream, key_arguments
from migrator.parts import Own
from migrator.piping import pipe
from migrator.prepared import Mappings
from migrator.reading import Connection, Prepared, snapshot
from migrator.refusals import TRANSIENT, of_a_row
from migrator.sets import Guard, SetStatements

log = logging.getLogger(__name__)
# Keys of one transaction. More would be no quicker, and would hold its locks longer.
CHUNK = 10_000
SMALLEST = 100
WORTH_A_LANE = 10_000
# Into so many slices keys are cut when there is time for rests between them, and none is smaller.
SLICES = 10
SMALLEST_SLICE = 300
# With more ids of our own than these the careful way is quicker: each row is compared with them.
MOST_OWN = 10_000
PREPARED_STATEMENTS = 1_000
# A stage is filled anew each time, and its statistics are never there.
SETTINGS = """
SET jit = off; SET plan_cache_mode = force_custom_plan; SET random_page_cost = 1.1;
SET enable_mergejoin = off
"""


@dataclass(frozen=True)
class Load:
    """What the lanes are given: when a key counts as theirs, and what its reading must see.

    `state`: the state that the mappings must have. `xids`: transactions of the source that the
    reading must see. `horizon`: see `parts.Own`, taken before the source is read. `stop`: whether
    the worker has been told to leave; what is not begun then is left. `rest`: when given, it is
    called after each slice with the seconds that it took.
    """

    state: str
    xids: frozenset[int]
    horizon: int | None
    stop: Callable[[], bool]
    rest: Callable[[float], None] | None = None


@dataclass
class Settled:
    """How many rows were written, and the keys that are left to the careful way."""

    upserted: int
    left: list[MappingKey]


class Lanes:
    """The appliers of a stream. Their connections are opened when they are first needed."""

    def __init__(
        self, stream: Stream, mappings: Mappings, own: Callable[[], Own], epoch: int, count: int
    ) -> None:
        self._mappings = mappings
        self._lanes = [_Lane(stream, own, epoch, number) for number in range(count)]
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=f"lane {stream.name}")

    def carry(self, names: Sequence[MappingKey], load: Load) -> Settled:
        """Write these keys' rows, mapping after mapping, parents first. Raises Superseded."""
        by_mapping: dict[str, list[Key]] = {}
        for name, key in names:
            by_mapping.setdefault(name, []).append(key)
        done = Settled(0, [])
        for name in self._mappings.order:
            if name in by_mapping:
                self._mapping(self._mappings[name], by_mapping[name], load, done)
        return done

    def forget(self) -> None:
        """Make statements and stages anew when they are needed."""
        for lane in self._lanes:
            lane.forget()

    def close(self) -> None:
        """End their connections."""
        self._pool.shutdown()
        for lane in self._lanes:
            lane.close()

    def _mapping(self, prepared: Prepared, keys: list[Key], load: Load, done: Settled) -> None:
        name = prepared.shape.mapping.name
        # No more of them than the keys are worth: the shop needs the cores too.
        count = min(len(self._lanes), -(-len(keys) // WORTH_A_LANE))
        shares: list[list[Key]] = [[] for _ in range(count)]
        for key in keys:
            shares[hash(key) % len(shares)].append(key)
        work = [
            self._pool.submit(lane.carry, prepared, share, load)
            for lane, share in zip(self._lanes, shares, strict=False)
            if share
        ]
        # All of them have ended before the first error is raised: none writes on behind our back.
        for future in work:
            future.exception()
        for future in work:
            upserted, left = future.result()
            done.upserted += upserted
            done.left += [(name, key) for key in left]


class _Lane:
    """One of them, with its own connections and stages."""

    def __init__(self, stream: Stream, own: Callable[[], Own], epoch: int, number: int) -> None:
        self._stream, self._own, self._epoch, self._number = stream, own, epoch, number
        self._stack = ExitStack()
        self._size = CHUNK
        self._stages: dict[str, int] = {}
        self._sets: dict[tuple[str, bool], SetStatements] = {}
        self._source: Connection | None = None
        self._target: Connection | None = None

    def forget(self) -> None:
        self._stack.close()
        self._source = self._target = None
        self._stages.clear()
        self._sets.clear()

    def close(self) -> None:
        self._stack.close()

    def carry(self, prepared: Prepared, keys: list[Key], load: Load) -> tuple[int, list[Key]]:
        """Write these keys, a chunk in each transaction. Returns rows written and keys left."""
        upserted, left = 0, []
        awaited = load.xids
        try:
            source, target = self._connections()
        except SplitctlError as error:
            # There is another way: a stream must not stand still for want of a connection.
            log.warning("%s: %s", self._stream.name, error)
            # The one of the two that was opened must not be left behind at every attempt.
            self.forget()
            return 0, keys
        at = 0
        while at < len(keys) and not load.stop():
            size = self._size if load.rest is None else min(self._size, slice_of(len(keys)))
            chunk = keys[at : at + size]
            at += len(chunk)
            began = time.monotonic()
            try:
                written, refused = self._chunk(source, target, prepared, chunk, load, awaited)
                # What one snapshot has seen, every later one sees.
                awaited = frozenset()
                upserted += written
                left += refused
                self._size = min(self._size * 2, CHUNK)
            except psycopg.Error as error:
                if not isinstance(error, TRANSIENT) and not of_a_row(error):
                    raise
                log.info("%s: a set of %d: %s", self._stream.name, len(chunk), error)
                source.rollback()
                target.rollback()
                left += chunk
                # Most of them are plain, most likely, and fewer share the one's fate next time.
                self._size = max(self._size // 4, SMALLEST)
            if load.rest is not None:
                load.rest(time.monotonic() - began)
        return upserted, left + keys[at:]

    def _connections(self) -> tuple[Connection, Connection]:
        if self._source is None or self._target is None:
            purpose = f"sync {self._stream.name} {self._number}"
            self._source = self._stack.enter_context(connect(self._stream.source, purpose))
            self._target = self._stack.enter_context(connect(self._stream.target, purpose))
            for connection in (self._source, self._target):
                connection.execute(SETTINGS)
                connection.prepared_max = PREPARED_STATEMENTS
        return self._source, self._target

    def _statements(self, target: Connection, prepared: Prepared, shared: bool) -> SetStatements:
        mapping = prepared.shape.mapping.name
        if (mapping, shared) not in self._sets:
            number = self._stages.setdefault(mapping, len(self._stages))
            made = sets.make(prepared.shape, number, shared=shared)
            if (mapping, not shared) not in self._sets:
                for statement in made.stage:
                    target.execute(statement, ())
            self._sets[(mapping, shared)] = made
        return self._sets[(mapping, shared)]

    def _chunk(
        self,
        source: Connection,
        target: Connection,
        prepared: Prepared,
        keys: list[Key],
        load: Load,
        awaited: frozenset[int],
    ) -> tuple[int, list[Key]]:
        stream = self._stream
        table = prepared.shape.table
        shared = self._statements(target, prepared, True)
        whole = self._statements(target, prepared, False)
        # Before the target's rows are locked: to become visible may take a transaction long.
        parked = {name for name, _ in snapshot(source, stream.opposite, awaited)}
        contested = any(way.mapping in parked for way in prepared.statements.ways)
        claim = {"stream": stream.name, "epoch": self._epoch, "domain": stream.domain.name}
        with target.pipeline():
            target.execute(s.BEGIN)
            target.execute(MARK, (stream.name,))
            begun = target.execute(s.ENTER_BESIDE, claim)
            following = target.execute(s.NEXT_ID)
            # What is asked of a table that is locked stays so until the end.
            target.execute(whole.lock, ())
            layouts = target.execute(LAYOUTS, ([table.oid],))
        entry = entered(begun, stream.name)
        below = entry.ownership.new_below if entry.ownership else 0
        nothing = below == (BUCKETS if stream.source_side == "old" else 0)
        moved = entry.states.get(prepared.shape.mapping.name) != load.state
        moved |= dict(layouts.fetchall()).get(table.oid) != table.layout
        beyond = int(following.fetchall()[0][0])
        self._own().begin(entry.own, beyond, load.horizon)
        own = self._own().numbers()
        if nothing or moved or contested or len(own) > MOST_OWN:
            # A key that waits in the opposite stream may lead to one of these rows.
            source.execute(s.COMMIT)
            target.execute(s.COMMIT)
            return 0, keys
        made = whole if below in (0, BUCKETS) else shared
        arguments = key_arguments(keys)
        rows = psycopg.ClientCursor(source).mogrify(made.out, arguments)
        staged = pipe(source, target, rows.encode(), made.into).rows
        source.execute(s.COMMIT)
        new = stream.source_side == "new"
        guard = Guard(load.horizon, entry.own, beyond, own, below, new).arguments
        with target.pipeline():
            dropped = [
                target.execute(statement, guard)
                for statement in (made.not_ours, made.not_ours_there)
                if statement is not None
            ]
            upsert = target.execute(made.upsert, guard)
        intact = not any(cursor.rowcount for cursor in dropped)
        if made.one_row and intact and staged == upsert.rowcount == len(keys):
            # Each key gave its row and each row was written: nothing is left to be looked for.
            target.execute(s.COMMIT)
            return staged, []
        return upsert.rowcount, self._left(target, made, keys, guard)

    def _left(
        self,
        target: Connection,
        made: SetStatements,
        keys: list[Key],
        guard: dict[str, object],
    ) -> list[Key]:
        """Which of these keys are not settled by what was written. Commits it."""
        arguments = key_arguments(keys)
        with target.pipeline():
            looks = [
                target.execute(made.not_given, arguments[: len(keys[0])]),
                target.execute(made.not_written, guard),
            ]
            if made.left_standing is not None:
                looks.append(target.execute(made.left_standing, arguments))
            target.execute(s.COMMIT)
        return list({tuple(row) for found in looks for row in found.fetchall()})


def slice_of(keys: int) -> int:
    """How many of these keys one slice has."""
    return max(-(-keys // SLICES), SMALLEST_SLICE)


def plain(mappings: Mappings, names: Iterable[MappingKey]) -> list[MappingKey]:
    """Those among them whose text in the log is also their text in the target."""
    known: dict[str, bool] = {}
    found = []
    for name in names:
        mapping = name[0]
        if mapping not in known:
            known[mapping] = mappings[mapping].shape.canonical
        if known[mapping]:
            found.append(name)
    return found
