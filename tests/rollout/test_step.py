"""The fenced step: the order of its acts, and how it ends when one of them fails."""

import os
import signal
from collections.abc import Callable

import pytest

from estate.errors import ExitCode, SplitctlError
from rollout.flags import DomainFlags
from rollout.interrupts import Interrupted, Interrupts
from rollout.step_plan import (
    BudgetExceeded,
    GatewayUnready,
    NotCaughtUp,
    StepOvertaken,
    StepTakenBack,
    StepUnfinished,
)
from rollout.world import Ownership, SideAway, WriterUnpaused
from tests.rollout.rig import DOMAIN, Rig


def test_the_order_is_the_protocol() -> None:
    rig = Rig()
    for gateway in rig.gateways.values():
        gateway.held = 3
    result = rig.step(10).perform()
    assert rig.log == [
        "pause",
        "cross forward",
        "fence",
        "fences",
        "quiesce old",
        "cross forward",
        "confirm",
        "own old",
        "cross forward",
        "switch",
        "own new",
        "served",
        "resume",
    ]
    assert rig.is_at(10)
    assert (result.held_requests, result.held_ms_max, result.epoch) == (6, 30, 2)
    assert result.to_json()["from"] == 0
    assert result.to_json()["to"] == 10


def test_downwards_the_sides_change_places() -> None:
    rig = Rig(percentage=50, epoch=4)
    rig.step(10).perform()
    assert rig.is_at(10)
    moved = [act for act in rig.log if act.startswith(("own", "quiesce", "cross"))]
    assert moved == [
        "cross reverse",
        "quiesce new",
        "cross reverse",
        "own new",
        "cross reverse",
        "own old",
    ]


def test_what_a_job_wrote_between_the_barrier_and_the_owners_move_has_to_cross_too() -> None:
    """Way 7: an owner-aware job commits after the barrier, just before the owner's row is got."""
    rig = Rig()

    def job_writes() -> None:
        rig.world.caught_up = False

    rig.hooks["own old"] = job_writes
    with pytest.raises(StepTakenBack, match="late keys"):
        rig.step(10).perform()
    assert "own new" not in rig.log[: rig.log.index("cross forward", rig.log.index("own old"))]
    assert rig.is_at(0)
    assert {owner.epoch for owner in rig.world.owners.values()} == {3}
    assert rig.log.count("own old") == 2, "taken back once"


def test_only_the_buckets_that_move_are_held() -> None:
    rig = Rig(percentage=10, epoch=3)
    seen: list[tuple[int, int]] = []

    def look() -> None:
        standing = rig.gateways["gw-1"].standing[DOMAIN]
        seen.append((standing.low, standing.high))

    rig.hooks["confirm"] = look
    rig.step(50).perform()
    assert seen == [(1000, 5000)]


def set_(rig: Rig, name: str) -> Callable[[], None]:
    """A change of the world in the middle of a step."""

    def change() -> None:
        match name:
            case "gateway dies":
                rig.gateways["gw-2"].reachable = False
            case "lease ends":
                del rig.gateways["gw-2"].standing[DOMAIN]
            case "sync stops":
                rig.world.caught_up = False
            case "somebody writes":
                rig.world.quiet = False
            case "old database dies":
                rig.world.away.add("old")
            case "requests hang":
                rig.gateways["gw-1"].in_flight = 2

    return change


@pytest.mark.parametrize(
    ("at", "what", "error"),
    [
        ("cross forward", "sync stops", NotCaughtUp),
        ("fence", "gateway dies", GatewayUnready),
        ("fences", "gateway dies", GatewayUnready),
        ("fences", "lease ends", GatewayUnready),
        ("fences", "requests hang", BudgetExceeded),
        ("quiesce old", "somebody writes", BudgetExceeded),
        ("quiesce old", "old database dies", SideAway),
        ("quiesce old", "sync stops", BudgetExceeded),
        ("confirm", "gateway dies", GatewayUnready),
        ("confirm", "lease ends", GatewayUnready),
    ],
)
def test_before_the_owner_moves_every_failure_releases_unswitched(
    at: str, what: str, error: type[SplitctlError]
) -> None:
    rig = Rig()
    rig.hooks[at] = set_(rig, what)
    with pytest.raises(error) as raised:
        rig.step(10).perform()
    assert raised.value.exit_code is ExitCode.PRECONDITION
    for gateway in rig.gateways.values():
        gateway.reachable = True
    assert rig.served == {0}
    assert rig.owned == {0}
    assert "own old" not in rig.log
    assert rig.log[-1] == "resume"
    rig.clock.sleep(10)  # a gateway that did not hear the release lets go by its lease
    assert all(answer.value is None for answer in rig.flags.fences(DOMAIN))
    assert rig.broken_rules == []


def test_a_sync_that_is_behind_is_found_before_anybody_is_held() -> None:
    rig = Rig()
    rig.world.caught_up = False
    with pytest.raises(NotCaughtUp):
        rig.step(10).perform()
    assert "fence" not in rig.log


def test_a_writer_that_cannot_be_paused_stops_the_step_before_anybody_is_held() -> None:
    rig = Rig()
    rig.writers.broken = True
    with pytest.raises(WriterUnpaused):
        rig.step(10).perform()
    assert "fence" not in rig.log


def test_a_prepared_transaction_keeps_the_step_from_switching() -> None:
    """Way 7 to lose data: what still writes to the mapped tables is waited for, or nobody moves."""
    rig = Rig()
    rig.world.quiet = False
    with pytest.raises(BudgetExceeded, match="3/42"):
        rig.step(10).perform()
    assert rig.is_at(0)


