"""What happened, in order: readable by whoever takes over, and as data."""

from datetime import UTC, datetime, timedelta

import pytest

from estate.config import Config, UnknownName
from estate.ledger import open_ledger
from rollout import controller, pausing
from rollout.board import gather
from rollout.history import history
from rollout.looks import Progress
from rollout.rollback import rollback
from rollout.tools import Tools
from tests.rollout.rig import DOMAIN, Rig
from tests.rollout.way import advanced, soaked, started, verified


@pytest.fixture
def lived(config: Config, tools: Tools, rig: Rig) -> Config:
    """A domain that went up, was paused, and came back."""
    started(config, tools)
    advanced(config, tools, rig, 10)
    pausing.pause(config, DOMAIN, reason="sale", tools=tools)
    pausing.resume(config, DOMAIN, tools=tools)
    soaked(config, rig, errors=100)
    controller.watch(config, [DOMAIN], tools=tools)
    return config


def test_it_tells_acts_and_turns_in_order(lived: Config, tools: Tools) -> None:
    events = history(lived, DOMAIN, tools=tools).events
    assert [event.at for event in events] == sorted(event.at for event in events)
    kinds = [(event.kind, event.outcome) for event in events]
    order = [kinds.index(item) for item in [
        ("start", "done"), ("step", "done"), ("proven", "done"), ("pause", "done"),
        ("resume", "done"), ("gate errors", "fail"), ("rollback", "done"),
    ]]  # fmt: skip
    assert order == sorted(order)
    text = history(lived, DOMAIN, tools=tools).to_text()
    wanted = ("0 % -> 10 %", "reason sale", "paused for 0 s", "10 % -> 0 %", "ann on")
    for told in (*wanted, "how measured 10.0 % (", "1,000 customers), 10 % asked"):
        assert told in text


def test_of_a_gates_answers_only_the_turns_are_told(lived: Config, tools: Tools) -> None:
    with open_ledger(lived) as ledger:
        for verdict in ("pass", "pass", "fail", "fail", "pass"):
            ledger.add_verdict(DOMAIN, "gate", "lag", verdict, {})
    turns = [e.outcome for e in history(lived, tools=tools).events if e.kind == "gate lag"]
    assert turns == ["pass", "fail", "pass"]


def test_limit_and_since_give_the_newest(lived: Config, tools: Tools) -> None:
    everything = history(lived, tools=tools, limit=1000).events
    assert history(lived, tools=tools, limit=2).events == everything[-2:]
    half = everything[len(everything) // 2].at
    later = history(lived, tools=tools, since=half, limit=1000).events
    assert later == [event for event in everything if event.at >= half]
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    empty = history(lived, tools=tools, since=tomorrow)
    assert empty.to_text() == "(nothing happened yet)"


def test_a_name_that_nobody_knows_is_a_mistake(lived: Config, tools: Tools) -> None:
    with pytest.raises(UnknownName):
        history(lived, "nothing", tools=tools)


def test_what_was_kept_in_a_journal_stands_in_its_place(
    config: Config, tools: Tools, rig: Rig
) -> None:
    """A rollback without a ledger is merged later, and decides what is true now."""
    started(config, tools)
    advanced(config, tools, rig, 10)
    working = tools.ledger

    def away() -> None:
        raise OSError("no route")

    tools.ledger = away  # type: ignore[assignment]
    rollback(config, tools=tools)
    tools.ledger = working
    verified(config)
    controller.start(config, DOMAIN, tools=tools)
    acts = [event.kind for event in history(config, tools=tools).events if event.operator]
    assert acts == ["start", "step", "proven", "rollback", "start"]


def test_a_board_is_gathered_with_the_values_of_each_gate(lived: Config, tools: Tools) -> None:
    watched = Progress((), ())
    found = gather(lived, watched, tools)
    assert found.domains[0].status.domain == DOMAIN
    assert found.events[-1].kind in ("rollback", "gate errors", "verify")
    with open_ledger(lived) as ledger:
        (*_, sample) = ledger.samples(DOMAIN)
    assert sample.data["gates"]["errors"] is not None
