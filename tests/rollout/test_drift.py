"""Drift: somebody changed the flags behind our back. The clock stands, and then begins anew."""

from datetime import timedelta

import pytest

from estate.config import Config
from estate.errors import ExitCode
from estate.ledger import ActRecord, open_ledger
from rollout import controller, status
from rollout.controller import Held
from rollout.flags import DomainFlags
from rollout.rollback import rollback
from rollout.step_plan import StepResult
from rollout.survey import Drift
from rollout.tools import Tools
from tests.rollout.rig import DOMAIN, Killed, Rig
from tests.rollout.way import advanced, busy, row, soaked, started, verified


@pytest.fixture
def at_ten(config: Config, tools: Tools, rig: Rig) -> Rig:
    """10 %, verified, with customers who come whenever the watch sleeps."""
    started(config, tools)
    advanced(config, tools, rig, 10)
    verified(config)
    rig.traffic(old=1, new=1)
    tools.sleep = busy(rig)
    return rig


def acts(config: Config, kind: str) -> list[ActRecord]:
    with open_ledger(config) as ledger:
        return [act for act in ledger.history() if act.kind == kind]


def changed(rig: Rig, percentage: int, epoch: int | None = None) -> DomainFlags:
    """Somebody changes one gateway. Returns what it served before."""
    gateway = rig.gateways["gw-2"]
    before = gateway.domains[DOMAIN]
    gateway.domains[DOMAIN] = DomainFlags(
        True, percentage, before.epoch if epoch is None else epoch
    )
    return before


def watched(config: Config, tools: Tools, seconds: float = 7) -> ExitCode:
    result = controller.watch(config, [DOMAIN], timeout=timedelta(seconds=seconds), tools=tools)
    return result.exit_code


class Cluster:
    """Knows who changed it."""

    def who(self, domain: str) -> list[str]:
        return [f"field manager 'argocd' changed {domain} at 10:02"]


def test_it_is_named_with_gateway_value_time_and_author_and_the_clock_stands(
    config: Config, tools: Tools, at_ten: Rig
) -> None:
    watched(config, tools, 3)
    before = row(config).soak_evidence_s
    assert before > 0
    changed(at_ten, 30)
    tools.provenance = Cluster()
    assert watched(config, tools) is ExitCode.INCONCLUSIVE
    (act,) = acts(config, "drift")
    assert "gw-2 serves 30 % under epoch 2, 10 % under epoch 2 is asked" in act.intent["told"][0]
    assert act.intent["who"] == ["field manager 'argocd' changed d at 10:02"]
    assert row(config).soak_evidence_s == before
    found = status.status(config, tools=tools)
    assert "drift: gw-2 serves 30 %" in found.to_text()
    assert "seen since 20" in found.to_text()
    assert "argocd" in found.to_text()
    assert found.next_command == "splitctl rollout start d"


@pytest.mark.parametrize("how", ["rollout start", "by hand"])
def test_when_the_flags_are_back_the_phase_begins_anew(
    config: Config, tools: Tools, at_ten: Rig, how: str
) -> None:
    watched(config, tools, 5)
    before = row(config)
    was = changed(at_ten, 30)
    watched(config, tools)
    if how == "by hand":
        at_ten.gateways["gw-2"].domains[DOMAIN] = was
        watched(config, tools, 0)
    else:
        controller.start(config, DOMAIN, tools=tools)
    (ended,) = acts(config, "drift-ended")
    assert ended.outcome is not None
    assert "begins anew" in ended.outcome["clock"]
    assert at_ten.is_at(10)
    now = row(config)
    assert now.soak_evidence_s < before.soak_evidence_s
    assert before.phase_started_at is not None
    assert now.phase_started_at is not None
    assert now.phase_started_at > before.phase_started_at
    held = controller.advance(config, DOMAIN, tools=tools)
    assert isinstance(held, Held)
    watched_again = controller.watch(config, [DOMAIN], timeout=timedelta(seconds=3), tools=tools)
    reasons = " ".join(gate.reason for gate in watched_again.gates)
    assert "began before customers moved" in reasons, "who was served elsewhere has moved"
    assert len(acts(config, "drift")) == 1


def test_a_watch_that_makes_no_headway_for_a_drift_ends_with_it(
    config: Config, tools: Tools, at_ten: Rig
) -> None:
    changed(at_ten, 30)
    result = controller.watch(config, [DOMAIN], tools=tools)
    assert (result.exit_code, result.domains[0].result) == (ExitCode.PRECONDITION, "drift")
    assert result.next_command == "splitctl rollout start d"
    assert at_ten.served == {10, 30}, "nobody is moved"


