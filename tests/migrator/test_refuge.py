"""An outage of a stream's target costs the source no log, and no change is lost by it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from estate.config import load
from estate.connections import connect
from estate.ledger import Ledger
from migrator import kept, sync
from migrator.changes import Batch
from migrator.pgoutput import lsn_number
from migrator.replication import System
from migrator.writing import Superseded
from rehearsal.postgres import free_port
from tests.conftest import ConfigWriter, FreshDatabase
from tests.migrator.faults.proxy import Proxy
from tests.migrator.parcels import Post, build, enable, until
from tests.migrator.test_worker import PROGRAM, get, process

FORWARD = "post.forward"
SEGMENT = 16 * 1024 * 1024
SLOT = """
SELECT confirmed_flush_lsn::text, active_pid,
       pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn)::bigint
  FROM pg_replication_slots WHERE slot_name = 'splitctl_post_forward'
"""
AGAIN = "SELECT pg_logical_emit_message(true, 'splitctl.again', %s)"
# It dies by kill -9 when it comes to this call of the take-back.
DIES = """
import os, signal
from migrator import kept
real = kept.{name}
def dies(*arguments):
    if {when}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
kept.{name} = dies
"""
BEFORE_THE_POSITION = DIES.format(name="_claimed", when="arguments[-1] is not None")
BEFORE_THE_DELETE = DIES.format(name="_discard", when="True")
# What it confirms does not last, as with a source that crashes before it has written the slot down.
FORGOTTEN = """
from migrator import session
class Forgotten(session.Capture):
    def confirm(self, lsn):
        pass
