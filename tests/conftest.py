"""Fixtures for every test that needs real PostgreSQL.

`pg_servers` (session): three separate servers by name, "order", "checkout" and "return", started
    once and only when a test asks for them. `pg_servers["order"].dsn("postgres")` is a superuser's
    connection string; `.port` and `.name` are there too. Trust authentication: any role may log in.
`fresh_databases`: a new empty database on each server and one for the ledger, by name: "order",
    "checkout", "return", "ledger" (the last on the order server). A value is a `FreshDatabase` with
    `.dsn` (superuser), `.name`, `.server`, `.dsn_as(role)`, `.connect()` (autocommit). Slots,
    sessions, prepared transactions and the databases are gone after the test. Roles belong to a
    whole server: make them with `ensure_role(dsn, name, "LOGIN REPLICATION")` or pick own names.
    A fixture of wider scope can use the context manager `new_databases(pg_servers)` instead.
    A test marked `every_version` gets them on each pair of versions in turn: `versions`.
`write_config`: writes `tmp_path/config.toml` with its secrets and mapping files and returns its
    path, see `ConfigWriter`. Load it with `estate.config.load(path)`.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from rehearsal.children import Children
from rehearsal.postgres import Server
from tests.cluster import binaries
from tests.versions import NEWEST, Pair, Pool, parametrized, summary

MEMORY, PREFIX, ROOM_BYTES = Path("/dev/shm"), "splitctl-tests-", 6 << 30
SERVERS = ("order", "checkout", "return")
# What these tests share takes long to build: of several processes, one runs all of a place.
TOGETHER = (
    "tests/services",
    "tests/rehearsal/test_witness.py",
    "tests/rollout/test_flags.py",
    "tests/migrator/test_following.py",
    "tests/migrator/test_order_split_mappings.py",
    "tests/verify/test_ranges.py",
)
ConfigWriter = Callable[..., Path]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests wait far more than they compute, so several processes share them out."""
    for item in items:
        for place in TOGETHER:
            if item.nodeid.startswith(place):
                item.add_marker(pytest.mark.xdist_group(place))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test marked `every_version` runs on each pair of versions."""
    if metafunc.definition.get_closest_marker("every_version"):
        metafunc.parametrize("versions", parametrized(), indirect=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Which PostgreSQL versions could be tested here, and which not; and the cluster likewise."""
    for line in summary():
        terminalreporter.write_line(f"PostgreSQL {line}")
    terminalreporter.write_line(f"Kubernetes {binaries.summary()}")


@dataclass(frozen=True)
class FreshDatabase:
    """A new database on one of the servers."""

    name: str
    server: Server

    @property
    def dsn(self) -> str:
        """A connection string as the superuser."""
        return self.server.dsn(self.name)

    def dsn_as(self, role: str) -> str:
        """A connection string as another role."""
        return self.server.dsn(self.name, role)

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """A superuser's connection with autocommit."""
        return psycopg.connect(self.dsn, autocommit=True)


