"""A quick look before a rollback: customers are suffering, so only gateways are waited for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from estate.errors import ExitCode, SplitctlError
from migrator.mapping import Side
from migrator.ownership import Ownership
from rollout import parallel
from rollout.flags import GatewayFlags
from rollout.parallel import Running
from rollout.phases import PER_PERCENT
from rollout.tools import Tools
from rollout.world import SIDES

# How long databases and ledger are waited for.
GLANCE_S = 0.3


class GatewaysAway(SplitctlError):
    """No gateway can be asked: {reason}. What they serve was not changed."""

    hint = "restart the gateways with their percentage at 0, then: splitctl rollback"
    exit_code = ExitCode.PRECONDITION


@dataclass
class Glance:
    """What could be learned quickly of one domain. Owners that did not answer are not in it."""

    percentages: dict[str, int] = field(default_factory=dict)
    epochs: list[int] = field(default_factory=list)
    fenced: bool = False
    silent: list[str] = field(default_factory=list)
    owners: dict[Side, Ownership] = field(default_factory=dict)
    complete: bool = False

    @property
    def at_target(self) -> bool:
        """Whether all who answered are there, and no gateway is silent."""
        return (
            bool(self.percentages)
            and not self.silent
            and not self.fenced
            and not any(self.percentages.values())
            and not any(owner.new_below for owner in self.owners.values())
        )

    @property
    def highest(self) -> int:
        """The newest epoch seen."""
        return max([*self.epochs, *(owner.epoch for owner in self.owners.values())], default=0)

    @property
    def percentage(self) -> int:
        """Where customers were, as far as it was seen."""
        owned = [owner.new_below // PER_PERCENT for owner in self.owners.values()]
        return max([*self.percentages.values(), *owned], default=0)


def glance_at(names: Sequence[str], tools: Tools) -> dict[str, Glance]:
    """One quick look at gateways, owners and ledger. Only gateways are waited for."""
    looks: dict[tuple[str, str], Callable[[], Any]] = {}
    for name in names:
        for side in SIDES:
            looks[name, side] = partial(_owner, name, side, tools)
        looks[name, "archived"] = partial(_archived, name, tools)
    owners: Running[tuple[str, str], Any] = Running(looks)
    gateways = tools.flags.served()
    if not any(gateway.reachable for gateway in gateways):
        reason = "; ".join(f"{gateway.url}: {gateway.problem}" for gateway in gateways)
        raise GatewaysAway(reason=reason)
    glances = {name: _at_gateways(name, gateways, tools) for name in names}
    found = owners.wait(GLANCE_S)
    for name, glance in glances.items():
        glance.complete = bool(found[name, "archived"].value)
        seen = {side: found[name, side].value for side in SIDES}
        glance.owners = {side: owner for side, owner in seen.items() if owner is not None}
    if any(found[name, "archived"].error for name in names):
        # Only then: the ledger takes longer to load than gateways take to answer.
        asked = parallel.gather({"ledger": partial(_stages, names, tools)}, GLANCE_S)
        for name, stage in (asked["ledger"].value or {}).items():
            glances[name].complete |= stage == "complete"
    return glances


def _at_gateways(name: str, gateways: Sequence[GatewayFlags], tools: Tools) -> Glance:
    glance = Glance()
    for gateway in gateways:
        flags = gateway.domains.get(name)
        if flags is None:
            glance.silent.append(gateway.url)
        else:
            glance.percentages[gateway.url] = flags.served
            glance.epochs.append(flags.epoch)
    for answer in tools.flags.fences(name):
        if answer.value is not None and answer.value.holding:
            glance.fenced = True
            glance.epochs.append(answer.value.epoch)
    return glance


def _owner(name: str, side: Side, tools: Tools) -> Ownership:
    world = tools.world(name)
    try:
        return world.owner(side)
    finally:
        world.close()


def _archived(name: str, tools: Tools) -> bool:
    world = tools.world(name)
    try:
        return world.archived()
    finally:
        world.close()


def _stages(names: Sequence[str], tools: Tools) -> dict[str, str]:
    with tools.ledger() as ledger:
        rows = {name: ledger.rollout(name) for name in names}
    return {name: row.stage for name, row in rows.items() if row is not None}
