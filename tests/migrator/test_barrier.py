"""Passed means passed: position and pending keys together; and writers have ended."""

import threading
import time

import psycopg
import pytest

from estate.connections import connect
from migrator import barrier, sync
from tests.conftest import FreshDatabase
from tests.migrator.library import DOMAIN, OWNER, Library, value

FORWARD = "lending.forward"


@pytest.fixture
def enabled(library: Library) -> Library:
    sync.enable(library.config, DOMAIN)
    return library


def carry(library: Library) -> None:
    """What a worker would do: move the stored position to the source's end."""
    lsn = value(library.old, "SELECT pg_current_wal_lsn()::text")
    library.new.execute(
        "UPDATE splitctl_sync.progress SET lsn = %s WHERE stream = %s", (lsn, FORWARD)
    )


def test_a_marker_is_passed_when_the_position_is_beyond_it(enabled: Library) -> None:
    with (
        connect(enabled.config.database("main"), "test") as source,
        connect(enabled.config.database("branch"), "test") as target,
    ):
        marker = barrier.mark(source, FORWARD)
        assert not barrier.passed(target, marker)
        target.execute(
            "UPDATE splitctl_sync.progress SET lsn = %s WHERE stream = %s", (marker.lsn, FORWARD)
        )
        # Exactly at the marker is not beyond it: its own commit comes after.
        assert not barrier.passed(target, marker)
        carry(enabled)
        assert barrier.passed(target, marker)


def test_the_marker_is_in_the_log_the_stream_reads(enabled: Library) -> None:
    marker_lsn = None
    with connect(enabled.config.database("main"), "test") as source:
        marker_lsn = barrier.mark(source, FORWARD).lsn
    found = enabled.old.execute(
        "SELECT lsn <= %s::pg_lsn FROM pg_logical_slot_peek_binary_changes("
        "'splitctl_lending_forward', NULL, NULL, 'proto_version', '1',"
        " 'publication_names', 'splitctl_lending_forward', 'messages', 'true')"
        " WHERE substr(data, 1, 1) = 'M'",
        (marker_lsn,),
    ).fetchall()
    assert found == [(True,)]


@pytest.mark.parametrize("table", ["spool", "waiting"])
def test_a_key_that_waits_anywhere_holds_the_barrier(enabled: Library, table: str) -> None:
    columns, values = {
        "spool": ("stream, mapping, key", "%s, 'm', '[\"1\"]'"),
        "waiting": ("stream, mapping, key, reason", "%s, 'm', '[\"1\"]', 'parent'"),
    }[table]
    insert = f"INSERT INTO splitctl_sync.{table} ({columns}) VALUES ({values})".encode()
    with (
        connect(enabled.config.database("main"), "test") as source,
        connect(enabled.config.database("branch"), "test") as target,
    ):
        marker = barrier.mark(source, FORWARD)
        carry(enabled)
        target.execute(insert, (FORWARD,))
        looked = barrier.look(target, marker)
        assert looked.position_passed
        assert looked.pending == 1
        assert not barrier.passed(target, marker)
        target.execute(f"DELETE FROM splitctl_sync.{table}".encode())
        # A key of another stream is not ours to wait for.
        target.execute(insert, ("lending.reverse",))
        assert barrier.passed(target, marker)


OLD_AND_NEW = {
    "spool": """
INSERT INTO splitctl_sync.spool (stream, mapping, key, lsn)
VALUES (%(stream)s, 'm', '["1"]', %(lsn)s::pg_lsn - 1), (%(stream)s, 'm', '["2"]', %(lsn)s),
       (%(stream)s, 'm', '["3"]', NULL)
""",
    "waiting": """
INSERT INTO splitctl_sync.waiting (stream, mapping, key, reason, lsn)
VALUES (%(stream)s, 'm', '["1"]', 'parent', %(lsn)s::pg_lsn - 1),
       (%(stream)s, 'm', '["2"]', 'parent', %(lsn)s),
       (%(stream)s, 'm', '["3"]', 'stray-pending', NULL)
""",
}


