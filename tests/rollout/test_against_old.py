"""Errors and latency against the old side: beyond chance, and beyond the allowed factor."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from estate.config import GateConfig
from rollout.counters import Count, Window
from rollout.gates import evaluate
from rollout.seen import Evidence

ERRORS = GateConfig(name="errors", kind="error_rate", max=0.01, times=1.5, min_samples=200)
LATENCY = GateConfig(name="p95", kind="latency_p95", max_ms=100, times=1.5, min_samples=200)
EDGES = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, math.inf)
RANK = {"pass": 0, "inconclusive": 1, "fail": 2}


def errors(new: tuple[int, int], old: tuple[int, int], percentage: int = 10) -> Evidence:
    """Each side: errors, of so many requests."""
    sides = {"new": Count(new[1], new[0]), "old": Count(old[1], old[0])}
    return Evidence("d", percentage, Window(sides))  # type: ignore[arg-type]


def took(random: np.random.Generator, number: int, median_ms: float) -> Count:
    """So many answers; their p95 is 2.28 times the median."""
    seconds = median_ms / 1000 * np.exp(0.5 * random.standard_normal(number))
    buckets = {edge: float((seconds <= edge).sum()) for edge in EDGES}
    return Count(number, 0, buckets)


def latencies(new: Count, old: Count, percentage: int = 10) -> Evidence:
    return Evidence("d", percentage, Window({"new": new, "old": old}))


def with_(gate: GateConfig, **changed: Any) -> GateConfig:
    return gate.model_copy(update=changed)


# Errors


@pytest.mark.parametrize(
    ("new", "old", "verdict", "told"),
    [
        ((0, 2000), (0, 18_000), "pass", "0 % errors, the old side 0 %"),
        ((6, 2000), (40, 18_000), "pass", "1.35 times"),
        ((1, 2000), (0, 18_000), "pass", "no more than chance"),
        ((4, 2000), (0, 18_000), "inconclusive", "may be chance"),
        ((8, 2000), (20, 18_000), "pass", "3.6 times, no more than chance"),
        ((16, 2000), (20, 18_000), "fail", "7.2 times, more than 1.5 times and no chance, at 0.05"),
        ((15, 2000), (0, 18_000), "fail", "the old side 0 % of 18,000, more than 1.5 times"),
        ((0, 2000), (0, 199), "inconclusive", "199 of 200 samples of the old side"),
        ((40, 2000), (360, 18_000), "fail", "2 % errors, more than 1 %; 2 % errors, the old"),
    ],
)
def test_errors_of_both_sides_at_the_same_time(
    new: tuple[int, int], old: tuple[int, int], verdict: str, told: str
) -> None:
    result = evaluate(ERRORS, errors(new, old))
    assert result.verdict == verdict, result
    assert told in result.reason
    assert (result.measured, result.samples) == (new[0] / new[1], new[1])


def test_an_answer_names_both_measures_and_both_limits() -> None:
    result = evaluate(ERRORS, errors((16, 2000), (20, 18_000)))
    assert (result.value, result.limit) == ("0.008 = 7.2x old", "0.01, 1.5x")
    assert str(result).startswith(
        "d errors: fail (0.008 = 7.2x old, limit 0.01, 1.5x, 2000 samples) 0.8 % errors, the old"
    )
    assert (result.ratio, result.times) == (pytest.approx(7.2), 1.5)


@pytest.mark.parametrize("gate", [ERRORS, LATENCY])
def test_at_100_percent_nobody_is_left_to_compare_with_and_the_answer_says_so(
    gate: GateConfig,
) -> None:
    fast, slow = {0.05: 2000.0, math.inf: 2000.0}, {0.05: 0.0, 0.2: 2000.0, math.inf: 2000.0}
    late = {"new": Count(2000, 0, fast), "old": Count(3, 0, fast)}
    result = evaluate(gate, Evidence("d", 100, Window(late)))  # type: ignore[arg-type]
    assert result.verdict == "pass"
    assert result.reason == "at 100 % nobody is on the old side to compare with"
    assert result.ratio is None
    bad = {"new": Count(2000, 50, slow)}
    result = evaluate(gate, Evidence("d", 100, Window(bad)))  # type: ignore[arg-type]
    assert result.verdict == "fail", "the absolute limit goes on"


def test_a_gateway_that_was_not_seen_leaves_it_open() -> None:
    seen = replace(errors((16, 2000), (20, 18_000)), blind={"gw-2": "refused"})
    assert evaluate(ERRORS, seen).verdict == "inconclusive"


counted = st.integers(0, 3000).flatmap(
    lambda number: st.tuples(st.integers(0, number), st.just(number))
)
factors = st.floats(1, 20)


@given(new=counted, old=counted)
def test_nothing_fails_by_comparison_without_enough_samples_on_both_sides(
    new: tuple[int, int], old: tuple[int, int]
) -> None:
    seen = errors(new, old)
    result = evaluate(ERRORS, seen)
    if result.verdict == "fail" and evaluate(with_(ERRORS, times=None), seen).verdict != "fail":
        assert min(new[1], old[1]) >= ERRORS.min_samples
        assert result.ratio is None or result.ratio > 1.5
    if result.verdict == "pass":
        assert min(new[1], old[1]) >= ERRORS.min_samples


@given(new=counted, old=counted, one=factors, other=factors)
def test_a_wider_factor_never_makes_errors_worse(
    new: tuple[int, int], old: tuple[int, int], one: float, other: float
) -> None:
    narrow, wide = sorted((one, other))
    seen = errors(new, old)
    verdicts = [evaluate(with_(ERRORS, times=times), seen).verdict for times in (narrow, wide)]
    assert RANK[verdicts[0]] >= RANK[verdicts[1]]


@given(new=counted, old=counted, one=st.floats(0, 0.9), other=st.floats(0, 0.9))
def test_a_higher_limit_never_makes_errors_worse(
    new: tuple[int, int], old: tuple[int, int], one: float, other: float
) -> None:
    low, high = sorted((one, other))
    verdicts = [evaluate(with_(ERRORS, max=m), errors(new, old)).verdict for m in (low, high)]
    assert RANK[verdicts[0]] >= RANK[verdicts[1]]


@pytest.mark.parametrize("part", [0.1, 0.5])
def test_rollouts_whose_errors_are_equal_fail_no_more_often_than_was_said(part: float) -> None:
    """At times = 1, with a look after each 400 requests, while both sides' rate rises tenfold."""
    random = np.random.default_rng(20240101)
    gate = with_(ERRORS, times=1.0, max=0.9)
    runs, looks = 250, 60
    rates = np.where(np.arange(looks) % 20 < 5, 0.05, 0.005)
    news = np.full((runs, looks), round(400 * part))
    olds = 400 - news
    new, old = random.binomial(news, rates).cumsum(1), random.binomial(olds, rates).cumsum(1)
    failed = 0
    for run in range(runs):
        failed += any(
            evaluate(
                gate,
                errors(
                    (new[run, look], news[run, : look + 1].sum()),
                    (old[run, look], olds[run, : look + 1].sum()),
                ),
            ).verdict
            == "fail"
            for look in range(looks)
        )
    assert failed / runs <= gate.alpha


