"""Every change of state is told once, whoever types the command; it stands in nobody's way."""

from datetime import timedelta

import pytest

from estate.config import Config
from estate.errors import ExitCode
from rollout import controller, pausing
from rollout.notices import InMemoryNotifier, Notices, Receiver
from rollout.rollback import rollback
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
