"""One batch at a time: what is written, what waits, what is left alone."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from estate.connections import connect
from migrator import apply, lanes
from migrator.apply import Applier, Superseded
from migrator.changes import Batch, MappingKey
from migrator.ownership import bucket
from migrator.pgoutput import lsn_number
from migrator.plan import Reference, Routed, Standing, Work, decide
from tests.conftest import ConfigWriter, FreshDatabase
from tests.migrator.parcels import DOMAIN, OF_STATION, Post, make, until

STATIONS, TAGS, SHIPMENTS = (f"post.forward.{t}" for t in ("stations", "station_tags", "shipments"))
PARK = """
INSERT INTO splitctl_sync.waiting (stream, mapping, key, reason)
VALUES ('post.forward', %s, %s, 'parent')
"""


@dataclass
class Carrier:
    """An applier of the forward stream, and what it needs."""

    post: Post
    applier: Applier
    source: psycopg.Connection[Any]
    target: psycopg.Connection[Any]

    def batch(self, *names: MappingKey) -> Batch:
        row = self.source.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None
        now = int(time.time() * 1e6)
        return Batch(dict.fromkeys(names), {}, set(), lsn_number(row[0]), now, [now])

    def apply(self, *names: MappingKey) -> Any:
        return self.applier.apply(self.batch(*names))

    def everything(self) -> Any:
        """Carry every key there is on either side."""
        depots = self.post.old.execute("SELECT region, code::text FROM depots").fetchall()
        depots += self.post.new.execute("SELECT region, number::text FROM stations").fetchall()
        parcels = self.post.old.execute("SELECT id::text FROM parcels").fetchall()
        parcels += self.post.new.execute("SELECT id::text FROM shipments").fetchall()
        names = [(name, key) for name in (TAGS, STATIONS) for key in depots]
        return self.apply(*[(SHIPMENTS, key) for key in parcels], *names)


def carrier(post: Post, epoch: int = 0) -> Carrier:
    stream = post.forward
    source, target = connect(stream.source, "test"), connect(stream.target, "test")
    return Carrier(post, Applier(stream, source, target, epoch), source, target)


@contextmanager
def opened(post: Post) -> Iterator[Carrier]:
    made = carrier(post)
    yield made
    made.source.close()
    made.target.close()


@pytest.fixture(autouse=True, params=[apply.MANY, 1], ids=["one by one", "in lanes"])
def many(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """From how many keys on the lanes have them first: what is promised holds either way."""
    monkeypatch.setattr(apply, "MANY", request.param)
    monkeypatch.setattr(lanes, "WORTH_A_LANE", 1)
    return int(request.param)


@pytest.fixture
def forward(post: Post) -> Iterator[Carrier]:
    with opened(post) as made:
        yield made


def fill(post: Post) -> None:
    post.old.execute(
        "INSERT INTO depots VALUES"
        " ('n', 1, 'A', 'ann', '[\"x\", \"y\"]'), ('s', 1, 'B', 'bob', '[]')"
    )
    post.old.execute(
        "INSERT INTO parcels (region, code, weight, note)"
        " VALUES ('n', 1, 1.005, E'tab\\tback\\\\slash'), ('s', 1, NULL, '')"
    )


def rows(post: Post, query: str) -> list[Any]:
    return post.new.execute(query.encode()).fetchall()


def test_rows_arrive_whatever_the_order_of_keys(forward: Carrier, many: int) -> None:
    """A small batch in one transaction; in lanes mapping after mapping, parents first."""
    fill(forward.post)
    outcome = forward.everything()
    assert forward.post.differences(forward.post.forward) == {}
    assert (outcome.upserted, outcome.deleted, outcome.strays) == (6, 0, 0)
    tables = ("stations", "station_tags", "shipments")
    writers = {row[0] for t in tables for row in rows(forward.post, f"SELECT xmin::text FROM {t}")}
    assert len(writers) == (1 if many > 1 else len(tables))
    assert rows(forward.post, "SELECT weight::text, note FROM shipments ORDER BY region") == [
        ("1.01", "tab\tback\\slash"),
        (None, ""),
    ]


def test_what_is_spooled_beside_an_unreadable_key_waits_for_its_transaction_too(
    forward: Carrier,
) -> None:
    """The key's error must not spare the look whether the transaction is visible (law L3)."""
    post = forward.post
    fill(post)
    forward.everything()
    post.old.execute("UPDATE depots SET tags = '5'")  # no list: it cannot be read
    post.new.execute(
        "UPDATE splitctl_sync.mapping_state SET state = 'spool' WHERE mapping = %s", (SHIPMENTS,)
    )
    forward.applier.load_states()
    with psycopg.connect(post.old.info.dsn) as late:
        late.execute("UPDATE parcels SET note = 'after' WHERE region = 'n'")
        (xid,) = late.execute("SELECT pg_current_xact_id()::text").fetchone() or ("0",)
        batch = forward.batch((TAGS, ("n", "1")), (SHIPMENTS, ("1",)))
        batch.xids.add(int(xid))
        applying = threading.Thread(target=forward.applier.apply, args=(batch,))
        applying.start()
        applying.join(0.5)
        assert applying.is_alive()
        assert rows(post, "SELECT 1 FROM splitctl_sync.spool") == []
    applying.join(10)
    assert not applying.is_alive()
    assert rows(post, "SELECT mapping FROM splitctl_sync.spool") == [(SHIPMENTS,)]


