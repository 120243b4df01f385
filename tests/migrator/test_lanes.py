"""What lanes settle is plain; the rest goes the careful way, and nothing falls in between."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from estate.connections import connect
from migrator import apply, lanes
from migrator.apply import Applier, Leaving
from migrator.capture import Capture
from migrator.changes import MappingKey
from migrator.control import MARKER
from migrator.pace import Gathering, Pace
from tests.conftest import ConfigWriter, FreshDatabase
from tests.migrator import mirror
from tests.migrator.parcels import Post, until, working
from tests.migrator.test_apply import (
    SHIPMENTS,
    STATIONS,
    TAGS,
    Carrier,
    by_depot,
    fill,
    opened,
    watched,
)

__all__ = ["by_depot"]
TABLE = "CREATE TABLE {} (id {} PRIMARY KEY, holder text NOT NULL, note text)"


@pytest.fixture(autouse=True, params=[apply.MANY, 1], ids=["one by one", "in lanes"])
def many(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(apply, "MANY", request.param)
    monkeypatch.setattr(lanes, "WORTH_A_LANE", 1)
    return int(request.param)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("boolean", ["true", "false"]),
        ("inet", ["10.0.0.1", "10.0.0.2/24"]),
        ("char(8)", ["EUR", "USD"]),
        ("bit(4)", ["1010", "0001"]),
        ("varchar(8)", ["a ", "b"]),
        ("numeric(6,2)", ["1.5", "2"]),
        ("timestamptz", ["2026-01-01 12:00+02", "2026-06-01"]),
        ("bytea", ["\\x00ff", "\\x01"]),
    ],
)
def test_8_a_key_is_found_however_its_type_is_written(
    kind: str,
    values: list[str],
    fresh_databases: dict[str, FreshDatabase],
    write_config: ConfigWriter,
) -> None:
    """The log writes a value as its type does, a query as a cast to text does: t and true."""
    post = mirror.build(
        fresh_databases,
        write_config,
        old=TABLE.format("things", kind),
        new=TABLE.format("goods", kind),
        columns=("id", "holder", "note"),
    )
    with mirror.closing(post):
        mirror.enable_live(post)
        with working(post.config):
            for value in values:
                post.old.execute("INSERT INTO things VALUES (%s, 'ann', 'first')", (value,))
            post.settle()
            post.old.execute("UPDATE things SET note = 'changed'")
            post.settle()
            assert post.differences(post.forward) == {}
            post.old.execute("DELETE FROM things WHERE id = %s", (values[0],))
            post.settle()
            assert post.differences(post.forward) == {}
            assert post.pending(post.forward) == []


def test_8_a_row_that_moved_and_that_somebody_touched_holds_both_its_keys(by_depot: Post) -> None:
    """It is given under its new key and stands under the old one: neither is settled."""
    post = by_depot
    fill(post)
    post.old.execute("INSERT INTO parcels (region, code, note) VALUES ('n', 1, 'stays')")
    depots = [("n", "1"), ("s", "1")]
    with opened(post) as first:
        first.apply(*[(name, key) for name in (STATIONS, TAGS, SHIPMENTS) for key in depots])
    post.old.execute("UPDATE parcels SET region = 's' WHERE note <> 'stays' AND region = 'n'")
    with watched(post) as forward:
        post.new.execute("UPDATE shipments SET weight = 7 WHERE region = 'n' AND note <> 'stays'")
        forward.apply(*[(SHIPMENTS, key) for key in depots])
        waiting = {name: item.reason for name, item in forward.applier.waiting.items()}
        assert waiting == {(SHIPMENTS, key): "stray-pending" for key in depots}
    post.old.execute("DELETE FROM parcels WHERE note <> 'stays'")
    with opened(post) as again:
        again.applier.retry(list(again.applier.waiting))
    assert post.differences(post.forward) == {}


def test_what_the_other_direction_asked_for_is_not_forgotten_while_a_mapping_drains(
    post: Post,
) -> None:
    """In the spool it would come back as a change of ours, and the stray would win."""
    fill(post)
    with opened(post) as forward:
        forward.everything()
        post.new.execute(
            "UPDATE splitctl_sync.mapping_state SET state = 'drain' WHERE mapping = %s",
            (STATIONS,),
        )
        forward.applier.load_states()
        key: MappingKey = (STATIONS, ("n", "1"))
        batch = forward.batch(key)
        batch.again[key] = batch.lsn
        forward.applier.apply(batch)
        assert {name: item.reason for name, item in forward.applier.waiting.items()} == {
            key: "asked"
        }
        assert post.new.execute("SELECT count(*) FROM splitctl_sync.spool").fetchone() == (0,)


@pytest.fixture
def leaving(post: Post) -> Iterator[tuple[Carrier, threading.Event]]:
    stop = threading.Event()
    stream = post.forward
    source, target = connect(stream.source, "test"), connect(stream.target, "test")
    applier = Applier(stream, source, target, 0, stop=stop.is_set)
    with closing(source), closing(target), closing(applier):
        yield Carrier(post, applier, source, target), stop


def test_a_worker_that_is_told_to_leave_does_so_within_a_large_batch(
    leaving: tuple[Carrier, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The position is not moved; what was written is found so when it is read again."""
    carrier, stop = leaving
    post = carrier.post
    fill(post)
    carrier.everything()
    stored = post.new.execute("SELECT lsn FROM splitctl_sync.progress ORDER BY stream").fetchall()
    post.old.execute("UPDATE parcels SET note = 'new'")
    monkeypatch.setattr(apply, "PART", 1)
    stop.set()
    with pytest.raises(Leaving):
        carrier.everything()
    after = post.new.execute("SELECT lsn FROM splitctl_sync.progress ORDER BY stream").fetchall()
    assert after == stored
    stop.clear()
    carrier.everything()
    assert post.differences(post.forward) == {}


