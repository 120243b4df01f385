"""The phase machine. Pure: a position and verdicts in, one decision out.

Invariants, held by tests:
  - customers move up only after every gate passed that is in the way, and the soak is complete;
  - a percentage never rises beyond the next phase's, nor beyond the one that was asked for;
  - `inconclusive` neither moves up nor brings back;
  - a pause and a drift keep customers where they are; neither is in the way of a rollback;
  - a step whose percentage is not measured yet, or measured as another, is followed by none, and
    brings nobody back by itself;
  - until a domain is complete, rollback is possible from every position;
  - a step found unfinished has exactly one way on, told by what gateways serve and owners say.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from rollout.gates import GateResult, overall

Side = Literal["old", "new"]
PER_PERCENT = 100  # buckets in one percent
ALL = 100


class Stage(StrEnum):
    """Where a domain is in its life."""

    OFF = "off"
    DUAL_WRITE = "dual-write"
    SHADOW = "shadow"
    LIVE = "live"
    RAMPDOWN = "rampdown"
    COMPLETE = "complete"


class Move(StrEnum):
    """What to do next."""

    STEP = "step"
    SOAK = "soak"
    SOAKED = "soaked"
    HOLD = "hold"
    PAUSED = "paused"
    DRIFT = "drift"
    UNPROVEN = "unproven"
    CONTRADICTED = "contradicted"
    ROLL_BACK = "roll back"
    FAIL = "fail"
    REFUSE = "refuse"
    NOTHING = "nothing"
    ENTER = "enter"


@dataclass(frozen=True)
class Phase:
    """A percentage and the seconds it soaks."""

    percentage: int
    soak_s: float


@dataclass(frozen=True)
class Position:
    """Where a domain's rollout is. `phase` is -1 at 0 %; `evidence_s` is the soak clock.

    paused, drift: who paused it, and what is served in place of what was asked; empty when nothing
    unproven, contradicted: what the measured share lacks to be what was asked, or that it is not
    """

    stage: Stage
    percentage: int
    phase: int
    phases: tuple[Phase, ...]
    evidence_s: float = 0.0
    required_s: float | None = None
    paused: str = ""
    drift: str = ""
    unproven: str = ""
    contradicted: str = ""

    @property
    def soak_s(self) -> float:
        """How long the present phase has to soak: nothing at 0 %."""
        if self.percentage == 0 or self.phase < 0:
            return 0.0
        return self.phases[self.phase].soak_s if self.required_s is None else self.required_s

    @property
    def soaked(self) -> bool:
        """Whether the soak clock is through."""
        return self.evidence_s >= self.soak_s

    @property
    def following(self) -> int | None:
        """The index of the phase after this one: the first that is higher; None at the end."""
        return self.towards(ALL)

    def towards(self, until: int) -> int | None:
        """The phase after this one, unless it is beyond the percentage that is asked for."""
        for index, phase in enumerate(self.phases):
            if self.percentage < phase.percentage <= until:
                return index
        return None


@dataclass(frozen=True)
class Decision:
    """One decision, with its reason for a person. `phase` is the one to step to."""

    move: Move
    reason: str = ""
    phase: int | None = None
    stage: Stage | None = None


def on_start(position: Position) -> Decision:
    """May the rollout begin? Verdicts and sync are asked by the caller."""
    match position.stage:
        case Stage.OFF:
            return Decision(Move.REFUSE, "dual-write is off")
        case Stage.DUAL_WRITE | Stage.SHADOW:
            return Decision(Move.ENTER, stage=Stage.LIVE)
        case Stage.LIVE:
            return Decision(Move.NOTHING, f"it is live already, at {position.percentage} %")
        case _:
            return Decision(Move.REFUSE, f"it is at {position.stage} already")


def on_advance(position: Position, results: Iterable[GateResult], until: int = ALL) -> Decision:
    """May customers move up, and to which phase? Never beyond `until` percent."""
    if position.stage is not Stage.LIVE:
        why = {
            Stage.RAMPDOWN: "it is in rampdown: no more steps",
            Stage.COMPLETE: "it is complete",
        }.get(position.stage, "its rollout was not started")
        return Decision(Move.REFUSE, why)
    following = position.towards(until)
    if following is None:
        last = "the last phase" if position.following is None else f"the last up to {until} %"
        return Decision(Move.NOTHING, f"{position.percentage} % is {last}")
    if held := _held(position, results):
        return held
    return Decision(Move.STEP, phase=following)


def on_watch(position: Position, results: Iterable[GateResult]) -> Decision:
    """What a look at the gates means while a phase soaks."""
    if position.stage not in (Stage.LIVE, Stage.RAMPDOWN) or position.percentage == 0:
        return Decision(Move.REFUSE, "nobody is on the new side")
    results = in_the_way(results)
    fatal = [result for result in results if result.on_fail == "rollback"]
    if overall(fatal) == "fail":
        return Decision(Move.ROLL_BACK, _told(fatal, "fail"))
    if standing := _standing(position):
        return standing
    word = overall(results)
    if not position.soaked:
        left = position.soak_s - position.evidence_s
        told = [f"{left:.0f} s of {position.soak_s:.0f} s to soak", _told(results, "fail")]
        return Decision(Move.SOAK, "; ".join(part for part in told if part))
    if word == "fail":
        return Decision(Move.FAIL, _told(results, "fail"))
    if word == "inconclusive":
        return Decision(Move.HOLD, _told(results, "inconclusive"))
    return Decision(Move.SOAKED, "soaked, and every gate passes")


def on_rampdown(position: Position, results: Iterable[GateResult]) -> Decision:
    """May the last phase end?"""
    if position.stage is Stage.RAMPDOWN:
        return Decision(Move.NOTHING, "it is in rampdown already")
    if position.stage is not Stage.LIVE:
        return Decision(Move.REFUSE, f"it is at {position.stage}")
    if position.percentage < 100:
        return Decision(Move.REFUSE, f"it is at {position.percentage} %, not at 100 %")
    return _held(position, results) or Decision(Move.ENTER, stage=Stage.RAMPDOWN)


def on_finish(position: Position, results: Iterable[GateResult]) -> Decision:
    """May the flags be taken away? Everybody is on the new side, and nothing speaks against it."""
    if position.stage is Stage.COMPLETE:
        return Decision(Move.ENTER)
    if position.stage is not Stage.RAMPDOWN:
        return Decision(Move.REFUSE, f"it is at {position.stage}, not in rampdown")
    return _held(position, results) or Decision(Move.ENTER)


def on_unfinish(position: Position) -> Decision:
    """May the flags, and the old code, be brought back?"""
    if position.stage is Stage.COMPLETE:
        return Decision(Move.REFUSE, "it is complete")
    return Decision(Move.ENTER)


def on_archive(position: Position) -> Decision:
    """May the way back be closed? Barrier and verification are asked by the caller."""
    if position.stage is Stage.COMPLETE:
        return Decision(Move.NOTHING, "it is complete already")
    if position.stage is not Stage.RAMPDOWN:
        return Decision(Move.REFUSE, f"it is at {position.stage}, not in rampdown")
    return Decision(Move.ENTER, stage=Stage.COMPLETE)


def on_undo(position: Position) -> Decision:
    """May an archive be taken back?"""
    if position.stage is Stage.COMPLETE:
        return Decision(Move.ENTER, stage=Stage.RAMPDOWN)
    return Decision(Move.NOTHING, f"it is at {position.stage}: nothing is archived")


def in_the_way(results: Iterable[GateResult]) -> list[GateResult]:
    """The answers that decide: all but those that are only told."""
    return [result for result in results if result.on_fail != "tell"]


def may_roll_back(stage: Stage) -> bool:
    """The way back is open until `complete` (law L8)."""
    return stage is not Stage.COMPLETE


def _held(position: Position, results: Iterable[GateResult]) -> Decision | None:
    """What keeps customers where they are; None when nothing does."""
    results = in_the_way(results)
    word = overall(results)
    if word == "fail":
        return Decision(Move.FAIL, _told(results, "fail"))
    if standing := _standing(position):
        return standing
    if not position.soaked:
        told = f"soaked {position.evidence_s:.0f} s of {position.soak_s:.0f} s"
        return Decision(Move.SOAK, told)
    if word == "inconclusive":
        return Decision(Move.HOLD, _told(results, "inconclusive"))
    return None


def _standing(position: Position) -> Decision | None:
    """Why the soak clock stands, whatever the gates say; None when it goes."""
    reasons = {
        Move.DRIFT: position.drift,
        Move.PAUSED: position.paused,
        Move.CONTRADICTED: position.contradicted,
        Move.UNPROVEN: position.unproven,
    }
    return next((Decision(move, why) for move, why in reasons.items() if why), None)


def _told(results: Iterable[GateResult], verdict: str) -> str:
    return "; ".join(
        f"{result.name}: {result.reason or result.figures}"
        for result in results
        if result.verdict == verdict
    )


# A step that was found unfinished


class Way(StrEnum):
    """How an unfinished step is brought to an end."""

    FORWARD = "forward"  # somebody is served by it: finish it
    BACK = "back"  # nobody is served by it: owners go back under a new epoch
    OVERTAKEN = "overtaken"  # a later act decided already
    UNKNOWN = "unknown"  # a gateway cannot be asked, and it may serve it


@dataclass(frozen=True)
class Intent:
    """The step as it was written down before its first act."""

    from_percentage: int
    to_percentage: int
    epoch: int


@dataclass(frozen=True)
class Serves:
    """What a gateway serves of a domain."""

    percentage: int
    epoch: int


@dataclass(frozen=True)
class Owns:
    """What a database's owner row says."""

    new_below: int
    epoch: int


def way_on(
    intent: Intent, served: Mapping[str, Serves | None], owners: Mapping[Side, Owns | None]
) -> Way:
    """The one way on. None stands for a gateway or a database that could not be asked."""
    seen = [item for item in served.values() if item is not None]
    rows = [item for item in owners.values() if item is not None]
    latest = max([item.epoch for item in seen] + [item.epoch for item in rows], default=0)
    if latest > intent.epoch:
        return Way.OVERTAKEN
    if any(item.epoch == intent.epoch for item in seen):
        return Way.FORWARD
    if len(seen) < len(served):
        return Way.UNKNOWN
    return Way.BACK
