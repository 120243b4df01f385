"""The local journal: whole lines, also after a kill, and nothing lost while it is put away."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from estate import journal
from estate.journal import Entry, Journal


def entry(n: int) -> Entry:
    return Entry(kind="rollback", domain="d", intent={"n": n}, outcome=None, operator="ann")


@pytest.fixture
def kept(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "state" / "journal.jsonl")


def test_an_entry_comes_back_as_it_was(kept: Journal) -> None:
    one = entry(1)
    kept.append(one)
    assert kept.pending() == [one]
    assert one.at.tzinfo is UTC


def test_nothing_written_is_nothing_pending(kept: Journal) -> None:
    assert kept.pending() == []
    kept.merged([])
    assert not kept.path.exists()


def test_a_line_that_a_kill_cut_short_spoils_no_other(kept: Journal) -> None:
    kept.append(entry(1))
    with kept.path.open("a") as file:
        file.write(entry(2).line()[:25])
    kept.append(entry(3))
    assert [e.intent["n"] for e in kept.pending()] == [1, 3]


def test_a_line_of_another_shape_is_passed_over(kept: Journal) -> None:
    kept.append(entry(1))
    with kept.path.open("a") as file:
        file.write('{"kind": "rollback"}\n[]\n\n')
    assert len(kept.pending()) == 1


def test_what_is_merged_is_put_away_and_the_rest_stays(kept: Journal) -> None:
    first, second = entry(1), entry(2)
    kept.append(first)
    kept.append(second)
    kept.merged([first])
    assert kept.pending() == [second]
    assert first.id in kept.path.with_suffix(".merged.jsonl").read_text()


def test_several_commands_may_write_at_once(kept: Journal) -> None:
    threads = [threading.Thread(target=kept.append, args=(entry(n),)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(e.intent["n"] for e in kept.pending()) == list(range(12))


def test_its_place_is_the_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITCTL_STATE_DIR", str(tmp_path))
    assert journal.directory() == tmp_path
    monkeypatch.delenv("SPLITCTL_STATE_DIR")
    assert journal.directory().name == "splitctl"


def test_a_finished_time_survives() -> None:
    moment = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    one = Entry("rollback", "d", {}, {}, finished_at=moment)
    assert Entry.parse(one.line()) == one
