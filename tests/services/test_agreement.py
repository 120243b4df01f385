"""Gateways whose command died: whatever was switched where, and whoever asks first, they agree."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.gateway.fence import Door
from services.gateway.flags import DomainFlags
from services.gateway.leases import FenceMissing, FenceRefused, FenceView

BEFORE, STEP, ROLLED_BACK = (DomainFlags(True, p, e) for p, e in ((10, 1), (50, 2), (0, 3)))
NAMES = ("a", "b", "c")
GATEWAYS = st.sampled_from(NAMES)
LEASES = st.sampled_from([1.0, 1.1, 1.5, 5.0])


class Alarm:
    def __init__(self, due: float, act: Callable[[], None]) -> None:
        self.due, self.act = due, act

    def cancel(self) -> None:
        self.act = lambda: None


@dataclass
class Conversation:
    """One gateway's question: who is still to be asked, and what the others said."""

    door: Door
    epoch: int
    unasked: list[str]
    until: float
    answers: list[DomainFlags] = field(default_factory=list)


async def view(door: Door) -> FenceView:
    return door.view()


class Agreement(RuleBasedStateMachine):
    """Three gateways, one step, a network that delivers in time but in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.now = 0.0
        self.alarms: list[Alarm] = []
        self.talks: list[Conversation] = []
        self.reached = 0
        self.doors = {
            name: Door("shop", BEFORE, lambda: self.now, self.timer, self.ask) for name in NAMES
        }

    def timer(self, delay: float, act: Callable[[], None]) -> Alarm:
        self.alarms.append(Alarm(self.now + delay, act))
        return self.alarms[-1]

    def ask(self, door: Door, epoch: int, peers: Sequence[str], seconds: float) -> None:
        assert seconds >= 0  # nothing is left for one that stood still over its lease's end
        self.talks.append(Conversation(door, epoch, list(peers), self.now + seconds))

    def act(self, what: Callable[[], object]) -> None:
        async def inside_the_loop() -> None:
            with contextlib.suppress(FenceRefused, FenceMissing):
                what()

        self.runner.run(inside_the_loop())

    @initialize(leases=st.lists(LEASES, min_size=2, max_size=3))
    def fence(self, leases: list[float]) -> None:
        """The command may have died before it reached the last of them."""
        for name, lease in zip(NAMES, leases, strict=False):
            peers = [peer for peer in NAMES if peer != name]
            self.act(partial(self.doors[name].fence, STEP.epoch, 1000, 5000, lease, peers))
        self.reached = len(leases)

    @rule(name=GATEWAYS)
    def confirm(self, name: str) -> None:
        self.act(lambda: self.doors[name].confirm(STEP.epoch, 1.0))

    @precondition(lambda self: self.reached == len(NAMES))
    @rule(name=GATEWAYS)
    def switch(self, name: str) -> None:
        """A step switches nobody before everybody was asked to hold."""
        self.act(lambda: self.doors[name].switch(STEP))

    @rule(now=st.sampled_from([False] * 19 + [True]))
    def roll_back(self, now: bool) -> None:
        """On all gateways at once, as the command does it. Rarely: nothing is left to see then."""
        for door in self.doors.values() if now else ():
            self.act(partial(door.rollback, ROLLED_BACK.epoch, 0, 0.0))

    @rule(which=st.integers(0, 9), whom=st.integers(0, 9))
    def deliver(self, which: int, whom: int) -> None:
        if self.talks:
            talk = self.talks[which % len(self.talks)]
            if talk.unasked:
                peer = self.doors[talk.unasked.pop(whom % len(talk.unasked))]
                self.act(lambda: talk.answers.append(peer.settle(talk.epoch)))
            else:
                self.talks.remove(talk)
                self.act(lambda: talk.door.conclude(talk.epoch, talk.answers))

    @rule(seconds=st.sampled_from([0.1, 0.5, 0.85, 1.0, 5.0]))
    def wait(self, seconds: float) -> None:
        """Time passes; what is on its way arrives in time."""
        until = self.now + seconds
        while moments := [
            *(talk.until - 0.01 for talk in self.talks if talk.until - 0.01 <= until),
            *(alarm.due for alarm in self.alarms if alarm.due <= until),
        ]:
            self.now = max(self.now, min(moments))
            late = [talk for talk in self.talks if talk.until - 0.01 <= self.now]
            while late and late[0] in self.talks:
                self.deliver(self.talks.index(late[0]), 0)
            due = [alarm for alarm in self.alarms if alarm.due <= self.now]
            for alarm in due:
                self.alarms.remove(alarm)
                self.act(alarm.act)
        self.now = until

    @invariant()
    def once_all_is_over_they_agree(self) -> None:
        standing = []
        for door in self.doors.values():
            with contextlib.suppress(FenceMissing):
                standing.append(self.runner.run(view(door)))
        if not standing and not self.talks:
            served = {name: door.flags for name, door in self.doors.items()}
            assert len(set(served.values())) == 1, served

    def teardown(self) -> None:
        self.wait(10.0)
        self.once_all_is_over_they_agree()
        self.runner.close()


TestAgreement = Agreement.TestCase
TestAgreement.settings = settings(max_examples=300, stateful_step_count=25, deadline=None)