def test_a_row_that_is_the_same_is_not_written_again(forward: Carrier) -> None:
    fill(forward.post)
    forward.everything()
    before = rows(forward.post, "SELECT xmin::text, ctid::text FROM stations ORDER BY region")
    assert forward.everything().upserted == 0
    after = rows(forward.post, "SELECT xmin::text, ctid::text FROM stations ORDER BY region")
    assert before == after


def test_a_key_that_was_asked_for_is_not_forgotten_when_the_owner_changed(
    forward: Carrier,
) -> None:
    """The opposite stream parked its version and asked for ours; meanwhile a step went back."""
    fill(forward.post)
    forward.everything()
    forward.post.own(10_000, 2)
    name = (STATIONS, ("n", "1"))
    batch = forward.batch(name)
    batch.again[name] = batch.lsn
    assert forward.applier.apply(batch).strays == 0
    assert forward.applier.waiting[name].reason == "asked"
    # Not ours still: now it is a stray, kept with both versions, and the owner is asked.
    assert forward.applier.retry([name]).strays == 1
    assert name not in forward.applier.waiting
    kept = rows(forward.post, "SELECT count(*)::int FROM splitctl_sync.stray")
    assert kept == [(1,)]


def test_columns_that_are_not_mapped_are_kept(forward: Carrier) -> None:
    forward.post.new.execute("ALTER TABLE stations ADD opened date")
    fill(forward.post)
    forward.everything()
    forward.post.new.execute("UPDATE stations SET opened = '2024-01-01'")
    forward.post.old.execute("UPDATE depots SET name = name || '!'")
    forward.everything()
    assert rows(forward.post, "SELECT title, opened::text FROM stations ORDER BY region") == [
        ("A!", "2024-01-01"),
        ("B!", "2024-01-01"),
    ]


def test_deletes_go_children_first_and_upserts_parents_first(forward: Carrier) -> None:
    new = forward.post.new
    for table in ("station_tags", "shipments"):
        name = f"{table}_region_number_fkey"
        new.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}".encode())
        new.execute(
            f"ALTER TABLE {table} ADD FOREIGN KEY (region, number) REFERENCES stations".encode()
        )
    fill(forward.post)
    forward.everything()
    forward.post.old.execute("DELETE FROM depots")
    outcome = forward.everything()
    assert outcome.deleted == 6
    assert forward.post.differences(forward.post.forward) == {}


def test_a_child_waits_for_its_parent_durably(forward: Carrier) -> None:
    fill(forward.post)
    parcel = (SHIPMENTS, ("1",))
    forward.apply(parcel)
    assert rows(forward.post, "SELECT * FROM shipments") == []
    waiting = rows(forward.post, "SELECT mapping, key, reason, detail FROM splitctl_sync.waiting")
    assert [row[:3] for row in waiting] == [(SHIPMENTS, ["1"], "parent")]
    assert "no parent n, 1" in waiting[0][3]
    # Another process finds it there.
    other = carrier(forward.post)
    assert list(other.applier.waiting) == [parcel]
    other.apply((STATIONS, ("n", "1")))
    other.applier.retry(list(other.applier.waiting))
    assert len(rows(forward.post, "SELECT * FROM shipments")) == 1
    assert rows(forward.post, "SELECT * FROM splitctl_sync.waiting") == []
    assert not other.applier.waiting


