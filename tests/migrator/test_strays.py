"""What becomes of a change on the side that does not own it, by each rule, in both directions.

In every test workers carry both streams; whoever writes on the wrong side is a late request, a job
or a person with psql: to the log they are all the same.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from migrator import ownership, parked, settling
from migrator.mapping import Side, Stream, other
from migrator.readiness import NotReady
from migrator.settling import Keep
from tests.conftest import ConfigWriter, FreshDatabase
from tests.migrator.parcels import Post, make, until, working
from tests.migrator.test_protocol_rows import agree, depot, state, titles

RULED = ("stations", "station_tags", "shipments", "depots", "parcels")
Sides = tuple[Side, ...]
BOTH: Sides = ("old", "new")
Make = Callable[[str], Post]
TITLE = {"old": "UPDATE depots SET name = %s", "new": "UPDATE stations SET title = %s"}
NOTE = {"old": "UPDATE parcels SET note = %s", "new": "UPDATE shipments SET note = %s"}
REVISED = {
    "old": "UPDATE parcels SET note = %s, revised = %s",
    "new": "UPDATE shipments SET note = %s, revised = %s",
}


KILL = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE application_name LIKE 'splitctl sync%' AND datname = current_database()
"""


@pytest.fixture
def ruled(fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter) -> Any:
    """The parcel split with one rule for strays in every mapping."""
    made: list[Post] = []

    def build(rule: str) -> Post:
        tables = ("shipments", "parcels") if "newest" in rule else RULED
        made.append(make(fresh_databases, write_config, dict.fromkeys(tables, rule)))
        return made[-1]

    yield build
    for post in made:
        post.old.close()
        post.new.close()


@dataclass
class Wrong:
    """A split whose one customer belongs to the other side than `side`."""

    post: Post
    side: Side

    @property
    def stream(self) -> Stream:
        """The one that finds the strays."""
        return self.post.forward if self.side == "old" else self.post.reverse

    @property
    def back(self) -> Stream:
        return self.post.reverse if self.side == "old" else self.post.forward

    def here(self, statement: dict[Any, str], *values: Any) -> None:
        """Write on the side that does not own."""
        self._on(self.side, statement, *values)

    def there(self, statement: dict[Any, str], *values: Any) -> None:
        """Write on the owner's side."""
        self._on(other(self.side), statement, *values)

    def _on(self, side: Side, statement: dict[Any, str], *values: Any) -> None:
        connection = self.post.old if side == "old" else self.post.new
        connection.execute(statement[side].encode(), values)

    def notes(self) -> tuple[Any, Any]:
        """What stands here and at the owner's."""
        found = {
            "old": self.post.old.execute("SELECT note FROM parcels ORDER BY 1").fetchall(),
            "new": self.post.new.execute("SELECT note FROM shipments ORDER BY 1").fetchall(),
        }
        return found[self.side], found[other(self.side)]

    def kept(self) -> list[Any]:
        """Outcome, the stray's version, the owner's version, in the order of their coming."""
        query = (
            "SELECT outcome, source_rows, target_rows, settled_at IS NOT NULL, id"
            " FROM splitctl_sync.stray WHERE stream = %s ORDER BY id"
        )
        return self.post.target(self.stream).execute(query, (self.stream.name,)).fetchall()

    def worker_epoch(self) -> int:
        """Grows with each worker that takes the stream over."""
        query = "SELECT worker_epoch FROM splitctl_sync.progress WHERE stream = %s"
        row = self.post.target(self.stream).execute(query, (self.stream.name,)).fetchone()
        return int(row[0]) if row else 0

    def is_stopped(self) -> bool:
        return bool(state(self.post, self.stream.name)["state"] == "stopped")

    def name(self, number: int = -1) -> str:
        return f"{self.stream.name}/{self.kept()[number][4]}"

    def is_quiet(self) -> None:
        """Nothing goes round: heartbeats pass, and no stray and no write comes of them."""
        agree(self.post)
        before = self._figures()
        self.post.await_heartbeats(self.post.forward, 2)
        self.post.await_heartbeats(self.post.reverse, 2)
        assert self._figures() == before
        assert self.post.strays(self.back) == []

    def _figures(self) -> Any:
        written = [
            state(self.post, stream.name)["transactions"]
            for stream in (self.post.forward, self.post.reverse)
        ]
        return written, len(self.kept())


