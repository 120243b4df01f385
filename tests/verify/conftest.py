"""A small lending library, split in two: composite keys, enums, JSON, several rows per key."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from estate.config import Config, load
from migrator.barrier import Marker, Passing
from migrator.mapping import Stream
from tests.conftest import ConfigWriter, FreshDatabase, ensure_role
from verify.sides import Connection

ROLE = "verify_reader"
OLD = """
CREATE TYPE stage AS ENUM ('out', 'back', 'lost');
CREATE TABLE loan_book (
  branch text NOT NULL, number integer NOT NULL, title varchar(80), fee numeric(10,2),
  ratio numeric, extra jsonb, taken_at timestamptz, state stage, weight double precision,
  card char(6), reader text NOT NULL DEFAULT '', open boolean, due date, scan bytea,
  PRIMARY KEY (branch, number));
CREATE TABLE loan_line (
  line bigserial PRIMARY KEY, branch text NOT NULL, number integer NOT NULL, copy_id text NOT NULL,
  price numeric(10,2), remark text);
CREATE INDEX ON loan_line (branch, number);
CREATE TABLE shelf (id text PRIMARY KEY, name text, raw json, tags text[]);
"""
NEW = """
CREATE TYPE loan_state AS ENUM ('lost', 'out', 'back');
CREATE TABLE loans (
  place text NOT NULL, nr bigint NOT NULL, title text, fee numeric(12,2), ratio numeric,
  extra jsonb, taken_at timestamptz, state loan_state, weight double precision, card char(6),
  reader text, open boolean, due date, scan bytea, PRIMARY KEY (place, nr));
CREATE TABLE loan_lines (
  id bigint PRIMARY KEY, place text NOT NULL, nr bigint NOT NULL, copy_id uuid, price numeric(10,2),
  remark varchar(40));
CREATE TABLE shelves (id uuid PRIMARY KEY, name text, raw json, tags text[]);
"""
QUERIES = {
    "forward/loans": """
SELECT branch AS place, number::bigint AS nr, title, fee, ratio, extra, taken_at, state::text,
       weight, card, reader, open, due, scan, reader AS splitctl_route FROM loan_book -- whole""",
    "forward/loan_lines": """
SELECT l.line AS id, l.branch AS place, l.number AS nr, l.copy_id::uuid AS copy_id, l.price,
       l.remark, b.reader AS splitctl_route
  FROM loan_line l JOIN loan_book b ON b.branch = l.branch AND b.number = l.number
 WHERE l.remark IS DISTINCT FROM '100% torn'""",
    "forward/shelves": """
SELECT id::uuid AS id, name, raw, tags, id AS splitctl_route FROM shelf""",
    "reverse/loan_book": """
SELECT place AS branch, nr::integer AS number, title, fee, ratio, extra, taken_at, state::text,
       weight, card, reader, open, due, scan, reader AS splitctl_route FROM loans""",
    "reverse/loan_line": """
SELECT id AS line, l.place AS branch, l.nr::integer AS number, l.copy_id::text AS copy_id,
       price, remark, b.reader AS splitctl_route
  FROM loan_lines l JOIN loans b ON b.place = l.place AND b.nr = l.nr""",
    "reverse/shelf": """
SELECT id::text AS id, name, raw, tags, id::text AS splitctl_route FROM shelves""",
}
DOMAIN = """
[domains.lending]
old = "old"
new = "new"
flag = "USE_LENDING"
percentage = "LENDING_PERCENTAGE"
phases = [{percentage = 100, soak = "1s"}]
[[domains.lending.forward]]
target = "loans"
query = "mappings/forward/loans.sql"
key = ["place", "nr"]
route = "t.reader"
sources = { loan_book = { place = "branch", nr = "number" } }
[[domains.lending.forward]]
target = "loan_lines"
query = "mappings/forward/loan_lines.sql"
key = ["place", "nr"]
route = "t.place"
sources = { loan_line = { place = "branch", nr = "number" } }
[[domains.lending.forward]]
target = "shelves"
query = "mappings/forward/shelves.sql"
key = ["id"]
route = "t.id::text"
sources = { shelf = { id = "id" } }
[[domains.lending.reverse]]
target = "loan_book"
query = "mappings/reverse/loan_book.sql"
key = ["branch", "number"]
route = "t.reader"
sources = { loans = { branch = "place", number = "nr" } }
[[domains.lending.reverse]]
target = "loan_line"
query = "mappings/reverse/loan_line.sql"
key = ["branch", "number"]
route = "t.branch"
sources = { loan_lines = { branch = "place", number = "nr" } }
[[domains.lending.reverse]]
target = "shelf"
query = "mappings/reverse/shelf.sql"
key = ["id"]
route = "t.id"
sources = { shelves = { id = "id" } }
"""
# Branch names that sort differently by locale; some rows are full of NULLs.
FILL_OLD = """
INSERT INTO loan_book
SELECT (ARRAY['Ärmel', 'ape', 'Ape', 'zoo', 'b c', ''])[i % 6 + 1], i, 'Title ' || i, i * 1.01,
       CASE WHEN i % 7 = 0 THEN 'NaN' ELSE (i / 8.0)::numeric END,
       CASE WHEN i % 5 > 0 THEN jsonb_build_object('n', i, 'l', ARRAY[i, i + 1]) END,
       '2024-03-01 12:00+00'::timestamptz + i * interval '1.000001 s',
       (ARRAY['out', 'back', 'lost', NULL])[i % 4 + 1]::stage,
       CASE i % 9 WHEN 0 THEN 'NaN' WHEN 1 THEN '-0' ELSE i / 3.0 END, 'c' || i % 1000,
       'reader-' || i % 50, i % 2 = 0,
       (CASE i % 11 WHEN 0 THEN 'infinity' ELSE '2024-01-01' END)::date,
       decode(md5(i::text), 'hex')
  FROM generate_series(1, {rows}) AS i;
