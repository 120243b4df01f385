"""Which queries may be read slice by slice, and that their slices add up."""

import threading
import time
from collections.abc import Iterator
from itertools import chain
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.conftest import FreshDatabase
from verify import slices
from verify.checksum import EVERY_ROW, Side
from verify.reading import Reading, TimeUp, snapshot
from verify.rows import Shape
from verify.sides import ComparisonFailed, Readers
from verify.slices import Slice, Slicing
from verify.subject import Subject

TABLES = """
CREATE TABLE loans (id integer PRIMARY KEY, reader integer, tags jsonb, filler text);
CREATE TABLE readers (id integer PRIMARY KEY, name text);
CREATE TABLE products (productid integer PRIMARY KEY);
CREATE TABLE "Desk Log" (id integer, filler text);
CREATE TABLE visits (id integer, day integer, filler text) PARTITION BY RANGE (day);
CREATE TABLE visits_1 PARTITION OF visits FOR VALUES FROM (0) TO (10);
CREATE TABLE visits_2 PARTITION OF visits FOR VALUES FROM (10) TO (20);
CREATE TABLE late_loans () INHERITS (loans);
INSERT INTO late_loans SELECT i, i % 60, '[]', 'late' FROM generate_series(1001, 1010) AS i;
INSERT INTO loans SELECT i, i % 60, jsonb_build_array(i, i + 1), repeat('x', 200)
  FROM generate_series(1, 400) AS i;
INSERT INTO readers SELECT i, 'reader ' || i FROM generate_series(1, 50) AS i;
INSERT INTO "Desk Log" SELECT i, repeat('y', 400) FROM generate_series(1, 100) AS i;
INSERT INTO visits SELECT i, i % 20, repeat('z', 300) FROM generate_series(1, 200) AS i;
ANALYZE;
"""
LOANS, READERS = ["loans"], ["readers"]
CUT = {
    "a table": ("SELECT id, filler FROM loans", LOANS),
    "a condition": ("SELECT id FROM loans WHERE reader > 7", LOANS),
    "an inner join": (
        "SELECT l.id, r.name FROM loans l JOIN readers r ON r.id = l.reader",
        LOANS,
    ),
    "the side of an outer join that is kept": (
        "SELECT l.id, r.name FROM loans l LEFT JOIN readers r ON r.id = l.reader",
        LOANS,
    ),
    "rows of a list": (
        "SELECT id, t.value FROM loans, LATERAL jsonb_array_elements(tags) AS t",
        LOANS,
    ),
    "a look into another table": (
        "SELECT id, (SELECT max(name) FROM readers) FROM loans",
        LOANS,
    ),
    "those that have a reader": (
        "SELECT id FROM loans l WHERE EXISTS (SELECT FROM readers r WHERE r.id = l.reader)",
        LOANS,
    ),
    "those that have none": (
        "SELECT id FROM loans l WHERE NOT EXISTS (SELECT FROM readers r WHERE r.id = l.reader)",
        LOANS,
    ),
    "the smaller table, where the larger may not": (
        "SELECT r.id, count(l.id) AS many FROM readers r"
        " LEFT JOIN LATERAL (SELECT id FROM loans WHERE reader = r.id LIMIT 3) l ON true"
        " GROUP BY r.id",
        None,
    ),
    "a name of two words": ('SELECT id FROM "Desk Log"', ["Desk Log"]),
    "partitions": ("SELECT id, day FROM visits", ["visits"]),
    "partitions, joined": (
        "SELECT v.id, r.name FROM visits v LEFT JOIN readers r ON r.id = v.id",
        ["visits"],
    ),
}
NOT_CUT = {
    "groups": "SELECT reader, count(*) FROM loans GROUP BY reader",
    "distinct rows": "SELECT DISTINCT reader FROM loans",
    "a limit": "SELECT id FROM loans LIMIT 3",
    "row numbers": "SELECT id, row_number() OVER () FROM loans",
    "an aggregate of all": "SELECT max(id) AS id FROM loans",
    "the other side of an outer join": (
        "SELECT r.id, l.filler FROM readers r LEFT JOIN loans l ON r.id = l.reader + 100"
    ),
    "a full join": "SELECT r.id, l.filler FROM readers r FULL JOIN loans l ON r.id = l.reader",
    "the table only looked into": (
        "SELECT r.id FROM readers r WHERE EXISTS (SELECT FROM loans l WHERE r.id = l.reader)"
    ),
    "the table only counted": (
        "SELECT r.id, (SELECT count(*) FROM loans l WHERE r.id = l.reader) FROM readers r"
    ),
    "a join with itself": "SELECT a.id, b.id AS other FROM loans a JOIN loans b ON a.id = b.reader",
    "another table appended": "SELECT id FROM loans UNION ALL SELECT id FROM readers",
    "a table appended whose text tells of blocks": (
        "SELECT id FROM loans UNION ALL SELECT id FROM readers WHERE name <> 'ctid'"
    ),
    "an appended constant": "SELECT id FROM loans UNION ALL SELECT 0",
    "a name with its schema": "SELECT id FROM public.loans",
    "a list made beforehand": (
        "WITH all_ids AS MATERIALIZED (SELECT id FROM loans) SELECT id FROM all_ids"
    ),
    "a set": "SELECT id FROM loans EXCEPT SELECT id FROM readers",
    "rows of children, where ONLY the parent is meant": "SELECT id FROM ONLY loans",
}
PARTS = (
    "SELECT a.id, b.id AS other FROM visits a JOIN visits b ON b.id = a.id + 10"
    " WHERE a.day < 10 AND b.day >= 10"
)


