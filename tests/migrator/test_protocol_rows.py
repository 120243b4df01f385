"""The ways to lose data that the design lists, by their numbers, against a running worker."""

import json
import threading
import time
import urllib.error
import urllib.request
from typing import Any

import psycopg
import pytest

from migrator import apply, barrier, capture, control, ownership, replication, sync
from tests.migrator.parcels import Post, carrying, until, working

EPOCH_OLD, EPOCH_NEW = 5, 6


def depot(post: Post, name: str = "A", holder: str = "ann") -> None:
    post.old.execute("INSERT INTO depots VALUES ('n', 1, %s, %s, '[\"x\"]')", (name, holder))
    post.old.execute("INSERT INTO parcels (region, code, note) VALUES ('n', 1, 'first')")


def state(post: Post, stream: str) -> dict[str, Any]:
    url = f"http://{post.config.sync.listen}/status"
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            found: dict[str, Any] = json.load(answer)["streams"][stream]
    except urllib.error.URLError as error:
        return {"state": f"not there yet: {error}"}
    return found


def agree(post: Post) -> None:
    """Both directions find both sides equal, and nothing waits."""
    for _ in range(2):
        post.settle()
    assert post.differences(post.forward) == {}
    assert post.differences(post.reverse) == {}


def titles(post: Post) -> tuple[Any, Any]:
    old = post.old.execute("SELECT name FROM depots ORDER BY 1").fetchall()
    new = post.new.execute("SELECT title FROM stations ORDER BY 1").fetchall()
    return [row[0] for row in old], [row[0] for row in new]


@pytest.mark.every_version
@pytest.mark.parametrize(("new_below", "winner"), [(0, "by old"), (10_000, "by new")])
def test_1_swap_the_owner_wins_and_both_versions_are_kept(
    post: Post, new_below: int, winner: str
) -> None:
    """Both sides change one key at once. Neither overtakes the owner, and they end up equal."""
    with working(post.config):
        depot(post)
        agree(post)
    post.own(new_below, EPOCH_NEW)
    post.old.execute("UPDATE depots SET name = 'by old'")
    post.new.execute("UPDATE stations SET title = 'by new'")
    with working(post.config):
        agree(post)
    assert titles(post) == ([winner], [winner])
    loser = post.reverse if new_below == 0 else post.forward
    owner = post.forward if new_below == 0 else post.reverse
    strays = post.strays(loser)
    assert strays and post.strays(owner) == []
    mapping, key, source, target, epoch = strays[0]
    column, other = ("name", "by old") if new_below == 0 else ("title", "by new")
    lost = "by new" if new_below == 0 else "by old"
    assert mapping.startswith(loser.name) and key == ["n", "1"] and epoch == EPOCH_NEW
    assert [row[column] for row in source] == [lost]
    assert [row[column] for row in target] == [other]


def test_1_resurrection_a_row_deleted_by_its_owner_stays_deleted(post: Post) -> None:
    """The customer deletes on new while old still has a change of the key to carry."""
    with working(post.config):
        depot(post)
        agree(post)
    post.own(10_000, EPOCH_NEW)
    post.old.execute("UPDATE parcels SET note = 'stale'")
    post.new.execute("DELETE FROM shipments")
    with working(post.config):
        agree(post)
    assert post.new.execute("SELECT * FROM shipments").fetchall() == []
    assert post.old.execute("SELECT * FROM parcels").fetchall() == []
    (stray,) = post.strays(post.forward)
    assert stray[2][0]["note"] == "stale" and stray[3] == []


@pytest.mark.parametrize("attempt", range(3))
def test_1_the_owner_waits_until_the_other_version_is_kept(carried: Post, attempt: int) -> None:
    """Whichever stream is first, what the owner writes over has been written down before."""
    depot(carried)
    agree(carried)
    for number in range(5):
        mine, theirs = f"old {number}", f"new {number}"
        if attempt % 2:
            carried.new.execute("UPDATE stations SET title = %s", (theirs,))
            carried.old.execute("UPDATE depots SET name = %s", (mine,))
        else:
            carried.old.execute("UPDATE depots SET name = %s", (mine,))
            carried.new.execute("UPDATE stations SET title = %s", (theirs,))
        agree(carried)
        assert titles(carried) == ([mine], [mine])
    strays = [item for item in carried.strays(carried.reverse) if item[0].endswith("depots")]
    assert [item[2][0]["name"] for item in strays] == [f"new {number}" for number in range(5)]


