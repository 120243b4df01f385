"""The control schema: put in by a plain role, twice without effect, gone without a trace."""

import threading

import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from estate.connections import connect
from migrator import control, ownership
from tests.conftest import FreshDatabase, ensure_role
from tests.migrator.library import Library, value

TABLES = {
    "owner",
    "owner_move",
    "progress",
    "own_write",
    "mapping_state",
    "spool",
    "waiting",
    "stray",
    "backfill",
    "backfill_control",
    "backfill_range",
    "set_aside",
    "slot_horizon",
    "sequence_share",
}


def test_a_plain_role_installs_it_and_takes_it_out_again(library: Library) -> None:
    database = library.config.database("main")
    with connect(database, "test") as connection:
        assert not control.installed(connection)
        assert not control.drop(connection)
        control.install(connection)
        assert control.installed(connection)
        found = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'splitctl_sync'"
        ).fetchall()
        assert {row[0] for row in found} == TABLES
        connection.execute("INSERT INTO splitctl_sync.owner VALUES ('lending', 7, 3)")
        control.install(connection)
        assert value(connection, "SELECT new_below FROM splitctl_sync.owner") == 7
        assert control.drop(connection)
        assert not control.installed(connection)
    assert not value(library.old, "SELECT rolsuper FROM pg_roles WHERE rolname = 'library_tool'")


def test_a_schema_of_an_older_version_is_brought_up(library: Library) -> None:
    """What it holds stays: a stray of then was kept for its owner, as the only rule was."""
    with connect(library.config.database("main"), "test") as connection:
        control.install(connection)
        ownership.create(connection, "lending")
        connection.execute("DROP TABLE splitctl_sync.owner_move")
        connection.execute(
            "ALTER TABLE splitctl_sync.stray DROP outcome, DROP leads, DROP carried_in,"
            " DROP settled_by"
        )
        connection.execute(
            "INSERT INTO splitctl_sync.stray (stream, mapping, key)"
            " VALUES ('lending.forward', 'lending.forward.loans', '[\"1\"]')"
        )
        control.install(connection)
        assert value(connection, "SELECT outcome FROM splitctl_sync.stray") == "kept"
        ownership.switch(connection, "lending", 5, 2)
        assert [move.epoch for move in ownership.moves(connection, "lending")] == [2]


def test_two_commands_install_at_the_same_moment(library: Library) -> None:
    failures: list[Exception] = []

    def install() -> None:
        try:
            with connect(library.config.database("main"), "test") as connection:
                control.install(connection)
        except Exception as error:  # noqa: BLE001 - the test reports it
            failures.append(error)

    threads = [threading.Thread(target=install) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


VECTORS = {
    "": 6393,
    "anna": 8616,
    "guest-17": 3083,
    "Zoë": 2579,
    "11111111-2222-3333-4444-555555555555": 1686,
}


def test_buckets_in_sql_are_those_in_python(library: Library) -> None:
    with connect(library.config.database("main"), "test") as connection:
        control.install(connection)
        routes = [*VECTORS, "f" * 400, *(f"customer {n}" for n in range(500))]
        found = connection.execute(
            "SELECT r, splitctl_sync.bucket(r) FROM unnest(%s::text[]) AS t(r)", (routes,)
        ).fetchall()
    assert {row[0]: row[1] for row in found} == {r: ownership.bucket(r) for r in routes}
    assert VECTORS.items() <= {row[0]: row[1] for row in found}.items()
    # Half of all digests begin with a digit from 8 on: a signed reading would be negative there.
    assert all(0 <= row[1] < 10_000 for row in found)


@settings(max_examples=200)
@given(st.text())
@example("")
def test_every_bucket_is_in_range(route: str) -> None:
    try:
        assert 0 <= ownership.bucket(route) < 10_000
    except UnicodeEncodeError:
        assert any("\ud800" <= letter <= "\udfff" for letter in route)


def test_a_job_without_rights_may_ask_who_owns(
    library: Library, fresh_databases: dict[str, FreshDatabase]
) -> None:
    database = fresh_databases["order"]
    ensure_role(database.dsn, "library_job")
    with connect(library.config.database("main"), "test") as tool:
        control.install(tool)
        below = ownership.bucket("anna")
        with psycopg.connect(database.dsn_as("library_job"), autocommit=True) as job:

            def owns(route: str | None, side: str) -> object:
                return value(job, "SELECT splitctl_sync.owns('lending', %s, %s)", route, side)

            # Nobody splits this domain: everything is the old side's.
            assert owns("anna", "old") is True
            assert owns("anna", "new") is False
            ownership.create(tool, "lending")
            ownership.switch(tool, "lending", below, 2)
            assert owns("anna", "old") is True
            ownership.switch(tool, "lending", below + 1, 3)
            assert owns("anna", "old") is False
            assert owns("anna", "new") is True
            assert owns(None, "old") is not owns(None, "new")
            with pytest.raises(psycopg.errors.InvalidParameterValue):
                owns("anna", "both")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                job.execute("SELECT * FROM splitctl_sync.owner")


def test_nobody_can_slip_a_table_under_the_function(
    library: Library, fresh_databases: dict[str, FreshDatabase]
) -> None:
    """owns() has the tool's rights: its names must not be looked up in the caller's path."""
    with connect(library.config.database("main"), "test") as tool:
        control.install(tool)
        ownership.create(tool, "lending")
    ensure_role(fresh_databases["order"].dsn, "library_job")
    with psycopg.connect(fresh_databases["order"].dsn_as("library_job"), autocommit=True) as job:
        job.execute("CREATE TEMP TABLE owner (domain text, new_below int)")
        job.execute(
            "CREATE FUNCTION pg_temp.md5(text) RETURNS text LANGUAGE sql AS"
            " $$ SELECT 'ffffffffffff' $$"
        )
        job.execute("SET search_path = pg_temp, pg_catalog")
        assert value(job, "SELECT splitctl_sync.owns('lending', 'anna', 'old')") is True


def test_a_step_waits_for_a_transaction_that_asked(
    library: Library, fresh_databases: dict[str, FreshDatabase]
) -> None:
    ensure_role(fresh_databases["order"].dsn, "library_job")
    with connect(library.config.database("main"), "test") as tool:
        control.install(tool)
        ownership.create(tool, "lending")
        tool.execute("SET lock_timeout = '200ms'")
        with psycopg.connect(fresh_databases["order"].dsn_as("library_job")) as job:
            job.execute("SELECT splitctl_sync.owns('lending', 'anna', 'old')")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                ownership.switch(tool, "lending", 1000, 2)
            job.commit()
            ownership.switch(tool, "lending", 1000, 2)
