"""The step without a fence: flags that reach the gateways one by one, and owners that move at once.

The flags come first and alone: as long as the owners have not moved, everybody is served by the
side that has served them all along. Where services refuse whom they do not own (421), a gateway
with early flags asks the other side then, and nobody alternates. Where they do not, customers of
such a gateway write on a side that does not own them: strays, which the plan foretells.

Then the owners move, the losing side's first. From that moment until the winning side's has moved
neither side takes these customers: gateways that follow 421 wait. It takes as long as sync needs to
carry what was written last.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from estate.errors import ExitCode, SplitctlError
from migrator.ownership import EpochConflict
from rollout.flags import DomainFlags
from rollout.interrupts import Interrupts
from rollout.step import take_back
from rollout.step_plan import (
    NotCaughtUp,
    StepOvertaken,
    StepPlan,
    StepResult,
    StepTakenBack,
    StepUnfinished,
)
from rollout.world import World, Writers
from rollout.written import Written, settle

PREFLIGHT_S = 10.0
FOLLOW_S = 5.0
# A pod that was just then replaced, or found not ready once, is no reason to stop.
READ_BACK_S = 20.0
# Of the flags that were put back nobody has to be waited for: everybody is served all along.
PUT_BACK_S = 5.0


class FlagsUnwritten(SplitctlError):
    """The flags of domain '{domain}' could not be written ({reason}). Whether they stand is not
    known; the owners were not moved, so nobody was."""

    hint = "splitctl status, then: splitctl rollout advance {domain}"
    exit_code = ExitCode.PRECONDITION


class NotServed(SplitctlError):
    """Not every gateway serves the new flags of domain '{domain}' after {seconds:.0f} s: {reason}.
    The owners were not moved; the flags were put back to {percentage} %."""

    hint = "kubectl rollout status, then: splitctl rollout advance {domain}"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class OwnerLimits:
    """Seconds: until every gateway serves a change, and while neither side may own the movers."""

    settle_s: float
    moving_s: float


@dataclass
class OwnerStep:
    """One step and all that it acts on. `perform` is called once."""

    plan: StepPlan
    world: World
    written: Written
    writers: Writers
    limits: OwnerLimits
    interrupts: Interrupts
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def perform(self) -> StepResult:
        """Do it. On return every gateway serves it and both owners agree."""
        plan = self.plan
        self.result = StepResult(plan.domain, plan.from_percentage, plan.to_percentage, plan.epoch)
        self.interrupts.check()
        self._preflight()
        self._flags_first()
        try:
            self._pause()
            self._move()
        finally:
            self.result.warnings += self.writers.resume()
        self._read_back()
        return self.result

    def _pause(self) -> None:
        try:
            self.writers.pause()
        except SplitctlError:
            # It says that nothing was changed.
            self._put_back(self.plan.epoch)
            raise

    def _preflight(self) -> None:
        """A sync that is far behind must be found out before any gateway starts anew."""
        crossing = self.world.cross(self.plan.direction, PREFLIGHT_S)
        if not crossing.passed:
            raise NotCaughtUp(
                domain=self.plan.domain,
                pending=crossing.pending,
                direction=self.plan.direction,
                seconds=crossing.seconds,
            )

    def _flags_first(self) -> None:
        plan, began = self.plan, self.clock()
        try:
            self.written.write(plan.domain, plan.flags)
        except SplitctlError as error:
            raise FlagsUnwritten(domain=plan.domain, reason=str(error)) from error
        missing = settle(
            self.written,
            plan.domain,
            plan.flags,
            self.limits.settle_s,
            self.clock,
            self._sleep_unless_interrupted,
        )
        seconds = self.clock() - began
        self.result.flags_ms = round(1000 * seconds)
        if missing:
            self._put_back(plan.epoch)
            raise NotServed(
                domain=plan.domain,
                seconds=seconds,
                reason="; ".join(missing),
                percentage=plan.from_percentage,
            )

    def _sleep_unless_interrupted(self, seconds: float) -> None:
        try:
            self.interrupts.check()
        except BaseException:
            self._put_back(self.plan.epoch)
            raise
        self.sleep(seconds)

    def _put_back(self, epoch: int) -> None:
        """The flags as they were; where that fails, `status` tells of the difference."""
        plan = self.plan
        before = DomainFlags(True, plan.from_percentage, epoch)
        try:
            # Only where ours stand: a rollback may have written since.
            self.written.write(plan.domain, before, expecting=plan.flags)
        except SplitctlError as error:
            self.result.warnings.append(f"the flags could not be put back: {error}")
            return
        settle(self.written, plan.domain, before, PUT_BACK_S, self.clock, self.sleep)

    # The move: no signal is asked for from here on

    def _move(self) -> None:
        plan = self.plan
        # Who is in the middle of something need not be waited for while others wait.
        self.world.quiesce(plan.losing, PREFLIGHT_S)
        began = self.clock()
        deadline = began + self.limits.moving_s

        def left() -> float:
            return max(deadline - self.clock(), 0.1)

        try:
            self.world.switch_owner(plan.losing, plan.new_below, plan.epoch, left())
            # Writers that do not ask for the owner: what they began has to end before the mark.
            quiet = self.world.quiesce(plan.losing, left())
            crossing = self.world.cross(plan.direction, left())
        except EpochConflict as error:
            raise StepOvertaken(domain=plan.domain, reason=str(error)) from error
        except SplitctlError as error:
            self._take_back(f"the {plan.losing} side could not give them away: {error}")
        self.result.barrier_ms = round(1000 * crossing.seconds)
        if not quiet.quiet:
            holdouts = ", ".join(quiet.holdouts)
            self._take_back(f"transactions still write to the mapped tables ({holdouts})")
        if not crossing.passed:
            self._take_back(f"sync had {crossing.pending} keys still to carry")
        try:
            self.world.switch_owner(plan.winning, plan.new_below, plan.epoch, FOLLOW_S)
        except EpochConflict as error:
            raise StepOvertaken(domain=plan.domain, reason=str(error)) from error
        except SplitctlError as error:
            told = (
                f"NOBODY serves those who move: the {plan.losing} side has given them away, and the"
                f" {plan.winning} side did not take them ({error}). Where it stays away, type"
                f" `splitctl rollback {plan.domain}`"
            )
            raise StepUnfinished(domain=plan.domain, reason=told) from error
        self.result.moving_ms = round(1000 * (self.clock() - began))

    def _take_back(self, reason: str) -> NoReturn:
        """Owners back under a newer epoch, so that everybody is served at once; then the flags."""
        plan = self.plan
        try:
            epoch = take_back(plan.domain, plan.from_percentage, plan.epoch, self.world)
        except StepOvertaken:
            raise
        except SplitctlError as error:
            told = f"{reason}; and the owners could not be moved back: {error}"
            raise StepUnfinished(domain=plan.domain, reason=told) from error
        self._put_back(epoch)
        raise StepTakenBack(
            domain=plan.domain, reason=reason, percentage=plan.from_percentage, epoch=epoch
        )

    def _read_back(self) -> None:
        plan = self.plan
        missing = settle(self.written, plan.domain, plan.flags, READ_BACK_S, self.clock, self.sleep)
        if missing:
            raise StepUnfinished(domain=self.plan.domain, reason="; ".join(missing))