@pytest.mark.parametrize("table", OLD_AND_NEW)
def test_only_keys_that_changed_before_the_marker_hold_the_barrier(
    enabled: Library, table: str
) -> None:
    """One whose change nobody can date counts as changed before."""
    with (
        connect(enabled.config.database("main"), "test") as source,
        connect(enabled.config.database("branch"), "test") as target,
    ):
        marker = barrier.mark(source, FORWARD)
        carry(enabled)
        target.execute(OLD_AND_NEW[table].encode(), {"stream": FORWARD, "lsn": marker.lsn})
        looked = barrier.look(target, marker)
        assert (looked.position_passed, looked.pending, looked.passed) == (True, 2, False)
        if table == "waiting":
            assert (looked.contested, looked.parentless, looked.disputed) == (1, 1, True)
        for key, passed in (('["1"]', False), ('["3"]', True)):
            target.execute(f"DELETE FROM splitctl_sync.{table} WHERE key = %s".encode(), (key,))
            assert barrier.passed(target, marker) is passed
        # The next one waits for the key that is left.
        later = barrier.mark(source, FORWARD)
        carry(enabled)
        assert barrier.look(target, later).pending == 1


def test_a_stream_that_never_began_has_passed_nothing(enabled: Library) -> None:
    with connect(enabled.config.database("branch"), "test") as target:
        assert not barrier.passed(target, barrier.Marker("nobody", "0/0"))


def test_wait_ends_by_itself_and_tells_what_waits(enabled: Library) -> None:
    enabled.new.execute(
        "INSERT INTO splitctl_sync.spool (stream, mapping, key) VALUES (%s, 'm', '[\"1\"]')",
        (FORWARD,),
    )
    result = barrier.wait(enabled.forward, 0.3)
    assert not result.passed
    assert result.pending == 1
    assert 0.3 <= result.seconds < 2


def test_wait_sees_the_worker_come_by(enabled: Library) -> None:
    stop = threading.Event()

    def worker() -> None:
        while not stop.wait(0.02):
            carry(enabled)

    thread = threading.Thread(target=worker)
    thread.start()
    try:
        result = barrier.wait(enabled.forward, 10)
    finally:
        stop.set()
        thread.join()
    assert result.passed
    assert result.pending == 0
    assert result.marker.stream == FORWARD


def writer(database: FreshDatabase) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(database.dsn_as(OWNER))


def test_quiesce_waits_for_those_who_write_and_for_nobody_else(
    library: Library, fresh_databases: dict[str, FreshDatabase]
) -> None:
    place = fresh_databases["order"]
    library.old.execute("INSERT INTO books (title) VALUES ('a'), ('b')")
    with connect(library.config.database("main"), "test") as source:
        assert barrier.quiesce(source, ["books", "notes"], 1).quiet
        with writer(place) as reader, writer(place) as other, writer(place) as busy:
            reader.execute("SELECT * FROM books")
            other.execute("INSERT INTO shelves DEFAULT VALUES")
            assert barrier.quiesce(source, ["books", "notes"], 1).waited_for == 0
            busy.execute("UPDATE books SET title = 'c' WHERE id = 1")
            held = barrier.quiesce(source, ["books", "notes"], 0.2)
            assert not held
            assert held.waited_for == 1
            assert len(held.holdouts) == 1
            timer = threading.Timer(0.3, busy.commit)
            timer.start()
            ended = barrier.quiesce(source, ["books", "notes"], 10)
            timer.join()
            assert ended.quiet
            assert ended.waited_for == 1
            assert ended.seconds >= 0.2


def test_quiesce_does_not_wait_for_those_who_begin_later(
    library: Library, fresh_databases: dict[str, FreshDatabase]
) -> None:
    place = fresh_databases["order"]
    library.old.execute("INSERT INTO books (title) VALUES ('a'), ('b')")
    with (
        connect(library.config.database("main"), "test") as source,
        writer(place) as first,
        writer(place) as later,
    ):
        first.execute("UPDATE books SET title = 'c' WHERE id = 1")

        def pass_the_pen() -> None:
            later.execute("UPDATE books SET title = 'd' WHERE id = 2")
            first.commit()

        timer = threading.Timer(0.2, pass_the_pen)
        timer.start()
        assert barrier.quiesce(source, ["books"], 10).quiet
        timer.join()
        later.rollback()


