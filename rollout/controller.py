"""Moves domains: start, advance, and the plan of the next move. Decisions are made in `phases`."""

import socket
from dataclasses import dataclass
from datetime import timedelta

from estate.config import Config
from estate.connections import operator
from estate.errors import SplitctlError
from estate.ledger import Ledger, Rollout
from rollout import evidence, phases, recovery
from rollout.books import ADOPT, REPAIR, adopt, arrived, finish
from rollout.flags import DomainFlags
from rollout.gates import GateResult
from rollout.interrupts import Interrupts
from rollout.owner_step import OwnerLimits, OwnerStep
from rollout.phases import Move, Stage
from rollout.preconditions import (
    Held,
    Refused,
    ask,
    held,
    in_line,
    need_shares,
    need_sync,
    need_verdict,
)
from rollout.rolled_back import ROLLBACK
from rollout.step import Step
from rollout.step_plan import StepLimits, StepPlan, StepResult, StepUnfinished
from rollout.survey import Drift, Survey, survey
from rollout.tools import Tools
from rollout.watch import watch
from rollout.world import World

__all__ = ["Held", "Plan", "Started", "advance", "plan", "start", "watch"]

STEP = "step"
START = "start"
LAST = 100  # acts among which the latest step is looked for
BOOKKEEPING = (START, ADOPT, ROLLBACK, REPAIR)


@dataclass(frozen=True)
class Started:
    """A rollout that may advance. `changes` says what had to be brought in line."""

    domain: str
    stage: str
    percentage: int
    changes: tuple[str, ...]
    next_command: str


@dataclass(frozen=True)
class Plan:
    """The next move: its acts in order, what stands in its way, and how the gates answer now."""

    domain: str
    percentage: int
    to: int | None
    steps: list[str]
    blockers: list[str]
    gates: list[GateResult]
    next_command: str


# Start


def start(config: Config, domain: str, *, tools: Tools | None = None) -> Started:
    """Let a domain's rollout begin: sync live in both directions and a fresh verdict `equal`.

    Typed again while it is live, it brings gateways that fell behind (a restart, say) to what the
    owners say. Raises Refused or Drift.
    """
    config.domain(domain)
    tools = tools or Tools.of(config)
    world = tools.world(domain)
    try:
        with tools.ledger() as ledger, ledger.lock():
            known = ledger.rollout(domain)
            if known is not None and known.stage != Stage.DUAL_WRITE:
                return _start_again(config, domain, known, ledger, tools, world)
            return _start(config, domain, ledger, tools, world)
    finally:
        world.close()


def _start(config: Config, domain: str, ledger: Ledger, tools: Tools, world: World) -> Started:
    need_sync(domain, tools.sync())
    need_shares(domain, tools.sequences(domain))
    need_verdict(config, domain, None, ledger)
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
    changes = _bringin_line(domain, tools, world)
    row = adopt(config, known, survey(domain, tools.flags, world), ledger)
    following = f"splitctl rollout {'watch' if row.percentage else 'advance'} {domain}"
    return Started(domain, row.stage, row.percentage, tuple(changes), following)


def _bringin_line(domain: str, tools: Tools, world: World) -> list[str]:
    """Owners to the newer of the two, then gateways with an older epoch to what owners say."""
    seen = survey(domain, tools.flags, world)
    if len(seen.owners) < 2:
        told = "; ".join(f"{who}: {why}" for who, why in seen.problems.items())
        raise Drift(domain=domain, reason=told, next="splitctl status")
    changes: list[str] = []
    newest = max(seen.owners.values(), key=lambda owner: owner.epoch)
    for side, owner in seen.owners.items():
        if owner != newest:
            world.switch_owner(side, newest.new_below, newest.epoch, 5.0)
            changes.append(f"the {side} side's database is at epoch {newest.epoch} now")
    percentage = newest.new_below // phases.PER_PERCENT
    wanted = DomainFlags(True, percentage, newest.epoch)
    newer = [url for url, flags in seen.served.items() if flags.epoch > newest.epoch]
    if newer:
        reason = f"{', '.join(newer)} serve a newer epoch than the owners': a rollback was begun"
        raise Drift(domain=domain, reason=reason, next=f"splitctl rollback {domain}")
    behind = [
        url
        for url, flags in seen.served.items()
        if flags.served != percentage or (flags.enabled and flags.epoch < newest.epoch)
    ]
    for answer in tools.flags.put(domain, wanted, behind) if behind else []:
        if answer.ok:
            changes.append(f"{answer.url} serves {percentage} % now")
    return changes


