"""Empty tables are filled without their keys, and end as they were: whatever happens in between."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from estate.config import load
from migrator import backfill, building, filling, ownership, ranges, setaside, sync, throttle
from migrator.backfill import BackfillProgress, BackfillResult
from migrator.building import WorkerSilent
from migrator.chunk import RowNotCarried
from migrator.filling import BackfillPaused
from migrator.throttle import Sample
from tests.conftest import ConfigWriter, FreshDatabase
from tests.migrator import library as lending
from tests.migrator.library import DOMAIN, NEW, OLD, OWNER, Library, value
from tests.migrator.parcels import until, working
from tests.migrator.test_backfill import NOTES, SEED, differences, quietly, settle

# All that a table may have which stands in the way of a fast copy, or hangs on its keys.
RICH = (
    NEW
    + """
ALTER TABLE volumes ADD shelf integer, ADD CONSTRAINT volumes_shelf_key UNIQUE (shelf) DEFERRABLE
    INITIALLY DEFERRED;
CREATE INDEX volumes_title_idx ON volumes (lower(title) DESC) WITH (fillfactor = 70);
ALTER INDEX volumes_title_idx ALTER COLUMN 1 SET STATISTICS 400;
CREATE UNIQUE INDEX volumes_seen ON volumes (id, seen) INCLUDE (title) WHERE seen > 0;
COMMENT ON INDEX volumes_title_idx IS 'for the search page''s box';
COMMENT ON CONSTRAINT volumes_shelf_key ON volumes IS 'one book, one shelf';
ALTER TABLE volumes CLUSTER ON volumes_pkey;
CREATE UNIQUE INDEX remarks_identity ON remarks (id, volume_id);
ALTER TABLE remarks REPLICA IDENTITY USING INDEX remarks_identity;
CREATE TABLE "Covers" (volume_id bigint);
ALTER TABLE "Covers" ADD CONSTRAINT "of a volume" FOREIGN KEY (volume_id) REFERENCES volumes
    ON UPDATE CASCADE NOT VALID;
CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF current_setting('application_name') LIKE 'splitctl backfill%' THEN
        RAISE EXCEPTION 'fired for a copied row'; END IF; RETURN NULL; END $$;
CREATE TRIGGER first AFTER INSERT ON volumes FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER second AFTER INSERT ON volumes FOR EACH ROW EXECUTE FUNCTION never();
ALTER TABLE volumes ENABLE ALWAYS TRIGGER second;
CREATE TRIGGER third AFTER INSERT ON volumes FOR EACH ROW EXECUTE FUNCTION never();
ALTER TABLE volumes DISABLE TRIGGER third;
"""
)
DEFINITIONS = """
SELECT 'index', i.indrelid::regclass::text, pg_get_indexdef(i.indexrelid), i.indisclustered::text,
       i.indisreplident::text, obj_description(i.indexrelid),
       (SELECT string_agg(a.attstattarget::text, ',' ORDER BY a.attnum) FROM pg_attribute a
         WHERE a.attrelid = i.indexrelid)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
 WHERE c.relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'constraint', conrelid::regclass::text, conname || ' ' || pg_get_constraintdef(oid),
       convalidated::text, condeferred::text, obj_description(oid), NULL
  FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT 'trigger', tgrelid::regclass::text, pg_get_triggerdef(oid), tgenabled::text, NULL, NULL, NULL
  FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT 'identity', oid::regclass::text, relreplident::text, NULL, NULL, NULL, NULL
  FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'column', attrelid::regclass::text, attname::text, attnotnull::text, NULL, NULL, NULL
  FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
 WHERE attnum > 0 AND relkind = 'r' AND c.relnamespace = 'public'::regnamespace
