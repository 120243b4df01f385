"""Tables of the same shape on both sides: nothing is transformed, so the copiers can compete."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from benchmarks.contest import Figure, Result, Tell, alternate
from benchmarks.ground import Ground, program
from benchmarks.native import RIVAL, Native
from rehearsal.commands import Commands
from rehearsal.postgres import free_port

DATABASE = "same_db"
COPY_DATABASE = "copied_db"
SOURCE_DATABASE = "only_same_db"
TABLES = ("cart_sessions", "cart_items")
NAME = "identical tables"
COPIED = Figure(NAME, "pgcopydb, 2 jobs, indexes included", "rows/s", "at least", 1.0)
NATIVE = Figure(NAME, f"{RIVAL}, first copy", "rows/s", "at least", 2.5)
ROUTE = "coalesce({0}.guest_token, lower({0}.customer_id), {0}.session_id)"
OF_ITEM = f"(SELECT {ROUTE.format('s')} FROM cart_sessions s WHERE s.id = t.cart_session_id)"
CONFIG = """
environment = "benchmark"
[ledger]
dsn = "env:BENCH_LEDGER"
[databases.order]
dsn = "env:BENCH_OLD"
[databases.same]
dsn = "env:BENCH_NEW"
[gateway]
urls = ["http://127.0.0.1:1"]
token = "env:BENCH_TOKEN"
[sync]
listen = "127.0.0.1:{port}"
[domains.same]
old = "order"
new = "same"
flag = "SAME"
percentage = "SAME_PERCENTAGE"
phases = [{{ percentage = 100, soak = "1s" }}]
"""
MAPPING = """
[[domains.same.{direction}]]
target = "{table}"
query = "{table}.sql"
key = ["id"]
route = "{route}"
sources = {{ {table} = {{ id = "id" }} }}
"""
OTHERS: LiteralString = """
SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> ALL (%s)
"""


class ProgramMissing(Exception):
    """A rival is not on this machine."""


def against_pgcopydb(ground: Ground, rounds: int, tell: Tell) -> list[Result]:
    """Ours and `pgcopydb clone` of the same tables with their indexes. Raises ProgramMissing."""
    if shutil.which("pgcopydb") is None:
        raise ProgramMissing("pgcopydb is not installed: apt-get install pgcopydb")
    with (
        tempfile.TemporaryDirectory() as folder,
        _only_these(ground) as source,
        split(ground, Path(folder)) as commands,
    ):

        def theirs() -> float:
            with _empty(ground, COPY_DATABASE) as target:
                ground.checkpoint()
                started = time.monotonic()
                _pgcopydb(Path(folder), source, target)
                seconds = time.monotonic() - started
                with ground.new(COPY_DATABASE) as connection:
                    _check(ground, connection)
            return (ground.carts + ground.items) / seconds

        return [alternate(COPIED, lambda: _ours(ground, commands), theirs, rounds, tell)]


def against_native(ground: Ground, rounds: int, tell: Tell) -> list[Result]:
    """Ours and a subscription's first copy, whose tables have their indexes from the beginning."""
    rival = Native(ground)

    def theirs() -> float:
        rival.put_back()
        ground.checkpoint()
        started = time.monotonic()
        rival.subscribe()
        seconds = time.monotonic() - started
        with rival.connect() as target:
            _check(ground, target)
        rival.put_back()
        return (ground.carts + ground.items) / seconds

    try:
        with tempfile.TemporaryDirectory() as folder, split(ground, Path(folder)) as commands:
            return [alternate(NATIVE, lambda: _ours(ground, commands), theirs, rounds, tell)]
    finally:
        rival.remove()


@contextmanager
def split(ground: Ground, folder: Path) -> Iterator[Commands]:
    """A split of its own: the old tables and the same ones, empty, in another database."""
    ground.make(DATABASE, "order")
    config = CONFIG.format(port=free_port())
    for direction in ("forward", "reverse"):
        for table, route in zip(TABLES, (ROUTE.format("t"), OF_ITEM), strict=True):
            config += MAPPING.format(direction=direction, table=table, route=route)
    (folder / "config.toml").write_text(config, encoding="utf-8")
    routes = (ROUTE.format("t"), OF_ITEM)
    for table, route in zip(TABLES, routes, strict=True):
        query = f"SELECT t.*, {route}::text AS splitctl_route FROM {table} t\n"
        (folder / f"{table}.sql").write_text(query, encoding="utf-8")
    try:
        yield terminal(ground, folder)
    finally:
        ground.drop(DATABASE)


