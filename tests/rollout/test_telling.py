"""Every change of state is told once, whoever types the command; it stands in nobody's way."""

import itertools
import signal
from datetime import timedelta

import pytest

from estate import journal
from estate.config import Config
from estate.config.gates import GateConfig
from estate.errors import ExitCode
from estate.ledger import Ledger, LedgerUnreachable
from rehearsal.children import wait_until
from rollout import controller, pausing
from rollout.board import gather
from rollout.history import Event, history
from rollout.looks import Progress
from rollout.notices import InMemoryNotifier, Notices, Receiver
from rollout.rollback import rollback
from rollout.run import run
from rollout.tools import Tools
from tests.rollout.rig import DOMAIN, Rig
from tests.rollout.way import advanced, busy, started, verified


@pytest.fixture
def told(tools: Tools) -> InMemoryNotifier:
    notifier = InMemoryNotifier()
    tools.notices = Notices([Receiver("team", notifier)], sleep=lambda _: None)
    return notifier


def events(told: InMemoryNotifier) -> list[str]:
    return [notice.event for notice in told.notices]


def test_a_way_up_and_back_is_told_act_by_act(
    config: Config, tools: Tools, rig: Rig, told: InMemoryNotifier
) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    pausing.pause(config, DOMAIN, reason="lunch", tools=tools)
    pausing.pause(config, DOMAIN, tools=tools)
    pausing.resume(config, DOMAIN, tools=tools)
    rollback(config, tools=tools)
    rollback(config, tools=tools)
    assert events(told) == ["started", "stepped", "paused", "resumed", "rolled_back"]
    stepped, paused = told.notices[1], told.notices[2]
    assert (stepped.before, stepped.after) == ("0 %", "10 %")
    assert stepped.environment == config.environment
    assert "lunch" in (paused.reason or "")


def test_a_gate_that_fails_and_what_comes_of_it_are_told(
    config: Config, tools: Tools, rig: Rig, told: InMemoryNotifier
) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    verified(config)
    tools.sleep = busy(rig, new=60, errors=3)
    watched = controller.watch(config, [DOMAIN], timeout=timedelta(hours=1), tools=tools)
    assert watched.exit_code is ExitCode.ROLLED_BACK
    assert {"failed", "rolled_back"} <= set(events(told))
    failed = next(notice for notice in told.notices if notice.event == "failed")
    assert failed.verdicts[0].verdict == "fail"


def test_a_step_that_customers_contradict_is_told_once(
    config: Config, tools: Tools, rig: Rig, told: InMemoryNotifier
) -> None:
    """Whoever looks, and however often; and of the next step anew."""
    started(config, tools)
    rig.astray = 30
    verified(config)
    controller.advance(config, DOMAIN, proof=timedelta(seconds=2), tools=tools)
    controller.watch(config, [DOMAIN], timeout=timedelta(seconds=2), tools=tools)
    assert wait_until(lambda: events(told) == ["started", "stepped", "failed"], 10), events(told)
    notice = told.notices[-1]
    assert "the step is contradicted: measured 30.0 % (" in (notice.reason or "")
    assert notice.next_command.endswith("splitctl rollback d")
    rollback(config, tools=tools)
    verified(config)
    controller.start(config, DOMAIN, tools=tools)
    controller.advance(config, DOMAIN, proof=timedelta(seconds=1), tools=tools)
    assert wait_until(lambda: events(told).count("failed") == 2, 10), events(told)
    acts = [event.kind for event in history(config, tools=tools).events]
    assert acts.count("contradicted") == 2


