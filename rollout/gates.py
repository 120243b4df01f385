"""Gates: questions put to evidence. Pure: the same evidence always gives the same answers.

No data is no answer (law L6): whatever is missing makes a gate `inconclusive` and says why. A
`fail` needs as many samples as a `pass`.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from estate.config import GateConfig
from rollout.counters import Window
from rollout.statistics import Sample, Trial

Word = Literal["pass", "fail", "inconclusive"]
# These look at customers on the new side; at 0 % there are none to look at.
TRAFFIC = ("error_rate", "latency_p95", "share", "conversion", "rate", "duration", "question")
# How many there are is told by comparison with those who stayed; at 100 % nobody has.
AMONG_OTHERS = ("rate",)
# A lag fails when it was too high this many looks in a row: one stutter brings nobody back.
LAG_LOOKS = 10
# Standard errors around an observed share: by chance alone, one look in 370 is beyond them.
SHARE_Z = 3.0
# A question wants so many answers in each phase.
ONE_ANSWER = 1.0


@dataclass(frozen=True)
class VerdictSeen:
    """The latest verification of a domain; `covers_now`: begun after customers last moved."""

    verdict: str
    age_s: float
    covers_now: bool = True


@dataclass(frozen=True)
class StreamSeen:
    """One direction of the sync at the moment; what could not be asked is None."""

    name: str
    alive: bool
    lag_ms: float | None
    heartbeat_age_ms: float | None
    strays: int
    waiting: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class DataSeen:
    """What a gate's query has counted since the phase began.

    trial: of kinds that compare, with its `control`; due: subjects that had to be done by now, and
    those that were done in time; problem: why the latest could not be counted
    """

    trial: Trial | None = None
    due: Sample | None = None
    control: str = ""
    problem: str | None = None


@dataclass(frozen=True)
class AnswerSeen:
    """What a person answered to a gate's question in this phase; `told`: who, when, and why."""

    word: str
    told: str


@dataclass(frozen=True)
class Evidence:
    """All that the gates of one domain may look at.

    blind: gateways whose counters could not be read, with the reason
    window: what gateways counted since the phase began
    lags: the slower direction's lag in ms at the latest looks, oldest first; None: not known
    data: what was counted in the databases, by the gate's name
    answers: of persons, in this phase, by the gate's name
    """

    domain: str
    percentage: int
    window: Window = field(default_factory=Window)
    blind: Mapping[str, str] = field(default_factory=dict)
    verdict: VerdictSeen | None = None
    streams: tuple[StreamSeen, ...] = ()
    streams_problem: str | None = None
    lags: tuple[float | None, ...] = ()
    data: Mapping[str, DataSeen] = field(default_factory=dict)
    answers: Mapping[str, AnswerSeen] = field(default_factory=dict)


@dataclass(frozen=True)
class GateResult:
    """A gate's answer. `measured` and `threshold` are in the gate's own unit.

    on_fail: what a fail brings: rollback, hold (no step up) or tell (in nobody's way)
    """

    domain: str
    name: str
    kind: str
    verdict: Word
    measured: float | None
    threshold: float
    samples: int
    reason: str
    on_fail: str = "rollback"

    @property
    def figures(self) -> str:
        """What was measured, against what."""
        value = "no value" if self.measured is None else f"{self.measured:.4g}"
        return f"{value}, limit {self.threshold:g}, {self.samples} samples"

    def __str__(self) -> str:
        told = f"{self.domain} {self.name}: {self.verdict} ({self.figures}) {self.reason}"
        return told.rstrip()


@dataclass(frozen=True)
class _Answer:
    verdict: Word
    measured: float | None
    samples: int
    reason: str = ""


def asked(gates: Iterable[GateConfig], domain: str, percentage: int) -> list[GateConfig]:
    """The gates that apply to a domain at a percentage."""
    return [
        gate
        for gate in gates
        if (gate.domains is None or domain in gate.domains)
        and (percentage > 0 or gate.kind not in TRAFFIC)
        and (percentage < 100 or gate.kind not in AMONG_OTHERS)
    ]


def evaluate(gate: GateConfig, evidence: Evidence) -> GateResult:
    """Put one gate's question to the evidence."""
    answer = _KINDS[gate.kind](gate, evidence)
    return GateResult(
        domain=evidence.domain,
        name=gate.name,
        kind=gate.kind,
        verdict=answer.verdict,
        measured=answer.measured,
        threshold=threshold(gate),
        samples=answer.samples,
        reason=answer.reason,
        on_fail=gate.on_fail,
    )


def threshold(gate: GateConfig) -> float:
    """The gate's limit as a number: a share, milliseconds, seconds or a count."""
    if gate.question is not None:
        return ONE_ANSWER
    if gate.max_age is not None:
        return gate.max_age.total_seconds()
    for value in (gate.max, gate.max_ms, gate.tolerance, gate.drop, gate.share):
        if value is not None:
            return value
    raise ValueError(f"gate {gate.name} has no limit")


