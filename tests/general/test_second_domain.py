"""A library's lending moves to a service of its own: from configuration alone, by public commands.

Nothing here is like the shipped example: other names and shapes, a composite key, a table that
becomes two, a child table with a cascade, an enum, JSON and NULLs, a gateway of its own that only
keeps the admin endpoint's promises, and the ledger on a server of neither side.
"""

import contextlib
import os
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from rehearsal import configuration
from rehearsal.children import Children, wait_until
from rehearsal.commands import CommandAnswer, Commands
from rehearsal.postgres import free_port
from rehearsal.processes import Program, Programs, module
from rollout.flags import GatewayAdmin
from tests.conftest import FreshDatabase, ensure_role
from tests.general.patrons import Patrons, owner

pytestmark = pytest.mark.rehearsal

LIBRARY = Path(__file__).parent / "library"
DOMAIN = "lending"
TOOL = "library_tool_of_the_town"
OWNERS = {"town": "town_app", "lending_service": "lending_app"}
COUNTERS = ("counter-1", "counter-2")
COMMAND_S = 120.0
TOKEN = "of the library"
# Acts that each side in use acknowledges before the next step.
ENOUGH = 20
# Rows of a patron whose readers are served by the old side.
THEIR_ROWS = """
SELECT FROM readers WHERE reader_no = ANY(%(readers)s) FOR UPDATE;
SELECT FROM loans WHERE reader_no = ANY(%(readers)s) FOR UPDATE;
"""
SOMEBODY_WAITS = """
SELECT FROM pg_stat_activity
 WHERE datname = current_database() AND usename = 'town_app' AND wait_event_type = 'Lock'
"""
STAYS = """
SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = current_database()
UNION ALL SELECT 'publication ' || pubname FROM pg_publication
UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname LIKE 'splitctl%'
UNION ALL SELECT 'role ' || rolname FROM pg_roles WHERE rolname LIKE '%library_tool_of_the_town%'
UNION ALL SELECT 'session ' || application_name FROM pg_stat_activity
           WHERE datname = current_database() AND application_name LIKE 'splitctl%'
"""


@dataclass
class Town:
    """The estate of this test: databases by configured name, programs, commands, patrons."""

    databases: dict[str, FreshDatabase]
    programs: Programs
    commands: Commands
    patrons: Patrons
    gateways: GatewayAdmin
    start_sync: Callable[[], None]
    end_sync: Callable[[], int | None]
    steps: list[dict[str, Any]] = field(default_factory=list)

    def type(self, *words: str, expect: tuple[int, ...] = (0,)) -> CommandAnswer:
        """Type `splitctl WORDS -o json`; programs and patrons must be well afterwards."""
        answer = self.commands.run(*words, expect=expect, timeout_s=COMMAND_S)
        assert self.patrons.failures == [], answer.record
        assert self.programs.fallen() == [], answer.record
        return answer

    def script(self, database: str, *options: str) -> None:
        """What a DBA does: print the grants script, read it, run it."""
        words = module("splitctl", "sync", "grants", database, *options)
        environment = {
            **os.environ,
            **self.commands.environment,
            "SPLITCTL_CONFIG": str(self.commands.config),
        }
        printed = subprocess.run(
            words, capture_output=True, text=True, check=True, env=environment, timeout=COMMAND_S
        )
        with self.databases[database].connect() as connection:
            connection.execute(printed.stdout.encode())

    def verify(self) -> None:
        """Both directions are equal, and every mapping was compared."""
        data = self.type("verify", "run").data
        assert data["verdict"] == "equal", data
        assert data["self_test"]["missed"] == 0
        assert data["recorded"] is True
        assert len(data["mappings"]) == 7
        for mapping in data["mappings"]:
            assert mapping["rows_compared"] > 0, mapping
            assert not any(mapping[k] for k in ("mismatched", "missing", "extra")), mapping

    def advance(self, to: int) -> None:
        """One step; then the sides are compared, and each one in use acknowledges acts."""
        before = self.acts()
        step = self.type("rollout", "advance", DOMAIN).data
        assert step["to"] == to, step
        self.steps.append(step)
        self.verify()
        self.gather(to, since=before)

    def watch(self) -> None:
        """Soak, with gates that pass."""
        data = self.type("rollout", "watch", DOMAIN, "--timeout", "60s").data
        assert {gate["verdict"] for gate in data["gates"]} == {"pass"}, data

    def acts(self) -> Counter[tuple[int, str]]:
        """Acts acknowledged so far, by percentage and side."""
        return sum((patron.seen for patron in self.patrons.all), Counter())

    def gather(self, percentage: int, *, since: Counter[tuple[int, str]] | None = None) -> None:
        """Wait until each side in use has acknowledged enough acts at this percentage."""
        before = self.acts() if since is None else since
        sides = [s for s, used in (("old", percentage < 100), ("new", percentage > 0)) if used]

        def enough() -> bool:
            more = self.acts() - before
            return bool(self.patrons.failures) or all(
                more[percentage, side] >= ENOUGH for side in sides
            )

        assert wait_until(enough, 60), self.acts() - before
        assert self.patrons.failures == []

    @contextlib.contextmanager
    def one_under_way(self, percentage: int) -> Iterator[None]:
        """An act on the old side ends only when a fence holds somebody.

        The rows of a patron's readers are locked: a step has to wait for what he does, and in the
        meantime the others come to the fence, however quick the step and the machine are.
        """
        theirs = self.patrons.all[0]
        readers = [number for number in theirs.readers if owner(number, percentage) == "old"]

        def held() -> bool:
            fences = [answer.value for answer in self.gateways.fences(DOMAIN)]
            return any(fence is not None and fence.held > 0 for fence in fences)

        def let_go() -> None:
            wait_until(held, COMMAND_S)
            locking.rollback()

        town = self.databases["town"]
        # What one transaction sees of activity does not change: another session looks.
        with town.connect() as looking, psycopg.connect(town.dsn) as locking:
            psycopg.ClientCursor(locking).execute(THEIR_ROWS, {"readers": readers})
            assert wait_until(lambda: bool(looking.execute(SOMEBODY_WAITS).fetchall()), COMMAND_S)
            letting_go = threading.Thread(target=let_go)
            letting_go.start()
            try:
                yield
            finally:
                letting_go.join()

    def at_rest(self, percentage: int) -> None:
        """Every promise is held by the side that owns it at this percentage."""
        missing = self.patrons.missing(percentage)
        assert missing == [], f"{len(missing)}: {missing[:5]}"