def test_an_unattended_rollout_asks_each_question_once(
    config: Config, tools: Tools, rig: Rig, told: InMemoryNotifier
) -> None:
    question = GateConfig(
        name="calls", kind="question", question="More?", good="no", asked_of="ann"
    )
    config = config.model_copy(update={"gates": [*config.gates, question]})
    started(config, tools)
    rig.traffic(old=100, new=0)
    looks = itertools.count()

    def sleep(seconds: float) -> None:
        busy(rig)(seconds)
        if next(looks) == 4:
            signal.raise_signal(signal.SIGTERM)

    tools.sleep = sleep
    assert run(config, tools=tools).exit_code is ExitCode.IN_PROGRESS
    assert rig.is_at(10)
    assert wait_until(lambda: "asked" in events(told), 10)
    assert events(told).count("asked") == 1
    turns = [event.kind for event in history(config, tools=tools).events]
    assert turns.count("gate calls") == 1


def test_nobody_who_cannot_be_reached_stands_in_the_way(
    config: Config, tools: Tools, rig: Rig, told: InMemoryNotifier
) -> None:
    told.failures, told.final = 100, True
    started(config, tools)
    result = advanced(config, tools, rig, 10)
    assert rig.is_at(10)
    del result
    back = rollback(config, tools=tools)
    assert rig.is_at(0)
    assert any("was not told" in note for note in back.notes)


def notices(config: Config, tools: Tools) -> list[Event]:
    return [event for event in history(config, tools=tools).events if event.kind == "notice"]


def test_what_was_told_to_whom_stands_in_the_history(
    config: Config, tools: Tools, rig: Rig, told: InMemoryNotifier
) -> None:
    tools.notices = Notices([Receiver("team", told), Receiver("pager", told)], lambda _: None)
    started(config, tools)
    advanced(config, tools, rig, 10)
    first, second = notices(config, tools)
    assert (first.outcome, first.told) == (
        "told",
        "'was started': 'team' was told; 'pager' was told",
    )
    assert second.data["event"] == "stepped"
    assert second.data["notice"] == told.notices[-1].id, "as the receiver knows it"
    assert (second.operator, second.domain) == ("ann", DOMAIN)


def test_a_receiver_that_was_never_reached_is_told_with_how_often_it_was_tried(
    config: Config, tools: Tools, told: InMemoryNotifier
) -> None:
    away, slow = InMemoryNotifier(failures=1000), InMemoryNotifier(failures=1)
    receivers = [Receiver("team", told), Receiver("slow", slow), Receiver("pager", away)]
    tools.notices = Notices(receivers, sleep=lambda _: None)
    started(config, tools)
    (event,) = notices(config, tools)
    assert event.outcome == "not delivered"
    assert event.told == (
        "'was started': 'pager' was not told after 4 tries: it was told to fail; "
        "'team' was told; 'slow' was told after 2 tries"
    )
    shown = gather(config, Progress((), ()), tools).events
    assert "not delivered" in [item.outcome for item in shown]


def test_what_a_newer_tool_told_can_be_read(
    config: Config, tools: Tools, told: InMemoryNotifier
) -> None:
    receivers = [{"receiver": "team", "tries": 1, "problem": None, "colour": "red"}]
    with tools.ledger() as ledger:
        act = ledger.begin(DOMAIN, "notice", {"event": "danced"})
        ledger.finish(act, {"receivers": receivers})
    (event,) = notices(config, tools)
    assert event.told == "'danced': 'team' was told"


def test_with_the_ledger_away_it_is_kept_and_taken_in_later(
    config: Config, tools: Tools, rig: Rig, told: InMemoryNotifier
) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    ledger, tools.ledger = tools.ledger, away
    rollback(config, tools=tools)
    assert rig.is_at(0)
    tools.ledger = ledger
    assert [event.data["event"] for event in notices(config, tools)][-1] == "rolled_back"
    assert len(notices(config, tools)) == 3, "taken in once"


def test_who_tells_nobody_writes_nothing_down(config: Config, tools: Tools) -> None:
    started(config, tools)
    assert notices(config, tools) == []
    assert journal.of(config).pending() == []


def away() -> Ledger:
    raise LedgerUnreachable(reason="refused")
