"""A person's word in a rollout: pause, resume, and the answer to a gate's question."""

from dataclasses import dataclass, replace

from estate.config import Config, UnknownName
from estate.ledger import ActRecord
from rollout import marks
from rollout.gates import asked
from rollout.marks import ANSWER, PAUSE, RESUME
from rollout.preconditions import Refused
from rollout.telling import Teller
from rollout.tools import Tools


@dataclass(frozen=True)
class Paused:
    """Customers stay where they are. `already`: it was paused before, and nothing was changed."""

    domain: str
    percentage: int
    already: bool
    paused: str
    under_way: str
    next_command: str

    def to_text(self) -> str:
        """For a person."""
        how = "is paused already" if self.already else "is paused"
        lines = [
            f"{self.domain} {how}: everybody stays at {self.percentage} %.",
            f"  {self.paused}",
            "  Gates go on being watched by `rollout watch` and `rollout run`: a fail still brings"
            " customers back.",
        ]
        return "\n".join([*lines, *([f"  {self.under_way}"] if self.under_way else [])])


@dataclass(frozen=True)
class Resumed:
    """Customers may move again. `already`: it was not paused, and nothing was changed."""

    domain: str
    percentage: int
    already: bool
    paused_for: str
    paused: str
    next_command: str

    def to_text(self) -> str:
        """For a person."""
        if self.already:
            return f"{self.domain} is not paused; nothing was changed."
        return (
            f"{self.domain} goes on at {self.percentage} %. It was paused for {self.paused_for}."
            f"\n  {self.paused}"
        )


@dataclass(frozen=True)
class Answered:
    """A gate's question, and the answer that counts until the phase ends or another is given."""

    domain: str
    gate: str
    question: str
    answer: str
    verdict: str
    by: str
    percentage: int
    next_command: str

    def to_text(self) -> str:
        """For a person."""
        return (
            f"{self.domain} at {self.percentage} %: {self.question}\n"
            f"  {self.by}: {self.verdict}\n"
            f"  It counts for this phase; a later answer takes its place."
        )


def pause(config: Config, domain: str, *, reason: str = "", tools: Tools | None = None) -> Paused:
    """Keep customers where they are: no step up, and the soak clock stands.

    Waits for no lock: once it is written no step begins; one that had begun comes to its end.
    Raises Refused where no rollout was started.
    """
    config.domain(domain)
    tools = tools or Tools.of(config)
    with tools.ledger() as ledger:
        with ledger.changing(domain) as change:
            if change.rollout is None:
                raise _not_started(domain)
            before = marks.paused(change, domain)
            percentage = change.rollout.percentage
            told = {"reason": reason, "percentage": percentage, "epoch": change.rollout.epoch}
            act = before or change.record(domain, PAUSE, told, {})
        under_way = _under_way(ledger.unfinished(domain))
    following = f"splitctl rollout resume {domain}"
    already = before is not None
    if not already:
        why = marks.why_paused(act)
        Teller(config, tools).tell(domain, "paused", following, reason=why)
    return Paused(domain, percentage, already, marks.why_paused(act), under_way, following)


def resume(config: Config, domain: str, *, tools: Tools | None = None) -> Resumed:
    """Let customers move again; the soak clock goes on where it stood. Raises Refused."""
    config.domain(domain)
    tools = tools or Tools.of(config)
    with tools.ledger() as ledger, ledger.changing(domain) as change:
        if change.rollout is None:
            raise _not_started(domain)
        percentage = change.rollout.percentage
        following = f"splitctl rollout {'watch' if percentage else 'advance'} {domain}"
        before = marks.paused(change, domain)
        if before is None:
            return Resumed(domain, percentage, True, "", "", following)
        lasted = marks.span(change.now - before.at)
        told = {"percentage": percentage, "epoch": change.rollout.epoch}
        change.record(domain, RESUME, told, {"paused_for": lasted})
        # The time of the pause is not counted by whoever looks next.
        change.save(replace(change.rollout, counted_at=change.now))
    Teller(config, tools).tell(domain, "resumed", following, reason=f"after {lasted}")
    return Resumed(domain, percentage, False, lasted, marks.why_paused(before), following)


def answer(
    config: Config,
    domain: str,
    gate: str,
    word: str,
    *,
    note: str = "",
    tools: Tools | None = None,
) -> Answered:
    """Answer a gate's question, yes or no, for the present phase.

    Raises UnknownName for a gate that asks no question of this domain, Refused at 0 %.
    """
    config.domain(domain)
    found = {
        item.name: item
        for item in asked(config.gates, domain, percentage=1)
        if item.kind == "question"
    }
    if gate not in found:
        known = ", ".join(found) or "none"
        raise UnknownName(kind="question", name=gate, known=known)
    chosen = found[gate]
    tools = tools or Tools.of(config)
    with tools.ledger() as ledger, ledger.changing(domain) as change:
        if change.rollout is None:
            raise _not_started(domain)
        percentage = change.rollout.percentage
        if percentage == 0:
            following = f"splitctl rollout advance {domain}"
            reason = "nobody is on the new side, so nothing is asked"
            raise Refused(domain=domain, reason=reason, next=following)
        verdict = "pass" if word == chosen.good else "fail"
        told = {
            "gate": gate,
            "question": chosen.question,
            "asked_of": chosen.asked_of,
            "answer": word,
            "note": note,
            "percentage": percentage,
            "epoch": change.rollout.epoch,
        }
        act = change.record(domain, ANSWER, told, {"verdict": verdict})
    following = f"splitctl rollout watch {domain}"
    if verdict == "fail" and chosen.on_fail == "rollback":
        following = f"splitctl rollback {domain}  (a watch does it by itself)"
    return Answered(
        domain, gate, str(chosen.question), word, verdict, marks.told_by(act), percentage, following
    )


def _not_started(domain: str) -> Refused:
    following = f"splitctl rollout start {domain}"
    return Refused(domain=domain, reason="its rollout was not started", next=following)


def _under_way(acts: list[ActRecord]) -> str:
    steps = [act for act in acts if "to" in act.intent]
    if not steps:
        return ""
    return (
        f"A {steps[-1].kind} to {steps[-1].intent['to']} % had begun before: it comes to its end."
    )
