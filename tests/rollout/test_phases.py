"""The phase machine: each transition, and what holds over every sequence of verdicts."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout import phases
from rollout.gates import GateResult
from rollout.phases import Move, Phase, Position, Stage
from rollout.seen import Word

PHASES = (Phase(10, 20.0), Phase(50, 40.0), Phase(100, 60.0))


def at(percentage: int, stage: Stage = Stage.LIVE, **changed: Any) -> Position:
    percentages = [phase.percentage for phase in PHASES]
    phase = percentages.index(percentage) if percentage in percentages else -1
    return replace(Position(stage, percentage, phase, PHASES), **changed)


def gate(verdict: Word, on_fail: str = "rollback") -> GateResult:
    return GateResult("d", f"a {verdict} gate", "strays", verdict, 1.0, 0.0, 5, "why", on_fail)


PASS, FAIL, UNSURE = gate("pass"), gate("fail"), gate("inconclusive")
HOLDS, TELLS, TELLS_NOT = gate("fail", "hold"), gate("fail", "tell"), gate("inconclusive", "tell")
PAUSED = {"paused": "paused by ann"}
DRIFTED = {"drift": "gw-1 serves 30 %"}
UNPROVEN = {"unproven": "no customer was seen yet"}
CONTRADICTED = {"contradicted": "measured 30.0 %"}
NOTHING = {"paused": "", "drift": "", "unproven": "", "contradicted": ""}


@pytest.mark.parametrize(
    ("stage", "move"),
    [
        (Stage.OFF, Move.REFUSE),
        (Stage.DUAL_WRITE, Move.ENTER),
        (Stage.LIVE, Move.NOTHING),
        (Stage.RAMPDOWN, Move.REFUSE),
        (Stage.COMPLETE, Move.REFUSE),
    ],
)
def test_start(stage: Stage, move: Move) -> None:
    assert phases.on_start(at(0, stage)).move is move


@pytest.mark.parametrize(
    ("position", "results", "move"),
    [
        (at(0), [PASS], Move.STEP),
        (at(0), [], Move.STEP),
        (at(0), [PASS, UNSURE], Move.HOLD),
        (at(0), [PASS, FAIL], Move.FAIL),
        (at(10, evidence_s=19.9), [PASS], Move.SOAK),
        (at(10, evidence_s=19.9), [FAIL], Move.FAIL),
        (at(10, evidence_s=20.0), [PASS], Move.STEP),
        (at(10, evidence_s=20.0), [UNSURE], Move.HOLD),
        (at(10, evidence_s=5.0, required_s=5.0), [PASS], Move.STEP),
        (at(100, evidence_s=99.0), [PASS], Move.NOTHING),
        (at(100, Stage.RAMPDOWN), [PASS], Move.REFUSE),
        (at(100, Stage.COMPLETE), [PASS], Move.REFUSE),
        (at(0, Stage.OFF), [PASS], Move.REFUSE),
        (at(10, evidence_s=20), [HOLDS], Move.FAIL),
        (at(10, evidence_s=20), [TELLS, TELLS_NOT], Move.STEP),
        (at(10, evidence_s=20, **PAUSED), [PASS], Move.PAUSED),
        (at(0, **PAUSED), [PASS], Move.PAUSED),
        (at(10, evidence_s=20, **DRIFTED), [PASS], Move.DRIFT),
        (at(10, evidence_s=20, **PAUSED), [FAIL], Move.FAIL),
        (at(10, evidence_s=20, **UNPROVEN), [PASS], Move.UNPROVEN),
        (at(10, evidence_s=20, **CONTRADICTED), [PASS], Move.CONTRADICTED),
        (at(10, evidence_s=20, **CONTRADICTED), [FAIL], Move.FAIL),
        (at(10, evidence_s=20, **UNPROVEN, **DRIFTED), [PASS], Move.DRIFT),
        (at(10, evidence_s=20, **UNPROVEN, **PAUSED), [PASS], Move.PAUSED),
    ],
)
def test_advance(position: Position, results: list[GateResult], move: Move) -> None:
    assert phases.on_advance(position, results).move is move


def test_the_next_phase_is_the_first_that_is_higher() -> None:
    assert phases.on_advance(at(0), []).phase == 0
    assert phases.on_advance(at(10, evidence_s=20), []).phase == 1
    assert at(30).following == 1  # phases were changed meanwhile
    assert at(100).following is None


@pytest.mark.parametrize(
    ("position", "results", "move"),
    [
        (at(10), [FAIL], Move.ROLL_BACK),
        (at(10, evidence_s=99), [FAIL, UNSURE], Move.ROLL_BACK),
        (at(10), [UNSURE], Move.SOAK),
        (at(10, evidence_s=99), [UNSURE], Move.HOLD),
        (at(10, evidence_s=99), [PASS], Move.SOAKED),
        (at(100, Stage.RAMPDOWN, evidence_s=99), [FAIL], Move.ROLL_BACK),
        (at(0), [FAIL], Move.REFUSE),
        (at(100, Stage.COMPLETE), [FAIL], Move.REFUSE),
        (at(10), [HOLDS], Move.SOAK),
        (at(10, evidence_s=99), [HOLDS], Move.FAIL),
        (at(10, evidence_s=99), [HOLDS, UNSURE], Move.FAIL),
        (at(10, evidence_s=99), [HOLDS, FAIL], Move.ROLL_BACK),
        (at(10, evidence_s=99), [TELLS, TELLS_NOT, PASS], Move.SOAKED),
        (at(10, evidence_s=99, **PAUSED), [PASS], Move.PAUSED),
        (at(10, evidence_s=99, **PAUSED), [UNSURE], Move.PAUSED),
        (at(10, evidence_s=99, **PAUSED), [FAIL], Move.ROLL_BACK),
        (at(10, evidence_s=99, **DRIFTED), [PASS], Move.DRIFT),
        (at(10, evidence_s=99, **DRIFTED), [FAIL], Move.ROLL_BACK),
        (at(10, evidence_s=99, **UNPROVEN), [PASS], Move.UNPROVEN),
        (at(10, evidence_s=99, **UNPROVEN), [UNSURE], Move.UNPROVEN),
        (at(10, evidence_s=99, **CONTRADICTED), [PASS], Move.CONTRADICTED),
        (at(10, evidence_s=99, **CONTRADICTED), [FAIL], Move.ROLL_BACK),
    ],
)
def test_watch(position: Position, results: list[GateResult], move: Move) -> None:
    assert phases.on_watch(position, results).move is move


@pytest.mark.parametrize(
    ("position", "results", "move"),
    [
        (at(50, evidence_s=99), [PASS], Move.REFUSE),
        (at(100, evidence_s=59), [PASS], Move.SOAK),
        (at(100, evidence_s=60), [UNSURE], Move.HOLD),
        (at(100, evidence_s=60), [FAIL], Move.FAIL),
        (at(100, evidence_s=60), [PASS], Move.ENTER),
        (at(100, evidence_s=60, **UNPROVEN), [PASS], Move.UNPROVEN),
        (at(100, Stage.RAMPDOWN), [PASS], Move.NOTHING),
        (at(100, Stage.COMPLETE), [PASS], Move.REFUSE),
    ],
)
def test_rampdown(position: Position, results: list[GateResult], move: Move) -> None:
    assert phases.on_rampdown(position, results).move is move


def test_archive_and_its_undo() -> None:
    assert phases.on_archive(at(100)).move is Move.REFUSE
    assert phases.on_archive(at(100, Stage.RAMPDOWN)).stage is Stage.COMPLETE
    assert phases.on_archive(at(100, Stage.COMPLETE)).move is Move.NOTHING
    assert phases.on_undo(at(100, Stage.COMPLETE)).stage is Stage.RAMPDOWN
    assert phases.on_undo(at(100)).move is Move.NOTHING


def test_the_way_back_is_open_until_complete() -> None:
    assert [stage for stage in Stage if not phases.may_roll_back(stage)] == [Stage.COMPLETE]


def test_a_phase_that_soaks_says_which_gate_keeps_the_next_step_away() -> None:
    assert "a fail gate: why" in phases.on_watch(at(10), [HOLDS]).reason


def test_nothing_goes_beyond_the_percentage_that_is_asked_for() -> None:
    soaked = at(10, evidence_s=99)
    assert phases.on_advance(soaked, [PASS], until=50).phase == 1
    refused = phases.on_advance(soaked, [PASS], until=49)
    assert refused.move is Move.NOTHING
    assert "10 % is the last up to 49 %" in refused.reason


words = st.sampled_from([PASS, FAIL, UNSURE, HOLDS, TELLS, TELLS_NOT])
looks = st.lists(st.tuples(st.lists(words, max_size=3), st.floats(0, 30)), max_size=40)


@given(
    looks=looks,
    until=st.integers(0, 100),
    standing=st.sampled_from([{}, PAUSED, DRIFTED, PAUSED | DRIFTED, UNPROVEN, CONTRADICTED]),
)
def test_over_every_sequence_of_verdicts(
    looks: list[tuple[list[GateResult], float]], until: int, standing: dict[str, str]
) -> None:
    """Up only on passes and after the soak, one phase at a time; back only on a fail.

    Never beyond what is asked, and nobody moves up while a pause or a drift stands, or a proof is
    missing.
    """
    position = at(0)
    for number, (results, seconds) in enumerate(looks):
        said = standing if number % 2 else NOTHING
        position = replace(position, evidence_s=position.evidence_s + seconds, **said)  # type: ignore[arg-type]
        decides = {result.verdict for result in results if result.on_fail != "tell"}
        fatal = FAIL in results
        watched = phases.on_watch(position, results)
        if watched.move is Move.ROLL_BACK:
            assert fatal
            position = at(0)
            continue
        assert not (fatal and position.percentage)
        decision = phases.on_advance(position, results, until)
        if decision.move is Move.STEP:
            assert decides <= {"pass"}
            assert position.soaked
            assert not position.paused
            assert not (position.drift or position.unproven or position.contradicted)
            assert decision.phase == position.phase + 1
            position = at(PHASES[decision.phase].percentage)
            assert position.percentage <= until
        else:
            assert decision.phase is None


positions = st.builds(
    Position,
    st.sampled_from([Stage.LIVE, Stage.RAMPDOWN]),
    st.sampled_from([1, 10, 30, 50, 100]),
    st.integers(-1, 2),
    st.just(PHASES),
    st.floats(0, 1000),
    st.none() | st.floats(0, 100),
    st.sampled_from(["", "paused"]),
    st.sampled_from(["", "drift"]),
    st.sampled_from(["", "unproven"]),
    st.sampled_from(["", "contradicted"]),
)


@given(position=positions, others=st.lists(words, max_size=4))
def test_a_fail_brings_back_from_every_position_with_customers(
    position: Position, others: list[GateResult]
) -> None:
    """Whatever else the gates say, soaked or not, paused or not, whatever is served."""
    assert phases.on_watch(position, [*others, FAIL]).move is Move.ROLL_BACK
    assert phases.may_roll_back(position.stage)
