"""The comparison of a narrow table: does it grow with the rows alone, in time, memory and bytes?"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contest import Figure, Result, Tell, alternate
from benchmarks.ground import Connection, Ground
from benchmarks.same import CONFIG, DATABASE, terminal, worker
from rehearsal.commands import Commands
from rehearsal.postgres import free_port

SMALL, LARGE = 1_000_000, 64_000_000
TABLES = {"narrow_small": SMALL, "narrow_large": LARGE}
TIME = Figure(f"narrow table, {LARGE:,} rows", f"{SMALL:,} rows", "s", "at most", 70.0)
MEMORY = Figure(f"peak memory of the command, {LARGE:,} rows", "200 MB", "MB", "at most", 1.0)
WIRE = Figure(f"bytes over the wire a million rows, {LARGE:,} rows", "10 kB", "kB", "at most", 1.0)
LIMIT_MB, LIMIT_KB = 200.0, 10.0
MAPPING = """
[[domains.same.{direction}]]
target = "{table}"
query = "{table}.sql"
key = ["id"]
route = "t.id::text"
sources = {{ {table} = {{ id = "id" }} }}
"""
LOOPBACK = "lo:"
QUIET_S = 5.0


@dataclass(frozen=True)
class Turn:
    """One command: seconds of its run, peak memory in MB, kB that went over the loopback."""

    seconds: float
    megabytes: float
    kilobytes: float


def linear(ground: Ground, rounds: int, tell: Tell) -> list[Result]:
    """Equal tables, by the run without start-up and self-test; memory of the whole command."""
    turns: dict[str, list[Turn]] = {table: [] for table in TABLES}
    with tempfile.TemporaryDirectory() as folder, _split(ground, Path(folder)) as commands:
        _fill(ground, tell)
        with worker(commands):
            idle = _idle()

            def compared(table: str) -> float:
                turn = _turn(commands, table, idle)
                turns[table].append(turn)
                return turn.seconds

            small, large = (lambda: compared("narrow_small")), (lambda: compared("narrow_large"))
            result = alternate(TIME, large, small, rounds, tell)
    of_large, of_small = turns["narrow_large"], turns["narrow_small"]
    peak = max(turn.megabytes for turn in of_large)
    sent = max(turn.kilobytes for turn in of_large) / (LARGE / 1e6)
    result.notes |= {
        "peak memory of the small one, MB": max(turn.megabytes for turn in of_small),
        "kB over the wire, small": max(turn.kilobytes for turn in of_small),
        "kB over the wire, large": max(turn.kilobytes for turn in of_large),
    }
    return [result, Result(MEMORY, [peak], [LIMIT_MB]), Result(WIRE, [sent], [LIMIT_KB])]


@contextmanager
def _split(ground: Ground, folder: Path) -> Iterator[Commands]:
    ground.make(DATABASE, "order")
    config = CONFIG.format(port=free_port())
    for table in TABLES:
        for direction in ("forward", "reverse"):
            config += MAPPING.format(direction=direction, table=table)
        text = f"SELECT t.*, t.id::text AS splitctl_route FROM {table} t\n"
        (folder / f"{table}.sql").write_text(text, encoding="utf-8")
    (folder / "config.toml").write_text(config, encoding="utf-8")
    try:
        yield terminal(ground, folder)
    finally:
        with ground.old() as connection:
            for table in TABLES:
                connection.execute(f"DROP TABLE IF EXISTS {table}".encode())
        ground.drop(DATABASE)


def _fill(ground: Ground, tell: Tell) -> None:
    """The same rows on both sides, at once."""

    def fill(connection: Connection) -> None:
        with connection:
            connection.execute("SET synchronous_commit = off")
            for table, rows in TABLES.items():
                connection.execute(
                    f"CREATE TABLE {table} AS SELECT n AS id, (n % 7919)::int AS number"
                    f" FROM generate_series(1::bigint, {rows}) AS n".encode()
                )
                connection.execute(f"ALTER TABLE {table} ADD PRIMARY KEY (id)".encode())
                connection.execute(f"VACUUM ANALYZE {table}".encode())
            connection.execute("CHECKPOINT")

    tell(f"filling {LARGE:,} rows on both sides")
    threads = [
        threading.Thread(target=fill, args=(connection,))
        for connection in (ground.old(), ground.new(DATABASE))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _turn(commands: Commands, table: str, idle_kb_s: float) -> Turn:
    words = ["verify", "run", f"same.forward.{table}", "-o", "json"]
    before, started = _sent_kb(), time.monotonic()
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "splitctl", *words],
            env=os.environ | commands.environment | {"SPLITCTL_CONFIG": str(commands.config)},
            stdout=out,
            stderr=subprocess.DEVNULL,
        )
        # What it used in the end, which only who waits for it is told.
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        kilobytes = _sent_kb() - before - idle_kb_s * (time.monotonic() - started)
        out.seek(0)
        told = json.load(out)
    assert child.returncode == 0, told
    assert told["rows_compared"] == TABLES[table], told
    return Turn(float(told["seconds"]), usage.ru_maxrss / 1024, kilobytes)


def _sent_kb() -> float:
    """What went over the loopback since the machine began, headers and all."""
    lines = Path("/proc/net/dev").read_text(encoding="ascii").splitlines()
    line = next(line.split() for line in lines if line.strip().startswith(LOOPBACK))
    return int(line[1]) / 1000


def _idle() -> float:
    """kB a second that the worker sends by itself."""
    before = _sent_kb()
    time.sleep(QUIET_S)
    return (_sent_kb() - before) / QUIET_S
