"""The sequential test: false alarms, power, and what a bet may pay at most."""

import json
import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.statistics import (
    LEAST,
    POWER,
    SUREST,
    Block,
    Sample,
    Trial,
    fallen,
    nearest,
    paid,
    to_pass,
    to_see,
)

DAY = 1440  # looks: one a minute
ALPHA, BETA = 0.05, 0.2

samples = st.integers(0, 400).flatmap(lambda n: st.builds(Sample, st.just(n), st.integers(0, n)))
blocks = st.builds(Block, samples, samples)
shares = st.floats(0.01, 0.99)


def simulated(
    runs: int, looks: int, per_look: float, part: float, new: float, old: float, drop: float
) -> tuple[np.ndarray, np.ndarray]:
    """The highest `log_drop` and `log_sound` of so many rollouts, all at once.

    The same as `Trial.advanced`, which a test below holds it to, for all rollouts in one array.
    """
    random = np.random.default_rng(20240101)
    trials = Trials(runs, drop)
    for _ in range(looks):
        news = random.poisson(per_look * part, runs)
        olds = random.poisson(per_look * (1 - part), runs)
        trials.advance(
            np.array([news, random.binomial(news, new), olds, random.binomial(olds, old)])
        )
    return trials.highest_drop, trials.highest_sound


class Trials:
    """Many trials side by side. A block's rows: new, good of these, old, good of these."""

    def __init__(self, runs: int, drop: float) -> None:
        self.drop = drop
        self.open, self.total = np.zeros((4, runs)), np.zeros((4, runs))
        self.log_drop, self.log_sound = np.zeros(runs), np.zeros(runs)
        self.highest_drop, self.highest_sound = np.zeros(runs), np.zeros(runs)

    def advance(self, seen: np.ndarray) -> None:
        self.open += seen
        closed = np.minimum(self.open[0], self.open[2]) >= LEAST
        bet = np.flatnonzero(closed & (self.total[0] > 0))
        n, s, m, t = self.open[:, bet]
        total = self.total[:, bet]
        rate = (total[1] + total[3] + 0.5) / (total[0] + total[2] + 1)
        old = np.minimum(rate * (n + m) / (n * (1 - self.drop) + m), SUREST)

        def paid_by(new: np.ndarray, old: np.ndarray, ratio: float) -> np.ndarray:
            a, b, c = ratio * (n + m), n * (ratio + new) + m * (1 + ratio * old), n * new + m * old
            null = 2 * c / (b + np.sqrt(np.maximum(b * b - 4 * a * c, 0)))
            return (
                s * np.log(new / (ratio * null))
                + (n - s) * np.log((1 - new) / (1 - ratio * null))
                + t * np.log(old / null)
                + (m - t) * np.log((1 - old) / (1 - null))
            )

        self.log_drop[bet] += paid_by((1 - self.drop) * old, old, 1.0)
        self.log_sound[bet] += paid_by(rate, rate, 1 - self.drop)
        self.highest_drop = np.maximum(self.highest_drop, self.log_drop)
        self.highest_sound = np.maximum(self.highest_sound, self.log_sound)
        self.total[:, closed] += self.open[:, closed]
        self.open[:, closed] = 0


@given(seen=st.lists(blocks, max_size=8), drop=st.floats(0.01, 0.9))
def test_the_simulation_counts_as_the_module_does(seen: list[Block], drop: float) -> None:
    one, many = Trial(drop), Trials(1, drop)
    for block in seen:
        one = one.advanced(block)
        many.advance(
            np.array([[block.new.number], [block.new.good], [block.old.number], [block.old.good]])
        )
        assert one.log_drop == pytest.approx(many.log_drop[0], abs=1e-9)
        assert one.highest == pytest.approx(many.highest_drop[0], abs=1e-9)
        assert one.log_sound == pytest.approx(many.log_sound[0], abs=1e-9)


@pytest.mark.parametrize("part", [0.1, 0.5])
def test_of_10_000_rollouts_without_a_drop_no_more_fail_than_was_said(part: float) -> None:
    """A day with a look every minute, and four times the customers that a drop would take."""
    customers = 4 * to_see(0.2, 0.2, part, ALPHA)
    drops, _ = simulated(10_000, DAY, customers / DAY, part, 0.2, 0.2, 0.2)
    alarms = float((drops >= -math.log(ALPHA)).mean())
    assert 0.01 < alarms <= ALPHA


@pytest.mark.parametrize(("new", "old"), [(0.22, 0.2), (0.5, 0.1)])
def test_who_does_better_raises_even_fewer_alarms(new: float, old: float) -> None:
    drops, _ = simulated(2000, DAY, 20, 0.5, new, old, 0.2)
    assert (drops >= -math.log(ALPHA)).mean() < ALPHA / 2


@pytest.mark.parametrize("part", [0.1, 0.5])
def test_of_rollouts_with_the_drop_that_matters_few_ever_pass(part: float) -> None:
    customers = 4 * to_pass(0.2, 0.2, part, BETA)
    _, sound = simulated(4000, DAY, customers / DAY, part, 0.16, 0.2, 0.2)
    assert (sound >= -math.log(BETA)).mean() <= BETA


@pytest.mark.parametrize(
    ("rate", "drop", "part"),
    [(0.3, 0.1, 0.1), (0.3, 0.1, 0.5), (0.03, 0.2, 0.1), (0.8, 0.05, 0.5)],
)
def test_a_drop_is_seen_and_its_absence_passes_when_the_plan_says(
    rate: float, drop: float, part: float
) -> None:
    runs, looks = 4000, 400
    error = 3 * math.sqrt(POWER * (1 - POWER) / runs)
    customers = to_see(rate, drop, part, ALPHA)
    drops, _ = simulated(runs, looks, customers / looks, part, rate * (1 - drop), rate, drop)
    assert (drops >= -math.log(ALPHA)).mean() == pytest.approx(POWER, abs=error)
    customers = to_pass(rate, drop, part, BETA)
    _, sound = simulated(runs, looks, customers / looks, part, rate, rate, drop)
    assert (sound >= -math.log(BETA)).mean() == pytest.approx(POWER, abs=error)


