"""Decoding of pgoutput, protocol version 1: bytes in, messages out. It knows no network or clock.

Of a changed row only the columns that lead to a driving key are decoded (law L2); the rest of the
tuple is stepped over.
"""

import struct
from dataclasses import dataclass
from typing import Final

TEXT: Final = ord("t")
NULL: Final = ord("n")
UNCHANGED: Final = ord("u")
KEY_TUPLE: Final = ord("K")
OLD_TUPLE: Final = ord("O")
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


@dataclass(frozen=True, slots=True)
class Begin:
    """A transaction begins: `final_lsn` is where its commit record stands; `xid` has 32 bits."""

    final_lsn: int
    commit_us: int
    xid: int


@dataclass(frozen=True, slots=True)
class Commit:
    """It ends: `end_lsn` is the position behind its commit record; `commit_us` counts from 1970."""

    lsn: int
    end_lsn: int
    commit_us: int


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as the log knew it then. `identity` names the columns of its replica identity."""

    oid: int
    namespace: str
    name: str
    replica_identity: str
    columns: tuple[str, ...]
    types: tuple[int, ...]
    identity: frozenset[str]


@dataclass(frozen=True, slots=True)
class Change:
    """One changed row: the wanted columns of its old and new tuple, where the log has them."""

    relation: Relation
    kind: str
    old: tuple[Value, ...] | None
    new: tuple[Value, ...] | None


@dataclass(frozen=True, slots=True)
class Truncate:
    """Tables that were emptied at once."""

    relations: tuple[Relation, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """What pg_logical_emit_message wrote."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Origin:
    """The transaction was replayed here from another server."""

    name: str


@dataclass(frozen=True, slots=True)
class Type:
    """A type that is not built in."""

    oid: int
    name: str


Event = Begin | Commit | Relation | Change | Truncate | Message | Origin | Type


class Malformed(ValueError):
    """Bytes that protocol version 1 does not have."""


class Decoder:
    """Turns one pgoutput message at a time into an event. It remembers the relations it was told.

    `wanted` maps a table's name to the columns to decode, in the order in which they are given.
    """

    def __init__(self, wanted: dict[str, tuple[str, ...]]) -> None:
        self._wanted = wanted
        self._relations: dict[int, Relation] = {}
        self._positions: dict[int, tuple[int, ...]] = {}

    def decode(self, data: bytes) -> Event:
        """Decode one message. Raises Malformed."""
        try:
            return self._decode(data)
        except (struct.error, IndexError, KeyError, UnicodeDecodeError) as error:
            kind = data[:1].decode("ascii", "replace")
            raise Malformed(f"message {kind!r} of {len(data)} bytes: {error!r}") from error

    def _decode(self, data: bytes) -> Event:
        match chr(data[0]):
            case "I" | "U" | "D" as kind:
                return self._change(kind, data)
            case "B":
                lsn, commit_us, xid = _BEGIN.unpack_from(data, 1)
                return Begin(lsn, commit_us + EPOCH_US, xid)
            case "C":
                _, lsn, end_lsn, commit_us = _COMMIT.unpack_from(data, 1)
                return Commit(lsn, end_lsn, commit_us + EPOCH_US)
            case "R":
                return self._relation(data)
            case "M":
                flags, lsn = _MESSAGE.unpack_from(data, 1)
                prefix, at = _string(data, 10)
                length = _number(data, at, 4)
                if len(data) != at + 4 + length:
                    raise Malformed(f"message content of {length} bytes in {len(data)}")
                return Message(bool(flags & 1), lsn, prefix, data[at + 4 : at + 4 + length])
            case "T":
                count = _number(data, 1, 4)
                oids = [_number(data, 6 + 4 * index, 4) for index in range(count)]
                return Truncate(tuple(self._relations[oid] for oid in oids))
            case "O":
                return Origin(_string(data, 9)[0])
            case "Y":
                oid = _number(data, 1, 4)
                _, at = _string(data, 5)
                return Type(oid, _string(data, at)[0])
            case kind:
                raise Malformed(f"unknown message {kind!r}")

    def _relation(self, data: bytes) -> Relation:
        oid = _number(data, 1, 4)
        namespace, at = _string(data, 5)
        name, at = _string(data, at)
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
        self._positions[oid] = tuple(names.index(column) for column in wanted)
        return relation

    def _change(self, kind: str, data: bytes) -> Change:
        oid = _number(data, 1, 4)
        positions = self._positions[oid]
        old = new = None
        at = 5
        if data[at] in (KEY_TUPLE, OLD_TUPLE):
            old, at = _tuple(data, at + 1, positions)
        if kind != "D":
            if data[at] != NEW_TUPLE:
                raise Malformed(f"{kind} without a new tuple")
            new, at = _tuple(data, at + 1, positions)
        elif old is None:
            raise Malformed("D without an old tuple")
        if at != len(data):
            raise Malformed(f"{len(data) - at} bytes too many in {kind}")
        return Change(self._relations[oid], kind, old, new)


def _tuple(data: bytes, at: int, positions: tuple[int, ...]) -> tuple[tuple[Value, ...], int]:
    """The values at these positions, and the offset behind the tuple."""
    count = (data[at] << 8) | data[at + 1]
    at += 2
    found: dict[int, Value] = {}
    for index in range(count):
        kind = data[at]
        if kind == TEXT:
            end = at + 5 + _number(data, at + 1, 4)
            if index in positions:
                found[index] = data[at + 5 : end].decode()
            at = end
        elif kind in (NULL, UNCHANGED):
            found[index] = None if kind == NULL else LEFT_OUT
            at += 1
        else:
            raise Malformed(f"value of kind {chr(kind)!r}")
    if at > len(data):
        raise Malformed("a tuple is cut off")
    return tuple(found[index] for index in positions), at


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
