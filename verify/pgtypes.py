"""PostgreSQL types as the verifier sees them: cast, hash form, text form, order of keys.

A value is compared in the form in which the target stores it. Both sides use the same form, so a
uuid kept as text on one side, or a number with another scale, is no difference.
"""

from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from verify.values import Kind

BOOL, BYTEA, INT8, INT2, INT4, TEXT, OID = 16, 17, 20, 21, 23, 25, 26
JSON, FLOAT4, FLOAT8, MONEY, BPCHAR, VARCHAR = 114, 700, 701, 790, 1042, 1043
DATE, TIME, TIMESTAMP, TIMESTAMPTZ, BIT, VARBIT = 1082, 1083, 1114, 1184, 1560, 1562
NUMERIC, UUID, JSONB = 1700, 2950, 3802
INTEGERS = frozenset({INT2, INT4, INT8})
TEXTS = frozenset({TEXT, VARCHAR})
FIRST_USER_OID = 16384

# Types whose own hash separates every two different values. All others are hashed as text: the
# hash of jsonb and of arrays ignores where nesting ends, enums hash by OID, citext ignores case,
# one month equals thirty days as an interval. Being hashed as text can only invent a suspect.
HASHED_NATIVELY = INTEGERS | TEXTS | {
    BOOL, BYTEA, OID, FLOAT4, FLOAT8, DATE, TIME, TIMESTAMP, TIMESTAMPTZ, NUMERIC, UUID,
}  # fmt: skip

# Types compared alike on every server; all other keys are compared as text COLLATE "C".
MATCHED_NATIVELY: dict[int, LiteralString] = {
    INT2: "bigint",
    INT4: "bigint",
    INT8: "bigint",
    BOOL: "boolean",
    BYTEA: "bytea",
    DATE: "date",
    FLOAT4: "real",
    FLOAT8: "double precision",
    NUMERIC: "numeric",
    TIME: "time",
    TIMESTAMP: "timestamp",
    TIMESTAMPTZ: "timestamptz",
    UUID: "uuid",
}
TYPE_NAMES: LiteralString = """
SELECT n, format_type(o, m), format_type(o, -1)
  FROM unnest(%s::int[], %s::oid[], %s::int[]) AS x(n, o, m) ORDER BY n
"""
NUMERIC_HEADER = 4
SCALE_MASK, SCALE_SIGN = 0x7FF, 1024


@dataclass(frozen=True)
class PgType:
    """A type with its modifier; `name` and `bare` are SQL, with and without the modifier."""

    oid: int
    modifier: int
    name: str
    bare: str

    @property
    def scale(self) -> int | None:
        """Digits after the point of a numeric that limits them, else None."""
        if self.oid != NUMERIC or self.modifier < NUMERIC_HEADER:
            return None
        return (((self.modifier - NUMERIC_HEADER) & SCALE_MASK) ^ SCALE_SIGN) - SCALE_SIGN

    @property
    def kind(self) -> Kind:
        """How two values of this type, as text, are compared."""
        if self.oid in INTEGERS:
            return Kind.INTEGER
        if self.oid in (NUMERIC, MONEY):
            return Kind.NUMERIC
        if self.oid in (FLOAT4, FLOAT8):
            return Kind.FLOAT
        if self.oid in (JSON, JSONB):
            return Kind.JSON
        return Kind.EXACT


def describe(connection: psycopg.Connection[Any], query: sql.Composable) -> dict[str, PgType]:
    """The output columns of a query, in order, without running it over any row.

    A domain is described as the type below it. Raises psycopg.Error when the query is wrong.
    """
    cursor = connection.execute(sql.SQL("SELECT * FROM (\n{}\n) AS d LIMIT 0").format(query))
    result = cursor.pgresult
    if result is None or cursor.description is None:
        return {}
    names = [column.name for column in cursor.description]
    oids = [result.ftype(n) for n in range(len(names))]
    modifiers = [result.fmod(n) for n in range(len(names))]
    rows = connection.execute(TYPE_NAMES, (list(range(len(names))), oids, modifiers)).fetchall()
    return {
        name: PgType(oid, modifier, str(row[1]), str(row[2]))
        for name, oid, modifier, row in zip(names, oids, modifiers, rows, strict=True)
    }


def _cast(value: sql.Composable, type_name: str) -> sql.Composable:
    # The name comes from format_type of the server, which quotes it.
    return sql.SQL("({})::{}").format(value, sql.SQL(type_name))


def stored(value: sql.Composable, source: PgType, target: PgType) -> sql.Composable:
    """The value of type `source` as a column of type `target` would hold it.

    Casts that cut silently (varchar(3), bit(2)) or that can overflow are left out: they would
    make a value look like what the target can hold.
    """
    if target.oid in INTEGERS:
        return value if source.oid in INTEGERS else _cast(value, "bigint")
    if target.oid == NUMERIC:
        number = value if source.oid == NUMERIC else _cast(value, "numeric")
        if target.scale is None or target.scale == source.scale:
            return number
        return sql.SQL("round({}, {})").format(number, sql.Literal(target.scale))
    if target.oid in TEXTS:
        return value if source.oid in TEXTS else _cast(value, "text")
    if target.oid >= FIRST_USER_OID:
        # A type of the target's own (an enum, say) need not exist in the source.
        return value
    if target.oid in (BPCHAR, BIT, VARBIT):
        return value if source.oid == target.oid else _cast(value, target.bare)
    if source.oid == target.oid and source.modifier == target.modifier:
        return value
    return _cast(value, target.name)


def as_text(value: sql.Composable, target: PgType) -> sql.Composable:
    """The stored value as text that does not depend on the server's locale."""
    if target.oid == MONEY:
        return _cast(_cast(value, "numeric"), "text")
    return _cast(value, "text")


def for_record_hash(value: sql.Composable, target: PgType) -> sql.Composable:
    """The stored value in a form whose hash separates different values."""
    if target.oid in TEXTS:
        return sql.SQL('({}) COLLATE "C"').format(value)
    if target.oid in HASHED_NATIVELY:
        return value
    return sql.SQL('({}) COLLATE "C"').format(as_text(value, target))


def for_text_hash(value: sql.Composable, target: PgType) -> sql.Composable:
    """The stored value as text, with one text for one number."""
    if target.oid == NUMERIC:
        return _cast(sql.SQL("trim_scale({})").format(value), "text")
    return as_text(value, target)


def for_match(value: sql.Composable, target: PgType) -> sql.Composable:
    """A key column's stored value in a form that every server compares alike."""
    if target.oid in MATCHED_NATIVELY:
        return value
    return sql.SQL('({}) COLLATE "C"').format(as_text(value, target))


def match_literal(text: str, target: PgType) -> sql.Composable:
    """A key column's value, given as text, to compare with `for_match`."""
    name = MATCHED_NATIVELY.get(target.oid)
    if name is None:
        return sql.SQL('{}::text COLLATE "C"').format(sql.Literal(text))
    return sql.SQL("{}::{}").format(sql.Literal(text), sql.SQL(name))


def matches_plainly(source: PgType, target: PgType) -> bool:
    """True when an index on the bare column finds every row whose stored value is a given one."""
    if target.oid >= FIRST_USER_OID or source.oid >= FIRST_USER_OID:
        return False
    families = (INTEGERS, TEXTS)
    same = source.oid == target.oid and source.modifier == target.modifier
    return same or any(source.oid in family and target.oid in family for family in families)
