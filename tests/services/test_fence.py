"""The fence without a network: clock and timer are played by hand."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from services.gateway.fence import Door, Visit
from services.gateway.flags import DomainFlags
from services.gateway.leases import FenceMissing, FenceRefused

TEN = DomainFlags(True, 10, 3)
FIFTY = DomainFlags(True, 50, 4)


class Alarm:
    """One timer of the hand-played clock."""

    def __init__(self, due: float, act: Callable[[], None]) -> None:
        self.due, self.act, self.cancelled = due, act, False

    def cancel(self) -> None:
        self.cancelled = True


class Stage:
    """A door whose time passes only when told. `late` keeps alarms from ringing."""

    def __init__(self, flags: DomainFlags = TEN) -> None:
        self.now = 100.0
        self.late = False
        self.alarms: list[Alarm] = []
        self.questions: list[tuple[int, Sequence[str], float]] = []
        self.door = Door(
            "shop",
            flags,
            lambda: self.now,
            self.timer,
            lambda _, *asked: self.questions.append(asked),
        )
        self.visits: dict[str, Visit] = {}
        self.tasks: list[asyncio.Task[None]] = []

    def timer(self, delay: float, act: Callable[[], None]) -> Alarm:
        self.alarms.append(Alarm(self.now + delay, act))
        return self.alarms[-1]

    async def arrive(self, name: str, *buckets: int) -> None:
        """A request comes; it is in `visits` once it may go on."""

        async def request() -> None:
            self.visits[name] = await self.door.enter(*buckets)

        self.tasks.append(asyncio.create_task(request()))
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        for alarm in [] if self.late else list(self.alarms):
            if not alarm.cancelled and alarm.due <= self.now:
                alarm.cancelled = True
                alarm.act()
        await self.settle()


def play(act: Callable[[Stage], Coroutine[Any, Any, None]], flags: DomainFlags = TEN) -> None:
    async def scene() -> None:
        stage = Stage(flags)
        await act(stage)
        for task in stage.tasks:
            task.cancel()

    asyncio.run(scene())


def test_a_gateway_asks_its_peers_before_the_lease_ends_and_takes_no_switch_meanwhile() -> None:
    async def act(s: Stage) -> None:
        s.door.fence(4, 1000, 5000, 5.0, ["http://peer"])
        await s.arrive("held", 4999)
        await s.wait(3.9)
        assert s.questions == []
        await s.wait(0.2)
        ((epoch, peers, seconds),) = s.questions
        assert (epoch, peers, round(seconds, 1)) == (4, ["http://peer"], 0.9)
        for refused in (lambda: s.door.switch(FIFTY), lambda: s.door.confirm(4, 5.0)):
            with pytest.raises(FenceRefused):
                refused()
        s.door.conclude(4, [TEN])
        await s.settle()
        assert s.visits["held"].sides == ("old",)
        with pytest.raises(FenceRefused, match="given up"):
            s.door.fence(4, 1000, 5000, 5.0)

    play(act)


def test_a_gateway_follows_a_peer_that_has_switched() -> None:
    async def act(s: Stage) -> None:
        s.door.fence(4, 1000, 5000, 5.0, ["http://one", "http://two"])
        await s.arrive("held", 4999)
        await s.wait(4.1)
        s.door.conclude(4, [TEN, FIFTY])
        await s.settle()
        assert (s.visits["held"].sides, s.door.flags) == (("new",), FIFTY)

    play(act)


def test_a_gateway_that_was_asked_takes_no_switch_any_more_and_holds_on() -> None:
    async def act(s: Stage) -> None:
        s.door.fence(4, 1000, 5000, 5.0, ["http://peer"])
        await s.arrive("held", 4999)
        assert s.door.settle(4) == TEN
        with pytest.raises(FenceRefused):
            s.door.switch(FIFTY)
        await s.settle()
        assert "held" not in s.visits  # it asks in its turn, when its own lease ends
        await s.wait(4.1)
        assert len(s.questions) == 1

    play(act)


def test_a_gateway_that_stood_still_over_the_end_of_its_lease_asks_all_the_same() -> None:
    async def act(s: Stage) -> None:
        s.door.fence(4, 1000, 5000, 5.0, ["http://peer"])
        s.late = True
        await s.wait(60)
        await s.arrive("first", 4999)
        ((epoch, _, seconds),) = s.questions
        assert (epoch, seconds, s.visits["first"].sides) == (4, 0.0, ("old",))
        s.door.conclude(4, [FIFTY])
        assert s.door.flags == FIFTY

    play(act)


def test_the_lease_is_the_end_also_when_no_peer_answers() -> None:
    async def act(s: Stage) -> None:
        s.door.fence(4, 1000, 5000, 5.0, ["http://dead"])
        await s.arrive("held", 4999)
        await s.wait(5.0)
        assert s.visits["held"].sides == ("old",)
        s.door.conclude(4, [])
        assert s.door.flags == TEN

    play(act)


def test_only_the_range_is_held_and_the_switch_sends_it_to_the_new_side() -> None:
    async def act(stage: Stage) -> None:
        stage.door.fence(4, 1000, 5000, 5.0)
        for name, place in {"below": 999, "low": 1000, "high": 4999, "above": 5000}.items():
            await stage.arrive(name, place)
        assert set(stage.visits) == {"below", "above"}
        assert stage.visits["below"].sides == ("new",)
        assert stage.visits["above"].sides == ("old",)
        assert stage.door.view().held == 2
        await stage.wait(0.25)
        ended = stage.door.switch(FIFTY)
        assert (ended.held_requests, ended.held_ms_max) == (2, 250)
        await stage.settle()
        assert stage.visits["low"].sides == ("new",)
        assert stage.visits["high"].sides == ("new",)
        assert stage.door.held_total == 2
        assert stage.door.longest_hold == pytest.approx(0.25)

    play(act)


def test_switch_and_release_are_one_step_of_the_loop() -> None:
    async def act(stage: Stage) -> None:
        stage.door.fence(4, 1000, 5000, 5.0)
        await stage.arrive("held", 2000)
        stage.door.switch(FIFTY)
        # Nothing has run since: whoever comes now is not held and is on the new side already.
        visit = await stage.door.enter(2000)
        assert visit.sides == ("new",)

    play(act)


def test_a_request_from_before_the_fence_counts_until_it_leaves() -> None:
    async def act(stage: Stage) -> None:
        await stage.arrive("before", 2000)
        await stage.arrive("elsewhere", 7000)
        assert stage.door.fence(4, 1000, 5000, 5.0).in_flight == 1
        stage.visits["before"].leave()
        stage.visits["before"].leave()  # a second time changes nothing
        assert stage.door.view().in_flight == 0
        assert stage.door.in_flight("old") == 1

    play(act)


def test_an_expired_lease_lets_everyone_go_on_unswitched_and_voids_the_epoch() -> None:
    async def act(stage: Stage) -> None:
        stage.door.fence(4, 1000, 5000, 0.5)
        await stage.arrive("held", 2000)
        await stage.wait(0.49)
        assert "held" not in stage.visits
        await stage.wait(0.01)
        assert stage.visits["held"].sides == ("old",)
        for late in (lambda: stage.door.confirm(4, 5.0), lambda: stage.door.switch(FIFTY)):
            with pytest.raises(FenceRefused, match="expired"):
                late()
        with pytest.raises(FenceMissing):
            stage.door.view()
        assert stage.door.flags == TEN

    play(act)


def test_a_lease_is_over_on_time_even_when_the_alarm_is_late() -> None:
    async def act(stage: Stage) -> None:
        stage.late = True
        stage.door.fence(4, 1000, 5000, 0.5)
        await stage.arrive("held", 2000)
        await stage.wait(0.6)
        with pytest.raises(FenceRefused):
            stage.door.switch(FIFTY)
        await stage.settle()
        assert stage.visits["held"].sides == ("old",)

    play(act)


def test_a_confirmed_lease_lasts_longer() -> None:
    async def act(stage: Stage) -> None:
        stage.door.fence(4, 1000, 5000, 0.5)
        await stage.arrive("held", 2000)
        await stage.wait(0.4)
        assert stage.door.confirm(4, 0.5).expires_in_ms == 500
        await stage.wait(0.4)
        assert "held" not in stage.visits
        stage.door.switch(FIFTY)
        await stage.settle()
        assert stage.visits["held"].sides == ("new",)

    play(act)


def test_released_requests_go_on_unswitched_and_the_cost_is_told() -> None:
    async def act(stage: Stage) -> None:
        stage.door.fence(4, 1000, 5000, 5.0)
        await stage.arrive("held", 2000)
        await stage.wait(0.0301)
        ended = stage.door.release(4)
        assert (ended.held_requests, ended.held_ms_max) == (1, 31)
        await stage.settle()
        assert stage.visits["held"].sides == ("old",)
        with pytest.raises(FenceMissing):
            stage.door.release(4)
        with pytest.raises(FenceRefused, match="released"):
            stage.door.switch(FIFTY)

    play(act)


def test_epochs_only_grow_and_one_fence_stands() -> None:
    async def act(stage: Stage) -> None:
        for old in (2, 3):
            with pytest.raises(FenceRefused):
                stage.door.fence(old, 1000, 5000, 5.0)
        stage.door.fence(4, 1000, 5000, 5.0)
        stage.door.fence(4, 1000, 5000, 9.0)  # the same once more renews it
        assert stage.door.view().expires_in_ms == 9000
        for other in ((5, 1000, 5000), (4, 1000, 6000)):
            with pytest.raises(FenceRefused):
                stage.door.fence(*other, 5.0)
        with pytest.raises(FenceMissing):
            stage.door.release(5)
        with pytest.raises(FenceRefused):
            stage.door.confirm(5, 1.0)
        with pytest.raises(FenceRefused):
            stage.door.set_flags(DomainFlags(True, 20, 2))

    play(act)


def test_a_switch_is_idempotent_and_must_be_covered_by_its_fence() -> None:
    async def act(stage: Stage) -> None:
        stage.door.fence(4, 1000, 5000, 5.0)
        await stage.arrive("held", 2000)
        await stage.wait(0.1)
        with pytest.raises(FenceRefused, match="covers"):
            stage.door.switch(DomainFlags(True, 60, 4))
        with pytest.raises(FenceRefused, match="covers"):
            stage.door.switch(DomainFlags(False, 50, 4))
        first = stage.door.switch(FIFTY)
        assert stage.door.switch(FIFTY) == first
        with pytest.raises(FenceRefused):
            stage.door.switch(DomainFlags(True, 40, 4))
        assert stage.door.flags == FIFTY

    play(act)


def test_a_step_down_moves_its_range_back() -> None:
    async def act(stage: Stage) -> None:
        stage.door.fence(5, 1000, 5000, 5.0)
        await stage.arrive("held", 2000)
        stage.door.switch(DomainFlags(True, 10, 5))
        await stage.settle()
        assert stage.visits["held"].sides == ("old",)

    play(act, FIFTY)


def test_flags_set_without_a_fence_break_the_one_that_stands() -> None:
    async def act(stage: Stage) -> None:
        stage.door.fence(4, 1000, 5000, 5.0)
        await stage.arrive("held", 2000)
        stage.door.set_flags(DomainFlags(True, 0, 3))
        await stage.settle()
        assert stage.visits["held"].sides == ("old",)
        with pytest.raises(FenceRefused, match="broken"):
            stage.door.switch(FIFTY)

    play(act)


def test_a_merge_counts_in_both_buckets_and_waits_for_either() -> None:
    async def act(stage: Stage) -> None:
        await stage.arrive("before", 7000, 2000)
        assert stage.door.fence(4, 1000, 5000, 5.0).in_flight == 1
        await stage.arrive("guest moves", 2000, 7000)
        await stage.arrive("customer moves", 7000, 2000)
        assert set(stage.visits) == {"before"}
        # The waiting merges are not under way anywhere: the fence never waits for them.
        assert stage.door.view().in_flight == 1
        assert stage.door.in_flight("old") == 2
        stage.visits["before"].leave()
        assert stage.door.view().in_flight == 0
        stage.door.switch(FIFTY)
        await stage.settle()
        assert stage.visits["guest moves"].sides == ("new", "old")
        assert stage.visits["customer moves"].sides == ("old", "new")

    play(act)


def test_a_held_request_whose_task_ends_is_not_counted() -> None:
    async def act(stage: Stage) -> None:
        stage.door.fence(4, 1000, 5000, 5.0)
        await stage.arrive("held", 2000)
        await stage.wait(0.2)
        stage.tasks[-1].cancel()
        await stage.settle()
        assert stage.door.view().held == 0
        await stage.wait(1.0)
        ended = stage.door.switch(FIFTY)
        assert (ended.held_requests, ended.held_ms_max) == (1, 200)
        assert stage.door.in_flight("new") == stage.door.in_flight("old") == 0

    play(act)


def test_rollback_serves_old_at_once_and_holds_those_who_come_back() -> None:
    async def act(stage: Stage) -> None:
        await stage.arrive("under way", 2000)
        seen = stage.door.rollback(5, 10, 0.8)
        assert (seen.low, seen.high, seen.in_flight, seen.expires_in_ms) == (1000, 5000, 1, 800)
        assert stage.door.flags == DomainFlags(True, 10, 5)
        await stage.arrive("returning", 2000)
        await stage.arrive("staying", 500)
        assert "returning" not in stage.visits
        assert stage.visits["staying"].sides == ("new",)
        stage.visits["under way"].leave()
        await stage.wait(0.1)
        assert stage.door.release(5).held_ms_max == 100
        await stage.settle()
        assert stage.visits["returning"].sides == ("old",)

    play(act, FIFTY)


def test_a_rollback_holds_for_one_second_at_most_and_cannot_be_prolonged() -> None:
    async def act(stage: Stage) -> None:
        stage.door.rollback(5, 0, 60.0)
        await stage.arrive("returning", 2000)
        await stage.wait(0.5)
        assert stage.door.rollback(5, 0, 60.0).expires_in_ms == 500  # typed twice
        assert stage.door.rollback(6, 0, 60.0).expires_in_ms == 500  # and by a second person
        with pytest.raises(FenceRefused):
            stage.door.confirm(6, 60.0)
        with pytest.raises(FenceRefused):
            stage.door.fence(7, 0, 1000, 60.0)
        await stage.wait(0.499)
        assert "returning" not in stage.visits
        await stage.wait(0.001)
        assert stage.visits["returning"].sides == ("old",)
        assert stage.door.rollback(6, 0, 1.0).state == "released"

    play(act, FIFTY)


def test_a_second_rollback_keeps_the_hold_of_the_first() -> None:
    async def act(stage: Stage) -> None:
        stage.door.rollback(5, 10, 1.0)
        await stage.arrive("first", 2000)
        seen = stage.door.rollback(6, 0, 1.0)
        assert (seen.low, seen.high) == (0, 5000)
        await stage.arrive("second", 500)
        assert not stage.visits
        stage.door.release(6)
        await stage.settle()
        assert [visit.sides for visit in stage.visits.values()] == [("old",), ("old",)]

    play(act, FIFTY)


def test_a_rollback_breaks_a_fence_and_its_switch() -> None:
    async def act(stage: Stage) -> None:
        stage.door.fence(4, 1000, 5000, 5.0)
        await stage.arrive("of the step", 2000)
        seen = stage.door.rollback(4, 0, 1.0)
        assert (seen.low, seen.high) == (0, 1000)
        await stage.arrive("returning", 500)
        assert stage.visits["of the step"].sides == ("old",)
        assert "returning" not in stage.visits
        with pytest.raises(FenceRefused):
            stage.door.switch(FIFTY)
        await stage.wait(1.0)
        assert stage.visits["returning"].sides == ("old",)

    play(act)


def test_a_request_that_leaves_a_broken_fence_meets_the_hold_behind_it() -> None:
    async def act(stage: Stage) -> None:
        stage.door.fence(5, 1000, 5000, 5.0)  # a step down
        await stage.arrive("held", 2000)
        stage.door.rollback(5, 10, 1.0)
        await stage.settle()
        assert "held" not in stage.visits
        assert stage.door.view().held == 1
        await stage.wait(1.0)
        assert stage.visits["held"].sides == ("old",)
        assert stage.door.held_total == 1

    play(act, FIFTY)


def test_a_rollback_never_raises_a_percentage_or_lowers_an_epoch() -> None:
    async def act(stage: Stage) -> None:
        for epoch, percentage in ((2, 0), (4, 20), (3, 5)):
            with pytest.raises(FenceRefused):
                stage.door.rollback(epoch, percentage, 1.0)
        assert stage.door.rollback(4, 10, 1.0).state == "released"  # nobody returns

    play(act)


def test_a_door_that_closes_releases_and_takes_no_new_fence() -> None:
    async def act(stage: Stage) -> None:
        stage.door.fence(4, 1000, 5000, 5.0)
        await stage.arrive("held", 2000)
        stage.door.close()
        await stage.settle()
        assert stage.visits["held"].sides == ("old",)
        with pytest.raises(FenceRefused):
            stage.door.fence(5, 1000, 5000, 5.0)
        with pytest.raises(FenceRefused):
            stage.door.switch(FIFTY)
        assert stage.door.rollback(5, 0, 1.0).state == "released"
        assert stage.door.flags.percentage == 0

    play(act)
