"""Gates: the same evidence, the same answer; no data is never a pass and never a fail."""

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from estate.config import GateConfig
from rollout.counters import Count, Window
from rollout.gates import asked, evaluate, overall, threshold
from rollout.seen import AnswerSeen, Evidence, StreamSeen, VerdictSeen

ERRORS = GateConfig(name="errors", kind="error_rate", max=0.01, min_samples=200)
LATENCY = GateConfig(name="p95", kind="latency_p95", max_ms=100, min_samples=200)
SHARE = GateConfig(name="share", kind="share", tolerance=0.05, min_samples=100)
SAME = GateConfig(name="same", kind="consistency", max_age=timedelta(minutes=10))
LAG = GateConfig(name="lag", kind="sync_lag", max_ms=2000)
STRAYS = GateConfig(name="strays", kind="strays", max=0)
ALL = [ERRORS, LATENCY, SHARE, SAME, LAG, STRAYS]


def count(requests: float, errors: float = 0, fast: float = 1.0) -> Count:
    return Count(requests, errors, {0.05: requests * fast, 1.0: requests, math.inf: requests})


def stream(name: str, **changed: Any) -> StreamSeen:
    whole = StreamSeen(f"d.{name}", True, 30.0, 400.0, 0)
    return replace(whole, **changed)


def evidence(**changed: Any) -> Evidence:
    good = Evidence(
        domain="d",
        percentage=10,
        window=Window({"new": count(1000), "old": count(9000)}),
        verdict=VerdictSeen("equal", 60.0),
        streams=(stream("forward"), stream("reverse")),
        lags=(30.0,) * 5,
    )
    return replace(good, **changed)


def answers(**changed: Any) -> dict[str, str]:
    return {gate.name: evaluate(gate, evidence(**changed)).verdict for gate in ALL}


def test_good_evidence_passes_every_gate() -> None:
    assert set(answers().values()) == {"pass"}


@pytest.mark.parametrize(
    ("errors", "requests", "verdict"),
    [
        (10, 1000, "pass"),
        (11, 1000, "fail"),
        (50, 1000, "fail"),
        (199, 199, "inconclusive"),
        (0, 0, "inconclusive"),
        (200, 200, "fail"),
    ],
)
def test_error_rate_of_the_new_side(errors: int, requests: int, verdict: str) -> None:
    window = Window({"new": count(requests, errors), "old": count(9000, 9000)})
    result = evaluate(ERRORS, evidence(window=window))
    assert result.verdict == verdict
    assert result.samples == requests
    if verdict != "inconclusive":
        assert result.measured == pytest.approx(errors / requests)


@pytest.mark.parametrize(
    ("fast", "verdict"), [(1.0, "pass"), (0.95, "pass"), (0.90, "fail"), (0.0, "fail")]
)
def test_the_95th_percentile_is_absolute(fast: float, verdict: str) -> None:
    window = Window({"new": count(1000, fast=fast)})
    assert evaluate(LATENCY, evidence(window=window)).verdict == verdict


def test_a_percentile_beyond_the_last_bucket() -> None:
    beyond = Count(1000, 0, {0.05: 0, math.inf: 1000})
    result = evaluate(LATENCY, evidence(window=Window({"new": beyond})))
    assert result.verdict == "inconclusive"
    reaching = Count(1000, 0, {0.2: 0, math.inf: 1000})
    result = evaluate(LATENCY, evidence(window=Window({"new": reaching})))
    assert (result.verdict, result.measured) == ("fail", 200.0)


def test_a_histogram_without_buckets_is_no_answer() -> None:
    window = Window({"new": Count(5000, 0, {})})
    assert evaluate(LATENCY, evidence(window=window)).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("new", "old", "percentage", "verdict"),
    [
        (1000, 9000, 10, "pass"),
        (1400, 8600, 10, "pass"),
        (3000, 7000, 10, "fail"),
        (0, 10000, 10, "fail"),
        (0, 99, 10, "inconclusive"),
        (18, 82, 10, "inconclusive"),
        (10000, 0, 100, "pass"),
        (5000, 5000, 100, "fail"),
    ],
)
def test_the_observed_share(new: int, old: int, percentage: int, verdict: str) -> None:
    window = Window({"new": count(new), "old": count(old)})
    result = evaluate(SHARE, evidence(window=window, percentage=percentage))
    assert result.verdict == verdict


def shoppers(new: int, old: int, requests: int) -> Window:
    """Customers as two gateways saw all of them, who brought so many requests to each side."""
    seen = {"new": Count(customers=new), "old": Count(customers=old)}
    return Window({"new": count(requests), "old": count(requests)}, {"gw-1": seen, "gw-2": seen})