def test_a_value_that_does_not_fit_is_parked_and_never_cut(forward: Carrier) -> None:
    """PROTOCOL 9: the bad key is named, everything else goes on, the position moves."""
    fill(forward.post)
    forward.post.old.execute("ALTER TABLE depots ALTER name TYPE text")
    forward.post.old.execute("INSERT INTO depots VALUES ('w', 1, repeat('x', 41), 'eve', '[]')")
    forward.post.old.execute("UPDATE parcels SET weight = 5000 WHERE id = 1")
    forward.everything()
    found = rows(
        forward.post, "SELECT mapping, key, reason, detail FROM splitctl_sync.waiting ORDER BY 1"
    )
    assert [row[:3] for row in found] == [
        (SHIPMENTS, ["1"], "unwritable"),
        (STATIONS, ["w", "1"], "unwritable"),
    ]
    assert "check constraint" in found[0][3] and "too long" in found[1][3]
    assert len(rows(forward.post, "SELECT * FROM stations")) == 2
    assert rows(forward.post, "SELECT id FROM shipments") == [(3,)]
    lsn = rows(
        forward.post,
        "SELECT lsn > '0/0', source_commit_at IS NOT NULL"
        " FROM splitctl_sync.progress WHERE stream = 'post.forward'",
    )
    assert lsn == [(True, True)]
    forward.post.old.execute("UPDATE depots SET name = 'short' WHERE region = 'w'")
    forward.post.old.execute("UPDATE parcels SET weight = 5 WHERE id = 1")
    forward.applier.retry(list(forward.applier.waiting))
    assert rows(forward.post, "SELECT * FROM splitctl_sync.waiting") == []
    assert forward.post.differences(forward.post.forward) == {}


@pytest.mark.parametrize("together", [True, False])
def test_rows_exchange_a_unique_value(forward: Carrier, together: bool) -> None:
    """PROTOCOL 9: also when only one of the two is in the batch; children are not touched."""
    fill(forward.post)
    forward.everything()
    with forward.post.old.transaction():
        forward.post.old.execute("UPDATE depots SET name = 'tmp' WHERE region = 'n'")
        forward.post.old.execute("UPDATE depots SET name = 'A' WHERE region = 's'")
        forward.post.old.execute("UPDATE depots SET name = 'B' WHERE region = 'n'")
    children = rows(forward.post, "SELECT xmin::text FROM shipments")
    names = [(STATIONS, ("n", "1")), (STATIONS, ("s", "1"))]
    forward.apply(*names[: 2 if together else 1])
    assert rows(forward.post, "SELECT region, title FROM stations ORDER BY 1") == [
        ("n", "B"),
        ("s", "A"),
    ]
    assert rows(forward.post, "SELECT * FROM splitctl_sync.waiting") == []
    assert children == rows(forward.post, "SELECT xmin::text FROM shipments")
    assert forward.post.strays(forward.post.forward) == []


def test_a_parked_key_whose_unique_value_is_wanted_is_kept_as_a_stray_like_any_other(
    post: Post,
) -> None:
    """It was changed here, and the owner moved away: what its stream knows of it must not go."""
    theirs, ours = sorted(("ann", "bob"), key=bucket)
    for region, name, holder in (("n", "A", theirs), ("s", "B", ours)):
        post.old.execute("INSERT INTO depots VALUES (%s, 1, %s, %s, '[]')", (region, name, holder))
    with opened(post) as first:
        first.everything()
    post.new.execute(PARK, (STATIONS, '["n", "1"]'))
    post.own(bucket(ours), 2)
    post.old.execute("UPDATE depots SET name = 'changed' WHERE region = 'n'")
    post.old.execute("UPDATE depots SET name = 'A' WHERE region = 's'")
    with opened(post) as again:
        assert again.apply((STATIONS, ("s", "1"))).strays == 1
        # The other waits until the owner of the first gives its value free.
        assert {name: item.reason for name, item in again.applier.waiting.items()} == {
            (STATIONS, ("s", "1")): "unwritable"
        }
        again.post.new.execute("UPDATE stations SET title = 'free' WHERE region = 'n'")
        again.applier.retry([(STATIONS, ("s", "1"))])
        assert again.applier.waiting == {}
    (stray,) = post.strays(post.forward)
    assert (stray[2][0]["title"], stray[3][0]["title"]) == ("changed", "A")


