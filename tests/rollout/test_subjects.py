"""Subjects are counted in a database as in memory; a query that could never tell is refused."""

import random
import re
import shutil
import tomllib
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from estate.config import Config, GateConfig, load
from estate.connections import DatabaseUnreachable
from estate.ledger import open_ledger
from migrator import control
from migrator.ownership import bucket
from rehearsal.estate import FOLDERS, SERVICES, apply_migrations
from rollout import controller
from rollout.preconditions import Refused
from rollout.statistics import Sample
from rollout.subjects import (
    Cohort,
    DatabaseSubjects,
    GateQueryFailed,
    InMemorySubjects,
    Slice,
    Span,
    Subject,
)
from rollout.tools import Tools
from splitctl.doctor import examine
from tests.conftest import ConfigWriter, FreshDatabase
from tests.rollout.conftest import DOMAIN, NOWHERE
from tests.rollout.rig import START, Rig
from verify.verdict import VERIFY

ROOT = Path(__file__).parents[2]
HOUR = timedelta(hours=1)
QUERY = "SELECT route, at, ended AS succeeded_at, ended AS done_at FROM visit;"
Asking = Callable[..., tuple[Config, GateConfig]]


@pytest.fixture
def old(fresh_databases: dict[str, FreshDatabase]) -> Iterator[psycopg.Connection[Any]]:
    """The old side's database, with the tool's functions and a table of visits."""
    with fresh_databases["order"].connect() as connection:
        control.install(connection)
        connection.execute("CREATE TABLE visit (route text, at timestamptz, ended timestamptz)")
        yield connection


@pytest.fixture
def asking(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter, tmp_path: Path
) -> Asking:
    """A function that gives a configuration with one gate of this kind, and the gate."""

    def write(kind: str, query: str = QUERY, **more: str) -> tuple[Config, GateConfig]:
        (tmp_path / "visits.sql").write_text(query)
        values = {"name": "g", "kind": kind, "query": "visits.sql", "side": "old", **more}
        path = write_config(
            databases={name: fresh_databases[key].dsn for name, key in SIDES},
            domains=DOMAIN,
            mappings={"q.sql": "SELECT id, id::text AS splitctl_route FROM t"},
            ledger=fresh_databases["ledger"].dsn,
            extra="[[gates]]\n" + "\n".join(f"{k} = {_toml(v)}" for k, v in values.items()),
        )
        config = load(path)
        return config, config.gates[0]

    return write


SIDES = (("a", "order"), ("b", "checkout"))


def _toml(value: str) -> str:
    return value if re.fullmatch(r"[0-9.]+", value) else f'"{value}"'


def put(connection: psycopg.Connection[Any], *rows: Subject) -> None:
    with connection.cursor() as cursor, cursor.copy("COPY visit FROM STDIN") as copy:
        for row in rows:
            copy.write_row((row.route, row.at, row.ended))


def subject(route: str, minute: float, ended: float | None = None) -> Subject:
    """Begun, and ended, so many minutes after the start."""
    end = None if ended is None else START + timedelta(minutes=ended)
    return Subject(route, START + timedelta(minutes=minute), end)


def span(since: float = 0, upto: float = 60) -> Span:
    """Minutes after the start, in slices of ten."""
    begin, end = (START + timedelta(minutes=minutes) for minutes in (since, upto))
    return Span(START, begin, end, 600)


def whole(slices: list[Slice]) -> tuple[Sample, Sample]:
    """Inside of the cohort, and outside."""
    inside = sum((item.sample for item in slices if item.inside), Sample())
    return inside, sum((item.sample for item in slices if not item.inside), Sample())


@pytest.mark.every_version
def test_the_database_counts_as_memory_does(old: psycopg.Connection[Any], asking: Asking) -> None:
    """Many customers who come several times, at the same moments, with and without success."""
    chance = random.Random(5)
    rows = []
    for _ in range(3000):
        minute = chance.randrange(-20, 90)
        ended = minute + chance.choice([0, 29, 30, 31, 500])
        rows.append(subject(f"c{chance.randrange(900)}", minute, chance.choice([None, ended])))
    put(old, *rows)
    memory = InMemorySubjects(rows)
    for kind, more in (("conversion", {"after": "30m"}), ("rate", {})):
        config, gate = asking(kind, drop="0.1", **more)
        real = DatabaseSubjects(config)
        for cohort in (Cohort(0, 1000), Cohort(5000), Cohort(0)):
            for wanted in (span(), span(20, 50), span().earlier(HOUR / 4)):
                found = real.slices(gate, "d", wanted, cohort)
                assert found == memory.slices(gate, "d", wanted, cohort)
                assert found
    config, gate = asking("duration", within="30m", share="0.9")
    end = START + HOUR
    assert DatabaseSubjects(config).due(gate, "d", START, end, Cohort(0, 5000)) == memory.due(
        gate, "d", START, end, Cohort(0, 5000)
    )


