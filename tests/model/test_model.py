"""The protocol's promise, in every state that can be reached; and each cure is needed for it.

What the rows of PROTOCOL are about that a model of two keys cannot express is held by tests on real
servers; `ELSEWHERE` names one for each, and they are looked for.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.model.cures import Without
from tests.model.protocol import Protocol
from tests.model.search import Found, search
from tests.model.states import NEW, OLD, Owner, Row, State, Version, at_rest, by_itself, promise
from tests.model.stories import EQUAL, KILLED, LIMITS, LONG_STORIES, NEEDED_IN, STORIES

TESTS = Path(__file__).parents[1]
LAWS = {"L2", "L3", "L4", "L5"}
ROWS = set(range(1, 16))
# Row: the file, and a test in it that holds what the row says.
ELSEWHERE = {
    5: ("verify/test_selftest.py", "test_a_checksum_that_only_adds_up_misses_the_swap"),
    7: (
        "migrator/test_protocol_rows.py",
        "test_7_a_prepared_transaction_is_waited_for_and_then_crosses",
    ),
    12: (
        "migrator/test_sync_lifecycle.py",
        "test_a_prepared_transaction_that_blocks_the_slot_is_named",
    ),
    13: (
        "migrator/test_protocol_rows.py",
        "test_13_several_sessions_mark_their_writes_at_the_same_time",
    ),
    14: ("migrator/test_protocol_rows.py", "test_14_a_truncate_stops_the_stream_and_never_spreads"),
    15: ("services/test_flows.py", "test_a_confirm_on_each_side_at_once_makes_one_order"),
}


def explore(story: State, *without: Without) -> Found[State]:
    return search(story, Protocol(*without).steps, promise, at_rest, by_itself)


def name(cure: Without) -> str:
    return f"{cure.value.split(':')[0]}: {cure.name.lower()}"


@pytest.mark.parametrize("story", STORIES)
def test_nothing_is_lost_and_everything_comes_to_rest(story: str) -> None:
    found = explore(STORIES[story])
    assert found.broken is None, str(found)
    assert found.states > 50


@pytest.mark.parametrize("story", [name for name in STORIES if "without asking" in name])
def test_nothing_is_lost_where_strays_are_carried_on_proof(story: str) -> None:
    found = explore(STORIES[story]._replace(rule="carry"))
    assert found.broken is None, str(found)


@pytest.mark.faults
@pytest.mark.parametrize("story", LONG_STORIES)
def test_in_the_long_stories_too(story: str) -> None:
    found = explore(LONG_STORIES[story])
    assert found.broken is None, str(found)


@pytest.mark.parametrize(
    ("cure", "story"),
    [(cure, story) for cure, stories in NEEDED_IN.items() for story in stories],
    ids=lambda value: name(value) if isinstance(value, Without) else value,
)
def test_without_any_one_of_its_cures_the_promise_is_broken(cure: Without, story: str) -> None:
    """The same story holds with it: see above."""
    found = explore(STORIES[story], cure)
    assert found.broken is not None, f"{story} does not need {cure.name}"


def test_each_cure_is_needed_somewhere() -> None:
    assert set(NEEDED_IN) == set(Without)


def test_every_law_and_row_is_broken_on_purpose_here_or_held_elsewhere() -> None:
    heads = " ".join(cure.value.split(":")[0] for cure in Without)
    assert set(re.findall(r"L\d", heads)) == LAWS
    rows = {int(number) for number in re.findall(r"row (\d+)", heads)}
    assert rows | set(ELSEWHERE) == ROWS
    for file, test in ELSEWHERE.values():
        assert f"def {test}(" in (TESTS / file).read_text(encoding="utf-8"), f"{file}: {test}"


# What nobody can see


def acts(found: Found[State], *wanted: str) -> Sequence[str]:
    """Which of these parts of a label came in the way."""
    return [part for part in wanted if any(part in label for label in found.way)]


def test_what_nobody_can_see_a_delete_that_had_not_crossed_gives_way_to_a_newer_write() -> None:
    """The freshness of a row is told by the row (row 2): where there is none, by nothing."""
    found = explore(LIMITS["a delete that had not crossed"])
    assert found.broken == "acknowledged version 1 is lost", str(found)
    wanted = ("new: delete a", "rollback: a second is over")
    assert acts(found, *wanted) == list(wanted)


# The model's own words


def test_rows_and_owners_of_a_state_at_rest_agree() -> None:
    assert at_rest(EQUAL)
    assert promise(EQUAL) is None
    later = (*EQUAL.versions, Version(0, 0b11, 0))
    apart = EQUAL._replace(rows=(EQUAL.rows[OLD], (Row(1, gone=False),)), versions=later)
    assert promise(apart) == "the sides differ in a"
    assert not at_rest(EQUAL._replace(owner=(Owner(NEW, 2), Owner())))


def test_a_way_is_told_as_a_story() -> None:
    told = str(explore(STORIES[KILLED], Without.VISIBILITY)).splitlines()
    assert told[0].startswith("the sides differ in a")
    assert re.match(r"  1\. a customer asks old to ", told[1])
    assert re.match(r"  2\.   old: ", told[2])
    assert told[-1].startswith("strays: 0")
