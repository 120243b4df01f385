"""Moves domains: start and advance. Decisions are made in `phases`, plans in `planning`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from estate.config import Config
from estate.errors import SplitctlError
from estate.ledger import ActRecord, Ledger, Rollout
from migrator.ownership import Ownership
from rollout import drift, evidence, marks, phases, pod_health, proving, recovery
from rollout.books import ADOPT, REPAIR, adopt, arrived, finish
from rollout.flags import DomainFlags
from rollout.following import ending
from rollout.interrupts import Interrupts
from rollout.owner_recovery import owners_in_line
from rollout.owner_step import OwnerLimits, OwnerStep
from rollout.phases import Move, Stage
from rollout.planning import STEP, Plan, next_step, plan
from rollout.preconditions import (
    Held,
    Refused,
    ask,
    held,
    in_line,
    need_gateways,
    need_shares,
    need_sync,
    need_verdict,
    refuse_for,
)
from rollout.rolled_back import ROLLBACK
from rollout.step import Step
from rollout.step_plan import StepLimits, StepPlan, StepResult, StepUnfinished
from rollout.survey import Drift, Survey, survey
from rollout.telling import Teller
from rollout.tools import Tools
from rollout.versions import Seen
from rollout.watch import watch
from rollout.world import World
from rollout.written import BY_DEFAULT

__all__ = ["START", "STEP", "Held", "Plan", "Started", "advance", "plan", "start", "watch"]

START = "start"
BOOKKEEPING = (START, ADOPT, ROLLBACK, REPAIR)


@dataclass(frozen=True)
class Started:
    """A rollout that may advance. `changes` says what had to be brought in line."""

    domain: str
    stage: str
    percentage: int
    changes: tuple[str, ...]
    next_command: str


# Start


def start(
    config: Config, domain: str, *, telling: type[Teller] = Teller, tools: Tools | None = None
) -> Started:
    """Let a domain's rollout begin: sync live in both directions and a fresh verdict `equal`.

    Typed again while it is live, it brings gateways that fell behind (a restart, say) to what the
    owners say. `telling`: who waits for those who are told, or does not. Raises Refused or Drift.
    """
    config.domain(domain)
    tools = tools or Tools.of(config)
    world = tools.world(domain)
    try:
        with tools.ledger() as ledger, ledger.lock():
            need_gateways(domain, tools.written)
            known = ledger.rollout(domain)
            if known is not None and known.stage != Stage.DUAL_WRITE:
                started = _start_again(config, domain, known, ledger, tools, world)
            else:
                started = _start(config, domain, ledger, tools, world)
    finally:
        world.close()
    told = "; ".join(started.changes) or None
    telling(config, tools).tell(domain, "started", started.next_command, reason=told)
    return started


def _start(config: Config, domain: str, ledger: Ledger, tools: Tools, world: World) -> Started:
    need_sync(domain, tools.sync())
    need_shares(domain, tools.sequences(domain))
    need_verdict(config, domain, None, ledger)
    refuse_for(domain, tools.subjects.problems(domain))
    refuse_for(domain, pod_health.problems(config, domain, tools.cluster))
    # Else whoever comes by a gateway with early flags would write where he is not owned.
    refuse_for(domain, tools.unrefused(domain))
    seen = survey(domain, tools.flags, world)
    drift = seen.disagreements(0)
    if drift:
        raise Drift(domain=domain, reason="; ".join(drift), next=f"splitctl rollback {domain}")
    epoch = seen.highest_epoch
    act = ledger.begin(domain, START, {"epoch": epoch})
    for answer in tools.flags.put(domain, DomainFlags(True, 0, epoch)):
        if not answer.ok:
            reason = f"{answer.url}: {answer.problem}"
            ledger.finish(act, {"error": reason}, state="abandoned")
            raise Drift(domain=domain, reason=reason, next=f"splitctl rollout start {domain}")
    row = Rollout(domain, stage=Stage.LIVE, phase_started_at=ledger.now(), epoch=epoch)
    ledger.finish(act, {"percentage": 0}, rollout=row)
    return Started(domain, Stage.LIVE, 0, (), f"splitctl rollout advance {domain}")


def _start_again(
    config: Config, domain: str, known: Rollout, ledger: Ledger, tools: Tools, world: World
) -> Started:
    decision = phases.on_start(evidence.position(config, known))
    if decision.move is Move.REFUSE and known.stage == Stage.COMPLETE:
        raise Refused(domain=domain, reason=decision.reason, next="splitctl status")
    for act in ledger.unfinished(domain):
        if act.kind not in BOOKKEEPING:
            reason = f"{act.kind} was not finished"
            raise Refused(domain=domain, reason=reason, next="splitctl status")
        ledger.finish(act, {"how": "begun anew"}, state="abandoned")
    drift.found(known, drift.served(known, tools.flags.served()), ledger, tools.provenance)
    act = ledger.begin(domain, START, {"percentage": known.percentage, "epoch": known.epoch})
    try:
        changes = _bringin_line(domain, tools, world)
    except SplitctlError as error:
        ledger.finish(act, {"error": str(error)}, state="abandoned")
        raise
    seen = survey(domain, tools.flags, world)
    row = _same_epoch(adopt(config, known, seen, ledger), seen)
    ledger.finish(act, {"percentage": row.percentage, "changes": changes}, rollout=row)
    served = drift.served(row, seen.gateways)
    typed = "`rollout start` was typed"
    drift.ended(row, served, tools.metrics.scrape(), ledger, typed)
    drift.adopted(row, tools.metrics.scrape(), ledger, typed)
    following = f"splitctl rollout {'watch' if row.percentage else 'advance'} {domain}"
    return Started(domain, row.stage, row.percentage, tuple(changes), following)


def _same_epoch(row: Rollout, seen: Survey) -> Rollout:
    """The row at the epoch that all have now, where they are at its percentage."""
    owned = seen.owned
    if owned is None or seen.owned_percentage != row.percentage:
        return row
    return replace(row, epoch=max(row.epoch, owned.epoch))


def _bringin_line(domain: str, tools: Tools, world: World) -> list[str]:
    """Owners to the newer of the two, then gateways with an older epoch to what owners say."""
    seen = survey(domain, tools.flags, world)
    if len(seen.owners) < 2:
        told = "; ".join(f"{who}: {why}" for who, why in seen.problems.items())
        raise Drift(domain=domain, reason=told, next="splitctl status")
    changes = owners_in_line(domain, world) if tools.written is not None else []
    seen = survey(domain, tools.flags, world) if changes else seen
    newest = _newest(seen)
    for side, owner in seen.owners.items():
        if owner != newest:
            world.switch_owner(side, newest.new_below, newest.epoch, 5.0)
            changes.append(f"the {side} side's database is at epoch {newest.epoch} now")
    percentage = newest.new_below // phases.PER_PERCENT
    wanted = DomainFlags(True, percentage, newest.epoch)
    newer = [url for url, flags in seen.served.items() if flags.epoch > newest.epoch]
    if tools.written is not None:
        # Flags of a step that came no further: the owners decide, and are followed.
        wanted = replace(wanted, epoch=seen.highest_epoch)
    elif newer:
        reason = f"{', '.join(newer)} serve a newer epoch than the owners': a rollback was begun"
        raise Drift(domain=domain, reason=reason, next=f"splitctl rollback {domain}")
    # At the end of a split no flag stands, and none is written again: everybody is where he is.
    ended = tools.written is not None and tools.written.stands(domain) is None
    left = [url for url, flags in seen.served.items() if ended and flags == BY_DEFAULT]
    if left and percentage == BY_DEFAULT.percentage:
        changes.append("gateways serve the new side by default: no flag is written")
    behind = [
        url
        for url, flags in seen.served.items()
        if flags.served != percentage
        or (flags.enabled and flags.epoch < wanted.epoch and url not in left)
    ]
    for answer in tools.flags.put(domain, wanted, behind) if behind else []:
        if answer.ok:
            changes.append(f"{answer.url} serves {percentage} % now")
    return changes


def _newest(seen: Survey) -> Ownership:
    """The newer of the two owner rows, at the epoch of gateways that only renumbered it."""
    newest = max(seen.owners.values(), key=lambda owner: owner.epoch)
    percentage = newest.new_below // phases.PER_PERCENT
    epochs = [flags.epoch for flags in seen.served.values() if flags.served == percentage]
    return replace(newest, epoch=max([newest.epoch, *epochs]))


# Advance


def advance(
    config: Config,
    domain: str,
    *,
    soak: timedelta | None = None,
    until: int = phases.ALL,
    proof: timedelta | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
    telling: type[Teller] = Teller,
    tools: Tools | None = None,
) -> StepResult | Held:
    """Ask the present phase's gates, then make one fenced step to the next percentage.

    soak: how long the *new* phase has to soak, in place of the configuration's.
    until: no step goes beyond this percentage.
    proof: how long customers are waited for who prove the step, in place of the configuration's;
    `on_progress` gets a line now and then while they are.
    telling: who waits for those who are told, or does not.
    A step found unfinished is brought to its end first; if it could be finished, that is all.
    Raises LockHeld, Refused, Drift, and what a step raises.
    """
    config.domain(domain)
    tools = tools or Tools.of(config)
    teller = telling(config, tools)
    try:
        result = _advance(config, domain, soak, until, tools)
    except StepUnfinished as error:
        teller.tell(domain, "unfinished", error.next_command, reason=str(error))
        raise
    if isinstance(result, StepResult):
        result.warnings += teller.stepped(result)
        # Without the operator lock: who proves only looks.
        limit = config.rollout.proof if proof is None else proof
        proving.prove(config, result, limit, tools, on_progress)
    return result


def _advance(
    config: Config, domain: str, soak: timedelta | None, until: int, tools: Tools
) -> StepResult | Held:
    world = tools.world(domain)
    try:
        with tools.ledger() as ledger, ledger.lock():
            finished = _settle(config, domain, ledger, tools, world, soak)
            if finished is not None:
                return finished
            row = ledger.rollout(domain)
            if row is None:
                following = f"splitctl rollout start {domain}"
                raise Refused(domain=domain, reason="its rollout was not started", next=following)
            seen = survey(domain, tools.flags, world)
            row = adopt(config, row, seen, ledger)
            in_line(domain, row, seen)
            looked = evidence.look(tools, config, ledger, [domain])
            drift.runs(row, _running(domain, row, tools), looked.snapshot, ledger)
            asked = ask(config, row, ledger, looked)
            row = asked.row
            decision = phases.on_advance(asked.position, asked.results, until)
            if decision.move is not Move.STEP or decision.phase is None:
                return held(row, decision, asked.results)
            need_sync(domain, looked.streams)
            need_shares(domain, tools.sequences(domain))
            need_gateways(domain, tools.written)
            refuse_for(domain, tools.unrefused(domain))
            # Whatever the gates ask: no step without a verification of what it moves.
            need_verdict(config, domain, row, ledger)
            chosen = next_step(config, row, seen, decision.phase, ledger)
            return _step(config, chosen, ledger, tools, world, soak)
    finally:
        world.close()


def _running(domain: str, row: Rollout, tools: Tools) -> Seen | None:
    """What runs now. Raises Refused when that cannot be compared with the phase's beginning."""
    try:
        return tools.versions.now()
    except SplitctlError as error:
        if row.percentage == 0:
            return None
        reason = f"whether the same images and configuration run still cannot be told: {error}"
        raise Refused(domain=domain, reason=reason, next="splitctl doctor") from error