def test_a_unique_value_held_by_a_leftover_is_freed(forward: Carrier) -> None:
    fill(forward.post)
    forward.post.own(10_000 - 1, 2)
    forward.post.new.execute("INSERT INTO stations VALUES ('x', 9, 'A', 'ann')")
    forward.post.own(0, 3)
    # The holder is a leftover here: the source does not have it, so it goes, and the name is free.
    forward.everything()
    assert forward.post.differences(forward.post.forward) == {}


def test_too_many_rows_are_written_in_parts(
    forward: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("migrator.apply.PART", 7)
    forward.post.old.execute(
        "INSERT INTO depots SELECT 'r', i, 'name ' || i, 'h' || i, '[\"t\"]'"
        " FROM generate_series(1, 20) i"
    )
    forward.post.old.execute("INSERT INTO parcels (region, code) SELECT region, code FROM depots")
    forward.everything()
    assert forward.post.differences(forward.post.forward) == {}


def test_a_deadlock_or_a_lock_not_given_is_tried_again(forward: Carrier) -> None:
    fill(forward.post)
    forward.everything()
    forward.target.execute("SET lock_timeout = '100ms'")
    blocker = psycopg.connect(forward.post.new.info.dsn)
    blocker.execute("LOCK TABLE stations IN EXCLUSIVE MODE")
    forward.post.old.execute("UPDATE depots SET name = 'C' WHERE region = 'n'")
    thread = threading.Thread(target=forward.apply, args=((STATIONS, ("n", "1")),))
    thread.start()
    time.sleep(0.4)
    assert thread.is_alive()
    blocker.rollback()
    thread.join(5)
    blocker.close()
    assert forward.post.differences(forward.post.forward) == {}


def test_keys_of_a_spooled_mapping_are_put_down_and_drained_parents_first(
    forward: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(forward.post)
    forward.post.new.execute("UPDATE splitctl_sync.mapping_state SET state = 'spool'")
    forward.everything()
    forward.apply((STATIONS, ("n", "1")))
    assert rows(forward.post, "SELECT * FROM stations") == []
    gens = dict(rows(forward.post, "SELECT mapping || key::text, gen FROM splitctl_sync.spool"))
    assert gens[f'{STATIONS}["n", "1"]'] == 2 and len(gens) == 6
    assert forward.applier.drainable() == []
    forward.post.new.execute("UPDATE splitctl_sync.mapping_state SET state = 'drain'")
    forward.applier.load_states()
    assert forward.applier.drainable() == [STATIONS]
    with monkeypatch.context() as patch:
        patch.setattr(apply, "DRAIN", 1)
        forward.applier.drain(STATIONS)
    assert len(rows(forward.post, "SELECT * FROM stations")) == 1
    assert forward.applier.states[STATIONS] == "drain"
    forward.applier.drain(STATIONS)
    assert len(rows(forward.post, "SELECT * FROM stations")) == 2
    # With the last key of them: where keys change all the time, the spool is never found empty.
    assert forward.applier.states[STATIONS] == "live"
    assert sorted(forward.applier.drainable()) == [SHIPMENTS, TAGS]
    for name in (TAGS, SHIPMENTS):
        forward.applier.drain(name)
    assert set(forward.applier.states.values()) == {"live"}
    assert forward.post.differences(forward.post.forward) == {}


def test_a_state_that_moves_under_a_batch_is_obeyed(forward: Carrier) -> None:
    """Archive and backfill change states at any moment; the batch then goes to the spool."""
    fill(forward.post)
    forward.post.new.execute(
        "UPDATE splitctl_sync.mapping_state SET state = 'spool' WHERE mapping = %s", (SHIPMENTS,)
    )
    forward.everything()
    assert len(rows(forward.post, "SELECT * FROM stations")) == 2
    assert rows(forward.post, "SELECT * FROM shipments") == []
    spooled = rows(forward.post, "SELECT mapping FROM splitctl_sync.spool")
    assert spooled == [(SHIPMENTS,), (SHIPMENTS,)]


def test_a_key_that_changes_again_while_it_is_drained_stays(forward: Carrier) -> None:
    """PROTOCOL 4, lost mark: only the generation that was read leaves the spool."""
    fill(forward.post)
    forward.post.new.execute("UPDATE splitctl_sync.mapping_state SET state = 'drain'")
    forward.applier.load_states()
    forward.apply((STATIONS, ("n", "1")))
    write = forward.applier._writer.write

    def changed_meanwhile(part: Any) -> Any:
        forward.post.new.execute("UPDATE splitctl_sync.spool SET gen = gen + 1")
        return write(part)

    forward.applier._writer.write = changed_meanwhile  # type: ignore[method-assign]
    forward.applier.drain(STATIONS)
    assert rows(forward.post, "SELECT key, gen FROM splitctl_sync.spool") == [(["n", "1"], 2)]
    assert forward.applier.states[STATIONS] == "drain"
    forward.applier._writer.write = write  # type: ignore[method-assign]
    forward.applier.drain(STATIONS)
    assert rows(forward.post, "SELECT key FROM splitctl_sync.spool") == []


def test_3_a_key_that_waits_keeps_the_position_of_its_first_change(forward: Carrier) -> None:
    """However often it is spooled or parked again, and when it goes from one to the other."""
    fill(forward.post)
    parcel = (SHIPMENTS, ("1",))
    forward.post.old.execute("UPDATE parcels SET weight = 5000 WHERE id = 1")
    forward.post.new.execute("UPDATE splitctl_sync.mapping_state SET state = 'spool'")
    for since in (0x100, 0x200):
        batch = forward.batch(parcel)
        batch.since = since
        forward.applier.apply(batch)
    assert rows(forward.post, "SELECT gen, lsn::text FROM splitctl_sync.spool") == [(2, "0/100")]
    forward.post.new.execute("UPDATE splitctl_sync.mapping_state SET state = 'drain'")
    forward.post.new.execute("INSERT INTO stations VALUES ('n', 1, 'A', 'ann')")
    forward.applier.load_states()
    forward.applier.drain(SHIPMENTS)
    waiting = "SELECT reason, lsn::text FROM splitctl_sync.waiting"
    assert rows(forward.post, waiting) == [("unwritable", "0/100")]
    forward.applier.load_states()
    batch = forward.batch(parcel)
    batch.since = 0x300
    forward.applier.apply(batch)
    forward.applier.retry([parcel])
    assert rows(forward.post, waiting) == [("unwritable", "0/100")]
    forward.post.old.execute("UPDATE parcels SET weight = 5 WHERE id = 1")
    forward.applier.retry([parcel])
    assert rows(forward.post, waiting) == []


def test_a_worker_that_was_cut_off_writes_nothing(forward: Carrier) -> None:
    """PROTOCOL 4, zombie: its successor raised the epoch."""
    fill(forward.post)
    forward.post.new.execute("UPDATE splitctl_sync.progress SET worker_epoch = worker_epoch + 1")
    with pytest.raises(Superseded):
        forward.everything()
    with pytest.raises(Superseded):
        forward.apply()
    assert rows(forward.post, "SELECT * FROM stations") == []
    successor = carrier(forward.post, epoch=1)
    successor.everything()
    assert forward.post.differences(forward.post.forward) == {}


def test_a_zombie_that_waits_for_a_lock_cannot_commit_after_its_successor(
    forward: Carrier,
) -> None:
    """PROTOCOL 4: the claim is updated in the very transaction, so one of the two must wait."""
    fill(forward.post)
    with forward.post.new.transaction():
        forward.post.new.execute("UPDATE splitctl_sync.progress SET worker_epoch = 9")
        failures: list[BaseException] = []

        def zombie() -> None:
            try:
                forward.everything()
            except Superseded as error:
                failures.append(error)

        thread = threading.Thread(target=zombie)
        thread.start()
        time.sleep(0.2)
    thread.join(5)
    assert len(failures) == 1
    assert rows(forward.post, "SELECT * FROM stations") == []


def test_the_mark_is_the_first_thing_in_every_transaction(forward: Carrier) -> None:
    """L5: else the opposite stream would carry our own rows back."""
    fill(forward.post)
    peek = (
        "SELECT data FROM pg_logical_slot_peek_binary_changes('splitctl_post_reverse', NULL, NULL"
    )
    peek += (
        ", 'proto_version', '1', 'publication_names', 'splitctl_post_reverse', 'messages', 'true')"
    )
    forward.everything()
    forward.post.old.execute("UPDATE parcels SET weight = 5000 WHERE id = 1")
    forward.everything()
    events = [bytes(row[0]) for row in rows(forward.post, peek)]
    firsts = [events[n + 1] for n, event in enumerate(events) if event[:1] == b"B"]
    assert len(firsts) >= 3
    assert all(b"splitctl.applied\0" in event for event in firsts)


def test_rows_that_break_no_rule_of_one_key() -> None:
    """The plan, by itself: two rows with one primary key are refused, not written by turns."""
    row = Routed(("1", "a"), "r")
    work = Work("m", (0,), (("k",), ("l",)), {("k",): [row], ("l",): [Routed(("1", "b"), "r")]}, {})
    plan = decide([work], None, "old")
    assert set(plan.ambiguous) == {("m", ("k",)), ("m", ("l",))}
    assert not plan.upserts["m"] and not plan.settled


def test_a_row_that_came_back_under_another_key_is_not_deleted() -> None:
    """PROTOCOL 8: a child that changed its parent is moved, so that nothing cascades."""
    work = Work(
        "m",
        (0,),
        (("old",), ("new",)),
        {("new",): [Routed(("1", "new"), "r")]},
        {("old",): [Standing(("1",), "r"), Standing(("2",), "r")]},
    )
    plan = decide([work], None, "old")
    assert plan.deletes["m"] == [("2",)]
    assert plan.upserts["m"] == [("1", "new")]


def test_a_parent_that_goes_in_the_same_batch_is_no_parent() -> None:
    parent = Work("p", (0,), (("1",),), {}, {("1",): [Standing(("1",), "r")]})
    reference = Reference("fk", (1,), "p", (0,), True, frozenset({("1",), ("2",)}))
    child = Work(
        "c",
        (0,),
        (("a",), ("b",)),
        {("a",): [Routed(("a", "1"), "r")], ("b",): [Routed(("b", "2"), "r")]},
        {},
        (reference,),
    )
    plan = decide([parent, child], None, "old")
    assert plan.upserts["c"] == [("b", "2")]
    assert json.dumps(plan.parentless[("c", ("a",))]) == '"fk: no parent 1"'


def test_a_unique_value_whose_holder_cannot_be_written_stops_no_stream(forward: Carrier) -> None:
    """PROTOCOL 9: both wait; merged, halved and merged again they failed for ever."""
    post = forward.post
    post.old.execute(
        "INSERT INTO depots VALUES ('n', 1, 'wanted', 'ann', '[]'), ('n', 2, 'bad', 'bob', '[]'),"
        " ('n', 3, 'else', 'ann', '[]')"
    )
    post.new.execute("INSERT INTO stations VALUES ('n', 2, 'wanted', 'bob')")
    post.new.execute("ALTER TABLE stations ADD CONSTRAINT fine CHECK (title <> 'bad')")
    keys = [(STATIONS, ("n", str(number))) for number in (1, 3)]
    forward.apply(*keys)
    assert rows(post, "SELECT number, title FROM stations ORDER BY 1") == [
        (2, "wanted"),
        (3, "else"),
    ]
    waiting = {key[1]: reason for _, key, reason, _ in post.pending(post.forward)}
    assert waiting == {"1": "unwritable", "2": "unwritable"}
    # The holder's row is set right: tried again, both are written.
    post.new.execute("ALTER TABLE stations DROP CONSTRAINT fine")
    forward.applier.retry(list(forward.applier.waiting))
    assert post.pending(post.forward) == []
    assert rows(post, "SELECT number, title FROM stations ORDER BY 1") == [
        (1, "wanted"),
        (2, "bad"),
        (3, "else"),
    ]


@contextmanager
def watched(post: Post) -> Iterator[Carrier]:
    """An applier for whom all that others write from now on is fresh."""
    stream = post.forward
    source, target = connect(stream.source, "test"), connect(stream.target, "test")
    (now,) = post.new.execute("SELECT pg_current_xact_id()::text").fetchone() or ("0",)
    applier = Applier(stream, source, target, 0, horizon=lambda: int(now) + 1)
    with closing(source), closing(target), closing(applier):
        yield Carrier(post, applier, source, target)


def test_2_a_row_that_is_inserted_between_the_look_and_the_write_is_not_written_over(
    post: Post, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check stands in the write itself: then the row is looked at like any other."""
    fill(post)
    with watched(post) as forward, psycopg.connect(post.new.info.dsn) as other:
        other.execute("INSERT INTO stations VALUES ('n', 1, 'theirs', 'ann')")
        names = [(STATIONS, ("n", "1")), (STATIONS, ("s", "1"))]
        applying = threading.Thread(target=forward.apply, args=names)
        applying.start()
        waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        until(lambda: post.new.execute(waits).fetchone())
        other.commit()
        applying.join(10)
        assert not applying.is_alive()
        assert rows(post, "SELECT region, title FROM stations ORDER BY 1") == [
            ("n", "theirs"),
            ("s", "B"),
        ]
        found = {name: item.reason for name, item in forward.applier.waiting.items()}
        assert found == {(STATIONS, ("n", "1")): "stray-pending"}


@pytest.fixture
def by_depot(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> Iterator[Post]:
    """Shipments are carried depot by depot: their primary key does not say the driving key."""
    by_id = 'key = ["id"]\nroute = "' + OF_STATION + '"\nsources = { parcels = { id = "id" } }'
    by_station = (
        f'key = ["region", "number"]\nroute = "{OF_STATION}"\n'
        'sources = { parcels = { region = "region", number = "code" } }'
    )
    assert by_id in DOMAIN
    made = make(
        fresh_databases,
        write_config,
        domain=DOMAIN.replace(by_id, by_station),
        more_old="ALTER TABLE parcels REPLICA IDENTITY FULL",
    )
    with closing(made.old), closing(made.new):
        yield made


def test_2_a_row_that_stands_under_another_key_is_not_written_over_unseen(by_depot: Post) -> None:
    """A parcel has gone to another depot here, and somebody has changed its shipment there."""
    post = by_depot
    fill(post)
    depots = [("n", "1"), ("s", "1")]
    names = [(name, key) for name in (STATIONS, TAGS, SHIPMENTS) for key in depots]
    with opened(post) as first:
        first.apply(*names)
    post.old.execute("UPDATE parcels SET region = 's'")
    with watched(post) as forward:
        post.new.execute("UPDATE shipments SET note = 'theirs' WHERE region = 'n'")
        forward.apply((SHIPMENTS, ("s", "1")))
        assert rows(post, "SELECT region, note FROM shipments ORDER BY 1") == [
            ("n", "theirs"),
            ("s", ""),
        ]
        assert [item.reason for item in forward.applier.waiting.values()] == ["stray-pending"]
    with opened(post) as again:
        # Looked at by the opposite stream, it is no obstacle: the row is moved, not doubled.
        again.applier.retry(list(again.applier.waiting))
        again.apply((SHIPMENTS, ("n", "1")))
    assert post.differences(post.forward) == {}


def test_2_a_row_that_stands_under_a_key_of_the_other_side_is_not_written_over(
    by_depot: Post,
) -> None:
    """Its station belongs to a customer whose bucket is not ours."""
    post = by_depot
    theirs, ours = sorted(("ann", "bob"), key=bucket)
    for region, name, holder in (("n", "A", theirs), ("s", "B", ours)):
        post.old.execute("INSERT INTO depots VALUES (%s, 1, %s, %s, '[]')", (region, name, holder))
    post.old.execute("INSERT INTO parcels (region, code, note) VALUES ('n', 1, 'first')")
    names = [(name, key) for name in (STATIONS, SHIPMENTS) for key in (("n", "1"), ("s", "1"))]
    with opened(post) as first:
        first.apply(*names)
    post.own(bucket(ours), 2)
    post.old.execute("UPDATE parcels SET region = 's', note = 'taken'")
    with opened(post) as again:
        assert again.apply((SHIPMENTS, ("s", "1"))).strays == 1
    assert rows(post, "SELECT region, note FROM shipments") == [("n", "first")]
    (stray,) = post.strays(post.forward)
    assert stray[2][0]["note"] == "taken"
