"""Each thing that is in the way is found on a real server, and what is printed for it mends it."""

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from estate.config import Config, Problem, load
from migrator import grants, readiness, sync
from migrator.readiness import servers
from rehearsal.children import Children
from rehearsal.postgres import FASTEST, Server, start_all
from tests.conftest import ConfigWriter, FreshDatabase, ensure_role
from tests.migrator import library as lending
from tests.migrator.library import DOMAIN, NEW, OLD, OWNER, TOML, TOOL, Library

Wrong = tuple[str, str, str]


def told(found: list[Problem], reason: str) -> Problem:
    """The one finding with these words."""
    (problem,) = [item for item in found if reason in item.reason]
    assert "SUPERUSER" not in (problem.fix or "").upper()
    return problem


def reasons(found: list[Problem]) -> str:
    return "\n".join(item.reason for item in found)


def run(connection: psycopg.Connection[Any], script: str | None) -> None:
    """As somebody does who pastes it into psql: one statement after the other."""
    assert script is not None
    for statement in script.split(";"):
        if statement.strip():
            connection.execute(statement.encode())


def mended(library: Library, kind: str, wrong: Wrong) -> Problem:
    """Make it wrong, find it, run what was printed, and find it no more."""
    side, ddl, reason = wrong
    connection = library.old if side == "old" else library.new
    connection.execute(ddl.encode())
    problem = told(getattr(readiness.check(library.config, DOMAIN), kind), reason)
    run(connection, problem.fix)
    after = getattr(readiness.check(library.config, DOMAIN), kind)
    assert reason not in reasons(after), problem.fix
    return problem


@pytest.mark.parametrize(
    "wrong",
    [
        (
            "old",
            "ALTER TABLE notes REPLICA IDENTITY DEFAULT",
            "a change of notes would not tell its old book_id",
        ),
        (
            "old",
            "CREATE UNIQUE INDEX by_book ON notes (id, book_id);"
            " ALTER TABLE notes REPLICA IDENTITY NOTHING",
            "its updates and deletions would be refused",
        ),
        ("old", "ALTER TABLE notes SET UNLOGGED", "notes is unlogged"),
        ("new", "ALTER TABLE remarks SET UNLOGGED", "remarks is unlogged"),
        ("old", "CREATE TABLE old_notes () INHERITS (notes)", "old_notes inherits from notes"),
        ("new", "CREATE RULE keep AS ON DELETE TO remarks DO INSTEAD NOTHING", "rule keep of"),
        (
            "new",
            "ALTER TABLE remarks DROP CONSTRAINT remarks_pkey,"
            " ADD CONSTRAINT remarks_pkey PRIMARY KEY (id) DEFERRABLE",
            "primary key of remarks is deferrable",
        ),
        ("new", "ALTER TABLE remarks DROP CONSTRAINT remarks_pkey", "remarks has no primary key"),
        ("new", "ALTER TABLE volumes ADD spine text NOT NULL", "volumes.spine must have a value"),
        ("old", "ALTER TABLE notes OWNER TO postgres", "belongs to 'postgres'"),
        (
            "new",
            f"REVOKE INSERT, DELETE ON volume_tags FROM {OWNER}",
            f"role '{TOOL}' has not INSERT, DELETE on volume_tags",
        ),
    ],
    ids=lambda wrong: wrong[2],
)
def test_a_table_that_cannot_be_followed_or_written(library: Library, wrong: Wrong) -> None:
    problem = mended(library, "problems", wrong)
    if "refused" in problem.reason:
        assert problem.fix == "ALTER TABLE notes REPLICA IDENTITY USING INDEX by_book;"
    if "no primary key" not in problem.reason:
        assert readiness.check(library.config, DOMAIN).problems == []
        sync.enable(library.config, DOMAIN)