def looked_at(post: Post) -> None:
    """Both sides are equal, and each direction has looked at what was written.

    What somebody wrote a moment ago proves nothing yet: until then it falls to the owner.
    """
    agree(post)
    for stream in (post.forward, post.reverse):
        post.await_heartbeats(stream, 2)


def begun(post: Post, side: Side) -> Wrong:
    """Both sides equal; the customer then moves to the side that is not this one."""
    depot(post)
    looked_at(post)
    post.move(10_000, 2)
    if side == "new":
        post.move(0, 3)
    return Wrong(post, side)


@pytest.mark.parametrize("side", BOTH)
def test_owner_the_owners_version_stands(ruled: Make, side: Side) -> None:
    post = ruled('"owner"')
    with working(post.config):
        wrong = begun(post, side)
        wrong.here(NOTE, "late")
        until(lambda: len(wrong.kept()) == 1)
        wrong.is_quiet()
        assert wrong.notes() == ([("first",)], [("first",)])
    ((outcome, mine, theirs, *_),) = wrong.kept()
    assert (outcome, mine[0]["note"], theirs[0]["note"]) == ("kept", "late", "first")


@pytest.mark.parametrize("side", BOTH)
def test_carry_where_the_owner_did_nothing_since_the_switch(ruled: Make, side: Side) -> None:
    """Again and again: what was carried so is no change of the owner's."""
    post = ruled('"carry"')
    with working(post.config):
        wrong = begun(post, side)
        for number, note in enumerate(("late", "later"), 1):
            wrong.here(NOTE, note)
            until(lambda number=number: len(wrong.kept()) == number)  # type: ignore[misc]
            wrong.is_quiet()
            assert wrong.notes() == ([(note,)], [(note,)])
    found = [(o, mine[0]["note"], theirs[0]["note"], s) for o, mine, theirs, s, _ in wrong.kept()]
    assert found == [("carried", "late", "first", True), ("carried", "later", "late", True)]
    (shown, _) = parked.strays(post.config, "post", "all").rows
    assert shown.settled is not None and "nobody had changed the owner's row" in shown.settled
    assert "carried across" in shown.rule


@pytest.mark.parametrize("side", BOTH)
def test_carry_not_over_what_the_owner_did_since_the_switch(ruled: Make, side: Side) -> None:
    """Also long after that was carried here, so that the stray was made upon it."""
    post = ruled('"carry"')
    with working(post.config):
        wrong = begun(post, side)
        wrong.there(NOTE, "the owner's")
        agree(post)
        wrong.here(NOTE, "late")
        until(wrong.kept)
        wrong.is_quiet()
        assert wrong.notes() == ([("the owner's",)], [("the owner's",)])
    ((outcome, mine, theirs, *_),) = wrong.kept()
    assert (outcome, mine[0]["note"], theirs[0]["note"]) == ("kept", "late", "the owner's")


@pytest.mark.parametrize("killed", [False, True], ids=["", "killed meanwhile"])
@pytest.mark.parametrize("side", BOTH)
def test_carry_waits_for_an_owner_who_writes_just_now(
    ruled: Make, side: Side, killed: bool
) -> None:
    """His row is locked before it is judged; and a savepoint hides him no better (way 2)."""
    post = ruled('"carry"')
    with working(post.config):
        wrong = begun(post, side)
        with psycopg.connect(post.target(wrong.stream).info.dsn) as owner:
            owner.execute("SELECT 1")
            with owner.transaction():  # a savepoint
                owner.execute(NOTE[other(side)].encode(), ("the owner's",))
            wrong.here(NOTE, "late")
            waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            until(lambda: post.target(wrong.stream).execute(waits).fetchone())
            if killed:
                post.target(wrong.stream).execute(KILL)
        until(wrong.kept)
        agree(post)
        assert wrong.notes() == ([("the owner's",)], [("the owner's",)])
    assert [row[0] for row in wrong.kept()] == ["kept"]


@pytest.mark.parametrize("side", BOTH)
def test_carry_never_what_the_owner_may_have_deleted(ruled: Make, side: Side) -> None:
    """A deleted row does not tell who deleted it, and a new one may be a deleted one."""
    post = ruled('"carry"')
    with working(post.config):
        wrong = begun(post, side)
    wrong.there({"old": "DELETE FROM parcels", "new": "DELETE FROM shipments"})
    wrong.here(NOTE, "late")
    with working(post.config):
        until(wrong.kept)
        agree(post)
        assert wrong.notes() == ([], [])
        wrong.here(
            {
                "old": "INSERT INTO depots VALUES ('x', 1, 'X', 'ann', '[]')",
                "new": "INSERT INTO stations VALUES ('x', 1, 'X', 'ann')",
            }
        )
        until(lambda: titles(post) == (["A"], ["A"]) and len(wrong.kept()) > 1)
        agree(post)
    assert {row[0] for row in wrong.kept()} == {"kept"}


