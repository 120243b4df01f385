"""The copy of what was there, in chunks: under writes, killed anywhere, and never over what sync
decided. How empty tables are filled stands in test_filling.py."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from estate.config import load
from migrator import backfill, barrier, chunk, copying, ownership, setaside, slots, sync
from migrator.backfill import BackfillProgress, BackfillResult, BackfillRunning, BackfillStalled
from migrator.chunk import RowNotCarried
from tests.conftest import ConfigWriter, FreshDatabase
from tests.migrator import library as lending
from tests.migrator.library import DOMAIN, NEW, OWNER, Library, value
from tests.migrator.parcels import Post, until, working

FORWARD = "lending.forward"
SEED = """
INSERT INTO books (reader, title, tags)
SELECT CASE WHEN n % 3 = 0 THEN NULL ELSE 'reader ' || n % 50 END, E'title\t' || n || E'\\\\',
       CASE WHEN n % 2 = 0 THEN '["a", "b", "a"]' ELSE '[]' END::jsonb
  FROM generate_series(1, %s) n;
"""
NOTES = (
    "INSERT INTO notes (book_id, body) SELECT id, 'note ' || id FROM books, generate_series(1,3)"
)


@pytest.fixture(autouse=True)
def in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a table is empty: the careful way must hold for all of them."""
    monkeypatch.setattr(setaside, "take", lambda *_: "the test says so")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "CHUNK_KEYS", 7)


@pytest.fixture
def enabled(library: Library) -> Library:
    library.old.execute(SEED.replace("%s", "60").encode())
    library.old.execute(NOTES)
    sync.enable(library.config, DOMAIN)
    return library


def quietly(progress: BackfillProgress) -> None:
    del progress


def run(library: Library) -> BackfillResult:
    return backfill.run(library.config, DOMAIN, on_progress=quietly)


def let_live(library: Library) -> None:
    """Without a worker: what was let go is called live, so that a run comes to its end."""
    library.new.execute("UPDATE splitctl_sync.mapping_state SET state = 'live'")


def copy_only(library: Library, monkeypatch: pytest.MonkeyPatch) -> BackfillResult:
    with monkeypatch.context() as patch:
        patch.setattr(backfill, "_await_live", lambda *_: None)
        return run(library)


def differences(library: Library) -> dict[str, tuple[list[Any], list[Any]]]:
    """What the forward queries give and the new tables do not hold, and the other way round."""
    found = {}
    for mapping in library.forward.mappings:
        query = f"SELECT * FROM ({mapping.config.sql}\n) q"
        cursor = library.old.execute(query.encode())
        names = [c.name for c in cursor.description or () if c.name != "splitctl_route"]
        columns = ", ".join(names)
        wanted = library.old.execute(
            f"SELECT {columns} FROM ({mapping.config.sql}\n) q".encode()
        ).fetchall()
        held = library.new.execute(f"SELECT {columns} FROM {mapping.target}".encode()).fetchall()
        if sorted(map(str, wanted)) != sorted(map(str, held)):
            found[mapping.name] = (
                sorted(set(wanted) - set(held)),
                sorted(set(held) - set(wanted)),
            )
    return found


def spooled(library: Library) -> list[tuple[Any, ...]]:
    return library.new.execute(
        "SELECT mapping, key FROM splitctl_sync.spool ORDER BY mapping, key"
    ).fetchall()


