"""The ledger on a real server: intents, outcomes, the operator lock, and what the journal kept."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine

from estate import journal
from estate.config import Config, load
from estate.ledger import (
    Ledger,
    LedgerNewer,
    LedgerUnreachable,
    LockHeld,
    Rollout,
    migrate,
    open_ledger,
)
from estate.ledger.models import Base
from tests.conftest import ConfigWriter, FreshDatabase

DOMAIN = """
[domains.d]
old = "a"
new = "b"
flag = "F"
percentage = "P"
phases = [ {percentage = 100, soak = "1s"} ]
[[domains.d.forward]]
target = "t"
query = "mappings/q.sql"
key = ["id"]
route = "t.id::text"
sources = { t = { id = "id" } }
[[domains.d.reverse]]
target = "t"
query = "mappings/q.sql"
key = ["id"]
route = "t.id::text"
sources = { t = { id = "id" } }
"""


@pytest.fixture
def config(
    fresh_databases: dict[str, FreshDatabase],
    write_config: ConfigWriter,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Config:
    monkeypatch.setenv("SPLITCTL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("SPLITCTL_OPERATOR", "ann")
    path = write_config(
        databases={"a": fresh_databases["order"].dsn, "b": fresh_databases["checkout"].dsn},
        domains=DOMAIN,
        mappings={"q.sql": "SELECT id, id::text AS splitctl_route FROM t"},
        ledger=fresh_databases["ledger"].dsn,
    )
    return load(path)


def test_it_makes_its_schema_at_first_use_and_finds_it_again(config: Config) -> None:
    with open_ledger(config) as ledger:
        ledger.save_rollout(Rollout("d", stage="live", percentage=10, epoch=3))
    with open_ledger(config) as ledger:
        found = ledger.rollout("d")
    assert found is not None
    assert (found.stage, found.percentage, found.epoch) == ("live", 10, 3)


def test_two_first_uses_at_once_both_work(config: Config) -> None:
    errors: list[Exception] = []

    def use() -> None:
        try:
            open_ledger(config).close()
        except Exception as error:  # noqa: BLE001 - shown by the assertion
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_migrations_make_what_the_models_say(
    config: Config, fresh_databases: dict[str, FreshDatabase]
) -> None:
    open_ledger(config).close()
    with fresh_databases["ledger"].connect() as connection:
        rows = connection.execute(
            "SELECT table_name, column_name, is_nullable = 'YES', data_type"
            " FROM information_schema.columns WHERE table_schema = 'splitctl'"
            " AND table_name <> 'alembic_version'"
        ).fetchall()
    made = {(table, column): (nullable, kind) for table, column, nullable, kind in rows}
    wanted = {
        (table.name, column.name): column
        for table in Base.metadata.tables.values()
        for column in table.columns
    }
    assert made.keys() == wanted.keys()
    for key, column in wanted.items():
        assert made[key][0] == column.nullable, key
    engine = create_engine("postgresql+psycopg://")
    kinds = {"JSONB": "jsonb", "TEXT": "text", "BIGINT": "bigint", "INTEGER": "integer"}
    kinds |= {"TIMESTAMP WITH TIME ZONE": "timestamp with time zone"}
    kinds |= {"FLOAT(53)": "double precision", "BOOLEAN": "boolean"}
    for key, column in wanted.items():
        assert made[key][1] == kinds[column.type.compile(engine.dialect)], key


def test_the_newest_revision_is_the_one_the_code_names() -> None:
    newest = sorted(path.name for path in migrate.DIRECTORY.glob("versions/*.py"))[-1]
    assert newest.startswith(f"{migrate.HEAD}_")


def test_a_ledger_of_a_newer_splitctl_is_refused(
    config: Config, fresh_databases: dict[str, FreshDatabase]
) -> None:
    open_ledger(config).close()
    with fresh_databases["ledger"].connect() as connection:
        connection.execute("UPDATE splitctl.alembic_version SET version_num = '9999'")
    with pytest.raises(LedgerNewer, match="9999"):
        open_ledger(config)


def test_an_intent_stays_unfinished_until_its_outcome(config: Config) -> None:
    with open_ledger(config, "rollout advance d") as ledger:
        act = ledger.begin("d", "step", {"from": 0, "to": 10, "epoch": 2})
        assert (act.operator, act.state, act.command) == ("ann", "intended", "rollout advance d")
    with open_ledger(config) as ledger:
        assert [a.id for a in ledger.unfinished("d")] == [act.id]
        assert ledger.unfinished("e") == []
        row = Rollout("d", stage="live", percentage=10, epoch=2)
        ledger.finish(act, {"fence_ms": 40}, rollout=row)
        assert ledger.unfinished() == []
        done = ledger.history("d")[-1]
        assert (done.state, done.outcome, done.finished_at is None) == (
            "done", {"fence_ms": 40}, False,
        )  # fmt: skip
        assert ledger.rollout("d") is not None


def test_what_is_done_is_not_finished_again(config: Config) -> None:
    with open_ledger(config) as ledger:
        act = ledger.begin("d", "step", {})
        ledger.finish(act, {"by": "rollback"}, state="abandoned")
        ledger.finish(act, {"by": "the step itself"})
        assert ledger.history()[-1].outcome == {"by": "rollback"}


def test_an_older_epoch_never_writes_over_a_newer_one(config: Config) -> None:
    with open_ledger(config) as ledger:
        ledger.save_rollout(Rollout("d", stage="live", percentage=0, epoch=7))
        act = ledger.begin("d", "step", {})
        ledger.finish(act, {}, rollout=Rollout("d", stage="live", percentage=10, epoch=6))
        found = ledger.rollout("d")
    assert found is not None
    assert found.percentage == 0


def test_history_is_newest_last_and_limited(config: Config) -> None:
    with open_ledger(config) as ledger:
        for number in range(5):
            ledger.finish(ledger.begin("d", f"act {number}", {}), {})
        assert [act.kind for act in ledger.history("d", 2)] == ["act 3", "act 4"]


def test_the_second_operator_is_told_who_holds_the_lock(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_ledger(config, "rollout advance d") as first, first.lock():
        monkeypatch.setenv("SPLITCTL_OPERATOR", "bob")
        with open_ledger(config) as second:
            held = second.lock_holder()
            assert held is not None
            assert (held.operator, held.command) == ("ann", "rollout advance d")
            with pytest.raises(LockHeld, match=r"ann on .* `rollout advance d`"), second.lock():
                pass
    with open_ledger(config) as third:
        assert third.lock_holder() is None
        with third.lock():
            pass


def test_the_lock_of_a_dead_session_is_taken_over(
    config: Config, fresh_databases: dict[str, FreshDatabase]
) -> None:
    with open_ledger(config) as first, first.lock():
        with fresh_databases["ledger"].connect() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity"
                " WHERE application_name = 'splitctl operator lock'"
                " AND datname = current_database()"
            )
            row = connection.execute("SELECT operator FROM splitctl.operator_lock").fetchone()
            assert row == ("ann",)
        with open_ledger(config) as second:
            assert second.lock_holder() is None
            with second.lock():
                pass


def test_the_latest_verdict_knows_its_age_and_its_beginning(config: Config) -> None:
    with open_ledger(config) as ledger:
        ledger.add_verdict("d", "verify", "verify", "different", {}, seconds=5)
        ledger.add_verdict("d", "verify", "verify", "equal", {"rows": 3}, seconds=90.5)
        found = ledger.latest_verdict("d", "verify")
        assert found is not None
        assert found.verdict == "equal"
        assert 0 <= found.age_s < 30
        assert (found.at - found.started_at).total_seconds() == pytest.approx(90.5, abs=1)
        assert ledger.latest_verdict("e", "verify") is None


def test_samples_come_back_oldest_first(config: Config) -> None:
    with open_ledger(config) as ledger:
        for number in range(4):
            ledger.add_sample("d", "watch", {"n": number})
        assert [s.data["n"] for s in ledger.samples("d", limit=3)] == [1, 2, 3]
        assert ledger.samples("d", since=ledger.now()) == []


def test_a_change_is_made_under_the_rows_lock(config: Config) -> None:
    with open_ledger(config) as ledger:
        ledger.save_rollout(Rollout("d", stage="live", soak_evidence_s=1.0))
    seen: list[float] = []

    def count() -> None:
        with open_ledger(config) as ledger:
            for _ in range(5):
                with ledger.changing("d") as change:
                    assert change.rollout is not None
                    seconds = change.rollout.soak_evidence_s
                    seen.append(seconds)
                    change.save(Rollout("d", stage="live", soak_evidence_s=seconds + 1))

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [float(n) for n in range(1, 16)]


def entry(**changed: object) -> journal.Entry:
    values: dict[str, object] = {
        "kind": "rollback",
        "domain": "d",
        "intent": {"to": 0},
        "outcome": {"to": 0},
        "rollout": {"stage": "live", "percentage": 0, "phase": -1, "epoch": 5},
        "finished_at": datetime(2024, 5, 1, tzinfo=UTC),
    }
    return journal.Entry(**{**values, **changed})  # type: ignore[arg-type]


def test_the_journal_is_taken_in_at_the_next_use_and_once(config: Config) -> None:
    with open_ledger(config) as ledger:
        ledger.save_rollout(Rollout("d", stage="live", percentage=50, phase=1, epoch=4))
    kept = journal.of(config)
    kept.append(entry())
    again = kept.path.read_bytes()
    with open_ledger(config) as ledger:
        found = ledger.rollout("d")
        assert found is not None
        assert (found.percentage, found.phase, found.epoch) == (0, -1, 5)
        assert [act.kind for act in ledger.history("d")] == ["rollback"]
    assert kept.pending() == []
    kept.path.write_bytes(again)  # as after a kill between the commit and the file
    with open_ledger(config) as ledger:
        assert len(ledger.history("d")) == 1


def test_an_older_journal_does_not_undo_what_came_later(config: Config) -> None:
    with open_ledger(config) as ledger:
        ledger.save_rollout(Rollout("d", stage="live", percentage=50, epoch=9))
    journal.of(config).append(entry())
    with open_ledger(config) as ledger:
        found = ledger.rollout("d")
    assert found is not None
    assert found.percentage == 50


def test_a_journalled_outcome_ends_its_intent(config: Config) -> None:
    with open_ledger(config) as ledger:
        act = ledger.begin("d", "step", {"to": 10})
    journal.of(config).append(entry(kind="step", act_id=act.id, outcome={"to": 10}))
    with open_ledger(config) as ledger:
        assert ledger.unfinished() == []
        assert [(a.id, a.outcome) for a in ledger.history()] == [(act.id, {"to": 10})]


def test_a_ledger_that_is_away_is_an_error_of_its_own(config: Config, tmp_path: Path) -> None:
    (tmp_path / "secrets" / "ledger.dsn").write_text("host=127.0.0.1 port=1 dbname=x user=y")
    with pytest.raises(LedgerUnreachable):
        open_ledger(config)


def test_a_ledger_that_goes_away_later_is_the_same_error(
    config: Config, fresh_databases: dict[str, FreshDatabase]
) -> None:
    with open_ledger(config) as ledger:
        name = fresh_databases["ledger"].name
        with psycopg.connect(fresh_databases["ledger"].server.dsn(), autocommit=True) as admin:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'.encode())
            admin.execute(
                "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE datname = %s",
                [name],
            )
        with pytest.raises(LedgerUnreachable):
            ledger.begin("d", "step", {})


def test_a_ledger_beside_the_data_shares_the_budget(
    config: Config, fresh_databases: dict[str, FreshDatabase], tmp_path: Path
) -> None:
    (tmp_path / "secrets" / "ledger.dsn").write_text(fresh_databases["order"].dsn)
    with open_ledger(config) as ledger:
        assert isinstance(ledger, Ledger)
        assert ledger._settings.connections == 30
