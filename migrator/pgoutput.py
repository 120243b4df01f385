"""Decoding of pgoutput, protocol version 1: bytes in, messages out. It knows no network or clock.

Of a changed row only the columns that lead to a driving key are decoded (law L2); what lies before
them is stepped over, and what lies behind them is not looked at. Events are named tuples, because a
burst brings hundreds of thousands of them a second.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

TEXT: Final = ord("t")
NULL: Final = ord("n")
UNCHANGED: Final = ord("u")
EMPTY: Final = frozenset(b"nu")
BEGIN: Final = ord("B")
COMMIT: Final = ord("C")
CHANGES: Final = frozenset(b"IUD")
UPDATE: Final = ord("U")
DELETE: Final = ord("D")
OLD_TUPLES: Final = frozenset(b"KO")
NEW_TUPLE: Final = ord("N")
# Microseconds between 1970 and 2000, where PostgreSQL's clock begins.
EPOCH_US: Final = 946_684_800_000_000

_BEGIN = struct.Struct("!QqI")
_COMMIT = struct.Struct("!BQQq")
_MESSAGE = struct.Struct("!BQ")


class Unchanged:
    """A large value that the statement did not touch, and that the log therefore leaves out."""

    def __repr__(self) -> str:
        return "UNCHANGED"


LEFT_OUT: Final = Unchanged()
Value = str | None | Unchanged


class Begin(NamedTuple):
    """A transaction begins: `final_lsn` is where its commit record stands; `xid` has 32 bits."""

    final_lsn: int
    commit_us: int
    xid: int


class Commit(NamedTuple):
    """It ends: `end_lsn` is the position behind its commit record; `commit_us` counts from 1970."""

    lsn: int
    end_lsn: int
    commit_us: int


class Relation(NamedTuple):
    """A table as the log knew it then. `identity` names the columns of its replica identity."""

    oid: int
    namespace: str
    name: str
    replica_identity: str
    columns: tuple[str, ...]
    types: tuple[int, ...]
    identity: frozenset[str]


class Change(NamedTuple):
    """One changed row: the wanted columns of its old and new tuple, where the log has them."""

    relation: Relation
    kind: str
    old: tuple[Value, ...] | None
    new: tuple[Value, ...] | None


class Truncate(NamedTuple):
    """Tables that were emptied at once."""

    relations: tuple[Relation, ...]


class Message(NamedTuple):
    """What pg_logical_emit_message wrote."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


class Origin(NamedTuple):
    """The transaction was replayed here from another server."""

    name: str


class Type(NamedTuple):
    """A type that is not built in."""

    oid: int
    name: str


Event = Begin | Commit | Relation | Change | Truncate | Message | Origin | Type


class Malformed(ValueError):
    """Bytes that protocol version 1 does not have."""


class Decoder:
    """Turns one pgoutput message at a time into an event. It remembers the relations it was told.

    `wanted` maps a table's name to the columns to decode, in the order in which they are given.
    `names` holds, by oid, the names that tables have now: the log knows them by older ones.
    """

    def __init__(
        self, wanted: dict[str, tuple[str, ...]], names: Mapping[int, str] | None = None
    ) -> None:
        self._wanted, self._names = wanted, names or {}
        self._relations: dict[int, Relation] = {}
        self._layouts: dict[bytes, _Layout] = {}
        self._readers: dict[int, Callable[[bytes], Event]] = {
            BEGIN: lambda data: Begin._make(begin(data)),
            COMMIT: lambda data: Commit._make(commit(data)),
            **dict.fromkeys(CHANGES, self._change),
            ord("R"): self._relation,
            ord("M"): _message,
            ord("T"): self._truncate,
            ord("O"): _origin,
            ord("Y"): _type,
        }

    def decode(self, data: bytes) -> Event:
        """Decode one message. Raises Malformed."""
        try:
            return self._readers[data[0]](data)
        except (struct.error, IndexError, KeyError, UnicodeDecodeError) as error:
            kind = data[:1].decode("ascii", "replace")
            raise Malformed(f"message {kind!r} of {len(data)} bytes: {error!r}") from error

    def head(self, data: bytes) -> bytes | None:
        """The part of a change that tells all that `decode` tells of it: equal heads, equal events.

        None for a change that has both an old and a new tuple, or that `decode` would not take.
        """
        layout = self._layouts.get(data[1:5])
        if layout is None or (data[0] == UPDATE and data[5] != NEW_TUPLE):
            return None
        at = 8
        try:
            for _ in range(layout.last + 1):
                if data[at] == TEXT:
                    at += 5 + int.from_bytes(data[at + 1 : at + 5], "big")
                else:
                    at += 1
        except IndexError:
            return None
        return data[:at]

    def _relation(self, data: bytes) -> Relation:
        oid = _number(data, 1, 4)
        namespace, at = _string(data, 5)
        name, at = _string(data, at)
        name = self._names.get(oid, name)
        replica_identity = chr(data[at])
        count = _number(data, at + 1, 2)
        at += 3
        names, types, identity = [], [], set()
        for _ in range(count):
            in_identity = data[at] & 1
            column, after = _string(data, at + 1)
            names.append(column)
            types.append(_number(data, after, 4))
            if in_identity:
                identity.add(column)
            at = after + 8
        relation = Relation(
            oid, namespace, name, replica_identity, tuple(names), tuple(types), frozenset(identity)
        )
        self._relations[oid] = relation
        # A column that is gone is left to whoever compares relations; here it is not decoded.
        wanted = [column for column in self._wanted.get(name, ()) if column in names]
        positions = tuple(names.index(column) for column in wanted)
        self._layouts[data[1:5]] = _Layout(relation, positions, max(positions, default=-1))
        return relation

    def _truncate(self, data: bytes) -> Truncate:
        count = _number(data, 1, 4)
        oids = [_number(data, 6 + 4 * index, 4) for index in range(count)]
        return Truncate(tuple(self._relations[oid] for oid in oids))

    def _change(self, data: bytes) -> Change:
        relation, positions, last = self._layouts[data[1:5]]
        kind, mark, at = data[0], data[5], 6
        old = None
        if mark in OLD_TUPLES:
            if kind == DELETE:
                return Change(relation, "D", _values(data, at, positions, last), None)
            old = _values(data, at, positions, last)
            at = _behind(data, at)
            mark, at = data[at], at + 1
        if mark != NEW_TUPLE or kind == DELETE:
            raise Malformed(f"{chr(kind)} with a tuple {chr(mark)!r}")
        return Change(relation, chr(kind), old, _values(data, at, positions, last))