def test_each_customer_counts_once_by_the_first_of_the_window(
    old: psycopg.Connection[Any], asking: Asking
) -> None:
    config, gate = asking("conversion", drop="0.1", after="30m")
    put(
        old,
        subject("ann", 1), subject("ann", 2, 3),
        subject("bob", 5, 6), subject("bob", 7),
        subject("eve", -5), subject("eve", 8, 9),
        subject("new", 30, 61), subject("in time", 30, 60),
    )  # fmt: skip
    subjects = DatabaseSubjects(config)
    assert whole(subjects.slices(gate, "d", span(), Cohort(0)))[0] == Sample(5, 3)
    # Who was counted before is not counted again in what comes later.
    assert whole(subjects.slices(gate, "d", span(since=6), Cohort(0)))[0] == Sample(3, 2)


def test_the_cohorts_are_those_of_the_percentage(
    old: psycopg.Connection[Any], asking: Asking
) -> None:
    config, gate = asking("conversion", drop="0.1", after="30m")
    names = [f"c{number}" for number in range(400)]
    put(old, *(subject(name, 1, 2 if bucket(name) < 1000 else None) for name in names))
    new = sum(bucket(name) < 1000 for name in names)
    found = whole(DatabaseSubjects(config).slices(gate, "d", span(), Cohort(0, 1000)))
    assert found == (Sample(new, new), Sample(400 - new, 0))


