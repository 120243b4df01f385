"""What a rollback did, for a person and for a program."""

from dataclasses import dataclass, field
from typing import Any

from estate.errors import ExitCode, SplitctlError

ROLLBACK = "rollback"
TARGET = 0
STILL_WRITING = (
    "requests or transactions were still under way on the new side when customers were let go; "
    "what they commit now is kept as a stray"
)


class WayClosed(SplitctlError):
    """Domain '{domain}' is complete: its old tables are archived, so the old side cannot serve.
    Nothing was changed."""

    hint = "splitctl decommission undo {domain}, then: splitctl rollback {domain}"
    exit_code = ExitCode.PRECONDITION


@dataclass
class RolledBack:
    """One domain. `seconds_until_every_gateway_serves_it` is None while one does not.

    served_s: seconds until the old side served everybody, where that came before the gateways
    at_risk: keys that had not crossed to the old side, by name where it could be known
    """

    domain: str
    from_percentage: int
    epoch: int
    already: bool = False
    seconds: float | None = None
    served_s: float | None = None
    at_risk: list[Any] = field(default_factory=list)
    barrier_passed: bool = False
    held_requests: int = 0
    held_ms_max: int = 0
    why: str = ""
    unreachable: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every gateway serves it and the old side's database knows that it owns."""
        return self.seconds is not None and not self.problems

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the names `from` and `to`."""
        return {
            "domain": self.domain,
            "from": self.from_percentage,
            "to": TARGET,
            "epoch": self.epoch,
            "already": self.already,
            "seconds_until_every_gateway_serves_it": self.seconds,
            "seconds_until_the_old_side_serves_everybody": self.served_s or self.seconds,
            "at_risk": self.at_risk,
            "barrier_passed": self.barrier_passed,
            "held_requests": self.held_requests,
            "held_ms_max": self.held_ms_max,
            "why": self.why,
            "unreachable": self.unreachable,
            "problems": self.problems,
            "notes": self.notes,
        }

    def lines(self) -> list[str]:
        """For a person."""
        if self.already and not self.problems:
            return [f"{self.domain}: at {TARGET} % already, on every gateway; nothing was changed"]
        if self.seconds is not None:
            first = (
                f"{self.domain}: {self.from_percentage} % -> {TARGET} %, "
                f"served by every gateway after {self.seconds:.2f} s"
            )
        else:
            first = f"{self.domain}: {TARGET} % is NOT served by every gateway yet"
        lines = [first]
        if self.served_s is not None:
            lines.append(f"  everybody was served by the old side after {self.served_s:.2f} s")
        lines += [f"  {item['mapping']} {item['key'] or ''} {item['why']}" for item in self.at_risk]
        if self.at_risk:
            lines.insert(
                -len(self.at_risk), f"  {len(self.at_risk)} at risk; each is kept, on the new side:"
            )
        elif self.barrier_passed:
            lines.append("  every change made on the new side has crossed to the old one")
        return [*lines, *(f"  {line}" for line in [*self.problems, *self.notes])]


@dataclass
class RollbackResult:
    """All domains. `skipped`: those that are complete, and so have no way back."""

    rollbacks: list[RolledBack]
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> ExitCode:
        """0 when everybody is on the old side."""
        whole = all(item.complete for item in self.rollbacks)
        return ExitCode.DONE if whole else ExitCode.PRECONDITION

    @property
    def next_command(self) -> str:
        """What comes after it."""
        if self.exit_code is not ExitCode.DONE:
            return "splitctl rollback  (again, when what is named above answers)"
        moved = any(not item.already for item in self.rollbacks)
        return "splitctl verify run" if moved else "splitctl status"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "rollbacks": [item.to_json() for item in self.rollbacks],
            "skipped": self.skipped,
            "notes": self.notes,
            "next_command": self.next_command,
        }

    def to_text(self) -> str:
        """For a person."""
        lines = [line for item in self.rollbacks for line in item.lines()]
        lines += [f"{name}: complete, and so left as it is" for name in self.skipped]
        return "\n".join([*lines, *self.notes])


@dataclass(frozen=True)
class RollbackPlan:
    """What a rollback would do now."""

    domains: list[str]
    steps: list[str]
    blockers: list[str]
    next_command: str = "splitctl rollback"