@pytest.mark.every_version
def test_it_is_each_partitions_own_replica_identity_that_counts(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> None:
    """FULL on the partitioned table alone does not reach its partitions."""
    library = lending.build(
        fresh_databases,
        write_config,
        old_ddl=OLD
        + "DROP TABLE notes; CREATE TABLE notes (id bigserial PRIMARY KEY, book_id bigint NOT NULL"
        " REFERENCES books ON DELETE CASCADE, body text NOT NULL) PARTITION BY HASH (id);"
        "CREATE TABLE notes_a PARTITION OF notes FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE notes_b PARTITION OF notes FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
        "CREATE INDEX ON notes (book_id); ALTER TABLE notes REPLICA IDENTITY FULL;",
        new_ddl=NEW + "ALTER TABLE volumes ADD shown bigint GENERATED ALWAYS AS IDENTITY;",
        queries={
            "forward/volumes.sql": "SELECT id, reader, title, added, id AS shown,"
            " coalesce(reader, id::text) AS splitctl_route FROM books",
        },
    )
    found = readiness.check(library.config, DOMAIN).problems
    assert len(found) == 3
    for store in ("notes_a", "notes_b"):
        problem = told(found, f"a change of notes ({store}) would not tell its old book_id")
        run(library.old, problem.fix)
    identity = told(found, "volumes.shown is GENERATED ALWAYS AS IDENTITY")
    run(library.new, identity.fix)
    ready = readiness.check(library.config, DOMAIN)
    assert ready.problems == []
    assert ready.moving_bytes > 0
    library.old.close()
    library.new.close()


def test_triggers_that_fire_for_carried_rows_can_leave_the_tool_out(library: Library) -> None:
    library.new.execute(
        "CREATE FUNCTION ring() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
    )
    for ddl in (
        "CREATE TRIGGER bell BEFORE INSERT ON volumes FOR EACH ROW EXECUTE FUNCTION ring()",
        "CREATE TRIGGER bell BEFORE UPDATE ON remarks FOR EACH ROW"
        " WHEN (OLD.body <> NEW.body OR NEW.id = 1) EXECUTE FUNCTION ring()",
    ):
        mended(library, "warnings", ("new", ddl, "trigger bell of"))
    library.new.execute("INSERT INTO volumes (title, added) VALUES ('x', now())")
    condition = library.new.execute(
        "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'remarks'::regclass"
        " AND tgname = 'bell'"
    ).fetchone()
    assert condition is not None and "old.body" in condition[0] and TOOL in condition[0]


def test_row_level_security_that_hides_rows_is_in_the_way(library: Library) -> None:
    ddl = "ALTER TABLE books ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
    try:
        mended(library, "problems", ("old", ddl, "row level security of books hides rows"))
    finally:
        library.old.execute(f"ALTER ROLE {TOOL} NOBYPASSRLS".encode())


@pytest.mark.every_version
def test_each_right_that_the_role_lacks_is_named_and_given_alone(library: Library) -> None:
    name = library.old.info.dbname
    lacks = [
        (f"ALTER ROLE {TOOL} NOREPLICATION", "has not REPLICATION"),
        (f"REVOKE CREATE ON DATABASE {name} FROM {TOOL}", "may not create a schema"),
        (
            f"REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC, {TOOL}",
            "may not create temporary tables",
        ),
        (f"REVOKE USAGE ON SCHEMA public FROM PUBLIC, {TOOL}", "has not USAGE on schema public"),
        (f"REVOKE {OWNER} FROM {TOOL}", f"is no member of '{OWNER}'"),
        # Up to 15 it is the role that inherits or not, then each membership.
        (
            f"GRANT {OWNER} TO {TOOL} WITH INHERIT FALSE"
            if library.old.info.server_version >= 160_000
            else f"ALTER ROLE {TOOL} NOINHERIT",
            f"inherit the rights of '{OWNER}'",
        ),
    ]
    try:
        for ddl, reason in lacks:
            problem = mended(library, "problems", ("old", ddl, reason))
            assert problem.key == "databases.main"
        assert readiness.check(library.config, DOMAIN).problems == []
        # All at once: none hides another.
        for ddl, _ in lacks[:4]:
            library.old.execute(ddl.encode())
        together = readiness.check(library.config, DOMAIN).problems
        for _, reason in lacks[:4]:
            run(library.old, told(together, reason).fix)
        mended(
            library,
            "warnings",
            ("old", f"REVOKE pg_read_all_stats FROM {TOOL}", "does not see since when"),
        )
    finally:
        library.old.execute(grants.script(library.config, "main").encode())


def test_a_query_that_may_not_read_its_tables_says_which_right_it_lacks(library: Library) -> None:
    library.old.execute(f"REVOKE SELECT ON books FROM {OWNER}".encode())
    found = readiness.check(library.config, DOMAIN).problems
    assert told(found, f"role '{TOOL}' has not SELECT on books").fix is not None
    denied = [item for item in found if "permission denied for table books" in item.reason]
    assert {item.fix for item in denied} == {f'GRANT SELECT ON "books" TO "{TOOL}";'}
    run(library.old, denied[0].fix)
    assert readiness.check(library.config, DOMAIN).problems == []


def declaring(config: Config, problem: Problem) -> Config:
    """The configuration with the line that was printed for it."""
    assert problem.fix is not None
    domain = config.domain(DOMAIN).model_copy(update=tomllib.loads(problem.fix))
    return config.model_copy(update={"domains": {DOMAIN: domain}})


@pytest.mark.parametrize(
    ("side", "ddl", "reason"),
    [
        (
            "old",
            "CREATE TABLE loans (id int PRIMARY KEY,"
            " book bigint CONSTRAINT of_book REFERENCES books ON DELETE CASCADE)",
            "loans refers to books (of_book), which moves: here its rows can only follow what was"
            " carried, and a deletion that is carried deletes its rows too",
        ),
        (
            "old",
            "ALTER TABLE books ADD shelf bigint CONSTRAINT of_shelf REFERENCES shelves",
            "books refers to shelves (of_shelf), which is not of this domain",
        ),
        (
            "new",
            "CREATE TABLE orders (id int PRIMARY KEY,"
            " volume bigint CONSTRAINT of_volume REFERENCES volumes)",
            "orders refers to volumes (of_volume), which moves",
        ),
        ("new", "CREATE TABLE outbox (id int)", "table outbox of branch has no mapping"),
    ],
)
def test_what_crosses_the_border_is_told_until_it_is_declared(
    library: Library, side: str, ddl: str, reason: str
) -> None:
    (library.old if side == "old" else library.new).execute(ddl.encode())
    problem = told(readiness.check(library.config, DOMAIN).warnings, reason)
    assert problem.key == f"domains.{DOMAIN}.unmapped_{side}"
    declared = declaring(library.config, problem)
    assert reason not in reasons(readiness.check(declared, DOMAIN).warnings)


def test_a_value_that_both_sides_could_give_away_is_told(library: Library) -> None:
    library.new.execute(
        "ALTER TABLE volumes ADD CONSTRAINT one_title UNIQUE (title);"
        # Below one parent, which belongs to one side: these cannot meet.
        "ALTER TABLE remarks ADD UNIQUE (volume_id, body);"
    )
    warnings = readiness.check(library.config, DOMAIN).warnings
    assert told(warnings, "title of volumes is unique on each side alone (one_title)").fix == (
        f"splitctl sync waiting {DOMAIN}"
    )
    assert "remarks is unique" not in reasons(warnings)


def test_transactions_that_a_slot_would_wait_for_are_named(
    library: Library, fresh_databases: dict[str, FreshDatabase], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "LONG_S", 0.0)
    dsn = fresh_databases["order"].dsn_as(OWNER)
    busy = psycopg.connect(dsn, autocommit=True, application_name="night report")
    busy.execute("BEGIN")
    busy.execute("INSERT INTO shelves DEFAULT VALUES")
    warned = told(readiness.check(library.config, DOMAIN).warnings, "night report, user library_ow")
    run(library.old, warned.fix)
    assert "night report" not in reasons(readiness.check(library.config, DOMAIN).warnings)
    busy.close()
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("BEGIN")
        other.execute("INSERT INTO shelves DEFAULT VALUES")
        other.execute("PREPARE TRANSACTION 'forgotten'")
        problem = told(readiness.check(library.config, DOMAIN).problems, "'forgotten'")
        assert library.old.info.dbname in problem.remedy
        run(other, problem.fix)
    assert "forgotten" not in reasons(readiness.check(library.config, DOMAIN).problems)


@contextmanager
def system_setting(connection: psycopg.Connection[Any], name: str, value: str) -> Iterator[None]:
    """A setting of the whole server, for a while."""
    try:
        run(connection, f"ALTER SYSTEM SET {name} = '{value}'; SELECT pg_reload_conf()")
        yield
    finally:
        run(connection, f"ALTER SYSTEM RESET {name}; SELECT pg_reload_conf()")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("max_slot_wal_keep_size", "64MB", "max_slot_wal_keep_size is 64 MB"),
        ("idle_replication_slot_timeout", "1h", "a slot that nobody reads for"),
    ],
)
def test_a_server_that_gives_slots_up_is_told(
    library: Library, name: str, value: str, reason: str
) -> None:
    with system_setting(library.old, name, value):
        warned = told(readiness.check(library.config, DOMAIN).warnings, reason)
        run(library.old, warned.fix)
        assert reason not in reasons(readiness.check(library.config, DOMAIN).warnings)


