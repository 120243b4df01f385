"""The fenced step: customers of some buckets move from one side to the other, and nothing is lost.

The order is the protocol. Up to the owner's move, whatever goes wrong ends with the fences released
unswitched: nobody moved, nobody was failed. From the owner's move on there are two ends only:
every gateway serves the new percentage, or nobody is served by it and the owners are moved back
under a newer epoch. The owner moves on the losing side before the switch, on the winning side
after it: so whatever a killed step leaves behind, the side that serves is carried across.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from estate.errors import SplitctlError
from migrator.mapping import Side
from migrator.ownership import EpochConflict
from rollout.flags import Answer, DomainFlags, Fence, Flags
from rollout.interrupts import Interrupts
from rollout.phases import PER_PERCENT
from rollout.step_plan import (
    BudgetExceeded,
    GatewayUnready,
    NotCaughtUp,
    StepLimits,
    StepOvertaken,
    StepPlan,
    StepResult,
    StepTakenBack,
    StepUnfinished,
)
from rollout.world import World, Writers

LOOK_EVERY_S = 0.01
# Between attempts to reach a gateway that did not answer the switch.
RETRY_EVERY_S = 0.1
PREFLIGHT_S = 10.0
FOLLOW_S = 5.0


@dataclass
class Step:
    """One step and all that it acts on. `perform` is called once."""

    plan: StepPlan
    world: World
    flags: Flags
    writers: Writers
    limits: StepLimits
    interrupts: Interrupts
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def perform(self) -> StepResult:
        """Do it. On return every gateway serves it; every error says what is true instead."""
        plan = self.plan
        self.result = StepResult(plan.domain, plan.from_percentage, plan.to_percentage, plan.epoch)
        self.interrupts.check()
        try:
            self.writers.pause()
            self._preflight()
            self._started = self.clock()
            self._deadline = self._started + self.limits.budget_ms / 1000
            try:
                self._hold()
            except BaseException:
                self._release()
                raise
            self._move()
        finally:
            self.result.warnings += self.writers.resume()
        return self.result

    # While nobody is held

    def _preflight(self) -> None:
        """A sync that is far behind must be found out before anybody waits."""
        crossing = self.world.cross(self.plan.direction, PREFLIGHT_S)
        if not crossing.passed:
            raise NotCaughtUp(
                domain=self.plan.domain,
                pending=crossing.pending,
                direction=self.plan.direction,
                seconds=crossing.seconds,
            )

    # While customers are held, and nothing has moved

    def _hold(self) -> None:
        """Fence, and wait until nobody writes any more and everything has crossed."""
        plan, limits = self.plan, self.limits
        answers = self.flags.fence(
            plan.domain, plan.epoch, plan.low, plan.high, limits.lease_ms, plan.holder
        )
        self._all(answers)
        began = self.clock()
        self._until_nobody_is_under_way()
        self.result.in_flight_ms = _ms(self.clock() - began)
        quiet = self.world.quiesce(plan.losing, self._left())
        self.result.quiesce_ms = _ms(quiet.seconds)
        if not quiet.quiet:
            holdouts = ", ".join(quiet.holdouts)
            raise self._over(f"transactions still write to the mapped tables ({holdouts})")
        self.interrupts.check()
        crossing = self.world.cross(plan.direction, self._left())
        self.result.barrier_ms = _ms(crossing.seconds)
        if not crossing.passed:
            raise self._over(f"sync had {crossing.pending} keys still to carry")
        self.interrupts.check()
        # Confirmed, not prolonged: nobody is held for longer than one lease, whatever happens now.
        remaining = limits.lease_ms - _ms(self.clock() - self._started)
        self._all(self.flags.confirm(plan.domain, plan.epoch, max(remaining, 1)))
        if self._left() <= 0:
            raise self._over("the last confirmation came too late")
        self.interrupts.check()

    def _until_nobody_is_under_way(self) -> None:
        while True:
            fences = self._all(self.flags.fences(self.plan.domain))
            lost = [f for f in fences if f.epoch != self.plan.epoch or not f.holding]
            if lost:
                raise GatewayUnready(domain=self.plan.domain, reason="a fence was lost")
            under_way = sum(fence.in_flight for fence in fences)
            if under_way == 0:
                return
            self.interrupts.check()
            if self._left() <= 0:
                raise self._over(f"{under_way} requests are still under way")
            self.sleep(LOOK_EVERY_S)

    def _all(self, answers: Sequence[Answer[Fence]]) -> list[Fence]:
        """Every gateway's fence. One that is missing ends the step."""
        missing = [f"{a.url}: {a.problem}" for a in answers if a.value is None]
        if missing or not answers:
            raise GatewayUnready(domain=self.plan.domain, reason="; ".join(missing) or "none")
        return [answer.value for answer in answers if answer.value is not None]

    def _left(self) -> float:
        return self._deadline - self.clock()

    def _over(self, what: str) -> BudgetExceeded:
        return BudgetExceeded(
            domain=self.plan.domain,
            held_ms=_ms(self.clock() - self._started),
            what=what,
            budget_ms=self.limits.budget_ms,
        )

    def _release(self) -> None:
        """Let the held go on, unswitched. A gateway that does not hear it lets go by its lease."""
        answers = self.flags.release(self.plan.domain, self.plan.epoch)
        self.result.fence_ms = _ms(self.clock() - self._started)
        for answer in answers:
            if answer.value is not None:
                self._count(answer.value.held_requests, answer.value.held_ms_max)

    def _count(self, requests: int, longest_ms: int) -> None:
        self.result.held_requests += requests
        self.result.held_ms_max = max(self.result.held_ms_max, longest_ms)

    # The move itself: no signal is asked for from here on

    def _move(self) -> None:
        plan = self.plan
        # The lease was confirmed just now: nobody passes while the owner moves.
        self._lease_ends = self._started + self.limits.lease_ms / 1000
        # The owner's move and what crosses after it must end well within it.
        patience = max(min(self._left(), (self._lease_ends - self.clock()) / 4), 0.1)
        try:
            self.world.switch_owner(plan.losing, plan.new_below, plan.epoch, patience)
        except EpochConflict as error:
            self._release()
            raise StepOvertaken(domain=plan.domain, reason=str(error)) from error
        except SplitctlError as error:
            self._take_back(f"an owner did not move: {error}")
        late = self._cross_the_last(patience)
        if late:
            self._take_back(late)
        self._switch()

    def _cross_the_last(self, patience: float) -> str:
        """What owner-aware writers committed between the barrier and the owner's move.

        They hold the owner's row while they write, so after its move there is nothing to come.
        The winning side still names the loser as the owner, so that these keys are carried.
        Returns what went wrong; empty: nothing.
        """
        try:
            crossing = self.world.cross(self.plan.direction, patience)
        except SplitctlError as error:
            return f"the late keys could not be waited for: {error}"
        self.result.barrier_ms += _ms(crossing.seconds)
        return "" if crossing.passed else f"sync had {crossing.pending} late keys still to carry"

    def _switch(self) -> None:
        """Every gateway: the new flags, and the held go on."""
        plan = self.plan
        missing = list(self.flags.urls)
        served = 0
        problems: dict[str, str] = {}
        while True:
            answers = self.flags.switch(plan.domain, plan.flags, missing)
            for answer in answers:
                if answer.value is not None:
                    served += 1
                    self._count(answer.value.held_requests, answer.value.held_ms_max)
                else:
                    problems[answer.url] = answer.problem or "no answer"
            self.result.fence_ms = _ms(self.clock() - self._started)
            missing = [answer.url for answer in answers if answer.value is None]
            if not missing:
                break
            refused = {answer.url for answer in answers if answer.refused}
            if served and refused:
                # Somebody is served by the new side, so there is only forward. These gateways ask
                # their peers just now, or could not and let their customers go: bring them along.
                missing = self._bring_along(missing, refused)
                if not missing:
                    break
            elif len(refused) == len(self.flags.urls):
                told = "; ".join(f"{url}: {problems[url]}" for url in missing)
                self._take_back(f"no gateway kept its fence: {told}")
            if self.clock() >= self._lease_ends:
                told = "; ".join(f"{url}: {problems[url]}" for url in missing)
                raise StepUnfinished(domain=plan.domain, reason=f"no answer to the switch: {told}")
            self.sleep(RETRY_EVERY_S)
        self._follow()
        self._read_back()

    def _follow(self) -> None:
        """The winning side's owner comes last: until somebody is served, it still says the truth.

        Were it moved earlier and the command died then, customers whom the lease let go would
        write to the losing side, and their writes would be refused as strays.
        """
        plan = self.plan
        try:
            self.world.switch_owner(plan.winning, plan.new_below, plan.epoch, FOLLOW_S)
        except EpochConflict as error:
            raise StepOvertaken(domain=plan.domain, reason=str(error)) from error
        except SplitctlError as error:
            raise StepUnfinished(domain=plan.domain, reason=str(error)) from error

    def _bring_along(self, missing: list[str], refused: set[str]) -> list[str]:
        answers = self.flags.put(self.plan.domain, self.plan.flags, refused)
        newer = [answer for answer in answers if answer.refused]
        if newer:
            told = "; ".join(f"{answer.url}: {answer.problem}" for answer in newer)
            raise StepOvertaken(domain=self.plan.domain, reason=told)
        done = {answer.url for answer in answers if answer.ok}
        self.result.warnings += [
            f"{url} refused the switch and follows without a fence: look at the strays"
            for url in sorted(done)
        ]
        return [url for url in missing if url not in done]

    def _take_back(self, reason: str) -> NoReturn:
        """Nobody is served by the new epoch: owners back under a newer one, then release."""
        plan = self.plan
        try:
            newer = overtaking(self.flags, plan.domain, plan.epoch)
            if newer:
                raise StepOvertaken(domain=plan.domain, reason=newer)
            epoch = take_back(plan.domain, plan.from_percentage, plan.epoch, self.world)
        except StepOvertaken:
            raise
        except SplitctlError as error:
            told = f"{reason}; and the owners could not be moved back: {error}"
            raise StepUnfinished(domain=plan.domain, reason=told) from error
        finally:
            self._release()
        raise StepTakenBack(
            domain=plan.domain, reason=reason, percentage=plan.from_percentage, epoch=epoch
        )

    def _read_back(self) -> None:
        wrong = not_serving(self.flags, self.plan.domain, self.plan.flags)
        if wrong:
            raise StepUnfinished(domain=self.plan.domain, reason="; ".join(wrong))