def overall(results: Iterable[GateResult]) -> Word:
    """One word for all: a fail counts most, then what is not known. No gates at all: pass."""
    verdicts = {result.verdict for result in results}
    if "fail" in verdicts:
        return "fail"
    return "inconclusive" if "inconclusive" in verdicts else "pass"


def _error_rate(gate: GateConfig, evidence: Evidence) -> _Answer:
    new = evidence.window.side("new")
    if unknown := _unseen(gate, evidence, int(new.requests)):
        return unknown
    rate = new.errors / new.requests
    return _judged(rate, rate <= threshold(gate), int(new.requests))


def _latency_p95(gate: GateConfig, evidence: Evidence) -> _Answer:
    new = evidence.window.side("new")
    observed = int(max(new.buckets.values(), default=0))
    if unknown := _unseen(gate, evidence, observed):
        return unknown
    seconds = new.quantile(0.95)
    if seconds is None or math.isnan(seconds):
        return _Answer("inconclusive", None, observed, "the histogram holds no value")
    limit = threshold(gate)
    if math.isinf(seconds):
        edge = 1000 * max((e for e in new.buckets if not math.isinf(e)), default=0.0)
        if edge >= limit:
            return _Answer("fail", edge, observed, f"beyond the last bucket, {edge:g} ms")
        return _Answer("inconclusive", None, observed, f"buckets end at {edge:g} ms")
    return _judged(1000 * seconds, 1000 * seconds <= limit, observed)


def _share(gate: GateConfig, evidence: Evidence) -> _Answer:
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
    observed = window.share or 0.0
    wanted, tolerance = evidence.percentage / 100, threshold(gate)
    off = abs(observed - wanted)
    low, high = wilson(observed, number, SHARE_Z)
    reason = f"{100 * observed:.1f} % of the {what} observed, {evidence.percentage} % asked"
    if off <= tolerance:
        return _Answer("pass", off, int(number), reason)
    if low > wanted + tolerance or high < wanted - tolerance:
        return _Answer("fail", off, int(number), reason)
    if what == "customers" and low <= wanted <= high:
        return _Answer("pass", off, int(number), f"{reason}: no more than chance")
    return _Answer("inconclusive", off, int(number), f"{reason}: may be chance")


def _consistency(gate: GateConfig, evidence: Evidence) -> _Answer:
    seen = evidence.verdict
    if seen is None:
        return _Answer("inconclusive", None, 0, "nothing was verified yet")
    if seen.verdict == "different":
        # Also when it is old: a difference does not go away by waiting.
        return _Answer("fail", seen.age_s, 1, "the sides differ")
    if not seen.covers_now:
        reason = "the last verification began before customers moved"
        return _Answer("inconclusive", seen.age_s, 1, reason)
    if seen.verdict != "equal":
        return _Answer("inconclusive", seen.age_s, 1, f"the last verification: {seen.verdict}")
    if seen.age_s > threshold(gate):
        return _Answer("inconclusive", seen.age_s, 1, "the last verification is too old")
    return _Answer("pass", seen.age_s, 1)


def _sync_lag(gate: GateConfig, evidence: Evidence) -> _Answer:
    if unknown := _unknown_streams(evidence):
        return unknown
    lags = [stream.lag_ms for stream in evidence.streams]
    if any(lag is None or math.isnan(lag) for lag in lags):
        return _Answer("inconclusive", None, 0, "a direction does not tell its lag")
    worst, limit = max(lag for lag in lags if lag is not None), threshold(gate)
    looks = [lag for lag in evidence.lags if lag is not None] or [worst]
    if worst <= limit:
        return _Answer("pass", worst, len(looks))
    needed = min(gate.min_samples, LAG_LOOKS)
    if len(looks) >= needed and all(lag > limit for lag in looks[-needed:]):
        return _Answer("fail", worst, len(looks), f"too high {needed} looks in a row")
    return _Answer("inconclusive", worst, len(looks), "too high at this look")


def _strays(gate: GateConfig, evidence: Evidence) -> _Answer:
    number = sum(stream.strays for stream in evidence.streams)
    # Without a worker nobody would notice a stray, but those that are there count.
    if number <= threshold(gate) and (unknown := _unknown_streams(evidence)):
        return unknown
    reason = "" if number <= threshold(gate) else "keys changed on the side that does not own them"
    answer = _judged(float(number), number <= threshold(gate), number)
    return _Answer(answer.verdict, answer.measured, answer.samples, reason)


CONTROLS = {
    "stayed": "of those who stayed",
    "before": "of the same customers before",
    "share": "of all who began before",
}