ORDER BY 1, 2, 3
"""
PUBLISHED = "SELECT tablename FROM pg_publication_tables WHERE pubname = %s ORDER BY 1"
LEFT = "SELECT count(*) FROM splitctl_sync.set_aside"


def definitions(library: Library) -> list[tuple[Any, ...]]:
    return library.new.execute(DEFINITIONS.encode()).fetchall()


def published(library: Library) -> list[tuple[Any, ...]]:
    return library.new.execute(PUBLISHED.encode(), (library.reverse.publication,)).fetchall()


def run(library: Library) -> BackfillResult:
    return backfill.run(library.config, DOMAIN, on_progress=quietly)


def ways(library: Library) -> dict[str, str]:
    return dict(
        library.new.execute("SELECT mapping, way FROM splitctl_sync.backfill ORDER BY 1").fetchall()
    )


@contextmanager
def built(
    databases: dict[str, FreshDatabase], write_config: ConfigWriter, **changes: Any
) -> Iterator[Library]:
    library = lending.build(databases, write_config, **changes)
    try:
        yield library
    finally:
        library.old.close()
        library.new.close()


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_KEYS", "FEWEST_KEYS", "MOST_KEYS"):
        monkeypatch.setattr(ranges, name, 7)


@pytest.fixture
def rich(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> Iterator[Library]:
    """Sixty books with their notes; tables with everything on them; sync is enabled."""
    with built(fresh_databases, write_config, new_ddl=RICH) as library:
        library.old.execute(SEED.replace("%s", "60").encode())
        library.old.execute(NOTES)
        sync.enable(library.config, DOMAIN)
        yield library


@pytest.mark.usefixtures("small_ranges")
def test_everything_is_copied_and_the_tables_have_what_they_had(rich: Library) -> None:
    before = (definitions(rich), published(rich))
    with working(rich.config):
        result = run(rich)
        settle(rich)
    assert differences(rich) == {}
    assert (definitions(rich), published(rich)) == before
    assert set(ways(rich).values()) == {"build"}
    rows = {item.mapping.rpartition(".")[2]: item.rows for item in result.mappings}
    assert rows == {"volumes": 60, "volume_tags": 60, "remarks": 180}
    assert result.rows == result.copied_now == 300
    assert all(item.chunks > 5 for item in result.mappings)
    assert {(item.copy, item.sync) for item in result.mappings} == {("copied", "live")}
    assert value(rich.new, LEFT) == 0


def test_nothing_of_it_is_sent_to_the_opposite_stream(rich: Library) -> None:
    """And whatever is written is marked, so that no other reader takes it for a change either."""
    with working(rich.config):
        run(rich)
        settle(rich)
    rich.new.execute("INSERT INTO volumes (id, title, added) VALUES (1000, 'late', now())")
    with working(rich.config):
        until(lambda: value(rich.new, "SELECT count(*) FROM splitctl_sync.own_write") >= 0)
        until(lambda: value(rich.old, "SELECT count(*) FROM splitctl_sync.stray") == 1)
    # The only change that the other direction met is the one that somebody else made.
    assert value(rich.old, "SELECT key->>0 FROM splitctl_sync.stray") == "1000"


@pytest.mark.usefixtures("small_ranges")
def test_under_writes_both_sides_end_equal(
    rich: Library, fresh_databases: dict[str, FreshDatabase]
) -> None:
    """PROTOCOL row 11: rows that move between ranges while they are copied, and rows whose parent
    changed meanwhile."""
    rich.old.execute(SEED.replace("%s", "800").encode())
    before = definitions(rich)
    stop = threading.Event()
    failures: list[Exception] = []

    def shop(number: int) -> None:
        try:
            dsn = fresh_databases["order"].dsn_as(OWNER)
            with psycopg.connect(dsn, autocommit=True) as connection:
                turn = 0
                while not stop.is_set():
                    turn += 1
                    victim = (turn * 37 + number * 11) % 860 + 1
                    far = 860 - victim
                    for statement, values in (
                        ("UPDATE books SET title = %s WHERE id = %s", (f"{turn}", victim)),
                        ("DELETE FROM books WHERE id = %s", (victim + 1,)),
                        ("INSERT INTO books (title, tags) VALUES (%s, '[\"n\"]')", (f"n{turn}",)),
                        (
                            "UPDATE notes SET book_id = b.id FROM books b"
                            " WHERE notes.id = %s AND b.id = %s",
                            (victim % 180 + 1, far),
                        ),
                        (
                            "INSERT INTO notes (book_id, body) SELECT id, 'late' FROM books"
                            " WHERE id = %s",
                            (far,),
                        ),
                    ):
                        connection.execute(statement.encode(), values)
                    stop.wait(0.002)
        except psycopg.Error as error:
            failures.append(error)

    shoppers = [threading.Thread(target=shop, args=(n,)) for n in range(2)]
    with working(rich.config):
        for shopper in shoppers:
            shopper.start()
        try:
            run(rich)
        finally:
            stop.set()
            for shopper in shoppers:
                shopper.join()
        assert not failures
        settle(rich)
    assert differences(rich) == {}
    assert definitions(rich) == before
    assert value(rich.new, "SELECT count(*) FROM splitctl_sync.stray") == 0
    assert value(rich.old, "SELECT count(*) FROM splitctl_sync.stray") == 0


def test_a_row_that_moved_between_two_ranges_stands_once(
    rich: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copied with the first range, moved, and copied again with the last one."""
    for name in ("FIRST_KEYS", "FEWEST_KEYS", "MOST_KEYS"):
        monkeypatch.setattr(ranges, name, 20)
    real = filling.pipe
    doubles: list[int] = []
    one_by_one = threading.Lock()

    def moving(source: Any, target: Any, out: bytes, into: bytes) -> int:
        if b'"remarks"' not in into:
            return real(source, target, out, into)
        with one_by_one:
            rows = real(source, target, out, into)
            # Each time to a book whose turn is still to come.
            rich.old.execute(
                "UPDATE notes SET book_id = (book_id + 20) WHERE id % 20 = 1 AND book_id <= 40"
            )
        return rows

    real_settle = building.Building._settle

    def counted(self: Any, names: list[str]) -> None:
        doubles.append(value(rich.new, "SELECT count(*) - count(DISTINCT id) FROM remarks"))
        real_settle(self, names)

    monkeypatch.setattr(filling, "pipe", moving)
    monkeypatch.setattr(building.Building, "_settle", counted)
    with working(rich.config):
        run(rich)
        settle(rich)
    assert doubles[0] > 0
    assert differences(rich) == {}


