"""A step command killed at any of its acts: the same command, typed again, ends it rightly."""

from contextlib import nullcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout import recovery
from rollout.phases import Intent, Owns, Serves, Way, way_on
from rollout.step_plan import StepPlan, StepResult, StepUnfinished
from rollout.world import Ownership
from tests.rollout.rig import DOMAIN, Killed, Rig, act


def killed(at: int, to: int = 10) -> tuple[Rig, StepPlan]:
    """A rig whose step died before its act number `at`; the plan it had written down."""
    rig = Rig(kill_at=at)
    step = rig.step(to)
    with pytest.raises(Killed):
        step.perform()
    rig.restart()
    return rig, step.plan


def settle(rig: Rig, plan: StepPlan) -> StepResult | str:
    """What the next command does first. It needs no ledger."""
    return recovery.settle(DOMAIN, act(plan), rig.tools(nullcontext), rig.world)


def number_of_acts() -> int:
    rig = Rig()
    rig.step(10).perform()
    return rig.acts


@pytest.mark.parametrize("later", [0.0, 60.0], ids=["at once", "after the lease"])
@pytest.mark.parametrize("at", range(13))
def test_typed_again_after_a_kill(at: int, later: float) -> None:
    assert number_of_acts() == 13
    rig, plan = killed(at)
    rig.clock.sleep(later)
    ended = settle(rig, plan)
    if isinstance(ended, StepResult):
        assert ended.resumed
    else:
        assert rig.is_at(0), ended
        rig.step(10).perform()
    assert rig.is_at(10)
    assert rig.broken_rules == []


def half_switched() -> tuple[Rig, StepPlan]:
    """One gateway serves the step, the other's customers still write to the losing side."""
    rig = Rig()
    plan = rig.plan(10)
    rig.gateways["gw-1"].domains[DOMAIN] = plan.flags
    rig.world.owners["old"] = Ownership(plan.new_below, plan.epoch)
    return rig, plan


def test_a_step_is_finished_with_the_winning_owner_last_and_all_carried_before() -> None:
    rig, plan = half_switched()
    settle(rig, plan)
    assert rig.is_at(10)
    acts = [name for name in rig.log if name in ("put", "cross forward", "own new")]
    assert acts == ["put", "cross forward", "own new"]


def test_a_step_is_not_finished_while_something_has_not_crossed() -> None:
    rig, plan = half_switched()
    rig.world.caught_up = False
    with pytest.raises(StepUnfinished, match="still to carry"):
        settle(rig, plan)
    assert rig.world.owners["new"] == Ownership(0, 1)


def test_a_sleeper_that_wakes_while_it_is_taken_back_finds_its_epoch_given_up() -> None:
    """Its switch comes after the gateways were asked, and before the owners moved back."""
    rig, plan = killed(8)
    refused: list[bool] = []

    def wakes() -> None:
        answers = rig.flags.switch(DOMAIN, plan.flags)
        refused.extend(answer.refused for answer in answers)

    rig.hooks["own new"] = wakes
    settle(rig, plan)
    assert refused == [True, True]
    assert rig.is_at(0)


def test_a_gateway_that_switched_meanwhile_is_followed() -> None:
    rig, plan = killed(9)
    rig.hooks["forgo"] = lambda: rig.flags.switch(DOMAIN, plan.flags, ["gw-2"])
    settle(rig, plan)
    assert rig.is_at(10)


def test_a_rollback_that_began_meanwhile_is_not_taken_back() -> None:
    rig, plan = killed(8)
    epoch = plan.epoch
    rig.hooks["forgo"] = lambda: rig.flags.rollback(DOMAIN, epoch + 1, 0, 1000)
    how = settle(rig, plan)
    assert how == "a later command decided"
    assert max(owner.epoch for owner in rig.world.owners.values()) <= epoch


def test_keys_that_both_sides_changed_do_not_keep_a_step_unfinished() -> None:
    """Each stream waits for the other until one side owns them: only the owner's move ends that."""
    rig, plan = half_switched()
    rig.world.caught_up, rig.world.disputed = False, True
    done = settle(rig, plan)
    assert isinstance(done, StepResult)
    assert rig.is_at(10)
    assert "7 keys were changed on both sides" in " ".join(done.warnings)