def test_a_confirmation_after_the_budget_comes_too_late() -> None:
    rig = Rig()
    rig.hooks["confirm"] = lambda: rig.clock.sleep(2.5)
    with pytest.raises(BudgetExceeded, match="too late"):
        rig.step(10).perform()
    assert rig.is_at(0)


def test_an_owner_that_cannot_be_asked_any_more_leaves_the_step_unfinished() -> None:
    rig = Rig()
    rig.hooks["own old"] = lambda: rig.world.away.add("old")
    with pytest.raises(StepUnfinished, match="could not be moved back"):
        rig.step(10).perform()
    assert rig.served == {0}
    assert not rig.fenced


def test_a_lock_that_is_not_got_in_time_takes_the_step_back() -> None:
    rig = Rig()

    def fail() -> None:
        raise SideAway(database="old", side="old", reason="canceling statement due to lock timeout")

    rig.hooks["own old"] = fail
    with pytest.raises(StepTakenBack, match="lock timeout"):
        rig.step(10).perform()
    assert rig.is_at(0)
    assert {owner.epoch for owner in rig.world.owners.values()} == {3}


def test_the_winning_side_is_told_last_and_a_step_that_cannot_tell_it_is_unfinished() -> None:
    """Until somebody is served by new, its own database must still accept what old carries."""
    rig = Rig()
    rig.hooks["own new"] = lambda: rig.world.away.add("new")
    with pytest.raises(StepUnfinished):
        rig.step(10).perform()
    assert rig.served == {10}
    assert rig.world.owners["new"].new_below == 0


def test_fences_that_all_ran_out_take_the_step_back() -> None:
    rig = Rig()
    rig.hooks["switch"] = lambda: rig.clock.sleep(6)
    with pytest.raises(StepTakenBack):
        rig.step(10).perform()
    assert rig.is_at(0)


def test_one_fence_that_ran_out_is_brought_along() -> None:
    """Somebody is served by the new side already, so there is only forward."""
    rig = Rig()
    rig.hooks["switch"] = set_(rig, "lease ends")
    result = rig.step(10).perform()
    assert rig.is_at(10)
    assert "look at the strays" in result.warnings[0]


def test_a_gateway_that_is_away_at_the_switch_gets_it_when_it_is_back() -> None:
    rig = Rig()
    rig.hooks["switch"] = set_(rig, "gateway dies")
    step = rig.step(10)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        rig.clock.sleep(seconds)
        if len(pauses) == 3:
            rig.gateways["gw-2"].reachable = True

    step.sleep = sleep
    step.perform()
    assert rig.is_at(10)


def test_a_gateway_that_stays_away_leaves_the_step_unfinished() -> None:
    rig = Rig()
    rig.hooks["switch"] = set_(rig, "gateway dies")
    with pytest.raises(StepUnfinished, match="gw-2"):
        rig.step(10).perform()
    assert rig.gateways["gw-1"].domains[DOMAIN].served == 10
    # Both directions carry while one gateway still serves old.
    assert (rig.world.owners["old"].new_below, rig.world.owners["new"].new_below) == (1000, 0)
    assert not rig.writers.paused


@pytest.mark.parametrize("at", ["fences", "quiesce old", "confirm", "own old", "own new", "switch"])
def test_a_rollback_in_the_middle_is_never_undone(at: str) -> None:
    """A rollback waits for nobody; the running step finds itself overtaken and stops."""
    rig = Rig(percentage=10, epoch=3)

    def rollback() -> None:
        rig.hooks.clear()
        rig.flags.rollback(DOMAIN, 5, 0, 0)
        for side in ("new", "old"):
            rig.world.owners[side] = Ownership(0, 5)

    rig.hooks[at] = rollback
    with pytest.raises((GatewayUnready, StepOvertaken)):
        rig.step(50).perform()
    assert rig.served == {0}
    assert rig.owned == {0}
    assert not rig.fenced


def test_a_rollback_that_has_not_reached_the_owners_yet_is_seen_at_the_gateways() -> None:
    rig = Rig(percentage=10, epoch=3)
    rig.hooks["switch"] = lambda: _ignore(rig.flags.rollback(DOMAIN, 5, 0, 0))
    with pytest.raises(StepOvertaken, match="epoch 5"):
        rig.step(50).perform()
    assert rig.served == {0}


def _ignore(value: object) -> None:
    del value


def test_a_signal_takes_effect_between_two_acts_and_releases() -> None:
    rig = Rig()
    step = rig.step(10)
    with step.interrupts:
        rig.hooks["quiesce old"] = lambda: os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted) as raised:
            step.perform()
    assert raised.value.exit_code is ExitCode.INTERRUPTED
    assert rig.is_at(0)
    assert rig.log[-2:] == ["release", "resume"]


@pytest.mark.parametrize("at", ["own old", "own new", "switch"])
def test_a_signal_during_the_move_waits_for_its_end(at: str) -> None:
    rig = Rig()
    step = rig.step(10)
    with step.interrupts:
        rig.hooks[at] = lambda: os.kill(os.getpid(), signal.SIGINT)
        step.perform()
    assert rig.is_at(10)


def test_signals_get_their_handlers_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts() as interrupts:
        assert signal.getsignal(signal.SIGTERM) != before
        assert not interrupts.pending
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_gateway_that_serves_something_else_afterwards_is_named() -> None:
    rig = Rig()

    def restarted() -> None:
        rig.gateways["gw-1"].domains[DOMAIN] = DomainFlags(True, 0, 0)

    rig.hooks["served"] = restarted
    with pytest.raises(StepUnfinished, match="gw-1 serves 0 %"):
        rig.step(10).perform()


def test_the_plan_names_every_act_in_order() -> None:
    acts = Rig().plan(10).acts()
    assert len(acts) == 14
    assert "buckets 0 to 999" in acts[3]