def test_a_log_without_a_known_end_and_slots_that_nobody_reads(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = readiness.check(library.config, DOMAIN).warnings
    unknown = "nothing tells how much log its disk can hold"
    fixes = [item for item in found if unknown in item.reason]
    assert [item.key for item in fixes] == ["databases.main", "databases.branch"]
    text = library.path.read_text()
    for item in fixes:
        text = text.replace(f"[{item.key}]", f"[{item.key}]\n{item.fix}")
    library.path.write_text(text)
    assert unknown not in reasons(readiness.check(load(library.path), DOMAIN).warnings)
    monkeypatch.setattr(servers, "FORGOTTEN_BYTES", -1)
    library.old.execute("SELECT pg_create_physical_replication_slot('old_standby', true)")
    warned = told(
        readiness.check(library.config, DOMAIN).warnings, "slot old_standby, which nobody"
    )
    run(library.old, warned.fix)
    assert "old_standby" not in reasons(readiness.check(library.config, DOMAIN).warnings)


def test_who_commits_without_waiting_for_the_disk_is_told(library: Library) -> None:
    name = library.new.info.dbname
    ddl = f"ALTER ROLE {OWNER} IN DATABASE {name} SET synchronous_commit = off"
    warned = mended(library, "warnings", ("new", ddl, f"{OWNER} commits without waiting"))
    assert warned.key == "databases.branch"


def test_clocks_that_differ_and_versions_that_were_never_tried(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {facts.database: facts for facts in readiness.check(library.config, DOMAIN).servers}
    assert set(facts) == {"main", "branch"}
    assert facts["main"].version == 18
    assert facts["main"].size > 0 and facts["main"].slots_free <= facts["main"].slots
    found = servers.Findings()
    servers.clocks(found, facts["main"], facts["branch"])
    assert found.warnings == []
    monkeypatch.setattr(
        servers,
        "CLOCK",
        "SELECT extract(epoch FROM clock_timestamp())::float8"
        " + CASE WHEN current_database() LIKE '%%\\_order' THEN 5 ELSE 0 END",
    )
    warned = told(readiness.check(library.config, DOMAIN).warnings, "are 5.0 s apart")
    assert (warned.key, warned.fix) == ("databases.main", "timedatectl set-ntp true")
    monkeypatch.setattr(servers, "NEWEST", 17)
    told_new = [w for w in readiness.check(library.config, DOMAIN).warnings if "newer" in w.reason]
    assert len(told_new) == 2
    monkeypatch.setattr(servers, "OLDEST", 19)
    assert "PostgreSQL 18 is too old" in reasons(readiness.check(library.config, DOMAIN).problems)


def test_numbers_are_looked_at_once_they_were_shared_out(library: Library) -> None:
    before = readiness.check(library.config, DOMAIN)
    assert {share.hands_out for share in before.shares} == {None}
    assert before.problems == []
    sync.enable(library.config, DOMAIN)
    after = readiness.check(library.config, DOMAIN)
    assert after.problems == []
    assert {share.column: share.hands_out for share in after.shares} == {
        "old.books.id": "odd",
        "old.notes.id": "odd",
        "new.volumes.id": "even",
        "new.remarks.id": "even",
    }
    library.old.execute("ALTER SEQUENCE books_id_seq INCREMENT 1")
    problem = told(readiness.check(library.config, DOMAIN).problems, "may hand out numbers of the")
    assert problem.fix == f"splitctl sync enable {DOMAIN}"
    sync.enable(library.config, DOMAIN)
    assert readiness.check(library.config, DOMAIN).problems == []
    library.new.execute("SELECT setval('remarks_id_seq', 9000000000000000000)")
    warned = told(readiness.check(library.config, DOMAIN).warnings, "has used 98% of its numbers")
    assert "ALTER SEQUENCE" in (warned.fix or "")


def test_slots_are_counted_for_all_domains_of_a_server(library: Library) -> None:
    """Free ones are enough for this domain, and not for its neighbour too."""
    second = library.config.domain(DOMAIN).model_copy(update={"name": "reading"})
    domains = {DOMAIN: library.config.domain(DOMAIN), "reading": second}
    config = library.config.model_copy(update={"domains": domains})
    seen = readiness.check(config, DOMAIN).servers[0]
    taken = [f"taken_{number}" for number in range(seen.slots_free - 1)]
    try:
        for name in taken:
            library.old.execute("SELECT pg_create_physical_replication_slot(%s)", (name,))
        found = readiness.check(config, DOMAIN)
        assert found.problems == []
        warned = told(found.warnings, "2 needed by all domains together, 1 free of max_repl")
        assert warned.fix == f"ALTER SYSTEM SET max_replication_slots = {seen.slots + 1};"
        sync.enable(config, DOMAIN)
        lacking = told(readiness.check(config, "reading").problems, "1 needed, 0 free of max_repl")
        assert lacking.fix == f"ALTER SYSTEM SET max_replication_slots = {seen.slots + 1};"
    finally:
        for name in taken:
            library.old.execute("SELECT pg_drop_replication_slot(%s)", (name,))


def test_what_the_worker_would_refuse_a_mapping_for_is_told_first(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> None:
    rule = 'target = "volumes"\nstray = { newest = "title" }'
    toml = TOML.replace('target = "volumes"', rule)
    library = lending.build(fresh_databases, write_config, toml=toml)
    problem = told(readiness.check(library.config, DOMAIN).problems, "compares title, no time")
    assert problem.key == f"domains.{DOMAIN}.forward.volumes"
    library.old.close()
    library.new.close()


def test_a_server_that_was_never_meant_for_this_is_made_ready(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter, tmp_path: Path
) -> None:
    """An older version than the other side's, a standby, no logical log, no slots, no fsync."""
    children = Children(tmp_path / "server")
    settings = {
        **FASTEST,
        "shared_buffers": "16MB",
        "wal_level": "replica",
        "max_replication_slots": "0",
        "max_wal_senders": "0",
    }
    place = Server("odd", tmp_path / "odd", children=children, version=16, settings=settings)
    try:
        start_all([place])
        ensure_role(place.dsn(), OWNER)
        odd = {**fresh_databases, "order": FreshDatabase("postgres", place)}
        library = lending.build(odd, write_config)
        problems = readiness.check(library.config, DOMAIN).problems
        library.old.close()
        for reason in ("wal_level is 'replica'", "free of max_replication_slots", "max_wal_sen"):
            problem = told(problems, reason)
            assert problem.key == "databases.main"
            with psycopg.connect(place.dsn(), autocommit=True) as connection:
                run(connection, problem.fix)
        (place.data / "standby.signal").touch(mode=0o644)
        place.stop()
        place.launch()
        place.await_ready()
        problems = readiness.check(library.config, DOMAIN).problems
        promote = told(problems, "its server is a standby")
        assert len(problems) == 1, reasons(problems)
        with psycopg.connect(place.dsn(), autocommit=True) as connection:
            run(connection, promote.fix)
            ready = readiness.check(library.config, DOMAIN)
            assert ready.problems == []
            assert {facts.version for facts in ready.servers} == {16, 18}
            unsafe = [
                item
                for item in ready.warnings
                if item.key == "databases.main"
                and ("is off" in item.reason or "waiting for the disk" in item.reason)
            ]
            assert len(unsafe) == 3
            for item in unsafe:
                run(connection, item.fix)
        again = readiness.check(library.config, DOMAIN).warnings
        assert not set(unsafe) & set(again)
        sync.enable(library.config, DOMAIN)
        library.new.close()
    finally:
        children.stop_all()
