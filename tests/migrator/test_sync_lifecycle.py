"""Sync on, off and gone: idempotent, refused for all reasons at once, without a trace left."""

import threading
import time

import psycopg
import pytest

from estate.connections import replication_connection
from estate.errors import ExitCode
from migrator import backfill, grants, ownership, readiness, sequences, slots, status, sync
from migrator.readiness import NotReady
from migrator.teardown import NewSideOwns
from tests.conftest import FreshDatabase
from tests.migrator import library as lending
from tests.migrator.library import DOMAIN, NEW, OLD, OWNER, TOML, Library, value
from tests.migrator.parcels import until, working

TRACES = """
SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = current_database()
UNION ALL SELECT 'publication ' || pubname FROM pg_publication
UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname LIKE 'splitctl%'
UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE proname IN ('owns', 'bucket')
UNION ALL SELECT 'sequence step ' || seqrelid::regclass FROM pg_sequence WHERE seqincrement <> 1
UNION ALL SELECT 'right of the role on ' || c.relname FROM pg_class c
          WHERE c.relacl::text LIKE '%library_tool%'
UNION ALL SELECT 'table of the role: ' || c.relname FROM pg_class c
          WHERE c.relowner = (SELECT oid FROM pg_roles WHERE rolname = 'library_tool')
"""


def traces(library: Library) -> list[str]:
    """Everything of the tool that the catalogues of both databases still show."""
    return [
        str(row[0])
        for connection in (library.old, library.new)
        for row in connection.execute(TRACES.encode()).fetchall()
    ]


def states(library: Library) -> dict[str, str]:
    return {
        str(mapping): str(state)
        for connection in (library.old, library.new)
        for mapping, state in connection.execute(
            "SELECT mapping, state FROM splitctl_sync.mapping_state"
        ).fetchall()
    }


@pytest.mark.every_version
def test_enable_makes_everything_and_again_nothing(library: Library) -> None:
    first = sync.enable(library.config, DOMAIN)
    assert set(first.slots_created) == {"splitctl_lending_forward", "splitctl_lending_reverse"}
    assert set(first.publications_set) == set(first.slots_created)
    assert set(first.sequences.changed) == {
        "old.books.id",
        "new.volumes.id",
        "old.notes.id",
        "new.remarks.id",
    }
    assert states(library) == {
        "lending.forward.volumes": "spool",
        "lending.forward.volume_tags": "spool",
        "lending.forward.remarks": "spool",
        "lending.reverse.books": "live",
        "lending.reverse.notes": "live",
    }
    for connection, other, way in (
        (library.old, library.new, "forward"),
        (library.new, library.old, "reverse"),
    ):
        slot = connection.execute(
            "SELECT plugin, confirmed_flush_lsn::text FROM pg_replication_slots"
            " WHERE slot_name = %s",
            (f"splitctl_lending_{way}",),
        ).fetchone()
        progress = other.execute(
            "SELECT system_id, timeline, lsn::text FROM splitctl_sync.progress WHERE stream = %s",
            (f"lending.{way}",),
        ).fetchone()
        system = value(connection, "SELECT system_identifier::text FROM pg_control_system()")
        assert slot is not None
        assert progress is not None
        assert progress == (system, 1, slot[1])
        assert value(connection, "SELECT count(*) FROM splitctl_sync.slot_horizon") == 1
    assert slots.published(library.old, "splitctl_lending_forward") == ["books", "notes"]
    second = sync.enable(library.config, DOMAIN)
    assert (second.slots_created, second.publications_set, second.sequences.changed) == ((), (), ())