def test_carry_no_delete(ruled: Make) -> None:
    """It could cascade to what the owner has below the row."""
    post = ruled('"carry"')
    with working(post.config):
        wrong = begun(post, "old")
        wrong.here({"old": "DELETE FROM depots"})
        until(lambda: len(wrong.kept()) >= 2)
        until(lambda: titles(post) == (["A"], ["A"]))
        agree(post)
        assert wrong.notes() == ([("first",)], [("first",)])
    assert {row[0] for row in wrong.kept()} == {"kept"}


@pytest.mark.parametrize("told", ["at once", "late"])
@pytest.mark.parametrize("rule", ['"owner"', '"stop"'])
def test_1_return_of_the_dead_what_nobody_worked_on_since_is_carried_the_rest_is_listed(
    ruled: Make, told: str, rule: str
) -> None:
    """New dies with acknowledged writes; whatever the rule, they were the owner's then."""
    post = ruled(rule)
    with working(post.config):
        depot(post)
        post.old.execute("INSERT INTO depots VALUES ('s', 1, 'B', 'ann', '[]')")
        looked_at(post)
        post.move(10_000, 2)
        agree(post)
    post.new.execute("UPDATE stations SET title = title || ' by new'")
    post.move(0, 3, "old")
    post.old.execute("UPDATE depots SET name = 'B by old' WHERE region = 's'")
    if told == "at once":
        post.move(0, 3, "new")
    wrong = Wrong(post, "new")
    with working(post.config):
        if rule == '"owner"':
            until(lambda: len(wrong.kept()) == 2)
            post.move(0, 3, "new")
        else:
            until(lambda: state(post, "post.reverse")["state"] == "stopped")
            post.move(0, 3, "new")
            (name,) = (n for n in opened(post) if n.startswith("post.reverse/"))
            settling.settle(post.config, [name], None, "owner")
        until(lambda: titles(post) == (["A by new", "B by old"],) * 2, 15)
        agree(post)
    kept = {mine[0]["name"]: (o, theirs[0]["name"]) for o, mine, theirs, *_ in wrong.kept()}
    assert kept["A by new"] == ("carried", "A")
    assert kept["B by new"][1] == "B by old"


def test_1_return_of_the_dead_what_only_the_dead_side_had_is_listed(ruled: Make) -> None:
    """That old never had it, nothing proves: it may have been carried, and deleted since."""
    post = ruled('"owner"')
    with working(post.config):
        depot(post)
        agree(post)
        post.move(10_000, 2)
        agree(post)
    post.new.execute("INSERT INTO stations VALUES ('x', 1, 'only here', 'ann')")
    post.move(0, 3)
    wrong = Wrong(post, "new")
    with working(post.config):
        until(wrong.kept)
        agree(post)
        assert titles(post) == (["A"], ["A"])
        # The person who looks at it has it written all the same.
        done = settling.settle(post.config, [wrong.name()], "the customer called", "stray")
        assert (done.now + done.before, done.written) == (1, 1)
        until(lambda: titles(post) == (["A", "only here"],) * 2)
        wrong.is_quiet()


DATES = {"older": "2025-01-01", "equal": "2025-06-01", "newer": "2026-01-01", "none": None}


@pytest.mark.parametrize("side", BOTH)
@pytest.mark.parametrize("age", DATES)
def test_newest_the_version_with_the_greater_column_stands(
    ruled: Make, side: Side, age: str
) -> None:
    """Both have changed it. Equal or without a value, the stray loses."""
    post = ruled('{ newest = "revised" }')
    with working(post.config):
        wrong = begun(post, side)
    wrong.there(REVISED, "the owner's", DATES["equal"])
    wrong.here(REVISED, "late", DATES[age])
    with working(post.config):
        until(wrong.kept)
        winner = "late" if age == "newer" else "the owner's"
        until(lambda: wrong.notes() == ([(winner,)], [(winner,)]))
        wrong.is_quiet()
    ((outcome, mine, theirs, *_),) = wrong.kept()
    assert outcome == ("carried" if age == "newer" else "kept")
    assert (mine[0]["note"], theirs[0]["note"]) == ("late", "the owner's")