def begin(data: bytes) -> tuple[int, int, int]:
    """The fields of a Begin. Raises Malformed."""
    if len(data) < 1 + _BEGIN.size:
        raise Malformed(f"a begin of {len(data)} bytes")
    lsn, commit_us, xid = _BEGIN.unpack_from(data, 1)
    return lsn, commit_us + EPOCH_US, xid


def commit(data: bytes) -> tuple[int, int, int]:
    """The fields of a Commit. Raises Malformed."""
    if len(data) < 1 + _COMMIT.size:
        raise Malformed(f"a commit of {len(data)} bytes")
    _, lsn, end_lsn, commit_us = _COMMIT.unpack_from(data, 1)
    return lsn, end_lsn, commit_us + EPOCH_US


def _message(data: bytes) -> Message:
    flags, lsn = _MESSAGE.unpack_from(data, 1)
    prefix, at = _string(data, 10)
    length = _number(data, at, 4)
    if len(data) != at + 4 + length:
        raise Malformed(f"message content of {length} bytes in {len(data)}")
    return Message(bool(flags & 1), lsn, prefix, data[at + 4 : at + 4 + length])


def _origin(data: bytes) -> Origin:
    return Origin(_string(data, 9)[0])


def _type(data: bytes) -> Type:
    oid = _number(data, 1, 4)
    _, at = _string(data, 5)
    return Type(oid, _string(data, at)[0])


class _Layout(NamedTuple):
    """Where the wanted columns stand in a relation's tuples, and the last of these places."""

    relation: Relation
    positions: tuple[int, ...]
    last: int


def _values(data: bytes, at: int, positions: tuple[int, ...], last: int) -> tuple[Value, ...]:
    """The values at these positions of the tuple that begins here."""
    count = (data[at] << 8) | data[at + 1]
    at += 2
    found: list[Value] = []
    for index in range(last + 1):
        kind = data[at]
        if kind == TEXT:
            end = at + 5 + int.from_bytes(data[at + 1 : at + 5], "big")
            found.append(data[at + 5 : end].decode() if index in positions else None)
            at = end
        elif kind in EMPTY:
            found.append(None if kind == NULL else LEFT_OUT)
            at += 1
        else:
            raise Malformed(f"value of kind {chr(kind)!r}")
    if at > len(data) or last >= count:
        raise Malformed("a tuple is cut off")
    return tuple([found[position] for position in positions])


def _behind(data: bytes, at: int) -> int:
    """The offset behind the tuple that begins here."""
    count = (data[at] << 8) | data[at + 1]
    at += 2
    for _ in range(count):
        kind = data[at]
        if kind == TEXT:
            at += 5 + _number(data, at + 1, 4)
        elif kind in EMPTY:
            at += 1
        else:
            raise Malformed(f"value of kind {chr(kind)!r}")
    return at


def _string(data: bytes, at: int) -> tuple[str, int]:
    end = data.find(0, at)
    if end < 0:
        raise Malformed("a text does not end")
    return data[at:end].decode(), end + 1


def _number(data: bytes, at: int, size: int) -> int:
    if at + size > len(data):
        raise Malformed("a number is cut off")
    return int.from_bytes(data[at : at + size], "big")


def lsn_number(text: str) -> int:
    """A position written like 16/B374D848, as a number."""
    high, low = text.split("/")
    return (int(high, 16) << 32) | int(low, 16)


def lsn_text(number: int) -> str:
    """A position as PostgreSQL writes it."""
    return f"{number >> 32:X}/{number & 0xFFFFFFFF:X}"