def test_with_a_holdback_of_1_percent_the_plan_promises_rather_too_little() -> None:
    """Ten of the few who stayed close a block, of a thousand in all."""
    runs, looks, part = 2000, 400, 0.99
    error = 3 * math.sqrt(POWER * (1 - POWER) / runs)
    customers = to_see(0.3, 0.2, part, ALPHA)
    drops, _ = simulated(runs, looks, customers / looks, part, 0.24, 0.3, 0.2)
    customers = to_pass(0.3, 0.2, part, BETA)
    _, sound = simulated(runs, looks, customers / looks, part, 0.3, 0.3, 0.2)
    for reached in ((drops >= -math.log(ALPHA)).mean(), (sound >= -math.log(BETA)).mean()):
        assert POWER - error <= reached <= POWER + 0.05


def test_a_larger_drop_is_seen_sooner() -> None:
    customers = to_see(0.3, 0.1, 0.5, ALPHA) / 2
    drops, _ = simulated(1000, DAY, customers / DAY, 0.5, 0.24, 0.3, 0.1)
    assert (drops >= -math.log(ALPHA)).mean() > POWER


def test_what_a_plan_says_in_figures() -> None:
    """A tenth fewer of 3 %: two fifths more than a test with a single look would need."""
    assert to_see(0.03, 0.1, 0.5, ALPHA) == pytest.approx(111_000, rel=0.02)
    assert to_see(0.03, 0.1, 0.1, ALPHA) == pytest.approx(311_000, rel=0.02)
    assert to_pass(0.03, 0.1, 0.5, BETA) < to_see(0.03, 0.1, 0.5, ALPHA)


@given(
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    bet=st.tuples(shares, st.floats(0.01, 0.95)),
    low=shares,
    high=shares,
)
def test_no_shares_of_a_null_let_a_block_pay_more_than_it_costs(
    sizes: tuple[int, int], bet: tuple[float, float], low: float, high: float
) -> None:
    """Counted out over all outcomes: for both nulls, on their border and inside."""
    rate, drop = bet
    low, high = min(low, high), max(low, high)
    empty = Block(Sample(sizes[0]), Sample(sizes[1]))
    fell = fallen(rate, drop, empty)
    assert expected(empty, fell, 1.0, new=high, old=low) <= 1 + 1e-9
    assert expected(empty, (rate, rate), 1 - drop, new=low * (1 - drop), old=high) <= 1 + 1e-9


def expected(
    empty: Block, bet: tuple[float, float], ratio: float, *, new: float, old: float
) -> float:
    n, m = empty.new.number, empty.old.number
    total = 0.0
    for s, t in product(range(n + 1), range(m + 1)):
        chance = math.comb(n, s) * new**s * (1 - new) ** (n - s)
        chance *= math.comb(m, t) * old**t * (1 - old) ** (m - t)
        total += chance * math.exp(paid(Block(Sample(n, s), Sample(m, t)), *bet, ratio))
    return total


@given(new=shares, old=shares, sizes=st.tuples(st.integers(1, 500), st.integers(1, 500)))
def test_nearest_to_equal_shares_is_their_mean(
    new: float, old: float, sizes: tuple[int, int]
) -> None:
    block = Block(Sample(sizes[0]), Sample(sizes[1]))
    mean = (sizes[0] * new + sizes[1] * old) / sum(sizes)
    assert nearest(block, new, old, 1.0) == pytest.approx((mean, mean))


@given(before=st.lists(blocks, max_size=6), after=st.lists(blocks, max_size=6))
def test_who_goes_on_from_the_ledger_comes_to_the_same(
    before: list[Block], after: list[Block]
) -> None:
    here = Trial(0.1)
    for block in before:
        here = here.advanced(block)
    there = Trial.from_json(json.loads(json.dumps(here.to_json())))
    for block in after:
        here, there = here.advanced(block), there.advanced(block)
    assert here == there


@given(block=blocks)
def test_a_block_without_either_cohort_waits_for_more(block: Block) -> None:
    """However often one looks: evidence of a few is kept until it is worth something."""
    whole = Trial(0.1).advanced(Block(Sample(50, 5), Sample(50, 5)))
    halves = whole.advanced(Block(block.new)).advanced(Block(old=block.old))
    if min(block.new.number, block.old.number) >= LEAST > 0 and block.new.number:
        assert halves == whole.advanced(block)
    assert halves.total.new.number + halves.open.new.number == 50 + block.new.number


def test_proof_of_a_drop_stands_and_proof_of_soundness_is_of_the_present() -> None:
    fell = Trial(0.2)
    for _ in range(40):
        fell = fell.advanced(Block(Sample(100, 10), Sample(100, 20)))
    assert fell.proven(ALPHA)
    assert not fell.excluded(BETA)
    rose = fell
    for _ in range(200):
        rose = rose.advanced(Block(Sample(100, 25), Sample(100, 20)))
    assert rose.log_drop < 0
    assert rose.proven(ALPHA)
    assert rose.excluded(BETA)
    fallen_again = rose
    for _ in range(400):
        fallen_again = fallen_again.advanced(Block(Sample(100, 10), Sample(100, 20)))
    assert not fallen_again.excluded(BETA)
