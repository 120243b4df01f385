"""Beside live writes: no false difference, and every real one, on rows that nobody touches."""

import random
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from migrator.barrier import Marker, Passing
from migrator.mapping import Stream
from tests.verify.conftest import Library
from verify import diff
from verify.passes import Limits
from verify.sides import Connection

WRITERS = 3
TRIGGER = """
CREATE TABLE changed (id bigserial PRIMARY KEY, branch text, number integer);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO changed (branch, number)
  VALUES (coalesce(new.branch, old.branch), coalesce(new.number, old.number));
  RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON loan_book
  FOR EACH ROW EXECUTE FUNCTION note();
"""
WRITES = (
    "UPDATE loan_book SET fee = fee + 0.01, title = 'Title ' || random() WHERE number = %(n)s",
    "UPDATE loan_book SET open = NOT open WHERE number = %(n)s",
    "DELETE FROM loan_book WHERE number = %(n)s",
    "INSERT INTO loan_book (branch, number, title) VALUES ('new', %(n)s, 'again')"
    " ON CONFLICT (branch, number) DO UPDATE SET title = 'and again'",
)
SHARED = [
    "title",
    "fee",
    "ratio",
    "extra",
    "taken_at",
    "state",
    "weight",
    "card",
    "reader",
    "open",
    "due",
    "scan",
]
LOANS = ["place", "nr", *SHARED]
READ = "SELECT {} FROM loan_book WHERE branch = %s AND number = %s".format(
    ", ".join(f"{column}::text" for column in ["branch", "number", *SHARED])
)
APPLY = "INSERT INTO loans ({}) VALUES ({}) ON CONFLICT (place, nr) DO UPDATE SET {}".format(
    ", ".join(LOANS),
    ", ".join(["%s"] * len(LOANS)),
    ", ".join(f"{column} = excluded.{column}" for column in SHARED),
)


class StandIn:
    """A small sync: notes of changed keys are read, the rows read again, and written."""

    def __init__(self, library: Library, delay_s: float = 0.02) -> None:
        self._source = library.databases["old"].connect()
        self._target = library.databases["new"].connect()
        self._asking = library.databases["old"].connect()
        self._delay_s = delay_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.applied = 0
        self._marked: dict[str, list[int]] = {}
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            notes = self._source.execute("SELECT id, branch, number FROM changed").fetchall()
            time.sleep(self._delay_s)
            for branch, number in {note[1:] for note in notes}:
                row = self._source.execute(READ.encode(), (branch, number)).fetchone()
                if row is None:
                    self._target.execute(
                        "DELETE FROM loans WHERE place = %s AND nr = %s", (branch, number)
                    )
                else:
                    self._target.execute(APPLY.encode(), row)
                self.applied += 1
            ids = [note[0] for note in notes]
            self._source.execute("DELETE FROM changed WHERE id = ANY(%s)", (ids,))

    def check(self, target: Connection, stream: Stream) -> None:
        """It carries every stream; only one has writes."""

    def mark(self, source: Connection, stream: str) -> Marker:
        """The changes that are committed now."""
        row = self._asking.execute("SELECT pg_current_wal_lsn()::text").fetchone()
        notes = self._asking.execute("SELECT id FROM changed").fetchall()
        self._marked[stream] = [note[0] for note in notes]
        return Marker(stream, str(row and row[0]))

    def wait_for(self, target: Connection, marker: Marker, timeout_s: float) -> Passing:
        """Wait until each of them was carried."""
        started = time.monotonic()
        ids = self._marked[marker.stream]
        while True:
            found = self._asking.execute(
                "SELECT count(*) FROM changed WHERE id = ANY(%s)", (ids,)
            ).fetchone()
            left = int(found[0]) if found else 0
            if not left or time.monotonic() - started > timeout_s:
                return Passing(not left, left)
            time.sleep(0.005)

    def close(self) -> None:
        """Stop the thread and close its connections."""
        self._stop.set()
        self._thread.join()
        for connection in (self._source, self._target, self._asking):
            connection.close()


