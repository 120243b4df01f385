"""Transactions become keys; 32-bit transaction ids become 64-bit ones."""

import json
import struct
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estate.config import DatabaseConfig, DomainConfig, MappingConfig
from estate.secrets import SecretRef
from migrator.changes import (
    AGAIN,
    Collector,
    KeyNotInIdentity,
    TableChanged,
    TableTruncated,
    TableUnknown,
)
from migrator.mapping import Mapping, Stream
from migrator.pgoutput import (
    LEFT_OUT,
    Begin,
    Change,
    Commit,
    Decoder,
    Event,
    Malformed,
    Message,
    Relation,
    Truncate,
    Value,
)
from migrator.visibility import unseen, widen
from tests.migrator import test_pgoutput as wire


def mapping(target: str, key: tuple[str, ...], **sources: dict[str, str]) -> Mapping:
    config = MappingConfig.model_construct(target=target, key=key, sources=sources, route="t.x")
    return Mapping(f"d.forward.{target}", config)


def stream(*mappings: Mapping) -> Stream:
    database = DatabaseConfig.model_construct(name="x", dsn=SecretRef("env:X"))
    domain = DomainConfig.model_construct(name="d", forward=[], reverse=[])
    return Stream(domain, "forward", database, database, mappings, database)


def relation(name: str, *columns: str, identity: tuple[str, ...] | None = None) -> Relation:
    chosen = columns if identity is None else identity
    kinds = (25,) * len(columns)
    return Relation(hash(name) & 0xFFFF, "public", name, "d", columns, kinds, frozenset(chosen))


BOXES = relation("boxes", "shelf", "place", "note", identity=("shelf", "place"))
ITEMS = relation("items", "id", "shelf", "place", identity=("id", "shelf", "place"))


def collector() -> Collector:
    """Boxes by (place, shelf), which items lead to as well; items by their id."""
    made = Collector(
        stream(
            mapping(
                "crates",
                ("p", "s"),
                boxes={"p": "place", "s": "shelf"},
                items={"s": "shelf", "p": "place"},
            ),
            mapping("things", ("id",), items={"id": "id"}),
        )
    )
    made.feed(BOXES)
    made.feed(ITEMS)
    return made


def values(made: Collector, table: str, row: dict[str, Value] | None) -> tuple[Value, ...] | None:
    return None if row is None else tuple(row[column] for column in made.wanted[table])


def changed(
    made: Collector,
    of: Relation,
    old: dict[str, Value] | None = None,
    new: dict[str, Value] | None = None,
) -> Change:
    kind = "I" if old is None else "D" if new is None else "U"
    return Change(of, kind, values(made, of.name, old), values(made, of.name, new))


def transaction(made: Collector, *events: Event, lsn: int = 100, xid: int = 7) -> None:
    made.feed(Begin(lsn, 5_000_000, xid))
    for event in events:
        made.feed(event)
    made.feed(Commit(lsn, lsn + 8, 5_000_000))


def box(shelf: Value, place: Value) -> dict[str, Value]:
    return {"shelf": shelf, "place": place}


def item(id: Value, shelf: Value, place: Value) -> dict[str, Value]:
    return {"id": id, "shelf": shelf, "place": place}


CRATES, THINGS = "d.forward.crates", "d.forward.things"


def test_a_row_leads_to_the_key_of_each_mapping_that_reads_it() -> None:
    made = collector()
    transaction(made, changed(made, ITEMS, new=item("1", "a", "2")))
    batch = made.take()
    assert list(batch.keys) == [(CRATES, ("2", "a")), (THINGS, ("1",))]
    assert (batch.lsn, batch.xids, batch.commit_us) == (108, {7}, [5_000_000])
    assert batch.worth_storing