def ensure_role(dsn: str, name: str, attributes: str = "LOGIN") -> None:
    """Create a role on the server of this connection string unless it is there."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        # Two tests never run at once on one server, so a check before is enough.
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone():
            return
        connection.execute(f'CREATE ROLE "{name}" {attributes}'.encode())


def _in_memory() -> Path | None:
    """A directory in memory with room for the servers, else None. Removes what killed runs left."""
    if not MEMORY.is_dir() or not os.access(MEMORY, os.W_OK):
        return None
    for left in MEMORY.glob(f"{PREFIX}*"):
        owner = left.name.removeprefix(PREFIX).partition("-")[0]
        if not Path("/proc", owner).exists():
            shutil.rmtree(left, ignore_errors=True)
    return MEMORY if shutil.disk_usage(MEMORY).free > ROOM_BYTES else None


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """The servers of the whole test session.

    In memory where there is room: each test makes four databases, and on a disk the files of these
    take longer than the test.
    """
    directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=_in_memory()))
    directory.chmod(0o755)
    children = Children(directory)
    try:
        yield Pool(directory, children)
    finally:
        children.stop_all()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def pg_servers(pool: Pool) -> dict[str, Server]:
    """Three PostgreSQL servers of the newest version."""
    return pool.servers()


@pytest.fixture
def versions(request: pytest.FixtureRequest) -> Pair:
    """The PostgreSQL versions of the old and of the new side in this test."""
    pair: Pair = getattr(request, "param", (NEWEST, NEWEST))
    return pair


@contextmanager
def new_databases(servers: Mapping[str, Server]) -> Iterator[dict[str, FreshDatabase]]:
    """New empty databases "order", "checkout", "return" and "ledger"; dropped at the end."""
    mark = secrets.token_hex(4)
    places = {name: servers[name] for name in SERVERS} | {"ledger": servers["order"]}
    databases = {key: FreshDatabase(f"t_{mark}_{key}", place) for key, place in places.items()}
    try:
        for database in databases.values():
            with psycopg.connect(database.server.dsn(), autocommit=True) as connection:
                name = sql.Identifier(database.name)
                connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
        yield databases
    finally:
        for database in databases.values():
            drop_database(database.server, database.name)


@pytest.fixture
def fresh_databases(pool: Pool, versions: Pair) -> Iterator[dict[str, FreshDatabase]]:
    """New empty databases for one test, on servers of its versions."""
    with new_databases(pool.servers(versions)) as databases:
        yield databases


def drop_database(server: Server, name: str) -> None:
    """Drop a database with everything that would hold it: transactions, slots, sessions."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        found = "SELECT 1 FROM pg_database WHERE datname = %s"
        if not connection.execute(found, [name]).fetchone():
            return
        _roll_back_prepared(connection, server, name)
        identifier = sql.Identifier(name)
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(identifier))
        # The timeout waits for each session's end, so that its slot is free to be dropped.
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
            [name],
        )
        connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            " WHERE database = %s",
            [name],
        )
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier))


def _roll_back_prepared(
    connection: psycopg.Connection[tuple[Any, ...]], server: Server, name: str
) -> None:
    """Roll back what a test left prepared; only a session in the same database can."""
    query = "SELECT gid FROM pg_prepared_xacts WHERE database = %s"
    gids = connection.execute(query, [name]).fetchall()
    if gids:
        with psycopg.connect(server.dsn(name), autocommit=True) as inside:
            for (gid,) in gids:
                inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))


@pytest.fixture
def write_config(tmp_path: Path) -> ConfigWriter:
    """A function that writes a configuration and returns its path.

    write_config(
        databases={"a": dsn, "b": dsn},      # names of [databases.*] and their secrets
        domains="[domains.x]\\nold = 'a' ...", # TOML of the domains
        mappings={"x/forward/t.sql": "SELECT ..."},  # files below mappings/
        ledger=dsn,                          # default: the first database
        owner_roles={"a": "app"},            # optional
        gateways=["http://127.0.0.1:1"],     # optional
        extra="[fence]\\nbudget_ms = 500",    # more TOML, optional
    )
    """

    def write(
        *,
        databases: Mapping[str, str],
        domains: str,
        mappings: Mapping[str, str] | None = None,
        ledger: str | None = None,
        owner_roles: Mapping[str, str] | None = None,
        gateways: list[str] | None = None,
        extra: str = "",
    ) -> Path:
        folder = tmp_path / "secrets"
        folder.mkdir(mode=0o700, exist_ok=True)
        secret_values = {
            "ledger.dsn": ledger or next(iter(databases.values())),
            "gateway.token": "test-token",
            **{f"{name}.dsn": dsn for name, dsn in databases.items()},
        }
        for name, value in secret_values.items():
            (folder / name).write_text(value, encoding="utf-8")
            (folder / name).chmod(0o600)
        for name, text in (mappings or {}).items():
            path = tmp_path / "mappings" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        urls = gateways or ["http://127.0.0.1:1"]
        lines = ['environment = "test"', "[ledger]", 'dsn = "file:secrets/ledger.dsn"']
        for name in databases:
            lines += [f"[databases.{name}]", f'dsn = "file:secrets/{name}.dsn"']
            if name in (owner_roles or {}):
                lines.append(f'owner_role = "{(owner_roles or {})[name]}"')
        lines += ["[gateway]", f"urls = {urls!r}", 'token = "file:secrets/gateway.token"']
        path = tmp_path / "config.toml"
        path.write_text("\n".join([*lines, extra, domains]) + "\n", encoding="utf-8")
        return path

    return write