@pytest.mark.parametrize(
    ("new", "old", "percentage", "verdict"),
    [
        (170, 208, 50, "pass"),  # 45.0 % of 378: one and a half standard errors away from 50 %
        (40, 340, 50, "fail"),  # 10.5 %: the flags of the phase before are served
        (0, 378, 10, "fail"),
        (1700, 2080, 50, "inconclusive"),  # not chance any more, and maybe within the tolerance
        (16_000, 21_800, 50, "fail"),  # 42.3 %, for certain
        (49, 50, 50, "inconclusive"),  # 99 of the 100 that are asked for
        (378, 0, 100, "pass"),
    ],
)
def test_the_share_of_customers(new: int, old: int, percentage: int, verdict: str) -> None:
    """However many requests they bring: a few busy customers say nothing about the flags."""
    seen = evidence(window=shoppers(new, old, 50_000), percentage=percentage)
    result = evaluate(SHARE, seen)
    assert result.verdict == verdict, result
    assert result.samples == new + old


def test_nobody_seen_yet_is_not_taken_for_a_gateway_that_does_not_count_customers() -> None:
    """All gateways began anew: what they answered before is no evidence about these flags."""
    result = evaluate(SHARE, evidence(window=shoppers(0, 0, 50_000), percentage=10))
    assert (result.verdict, result.samples) == ("inconclusive", 0)


def test_only_customers_of_one_gateway_are_surely_different_ones() -> None:
    busy = {"new": Count(customers=60), "old": Count(customers=60)}
    idle = {"new": Count(customers=1), "old": Count()}
    window = Window({}, {"gw-1": busy, "gw-2": idle, "gw-3": {}})
    assert window.customers == 120
    assert window.share == 61 / 121


def test_a_share_that_customers_cannot_explain_is_told_by_requests_where_nobody_counts_them() -> (
    None
):
    window = Window({"new": count(1374), "old": count(1685)})
    result = evaluate(SHARE, evidence(window=window, percentage=50))
    assert result.verdict == "inconclusive"
    assert "44.9 % of the requests" in result.reason


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (None, "inconclusive"),
        (VerdictSeen("equal", 599), "pass"),
        (VerdictSeen("equal", 601), "inconclusive"),
        (VerdictSeen("equal", 1, covers_now=False), "inconclusive"),
        (VerdictSeen("inconclusive", 1), "inconclusive"),
        (VerdictSeen("different", 1), "fail"),
        (VerdictSeen("different", 9999, covers_now=False), "fail"),
    ],
)
def test_consistency(seen: VerdictSeen | None, verdict: str) -> None:
    assert evaluate(SAME, evidence(verdict=seen)).verdict == verdict


def test_one_stutter_is_not_a_fail_but_a_lasting_lag_is() -> None:
    slow = (stream("forward", lag_ms=5000.0), stream("reverse"))
    once = evidence(streams=slow, lags=(30.0,) * 9 + (5000.0,))
    lasting = evidence(streams=slow, lags=(5000.0,) * 10)
    assert evaluate(LAG, once).verdict == "inconclusive"
    assert evaluate(LAG, lasting).verdict == "fail"
    again = evidence(lags=(5000.0,) * 9 + (30.0,))
    assert evaluate(LAG, again).verdict == "pass"


@pytest.mark.parametrize(
    "broken",
    [
        {"streams": ()},
        {"streams": (), "streams_problem": "the database is away"},
        {"streams": (stream("forward", alive=False), stream("reverse"))},
        {"streams": (stream("forward", lag_ms=None), stream("reverse"))},
        {"streams": (stream("forward", lag_ms=math.nan), stream("reverse"))},
        {"streams": (stream("forward", problem="no route"), stream("reverse"))},
    ],
)
def test_a_sync_that_cannot_be_asked_is_no_answer(broken: dict[str, Any]) -> None:
    result = evaluate(LAG, evidence(**broken, lags=(9999.0,) * 10))
    assert result.verdict == "inconclusive"
    assert result.reason


def test_an_old_heartbeat_is_no_answer_however_far_our_own_cursor_is() -> None:
    """The last batch was quick; but nothing that the source sent since then has come round."""
    stuck = stream("forward", alive=False, lag_ms=5.0, heartbeat_age_ms=14_000.0)
    result = evaluate(LAG, evidence(streams=(stuck, stream("reverse")), lags=(5.0,) * 10))
    assert result.verdict == "inconclusive"
    assert "the last heartbeat that came round was sent 14 s ago" in result.reason