class Writers:
    """Threads that write without pause to the numbers given."""

    def __init__(self, library: Library, numbers: list[int]) -> None:
        self._library, self._numbers = library, numbers
        self._stop = threading.Event()
        self.writes = 0
        self._threads = [
            threading.Thread(target=self._run, args=(seed,)) for seed in range(WRITERS)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, seed: int) -> None:
        chance = random.Random(seed)
        with self._library.databases["old"].connect() as connection:
            while not self._stop.is_set():
                # A few numbers get half of all writes.
                pool = self._numbers[:5] if chance.random() < 0.5 else self._numbers
                connection.execute(chance.choice(WRITES).encode(), {"n": chance.choice(pool)})
                self.writes += 1
                time.sleep(0.005)

    def close(self) -> None:
        """Stop all threads."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def busy(make_library: Callable[..., Library]) -> Iterator[tuple[Library, StandIn, Writers]]:
    """A library whose even numbers are written to all the time, and carried by the stand-in."""
    library = make_library(rows=3000)
    library.old.execute(TRIGGER.encode())
    stand_in = StandIn(library)
    writers = Writers(library, list(range(2, 3001, 2)))
    try:
        yield library, stand_in, writers
    finally:
        writers.close()
        stand_in.close()


LIMITS = Limits(rows_in_hand=500, patience_s=60, barrier_s=60)


def test_live_writes_give_no_false_difference(busy: tuple[Library, StandIn, Writers]) -> None:
    library, stand_in, writers = busy
    for _ in range(4):
        verdict = diff.run(
            library.config, mappings=["forward.loans"], barriers=stand_in, limits=LIMITS
        )
        assert verdict.totals()["mismatched"] == 0, verdict.to_text()
        assert verdict.totals()["missing"] == 0, verdict.to_text()
        assert verdict.totals()["extra"] == 0, verdict.to_text()
        assert verdict.verdict == "equal", verdict.to_text()
    assert writers.writes > 100
    assert stand_in.applied > 50


def test_hidden_damage_is_found_under_live_writes(busy: tuple[Library, StandIn, Writers]) -> None:
    library, stand_in, _ = busy
    new = library.new
    new.execute("UPDATE loans SET fee = fee - 0.01 WHERE nr = 11")
    new.execute("UPDATE loans SET extra = '{\"n\": [[1], 2]}' WHERE nr = 501")
    new.execute("DELETE FROM loans WHERE nr = 2999")
    new.execute("INSERT INTO loans (place, nr) VALUES ('nowhere', -5)")
    pair = new.execute("SELECT nr, title FROM loans WHERE nr IN (1001, 1003)").fetchall()
    for number, title in ((pair[0][0], pair[1][1]), (pair[1][0], pair[0][1])):
        new.execute("UPDATE loans SET title = %s WHERE nr = %s", (title, number))
    verdict = diff.run(library.config, mappings=["forward.loans"], barriers=stand_in, limits=LIMITS)
    assert verdict.verdict == "different"
    found = {(sample.key["nr"], sample.what) for sample in verdict.mappings[0].samples}
    assert found == {
        ("11", "mismatched"),
        ("501", "mismatched"),
        ("1001", "mismatched"),
        ("1003", "mismatched"),
        ("2999", "missing"),
        ("-5", "extra"),
    }
    totals = verdict.totals()
    assert (totals["mismatched"], totals["missing"], totals["extra"]) == (4, 1, 1)


def test_without_a_running_sync_the_verdict_is_inconclusive(library: Library) -> None:
    library.old.execute(TRIGGER.encode())
    stand_in = StandIn(library)
    stand_in.close()

    class Stopped(StandIn):
        def __init__(self) -> None:
            self._asking = library.databases["old"].connect()
            self._marked = {}

    library.old.execute("UPDATE loan_book SET title = 'x' WHERE number = 1")
    stopped = Stopped()
    try:
        limits = Limits(barrier_s=0.2)
        verdict = diff.run(library.config, barriers=stopped, limits=limits)
    finally:
        stopped._asking.close()
    assert verdict.verdict == "inconclusive"
    assert verdict.exit_code == 4
    assert "1 keys pending" in verdict.reasons[0]
    assert all(b["b1"] is None for b in verdict.barriers.values())
    assert isinstance(stopped._asking, psycopg.Connection)
