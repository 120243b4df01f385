"""A pass over a mapping: the suspects are exactly the keys that differ, however they are met."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from rehearsal.postgres import Server
from verify.checksum import EVERY_ROW, Choice, Column, Hashing, Side
from verify.pgtypes import describe
from verify.reading import Whole
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


def side(connection: psycopg.Connection[Any], rows: list[Any]) -> Side:
    """A side that holds these keys, with the key itself as its only columns."""
    lines = [
        sql.SQL("({}::text, {}::int)").format(sql.Literal(word), sql.Literal(number))
        for word, number in rows or [(None, None)]
    ]
    query = sql.SQL("SELECT * FROM (VALUES {}) AS v(w, n) WHERE {}").format(
        sql.SQL(", ").join(lines), sql.Literal(bool(rows))
    )
    types = describe(connection, sql.SQL("SELECT ''::text AS w, 1 AS n"))
    columns = tuple(Column(name, kind, kind) for name, kind in types.items())
    return Side(connection, query, columns, columns, "side")


def subject(
    both: Both, source: list[Any], target: list[Any], choice: Choice = EVERY_ROW
) -> Subject:
    left, right = side(both.old, source), side(both.new, target)
    kinds = tuple(column.target.kind for column in left.columns)
    shape = Shape(kinds, ("w", "n"), kinds, ())
    return Subject("a.forward.b", "b", "forward", left, right, shape, choice, len(target))


EXAMPLES = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@EXAMPLES
@given(ROWS, ROWS, st.integers(0, 30), st.sampled_from(Hashing), st.booleans())
def test_suspects_are_exactly_the_keys_that_differ(
    both: Both,
    source: list[Any],
    target: list[Any],
    rows_in_hand: int,
    hashing: Hashing,
    moving: bool,
) -> None:
    scan = Scan(subject(both, source, target), Whole(both), hashing, rows_in_hand=rows_in_hand)
    found = scan.run_in_buckets() if moving else scan.run()
    assert set(found) == {
        key for key in {*source, *target} if source.count(key) != target.count(key)
    }
    assert scan.rows >= max(len(source), len(target))
    assert scan.unexamined == 0


@EXAMPLES
@given(ROWS, ROWS, st.integers(0, 5), st.integers(1, 30))
def test_what_is_beyond_the_limit_is_counted(
    both: Both, source: list[Any], target: list[Any], limit: int, rows_in_hand: int
) -> None:
    compared = subject(both, source, target)
    scan = Scan(compared, Whole(both), Hashing.RECORD, limit=limit, rows_in_hand=rows_in_hand)
    found = scan.run()
    differing = {key for key in {*source, *target} if source.count(key) != target.count(key)}
    assert set(found) <= differing
    assert len(found) == min(limit, len(differing))
    assert len(found) + scan.unexamined >= len(differing)


@EXAMPLES
@given(ROWS, ROWS, st.integers(1, 999), st.sampled_from(Hashing))
def test_a_sample_holds_the_same_keys_on_both_sides(
    both: Both, source: list[Any], target: list[Any], sample: int, hashing: Hashing
) -> None:
    choice = Choice(sample=sample)
    part = Scan(subject(both, source, target, choice), Whole(both), hashing).run()
    whole = Scan(subject(both, source, target), Whole(both), hashing).run()
    mine = Scan(subject(both, source, [], choice), Whole(both), hashing).run()
    assert set(part) <= set(whole)
    assert {key for key in part if key in set(source)} == set(mine) & set(whole)
