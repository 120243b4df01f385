"""The way back: flags first, with whatever is alive; typed twice, it changes nothing."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estate import journal
from estate.config import Config
from estate.errors import ExitCode
from estate.ledger import Ledger, LedgerUnreachable, Rollout, open_ledger
from rollout.flags import DomainFlags
from rollout.glance import GatewaysAway, glance_at
from rollout.rollback import plan, rollback
from rollout.rolled_back import RolledBack, WayClosed
from rollout.tools import Tools
from rollout.world import Ownership, SideAway
from tests.rollout.rig import DOMAIN, Rig


def no_ledger() -> Any:
    raise LedgerUnreachable(reason="it is away")


def quiet(rig: Rig) -> list[str]:
    """What was done to the world, without the looks."""
    looks = ("read", "served", "fences", "archived?")
    return [name for name in rig.log if not name.startswith(looks)]


def test_flags_first_then_the_rest(plain_config: Config) -> None:
    rig = Rig(percentage=50, epoch=4)
    for gateway in rig.gateways.values():
        gateway.held = 2
    result = rollback(plain_config, tools=rig.tools(no_ledger))
    acts = quiet(rig)
    # Before the mark: what an owner-aware job still writes there must not come after it.
    assert "own new" in acts[: acts.index("cross reverse")]
    # It moves twice: once more beside the flags, whenever the new side answers.
    assert [name for name in acts if name != "own new"] == [
        "rollback",
        "quiesce new",
        "cross reverse",
        "own old",
        "release",
        "resume",
    ]
    assert rig.is_at(0)
    (done,) = result.rollbacks
    assert (done.from_percentage, done.epoch, done.at_risk, done.already) == (50, 5, [], False)
    assert done.held_requests == 4
    assert done.seconds is not None
    assert result.exit_code is ExitCode.DONE
    told = result.to_json()["rollbacks"][0]
    assert (told["from"], told["to"]) == (50, 0)
    assert told["seconds_until_every_gateway_serves_it"] == done.seconds


def test_typed_twice_it_says_so_and_changes_nothing(plain_config: Config) -> None:
    rig = Rig(percentage=10, epoch=4)
    rollback(plain_config, tools=rig.tools(no_ledger))
    limit = time.monotonic() + 5
    while rig.log.count("own new") < 2 and time.monotonic() < limit:
        time.sleep(0.001)  # the move beside the flags is waited for by nobody else
    assert rig.log.count("own new") == 2
    rig.log.clear()
    result = rollback(plain_config, tools=rig.tools(no_ledger))
    assert result.rollbacks[0].already
    assert "already" in result.to_text()
    assert quiet(rig) == []
    assert rig.is_at(0)
    assert len(journal.of(plain_config).pending()) == 1


def test_the_ledger_that_is_away_is_made_up_for_in_the_journal(plain_config: Config) -> None:
    rig = Rig(percentage=10, epoch=4)
    result = rollback(plain_config, tools=rig.tools(no_ledger))
    assert "local journal" in result.notes[0]
    (entry,) = journal.of(plain_config).pending()
    assert entry.rollout == {"stage": "live", "percentage": 0, "phase": -1, "epoch": 5}


def test_a_dead_new_side_delays_nobody(plain_config: Config) -> None:
    rig = Rig(percentage=50, epoch=4)
    rig.world.away.add("new")
    result = rollback(plain_config, tools=rig.tools(no_ledger))
    (done,) = result.rollbacks
    assert result.exit_code is ExitCode.DONE
    assert rig.served == {0}
    assert rig.world.owners["old"] == Ownership(0, 5)
    assert not done.barrier_passed
    assert "again when it answers" in done.notes[0]
    assert "own old" in quiet(rig)
    again = rollback(plain_config, tools=rig.tools(no_ledger))
    assert again.rollbacks[0].already
    # It wakes up: now the rest is done, and owners agree again.
    rig.world.away.clear()
    last = rollback(plain_config, tools=rig.tools(no_ledger))
    assert not last.rollbacks[0].already
    assert rig.is_at(0)


def test_what_had_not_crossed_is_named(plain_config: Config) -> None:
    rig = Rig(percentage=50, epoch=4)
    rig.world.caught_up = False
    rig.world.behind = [{"mapping": "d.reverse.t", "key": ["7"], "why": "spooled"}]
    result = rollback(plain_config, tools=rig.tools(no_ledger))
    assert result.rollbacks[0].at_risk == rig.world.behind
    assert "d.reverse.t ['7'] spooled" in result.to_text()
    assert rig.is_at(0)


def test_a_transaction_that_still_writes_on_the_new_side_leaves_the_crossing_unproven(
    plain_config: Config,
) -> None:
    """What it commits lies behind the mark, however quickly the mark itself crossed."""
    rig = Rig(percentage=50, epoch=4)
    rig.world.quiet = False
    result = rollback(plain_config, tools=rig.tools(no_ledger))
    (done,) = result.rollbacks
    assert not done.barrier_passed
    assert "left behind" in rig.log
    assert rig.is_at(0)
    assert "still under way" in done.at_risk[-1]["why"]
    assert "every change made on the new side has crossed" not in result.to_text()


def test_an_owner_row_that_is_locked_on_the_new_side_does_not_skip_the_barrier(
    plain_config: Config,
) -> None:
    rig = Rig(percentage=50, epoch=4)

    def locked() -> None:
        raise SideAway(database="new", side="new", reason="lock timeout")

    rig.hooks["quiesce new"] = lambda: rig.hooks.update({"own new": locked})
    (done,) = rollback(plain_config, tools=rig.tools(no_ledger)).rollbacks
    assert "cross reverse" in rig.log
    assert (done.barrier_passed, done.at_risk, done.problems) == (True, [], [])
    assert rig.is_at(0)


def test_writers_that_a_killed_step_left_paused_go_on(plain_config: Config) -> None:
    rig = Rig(percentage=10, epoch=4)
    rig.writers.paused = True
    rollback(plain_config, tools=rig.tools(no_ledger))
    assert not rig.writers.paused


def test_a_silent_gateway_leaves_the_crossing_unproven(plain_config: Config) -> None:
    rig = Rig(percentage=50, epoch=4)
    rig.hooks["fences"] = lambda: setattr(rig.gateways["gw-2"], "reachable", False)
    rig.hooks["left behind"] = lambda: setattr(rig.gateways["gw-2"], "reachable", True)
    (done,) = rollback(plain_config, tools=rig.tools(no_ledger)).rollbacks
    assert not done.barrier_passed
    assert "left behind" in rig.log


def test_a_gateway_that_hangs_while_flags_are_set_does_not_delay_the_owners(
    plain_config: Config,
) -> None:
    """The other gateways' holds are over by then: the owner's move is all that still helps."""
    rig = Rig(percentage=50, epoch=4)
    rig.hooks["rollback"] = lambda: rig.clock.sleep(2)
    (done,) = rollback(plain_config, tools=rig.tools(no_ledger)).rollbacks
    acts = quiet(rig)
    assert "cross reverse" not in acts
    assert "own old" in acts
    assert not done.barrier_passed


def test_a_rollback_that_dies_before_the_owners_leaves_no_write_of_the_old_side_a_stray() -> None:
    """The new side's database, the forward direction's target, has heard of it by then."""
    rig = Rig(percentage=50, epoch=4)
    tools = rig.tools(no_ledger)

    class Killed(BaseException):
        """As kill -9: nothing is done after it."""

    def clock() -> float:
        if "rollback" in rig.log:
            limit = time.monotonic() + 5
            while rig.world.owners["new"] != Ownership(0, 5) and time.monotonic() < limit:
                time.sleep(0.001)
            raise Killed
        return rig.clock()

    tools.clock = clock
    with pytest.raises(Killed):
        run(rig, tools)
    assert rig.served == {0}
    assert rig.world.owners == {"old": Ownership(5000, 4), "new": Ownership(0, 5)}
    assert not run(rig).already
    assert rig.is_at(0)


def test_both_databases_dead_and_customers_are_back_all_the_same(plain_config: Config) -> None:
    rig = Rig(percentage=50, epoch=4)
    rig.world.away |= {"old", "new"}
    result = rollback(plain_config, tools=rig.tools(no_ledger))
    assert rig.served == {0}
    assert result.exit_code is ExitCode.PRECONDITION
    assert "cannot be known" in result.rollbacks[0].at_risk[0]["why"]


def test_a_gateway_that_answers_late_is_tried_again(plain_config: Config) -> None:
    rig = Rig(percentage=50, epoch=4)
    rig.gateways["gw-2"].reachable = False
    pauses: list[float] = []
    tools = rig.tools(no_ledger)

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        rig.clock.sleep(seconds)
        rig.gateways["gw-2"].reachable = len(pauses) > 5

    tools.sleep = sleep
    result = rollback(plain_config, tools=tools)
    assert rig.served == {0}
    assert result.exit_code is ExitCode.DONE
    assert (result.rollbacks[0].seconds or 0) >= 1


def test_a_gateway_that_stays_away_is_named_and_the_attempt_ends(plain_config: Config) -> None:
    rig = Rig(percentage=50, epoch=4)
    rig.gateways["gw-2"].reachable = False
    result = rollback(plain_config, tools=rig.tools(no_ledger))
    assert rig.gateways["gw-1"].domains[DOMAIN].served == 0
    assert rig.owned == {0}
    assert result.rollbacks[0].unreachable == ["gw-2"]
    assert result.rollbacks[0].seconds is None
    assert result.exit_code is ExitCode.PRECONDITION
    assert "NOT served by every gateway" in result.to_text()


def test_no_gateway_at_all_is_an_error(plain_config: Config) -> None:
    rig = Rig(percentage=50, epoch=4)
    for gateway in rig.gateways.values():
        gateway.reachable = False
    with pytest.raises(GatewaysAway):
        rollback(plain_config, tools=rig.tools(no_ledger))


def test_a_fence_of_a_running_step_is_broken(plain_config: Config) -> None:
    """Also at 0 %: whoever is held by a step that may never end goes on to the old side."""
    rig = Rig()
    rig.flags.fence(DOMAIN, 2, 0, 1000, 5000, "somebody")
    result = rollback(plain_config, tools=rig.tools(no_ledger))
    assert not result.rollbacks[0].already
    assert not rig.fenced
    assert result.rollbacks[0].epoch == 3
    assert rig.is_at(0)


def test_a_step_that_switches_meanwhile_is_outbid(plain_config: Config) -> None:
    rig = Rig(percentage=10, epoch=3)

    def switched() -> None:
        for gateway in rig.gateways.values():
            gateway.domains[DOMAIN] = DomainFlags(True, 50, 4)
        for side in ("old", "new"):
            rig.world.owners[side] = Ownership(5000, 4)

    rig.hooks["rollback"] = switched
    result = rollback(plain_config, tools=rig.tools(no_ledger))
    assert rig.is_at(0)
    assert result.rollbacks[0].epoch >= 5


def test_an_owner_that_a_step_moved_meanwhile_is_outbid(plain_config: Config) -> None:
    rig = Rig(percentage=10, epoch=3)

    def moved() -> None:
        for side in ("old", "new"):
            rig.world.owners[side] = Ownership(5000, 4)

    rig.hooks["cross reverse"] = moved
    rollback(plain_config, tools=rig.tools(no_ledger))
    assert rig.is_at(0)
    epochs = {g.domains[DOMAIN].epoch for g in rig.gateways.values()}
    assert epochs == {owner.epoch for owner in rig.world.owners.values()}


def test_a_rollback_that_was_killed_before_the_owners_is_finished(plain_config: Config) -> None:
    rig = Rig(percentage=50, epoch=4)
    rig.flags.rollback(DOMAIN, 5, 0, 0)
    result = rollback(plain_config, tools=rig.tools(no_ledger))
    assert not result.rollbacks[0].already
    assert rig.is_at(0)


def test_a_complete_domain_has_no_way_back(plain_config: Config) -> None:
    """Its old tables have other names: sending customers there would fail every one of them."""
    rig = Rig(percentage=100, epoch=9)
    rig.world.is_archived = True
    with pytest.raises(WayClosed):
        rollback(plain_config, [DOMAIN], tools=rig.tools(no_ledger))
    result = rollback(plain_config, tools=rig.tools(no_ledger))
    assert (result.rollbacks, result.skipped) == ([], [DOMAIN])
    assert rig.served == {100}


def test_the_plan_changes_nothing(plain_config: Config) -> None:
    rig = Rig(percentage=50, epoch=4)
    found = plan(plain_config, tools=rig.tools(no_ledger))
    assert found.domains == [DOMAIN]
    assert len(found.steps) == 6
    assert quiet(rig) == []
    assert plan(plain_config, tools=Rig().tools(no_ledger)).domains == []


def test_the_ledger_hears_of_it(config: Config, tools: Tools, rig: Rig) -> None:
    rig.__init__(percentage=10, epoch=4)  # type: ignore[misc]
    tools = rig.tools(lambda: open_ledger(config))
    with open_ledger(config) as ledger:
        ledger.save_rollout(Rollout(DOMAIN, "live", 10, 0, epoch=4))
        step = ledger.begin(DOMAIN, "step", {"from": 10, "to": 50, "epoch": 5})
        with ledger.lock("bob", "rollout advance d"):
            result = rollback(config, tools=tools)  # waits for nobody's lock
        found = ledger.rollout(DOMAIN)
        assert found is not None
        assert (found.percentage, found.phase, found.epoch) == (0, -1, 5)
        assert found.moved_at is not None
        assert ledger.unfinished() == []
        acts = {act.kind: act for act in ledger.history()}
        assert acts["step"].id == step.id
        assert acts["step"].state == "abandoned"
        assert (acts["rollback"].outcome or {})["to"] == 0
    assert result.notes == []


def test_a_stage_that_only_the_ledger_knows(config: Config) -> None:
    rig = Rig(percentage=100, epoch=9)
    rig.world.away.add("old")
    with open_ledger(config) as ledger:
        ledger.save_rollout(Rollout(DOMAIN, "complete", 100, 2, epoch=9))

    def slow() -> Ledger:
        return open_ledger(config)

    with pytest.raises(WayClosed):
        rollback(config, [DOMAIN], tools=rig.tools(slow))


worlds = st.fixed_dictionaries(
    {
        "percentage": st.sampled_from([0, 10, 50, 100]),
        "served": st.tuples(st.sampled_from([0, 10, 50, 100]), st.integers(0, 6)),
        "owned": st.tuples(st.sampled_from([0, 1000, 10_000]), st.integers(1, 8)),
        "caught_up": st.booleans(),
        "quiet": st.booleans(),
        "fenced": st.booleans(),
    }
)


@settings(max_examples=40, deadline=None)
@given(world=worlds)
def test_from_every_position_everybody_comes_back(world: dict[str, Any]) -> None:
    rig = Rig(percentage=world["percentage"], epoch=3)
    rig.gateways["gw-2"].domains[DOMAIN] = DomainFlags(True, *world["served"])
    rig.world.owners["new"] = Ownership(*world["owned"])
    rig.world.caught_up, rig.world.quiet = world["caught_up"], world["quiet"]
    if world["fenced"]:
        rig.flags.fence(DOMAIN, 9, 0, 5000, 5000, "somebody")
    done = run(rig)
    assert rig.served == {0}
    assert rig.owned == {0}
    assert not rig.fenced
    assert run(rig).already
    assert done.seconds is not None


def run(rig: Rig, tools: Tools | None = None) -> RolledBack:
    """A rollback without a configuration file of its own."""
    from rollout.rollback import _one

    class Hold:
        hold_ms = 1000

    class Estate:
        rollback = Hold

    tools = tools or rig.tools(no_ledger)
    config: Any = Estate
    one: Callable[..., RolledBack] = _one
    return one(DOMAIN, glance_at([DOMAIN], tools)[DOMAIN], config, tools, rig.clock())
