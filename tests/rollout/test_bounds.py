"""Bounds of a share: what they promise holds at every look at once."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.bounds import around, exceeds, lean, wilson

ALPHA = 0.05

numbers = st.integers(1, 10**6)
shares = st.floats(0.001, 0.999)


@given(share=st.floats(0, 1), number=numbers)
def test_wilsons_bounds_hold_the_share(share: float, number: int) -> None:
    low, high = wilson(share, number, 3.0)
    assert low - 1e-9 <= share <= high + 1e-9
    assert -1e-9 <= low <= high <= 1 + 1e-9


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("number", [1, 7, 40])
def test_a_sample_pays_1_on_average_if_the_share_is_the_true_one(share: float, number: int) -> None:
    """The sum over all samples there can be: so it is a martingale, whatever the true share."""
    total = sum(
        math.comb(number, good)
        * share**good
        * (1 - share) ** (number - good)
        * math.exp(lean(good, number, share))
        for good in range(number + 1)
    )
    assert total == pytest.approx(1.0)


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_of_rollouts_at_the_limit_no_more_are_told_to_be_beyond_it_than_was_said(
    share: float,
) -> None:
    """Looked at a hundred times while samples come in."""
    random = np.random.default_rng(20240101)
    good = random.binomial(12, share, (2000, 100)).cumsum(axis=1)
    beyond = [
        any(exceeds(float(n), 12.0 * (look + 1), share, ALPHA) for look, n in enumerate(run))
        for run in good
    ]
    assert 0.002 < np.mean(beyond) <= ALPHA


@given(good=st.integers(0, 500), bad=st.integers(0, 500), share=shares, more=shares)
def test_what_is_proven_to_exceed_a_share_exceeds_every_smaller_one(
    good: int, bad: int, share: float, more: float
) -> None:
    low, high = sorted((share, more))
    number = good + bad
    if number and exceeds(good, number, high, ALPHA):
        assert exceeds(good, number, low, ALPHA)


@given(share=shares, number=numbers)
def test_the_bounds_around_a_share_are_the_edges_of_what_agrees_with_it(
    share: float, number: int
) -> None:
    low, high = around(share, number, ALPHA)
    assert 0 <= low <= share
    assert low == 0 or lean(low * number, number, share) >= -math.log(ALPHA) - 1e-6
    assert high is None or share <= high <= 1
    if high is None:
        assert lean(number, number, share) < -math.log(ALPHA)


def test_more_samples_draw_the_bounds_together() -> None:
    few, many = around(0.95, 500, ALPHA), around(0.95, 50_000, ALPHA)
    assert few[0] < many[0] < 0.95
    assert many[1] is not None
    assert few[1] is not None
    assert 0.95 < many[1] < few[1]
    assert around(0.95, 100, ALPHA)[1] is None, "100 samples below a value are no proof of 95 %"
