"""The way back where gateways have no fence: flags are written, and the owners move at once.

With services that refuse whom they do not own, customers are back the moment the old side's owner
has moved, whatever the gateways were told so far; the flags follow, pod by pod. Without, they are
back when the last gateway serves it.
"""

from collections.abc import Callable
from functools import partial

from estate.config import Config
from migrator.mapping import Side
from rollout import parallel
from rollout.crossing_back import at_risk, let_cross, move_owners
from rollout.flags import DomainFlags
from rollout.glance import Glance
from rollout.parallel import Running
from rollout.rolled_back import STILL_WRITING, TARGET, RolledBack
from rollout.tools import Tools
from rollout.written import Written, settle

# So long the last pods are waited for; a rolling restart of a few takes half a minute.
SETTLE_S = 55.0
WRITE_S = 10.0


def roll_back(
    name: str, glance: Glance, config: Config, tools: Tools, written: Written, started: float
) -> RolledBack:
    """One domain."""
    result = RolledBack(name, glance.percentage, glance.highest + 1)
    wanted = DomainFlags(True, TARGET, result.epoch)
    if glance.at_target:
        result.already, result.barrier_passed, result.epoch = True, True, glance.highest
        result.seconds = round(tools.clock() - started, 3)
        return result
    writing = Running({name: partial(written.write, name, wanted)})
    if config.gateway.owners_refuse:
        _owners(name, config, tools, result)
        if not result.problems:
            result.served_s = round(tools.clock() - started, 3)
    error = writing.wait(WRITE_S)[name].error
    if error is not None:
        result.problems.append(f"the flags could not be written ({error}); type it again")
        result.unreachable = [written.name]
    else:
        if result.epoch > wanted.epoch:
            wanted = DomainFlags(True, TARGET, result.epoch)
            written.write(name, wanted)
        missing = settle(written, name, wanted, SETTLE_S, tools.clock, tools.sleep)
        result.unreachable = missing
        result.problems += missing
        if not missing:
            result.seconds = round(tools.clock() - started, 3)
    if not config.gateway.owners_refuse and result.seconds is not None:
        # As long as any gateway sends customers to the new side, that side has to own them.
        _owners(name, config, tools, result)
    return result


def _owners(name: str, config: Config, tools: Tools, result: RolledBack) -> None:
    """Everything crosses, as far as the hold allows; then the old side owns everybody."""
    crossing, moved = let_cross(name, config, tools, tools.clock(), result.epoch)
    result.barrier_passed = crossing is not None and crossing.passed
    sides: tuple[Side, Side] = ("new", "old") if crossing is not None else ("old", "new")
    result.epoch = move_owners(name, [side for side in sides if side not in moved], tools, result)
    if not result.barrier_passed:
        marker = crossing.marker if crossing is not None else None
        # Nobody has to wait for it: the names are looked up while the gateways follow.
        risk: dict[str, Callable[[], object]] = {
            name: partial(at_risk, name, tools, marker, result.epoch)
        }
        found = parallel.gather(risk, WRITE_S)[name].value
        result.at_risk = list(found) if isinstance(found, list) else []
        if crossing is not None and not crossing.ended:
            result.at_risk.append({"mapping": "every mapping", "key": None, "why": STILL_WRITING})