def test_newest_a_value_beats_none_and_infinity_every_value(ruled: Make) -> None:
    post = ruled('{ newest = "revised" }')
    with working(post.config):
        wrong = begun(post, "old")
        for number, (note, value) in enumerate(
            (("dated", "0044-03-15 BC"), ("last", "infinity"), ("too late", "294000-01-01")), 1
        ):
            wrong.here(REVISED, note, value)
            until(lambda number=number: len(wrong.kept()) == number)  # type: ignore[misc]
            agree(post)
        assert wrong.notes() == ([("last",)], [("last",)])
    assert [row[0] for row in wrong.kept()] == ["carried", "carried", "kept"]


@pytest.mark.parametrize("side", BOTH)
@pytest.mark.parametrize("keep", ["owner", "stray"])
def test_stop_the_stream_stops_until_a_person_has_said_which_version_stands(
    ruled: Make, side: Side, keep: Keep
) -> None:
    """Nothing is lost meanwhile, also when the worker is killed before and after the decision."""
    post = ruled('"stop"')
    with working(post.config):
        wrong = begun(post, side)
        wrong.here(NOTE, "late")
        found = until(lambda: (s := state(post, wrong.stream.name))["state"] == "stopped" and s)
        assert wrong.stream.name in found["reason"] and "changed on the side" in found["reason"]
        wrong.here(TITLE, "later")
        (first,) = parked.strays(post.config, "post", "open").rows
        assert first.rule == "the stream waits at it"
        with pytest.raises(settling.StreamWaits):
            settling.settle(post.config, [first.stray], "seen")
    before = wrong.worker_epoch()
    with working(post.config):
        # A worker that is started again stops again, at the same stray: what came later may be
        # among what it has read by then, or not.
        until(lambda: wrong.worker_epoch() > before and wrong.is_stopped())
        assert first.stray in settle_open(post, keep)
    with working(post.config):
        note = "first" if keep == "owner" else "late"
        title = "A" if keep == "owner" else "later"
        stands = ([(note,)], [(note,)]), ([title], [title])
        # It may stop once more, at what came later.
        until(lambda: settle_open(post, keep) == [] and (wrong.notes(), titles(post)) == stands)
        until(lambda: not wrong.is_stopped())
        wrong.is_quiet()
    assert {row[0] for row in wrong.kept()} == {"passed"}


def opened(post: Post) -> list[str]:
    return [row.stray for row in parked.strays(post.config, "post", "open").rows]


def settle_open(post: Post, keep: Keep) -> list[str]:
    """Settle what is open now; returns the names."""
    names = opened(post)
    if names:
        settling.settle(post.config, names, None, keep)
    return names


def test_stop_it_goes_on_when_the_owner_moves_to_where_it_was_written(ruled: Make) -> None:
    """Then the key is no stray any more, and nobody has to decide."""
    post = ruled('"stop"')
    with working(post.config):
        wrong = begun(post, "old")
        wrong.here(NOTE, "late")
        until(wrong.is_stopped)
        post.move(0, 3)
        until(lambda: wrong.notes() == ([("late",)], [("late",)]), 15)
        wrong.is_quiet()
        assert parked.strays(post.config, "post", "open").rows == []
    assert [row[0] for row in wrong.kept()] == ["passed"]


@pytest.mark.parametrize("side", BOTH)
def test_settled_by_hand_the_strays_version_stands_and_nothing_goes_round(
    ruled: Make, side: Side
) -> None:
    """Its own side has the owner's version since long; a person has looked at both."""
    post = ruled('"owner"')
    with working(post.config):
        wrong = begun(post, side)
        wrong.here(NOTE, "late")
        until(lambda: post.unsettled(wrong.stream) == 0 and wrong.kept(), 15)
        agree(post)
        settling.settle(post.config, [wrong.name()], "she called", "stray")
        until(lambda: wrong.notes() == ([("late",)], [("late",)]))
        wrong.is_quiet()
        (shown,) = parked.strays(post.config, "post", "all").rows
        assert shown.settled == "by hand: the stray's version stands; she called"
        assert shown.settled_by
        # And back again, by another person.
        settling.settle(post.config, [wrong.name()], None, "owner")
        wrong.is_quiet()
        assert wrong.notes() == ([("late",)], [("late",)])