def killed_at(point: str, number: int, path: Path) -> None:
    """In a process of its own: die without a word at the `number`th time something is done."""
    for name in ("FIRST_KEYS", "FEWEST_KEYS", "MOST_KEYS"):
        setattr(ranges, name, 16)
    seen = 0

    def dying(real: Any) -> Any:
        def act(*arguments: Any) -> Any:
            nonlocal seen
            seen += 1
            mine = seen
            result = real(*arguments)
            if mine == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return act

    room: Any = {"take": setaside, "pipe": filling, "put_back": setaside}.get(point)
    if room is None:
        room = building.Building
    setattr(room, point, dying(getattr(room, point)))
    backfill.run(load(path), DOMAIN, on_progress=quietly)


POINTS = [
    ("take", 2),
    ("pipe", 1),
    ("pipe", 5),
    ("_forget_changed", 2),
    ("_settle", 1),
    ("put_back", 1),
    ("put_back", 6),
    ("put_back", 11),
]


def test_killed_anywhere_the_next_run_ends_it(rich: Library) -> None:
    before = (definitions(rich), published(rich))
    context = multiprocessing.get_context("spawn")
    copied = 0
    with working(rich.config):
        for point, number in POINTS:
            process = context.Process(target=killed_at, args=(point, number, rich.path))
            process.start()
            process.join(60)
            assert process.exitcode == -signal.SIGKILL, (point, number)
            now = value(
                rich.new, "SELECT coalesce(sum(rows), 0)::int FROM splitctl_sync.backfill_range"
            )
            # What was committed before stays.
            assert now >= copied
            copied = now
        result = run(rich)
        settle(rich)
    assert differences(rich) == {}
    assert (definitions(rich), published(rich)) == before
    assert (result.rows, result.copied_now) == (300, 0)


