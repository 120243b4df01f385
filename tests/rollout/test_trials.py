"""What a gate counts, and when: the same answer however often, and whoever, looks. In memory."""

import json
import random
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from estate.config import Config, GateConfig, PhaseConfig
from estate.connections import DatabaseUnreachable
from estate.ledger import Rollout
from migrator.ownership import bucket
from rollout import evidence, power, trials
from rollout.gates import GateResult, evaluate, threshold
from rollout.seen import DataSeen, Evidence
from rollout.statistics import Sample
from rollout.subjects import InMemorySubjects, Subject
from tests.rollout.rig import START

DAY = timedelta(days=1)
PHASE_S = 86400.0


@pytest.fixture
def conversion(tmp_path: Path) -> GateConfig:
    return gate(tmp_path, "conversion", after="30m", drop=0.2)


def gate(folder: Path, kind: str, **more: Any) -> GateConfig:
    file = folder / "gate.sql"
    file.write_text("SELECT route, at, succeeded_at FROM t")
    values = {"name": kind, "kind": kind, "query": file, "side": "old", **more}
    return GateConfig.model_validate(values)


def asking(config: Config, *gates: GateConfig) -> Config:
    return config.model_copy(update={"gates": list(gates)})


def visits(
    number: int,
    new: float,
    old: float,
    *,
    below: int = 5000,
    since: datetime = START,
    seed: int = 1,
) -> list[Subject]:
    """So many customers in a day; this share of those below the bucket, and of all others, buys."""
    chance = random.Random(seed)
    rows = []
    for each in range(number):
        route, at = f"c{seed}-{each}", since + timedelta(seconds=chance.uniform(0, PHASE_S))
        buys = chance.random() < (new if bucket(route) < below else old)
        rows.append(Subject(route, at, at + timedelta(minutes=5) if buys else None))
    return rows


def phase(percentage: int) -> Rollout:
    return Rollout("d", "live", percentage, phase_started_at=START)


def looked(
    config: Config,
    row: Rollout,
    subjects: InMemorySubjects,
    now: datetime,
    lag_s: float | None = 0.1,
) -> Rollout:
    """The row after one look, as the ledger gives it back."""
    found = trials.count(config, row, subjects, lag_s, now)
    return replace(row, evidence=json.loads(json.dumps({"data": trials.kept(row, found)})))


def answer(config: Config, row: Rollout) -> GateResult:
    seen = Evidence("d", row.percentage, data=trials.seen(row.evidence))
    return evaluate(config.gates[0], seen)


def after(
    config: Config, percentage: int, rows: Iterable[Subject], now: datetime = START + DAY
) -> GateResult:
    """The answer after one look."""
    return answer(config, looked(config, phase(percentage), InMemorySubjects(list(rows)), now))


# However often one looks


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(moments=st.lists(st.floats(0, PHASE_S), max_size=8))
def test_the_answer_does_not_depend_on_when_anybody_looked_before(
    plain_config: Config, conversion: GateConfig, moments: list[float]
) -> None:
    config, subjects = asking(plain_config, conversion), InMemorySubjects(VISITS)
    often = phase(50)
    for moment in sorted(moments):
        often = looked(config, often, subjects, START + timedelta(seconds=moment))
    often = looked(config, often, subjects, START + 2 * DAY)
    once = looked(config, phase(50), subjects, START + 2 * DAY)
    assert trials.seen(often.evidence) == trials.seen(once.evidence)


VISITS = visits(1500, 0.3, 0.3)


def test_two_who_watch_count_each_customer_once(
    plain_config: Config, conversion: GateConfig
) -> None:
    config, subjects = asking(plain_config, conversion), InMemorySubjects(VISITS)
    row, now = phase(50), START + DAY
    ours, theirs = (trials.count(config, row, subjects, 0.1, now) for _ in range(2))
    row = replace(row, evidence={"data": trials.kept(row, ours)})
    assert trials.kept(row, theirs) == row.evidence["data"]
    moved = replace(row, phase_started_at=now, evidence={})
    assert trials.kept(moved, theirs) == {}


