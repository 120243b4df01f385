"""What gates may look at, and what one answers. Pure data."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from rollout.counters import Window
from rollout.statistics import Sample, Trial

Word = Literal["pass", "fail", "inconclusive"]


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
class PodSeen:
    """A pod, or what a Deployment lacks of them, at the latest look.

    broken_s: for so long it was seen not ready, look after look; restarts: of its containers since
    the phase began; why: it is not ready, or started anew
    """

    name: str
    ready: bool
    broken_s: float
    restarts: int
    why: str


@dataclass(frozen=True)
class PodsSeen:
    """The pods of one Deployment; `problem`: why they could not be looked at."""

    pods: tuple[PodSeen, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class Evidence:
    """All that the gates of one domain may look at.

    blind: gateways whose counters could not be read, with the reason
    window: what gateways counted since the phase began
    lags: the slower direction's lag in ms at the latest looks, oldest first; None: not known
    data: what was counted in the databases, by the gate's name
    answers: of persons, in this phase, by the gate's name
    pods: by the name of their Deployment
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
    pods: Mapping[str, PodsSeen] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What a gate answers. `measured` is in its own unit; `reason` has all figures that count.

    ratio: the new side's measure as a multiple of the old side's, where that is asked
    """

    verdict: Word
    measured: float | None
    samples: int
    reason: str = ""
    ratio: float | None = None


def judged(measured: float, good: bool, samples: int) -> Answer:
    """A plain limit: good is a pass."""
    return Answer("pass" if good else "fail", measured, samples)


def worst(verdicts: Iterable[Word]) -> Word:
    """One word for all: a fail counts most, then what is not known. None at all: pass."""
    found = set(verdicts)
    if "fail" in found:
        return "fail"
    return "inconclusive" if "inconclusive" in found else "pass"
