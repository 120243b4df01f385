"""A quick look before a rollback: customers are suffering, so only gateways are waited for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from estate.errors import ExitCode, SplitctlError, in_one_line
from migrator.mapping import Side
from migrator.ownership import OwnerMissing, Ownership
from rollout import parallel
from rollout.flags import GatewayFlags
from rollout.parallel import Running
from rollout.phases import PER_PERCENT
from rollout.tools import Tools
from rollout.world import SIDES

# How long databases and ledger are waited for: while customers suffer, and while none does.
GLANCE_S = 0.3
CLUSTER_S = 1.0
CERTAIN_S = 3.0


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
    owners_decide: bool = False

    @property
    def at_target(self) -> bool:
        """Whether all who answered are there, and no gateway is silent.

        Where services follow the owners, both of these have to have answered.
        """
        known = not self.owners_decide or len(self.owners) == len(SIDES)
        return known and (
            bool(self.percentages)
            and not self.silent
            and not self.fenced
            and not any(self.percentages.values())
            and not any(owner.new_below for owner in self.owners.values())
        )

    @property
    def at_end(self) -> bool:
        """Whether some gateway sends everybody to the new side: only then may it be complete."""
        return any(percentage == 100 for percentage in self.percentages.values())

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
    """One quick look at gateways, owners and ledger. Only gateways are waited for.

    Two cases are worth a longer look, for there a wrong guess does harm and haste does no good:
    nobody seems to be on the new side (is it so in the databases too?), and everybody is there
    (are the old tables archived, so that nobody can come back?).
    """
    looks: dict[tuple[str, Side], Callable[[], _Side]] = {
        (name, side): partial(_side, name, side, tools) for name in names for side in SIDES
    }
    running: Running[tuple[str, Side], _Side] = Running(looks)
    gateways = _gateways(tools)
    if not tools.refusing and not any(gateway.reachable for gateway in gateways):
        reason = "; ".join(f"{gateway.url}: {gateway.problem}" for gateway in gateways)
        raise GatewaysAway(reason=reason)
    glances = {name: _at_gateways(name, gateways, tools) for name in names}
    unclear = [name for name, glance in glances.items() if glance.at_target or glance.at_end]
    found = running.wait(CERTAIN_S if unclear else GLANCE_S)
    for name, glance in glances.items():
        for side in SIDES:
            seen = found[name, side].value
            if seen is not None and seen.owner is not None:
                glance.owners[side] = seen.owner
            glance.complete |= seen is not None and seen.archived
    blind = [name for name in unclear if found[name, "old"].error is not None]
    if any(glances[name].at_end for name in blind):
        # Only then: the ledger takes longer to load than gateways take to answer.
        asked = parallel.gather({"ledger": partial(_stages, names, tools)}, CERTAIN_S)
        for name, stage in (asked["ledger"].value or {}).items():
            glances[name].complete |= stage == "complete"
    return glances


def _gateways(tools: Tools) -> list[GatewayFlags]:
    """What gateways serve. Where customers follow the owners, a slow cluster is not waited for."""
    if not tools.refusing:
        return tools.flags.served()
    outcome = Running({"gateways": tools.flags.served}).wait(CLUSTER_S)["gateways"]
    problem = in_one_line(outcome.error) if outcome.error else None
    return outcome.value or [GatewayFlags("cluster", reachable=False, problem=problem)]


def _at_gateways(name: str, gateways: Sequence[GatewayFlags], tools: Tools) -> Glance:
    glance = Glance(owners_decide=tools.refusing)
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


@dataclass(frozen=True)
class _Side:
    """What one side's database says."""

    owner: Ownership | None
    archived: bool


def _side(name: str, side: Side, tools: Tools) -> _Side:
    world = tools.way_back(name)
    try:
        try:
            owner = world.owner(side)
        except OwnerMissing:
            owner = None  # sync was never enabled
        return _Side(owner, side == "old" and world.archived())
    finally:
        world.close()


def _stages(names: Sequence[str], tools: Tools) -> dict[str, str]:
    with tools.ledger() as ledger:
        rows = {name: ledger.rollout(name) for name in names}
    return {name: row.stage for name, row in rows.items() if row is not None}
