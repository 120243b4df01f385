"""The protocol's promise, in every state that can be reached; and each cure is needed for it."""

import pytest

from tests.model.protocol import Protocol, Without
from tests.model.search import Found, search
from tests.model.states import NEW, OLD, Row, State, Stream, at_rest, by_itself, promise

THERE = Row(1, gone=False)
EQUAL = State(rows=(THERE, THERE), streams=(Stream(), Stream()), history=(0, 0b11))
MOVED = EQUAL._replace(flag=NEW, owner=(NEW, NEW), moves="r", customers=2)
FILLING = State(
    rows=(THERE, Row()),
    streams=(Stream(mapping="spool"), Stream()),
    history=(0, 0b11),
    copy="slot",
    customers=2,
    deletes=1,
    crashes=1,
)

STORIES = {
    "a backfill under writes, with a kill": FILLING,
    "a commit older than the slot is not visible yet when the copy begins": FILLING._replace(
        rows=(Row(1, gone=False, hidden=(2, False)), Row()), history=(0, 0b11, 0b111), writes=(1, 0)
    ),
    "a step with customers, with a kill": EQUAL._replace(
        customers=2, deletes=1, crashes=1, moves="f"
    ),
    "a step beside a job that asks for the owner": EQUAL._replace(
        customers=1, jobs=1, crashes=1, moves="f"
    ),
    "a step while the target refuses a row": EQUAL._replace(
        customers=2, crashes=1, refusals=1, moves="f"
    ),
    "a step, and somebody writes without asking": EQUAL._replace(
        customers=1, others=1, crashes=1, moves="f"
    ),
    "a step, and both sides are written without asking": EQUAL._replace(
        others=2, crashes=1, moves="f"
    ),
    "a rollback, with a kill": MOVED._replace(crashes=1),
    "a rollback while the way back stands still": MOVED._replace(stops=1),
    "a rollback while the old side refuses a row": MOVED._replace(refusals=1),
    "a rollback while the way back is in the spool": MOVED._replace(
        streams=(Stream(), Stream(mapping="drain"))
    ),
    "a rollback while the new database is away, which then comes back": MOVED._replace(deaths=1),
    "a rollback, and somebody writes without asking": MOVED._replace(customers=1, others=1),
}
LONG_STORIES = {
    "there and back, and somebody writes without asking": EQUAL._replace(
        customers=2, others=1, crashes=1, moves="fr"
    ),
    "everything at once": EQUAL._replace(
        customers=1, others=1, crashes=1, refusals=1, stops=1, moves="f"
    ),
}


def explore(story: State, *without: Without, rule: str = "owner") -> Found[State]:
    return search(story, Protocol(*without, rule=rule).steps, promise, at_rest, by_itself)


@pytest.mark.parametrize("story", STORIES)
def test_nothing_is_lost_and_everything_comes_to_rest(story: str) -> None:
    found = explore(STORIES[story])
    assert found.broken is None, str(found)
    assert found.states > 100


@pytest.mark.parametrize("story", [name for name in STORIES if "without asking" in name])
def test_nothing_is_lost_where_strays_are_carried_on_proof(story: str) -> None:
    found = explore(STORIES[story], rule="carry")
    assert found.broken is None, str(found)


@pytest.mark.faults
@pytest.mark.parametrize("story", LONG_STORIES)
def test_in_the_long_stories_too(story: str) -> None:
    found = explore(LONG_STORIES[story])
    assert found.broken is None, str(found)


@pytest.mark.parametrize("cure", Without)
def test_without_any_one_of_its_cures_the_promise_is_broken(cure: Without) -> None:
    told = {Without.ASKED_IS_NO_CHANGE: "carry"}.get(cure, "owner")
    broken = (
        found for story in STORIES.values() if (found := explore(story, cure, rule=told)).broken
    )
    assert next(broken, None) is not None, f"no story needs {cure.name}"


def test_what_nobody_can_see_a_delete_that_had_not_crossed_gives_way_to_a_newer_write() -> None:
    """The freshness of a row is told by the row (row 2): where there is none, by nothing."""
    found = explore(MOVED._replace(deletes=1))
    assert found.broken == "acknowledged version 2 is lost"
    assert "new: commit a delete" in found.way
    assert "rollback: a second is over" in found.way


def test_rows_and_owners_of_a_state_at_rest_agree() -> None:
    assert at_rest(EQUAL)
    assert promise(EQUAL) is None
    apart = EQUAL._replace(rows=(THERE, Row(2, gone=False)), history=(0, 0b11, 0b111))
    assert promise(apart) == "the sides differ"
    assert not at_rest(EQUAL._replace(owner=(NEW, OLD)))
