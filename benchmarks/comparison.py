"""The comparison of both sides: against reladiff, against the floor, and what the mapping costs."""

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from benchmarks import same
from benchmarks.contest import Figure, Result, Tell, alternate
from benchmarks.ground import Connection, Ground
from rehearsal.commands import Commands

RIVAL = "reladiff, best of its settings"
EQUAL = Figure("identical tables, equal", RIVAL, "rows/s", "at least", 8.0)
CHANGED = Figure("identical tables, 120 rows of each differ", RIVAL, "rows/s", "at least", 8.0)
FLOOR = Figure(
    "identical tables, the run itself", "one hash aggregate a table", "s", "at most", 1.3
)
MAPPED = Figure("real mapping, the run itself", "ours on identical tables", "s", "at most", 2.0)
IDENTICAL = tuple(f"same.forward.{table}" for table in same.TABLES)
REAL = ("checkout.forward.carts", "checkout.forward.cart_items")
# What was best of several for these tables: few large segments, all of them at once.
SETTINGS = ("--bisection-factor", "32", "--bisection-threshold", "50000", "--threads", "4")
COLUMNS: LiteralString = """
SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
 ORDER BY attnum
"""
# Of each table 100 rows change, 10 go and 10 come; marked as written by sync, which would mend it.
MARK: LiteralString = "SELECT pg_logical_emit_message(true, 'splitctl.applied', 'same.forward')"
CHANGES: dict[str, tuple[LiteralString, ...]] = {
    "cart_sessions": (
        "UPDATE cart_sessions SET version = version + 1 WHERE id IN"
        " (SELECT id FROM cart_sessions ORDER BY md5(id::text) LIMIT 100)",
        "DELETE FROM cart_sessions WHERE id IN"
        " (SELECT id FROM cart_sessions ORDER BY md5(id::text) DESC LIMIT 10)",
        "INSERT INTO cart_sessions SELECT (r).* FROM (SELECT jsonb_populate_record(s,"
        " jsonb_build_object('id', gen_random_uuid(), 'session_id', gen_random_uuid()::text)) AS r"
        " FROM cart_sessions s LIMIT 10) AS x",
    ),
    "cart_items": (
        "UPDATE cart_items SET quantity = quantity + 1 WHERE id IN"
        " (SELECT id FROM cart_items ORDER BY md5(id::text) LIMIT 100)",
        "DELETE FROM cart_items WHERE id IN"
        " (SELECT id FROM cart_items ORDER BY md5(id::text) DESC LIMIT 10)",
        "INSERT INTO cart_items SELECT (r).* FROM (SELECT jsonb_populate_record(s,"
        " jsonb_build_object('id', (SELECT max(id) FROM cart_items)"
        " + row_number() OVER ())) AS r FROM cart_items s LIMIT 10) AS x",
    ),
}
DIFFERING = 120


def against_reladiff(ground: Ground, rounds: int, tell: Tell) -> list[Result]:
    """Equal tables, then with differences, each by the whole command. Raises ProgramMissing."""
    _rival()
    rows = ground.carts + ground.items
    with _compared(ground) as commands:

        def ours(wanted: int) -> Callable[[], float]:
            return lambda: rows / _ours(commands, IDENTICAL, 2 * wanted)[0]

        def theirs(wanted: int) -> Callable[[], float]:
            return lambda: rows / _reladiff(ground, wanted)

        equal = alternate(EQUAL, ours(0), theirs(0), rounds, tell)
        with ground.new(same.DATABASE) as target:
            _change(target)
        return [equal, alternate(CHANGED, ours(DIFFERING), theirs(DIFFERING), rounds, tell)]


def against_floor(ground: Ground, rounds: int, tell: Tell) -> list[Result]:
    """The run without start-up and self-test, against nothing but the hashes of all rows."""
    with _compared(ground) as commands:
        result = alternate(
            FLOOR, lambda: _ours(commands, IDENTICAL, 0)[1], lambda: _floor(ground), rounds, tell
        )
    return [result]


