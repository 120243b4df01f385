"""Embedded servers: three of them, apart from each other, gone when their owner is gone."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from rehearsal.children import PIDS, ChildFailed, Children, end_leftovers, wait_until
from rehearsal.postgres import FASTEST, Server, free_port, start_all
from tests.conftest import FreshDatabase, drop_database

SMALL = {**FASTEST, "shared_buffers": "16MB"}

OWNER = """
import sys, time
from pathlib import Path
from rehearsal.children import Children
from rehearsal.postgres import Server, start_all
directory = Path(sys.argv[1])
children = Children(directory)
server = Server("one", directory / "one", children=children, settings={"fsync": "off"})
start_all([server])
print(children.get("postgres-one").pid, server.port, server.data, flush=True)
sys.stdin.read()
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "estate"


@pytest.fixture
def children(directory: Path) -> Iterator[Children]:
    started = Children(directory)
    yield started
    started.stop_all()


def test_the_three_servers_are_three_systems(pg_servers: dict[str, Server]) -> None:
    systems = set()
    for server in pg_servers.values():
        with psycopg.connect(server.dsn()) as connection:
            row = connection.execute(
                "SELECT system_identifier, current_setting('wal_level'),"
                " current_setting('max_replication_slots')::int,"
                " current_setting('max_prepared_transactions')::int,"
                " current_setting('server_version_num')::int / 10000 FROM pg_control_system()"
            ).fetchone()
        assert row is not None
        systems.add(row[0])
        assert row[1:] == ("logical", 24, 10, 18)
    assert len(systems) == 3


def test_durability_is_on_unless_it_is_asked_otherwise(children: Children, directory: Path) -> None:
    server = Server("durable", directory / "durable", children=children, version=16)
    start_all([server])
    with psycopg.connect(server.dsn()) as connection:
        row = connection.execute(
            "SELECT current_setting('fsync'), current_setting('synchronous_commit'),"
            " current_setting('full_page_writes'), current_setting('server_version_num')::int"
        ).fetchone()
    assert row is not None
    assert row[:3] == ("on", "on", "on")
    assert row[3] // 10_000 == 16


def test_a_restart_keeps_the_data(children: Children, directory: Path) -> None:
    server = Server("one", directory / "one", children=children, settings=SMALL)
    start_all([server])
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    server.stop()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.dsn(), connect_timeout=1)
    start_all([server])
    with psycopg.connect(server.dsn()) as connection:
        assert connection.execute("SELECT n FROM kept").fetchall() == [(1,)]


def test_kill_9_of_the_owner_ends_the_server_and_the_next_run_clears_up(directory: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    words = owner.stdout.readline().split()
    pid, port, data = int(words[0]), int(words[1]), Path(words[2])
    listing = json.loads((directory / PIDS).read_text())
    assert [item["pid"] for item in listing["children"]] == [pid]
    assert alive(pid)

    owner.send_signal(signal.SIGKILL)
    owner.wait()

    assert wait_until(lambda: not alive(pid), 10), "the server outlived its owner"
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(f"host=127.0.0.1 port={port} user=postgres", connect_timeout=1)
    end_leftovers(directory)
    assert not (directory / PIDS).exists()
    # What had to go outside DIR is gone too.
    assert data.is_relative_to(directory) or not data.exists()


def test_only_own_leftovers_are_ended(directory: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=-1)
    try:
        directory.mkdir()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The id is that of a living process, its start time is not: the id was used again.
        entry = {"name": "x", "pid": stranger.pid, "started": 1, "signal": int(signal.SIGKILL)}
        listing = {"boot": boot, "children": [entry], "directories": []}
        (directory / PIDS).write_text(json.dumps(listing))
        assert end_leftovers(directory) == []
        assert stranger.poll() is None
        started = int(Path(f"/proc/{stranger.pid}/stat").read_text().rpartition(")")[2].split()[19])
        listing["children"] = [{**entry, "started": started}]
        (directory / PIDS).write_text(json.dumps(listing))
        assert end_leftovers(directory) == ["x"]
        assert stranger.wait(timeout=5) == -signal.SIGKILL
    finally:
        stranger.kill()
        stranger.wait()


def test_a_server_that_cannot_start_says_why(children: Children, directory: Path) -> None:
    wrong = {**SMALL, "max_connections": "many"}
    server = Server("wrong", directory / "wrong", children=children, settings=wrong)
    with pytest.raises(ChildFailed, match="max_connections"):
        start_all([server])
    assert (
        not (directory / PIDS).exists()
        or not json.loads((directory / PIDS).read_text())["children"]
    )


def test_a_taken_port_is_replaced_unless_it_was_asked_for(
    children: Children, directory: Path, pg_servers: dict[str, Server]
) -> None:
    taken = pg_servers["order"].port
    server = Server("other", directory / "other", children=children, settings=SMALL)
    server.port = taken
    start_all([server])
    assert server.port != taken
    asked = Server("asked", directory / "asked", taken, children=children, settings=SMALL)
    with pytest.raises(ChildFailed, match="could not bind"):
        start_all([asked])


def test_stop_is_quick_and_leaves_nothing(children: Children, directory: Path) -> None:
    server = Server("one", directory / "one", children=children, settings=SMALL)
    start_all([server])
    pid = children.get(server.process_name).pid
    backends = [int(path.name) for path in Path("/proc").glob("[0-9]*") if _parent(path) == pid]
    assert backends
    server.stop()
    assert not alive(pid)
    assert wait_until(lambda: not any(alive(item) for item in backends), 5)


def _parent(path: Path) -> int:
    try:
        return int((path / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1


def test_the_server_does_not_run_as_root(pg_servers: dict[str, Server]) -> None:
    server = pg_servers["order"]
    assert server.data.stat().st_uid != 0 or os.geteuid() != 0


def test_a_database_is_dropped_with_what_holds_it(
    fresh_databases: dict[str, FreshDatabase],
) -> None:
    database = fresh_databases["order"]
    with database.connect() as connection:
        connection.execute("CREATE TABLE t (n int)")
        connection.execute("SELECT pg_create_logical_replication_slot('t_left', 'pgoutput')")
        connection.execute("BEGIN")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.execute("PREPARE TRANSACTION 'left'")
    open_session = database.connect()
    drop_database(database.server, database.name)
    with psycopg.connect(database.server.dsn()) as connection:
        left = connection.execute(
            "SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_name = 't_left'),"
            " (SELECT count(*) FROM pg_database WHERE datname = %s)",
            [database.name],
        ).fetchone()
    assert left == (0, 0)
    open_session.close()


def test_free_port_is_free() -> None:
    assert free_port() in range(20_000, 32_000)
