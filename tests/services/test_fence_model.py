"""Any order of requests, fences, rollbacks and time: what must hold for a door at every moment."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.gateway.fence import Door, Visit
from services.gateway.flags import DomainFlags
from services.gateway.leases import FenceMissing, FenceRefused

BUCKETS = st.sampled_from([0, 999, 1000, 4999, 5000, 9999])
PERCENTAGES = st.sampled_from([0, 10, 50, 100])
# Mostly what fits, so that something happens; sometimes what does not.
ASTRAY = st.sampled_from([0, 0, 0, 0, 0, 0, 1, -1])
FITTING = st.sampled_from([None, None, None, 0, 10, 50, 100])


class Alarm:
    def __init__(self, due: float, act: Callable[[], None]) -> None:
        self.due, self.act = due, act

    def cancel(self) -> None:
        self.act = lambda: None


class Doorway(RuleBasedStateMachine):
    """Drives a door and keeps its own books."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.now = 0.0
        self.alarms: list[Alarm] = []
        self.door = Door("shop", DomainFlags(True, 50, 1), lambda: self.now, self.timer)
        self.waiting: dict[asyncio.Task[None], tuple[int, ...]] = {}
        self.inside: list[tuple[tuple[int, ...], Visit]] = []
        self.epoch = 1
        self.wanted = 0

    def timer(self, delay: float, act: Callable[[], None]) -> Alarm:
        self.alarms.append(Alarm(self.now + delay, act))
        return self.alarms[-1]

    def settle(self) -> None:
        async def turns() -> None:
            for _ in range(4):
                await asyncio.sleep(0)

        self.runner.run(turns())
        for task in self.waiting:
            if task.done():
                task.result()  # its assertions count too
        self.waiting = {task: where for task, where in self.waiting.items() if not task.done()}

    def next_epoch(self) -> int:
        try:
            return self.door.view().epoch
        except FenceMissing:
            return self.door.flags.epoch + 1

    def act(self, what: Callable[[], Any]) -> None:
        async def inside_the_loop() -> None:
            with contextlib.suppress(FenceRefused, FenceMissing):
                what()

        self.runner.run(inside_the_loop())
        self.settle()

    @rule(buckets=st.lists(BUCKETS, min_size=1, max_size=2, unique=True).map(tuple))
    def arrive(self, buckets: tuple[int, ...]) -> None:
        async def request() -> None:
            visit = await self.door.enter(*buckets)
            # At the moment of entry: nobody is let in past a fence, and the side is the flags'.
            with contextlib.suppress(FenceMissing):
                fence = self.door.view()
                assert not any(fence.low <= bucket < fence.high for bucket in buckets)
            assert visit.sides == tuple(self.door.flags.side(bucket) for bucket in buckets)
            self.inside.append((buckets, visit))

        async def start() -> None:
            self.waiting[asyncio.get_running_loop().create_task(request())] = buckets

        self.runner.run(start())
        self.settle()

    @rule(which=st.integers(0, 5))
    def leave(self, which: int) -> None:
        if self.inside:
            self.inside.pop(which % len(self.inside))[1].leave()

    @rule(astray=ASTRAY, percentage=PERCENTAGES, lease=st.sampled_from([0.5, 2.0]))
    def fence(self, astray: int, percentage: int, lease: float) -> None:
        low, high = sorted((self.door.flags.new_below, percentage * 100))
        if low < high:
            self.wanted = percentage
            epoch = self.door.flags.epoch + 1 + astray
            self.act(lambda: self.door.fence(epoch, low, high, lease))

    @rule(astray=ASTRAY)
    def confirm(self, astray: int) -> None:
        self.act(lambda: self.door.confirm(self.next_epoch() + astray, 1.0))

    @rule(astray=ASTRAY, percentage=FITTING, enabled=st.sampled_from([True, True, True, False]))
    def switch(self, astray: int, percentage: int | None, enabled: bool) -> None:
        before = self.door.flags
        percentage = self.wanted if percentage is None else percentage
        wanted = DomainFlags(enabled, percentage, self.next_epoch() + astray)
        fence = None
        with contextlib.suppress(FenceMissing):
            fence = self.door.view()
        self.act(lambda: self.door.switch(wanted))
        if self.door.flags != before:
            assert fence is not None and fence.epoch == wanted.epoch
            moved = sorted((before.new_below, wanted.new_below))
            assert moved[0] == moved[1] or (fence.low <= moved[0] and moved[1] <= fence.high)
            assert not self.waiting

    @rule(astray=ASTRAY)
    def release(self, astray: int) -> None:
        before = self.door.flags
        self.act(lambda: self.door.release(self.next_epoch() + astray))
        assert self.door.flags == before

    @rule(astray=ASTRAY, percentage=PERCENTAGES, hold=st.sampled_from([0.0, 0.5, 60.0]))
    def rollback(self, astray: int, percentage: int, hold: float) -> None:
        before = self.door.flags
        self.act(lambda: self.door.rollback(before.epoch + 1 + astray, percentage, hold))
        assert self.door.flags.percentage <= before.percentage
        if self.door.flags != before:
            with contextlib.suppress(FenceMissing):
                assert self.door.view().expires_in_ms <= 1000

    @rule(astray=ASTRAY, percentage=PERCENTAGES, enabled=st.sampled_from([True, True, False]))
    def set_flags(self, astray: int, percentage: int, enabled: bool) -> None:
        flags = DomainFlags(enabled, percentage, self.door.flags.epoch + 1 + astray)
        self.act(lambda: self.door.set_flags(flags))

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 2.0]), late=st.booleans())
    def time_passes(self, seconds: float, late: bool) -> None:
        self.now += seconds
        if late:
            # The loop was busy: somebody looks at the door before the alarm has rung.
            self.act(self.door.view)
        due = [alarm for alarm in self.alarms if alarm.due <= self.now]
        self.alarms = [alarm for alarm in self.alarms if alarm.due > self.now]
        for alarm in due:
            self.act(alarm.act)

    @invariant()
    def nobody_waits_without_a_fence(self) -> None:
        try:
            fence = self.door.view()
        except FenceMissing:
            assert not self.waiting
            return
        assert fence.held == len(self.waiting)
        for buckets in self.waiting.values():
            assert any(fence.low <= bucket < fence.high for bucket in buckets)
        under_way = [bucket for buckets, _ in self.inside for bucket in buckets]
        assert fence.in_flight == sum(fence.low <= bucket < fence.high for bucket in under_way)

    @invariant()
    def the_books_agree(self) -> None:
        counted = self.door.in_flight("old") + self.door.in_flight("new")
        assert counted == sum(len(buckets) for buckets, _ in self.inside)
        assert self.door.flags.epoch >= self.epoch
        self.epoch = self.door.flags.epoch

    def teardown(self) -> None:
        self.act(self.door.close)
        assert not self.waiting
        self.runner.close()


Doorway.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestDoorway = Doorway.TestCase
