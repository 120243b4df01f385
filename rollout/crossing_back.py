"""What every rollback does between the two sides: everything crosses, then the owners move."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from estate.config import Config
from estate.errors import SplitctlError
from migrator.barrier import Marker
from migrator.mapping import Side
from migrator.ownership import EpochConflict
from rollout import parallel
from rollout.flags import Fence
from rollout.phases import PER_PERCENT
from rollout.rolled_back import TARGET, RolledBack
from rollout.tools import Tools
from rollout.world import SIDES, Crossing, World

# Of the hold, what is kept for moving the owner before gateways let go by themselves.
FOR_OWNERS = 0.25
# Beyond its own deadline, for a database that does not even say that it is away.
SLACK_S = 0.25
OWNER_S = 2.0
SHORTEST_OWNER_S = 0.1
LATE_KEYS_S = 5.0
LOOK_EVERY_S = 0.01
ATTEMPTS = 5


def let_cross(
    name: str, config: Config, tools: Tools, set_at: float, epoch: int
) -> tuple[Crossing | None, set[Side]]:
    """While the gateways hold: requests end, the new side is quiet, everything crosses.

    The owner moves on the new side before the mark: an owner-aware writer holds the owner's row
    while it writes, so what it wrote is before the mark and nothing comes after. It moves on the
    old side the moment that the wait is over, whether everything has crossed or not: a customer
    who is let go must find it moved, or what he writes could be written over. The wait is never
    longer than the hold, less what moving the owner takes.
    Returns the crossing, None when a database is away, and the sides whose owner has moved.
    """
    moved: set[Side] = set()
    deadline = set_at + config.rollback.hold_ms / 1000 * (1 - FOR_OWNERS)

    def left() -> float:
        return max(deadline - tools.clock(), 0.0)

    if left() <= 0:
        return None, moved  # a gateway answered too late: only the owners can still be moved

    def move(side: Side, world: World, timeout_s: float) -> None:
        # Outbid, or waited for, by `move_owners`: what follows must not wait for one that hangs.
        with suppress(SplitctlError):
            world.switch_owner(side, TARGET * PER_PERCENT, epoch, timeout_s)
            moved.add(side)

    def work() -> Crossing:
        world = tools.way_back(name)
        try:
            # Opened while requests end: a dead database must be known early.
            world.owner("new")
            ended = _nobody_is_under_way(name, tools, left)
            ended = world.quiesce("new", left()).quiet and ended
            move("new", world, max(left(), SHORTEST_OWNER_S))
            crossing = world.cross("reverse", left())
            move("old", world, SHORTEST_OWNER_S)
            # Who still writes on the new side writes behind the mark.
            return replace(crossing, passed=crossing.passed and ended, ended=ended)
        finally:
            world.close()

    outcome = parallel.gather({name: work}, left() + SLACK_S)[name]
    return outcome.value, set(moved)


def _nobody_is_under_way(name: str, tools: Tools, left: Callable[[], float]) -> bool:
    """Wait for the requests at every gateway that answers; False when one is not known to be done.

    A gateway that is silent is not waited for: it may never answer, and its requests may go on.
    """
    while True:
        answers = tools.flags.fences(name)
        standing: list[Fence] = [a.value for a in answers if a.value is not None]
        if not any(fence.in_flight for fence in standing):
            return len(standing) == len(answers)
        if left() <= 0:
            return False
        tools.sleep(LOOK_EVERY_S)


def move_owners(name: str, sides: Sequence[Side], tools: Tools, result: RolledBack) -> int:
    """The owner rows of these sides to the target, in this order. Returns the epoch they have now.

    A side that does not answer in time is reported, and no reason to wait. The new side may be
    dead: what it holds is kept by the owner's row on the old side, which decides there.
    """
    epoch = result.epoch
    for _ in range(ATTEMPTS):
        try:
            for side in sides:
                problem = move_owner(name, side, epoch, tools)
                if problem:
                    (result.notes if side == "new" else result.problems).append(problem)
            return epoch
        except EpochConflict as error:
            # A step that was still under way had moved it to this epoch or beyond.
            # Both again: also a side that was moved already has to be at the new epoch.
            epoch = max(epoch, int(error.facts["current"])) + 1
            sides = SIDES
            result.problems.clear()
            result.notes.clear()
    result.problems.append("the owners are being moved by somebody else")
    return epoch


def move_owner(name: str, side: Side, epoch: int, tools: Tools) -> str | None:
    """One owner to the target; returns why it was not moved. Raises EpochConflict."""

    def work() -> None:
        world = tools.way_back(name)
        try:
            world.switch_owner(side, TARGET * PER_PERCENT, epoch, OWNER_S)
        finally:
            world.close()

    error = parallel.gather({side: work}, OWNER_S + 0.5)[side].error
    if isinstance(error, EpochConflict):
        raise error
    if error is not None:
        return (
            f"the {side} side's database does not know of it yet ({error}); "
            f"type `splitctl rollback {name}` again when it answers"
        )
    return None


def at_risk(name: str, tools: Tools, marker: Marker | None, epoch: int) -> list[Any]:
    """Keys that had not crossed, by name where it can be known, after a while for late ones."""
    world = tools.way_back(name)
    try:
        return world.left_behind(marker, epoch, LATE_KEYS_S if marker else 0.0)
    except SplitctlError as error:
        why = f"what had not crossed cannot be known: {error}"
        return [{"mapping": "every mapping", "key": None, "why": why}]
    finally:
        world.close()