def test_an_outcome_counts_when_nothing_can_change_it_any_more(
    plain_config: Config, conversion: GateConfig
) -> None:
    """Half an hour to succeed, and a minute until it is seen."""
    config = asking(plain_config, conversion)
    late = Subject("late", START, START + timedelta(minutes=31))
    subjects = InMemorySubjects([late])
    row = looked(config, phase(50), subjects, START + timedelta(minutes=31))
    assert answer(config, row).samples == 0
    row = looked(config, row, subjects, START + timedelta(minutes=32))
    subjects.rows = [replace(late, ended=START)]
    row = looked(config, row, subjects, START + DAY)
    total = trials.seen(row.evidence)["conversion"].trial
    assert total is not None
    assert total.open.new + total.open.old == Sample(1, 0)


def test_another_question_or_another_phase_begins_anew(
    plain_config: Config, conversion: GateConfig
) -> None:
    config, subjects = asking(plain_config, conversion), InMemorySubjects(VISITS)
    row = looked(config, phase(50), subjects, START + DAY)
    other = asking(plain_config, conversion.model_copy(update={"drop": 0.3}))
    again = looked(other, row, subjects, START + 2 * DAY)
    assert again.evidence == looked(other, phase(50), subjects, START + 2 * DAY).evidence
    later = replace(row, phase_started_at=START + DAY)
    assert answer(config, looked(config, later, subjects, START + 2 * DAY)).samples == 0


# What cannot be counted


@pytest.mark.parametrize("lag_s", [None, 61.0])
def test_while_sync_does_not_carry_nothing_is_counted_and_nothing_is_lost(
    plain_config: Config, conversion: GateConfig, lag_s: float | None
) -> None:
    config, subjects = asking(plain_config, conversion), InMemorySubjects(VISITS)
    row = looked(config, phase(50), subjects, START + DAY / 2)
    row = looked(config, row, subjects, START + DAY, lag_s)
    assert "sync" in answer(config, row).reason
    row = looked(config, row, subjects, START + 2 * DAY)
    assert row.evidence == looked(config, phase(50), subjects, START + 2 * DAY).evidence


def test_a_database_that_is_away_is_no_pass_and_no_fail(
    plain_config: Config, conversion: GateConfig
) -> None:
    config, subjects = asking(plain_config, conversion), InMemorySubjects(visits(9000, 0.3, 0.3))
    row = looked(config, phase(50), subjects, START + DAY)
    assert answer(config, row).verdict == "pass"
    subjects.away = DatabaseUnreachable(database="a", reason="refused")
    row = looked(config, row, subjects, START + 2 * DAY)
    assert answer(config, row).verdict == "inconclusive"
    assert "refused" in answer(config, row).reason
    subjects.away = None
    row = looked(config, row, subjects, START + 2 * DAY + timedelta(seconds=1))
    assert answer(config, row).verdict == "inconclusive"  # not asked again within a minute
    row = looked(config, row, subjects, START + 3 * DAY)
    assert answer(config, row).verdict == "pass"


def test_what_was_proven_stands_whatever_is_away(
    plain_config: Config, conversion: GateConfig
) -> None:
    config, subjects = asking(plain_config, conversion), InMemorySubjects(visits(3000, 0.15, 0.3))
    row = looked(config, phase(50), subjects, START + DAY)
    row = looked(config, row, subjects, START + 2 * DAY, None)
    assert answer(config, row).verdict == "fail"


def test_nobody_counted_is_no_answer(plain_config: Config, conversion: GateConfig) -> None:
    config = asking(plain_config, conversion)
    assert after(config, 50, []).verdict == "inconclusive"
    assert answer(config, phase(50)).verdict == "inconclusive"
    unknown = replace(phase(50), phase_started_at=None)
    subjects = InMemorySubjects(VISITS)
    assert answer(config, looked(config, unknown, subjects, START + DAY)).samples == 0


# Verdicts


