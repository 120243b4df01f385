"""Two sides hand out numbers at the same time, and never the same one."""

import contextlib
import threading
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from estate.connections import connect
from migrator import control, sequences
from migrator.sequences import SequenceBusy, SequenceTooFull
from migrator.shares import Share
from migrator.shares import shares as shares_of
from tests.conftest import FreshDatabase
from tests.migrator.library import DOMAIN, OWNER, Library, value


@pytest.fixture
def installed(library: Library) -> Library:
    for name in ("main", "branch"):
        with connect(library.config.database(name), "test") as connection:
            control.install(connection)
    return library


def books(connection: psycopg.Connection[tuple[object, ...]], count: int) -> list[int]:
    query = "INSERT INTO books (title) SELECT 'b' FROM generate_series(1, %s) RETURNING id"
    return [int(str(row[0])) for row in connection.execute(query.encode(), (count,)).fetchall()]


def volumes(connection: psycopg.Connection[tuple[object, ...]], count: int) -> list[int]:
    query = (
        "INSERT INTO volumes (title, added) SELECT 'b', now() FROM generate_series(1, %s)"
        " RETURNING id"
    )
    return [int(str(row[0])) for row in connection.execute(query.encode(), (count,)).fetchall()]


@pytest.mark.every_version
def test_odd_and_even_above_everything_used(installed: Library) -> None:
    before = books(installed.old, 7)
    installed.new.execute("INSERT INTO volumes (id, title, added) VALUES (40, 'x', now())")
    assert {problem.key for problem in sequences.check(installed.config, DOMAIN)} == {
        "old.books.id",
        "new.volumes.id",
        "old.notes.id",
        "new.remarks.id",
    }
    done = sequences.share_out(installed.config, DOMAIN)
    assert len(done.changed) == 4
    assert sequences.check(installed.config, DOMAIN) == []
    old, new = books(installed.old, 20), volumes(installed.new, 20)
    assert all(number % 2 == 1 and number > 40 for number in old)
    assert all(number % 2 == 0 and number > 40 for number in new)
    assert not {*before, 40} & set(old + new)
    again = sequences.share_out(installed.config, DOMAIN)
    assert again.changed == ()
    assert set(again.kept) == set(done.changed)
    assert books(installed.old, 1)[0] == old[-1] + 2


def test_only_columns_that_are_carried_are_shared(installed: Library) -> None:
    sequences.share_out(installed.config, DOMAIN)
    step = value(
        installed.old,
        "SELECT seqincrement FROM pg_sequence WHERE seqrelid = 'shelves_id_seq'::regclass",
    )
    assert step == 1


def test_a_sequence_put_back_by_hand_is_found_and_set_again(installed: Library) -> None:
    sequences.share_out(installed.config, DOMAIN)
    books(installed.old, 3)
    installed.old.execute("ALTER SEQUENCE books_id_seq INCREMENT 1")
    assert [p.key for p in sequences.check(installed.config, DOMAIN)] == ["old.books.id"]
    sequences.share_out(installed.config, DOMAIN)
    assert sequences.check(installed.config, DOMAIN) == []
    old, new = books(installed.old, 5), volumes(installed.new, 5)
    assert not set(old) & set(new)
    # The way back still knows how it counted at first.
    assert value(installed.old, "SELECT max(step) FROM splitctl_sync.sequence_share") == 1


