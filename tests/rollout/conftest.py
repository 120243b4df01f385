"""An estate whose gateways, databases and clock are in memory; only the ledger is real."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from estate.config import Config, load
from estate.ledger import Ledger, open_ledger
from rehearsal.postgres import Server
from rollout.tools import Tools
from tests.conftest import ConfigWriter, drop_database
from tests.rollout.rig import Rig

MAPPING = """
target = "t"
query = "mappings/q.sql"
key = ["id"]
route = "t.id::text"
sources = { t = { id = "id" } }
"""
DOMAIN = f"""
[domains.d]
old = "a"
new = "b"
flag = "F"
percentage = "P"
phases = [
  {{percentage = 10, soak = "20s"}}, {{percentage = 50, soak = "20s"}},
  {{percentage = 100, soak = "20s"}},
]
[[domains.d.forward]]
{MAPPING}
[[domains.d.reverse]]
{MAPPING}
"""
GATES = """
[[gates]]
name = "errors"
kind = "error_rate"
max = 0.01
min_samples = 100
[[gates]]
name = "same"
kind = "consistency"
max_age = "10m"
[[gates]]
name = "strays"
kind = "strays"
max = 0
"""
NOWHERE = "host=127.0.0.1 port=1 dbname=x user=y"


@pytest.fixture
def plain_config(
    write_config: ConfigWriter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Config:
    """A configuration whose databases and ledger are all away."""
    return _config(write_config, monkeypatch, tmp_path, NOWHERE)


@pytest.fixture(scope="session")
def ledger_database(pg_servers: dict[str, Server]) -> Iterator[str]:
    """One database for the ledgers of all tests here: making one for each takes long."""
    server, name = pg_servers["order"], f"t_{secrets.token_hex(4)}_ledgers"
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    yield server.dsn(name)
    drop_database(server, name)


@pytest.fixture
def config(
    ledger_database: str,
    write_config: ConfigWriter,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Config:
    """A configuration with a real ledger, empty."""
    with psycopg.connect(ledger_database, autocommit=True) as connection:
        if connection.execute("SELECT to_regclass('splitctl.act') IS NOT NULL").fetchone() == (
            True,
        ):
            connection.execute(
                "TRUNCATE splitctl.rollout, splitctl.act, splitctl.sample, splitctl.verdict,"
                " splitctl.operator_lock"
            )
    return _config(write_config, monkeypatch, tmp_path, ledger_database)


def _config(
    write_config: ConfigWriter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ledger: str
) -> Config:
    monkeypatch.setenv("SPLITCTL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("SPLITCTL_OPERATOR", "ann")
    # Time is in memory here; how long this machine needs for a thread is not what is tested.
    monkeypatch.setattr("rollout.crossing_back.SLACK_S", 20.0)
    monkeypatch.setattr("rollout.glance.GLANCE_S", 20.0)
    return load(
        write_config(
            databases={"a": f"{NOWHERE} application_name=a", "b": NOWHERE},
            domains=DOMAIN,
            mappings={"q.sql": "SELECT id, id::text AS splitctl_route FROM t"},
            ledger=ledger,
            extra=GATES,
        )
    )


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def tools(config: Config, rig: Rig) -> Tools:
    """The rig's tools with the real ledger."""

    def ledger() -> Ledger:
        return open_ledger(config)

    return rig.tools(ledger)
