"""`splitctl verify` as a DBA types it: what is wrong is told with its exit code; none is lost."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from estate.errors import ExitCode
from estate.ledger import open_ledger
from rehearsal.children import wait_until
from rollout.verifying import Children, Outcome
from splitctl.main import app
from tests.conftest import ConfigWriter, FreshDatabase
from tests.migrator.library import DOMAIN, OWNER, TOOL, Library
from tests.pages.commands import commands
from tests.splitctl.test_commands import SPLITCTL, splitctl, surroundings
from tests.verify import lent
from tests.verify.test_with_sync import damage
from verify import diff
from verify.passes import Limits, Progress
from verify.scope import WHOLE
from verify.verdict import VERIFY

LIMIT_S = 60.0


@pytest.fixture
def library(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> Iterator[Library]:
    """The lending domain, carried, with a worker."""
    with lent.enabled(fresh_databases, write_config) as built, lent.carried(built):
        yield built


def verify(library: Library, *words: str) -> subprocess.CompletedProcess[str]:
    """`splitctl verify ...` with this configuration; it never ends in a traceback."""
    found = splitctl("verify", *words, "--config", str(library.path), directory=library.path.parent)
    assert "Traceback" not in found.stderr, found.stderr
    return found


def test_a_mapping_that_is_not_there(library: Library) -> None:
    found = verify(library, "run", "forward.volume")
    assert found.returncode == ExitCode.USAGE
    assert "There is no mapping 'forward.volume'" in found.stderr
    assert "lending.forward.volumes" in found.stderr


def test_a_column_that_was_dropped_and_a_key_that_is_not_given(library: Library) -> None:
    library.new.execute("ALTER TABLE volumes DROP COLUMN added")
    found = verify(library, "run", "forward.volumes")
    assert found.returncode == ExitCode.PRECONDITION
    assert "'volumes' has not: added" in found.stderr
    query = library.path.parent / "mappings" / "forward" / "volumes.sql"
    query.write_text("SELECT title, 'x' AS splitctl_route FROM books")
    found = verify(library, "run", "forward.volumes")
    assert found.returncode == ExitCode.PRECONDITION
    assert "does not give the key's columns: id" in found.stderr


def test_a_role_without_rights(library: Library) -> None:
    library.new.execute("ALTER TABLE volumes OWNER TO CURRENT_USER")
    library.new.execute(f"REVOKE ALL ON volumes FROM {TOOL}, {OWNER}, PUBLIC".encode())
    found = verify(library, "run")
    assert found.returncode == ExitCode.PRECONDITION
    assert "permission denied for table volumes" in found.stderr
    assert found.stderr.splitlines()[-1].startswith("Next: ")


def test_no_room_for_temporary_files_is_told_of_that_mapping_alone(library: Library) -> None:
    # A query that sorts, on a server that has no room for it, nor has counted its rows meanwhile:
    # else it chooses another way.
    for table in ("books", "notes"):
        for forget in (
            f"ALTER TABLE {table} SET (autovacuum_enabled = off)",
            f"DELETE FROM pg_statistic WHERE starelid = '{table}'::regclass",
            f"UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE oid = '{table}'::regclass",
        ):
            library.old.execute(forget.encode())
    for setting in ("temp_file_limit = '64kB'", "work_mem = '64kB'"):
        library.old.execute(f"ALTER ROLE {TOOL} SET {setting}".encode())
    try:
        library.old.execute(
            "INSERT INTO books (reader, title, tags)"
            " SELECT 'r', 'T', to_jsonb(ARRAY['a', 'b' || i])"
            " FROM generate_series(1, 5000) AS i"
        )
        found = verify(library, "run", "-o", "json")
    finally:
        library.old.execute(f"ALTER ROLE {TOOL} RESET ALL".encode())
    assert found.returncode == ExitCode.INCONCLUSIVE, found.stdout + found.stderr
    told = json.loads(found.stdout)
    assert told["verdict"] == "inconclusive"
    assert any("temp_file_limit" in reason for reason in told["reasons"])
    by_name = {item["mapping"]: item for item in told["mappings"]}
    assert by_name["lending.forward.volumes"]["rows_compared"] == 5300
    assert by_name["lending.forward.volumes"]["verdict"] == "equal"


def test_two_at_once_tell_the_same(library: Library) -> None:
    damage(library.new, "lending.forward", "UPDATE volumes SET title = 'x' WHERE id = 11")
    command = [*SPLITCTL, "verify", "run", "-o", "json", "--config", str(library.path)]
    both = [
        subprocess.Popen(
            command,
            env=surroundings(library.path.parent),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    ends = [process.communicate(timeout=LIMIT_S) for process in both]
    assert [process.returncode for process in both] == [ExitCode.CHECK_FAILED] * 2, ends
    for out, _ in ends:
        told = json.loads(out)
        assert (told["mismatched"], told["missing"], told["extra"]) == (2, 0, 0)
    assert [
        "is running already; this one cannot be resumed" in messages for _, messages in ends
    ].count(True) <= 1


def test_a_run_that_was_cut_off_goes_on_where_it_was(library: Library) -> None:
    damage(library.new, "lending.forward", "UPDATE volumes SET title = 'x' WHERE id = 11")
    state = library.path.parent / "state"

    def cut(progress: Progress) -> None:
        if progress.mapping == "lending.reverse.books":
            raise KeyboardInterrupt

    limits = Limits(library.config.verify.workers)
    left = diff.begun(library.config, None, None, WHOLE, None, limits, state)
    with pytest.raises(KeyboardInterrupt):
        diff.run(library.config, limits=limits, unfinished=left, on_progress=cut)
    told = verify(library, "run", "--sample", "10")
    assert "Going on" not in told.stderr, "another comparison"
    found = verify(library, "run", "--resume")
    assert "Going on: 3 mapping(s) read since" in found.stderr
    assert "lending.forward.volumes: " not in found.stderr, "it was read before"
    assert found.returncode == ExitCode.CHECK_FAILED, found.stdout
    assert "lending.forward.volumes [id=11] title: old 'Book 11', new 'x'" in found.stdout
    assert not list(state.glob("verify-*.json"))


def test_the_page_the_tables_and_the_repair_of_one_run(library: Library, tmp_path: Path) -> None:
    damage(library.new, "lending.forward", "UPDATE volumes SET title = 'x' WHERE id = 11")
    files = {kind: tmp_path / f"report.{kind}" for kind in ("html", "csv", "parquet")}
    words = [word for kind, path in files.items() for word in (f"--{kind}", str(path))]
    found = verify(library, "run", *words)
    assert found.returncode == ExitCode.CHECK_FAILED
    assert all(path.stat().st_size for path in files.values())
    planned = verify(library, "repair", DOMAIN)
    assert planned.returncode == ExitCode.DONE
    assert "branch.volumes [id=11] update: title 'x' -> 'Book 11'" in planned.stdout
    plan = planned.stderr.rpartition("--apply ")[2].strip()
    refused = verify(library, "repair", DOMAIN, "--apply", plan)
    assert refused.returncode == ExitCode.USAGE
    assert "was not confirmed. Nothing was changed." in refused.stderr
    done = verify(library, "repair", DOMAIN, "--apply", plan, "--confirm", DOMAIN)
    assert done.returncode == ExitCode.DONE, done.stdout + done.stderr
    assert "1 of 1 key(s) that were asked for are equal now" in done.stdout
    assert verify(library, "run").returncode == ExitCode.DONE
    again = verify(library, "repair", DOMAIN, "--apply", plan, "--confirm", DOMAIN)
    assert again.returncode == ExitCode.DONE, "the same thing twice changes nothing"
    assert "1 key(s) were equal already" in again.stdout
    for words in (
        ("--apply", plan, "--dry-run"),
        ("--undo", "."),
        ("--apply", plan, "--plan", "p"),
    ):
        assert verify(library, "repair", DOMAIN, *words).returncode == ExitCode.USAGE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_or_killed_it_leaves_nothing_behind(
    library: Library, number: signal.Signals
) -> None:
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'splitctl verify' AND wait_event_type = 'Lock'"
    )
    sessions = waiting.partition(" AND wait_event")[0]
    with psycopg.connect(library.old.info.dsn) as other:
        other.execute("LOCK TABLE notes IN ACCESS EXCLUSIVE MODE")
        process = subprocess.Popen(
            [*SPLITCTL, "verify", "run", "--config", str(library.path)],
            env=surroundings(library.path.parent),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        until(library.old, waiting, some=True)
        process.send_signal(number)
        _, messages = process.communicate(timeout=LIMIT_S)
    if number is signal.SIGINT:
        assert process.returncode == ExitCode.INTERRUPTED
        assert "Interrupted." in messages
    assert "Traceback" not in messages
    until(library.old, sessions, some=False)
    assert verify(library, "run").returncode == ExitCode.DONE


def until(connection: psycopg.Connection[Any], count: str, *, some: bool) -> None:
    """Wait until there are some, or none."""
    end = time.monotonic() + LIMIT_S
    while bool((connection.execute(count.encode()).fetchone() or (0,))[0]) is not some:
        assert time.monotonic() < end, count
        time.sleep(0.02)


def test_the_page_is_true(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command of docs/verify.md: a book differs, is found, and set right."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPLITCTL_STATE_DIR", str(tmp_path / "state"))
    damage(library.new, "lending.forward", "UPDATE volumes SET title = 'wrong' WHERE id = 5")
    for command in commands("docs/verify.md"):
        words = [*command.words(named=[("checkout", DOMAIN)]), "--config", str(library.path)]
        found = CliRunner().invoke(app, words)
        command.ended(found.exit_code, found.output)
    assert (tmp_path / "report.html").is_file()


def test_an_unattended_rollout_has_it_verified_by_a_process_beside_it(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its verdict is in the ledger, and holds no lock while it is found."""
    monkeypatch.setenv("SPLITCTL_STATE_DIR", str(tmp_path / "state"))
    with open_ledger(library.config) as ledger, ledger.lock():
        child = Children(library.config).begin(DOMAIN)
        assert wait_until(lambda: child.outcome() is not None, LIMIT_S)
        found = child.outcome()
        child.close()
        assert found == Outcome("equal"), found
        record = ledger.latest_verdict(DOMAIN, VERIFY)
    assert record is not None and record.verdict == "equal"