@pytest.fixture
def database(fresh_databases: dict[str, FreshDatabase]) -> Iterator[psycopg.Connection[Any]]:
    with fresh_databases["order"].connect() as connection:
        connection.execute(TABLES.encode())
        yield connection


def columns(connection: psycopg.Connection[Any], text: str) -> list[str]:
    cursor = connection.execute(sql.SQL("SELECT * FROM ({}) AS q LIMIT 0").format(sql.SQL(text)))
    return [column.name for column in cursor.description or ()]


def cut_of(
    connection: psycopg.Connection[Any], text: str, tables: list[str] | None = None
) -> slices.Cut | None:
    named = columns(connection, text)
    return slices.cut(connection, sql.SQL(text), named, None, tables or LOANS)


def read(connection: psycopg.Connection[Any], relation: sql.Composable) -> list[str]:
    query = sql.SQL("SELECT r::text FROM {} AS r").format(relation)
    return sorted(row[0] for row in connection.execute(query).fetchall())


@pytest.mark.every_version
def test_slices_add_up_to_the_whole(database: psycopg.Connection[Any]) -> None:
    for name, (text, tables) in CUT.items():
        query = sql.SQL(text)
        cut = cut_of(database, text, tables)
        if tables is None:
            assert cut is None, name
            continue
        assert cut is not None, name
        assert cut.table == tables[0], name
        whole = read(database, slices.relation(query, None, None))
        assert whole, name
        blocks = range(cut.blocks)
        parts = [Slice(n, n + 1 if n < blocks[-1] else None) for n in blocks]
        assert len(parts) > 3, name
        found = [read(database, slices.relation(query, cut.table, part)) for part in parts]
        assert sum(map(bool, found)) > 1, name
        assert sorted(chain.from_iterable(found)) == whole, name


@pytest.mark.every_version
def test_what_would_not_add_up_is_not_cut(database: psycopg.Connection[Any]) -> None:
    for name, text in NOT_CUT.items():
        # Whatever the server likes best: the answer may not depend on it.
        for setting in ("enable_hashjoin", "enable_mergejoin", "enable_nestloop", "enable_sort"):
            database.execute(f"SET {setting} = off".encode())
            assert cut_of(database, text) is None, (name, setting)
            database.execute(f"RESET {setting}".encode())


def test_partitions_that_are_joined_with_each_other_are_not_cut(
    database: psycopg.Connection[Any],
) -> None:
    assert cut_of(database, PARTS, ["visits"]) is None
    assert read(database, slices.relation(sql.SQL(PARTS), None, None))


def test_what_is_asked_of_rows_is_part_of_the_plan(database: psycopg.Connection[Any]) -> None:
    query = sql.SQL("SELECT id, filler, row_number() OVER (ORDER BY id) AS place FROM loans")
    cut = slices.cut(database, query, ["id", "filler"], None, LOANS)
    assert cut is not None, "a number that nobody looks at makes no difference"
    condition = sql.SQL("(r.place > 5)")
    assert slices.cut(database, query, ["id", "filler"], condition, LOANS) is None
    # Other columns may have such a name in them.
    joined = "SELECT l.id FROM loans l JOIN products p ON p.productid = l.id WHERE p.productid > 5"
    assert cut_of(database, joined) is not None


def test_slices_are_as_large_as_takes_half_a_second() -> None:
    slicing = Slicing(100_000, 1000)
    taken = []
    while (part := slicing.take()) is not None:
        taken.append(part)
        blocks = (part.end or 100_000) - part.first
        slicing.took(part, blocks / 20_000)
    assert taken[0].first == 0
    assert taken[-1].end is None
    assert [part.first for part in taken[1:]] == [part.end for part in taken[:-1]]
    sizes = [part.end - part.first for part in taken[:-1] if part.end]
    assert sizes[-1] == 10_000
    assert len(sizes) < 15