def test_1_a_swap_while_the_owners_disagree_waits_until_they_agree(carried: Post) -> None:
    """Within a step, or after a rollback that died, each side names the other as the owner."""
    depot(carried)
    agree(carried)
    carried.own_apart(old=(10_000, 2), new=(0, 1))
    carried.old.execute("UPDATE depots SET name = 'by old'")
    carried.new.execute("UPDATE stations SET title = 'by new'")
    until(lambda: carried.pending(carried.forward) and carried.pending(carried.reverse))
    carried.await_heartbeats(carried.forward, 3)
    assert titles(carried) == (["by old"], ["by new"])
    carried.own(10_000, 2)
    until(lambda: titles(carried) == (["by new"], ["by new"]), 15)
    agree(carried)
    (stray,) = (item for item in carried.strays(carried.forward) if item[0].endswith("stations"))
    assert (stray[2][0]["title"], stray[3][0]["title"]) == ("by old", "by new")


def test_1_while_the_owner_rows_differ_a_stray_is_kept_once_not_again_and_again(
    carried: Post,
) -> None:
    """Rolled back while the new side was dead; it wakes, and nobody has typed rollback again."""
    depot(carried)
    agree(carried)
    carried.own_apart(old=(0, 3), new=(10_000, 2))
    carried.await_heartbeats(carried.forward, 3)
    carried.old.execute("UPDATE depots SET name = 'by old'")
    until(lambda: carried.pending(carried.reverse))
    carried.await_heartbeats(carried.forward, 3)
    kept = [item for item in carried.strays(carried.forward) if item[0].endswith("stations")]
    assert [item[2][0]["title"] for item in kept] == ["by old"]
    assert carried.strays(carried.reverse) == []
    assert {row[2] for row in carried.pending(carried.reverse)} == {"asked"}
    carried.own(0, 4)
    until(lambda: titles(carried) == (["by old"], ["by old"]), 15)
    agree(carried)


def test_1_streams_that_begin_anew_do_not_wait_for_each_other_for_ever(post: Post) -> None:
    """After a restart neither knows what the other has seen, and each has a key of its own."""
    holders = {
        ownership.Ownership(5_000, 2).owner(name): name for name in ("ann", "b", "cy", "dee")
    }
    post.own(5_000, 2)
    with working(post.config):
        post.old.execute("INSERT INTO depots VALUES ('o', 1, 'A', %s, '[]')", (holders["old"],))
        post.new.execute("INSERT INTO stations VALUES ('n', 1, 'B', %s)", (holders["new"],))
        agree(post)
    for name in ("once", "twice"):
        post.old.execute("UPDATE depots SET name = %s WHERE region = 'o'", (f"old {name}",))
        post.new.execute("UPDATE stations SET title = %s WHERE region = 'n'", (f"new {name}",))
        with working(post.config):
            agree(post)
        assert titles(post) == ([f"new {name}", f"old {name}"], [f"new {name}", f"old {name}"])
    assert post.strays(post.forward) == post.strays(post.reverse) == []


def test_1_a_stray_that_lay_in_the_spool_is_kept_with_both_versions(carried: Post) -> None:
    """Both sides change a key while sync is off; whoever is drained first must not win unseen."""
    depot(carried)
    agree(carried)
    sync.disable(carried.config, "post")
    carried.new.execute("UPDATE stations SET title = 'by new'")
    carried.old.execute("UPDATE depots SET name = 'by old'")
    carried.await_heartbeats(carried.forward, 3)
    sync.enable(carried.config, "post")
    until(lambda: titles(carried) == (["by old"], ["by old"]), 15)
    agree(carried)
    (stray,) = (item for item in carried.strays(carried.reverse) if item[0].endswith("depots"))
    assert (stray[2][0]["name"], stray[3][0]["name"]) == ("by new", "by old")