def test_inserts_that_race_never_take_a_number_of_the_other_side(
    installed: Library, fresh_databases: dict[str, FreshDatabase]
) -> None:
    """Sessions with cached numbers too: what they cached is void once it is shared out."""
    installed.old.execute("ALTER SEQUENCE books_id_seq CACHE 20")
    stop = threading.Event()
    taken: list[int] = []
    failures: list[Exception] = []

    def shop() -> None:
        try:
            dsn = fresh_databases["order"].dsn_as(OWNER)
            with psycopg.connect(dsn, autocommit=True) as connection:
                while not stop.is_set():
                    taken.extend(books(connection, 1))
        except Exception as error:  # noqa: BLE001 - the test reports it
            failures.append(error)

    threads = [threading.Thread(target=shop) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        while len(taken) < 50 and not failures:
            pass
        sequences.share_out(installed.config, DOMAIN)
        new = volumes(installed.new, 200)
        mark = len(taken)
        while len(taken) < mark + 100 and not failures:
            pass
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert len(taken) == len(set(taken))
    assert not set(taken) & set(new)
    assert all(number % 2 == 0 for number in new)
    assert all(number % 2 == 1 for number in taken if number > min(new))


def test_an_insert_is_not_made_to_wait_for_long(
    installed: Library,
    fresh_databases: dict[str, FreshDatabase],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A transaction holds the sequence and does not end: we let go again and again, then refuse."""
    monkeypatch.setattr(sequences, "LOCK_TIMEOUT", "100ms")
    monkeypatch.setattr(sequences, "ATTEMPTS", 3)
    monkeypatch.setattr(sequences, "PAUSE_S", 0.05)
    with psycopg.connect(fresh_databases["order"].dsn_as(OWNER)) as busy:
        busy.execute("INSERT INTO books (title) VALUES ('not committed')")
        with pytest.raises(SequenceBusy, match="books_id_seq"):
            sequences.share_out(installed.config, DOMAIN)
        assert books(installed.old, 1)
        busy.commit()
    sequences.share_out(installed.config, DOMAIN)
    assert sequences.check(installed.config, DOMAIN) == []


def test_a_sequence_without_room_is_refused(installed: Library) -> None:
    limit = 2**63 - 1
    installed.old.execute("SELECT setval('books_id_seq', %s)", (limit - 1,))
    with pytest.raises(SequenceTooFull, match="_id_seq"):
        sequences.share_out(installed.config, DOMAIN)
    assert value(
        installed.old,
        "SELECT seqincrement FROM pg_sequence WHERE seqrelid = 'books_id_seq'::regclass",
    ) == (1)


def test_restored_they_count_as_before_behind_every_row(installed: Library) -> None:
    installed.old.execute("ALTER SEQUENCE books_id_seq INCREMENT 5")
    books(installed.old, 3)
    sequences.share_out(installed.config, DOMAIN)
    carried = max(volumes(installed.new, 50))
    # The reverse direction has brought a higher number than this side ever handed out.
    installed.old.execute("INSERT INTO books (id, title) VALUES (%s, 'carried')", (carried,))
    with connect(installed.config.database("main"), "test") as connection:
        restored = sequences.restore(connection, DOMAIN)
        assert len(restored) == 2
        first, second = books(installed.old, 2)
        assert first > carried
        assert second == first + 5
        assert sequences.restore(connection, DOMAIN) == ()


def shares(library: Library) -> dict[str, Share]:
    return {share.column: share for share in shares_of(library.config, DOMAIN)}


def test_each_share_is_told_with_its_step_position_and_what_is_left(installed: Library) -> None:
    installed.new.execute("ALTER TABLE volumes ALTER id SET GENERATED ALWAYS")
    books(installed.old, 7)
    before = shares(installed)["old.books.id"]
    assert (before.step, before.position, before.hands_out) == (1, 8, None)
    assert "goes on at 8 by 1, not with odd numbers by 2" in before.problem
    assert before.fix == "splitctl sync enable lending"
    sequences.share_out(installed.config, DOMAIN)
    found = shares(installed)
    old, new = found["old.books.id"], found["new.volumes.id"]
    assert (old.step, old.position, old.hands_out, old.problem) == (2, 9, "odd", "")
    assert (new.step, new.position, new.hands_out, new.problem) == (2, 10, "even", "")
    assert (old.generated, new.generated) == ("by default", "always")
    assert (old.left, new.left) == (2**62 - 4, 2**62 - 5)
    assert old.used == 0.0


def test_ids_end_with_the_columns_type_not_with_a_longer_sequence(installed: Library) -> None:
    installed.old.execute("ALTER TABLE books ALTER id TYPE integer")
    installed.old.execute("SELECT setval('books_id_seq', 2147483642)")
    sequences.share_out(installed.config, DOMAIN)
    share = shares(installed)["old.books.id"]
    assert (share.position, share.left, share.problem) == (2147483645, 2, "")
    assert share.used > 0.99
    books(installed.old, 2)
    ended = shares(installed)["old.books.id"]
    assert ended.left == 0
    assert "no number left below 2147483647" in ended.problem
    assert [problem.key for problem in sequences.check(installed.config, DOMAIN)] == [
        "old.books.id"
    ]
    assert ended.fix is not None
    installed.old.execute(ended.fix.encode())
    assert shares(installed)["old.books.id"].problem == ""
    books(installed.old, 1)


def test_a_sequence_that_would_begin_anew_is_found_and_its_fix_helps(installed: Library) -> None:
    sequences.share_out(installed.config, DOMAIN)
    installed.new.execute("ALTER SEQUENCE remarks_id_seq CYCLE")
    (problem,) = sequences.check(installed.config, DOMAIN)
    assert problem.key == "new.remarks.id"
    assert "begins anew at its end" in problem.reason
    assert problem.fix is not None
    installed.new.execute(problem.fix.encode())
    assert sequences.check(installed.config, DOMAIN) == []


def test_a_sequence_that_the_column_does_not_own_is_shared_out_too(installed: Library) -> None:
    """DEFAULT nextval('...') of a sequence that somebody made by hand."""
    installed.old.execute(
        f"SET ROLE {OWNER}; CREATE SEQUENCE numbers START 50;"
        " ALTER TABLE books ALTER id SET DEFAULT nextval('numbers');"
        " DROP SEQUENCE books_id_seq; RESET ROLE"
    )
    sequences.share_out(installed.config, DOMAIN)
    assert shares(installed)["old.books.id"].sequence == "public.numbers"
    old, new = books(installed.old, 3), volumes(installed.new, 3)
    assert not set(old) & set(new)
    assert all(number % 2 == 1 for number in old)
    installed.old.execute("INSERT INTO books (id, title) VALUES (900, 'carried')")
    with connect(installed.config.database("main"), "test") as connection:
        assert "public.numbers" in sequences.restore(connection, DOMAIN)
    assert books(installed.old, 2) == [901, 902]


SIDES = st.sampled_from(["old", "new"])
# What both sides may have been through before, and what goes on between and after.
START = st.tuples(st.integers(1, 60), st.sampled_from([1, 2, 3, 10]), st.sampled_from([1, 7]))
ACT = st.one_of(
    st.tuples(st.just("insert"), SIDES, st.integers(1, 9)),
    st.tuples(st.just("carry"), SIDES, st.integers(1, 5)),
    st.tuples(st.just("put back"), SIDES, st.sampled_from([1, 2, 3])),
    st.tuples(st.just("share"), SIDES, st.just(0)),
)


def test_ids_of_both_sides_never_meet(installed: Library) -> None:
    """Whatever was counted before, carried across, or put back by hand and shared out again."""
    tables = {"old": ("books", installed.old, books), "new": ("volumes", installed.new, volumes)}

    def carry(to: str, count: int) -> None:
        """The newest rows of the other side arrive with their ids."""
        name, connection, _ = tables[to]
        source, there, _ = tables["new" if to == "old" else "old"]
        rows = there.execute(f"SELECT id FROM {source} ORDER BY id DESC LIMIT {count}".encode())
        for (number,) in rows.fetchall():
            connection.execute(
                f"INSERT INTO {name} (id, title{', added' if name == 'volumes' else ''})"
                f" OVERRIDING SYSTEM VALUE VALUES ({number}, 'c'"
                f"{', now()' if name == 'volumes' else ''}) ON CONFLICT DO NOTHING".encode()
            )

    @settings(
        max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
    )
    @given(START, START, st.booleans(), st.lists(ACT, max_size=8), st.lists(ACT, max_size=8))
    def property_holds(first: Any, second: Any, always: bool, before: Any, after: Any) -> None:
        kind = "ALWAYS" if always else "BY DEFAULT"
        installed.new.execute(f"ALTER TABLE volumes ALTER id SET GENERATED {kind}".encode())
        for (name, connection, _), (start, step, cache) in zip(
            tables.values(), (first, second), strict=True
        ):
            connection.execute(f"TRUNCATE {name} CASCADE".encode())
            connection.execute(
                f"ALTER SEQUENCE {name}_id_seq START {start} INCREMENT {step} CACHE {cache}"
                " RESTART".encode()
            )
        given_out: dict[str, set[int]] = {"old": set(), "new": set()}
        apart = False
        for kind_, side, number in [*before, ("share", "old", 0), *after]:
            _, connection, insert = tables[side]
            if kind_ == "insert":
                if apart:
                    fresh = set(insert(connection, number))
                    assert not fresh & (given_out["old"] | given_out["new"])
                    given_out[side] |= fresh
                else:
                    with contextlib.suppress(psycopg.errors.UniqueViolation):
                        given_out[side] |= set(insert(connection, number))
            elif kind_ == "carry":
                carry(side, number)
            elif kind_ == "put back":
                name = tables[side][0]
                connection.execute(f"ALTER SEQUENCE {name}_id_seq INCREMENT {number}".encode())
                apart = False
            else:
                sequences.share_out(installed.config, DOMAIN)
                assert sequences.check(installed.config, DOMAIN) == []
                apart = True

    property_holds()
