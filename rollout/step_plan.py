"""A step as it is planned, limited and reported, and the ways in which it can end early."""

from dataclasses import dataclass, field
from typing import Any

from estate.errors import ExitCode, SplitctlError
from migrator.mapping import Direction, Side, other
from rollout.flags import DomainFlags
from rollout.phases import PER_PERCENT
from rollout.proof import Proof

# The measured share is not what was asked: a person looks, for nobody is moved by that alone.
CONTRADICTED = (
    "splitctl status, then: splitctl rollout watch {domain}, or: splitctl rollback {domain}"
)


class NotCaughtUp(SplitctlError):
    """Sync of domain '{domain}' is behind: {pending} keys wait, and the {direction} barrier was not
    passed within {seconds:.1f} s. Nobody was held and nothing was changed."""

    hint = "splitctl sync status"
    exit_code = ExitCode.PRECONDITION


class GatewayUnready(SplitctlError):
    """Not every gateway holds the moving customers of domain '{domain}': {reason}. All fences were
    released, nobody moved."""

    hint = "splitctl status"
    exit_code = ExitCode.PRECONDITION


class BudgetExceeded(SplitctlError):
    """Customers of domain '{domain}' were held for {held_ms} ms and {what}; the budget is
    {budget_ms} ms. All fences were released, nobody moved and nobody was failed."""

    hint = "splitctl sync status, then: splitctl rollout advance {domain}"
    exit_code = ExitCode.PRECONDITION


class StepTakenBack(SplitctlError):
    """The step of domain '{domain}' could not be finished: {reason}. Nobody was served by it; the
    owners are at {percentage} % again, under epoch {epoch}."""

    hint = "splitctl status"
    exit_code = ExitCode.PRECONDITION


class StepOvertaken(SplitctlError):
    """Domain '{domain}' was moved by another command meanwhile ({reason}); this step stopped."""

    hint = "splitctl status"
    exit_code = ExitCode.PRECONDITION


class StepUnfinished(SplitctlError):
    """The step of domain '{domain}' is not finished: {reason}. Its intent stays in the ledger."""

    hint = "splitctl rollout advance {domain}  (finds out what is true, and goes on from there)"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class StepPlan:
    """One step, as its intent is written down."""

    domain: str
    from_percentage: int
    to_percentage: int
    epoch: int
    holder: str

    @property
    def low(self) -> int:
        """The first bucket that moves."""
        return PER_PERCENT * min(self.from_percentage, self.to_percentage)

    @property
    def high(self) -> int:
        """The first bucket above those that move."""
        return PER_PERCENT * max(self.from_percentage, self.to_percentage)

    @property
    def losing(self) -> Side:
        """The side that customers leave."""
        return "old" if self.to_percentage > self.from_percentage else "new"

    @property
    def winning(self) -> Side:
        """The side they come to."""
        return other(self.losing)

    @property
    def direction(self) -> Direction:
        """The stream that must have carried everything."""
        return "forward" if self.losing == "old" else "reverse"

    @property
    def new_below(self) -> int:
        """The owner's threshold after the step."""
        return PER_PERCENT * self.to_percentage

    @property
    def flags(self) -> DomainFlags:
        """What every gateway serves after the step."""
        return DomainFlags(True, self.to_percentage, self.epoch)

    def intent(self) -> dict[str, Any]:
        """For the ledger."""
        return {
            "from": self.from_percentage,
            "to": self.to_percentage,
            "epoch": self.epoch,
            "low": self.low,
            "high": self.high,
        }

    def acts(self) -> list[str]:
        """What will be done, in order, for a person."""
        moved = f"buckets {self.low} to {self.high - 1}"
        return [
            f"write the intent to the ledger: {self.from_percentage} % to {self.to_percentage} %"
            f" under epoch {self.epoch}",
            "pause the declared writers that want to be paused",
            f"wait for the {self.direction} barrier once while nobody is held",
            f"hold new requests of {moved} at every gateway",
            "let the requests under way end",
            f"let transactions that write to the {self.losing} side's tables end",
            f"wait for the {self.direction} barrier",
            "let every gateway confirm its fence",
            f"move the owner in the {self.losing} side's database",
            f"wait for the {self.direction} barrier once more: jobs may have written",
            f"every gateway serves {self.to_percentage} % and lets the held requests go on",
            f"move the owner in the {self.winning} side's database",
            "read back what every gateway serves",
            "write the outcome to the ledger",
        ]

    def acts_without_fence(self) -> list[str]:
        """The same where gateways have none."""
        return [
            f"write the intent to the ledger: {self.from_percentage} % to {self.to_percentage} %"
            f" under epoch {self.epoch}",
            f"wait for the {self.direction} barrier",
            f"write the flags, and wait until every gateway serves {self.to_percentage} %",
            "pause the declared writers that want to be paused",
            f"move the owner in the {self.losing} side's database",
            f"let transactions that write to the {self.losing} side's tables end",
            f"wait for the {self.direction} barrier",
            f"move the owner in the {self.winning} side's database",
            "read back what every gateway serves",
            "write the outcome to the ledger",
        ]