def of_the_mapping(ground: Ground, rounds: int, tell: Tell) -> list[Result]:
    """The order split's carts and items, against tables of the same shape."""
    # First the split whose role is no superuser: to it the schema belongs that both use.
    with ground.enabled():
        ground.backfill()
        with _compared(ground) as commands:
            return [
                alternate(
                    MAPPED,
                    lambda: _ours(ground.commands, REAL, 0)[1],
                    lambda: _ours(commands, IDENTICAL, 0)[1],
                    rounds,
                    tell,
                )
            ]


@contextmanager
def _compared(ground: Ground) -> Iterator[Commands]:
    """Tables of the same shape, filled by a backfill, with a worker that goes on."""
    with (
        tempfile.TemporaryDirectory() as folder,
        same.split(ground, Path(folder)) as commands,
        same.worker(commands),
    ):
        commands.run("backfill", "run", "same", timeout_s=3600)
        ground.settle()
        yield commands


def _ours(commands: Commands, mappings: tuple[str, ...], differing: int) -> tuple[float, float]:
    """Seconds of the whole command, and of the run in it. Everything must be found, and no more."""
    started = time.monotonic()
    answer = commands.run(
        "verify", "run", *mappings, expect=(3 if differing else 0,), timeout_s=3600
    )
    seconds = time.monotonic() - started
    data = answer.data
    found = data["mismatched"] + data["missing"] + data["extra"]
    assert (found, data["inconclusive"]) == (differing, 0), data
    return seconds, float(data["seconds"])


def _change(target: Connection) -> None:
    # Every cart has items, which stay.
    target.execute("SET session_replication_role = replica")
    for statements in CHANGES.values():
        with target.transaction():
            target.execute(MARK)
            for statement in statements:
                target.execute(statement)
    target.execute("VACUUM ANALYZE")


def _columns(connection: Connection, table: str) -> list[str]:
    return [str(row[0]) for row in connection.execute(COLUMNS, (table,)).fetchall()]


def _floor(ground: Ground) -> float:
    """One aggregate of the hash over each table, one after the other, both sides at once."""
    started = time.monotonic()
    failures: list[BaseException] = []
    with ground.old() as old, ground.new(same.DATABASE) as new:
        for table in same.TABLES:
            columns = sql.SQL(", ").join(map(sql.Identifier, _columns(old, table)))
            query = sql.SQL(
                "SELECT count(*), sum(hash_record_extended(ROW({}), 0)) FROM {}"
            ).format(columns, sql.Identifier(table))

            def ask(connection: Connection, query: sql.Composed = query) -> None:
                try:
                    connection.execute("SET jit = off")
                    connection.execute(query).fetchone()
                except psycopg.Error as error:
                    failures.append(error)

            threads = [threading.Thread(target=ask, args=(c,)) for c in (old, new)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert not failures, failures
    return time.monotonic() - started


def _reladiff(ground: Ground, differing: int) -> float:
    """Seconds of the rival's command over both tables, all columns."""
    seconds = 0.0
    for table in same.TABLES:
        with ground.old() as connection:
            columns = [name for name in _columns(connection, table) if name != "id"]
        words = [_rival()]
        words += [_url(ground.estate.servers["order"].dsn("order_db")), table]
        words += [_url(ground.new_dsn(same.DATABASE)), table, "--json", *SETTINGS]
        words += [word for name in columns for word in ("-c", name)]
        started = time.monotonic()
        # It cuts its lines as wide as a terminal.
        wide = os.environ | {"COLUMNS": "100000"}
        done = subprocess.run(words, capture_output=True, text=True, check=True, env=wide)
        seconds += time.monotonic() - started
        found = [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
        keys = {line[1][0] for line in found}
        assert len(keys) == differing, (table, len(keys), done.stderr[-500:])
    return seconds


def _rival() -> str:
    found = shutil.which("reladiff")
    if found is None:
        raise same.ProgramMissing("reladiff is not installed: pip install 'reladiff[postgresql]'")
    return found


def _url(dsn: str) -> str:
    found: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(dsn)
    return "postgresql://{user}@{host}:{port}/{dbname}".format_map(found)
