"""`splitctl verify repair`: a plan first; carried out under the operator's lock, and recorded."""

import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estate.config import Config
from estate.errors import ExitCode, SplitctlError
from estate.ledger import LedgerNewer, LedgerUnreachable, LockHeld, open_ledger
from rollout.books import REPAIR
from verify import mending, repair
from verify.mending import Mended
from verify.passes import Limits, Progress
from verify.repair import Plan
from verify.verdict import SHOWN


class PlanNotWritten(SplitctlError):
    """The plan cannot be written to '{path}': {reason}. Nothing was changed."""

    hint = "splitctl verify repair {domain} --plan FILE"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Planned:
    """A plan and the file that holds it; without a file there is nothing to repair."""

    plan: Plan
    path: Path | None

    @property
    def exit_code(self) -> ExitCode:
        """0 when it is complete, 3 when some rows cannot be repaired, 4 when not all is known."""
        if self.plan.complete:
            return ExitCode.DONE
        known = self.plan.verdict != "inconclusive" and not (self.plan.reasons or self.plan.unsure)
        return ExitCode.CHECK_FAILED if known else ExitCode.INCONCLUSIVE

    @property
    def next_command(self) -> str:
        """What to do with it."""
        domain = self.plan.domain
        if self.path is not None:
            return f"splitctl verify repair {domain} --apply {shlex.quote(str(self.path))}"
        if self.plan.beyond:
            return f"splitctl verify run --domain {domain}"
        return "splitctl status" if self.exit_code == ExitCode.DONE else "splitctl sync status"

    def to_json(self) -> dict[str, Any]:
        """Counts and the file: the plan itself stands there."""
        return {
            "domain": self.plan.domain,
            "verdict": self.plan.verdict,
            "keys": len(self.plan.repairs),
            "rows": [
                {"database": database, "table": table, "act": act, "truth": truth, "rows": rows}
                for (database, table, act, truth), rows in sorted(self.plan.counts().items())
            ],
            "beyond": [vars(item) for item in self.plan.beyond[:SHOWN]],
            "cannot_be_repaired": len(self.plan.beyond),
            "could_not_be_told": self.plan.unsure,
            "reasons": list(self.plan.reasons),
            "plan": str(self.path) if self.path else None,
        }

    def to_text(self) -> str:
        """For a person."""
        kept = f"\nPlan: {self.path} (nothing was changed)" if self.path else ""
        return repair.in_words(self.plan) + kept


def plan(
    config: Config,
    domain: str,
    mappings: list[str] | None,
    path: Path,
    *,
    limits: Limits | None = None,
    on_progress: Callable[[Progress], None],
) -> Planned:
    """Compare, and write down what would be repaired. Changes nothing in the databases.

    Raises PlanNotWritten and what `repair.plan` raises.
    """
    found = repair.plan(config, domain, mappings, limits=limits, on_progress=on_progress)
    if found.repairs:
        try:
            found.save(path)
        except OSError as error:
            reason = error.strerror or str(error)
            raise PlanNotWritten(path=path, reason=reason, domain=domain) from error
    if mappings is None and found.verdict != "inconclusive":
        _end_those_left(config, domain)
    return Planned(found, path if found.repairs else None)


def _end_those_left(config: Config, domain: str) -> None:
    """Repairs that were cut off: everything was compared anew just now, and nobody is at one."""
    with (
        suppress(LedgerUnreachable, LedgerNewer, LockHeld),
        open_ledger(config) as ledger,
        ledger.lock(),
    ):
        for act in ledger.unfinished(domain):
            if act.kind == REPAIR:
                ledger.finish(act, {"how": "compared anew"}, state="abandoned")


def apply(
    config: Config,
    domain: str,
    path: Path,
    folder: Path,
    limits: Limits,
    on_asked: Callable[[int], None],
) -> Mended:
    """Carry a plan out, the intent written down before. Raises LedgerUnreachable, LockHeld,
    PlanUnreadable, PlanOfAnother, and what `mending.mend` raises."""
    found = repair.load(path, config.environment, domain)
    with open_ledger(config) as ledger, ledger.lock():
        intent = {
            "plan": str(path),
            "made_by": found.made_by,
            "keys": len(found.repairs),
            "undo": str(folder),
        }
        act = ledger.begin(domain, REPAIR, intent)
        try:
            done = mending.mend(config, found, folder, limits=limits, on_asked=on_asked)
        except SplitctlError as error:
            ledger.finish(act, {"error": str(error)}, state="abandoned")
            raise
        ledger.finish(act, _outcome(done))
    return done


def _outcome(done: Mended) -> dict[str, Any]:
    return {
        "asked": done.asked,
        "mended": done.mended,
        "already": done.already,
        "left": len(done.left),
        "moving": len(done.moving),
        "refused": len(done.refused),
        "reasons": done.reasons,
        "undo": [str(item) for item in done.undo],
    }
