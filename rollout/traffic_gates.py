"""Gates that ask what gateways counted: errors, latency, and the share that is served. Pure.

Errors and latency have a limit of their own, and may have one against the old side, in the same
window: what slows both sides down alike is no reason to bring anybody back. The absolute limit is a
plain threshold; the relative one speaks only of differences beyond chance, told by bounds that hold
however often one looks.
"""

import math
from collections.abc import Callable
from dataclasses import replace

from estate.config import GateConfig
from rollout.bounds import around, exceeds, wilson
from rollout.counters import Count
from rollout.seen import Answer, Evidence, judged, worst

# Standard errors around an observed share: by chance alone, one look in 370 is beyond them.
SHARE_Z = 3.0
# Errors come in bursts, of one customer for instance: fewer of the new side prove nothing.
FEWEST_ERRORS = 10
P95 = 0.95
ALL = 100


def error_rate(gate: GateConfig, evidence: Evidence) -> Answer:
    """Are too many of the new side's answers errors?"""
    new = evidence.window.side("new")
    if unknown := _unseen(gate, evidence, int(new.requests)):
        return unknown
    assert gate.max is not None  # the configuration has seen to it
    rate = new.errors / new.requests
    absolute = judged(rate, rate <= gate.max, int(new.requests))
    over = f"{_percent(rate)} errors, more than {_percent(gate.max)}"
    return _beside(gate, evidence, absolute, over, _more_errors)


def latency_p95(gate: GateConfig, evidence: Evidence) -> Answer:
    """Do 95 of 100 answers of the new side come in time?"""
    new = evidence.window.side("new")
    observed = _observed(new)
    if unknown := _unseen(gate, evidence, observed):
        return unknown
    assert gate.max_ms is not None  # the configuration has seen to it
    seconds = new.quantile(P95)
    if seconds is None or math.isnan(seconds):
        return Answer("inconclusive", None, observed, "the histogram holds no value")
    if math.isinf(seconds):
        edge = _last_edge_ms(new)
        if edge >= gate.max_ms:
            absolute = Answer("fail", edge, observed, f"beyond the last bucket, {edge:g} ms")
        else:
            absolute = Answer("inconclusive", None, observed, f"buckets end at {edge:g} ms")
    else:
        absolute = judged(1000 * seconds, 1000 * seconds <= gate.max_ms, observed)
    over = f"p95 {1000 * seconds:.4g} ms, more than {gate.max_ms:g} ms"
    return _beside(gate, evidence, absolute, over, _slower)


def share(gate: GateConfig, evidence: Evidence) -> Answer:
    """Does the observed share agree with the percentage that was asked for?

    A percentage moves customers, and each brings many requests: so customers are counted, where the
    gateways tell them. Requests are not independent of each other, and their number would promise
    a precision that is not there.
    """
    window = evidence.window
    number, what = window.customers, "customers"
    if number is None:
        number, what = window.side("new").requests + window.side("old").requests, "requests"
    if unknown := _unseen(gate, evidence, int(number)):
        return unknown
    assert gate.tolerance is not None  # the configuration has seen to it
    observed = window.share or 0.0
    wanted, tolerance = evidence.percentage / 100, gate.tolerance
    off = abs(observed - wanted)
    low, high = wilson(observed, number, SHARE_Z)
    reason = f"{100 * observed:.1f} % of the {what} observed, {evidence.percentage} % asked"
    if off <= tolerance:
        return Answer("pass", off, int(number), reason)
    if low > wanted + tolerance or high < wanted - tolerance:
        return Answer("fail", off, int(number), reason)
    if what == "customers" and low <= wanted <= high:
        return Answer("pass", off, int(number), f"{reason}: no more than chance")
    return Answer("inconclusive", off, int(number), f"{reason}: may be chance")


def _unseen(gate: GateConfig, evidence: Evidence, samples: int) -> Answer | None:
    """Why traffic cannot be judged; None when it can."""
    if evidence.blind:
        told = "; ".join(f"{url}: {why}" for url, why in sorted(evidence.blind.items()))
        return Answer("inconclusive", None, samples, f"not every gateway was seen: {told}")
    if samples < gate.min_samples:
        reason = f"{samples} of {gate.min_samples} samples"
        return Answer("inconclusive", None, samples, reason)
    return None


# Against the old side