@pytest.mark.parametrize("side", BOTH)
def test_what_was_carried_across_can_be_taken_back_by_hand(ruled: Make, side: Side) -> None:
    post = ruled('"carry"')
    with working(post.config):
        wrong = begun(post, side)
        wrong.here(NOTE, "late")
        until(wrong.kept)
        agree(post)
        settling.settle(post.config, [wrong.name()], None, "owner")
        until(lambda: wrong.notes() == ([("first",)], [("first",)]))
        wrong.is_quiet()


def test_what_the_owner_did_since_the_stray_was_kept_is_not_lost_by_settling_it(
    ruled: Make,
) -> None:
    post = ruled('"owner"')
    with working(post.config):
        wrong = begun(post, "old")
        wrong.here(NOTE, "late")
        until(wrong.kept)
        agree(post)
        wrong.there(NOTE, "the owner's")
        agree(post)
        with pytest.raises(settling.OwnerChanged):
            settling.settle(post.config, [wrong.name()], None, "stray")
        agree(post)
        assert wrong.notes() == ([("the owner's",)], [("the owner's",)])
        # Both versions are shown as they are now; who has looked at them can go on.
        assert wrong.kept()[0][2][0]["note"] == "the owner's"
        settling.settle(post.config, [wrong.name()], None, "stray")
        until(lambda: wrong.notes() == ([("late",)], [("late",)]))
        agree(post)


def test_settling_is_refused_where_the_customer_has_moved_or_the_owner_refuses(
    ruled: Make,
) -> None:
    post = ruled('"owner"')
    with working(post.config):
        wrong = begun(post, "old")
        wrong.here({"old": "UPDATE parcels SET note = %s, weight = 5000"}, "late")
        until(wrong.kept)
        agree(post)
        with pytest.raises(settling.Refused, match="shipments_weight_check"):
            settling.settle(post.config, [wrong.name()], None, "stray")
        post.move(0, 3)
        with pytest.raises(settling.OwnerMoved, match="old side"):
            settling.settle(post.config, [wrong.name()], None, "stray")
        agree(post)
        assert wrong.notes() == ([("first",)], [("first",)])