# Advance


def advance(
    config: Config, domain: str, *, soak: timedelta | None = None, tools: Tools | None = None
) -> StepResult | Held:
    """Ask the present phase's gates, then make one fenced step to the next percentage.

    soak: how long the *new* phase has to soak, in place of the configuration's.
    A step found unfinished is brought to its end first; if it could be finished, that is all.
    Raises LockHeld, Refused, Drift, and what a step raises.
    """
    config.domain(domain)
    tools = tools or Tools.of(config)
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
            looked = evidence.look(tools)
            row, results = ask(config, row, ledger, looked)
            position = evidence.position(config, row)
            decision = phases.on_advance(position, results)
            if decision.move is not Move.STEP or decision.phase is None:
                return held(row, decision, results)
            need_sync(domain, looked.streams)
            need_shares(domain, tools.sequences(domain))
            # Whatever the gates ask: no step without a verification of what it moves.
            need_verdict(config, domain, row, ledger)
            chosen = _plan(config, row, seen, decision.phase, ledger)
            return _step(config, chosen, ledger, tools, world, soak)
    finally:
        world.close()


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
            following = f"splitctl decommission {act.kind} {domain}"
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


def _plan(config: Config, row: Rollout, seen: Survey, phase: int, ledger: Ledger) -> StepPlan:
    # Above every step that was ever begun, too: gateways whose lease ended without an answer have
    # given its epoch up for good.
    begun = [
        int(act.intent["epoch"]) for act in ledger.history(row.domain, LAST) if act.kind == STEP
    ]
    return StepPlan(
        domain=row.domain,
        from_percentage=row.percentage,
        to_percentage=config.domain(row.domain).phases[phase].percentage,
        epoch=1 + max([seen.highest_epoch, row.epoch, *begun]),
        holder=f"{operator()}@{socket.gethostname()}",
    )


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
        act = ledger.begin(chosen.domain, STEP, chosen.intent())
        try:
            result = _mover(config, chosen, tools, world, interrupts).perform()
        except StepUnfinished:
            raise
        except SplitctlError as error:
            finish(config, ledger, act, {"error": str(error)}, state="abandoned")
            raise
        row = arrived(config, result, tools, ledger, soak)
        kept = finish(config, ledger, act, result.to_json(), row=row)
        if not kept:
            result.warnings.append("the ledger is away: the outcome is in the local journal")
    return result


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


# Plan


def plan(config: Config, domain: str, *, tools: Tools | None = None) -> Plan:
    """What the next `advance` would do, and what stands in its way. Changes nothing."""
    config.domain(domain)
    tools = tools or Tools.of(config)
    world = tools.world(domain)
    try:
        with tools.ledger() as ledger:
            row = ledger.rollout(domain) or Rollout(domain)
            seen = survey(domain, tools.flags, world)
            looked = evidence.look(tools)
            now = evidence.counted(row, looked, ledger.now())
            verdict = evidence.trusted(ledger, domain)
            results = evidence.ask(config, evidence.of(now, looked, verdict))
            position = evidence.position(config, now)
            following = position.following
            blockers = [
                f"{act.kind} of {act.at:%Y-%m-%d %H:%M:%S} UTC was not finished"
                for act in ledger.unfinished(domain)
            ]
            held = ledger.lock_holder()
            chosen = None
            if following is not None:
                chosen = _plan(config, row, seen, following, ledger)
    finally:
        world.close()
    if held is not None:
        blockers.append(f"{held.operator} on {held.host} holds the lock with `{held.command}`")
    decision = phases.on_advance(position, results)
    if decision.move is not Move.STEP:
        blockers.append(decision.reason)
    blockers += seen.disagreements(row.percentage)
    try:
        need_sync(domain, looked.streams)
        need_shares(domain, tools.sequences(domain))
    except SplitctlError as error:
        blockers.append(str(error))
    to = config.domain(domain).phases[following].percentage if following is not None else None
    steps = chosen.acts() if chosen is not None else []
    next_command = f"splitctl rollout advance {domain}" if not blockers else "splitctl status"
    return Plan(domain, row.percentage, to, steps, blockers, results, next_command)