def test_1_a_race_waits_for_an_opposite_stream_in_trouble_however_long(post: Post) -> None:
    """Its worker is elsewhere and away at first; then its progress tells what it has seen."""
    with working(post.config):
        depot(post)
        agree(post)
    post.old.execute("UPDATE depots SET name = 'mine'")
    post.new.execute("UPDATE stations SET title = 'theirs'")
    with carrying(post.forward, opposite="standby"):
        until(lambda: post.pending(post.forward))
        post.await_heartbeats(post.forward, 3)
        assert {row[2] for row in post.pending(post.forward)} == {"stray-pending"}
        assert titles(post) == (["mine"], ["theirs"])
        with carrying(post.reverse, opposite="standby"):
            agree(post)
    assert titles(post) == (["mine"], ["mine"])
    (stray,) = post.strays(post.reverse)
    assert stray[2][0]["name"] == "theirs"


def test_1_a_row_made_by_the_side_that_does_not_own_is_parked_and_taken_back(
    carried: Post,
) -> None:
    """A job on the new side writes for a customer of the old side."""
    depot(carried)
    agree(carried)
    carried.new.execute("INSERT INTO stations VALUES ('x', 9, 'job', 'ann')")
    until(lambda: carried.strays(carried.reverse))
    agree(carried)
    (stray,) = carried.strays(carried.reverse)
    assert stray[2][0]["name"] == "job" and stray[3] == []
    assert titles(carried) == (["A"], ["A"])
    # The owner's version stands on both sides: kept and counted, but it blocks nobody any more.
    until(lambda: carried.unsettled(carried.reverse) == 0)
    assert len(carried.strays(carried.reverse)) == 1


def test_1_what_a_stopped_stream_had_not_carried_is_not_written_over(post: Post) -> None:
    """Rolled back while the way back stands still: what it left is kept before it gives way."""
    post.own(10_000, 2)
    with working(post.config):
        post.new.execute("INSERT INTO stations VALUES ('n', 1, 'A', 'ann')")
        agree(post)
    post.new.execute("UPDATE stations SET title = 'by new'")
    post.own(0, 3)
    with carrying(post.forward, opposite="stopped"):
        post.old.execute("UPDATE depots SET name = 'by old'")
        until(lambda: post.pending(post.forward))
        post.await_heartbeats(post.forward, 3)
        assert titles(post) == (["by old"], ["by new"])
    with working(post.config):
        until(lambda: titles(post) == (["by old"], ["by old"]), 15)
        agree(post)
    (stray,) = (item for item in post.strays(post.reverse) if item[0].endswith("depots"))
    assert (stray[2][0]["name"], stray[3][0]["name"]) == ("by new", "by old")


def test_2_a_stream_knows_its_own_writes_after_a_restart_too(post: Post) -> None:
    """The opposite stream stands still: nothing else would tell them from somebody else's."""
    with working(post.config):
        post.old.execute("INSERT INTO depots VALUES ('n', 1, 'A', 'ann', '[]')")
        agree(post)
        # It goes no further; the table is empty, so that nothing is lost by it.
        post.new.execute("TRUNCATE station_tags")
        post.new.execute("INSERT INTO stations VALUES ('x', 1, 'stray', 'ann')")
        until(lambda: state(post, "post.reverse")["state"] == "stopped")
        post.old.execute("UPDATE depots SET name = 'once'")
        post.settle(post.forward)
    with carrying(post.forward, opposite="stopped"):
        post.old.execute("UPDATE depots SET name = 'twice'")
        post.settle(post.forward)
        assert "twice" in titles(post)[1]
        post.new.execute("UPDATE stations SET title = 'theirs' WHERE region = 'n'")
        post.old.execute("UPDATE depots SET name = 'mine'")
        until(lambda: post.pending(post.forward))
        assert "theirs" in titles(post)[1]


