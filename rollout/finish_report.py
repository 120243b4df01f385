"""What `splitctl rollout finish` answers."""

from dataclasses import dataclass, field
from typing import Any

from estate.errors import ExitCode
from rollout.deploy_report import Health, ObjectChange
from rollout.rollouts import RolloutState


@dataclass(frozen=True)
class PartPlan:
    """One part: what becomes of each object, and for the flags what becomes of them."""

    name: str
    objects: list[ObjectChange] = field(default_factory=list)
    deletes: list[str] = field(default_factory=list)
    flags: str = ""

    def lines(self) -> list[str]:
        """For a person; empty when there is nothing to do."""
        told = [
            line for change in self.objects if change.state != "same" for line in change.lines()
        ]
        told += [f"delete   {name}" for name in self.deletes]
        return told + ([self.flags] if self.flags else [])


@dataclass(frozen=True)
class FinishPlan:
    """The ordered parts of a finish, or of its way back; what is in the way, and the way back.

    note: what a person has to do afterwards; empty: nothing
    anew: other domains whose present phase begins anew, for other versions run then
    """

    domain: str
    overlay: str
    parts: list[PartPlan]
    blockers: list[str]
    way_back: str
    note: str
    next_command: str
    anew: list[str] = field(default_factory=list)

    def to_text(self) -> str:
        """For a person."""
        lines = [f"{self.domain}: {self.overlay}"]
        for number, part in enumerate(self.parts, start=1):
            told = part.lines() or ["nothing to change"]
            lines += [f"{number}. {part.name}", *(f"   {line}" for line in told)]
        lines += [f"blocked: {reason}" for reason in self.blockers]
        lines += [f"anew: the present phase of {name}, on other versions" for name in self.anew]
        return "\n".join([*lines, *_last(self.way_back, self.note)])


@dataclass(frozen=True)
class PartDone:
    """One part, and how far its rollouts are. `changed`: whether there was anything to do."""

    name: str
    changed: list[str]
    rollouts: list[RolloutState] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Every rollout has come, and every gateway serves what it is to serve."""
        return not self.missing and all(state.complete for state in self.rollouts)

    def lines(self) -> list[str]:
        """For a person."""
        told = "; ".join(self.changed) or "nothing to change"
        lines = [f"{'ok' if self.complete else 'NOT YET':<8} {self.name}: {told}"]
        lines += [f"         {state}" for state in self.rollouts if not state.complete]
        return lines + [f"         {why}" for why in self.missing]


@dataclass(frozen=True)
class Finished:
    """A finish, or its undo. `whole`: the number of its parts; fewer are there when it stopped.

    note: what a person has to do now; empty: nothing
    """

    domain: str
    act: str
    already: bool
    parts: list[PartDone]
    whole: int
    health: list[Health]
    seconds: float
    way_back: str
    note: str
    next_command: str

    @property
    def complete(self) -> bool:
        """Every part is through."""
        return len(self.parts) == self.whole and all(part.complete for part in self.parts)

    @property
    def exit_code(self) -> ExitCode:
        """Done; under way still; or given up by the cluster, or not healthy."""
        if any(one.problem for one in self.health):
            return ExitCode.CHECK_FAILED
        if self.complete:
            return ExitCode.DONE
        late = [s for part in self.parts for s in part.rollouts if not s.complete]
        given_up = any(state.given_up for state in late)
        return ExitCode.CHECK_FAILED if given_up else ExitCode.IN_PROGRESS

    def outcome(self) -> dict[str, Any]:
        """For the ledger."""
        return {
            "parts": {part.name: part.changed for part in self.parts},
            "health": [f"{h.url}: {h.problem or 'healthy'}" for h in self.health],
        }

    def to_text(self) -> str:
        """For a person."""
        how = "nothing to change" if self.already else f"{self.seconds:.1f} s"
        lines = [f"{self.domain}: {self.act}, {how}"]
        lines += [line for part in self.parts for line in part.lines()]
        for one in self.health:
            told = f"{'SICK' if one.problem else 'healthy':<8} {one.url} {one.problem or ''}"
            lines.append(told.rstrip())
        return "\n".join([*lines, *_last(self.way_back, self.note)])


def _last(way_back: str, note: str) -> list[str]:
    return [f"way back: {way_back}", *([f"then: {note}"] if note else [])]
