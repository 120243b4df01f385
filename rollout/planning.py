"""The plan of the next move: what it would do, what it means, and what stands in its way."""

import socket
from dataclasses import dataclass
from datetime import datetime

from estate.config import Config
from estate.connections import operator
from estate.errors import SplitctlError
from estate.ledger import Ledger, Rollout
from rollout import asking, evidence, foresight, phases, power
from rollout.counters import Window
from rollout.foresight import Way
from rollout.gates import GateResult
from rollout.phases import Move
from rollout.preconditions import (
    need_gateways,
    need_shares,
    need_sync,
    refuse_for,
)
from rollout.step_plan import StepPlan
from rollout.survey import Survey, survey
from rollout.tools import Tools

STEP = "step"
LAST = 100  # acts among which the latest step is looked for


@dataclass(frozen=True)
class Plan:
    """The next move: its acts in order, what stands in its way, and how the gates answer now.

    `customers` says what it means for them, `power` how long the next phase needs until gates that
    compare cohorts can tell.
    """

    domain: str
    percentage: int
    to: int | None
    steps: list[str]
    blockers: list[str]
    gates: list[GateResult]
    customers: list[str]
    power: list[str]
    next_command: str


def plan(config: Config, domain: str, *, tools: Tools | None = None) -> Plan:
    """What the next `advance` would do, and what stands in its way. Changes nothing."""
    config.domain(domain)
    tools = tools or Tools.of(config)
    world = tools.world(domain)
    try:
        with tools.ledger() as ledger:
            row = ledger.rollout(domain) or Rollout(domain)
            seen = survey(domain, tools.flags, world)
            looked = evidence.look(tools, config, ledger, [domain])
            now = evidence.counted(row, looked, ledger.now())
            asked = asking.ask(config, now, ledger, looked)
            results, position = asked.results, asked.position
            following = position.following
            blockers = [
                f"{act.kind} of {act.at:%Y-%m-%d %H:%M:%S} UTC was not finished"
                for act in ledger.unfinished(domain)
            ]
            held = ledger.lock_holder()
            at = ledger.now()
            chosen = None
            if following is not None:
                chosen = next_step(config, row, seen, following, ledger)
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
        need_gateways(domain, tools.written)
        refuse_for(domain, tools.unrefused(domain))
    except SplitctlError as error:
        blockers.append(str(error))
    to = config.domain(domain).phases[following].percentage if following is not None else None
    told = power.sentences(config, domain, to, tools.subjects, at) if to is not None else []
    steps: list[str] = []
    customers: list[str] = []
    if chosen is not None:
        way = _way(config, tools)
        steps = chosen.acts() if way.takes_s is None else chosen.acts_without_fence()
        customers = foresight.sentences(chosen, way, _movers(chosen, now, at))
    next_command = f"splitctl rollout advance {domain}" if not blockers else "splitctl status"
    return Plan(domain, row.percentage, to, steps, blockers, results, customers, told, next_command)


def _way(config: Config, tools: Tools) -> Way:
    takes_s = None if tools.written is None else tools.written.takes_s()
    gateway = config.gateway
    budget_ms = config.fence.budget_ms
    return Way(gateway.driver, takes_s, tools.refusing, budget_ms, gateway.by_chance)


def _movers(chosen: StepPlan, row: Rollout, at: datetime) -> float | None:
    """Requests a second of those who move, by the window of the present phase."""
    window = Window.from_json(row.evidence.get("window", {}))
    requests = window.side("new").requests + window.side("old").requests
    seconds = (at - row.phase_started_at).total_seconds() if row.phase_started_at else 0.0
    return foresight.movers_per_s(chosen, requests, seconds)


def next_step(config: Config, row: Rollout, seen: Survey, phase: int, ledger: Ledger) -> StepPlan:
    """The step to a phase, under an epoch that nobody has used."""
    # Above every step that was ever begun, too: gateways whose lease ended without an answer have
    # given its epoch up for good.
    begun = [int(act.intent["epoch"]) for act in ledger.history(row.domain, LAST, kinds=(STEP,))]
    return StepPlan(
        domain=row.domain,
        from_percentage=row.percentage,
        to_percentage=config.domain(row.domain).phases[phase].percentage,
        epoch=1 + max([seen.highest_epoch, row.epoch, *begun]),
        holder=f"{operator()}@{socket.gethostname()}",
    )