def _fell(gate: GateConfig, evidence: Evidence) -> _Answer:
    """Did the new cohort's share fall? Told by tests that hold however often one asks.

    Also beyond doubt it passes only while the latest can be counted.
    """
    seen = evidence.data.get(gate.name, DataSeen())
    if seen.trial is None:
        return _Answer("inconclusive", None, 0, seen.problem or "nothing was counted yet")
    trial = seen.trial
    whole = trial.total + trial.open
    new, old, samples = whole.new.share, whole.old.share, whole.new.number
    if new is None or old is None:
        reason = f"{samples} samples of the new side, {whole.old.number} to compare them with"
        return _Answer("inconclusive", None, samples, seen.problem or reason)
    fell = _relative_drop(new, old, seen.control)
    reason = (
        f"{100 * new:.2f} % of {samples:,}, {100 * old:.2f} % "
        f"{CONTROLS[seen.control]} ({whole.old.number:,})"
    )
    if samples < gate.min_samples:
        short = f"{reason}; {samples} of {gate.min_samples} samples"
        return _Answer("inconclusive", fell, samples, short)
    if trial.proven(gate.alpha):
        return _Answer("fail", fell, samples, f"{reason}: no chance, at {gate.alpha:g}")
    if seen.problem:
        return _Answer("inconclusive", fell, samples, seen.problem)
    if trial.excluded(gate.beta):
        return _Answer("pass", fell, samples, reason)
    return _Answer("inconclusive", fell, samples, f"{reason}: not enough to tell yet")


def _relative_drop(new: float, old: float, control: str) -> float | None:
    """By how much a share fell; None where there was nothing to fall.

    Of a share of all customers, by how much those who make it up became fewer.
    """
    if control == "share":
        if 1 in (new, old):
            return None
        new, old = new / (1 - new), old / (1 - old)
    return 1 - new / old if old else None


def _duration(gate: GateConfig, evidence: Evidence) -> _Answer:
    """Was enough of what fell due done in time?"""
    seen = evidence.data.get(gate.name, DataSeen())
    due = seen.due or Sample()
    if seen.problem or due.share is None or due.number < gate.min_samples:
        short = f"{due.number} of {gate.min_samples} samples"
        return _Answer("inconclusive", due.share, due.number, seen.problem or short)
    reason = f"{due.good:,} of {due.number:,} in time"
    if due.share >= threshold(gate):
        return _Answer("pass", due.share, due.number, reason)
    if wilson(due.share, due.number, SHARE_Z)[1] < threshold(gate):
        return _Answer("fail", due.share, due.number, reason)
    return _Answer("inconclusive", due.share, due.number, f"{reason}: may be chance")


def _question(gate: GateConfig, evidence: Evidence) -> _Answer:
    answer = evidence.answers.get(gate.name)
    if answer is None:
        return _Answer("inconclusive", None, 0, f"{gate.asked_of} is asked: {gate.question}")
    good = answer.word == gate.good
    return _Answer("pass" if good else "fail", None, 1, f"{gate.question} {answer.told}")


def wilson(share: float, number: float, z: float) -> tuple[float, float]:
    """Bounds for a share that was observed among `number` (Wilson's score interval)."""
    spread = z * z / number
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / number + spread / (4 * number))
    return middle - half, middle + half


def _judged(measured: float, good: bool, samples: int) -> _Answer:
    return _Answer("pass" if good else "fail", measured, samples)


def _unseen(gate: GateConfig, evidence: Evidence, samples: int) -> _Answer | None:
    """Why traffic cannot be judged; None when it can."""
    if evidence.blind:
        told = "; ".join(f"{url}: {why}" for url, why in sorted(evidence.blind.items()))
        return _Answer("inconclusive", None, samples, f"not every gateway was seen: {told}")
    if samples < gate.min_samples:
        reason = f"{samples} of {gate.min_samples} samples"
        return _Answer("inconclusive", None, samples, reason)
    return None


def _unknown_streams(evidence: Evidence) -> _Answer | None:
    """Why the sync cannot be judged; a worker that is away is unknown, too."""
    if evidence.streams_problem or not evidence.streams:
        reason = evidence.streams_problem or "sync is not enabled"
        return _Answer("inconclusive", None, 0, reason)
    for stream in evidence.streams:
        if stream.problem:
            return _Answer("inconclusive", None, 0, f"{stream.name}: {stream.problem}")
        if not stream.alive:
            return _Answer("inconclusive", None, 0, f"{stream.name}: the sync worker is not alive")
    return None


_KINDS: dict[str, Callable[[GateConfig, Evidence], _Answer]] = {
    "error_rate": _error_rate,
    "latency_p95": _latency_p95,
    "share": _share,
    "consistency": _consistency,
    "sync_lag": _sync_lag,
    "strays": _strays,
    "conversion": _fell,
    "rate": _fell,
    "duration": _duration,
    "question": _question,
}
