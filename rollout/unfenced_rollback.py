"""The way back where gateways have no fence: flags are written, and the owners move at once.

With services that refuse whom they do not own, customers are back the moment the old side's owner
has moved, whatever the gateways were told so far; the flags follow, pod by pod. Without, they are
back when the last gateway serves it. Here the owners are what keeps the sides apart: the old one
takes nobody before the new one has given him away, or is known to be dead.
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from estate.config import Config
from estate.errors import ExitCode, SplitctlError
from migrator.ownership import EpochConflict
from rollout import parallel
from rollout.crossing_back import ATTEMPTS, OWNER_S, SLACK_S, at_risk
from rollout.flags import DomainFlags
from rollout.glance import Glance
from rollout.parallel import Running
from rollout.phases import PER_PERCENT
from rollout.rolled_back import STILL_WRITING, TARGET, RolledBack
from rollout.tools import Tools
from rollout.world import Crossing, SideAway
from rollout.written import FlagsOvertaken, Written, settle

# So long after its beginning the last gateways are waited for: what follows has to have its time.
SETTLE_S = 40.0
WRITE_S = 10.0
# Somebody may have written over the flags meanwhile.
WRITE_AGAIN_S = 5.0
# So long a transaction on the new side may keep its owner's row from moving.
GIVES_AWAY_S = 5.0
RISK_S = 8.0


class StillOwned(SplitctlError):
    """The new side answers, but a transaction has held the owner's row of domain '{domain}' for
    {seconds:g} s. Customers stay on the new side until it ends; nobody was moved."""

    hint = "splitctl rollback {domain}  (again; pg_blocking_pids tells who holds it)"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class _Moved:
    """The old side owns everybody. `dead`: why the new side's owner could not be moved."""

    crossing: Crossing | None
    quiet: bool
    dead: str = ""


def roll_back(
    name: str, glance: Glance, config: Config, tools: Tools, written: Written, started: float
) -> RolledBack:
    """One domain. Whatever cannot be done is a problem of its result."""
    result = RolledBack(name, glance.percentage, glance.highest + 1)
    if glance.at_target:
        result.already, result.barrier_passed, result.epoch = True, True, glance.highest
        result.seconds = round(tools.clock() - started, 3)
        return result
    wanted = DomainFlags(True, TARGET, result.epoch)
    writing = Running({name: partial(written.write, name, wanted)})
    refusing = config.gateway.owners_refuse
    if refusing and _owners(name, config, tools, result):
        result.served_s = round(tools.clock() - started, 3)
    error = writing.wait(WRITE_S)[name].error
    # Newer flags than we saw are those of a step: they are written over below.
    if error is not None and not isinstance(error, FlagsOvertaken):
        result.problems.append(f"the flags could not be written ({error}); type it again")
        result.unreachable = [written.name]
        return result
    _follow(name, tools, written, result, started)
    if not refusing and result.seconds is not None:
        # As long as any gateway sends customers to the new side, that side has to own them.
        _owners(name, config, tools, result)
    return result


def _follow(name: str, tools: Tools, written: Written, result: RolledBack, started: float) -> None:
    """Until every gateway serves it; a step that was under way may have written after us."""
    deadline = started + SETTLE_S
    epoch = result.epoch
    while True:
        epoch = max(epoch, result.epoch)
        wanted = DomainFlags(True, TARGET, epoch)
        problem = ""
        try:
            written.write(name, wanted)
        except FlagsOvertaken as error:
            # Whoever is called back at 3 am is called back: no step has the last word.
            epoch = int(error.facts["epoch"]) + 1
            if tools.clock() < deadline:
                continue
            problem = str(error)
        except SplitctlError as error:
            problem = f"the flags could not be written ({error}); type it again"
        left = deadline - tools.clock()
        missing = settle(
            written, name, wanted, min(WRITE_AGAIN_S, max(left, 0)), tools.clock, tools.sleep
        )
        if not missing:
            result.seconds = round(tools.clock() - started, 3)
            return
        if left <= 0:
            result.unreachable = missing
            result.problems += [problem] if problem else missing
            return


def _owners(name: str, config: Config, tools: Tools, result: RolledBack) -> bool:
    """The old side owns everybody. Returns False, with a problem, where that is not so."""
    hold_s = config.rollback.hold_ms / 1000
    limit_s = GIVES_AWAY_S + hold_s + 2 * OWNER_S + SLACK_S
    for _ in range(ATTEMPTS):
        move = partial(_move, name, tools, result.epoch, hold_s)
        outcome = parallel.gather({name: move}, limit_s)[name]
        if isinstance(outcome.error, EpochConflict):
            # A step that was under way had moved it. All of it again: what crossed is from before.
            result.epoch = max(result.epoch, int(outcome.error.facts["current"])) + 1
            continue
        if outcome.value is not None:
            return _told(name, tools, result, outcome.value)
        if isinstance(outcome.error, StillOwned):
            result.problems.append(str(outcome.error))
            return False
        return _old_alone(name, tools, result, str(outcome.error))
    result.problems.append("the owners are being moved by somebody else")
    return False


def _move(name: str, tools: Tools, epoch: int, hold_s: float) -> _Moved:
    """The new side gives everybody away, what it wrote last crosses, the old side takes them.

    The wait for the crossing is never longer than the hold. Raises EpochConflict, StillOwned, and
    SideAway where the old side does not answer.
    """
    world = tools.way_back(name)
    new_below = TARGET * PER_PERCENT
    try:
        dead = ""
        try:
            world.switch_owner("new", new_below, epoch, GIVES_AWAY_S)
        except SideAway as error:
            dead = str(error)
            with suppress(SideAway):
                world.owner("new")
                raise StillOwned(domain=name, seconds=GIVES_AWAY_S) from error
        crossing, quiet = None, False
        if not dead:
            deadline = tools.clock() + hold_s
            with suppress(SplitctlError):
                quiet = world.quiesce("new", hold_s / 2).quiet
                crossing = world.cross("reverse", max(deadline - tools.clock(), 0.0))
        world.switch_owner("old", new_below, epoch, OWNER_S)
        return _Moved(crossing, quiet, dead)
    finally:
        world.close()


def _old_alone(name: str, tools: Tools, result: RolledBack, why: str) -> bool:
    """A database that hangs: the old side takes everybody, if it is not the one that hangs."""

    def work() -> _Moved:
        world = tools.way_back(name)
        try:
            world.switch_owner("old", TARGET * PER_PERCENT, result.epoch, OWNER_S)
        finally:
            world.close()
        return _Moved(None, False, why)

    outcome = parallel.gather({name: work}, OWNER_S + SLACK_S)[name]
    if outcome.value is None:
        result.problems.append(
            f"the old side's database does not take customers back ({outcome.error}); "
            f"type `splitctl rollback {name}` again when it answers"
        )
        return False
    return _told(name, tools, result, outcome.value)


def _told(name: str, tools: Tools, result: RolledBack, moved: _Moved) -> bool:
    crossing = moved.crossing
    result.barrier_passed = crossing is not None and crossing.passed and moved.quiet
    if moved.dead:
        result.notes.append(
            f"the new side's database does not know of it yet ({moved.dead}); "
            f"type `splitctl rollback {name}` again when it answers"
        )
    if not result.barrier_passed:
        marker = crossing.marker if crossing is not None else None
        looked = parallel.gather(
            {name: partial(at_risk, name, tools, marker, result.epoch)}, RISK_S
        )[name]
        result.at_risk = list(looked.value or [])
        if crossing is not None and not moved.quiet:
            result.at_risk.append({"mapping": "every mapping", "key": None, "why": STILL_WRITING})
    return True