def test_1_what_could_not_be_written_is_kept_before_another_version_takes_its_place(
    carried: Post,
) -> None:
    """A key is parked, its stream has long gone on, and then the other side becomes the owner."""
    depot(carried)
    agree(carried)
    carried.own(10_000, 2)
    carried.old.execute("ALTER TABLE parcels ADD CONSTRAINT light CHECK (weight < 10)")
    carried.new.execute("UPDATE shipments SET weight = 50, note = 'by new'")
    until(lambda: carried.pending(carried.reverse))
    carried.await_heartbeats(carried.reverse, 3)
    carried.own(0, 3)
    carried.old.execute("UPDATE parcels SET note = 'by old'")
    agree(carried)
    notes = carried.new.execute("SELECT note FROM shipments").fetchall()
    assert notes == [("by old",)]
    (stray,) = (item for item in carried.strays(carried.reverse) if item[0].endswith("parcels"))
    assert (stray[2][0]["note"], stray[3][0]["note"]) == ("by new", "by old")


def test_1_a_stray_is_not_settled_while_a_key_of_the_way_back_still_waits(carried: Post) -> None:
    """What waits might be what was asked for."""
    depot(carried)
    agree(carried)
    carried.old.execute("UPDATE parcels SET weight = 5000")
    until(lambda: carried.pending(carried.forward))
    carried.new.execute("UPDATE stations SET title = 'stray'")
    until(lambda: carried.strays(carried.reverse))
    carried.await_heartbeats(carried.forward, 2)
    assert carried.unsettled(carried.reverse) == 1
    carried.old.execute("UPDATE parcels SET weight = 5")
    until(lambda: carried.unsettled(carried.reverse) == 0)
    agree(carried)
    assert titles(carried) == (["A"], ["A"])


def test_1_return_of_the_dead_old_keys_do_not_overwrite_later_work(post: Post) -> None:
    """New died with changes that never crossed; old took over; then new wakes up."""
    with working(post.config):
        depot(post)
        agree(post)
        post.own(10_000, EPOCH_OLD)
    post.new.execute("UPDATE stations SET title = 'never crossed'")
    post.own(0, EPOCH_NEW)
    post.old.execute("UPDATE depots SET name = 'after the rollback'")
    with working(post.config):
        agree(post)
    assert titles(post) == (["after the rollback"], ["after the rollback"])
    stray = post.strays(post.reverse)[0]
    assert [row["name"] for row in stray[2]] == ["never crossed"]
    assert [row["name"] for row in stray[3]] == ["after the rollback"]


@pytest.mark.every_version
def test_1_only_buckets_that_the_source_owns_are_carried(post: Post) -> None:
    """Within one batch: one customer's row is carried, another's is a stray."""
    post.own(5_000, EPOCH_NEW)
    low, high = "ann", "b"
    buckets = {
        holder: post.old.execute("SELECT splitctl_sync.bucket(%s)", (holder,)).fetchone()
        for holder in (low, high)
    }
    found = sorted((row[0], holder) for holder, row in buckets.items() if row)
    assert found[0][0] < 5_000 <= found[1][0], "choose other names"
    mine, theirs = found[1][1], found[0][1]
    with post.old.transaction():
        post.old.execute(
            "INSERT INTO depots VALUES ('n', 1, 'A', %s), ('n', 2, 'B', %s)".replace(
                "INTO depots", "INTO depots (region, code, name, holder)"
            ),
            (mine, theirs),
        )
    with working(post.config):
        until(lambda: post.strays(post.forward))
        post.settle()
    assert post.new.execute("SELECT title FROM stations").fetchall() == [("A",)]
    assert {tuple(row[1]) for row in post.strays(post.forward)} == {("n", "2")}


@pytest.mark.every_version
def test_1_what_sync_writes_does_not_come_back(carried: Post) -> None:
    """No loops: the opposite stream skips what is marked, and an idle pair stays idle."""
    depot(carried)
    agree(carried)
    there = state(carried, "post.forward")
    back = state(carried, "post.reverse")
    assert there["transactions"] == 2 and back["transactions"] == 0
    time.sleep(1.5)
    assert state(carried, "post.forward")["transactions"] == 2
    assert state(carried, "post.reverse")["transactions"] == 0
    assert carried.strays(carried.forward) == carried.strays(carried.reverse) == []


def test_3_a_barrier_does_not_pass_while_a_key_waits(carried: Post) -> None:
    depot(carried)
    carried.settle()
    carried.old.execute("UPDATE parcels SET weight = 5000")
    result = barrier.wait(carried.forward, 1.0)
    assert (result.passed, result.pending) == (False, 1)
    carried.old.execute("UPDATE parcels SET weight = 5")
    agree(carried)


