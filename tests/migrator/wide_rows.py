"""Random rows of the wide table, as hypothesis draws them: for each column a text of its type."""

import ipaddress
import json
from datetime import UTC

from hypothesis import strategies as st

from tests.migrator.wide import COLUMNS

Texts = st.SearchStrategy[str]
# What PostgreSQL accepts: every code point but U+0000 (surrogates are none).
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXT = st.text(CHARACTERS, max_size=30)
NUMBER = st.decimals(allow_nan=False, allow_infinity=False, places=6)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | TEXT
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
).map(lambda value: json.dumps(value, ensure_ascii=False))


def _quoted(text: str | None) -> str:
    if text is None:
        return "NULL"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _array(items: Texts) -> Texts:
    return st.lists(st.none() | items, max_size=4).map(
        lambda found: "{" + ",".join(map(_quoted, found)) + "}"
    )


def _integers(bits: int) -> Texts:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).map(str)


def _cents(number: int) -> str:
    return f"{'-' if number < 0 else ''}{abs(number) // 100}.{abs(number) % 100:02}"


def _range(of: st.SearchStrategy[int]) -> Texts:
    return st.tuples(of, of, st.sampled_from("[("), st.sampled_from("])")).map(
        lambda x: f"{x[2]}{min(x[:2])},{max(x[:2])}{x[3]}"
    )


SMALL = st.integers(-1000, 1000)
MOODS = st.sampled_from(["sad", 'it\'s, "so"', "happy"])
MOMENTS = st.datetimes(timezones=st.just(UTC)).map(str)
FLOAT = st.floats().map(repr)
POINT = st.tuples(FLOAT, FLOAT).map(lambda x: f"({x[0]},{x[1]})")
ADDRESS = st.tuples(st.none() | TEXT, st.none() | SMALL.map(str)).map(
    lambda x: f"({'' if x[0] is None else _quoted(x[0])},{x[1] or ''},)"
)
RANDOM: dict[str, Texts] = {
    "smallint": _integers(16),
    "integer": _integers(32),
    "bigint": _integers(64),
    "numeric(12,2)": st.integers(-(10**11), 10**11).map(_cents),
    "numeric": st.decimals(allow_nan=False).map(str),
    "real": st.floats(width=32).map(repr),
    "double precision": FLOAT,
    "money": st.integers(-(2**62), 2**62).map(_cents),
    "text": TEXT,
    "varchar(20)": st.text(CHARACTERS, max_size=20),
    "char(8)": st.text(CHARACTERS, max_size=8),
    "name": st.text(CHARACTERS, max_size=15),
    "bytea": st.binary(max_size=40).map(lambda data: f"\\x{data.hex()}"),
    "jsonb": JSON,
    "json": JSON.map(lambda text: f" {text}\n"),
    "date": st.dates().map(str),
    "timestamptz": MOMENTS,
    "timestamp(3)": st.datetimes().map(str),
    "time": st.times().map(str),
    "interval": st.tuples(SMALL, SMALL, _integers(40)).map(
        lambda x: f"{x[0]} mons {x[1]} days {x[2]} microseconds"
    ),
    "uuid": st.uuids().map(str),
    "inet": st.ip_addresses().map(str),
    "cidr": st.ip_addresses().map(lambda ip: str(ipaddress.ip_network(ip))),
    "bit(8)": st.text("01", min_size=8, max_size=8),
    "bit varying(12)": st.text("01", max_size=12),
    "integer[]": _array(_integers(32)),
    "text[]": _array(TEXT),
    "numeric[]": _array(NUMBER.map(str)),
    "timestamptz[]": _array(MOMENTS),
    "jsonb[]": _array(JSON),
    "mood": MOODS,
    "mood[]": _array(MOODS),
    "positive": st.integers(1, 2**31 - 1).map(str),
    "characteristic": st.text(CHARACTERS, max_size=12),
    "address": ADDRESS,
    "address[]": _array(ADDRESS),
    "int4range": _range(SMALL),
    "int4multirange": st.lists(_range(SMALL), max_size=3).map(lambda x: "{" + ",".join(x) + "}"),
    "point": POINT,
    "pg_lsn": _integers(32).map(lambda n: f"0/{int(n) & 0xFFFFFFFF:X}"),
}


def _cell(kind: str, values: tuple[str, ...]) -> st.SearchStrategy[str | None]:
    known = st.none() | st.sampled_from(values)
    return known | RANDOM[kind] if kind in RANDOM else known


ROW = st.fixed_dictionaries({name: _cell(*column) for name, column in COLUMNS.items()})