def test_the_query_can_only_read_and_not_for_long(
    old: psycopg.Connection[Any], asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(old, subject("ann", 1))
    writes = "SELECT nextval('counter')::text AS route, at, ended AS succeeded_at FROM visit"
    old.execute("CREATE SEQUENCE counter")
    config, gate = asking("conversion", writes, drop="0.1", after="30m")
    with pytest.raises(GateQueryFailed, match=r"read-only") as caught:
        DatabaseSubjects(config).slices(gate, "d", span(), Cohort(0))
    assert "visits.sql" in str(caught.value)
    assert "'g'" in str(caught.value)
    two = f"{QUERY} DROP TABLE visit"
    config, gate = asking("conversion", two, drop="0.1", after="30m")
    with pytest.raises(GateQueryFailed):
        DatabaseSubjects(config).slices(gate, "d", span(), Cohort(0))
    # Five seconds are a long test: the same limit, shorter.
    short = "rollout.subjects.LIMITS"
    monkeypatch.setattr(short, "SET TRANSACTION READ ONLY; SET LOCAL statement_timeout = '50ms'")
    slow = f"SELECT v.* FROM ({QUERY.rstrip(';')}) v, pg_sleep(20)"
    config, gate = asking("conversion", slow, drop="0.1", after="30m")
    with pytest.raises(GateQueryFailed, match="timeout"):
        DatabaseSubjects(config).slices(gate, "d", span(upto=10**6), Cohort(0))


def test_a_database_that_is_away_is_told(asking: Asking, tmp_path: Path) -> None:
    config, gate = asking("rate", drop="0.1")
    (tmp_path / "secrets" / "a.dsn").write_text(NOWHERE)
    with pytest.raises(DatabaseUnreachable):
        DatabaseSubjects(config).slices(gate, "d", span(), Cohort(0))


NOW = "SELECT 'a' AS route, now() AS at, now() AS succeeded_at, now() AS done_at"


@pytest.mark.parametrize(
    ("kind", "query", "told"),
    [
        ("conversion", NOW, None),
        ("rate", "SELECT 'a'::varchar(9) AS route, now() AS at", None),
        ("duration", NOW, None),
        ("conversion", "SELECT 'a' AS route, now() AS at", "no column succeeded_at"),
        ("duration", "SELECT 'a' AS route, now() AS at", "no column done_at"),
        ("rate", "SELECT 'a' AS route, now() AS began", "no column at"),
        ("rate", "SELECT 1 AS route, now() AS at", "route as int4, not as text"),
        ("rate", "SELECT 'a' AS route, now()::date AS at", "at as date, not as timestamptz"),
        ("rate", "SELECT 'a' AS route, at FROM nowhere", '"nowhere" does not exist'),
        ("rate", f"{NOW} WHERE false", "no row with at in the last 168 h"),
        ("rate", "SELECT 'a' AS route, now() - interval '8 days' AS at", "no row with at"),
        (
            "conversion",
            "SELECT 'a' AS route, now() AS at, NULL::timestamptz AS succeeded_at",
            "no row with succeeded_at",
        ),
    ],
)
def test_a_query_that_could_never_tell_is_found(
    old: psycopg.Connection[Any], asking: Asking, kind: str, query: str, told: str | None
) -> None:
    more = {
        "conversion": {"drop": "0.1", "after": "30m"},
        "rate": {"drop": "0.1"},
        "duration": {"within": "24h", "share": "0.9"},
    }
    config, _ = asking(kind, query, **more[kind])
    problems = DatabaseSubjects(config).problems("d")
    if told is None:
        assert problems == []
    else:
        (problem,) = problems
        assert problem.key == "gates.g"
        assert told in problem.reason
        assert "visits.sql" in str(problem)


def test_a_rollout_does_not_start_with_a_gate_that_could_never_fail(
    asking: Asking, old: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SPLITCTL_STATE_DIR", str(tmp_path / "state"))
    config, _ = asking("rate", drop="0.1")
    rig = Rig()
    tools: Tools = rig.tools(lambda: open_ledger(config))
    tools.subjects = DatabaseSubjects(config)
    with open_ledger(config) as ledger:
        ledger.add_verdict("d", VERIFY, VERIFY, "equal", {})
    with pytest.raises(Refused, match="no row with at") as caught:
        controller.start(config, "d", tools=tools)
    assert caught.value.next_command == "splitctl doctor"
    told = [str(problem) for problem in examine(config).problems]
    assert any("gates.g" in line and "no row with at" in line for line in told)
    put(old, Subject("ann", datetime.now(START.tzinfo)))
    assert controller.start(config, "d", tools=tools).stage == "live"


# The order split's own queries

SHOP = {
    "order": """
INSERT INTO cart_sessions (id, session_id, customer_id, guest_token, created_at) VALUES
    ('00000000-0000-0000-0000-00000000000a', 's1', 'ANN', NULL, now() - interval '2 hours'),
    ('00000000-0000-0000-0000-00000000000b', 's2', 'ann', NULL, now() - interval '1 hour'),
    ('00000000-0000-0000-0000-00000000000c', 's3', 'bob', NULL, now() - interval '1 hour'),
    ('00000000-0000-0000-0000-00000000000d', 's4', NULL, 'guest', now() - interval '1 hour');
INSERT INTO checkout_sessions (session_token, cart_id, status, completed_at) VALUES
    ('t1', '00000000-0000-0000-0000-00000000000a', 'completed', now() - interval '100 minutes'),
    ('t2', '00000000-0000-0000-0000-00000000000c', 'started', NULL);
""",
    "checkout": "",
    "return": """
INSERT INTO return_requests (id, return_number, order_id, completed_at) VALUES
    ('00000000-0000-0000-0000-00000000000e', 'R1', gen_random_uuid(), now() - interval '1 hour'),
    ('00000000-0000-0000-0000-00000000000f', 'R2', gen_random_uuid(), NULL);
INSERT INTO return_status_history (return_id, position, status, changed_at) VALUES
    ('00000000-0000-0000-0000-00000000000e', 1, 'requested', now() - interval '9 days'),
    ('00000000-0000-0000-0000-00000000000e', 2, 'items_received', now() - interval '5 hours'),
    ('00000000-0000-0000-0000-00000000000f', 1, 'items_received', now() - interval '5 hours');
""",
}


@pytest.fixture
def shop(
    fresh_databases: dict[str, FreshDatabase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Config:
    """The shipped example, with the gates that stand there as comments."""
    text = (ROOT / "config.example.toml").read_text(encoding="utf-8")
    lines = text.splitlines()
    first = lines.index('# name = "conversion"') - 1
    last = next(n for n in range(first, len(lines)) if lines[n].startswith("# What `splitctl obs"))
    lines[first:last] = [line.removeprefix("# ") for line in lines[first:last]]
    for folder in ("mappings", "invariants", "gates"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "config.toml").write_text("\n".join(lines), encoding="utf-8")
    for name, rows in SHOP.items():
        monkeypatch.setenv(f"{name.upper()}_DB_DSN", fresh_databases[name].dsn)
        apply_migrations(SERVICES / FOLDERS[name] / "migrations", fresh_databases[name].dsn)
        with fresh_databases[name].connect() as connection:
            control.install(connection)
            connection.execute(rows.encode())
    assert len(tomllib.loads("\n".join(lines))["gates"]) == 9
    return load(tmp_path / "config.toml")


def test_the_shipped_queries_count_carts_purchases_and_returns(shop: Config) -> None:
    subjects = DatabaseSubjects(shop)
    by_name = {gate.name: gate for gate in shop.gates if gate.from_data}
    assert set(by_name) == {"conversion", "carts", "returns in a day"}
    for domain in shop.domains:
        assert subjects.problems(domain) == []
    now = datetime.now(START.tzinfo)
    today = Span(now - 4 * HOUR, now - 4 * HOUR, now, 600)
    conversion, carts = by_name["conversion"], by_name["carts"]
    names = shop.domains
    first = next(iter(names))
    assert whole(subjects.slices(conversion, first, today, Cohort(0)))[0] == Sample(2, 1)
    assert whole(subjects.slices(carts, first, today, Cohort(0)))[0] == Sample(3, 0)
    returns = by_name["returns in a day"]
    found = subjects.due(returns, "return", now - 9 * HOUR, now, Cohort(0))
    assert found == Sample(2, 1)