@pytest.mark.parametrize(
    ("number", "new", "old", "verdict"),
    [
        (3000, 0.15, 0.30, "fail"),
        (9000, 0.30, 0.30, "pass"),
        (9000, 0.40, 0.30, "pass"),
        (500, 0.10, 0.10, "inconclusive"),
        (150, 0.0, 0.9, "inconclusive"),  # fewer than min_samples on the new side
        (9000, 0.0, 0.0, "inconclusive"),
    ],
)
def test_conversion_against_those_who_stayed(
    plain_config: Config,
    conversion: GateConfig,
    number: int,
    new: float,
    old: float,
    verdict: str,
) -> None:
    result = after(asking(plain_config, conversion), 50, visits(number, new, old))
    assert result.verdict == verdict, result
    if number > 150:
        assert "of those who stayed" in result.reason
        assert result.samples == pytest.approx(number / 2, rel=0.1)


@pytest.mark.parametrize(
    ("now", "before", "verdict"),
    [(0.15, 0.3, "fail"), (0.3, 0.3, "pass"), (0.3, None, "inconclusive")],
)
def test_at_100_percent_those_who_moved_last_are_compared_with_what_they_did_before(
    plain_config: Config,
    tmp_path: Path,
    now: float,
    before: float | None,
    verdict: str,
) -> None:
    """What the others do, who moved long ago, counts on neither side."""
    asked = gate(tmp_path, "conversion", after="30m", drop=0.2, baseline="2d")
    rows = visits(20_000, 0.9, now)
    if before is not None:
        rows += visits(20_000, 0.1, before, since=START - 2 * DAY, seed=2)
    result = after(asking(plain_config, asked), 100, rows)
    assert result.verdict == verdict, result
    if before is not None:
        assert "of the same customers before" in result.reason
        assert result.samples == pytest.approx(10_000, rel=0.1)


def holding_back(config: Config, *percentages: int) -> Config:
    """The estate with other phases."""
    domain = config.domains["d"]
    phases = [PhaseConfig(percentage=each, soak=DAY) for each in percentages]
    changed = domain.model_copy(update={"phases": phases})
    return config.model_copy(update={"domains": {"d": changed}})


@pytest.mark.parametrize(("new", "verdict"), [(0.1, "fail"), (0.3, "pass")])
def test_a_holdback_is_the_control_and_then_the_question_is_answered(
    plain_config: Config, tmp_path: Path, new: float, verdict: str
) -> None:
    """Those few who stayed at 99 % are compared with; the last of them could not tell it again."""
    conversion = gate(tmp_path, "conversion", after="30m", drop=0.5)
    rate = gate(tmp_path, "rate", drop=0.2)
    config = holding_back(asking(plain_config, conversion, rate), 10, 50, 99, 100)
    result = after(config, 99, visits(15_000, new, 0.3, below=9900))
    assert result.verdict == verdict, result
    assert "of those who stayed (" in result.reason
    assert trials.questions(config, "d", 100) == []
    assert evidence.ask(config, Evidence("d", 100)) == []
    stayed, nobody = power.sentences(config, "d", 100, InMemorySubjects(), START)
    assert stayed.endswith("the 1 % who stayed until now have been the control at 99 %")
    assert nobody == "rate: not asked at 100 %, nobody has stayed to compare with"
    plain = asking(plain_config, conversion)
    assert [question.control for question in trials.questions(plain, "d", 100)] == ["before"]


def test_a_baseline_that_is_used_up_is_not_gone_on_with_in_the_phase_itself(
    plain_config: Config, tmp_path: Path
) -> None:
    asked = gate(tmp_path, "conversion", after="30m", drop=0.2, baseline="12h")
    config = asking(plain_config, asked)
    rows = visits(5000, 0.3, 0.3, since=START - DAY) + visits(5000, 0.3, 0.3, seed=2)
    result = after(config, 100, rows, START + 3 * DAY)
    assert result.samples == pytest.approx(1250, rel=0.15)  # half of the day, half of the customers