session.Capture = Forgotten
"""


@dataclass
class Coast:
    """The parcel split; its new side and its ledger are reached by wires that can be cut."""

    post: Post
    target: Proxy
    ledger: Proxy
    books: psycopg.Connection[Any]

    def slot(self) -> Any:
        return self.post.old.execute(SLOT.encode()).fetchone()

    def confirmed(self) -> int:
        return lsn_number(self.slot()[0])

    def stored(self) -> int:
        query = "SELECT lsn::text FROM splitctl_sync.progress WHERE stream = 'post.forward'"
        row = self.post.new.execute(query).fetchone()
        assert row is not None
        return lsn_number(row[0])

    def held(self) -> int:
        """How many keys the ledger keeps of the forward stream."""
        try:
            return kept.count(self.books, FORWARD)
        except psycopg.errors.UndefinedTable:
            return 0  # the ledger was never used

    def health(self) -> Any:
        text = get(self.post, "/status")
        return json.loads(text)["streams"][FORWARD] if text else {"state": "not there yet"}

    def await_state(self, state: str) -> Any:
        return until(lambda: (h := self.health())["state"] == state and h, 60)

    def await_held(self, keys: int) -> None:
        """Wait until so many keys are kept, and the slot has moved on behind them."""
        until(lambda: self.held() == keys, 60)
        reached = lsn_number(self.here())
        until(lambda: self.confirmed() >= reached, 60)

    def here(self) -> str:
        row = self.post.old.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None
        return str(row[0])

    def agree(self) -> None:
        """Everything has crossed, both sides are equal, and nothing is left in the ledger."""
        self.await_state("running")
        self.post.settle(timeout_s=30)
        for stream in (self.post.forward, self.post.reverse):
            assert self.post.differences(stream) == {}
            assert self.post.strays(stream) == []


@pytest.fixture
def coast(fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter) -> Iterator[Coast]:
    """Enabled and live, with one depot and one parcel; nobody carries yet."""
    target, ledger = (Proxy(fresh_databases[n].server.port) for n in ("checkout", "ledger"))

    def through(proxy: Proxy, name: str) -> str:
        return fresh_databases[name].dsn + f" host=127.0.0.1 port={proxy.port}"

    post = build(
        fresh_databases,
        write_config,
        ledger=through(ledger, "ledger"),
        refuge_after="300ms",
    )
    books = fresh_databases["ledger"].connect()
    try:
        enable(post)
        # From here on the tool's way leads through the wire; the test's own connections do not.
        secret = post.config.path.parent / "secrets" / "checkout.dsn"
        secret.write_text(through(target, "checkout"))
        post.old.execute("INSERT INTO depots VALUES ('n', 1, 'A', 'ann', '[\"x\"]')")
        post.old.execute("INSERT INTO parcels (region, code, note) VALUES ('n', 1, 'first')")
        yield Coast(post, target, ledger, books)
    finally:
        for proxy in (target, ledger):
            proxy.close()
        for connection in (books, post.old, post.new):
            connection.close()


@contextmanager
def doomed(coast: Coast, fault: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker with a fault."""
    command = [sys.executable, "-c", fault + PROGRAM, str(coast.post.config.path)]
    started = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def test_while_the_target_is_away_the_sources_log_can_go(coast: Coast) -> None:
    with process(coast.post):
        coast.await_state("running")
        coast.post.settle(timeout_s=30)
        coast.target.cut()
        coast.await_state("refuge")
        before = coast.confirmed()
        for number in range(4):
            with coast.post.old.transaction():
                coast.post.old.execute("SELECT pg_switch_wal()")
            for turn in range(500):
                coast.post.old.execute("UPDATE depots SET name = %s", (f"{number} {turn}",))
                coast.post.old.execute("UPDATE parcels SET note = %s", (f"{number} {turn}",))
        # Two mappings read the depot, one the parcel: a row for each, after 4,000 changes.
        coast.await_held(3)
        assert coast.confirmed() - before > 3 * SEGMENT

        def small() -> bool:
            coast.post.old.execute("CHECKPOINT")
            return bool(coast.slot()[2] < SEGMENT)

        until(small, 30)
        health = coast.health()
        assert (health["state"], health["refuge"], health["ready"]) == ("refuge", 3, False)
        assert 'splitctl_sync_refuge_keys{stream="post.forward"} 3.0' in get(coast.post, "/metrics")
        (status, _) = sync.status(coast.post.config)
        assert (status.refuge, status.worker_alive) == (3, True)
        assert status.problem and "3 changed key(s) are kept in the ledger" in status.problem
        assert coast.stored() < coast.confirmed()
        coast.target.heal()
        coast.agree()
        until(lambda: coast.held() == 0)
        assert kept.find(coast.books, FORWARD) is None
        assert coast.health()["refuge"] == 0
    assert coast.post.new.execute("SELECT title FROM stations").fetchall() == [("3 499",)]


def test_a_worker_that_is_killed_in_refuge_goes_on_where_it_was(coast: Coast) -> None:
    coast.target.cut()
    for number in (1, 2, 3):
        with process(coast.post):
            coast.post.old.execute(
                "INSERT INTO parcels (region, code, note) VALUES ('n', 1, %s)", (f"{number}",)
            )
            # The depot's two and the first parcel from before.
            coast.await_held(3 + number)
            began = kept.find(coast.books, FORWARD)
    assert began is not None and began.begin < began.end
    coast.post.old.execute("DELETE FROM parcels WHERE note = '1'")
    coast.target.heal()
    with process(coast.post):
        coast.agree()
    assert kept.find(coast.books, FORWARD) is None


def test_1_what_was_carried_before_a_step_is_no_stray_when_the_target_is_back(
    coast: Coast,
) -> None:
    """The slot is behind the target: what it has is read again, and has another owner by now."""
    with doomed(coast, FORGOTTEN):
        coast.await_state("running")
        asked = {"stream": FORWARD, "keys": [["post.forward.shipments", ["1"]]]}
        coast.post.old.execute(AGAIN.encode(), (json.dumps(asked),))
        coast.post.settle(timeout_s=30)
        coast.post.own(10_000, 2)
        coast.target.cut()
        coast.await_state("refuge")
        coast.await_held(3)
        coast.target.heal()
        coast.agree()


