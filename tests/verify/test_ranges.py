"""The cut of a table into ranges: every key lies in exactly one, on both sides, in any locale."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from rehearsal.postgres import Server
from verify import checksum
from verify.checksum import Column, Hashing, Range, Side
from verify.pgtypes import describe
from verify.rows import Shape
from verify.scan import Scan
from verify.sides import Both
from verify.subject import Subject

# The server's text cannot hold a NUL; lone surrogates are no text at all.
WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=4)
KEYS = st.tuples(st.none() | WORDS, st.none() | st.integers(-3, 3))
ROWS = st.lists(KEYS, max_size=25)


@pytest.fixture(scope="module")
def both(pg_servers: dict[str, Server]) -> Iterator[Both]:
    with (
        psycopg.connect(pg_servers["order"].dsn(), autocommit=True) as old,
        psycopg.connect(pg_servers["checkout"].dsn(), autocommit=True) as new,
    ):
        pair = Both(old, new)
        yield pair
        pair.close()


def side(connection: psycopg.Connection[Any], rows: list[Any], *, indexed: bool) -> Side:
    """A side that holds these keys, with the key itself as its only columns."""
    lines = [
        sql.SQL("({}::text, {}::int)").format(sql.Literal(word), sql.Literal(number))
        for word, number in rows or [(None, None)]
    ]
    relation = sql.SQL("(SELECT * FROM (VALUES {}) AS v(w, n) WHERE {})").format(
        sql.SQL(", ").join(lines), sql.Literal(bool(rows))
    )
    types = describe(connection, sql.SQL("SELECT ''::text AS w, 1 AS n"))
    columns = tuple(Column(name, kind, kind) for name, kind in types.items())
    return Side(connection, relation, columns, columns, "side", indexed)


def subject(both: Both, source: list[Any], target: list[Any], *, indexed: bool) -> Subject:
    left = side(both.old, source, indexed=indexed)
    right = side(both.new, target, indexed=indexed)
    kinds = tuple(column.target.kind for column in left.columns)
    shape = Shape(kinds, ("w", "n"), kinds, ())
    return Subject("a.forward.b", "forward", left, right, shape, len(target))


def count(both: Both, one: Side, within: Range) -> int:
    query = checksum.checksum(one, within, Hashing.RECORD)
    return int(both.fetch(one.connection, query)[0][0])


EXAMPLES = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@EXAMPLES
@given(ROWS, ROWS, st.integers(1, 6), st.booleans())
def test_every_key_is_in_exactly_one_range(
    both: Both, source: list[Any], target: list[Any], rows_per_range: int, indexed: bool
) -> None:
    compared = subject(both, source, target, indexed=indexed)
    ranges = list(Scan(compared, both, Hashing.RECORD, rows_per_range).ranges())
    for one, rows in ((compared.source, source), (compared.target, target)):
        assert sum(count(both, one, within) for within in ranges) == len(rows)
        for row in set(rows):
            alone = replace(one, relation=side(one.connection, [row], indexed=indexed).relation)
            assert sum(count(both, alone, within) for within in ranges) == 1
    assert ranges[-1] == Range(nulls=True)
    assert ranges[0].lower is None
    assert ranges[-2].upper is None


@EXAMPLES
@given(ROWS, ROWS, st.integers(1, 6), st.booleans())
def test_suspects_are_exactly_the_keys_that_differ(
    both: Both, source: list[Any], target: list[Any], rows_per_range: int, indexed: bool
) -> None:
    compared = subject(both, source, target, indexed=indexed)
    scan = Scan(compared, both, Hashing.RECORD, rows_per_range, rows_in_hand=2)
    found = {key for scanned in scan.results() for key in scanned.suspects}
    assert found == {key for key in {*source, *target} if source.count(key) != target.count(key)}
    assert scan.done <= scan.total
