"""The ground lasts for all runs; each run has databases and a configuration of its own."""

import contextlib
import secrets
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql

from migrator.mapping import Side
from rehearsal.postgres import free_port
from tests.conftest import ConfigWriter, FreshDatabase, drop_database
from tests.migrator.faults.faults import BACKFILL, SECOND, WORKER
from tests.migrator.faults.ground import NAMES, Ground, Proxied, ground
from tests.migrator.faults.run import Run, direct
from tests.migrator.parcels import build

# Short, so that what is done to a side for a second or two reaches it at times.
REFUGE_AFTER = "500ms"


@pytest.fixture(scope="package")
def standing() -> Iterator[Ground]:
    """Two servers, two proxies, no worker."""
    with ground() as made:
        yield made


@pytest.fixture
def new_run(standing: Ground, write_config: ConfigWriter) -> Iterator[Callable[[int], Run]]:
    """Makes the run of a seed, once."""
    mark = secrets.token_hex(4)
    databases: dict[str, FreshDatabase] = {
        name: Proxied(f"t_{mark}_{name}", standing.servers[side]) for side, name in NAMES.items()
    }
    # Beside the old side's database, but not behind its wire: it goes when that server goes.
    ledger = FreshDatabase(f"t_{mark}_ledger", standing.servers["old"])
    for database in (*databases.values(), ledger):
        with psycopg.connect(database.server.dsn(), autocommit=True) as connection:
            name = sql.Identifier(database.name)
            connection.execute(sql.SQL("CREATE DATABASE {}").format(name))

    def make(seed: int) -> Run:
        post = build(databases, write_config, ledger=ledger.dsn, refuge_after=REFUGE_AFTER)
        post.old.close()
        post.new.close()
        path, listen = post.config.path, post.config.sync.listen
        text = path.read_text(encoding="utf-8").replace(listen, f"127.0.0.1:{free_port()}")
        path.with_name("second.toml").write_text(text, encoding="utf-8")
        dsns: dict[Side, str] = {
            side: standing.servers[side].dsn(databases[name].name) for side, name in NAMES.items()
        }
        return Run(standing, post, direct(path, dsns), dsns, seed)

    try:
        yield make
    finally:
        standing.program = ("splitctl",)
        for name in (WORKER, SECOND, BACKFILL):
            standing.kill(name)
        for side in NAMES:
            standing.proxies[side].heal()
            standing.heal_server(side)
        # One that cannot be dropped must not keep the other's slots.
        with contextlib.ExitStack() as stack:
            for database in (*databases.values(), ledger):
                stack.callback(drop_database, database.server, database.name)
