"""How long a steady write takes from one side's commit to the other's."""

import threading
import time
from collections.abc import Callable
from typing import LiteralString

import psutil

from benchmarks.catchup import STREAM
from benchmarks.contest import Figure, Result, Tell, alternate
from benchmarks.ground import Connection, Ground, position
from benchmarks.native import RIVAL, Native

LAG = Figure("lag at a steady 500 writes/s, p99", RIVAL, "ms", "at most", 10)
CORES = Figure("the worker's cores meanwhile", "half a core", "cores", "at most", 1)
WRITES_PER_S = 500
SECONDS = 20
LATE_S = 0.5
WRITE: LiteralString = "UPDATE cart_items SET warehouse_id = %s, updated_at = now() WHERE id = %s"
COMMITTED: LiteralString = """
SELECT id, extract(epoch FROM pg_xact_commit_timestamp(xmin)) FROM cart_items
 WHERE warehouse_id = %s
"""
# In both targets, so that both pay for it. A subscription's commits bear the source's time, so the
# later of the two times counts: for us that of the commit, for it that of the row.
WATCH: LiteralString = """
CREATE SCHEMA bench;
CREATE UNLOGGED TABLE bench.arrival (id bigint, xid xid, at timestamptz);
CREATE FUNCTION bench.arrived() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO bench.arrival VALUES (NEW.id, pg_current_xact_id()::xid, clock_timestamp());
    RETURN NULL;
END $$;
CREATE TRIGGER bench_arrived AFTER UPDATE ON cart_items
    FOR EACH ROW EXECUTE FUNCTION bench.arrived();
ALTER TABLE cart_items ENABLE ALWAYS TRIGGER bench_arrived;
"""
UNWATCH: LiteralString = "DROP SCHEMA bench CASCADE"
FORGET: LiteralString = "TRUNCATE bench.arrival"
ARRIVED: LiteralString = """
SELECT a.id, max(extract(epoch FROM greatest(a.at, pg_xact_commit_timestamp(a.xid))))
  FROM bench.arrival a JOIN cart_items i USING (id) WHERE i.warehouse_id = %s GROUP BY a.id
"""


def steady(ground: Ground, rounds: int, tell: Tell) -> list[Result]:
    """500 single-row updates a second over distinct rows; both servers share one clock."""
    rival = Native(ground)
    cores = Result(CORES)
    turns = iter(range(1, 1_000))

    def ours() -> float:
        worker = psutil.Process(ground.estate.children.get("sync").pid)
        before, began = _cpu_s(worker), time.monotonic()
        value = _p99(ground, ground.new, lambda end: ground.await_carried(end, STREAM), next(turns))
        cores.ours.append((_cpu_s(worker) - before) / (time.monotonic() - began))
        cores.theirs.append(0.5)
        return value

    def theirs() -> float:
        ground.stop_worker()
        rival.resume()
        with ground.old() as source:
            rival.await_applied(position(source))
        value = _p99(ground, rival.connect, rival.await_applied, next(turns))
        rival.pause()
        ground.start_worker()
        with ground.old() as source:
            ground.await_carried(position(source), STREAM)
        return value

    try:
        with ground.enabled():
            rival.subscribe()
            rival.pause()
            ground.backfill()
            for connect in (ground.new, rival.connect):
                with connect() as target:
                    target.execute(WATCH)
            try:
                return [alternate(LAG, ours, theirs, rounds, tell), cores]
            finally:
                with ground.new() as target:
                    target.execute(UNWATCH)
    finally:
        rival.remove()


def _p99(
    ground: Ground, target: Callable[[], Connection], wait: Callable[[str], None], turn: int
) -> float:
    """Milliseconds, from the servers' own commit times."""
    tag = f"lag {turn}"
    with target() as connection:
        connection.execute(FORGET)
    with ground.old() as source:
        _write(source, tag, turn)
        wait(position(source))
        began = dict(source.execute(COMMITTED, (tag,)).fetchall())
    with target() as connection:
        ended = dict(connection.execute(ARRIVED, (tag,)).fetchall())
    if began.keys() != ended.keys() or len(began) != WRITES_PER_S * SECONDS:
        raise AssertionError(f"{len(began)} rows were written, {len(ended)} carried")
    delays = sorted(1e3 * float(ended[key] - began[key]) for key in began)
    return delays[int(len(delays) * 0.99)]


def _write(source: Connection, tag: str, turn: int) -> None:
    """Writes at even times. One that is late is made good at once; all of them may not be."""
    begin, pause = time.monotonic(), threading.Event()
    for number in range(WRITES_PER_S * SECONDS):
        pause.wait(max(begin + number / WRITES_PER_S - time.monotonic(), 0.0))
        source.execute(WRITE, (tag, 1 + number * 7 + turn % 7))
    late = time.monotonic() - begin - SECONDS
    if late > LATE_S:
        raise AssertionError(f"this machine cannot write {WRITES_PER_S}/s: {late:.1f} s late")


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