def _beside(
    gate: GateConfig,
    evidence: Evidence,
    absolute: Answer,
    over: str,
    against: Callable[[GateConfig, float, Count, Count], Answer],
) -> Answer:
    """The absolute limit, and that against the old side where there is one: both have to hold.

    over: what is told when the absolute one does not
    """
    if gate.times is None:
        return absolute
    if absolute.verdict == "fail" and not absolute.reason:
        absolute = replace(absolute, reason=over)
    if evidence.percentage >= ALL:
        relative = Answer("pass", None, 0, "at 100 % nobody is on the old side to compare with")
    else:
        sides = evidence.window.side("new"), evidence.window.side("old")
        relative = against(gate, gate.times, *sides)
    return replace(
        absolute,
        verdict=worst((absolute.verdict, relative.verdict)),
        reason="; ".join(part for part in (absolute.reason, relative.reason) if part),
        ratio=relative.ratio,
    )


def _more_errors(gate: GateConfig, times: float, new: Count, old: Count) -> Answer:
    """Are errors of the new side more than `times` as frequent as the old side's?

    If they are not, the new side has at most a certain part of all errors: each error is a sample
    of that part, also while the rate of both sides rises and falls.
    """
    few = _too_few(gate, new.requests, old.requests)
    if few is not None:
        return few
    rate, other, samples = new.errors / new.requests, old.errors / old.requests, int(new.requests)
    errors = new.errors + old.errors
    ratio = rate / other if other else None
    told = f"{_percent(rate)} errors, the old side {_percent(other)} of {old.requests:,.0f}"
    told += "" if ratio is None else f": {ratio:.3g} times"
    if rate <= times * other:
        return Answer("pass", rate, samples, told, ratio)
    part = times * new.requests / (times * new.requests + old.requests)
    if wilson(new.errors / errors, errors, SHARE_Z)[0] <= part:
        return Answer("pass", rate, samples, f"{told}, no more than chance", ratio)
    if new.errors >= FEWEST_ERRORS and exceeds(new.errors, errors, part, gate.alpha):
        return Answer("fail", rate, samples, f"{told}, {_beyond(gate)}", ratio)
    return Answer("inconclusive", rate, samples, f"{told}, {_maybe(gate)}", ratio)


def _slower(gate: GateConfig, times: float, new: Count, old: Count) -> Answer:
    """Is the new side's p95 more than `times` the old side's?

    Each p95 lies between two order statistics, interpolated within their buckets as the percentile
    itself is: so sides of one distribution are equal, however wide the buckets.
    """
    number, others = _observed(new), _observed(old)
    few = _too_few(gate, number, others)
    if few is not None:
        return few
    here, there = _ms(new, P95), _ms(old, P95)
    both = f"p95 {_told_ms(here, new)}, the old side's {_told_ms(there, old)} of {others:,}"
    if math.isinf(there):
        return Answer("inconclusive" if math.isinf(here) else "pass", here, number, both)
    ratio = None if math.isinf(here) else here / there
    told = both if ratio is None else f"{both}: {ratio:.3g} times"
    if ratio is not None and ratio <= times:
        return Answer("pass", here, number, told, ratio)
    low, _ = around(P95, number, gate.alpha / 2)
    _, high = around(P95, others, gate.alpha / 2)
    least = min(_ms(new, low), _last_edge_ms(new))
    most = math.inf if high is None else _ms(old, high)
    if least > times * most:
        certain = f"at least {least:.4g} ms against at most {most:.4g} ms"
        return Answer("fail", here, number, f"{told}, {_beyond(gate)}: {certain}", ratio)
    return Answer("inconclusive", here, number, f"{told}, {_maybe(gate)}", ratio)


def _too_few(gate: GateConfig, new: float, old: float) -> Answer | None:
    """Why the sides cannot be compared; None when they can."""
    if old >= gate.min_samples:
        return None
    reason = f"{old:.0f} of {gate.min_samples} samples of the old side"
    return Answer("inconclusive", None, int(new), reason)


def _beyond(gate: GateConfig) -> str:
    return f"more than {gate.times:g} times and no chance, at {gate.alpha:g}"


def _maybe(gate: GateConfig) -> str:
    return f"more than {gate.times:g} times, and may be chance"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _observed(count: Count) -> int:
    """How many answers the histogram holds."""
    return int(max(count.buckets.values(), default=0))


def _ms(count: Count, share: float) -> float:
    """A quantile of a histogram that is not empty; inf beyond its last finite edge."""
    return 1000 * (count.quantile(share) or 0.0)


def _last_edge_ms(count: Count) -> float:
    return 1000 * max((edge for edge in count.buckets if not math.isinf(edge)), default=0.0)


def _told_ms(ms: float, count: Count) -> str:
    return f"beyond {_last_edge_ms(count):g} ms" if math.isinf(ms) else f"{ms:.4g} ms"