def test_a_side_with_a_costly_start_is_cut_into_few_slices() -> None:
    slicing = Slicing(1000, 3)
    parts = [slicing.take() for _ in range(4)]
    assert parts == [Slice(0, 512), Slice(512, None), None, None]
    # However long one takes, the next is not smaller than the number of slices asks for.
    slicing = Slicing(100_000, 4)
    parts = []
    while (part := slicing.take()) is not None:
        parts.append(part)
        slicing.took(part, 60.0)
    assert len(parts) == 4


def both_sides(connection: psycopg.Connection[Any], text: str) -> Subject:
    query = sql.SQL(text)
    side = Side(connection, query, (), (), "side", cut_of(connection, text))
    return Subject("a.forward.b", "b", "forward", side, side, Shape((), (), (), ()), EVERY_ROW, 400)


def counted(side: Side, relation: sql.Composable) -> sql.Composed:
    return sql.SQL("SELECT count(*), pg_backend_pid() FROM {} AS r").format(relation)


def counts(
    reading: Reading, subject: Subject, most: int = slices.MOST_SLICES
) -> tuple[list[Any], list[Any]]:
    found: tuple[list[Any], list[Any]] = ([], [])
    reading.read(subject, counted, (found[0].extend, found[1].extend), most)
    return found


def added(rows: tuple[list[Any], list[Any]]) -> tuple[int, int]:
    return sum(row[0] for row in rows[0]), sum(row[0] for row in rows[1])


def test_all_readers_of_a_side_see_one_moment(
    fresh_databases: dict[str, FreshDatabase], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "FIRST_BLOCKS", 1)
    old = fresh_databases["order"]
    shares: list[float] = []
    with old.connect() as writing, old.connect() as looking:
        writing.execute(TABLES.encode())
        subject = both_sides(looking, "SELECT id, filler FROM loans")
        readers = [Readers("old", [old.connect() for _ in range(number)]) for number in (3, 1)]
        with snapshot(*readers, on_slice=shares.append) as reading:
            writing.execute("DELETE FROM loans WHERE id % 2 = 0")
            writing.execute("VACUUM loans")
            writing.execute("INSERT INTO loans (id) SELECT generate_series(1000, 3000)")
            found = counts(reading, subject)
            assert added(found) == (410, 410)
            assert {row[1] for row in found[1]} == {readers[1].connections[0].info.backend_pid}
            # A further pass of the same scan sees the same.
            assert added(counts(reading, subject, 2)) == (410, 410)
        with snapshot(*readers, on_slice=shares.append) as reading:
            assert added(counts(reading, subject)) == (2206, 2206)
    assert shares[-1] == 1.0
    for reader in readers:
        for connection in reader.connections:
            assert connection.info.transaction_status.name == "IDLE"
            connection.close()


def test_when_the_time_is_up_nothing_is_left_running(
    fresh_databases: dict[str, FreshDatabase],
) -> None:
    old = fresh_databases["order"]

    def slow(side: Side, relation: sql.Composable) -> sql.Composed:
        return sql.SQL("SELECT count(*), pg_sleep(600) FROM {} AS r").format(relation)

    with old.connect() as looking, old.connect() as one, old.connect() as other:
        looking.execute(TABLES.encode())
        subject = both_sides(looking, "SELECT id FROM loans")
        readers = (Readers("old", [one]), Readers("new", [other]))
        deadline = time.monotonic() + 0.5
        with (
            pytest.raises(TimeUp),
            snapshot(*readers, on_slice=lambda _: None, deadline=deadline) as reading,
        ):
            reading.read(subject, slow, (print, print))
        running = looking.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND query LIKE '%pg_sleep%' AND state = 'active' AND pid <> pg_backend_pid()"
        ).fetchone()
        assert running == (0,)
        assert threading.active_count() < 10


def test_what_one_side_cannot_answer_is_told_with_its_name(
    fresh_databases: dict[str, FreshDatabase],
) -> None:
    old = fresh_databases["order"]

    def wrong(side: Side, relation: sql.Composable) -> sql.Composed:
        return sql.SQL("SELECT 1 / (count(*) - count(*)) FROM {} AS r").format(relation)

    with old.connect() as looking, old.connect() as one, old.connect() as other:
        looking.execute(TABLES.encode())
        subject = both_sides(looking, "SELECT id FROM loans")
        readers = (Readers("order", [one]), Readers("checkout", [other]))
        with (
            pytest.raises(ComparisonFailed, match="division by zero"),
            snapshot(*readers, on_slice=lambda _: None) as reading,
        ):
            reading.read(subject, wrong, (print, print))
