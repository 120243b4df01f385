"""Waits, after a step, until its percentage is measured and not only told: a watch that soon ends.

Nobody is moved here. What is not proven in time stays so in the ledger, and whoever looks next
(`rollout watch`, `run`, `advance`) goes on with it.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from estate.config import Config
from estate.errors import ExitCode, SplitctlError
from estate.ledger import Ledger, LedgerUnreachable
from rollout import looks
from rollout.looks import Subject
from rollout.phases import Move
from rollout.proof import Proof
from rollout.step_plan import StepOvertaken, StepResult
from rollout.tools import Tools

TELL_EVERY_S = 5.0


class ProofLeft(SplitctlError):
    """The step of domain '{domain}' to {percentage} % is made and its flags stand; you left before
    the share of customers proved it ({told}). Customers stay where they are."""

    hint = "splitctl rollout watch {domain}"
    exit_code = ExitCode.INTERRUPTED


def prove(
    config: Config,
    result: StepResult,
    limit: timedelta,
    tools: Tools,
    on_progress: Callable[[str], None],
) -> None:
    """Look until the step is proven, a gate fails that brings customers back, or time is over.

    What was found stands in `result.proof` and `result.failed`. Down the way there is nothing to
    wait for, and without any time it is left to whoever looks next. Raises StepOvertaken when
    somebody else moved the domain meanwhile, ProofLeft at Ctrl-C.
    """
    if result.to_percentage <= result.from_percentage:
        return
    subject = Subject(result.domain)
    before = result.from_percentage
    result.proof = Proof("open", result.to_percentage, before, reason="nobody has looked yet")
    if limit <= timedelta():
        return
    try:
        with tools.ledger() as ledger:
            _look_on(config, subject, result, limit, ledger, tools, on_progress)
    except LedgerUnreachable as error:
        result.proof = replace(result.proof, reason=str(error))
    except KeyboardInterrupt:
        facts = {"domain": result.domain, "percentage": result.to_percentage}
        raise ProofLeft(**facts, told=result.proof) from None


def _look_on(
    config: Config,
    subject: Subject,
    result: StepResult,
    limit: timedelta,
    ledger: Ledger,
    tools: Tools,
    on_progress: Callable[[str], None],
) -> None:
    began = tools.clock()
    told_at = began - TELL_EVERY_S
    while True:
        looks.look(config, [subject], ledger, tools)
        decision = subject.decision
        if subject.proof is not None:
            result.proof = subject.proof
            if subject.percentage != result.to_percentage:
                reason = f"it is at {subject.percentage} % now"
                raise StepOvertaken(domain=result.domain, reason=reason)
        if decision.move is Move.REFUSE:
            raise StepOvertaken(domain=result.domain, reason=decision.reason)
        # Before the proof: who is served as asked may be served badly.
        if decision.move is Move.ROLL_BACK:
            result.failed = decision.reason
            following = f"`splitctl rollout watch {result.domain}` brings customers back"
            result.warnings.append(f"a gate fails: {decision.reason}; {following}")
            return
        if subject.proof is not None and subject.proof.proven:
            return
        clock = tools.clock()
        if clock - began >= limit.total_seconds():
            return
        if clock - told_at >= TELL_EVERY_S:
            told_at = clock
            on_progress(f"{result.domain}: every gateway serves it; {_told(subject)}")
        tools.sleep(looks.SHORTEST_LOOK_S)


def _told(subject: Subject) -> str:
    return subject.proof.told if subject.proof is not None else subject.decision.reason
