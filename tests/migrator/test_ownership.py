"""One owner per bucket, in both databases, at every instant of a step."""

import threading

import pytest

from estate.connections import connect
from migrator import control, ownership
from migrator.ownership import EpochConflict, Move, OwnerMissing, Ownership, owned_since
from tests.migrator.library import DOMAIN, Library


@pytest.fixture
def both(library: Library) -> Library:
    for name in ("main", "branch"):
        with connect(library.config.database(name), "test") as connection:
            control.install(connection)
            ownership.create(connection, DOMAIN)
    return library


def found(library: Library) -> list[Ownership | None]:
    result = []
    for name in ("main", "branch"):
        with connect(library.config.database(name), "test") as connection:
            result.append(ownership.read(connection, DOMAIN))
    return result


def test_each_move_is_recorded_with_what_had_ended_before_it(both: Library) -> None:
    """A rollback on a schema of an older version, without the records, works all the same."""
    with connect(both.config.database("main"), "test") as connection:
        started = connection.execute("SELECT pg_current_xact_id()::text").fetchone()
        ownership.switch(connection, DOMAIN, 1000, 2)
        ownership.switch(connection, DOMAIN, 1000, 2)
        ownership.switch(connection, DOMAIN, 0, 5)
        found = ownership.moves(connection, DOMAIN)
        assert [(m.epoch, m.from_below, m.new_below) for m in found] == [
            (5, 1000, 0),
            (2, 0, 1000),
            (1, 0, 0),
        ]
        assert started is not None and found[1].horizon > int(started[0]) >= found[2].horizon
        connection.execute("DROP TABLE splitctl_sync.owner_move")
        assert ownership.switch(connection, DOMAIN, 2000, 6) == Ownership(2000, 6)
        control.install(connection)
        assert ownership.moves(connection, DOMAIN) == []


LATEST = Ownership(3000, 9)
MOVES = [
    Move(9, 5000, 3000, 90),
    Move(7, 1000, 5000, 70),
    Move(4, 0, 1000, 40),
    Move(1, 0, 0, 10),
]


@pytest.mark.parametrize(
    ("number", "since"), [(0, 40), (999, 40), (1000, 70), (2999, 70), (3000, 90), (5000, 10)]
)
def test_a_bucket_has_its_owner_since_the_move_that_took_it_along(number: int, since: int) -> None:
    assert owned_since(LATEST, MOVES, number) == since


@pytest.mark.parametrize(
    ("current", "recorded"),
    [
        (LATEST, []),
        (Ownership(3000, 10), MOVES),
        (Ownership(2000, 9), MOVES),
        (LATEST, [MOVES[0], MOVES[2], MOVES[3]]),
        (LATEST, MOVES[:2]),
    ],
)
def test_a_gap_in_the_records_proves_nothing(current: Ownership, recorded: list[Move]) -> None:
    assert owned_since(current, recorded, 0) is None


def test_without_a_schema_or_a_row_nobody_is_told_a_lie(library: Library) -> None:
    with connect(library.config.database("main"), "test") as connection:
        assert ownership.read(connection, DOMAIN) is None
        control.install(connection)
        assert ownership.read(connection, DOMAIN) is None
        with pytest.raises(OwnerMissing, match="order"):
            ownership.switch(connection, DOMAIN, 1, 2)


def test_the_first_row_says_old_and_stays(both: Library) -> None:
    assert found(both) == [Ownership(0, 1), Ownership(0, 1)]
    ownership.switch_both(both.config, DOMAIN, 1000, 2, "old")
    with connect(both.config.database("main"), "test") as connection:
        ownership.create(connection, DOMAIN)
    assert found(both) == [Ownership(1000, 2), Ownership(1000, 2)]


