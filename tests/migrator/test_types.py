"""Values of every type arrive as they were: by backfill and by sync, in both directions."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg import sql

from migrator import sync, teardown
from tests.conftest import ConfigWriter, FreshDatabase
from tests.migrator import mirror, wide
from tests.migrator.parcels import Post, working
from tests.migrator.wide_rows import ROW

NEW_OWNS, OLD_OWNS = 10_000, 0
CODE_POINTS = 0x110000
SURROGATES = range(0xD800, 0xE000)
Cells = dict[str, str | None]
# Shrinking would run the whole split again for hours: what failed is printed as it is.
SOME = settings(
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ],
)
TEXTS = "CREATE TABLE {} (id text PRIMARY KEY, holder text NOT NULL, body text, doc jsonb);"


@pytest.fixture
def post(fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter) -> Iterator[Post]:
    """The wide table on both sides; sync is not enabled."""
    with mirror.closing(wide.build(fresh_databases, write_config)) as built:
        yield built


def insert(connection: psycopg.Connection[Any], table: str, number: int, cells: Cells) -> None:
    names = [sql.Identifier(name) for name in ("id", "holder", *cells)]
    values = [
        sql.SQL("NULL") if value is None else sql.SQL(_literal(value)) for value in cells.values()
    ]
    # A statement of its own making: no parameter's type is guessed, no percent sign means anything.
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}, 'ann', {})").format(
        sql.Identifier(table),
        sql.SQL(", ").join(names),
        sql.Literal(number),
        sql.SQL(", ").join(values),
    )
    connection.execute(statement)


def _literal(text: str) -> str:
    return "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def fill(connection: psycopg.Connection[Any], table: str, first: int) -> None:
    for number, cells in enumerate(wide.edges(), first):
        insert(connection, table, number, cells)


def agree(post: Post, rows: int) -> None:
    """Both sides hold so many rows, equal by value, by text and to the verifier."""
    post.settle()
    old, new = mirror.held(post, wide.ALL)
    assert len(old) == rows
    for one, other in zip(old, new, strict=True):
        for name, a, b in zip((*wide.ALL, *wide.ALL), one, other, strict=True):
            assert str(a) == str(b), f"{name}: {a!r} became {b!r}"
    assert post.pending(post.forward) == [] and post.pending(post.reverse) == []
    mirror.verified(post)


@pytest.mark.every_version
def test_the_edges_of_every_type_arrive_equal_both_ways(post: Post) -> None:
    many = len(wide.edges())
    fill(post.old, mirror.OLD_TABLE, 1)
    sync.enable(post.config, "post")
    with working(post.config):
        mirror.copy(post)
        agree(post, many)
        fill(post.old, mirror.OLD_TABLE, 101)
        agree(post, 2 * many)
        post.own(NEW_OWNS, 2)
        fill(post.new, mirror.NEW_TABLE, 201)
        agree(post, 3 * many)


def test_random_rows_arrive_equal_by_sync_both_ways(post: Post) -> None:
    mirror.enable_live(post)
    epoch, count = 1, 0

    @settings(SOME, max_examples=30)
    @given(rows=st.lists(ROW, min_size=1, max_size=4), new_owns=st.booleans())
    def property_holds(rows: list[Cells], new_owns: bool) -> None:
        nonlocal epoch, count
        post.settle()
        epoch += 1
        post.own(NEW_OWNS if new_owns else OLD_OWNS, epoch)
        connection = post.new if new_owns else post.old
        table = mirror.NEW_TABLE if new_owns else mirror.OLD_TABLE
        for row in rows:
            count += 1
            insert(connection, table, count, row)
        agree(post, count)

    with working(post.config):
        property_holds()


def test_random_rows_arrive_equal_by_backfill(post: Post) -> None:
    @settings(SOME, max_examples=3)
    @given(rows=st.lists(ROW, min_size=8, max_size=24))
    def property_holds(rows: list[Cells]) -> None:
        for connection, table in ((post.old, mirror.OLD_TABLE), (post.new, mirror.NEW_TABLE)):
            connection.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(table)))
        for number, row in enumerate(rows, 1):
            insert(post.old, mirror.OLD_TABLE, number, row)
        sync.enable(post.config, "post")
        with working(post.config):
            mirror.copy(post)
            agree(post, len(rows))
        teardown.teardown(post.config, "post")

    property_holds()


def test_every_code_point_arrives_in_texts_documents_and_keys(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> None:
    points = [chr(n) for n in range(1, CODE_POINTS) if n not in SURROGATES]
    size = 4_000
    texts = ["".join(points[at : at + size]) for at in range(0, len(points), size)]
    # A key has room for few; those are the ones that somebody's format gives a meaning.
    keys = [chr(n) for n in range(1, 0x300)] + [chr(n) for n in range(0x1F00, CODE_POINTS, 0xFFF)]
    keys = [key for key in keys if ord(key) not in SURROGATES]
    built = mirror.build(
        fresh_databases,
        write_config,
        old=TEXTS.format(mirror.OLD_TABLE),
        new=TEXTS.format(mirror.NEW_TABLE),
        columns=("id", "holder", "body", "doc"),
    )
    rows = [(f"{n:04}", text, text) for n, text in enumerate(texts)]
    rows += [(f"key {key}", key, key) for key in keys]

    def write(connection: psycopg.Connection[Any], table: str, mark: str) -> None:
        with connection.cursor() as cursor:
            cursor.executemany(
                f"INSERT INTO {table} VALUES (%s, 'ann', %s, to_jsonb(%s::text))".encode(),
                [(mark + key, body, doc) for key, body, doc in rows],
            )

    def same(count: int) -> None:
        built.settle()
        old, new = mirror.held(built, ("id", "body", "doc"))
        assert len(old) == count and old == new
        mirror.verified(built)

    with mirror.closing(built):
        write(built.old, mirror.OLD_TABLE, "a")
        sync.enable(built.config, "post")
        with working(built.config):
            mirror.copy(built)
            same(len(rows))
            write(built.old, mirror.OLD_TABLE, "b")
            same(2 * len(rows))
            built.own(NEW_OWNS, 2)
            write(built.new, mirror.NEW_TABLE, "c")
            same(3 * len(rows))