def test_many_late_requests_after_a_step_without_a_fence(ruled: Make) -> None:
    """They end on both sides while the owner works too; afterwards every note is somewhere."""
    post = ruled('"carry"')
    with working(post.config):
        depot(post)
        post.old.execute(
            "INSERT INTO parcels (region, code, note)"
            " SELECT 'n', 1, 'first' FROM generate_series(1, 30)"
        )
        agree(post)
        post.move(10_000, 2)
        ids = [row[0] for row in post.old.execute("SELECT id FROM parcels ORDER BY 1").fetchall()]

        def write(side: Side, chosen: list[int]) -> None:
            dsn = (post.old if side == "old" else post.new).info.dsn
            with psycopg.connect(dsn, autocommit=True) as connection:
                for number in chosen:
                    query = f"{NOTE[side]} WHERE id = %s"
                    connection.execute(query.encode(), (f"{side} {number}", number))

        writers = [
            threading.Thread(target=write, args=("old", ids[:20])),
            threading.Thread(target=write, args=("new", ids[10:])),
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        agree(post)
        until(lambda: post.unsettled(post.forward) == 0, 15)
        wrong = Wrong(post, "old")
        wrong.is_quiet()
    stands = dict(post.new.execute("SELECT id, note FROM shipments").fetchall())
    known = {row["note"] for _, mine, theirs, *_ in wrong.kept() for row in (*mine, *theirs)}
    for number in ids[:20]:
        assert f"old {number}" in known
    for number in ids[10:]:
        # Carried first, a late note may be written over by the owner, never the other way round.
        assert stands[number] == f"new {number}"
    assert {stands[number] for number in ids[:10]} == {f"old {number}" for number in ids[:10]}


HOLDER = {"old": "UPDATE depots SET holder = %s", "new": "UPDATE stations SET holder = %s"}
CUSTOMERS = dict(zip(("new", "old"), sorted(("ann", "bob"), key=ownership.bucket), strict=True))


def holders(post: Post) -> tuple[Any, Any]:
    old = post.old.execute("SELECT holder FROM depots ORDER BY 1").fetchall()
    new = post.new.execute("SELECT holder FROM stations ORDER BY 1").fetchall()
    return [row[0] for row in old], [row[0] for row in new]


def halved(post: Post, owner: Side) -> Wrong:
    """Each side owns one customer; the depot's is the owner's, and the other side is wrong."""
    depot(post, holder=CUSTOMERS[owner])
    looked_at(post)
    post.move(ownership.bucket(CUSTOMERS["old"]), 2)
    agree(post)
    return Wrong(post, other(owner))


@pytest.mark.parametrize("owner", BOTH)
def test_a_row_that_its_owner_gives_to_a_customer_of_the_other_side_is_no_stray(
    ruled: Make, owner: Side
) -> None:
    """It strayed in both directions, again and again."""
    post = ruled('"owner"')
    with working(post.config):
        wrong = halved(post, owner)
        receiver = CUSTOMERS[other(owner)]
        wrong.there(HOLDER, receiver)
        until(lambda: holders(post) == ([receiver], [receiver]))
        wrong.is_quiet()
        assert wrong.kept() == []
        # From now on it is the other side's.
        wrong.here(TITLE, "mine")
        until(lambda: titles(post) == (["mine"], ["mine"]))
        wrong.is_quiet()


@pytest.mark.parametrize("side", BOTH)
def test_a_row_that_is_taken_from_its_owner_for_a_customer_of_here_is_one_stray(
    ruled: Make, side: Side
) -> None:
    post = ruled('"owner"')
    with working(post.config):
        wrong = halved(post, other(side))
        wrong.here(HOLDER, CUSTOMERS[side])
        until(wrong.kept)
        owner = CUSTOMERS[other(side)]
        until(lambda: holders(post) == ([owner], [owner]))
        wrong.is_quiet()
    tables = {"old": ("stations", "station_tags"), "new": ("depots",)}
    found = [row[0].rpartition(".")[2] for row in post.strays(wrong.stream)]
    assert sorted(found) == sorted(set(found)) and set(found) <= set(tables[side])


@pytest.mark.parametrize("owner", BOTH)
def test_a_row_that_is_given_away_while_the_other_side_changes_it_has_an_end(
    post: Post, owner: Side
) -> None:
    with working(post.config):
        wrong = halved(post, owner)
    receiver = CUSTOMERS[other(owner)]
    wrong.there(HOLDER, receiver)
    wrong.here(TITLE, "late")
    with working(post.config):
        until(lambda: holders(post)[0] == holders(post)[1] and not pending(post), 20)
        agree(post)
        until(lambda: titles(post)[0] == titles(post)[1])
    kept = [row for stream in (post.forward, post.reverse) for row in post.strays(stream)]
    assert 1 <= len(kept) <= 3


def pending(post: Post) -> list[Any]:
    return post.pending(post.forward) + post.pending(post.reverse)


def test_what_cannot_be_read_where_it_does_not_belong_does_not_hold_up_its_owner(
    ruled: Make,
) -> None:
    """It was parked as unwritable, and the owner's changes of it waited for a person."""
    post = ruled('"owner"')
    with working(post.config):
        wrong = begun(post, "old")
        wrong.here({"old": "UPDATE depots SET tags = '5'"})  # no list: it cannot be read
        until(lambda: any(row[0].endswith("tags") for row in post.strays(post.forward)))
        wrong.there(TITLE, "the owner's")
        until(lambda: titles(post) == (["the owner's"], ["the owner's"]))
        wrong.is_quiet()
        assert pending(post) == []
        (unread,) = (n for n, row in enumerate(wrong.kept()) if row[1] is None)
        assert [row["tag"] for row in wrong.kept()[unread][2]] == ["x"]
        with pytest.raises(settling.VersionUnknown):
            settling.settle(post.config, [wrong.name(unread)], None, "stray")


def test_a_deleted_row_of_the_side_that_does_not_own_comes_back_and_is_counted(
    ruled: Make,
) -> None:
    """Nobody can see the delete in the table; the log tells it, and it ends as a stray."""
    post = ruled('"owner"')
    with working(post.config):
        wrong = begun(post, "new")
    wrong.here({"new": "DELETE FROM shipments"})
    wrong.there(NOTE, "the owner's")
    with working(post.config):
        until(wrong.kept)
        until(lambda: wrong.notes() == ([("the owner's",)], [("the owner's",)]))
        wrong.is_quiet()
    assert [row[0] for row in post.strays(post.reverse)] == ["post.reverse.parcels"]


@pytest.mark.parametrize("column", ["note", "weight", "elsewhere"])
def test_newest_compares_a_time_or_a_whole_number_of_the_mapping(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter, column: str
) -> None:
    rule = f'{{ newest = "{column}" }}'
    with pytest.raises(NotReady, match=f"compares {column}"):
        make(fresh_databases, write_config, {"shipments": rule})