@dataclass(frozen=True)
class StepLimits:
    """How long customers may be held (budget) and how long a gateway holds by itself (lease)."""

    budget_ms: int = 2000
    lease_ms: int = 5000


@dataclass
class StepResult:
    """A step whose flags stand. Whole milliseconds. `proof`: whether they are what is served.

    `failed`: the gate that wants customers back, seen while the proof was waited for; "" for none.
    Without a fence: `flags_ms` until every gateway served it, `moving_ms` in which neither side
    took the customers who moved, `strays` that it brought.
    """

    domain: str
    from_percentage: int
    to_percentage: int
    epoch: int
    fence_ms: int = 0
    held_requests: int = 0
    held_ms_max: int = 0
    barrier_ms: int = 0
    in_flight_ms: int = 0
    quiesce_ms: int = 0
    flags_ms: int = 0
    moving_ms: int = 0
    strays: int = 0
    resumed: bool = False
    proof: Proof | None = None
    failed: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> ExitCode:
        """Done when it is proven and no gate fails; nobody is moved by a proof that is missing."""
        if self.failed:
            return ExitCode.CHECK_FAILED
        words = {"contradicted": ExitCode.CHECK_FAILED, "open": ExitCode.IN_PROGRESS}
        return words.get(self.proof.word if self.proof else "", ExitCode.DONE)

    @property
    def next_command(self) -> str:
        """What comes after a step."""
        if self.exit_code is ExitCode.CHECK_FAILED and not self.failed:
            return CONTRADICTED.format(domain=self.domain)
        return f"splitctl rollout watch {self.domain}"

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the names `from` and `to`."""
        data = dict(vars(self))
        return {
            "domain": data.pop("domain"),
            "from": data.pop("from_percentage"),
            "to": data.pop("to_percentage"),
            **data,
            "proof": self.proof.to_json() if self.proof else None,
        }

    def to_text(self) -> str:
        """For a person."""
        how = " (a step that was found unfinished)" if self.resumed else ""
        lines = [
            f"{self.domain}: {self.from_percentage} % -> {self.to_percentage} %{how}, "
            f"served by every gateway under epoch {self.epoch}",
            f"held {self.held_requests:,} requests, the longest {self.held_ms_max:,} ms; "
            f"fence {self.fence_ms:,} ms, barrier {self.barrier_ms:,} ms"
            if not self.flags_ms
            else f"every gateway served it after {self.flags_ms / 1000:,.1f} s; then the owners "
            f"moved in {self.moving_ms:,} ms, barrier {self.barrier_ms:,} ms",
        ]
        if self.proof is not None:
            word = "NOT PROVEN, so it is not done" if not self.proof.proven else "proven"
            lines.append(f"{word}: {self.proof.told}")
        return "\n".join([*lines, *self.warnings])
