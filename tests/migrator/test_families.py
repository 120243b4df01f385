"""A parent's delete takes nothing along that has to stay (PROTOCOL 2 and 8)."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from migrator import apply, lanes
from migrator.changes import MappingKey
from migrator.families import Hanging, outlived
from migrator.ownership import Ownership, bucket
from migrator.plan import Plan, Reference, Routed, Standing, Work, decide
from tests.migrator.parcels import Post, until
from tests.migrator.test_apply import SHIPMENTS, STATIONS, TAGS, Carrier, opened, rows, watched

KEEPER, LEAVING = ("s", "1"), ("n", "1")
EVERYTHING = "SELECT region, note, shelf FROM shipments ORDER BY id"


@pytest.fixture(autouse=True, params=[apply.MANY, 1], ids=["one by one", "in lanes"])
def many(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "MANY", request.param)
    monkeypatch.setattr(lanes, "WORTH_A_LANE", 1)


@pytest.fixture(params=[apply.PART, 1], ids=["in one part", "each key in its own"])
def part(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "PART", request.param)


@pytest.fixture
def forward(post: Post) -> Iterator[Carrier]:
    """Two depots, and a parcel of the one; the target knows more of its shipment than the source:
    a shelf, and a scan."""
    post.new.execute("ALTER TABLE shipments ADD shelf text")
    post.new.execute("CREATE TABLE scans (id bigint REFERENCES shipments ON DELETE CASCADE)")
    post.old.execute("INSERT INTO depots VALUES ('n', 1, 'A', 'ann', '[\"x\"]')")
    post.old.execute("INSERT INTO depots VALUES ('s', 1, 'B', 'ann', '[]')")
    post.old.execute("INSERT INTO parcels (region, code, note) VALUES ('n', 1, 'first')")
    with opened(post) as made:
        made.everything()
        post.new.execute("UPDATE shipments SET shelf = 'C4'")
        post.new.execute("INSERT INTO scans SELECT id FROM shipments")
        yield made


def waiting(carrier: Carrier) -> dict[MappingKey, str]:
    return {name: item.reason for name, item in carrier.applier.waiting.items()}


def moved_and_gone(post: Post, *more: str) -> None:
    with post.old.transaction():
        post.old.execute("UPDATE parcels SET region = 's' WHERE region = 'n'")
        post.old.execute("DELETE FROM depots WHERE region = 'n'")
        for statement in more:
            post.old.execute(statement.encode())


@pytest.mark.usefixtures("part")
def test_8_what_the_target_alone_knows_of_a_child_moves_with_it(forward: Carrier) -> None:
    post = forward.post
    moved_and_gone(post)
    outcome = forward.everything()
    assert rows(post, EVERYTHING) == [("s", "first", "C4")]
    assert rows(post, "SELECT count(*) FROM scans") == [(1,)]
    assert post.differences(post.forward) == {} and waiting(forward) == {}
    assert outcome.late == () and outcome.strays == 0


@pytest.mark.usefixtures("part")
def test_8_also_when_its_new_parent_takes_a_unique_value_from_the_old_one(forward: Carrier) -> None:
    post = forward.post
    post.old.execute("INSERT INTO depots VALUES ('w', 1, 'tmp', 'ann', '[]')")
    with post.old.transaction():
        post.old.execute("UPDATE parcels SET region = 'w' WHERE region = 'n'")
        post.old.execute("DELETE FROM depots WHERE region = 'n'")
        post.old.execute("UPDATE depots SET name = 'A' WHERE region = 'w'")
    forward.everything()
    assert rows(post, EVERYTHING) == [("w", "first", "C4")]
    assert post.differences(post.forward) == {} and waiting(forward) == {}


@pytest.mark.usefixtures("part")
def test_8_also_beside_a_row_that_cannot_be_written(forward: Carrier) -> None:
    post = forward.post
    moved_and_gone(post, "INSERT INTO parcels (region, code, weight) VALUES ('s', 1, 5000)")
    # In halves, the child is not in that of its parent.
    forward.apply((STATIONS, LEAVING), (STATIONS, KEEPER), *[(SHIPMENTS, (id,)) for id in "13"])
    assert rows(post, EVERYTHING) == [("s", "first", "C4")]
    assert rows(post, "SELECT region FROM stations") == [("s",)]
    assert waiting(forward) == {(SHIPMENTS, ("3",)): "unwritable"}


@pytest.mark.usefixtures("part")
def test_8_a_parent_waits_for_a_child_that_cannot_be_moved(forward: Carrier) -> None:
    post = forward.post
    moved_and_gone(post, "UPDATE parcels SET weight = 5000")
    forward.everything()
    assert rows(post, EVERYTHING) == [("n", "first", "C4")]
    assert waiting(forward) == {
        (SHIPMENTS, ("1",)): "unwritable",
        (STATIONS, LEAVING): "stray-pending",
    }
    details = {row[0]: row[3] for row in post.pending(post.forward)}
    assert "shipments 1 refers to it" in details[STATIONS]
    post.old.execute("UPDATE parcels SET weight = 5")
    forward.applier.retry(list(forward.applier.waiting))
    assert rows(post, EVERYTHING) == [("s", "first", "C4")]
    assert post.differences(post.forward) == {} and waiting(forward) == {}


def test_8_a_parent_that_is_drained_waits_for_a_child_in_the_spool(forward: Carrier) -> None:
    post = forward.post
    moved_and_gone(post)
    post.new.execute("UPDATE splitctl_sync.mapping_state SET state = 'spool'")
    forward.applier.load_states()
    forward.everything()
    post.new.execute("UPDATE splitctl_sync.mapping_state SET state = 'drain'")
    forward.applier.load_states()
    while found := forward.applier.drainable():
        for name in found:
            forward.applier.drain(name)
    assert rows(post, EVERYTHING) == [("s", "first", "C4")]
    assert waiting(forward) == {(STATIONS, LEAVING): "stray-pending"}
    forward.applier.retry(list(forward.applier.waiting))
    assert post.differences(post.forward) == {} and waiting(forward) == {}


@pytest.mark.usefixtures("part")
def test_what_nobody_has_to_keep_goes_with_its_parent(forward: Carrier) -> None:
    """Deletes of children may come later, or lie in the spool: they would find nothing more."""
    post = forward.post
    post.old.execute("DELETE FROM depots")
    forward.apply((STATIONS, LEAVING))
    assert rows(post, EVERYTHING) == [] and waiting(forward) == {}
    assert rows(post, "SELECT region FROM stations") == [("s",)]


@pytest.mark.parametrize("together", [True, False])
def test_2_a_child_that_somebody_changed_keeps_its_parent(forward: Carrier, together: bool) -> None:
    """Its own key is in the batch, or comes with another one."""
    post = forward.post
    with watched(post) as again:
        post.new.execute("UPDATE shipments SET note = 'theirs'")
        post.old.execute("DELETE FROM depots")
        keys = [(STATIONS, LEAVING), (TAGS, LEAVING), (STATIONS, KEEPER)]
        again.apply(*keys, *([(SHIPMENTS, ("1",))] if together else []))
        assert rows(post, EVERYTHING) == [("n", "theirs", "C4")]
        assert rows(post, "SELECT region FROM stations") == [("n",)]
        expected = {(STATIONS, LEAVING), *([(SHIPMENTS, ("1",))] if together else [])}
        assert waiting(again) == dict.fromkeys(expected, "stray-pending")
    with opened(post) as later:
        # The opposite stream has kept it by now.
        later.applier.retry(list(later.applier.waiting))
        assert rows(post, EVERYTHING) == [] and waiting(later) == {}


def test_2_a_child_that_waits_in_the_opposite_stream_keeps_its_parent(forward: Carrier) -> None:
    post = forward.post
    post.old.execute(
        "INSERT INTO splitctl_sync.waiting (stream, mapping, key, reason)"
        " VALUES ('post.reverse', 'post.reverse.parcels', '[\"1\"]', 'unwritable')"
    )
    post.old.execute("DELETE FROM depots")
    forward.apply((STATIONS, LEAVING))
    assert waiting(forward) == {(STATIONS, LEAVING): "stray-pending"}
    assert rows(post, EVERYTHING) == [("n", "first", "C4")]


def test_2_a_child_that_arrives_between_the_look_and_the_delete_is_seen(forward: Carrier) -> None:
    """Nobody can refer any more to a row that is to go, from before its children are looked at."""
    post = forward.post
    with watched(post) as again, psycopg.connect(post.new.info.dsn) as other:
        other.execute("INSERT INTO shipments (id, region, number, note) VALUES (9, 'n', 1, 'new')")
        post.old.execute("DELETE FROM depots")
        names = [(STATIONS, LEAVING), (TAGS, LEAVING), (SHIPMENTS, ("1",))]
        applying = threading.Thread(target=again.apply, args=names)
        applying.start()
        waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        until(lambda: post.new.execute(waits).fetchone())
        other.commit()
        applying.join(10)
        assert not applying.is_alive()
        assert rows(post, EVERYTHING) == [("n", "new", None)]
        assert waiting(again) == {(STATIONS, LEAVING): "stray-pending"}


# The decision, by itself: a grandparent, its child, and a row below that

ROOT, CHILD, LEAF = (
    Work(name, (0,), ((name,),), {}, {(name,): [Standing((name,), "r")]}) for name in "gpc"
)
BELOW_ROOT = Hanging("p", ("p",), CHILD.standing[("p",)][0], ("g", ("g",)))
BELOW_CHILD = Hanging("c", ("c",), LEAF.standing[("c",)][0], ("p", ("p",)))


def outcome(
    works: list[Work], *hanging: Hanging, ownership: Ownership | None = None
) -> tuple[Plan, set[str], set[str]]:
    """The plan, and the tables whose rows go before the upserts and after them."""
    plan = outlived(decide(works, ownership, "old"), works, hanging, ownership, "old")
    early, late = ({name for name in found if found[name]} for found in (plan.deletes, plan.late))
    return plan, early, late


def test_a_family_that_goes_as_a_whole_goes_before_anything_is_written() -> None:
    plan, early, late = outcome([ROOT, CHILD, LEAF], BELOW_ROOT, BELOW_CHILD)
    assert (early, late, plan.kept) == ({"g", "p", "c"}, set(), {})


def test_a_family_from_which_one_moves_goes_after_it_has() -> None:
    moving = replace(LEAF, rows={("c",): [Routed(("c",), "r")]})
    plan, early, late = outcome([ROOT, CHILD, moving], BELOW_ROOT, BELOW_CHILD)
    assert (early, late, plan.kept) == (set(), {"g", "p"}, {})
    assert plan.upserts["c"] == [("c",)]


@pytest.mark.parametrize("why", ["fresh", "undecided", "given", "not ours"])
@pytest.mark.parametrize("between", [True, False], ids=["planned", "only along"])
def test_one_that_stays_keeps_all_above_it(why: str, between: bool) -> None:
    route = next(name for name in map(str, range(100)) if bucket(name) < 5_000)
    ours = next(name for name in map(str, range(100)) if bucket(name) >= 5_000)
    standing = Standing(("c",), route if why == "not ours" else ours, fresh=why == "fresh")
    below = replace(BELOW_CHILD, row=standing, undecided=why == "undecided", given=why == "given")
    above = replace(BELOW_ROOT, row=Standing(("p",), ours))
    works = [
        replace(work, standing={work.keys[0]: [Standing(work.keys[0], ours)]})
        for work in ([ROOT, CHILD] if between else [ROOT])
    ]
    plan, early, late = outcome(works, above, below, ownership=Ownership(5_000, 2))
    assert (early, late) == (set(), set())
    assert set(plan.kept) == {(work.mapping, work.keys[0]) for work in works}
    assert set(plan.contested) == set(plan.kept)


def test_a_parent_that_is_kept_is_one_for_its_children_again() -> None:
    """Else they would wait for a parent that stands."""
    reference = Reference("fk", (1,), "g", (0,), True, frozenset({("g",)}))
    newer = Work("q", (0,), (("q",),), {("q",): [Routed(("q", "g"), "r")]}, {}, (reference,))
    assert decide([ROOT, newer], None, "old").parentless
    plan, _, _ = outcome([ROOT, newer], replace(BELOW_ROOT, given=True))
    assert plan.upserts["q"] == [("q", "g")] and plan.kept == {("g", ("g",)): (("p", ("p",)),)}
