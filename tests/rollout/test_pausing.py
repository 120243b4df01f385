"""Pause, resume and answer: a person's word holds until a person takes it back."""

import re
from datetime import timedelta

import pytest

from estate.config import Config, GateConfig, UnknownName
from estate.errors import ExitCode
from estate.ledger import open_ledger
from rollout import controller, decommission, pausing, status
from rollout.controller import Held
from rollout.preconditions import Refused
from rollout.rollback import rollback
from rollout.step_plan import StepResult
from rollout.tools import Tools
from tests.rollout.rig import DOMAIN, Killed, Rig
from tests.rollout.way import advanced, busy, row, soaked, started, verified


def kinds(config: Config) -> list[str]:
    with open_ledger(config) as ledger:
        return [act.kind for act in ledger.history()]


# Pause and resume


def test_a_pause_keeps_everybody_where_they_are_until_it_is_taken_back(
    config: Config, tools: Tools, rig: Rig
) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    soaked(config, rig)
    paused = pausing.pause(config, DOMAIN, reason="the warehouse counts", tools=tools)
    assert not paused.already
    assert "paused by ann on" in paused.paused
    assert "the warehouse counts" in paused.to_text()
    held = controller.advance(config, DOMAIN, tools=tools)
    assert isinstance(held, Held)
    assert (held.verdict, held.exit_code) == ("paused", ExitCode.PRECONDITION)
    assert held.next_command == "splitctl rollout resume d"
    assert rig.is_at(10)
    blockers = controller.plan(config, DOMAIN, tools=tools).blockers
    assert any("the warehouse counts" in blocker for blocker in blockers)
    resumed = pausing.resume(config, DOMAIN, tools=tools)
    assert re.search(r"It was paused for \d+ s", resumed.to_text())
    assert isinstance(controller.advance(config, DOMAIN, tools=tools), StepResult)


def test_typed_twice_a_pause_and_its_end_say_so_and_change_nothing(
    config: Config, tools: Tools, rig: Rig
) -> None:
    started(config, tools)
    first = pausing.pause(config, DOMAIN, reason="first", tools=tools)
    again = pausing.pause(config, DOMAIN, reason="second", tools=tools)
    assert again.already
    assert again.paused == first.paused
    assert "is paused already" in again.to_text()
    assert not pausing.resume(config, DOMAIN, tools=tools).already
    assert pausing.resume(config, DOMAIN, tools=tools).already
    assert kinds(config) == ["start", "pause", "resume"]


def test_nothing_is_paused_or_answered_that_was_never_started(config: Config, tools: Tools) -> None:
    for act in (pausing.pause, pausing.resume):
        with pytest.raises(Refused, match="not started"):
            act(config, DOMAIN, tools=tools)


def test_while_it_is_paused_the_clock_stands_and_the_watch_goes_on(
    config: Config, tools: Tools, rig: Rig
) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    verified(config)
    rig.traffic(old=1, new=1)
    tools.sleep = busy(rig)
    controller.watch(config, [DOMAIN], timeout=timedelta(seconds=3), tools=tools)
    before = row(config).soak_evidence_s
    assert before > 0
    pausing.pause(config, DOMAIN, tools=tools)
    watched = controller.watch(config, [DOMAIN], timeout=timedelta(minutes=1), tools=tools)
    assert (watched.exit_code, watched.domains[0].result) == (ExitCode.IN_PROGRESS, "paused")
    assert watched.next_command == "splitctl rollout resume d"
    assert row(config).soak_evidence_s == before
    pausing.resume(config, DOMAIN, tools=tools)
    controller.watch(config, [DOMAIN], timeout=timedelta(seconds=3), tools=tools)
    assert row(config).soak_evidence_s > before


def test_a_fail_brings_customers_back_from_a_pause_and_the_pause_stays(
    config: Config, tools: Tools, rig: Rig
) -> None:
    """After a rollback too, nobody moves up before the person who paused it agrees."""
    started(config, tools)
    advanced(config, tools, rig, 10)
    verified(config)
    rig.traffic(old=1, new=1)
    pausing.pause(config, DOMAIN, tools=tools)
    tools.sleep = busy(rig, new=60, errors=3)
    assert controller.watch(config, [DOMAIN], tools=tools).exit_code is ExitCode.ROLLED_BACK
    assert rig.is_at(0)
    verified(config)
    held = controller.advance(config, DOMAIN, tools=tools)
    assert isinstance(held, Held)
    assert held.verdict == "paused"


def test_somebody_who_pauses_while_the_gates_are_asked_is_heard(
    config: Config, tools: Tools, rig: Rig
) -> None:
    started(config, tools)
    verified(config)
    tools.sequences = lambda _: (pausing.pause(config, DOMAIN, reason="now", tools=tools), [])[1]
    with pytest.raises(Refused, match="now"):
        controller.advance(config, DOMAIN, tools=tools)
    assert rig.is_at(0)
    assert "step" not in kinds(config)


@pytest.mark.parametrize("at", range(5, 15, 3))
def test_a_pause_found_with_a_killed_step_lets_it_come_to_its_end(
    config: Config, tools: Tools, rig: Rig, at: int
) -> None:
    """Half a step is no place to stay: it ends forward or back, and then nobody moves."""
    started(config, tools)
    rig.kill_at = rig.acts + at
    with pytest.raises(Killed):
        controller.advance(config, DOMAIN, tools=tools)
    rig.restart()
    told = pausing.pause(config, DOMAIN, tools=tools)
    assert ("to 10 % had begun before" in told.under_way) == ("step" in kinds(config))
    result = controller.advance(config, DOMAIN, tools=tools)
    if isinstance(result, StepResult):
        assert rig.is_at(10)
    else:
        assert result.verdict == "paused"
        assert rig.is_at(0)
    assert rig.broken_rules == []
    soaked(config, rig)
    held = controller.advance(config, DOMAIN, tools=tools)
    assert isinstance(held, Held)
    assert held.verdict == "paused"