@pytest.mark.parametrize("where", ["spool", "waiting"])
def test_3_keys_that_changed_later_do_not_hold_up_a_barrier(carried: Post, where: str) -> None:
    """While customers write there are always some; older ones still hold it."""
    depot(carried)
    carried.settle()
    if where == "spool":
        sync.disable(carried.config, "post")
    count = f"SELECT count(*) FROM splitctl_sync.{where}".encode()

    def change(number: int) -> None:
        # One that cannot be written, so that it waits wherever it is.
        query = "INSERT INTO parcels (region, code, weight) VALUES ('n', 1, 5000)"
        carried.old.execute(query)
        until(lambda: carried.new.execute(count).fetchone() == (number,))

    marker = barrier.mark(carried.old, "post.forward")
    for number in (1, 2, 3):
        change(number)
        assert barrier.wait_for(carried.new, marker, 5.0).passed
    marker = barrier.mark(carried.old, "post.forward")
    change(4)
    until(lambda: barrier.look(carried.new, marker).position_passed)
    looked = barrier.wait_for(carried.new, marker, 0.2)
    assert (looked.passed, looked.pending) == (False, 3)
    carried.old.execute("UPDATE parcels SET weight = 5")
    sync.enable(carried.config, "post")
    agree(carried)


def test_6_a_target_that_lost_commits_stops_the_stream(post: Post) -> None:
    """It failed over to a replica that lagged: what the slot confirmed cannot be read again."""
    with working(post.config):
        depot(post)
        agree(post)
    before = post.new.execute(
        "UPDATE splitctl_sync.progress SET lsn = '0/10' RETURNING worker_epoch"
    ).fetchone()
    post.old.execute("UPDATE depots SET name = 'B'")
    with working(post.config):
        found = until(lambda: (s := state(post, "post.forward"))["state"] == "stopped" and s)
        assert "0/10" in found["reason"] and not found["ready"]
        url = f"http://{post.config.sync.listen}/health/ready"
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(url, timeout=2)
    assert titles(post) == (["B"], ["A"])
    assert before is not None


@pytest.mark.parametrize("column", ["system_id = '1'", "timeline = 9"])
def test_6_positions_of_another_server_are_not_believed(post: Post, column: str) -> None:
    post.new.execute(f"UPDATE splitctl_sync.progress SET {column}".encode())
    with working(post.config):
        found = until(lambda: (s := state(post, "post.forward"))["state"] == "stopped" and s)
    assert "not the server" in found["reason"]


def test_6_the_slot_is_confirmed_only_up_to_what_is_stored(carried: Post) -> None:
    depot(carried)
    agree(carried)
    confirmed = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = %s"
    stored = "SELECT lsn FROM splitctl_sync.progress WHERE stream = 'post.forward'"

    def pair() -> Any:
        # The confirmation is read first: what is stored can only have grown since then.
        first = carried.old.execute(confirmed, (carried.forward.slot,)).fetchone()
        second = carried.new.execute(stored).fetchone()
        assert first and second
        row = carried.old.execute(
            "SELECT %s::pg_lsn <= %s::pg_lsn, %s", (first[0], second[0], first[0])
        ).fetchone()
        assert row and row[0]
        return row[1]

    first = pair()
    until(lambda: pair() != first)


@pytest.mark.every_version
def test_8_a_child_that_leaves_or_dies_is_missed_where_it_was(carried: Post) -> None:
    """A tag that was removed must not survive because its depot came back."""
    depot(carried)
    carried.old.execute("INSERT INTO depots VALUES ('s', 1, 'B', 'ann', '[\"y\", \"z\"]')")
    carried.old.execute("INSERT INTO parcels (region, code, note) VALUES ('s', 1, 'second')")
    agree(carried)
    with carried.old.transaction():
        carried.old.execute("UPDATE depots SET tags = '[\"y\"]' WHERE region = 's'")
        carried.old.execute("UPDATE parcels SET region = 'n' WHERE note = 'second'")
        carried.old.execute("DELETE FROM parcels WHERE note = 'first'")
    agree(carried)
    carried.old.execute("UPDATE depots SET region = 'moved' WHERE region = 's'")
    agree(carried)
    tags = carried.new.execute("SELECT region, tag FROM station_tags ORDER BY 1, 2").fetchall()
    assert tags == [("moved", "y"), ("n", "x")]
    carried.old.execute("DELETE FROM depots WHERE region = 'n'")
    agree(carried)
    assert carried.new.execute("SELECT * FROM shipments").fetchall() == []