def test_a_row_that_changes_again_leads_where_it_led() -> None:
    """Unless its table was told of anew: its columns may stand in another order now."""
    made = collector()
    decoder = Decoder(made.wanted)
    begin, end = b"B" + struct.pack("!QqI", 1, 0, 7), b"C" + struct.pack("!BQQq", 0, 1, 9, 0)
    box = wire.change("I", b"N", wire.row("a", "2"))
    for columns, key in (("shelf", "place"), ("2", "a")), (("place", "shelf"), ("a", "2")):
        told = wire.relation(name="boxes", columns=tuple((name, 25, True) for name in columns))
        for before in ([told], []):
            made.take_in(decoder, [begin, *before, box, box, end])
            batch = made.take()
            assert (list(batch.keys), batch.xids, batch.since) == ([(CRATES, key)], {7}, 1)


@pytest.mark.parametrize("message", [b"B123", b"C123", b"I", b"X"])
def test_what_the_protocol_does_not_have_is_said_to_be(message: bytes) -> None:
    made = collector()
    with pytest.raises(Malformed):
        made.take_in(Decoder(made.wanted), [message])


def test_old_and_new_key_are_both_taken() -> None:
    """PROTOCOL 8: a row that moved leaves a hole where it was."""
    made = collector()
    old, new = item("1", "a", "2"), item("1", "b", "2")
    transaction(made, changed(made, ITEMS, old=old, new=new))
    assert list(made.take().keys) == [
        (CRATES, ("2", "a")),
        (THINGS, ("1",)),
        (CRATES, ("2", "b")),
    ]
    transaction(made, changed(made, ITEMS, old=old))
    assert set(made.take().keys) == {(CRATES, ("2", "a")), (THINGS, ("1",))}


def test_a_value_left_out_of_the_new_row_is_in_the_old_one() -> None:
    made = collector()
    event = changed(made, BOXES, old=box("a", "2"), new=box("a", LEFT_OUT))
    transaction(made, event)
    assert set(made.take().keys) == {(CRATES, ("2", "a"))}


def test_a_key_that_cannot_be_known_stops_the_stream() -> None:
    made = collector()
    with pytest.raises(KeyNotInIdentity, match="place"):
        transaction(made, changed(made, BOXES, new=box("a", LEFT_OUT)))


def test_null_leads_nowhere() -> None:
    made = collector()
    transaction(made, changed(made, ITEMS, new=item("1", "a", None)))
    assert list(made.take().keys) == [(THINGS, ("1",))]


def test_one_key_changed_often_is_one_key() -> None:
    made = collector()
    for number in range(3):
        event = changed(made, BOXES, new=box("a", "2"))
        transaction(made, event, lsn=number * 10, xid=number)
    batch = made.take()
    assert (len(batch.keys), batch.xids, batch.lsn) == (1, {0, 1, 2}, 28)


def test_a_batch_knows_where_the_first_commit_that_brought_a_key_stands() -> None:
    """PROTOCOL 3: by it a barrier tells keys that changed before its marker from later ones."""
    made = collector()
    transaction(made, Message(True, 1, "splitctl.marker", b"d.forward"), lsn=100)
    for lsn in (200, 300):
        transaction(made, changed(made, BOXES, new=box("a", "2")), lsn=lsn)
    assert made.take().since == 200
    transaction(made, changed(made, BOXES, new=box("a", "2")), lsn=400)
    assert made.take().since == 400


def mark(text: str) -> Message:
    return Message(True, 1, "splitctl.applied", text.encode())


def test_what_we_wrote_ourselves_is_skipped_and_not_worth_a_commit() -> None:
    """L5: both directions of the domain, and not another domain's."""
    made = collector()
    for name in ("d.forward", "d.reverse"):
        transaction(made, mark(name), changed(made, BOXES, new=box("a", "2")), lsn=200)
    assert not made.worth_storing
    batch = made.take()
    assert (batch.keys, batch.lsn) == ({}, 208)
    transaction(made, mark("other.forward"), changed(made, BOXES, new=box("a", "2")))
    assert len(made.take().keys) == 1