def test_a_paused_domain_does_not_go_into_rampdown(config: Config, tools: Tools, rig: Rig) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10, 50, 100)
    soaked(config, rig)
    pausing.pause(config, DOMAIN, tools=tools)
    held = decommission.rampdown(config, DOMAIN, tools=tools)
    assert isinstance(held, Held)
    assert row(config).stage == "live"


def test_status_tells_the_pause_and_how_to_end_it(config: Config, tools: Tools, rig: Rig) -> None:
    started(config, tools)
    pausing.pause(config, DOMAIN, reason="holidays", tools=tools)
    found = status.status(config, tools=tools)
    assert found.domains[0].next_command == "splitctl rollout resume d"
    assert "! paused by ann on" in found.to_text()
    assert "holidays" in found.to_text()


# Questions


@pytest.fixture
def asking(config: Config) -> Config:
    question = GateConfig(
        name="complaints",
        kind="question",
        question="Has support seen more complaints?",
        good="no",
        asked_of="carla",
    )
    return config.model_copy(update={"gates": [*config.gates, question]})


def test_a_question_is_asked_in_every_phase(asking: Config, tools: Tools, rig: Rig) -> None:
    started(asking, tools)
    advanced(asking, tools, rig, 10)  # nobody is on the new side before: nothing is asked
    for percentage in (50, 100):
        soaked(asking, rig)
        held = controller.advance(asking, DOMAIN, tools=tools)
        assert isinstance(held, Held)
        assert held.verdict == "inconclusive"
        assert "carla is asked: Has support seen more complaints?" in held.reason
        command = "splitctl rollout answer d --gate 'complaints' --yes|--no"
        assert held.next_command == command
        found = status.status(asking, tools=tools).domains[0]
        assert (found.wanted, found.next_command) == (["complaints"], command)
        given = pausing.answer(
            asking, DOMAIN, "complaints", "no", note="two, both old", tools=tools
        )
        assert given.verdict == "pass"
        assert status.status(asking, tools=tools).domains[0].wanted == []
        advanced(asking, tools, rig, percentage)
    with open_ledger(asking) as ledger:
        answers = ledger.verdicts(DOMAIN, "complaints", 5)
    seen = next(answer for answer in answers if answer.verdict == "pass")
    assert "said ann on" in seen.data["reason"]
    assert "two, both old" in seen.data["reason"]


def test_the_wrong_answer_brings_customers_back(asking: Config, tools: Tools, rig: Rig) -> None:
    started(asking, tools)
    advanced(asking, tools, rig, 10)
    soaked(asking, rig)
    given = pausing.answer(asking, DOMAIN, "complaints", "yes", tools=tools)
    assert given.verdict == "fail"
    assert given.next_command.startswith("splitctl rollback d")
    watched = controller.watch(asking, [DOMAIN], tools=tools)
    assert watched.exit_code is ExitCode.ROLLED_BACK
    assert rig.is_at(0)


def test_a_later_answer_takes_the_place_of_an_earlier_one(
    asking: Config, tools: Tools, rig: Rig
) -> None:
    started(asking, tools)
    advanced(asking, tools, rig, 10)
    soaked(asking, rig)
    pausing.answer(asking, DOMAIN, "complaints", "yes", tools=tools)
    pausing.answer(asking, DOMAIN, "complaints", "no", tools=tools)
    assert isinstance(controller.advance(asking, DOMAIN, tools=tools), StepResult)


def test_an_answer_belongs_to_a_question_and_to_a_phase(
    asking: Config, tools: Tools, rig: Rig
) -> None:
    started(asking, tools)
    with pytest.raises(UnknownName, match="complaints"):
        pausing.answer(asking, DOMAIN, "errors", "no", tools=tools)
    with pytest.raises(Refused, match="nothing is asked"):
        pausing.answer(asking, DOMAIN, "complaints", "no", tools=tools)
    advanced(asking, tools, rig, 10)
    pausing.answer(asking, DOMAIN, "complaints", "no", tools=tools)
    rollback(asking, tools=tools)
    verified(asking)
    rig.percentage = 0
    advanced(asking, tools, rig, 10)
    assert status.status(asking, tools=tools).domains[0].wanted == ["complaints"]


# What a fail brings


@pytest.mark.parametrize(
    ("on_fail", "code", "percentage"),
    [
        ("rollback", ExitCode.ROLLED_BACK, 0),
        ("hold", ExitCode.CHECK_FAILED, 10),
        ("tell", ExitCode.DONE, 10),
    ],
)
def test_each_gate_says_what_its_fail_brings(
    config: Config, tools: Tools, rig: Rig, on_fail: str, code: ExitCode, percentage: int
) -> None:
    gates = [gate.model_copy(update={"on_fail": on_fail}) for gate in config.gates]
    config = config.model_copy(update={"gates": gates})
    started(config, tools)
    advanced(config, tools, rig, 10)
    soaked(config, rig, errors=100)
    watched = controller.watch(config, [DOMAIN], tools=tools)
    assert watched.exit_code is code
    assert rig.is_at(percentage)
    told = {gate.name: gate.verdict for gate in watched.gates}
    assert told["errors"] == "fail", "it is told, whatever it brings"
    if on_fail == "hold":
        held = controller.advance(config, DOMAIN, tools=tools)
        assert isinstance(held, Held)
        assert held.exit_code is ExitCode.CHECK_FAILED