def test_quiesce_waits_for_rows_locked_to_be_written_and_for_writers_in_a_queue(
    library: Library, fresh_databases: dict[str, FreshDatabase]
) -> None:
    place = fresh_databases["order"]
    library.old.execute("INSERT INTO books (title) VALUES ('a')")
    with connect(library.config.database("main"), "test") as source, writer(place) as locker:
        locker.execute("SELECT * FROM books FOR UPDATE")
        assert not barrier.quiesce(source, ["books"], 0.1)
        locker.rollback()
        locker.execute("LOCK TABLE books IN EXCLUSIVE MODE")
        queued = threading.Thread(target=insert_one, args=(place,))
        queued.start()
        for _ in range(100):
            held = barrier.quiesce(source, ["books"], 0.05)
            if held.waited_for == 2:
                break
        assert held.waited_for == 2
        locker.rollback()
        queued.join()
        assert barrier.quiesce(source, ["books"], 5)


def insert_one(place: FreshDatabase) -> None:
    with writer(place) as connection:
        connection.execute("INSERT INTO books (title) VALUES ('queued')")


def test_quiesce_waits_for_a_prepared_transaction(
    library: Library, fresh_databases: dict[str, FreshDatabase]
) -> None:
    place = fresh_databases["order"]
    with connect(library.config.database("main"), "test") as source:
        with psycopg.connect(place.dsn_as(OWNER), autocommit=True) as session:
            session.execute("BEGIN")
            session.execute("INSERT INTO books (title) VALUES ('two phases')")
            session.execute("PREPARE TRANSACTION 'quiesce one'")
        assert not barrier.quiesce(source, ["books"], 0.2)
        with psycopg.connect(place.dsn_as(OWNER), autocommit=True) as session:
            timer = threading.Timer(0.3, session.execute, ["COMMIT PREPARED 'quiesce one'"])
            timer.start()
            assert barrier.quiesce(source, ["books"], 10)
            timer.join()


def test_quiesce_follows_a_transaction_that_is_prepared_meanwhile(
    library: Library, fresh_databases: dict[str, FreshDatabase]
) -> None:
    place = fresh_databases["order"]
    with (
        connect(library.config.database("main"), "test") as source,
        psycopg.connect(place.dsn_as(OWNER), autocommit=True) as session,
    ):
        session.execute("BEGIN")
        session.execute("INSERT INTO books (title) VALUES ('two phases')")
        times: dict[str, float] = {}

        def two_phases() -> None:
            session.execute("PREPARE TRANSACTION 'quiesce two'")
            time.sleep(0.3)
            times["committed"] = time.monotonic()
            session.execute("COMMIT PREPARED 'quiesce two'")

        timer = threading.Timer(0.2, two_phases)
        timer.start()
        assert barrier.quiesce(source, ["books"], 10)
        assert time.monotonic() >= times["committed"]
        timer.join()


def test_quiesce_leaves_our_own_sessions_out(library: Library) -> None:
    database = library.config.database("main")
    with (
        connect(database, "test") as source,
        connect(database, "apply", autocommit=False) as ours,
    ):
        ours.execute("INSERT INTO books (title) VALUES ('carried')")
        assert barrier.quiesce(source, ["books"], 0.5).waited_for == 0
        ours.rollback()


def test_quiesce_of_a_table_that_is_not_there_is_an_error(library: Library) -> None:
    with (
        connect(library.config.database("main"), "test") as source,
        pytest.raises(barrier.TablesMissing, match="scrolls"),
    ):
        barrier.quiesce(source, ["books", "scrolls"], 0.1)


@pytest.mark.parametrize(
    ("passing", "disputed"),
    [
        (barrier.Passing(True, 2, contested=2), True),
        (barrier.Passing(True, 3, contested=1, parentless=2), True),  # what hangs on it
        (barrier.Passing(True, 2, contested=0, parentless=2), False),
        (barrier.Passing(True, 2, contested=1), False),  # one is spooled, or refused
        (barrier.Passing(False, 2, contested=2), False),
        (barrier.Passing(True, 0), False),
    ],
)
def test_only_keys_that_both_sides_changed_are_disputed(
    passing: barrier.Passing, disputed: bool
) -> None:
    assert passing.disputed == disputed
    assert not passing.passed or not disputed
