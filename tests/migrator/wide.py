"""A table with a column of every type, on both sides, and values at the types' edges."""

from psycopg.types.string import TextLoader

from tests.conftest import ConfigWriter, FreshDatabase
from tests.migrator import mirror
from tests.migrator.parcels import Post

# The labels stand in another order on the new side, and it has one more.
OLD_TYPES = """
CREATE TYPE mood AS ENUM ('sad', 'it''s, "so"', 'happy');
CREATE TYPE bitmask AS ENUM ('none', 'all');
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE DOMAIN characteristic AS varchar(12);
CREATE TYPE address AS (street text, "no." integer, tags text[]);
"""
NEW_TYPES = """
CREATE TYPE mood AS ENUM ('happy', 'new', 'it''s, "so"', 'sad');
CREATE TYPE bitmask AS ENUM ('all', 'none');
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE DOMAIN characteristic AS varchar(12);
CREATE TYPE address AS (street text, "no." integer, tags text[]);
"""
# Each column, its type, and values that it must carry; null is always among them.
COLUMNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "small": ("smallint", ("-32768", "32767")),
    "whole": ("integer", ("-2147483648", "0")),
    "big": ("bigint", ("-9223372036854775808", "9223372036854775807")),
    "price": ("numeric(12,2)", ("-9999999999.99", "0.10", "NaN")),
    "exact": (
        "numeric",
        ("NaN", "Infinity", "-Infinity", "0.000", "1e-400", "1e500", "-123456789.0123456789000"),
    ),
    "single": ("real", ("NaN", "Infinity", "-0", "3.4028235e+38", "1e-45")),
    "precise": ("double precision", ("NaN", "-Infinity", "-0", "5e-324", "0.1", "1e308")),
    "cash": ("money", ("-92233720368547758.08", "0.01")),
    "yes": ("boolean", ("true", "false")),
    "select": ("text", ("", " ", "NULL", "\\N", "\\.", "a\"b'c", "tab\tline\nreturn\r\\", "%s %")),
    "Upper Case": (
        "text",
        ("x", "Ä", "\u0001\u001f\u007f\u0085\u2028", "🛒 e\u0301 \ufffe\U0010ffff"),
    ),
    "per%cent": ("text", ("100 %", "%%")),
    "%s": ("text", ("100 %", "%(x)s")),
    'quo"te': ("text", ('"', '""')),
    "back\\slash": ("text", ("\\", "\\\\x")),
    "letters": ("varchar(20)", ("trailing  ", "")),
    "fixed": ("char(8)", ("ab", "")),
    # Trailing spaces of this type mean nothing, and the server drops them in every cast.
    "unbound": ("bpchar", ("ab", "")),
    "sign": ('"char"', ("x", "")),
    "label": ("name", ("x", "")),
    "bytes": ("bytea", ("\\x", "\\x00ff5c0a00")),
    "doc": (
        "jsonb",
        (
            "null",
            '"\\ud83d\\uded2"',
            "1.00",
            "1E+2",
            "[[1], [1, 2], {}]",
            '{"": {"a": "\\u0001%"}}',
        ),
    ),
    "raw": ("json", ('{"b" : 1,  "a":"\\u0000", "a": 2}', "  null ")),
    "day": ("date", ("infinity", "-infinity", "4713-01-01 BC", "5874897-12-31", "2024-02-29")),
    "at": (
        "timestamptz",
        ("infinity", "-infinity", "0044-03-15 BC", "294276-12-31 23:59:59.999999Z"),
    ),
    "wall": ("timestamp(3)", ("infinity", "2024-03-31 02:30:00.125", "4713-01-02 00:00:00 BC")),
    "clock": ("time", ("24:00", "00:00:00.000001")),
    "zoned": ("timetz", ("12:00+15:59", "00:00-12")),
    "span": ("interval", ("-1 mon +1 day -00:00:01.5", "178000000 years", "1 year -2 days")),
    "uid": ("uuid", ("00000000-0000-0000-0000-000000000000",)),
    "host": ("inet", ("::1", "10.0.0.1/8", "2001:db8::/32")),
    "net": ("cidr", ("10.0.0.0/8",)),
    "mac": ("macaddr", ("08:00:2b:01:02:03",)),
    "mac8": ("macaddr8", ("08:00:2b:01:02:03:04:05",)),
    "bits": ("bit(8)", ("10101010",)),
    "more_bits": ("bit varying(12)", ("", "101")),
    "numbers": ("integer[]", ("{}", "{1,NULL,3}", "[-1:1]={1,2,3}")),
    "texts": ("text[]", ("{}", '{NULL,"NULL","","a,b","c\\"d","{e}","\\\\"}')),
    "names": ("varchar(5)[]", ('{"a  ",bcdef}',)),
    "grid": ("numeric[]", ("{{1.0,NaN},{2.00,NULL}}",)),
    "moments": ("timestamptz[]", ('{infinity,"2024-01-01 00:00:00Z"}',)),
    "docs": ("jsonb[]", ('{"{\\"a\\": [1]}",NULL,"null"}',)),
    "feeling": ("mood", ("sad", 'it\'s, "so"')),
    "feelings": ("mood[]", ('{happy,"it\'s, \\"so\\""}',)),
    "mask": ("bitmask", ("none",)),
    "size": ("positive", ("1",)),
    "kind": ("characteristic", ("no", "twelve chars")),
    "home": ("address", ('("a, ""b""",7,"{x,""y z""}")', "(,,)")),
    "homes": ("address[]", ('{"(a,1,)","(\\"\\",,{})"}',)),
    "within": ("int4range", ("empty", "[1,5)", "(,)")),
    "during": ("tstzrange", ('["2024-01-01 00:00:00+00",infinity)',)),
    "several": ("int4multirange", ("{}", "{[1,3),[5,9)}")),
    "spot": ("point", ("(1e-300,-0)", "(NaN,Infinity)")),
    "frame": ("box", ("(2,2),(1,1)",)),
    "way": ("path", ("[(0,0),(1,1)]", "((0,0),(1,1))")),
    "area": ("polygon", ("((0,0),(0,1),(1,1))",)),
    "disc": ("circle", ("<(0.1,0.2),3>",)),
    "line": ("line", ("{1,-1,0}",)),
    "words": ("tsvector", ("'a':1A 'b''c':2",)),
    "asked": ("tsquery", ("'a' & !( 'b' | 'c' )",)),
    "position": ("pg_lsn", ("FFFFFFFF/FFFFFFFF",)),
    "number": ("xid8", ("18446744073709551615",)),
    "route": ("jsonpath", ('$."a"[*]?(@ > 1)',)),
}
ALL = ("id", "holder", *COLUMNS)
# What a database may have been set to: the text forms of values, and rules of transactions. Beside
# each what the tests' own sessions have.
STRANGE_SETTINGS = (
    ("DateStyle", "German, DMY", "ISO"),
    ("IntervalStyle", "iso_8601", "postgres"),
    ("extra_float_digits", "-5", "1"),
    ("bytea_output", "escape", "hex"),
    ("TimeZone", "Asia/Kathmandu", "UTC"),
    ("client_encoding", "LATIN1", "UTF8"),
    ("default_transaction_isolation", "serializable", "read committed"),
    ("standard_conforming_strings", "off", "on"),
    ("quote_all_identifiers", "on", "off"),
    ("array_nulls", "off", "on"),
)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def table(name: str) -> str:
    """DDL of the wide table."""
    columns = ", ".join(f"{_quoted(column)} {kind}" for column, (kind, _) in COLUMNS.items())
    return f"CREATE TABLE {name} (id bigint PRIMARY KEY, holder text NOT NULL, {columns});"