@pytest.mark.every_version
def test_9_rows_swap_a_unique_name_again_and_again(carried: Post) -> None:
    depot(carried)
    carried.old.execute("INSERT INTO depots VALUES ('s', 1, 'B', 'ann', '[]')")
    agree(carried)
    for number in range(10):
        with carried.old.transaction():
            carried.old.execute("UPDATE depots SET name = 'tmp' WHERE name = 'A'")
            carried.old.execute("UPDATE depots SET name = 'A' WHERE name = 'B'")
            if number % 2:
                carried.old.execute("UPDATE depots SET holder = holder || '!'")
            carried.old.execute("UPDATE depots SET name = 'B' WHERE name = 'tmp'")
    agree(carried)
    assert carried.strays(carried.forward) == carried.strays(carried.reverse) == []


@pytest.mark.every_version
def test_9_a_row_that_cannot_be_written_waits_and_the_rest_goes_on(carried: Post) -> None:
    depot(carried)
    agree(carried)
    carried.old.execute("UPDATE parcels SET weight = 5000")
    until(lambda: carried.pending(carried.forward))
    carried.old.execute("INSERT INTO depots VALUES ('s', 1, 'B', 'ann', '[]')")
    until(lambda: titles(carried) == (["A", "B"], ["A", "B"]))
    assert state(carried, "post.forward")["waiting"] == 1
    assert state(carried, "post.forward")["ready"]
    carried.new.execute("ALTER TABLE shipments DROP CONSTRAINT shipments_weight_check")
    # Nothing changes on the source any more: the worker tries it by itself.
    until(lambda: not carried.pending(carried.forward), timeout_s=10)
    agree(carried)


@pytest.mark.every_version
def test_14_a_truncate_stops_the_stream_and_never_spreads(post: Post) -> None:
    with working(post.config):
        depot(post)
        agree(post)
        post.old.execute("TRUNCATE parcels")
        post.old.execute("UPDATE depots SET name = 'after'")
        found = until(lambda: (s := state(post, "post.forward"))["state"] == "stopped" and s)
        assert "parcels" in found["reason"]
        assert state(post, "post.reverse")["state"] == "running"
    assert post.new.execute("SELECT note FROM shipments").fetchall() == [("first",)]
    assert titles(post)[1] == ["A"]
    with working(post.config):
        until(lambda: state(post, "post.forward")["state"] == "stopped")


def test_14_a_driving_column_that_goes_stops_the_stream(carried: Post) -> None:
    depot(carried)
    agree(carried)
    carried.old.execute("ALTER TABLE depots RENAME code TO number")
    carried.old.execute("UPDATE depots SET name = 'after'")
    found = until(lambda: (s := state(carried, "post.forward"))["state"] == "stopped" and s)
    assert "depots" in found["reason"] and "code" in found["reason"]
    assert titles(carried)[1] == ["A"]


