"""What `splitctl deploy` answers."""

from dataclasses import dataclass, field
from typing import Any, Literal

from estate.cluster import Kind, Object
from estate.errors import ExitCode
from rollout.differences import Difference
from rollout.rollouts import RolloutState

State = Literal["new", "changed", "same"]


@dataclass(frozen=True)
class ObjectChange:
    """One object: what it is now, and field by field what it becomes."""

    kind: str
    name: str
    state: State
    differences: list[Difference] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For a person."""
        return [f"{self.state:<8} {self.kind} {self.name}", *(f"    {d}" for d in self.differences)]


@dataclass(frozen=True)
class Planned:
    """An object with what was found out about it, before anything is done.

    before: its fields that we own or are going to take, as they are; None where it is not there
    """

    manifest: Object
    before: Object | None
    change: ObjectChange

    @property
    def kind(self) -> Kind:
        """Its kind."""
        return Kind.of(self.manifest)

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.manifest["metadata"]["name"])


@dataclass(frozen=True)
class DeployPlan:
    """What `apply` or `undo` would do. `deletes`: what an undo takes away when confirmed."""

    overlay: str
    namespace: str
    objects: list[ObjectChange]
    deletes: list[str]
    next_command: str

    def to_text(self) -> str:
        """For a person."""
        lines = [f"{self.overlay} in namespace {self.namespace}"]
        lines += [line for change in self.objects for line in change.lines()]
        lines += [f"delete   {name}" for name in self.deletes]
        return "\n".join(lines)


@dataclass(frozen=True)
class Health:
    """Whether an address answers with success; else what it answers."""

    url: str
    problem: str | None


@dataclass(frozen=True)
class Deployed:
    """Manifests that were applied, and what became of it. `left`: new objects that stand still."""

    overlay: str
    namespace: str
    changed: bool
    objects: list[ObjectChange]
    rollouts: list[RolloutState]
    health: list[Health]
    seconds: float
    next_command: str
    deleted: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Every rollout has come and every address answers."""
        return all(s.complete for s in self.rollouts) and not any(h.problem for h in self.health)

    @property
    def exit_code(self) -> ExitCode:
        """Done; under way still; or given up by the cluster, or not healthy."""
        if self.complete:
            return ExitCode.DONE
        late = [state for state in self.rollouts if not state.complete]
        under_way = late and not any(state.given_up for state in late)
        return ExitCode.IN_PROGRESS if under_way else ExitCode.CHECK_FAILED

    def outcome(self) -> dict[str, Any]:
        """For the ledger."""
        return {
            "complete": self.complete,
            "objects": [f"{change.state} {change.kind} {change.name}" for change in self.objects],
            "rollouts": [str(state) for state in self.rollouts],
            "health": [f"{h.url}: {h.problem or 'healthy'}" for h in self.health],
            "deleted": self.deleted,
            "left": self.left,
        }

    def to_text(self) -> str:
        """For a person."""
        where = f"{self.overlay} in namespace {self.namespace}"
        if not self.changed:
            lines = [f"{where}: nothing to change, all {len(self.objects)} objects are as they are"]
        else:
            lines = [f"{where}, {self.seconds:.1f} s"]
            told = [change for change in self.objects if change.state != "same"]
            lines += [line for change in told for line in change.lines()]
        lines += [f"deleted  {name}" for name in self.deleted]
        how = f"it was new; it goes with --confirm {self.overlay}"
        lines += [f"left     {name}: {how}" for name in self.left]
        lines += [f"{'ok' if s.complete else 'NOT YET':<8} {s}" for s in self.rollouts]
        for one in self.health:
            answers = f"{'SICK' if one.problem else 'healthy':<8} {one.url} {one.problem or ''}"
            lines.append(answers.rstrip())
        return "\n".join(lines)


@dataclass(frozen=True)
class DeployStatus:
    """What stands in the cluster, against the manifests."""

    overlay: str
    namespace: str
    objects: list[ObjectChange]
    rollouts: list[RolloutState]
    last: str | None
    next_command: str

    @property
    def exit_code(self) -> ExitCode:
        """A rollout that has not come is under way still."""
        done = all(state.complete for state in self.rollouts)
        return ExitCode.DONE if done else ExitCode.IN_PROGRESS

    def to_text(self) -> str:
        """For a person."""
        lines = [f"{self.overlay} in namespace {self.namespace}"]
        lines += [f"last     {self.last}"] if self.last else []
        for change in self.objects:
            if change.state != "same":
                lines += change.lines()
        same = sum(change.state == "same" for change in self.objects)
        lines += [f"same     {same} of {len(self.objects)} objects are as their manifests say"]
        lines += [f"{'ok' if s.complete else 'NOT YET':<8} {s}" for s in self.rollouts]
        return "\n".join(lines)
