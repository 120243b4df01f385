"""Gates: questions put to evidence. Pure: the same evidence always gives the same answers.

No data is no answer (law L6): whatever is missing makes a gate `inconclusive` and says why. A
`fail` needs as many samples as a `pass`.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from estate.config import GateConfig
from rollout import traffic_gates
from rollout.bounds import wilson
from rollout.seen import Answer, DataSeen, Evidence, PodSeen, PodsSeen, Word, judged, worst
from rollout.statistics import Sample
from rollout.traffic_gates import SHARE_Z

# These look at customers on the new side; at 0 % there are none to look at.
TRAFFIC = ("error_rate", "latency_p95", "share", "conversion", "rate", "duration", "question")
# How many there are is told by comparison with those who stayed; at 100 % nobody has.
AMONG_OTHERS = ("rate",)
# A phase this high leaves a holdback: so few move after it that at 100 % they could not tell again
# what those who stayed have told already.
HOLDBACK_FROM = 90
# A lag fails when it was too high this many looks in a row: one stutter brings nobody back.
LAG_LOOKS = 10
# A question wants so many answers in each phase.
ONE_ANSWER = 1.0


@dataclass(frozen=True)
class GateResult:
    """A gate's answer. `measured` and `threshold` are in the gate's own unit.

    on_fail: what a fail brings: rollback, hold (no step up) or tell (in nobody's way)
    ratio, times: the measure as a multiple of the old side's, and its limit, where there is one
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
    ratio: float | None = None
    times: float | None = None

    @property
    def value(self) -> str:
        """What was measured, for a person; empty when nothing."""
        told = [] if self.measured is None else [f"{self.measured:.4g}"]
        return " = ".join(told + ([] if self.ratio is None else [f"{self.ratio:.3g}x old"]))

    @property
    def limit(self) -> str:
        """Its limits, for a person."""
        told = f"{self.threshold:g}"
        return told if self.times is None else f"{told}, {self.times:g}x"

    @property
    def figures(self) -> str:
        """What was measured, against what."""
        return f"{self.value or 'no value'}, limit {self.limit}, {self.samples} samples"

    def __str__(self) -> str:
        told = f"{self.domain} {self.name}: {self.verdict} ({self.figures}) {self.reason}"
        return told.rstrip()


def asked(
    gates: Iterable[GateConfig], domain: str, percentage: int, before: int = 0
) -> list[GateConfig]:
    """The gates that apply to a domain at a percentage, come to from the one `before`."""
    return [
        gate
        for gate in gates
        if (gate.domains is None or domain in gate.domains)
        and (percentage > 0 or gate.kind not in TRAFFIC)
        and (percentage < 100 or gate.kind not in AMONG_OTHERS)
        and (percentage < 100 or before < HOLDBACK_FROM or gate.kind != "conversion")
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
        ratio=answer.ratio,
        times=gate.times,
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
    return worst(result.verdict for result in results)


def _consistency(gate: GateConfig, evidence: Evidence) -> Answer:
    seen = evidence.verdict
    if seen is None:
        return Answer("inconclusive", None, 0, "nothing was verified yet")
    if seen.verdict == "different":
        # Also when it is old: a difference does not go away by waiting.
        return Answer("fail", seen.age_s, 1, "the sides differ")
    if not seen.covers_now:
        reason = "the last verification began before customers moved"
        return Answer("inconclusive", seen.age_s, 1, reason)
    if seen.verdict != "equal":
        return Answer("inconclusive", seen.age_s, 1, f"the last verification: {seen.verdict}")
    if seen.age_s > threshold(gate):
        return Answer("inconclusive", seen.age_s, 1, "the last verification is too old")
    return Answer("pass", seen.age_s, 1)


def _sync_lag(gate: GateConfig, evidence: Evidence) -> Answer:
    if unknown := _unknown_streams(evidence):
        return unknown
    lags = [stream.lag_ms for stream in evidence.streams]
    if any(lag is None or math.isnan(lag) for lag in lags):
        return Answer("inconclusive", None, 0, "a direction does not tell its lag")
    worst, limit = max(lag for lag in lags if lag is not None), threshold(gate)
    looks = [lag for lag in evidence.lags if lag is not None] or [worst]
    if worst <= limit:
        return Answer("pass", worst, len(looks))
    needed = min(gate.min_samples, LAG_LOOKS)
    if len(looks) >= needed and all(lag > limit for lag in looks[-needed:]):
        return Answer("fail", worst, len(looks), f"too high {needed} looks in a row")
    return Answer("inconclusive", worst, len(looks), "too high at this look")


def _strays(gate: GateConfig, evidence: Evidence) -> Answer:
    number = sum(stream.strays for stream in evidence.streams)
    # Without a worker nobody would notice a stray, but those that are there count.
    if number <= threshold(gate) and (unknown := _unknown_streams(evidence)):
        return unknown
    reason = "" if number <= threshold(gate) else "keys changed on the side that does not own them"
    answer = judged(float(number), number <= threshold(gate), number)
    return Answer(answer.verdict, answer.measured, answer.samples, reason)


CONTROLS = {
    "stayed": "of those who stayed",
    "before": "of the same customers before",
    "share": "of all who began before",
}


def _fell(gate: GateConfig, evidence: Evidence) -> Answer:
    """Did the new cohort's share fall? Told by tests that hold however often one asks.

    Also beyond doubt it passes only while the latest can be counted.
    """
    seen = evidence.data.get(gate.name, DataSeen())
    if seen.trial is None:
        return Answer("inconclusive", None, 0, seen.problem or "nothing was counted yet")
    trial = seen.trial
    whole = trial.total + trial.open
    new, old, samples = whole.new.share, whole.old.share, whole.new.number
    if new is None or old is None:
        reason = f"{samples} samples of the new side, {whole.old.number} to compare them with"
        return Answer("inconclusive", None, samples, seen.problem or reason)
    fell = _relative_drop(new, old, seen.control)
    reason = (
        f"{100 * new:.2f} % of {samples:,}, {100 * old:.2f} % "
        f"{CONTROLS[seen.control]} ({whole.old.number:,})"
    )
    if samples < gate.min_samples:
        short = f"{reason}; {samples} of {gate.min_samples} samples"
        return Answer("inconclusive", fell, samples, short)
    if trial.proven(gate.alpha):
        return Answer("fail", fell, samples, f"{reason}: no chance, at {gate.alpha:g}")
    if seen.problem:
        return Answer("inconclusive", fell, samples, seen.problem)
    if trial.excluded(gate.beta):
        return Answer("pass", fell, samples, reason)
    return Answer("inconclusive", fell, samples, f"{reason}: not enough to tell yet")


def _relative_drop(new: float, old: float, control: str) -> float | None:
    """By how much a share fell; None where there was nothing to fall.

    Of a share of all customers, by how much those who make it up became fewer.
    """
    if control == "share":
        if 1 in (new, old):
            return None
        new, old = new / (1 - new), old / (1 - old)
    return 1 - new / old if old else None


def _duration(gate: GateConfig, evidence: Evidence) -> Answer:
    """Was enough of what fell due done in time?"""
    seen = evidence.data.get(gate.name, DataSeen())
    due = seen.due or Sample()
    if seen.problem or due.share is None or due.number < gate.min_samples:
        short = f"{due.number} of {gate.min_samples} samples"
        return Answer("inconclusive", due.share, due.number, seen.problem or short)
    reason = f"{due.good:,} of {due.number:,} in time"
    if due.share >= threshold(gate):
        return Answer("pass", due.share, due.number, reason)
    if wilson(due.share, due.number, SHARE_Z)[1] < threshold(gate):
        return Answer("fail", due.share, due.number, reason)
    return Answer("inconclusive", due.share, due.number, f"{reason}: may be chance")


def _pods(gate: GateConfig, evidence: Evidence) -> Answer:
    """Are the new side's pods ready, and do they stay up?

    Only what was seen at this very look fails. Pods that serve both sides never do: to bring
    customers back would not mend them.
    """
    looked = {
        name: evidence.pods.get(name, PodsSeen(problem="not looked at yet"))
        for name in (*gate.deployments, *gate.shared)
    }
    known = {name: found.pods for name, found in looked.items() if found.problem is None}
    ours = [pod for name in gate.deployments for pod in known.get(name, ())]
    everybody = [pod for pods in known.values() for pod in pods]
    most, samples = max((float(pod.restarts) for pod in ours), default=None), len(everybody)
    grace_s, limit = gate.grace.total_seconds(), threshold(gate)
    broken = [pod for pod in ours if pod.broken_s >= grace_s or pod.restarts > limit]
    if broken:
        return Answer("fail", most, samples, _told(broken))
    away = [f"{name}: {found.problem}" for name, found in looked.items() if found.problem]
    if away:
        return Answer("inconclusive", most, samples, "; ".join(away))
    if unsure := [pod for pod in everybody if not pod.ready or pod.restarts > limit]:
        return Answer("inconclusive", most, samples, _told(unsure))
    return Answer("pass", most, samples, f"{samples} pods are ready")


def _told(pods: Iterable[PodSeen]) -> str:
    return "; ".join(
        f"{pod.name} started anew {pod.restarts} times since the phase began: {pod.why}"
        if pod.ready
        else f"{pod.why} (for {pod.broken_s:.0f} s)"
        for pod in pods
    )


def _question(gate: GateConfig, evidence: Evidence) -> Answer:
    answer = evidence.answers.get(gate.name)
    if answer is None:
        return Answer("inconclusive", None, 0, f"{gate.asked_of} is asked: {gate.question}")
    good = answer.word == gate.good
    return Answer("pass" if good else "fail", None, 1, f"{gate.question} {answer.told}")


def _unknown_streams(evidence: Evidence) -> Answer | None:
    """Why the sync cannot be judged; a worker that is away is unknown, too."""
    if evidence.streams_problem or not evidence.streams:
        reason = evidence.streams_problem or "sync is not enabled"
        return Answer("inconclusive", None, 0, reason)
    for stream in evidence.streams:
        if stream.problem:
            return Answer("inconclusive", None, 0, f"{stream.name}: {stream.problem}")
        if not stream.alive:
            age = stream.heartbeat_age_ms
            last = "no heartbeat has come round"
            if age is not None:
                last = f"the last heartbeat that came round was sent {age / 1000:.0f} s ago"
            reason = f"{stream.name}: the sync worker is not alive ({last})"
            return Answer("inconclusive", None, 0, reason)
    return None


_KINDS: dict[str, Callable[[GateConfig, Evidence], Answer]] = {
    "error_rate": traffic_gates.error_rate,
    "latency_p95": traffic_gates.latency_p95,
    "share": traffic_gates.share,
    "consistency": _consistency,
    "sync_lag": _sync_lag,
    "strays": _strays,
    "conversion": _fell,
    "rate": _fell,
    "duration": _duration,
    "question": _question,
    "pods": _pods,
}