def test_a_killed_step_holds_nobody_for_longer_than_one_lease() -> None:
    """Also when it was slow before: the confirmation must not begin the lease anew."""
    rig = Rig(kill_at=8)
    step = rig.step(10)
    rig.hooks["quiesce old"] = lambda: rig.clock.sleep(step.limits.budget_ms / 1000 * 0.9)
    began = rig.clock()
    with pytest.raises(Killed):
        step.perform()
    ends = [gateway.standing[DOMAIN].until for gateway in rig.gateways.values()]
    assert max(ends) - began <= step.limits.lease_ms / 1000 + 1e-9


@pytest.mark.parametrize("again", range(8))
@pytest.mark.parametrize("at", range(13))
def test_a_recovery_that_is_killed_itself(at: int, again: int) -> None:
    rig, plan = killed(at)
    rig.kill_at = rig.acts + again
    try:
        settle(rig, plan)
    except Killed:
        rig.restart()
        settle(rig, plan)
    rig.restart()
    if rig.served == {0}:
        owners = rig.world.owners
        newest = max(owners.values(), key=lambda owner: owner.epoch)
        owners["old"] = owners["new"] = newest  # what `rollout start` does
        assert rig.owned == {0}
        rig.step(10).perform()
    assert rig.is_at(10)
    assert rig.broken_rules == []


@pytest.mark.parametrize("at", range(13))
def test_a_command_that_only_slept_cannot_use_its_epoch_again(at: int) -> None:
    """Its successor has settled: whatever the sleeper does now must not move anybody."""
    rig, plan = killed(at)
    before = rig.served
    ended = settle(rig, plan)
    if isinstance(ended, StepResult):
        return
    assert before == {0}
    flags = plan.flags
    assert not any(answer.ok for answer in rig.flags.switch(DOMAIN, flags))
    assert min(owner.epoch for owner in rig.world.owners.values()) > flags.epoch


def test_a_gateway_that_cannot_be_asked_leaves_it_open() -> None:
    rig, plan = killed(9)
    rig.gateways["gw-2"].reachable = False
    with pytest.raises(StepUnfinished, match="not known"):
        settle(rig, plan)
    assert "release" not in rig.log


def test_a_gateway_that_was_left_behind_follows() -> None:
    rig, plan = killed(11)
    rig.gateways["gw-2"].domains[DOMAIN] = Rig().gateways["gw-2"].domains[DOMAIN]
    ended = settle(rig, plan)
    assert isinstance(ended, StepResult)
    assert rig.is_at(10)
    assert "strays" in ended.warnings[0]


def test_what_a_rollback_decided_stays() -> None:
    rig, plan = killed(10)
    rig.flags.rollback(DOMAIN, 5, 0, 0)
    rig.world.owners["new"] = rig.world.owners["old"] = Ownership(0, 5)
    ended = settle(rig, plan)
    assert isinstance(ended, str)
    assert rig.is_at(0)


epochs = st.integers(0, 6)
serves = st.one_of(st.none(), st.builds(Serves, st.sampled_from([0, 10, 50]), epochs))
owns = st.one_of(st.none(), st.builds(Owns, st.sampled_from([0, 1000, 5000]), epochs))


@settings(max_examples=300)
@given(served=st.lists(serves, min_size=1, max_size=3), old=owns, new=owns)
def test_there_is_one_way_on_and_it_is_the_safe_one(
    served: list[Serves | None], old: Owns | None, new: Owns | None
) -> None:
    intent = Intent(0, 10, 4)
    gateways = {f"gw-{n}": item for n, item in enumerate(served)}
    way = way_on(intent, gateways, {"old": old, "new": new})
    seen = [item for item in served if item]
    newest = max([i.epoch for i in seen] + [i.epoch for i in (old, new) if i], default=0)
    if newest > 4:
        assert way is Way.OVERTAKEN
    elif any(item.epoch == 4 for item in seen):
        assert way is Way.FORWARD
    elif len(seen) < len(served):
        assert way is Way.UNKNOWN
    else:
        assert way is Way.BACK