def test_what_an_earlier_version_kept_is_taken_back(coast: Coast) -> None:
    """The worker was replaced while the target was away, and nobody has come to the ledger yet."""
    coast.target.cut()
    with process(coast.post):
        coast.await_held(3)
    coast.books.execute("ALTER TABLE splitctl.refuge_key DROP COLUMN told_at")
    coast.books.execute("UPDATE splitctl.alembic_version SET version_num = '0002'")
    coast.target.heal()
    with process(coast.post):
        coast.agree()


def test_killed_while_it_takes_back_it_takes_back_again(coast: Coast) -> None:
    """Once the keys are there without their position, once they are left in the ledger."""
    coast.target.cut()
    with process(coast.post):
        coast.await_held(3)
    coast.target.heal()
    with doomed(coast, BEFORE_THE_POSITION) as first:
        assert first.wait(60) == -9
    assert coast.stored() < coast.confirmed()
    states = coast.post.new.execute("SELECT DISTINCT state FROM splitctl_sync.mapping_state")
    assert ("drain",) in states.fetchall()
    coast.post.old.execute("UPDATE parcels SET note = 'second'")
    with doomed(coast, BEFORE_THE_DELETE) as second:
        assert second.wait(60) == -9
    assert coast.stored() >= coast.confirmed(), "a heartbeat may have been carried since"
    left = kept.find(coast.books, FORWARD)
    assert left is not None and coast.held() == 3
    with process(coast.post):
        coast.agree()
        # What is left there is neither taken for something new nor in the way of it.
        coast.target.cut()
        assert coast.await_state("refuge")["refuge"] == 0
        coast.post.old.execute("UPDATE parcels SET note = 'third'")
        coast.await_held(1)
        now = kept.find(coast.books, FORWARD)
        assert now is not None and now.begin >= left.end
        coast.target.heal()
        coast.agree()


def test_with_the_ledger_away_too_the_slot_waits(coast: Coast) -> None:
    with process(coast.post):
        coast.await_state("running")
        coast.post.settle(timeout_s=30)
        coast.ledger.cut()
        # Live sync needs nothing of it.
        coast.post.old.execute("UPDATE parcels SET note = 'without ledger'")
        coast.agree()
        coast.target.cut()
        until(lambda: "no refuge in the ledger" in (coast.health().get("reason") or ""), 60)
        before = coast.confirmed()
        coast.post.old.execute("UPDATE parcels SET note = 'without both'")
        assert coast.confirmed() == before and coast.stored() >= before
        coast.ledger.heal()
        coast.await_state("refuge")
        coast.await_held(1)
        # What is kept there cannot be had now; that is no loss, and is not told as one.
        coast.ledger.cut()
        coast.target.heal()
        found = until(
            lambda: "waits for the ledger" in ((h := coast.health()).get("reason") or "") and h, 60
        )
        assert found["state"] == "retrying"
        coast.ledger.heal()
        coast.agree()


def test_6_a_target_that_is_older_than_what_was_kept_has_lost_commits(coast: Coast) -> None:
    coast.target.cut()
    with process(coast.post):
        coast.await_held(3)
    held = kept.find(coast.books, FORWARD)
    assert held is not None
    coast.post.new.execute(
        "UPDATE splitctl_sync.progress SET lsn = lsn - 1 WHERE stream = 'post.forward'"
    )
    assert coast.stored() < held.begin
    coast.target.heal()
    with process(coast.post):
        reason = coast.await_state("stopped")["reason"]
    assert "has lost commits" in reason
    assert coast.held() == 3


def test_a_second_worker_stands_by_and_goes_on_in_refuge(coast: Coast) -> None:
    path = coast.post.config.path.with_name("second.toml")
    text = coast.post.config.path.read_text(encoding="utf-8")
    path.write_text(text.replace(coast.post.config.sync.listen, f"127.0.0.1:{free_port()}"))
    second = Post(load(path), coast.post.old, coast.post.new)
    coast.target.cut()
    with process(coast.post) as first:
        coast.await_held(3)
        reader = coast.slot()[1]
        with process(second):
            coast.post.old.execute("INSERT INTO depots VALUES ('n', 2, 'B', 'bob', '[]')")
            coast.await_held(5)
            assert coast.slot()[1] == reader
            first.kill()
            first.wait()
            coast.post.old.execute("UPDATE depots SET name = 'C' WHERE code = 2")
            until(lambda: coast.slot()[1] not in (None, reader), 30)
            coast.await_held(5)
            coast.target.heal()
            coast.post.settle(timeout_s=60)
    assert coast.post.differences(coast.post.forward) == {}


