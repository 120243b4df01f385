"""The phase machine: each transition, and what holds over every sequence of verdicts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout import phases
from rollout.gates import GateResult, Word
from rollout.phases import Move, Phase, Position, Stage

PHASES = (Phase(10, 20.0), Phase(50, 40.0), Phase(100, 60.0))


def at(percentage: int, stage: Stage = Stage.LIVE, **changed: float) -> Position:
    percentages = [phase.percentage for phase in PHASES]
    phase = percentages.index(percentage) if percentage in percentages else -1
    return replace(Position(stage, percentage, phase, PHASES), **changed)  # type: ignore[arg-type]


def gate(verdict: Word) -> GateResult:
    return GateResult("d", f"a {verdict} gate", "strays", verdict, 1.0, 0.0, 5, "why")


PASS, FAIL, UNSURE = gate("pass"), gate("fail"), gate("inconclusive")


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


words = st.sampled_from([PASS, FAIL, UNSURE])
looks = st.lists(st.tuples(st.lists(words, max_size=3), st.floats(0, 30)), max_size=40)


@given(looks=looks)
def test_over_every_sequence_of_verdicts(looks: list[tuple[list[GateResult], float]]) -> None:
    """Up only on passes and after the soak, one phase at a time; back only on a fail."""
    position = at(0)
    for results, seconds in looks:
        verdicts = {result.verdict for result in results}
        position = replace(position, evidence_s=position.evidence_s + seconds)
        watched = phases.on_watch(position, results)
        if watched.move is Move.ROLL_BACK:
            assert "fail" in verdicts
            position = at(0)
            continue
        assert not ("fail" in verdicts and position.percentage)
        decision = phases.on_advance(position, results)
        if decision.move is Move.STEP:
            assert verdicts <= {"pass"}
            assert position.soaked
            assert decision.phase == position.phase + 1
            position = at(PHASES[decision.phase].percentage)
        else:
            assert decision.phase is None