@pytest.mark.parametrize("max_ms", [9000, 60_000, math.inf])
def test_a_lag_that_would_count_as_a_dead_worker_first_is_refused(max_ms: float) -> None:
    with pytest.raises(ValidationError, match=r"never fails|finite"):
        GateConfig(name="lag", kind="sync_lag", max_ms=max_ms)


def test_strays_count_also_while_the_worker_is_away() -> None:
    dead = (stream("forward", alive=False, strays=1), stream("reverse"))
    assert evaluate(STRAYS, evidence(streams=dead)).verdict == "fail"
    assert evaluate(STRAYS, evidence(streams=())).verdict == "inconclusive"


def test_no_strays_of_a_dead_worker_are_no_pass() -> None:
    dead = (stream("forward", alive=False), stream("reverse"))
    assert evaluate(STRAYS, evidence(streams=dead)).verdict == "inconclusive"


def test_one_gateway_that_was_not_seen_leaves_traffic_unjudged() -> None:
    window = Window({"new": count(1000, 900, fast=0.0), "old": count(1)})
    found = answers(window=window, blind={"gw-2": "connection refused"})
    assert {found[name] for name in ("errors", "p95", "share")} == {"inconclusive"}
    result = evaluate(ERRORS, evidence(window=window, blind={"gw-2": "connection refused"}))
    assert "gw-2: connection refused" in result.reason


def test_at_0_percent_only_what_needs_no_traffic_is_asked() -> None:
    assert [g.kind for g in asked(ALL, "d", 0)] == ["consistency", "sync_lag", "strays"]
    assert len(asked(ALL, "d", 10)) == 6
    mine = ERRORS.model_copy(update={"domains": ["other"]})
    assert asked([mine], "d", 10) == []


def test_a_limit_is_found_whatever_its_unit() -> None:
    assert [threshold(gate) for gate in ALL] == [0.01, 100, 0.05, 600.0, 2000, 0]


def test_one_word_for_all() -> None:
    good, bad = evaluate(ERRORS, evidence()), evaluate(STRAYS, evidence(streams=()))
    worst = evaluate(SAME, evidence(verdict=VerdictSeen("different", 1)))
    assert overall([good]) == "pass"
    assert overall([good, bad]) == "inconclusive"
    assert overall([bad, worst, good]) == "fail"
    assert overall([]) == "pass"


def test_an_answer_reads_as_a_line() -> None:
    assert str(evaluate(ERRORS, evidence())) == "d errors: pass (0, limit 0.01, 1000 samples)"


numbers = st.integers(0, 3000)


@given(requests=numbers, errors=numbers, old=numbers, percentage=st.sampled_from([10, 50, 100]))
def test_without_every_gateway_traffic_gates_never_decide(
    requests: int, errors: int, old: int, percentage: int
) -> None:
    window = Window({"new": count(requests, min(errors, requests)), "old": count(old)})
    seen = evidence(window=window, percentage=percentage, blind={"gw-1": "away"})
    assert {evaluate(g, seen).verdict for g in (ERRORS, LATENCY, SHARE)} == {"inconclusive"}


@given(requests=st.integers(0, 199), errors=numbers)
def test_below_the_minimum_nothing_fails(requests: int, errors: int) -> None:
    window = Window({"new": count(requests, min(errors, requests), fast=0.0)})
    for gate in (ERRORS, LATENCY):
        assert evaluate(gate, evidence(window=window)).verdict == "inconclusive"


ASKED = GateConfig(
    name="complaints",
    kind="question",
    question="More complaints?",
    good="no",
    asked_of="carla",
    on_fail="hold",
)


@pytest.mark.parametrize(
    ("word", "verdict"), [(None, "inconclusive"), ("no", "pass"), ("yes", "fail")]
)
def test_a_question_is_answered_by_a_person_or_not_at_all(word: str | None, verdict: str) -> None:
    told = {"complaints": AnswerSeen(word, f"{word}, said ann")} if word else {}
    result = evaluate(ASKED, evidence(answers=told))
    assert (result.verdict, result.on_fail) == (verdict, "hold")
    assert ("carla is asked: More complaints?" in result.reason) == (word is None)
    assert ("said ann" in result.reason) == (word is not None)
    assert asked([ASKED], "d", 0) == [], "nobody is on the new side: there is nothing to ask"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"good": None}, "which answer is good"),
        ({"asked_of": None}, "asked_of"),
        ({"question": None}, "exactly one limit: question"),
        ({"max": 1.0}, "exactly one limit: question"),
        ({"kind": "strays", "question": None, "max": 1.0}, "belong to a question"),
        ({"on_fail": "panic"}, "rollback"),
    ],
)
def test_a_question_that_nobody_could_answer_is_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        GateConfig.model_validate({**ASKED.model_dump(), **given})