def test_a_mark_counts_only_as_the_first_message() -> None:
    """Otherwise a customer's change in front of it would be lost."""
    made = collector()
    transaction(made, changed(made, BOXES, new=box("a", "2")), mark("d.reverse"))
    assert len(made.take().keys) == 1
    transaction(
        made,
        Message(True, 1, "something.else", b""),
        mark("d.reverse"),
        changed(made, BOXES, new=box("a", "2")),
    )
    assert len(made.take().keys) == 1


def test_markers_and_heartbeats_move_the_position() -> None:
    made = collector()
    transaction(made, Message(True, 1, "splitctl.marker", b"whoever"))
    batch = made.take()
    assert batch.urgent and batch.worth_storing and batch.lsn == 108
    stamp = "2024-05-06 07:08:09.123456+00"
    transaction(made, Message(True, 1, "splitctl.heartbeat", f"d.forward 77 {stamp}".encode()))
    batch = made.take()
    assert batch.heartbeat_at == datetime(2024, 5, 6, 7, 8, 9, 123456, UTC)
    assert batch.horizon == 77
    transaction(made, Message(True, 1, "splitctl.heartbeat", f"d.reverse 77 {stamp}".encode()))
    assert not made.take().worth_storing


@pytest.mark.parametrize("prefix", ["splitctl.marker", "splitctl.heartbeat"])
def test_a_message_counts_when_its_transaction_has_ended(prefix: str) -> None:
    """Handed over before, the batch would have no position, and the target would go back to 0."""
    made = collector()
    made.feed(Begin(100, 5_000_000, 7))
    made.feed(Message(True, 1, prefix, b"d.forward 77 2024-05-06 07:08:09+00"))
    assert not made.worth_storing
    made.feed(Commit(100, 108, 5_000_000))
    assert made.worth_storing and made.take().lsn == 108
    transaction(made)
    assert not made.take().worth_storing


def test_keys_that_the_opposite_stream_asks_for() -> None:
    made = collector()
    asked = {"stream": "d.forward", "keys": [[THINGS, ["1"]], [CRATES, ["2", "a"]], ["x", ["1"]]]}
    again = Message(True, 1, AGAIN, json.dumps(asked).encode())
    transaction(made, mark("d.reverse"), again)
    assert made.worth_storing, "it must not wait for somebody else's change"
    transaction(made, changed(made, BOXES, new=box("a", "2")))
    batch = made.take()
    assert set(batch.keys) == {(THINGS, ("1",)), (CRATES, ("2", "a"))}
    assert list(batch.again) == [(THINGS, ("1",))], "a key that changed as well is an ordinary one"
    other = Message(True, 1, AGAIN, json.dumps({**asked, "stream": "d.reverse"}).encode())
    transaction(made, mark("d.forward"), other)
    assert not made.take().keys


def test_a_batch_knows_which_commit_told_of_a_key_last() -> None:
    made = collector()
    asked = {"stream": "d.forward", "keys": [[THINGS, ["1"]], [THINGS, ["3"]]]}
    transaction(made, changed(made, ITEMS, new=item("1", "a", "2")), lsn=100)
    transaction(made, changed(made, ITEMS, new=item("2", "a", "2")), lsn=200)
    transaction(made, changed(made, BOXES, new=box("a", "2")), lsn=300)
    transaction(made, changed(made, ITEMS, new=item("4", "a", "5")), lsn=400)
    again = Message(True, 1, AGAIN, json.dumps(asked).encode())
    transaction(made, mark("d.reverse"), again, lsn=500)
    transaction(made, changed(made, ITEMS, new=item("4", "a", "5")), lsn=600)
    batch = made.take()
    told = {key: batch.told_at((THINGS, key)) for key in (("1",), ("2",), ("3",), ("4",))}
    assert told == {("1",): 500, ("2",): 200, ("3",): 500, ("4",): 600}
    assert batch.told_at((CRATES, ("2", "a"))) == 300
    made.feed(Begin(700, 5_000_000, 7))
    made.feed(changed(made, BOXES, new=box("a", "2")))
    assert made.take_part().told_at((CRATES, ("2", "a"))) == 700


