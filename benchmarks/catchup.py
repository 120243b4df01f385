"""What a stream carries after it stood still: a burst of updates that waits in the log."""

import threading
import time
from collections.abc import Callable
from itertools import count
from typing import LiteralString

from benchmarks.contest import Figure, Result, Tell, Turn, alternate
from benchmarks.ground import DOMAIN, Connection, Ground, await_row, position
from benchmarks.native import NAME, RIVAL, Native

STREAM = f"{DOMAIN}.forward"
SLOT = f"splitctl_{DOMAIN}_forward"
UPDATES = 500_000
READ: LiteralString = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"
TAGGED: LiteralString = "SELECT count(*) FROM cart_items WHERE warehouse_id = %s"
BURST: LiteralString = """
CREATE OR REPLACE PROCEDURE pg_temp.burst(updates bigint, keys bigint, size bigint, tag text)
LANGUAGE plpgsql AS $$
DECLARE
    done bigint := 0;
BEGIN
    WHILE done < updates LOOP
        UPDATE cart_items SET warehouse_id = tag, updated_at = now()
         WHERE id = ANY (ARRAY(SELECT 1 + (n * 7919) % keys
                                 FROM generate_series(done, done + size - 1) AS n));
        done := done + size;
        COMMIT;
    END LOOP;
END $$
"""


def distinct(ground: Ground, rounds: int, tell: Tell) -> list[Result]:
    """As many keys as updates, one row in a transaction."""
    figure = Figure("catch-up, distinct keys", RIVAL, "updates/s", "at least", 1.2)
    return _measure(ground, figure, rounds, tell, keys=UPDATES, size=1)


def hot_single(ground: Ground, rounds: int, tell: Tell) -> list[Result]:
    """Ten updates for each key, one row in a transaction."""
    figure = Figure("catch-up, hot keys, 1 row a transaction", RIVAL, "updates/s", "at least", 2)
    return _measure(ground, figure, rounds, tell, keys=UPDATES // 10, size=1)


def hot_large(ground: Ground, rounds: int, tell: Tell) -> list[Result]:
    """Ten updates for each key, a thousand rows in a transaction."""
    name = "catch-up, hot keys, 1,000 rows a transaction"
    figure = Figure(name, RIVAL, "updates/s", "at least", 3)
    return _measure(ground, figure, rounds, tell, keys=UPDATES // 10, size=1_000)


def _measure(
    ground: Ground, figure: Figure, rounds: int, tell: Tell, *, keys: int, size: int
) -> list[Result]:
    """A burst for each, while the other stands still."""
    updates, keys = min(UPDATES, ground.items), min(keys, ground.items)
    rival = Native(ground)
    tags = count(1)

    def turn(stream: _Stream) -> Turn:
        def once() -> float:
            # What the other's turn left in the log is carried outside of the timing.
            ground.settle()
            for either in (ours, theirs):
                either.resume()
                with ground.old() as source:
                    end = position(source)
                either.await_carried(end)
                either.pause()
            # No row has it yet, whatever figure was measured before.
            tag = f"burst {keys}/{size} {next(tags)}"
            end = _burst(ground, updates, keys, size, tag)
            ground.checkpoint()
            with ground.old() as source, _Watched(source, stream.slot) as watched:
                stream.resume()
                stream.await_carried(end)
                seconds = time.monotonic() - watched.began
            stream.pause()
            with stream.target() as target:
                found = target.execute(TAGGED, (tag,)).fetchone()
            if found is None or found[0] != keys:
                raise AssertionError(f"{stream.slot}: {found} of {keys} rows were carried")
            return updates / seconds

        return once

    ours = _Stream(
        SLOT,
        ground.start_worker,
        ground.stop_worker,
        lambda end: ground.await_carried(end, STREAM),
        ground.new,
    )
    theirs = _Stream(NAME, rival.resume, rival.pause, rival.await_applied, rival.connect)
    try:
        with ground.enabled():
            rival.subscribe()
            rival.pause()
            ground.backfill()
            ground.stop_worker()
            return [alternate(figure, turn(ours), turn(theirs), rounds, tell)]
    finally:
        rival.remove()


class _Stream:
    """One of the two: how it goes on, stops, and tells how far it is."""

    def __init__(
        self,
        slot: str,
        resume: Callable[[], None],
        pause: Callable[[], None],
        await_carried: Callable[[str], None],
        target: Callable[[], Connection],
    ) -> None:
        self.slot, self.resume, self.pause = slot, resume, pause
        self.await_carried, self.target = await_carried, target


class _Watched:
    """Notes when a slot begins to be read: neither pays for the start of its process."""

    def __init__(self, source: Connection, slot: str) -> None:
        self._source, self._slot = source, slot
        self._began: float | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def began(self) -> float:
        """When it was first read."""
        self._thread.join()
        assert self._began is not None
        return self._began

    def _watch(self) -> None:
        await_row(self._source, READ, (self._slot,), f"slot {self._slot} to be read")
        self._began = time.monotonic()

    def __enter__(self) -> "_Watched":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """It ends by itself, once the slot is read or its connection is closed."""


def _burst(ground: Ground, updates: int, keys: int, size: int, tag: str) -> str:
    """Write it. Returns the position behind it."""
    with ground.old() as source:
        source.execute("SET synchronous_commit = off")
        source.execute(BURST)
        source.execute(
            f"CALL pg_temp.burst({updates}, {keys}, {size}, '{tag}')".encode(), prepare=False
        )
        return position(source)