def test_what_stops_a_stream_stops_it_in_refuge(coast: Coast) -> None:
    with process(coast.post):
        coast.await_state("running")
        coast.post.settle(timeout_s=30)
        coast.target.cut()
        coast.await_state("refuge")
        coast.post.old.execute("UPDATE parcels SET note = 'before'")
        coast.await_held(1)
        coast.post.old.execute("TRUNCATE parcels")
        truncated = lsn_number(coast.here())
        assert "parcels was truncated" in coast.await_state("stopped")["reason"]
        assert coast.confirmed() < truncated
        coast.target.heal()
        coast.post.old.execute("INSERT INTO depots VALUES ('n', 2, 'B', 'bob', '[]')")
        until(lambda: coast.slot()[1] is None)
        assert coast.health()["state"] == "stopped"
        assert coast.confirmed() < truncated
        sync.teardown(coast.post.config, "post")
        assert kept.find(coast.books, FORWARD) is None and coast.held() == 0


def test_a_key_that_was_asked_for_is_not_taken_for_a_change(coast: Coast) -> None:
    """Nobody changed it here: not ours to write any more, it waits, and is no stray."""
    asked = {"stream": FORWARD, "keys": [["post.forward.shipments", ["1"]]]}
    with process(coast.post):
        coast.await_state("running")
        coast.post.settle(timeout_s=30)
        coast.target.cut()
        coast.await_state("refuge")
        coast.post.old.execute(AGAIN.encode(), (json.dumps(asked),))
        coast.await_held(1)
        coast.post.own_apart(old=(0, 5), new=(10_000, 6))
        coast.target.heal()
        coast.await_state("running")
        until(lambda: coast.post.pending(coast.post.forward))
        assert [row[2] for row in coast.post.pending(coast.post.forward)] == ["asked"]
        assert coast.post.strays(coast.post.forward) == []
        coast.post.own(0, 7)
        coast.agree()


