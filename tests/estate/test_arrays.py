"""Lists of texts arrive in the server as they were, whatever letters they have."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from estate.arrays import TextsDumper
from estate.config import DatabaseConfig
from estate.connections import connect
from tests.conftest import FreshDatabase

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
AWKWARD = st.sampled_from(
    ["", "NULL", "null", '"', "\\", '\\"', "{}", ",", " ", "'", "\u3000", "\n"]
)


@pytest.fixture
def connection(
    fresh_databases: dict[str, FreshDatabase], monkeypatch: pytest.MonkeyPatch
) -> Iterator[psycopg.Connection[Any]]:
    monkeypatch.setenv("DSN", fresh_databases["order"].dsn)
    # What the environment asks for is not what texts are sent in.
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    database = DatabaseConfig.model_validate({"name": "order", "dsn": "env:DSN"})
    with connect(database, "test") as opened:
        yield opened


def echoed(connection: psycopg.Connection[Any], values: object) -> object:
    row = connection.execute("SELECT %s::text[]", (values,)).fetchone()
    assert row is not None
    return row[0]


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(TEXTS | AWKWARD, max_size=6))
def test_texts_arrive_as_they_were(connection: psycopg.Connection[Any], values: list[str]) -> None:
    assert echoed(connection, values) == values
    inline = psycopg.ClientCursor(connection).mogrify("SELECT %s::text[]", (values,))
    row = connection.execute(inline.encode()).fetchone()
    assert row is not None and row[0] == values


def test_other_lists_go_the_librarys_way(connection: psycopg.Connection[Any]) -> None:
    assert echoed(connection, ["a", None, ""]) == ["a", None, ""]
    assert echoed(connection, [["a", "b"], ["c", "d"]]) == [["a", "b"], ["c", "d"]]
    row = connection.execute("SELECT %s::bigint[], %s::oid[]", ([1, 2], [])).fetchone()
    assert row == ([1, 2], [])
    assert connection.adapters.get_dumper(list, psycopg.adapt.PyFormat.AUTO) is TextsDumper
    with pytest.raises(psycopg.DataError, match="NUL"):
        echoed(connection, ["a\0b"])