@pytest.mark.every_version
@pytest.mark.parametrize("way", ["one by one", "in lanes", "in parts"])
def test_l3_a_commit_that_nobody_sees_yet_is_waited_for(
    carried: Post, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under synchronous replication a commit is in the log before any snapshot sees it."""
    if way != "one by one":
        monkeypatch.setattr(apply, "MANY", 1)
    if way == "in parts":
        monkeypatch.setattr(capture, "PART_KEYS", 1)
        monkeypatch.setattr(replication, "RUN", 1)
    depot(carried)
    agree(carried)
    server = psycopg.connect(carried.old.info.dsn, autocommit=True)
    try:
        server.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        server.execute("SELECT pg_reload_conf()")
        until(lambda: "nobody" in str(server.execute("SHOW synchronous_standby_names").fetchone()))

        def write() -> None:
            dsn = carried.old.info.dsn
            with psycopg.connect(dsn, options="-c synchronous_commit=on") as connection:
                connection.execute("DELETE FROM parcels WHERE note = 'first'")
                connection.execute(
                    "INSERT INTO parcels (region, code, note) VALUES ('n', 1, 'late')"
                )

        writer = threading.Thread(target=write)
        writer.start()
        waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        until(lambda: server.execute(waits).fetchone())
        time.sleep(0.5)
        assert writer.is_alive()
        # Read too early, 'first' would be there still, and its key would be done with.
        position = "SELECT lsn::text FROM splitctl_sync.progress WHERE stream = 'post.forward'"
        before = carried.new.execute(position).fetchone()
        time.sleep(0.3)
        assert carried.new.execute(position).fetchone() == before
    finally:
        server.execute("ALTER SYSTEM RESET synchronous_standby_names")
        server.execute("SELECT pg_reload_conf()")
        server.close()
    writer.join(10)
    agree(carried)
    assert carried.new.execute("SELECT note FROM shipments").fetchall() == [("late",)]


def test_7_a_prepared_transaction_is_waited_for_and_then_crosses(carried: Post) -> None:
    """A barrier alone knows nothing of it: the wait comes first, and the marker after it."""
    depot(carried)
    agree(carried)
    with psycopg.connect(carried.old.info.dsn, autocommit=True) as session:
        session.execute("BEGIN")
        session.execute("UPDATE depots SET name = 'late'")
        session.execute("PREPARE TRANSACTION 'row 7'")
        assert barrier.wait(carried.forward, 10).passed
        assert not barrier.quiesce(carried.old, ["depots"], 0.2)
        session.execute("COMMIT PREPARED 'row 7'")
    assert barrier.quiesce(carried.old, ["depots"], 10)
    assert barrier.wait(carried.forward, 10).passed
    assert titles(carried)[1] == ["late"]


def test_13_several_sessions_mark_their_writes_at_the_same_time(carried: Post) -> None:
    """An origin is one session's; a mark is anybody's, and what is marked does not come back."""
    depot(carried)
    agree(carried)
    dsn = carried.new.info.dsn
    with psycopg.connect(dsn) as one, psycopg.connect(dsn) as other:
        for number, session in enumerate((one, other)):
            control.mark(session, carried.forward.name)
            row = ("m", number, f"marked {number}")
            session.execute("INSERT INTO stations VALUES (%s, %s, %s, 'ann')", row)
    carried.settle(carried.reverse)
    assert titles(carried) == (["A"], ["A", "marked 0", "marked 1"])
    assert carried.strays(carried.reverse) == []


def test_8_a_child_that_moves_is_not_lost_with_the_parent_that_it_left(post: Post) -> None:
    """A cascade would take what the target alone knows of the child."""
    post.new.execute("ALTER TABLE shipments ADD shelf text")
    with working(post.config):
        depot(post)
        post.old.execute("INSERT INTO depots VALUES ('s', 1, 'B', 'ann', '[]')")
        agree(post)
        post.new.execute("UPDATE shipments SET shelf = 'C4'")
        agree(post)
        with post.old.transaction():
            post.old.execute("UPDATE parcels SET region = 's'")
            post.old.execute("DELETE FROM depots WHERE region = 'n'")
        agree(post)
    found = post.new.execute("SELECT region, shelf FROM shipments").fetchall()
    assert found == [("s", "C4")]


def test_2_a_stray_child_is_kept_before_it_goes_with_its_parent(post: Post) -> None:
    """The cascade of a delete takes rows that nobody has looked at: what somebody else wrote there
    must be kept first, as when the row itself is written over."""
    with working(post.config):
        depot(post)
        agree(post)
        post.await_heartbeats(post.reverse, 2)
    post.new.execute("UPDATE shipments SET note = 'stray'")
    post.old.execute("DELETE FROM depots")
    with carrying(post.forward, opposite="stopped"):
        until(lambda: post.pending(post.forward) or titles(post)[1] == [])
        post.await_heartbeats(post.forward, 2)
    with working(post.config):
        agree(post)
    kept = [row["note"] for item in post.strays(post.reverse) for row in item[2]]
    assert "stray" in kept