def test_a_switch_is_idempotent_and_never_goes_back(both: Library) -> None:
    with connect(both.config.database("main"), "test") as connection:
        assert ownership.switch(connection, DOMAIN, 1000, 5) == Ownership(1000, 5)
        assert ownership.switch(connection, DOMAIN, 1000, 5) == Ownership(1000, 5)
        for below, epoch in ((1000, 4), (0, 5), (2000, 1)):
            with pytest.raises(EpochConflict) as caught:
                ownership.switch(connection, DOMAIN, below, epoch)
            assert "epoch 5" in str(caught.value)
        with pytest.raises(ValueError, match="10000"):
            ownership.switch(connection, DOMAIN, 10_001, 6)
        assert ownership.read(connection, DOMAIN) == Ownership(1000, 5)


def test_killed_between_the_sides_nobody_owns_twice_and_the_same_call_finishes(
    both: Library,
) -> None:
    with connect(both.config.database("main"), "test") as connection:
        ownership.switch(connection, DOMAIN, 5000, 2)
    old, new = found(both)
    assert old is not None
    assert new is not None
    for route in ("anna", "guest-17", "Zoë", "x1", "x2", "x3"):
        # A side writes only what its own database says is its own.
        assert not (old.owner(route) == "old" and new.owner(route) == "new")
    ownership.switch_both(both.config, DOMAIN, 5000, 2, "old")
    assert found(both) == [Ownership(5000, 2)] * 2


def test_reconcile_brings_both_to_the_higher_epoch(both: Library) -> None:
    with connect(both.config.database("branch"), "test") as connection:
        ownership.switch(connection, DOMAIN, 300, 7)
    result = ownership.reconcile(both.config, DOMAIN)
    assert result.ownership == Ownership(300, 7)
    assert result.moved == ("main",)
    assert found(both) == [Ownership(300, 7)] * 2
    assert ownership.reconcile(both.config, DOMAIN).moved == ()


def test_two_who_switch_at_once_leave_one_answer(both: Library) -> None:
    outcomes: list[str] = []

    def switch(below: int) -> None:
        with connect(both.config.database("main"), "test") as connection:
            try:
                ownership.switch(connection, DOMAIN, below, 2)
                outcomes.append(str(below))
            except EpochConflict:
                outcomes.append("refused")

    threads = [threading.Thread(target=switch, args=(below,)) for below in (1000, 2000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes)[-1] == "refused"
    owner = found(both)[0]
    assert owner is not None
    assert [str(owner.new_below)] == [o for o in outcomes if o != "refused"]


def test_the_bucket_decides_the_side() -> None:
    assert ownership.bucket("anna") == 8616
    assert Ownership(8616, 1).owner("anna") == "old"
    assert Ownership(8617, 1).owner("anna") == "new"
    # Raising a threshold never moves anyone back.
    for route in (f"customer {n}" for n in range(300)):
        sides = [Ownership(below, 1).owner(route) for below in range(0, 10_001, 500)]
        assert sides == sorted(sides, reverse=True)


def test_a_step_is_not_starved_by_transactions_that_keep_asking(both: Library) -> None:
    """Share locks of a row let each other pass a waiting exclusive one, for ever."""
    database = both.config.database("main")
    stop, begun = threading.Event(), threading.Barrier(9)

    def ask() -> None:
        with connect(database, "asking") as asking:
            begun.wait(30)
            while not stop.is_set():
                with asking.transaction():
                    asking.execute("SELECT splitctl_sync.owns(%s, 'r', 'old')", (DOMAIN,))
                    asking.execute("SELECT pg_sleep(0.05)")

    askers = [threading.Thread(target=ask) for _ in range(8)]
    for asker in askers:
        asker.start()
    begun.wait(30)
    try:
        with connect(database, "moving") as connection:
            connection.execute("SET statement_timeout = '20s'")
            ownership.switch(connection, DOMAIN, 5000, 2)
    finally:
        stop.set()
        for asker in askers:
            asker.join(30)
    assert found(both)[0] == Ownership(5000, 2)
