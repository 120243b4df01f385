"""Two sides hand out numbers at the same time, and never the same one."""

import threading

import psycopg
import pytest

from estate.connections import connect
from migrator import control, sequences
from migrator.sequences import SequenceBusy, SequenceTooFull
from tests.conftest import FreshDatabase
from tests.migrator.library import DOMAIN, OWNER, Library, value


@pytest.fixture
def installed(library: Library) -> Library:
    for name in ("main", "branch"):
        with connect(library.config.database(name), "test") as connection:
            control.install(connection)
    return library


def books(connection: psycopg.Connection[tuple[object, ...]], count: int) -> list[int]:
    query = "INSERT INTO books (title) SELECT 'b' FROM generate_series(1, %s) RETURNING id"
    return [int(str(row[0])) for row in connection.execute(query.encode(), (count,)).fetchall()]


def volumes(connection: psycopg.Connection[tuple[object, ...]], count: int) -> list[int]:
    query = (
        "INSERT INTO volumes (title, added) SELECT 'b', now() FROM generate_series(1, %s)"
        " RETURNING id"
    )
    return [int(str(row[0])) for row in connection.execute(query.encode(), (count,)).fetchall()]


@pytest.mark.every_version
def test_odd_and_even_above_everything_used(installed: Library) -> None:
    before = books(installed.old, 7)
    installed.new.execute("INSERT INTO volumes (id, title, added) VALUES (40, 'x', now())")
    assert {problem.key for problem in sequences.check(installed.config, DOMAIN)} == {
        "old.books.id",
        "new.volumes.id",
        "old.notes.id",
        "new.remarks.id",
    }
    done = sequences.share_out(installed.config, DOMAIN)
    assert len(done.changed) == 4
    assert sequences.check(installed.config, DOMAIN) == []
    old, new = books(installed.old, 20), volumes(installed.new, 20)
    assert all(number % 2 == 1 and number > 40 for number in old)
    assert all(number % 2 == 0 and number > 40 for number in new)
    assert not {*before, 40} & set(old + new)
    again = sequences.share_out(installed.config, DOMAIN)
    assert again.changed == ()
    assert set(again.kept) == set(done.changed)
    assert books(installed.old, 1)[0] == old[-1] + 2


def test_only_columns_that_are_carried_are_shared(installed: Library) -> None:
    sequences.share_out(installed.config, DOMAIN)
    step = value(
        installed.old,
        "SELECT seqincrement FROM pg_sequence WHERE seqrelid = 'shelves_id_seq'::regclass",
    )
    assert step == 1


def test_a_sequence_put_back_by_hand_is_found_and_set_again(installed: Library) -> None:
    sequences.share_out(installed.config, DOMAIN)
    books(installed.old, 3)
    installed.old.execute("ALTER SEQUENCE books_id_seq INCREMENT 1")
    assert [p.key for p in sequences.check(installed.config, DOMAIN)] == ["old.books.id"]
    sequences.share_out(installed.config, DOMAIN)
    assert sequences.check(installed.config, DOMAIN) == []
    old, new = books(installed.old, 5), volumes(installed.new, 5)
    assert not set(old) & set(new)
    # The way back still knows how it counted at first.
    assert value(installed.old, "SELECT max(step) FROM splitctl_sync.sequence_share") == 1


def test_inserts_that_race_never_take_a_number_of_the_other_side(
    installed: Library, fresh_databases: dict[str, FreshDatabase]
) -> None:
    """Sessions with cached numbers too: what they cached is void once it is shared out."""
    installed.old.execute("ALTER SEQUENCE books_id_seq CACHE 20")
    stop = threading.Event()
    taken: list[int] = []
    failures: list[Exception] = []

    def shop() -> None:
        try:
            dsn = fresh_databases["order"].dsn_as(OWNER)
            with psycopg.connect(dsn, autocommit=True) as connection:
                while not stop.is_set():
                    taken.extend(books(connection, 1))
        except Exception as error:  # noqa: BLE001 - the test reports it
            failures.append(error)

    threads = [threading.Thread(target=shop) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        while len(taken) < 50 and not failures:
            pass
        sequences.share_out(installed.config, DOMAIN)
        new = volumes(installed.new, 200)
        mark = len(taken)
        while len(taken) < mark + 100 and not failures:
            pass
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert len(taken) == len(set(taken))
    assert not set(taken) & set(new)
    assert all(number % 2 == 0 for number in new)
    assert all(number % 2 == 1 for number in taken if number > min(new))


def test_an_insert_is_not_made_to_wait_for_long(
    installed: Library,
    fresh_databases: dict[str, FreshDatabase],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A transaction holds the sequence and does not end: we let go again and again, then refuse."""
    monkeypatch.setattr(sequences, "LOCK_TIMEOUT", "100ms")
    monkeypatch.setattr(sequences, "ATTEMPTS", 3)
    monkeypatch.setattr(sequences, "PAUSE_S", 0.05)
    with psycopg.connect(fresh_databases["order"].dsn_as(OWNER)) as busy:
        busy.execute("INSERT INTO books (title) VALUES ('not committed')")
        with pytest.raises(SequenceBusy, match="books_id_seq"):
            sequences.share_out(installed.config, DOMAIN)
        assert books(installed.old, 1)
        busy.commit()
    sequences.share_out(installed.config, DOMAIN)
    assert sequences.check(installed.config, DOMAIN) == []


def test_a_sequence_without_room_is_refused(installed: Library) -> None:
    limit = 2**63 - 1
    installed.old.execute("SELECT setval('books_id_seq', %s)", (limit - 1,))
    with pytest.raises(SequenceTooFull, match="_id_seq"):
        sequences.share_out(installed.config, DOMAIN)
    assert value(
        installed.old,
        "SELECT seqincrement FROM pg_sequence WHERE seqrelid = 'books_id_seq'::regclass",
    ) == (1)


def test_restored_they_count_as_before_behind_every_row(installed: Library) -> None:
    installed.old.execute("ALTER SEQUENCE books_id_seq INCREMENT 5")
    books(installed.old, 3)
    sequences.share_out(installed.config, DOMAIN)
    carried = max(volumes(installed.new, 50))
    # The reverse direction has brought a higher number than this side ever handed out.
    installed.old.execute("INSERT INTO books (id, title) VALUES (%s, 'carried')", (carried,))
    with connect(installed.config.database("main"), "test") as connection:
        restored = sequences.restore(connection, DOMAIN)
        assert len(restored) == 2
        first, second = books(installed.old, 2)
        assert first > carried
        assert second == first + 5
        assert sequences.restore(connection, DOMAIN) == ()
