"""Which change of state is told to whom: one notice for each, after everything else was done.

What was told, to whom, and whether it arrived, is an act of the ledger. It goes by the local
journal: a ledger that is away must not keep anybody waiting, nor take that away.
"""

import logging
import shlex
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from estate import journal
from estate.config import Config, Event
from rollout import parallel
from rollout.gates import GateResult
from rollout.notices import Delivery, Notice
from rollout.rolled_back import TARGET, RolledBack
from rollout.step_plan import StepResult
from rollout.tools import Tools

log = logging.getLogger(__name__)

NOTICE = "notice"
# For the ledger to take it in at once; else the next command has it do so.
BOOKS_S = 3.0


class Teller:
    """Tells everybody whom the configuration names."""

    def __init__(self, config: Config, tools: Tools) -> None:
        self._config, self._tools = config, tools

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
        notice = Notice(
            self._config.environment,
            domain,
            event,
            next_command,
            before=before,
            after=after,
            reason=reason,
            verdicts=verdicts,
        )
        deliveries = self._tools.notices.tell(notice)
        if deliveries:
            self._keep(notice, deliveries)
        return [str(item) for item in deliveries if item.problem is not None]

    def _keep(self, notice: Notice, deliveries: Sequence[Delivery]) -> None:
        """Write down what was told to whom. Never raises: it was told all the same."""
        entry = journal.Entry(
            kind=NOTICE,
            domain=notice.domain,
            intent={"event": notice.event, "notice": notice.id},
            outcome={"receivers": [vars(delivery) for delivery in deliveries]},
            command=shlex.join(sys.argv[1:]),
            finished_at=datetime.now(UTC),
        )
        try:
            journal.of(self._config).append(entry)
        except OSError as error:
            log.warning("notice %s cannot be written down: %s", notice.id, error)
            return
        outcome = parallel.gather({"ledger": self._taken_in}, BOOKS_S)["ledger"]
        if outcome.error is not None:
            log.info("notice %s waits in the journal: %s", notice.id, outcome.error)

    def _taken_in(self) -> None:
        """Whoever opens the ledger has it take in the journal."""
        with self._tools.ledger():
            pass

    def tell_meanwhile(self, domain: str, event: Event, next_command: str, **more: Any) -> None:
        """The same for who has to go on looking. The process ends only when it has been told."""
        threading.Thread(
            target=Teller.tell,
            args=(self, domain, event, next_command),
            kwargs=more,
            name="notice",
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


class Meanwhile(Teller):
    """Tells beside everything else: for who looks after other domains meanwhile.

    Who was not reached is in the log and in the history, and no warning of the command.
    """

    def tell(self, domain: str, event: Event, next_command: str, **more: Any) -> list[str]:
        """Wait for nobody."""
        self.tell_meanwhile(domain, event, next_command, **more)
        return []
