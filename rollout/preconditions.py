"""What has to be true before customers move, and the answer when it is not."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from estate.config import Config, Problem
from estate.errors import ExitCode, SplitctlError
from estate.ledger import Ledger, Rollout
from migrator.status import StreamStatus
from rollout import asking, evidence, phases
from rollout.asking import Asked
from rollout.evidence import Look
from rollout.gates import GateResult
from rollout.phases import Move
from rollout.step_plan import CONTRADICTED
from rollout.survey import Drift, Survey
from rollout.written import Written

# Without a consistency gate, a verification counts as fresh for so long.
FRESH = timedelta(hours=1)


class Refused(SplitctlError):
    """Domain '{domain}': {reason}. Nothing was changed."""

    hint = "{next}"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Held:
    """No step was made, and why.

    `verdict` is fail, inconclusive, soaking, paused, unproven or contradicted.
    """

    domain: str
    percentage: int
    verdict: str
    reason: str
    gates: list[GateResult]
    exit_code: ExitCode
    next_command: str


def need_sync(domain: str, streams: Iterable[StreamStatus]) -> None:
    """Both directions live, with a living worker. Raises Refused."""
    found = [status for status in streams if evidence.of_domain(status, domain)]
    for status in found:
        states = set(status.states.values())
        if status.problem:
            reason, following = status.problem, "splitctl sync status"
        elif not status.enabled:
            reason, following = "is not enabled", f"splitctl sync enable {domain}"
        elif not status.worker_alive:
            reason, following = "has no living worker", "splitctl sync run"
        elif states - {"live"}:
            waiting = sorted(name for name, state in status.states.items() if state != "live")
            reason = f"is not live yet ({', '.join(waiting)})"
            following = f"splitctl backfill run {domain}"
        else:
            continue
        raise Refused(domain=domain, reason=f"sync {status.stream} {reason}", next=following)
    if len(found) < 2:
        following = f"splitctl sync enable {domain}"
        raise Refused(domain=domain, reason="sync is not enabled", next=following)


def need_shares(domain: str, problems: Iterable[Problem]) -> None:
    """Both sides hand out numbers of their own. Raises Refused.

    Were they not apart, the first insert on the side that customers come to could take an id that
    the other side has given, or gives later.
    """
    found = list(problems)
    if found:
        told = "; ".join(f"{problem.key}: {problem.reason}" for problem in found)
        fixes = {problem.fix for problem in found}
        enable = f"splitctl sync enable {domain}"
        following = enable if fixes == {enable} else "splitctl doctor"
        raise Refused(domain=domain, reason=told, next=following)


def refuse_for(domain: str, problems: Iterable[Problem]) -> None:
    """Nothing that was asked beforehand says no: gates, services. Raises Refused with the rest."""
    told = "; ".join(problem.told for problem in problems)
    if told:
        raise Refused(domain=domain, reason=told.rstrip("."), next="splitctl doctor")


def need_gateways(domain: str, written: Written | None) -> None:
    """A change of flags would reach the gateways; with a fence that shows at once. Raises Refused.

    A step would find out by waiting, with flags that are half-way.
    """
    for problem in written.hindrances() if written is not None else ():
        reason = f"{problem.key} {problem.reason}"
        following = f"{problem.fix}, then: splitctl doctor" if problem.fix else "splitctl doctor"
        raise Refused(domain=domain, reason=reason, next=following)


def need_verdict(config: Config, domain: str, row: Rollout | None, ledger: Ledger) -> None:
    """A verification that is equal and fresh. Raises Refused."""
    reason = verdict_lack(config, domain, row, ledger)
    if reason:
        raise Refused(domain=domain, reason=reason, next=f"splitctl verify run --domain {domain}")


def verdict_lack(config: Config, domain: str, row: Rollout | None, ledger: Ledger) -> str:
    """What the latest verification lacks to be relied on; empty when nothing."""
    record = evidence.trusted(ledger, domain)
    seen = evidence.verdict_seen(record, row.moved_at if row else None)
    if seen is None:
        return "it was never verified"
    if seen.verdict != "equal":
        return f"the last verification was {seen.verdict}"
    if not seen.covers_now:
        return "the last verification began before customers moved"
    if seen.age_s > fresh_for(config, domain).total_seconds():
        return "the last verification is too old"
    return ""


def fresh_for(config: Config, domain: str) -> timedelta:
    """For how long a verification of the domain counts as fresh."""
    ages = [g.max_age for g in config.gates if g.max_age and domain in (g.domains or [domain])]
    return min(ages, default=FRESH)


def ask(config: Config, row: Rollout, ledger: Ledger, looked: Look) -> Asked:
    """Count one look at everything and keep it; then the gates' answers, which are kept too."""
    found = asking.count(config, row.domain, ledger, looked)
    if found is None:
        raise Refused(
            domain=row.domain,
            reason="its rollout was not started",
            next=f"splitctl rollout start {row.domain}",
        )
    for result in found.results:
        ledger.add_verdict(row.domain, "gate", result.name, result.verdict, vars(result))
    return found