@pytest.mark.parametrize(("point", "number"), [("pipe", 4), ("put_back", 4), ("put_back", 14)])
def test_given_up_half_way_the_tables_have_what_they_had(
    rich: Library, point: str, number: int
) -> None:
    before = definitions(rich)
    context = multiprocessing.get_context("spawn")
    with working(rich.config):
        process = context.Process(target=killed_at, args=(point, number, rich.path))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    assert definitions(rich) != before
    removed = sync.teardown(rich.config, DOMAIN)
    assert definitions(rich) == before
    assert "branch: unfinished copy in volumes" in removed.removed
    assert value(rich.new, "SELECT count(*) FROM volumes") == 0
    sync.enable(rich.config, DOMAIN)
    with working(rich.config):
        run(rich)
        settle(rich)
    assert differences(rich) == {}
    assert definitions(rich) == before


def test_given_up_under_a_running_copy_it_ends(
    rich: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = definitions(rich)
    real = filling.pipe

    def meanwhile(source: Any, target: Any, out: bytes, into: bytes) -> int:
        monkeypatch.setattr(filling, "pipe", real)
        thread.start()
        return real(source, target, out, into)

    thread = threading.Thread(target=sync.teardown, args=(rich.config, DOMAIN))
    for name in ("FIRST_KEYS", "FEWEST_KEYS", "MOST_KEYS"):
        monkeypatch.setattr(ranges, name, 1)
    monkeypatch.setattr(filling, "pipe", meanwhile)
    with pytest.raises((filling.Withdrawn, psycopg.Error)):
        run(rich)
    thread.join()
    assert definitions(rich) == before


def test_nobody_else_writes_while_the_keys_are_set_aside(
    rich: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "DECODE_LIMIT_S", 0.2)
    with pytest.raises(WorkerSilent) as caught:
        run(rich)
    assert "sync run" in caught.value.next_command
    for statement in (
        "INSERT INTO volumes (title, added) VALUES ('x', now())",
        "UPDATE volumes SET title = 'x'",
        "DELETE FROM remarks",
        "TRUNCATE volume_tags",
    ):
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="being filled"):
            rich.new.execute(statement.encode())
    with working(rich.config):
        run(rich)
        settle(rich)
    rich.new.execute("UPDATE volumes SET title = 'x' WHERE id = 1")


@pytest.mark.parametrize("why", ["rows", "owner"])
def test_where_there_is_something_to_lose_it_goes_in_chunks(library: Library, why: str) -> None:
    library.old.execute(SEED.replace("%s", "60").encode())
    library.old.execute(NOTES)
    sync.enable(library.config, DOMAIN)
    before = definitions(library)
    if why == "rows":
        library.new.execute("INSERT INTO volumes (id, title, added) VALUES (5, 'stands', now())")
    else:
        ownership.switch_both(library.config, DOMAIN, 5_000, 2, "old")
    with working(library.config):
        run(library)
    chosen = {name.rpartition(".")[2]: way for name, way in ways(library).items()}
    if why == "rows":
        assert chosen == {"volumes": "chunks", "volume_tags": "build", "remarks": "build"}
        assert differences(library) == {}
    else:
        assert set(chosen.values()) == {"chunks"}
        found = library.new.execute("SELECT coalesce(reader, id::text) FROM volumes").fetchall()
        assert found
        assert all(ownership.bucket(str(row[0])) >= 5_000 for row in found)
    assert definitions(library) == before