@pytest.fixture
def books(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> Iterator[psycopg.Connection[Any]]:
    """A ledger by itself."""
    post = build(fresh_databases, write_config, ledger=fresh_databases["ledger"].dsn)
    with Ledger(post.forward.ledger, "test") as ledger:
        ledger.prepare()
    connection = fresh_databases["ledger"].connect()
    yield connection
    for opened in (connection, post.old, post.new):
        opened.close()


HERE = System("1", 1, 0)


def batch(lsn: int, *numbers: int, again: tuple[int, ...] = ()) -> Batch:
    names = {number: ("m", (str(number),)) for number in (*numbers, *again)}
    return Batch(
        dict.fromkeys(names.values()), dict.fromkeys([names[n] for n in again], lsn), {1}, lsn
    )


def test_what_is_held_grows_only_by_what_begins_within_it(
    books: psycopg.Connection[Any],
) -> None:
    kept.begin(books, "s", HERE, 100)
    kept.keep(books, "s", HERE, 100, batch(200, 1, 2))
    kept.keep(books, "s", HERE, 100, batch(150, 1))
    kept.keep(books, "s", HERE, 200, batch(0, 3))
    assert kept.find(books, "s") == kept.Kept("1", 1, 100, 200)
    assert kept.count(books, "s") == 3
    for since, system in ((201, HERE), (99, HERE), (200, System("2", 1, 0))):
        with pytest.raises(kept.TakenBack):
            kept.keep(books, "s", system, since, batch(300, 9))
    # A cut-off worker that still writes, when another has taken everything back.
    assert kept.discard_all(books, ["s"]) == 1
    with pytest.raises(kept.TakenBack):
        kept.keep(books, "s", HERE, 200, batch(300, 9))
    assert kept.count(books, "s") == 0


def test_a_key_that_changed_and_was_asked_for_has_changed(books: psycopg.Connection[Any]) -> None:
    kept.begin(books, "s", HERE, 100)
    kept.keep(books, "s", HERE, 100, batch(200, 1, again=(2, 3)))
    kept.keep(books, "s", HERE, 200, batch(300, 2, again=(1,)))
    kept.keep(books, "s", HERE, 100, batch(150, 2))
    # As an earlier version kept it: what is not known is not taken for the earlier position.
    books.execute("UPDATE splitctl.refuge_key SET told_at = NULL WHERE key = '[\"1\"]'")
    kept.keep(books, "s", HERE, 100, batch(150, 1))
    query = "SELECT key, asked, told_at FROM splitctl.refuge_key ORDER BY 1"
    rows = books.execute(query).fetchall()
    assert rows == [(["1"], False, None), (["2"], False, 300), (["3"], True, 200)]


SHIPMENTS = "post.forward.shipments"


def test_many_keys_are_taken_back_in_bounded_transactions_and_the_position_comes_last(
    post: Post, fresh_databases: dict[str, FreshDatabase], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a worker that was cut off nothing is written; what grew meanwhile is taken as well."""
    with Ledger(post.forward.ledger, "test") as ledger:
        ledger.prepare()
    row = post.new.execute("SELECT lsn - '0/0' FROM splitctl_sync.progress").fetchone()
    assert row is not None
    start = int(row[0])
    monkeypatch.setattr(kept, "CHUNK", 2)
    names = {(SHIPMENTS, (str(number),)): None for number in range(5)}
    names[("post.forward.removed", ("1",))] = None
    growing = [Batch({(SHIPMENTS, ("9",)): None}, lsn=start + 200)]
    written: list[str] = []
    real = kept._claimed

    def claimed(target: Any, stream: str, epoch: int, lsn: str | None) -> Any:
        if lsn is not None and growing:
            kept.keep(books, FORWARD, HERE, start + 100, growing.pop())
        written.append("keys" if lsn is None else "position")
        return real(target, stream, epoch, lsn)

    monkeypatch.setattr(kept, "_claimed", claimed)
    with (
        connect(post.forward.ledger, "test") as books,
        connect(post.forward.target, "test") as target,
    ):
        kept.begin(books, FORWARD, HERE, start)
        kept.keep(books, FORWARD, HERE, start, Batch(names, lsn=start + 100))
        held = kept.find(books, FORWARD)
        assert held is not None
        with pytest.raises(Superseded):
            kept.take_back(books, target, post.forward, 7, start, held)
        assert post.new.execute("SELECT * FROM splitctl_sync.spool").fetchall() == []
        written.clear()
        assert kept.take_back(books, target, post.forward, 0, start, held) == start + 200
        assert written == [*["keys"] * 3, "position"] * 2
        assert kept.find(books, FORWARD) is None and kept.count(books, FORWARD) == 0
    spool = post.new.execute("SELECT key, lsn - '0/0' FROM splitctl_sync.spool ORDER BY key")
    expected = [([str(number)], start) for number in range(5)]
    assert spool.fetchall() == [*expected, (["9"], start + 100)]
    states = post.new.execute(
        "SELECT mapping FROM splitctl_sync.mapping_state WHERE state = 'drain'"
    )
    assert states.fetchall() == [(SHIPMENTS,)]


@pytest.mark.parametrize(
    ("stored", "confirmed", "covered"),
    [(100, 200, True), (150, 160, True), (200, 200, True), (99, 200, False), (100, 201, False)],
)
def test_it_must_cover_all_that_lies_between(stored: int, confirmed: int, covered: bool) -> None:
    assert kept.Kept("1", 1, 100, 200).covers(stored, confirmed) == covered
