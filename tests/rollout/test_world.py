"""The databases of a step: owners, writers, barriers and archived names, on real servers."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from estate.config import Config, load
from migrator import control, ownership
from migrator.ownership import EpochConflict, OwnerMissing, Ownership
from rollout.world import DatabaseWorld, HttpWriters, SideAway, WriterUnpaused
from tests.conftest import ConfigWriter, FreshDatabase
from tests.rollout.conftest import DOMAIN

Connection = psycopg.Connection[tuple[object, ...]]


@pytest.fixture
def estate(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> Iterator[tuple[Config, dict[str, Connection]]]:
    """Two databases with a table t, the control schema and owner rows at epoch 1."""
    places = {"old": fresh_databases["order"], "new": fresh_databases["checkout"]}
    connections = {side: place.connect() for side, place in places.items()}
    for connection in connections.values():
        connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
        control.install(connection)
        ownership.create(connection, "d")
    path = write_config(
        databases={"a": places["old"].dsn, "b": places["new"].dsn},
        domains=DOMAIN,
        mappings={"q.sql": "SELECT id, id::text AS splitctl_route FROM t"},
    )
    try:
        yield load(path), connections
    finally:
        for connection in connections.values():
            connection.close()


Estate = tuple[Config, dict[str, Connection]]


def test_the_owner_is_read_and_moved(estate: Estate) -> None:
    config, _ = estate
    with DatabaseWorld(config, "d") as world:
        assert world.owner("old") == Ownership(0, 1)
        world.switch_owner("old", 1000, 2, 1.0)
        world.switch_owner("old", 1000, 2, 1.0)
        assert world.owner("old") == Ownership(1000, 2)
        assert world.owner("new") == Ownership(0, 1)
        with pytest.raises(EpochConflict):
            world.switch_owner("old", 5000, 2, 1.0)


def test_a_writer_that_asked_for_the_owner_keeps_the_move_waiting(estate: Estate) -> None:
    config, connections = estate
    with DatabaseWorld(config, "d") as world, connections["old"].transaction():
        connections["old"].execute("SELECT splitctl_sync.owns('d', 'x', 'old')")
        with pytest.raises(SideAway, match="lock timeout"):
            world.switch_owner("old", 1000, 2, 0.2)
        # The broken connection is replaced.
        assert world.owner("old") == Ownership(0, 1)


def test_who_writes_is_waited_for(estate: Estate) -> None:
    config, connections = estate
    with DatabaseWorld(config, "d") as world:
        assert world.quiesce("old", 1.0).quiet
        with connections["old"].transaction():
            connections["old"].execute("INSERT INTO t VALUES (1)")
            found = world.quiesce("old", 0.1)
            assert not found.quiet
            assert found.holdouts
            assert world.quiesce("new", 0.1).quiet
        assert world.quiesce("old", 1.0).quiet


def test_without_a_worker_nothing_crosses(estate: Estate) -> None:
    config, _ = estate
    with DatabaseWorld(config, "d") as world:
        crossing = world.cross("reverse", 0.1)
        assert not crossing.passed
        assert crossing.marker is not None
        named = world.left_behind(crossing.marker, 2, 0.1)
    assert [item["mapping"] for item in named] == ["every mapping of d.reverse"]
    assert "since the beginning" in named[0]["why"]


def test_what_waits_in_the_old_sides_books_is_named(estate: Estate) -> None:
    config, connections = estate
    old = connections["old"]
    old.execute("INSERT INTO splitctl_sync.spool VALUES ('d.reverse', 'd.reverse.t', '[\"7\"]')")
    old.execute(
        "INSERT INTO splitctl_sync.stray (stream, mapping, key, owner_epoch)"
        " VALUES ('d.reverse', 'd.reverse.t', '[\"8\"]', 2),"
        " ('d.reverse', 'd.reverse.t', '[\"9\"]', 1)"
    )
    with DatabaseWorld(config, "d") as world:
        named = world.left_behind(None, 2, 0.0)
    assert [(item["key"], item["why"]) for item in named[:2]] == [
        (["7"], "spooled"),
        (["8"], "stray"),
    ]
    assert len(named) == 3  # and the sentence about what nobody has read yet


def test_archived_names_are_seen(estate: Estate) -> None:
    config, connections = estate
    with DatabaseWorld(config, "d") as world:
        assert not world.archived()
        connections["old"].execute("ALTER TABLE t RENAME TO archived_t")
        assert world.archived()


def test_a_database_that_is_away(estate: Estate, tmp_path: Path) -> None:
    config, _ = estate
    (tmp_path / "secrets" / "b.dsn").write_text("host=127.0.0.1 port=1 dbname=x user=y")
    with DatabaseWorld(config, "d") as world:
        assert world.owner("old") == Ownership(0, 1)
        with pytest.raises(SideAway, match="new side"):
            world.owner("new")


def test_a_domain_that_was_never_enabled(estate: Estate) -> None:
    config, connections = estate
    connections["new"].execute("DELETE FROM splitctl_sync.owner")
    with DatabaseWorld(config, "d") as world, pytest.raises(OwnerMissing):
        world.owner("new")


def test_writers_that_own_their_discipline_are_left_alone(estate: Estate) -> None:
    config, _ = estate
    writers = HttpWriters(config.writers)
    writers.pause()
    assert writers.resume() == []


def test_a_writer_that_does_not_answer(estate: Estate) -> None:
    config, _ = estate
    text = config.path.read_text()
    extra = """
[[writers]]
name = "nightly"
discipline = "paused"
pause_url = "http://127.0.0.1:1/pause"
resume_url = "http://127.0.0.1:1/resume"
"""
    config.path.write_text(text.replace("[gateway]", f"{extra}[gateway]"))
    writers = HttpWriters(load(config.path).writers)
    with pytest.raises(WriterUnpaused, match="nightly"):
        writers.pause()
    assert "nightly" in writers.resume()[0]