@pytest.mark.parametrize(("fewer", "verdict"), [(0.4, "fail"), (0.0, "pass")])
def test_customers_of_the_new_side_who_cannot_even_begin(
    plain_config: Config, tmp_path: Path, fewer: float, verdict: str
) -> None:
    """Though a third more customers come than before, on both sides."""
    asked = gate(tmp_path, "rate", drop=0.2, baseline="1d")
    chance = random.Random(3)
    rows = visits(12_000, 0, 0, since=START - DAY, seed=2)
    rows += [
        row for row in visits(16_000, 0, 0) if bucket(row.route) >= 5000 or chance.random() >= fewer
    ]
    config = asking(plain_config, asked)
    result = after(config, 50, rows)
    assert result.verdict == verdict, result
    assert result.measured == pytest.approx(fewer, abs=0.05)
    assert trials.questions(config, "d", 100) == []


@pytest.mark.parametrize(
    ("in_time", "late", "verdict"),
    [(96, 4, "pass"), (93, 7, "inconclusive"), (60, 40, "fail"), (90, 0, "inconclusive")],
)
def test_what_fell_due_in_the_phase_was_done_in_time(
    plain_config: Config, tmp_path: Path, in_time: int, late: int, verdict: str
) -> None:
    asked = gate(tmp_path, "duration", within="24h", share=0.95, min_samples=100)
    begun = START - timedelta(hours=20)  # due four hours after the phase began
    rows = [
        Subject(f"r{each}", begun, begun + timedelta(hours=1 if each < in_time else 30))
        for each in range(in_time + late)
    ]
    rows += [Subject("long ago", begun - 9 * DAY), Subject("not due yet", START)]
    config = asking(plain_config, asked)
    result = after(config, 100, rows, START + timedelta(hours=6))
    assert (result.verdict, result.samples) == (verdict, in_time + late)
    assert after(config, 100, rows, START + timedelta(hours=3)).samples == 0


def test_an_answer_names_its_control_and_its_numbers(
    plain_config: Config, conversion: GateConfig
) -> None:
    result = after(asking(plain_config, conversion), 50, visits(3000, 0.15, 0.3))
    assert result.threshold == threshold(conversion) == 0.2
    assert result.measured == pytest.approx(0.5, abs=0.1)
    assert result.reason.startswith("1")
    assert result.reason.endswith("no chance, at 0.05")


def test_a_gate_that_nothing_was_counted_for_has_nothing_to_say(conversion: GateConfig) -> None:
    seen = Evidence("d", 50, data={"conversion": DataSeen(problem="the query fails")})
    assert evaluate(conversion, seen).reason == "the query fails"


# The plan


def test_the_plan_says_how_many_customers_it_takes_and_how_long(
    plain_config: Config, conversion: GateConfig, tmp_path: Path
) -> None:
    asked = conversion.model_copy(update={"baseline": DAY})
    config = asking(plain_config, asked, gate(tmp_path, "duration", within="1h", share=0.9))
    subjects = InMemorySubjects(visits(9000, 0.3, 0.3, since=START - DAY))
    (told,) = power.sentences(config, "d", 50, subjects, START + timedelta(minutes=31))
    assert told.startswith("conversion: a 20 % drop will be seen after about 2,000 customers, at")
    assert "at your traffic 5.9 h; without one it passes after about 1,000, 3.2 h" in told
    assert "more than the soak of 0.33 min" in told
    (told,) = power.sentences(config, "d", 100, subjects, START + timedelta(minutes=31))
    assert "after about 990 customers, at your traffic 5.8 h" in told


def test_the_plan_says_when_nothing_can_be_told(
    plain_config: Config, conversion: GateConfig
) -> None:
    config, subjects = asking(plain_config, conversion), InMemorySubjects()
    (told,) = power.sentences(config, "d", 10, subjects, START)
    assert told == "conversion: too few customers of late to tell its power"
    subjects.away = DatabaseUnreachable(database="a", reason="refused")
    (told,) = power.sentences(config, "d", 10, subjects, START)
    assert "refused" in told
