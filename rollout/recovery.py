"""Brings an unfinished step to its one right end, told by what is true in the world."""

from estate.ledger import ActRecord
from migrator.ownership import EpochConflict, Ownership
from rollout.phases import Intent, Owns, Serves, Way, way_on
from rollout.step import not_serving, take_back
from rollout.step_plan import StepOvertaken, StepPlan, StepResult, StepUnfinished
from rollout.survey import Survey, survey
from rollout.tools import Tools
from rollout.world import SIDES, World

OWNER_S = 2.0
CROSSING_S = 10.0


def intent_of(act: ActRecord) -> Intent:
    """The intent as it was written down."""
    return Intent(int(act.intent["from"]), int(act.intent["to"]), int(act.intent["epoch"]))


def judge(intent: Intent, seen: Survey) -> Way:
    """The way on, by what was surveyed."""
    served = {
        gateway.url: Serves(flags.percentage, flags.epoch)
        if (flags := gateway.domains.get(seen.domain))
        else None
        for gateway in seen.gateways
    }
    owners = {
        side: Owns(owner.new_below, owner.epoch) if (owner := seen.owners.get(side)) else None
        for side in SIDES
    }
    return way_on(intent, served, owners)


def settle(domain: str, act: ActRecord, tools: Tools, world: World) -> StepResult | str:
    """End an unfinished step: the result when it was finished, or how it was given up.

    Raises StepUnfinished while that cannot be told, SideAway while an owner cannot be moved.
    """
    intent = intent_of(act)
    if tools.written is not None:
        from rollout.owner_recovery import settle as settle_unfenced

        return settle_unfenced(domain, intent, tools, world)
    seen = survey(domain, tools.flags, world)
    way = judge(intent, seen)
    if way is Way.BACK:
        way = _still_back(domain, intent, tools)
    if way is Way.FORWARD:
        try:
            return _forward(domain, intent, tools, world)
        except (EpochConflict, StepOvertaken):
            way = Way.OVERTAKEN
    if way is Way.UNKNOWN:
        told = "; ".join(f"{who}: {why}" for who, why in seen.problems.items())
        reason = f"it is not known whether anybody is served by it ({told})"
        raise StepUnfinished(domain=domain, reason=reason)
    how = "a later command decided"
    if way is Way.BACK:
        try:
            epoch = take_back(domain, intent.from_percentage, intent.epoch, world)
            how = f"taken back to {intent.from_percentage} % under epoch {epoch}"
        except StepOvertaken:
            pass
    # Owners first, then the held: they go on to the side that owns them.
    tools.flags.release(domain, intent.epoch)
    tools.writers.resume()
    return how


def _still_back(domain: str, intent: Intent, tools: Tools) -> Way:
    """Nobody was served by it when they were asked. Nor will be, once each has given it up.

    The command may only have slept: its switch must not come in between. Raises StepUnfinished
    when a gateway does not answer.
    """
    answers = tools.flags.forgo(domain, intent.epoch)
    latest = max((answer.value.epoch for answer in answers if answer.value), default=0)
    if latest > intent.epoch:
        return Way.OVERTAKEN
    if latest == intent.epoch:
        return Way.FORWARD
    for answer in answers:
        if answer.value is None:
            reason = f"{answer.url} may still be served by it ({answer.problem})"
            raise StepUnfinished(domain=domain, reason=reason)
    return Way.BACK


def _forward(domain: str, intent: Intent, tools: Tools, world: World) -> StepResult:
    """Somebody is served by it already: everybody else follows."""
    step = StepPlan(domain, intent.from_percentage, intent.to_percentage, intent.epoch, "")
    flags = step.flags
    # The winning side's database comes last here too: until every gateway has followed, it takes
    # in what customers of the others write on the losing side.
    world.switch_owner(step.losing, step.new_below, step.epoch, OWNER_S)
    result = StepResult(
        domain, intent.from_percentage, intent.to_percentage, intent.epoch, resumed=True
    )
    for answer in tools.flags.switch(domain, flags):
        if answer.value is not None:
            result.held_requests += answer.value.held_requests
            result.held_ms_max = max(result.held_ms_max, answer.value.held_ms_max)
        elif answer.refused:
            # It asks its peers just now, or could not and its customers went on unswitched.
            followed = tools.flags.put(domain, flags, [answer.url])
            if any(put.refused for put in followed):
                raise StepOvertaken(domain=domain, reason=f"{answer.url} serves a newer epoch")
            result.warnings.append(
                f"{answer.url} refused the switch and follows without a fence: look at the strays"
            )
    result.warnings += _follow(step, world)
    result.warnings += tools.writers.resume()
    wrong = not_serving(tools.flags, domain, flags)
    if wrong:
        raise StepUnfinished(domain=domain, reason="; ".join(wrong))
    return result


def _follow(step: StepPlan, world: World) -> list[str]:
    """Everything from the losing side has crossed; then its owner's row moves on the winning side.

    Keys that were changed on both sides meanwhile wait in both streams until one side owns them:
    they end as strays, which is told in a warning. Raises StepUnfinished while anything else has
    not crossed. A domain that is there already is left as it is.
    """
    told: list[str] = []
    if world.owner(step.winning) != Ownership(step.new_below, step.epoch):
        crossing = world.cross(step.direction, CROSSING_S)
        if not crossing.passed and not crossing.disputed:
            reason = f"sync has {crossing.pending} keys still to carry"
            raise StepUnfinished(domain=step.domain, reason=reason)
        if not crossing.passed:
            told = [
                f"{crossing.pending} keys were changed on both sides: the {step.winning} side's"
                " version stands, the other is kept as a stray"
            ]
    world.switch_owner(step.winning, step.new_below, step.epoch, OWNER_S)
    return told
