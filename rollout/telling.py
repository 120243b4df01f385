"""Which change of state is told to whom: one notice for each, after everything else was done."""

import threading
from collections.abc import Sequence
from typing import Any

from estate.config import Config, Event
from rollout.gates import GateResult
from rollout.notices import Notice, Notices
from rollout.rolled_back import TARGET, RolledBack
from rollout.step_plan import StepResult


class Teller:
    """Tells everybody whom the configuration names."""

    def __init__(self, config: Config, notices: Notices) -> None:
        self._environment, self._notices = config.environment, notices

    def tell(
        self,
        domain: str,
        event: Event,
        next_command: str,
        *,
        before: str | None = None,
        after: str | None = None,
        reason: str | None = None,
        verdicts: Sequence[GateResult] = (),
    ) -> list[str]:
        """Tell, and wait until it was; returns a warning for each who was not reached."""
        return self._notices.tell(
            Notice(
                self._environment,
                domain,
                event,
                next_command,
                before=before,
                after=after,
                reason=reason,
                verdicts=verdicts,
            )
        )

    def tell_meanwhile(self, domain: str, event: Event, next_command: str, **more: Any) -> None:
        """The same for who has to go on looking. The process ends only when it has been told."""
        threading.Thread(
            target=self.tell, args=(domain, event, next_command), kwargs=more, name="notice"
        ).start()

    # What is told

    def stepped(self, result: StepResult) -> list[str]:
        """A step was made, or one that was found unfinished was brought to its end."""
        return self.tell(
            result.domain,
            "stepped",
            result.next_command,
            before=f"{result.from_percentage} %",
            after=f"{result.to_percentage} %",
            reason="; ".join(result.warnings) or None,
        )

    def rolled_back(self, result: RolledBack) -> list[str]:
        """Customers were brought back."""
        risk = f"{len(result.at_risk)} keys at risk" if result.at_risk else ""
        return self.tell(
            result.domain,
            "rolled_back",
            "splitctl verify run" if result.complete else f"splitctl rollback {result.domain}",
            before=f"{result.from_percentage} %",
            after=f"{TARGET} %",
            reason="; ".join(filter(None, [result.why, *result.problems, risk])) or None,
        )