@pytest.mark.parametrize("many", [1], indirect=True)
def test_with_time_for_it_a_set_is_written_in_slices_with_rests(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One long piece of work would hold up the shop; between two slices nothing is held."""
    monkeypatch.setattr(lanes, "SMALLEST_SLICE", 1)
    standing: list[int] = []

    def rest(seconds: float) -> None:
        assert 0 < seconds < 60
        row = post.new.execute("SELECT count(*) FROM shipments").fetchone()
        assert row is not None
        standing.append(row[0])

    stream = post.forward
    source, target = connect(stream.source, "test"), connect(stream.target, "test")
    with (
        closing(source),
        closing(target),
        closing(Applier(stream, source, target, 0, rest=rest)) as applier,
    ):
        carrier = Carrier(post, applier, source, target)
        fill(post)
        carrier.everything()
        assert standing == [], "without time for it, at once"
        parcels = post.new.execute("SELECT id::text FROM shipments ORDER BY 1").fetchall()
        post.new.execute("DELETE FROM shipments")
        batch = carrier.batch(*[(SHIPMENTS, (key,)) for (key,) in parcels])
        applier.apply(batch, over_s=60)
    assert standing == list(range(1, len(parcels) + 1))


def test_a_lane_without_a_connection_leaves_its_keys_to_the_careful_way(
    post: Post, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    half: list[Any] = []

    def refused(database: Any, purpose: str, **others: Any) -> Any:
        if database.name == post.forward.target.name:
            raise lanes.SplitctlError
        half.append(connect(database, purpose, **others))
        return half[-1]

    monkeypatch.setattr(lanes, "connect", refused)
    fill(post)
    with opened(post) as forward:
        forward.everything()
        assert all(connection.closed for connection in half)
    assert post.differences(post.forward) == {}
    assert bool(half) == (many == 1)


@pytest.mark.parametrize("many", [1], indirect=True)
@pytest.mark.parametrize("awaited", [True, False])
def test_who_waits_for_a_position_does_not_wait_for_rests(
    post: Post, awaited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fence is closed: customers are held until the batch that has the marker is written."""
    rests: list[float] = []
    monkeypatch.setattr(lanes, "SMALLEST_SLICE", 1)
    monkeypatch.setattr(Pace, "gathering", Gathering(0.0, over_s=60))
    monkeypatch.setattr(Capture, "rest", lambda _, seconds: rests.append(seconds))
    with working(post.config):
        with post.old.transaction():
            fill(post)
            if awaited:
                post.old.execute("SELECT pg_logical_emit_message(true, %s, '')", (MARKER,))
        until(lambda: post.differences(post.forward) == {})
    assert bool(rests) != awaited


def test_a_stream_that_cannot_tell_its_own_rows_apart_quickly_does_without_lanes(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the opposite stream stands still our ids grow: lanes would begin and give all back."""
    monkeypatch.setattr(apply, "MOST_OWN", -1)
    monkeypatch.setattr(lanes.Lanes, "carry", None)
    fill(post)
    with opened(post) as forward:
        forward.everything()
    assert post.differences(post.forward) == {}


@pytest.mark.parametrize("many", [1], indirect=True)
def test_one_of_several_that_loses_its_connection_ends_the_batch_without_a_position(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is settled by halves: the next session reads the batch again."""
    real: Callable[..., Any] = lanes.pipe
    broken = []

    def once(source: Any, target: Any, *statements: bytes) -> int:
        if not broken:
            broken.append(target)
            (pid,) = target.execute("SELECT pg_backend_pid()").fetchone()
            post.new.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        return real(source, target, *statements)

    monkeypatch.setattr(lanes, "pipe", once)
    with working(post.config):
        fill(post)
        post.settle()
        until(lambda: bool(broken))
        assert post.differences(post.forward) == {}


@pytest.mark.parametrize("many", [1], indirect=True)
def test_a_key_that_waits_in_the_opposite_stream_holds_up_the_lanes_of_its_own_table_alone(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single row that cannot be written there must not slow down everything here for days."""
    real: Callable[..., Any] = lanes.pipe
    read: list[bytes] = []

    def noted(source: Any, target: Any, rows: bytes, into: bytes) -> Any:
        read.append(rows)
        return real(source, target, rows, into)

    monkeypatch.setattr(lanes, "pipe", noted)
    post.old.execute(
        "INSERT INTO splitctl_sync.waiting (stream, mapping, key, reason, detail)"
        " VALUES ('post.reverse', 'post.reverse.parcels', '[\"99\"]', 'unwritable', '')"
    )
    fill(post)
    with opened(post) as forward:
        forward.everything()
    assert post.differences(post.forward) == {}
    assert any(b"FROM depots" in rows for rows in read)
    assert not any(b"FROM parcels" in rows for rows in read)
