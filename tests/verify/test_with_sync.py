"""The verifier beside the real sync: live writes on both sides, damage that sync cannot mend."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from migrator import ownership
from tests.conftest import ConfigWriter, FreshDatabase
from tests.faulty import fault
from tests.migrator.library import DOMAIN, Library
from tests.verify import lent
from tests.verify.lent import BOOKS, carried
from verify import diff
from verify.passes import Limits

WRITES_OLD = (
    "UPDATE books SET title = 'Book ' || random() WHERE id = %(id)s",
    """UPDATE books SET tags = '["a"]' WHERE id = %(id)s""",
    "UPDATE books SET tags = '[]' WHERE id = %(id)s",
    "INSERT INTO notes (book_id, body) VALUES (%(id)s, 'new')",
    "DELETE FROM notes WHERE id = (SELECT max(id) FROM notes WHERE book_id = %(id)s)",
)
WRITES_NEW = (
    "UPDATE volumes SET title = 'Book ' || random() WHERE id = %(id)s",
    "INSERT INTO volume_tags (volume_id, tag) VALUES (%(id)s, 'z') ON CONFLICT DO NOTHING",
    "DELETE FROM volume_tags WHERE volume_id = %(id)s AND tag = 'z'",
    "INSERT INTO remarks (volume_id, body) VALUES (%(id)s, 'new')",
    "DELETE FROM remarks WHERE id = (SELECT max(id) FROM remarks WHERE volume_id = %(id)s)",
)
LIMITS = Limits(rows_in_hand=100, patience_s=60, barrier_s=60)


@pytest.fixture
def library(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> Iterator[Library]:
    """The lending domain, filled and enabled, without a worker."""
    with lent.enabled(fresh_databases, write_config) as built:
        yield built


@contextmanager
def writers(library: Library) -> Iterator[list[int]]:
    """Two threads that write to even ids, each on the side that owns the id's bucket."""
    stop = threading.Event()
    counts = [0, 0]
    sides = (
        ("old", library.old.info.dsn, WRITES_OLD, "books"),
        ("new", library.new.info.dsn, WRITES_NEW, "volumes"),
    )

    def write(n: int, side: str, dsn: str, statements: tuple[str, ...], table: str) -> None:
        chance = random.Random(n)
        owns = (
            f"SELECT id FROM {table} WHERE id %% 2 = 0 AND id <= {BOOKS}"
            " AND splitctl_sync.owns(%s, coalesce(reader, id::text), %s)"
        )
        with psycopg.connect(dsn, autocommit=True) as connection:
            ids = [row[0] for row in connection.execute(owns.encode(), (DOMAIN, side)).fetchall()]
            while ids and not stop.is_set():
                # A few ids get half of all writes.
                pool = ids[:3] if chance.random() < 0.5 else ids
                connection.execute(chance.choice(statements).encode(), {"id": chance.choice(pool)})
                counts[n] += 1
                time.sleep(0.004)

    threads = [threading.Thread(target=write, args=(n, *side)) for n, side in enumerate(sides)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def damage(connection: psycopg.Connection[Any], stream: str, statement: str) -> None:
    """Write as sync does: marked, so that the other direction does not carry it."""
    with connection.transaction():
        connection.execute(
            "SELECT pg_logical_emit_message(true, 'splitctl.applied', %s)", (stream,)
        )
        connection.execute(statement.encode())


@pytest.mark.every_version
def test_half_of_the_customers_on_each_side_and_all_of_them_writing(library: Library) -> None:
    with carried(library):
        ownership.switch_both(library.config, DOMAIN, 5000, 2, "old")
        with writers(library) as counts:
            for _ in range(3):
                verdict = diff.run(library.config, limits=LIMITS)
                assert verdict.verdict == "equal", verdict.to_text()
            damage(library.new, "lending.forward", "UPDATE volumes SET title = 'x' WHERE id = 11")
            damage(library.new, "lending.forward", "DELETE FROM volume_tags WHERE volume_id = 13")
            damage(library.old, "lending.reverse", "DELETE FROM notes WHERE book_id = 15")
            verdict = diff.run(library.config, limits=LIMITS)
        assert min(counts) > 20
    assert verdict.verdict == "different"
    found = {
        (mapping.mapping, next(iter(sample.key.values())), sample.what)
        for mapping in verdict.mappings
        for sample in mapping.samples
    }
    assert {item for item in found if item[0].startswith("lending.forward")} == {
        ("lending.forward.volumes", "11", "mismatched"),
        ("lending.forward.volume_tags", "13", "missing"),
        ("lending.forward.remarks", "15", "extra"),
    }
    backwards = [item for item in found if item[0].startswith("lending.reverse")]
    assert {(name, what) for name, _, what in backwards} == {
        ("lending.reverse.books", "mismatched"),
        ("lending.reverse.notes", "missing"),
    }


def test_a_key_that_sync_dropped_is_named(library: Library) -> None:
    with fault("drop-key:1"), carried(library):
        with library.old.transaction():
            # Each mapping has something to carry: whichever key is dropped, a row stays behind.
            library.old.execute("UPDATE books SET title = 'x', tags = '[]' WHERE id = 21")
            library.old.execute("UPDATE notes SET body = 'x' WHERE book_id = 21")
        verdict = diff.run(library.config, limits=LIMITS)
    assert verdict.verdict == "different", verdict.to_text()
    keys = {
        sample.key.get("volume_id") or sample.key["id"]
        for mapping in verdict.mappings
        for sample in mapping.samples
        if mapping.mapping.startswith("lending.forward")
    }
    assert keys == {"21"}


def test_a_worker_that_does_not_run_makes_it_inconclusive(library: Library) -> None:
    with carried(library):
        pass
    library.old.execute("UPDATE books SET title = 'on its way' WHERE id = 21")
    verdict = diff.run(library.config, limits=Limits(barrier_s=0.3))
    assert verdict.verdict == "inconclusive"
    assert "splitctl sync run" in verdict.reasons[0]
    assert verdict.totals()["mismatched"] == 0