# Latency


def test_a_new_side_that_is_as_fast_passes_and_one_twice_as_slow_fails() -> None:
    random = np.random.default_rng(7)
    old = took(random, 20_000, 15)
    same = evaluate(LATENCY, latencies(took(random, 4000, 15), old))
    slow = evaluate(LATENCY, latencies(took(random, 4000, 32), old))
    assert same.verdict == "pass"
    assert slow.verdict == "fail", "though it is below the absolute limit"
    assert slow.measured is not None
    assert slow.measured < 100
    assert slow.ratio == pytest.approx(32 / 15, rel=0.1)
    assert "more than 1.5 times and no chance, at 0.05: at least" in slow.reason


def test_a_factor_that_chance_explains_is_left_open() -> None:
    random = np.random.default_rng(7)
    result = evaluate(LATENCY, latencies(took(random, 300, 26), took(random, 300, 15)))
    assert result.verdict == "inconclusive"
    assert "may be chance" in result.reason


@pytest.mark.parametrize(
    ("new", "old", "verdict"),
    [
        ({0.05: 0.0, math.inf: 4000.0}, {0.05: 4000.0, math.inf: 4000.0}, "inconclusive"),
        ({0.05: 4000.0, math.inf: 4000.0}, {0.05: 0.0, math.inf: 4000.0}, "pass"),
        ({0.05: 0.0, math.inf: 4000.0}, {0.05: 0.0, math.inf: 4000.0}, "inconclusive"),
        ({0.05: 0.0, math.inf: 4000.0}, {0.01: 4000.0, 0.05: 4000.0, math.inf: 4000.0}, "fail"),
    ],
)
def test_what_lies_beyond_the_last_bucket(
    new: Mapping[float, float], old: Mapping[float, float], verdict: str
) -> None:
    """It is at least the last edge, and nobody knows how much more."""
    result = evaluate(LATENCY, latencies(Count(4000, 0, new), Count(4000, 0, old)))
    assert result.verdict == verdict, result