@pytest.mark.usefixtures("small_chunks")
def test_everything_is_copied_in_chunks_and_let_go(
    enabled: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = copy_only(enabled, monkeypatch)
    assert differences(enabled) == {}
    rows = {item.mapping: item.rows for item in result.mappings}
    assert rows == {
        FORWARD + ".volumes": 60,
        FORWARD + ".volume_tags": 60,
        FORWARD + ".remarks": 180,
    }
    assert result.rows == result.copied_now == 300
    volumes = next(item for item in result.mappings if item.mapping.endswith(".volumes"))
    # Nine chunks of seven keys and the look that finds no more.
    assert volumes.chunks == 10
    assert (volumes.copy, volumes.sync) == ("copied", "drain")
    assert volumes.started_at is not None
    assert volumes.finished_at is not None
    assert spooled(enabled) == []
    again = copy_only(enabled, monkeypatch)
    assert (again.rows, again.copied_now) == (300, 0)


def test_what_it_writes_is_marked_in_every_transaction(
    enabled: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_only(enabled, monkeypatch)
    rows = enabled.new.execute(
        "SELECT xid::text, substr(data, 1, 1), position('splitctl.applied'::bytea IN data) > 0"
        " FROM pg_logical_slot_peek_binary_changes('splitctl_lending_reverse', NULL, NULL,"
        " 'proto_version', '1', 'publication_names', 'splitctl_lending_reverse',"
        " 'messages', 'true')"
    ).fetchall()
    written = 0
    first_message: dict[str, bool] = {}
    for xid, kind, is_mark in rows:
        if kind in (b"M", b"I", b"U", b"D"):
            first_message.setdefault(xid, kind == b"M" and is_mark)
        written += kind == b"I"
    assert written > 100
    changed = {xid for xid, kind, _ in rows if kind == b"I"}
    assert all(first_message[xid] for xid in changed)


def test_under_writes_with_the_worker_both_sides_end_equal(
    library: Library,
    fresh_databases: dict[str, FreshDatabase],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(copying, "CHUNK_KEYS", 40)
    library.old.execute(SEED.replace("%s", "1500").encode())
    library.old.execute(NOTES)
    sync.enable(library.config, DOMAIN)
    stop = threading.Event()
    failures: list[Exception] = []

    def shop(number: int) -> None:
        try:
            with psycopg.connect(fresh_databases["order"].dsn_as(OWNER), autocommit=True) as shop:
                turn = 0
                while not stop.is_set():
                    turn += 1
                    victim = (turn * 37 + number * 11) % 1500 + 1
                    shop.execute("UPDATE books SET title = %s WHERE id = %s", (f"{turn}", victim))
                    shop.execute("INSERT INTO books (title, tags) VALUES ('new', '[\"n\"]')")
                    shop.execute(
                        "INSERT INTO notes (book_id, body) SELECT id, 'late' FROM books"
                        " WHERE id = %s",
                        (victim,),
                    )
                    shop.execute("DELETE FROM books WHERE id = %s", (victim + 1,))
                    shop.execute(
                        "UPDATE notes SET book_id = (SELECT max(id) FROM books) WHERE id = %s",
                        (victim,),
                    )
                    stop.wait(0.004)
        except psycopg.Error as error:
            failures.append(error)

    shoppers = [threading.Thread(target=shop, args=(n,)) for n in range(2)]
    seen: list[BackfillProgress] = []
    with working(library.config):
        for shopper in shoppers:
            shopper.start()
        try:
            result = backfill.run(library.config, DOMAIN, on_progress=seen.append)
        finally:
            stop.set()
            for shopper in shoppers:
                shopper.join()
        assert not failures
        assert {item.sync for item in result.mappings} == {"live"}
        settle(library)
    assert differences(library) == {}
    assert value(library.new, "SELECT count(*) FROM splitctl_sync.stray") == 0
    assert value(library.old, "SELECT count(*) FROM splitctl_sync.stray") == 0
    assert {"copying", "draining"} <= {progress.doing for progress in seen}


def settle(library: Library) -> None:
    for stream in (library.forward, library.reverse):
        result = barrier.wait(stream, 20)
        assert result.passed, result


def test_a_chunk_never_overwrites_and_never_resurrects(
    enabled: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that stands there was written by somebody who knew better; a deleted one is spooled."""
    enabled.new.execute(
        "INSERT INTO volumes (id, title, added, seen) VALUES (5, 'written by sync', now(), 9)"
    )
    copy_only(enabled, monkeypatch)
    row = enabled.new.execute("SELECT title, seen FROM volumes WHERE id = 5").fetchone()
    assert row == ("written by sync", 9)


def test_a_deletion_between_the_read_of_a_chunk_and_its_commit_wins(
    enabled: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = chunk.carry

    def slow(source: Any, target: Any, shape: Any, *rest: Any) -> int:
        rows = real(source, target, shape, *rest)
        if shape.mapping.target == "volumes":
            enabled.old.execute("DELETE FROM books WHERE id = 3")
            # The worker meets the deletion while the chunk is not committed yet.
            until(lambda: "lending.forward.volumes" in str(spooled(enabled)), 10)
        return rows

    monkeypatch.setattr(chunk, "carry", slow)
    with working(enabled.config):
        run(enabled)
        settle(enabled)
    assert differences(enabled) == {}
    assert value(enabled.new, "SELECT count(*) FROM volumes WHERE id = 3") == 0


def killed_in(point: int, path: Path) -> None:
    """In a process of its own: die without a word before the commit of chunk number `point`."""
    seen = 0
    real = chunk.carry

    def dying(*arguments: Any) -> int:
        nonlocal seen
        seen += 1
        rows = real(*arguments)
        if seen == point:
            os.kill(os.getpid(), signal.SIGKILL)
        return rows

    chunk.carry = dying
    copying.CHUNK_KEYS = 16
    backfill.run(load(path), DOMAIN, on_progress=quietly)


def test_killed_at_any_chunk_the_next_run_goes_on(
    enabled: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "CHUNK_KEYS", 16)
    context = multiprocessing.get_context("fork")
    rows_before = -1
    for point in (1, 2, 4, 4):
        process = context.Process(target=killed_in, args=(point, enabled.path))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        rows = value(enabled.new, "SELECT sum(rows) FROM splitctl_sync.backfill")
        # What was committed before stays; the chunk that died left nothing.
        assert rows >= rows_before
        rows_before = rows
    assert rows_before > 0
    result = copy_only(enabled, monkeypatch)
    assert differences(enabled) == {}
    assert result.rows == 300
    assert 0 < result.copied_now < 300


def test_a_row_whose_parent_is_not_there_waits_in_the_spool(
    enabled: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent was deleted on the source after its own table had been copied."""
    real = chunk.carry

    def meanwhile(source: Any, target: Any, shape: Any, *rest: Any) -> int:
        if shape.mapping.target == "volumes":
            rows = real(source, target, shape, *rest)
            target.execute("DELETE FROM volumes WHERE id IN (2, 4)")
            return rows
        return real(source, target, shape, *rest)

    monkeypatch.setattr(chunk, "carry", meanwhile)
    result = copy_only(enabled, monkeypatch)
    assert spooled(enabled) == [
        (FORWARD + ".remarks", ["2"]),
        (FORWARD + ".remarks", ["4"]),
        (FORWARD + ".volume_tags", ["2"]),
        (FORWARD + ".volume_tags", ["4"]),
    ]
    assert sum(item.pending for item in result.mappings) == 4
    assert value(enabled.new, "SELECT count(*) FROM remarks") == 174


def test_rows_that_hang_on_each_other_within_a_table(
    fresh_databases: dict[str, FreshDatabase],
    write_config: ConfigWriter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = lending.build(
        fresh_databases,
        write_config,
        new_ddl=NEW + "ALTER TABLE volumes ADD sequel_of bigint REFERENCES volumes;",
        queries={
            "forward/volumes.sql": "SELECT id, reader, title, added,"
            " nullif(id - 1, 0) * CASE WHEN id = 50 THEN -1 ELSE 1 END AS sequel_of,"
            " coalesce(reader, id::text) AS splitctl_route FROM books",
        },
    )
    library.old.execute(SEED.replace("%s", "60").encode())
    sync.enable(library.config, DOMAIN)
    copy_only(library, monkeypatch)
    # Book 50 hangs on one that never was, and all that follow hang on it.
    assert value(library.new, "SELECT max(id) FROM volumes") == 49
    waiting = {key[0] for mapping, key in spooled(library) if mapping.endswith(".volumes")}
    assert waiting == {str(n) for n in range(50, 61)}
    library.old.close()
    library.new.close()


def test_a_row_that_meets_another_unique_value_is_left_to_apply(
    fresh_databases: dict[str, FreshDatabase],
    write_config: ConfigWriter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = lending.build(
        fresh_databases, write_config, new_ddl=NEW + "CREATE UNIQUE INDEX ON volumes (title);"
    )
    library.old.execute("INSERT INTO books (title) VALUES ('a'), ('b'), ('a')")
    sync.enable(library.config, DOMAIN)
    copy_only(library, monkeypatch)
    assert value(library.new, "SELECT count(*) FROM volumes") == 2
    assert (FORWARD + ".volumes", ["3"]) in spooled(library)
    library.old.close()
    library.new.close()


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("query", "spoil", "key", "reason"),
    [
        (  # The query itself cannot produce it.
            "SELECT id, title, added, (title::int)::text AS reader, 'r' AS splitctl_route"
            " FROM books",
            "UPDATE books SET title = id; UPDATE books SET title = 'guest-17' WHERE id = 33",
            "id = 33",
            "guest-17",
        ),
        (  # The target's column refuses it.
            None,
            "UPDATE notes SET body = repeat('x', 41) WHERE id = 101",
            "volume_id = 41",
            "too long",
        ),
        (  # Nobody knows whom it belongs to.
            "SELECT id, reader, title, added, CASE WHEN id = 33 THEN NULL ELSE 'r' END"
            " AS splitctl_route FROM books",
            "SELECT 1",
            "id = 33",
            "splitctl_route",
        ),
    ],
)
def test_a_row_that_cannot_be_carried_is_named(
    fresh_databases: dict[str, FreshDatabase],
    write_config: ConfigWriter,
    monkeypatch: pytest.MonkeyPatch,
    query: str | None,
    spoil: str,
    key: str,
    reason: str,
) -> None:
    queries = {"forward/volumes.sql": query} if query else {}
    library = lending.build(fresh_databases, write_config, queries=queries)
    sync.enable(library.config, DOMAIN)
    library.old.execute(SEED.replace("%s", "60").encode())
    library.old.execute("ALTER SEQUENCE notes_id_seq INCREMENT 1 RESTART 1")
    library.old.execute("UPDATE books SET id = -id; UPDATE books SET id = (1 - id) / 2")
    library.old.execute("INSERT INTO notes (book_id, body) SELECT id, 'n' FROM books ORDER BY id")
    library.old.execute("UPDATE notes SET id = id + 60")
    library.old.execute(spoil.encode())
    with pytest.raises(RowNotCarried) as caught:
        copy_only(library, monkeypatch)
    text = str(caught.value)
    assert key in text
    assert reason in text
    assert ".sql" in caught.value.next_command
    # What was copied before it stays, and nothing is called copied that is not.
    assert value(library.new, "SELECT count(*) FROM volumes") >= 28
    states = dict(
        library.new.execute("SELECT mapping, state FROM splitctl_sync.backfill").fetchall()
    )
    assert "copying" in states.values()
    library.old.close()
    library.new.close()


def test_it_waits_for_transactions_that_were_under_way_at_the_slot(
    library: Library,
    fresh_databases: dict[str, FreshDatabase],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What committed before the slot began may be invisible for a while."""
    library.old.execute(SEED.replace("%s", "3").encode())
    sync.enable(library.config, DOMAIN)
    with psycopg.connect(
        fresh_databases["order"].dsn_as(OWNER), application_name="slow commit"
    ) as slow:
        slow.execute("INSERT INTO shelves DEFAULT VALUES")
        # As if the horizon had been recorded while it was under way.
        library.old.execute("UPDATE splitctl_sync.slot_horizon SET below = pg_current_xact_id()")
        monkeypatch.setattr(copying, "HORIZON_LIMIT_S", 0.3)
        with pytest.raises(copying.TransactionsUnderWay, match="slow commit"):
            copy_only(library, monkeypatch)
        assert value(library.new, "SELECT count(*) FROM volumes") == 0
        monkeypatch.setattr(copying, "HORIZON_LIMIT_S", 20)
        slow.execute("INSERT INTO books (title) VALUES ('seen')")
        timer = threading.Timer(0.5, slow.commit)
        timer.start()
        copy_only(library, monkeypatch)
        timer.join()
    assert value(library.new, "SELECT count(*) FROM volumes WHERE title = 'seen'") == 1


def test_the_horizon_is_recorded_after_the_slot(library: Library) -> None:
    sync.enable(library.config, DOMAIN)
    row = library.old.execute(
        "SELECT below >= (SELECT coalesce(catalog_xmin, xmin)::text::xid8 FROM"
        " pg_replication_slots WHERE slot_name = 'splitctl_lending_forward')"
        " FROM splitctl_sync.slot_horizon WHERE stream = %s",
        (FORWARD,),
    ).fetchone()
    assert row == (True,)


def test_without_sync_nothing_is_copied(library: Library) -> None:
    with pytest.raises(backfill.NotEnabled):
        run(library)
    sync.enable(library.config, DOMAIN)
    slots.drop(library.old, "splitctl_lending_forward", "main")
    with pytest.raises(backfill.NotEnabled):
        run(library)


def test_two_at_once_are_refused(enabled: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill, "LOCK_LIMIT_S", 0.2)
    with psycopg.connect(enabled.new.info.dsn, autocommit=True) as other:
        other.execute(backfill.LOCK, (FORWARD,))
        with pytest.raises(BackfillRunning):
            run(enabled)


def test_without_a_worker_it_says_so_after_a_while(
    enabled: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "STALL_LIMIT_S", 0.5)
    started = time.monotonic()
    with pytest.raises(BackfillStalled) as caught:
        run(enabled)
    assert time.monotonic() - started < 30
    assert "sync run" in caught.value.next_command
    let_live(enabled)
    assert run(enabled).rows == 300


def test_switched_off_meanwhile_it_does_not_wait_for_ever(
    enabled: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_only(enabled, monkeypatch)
    sync.disable(enabled.config, DOMAIN)
    with pytest.raises(backfill.NotEnabled):
        run(enabled)


def test_what_the_new_side_owns_is_left_alone(
    enabled: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    ownership.switch_both(enabled.config, DOMAIN, 5_000, 2, "old")
    copy_only(enabled, monkeypatch)
    found = enabled.new.execute("SELECT coalesce(reader, id::text) FROM volumes").fetchall()
    assert found
    assert all(ownership.bucket(str(row[0])) >= 5_000 for row in found)
    wanted = enabled.old.execute("SELECT coalesce(reader, id::text) FROM books").fetchall()
    assert len(found) == sum(ownership.bucket(str(row[0])) >= 5_000 for row in wanted)


def test_status_tells_how_far_each_mapping_is(
    enabled: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {item.copy for item in backfill.status(enabled.config)} == {"pending"}
    copy_only(enabled, monkeypatch)
    assert {(i.copy, i.sync) for i in backfill.status(enabled.config)} == {("copied", "drain")}


def test_after_a_teardown_what_stands_in_the_target_is_made_right(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of an earlier sync are stale, or orphans: they are read again before going live."""
    monkeypatch.setattr(copying, "CHUNK_KEYS", 25)
    library.old.execute(SEED.replace("%s", "60").encode())
    library.old.execute(NOTES)
    sync.enable(library.config, DOMAIN)
    with working(library.config):
        run(library)
        sync.teardown(library.config, DOMAIN)
        library.old.execute("UPDATE books SET title = 'changed meanwhile' WHERE id % 5 = 0")
        library.old.execute("UPDATE books SET tags = '[\"only\"]' WHERE id % 7 = 0")
        library.old.execute("DELETE FROM books WHERE id % 6 = 0")
        library.old.execute("INSERT INTO books (title) VALUES ('new meanwhile')")
        assert differences(library)
        sync.enable(library.config, DOMAIN)
        run(library)
        settle(library)
    assert differences(library) == {}
    assert value(library.new, "SELECT count(*) FROM splitctl_sync.stray") == 0


def test_keys_of_several_columns_are_copied_in_chunks(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "CHUNK_KEYS", 7)
    post.old.execute(
        "INSERT INTO depots (region, code, name, holder, tags)"
        " SELECT r, n, r || n, 'holder ' || n, '[\"a\", \"b\"]'"
        " FROM unnest(ARRAY['n', 'S', 'ä%']) r, generate_series(1, 15) n"
    )
    post.old.execute(
        "INSERT INTO parcels (region, code, weight) SELECT region, code, 1.5 FROM depots"
    )
    post.new.execute("UPDATE splitctl_sync.backfill SET state = 'pending'")
    post.new.execute(
        "UPDATE splitctl_sync.mapping_state SET state = 'spool' WHERE stream = 'post.forward'"
    )
    with working(post.config):
        result = backfill.run(post.config, "post", on_progress=quietly)
        post.settle()
    assert post.differences(post.forward) == {}
    assert result.rows == 45 + 90 + 45
