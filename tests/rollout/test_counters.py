"""Windows over counters: growth is added up, restarts and gateways that come later included."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.counters import Count, Side, Snapshot, Window


def look(**gateways: float) -> Snapshot:
    return Snapshot({url: {"d": {"new": count(n)}} for url, n in gateways.items()})


def count(n: float) -> Count:
    return Count(n, n / 10, {0.1: n / 2, math.inf: n})


def test_what_was_counted_before_does_not_belong_to_it() -> None:
    window = Window.opened(look(a=100, b=50), "d").advanced(look(a=130, b=50), "d")
    assert window.side("new") == count(30)
    assert window.side("old") == Count()


def test_a_gateway_that_began_anew_counts_from_zero() -> None:
    window = Window.opened(look(a=100), "d").advanced(look(a=130), "d").advanced(look(a=7), "d")
    assert window.side("new").requests == 37


def test_one_figure_that_shrank_means_that_all_began_at_zero() -> None:
    before = Snapshot({"a": {"d": {"new": count(10), "old": count(500)}}})
    after = Snapshot({"a": {"d": {"new": count(12), "old": count(20)}}})
    window = Window.opened(before, "d").advanced(after, "d")
    assert window.side("new").requests == 12
    assert window.side("old").requests == 20


def test_a_gateway_seen_later_begins_to_count_there() -> None:
    window = Window.opened(look(a=10), "d").advanced(look(a=11, b=1000), "d")
    assert window.side("new").requests == 1
    assert window.advanced(look(a=11, b=1003), "d").side("new").requests == 4


def test_a_gateway_that_misses_a_look_loses_nothing() -> None:
    window = Window.opened(look(a=10, b=10), "d").advanced(look(a=20), "d")
    assert window.advanced(look(a=30, b=40), "d").side("new").requests == 50


def test_what_was_told_before_a_step_says_nothing_of_the_phase_after_it() -> None:
    """Through a store counters come late: the first look may still show the phase before."""

    def told(epoch: float, **gateways: float) -> Snapshot:
        return replace(look(**gateways), epochs={url: {"d": epoch} for url in gateways})

    early = told(4, a=1000).under("d", 5)
    assert early.problems == {"a": "it was not seen under the flags of the step yet"}
    assert not early.complete
    window = Window.opened(early, "d").advanced(told(4, a=1200).under("d", 5), "d")
    assert window == Window()
    window = window.advanced(told(5, a=1500).under("d", 5), "d")
    assert window.side("new") == Count(), "from here on it counts"
    assert window.advanced(told(5, a=1503).under("d", 5), "d").side("new").requests == 3


def test_an_epoch_that_nobody_tells_hides_nobody() -> None:
    for found in (look(a=1), replace(look(a=1), epochs={"a": {"d": 0.0}})):
        assert found.under("d", 5).complete


def test_customers_of_a_gateway_that_is_gone_are_not_counted_for_ever() -> None:
    def seen(**customers: float) -> Snapshot:
        sides = {url: {"new": Count(customers=n), "old": Count(customers=10)} for url, n in
                 customers.items()}  # fmt: skip
        return Snapshot({url: {"d": counts} for url, counts in sides.items()})  # type: ignore[arg-type]

    window = Window.opened(seen(a=90), "d").advanced(seen(a=90, b=10), "d")
    assert window.share == 100 / 120
    # Missed: its customers are still there. Gone: they are not.
    missed = replace(seen(b=10), problems={"a": "no answer in time"})
    assert window.advanced(missed, "d").share == 100 / 120
    assert window.advanced(Snapshot(problems={"prometheus": "away"}), "d").share == 100 / 120
    gone = window.advanced(seen(b=10), "d")
    assert (gone.share, gone.customers) == (0.5, 20)


def test_the_first_request_of_a_side_counts_from_nothing() -> None:
    window = Window.opened(Snapshot({"a": {}}), "d").advanced(look(a=3), "d")
    assert window.side("new").requests == 3


def test_it_survives_the_ledger() -> None:
    window = Window.opened(look(a=10), "d").advanced(look(a=25), "d")
    assert Window.from_json(window.to_json()) == window
    assert Window.from_json({}) == Window()


def test_the_share() -> None:
    assert Window().share is None
    assert Window({"new": count(1), "old": count(3)}).share == 0.25


def test_a_quantile_is_interpolated_within_its_bucket() -> None:
    values = Count(100, 0, {0.1: 90, 0.2: 100, math.inf: 100})
    assert values.quantile(0.95) == pytest.approx(0.15)
    assert values.quantile(0.45) == pytest.approx(0.05)
    assert Count(10, 0, {0.1: 1, math.inf: 10}).quantile(0.95) == math.inf
    assert Count().quantile(0.95) is None
    assert Count(1, 0, {0.1: 0, math.inf: 0}).quantile(0.5) is None


def test_a_look_is_complete_when_every_gateway_was_seen() -> None:
    assert look(a=1).complete
    assert not Snapshot().complete
    assert not Snapshot({"a": {}}, {"b": "away"}).complete


steps = st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=30)


@given(steps=steps)
def test_restarts_between_looks_are_counted_right(steps: list[tuple[int, bool]]) -> None:
    """A restart is seen when the new process has counted less: the growth is then exact."""
    counter, truth = 1000.0, 0.0
    window = Window.opened(look(a=counter), "d")
    for grown, restarted in steps:
        # Within one look a new process stays below what the old one had.
        anew = restarted and grown < counter
        counter = (0.0 if anew else counter) + grown
        truth += grown
        window = window.advanced(look(a=counter), "d")
    side: Side = "new"
    assert window.side(side).requests == pytest.approx(truth)
