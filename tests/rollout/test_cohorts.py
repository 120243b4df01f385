"""From the data to the act: a drop brings customers back, what cannot be told holds them."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from estate.config import Config, Problem
from estate.errors import ExitCode
from estate.ledger import Rollout, open_ledger
from rollout import controller, trials
from rollout.preconditions import Held, Refused
from rollout.step_plan import StepResult
from rollout.subjects import InMemorySubjects
from rollout.tools import Tools
from splitctl import render
from tests.rollout.rig import DOMAIN, Rig
from tests.rollout.test_controller import advanced, started, verified
from tests.rollout.test_trials import DAY, gate, visits


@pytest.fixture
def comparing(config: Config, tmp_path: Path) -> Config:
    """The estate with a gate that compares cohorts beside its others."""
    asked = gate(tmp_path, "conversion", after="30m", drop=0.2)
    return config.model_copy(update={"gates": [*config.gates, asked]})


def visited(config: Config, tools: Tools, number: int, new: float, old: float) -> None:
    """The present phase began a day ago, has soaked, and so many customers came since."""
    with open_ledger(config) as ledger:
        row = ledger.rollout(DOMAIN)
        assert row is not None
        since = ledger.now() - DAY
        ledger.save_rollout(replace(row, phase_started_at=since, soak_evidence_s=60.0))
    rows = visits(number, new, old, below=100 * row.percentage, since=since)
    tools.subjects = InMemorySubjects(rows)
    verified(config)


def kept(config: Config) -> Rollout:
    with open_ledger(config) as ledger:
        row = ledger.rollout(DOMAIN)
    assert row is not None
    return row


def test_a_drop_in_conversion_brings_the_customers_back(
    comparing: Config, tools: Tools, rig: Rig
) -> None:
    started(comparing, tools)
    advanced(comparing, tools, rig, 10)
    rig.traffic(old=900, new=900)
    visited(comparing, tools, 15_000, 0.2, 0.3)
    result = controller.watch(comparing, [DOMAIN], tools=tools)
    assert result.exit_code is ExitCode.ROLLED_BACK
    assert {g.name for g in result.gates if g.verdict == "fail"} == {"conversion"}
    assert rig.is_at(0)


def test_a_step_waits_until_the_data_can_tell_and_then_is_made(
    comparing: Config, tools: Tools, rig: Rig
) -> None:
    started(comparing, tools)
    advanced(comparing, tools, rig, 10)
    rig.traffic(old=900, new=900)
    visited(comparing, tools, 400, 0.3, 0.3)
    result = controller.advance(comparing, DOMAIN, tools=tools)
    assert isinstance(result, Held)
    assert result.exit_code is ExitCode.INCONCLUSIVE
    assert rig.is_at(10)
    visited(comparing, tools, 30_000, 0.3, 0.3)
    assert isinstance(controller.advance(comparing, DOMAIN, tools=tools), StepResult)
    assert rig.is_at(50)
    # What was counted was the other phase's.
    trial = trials.seen(kept(comparing).evidence)["conversion"].trial
    assert trial is not None
    assert (trial.total.new.number, trial.open.new.number) == (0, 0)


def test_a_look_is_kept_for_whoever_comes_next(comparing: Config, tools: Tools, rig: Rig) -> None:
    started(comparing, tools)
    advanced(comparing, tools, rig, 10)
    rig.traffic(old=900, new=900)
    visited(comparing, tools, 400, 0.3, 0.3)
    controller.advance(comparing, DOMAIN, tools=tools)
    trial = trials.seen(kept(comparing).evidence)["conversion"].trial
    assert trial is not None
    counted = trial.total + trial.open
    assert counted.new.number + counted.old.number == pytest.approx(390, abs=9)


def test_the_plan_tells_the_power_of_the_next_phase(
    comparing: Config, tools: Tools, rig: Rig
) -> None:
    started(comparing, tools)
    with open_ledger(comparing) as ledger:
        since = ledger.now() - timedelta(days=5)
    tools.subjects = InMemorySubjects(visits(9000, 0.3, 0.3, since=since))
    planned = controller.plan(comparing, DOMAIN, tools=tools)
    assert rig.is_at(0)
    (told,) = planned.power
    assert "a 20 % drop will be seen after about" in told
    assert render.plain(planned)["power"] == [told]


def test_a_rollout_is_refused_whose_gates_could_not_tell(comparing: Config, tools: Tools) -> None:
    wrong = Problem("gates.conversion", "no row with at", "Mend it.")
    tools.subjects = InMemorySubjects(wrong=[wrong])
    verified(comparing)
    with pytest.raises(Refused, match=r"gates\.conversion: no row with at"):
        controller.start(comparing, DOMAIN, tools=tools)
