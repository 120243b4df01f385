"""Ends an unfinished step without a fence. The owners alone decide: flags are only ever late."""

from migrator.mapping import Direction, Side
from migrator.ownership import EpochConflict, Ownership
from rollout.flags import DomainFlags
from rollout.phases import PER_PERCENT, Intent
from rollout.step import take_back
from rollout.step_plan import StepOvertaken, StepPlan, StepResult, StepUnfinished
from rollout.tools import Tools
from rollout.world import SIDES, World

OWNER_S = 2.0
CROSSING_S = 10.0


def settle(domain: str, intent: Intent, tools: Tools, world: World) -> StepResult | str:
    """The result when the step was finished, or how it was given up.

    Forward from the moment that the losing side's owner has moved: nobody is served until the
    winning side's has, too. Before that, back. Raises StepUnfinished, SideAway.
    """
    plan = StepPlan(domain, intent.from_percentage, intent.to_percentage, intent.epoch, "")
    losing = world.owner(plan.losing)
    winning = world.owner(plan.winning)
    try:
        if max(losing.epoch, winning.epoch) > intent.epoch:
            return _overtaken(domain, tools, world)
        if losing.epoch == intent.epoch:
            return _forward(plan, winning, tools, world)
        epoch = take_back(domain, intent.from_percentage, intent.epoch, world)
    except (EpochConflict, StepOvertaken):
        return _overtaken(domain, tools, world)
    tools.writers.resume()
    _put(domain, DomainFlags(True, intent.from_percentage, epoch), tools)
    return f"taken back to {intent.from_percentage} % under epoch {epoch}"


def _forward(plan: StepPlan, winning: Ownership, tools: Tools, world: World) -> StepResult:
    result = StepResult(
        plan.domain, plan.from_percentage, plan.to_percentage, plan.epoch, resumed=True
    )
    if winning.epoch < plan.epoch:
        crossing = world.cross(plan.direction, CROSSING_S)
        if not crossing.passed and not crossing.disputed:
            reason = f"sync has {crossing.pending} keys still to carry, and nobody is served"
            raise StepUnfinished(domain=plan.domain, reason=reason)
        if not crossing.passed:
            result.warnings.append(
                f"{crossing.pending} keys were changed on both sides: the {plan.winning} side's"
                " version stands, the other is kept as a stray"
            )
        world.switch_owner(plan.winning, plan.new_below, plan.epoch, OWNER_S)
    result.warnings += tools.writers.resume()
    _put(plan.domain, plan.flags, tools)
    return result


def _overtaken(domain: str, tools: Tools, world: World) -> str:
    """Somebody else decided: the older owner follows the newer one, and the flags follow both.

    Whoever decided may have been killed between the two. Raises StepUnfinished.
    """
    told = owners_in_line(domain, world)
    newest = world.owner("old")
    tools.writers.resume()
    _put(domain, DomainFlags(True, newest.new_below // PER_PERCENT, newest.epoch), tools)
    return "; ".join(["a later command decided", *told])


def owners_in_line(domain: str, world: World) -> list[str]:
    """Both owners at the newer of the two, the older one once everything has crossed.

    Returns what was done. Raises StepUnfinished while something has not crossed, and SideAway.
    """
    found: dict[Side, Ownership] = {side: world.owner(side) for side in SIDES}
    newest = max(found.values(), key=lambda owner: owner.epoch)
    told = []
    for side, owner in found.items():
        if owner == newest:
            continue
        if owner.new_below != newest.new_below:
            # What the other side wrote while it owned them is older than what they write here.
            direction: Direction = "forward" if side == "new" else "reverse"
            crossing = world.cross(direction, CROSSING_S)
            if not crossing.passed and not crossing.disputed:
                reason = (
                    f"sync has {crossing.pending} keys still to carry to the {side} side, and "
                    "those who move are served by nobody"
                )
                raise StepUnfinished(domain=domain, reason=reason)
        world.switch_owner(side, newest.new_below, newest.epoch, OWNER_S)
        told.append(f"the {side} side's database is at epoch {newest.epoch} now")
    return told


def _put(domain: str, flags: DomainFlags, tools: Tools) -> None:
    """Raises StepUnfinished until every gateway serves them."""
    for answer in tools.flags.put(domain, flags):
        if answer.problem is not None:
            reason = f"not every gateway serves {flags.served} %: {answer.problem}"
            raise StepUnfinished(domain=domain, reason=reason)
