"""What was put aside can be looked at, row by row, and a person's word about it is kept."""

import pytest

from migrator import parked, settling, sync
from migrator.parked import Aside
from migrator.settling import NoSuchStray, NothingSaid
from tests.migrator.parcels import Post, until


def with_a_stray(post: Post) -> None:
    post.old.execute("INSERT INTO depots VALUES ('n', 1, 'A', 'ann', '[]')")
    post.settle()
    post.new.execute("UPDATE stations SET title = 'by new'")
    until(lambda: post.strays(post.reverse))
    until(lambda: post.unsettled(post.reverse) == 0, 15)
    # Open again, and so that the worker does not settle it once more.
    post.old.execute(
        "UPDATE splitctl_sync.stray SET settled_at = NULL, settled_how = NULL, asked_in = NULL"
    )


def test_a_stray_is_shown_with_both_versions(carried: Post) -> None:
    with_a_stray(carried)
    (stray,) = parked.strays(carried.config, "post", "open").rows
    assert stray.stray.startswith("post.reverse/")
    assert stray.key == "depots n, 1"
    assert [row["name"] for row in stray.changed] == ["by new"]
    assert [row["name"] for row in stray.owned] == ["A"]
    assert stray.settled is None


def test_settled_by_hand_it_is_kept_with_what_was_said(carried: Post) -> None:
    with_a_stray(carried)
    (stray,) = parked.strays(carried.config, None, "open").rows
    done = settling.settle(carried.config, [stray.stray, stray.stray], "the customer was called")
    assert (done.now, done.before) == (1, 0)
    again = settling.settle(carried.config, [stray.stray], "something else")
    assert (again.now, again.before) == (0, 1)
    assert parked.strays(carried.config, "post", "open").rows == []
    (kept,) = parked.strays(carried.config, "post", "all").rows
    assert kept.settled == "by hand: the customer was called"


@pytest.mark.parametrize(
    "name", ["post.reverse/999", "post.reverse", "post.up/1", "post.reverse/x"]
)
def test_an_unknown_stray_is_named_and_no_other_is_touched(carried: Post, name: str) -> None:
    with_a_stray(carried)
    (stray,) = parked.strays(carried.config, "post", "open").rows
    with pytest.raises(NoSuchStray, match=name):
        settling.settle(carried.config, [stray.stray, name], "seen")
    assert len(parked.strays(carried.config, "post", "open").rows) == 1


def test_a_waiting_key_is_shown_with_its_reason(carried: Post) -> None:
    carried.old.execute("INSERT INTO depots VALUES ('n', 1, 'A', 'ann', '[]')")
    carried.old.execute("INSERT INTO parcels (region, code, weight) VALUES ('n', 1, 5000)")
    until(lambda: carried.pending(carried.forward))
    (key,) = parked.waiting(carried.config, "post").rows
    assert (key.mapping, key.key) == ("post.forward.shipments", "1")
    assert key.reason == "the target refuses it"
    assert "shipments_weight_check" in key.detail


def test_where_sync_was_never_enabled_nothing_is_aside(carried: Post) -> None:
    sync.teardown(carried.config)
    assert parked.strays(carried.config, None, "all") == Aside([], [])
    assert parked.waiting(carried.config, None) == Aside([], [])


def test_books_that_cannot_be_read_do_not_hide_the_others(carried: Post) -> None:
    """The new database died, and on-call asks what the old one has kept."""
    with_a_stray(carried)
    carried.new.execute("DROP TABLE splitctl_sync.stray CASCADE")
    found = parked.strays(carried.config, "post", "open")
    assert [row.stray.partition("/")[0] for row in found.rows] == ["post.reverse"]
    (away,) = found.away
    assert away.startswith("post.forward: ")


def test_nobody_settles_without_saying_how(carried: Post) -> None:
    with pytest.raises(NothingSaid):
        settling.settle(carried.config, ["post.reverse/1"], " ")
