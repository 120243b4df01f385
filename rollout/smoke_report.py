"""What a smoke run came to: each step of each flow at each place, and one verdict."""

from dataclasses import dataclass, field
from typing import Any, Literal

from estate.errors import ExitCode
from migrator.mapping import Side
from rollout.placing import Through

WIDTH = 12  # columns of a step's outcome

Outcome = Literal["ok", "failed", "unreached", "not run"]


@dataclass(frozen=True)
class StepResult:
    """One step. `served_by` as the gateway says it; `answer` is an excerpt, where it failed."""

    step: str
    outcome: Outcome
    status: int | None = None
    ms: float | None = None
    served_by: str | None = None
    reason: str | None = None
    answer: str | None = None

    def line(self) -> str:
        """For a person."""
        status = "" if self.status is None else f"  {self.status}"
        took = "" if self.ms is None else f"  {self.ms:,.0f} ms"
        by = f"  by {self.served_by}" if self.served_by else ""
        why = f"  {self.reason}" if self.reason else ""
        answer = f"; it answered: {self.answer}" if self.answer else ""
        return f"{self.outcome:<{WIDTH}}{self.step}{status}{took}{by}{why}{answer}"


@dataclass(frozen=True)
class Run:
    """One flow at one place. `side` is the one that had to answer; `customer` finds its data."""

    flow: str
    domain: str
    place: str
    side: Side | None
    customer: str | None
    steps: list[StepResult]

    @property
    def outcome(self) -> Outcome:
        """Of the step that ended it."""
        return next((step.outcome for step in self.steps if step.outcome != "ok"), "ok")

    @property
    def title(self) -> str:
        """For a person."""
        side = "" if self.side in (None, self.place) else f", a customer of the {self.side} side"
        who = f" ({self.customer})" if self.customer else ""
        return f"{self.flow} of {self.domain} at {self.place}{side}{who}"


@dataclass(frozen=True)
class SmokeReport:
    """Every run. `held_back`: what was not asked, and why; `away`: who could not say who owns."""

    through: Through
    runs: list[Run]
    held_back: list[str] = field(default_factory=list)
    away: dict[str, str] = field(default_factory=dict)

    def count(self, outcome: Outcome) -> int:
        """How many steps came to this."""
        return sum(step.outcome == outcome for run in self.runs for step in run.steps)

    @property
    def verdict(self) -> str:
        """`passed`, `failed`, or `inconclusive`: not everything could be asked."""
        if self.count("failed"):
            return "failed"
        whole = self.runs and not self.count("unreached") and not self.held_back
        return "passed" if whole else "inconclusive"

    @property
    def exit_code(self) -> ExitCode:
        """What the verdict tells a script."""
        codes = {"passed": ExitCode.DONE, "failed": ExitCode.CHECK_FAILED}
        return codes.get(self.verdict, ExitCode.INCONCLUSIVE)

    @property
    def next_command(self) -> str:
        """What comes after it."""
        return "splitctl status" if self.verdict == "passed" else "splitctl doctor"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"verdict": self.verdict, **vars(self)}

    def to_text(self) -> str:
        """For a person."""
        lines = []
        for run in self.runs:
            lines += [run.title, *(f"  {step.line()}" for step in run.steps)]
        lines += [f"not asked: {why}" for why in self.held_back]
        lines += [f"did not say who owns whom: {who}: {why}" for who, why in self.away.items()]
        counts = [(self.count(word), word) for word in ("ok", "failed", "unreached", "not run")]
        told = ", ".join(f"{count} {word}" for count, word in counts if count)
        return "\n".join([*lines, f"{self.verdict}: {told or 'nothing was asked'}"])


@dataclass(frozen=True)
class SmokePlan:
    """What a smoke run would send."""

    requests: list[str]
    held_back: list[str]
    next_command: str = "the same command without --dry-run"

    def to_text(self) -> str:
        """For a person."""
        lines = [*self.requests, *(f"not asked: {why}" for why in self.held_back)]
        return "\n".join(lines or ["nothing"])
