"""The decoder: bytes made by hand, and whatever else may come."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrator.pgoutput import (
    EPOCH_US,
    LEFT_OUT,
    Begin,
    Change,
    Commit,
    Decoder,
    Malformed,
    Message,
    Origin,
    Relation,
    Truncate,
    Type,
    lsn_number,
    lsn_text,
)


def relation(
    oid: int = 7,
    name: str = "t",
    columns: tuple[tuple[str, int, bool], ...] = (("a", 25, True), ("b", 23, False)),
    identity: str = "d",
) -> bytes:
    data = b"R" + struct.pack("!I", oid) + b"public\0" + name.encode() + b"\0" + identity.encode()
    data += struct.pack("!h", len(columns))
    for column, kind, key in columns:
        data += bytes([key]) + column.encode() + b"\0" + struct.pack("!Ii", kind, -1)
    return data


def row(*values: str | bytes | None) -> bytes:
    data = struct.pack("!h", len(values))
    for value in values:
        if value is None:
            data += b"n"
        elif isinstance(value, bytes):
            data += value
        else:
            text = value.encode()
            data += b"t" + struct.pack("!i", len(text)) + text
    return data


def change(kind: str, *tuples: bytes, oid: int = 7) -> bytes:
    return kind.encode() + struct.pack("!I", oid) + b"".join(tuples)


@pytest.fixture
def decoder() -> Decoder:
    made = Decoder({"t": ("b", "a")})
    made.decode(relation())
    return made


def test_transactions_frame_their_changes(decoder: Decoder) -> None:
    begin = decoder.decode(b"B" + struct.pack("!QqI", 100, 5_000_000, 77))
    assert begin == Begin(100, EPOCH_US + 5_000_000, 77)
    commit = decoder.decode(b"C" + struct.pack("!BQQq", 0, 100, 140, 6_000_000))
    assert commit == Commit(100, 140, EPOCH_US + 6_000_000)


def test_wanted_columns_only_and_in_the_wanted_order(decoder: Decoder) -> None:
    found = decoder.decode(change("I", b"N", row("one", "1")))
    assert isinstance(found, Change)
    assert (found.kind, found.old, found.new) == ("I", None, ("1", "one"))
    found = decoder.decode(change("U", b"K", row("one", None), b"N", row("two", "2")))
    assert isinstance(found, Change)
    assert (found.old, found.new) == ((None, "one"), ("2", "two"))
    found = decoder.decode(change("U", b"N", row(b"u", "2")))
    assert isinstance(found, Change)
    assert found.new == ("2", LEFT_OUT)


VALUES = st.one_of(st.text(max_size=5), st.none(), st.just(b"u"))
ROWS = st.tuples(VALUES, VALUES, VALUES)


@given(st.sampled_from("IUD"), ROWS, VALUES, st.sampled_from("IUD"), ROWS)
def test_equal_heads_are_equal_changes(
    kind: str, one: tuple[Any, ...], rest: Any, other_kind: str, other: tuple[Any, ...]
) -> None:
    """Whoever has seen a head need not decode its change; what lies behind it leads nowhere."""
    made = Decoder({"t": ("b", "a")})
    made.decode(relation(columns=(("a", 25, True), ("b", 23, False), ("c", 25, False))))

    def message(kind: str, values: tuple[Any, ...]) -> bytes:
        return change(kind, b"K" if kind == "D" else b"N", row(*values))

    first, again = message(kind, one), message(kind, (*one[:2], rest))
    assert made.head(first) == made.head(again)
    assert made.decode(first) == made.decode(again)
    second = message(other_kind, other)
    same = made.head(first) == made.head(second)
    assert same == (made.decode(first) == made.decode(second))


def test_a_change_with_two_tuples_has_no_head(decoder: Decoder) -> None:
    assert decoder.head(change("U", b"K", row("one", None), b"N", row("two", "2"))) is None
    assert decoder.head(change("I", b"N", row("one", "2"), oid=8)) is None
    assert decoder.head(change("I", b"N", row("one", "2"))[:12]) is None
    found = decoder.decode(change("D", b"O", row("ä", "3")))
    assert isinstance(found, Change)
    assert (found.old, found.new) == (("3", "ä"), None)


def test_a_table_without_wanted_columns_is_stepped_over() -> None:
    decoder = Decoder({})
    decoder.decode(relation())
    found = decoder.decode(change("I", b"N", row("one", "1")))
    assert isinstance(found, Change)
    assert found.new == ()


def test_what_is_not_a_row() -> None:
    decoder = Decoder({"t": ("a",)})
    told = decoder.decode(relation(identity="f"))
    assert isinstance(told, Relation)
    assert (told.namespace, told.name, told.columns) == ("public", "t", ("a", "b"))
    assert (told.types, told.identity, told.replica_identity) == ((25, 23), {"a"}, "f")
    emptied = decoder.decode(b"T" + struct.pack("!IBI", 1, 2, 7))
    assert emptied == Truncate((told,))
    content = "grüße\0".encode()
    message = b"M" + struct.pack("!BQ", 1, 9) + b"splitctl.x\0"
    message += struct.pack("!I", len(content)) + content
    assert decoder.decode(message) == Message(True, 9, "splitctl.x", content)
    assert decoder.decode(b"O" + struct.pack("!Q", 1) + b"there\0") == Origin("there")
    assert decoder.decode(b"Y" + struct.pack("!I", 5) + b"public\0mood\0") == Type(5, "mood")


def test_a_relation_told_anew_moves_the_columns(decoder: Decoder) -> None:
    decoder.decode(relation(columns=(("x", 25, False), ("b", 23, False), ("a", 25, True))))
    found = decoder.decode(change("I", b"N", row("new", "1", "one")))
    assert isinstance(found, Change)
    assert found.new == ("1", "one")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"Z",
        b"B\0",
        change("I", b"N", row("one", "1"), oid=8),
        change("I", b"X", row("one", "1")),
        change("D", b"N", row("one", "1")),
        change("I", b"N", row("one", "1")[:-1]),
        change("I", b"N", row("one", b"b\0\0\0\1x")),
        b"R\0\0\0\1public",
        b"M" + struct.pack("!BQ", 1, 9) + b"p\0" + struct.pack("!I", 5) + b"four",
    ],
)
def test_bytes_that_are_no_message_are_refused(decoder: Decoder, data: bytes) -> None:
    with pytest.raises(Malformed):
        decoder.decode(data)


VALUES = st.none() | st.text(max_size=8)


@given(st.lists(st.tuples(VALUES, VALUES), max_size=5))
def test_every_row_comes_back_as_it_was(rows: list[tuple[str | None, str | None]]) -> None:
    try:
        packed = [row(*values) for values in rows]
    except UnicodeEncodeError:
        return
    decoder = Decoder({"t": ("a", "b")})
    decoder.decode(relation())
    for values, data in zip(rows, packed, strict=True):
        found = decoder.decode(change("I", b"N", data))
        assert isinstance(found, Change)
        assert found.new == values


@given(st.binary(max_size=60))
def test_garbage_is_refused_and_never_hangs(data: bytes) -> None:
    decoder = Decoder({"t": ("a", "b")})
    decoder.decode(relation())
    try:
        decoder.decode(data)
    except Malformed:
        return


@given(st.integers(0, 2**64 - 1))
def test_positions_are_written_as_postgresql_writes_them(number: int) -> None:
    assert lsn_number(lsn_text(number)) == number
