"""The DBA's scripts: enough rights, no password, twice without effect, gone again."""

import subprocess

import psycopg
import pytest

from estate.config import load
from migrator import grants, sync
from rehearsal.binaries import binaries
from tests.conftest import ConfigWriter, FreshDatabase
from tests.migrator.library import DOMAIN, OWNER, QUERIES, TOML, Library, value

ROLE = 'odd "named" tool'


def psql(database: FreshDatabase, script: str) -> str:
    """Run a script as a DBA does, and return what psql said."""
    ended = subprocess.run(
        [binaries(18) / "psql", "-X", "-v", "ON_ERROR_STOP=1", "-d", database.dsn],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def rights(library: Library, role: str) -> tuple[object, ...] | None:
    return library.old.execute(
        "SELECT rolcanlogin, rolreplication, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls,"
        " pg_has_role(rolname, %s, 'USAGE'),"
        " has_database_privilege(rolname, current_database(), 'CREATE'),"
        " has_database_privilege(rolname, current_database(), 'TEMPORARY')"
        " FROM pg_roles WHERE rolname = %s",
        (OWNER, role),
    ).fetchone()


def test_the_script_gives_what_sync_needs_and_no_more(
    library: Library, fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> None:
    quoted = "'" + ROLE + "'"
    places = {"main": fresh_databases["order"], "branch": fresh_databases["checkout"]}
    path = write_config(
        databases={
            name: f"{place.server.dsn(place.name)} user={quoted} password=hunter2"
            for name, place in places.items()
        },
        owner_roles={"main": OWNER, "branch": OWNER},
        domains=TOML,
        mappings=QUERIES,
        ledger=fresh_databases["ledger"].dsn,
    )
    config = load(path)
    try:
        for name, place in places.items():
            script = grants.script(config, name)
            assert "hunter2" not in script
            assert "SUPERUSER" not in script
            psql(place, script)
            psql(place, script)
        assert rights(library, ROLE) == (True, True, False, False, False, False, True, True, True)
        sync.enable(config, DOMAIN)
        with pytest.raises(AssertionError, match="splitctl_sync is still here"):
            psql(places["main"], grants.revoke_script(config, "main"))
        sync.teardown(config)
        for name, place in places.items():
            script = grants.revoke_script(config, name)
            assert "hunter2" not in script
            psql(place, script)
            assert "gone already" in psql(place, script)
        assert rights(library, ROLE) is None
    finally:
        for place in places.values():
            with place.connect() as connection:
                role = psycopg.sql.Identifier(ROLE)
                if value(connection, "SELECT 1 FROM pg_roles WHERE rolname = %s", ROLE):
                    connection.execute(psycopg.sql.SQL("DROP OWNED BY {}").format(role))
                    connection.execute(psycopg.sql.SQL("DROP ROLE {}").format(role))


def test_a_role_that_works_in_another_database_stays(
    library: Library, fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> None:
    """Two databases on one server: the role goes with the last of them."""
    places = {"main": fresh_databases["order"], "branch": fresh_databases["ledger"]}
    path = write_config(
        databases={name: place.dsn_as("twofold_tool") for name, place in places.items()},
        owner_roles={"main": OWNER},
        domains=TOML,
        mappings=QUERIES,
        ledger=fresh_databases["ledger"].dsn,
    )
    config = load(path)
    for name, place in places.items():
        psql(place, grants.script(config, name))
    said = psql(places["main"], grants.revoke_script(config, "main"))
    assert "another database" in said
    assert rights(library, "twofold_tool") is not None
    psql(places["branch"], grants.revoke_script(config, "branch"))
    assert rights(library, "twofold_tool") is None


def test_a_tool_that_is_the_owner_itself_needs_no_membership(
    library: Library, fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> None:
    path = write_config(
        databases={
            "main": fresh_databases["order"].dsn_as(OWNER),
            "branch": fresh_databases["checkout"].dsn_as(OWNER),
        },
        owner_roles={"main": OWNER, "branch": OWNER},
        domains=TOML,
        mappings=QUERIES,
    )
    config = load(path)
    try:
        for name, key in (("main", "order"), ("branch", "checkout")):
            psql(fresh_databases[key], grants.script(config, name))
        sync.enable(config, DOMAIN)
        sync.teardown(config)
    finally:
        # Roles outlive a test's databases, and the tool's own role inherits from this one.
        for connection in (library.old, library.new):
            connection.execute(f"ALTER ROLE {OWNER} NOREPLICATION".encode())
            connection.execute(f"REVOKE pg_read_all_stats FROM {OWNER}".encode())


def test_a_connection_string_without_a_user_is_refused(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> None:
    path = write_config(
        databases={"main": "host=127.0.0.1 dbname=x", "branch": "host=127.0.0.1 user=u"},
        domains=TOML,
        mappings=QUERIES,
    )
    config = load(path)
    with pytest.raises(grants.RoleUnnamed, match="user"):
        grants.script(config, "main")
    with pytest.raises(grants.RoleUnnamed, match="dbname"):
        grants.revoke_script(config, "branch")