def test_a_slow_old_side_with_few_samples_is_waited_for() -> None:
    random = np.random.default_rng(7)
    result = evaluate(LATENCY, latencies(took(random, 4000, 32), took(random, 199, 15)))
    assert (result.verdict, result.reason) == (
        "inconclusive",
        "199 of 200 samples of the old side",
    )


def histogram(numbers: list[int]) -> Count:
    upto = map(float, np.cumsum(numbers))
    return Count(sum(numbers), 0, dict(zip(EDGES, upto, strict=True)))


histograms = st.lists(st.integers(0, 400), min_size=len(EDGES), max_size=len(EDGES)).map(histogram)


@given(new=histograms, old=histograms, one=factors, other=factors)
def test_a_wider_factor_never_makes_latency_worse(
    new: Count, old: Count, one: float, other: float
) -> None:
    narrow, wide = sorted((one, other))
    seen = latencies(new, old)
    verdicts = [evaluate(with_(LATENCY, times=times), seen).verdict for times in (narrow, wide)]
    assert RANK[verdicts[0]] >= RANK[verdicts[1]]


@given(new=histograms, old=histograms)
def test_slowness_is_never_proven_without_enough_samples_on_both_sides(
    new: Count, old: Count
) -> None:
    result = evaluate(with_(LATENCY, max_ms=5000), latencies(new, old))
    if result.verdict == "fail":
        assert min(new.requests, old.requests) >= LATENCY.min_samples


@pytest.mark.parametrize("part", [0.1, 0.5])
def test_rollouts_that_are_equally_fast_fail_no_more_often_than_was_said(part: float) -> None:
    """At times = 1, with a look after each 400 requests."""
    random = np.random.default_rng(20240101)
    gate = with_(LATENCY, times=1.0, max_ms=900)
    failed, runs = 0, 120
    for _ in range(runs):
        new = old = Count()
        for _ in range(25):
            new += took(random, round(400 * part), 15)
            old += took(random, 400 - round(400 * part), 15)
            if evaluate(gate, latencies(new, old)).verdict == "fail":
                failed += 1
                break
    assert failed / runs <= gate.alpha


# The configuration


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"times": 0.9}, "greater than or equal to 1"),
        ({"times": math.inf}, "less than or equal to 100"),
        ({"times": math.nan}, "less than or equal to 100"),
        ({"kind": "strays"}, "knows no times"),
        ({"times": None, "alpha": 0.01}, "knows no alpha"),
        ({"beta": 0.1}, "knows no beta"),
        ({"max": math.inf}, "finite"),
    ],
)
def test_a_limit_against_the_old_side_that_could_never_fail_is_refused(
    given: dict[str, Any], reason: str
) -> None:
    right = {"name": "errors", "kind": "error_rate", "max": 0.01, "times": 2, "alpha": 0.01}
    GateConfig.model_validate(right)
    with pytest.raises(ValidationError, match=reason):
        GateConfig.model_validate({**right, **given})