def test_rows_without_their_parent_wait(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> None:
    queries = {
        "forward/volumes.sql": "SELECT id, reader, title, added,"
        " nullif(id - 1, 0) * CASE WHEN id = 50 THEN -1 ELSE 1 END AS sequel_of,"
        " coalesce(reader, id::text) AS splitctl_route FROM books"
    }
    ddl = NEW + "ALTER TABLE volumes ADD sequel_of bigint REFERENCES volumes;"
    with built(fresh_databases, write_config, new_ddl=ddl, queries=queries) as library:
        library.old.execute(SEED.replace("%s", "60").encode())
        library.old.execute(NOTES)
        sync.enable(library.config, DOMAIN)
        before = definitions(library)
        with working(library.config):
            run(library)
            # Book 50 hangs on one that never was, and all that follow hang on it.
            until(lambda: value(library.new, WAITING_VOLUMES) == 11)
        assert value(library.new, "SELECT max(id) FROM volumes") == 49
        assert value(library.new, "SELECT max(volume_id) FROM remarks") == 49
        assert definitions(library) == before


WAITING_VOLUMES = """
SELECT count(*) FROM splitctl_sync.waiting
 WHERE mapping = 'lending.forward.volumes' AND reason = 'parent'
"""


def test_of_two_rows_with_one_unique_value_one_waits(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> None:
    ddl = NEW + "CREATE UNIQUE INDEX ON volumes (lower(title)) WHERE title <> 'free';"
    with built(fresh_databases, write_config, new_ddl=ddl) as library:
        library.old.execute(
            "INSERT INTO books (title) VALUES ('a'), ('b'), ('A'), ('free'), ('free')"
        )
        library.old.execute(NOTES)
        sync.enable(library.config, DOMAIN)
        before = definitions(library)
        with working(library.config):
            run(library)
            until(lambda: value(library.new, "SELECT count(*) FROM splitctl_sync.waiting") >= 1)
        titles = library.new.execute("SELECT lower(title) FROM volumes ORDER BY 1").fetchall()
        assert [row[0] for row in titles] == ["a", "b", "free", "free"]
        assert value(library.new, "SELECT reason FROM splitctl_sync.waiting LIMIT 1")
        assert value(library.new, "SELECT count(DISTINCT volume_id) FROM remarks") == 4
        assert definitions(library) == before


def test_two_rows_with_one_primary_key_are_both_read_again(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> None:
    queries = {
        "forward/volume_tags.sql": "SELECT b.id AS volume_id, t.tag,"
        " coalesce(b.reader, b.id::text) AS splitctl_route"
        " FROM books b CROSS JOIN LATERAL jsonb_array_elements_text(b.tags) AS t(tag)"
    }
    with built(fresh_databases, write_config, queries=queries) as library:
        library.old.execute("INSERT INTO books (title, tags) VALUES ('1', '[\"x\", \"x\"]')")
        library.old.execute("INSERT INTO books (title, tags) VALUES ('2', '[\"x\", \"y\"]')")
        sync.enable(library.config, DOMAIN)
        before = definitions(library)
        with working(library.config):
            run(library)
            until(lambda: value(library.new, "SELECT count(*) FROM splitctl_sync.waiting") == 1)
        rows = library.new.execute("SELECT * FROM volume_tags ORDER BY 1, 2").fetchall()
        # None of the first book's rows stands: nobody knows which is meant.
        assert rows == [(2, "x"), (2, "y")]
        assert definitions(library) == before


@pytest.mark.usefixtures("small_ranges")
@pytest.mark.parametrize(
    ("query", "spoil", "key", "reason"),
    [
        (
            "SELECT id, title, added, (title::int)::text AS reader, 'r' AS splitctl_route"
            " FROM books",
            "UPDATE books SET title = id; UPDATE books SET title = 'guest-17' WHERE id = 33",
            "id = 33",
            "guest-17",
        ),
        (
            None,
            "UPDATE notes SET body = repeat('x', 41)"
            " WHERE id = (SELECT max(id) FROM notes WHERE book_id = 41)",
            "volume_id = 41",
            "too long",
        ),
    ],
)
def test_a_row_that_does_not_fit_is_named(
    fresh_databases: dict[str, FreshDatabase],
    write_config: ConfigWriter,
    query: str | None,
    spoil: str,
    key: str,
    reason: str,
) -> None:
    queries = {"forward/volumes.sql": query} if query else {}
    with built(fresh_databases, write_config, queries=queries) as library:
        library.old.execute(SEED.replace("%s", "60").encode())
        library.old.execute("ALTER SEQUENCE books_id_seq INCREMENT 1")
        library.old.execute(NOTES)
        library.old.execute(spoil.encode())
        sync.enable(library.config, DOMAIN)
        before = definitions(library)
        with pytest.raises(RowNotCarried) as caught:
            run(library)
        assert key in str(caught.value)
        assert reason in str(caught.value)
        assert ".sql" in caught.value.next_command
        library.old.execute("UPDATE notes SET body = left(body, 40)")
        library.old.execute("UPDATE books SET title = id")
        with working(library.config):
            run(library)
            settle(library)
        assert differences(library) == {}
        assert definitions(library) == before


def test_a_row_without_a_driving_key_belongs_to_nobody(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> None:
    """No change of it could ever be carried; so it is not copied either, as in chunks."""
    old = OLD.replace("book_id bigint NOT NULL", "book_id bigint")
    queries = {
        "forward/remarks.sql": "SELECT n.id, n.book_id AS volume_id, n.body,"
        " coalesce(b.reader, b.id::text, '') AS splitctl_route"
        " FROM notes n LEFT JOIN books b ON b.id = n.book_id"
    }
    with built(fresh_databases, write_config, old_ddl=old, queries=queries) as library:
        library.old.execute(SEED.replace("%s", "6").encode())
        library.old.execute(NOTES)
        library.old.execute("INSERT INTO notes (book_id, body) VALUES (NULL, 'of no book')")
        sync.enable(library.config, DOMAIN)
        with working(library.config):
            run(library)
        assert value(library.new, "SELECT count(*) FROM remarks") == 18


@pytest.mark.usefixtures("small_ranges")
def test_paused_it_ends_after_its_ranges_and_resumed_it_goes_on(
    rich: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = filling.pipe

    def meanwhile(source: Any, target: Any, out: bytes, into: bytes) -> int:
        monkeypatch.setattr(filling, "pipe", real)
        assert backfill.pause(rich.config, DOMAIN).changed
        return real(source, target, out, into)

    monkeypatch.setattr(filling, "pipe", meanwhile)
    with working(rich.config):
        with pytest.raises(BackfillPaused) as caught:
            run(rich)
        assert caught.value.exit_code == 7
        assert "resume" in caught.value.next_command
        held = {item.held_by for item in backfill.status(rich.config)}
        assert held == {"paused"}
        copied = sum(item.rows for item in backfill.status(rich.config))
        assert 0 < copied < 300
        with pytest.raises(BackfillPaused):
            run(rich)
        assert sum(item.rows for item in backfill.status(rich.config)) == copied
        assert backfill.resume(rich.config, DOMAIN).changed
        assert not backfill.resume(rich.config, DOMAIN).changed
        result = run(rich)
        settle(rich)
    assert result.copied_now == 300 - copied
    assert differences(rich) == {}


@pytest.mark.usefixtures("small_ranges")
def test_it_says_why_it_goes_slowly(rich: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "LONGEST_PAUSE_S", 0.01)
    monkeypatch.setattr(throttle, "PROBE_EVERY_S", 0.0)
    monkeypatch.setattr(throttle, "_sample", lambda _: Sample(60_000.0, 1, 1.0))
    monkeypatch.setattr(backfill, "TELL_EVERY_S", 0.0)
    told: list[BackfillProgress] = []
    written: list[str | None] = []

    def listen(progress: BackfillProgress) -> None:
        told.append(progress)
        if progress.held_by:
            written.extend(item.held_by for item in backfill.status(rich.config))

    with working(rich.config):
        backfill.run(rich.config, DOMAIN, on_progress=listen)
    reason = "a standby lags 60,000 ms (limit 10,000)"
    assert reason in {progress.held_by for progress in told}
    assert reason in written
    assert {item.held_by for item in backfill.status(rich.config)} == {None}


def test_status_tells_share_rate_and_time_left(
    rich: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    rich.old.execute("ANALYZE")
    for name in ("FIRST_KEYS", "FEWEST_KEYS", "MOST_KEYS"):
        monkeypatch.setattr(ranges, name, 20)
    real = filling.pipe
    calls: list[int] = []

    def meanwhile(source: Any, target: Any, out: bytes, into: bytes) -> int:
        if b'"volumes"' in into:
            calls.append(1)
            if len(calls) == 2:
                backfill.pause(rich.config, DOMAIN)
        return real(source, target, out, into)

    monkeypatch.setattr(filling, "pipe", meanwhile)
    with pytest.raises(BackfillPaused):
        run(rich)
    found = {item.mapping.rpartition(".")[2]: item for item in backfill.status(rich.config)}
    volumes = found["volumes"]
    assert volumes.copy == "copying"
    assert volumes.done == pytest.approx(40 / 60)
    assert (volumes.rows_per_s or 0) > 0
    assert (volumes.eta_s or 0) > 0