def _prepare(database: FreshDatabase, owner: str, script: str | None = None) -> None:
    """Hand a database to the role of its programs, and let that role make its tables."""
    ensure_role(database.dsn, owner)
    with database.connect() as connection:
        names = sql.Identifier(database.name), sql.Identifier(owner)
        connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(*names))
    if script is not None:
        with psycopg.connect(database.dsn_as(owner), autocommit=True) as connection:
            connection.execute(script.encode())


@pytest.fixture
def town(fresh_databases: dict[str, FreshDatabase], tmp_path: Path) -> Iterator[Town]:
    """The library before anything has moved: programs run, patrons borrow."""
    databases = {
        "town": fresh_databases["order"],
        "lending_service": fresh_databases["checkout"],
        "books": fresh_databases["return"],
    }
    _prepare(databases["town"], OWNERS["town"], (LIBRARY / "old.sql").read_text(encoding="utf-8"))
    _prepare(databases["lending_service"], OWNERS["lending_service"])
    _prepare(databases["books"], "library_books")
    estate = tmp_path / "estate"
    shutil.copytree(LIBRARY, estate, ignore=shutil.ignore_patterns("__pycache__", "old.sql"))
    ports = {name: free_port() for name in (*COUNTERS, "sync")}
    urls = [f"http://127.0.0.1:{ports[name]}" for name in COUNTERS]
    config = estate / "config.toml"
    values = {
        ("gateway", "urls"): configuration.toml(urls),
        ("metrics", "urls"): configuration.toml([f"{url}/metrics" for url in urls]),
        ("sync", "listen"): configuration.toml(f"127.0.0.1:{ports['sync']}"),
    }
    text = configuration.rewrite(config.read_text(encoding="utf-8"), values)
    config.write_text(text, encoding="utf-8")
    secrets = {
        "LIBRARY_BOOKS_DSN": databases["books"].dsn_as("library_books"),
        "LIBRARY_TOWN_DSN": databases["town"].dsn_as(TOOL),
        "LIBRARY_LENDING_DSN": databases["lending_service"].dsn_as(TOOL),
        "LIBRARY_GATEWAY_TOKEN": TOKEN,
        "SPLITCTL_STATE_DIR": str(tmp_path / "state"),
        "SPLITCTL_CONFIG": str(config),
    }
    dsns = {
        "old": databases["town"].dsn_as(OWNERS["town"]),
        "new": databases["lending_service"].dsn_as(OWNERS["lending_service"]),
    }
    children = Children(tmp_path / "programs")
    programs = Programs(children)

    def counter(name: str, url: str) -> Program:
        own = {"PORT": str(ports[name]), "INSTANCE": name}
        own |= {"OLD_DSN": dsns["old"], "NEW_DSN": dsns["new"]}
        command = module("tests.general.counter")
        return Program(name, command, {**secrets, **own}, f"{url}/health/ready")

    def start_sync() -> None:
        ready = f"http://127.0.0.1:{ports['sync']}/health/live"
        programs.start(Program("sync", module("splitctl", "sync", "run"), secrets, ready))

    patrons = Patrons(urls, dsns)
    commands = Commands(config, secrets, on_start=print, on_line=lambda line: print(f"    {line}"))

    def end_sync() -> int | None:
        child = children.get("sync")
        programs.stop("sync")
        return child.ended()

    try:
        programs.start(*(counter(n, u) for n, u in zip(COUNTERS, urls, strict=True)))
        patrons.start()
        gateways = GatewayAdmin(urls, TOKEN)
        yield Town(databases, programs, commands, patrons, gateways, start_sync, end_sync)
    finally:
        try:
            patrons.stop()
        finally:
            children.stop_all()


