"""The estate of the order split, without customers: loaded once, split and put back again."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from rehearsal.binaries import binaries
from rehearsal.commands import Commands
from rehearsal.estate import FOLDERS, SERVICES, Estate, apply_migrations

DOMAIN = "checkout"
VERSION = 18
# Bigger than a rehearsal's: what is measured is the work, not how little memory it gets.
SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "maintenance_work_mem": "512MB",
    "track_commit_timestamp": "on",
    "autovacuum": "off",
}
POLL_S = 0.01
LIMIT_S = 1800.0
# Parents first: in this order rows may be written, in the reverse one removed.
NEW_TABLES = ("carts", "cart_items", "cart_promotions", "checkouts", "checkout_addresses")

Connection = psycopg.Connection[Any]
PROGRESS: LiteralString = "SELECT lsn >= %s::pg_lsn FROM splitctl_sync.progress WHERE stream = %s"
PROMOTIONS: LiteralString = """
SELECT coalesce(sum(jsonb_array_length(metadata -> 'promotions')), 0) FROM cart_sessions
 WHERE metadata ? 'promotions'
"""
POSITION: LiteralString = "SELECT pg_current_wal_insert_lsn()::text"


class Ground:
    """Two servers of their own, the old one with `carts` carts and twice as many items."""

    def __init__(self, directory: Path, carts: int) -> None:
        self.carts, self.items = carts, carts * 2
        self._made: set[str] = set()
        environment = {"SPLITCTL_STATE_DIR": str(directory / "state")}
        self.estate = Estate(directory, settings=SETTINGS, environment=environment)
        self.commands = Commands(self.estate.config, environment, lambda _: None, lambda _: None)

    def start(self) -> None:
        """Databases, schemas, data."""
        self.estate.start_databases()
        self.estate.prepare_old()
        with self.old() as connection:
            text = files("benchmarks").joinpath("load.sql").read_text(encoding="utf-8")
            text = text.replace("@carts@", str(self.carts)).replace("@items@", str(self.items))
            connection.execute(text.encode())
            connection.execute("VACUUM ANALYZE")
        for name in (DOMAIN, "return"):
            self.commands.run("schema", "apply", name)

    def stop(self) -> None:
        """End everything."""
        self.estate.stop()

    def old(self, database: str = "order_db") -> Connection:
        """A superuser's connection to the old server."""
        return psycopg.connect(self.estate.servers["order"].dsn(database), autocommit=True)

    def new(self, database: str = "checkout_db") -> Connection:
        """A superuser's connection to the new server."""
        return psycopg.connect(self.estate.servers[DOMAIN].dsn(database), autocommit=True)

    def new_dsn(self, database: str) -> str:
        """The address of a database on the new server."""
        return self.estate.servers[DOMAIN].dsn(database)

    def make(self, database: str, side: str) -> None:
        """Another database on the new server, with the tables of `order` or `checkout`."""
        with self.new("postgres") as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        self._made.add(database)
        apply_migrations(SERVICES / FOLDERS[side] / "migrations", self.new_dsn(database))

    def drop(self, database: str) -> None:
        """Remove what `make` made."""
        with self.new("postgres") as connection:
            connection.execute(
                sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database))
            )
        self._made.discard(database)

    @property
    def expected(self) -> int:
        """How many rows the mappings give: carts, items, promotions."""
        with self.old() as connection:
            row = connection.execute(PROMOTIONS).fetchone()
        assert row is not None
        return self.carts + self.items + int(row[0])

    def settle(self) -> None:
        """What earlier turns left to be cleaned up is cleaned up outside of any timing."""
        for connection in (self.old(), self.new(), *map(self.new, sorted(self._made))):
            with connection:
                connection.execute("VACUUM ANALYZE")

    @contextmanager
    def enabled(self) -> Iterator[None]:
        """Sync is on and its worker runs, nothing is copied yet; put back afterwards."""
        self.commands.run("sync", "enable", DOMAIN)
        self.estate.start_sync()
        try:
            yield
        finally:
            self._put_back()

    def backfill(self) -> None:
        """Copy everything; returns when every mapping is live."""
        self.commands.run("backfill", "run", DOMAIN, timeout_s=3600)

    def _put_back(self) -> None:
        self.stop_worker()
        self.commands.run("sync", "teardown", DOMAIN, "--confirm", DOMAIN)
        with self.new() as connection:
            names = sql.SQL(", ").join(map(sql.Identifier, NEW_TABLES))
            connection.execute(sql.SQL("TRUNCATE {}").format(names))

    def stop_worker(self) -> None:
        """End the sync worker; what changes now waits in the log."""
        self.estate.programs.stop("sync")

    def start_worker(self) -> None:
        """Begin to carry; returns when its health page answers."""
        self.estate.start_sync()

    def checkpoint(self) -> None:
        """Both servers begin a turn with nothing left to write."""
        for connection in (self.old(), self.new()):
            with connection:
                connection.execute("CHECKPOINT")

    def await_carried(self, position: str, stream: str) -> None:
        """Until the target of a stream has committed this position of its source."""
        with self.new() as target:
            await_row(target, PROGRESS, (position, stream), "the worker to carry everything")


def await_row(
    connection: Connection, query: LiteralString, values: tuple[Any, ...], what: str
) -> None:
    """Until a query's first value is true. Raises TimeoutError that names what was waited for."""
    await_true(lambda: is_true(connection, query, values), what)


def await_true(condition: Callable[[], bool], what: str) -> None:
    """Until a condition holds. Raises TimeoutError that names what was waited for."""
    limit = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError(f"waited {LIMIT_S:g} s for {what}")
        time.sleep(POLL_S)


def is_true(connection: Connection, query: LiteralString, values: tuple[Any, ...]) -> bool:
    """A query's first value."""
    row = connection.execute(query, values).fetchone()
    return row is not None and bool(row[0])


def position(connection: Connection) -> str:
    """How far the log of this server is now."""
    row = connection.execute(POSITION).fetchone()
    assert row is not None
    return str(row[0])


def program(name: str) -> str:
    """A client program of the servers' own version."""
    return str(binaries(VERSION) / name)


@contextmanager
def ground(directory: Path, carts: int) -> Iterator[Ground]:
    """The ground, loaded; gone afterwards."""
    made = Ground(directory, carts)
    try:
        made.start()
        yield made
    finally:
        made.stop()