def _settle(
    config: Config,
    domain: str,
    ledger: Ledger,
    tools: Tools,
    world: World,
    soak: timedelta | None,
) -> StepResult | None:
    """End what was found unfinished. Returns the result of a step that could be finished."""
    result: StepResult | None = None
    for act in ledger.unfinished(domain):
        if act.kind in BOOKKEEPING:
            # The world was moved already, or not yet: it is looked at anew either way.
            ledger.finish(act, {"how": "begun anew"}, state="abandoned")
        elif act.kind != STEP:
            following = ending(act.kind, domain)
            raise Refused(domain=domain, reason=f"{act.kind} was not finished", next=following)
        else:
            with Interrupts():
                ended = recovery.settle(domain, act, tools, world)
            if isinstance(ended, str):
                ledger.finish(act, {"how": ended}, state="abandoned")
            else:
                row = arrived(config, ended, tools, ledger, soak)
                ledger.finish(act, ended.to_json(), rollout=row)
                result = ended
    return result


def _intend(chosen: StepPlan, ledger: Ledger) -> ActRecord:
    """Write the step down, unless somebody paused while the gates were asked. Raises Refused."""
    with ledger.changing(chosen.domain) as change:
        paused = marks.paused(change, chosen.domain)
        if paused is not None:
            following = f"splitctl rollout resume {chosen.domain}"
            why = marks.why_paused(paused)
            raise Refused(domain=chosen.domain, reason=why, next=following)
        return change.begin(chosen.domain, STEP, chosen.intent())