INSERT INTO loan_line (branch, number, copy_id, price, remark)
SELECT b.branch, b.number, md5(b.number || '-' || n)::uuid::text, n + 0.5,
       CASE n WHEN 1 THEN NULL WHEN 2 THEN '' ELSE 'line ' || n END
  FROM loan_book b CROSS JOIN generate_series(1, 3) AS n WHERE n <= b.number % 4;
INSERT INTO shelf SELECT md5(i::text)::uuid::text, 'Shelf ' || i, '{{"b": 1, "a": [1.0]}}'::json,
       ARRAY['x' || i, NULL] FROM generate_series(1, {shelves}) AS i;
"""
COPIES = (
    ("loan_book", "loans", "branch,number,title,fee,ratio,extra,taken_at,state,weight,"
     "card,reader,open,due,scan"),
    ("loan_line", "loan_lines", "line,branch,number,copy_id,price,remark"),
    ("shelf", "shelves", "id,name,raw,tags"),
)  # fmt: skip


class Passed:
    """Barriers that every stream has always passed: for tables at rest."""

    def __init__(self) -> None:
        self.waits = 0

    def check(self, target: Connection, stream: Stream) -> None:
        """Every stream is enabled."""

    def mark(self, source: Connection, stream: str) -> Marker:
        """A position of its own."""
        self.waits += 1
        return Marker(stream, f"0/{self.waits:X}")

    def wait_for(self, target: Connection, marker: Marker, timeout_s: float) -> Passing:
        """Passed at once."""
        return Passing(True, 0)


@dataclass
class Library:
    """Both databases, filled alike, and the configuration that describes them."""

    config: Config
    old: Connection
    new: Connection
    databases: dict[str, FreshDatabase]

    def copy(self) -> None:
        """Bring the new side to what the old one holds, as sync would."""
        for source, target, columns in COPIES:
            self.new.execute(f"TRUNCATE {target}".encode())
            query = f"COPY (SELECT {columns} FROM {source}) TO STDOUT".encode()
            with (
                self.old.cursor().copy(query) as out,
                self.new.cursor().copy(f"COPY {target} FROM STDIN".encode()) as into,
            ):
                for block in out:
                    into.write(block)
        self.new.execute("ANALYZE")


@pytest.fixture
def make_library(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> Iterator[Callable[..., Library]]:
    """A function that builds the library: rows of loan_book, shelves; equal on both sides."""
    opened: list[Connection] = []

    def make(rows: int = 400, shelves: int = 20) -> Library:
        old, new = fresh_databases["order"], fresh_databases["checkout"]
        for database, ddl in ((old, OLD), (new, NEW)):
            ensure_role(database.dsn, ROLE)
            connection = database.connect()
            opened.append(connection)
            connection.execute(ddl.encode())
        opened[0].execute(FILL_OLD.format(rows=rows, shelves=shelves).encode())
        for connection in opened:
            connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {ROLE}".encode())
            connection.execute(
                f"REVOKE TEMPORARY ON DATABASE {connection.info.dbname} FROM PUBLIC".encode()
            )
        path: Path = write_config(
            databases={"old": old.dsn_as(ROLE), "new": new.dsn_as(ROLE)},
            domains=DOMAIN,
            mappings={f"{name}.sql": text for name, text in QUERIES.items()},
        )
        library = Library(load(path), opened[0], opened[1], {"old": old, "new": new})
        library.copy()
        return library

    yield make
    for connection in opened:
        connection.close()


@pytest.fixture
def library(make_library: Callable[..., Library]) -> Library:
    """The library with its usual size."""
    return make_library()