def test_enable_killed_after_any_step_is_finished_by_the_next(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step in turn dies just after it was done; the next call makes the rest."""

    class Killed(Exception):
        pass

    steps = [
        (sync.control, "install"),
        (sync.ownership, "create"),
        (sync.sequences, "share_out"),
        (sync.slots, "publish"),
        (sync.slots, "create"),
        (sync.slots, "identify"),
        (sync.states, "create"),
    ]
    for module, name in steps:
        real = getattr(module, name)

        def dying(*arguments: object, real: object = real) -> object:
            real(*arguments)  # type: ignore[operator]
            raise Killed

        with monkeypatch.context() as patch:
            # The checks use some of these too, and come before.
            patch.setattr(readiness, "require", lambda config, domain: [])
            patch.setattr(module, name, dying)
            with pytest.raises(Killed):
                sync.enable(library.config, DOMAIN)
    sync.enable(library.config, DOMAIN)
    assert len(states(library)) == 5
    assert {item.enabled for item in sync.status(library.config)} == {True}


def test_all_problems_are_told_at_once_and_nothing_is_changed(
    fresh_databases: dict[str, FreshDatabase], write_config: object
) -> None:
    library = lending.build(
        fresh_databases,
        write_config,  # type: ignore[arg-type]
        old_ddl=OLD + "ALTER TABLE notes REPLICA IDENTITY DEFAULT;",
        new_ddl=NEW
        + "ALTER TABLE volumes ADD spine text NOT NULL,"
        + " ADD loud text GENERATED ALWAYS AS (upper(title)) STORED;",
        toml=TOML.replace('{ volume_id = "id" } }', '{ volume_id = "ident" } }').replace(
            "coalesce(t.reader, t.id::text)", "coalesce(t.lector, t.id::text)"
        ),
        queries={
            "forward/volumes.sql": "SELECT id, reader, title AS loud, title AS name, added, id,"
            " reader AS splitctl_route FROM books",
            "reverse/books.sql": "SELECT id, title FROM volume WHERE 1 = 1",
        },
    )
    library.old.execute("INSERT INTO books (title) VALUES ('no reader')")
    with pytest.raises(NotReady) as caught:
        sync.enable(library.config, DOMAIN)
    text = str(caught.value)
    for part in (
        "volumes: the query gives column id twice",
        "the query gives loud, which volumes generates itself",
        "the query gives name, which volumes does not have",
        "volumes.title must have a value, and the query gives none",
        "volumes.spine must have a value",
        "the route does not fit volumes (column t.lector does not exist)",
        "source books has no column ident",
        "a change of notes would not tell its old book_id",
        'reverse.books: the query does not run (relation "volume" does not exist)',
    ):
        assert part in text
    assert caught.value.exit_code is ExitCode.PRECONDITION
    assert "sync enable lending" in caught.value.next_command
    assert traces(library) == []
    library.old.close()
    library.new.close()


def test_rows_without_a_stable_id_and_rows_that_cannot_be_read_are_problems(
    fresh_databases: dict[str, FreshDatabase], write_config: object
) -> None:
    library = lending.build(
        fresh_databases,
        write_config,  # type: ignore[arg-type]
        queries={
            "forward/volumes.sql": "SELECT id, reader, title, added,"
            " reader AS splitctl_route FROM books",
            "forward/volume_tags.sql": "SELECT id AS volume_id, title AS tag,"
            " (reader::uuid)::text AS splitctl_route FROM books WHERE reader IS NOT NULL",
        },
    )
    assert readiness.check(library.config, DOMAIN).problems == []
    library.old.execute("INSERT INTO books (title, reader) VALUES ('a', NULL), ('b', 'guest-17')")
    problems = {p.key: p.reason for p in readiness.check(library.config, DOMAIN).problems}
    assert "null" in problems["domains.lending.forward.volumes"]
    assert "guest-17" in problems["domains.lending.forward.volume_tags"]
    library.old.close()
    library.new.close()


def test_a_role_without_its_rights_is_told_which_script_gives_them(library: Library) -> None:
    library.old.execute("ALTER ROLE library_tool NOREPLICATION")
    try:
        with pytest.raises(Exception, match="REPLICATION") as caught:
            sync.enable(library.config, DOMAIN)
        library.old.execute("ALTER ROLE library_tool REPLICATION")
        name = value(library.old, "SELECT current_database()")
        library.old.execute(f"REVOKE CREATE ON DATABASE {name} FROM library_tool".encode())
        library.old.execute(f"REVOKE {OWNER} FROM library_tool".encode())
        with pytest.raises(NotReady) as caught_not_ready:
            sync.enable(library.config, DOMAIN)
        text = str(caught_not_ready.value)
        assert "may not create a schema" in text
        assert "no member of 'library_owner'" in text
        assert "sync grants main" in text
    finally:
        library.old.execute(grants.script(library.config, "main").encode())
    del caught
    sync.enable(library.config, DOMAIN)


def test_no_free_slot_is_told_before_anything_is_made(library: Library) -> None:
    free = value(
        library.old,
        "SELECT current_setting('max_replication_slots')::int - count(*)::int"
        " FROM pg_replication_slots",
    )
    for number in range(free):
        library.old.execute("SELECT pg_create_physical_replication_slot(%s)", (f"taken_{number}",))
    try:
        with pytest.raises(NotReady, match="max_replication_slots"):
            sync.enable(library.config, DOMAIN)
        assert traces(library) == []
    finally:
        for number in range(free):
            library.old.execute("SELECT pg_drop_replication_slot(%s)", (f"taken_{number}",))


def test_a_transaction_that_blocks_the_slot_is_named(
    library: Library, fresh_databases: dict[str, FreshDatabase], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "CREATE_LIMIT", "500ms")
    dsn = fresh_databases["order"].dsn_as(OWNER)
    with psycopg.connect(dsn, application_name="night report") as busy:
        busy.execute("INSERT INTO shelves DEFAULT VALUES")
        with pytest.raises(slots.SlotBlocked, match="night report"):
            sync.enable(library.config, DOMAIN)
        assert value(library.old, "SELECT count(*) FROM pg_replication_slots") == 0
    sync.enable(library.config, DOMAIN)


def test_a_prepared_transaction_that_blocks_the_slot_is_named(
    library: Library, fresh_databases: dict[str, FreshDatabase], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "CREATE_LIMIT", "500ms")
    dsn = fresh_databases["order"].dsn_as(OWNER)
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("BEGIN")
        session.execute("INSERT INTO shelves DEFAULT VALUES")
        session.execute("PREPARE TRANSACTION 'forgotten'")
        with pytest.raises(slots.SlotBlocked, match="prepared transaction 'forgotten'"):
            sync.enable(library.config, DOMAIN)
        session.execute("COMMIT PREPARED 'forgotten'")
    sync.enable(library.config, DOMAIN)


def test_a_slot_that_vanished_is_never_made_anew_in_silence(library: Library) -> None:
    sync.enable(library.config, DOMAIN)
    library.old.execute("SELECT pg_drop_replication_slot('splitctl_lending_forward')")
    with pytest.raises(sync.SlotLost) as caught:
        sync.enable(library.config, DOMAIN)
    assert "teardown lending" in caught.value.next_command
    forward = sync.status(library.config)[0]
    assert not forward.enabled
    assert forward.problem is not None
    assert "gone" in forward.problem


def copied(library: Library) -> None:
    """As if the backfill had ended and the worker had gone live."""
    library.new.execute("UPDATE splitctl_sync.backfill SET state = 'copied'")
    library.new.execute("UPDATE splitctl_sync.mapping_state SET state = 'live'")


def test_disable_lets_keys_wait_and_enable_lets_them_go(library: Library) -> None:
    sync.enable(library.config, DOMAIN)
    copied(library)
    assert sync.disable(library.config, DOMAIN).mappings_to_spool == 5
    assert set(states(library).values()) == {"spool"}
    assert {item.enabled for item in sync.status(library.config)} == {False}
    assert sync.disable(library.config, DOMAIN).mappings_to_spool == 0
    assert sync.enable(library.config, DOMAIN).resumed == 5
    assert set(states(library).values()) == {"drain"}
    assert {item.enabled for item in sync.status(library.config)} == {True}


def test_enable_does_not_let_go_what_is_not_copied(library: Library) -> None:
    sync.enable(library.config, DOMAIN)
    sync.disable(library.config, DOMAIN)
    sync.enable(library.config, DOMAIN)
    assert states(library)["lending.forward.volumes"] == "spool"
    assert states(library)["lending.reverse.books"] == "drain"


def test_disable_is_refused_while_the_new_side_owns_anyone(library: Library) -> None:
    sync.enable(library.config, DOMAIN)
    # Half a step: only the losing side's database says so yet.
    ownership.switch(library.old, DOMAIN, 1000, 2)
    with pytest.raises(sync.StillCarrying, match="1000") as caught:
        sync.disable(library.config, DOMAIN)
    assert "rollback lending" in caught.value.next_command
    assert states(library)["lending.reverse.books"] == "live"
    ownership.switch_both(library.config, DOMAIN, 0, 3, "new")
    sync.disable(library.config, DOMAIN)


def test_teardown_is_refused_while_customers_live_on_the_new_side(library: Library) -> None:
    """It would drop the way back of everything that they write."""
    sync.enable(library.config, DOMAIN)
    ownership.switch_both(library.config, DOMAIN, 5000, 2, "old")
    before = traces(library)
    with pytest.raises(NewSideOwns, match="below 5000"):
        sync.teardown(library.config, DOMAIN)
    assert traces(library) == before
    ownership.switch_both(library.config, DOMAIN, 0, 3, "new")
    sync.teardown(library.config, DOMAIN)
    assert traces(library) == []


@pytest.mark.every_version
def test_teardown_leaves_nothing_and_again_nothing_to_do(library: Library) -> None:
    library.old.execute("INSERT INTO books (title) SELECT 'book ' || n FROM generate_series(1,9) n")
    sync.enable(library.config, DOMAIN)
    # Rows carried from the other side lie above what this side's sequence has handed out.
    library.new.execute("INSERT INTO volumes (id, title, added) VALUES (501, 'carried', now())")
    library.new.execute(
        "INSERT INTO splitctl_sync.spool VALUES ('lending.forward', 'm', '[\"1\"]')"
    )
    result = sync.teardown(library.config, DOMAIN)
    assert traces(library) == []
    assert result.left == ()
    assert result.unreachable == ()
    assert result.exit_code is ExitCode.DONE
    assert "main: slot splitctl_lending_forward" in result.removed
    assert "branch: schema splitctl_sync" in result.removed
    assert all("grants" in line for line in result.for_the_dba)
    new_id = value(
        library.new, "INSERT INTO volumes (title, added) VALUES ('x', now()) RETURNING id"
    )
    assert new_id == 502
    assert value(library.old, "SELECT count(*) FROM books") == 9
    assert sync.teardown(library.config, DOMAIN).removed == ()
    sync.enable(library.config, DOMAIN)
    sync.teardown(library.config)
    assert traces(library) == []


def test_teardown_of_a_split_that_was_abandoned_half_way(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [
        (sync.control, "install"),
        (sync.ownership, "create"),
        (sync.sequences, "share_out"),
        (sync.slots, "publish"),
        (sync.slots, "create"),
        (sync.states, "create"),
    ]
    for module, name in steps:
        real = getattr(module, name)

        def dying(*arguments: object, real: object = real) -> object:
            real(*arguments)  # type: ignore[operator]
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(readiness, "require", lambda config, domain: [])
            patch.setattr(module, name, dying)
            with pytest.raises(KeyboardInterrupt):
                sync.enable(library.config, DOMAIN)
        sync.teardown(library.config)
        assert traces(library) == [], name


def test_teardown_ends_our_own_reader_of_the_slot(library: Library) -> None:
    sync.enable(library.config, DOMAIN)
    reader = replication_connection(library.config.database("main"), "sync lending.forward")
    reader.send_query(
        b"START_REPLICATION SLOT splitctl_lending_forward LOGICAL 0/0"
        b" (proto_version '1', publication_names 'splitctl_lending_forward')"
    )
    deadline = time.monotonic() + 10
    while not value(library.old, "SELECT bool_or(active) FROM pg_replication_slots"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    sync.teardown(library.config, DOMAIN)
    reader.finish()
    assert traces(library) == []


def test_teardown_waits_for_a_worker_that_is_about_to_commit(library: Library) -> None:
    sync.enable(library.config, DOMAIN)
    with library.config and psycopg.connect(library.new.info.dsn) as worker:
        worker.execute("UPDATE splitctl_sync.progress SET updated_at = now()")
        timer = threading.Timer(1, worker.commit)
        timer.start()
        sync.teardown(library.config, DOMAIN)
        timer.join()
    assert traces(library) == []


def test_teardown_with_a_database_away_removes_the_rest_and_says_so(
    library: Library, fresh_databases: dict[str, FreshDatabase]
) -> None:
    sync.enable(library.config, DOMAIN)
    name = fresh_databases["checkout"].name
    with psycopg.connect(fresh_databases["checkout"].server.dsn(), autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 0".encode())
        result = sync.teardown(library.config, DOMAIN)
        assert len(result.unreachable) == 1
        assert result.unreachable[0].startswith("branch:")
        assert result.exit_code is ExitCode.PRECONDITION
        assert value(library.old, "SELECT count(*) FROM pg_replication_slots") == 0
        unknown = {item.stream: item.problem for item in sync.status(library.config)}
        assert unknown["lending.forward"] is not None
        admin.execute(f"ALTER DATABASE {name} CONNECTION LIMIT -1".encode())
    assert sync.teardown(library.config, DOMAIN).unreachable == ()
    assert traces(library) == []


def test_two_domains_in_one_database_do_not_tear_each_other_down(
    fresh_databases: dict[str, FreshDatabase], write_config: object
) -> None:
    second = """
[domains.shelving]
old = "main"
new = "branch"
flag = "A"
percentage = "B"
phases = [{ percentage = 100, soak = "1s" }]
[[domains.shelving.forward]]
target = "racks"
query = "mappings/forward/racks.sql"
key = ["id"]
route = "t.id::text"
sources = { shelves = { id = "id" } }
[[domains.shelving.reverse]]
target = "shelves"
query = "mappings/reverse/shelves.sql"
key = ["id"]
route = "t.id::text"
sources = { racks = { id = "id" } }
"""
    library = lending.build(
        fresh_databases,
        write_config,  # type: ignore[arg-type]
        new_ddl=NEW + "CREATE TABLE racks (id bigserial PRIMARY KEY);",
        toml=TOML + second,
        queries={
            "forward/racks.sql": "SELECT id, id::text AS splitctl_route FROM shelves",
            "reverse/shelves.sql": "SELECT id, id::text AS splitctl_route FROM racks",
        },
    )
    sync.enable(library.config, DOMAIN)
    sync.enable(library.config, "shelving")
    result = sync.teardown(library.config, DOMAIN)
    assert "main: slot splitctl_shelving_forward" in result.left
    assert sequences.check(library.config, "shelving") == []
    assert len(states(library)) == 2
    assert value(library.old, "SELECT string_agg(domain, ',') FROM splitctl_sync.owner") == (
        "shelving"
    )
    sync.teardown(library.config, "shelving")
    assert traces(library) == []
    library.old.close()
    library.new.close()


def test_status_before_enable_is_empty_and_true(library: Library) -> None:
    found = sync.status(library.config)
    assert [item.stream for item in found] == ["lending.forward", "lending.reverse"]
    assert not any(item.enabled or item.worker_alive or item.problem for item in found)
    sync.enable(library.config, DOMAIN)
    library.old.execute("INSERT INTO books (title) VALUES ('x')")
    forward = sync.status(library.config)[0]
    assert forward.enabled
    assert not forward.worker_alive
    assert forward.heartbeat_age_ms is None
    assert forward.lag_ms is None
    assert forward.lag_bytes is not None
    assert forward.lag_bytes > 0
    library.new.execute(
        "UPDATE splitctl_sync.progress SET heartbeat_at = now() - interval '5 s'"
        " WHERE stream = 'lending.forward'"
    )
    aged = sync.status(library.config)[0]
    assert aged.heartbeat_age_ms is not None
    assert 4_900 < aged.heartbeat_age_ms < 60_000
    assert aged.lag_ms is not None
    assert aged.lag_ms >= 3_900, "the heartbeat's round trip counts, not only our own position"


def test_a_worker_lives_through_enable_disable_teardown_and_enable(library: Library) -> None:
    def title(text: str) -> bool:
        return bool(value(library.new, "SELECT 1 FROM volumes WHERE title = %s", text))

    with working(library.config):
        library.old.execute("INSERT INTO books (title) VALUES ('first')")
        sync.enable(library.config, DOMAIN)
        backfill.run(library.config, DOMAIN, on_progress=lambda _: None)
        assert title("first")
        until(lambda: all(item.worker_alive for item in sync.status(library.config)), 20)
        sync.disable(library.config, DOMAIN)
        library.old.execute("INSERT INTO books (title) VALUES ('second')")
        # volumes, and volume_tags, which comes from the same base table, and remarks.
        until(lambda: sync.status(library.config)[0].spooled == 3, 20)
        assert not title("second")
        sync.enable(library.config, DOMAIN)
        until(lambda: title("second"), 20)
        until(lambda: set(states(library).values()) == {"live"}, 20)
        sync.teardown(library.config)
        assert traces(library) == []
        assert not any(item.worker_alive for item in sync.status(library.config))
        sync.enable(library.config, DOMAIN)
        library.old.execute("INSERT INTO books (title) VALUES ('third')")
        backfill.run(library.config, DOMAIN, on_progress=lambda _: None)
        until(lambda: title("third"), 20)
        assert value(library.new, "SELECT count(*) FROM volumes") == 3


def test_a_forgotten_transaction_that_holds_the_log_is_named(
    library: Library, fresh_databases: dict[str, FreshDatabase], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "HELD_BYTES", 100_000)
    sync.enable(library.config, DOMAIN)
    dsn = fresh_databases["order"].dsn_as(OWNER)
    with working(library.config), psycopg.connect(dsn, autocommit=True) as session:
        session.execute("BEGIN")
        session.execute("INSERT INTO shelves DEFAULT VALUES")
        session.execute("PREPARE TRANSACTION 'forgotten'")
        library.old.execute("INSERT INTO shelves SELECT FROM generate_series(1, 5000)")
        library.old.execute("CHECKPOINT")
        forward = until(lambda: (it := sync.status(library.config)[0]).held_by and it, 20)
        session.execute(forward.end_it_with)
    assert "prepared transaction 'forgotten' (user library_owner) since 2" in forward.held_by
    assert forward.restart_lsn is not None


def test_status_names_an_old_transaction_before_it_does_harm(
    library: Library, fresh_databases: dict[str, FreshDatabase], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "OLD_S", 0.0)
    sync.enable(library.config, DOMAIN)
    assert sync.status(library.config)[0].oldest_transaction is None
    dsn = fresh_databases["order"].dsn_as(OWNER)
    with psycopg.connect(dsn, application_name="night report") as busy:
        busy.execute("INSERT INTO shelves DEFAULT VALUES")
        forward = sync.status(library.config)[0]
        assert "night report, user library_owner" in (forward.oldest_transaction or "")
        assert forward.held_by is None
        assert str(busy.info.backend_pid) in (forward.end_it_with or "")


def test_a_slot_that_the_server_gave_up_is_told_and_never_gone_on_with(library: Library) -> None:
    """max_slot_wal_keep_size was reached: everything since then is unknown."""
    sync.enable(library.config, DOMAIN)
    query = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s"
    library.old.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
    try:
        library.old.execute("SELECT pg_reload_conf()")

        def lost() -> bool:
            library.old.execute("INSERT INTO shelves DEFAULT VALUES")
            library.old.execute("SELECT pg_switch_wal()")
            library.old.execute("CHECKPOINT")
            return value(library.old, query, "splitctl_lending_forward") == "lost"

        until(lost, 60)
    finally:
        library.old.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
        library.old.execute("SELECT pg_reload_conf()")
    assert "its slot is lost" in (sync.status(library.config)[0].problem or "")
    with pytest.raises(sync.SlotLost, match="is lost in database 'main'") as caught:
        sync.enable(library.config, DOMAIN)
    assert "teardown" in caught.value.next_command


def test_status_tells_the_room_that_is_left_where_a_limit_is_known(library: Library) -> None:
    sync.enable(library.config, DOMAIN)
    forward = sync.status(library.config)[0]
    assert forward.log_left_bytes is None and forward.log_full_in_s is None
    main = library.config.database("main").model_copy(update={"wal_disk": 2**30})
    databases = {**library.config.databases, "main": main}
    limited = sync.status(library.config.model_copy(update={"databases": databases}))[0]
    assert limited.log_limited_by == "wal_disk"
    assert limited.log_left_bytes is not None and 0 < limited.log_left_bytes < 2**30
    assert limited.log_full_in_s is not None and limited.log_full_in_s > 0


def test_what_is_odd_but_works_is_a_warning(library: Library) -> None:
    library.new.execute(
        "CREATE TABLE lost_property (id int);"
        "CREATE FUNCTION ring() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        "CREATE TRIGGER bell BEFORE INSERT ON volumes FOR EACH ROW EXECUTE FUNCTION ring();"
    )
    library.old.execute("DROP INDEX notes_book_id_idx")
    found = readiness.check(library.config, DOMAIN)
    assert found.problems == []
    text = "\n".join(map(str, found.warnings))
    assert "trigger bell of volumes fires for carried rows too" in text
    assert "table lost_property of branch has no mapping" in text
    assert "no index of notes begins with book_id" in text
    assert "no index of remarks begins with volume_id" in text


def test_a_slot_of_the_same_name_in_another_database_is_a_problem(
    library: Library, fresh_databases: dict[str, FreshDatabase]
) -> None:
    with fresh_databases["ledger"].connect() as other:
        other.execute(
            "SELECT pg_create_logical_replication_slot('splitctl_lending_forward', 'pgoutput')"
        )
        with pytest.raises(NotReady, match="is on the same server"):
            sync.enable(library.config, DOMAIN)


def test_a_publication_that_cannot_lock_its_tables_names_the_transaction(
    library: Library, fresh_databases: dict[str, FreshDatabase], monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(
        fresh_databases["order"].dsn_as(OWNER), application_name="index builder"
    ) as busy:
        busy.execute("INSERT INTO shelves DEFAULT VALUES")
        busy.execute("LOCK TABLE notes IN SHARE UPDATE EXCLUSIVE MODE")
        with pytest.raises(slots.TablesBusy, match="index builder"):
            sync.enable(library.config, DOMAIN)