@pytest.mark.timeout(900)
def test_lending_moves_from_configuration_alone(town: Town) -> None:
    try:
        _dual_write(town)
        _first_ascent_and_back(town)
        _second_ascent(town)
        _end(town)
    finally:
        for record in town.commands.records:
            print(f"{record.seconds:6.1f} s  exit {record.exit_code}  {record.command}")
        print(f"{town.patrons.acknowledged} acts acknowledged")
        print([{k: s[k] for k in ("to", "fence_ms", "held_requests")} for s in town.steps])
    assert town.patrons.acknowledged > 500


def _dual_write(town: Town) -> None:
    for name in OWNERS:
        town.script(name)
    (lack,) = town.type("doctor", expect=(5,)).data["problems"]
    assert lack["remedy"].startswith("Type: splitctl schema apply ")
    assert town.type("schema", "apply").data[0]["applied"] == ["m1", "m2"]
    assert town.type("doctor").data["next_command"] == "splitctl status"
    town.gather(0)
    town.type("sync", "enable", DOMAIN)
    town.start_sync()
    assert town.type("backfill", "run", DOMAIN).data["rows"] > 1500
    town.verify()
    town.type("rollout", "start", DOMAIN)


def _first_ascent_and_back(town: Town) -> None:
    town.advance(10)
    town.watch()
    town.at_rest(10)
    town.advance(50)
    town.at_rest(50)
    (back,) = town.type("rollback").data["rollbacks"]
    assert (back["from"], back["to"], back["at_risk"]) == (50, 0, []), back
    assert back["seconds_until_every_gateway_serves_it"] < 5
    town.at_rest(0)
    town.gather(0)
    town.verify()
    town.at_rest(0)


def _second_ascent(town: Town) -> None:
    # A step asks the gates itself: what was seen meanwhile is enough.
    town.advance(10)
    town.advance(50)
    with town.patrons.hurrying(), town.one_under_way(50):
        town.advance(100)
    # Who came to the fence was held, and nobody failed.
    assert town.steps[-1]["held_requests"] > 0
    town.at_rest(100)
    stands = town.type("status").data
    assert stands["domains"][0]["domain"] == DOMAIN, stands


def _end(town: Town) -> None:
    town.type("decommission", "rampdown", DOMAIN)
    town.type("decommission", "archive", DOMAIN, "--confirm", DOMAIN)
    town.gather(100)
    town.type("decommission", "undo", DOMAIN)
    # What was changed while the old tables had another name has crossed since.
    town.verify()
    town.at_rest(100)
    town.type("decommission", "archive", DOMAIN, "--confirm", DOMAIN)
    town.at_rest(100)
    assert town.end_sync() == 0
    torn = town.type("sync", "teardown", DOMAIN, "--confirm", DOMAIN).data
    assert torn["left"] == [], torn
    assert torn["unreachable"] == [], torn
    for name in OWNERS:
        town.script(name, "--revoke")
        with town.databases[name].connect() as connection:
            found = connection.execute(STAYS).fetchall()
        assert found == [], f"{name}: {found}"
    # Life goes on at the new side, its sequences counting as before.
    town.gather(100)
    town.at_rest(100)