def terminal(ground: Ground, folder: Path) -> Commands:
    """The commands of the split whose configuration is in this folder."""
    old = ground.estate.servers["order"].dsn("order_db")
    environment = {
        "BENCH_LEDGER": old,
        "BENCH_OLD": old,
        "BENCH_NEW": ground.new_dsn(DATABASE),
        "BENCH_TOKEN": "none",
        "SPLITCTL_STATE_DIR": str(folder / "state"),
    }
    return Commands(folder / "config.toml", environment, lambda _: None, lambda _: None)


def _ours(ground: Ground, commands: Commands) -> float:
    """`splitctl backfill run` beside a worker, until both mappings are live: rows a second."""
    with ground.new(DATABASE) as target:
        target.execute("TRUNCATE cart_sessions, cart_items CASCADE")
    with worker(commands):
        ground.checkpoint()
        started = time.monotonic()
        commands.run("backfill", "run", "same", timeout_s=3600)
        seconds = time.monotonic() - started
        with ground.new(DATABASE) as target:
            _check(ground, target)
        return (ground.carts + ground.items) / seconds


@contextmanager
def worker(commands: Commands) -> Iterator[None]:
    """Sync of this split is on and its worker runs; torn down afterwards."""
    commands.run("sync", "enable", "same")
    child = subprocess.Popen(
        [sys.executable, "-m", "splitctl", "sync", "run"],
        env=os.environ | commands.environment | {"SPLITCTL_CONFIG": str(commands.config)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        child.terminate()
        child.wait(30)
        commands.run("sync", "teardown", "same", "--confirm", "same")


def _check(ground: Ground, target: psycopg.Connection[Any]) -> None:
    """Every row and every index has arrived."""
    for table, wanted in zip(TABLES, (ground.carts, ground.items), strict=True):
        name = sql.Identifier(table)
        row = target.execute(sql.SQL("SELECT count(*) FROM {}").format(name)).fetchone()
        assert row == (wanted,), (table, row, wanted)
        count = "SELECT count(*) FROM pg_index WHERE indrelid = %s::regclass AND indisvalid"
        with ground.old() as source:
            assert (
                target.execute(count, (table,)).fetchone()
                == source.execute(count, (table,)).fetchone()
            ), table


@contextmanager
def _only_these(ground: Ground) -> Iterator[str]:
    """A database on the old server with nothing but the same tables, indexes and rows.

    pgcopydb's filters leave out a table but not its identity column, and then cannot restore it.
    """
    name = sql.Identifier(SOURCE_DATABASE)
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name)
    with ground.old("postgres") as connection:
        connection.execute(drop)
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE order_db").format(name))
    try:
        with ground.old(SOURCE_DATABASE) as source:
            for (table,) in source.execute(OTHERS, (list(TABLES),)).fetchall():
                source.execute(sql.SQL("DROP TABLE {} CASCADE").format(sql.Identifier(table)))
            source.execute("VACUUM ANALYZE")
        yield ground.estate.servers["order"].dsn(SOURCE_DATABASE)
    finally:
        with ground.old("postgres") as connection:
            connection.execute(drop)


@contextmanager
def _empty(ground: Ground, database: str) -> Iterator[str]:
    """A new database without tables; its address."""
    with ground.new("postgres") as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    try:
        yield ground.new_dsn(database)
    finally:
        ground.drop(database)


def _pgcopydb(folder: Path, source: str, target: str) -> None:
    """Its pg_dump has to be as new as the server."""
    work = folder / "pgcopydb"
    command = ["pgcopydb", "clone", "--table-jobs", "2", "--index-jobs", "2", "--not-consistent"]
    command += ["--skip-large-objects", "--no-owner", "--no-acl", "--restart"]
    command += ["--dir", str(work), "--source", source, "--target", target]
    path = f"{Path(program('pg_dump')).parent}:{os.environ['PATH']}"
    # A session of its own: when it ends with an error it signals its whole process group.
    done = subprocess.run(
        command,
        env=os.environ | {"PATH": path},
        check=False,
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    shutil.rmtree(work, ignore_errors=True)
    if done.returncode:
        raise RuntimeError(f"pgcopydb ended with {done.returncode}: {done.stderr[-2000:]}")
