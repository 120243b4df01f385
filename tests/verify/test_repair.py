"""Repair: a plan with the owner's truth, carried by sync itself, refused for what has changed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from estate.errors import ExitCode
from estate.ledger import open_ledger
from migrator import ownership
from rollout import repairing
from tests.conftest import ConfigWriter, FreshDatabase
from tests.migrator.library import DOMAIN, Library
from tests.verify import lent
from tests.verify.test_with_sync import damage
from verify import diff, mending, repair
from verify.mending import Mended
from verify.passes import Limits
from verify.repair import Plan

LIMITS = Limits(patience_s=20, barrier_s=20)
FORWARD, REVERSE = "lending.forward", "lending.reverse"


@pytest.fixture
def library(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> Iterator[Library]:
    """The lending domain, carried; half of its readers belong to the new side."""
    with lent.enabled(fresh_databases, write_config) as built, lent.carried(built):
        ownership.switch_both(built.config, DOMAIN, 5000, 2, "old")
        yield built


def ids(library: Library, side: str, count: int) -> list[int]:
    """Books with tags and notes whose readers belong to this side."""
    rows = library.old.execute(
        "SELECT id FROM books WHERE splitctl_sync.owns(%s, coalesce(reader, id::text), %s)"
        " ORDER BY id LIMIT %s",
        (DOMAIN, side, count),
    ).fetchall()
    return [row[0] for row in rows]


def plan_of(library: Library, mappings: list[str] | None = None) -> Plan:
    return repair.plan(library.config, DOMAIN, mappings, limits=LIMITS)


def mend(library: Library, plan: Plan, folder: Path) -> Mended:
    return mending.mend(library.config, plan, folder, limits=LIMITS)


def damaged(library: Library) -> tuple[list[int], list[int]]:
    """Rows changed, missing and extra on both sides, of readers of both; the books they are of."""
    old, new = ids(library, "old", 4), ids(library, "new", 4)
    for n in (old[0], new[0]):
        damage(library.new, FORWARD, f"UPDATE volumes SET title = 'wrong' WHERE id = {n}")
    for n in (old[1], new[1]):
        damage(library.old, REVERSE, f"DELETE FROM notes WHERE book_id = {n}")
    for n in (old[2], new[2]):
        damage(library.new, FORWARD, f"DELETE FROM volume_tags WHERE volume_id = {n}")
    for n in (old[3], new[3]):
        damage(library.new, FORWARD, f"INSERT INTO remarks (volume_id, body) VALUES ({n}, 'extra')")
    return old, new


def whole(library: Library) -> list[Any]:
    """All that both sides hold."""
    tables = (
        (library.old, ("books", "notes")),
        (library.new, ("volumes", "volume_tags", "remarks")),
    )
    return [
        connection.execute(
            f"SELECT to_jsonb(t)::text FROM {table} t ORDER BY 1".encode()
        ).fetchall()
        for connection, names in tables
        for table in names
    ]


def test_the_side_that_owns_the_customer_says_what_is_right(
    library: Library, tmp_path: Path
) -> None:
    old, new = damaged(library)
    before = whole(library)
    plan = plan_of(library)
    assert whole(library) == before, "planning changes nothing"
    wanted = {
        (item.truth, item.database, change.act, item.table)
        for item in plan.repairs
        for change in item.changes
    }
    assert wanted == {
        ("old", "branch", "update", "volumes"),
        ("new", "main", "update", "books"),
        ("old", "branch", "delete", "remarks"),
        ("new", "main", "insert", "notes"),
        ("old", "branch", "insert", "volume_tags"),
    }
    assert not plan.beyond, plan.beyond
    done = mend(library, plan, tmp_path)
    assert done.exit_code == ExitCode.DONE, done.to_text()
    assert done.asked == done.mended == len(plan.repairs)
    verdict = diff.run(library.config, DOMAIN, limits=LIMITS)
    assert verdict.verdict == "equal", verdict.to_text()
    titles = library.new.execute(
        "SELECT id, title FROM volumes WHERE id = ANY(%s)", ([old[0], new[0]],)
    ).fetchall()
    assert dict(titles) == {old[0]: f"Book {old[0]}", new[0]: "wrong"}
    assert library.old.execute("SELECT title FROM books WHERE id = %s", (new[0],)).fetchone() == (
        "wrong",
    ), "the new side owns this reader, so its version stands"


def test_the_undo_gives_back_just_what_was_there(library: Library, tmp_path: Path) -> None:
    damaged(library)
    before = whole(library)
    plan = plan_of(library)
    done = mend(library, plan, tmp_path)
    assert done.exit_code == ExitCode.DONE, done.to_text()
    assert whole(library) != before
    assert sorted(path.name.split("-")[1] for path in done.undo) == ["branch", "main"]
    for path in done.undo:
        assert path.stat().st_mode & 0o777 == 0o600
        run(library, path)
    assert whole(library) == before
    # It is no change of anybody: the other direction leaves it alone, and it can be repaired again.
    again = plan_of(library)
    assert [(item.mapping, item.key) for item in again.repairs] == [
        (item.mapping, item.key) for item in plan.repairs
    ]


def run(library: Library, script: Path) -> None:
    """As psql does it: all statements in one session."""
    dsn = (library.new if "-branch-" in script.name else library.old).info.dsn
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(script.read_bytes())


def test_what_was_changed_since_is_refused_by_the_repair_and_by_its_undo(
    library: Library, tmp_path: Path
) -> None:
    first, second, third = ids(library, "old", 3)
    for n in (first, second, third):
        damage(library.new, FORWARD, f"UPDATE volumes SET title = 'wrong' WHERE id = {n}")
    plan = plan_of(library, ["forward.volumes"])
    library.old.execute("UPDATE books SET title = 'meanwhile' WHERE id = %s", (first,))
    with waiting(library):
        done = mend(library, plan, tmp_path)
    assert (done.asked, done.mended, done.already, done.exit_code) == (2, 2, 1, ExitCode.DONE)
    library.old.execute("UPDATE books SET title = 'later' WHERE id = %s", (second,))
    with waiting(library):
        run(library, done.undo[0])
    titles = library.new.execute(
        "SELECT title FROM volumes WHERE id = ANY(%s) ORDER BY id", ([first, second, third],)
    ).fetchall()
    assert titles == [("meanwhile",), ("later",), ("wrong",)]


@contextmanager
def waiting(library: Library) -> Iterator[None]:
    """Everything written before has crossed."""
    from migrator import barrier

    for stream in (library.forward, library.reverse):
        assert barrier.wait(stream, 20).passed
    yield


def test_rows_of_the_plan_that_differ_otherwise_now_are_refused(
    library: Library, tmp_path: Path
) -> None:
    (n,) = ids(library, "old", 1)
    damage(library.new, FORWARD, f"UPDATE volumes SET title = 'wrong' WHERE id = {n}")
    plan = plan_of(library, ["forward.volumes"])
    damage(library.new, FORWARD, f"UPDATE volumes SET title = 'worse' WHERE id = {n}")
    done = mend(library, plan, tmp_path)
    assert [item.why for item in done.refused] == ["its rows were changed since the plan was made"]
    assert (done.asked, done.undo) == (0, [])


def test_an_owner_that_has_moved_since_has_another_truth(library: Library, tmp_path: Path) -> None:
    (n,) = ids(library, "old", 1)
    damage(library.new, FORWARD, f"UPDATE volumes SET title = 'wrong' WHERE id = {n}")
    plan = plan_of(library, ["forward.volumes"])
    ownership.switch_both(library.config, DOMAIN, 10_000, 3, "old")
    done = mend(library, plan, tmp_path)
    assert [item.why for item in done.refused] == [
        "the old side does not own its customer any more"
    ]


def test_what_only_the_way_back_sees_is_repaired_too(library: Library, tmp_path: Path) -> None:
    (n,) = ids(library, "new", 1)
    damage(library.old, REVERSE, f"""UPDATE books SET tags = '["a", "a", "b{n}"]' WHERE id = {n}""")
    plan = plan_of(library)
    assert [(item.mapping, item.key) for item in plan.repairs] == [
        ("lending.reverse.books", (str(n),))
    ]
    assert mend(library, plan, tmp_path).exit_code == ExitCode.DONE


def test_rows_of_two_owners_are_left_to_a_person(library: Library) -> None:
    (n,) = ids(library, "old", 1)
    (other,) = library.old.execute(
        "SELECT reader FROM books WHERE splitctl_sync.owns(%s, reader, 'new') LIMIT 1", (DOMAIN,)
    ).fetchone() or (None,)
    damage(library.new, FORWARD, f"UPDATE volumes SET reader = '{other}' WHERE id = {n}")
    plan = plan_of(library, ["forward.volumes"])
    assert not plan.repairs
    assert [(item.key, item.why) for item in plan.beyond] == [
        ((str(n),), "its rows belong to customers of both sides")
    ]


def test_a_row_under_another_key_is_brought_home_and_its_undo_too(
    library: Library, tmp_path: Path
) -> None:
    one, other = ids(library, "old", 2)
    (note,) = only(library.new, f"SELECT min(id) FROM remarks WHERE volume_id = {one}")
    damage(library.new, FORWARD, f"UPDATE remarks SET volume_id = {other} WHERE id = {note}")
    before = whole(library)
    plan = plan_of(library, ["forward.remarks"])
    done = mend(library, plan, tmp_path)
    assert done.exit_code == ExitCode.DONE, done.to_text()
    assert only(library.new, f"SELECT volume_id FROM remarks WHERE id = {note}") == (one,)
    run(library, done.undo[0])
    assert whole(library) == before


def test_a_row_under_the_key_of_a_customer_of_the_other_side_is_left_alone(
    library: Library,
) -> None:
    (one,), (other,) = ids(library, "old", 1), ids(library, "new", 1)
    (note,) = only(library.new, f"SELECT min(id) FROM remarks WHERE volume_id = {one}")
    damage(library.new, FORWARD, f"UPDATE remarks SET volume_id = {other} WHERE id = {note}")
    plan = plan_of(library, ["forward.remarks"])
    assert not plan.repairs
    assert {(item.key, item.why) for item in plan.beyond} == {
        ((str(one),), "its rows belong to customers of both sides"),
        ((str(other),), "no mapping carries what differs back from its owner's side"),
    }


def only(connection: psycopg.Connection[Any], query: str) -> tuple[Any, ...]:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return tuple(row)


def test_nothing_is_asked_for_without_its_parent(library: Library, tmp_path: Path) -> None:
    (n,) = ids(library, "old", 1)
    damage(library.new, FORWARD, f"DELETE FROM volumes WHERE id = {n}")
    alone = plan_of(library, ["forward.remarks"])
    assert not alone.repairs
    assert [item.why for item in alone.beyond] == ["its row of 'volumes' is not there"]
    together = plan_of(library)
    done = mend(library, together, tmp_path)
    assert done.exit_code == ExitCode.DONE, done.to_text()


def test_what_hangs_on_a_row_too_many_is_in_the_plan_or_the_row_stays(
    library: Library, tmp_path: Path
) -> None:
    damage(
        library.new,
        FORWARD,
        "INSERT INTO volumes (id, reader, title, added, seen)"
        " VALUES (90001, 'reader-1', 'x', now(), 7);"
        "INSERT INTO remarks (id, volume_id, body) VALUES (90001, 90001, 'y')",
    )
    ownership.switch_both(library.config, DOMAIN, 0, 3, "new")
    alone = plan_of(library, ["forward.volumes"])
    assert [item.why for item in alone.beyond] == [
        "rows of 'remarks' hang on it that are not in the plan"
    ]
    before = whole(library)
    done = mend(library, plan_of(library), tmp_path)
    assert done.exit_code == ExitCode.DONE, done.to_text()
    assert only(library.new, "SELECT count(*) FROM volumes WHERE id = 90001") == (0,)
    run(library, done.undo[0])
    assert whole(library) == before, "also the columns that no mapping gives"


def test_the_undo_takes_nothing_along_and_not_from_a_new_owner(
    library: Library, tmp_path: Path
) -> None:
    (n,) = ids(library, "old", 1)
    damage(library.new, FORWARD, f"DELETE FROM volumes WHERE id = {n}")
    done = mend(library, plan_of(library), tmp_path)
    assert done.exit_code == ExitCode.DONE, done.to_text()
    library.new.execute(f"INSERT INTO remarks (volume_id, body) VALUES ({n}, 'of today')".encode())
    script = done.undo[0].read_bytes()
    library.new.execute(script)
    assert only(library.new, f"SELECT count(*) FROM volumes WHERE id = {n}") == (1,)
    remarks = f"SELECT string_agg(body, ',') FROM remarks WHERE volume_id = {n}"
    assert only(library.new, remarks) == ("of today",)
    ownership.switch_both(library.config, DOMAIN, 10_000, 3, "old")
    with pytest.raises(psycopg.errors.RaiseException, match="customers have moved"):
        library.new.execute(script)
    library.new.execute("ROLLBACK")


def test_values_of_every_kind_come_back(library: Library, tmp_path: Path) -> None:
    (n,) = ids(library, "old", 1)
    text = "it's \\ 100% \u00e9 \n$splitctl$ -- "
    with library.new.transaction():
        library.new.execute(
            "SELECT pg_logical_emit_message(true, 'splitctl.applied', %s)", (FORWARD,)
        )
        library.new.execute("UPDATE volumes SET title = %s WHERE id = %s", (text, n))
        library.new.execute("UPDATE volumes SET added = 'infinity' WHERE id = %s", (n,))
    before = whole(library)
    done = mend(library, plan_of(library, ["forward.volumes"]), tmp_path)
    assert done.exit_code == ExitCode.DONE, done.to_text()
    run(library, done.undo[0])
    assert whole(library) == before


def test_a_repair_is_repeated_without_harm(library: Library, tmp_path: Path) -> None:
    damaged(library)
    plan = plan_of(library)
    assert mend(library, plan, tmp_path).exit_code == ExitCode.DONE
    after = whole(library)
    again = mend(library, plan, tmp_path)
    assert (again.exit_code, again.asked, again.already) == (ExitCode.DONE, 0, len(plan.repairs))
    assert whole(library) == after


def test_without_a_worker_nothing_is_asked_and_nothing_is_written(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter, tmp_path: Path
) -> None:
    with lent.enabled(fresh_databases, write_config) as built:
        with lent.carried(built):
            damage(built.new, FORWARD, "UPDATE volumes SET title = 'wrong' WHERE id = 11")
            plan = plan_of(built)
        with pytest.raises(mending.SyncAway):
            mending.mend(built.config, plan, tmp_path / "undo", limits=Limits(barrier_s=0.3))
        assert not (tmp_path / "undo").exists()


def test_where_a_mapping_is_not_live_nothing_is_asked(library: Library, tmp_path: Path) -> None:
    (n,) = ids(library, "old", 1)
    damage(library.new, FORWARD, f"UPDATE volumes SET title = 'wrong' WHERE id = {n}")
    plan = plan_of(library, ["forward.volumes"])
    library.new.execute("UPDATE splitctl_sync.mapping_state SET state = 'spool'")
    with pytest.raises(mending.SyncAway, match=r"lending\.forward\.volumes: not live"):
        mend(library, plan, tmp_path / "undo")
    assert not (tmp_path / "undo").exists()


def test_a_plan_is_a_file_from_which_entries_may_be_taken(library: Library, tmp_path: Path) -> None:
    one, other = ids(library, "old", 2)
    for n in (one, other):
        damage(library.new, FORWARD, f"UPDATE volumes SET title = 'wrong' WHERE id = {n}")
    path = tmp_path / "plans" / "plan.json"
    planned = repairing.plan(
        library.config, DOMAIN, ["forward.volumes"], path, limits=LIMITS, on_progress=lambda _: None
    )
    assert planned.path == path
    assert path.stat().st_mode & 0o777 == 0o600
    text = json.loads(path.read_text())
    text["repairs"] = [item for item in text["repairs"] if item["key"] == [str(one)]]
    path.write_text(json.dumps(text))
    done = repairing.apply(library.config, DOMAIN, path, tmp_path / "undo", LIMITS, lambda _: None)
    assert (done.mended, done.exit_code) == (1, ExitCode.DONE), done.to_text()
    with open_ledger(library.config) as ledger:
        (act,) = ledger.history(DOMAIN)
    assert (act.kind, act.state, act.intent["keys"]) == ("repair", "done", 1)
    assert act.outcome is not None
    assert act.outcome["mended"] == 1
    left = plan_of(library)
    assert [item.key for item in left.repairs] == [(str(other),)]


def test_a_file_that_is_no_plan_of_this_domain(library: Library, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(repair.PlanUnreadable, match="No such file"):
        repair.load(path, "test", DOMAIN)
    path.write_text("{}")
    with pytest.raises(repair.PlanUnreadable, match="environment"):
        repair.load(path, "test", DOMAIN)
    plan = plan_of(library)
    replace(plan, domain="another").save(path)
    with pytest.raises(repair.PlanOfAnother, match="another"):
        repair.load(path, plan.environment, DOMAIN)


def test_a_sensitive_value_is_in_no_plan(library: Library, tmp_path: Path) -> None:
    (n,) = ids(library, "old", 1)
    damage(library.new, FORWARD, f"UPDATE volumes SET title = 'very secret' WHERE id = {n}")
    mapping = next(
        item for item in library.config.domain(DOMAIN).forward if item.target == "volumes"
    )
    object.__setattr__(mapping, "sensitive", ("title",))
    plan = plan_of(library, ["forward.volumes"])
    path = tmp_path / "plan.json"
    path.touch(mode=0o644)
    plan.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert plan.repairs
    assert "secret" not in path.read_text() + repair.in_words(plan)
    assert mend(library, plan, tmp_path).exit_code == ExitCode.DONE