def build(databases: dict[str, FreshDatabase], write_config: ConfigWriter) -> Post:
    """The wide table on both sides; each database is set up strangely in its own way."""
    for number, name in enumerate(("order", "checkout")):
        with databases[name].connect() as connection:
            for setting, strange, _ in STRANGE_SETTINGS[number:]:
                statement = f"ALTER DATABASE {databases[name].name} SET {setting} = '{strange}'"
                connection.execute(statement.encode())
    post = mirror.build(
        databases,
        write_config,
        old=OLD_TYPES + table(mirror.OLD_TABLE),
        new=NEW_TYPES + table(mirror.NEW_TABLE),
        columns=ALL,
    )
    for connection in (post.old, post.new):
        for setting, _, plain in STRANGE_SETTINGS:
            connection.execute("SELECT set_config(%s, %s, false)", (setting, plain))
        # Python's own dates know neither infinity nor the years that PostgreSQL knows.
        for kind in ("date", "timestamp", "timestamptz", "interval", "timetz", "time"):
            connection.adapters.register_loader(kind, TextLoader)
    return post


def edges() -> list[dict[str, str | None]]:
    """Rows that together hold every value of COLUMNS: the n-th values in the n-th row."""
    longest = max(len(values) for _, values in COLUMNS.values())
    return [
        {column: values[n] if n < len(values) else None for column, (_, values) in COLUMNS.items()}
        for n in range(longest + 1)
    ]