def test_a_part_tells_that_a_table_has_other_columns() -> None:
    """Its transaction may be long, and what was made for the old ones would go on to its end."""
    made = collector()
    transaction(made, changed(made, ITEMS, new=item("1", "a", "2")))
    made.take()
    made.feed(Begin(200, 5_000_000, 7))
    made.feed(relation("boxes", "shelf", "place", "note", "size"))
    made.feed(changed(made, BOXES, new=box("a", "2")))
    assert made.take_part().altered
    made.feed(changed(made, BOXES, new=box("a", "3")))
    assert not made.take_part().altered


def test_truncate_stops_and_never_spreads() -> None:
    """PROTOCOL 14."""
    made = collector()
    with pytest.raises(TableTruncated, match="boxes"):
        transaction(made, Truncate((BOXES,)))


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        (("place", "note"), "shelf"),
        (("note",), "place, shelf"),
    ],
)
def test_a_driving_column_that_goes_stops_the_stream(columns: tuple[str, ...], what: str) -> None:
    made = collector()
    with pytest.raises(TableChanged, match=f"boxes.*{what}"):
        made.feed(relation("boxes", *columns))
    made.feed(BOXES)


@pytest.mark.parametrize("columns", [("shelf", "place"), ("shelf", "place", "note", "more")])
def test_a_batch_says_that_other_columns_come_or_go(columns: tuple[str, ...]) -> None:
    made = collector()
    transaction(made, lsn=10)
    assert made.take().altered, "what a table looks like is told once"
    transaction(made, BOXES, lsn=20)
    assert not made.take().altered
    transaction(made, relation("boxes", *columns), lsn=30)
    transaction(made, lsn=40)
    assert made.take().altered
    transaction(made, lsn=50)
    assert not made.take().altered


def test_a_driving_column_outside_the_identity_stops_the_stream() -> None:
    """PROTOCOL 8: a delete would not say whose row it was."""
    made = collector()
    less = relation("boxes", "shelf", "place", "note", identity=("shelf",))
    transaction(made, less, changed(made, less, new=box("a", "2")))
    assert set(made.take().keys) == {(CRATES, ("2", "a"))}, "a new row had no key before"
    for old, new in ((None, box("a", "2")), (box("a", None), None)):
        event = Change(
            less, "U" if new else "D", values(made, "boxes", old), values(made, "boxes", new)
        )
        with pytest.raises(KeyNotInIdentity, match="place"):
            transaction(made, event)
    transaction(made, BOXES, changed(made, BOXES, old=box("a", "2")))


def test_a_table_that_nobody_reads_stops_the_stream() -> None:
    made = collector()
    strange = relation("archived_boxes", "shelf", "place")
    transaction(made, strange)
    with pytest.raises(TableUnknown, match="archived_boxes"):
        transaction(made, Change(strange, "I", None, ()))


@given(st.integers(3, 2**62), st.integers(-(2**31) + 1, 2**31 - 1))
def test_transaction_ids_are_widened_to_the_nearest(near: int, distance: int) -> None:
    """L3: an id on either side of a turn of the 32-bit counter."""
    xid = near + distance
    if xid >= 0:
        assert widen(xid & 0xFFFFFFFF, near) == xid


@given(st.sets(st.integers(0, 40)), st.integers(0, 40), st.integers(0, 40), st.integers(0, 2**20))
def test_seen_means_ended_before_the_snapshot(
    running: set[int], one: int, other: int, turns: int
) -> None:
    """L3, against a model: visible is what had ended when the snapshot was taken."""
    base = turns << 32
    xmax = base + max(one, other) + 1
    inside = {base + number for number in running if base + number < xmax}
    xmin = min(inside, default=xmax)
    text = f"{xmin}:{xmax}:{','.join(map(str, sorted(inside)))}"
    every = range(base, base + 45)
    expected = {xid for xid in every if xid >= xmax or xid in inside}
    assert unseen([xid & 0xFFFFFFFF for xid in every], text) == expected