def _step(
    config: Config,
    chosen: StepPlan,
    ledger: Ledger,
    tools: Tools,
    world: World,
    soak: timedelta | None,
) -> StepResult:
    """Intent, step, outcome."""
    with Interrupts() as interrupts:
        act = _intend(chosen, ledger)
        before = _strays(chosen.domain, tools)
        try:
            result = _mover(config, chosen, tools, world, interrupts).perform()
        except StepUnfinished:
            raise
        except SplitctlError as error:
            finish(config, ledger, act, {"error": str(error)}, state="abandoned")
            raise
        _count_strays(result, before, tools)
        row = arrived(config, result, tools, ledger, soak)
        kept = finish(config, ledger, act, result.to_json(), row=row)
        if not kept:
            result.warnings.append("the ledger is away: the outcome is in the local journal")
    return result


def _strays(domain: str, tools: Tools) -> int | None:
    """How many there are; None where it is not known."""
    try:
        found = [item for item in tools.sync() if evidence.of_domain(item, domain)]
    except SplitctlError:
        return None
    known = [item.strays for item in found if item.strays is not None]
    return sum(known) if known and len(known) == len(found) else None


def _count_strays(result: StepResult, before: int | None, tools: Tools) -> None:
    after = _strays(result.domain, tools)
    if before is None or after is None:
        result.warnings.append("how many strays it brought is not known: splitctl sync strays")
        return
    result.strays = max(after - before, 0)
    if result.strays:
        result.warnings.append(f"{result.strays} strays: splitctl sync strays {result.domain}")


def _mover(
    config: Config, chosen: StepPlan, tools: Tools, world: World, interrupts: Interrupts
) -> Step | OwnerStep:
    """How this estate's gateways are moved: with a fence where they have one."""
    if tools.written is None:
        limits = StepLimits(config.fence.budget_ms, config.fence.lease_ms)
        return Step(
            chosen, world, tools.flags, tools.writers, limits, interrupts, tools.clock, tools.sleep
        )
    settle_s = config.gateway.settle.total_seconds()
    return OwnerStep(
        chosen,
        world,
        tools.written,
        tools.writers,
        OwnerLimits(settle_s, config.fence.budget_ms / 1000),
        interrupts,
        tools.clock,
        tools.sleep,
    )
