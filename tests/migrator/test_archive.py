"""The old tables get another name and can have theirs back; whatever waited is carried then."""

import threading

import psycopg
import pytest

from migrator import archive, ownership, sync
from migrator.archive import NameTaken, NameTooLong, StillInUse, TableGone, TablesBusy
from tests.conftest import FreshDatabase
from tests.migrator.library import DOMAIN, OWNER, Library, value
from tests.migrator.parcels import until, working


@pytest.fixture
def finished(library: Library) -> Library:
    """A domain whose customers are all on the new side."""
    library.old.execute("INSERT INTO books (title) VALUES ('kept')")
    sync.enable(library.config, DOMAIN)
    library.new.execute("UPDATE splitctl_sync.backfill SET state = 'copied'")
    library.new.execute("UPDATE splitctl_sync.mapping_state SET state = 'live'")
    ownership.switch_both(library.config, DOMAIN, 10_000, 2, "old")
    return library


WORKER = "SELECT worker_epoch FROM splitctl_sync.progress WHERE stream = 'lending.reverse'"
END_SESSION = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND application_name = 'splitctl sync lending.reverse'
"""


def tables(library: Library) -> set[str]:
    rows = library.old.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {str(row[0]) for row in rows.fetchall()}


def states(library: Library) -> set[str]:
    return {
        str(row[0])
        for connection in (library.old, library.new)
        for row in connection.execute("SELECT state FROM splitctl_sync.mapping_state").fetchall()
    }


def waiting(library: Library) -> int:
    found = "SELECT count(*) FROM splitctl_sync.waiting"
    return sum(int(value(side, found)) for side in (library.old, library.new))


def test_archive_and_undo_are_each_other_s_reverse(finished: Library) -> None:
    done = archive.archive(finished.config, DOMAIN)
    assert set(done.renamed) == {("books", "archived_books"), ("notes", "archived_notes")}
    assert tables(finished) == {"archived_books", "archived_notes", "shelves"}
    assert states(finished) == {"spool"}
    again = archive.archive(finished.config, DOMAIN)
    assert again.renamed == ()
    assert set(again.already) == {"archived_books", "archived_notes"}
    back = archive.undo(finished.config, DOMAIN)
    assert set(back.renamed) == {("archived_books", "books"), ("archived_notes", "notes")}
    assert tables(finished) == {"books", "notes", "shelves"}
    assert states(finished) == {"drain"}
    assert archive.undo(finished.config, DOMAIN).renamed == ()
    assert value(finished.old, "SELECT title FROM books") == "kept"


def test_a_domain_that_is_still_used_is_not_archived(finished: Library) -> None:
    ownership.switch_both(finished.config, DOMAIN, 9_999, 3, "new")
    with pytest.raises(StillInUse, match="9999"):
        archive.archive(finished.config, DOMAIN)
    assert "books" in tables(finished)
    assert states(finished) == {"live"}


def test_killed_half_way_the_same_command_finishes(finished: Library) -> None:
    finished.old.execute("ALTER TABLE notes RENAME TO archived_notes")
    assert archive.archive(finished.config, DOMAIN).renamed == (("books", "archived_books"),)
    finished.old.execute("ALTER TABLE archived_books RENAME TO books")
    assert archive.undo(finished.config, DOMAIN).renamed == (("archived_notes", "notes"),)


def test_a_table_in_the_way_or_gone_is_told_and_nothing_is_renamed(finished: Library) -> None:
    finished.old.execute("CREATE TABLE archived_notes ()")
    with pytest.raises(NameTaken, match="archived_notes"):
        archive.archive(finished.config, DOMAIN)
    assert {"books", "notes"} <= tables(finished)
    finished.old.execute("DROP TABLE archived_notes; DROP TABLE notes")
    with pytest.raises(TableGone, match="notes"):
        archive.archive(finished.config, DOMAIN)
    assert "books" in tables(finished)


def test_it_lets_others_pass_while_it_waits_and_gives_up_in_the_end(
    finished: Library, fresh_databases: dict[str, FreshDatabase], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "LOCK_TIMEOUT", "100ms")
    monkeypatch.setattr(archive, "PAUSE_S", 0.1)
    monkeypatch.setattr(archive, "LIMIT_S", 0.5)
    with psycopg.connect(fresh_databases["order"].dsn_as(OWNER)) as reader:
        reader.execute("SELECT * FROM books")
        with pytest.raises(TablesBusy, match="nothing was renamed"):
            archive.archive(finished.config, DOMAIN)
        assert {"books", "notes"} <= tables(finished)
        monkeypatch.setattr(archive, "LIMIT_S", 20)
        timer = threading.Timer(0.5, reader.rollback)
        timer.start()
        archive.archive(finished.config, DOMAIN)
        timer.join()
    assert "archived_books" in tables(finished)


def test_a_name_that_would_be_too_long_is_refused() -> None:
    assert archive.archived_name("a" * 54) == "archived_" + "a" * 54
    with pytest.raises(NameTooLong):
        archive.archived_name("a" * 55)


@pytest.mark.parametrize("session", ["goes on", "begins anew"])
def test_with_the_worker_running_nothing_is_lost_between_archive_and_undo(
    finished: Library, session: str
) -> None:
    with working(finished.config):
        finished.new.execute("INSERT INTO volumes (title, added) VALUES ('before', now())")
        until(lambda: value(finished.old, "SELECT 1 FROM books WHERE title = 'before'"), 20)
        archive.archive(finished.config, DOMAIN)
        finished.new.execute("INSERT INTO volumes (title, added) VALUES ('between', now())")
        finished.new.execute("UPDATE volumes SET title = 'after' WHERE title = 'before'")
        until(lambda: value(finished.old, "SELECT count(*) FROM splitctl_sync.spool") == 2, 20)
        assert value(finished.old, "SELECT count(*) FROM archived_books") == 2
        if session == "begins anew":
            before = value(finished.old, WORKER)
            assert value(finished.old, END_SESSION)
            until(lambda: value(finished.old, WORKER) > before, 20)
        archive.undo(finished.config, DOMAIN)
        # A key may wait a moment for the opposite stream, with its mapping live already.
        until(lambda: states(finished) == {"live"} and not waiting(finished), 20)
        found = finished.old.execute("SELECT title FROM books ORDER BY title").fetchall()
        assert found == [("after",), ("between",), ("kept",)]
