"""Reading both sides at once: whole relations by one statement, or slice by slice in a snapshot."""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from psycopg import sql

from verify.checksum import Side
from verify.sides import Both, Connection, Readers, asking
from verify.slices import MOST_SLICES, Slice, Slicing
from verify.subject import Subject

# The query about one side, of a relation that is the side or a slice of it.
Query = Callable[[Side, sql.Composable], sql.Composed]
# A slice of one side (0 the source, 1 the target) and its rows; None from a thread that is done.
_Told = tuple[int, Slice, list[Any]] | BaseException | None
# Takes the rows of a slice.
Take = Callable[[list[tuple[Any, ...]]], None]
# What a thread does between two slices: it is told how many seconds the last one took, and how to
# ask whether the pass has ended.
Pause = Callable[[float, Callable[[], bool]], None]
FRESH_S = 0.2
END_S = 15.0


class TimeUp(Exception):
    """The time that was given for the run is over."""


class Reading(Protocol):
    """Both sides of one subject, as a scan asks them."""

    def read(
        self, subject: Subject, query: Query, takers: tuple[Take, Take], most: int = MOST_SLICES
    ) -> None:
        """Give the query's rows of the source and of the target to their taker, slice by slice.

        Each side is read in no more than `most` slices. Raises ConnectionLost or ComparisonFailed.
        """


class Whole:
    """One statement a side; several passes need not see the same."""

    def __init__(self, both: Both) -> None:
        self._both = both

    def read(
        self, subject: Subject, query: Query, takers: tuple[Take, Take], most: int = MOST_SLICES
    ) -> None:
        """See Reading."""
        del most
        found = self._both.rows(
            subject.source, subject.target, lambda side: query(side, side.relation())
        )
        for take, rows in zip(takers, found, strict=True):
            take(rows)


class Snapshot:
    """Slice by slice, all of them in one snapshot of each side. Use `snapshot` to make one.

    `on_slice` hears of the share of both sides that a pass has read, 0 to 1. `pause` is called
    after each slice by whoever has read it. Raises TimeUp at `deadline`, a monotonic time.
    """

    def __init__(
        self,
        source: Readers,
        target: Readers,
        *,
        on_slice: Callable[[float], None],
        pause: Pause,
        deadline: float | None,
    ) -> None:
        self._readers = (source, target)
        self._on_slice, self._pause, self._deadline = on_slice, pause, deadline

    def read(
        self, subject: Subject, query: Query, takers: tuple[Take, Take], most: int = MOST_SLICES
    ) -> None:
        """See Reading; raises TimeUp too."""
        sides = (subject.source, subject.target)
        blocks = [side.cut.blocks if side.cut else 1 for side in sides]
        done = 0
        running = _Pass(self._readers, sides, query, most, self._pause)
        with closing(running.heard(self._deadline)) as heard:
            for n, part, rows in heard:
                takers[n](rows)
                done += max(0, (blocks[n] if part.end is None else part.end) - part.first)
                self._on_slice(min(done / sum(blocks), 1.0))


class _Pass:
    """One query over all slices of both sides; a thread for each connection."""

    def __init__(
        self,
        readers: tuple[Readers, Readers],
        sides: tuple[Side, Side],
        query: Query,
        most: int,
        pause: Pause,
    ) -> None:
        self._readers, self._sides, self._query, self._pause = readers, sides, query, pause
        self._slicings = [_slicing(side, most) for side in sides]
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._told: SimpleQueue[_Told] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, args=(n, connection), daemon=True)
            for n, side in enumerate(readers)
            for connection in side.connections
        ]

    def heard(self, deadline: float | None) -> Generator[tuple[int, Slice, list[Any]], None, None]:
        """Each slice as it is read: its side (0 the source, 1 the target), and its rows."""
        working = len(self._threads)
        try:
            for thread in self._threads:
                thread.start()
            while working:
                if deadline is not None and time.monotonic() > deadline:
                    raise TimeUp
                try:
                    told = self._told.get(timeout=FRESH_S)
                except Empty:
                    continue
                if isinstance(told, BaseException):
                    raise told
                if told is None:
                    working -= 1
                else:
                    yield told
        finally:
            self._end()

    def _end(self) -> None:
        self._stopped.set()
        started = [thread for thread in self._threads if thread.ident is not None]
        limit = time.monotonic() + END_S
        # A thread may have begun a statement just before it could hear of the end.
        while any(thread.is_alive() for thread in started) and time.monotonic() < limit:
            for readers in self._readers:
                readers.cancel()
            for thread in started:
                thread.join(FRESH_S)

    def _next(self, n: int) -> Slice | None:
        with self._lock:
            return self._slicings[n].take()

    def _work(self, n: int, connection: Connection) -> None:
        side = self._sides[n]
        try:
            part = self._next(n)
            while part is not None and not self._stopped.is_set():
                started = time.monotonic()
                query = self._query(side, side.relation(part))
                with asking(self._readers[n].database, connection):
                    # In binary form: quicker, and a statement that holds another is refused.
                    rows = connection.execute(query, binary=True).fetchall()
                seconds = time.monotonic() - started
                with self._lock:
                    self._slicings[n].took(part, seconds)
                self._told.put((n, part, rows))
                part = self._next(n)
                if part is not None:
                    self._pause(seconds, self._stopped.is_set)
            self._told.put(None)
        except BaseException as error:  # noqa: BLE001 - whoever waits for the rows has to hear of it
            self._told.put(error)


def _slicing(side: Side, most: int) -> Slicing:
    if side.cut is None:
        return Slicing(1, 1)
    return Slicing(side.cut.blocks, min(most, side.cut.slices))


@contextmanager
def snapshot(
    source: Readers,
    target: Readers,
    *,
    on_slice: Callable[[float], None],
    pause: Pause = lambda *_: None,
    deadline: float | None = None,
) -> Iterator[Snapshot]:
    """A snapshot of each side, taken now, and held until the end. Raises ConnectionLost."""
    try:
        for readers in (source, target):
            readers.begin()
        yield Snapshot(source, target, on_slice=on_slice, pause=pause, deadline=deadline)
    finally:
        for readers in (source, target):
            readers.rest()