def test_no_step_while_a_drift_lasts_even_where_it_does_not_show(
    config: Config, tools: Tools, at_ten: Rig
) -> None:
    """The flags are back, but the phase has to begin anew first."""
    was = changed(at_ten, 30)
    watched(config, tools)
    at_ten.gateways["gw-2"].domains[DOMAIN] = was
    soaked(config, at_ten)
    with pytest.raises(Drift) as raised:
        controller.advance(config, DOMAIN, tools=tools)
    assert raised.value.next_command == "splitctl rollout start d"
    controller.start(config, DOMAIN, tools=tools)
    soaked(config, at_ten)
    assert isinstance(controller.advance(config, DOMAIN, tools=tools), StepResult)


def test_the_right_percentage_from_the_environment_is_no_drift(
    config: Config, tools: Tools, at_ten: Rig
) -> None:
    """A gateway that was restarted, or one that never hears of epochs."""
    changed(at_ten, 10, epoch=0)
    watched(config, tools)
    assert acts(config, "drift") == []
    assert row(config).soak_evidence_s > 0


def test_a_gateway_at_an_older_epoch_has_drifted(config: Config, tools: Tools, at_ten: Rig) -> None:
    changed(at_ten, 10, epoch=1)
    watched(config, tools)
    assert len(acts(config, "drift")) == 1
    controller.start(config, DOMAIN, tools=tools)
    assert len(acts(config, "drift-ended")) == 1
    assert at_ten.is_at(10)


def test_a_newer_epoch_of_the_same_percentage_is_taken_over_by_the_owners(
    config: Config, tools: Tools, at_ten: Rig
) -> None:
    changed(at_ten, 10, epoch=9)
    watched(config, tools)
    controller.start(config, DOMAIN, tools=tools)
    assert at_ten.is_at(10)
    assert {owner.epoch for owner in at_ten.world.owners.values()} == {9}
    assert row(config).epoch == 9
    soaked(config, at_ten)
    assert isinstance(controller.advance(config, DOMAIN, tools=tools), StepResult)


def test_a_flicker_stops_the_clock_and_is_no_drift(
    config: Config, tools: Tools, at_ten: Rig
) -> None:
    """A rollback waits for no lock: for a moment it looks the same."""
    was = changed(at_ten, 30)
    watched(config, tools, 2)
    at_ten.gateways["gw-2"].domains[DOMAIN] = was
    assert row(config).soak_evidence_s == 0
    watched(config, tools, 8)
    assert acts(config, "drift") == []
    assert row(config).soak_evidence_s > 0


def test_what_a_command_at_work_does_is_no_drift(config: Config, tools: Tools, at_ten: Rig) -> None:
    changed(at_ten, 30)
    with open_ledger(config) as ledger, ledger.lock("bob"):
        watched(config, tools)
    assert acts(config, "drift") == []
    assert row(config).soak_evidence_s == 0


@pytest.mark.parametrize("at", range(6, 15, 2))
def test_what_a_killed_step_left_is_no_drift(
    config: Config, tools: Tools, at_ten: Rig, at: int
) -> None:
    soaked(config, at_ten)
    at_ten.kill_at = at_ten.acts + at
    with pytest.raises(Killed):
        controller.advance(config, DOMAIN, tools=tools)
    at_ten.restart()
    watched(config, tools)
    assert acts(config, "drift") == []


def test_a_silent_gateway_proves_neither_a_drift_nor_its_end(
    config: Config, tools: Tools, at_ten: Rig
) -> None:
    at_ten.gateways["gw-2"].reachable = False
    watched(config, tools)
    assert acts(config, "drift") == []
    at_ten.gateways["gw-2"].reachable = True
    changed(at_ten, 30)
    watched(config, tools)
    at_ten.gateways["gw-2"].reachable = False
    watched(config, tools)
    assert acts(config, "drift-ended") == []


def test_errors_bring_customers_back_from_a_drift(
    config: Config, tools: Tools, at_ten: Rig
) -> None:
    changed(at_ten, 30)
    watched(config, tools)
    tools.sleep = busy(at_ten, new=60, errors=30)
    assert watched(config, tools) is ExitCode.ROLLED_BACK
    assert at_ten.is_at(0)


def test_a_rollback_ends_every_drift(config: Config, tools: Tools, at_ten: Rig) -> None:
    changed(at_ten, 30)
    watched(config, tools)
    rollback(config, tools=tools)
    found = status.status(config, tools=tools).domains[0]
    assert found.drift is None
    assert found.next_command != "splitctl rollout start d"