def held(row: Rollout, decision: phases.Decision, results: list[GateResult]) -> Held:
    """What keeps the domain where it is, as an answer."""
    domain = row.domain
    watching = f"splitctl rollout watch {domain}"
    match decision.move:
        case Move.FAIL:
            return Held(
                domain, row.percentage, "fail", decision.reason, results,
                ExitCode.CHECK_FAILED, f"splitctl rollback {domain}" if row.percentage else
                "splitctl status",
            )  # fmt: skip
        case Move.SOAK:
            return Held(
                domain, row.percentage, "soaking", decision.reason, results,
                ExitCode.IN_PROGRESS, watching,
            )  # fmt: skip
        case Move.HOLD:
            return Held(
                domain, row.percentage, "inconclusive", decision.reason, results,
                ExitCode.INCONCLUSIVE, evidence_from(domain, results) or watching,
            )  # fmt: skip
        case Move.PAUSED:
            return Held(
                domain, row.percentage, "paused", decision.reason, results,
                ExitCode.PRECONDITION, f"splitctl rollout resume {domain}",
            )  # fmt: skip
        case Move.UNPROVEN:
            return Held(
                domain, row.percentage, "unproven", decision.reason, results,
                ExitCode.IN_PROGRESS, watching,
            )  # fmt: skip
        case Move.CONTRADICTED:
            return Held(
                domain, row.percentage, "contradicted", decision.reason, results,
                ExitCode.CHECK_FAILED, CONTRADICTED.format(domain=domain),
            )  # fmt: skip
        case Move.DRIFT:
            following = f"splitctl rollout start {domain}"
            raise Drift(domain=domain, reason=decision.reason, next=following)
        case Move.NOTHING:
            following = f"splitctl decommission rampdown {domain}"
            raise Refused(domain=domain, reason=decision.reason, next=following)
        case _:
            raise Refused(domain=domain, reason=decision.reason, next="splitctl status")


def evidence_from(domain: str, results: Iterable[GateResult]) -> str:
    """The command that gives what a gate waits for; empty when only time and traffic do."""
    unsure = [result for result in phases.in_the_way(results) if result.verdict == "inconclusive"]
    for result in unsure:
        if result.kind == "consistency":
            return f"splitctl verify run --domain {domain}"
    for result in unsure:
        if result.kind == "question":
            return f"splitctl rollout answer {domain} --gate '{result.name}' --yes|--no"
    return ""


def in_line(domain: str, row: Rollout, seen: Survey) -> None:
    """Everybody is where the ledger says. Raises Drift."""
    drift = seen.disagreements(row.percentage)
    if drift:
        following = f"splitctl rollout start {domain}  (brings gateways to what the owners say)"
        raise Drift(domain=domain, reason="; ".join(drift), next=following)