def take_back(domain: str, percentage: int, epoch: int, world: World) -> int:
    """Move both owners to a percentage under the epoch after this one, which is returned.

    Also where nothing had moved: a step that sleeps somewhere must not find its epoch free.
    Raises StepOvertaken when somebody used a newer epoch meanwhile.
    """
    sides: tuple[Side, Side] = ("new", "old")
    try:
        for side in sides:
            world.switch_owner(side, PER_PERCENT * percentage, epoch + 1, 2.0)
    except EpochConflict as error:
        raise StepOvertaken(domain=domain, reason=str(error)) from error
    return epoch + 1


def overtaking(flags: Flags, domain: str, epoch: int) -> str:
    """Gateways that serve a newer epoch than this one: somebody else decided. Empty: none."""
    return "; ".join(
        f"{gateway.url} serves {found.served} % under epoch {found.epoch}"
        for gateway in flags.served()
        if (found := gateway.domains.get(domain)) and found.epoch > epoch
    )


def not_serving(flags: Flags, domain: str, wanted: DomainFlags) -> list[str]:
    """Gateways that do not serve what is wanted, each with what it serves instead."""
    wrong = []
    for gateway in flags.served():
        found = gateway.domains.get(domain)
        if not gateway.reachable:
            wrong.append(f"{gateway.url}: {gateway.problem}")
        elif found != wanted:
            told = f"{found.served} % under epoch {found.epoch}" if found else "nothing"
            wrong.append(f"{gateway.url} serves {told}")
    return wrong


def _ms(seconds: float) -> int:
    return max(0, round(1000 * seconds))
