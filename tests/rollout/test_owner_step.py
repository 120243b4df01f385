"""A step without a fence: nobody has two owners, and what kills it is ended by the next command."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estate.config import Config, Problem
from estate.errors import ExitCode
from estate.ledger import open_ledger
from migrator.mapping import Side
from rollout import controller, recovery
from rollout.flags import DomainFlags
from rollout.glance import GatewaysAway
from rollout.interrupts import Interrupts
from rollout.owner_step import FlagsUnwritten, NotServed, OwnerLimits, OwnerStep
from rollout.preconditions import Refused
from rollout.rollback import rollback
from rollout.step_plan import (
    NotCaughtUp,
    StepOvertaken,
    StepPlan,
    StepResult,
    StepTakenBack,
    StepUnfinished,
)
from rollout.tools import Tools
from rollout.world import Ownership, SideAway, WriterUnpaused
from rollout.written import InMemoryWritten, Unfenced
from tests.rollout.rig import DOMAIN, Killed, Rig, act
from tests.rollout.way import verified


@dataclass
class PodRig(Rig):
    """The same estate; its gateways have no fence, and read what is written at once."""

    written: InMemoryWritten = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        flags = DomainFlags(True, self.percentage, self.epoch)
        self.written = InMemoryWritten(
            {name: {DOMAIN: flags} for name in ("pod-1", "pod-2")},
            log=self.log,
            before=self._before,
        )

    def _check(self) -> None:
        """No bucket has two owners; a side that is away takes nobody."""
        owners = self.world.owners
        if owners["new"].new_below > owners["old"].new_below and not self.world.away:
            self.broken_rules.append(f"both sides own: {owners}")

    def owner_step(self, to: int) -> OwnerStep:
        return OwnerStep(
            self.plan(to), self.world, self.written, self.writers, OwnerLimits(60.0, 2.0),
            Interrupts(), self.clock, self.clock.sleep,
        )  # fmt: skip

    def unfenced_tools(self, ledger: Any = nullcontext, *, refusing: bool = True) -> Tools:
        tools = self.tools(ledger)
        tools.flags = Unfenced(self.written, 60.0, self.clock, self.clock.sleep)
        tools.written, tools.refusing = self.written, refusing
        return tools

    @property
    def highest(self) -> int:
        flags = [domains[DOMAIN].epoch for domains in self.written.gateways.values()]
        return max([*flags, *(owner.epoch for owner in self.world.owners.values())])

    @property
    def served(self) -> set[int]:
        return {domains[DOMAIN].served for domains in self.written.gateways.values()}


@pytest.fixture(autouse=True)
def _nobody_has_two_owners(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Asked at every act of every rig, and once more at the end."""
    made: list[PodRig] = []
    begin = PodRig.__post_init__

    def kept(self: PodRig) -> None:
        begin(self)
        made.append(self)

    monkeypatch.setattr(PodRig, "__post_init__", kept)
    yield
    for rig in made:
        rig._check()
        assert rig.broken_rules == []


def killed(at: int, percentage: int, to: int) -> tuple[PodRig, StepPlan]:
    rig = PodRig(percentage=percentage, kill_at=at)
    step = rig.owner_step(to)
    with pytest.raises(Killed):
        step.perform()
    rig.restart()
    return rig, step.plan


def acts_of(percentage: int, to: int) -> int:
    rig = PodRig(percentage=percentage)
    rig.owner_step(to).perform()
    return rig.acts


def settle(rig: PodRig, plan: StepPlan) -> StepResult | str:
    return recovery.settle(DOMAIN, act(plan), rig.unfenced_tools(), rig.world)


def test_flags_first_then_the_losing_owner_then_all_crosses_then_the_winning() -> None:
    rig = PodRig()
    result = rig.owner_step(10).perform()
    assert [name for name in rig.log if not name.startswith("read")] == [
        "cross forward",
        "write 10",
        "pause",
        "quiesce old",
        "own old",
        "quiesce old",
        "cross forward",
        "own new",
        "resume",
    ]
    assert rig.is_at(10)
    assert (result.from_percentage, result.to_percentage, result.epoch) == (0, 10, 2)


def test_down_again_the_new_side_loses_first() -> None:
    rig = PodRig(percentage=50)
    rig.owner_step(10).perform()
    assert [name for name in rig.log if name.startswith("own")] == ["own new", "own old"]
    assert rig.is_at(10)


@pytest.mark.parametrize(("percentage", "to"), [(0, 10), (50, 100), (50, 10)])
def test_typed_again_after_a_kill_at_every_act(percentage: int, to: int) -> None:
    number = acts_of(percentage, to)
    assert number >= 10
    for at in range(number):
        rig, plan = killed(at, percentage, to)
        ended = settle(rig, plan)
        if isinstance(ended, StepResult):
            assert ended.resumed
        else:
            assert rig.is_at(percentage), (at, ended)
            rig.owner_step(to).perform()
        assert rig.is_at(to), at
        assert rig.broken_rules == []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 14), min_size=1, max_size=4), st.sampled_from([(0, 10), (50, 0)]))
def test_killed_again_while_it_is_being_ended(kills: list[int], move: tuple[int, int]) -> None:
    percentage, to = move
    rig = PodRig(percentage=percentage, kill_at=kills[0])
    step = rig.owner_step(to)
    try:
        step.perform()
    except Killed:
        for kill in [*kills[1:], None]:
            rig.kill_at, rig.acts = kill, 0
            try:
                settle(rig, step.plan)
            except Killed:
                continue
            break
    assert rig.is_at(percentage) or rig.is_at(to)


def failing(act: str) -> PodRig:
    """A step up whose crossing does not come, and so is taken back; killed at none of its acts."""
    rig = PodRig()

    def behind() -> None:
        rig.world.caught_up = False

    rig.hooks[act] = behind
    return rig


def test_killed_while_it_takes_itself_back_nobody_is_left_without_an_owner() -> None:
    whole = failing("own old")
    with pytest.raises(StepTakenBack):
        whole.owner_step(10).perform()
    for at in range(whole.acts):
        rig = failing("own old")
        rig.kill_at = at
        step = rig.owner_step(10)
        with pytest.raises(Killed):
            step.perform()
        rig.restart()
        rig.hooks.clear()
        rig.world.caught_up = True
        settle(rig, step.plan)
        assert rig.is_at(0) or rig.is_at(10), at


def test_whatever_fails_in_the_move_gives_everybody_back() -> None:
    for name in ("quiesce old", "cross forward"):
        rig = PodRig()

        def lost() -> None:
            raise SideAway(database="old", side="old", reason="the connection was lost")

        # Each is done once before: while nobody has moved it is another matter.
        rig.hooks["own old"] = lambda rig=rig, name=name: rig.hooks.update({name: lost})
        with pytest.raises(StepTakenBack, match="connection was lost"):
            rig.owner_step(10).perform()
        assert rig.is_at(0), name


def test_a_step_that_fails_leaves_the_flags_of_a_rollback_as_they_are(
    plain_config: Config,
) -> None:
    rig = PodRig(percentage=10)
    rig.written.stuck = {"pod-2"}
    rig.hooks["look"] = lambda: (
        rollback(refusing(plain_config), tools=rig.unfenced_tools()) and None
    )
    with pytest.raises(NotServed):
        rig.owner_step(50).perform()
    assert rig.written.stand[DOMAIN].served == 0
    assert rig.owned == {0}


def test_a_writer_that_cannot_be_paused_leaves_the_flags_as_they_were() -> None:
    rig = PodRig()
    rig.writers.broken = True
    with pytest.raises(WriterUnpaused):
        rig.owner_step(10).perform()
    assert rig.is_at(0)


def test_a_gateway_that_never_picks_it_up_is_named_and_nobody_moves() -> None:
    rig = PodRig()
    rig.written.stuck = {"pod-2"}
    with pytest.raises(NotServed, match="pod-2 serves 0 %"):
        rig.owner_step(10).perform()
    assert rig.owned == {0}
    assert rig.served == {0}
    assert "own old" not in rig.log


def test_flags_that_cannot_be_written_move_nobody() -> None:
    rig = PodRig()
    rig.written.away = SideAway(database="cluster", side="old", reason="away")
    with pytest.raises(FlagsUnwritten):
        rig.owner_step(10).perform()
    assert rig.owned == {0}


def test_a_sync_that_is_behind_is_found_out_before_any_gateway_starts_anew() -> None:
    rig = PodRig()
    rig.world.caught_up = False
    with pytest.raises(NotCaughtUp):
        rig.owner_step(10).perform()
    assert "write 10" not in rig.log


def test_keys_that_do_not_cross_in_time_give_everybody_back_to_the_side_they_came_from() -> None:
    rig = PodRig()

    def behind() -> None:
        rig.world.caught_up = False

    rig.hooks["quiesce old"] = behind
    with pytest.raises(StepTakenBack, match="7 keys"):
        rig.owner_step(10).perform()
    assert rig.is_at(0)
    assert {owner.epoch for owner in rig.world.owners.values()} == {3}


def test_a_winning_side_that_is_away_leaves_the_step_to_be_finished() -> None:
    rig = PodRig()
    rig.hooks["own new"] = lambda: rig.world.away.add("new")
    step = rig.owner_step(10)
    with pytest.raises(StepUnfinished):
        step.perform()
    rig.world.away.clear()
    assert isinstance(settle(rig, step.plan), StepResult)
    assert rig.is_at(10)


def test_a_rollback_in_between_has_the_last_word(plain_config: Config) -> None:
    rig = PodRig(percentage=10)
    config = refusing(plain_config)
    rig.hooks["pause"] = lambda: rollback(config, tools=rig.unfenced_tools()) and None
    with pytest.raises(StepOvertaken):
        rig.owner_step(50).perform()
    assert rig.owned == {0}
    assert rig.served == {0}


# The way back


def refusing(config: Config) -> Config:
    gateway = config.gateway.model_copy(update={"owners_refuse": True})
    return config.model_copy(update={"gateway": gateway})


def test_customers_are_back_when_the_owner_is_whatever_the_gateways_do(
    plain_config: Config,
) -> None:
    rig = PodRig(percentage=50, epoch=4)
    rig.written.stuck = {"pod-1"}
    result = rollback(refusing(plain_config), tools=rig.unfenced_tools())
    (done,) = result.rollbacks
    assert rig.owned == {0}
    assert done.served_s is not None
    assert done.seconds is None
    assert "pod-1 serves 50 %" in done.problems
    assert result.exit_code is ExitCode.PRECONDITION
    rig.written.stuck = set()
    again = rollback(refusing(plain_config), tools=rig.unfenced_tools())
    assert again.exit_code is ExitCode.DONE
    assert rig.served == {0}


def test_the_way_back_needs_no_cluster_where_services_refuse(plain_config: Config) -> None:
    rig = PodRig(percentage=50, epoch=4)
    rig.written.away = SideAway(database="cluster", side="old", reason="away")
    (done,) = rollback(refusing(plain_config), tools=rig.unfenced_tools()).rollbacks
    assert rig.owned == {0}
    assert done.served_s is not None
    assert any("could not be written" in problem for problem in done.problems)


def test_the_way_back_needs_no_new_side(plain_config: Config) -> None:
    rig = PodRig(percentage=50, epoch=4)
    rig.world.away = {"new"}
    rig.world.behind = [{"mapping": "m", "key": ["1"], "why": "pending"}]
    (done,) = rollback(refusing(plain_config), tools=rig.unfenced_tools()).rollbacks
    assert rig.world.owners["old"] == Ownership(0, done.epoch)
    assert rig.served == {0}
    assert not done.barrier_passed
    assert done.at_risk == rig.world.behind


def test_without_refusing_services_owners_wait_for_the_last_gateway(plain_config: Config) -> None:
    rig = PodRig(percentage=50, epoch=4)
    rollback(plain_config, tools=rig.unfenced_tools(refusing=False))
    assert rig.is_at(0)
    acts = [name for name in rig.log if name.startswith(("write", "own"))]
    assert [name for name in acts if name.startswith("own")] == ["own new", "own old"]
    assert acts.index("write 0") < acts.index("own new")


def test_without_refusing_services_a_cluster_that_is_away_leaves_owners_where_customers_are(
    plain_config: Config,
) -> None:
    rig = PodRig(percentage=50, epoch=4)
    rig.written.away = SideAway(database="cluster", side="old", reason="away")
    with pytest.raises(GatewaysAway):
        rollback(plain_config, tools=rig.unfenced_tools(refusing=False))
    assert rig.owned == {50}


@pytest.mark.parametrize("flags", [False, True], ids=["flags stand", "flags are back"])
@pytest.mark.parametrize("moved", [(), ("new",), ("new", "old")], ids=["none", "new", "both"])
def test_a_rollback_that_was_killed_is_finished_by_the_same_command(
    plain_config: Config, flags: bool, moved: tuple[Side, ...]
) -> None:
    rig = PodRig(percentage=50, epoch=4)
    if flags:
        rig.written.write(DOMAIN, DomainFlags(True, 0, 5))
    for side in moved:
        rig.world.owners[side] = Ownership(0, 5)
    rollback(refusing(plain_config), tools=rig.unfenced_tools())
    assert rig.is_at(0)


@pytest.mark.parametrize("refuses", [False, True])
def test_flags_that_a_step_wrote_after_the_look_do_not_have_the_last_word(
    plain_config: Config, refuses: bool
) -> None:
    rig = PodRig(percentage=50, epoch=4)
    rig.hooks["write"] = lambda: rig.written.stand.update({DOMAIN: DomainFlags(True, 100, 9)})
    config = refusing(plain_config) if refuses else plain_config
    (done,) = rollback(config, tools=rig.unfenced_tools(refusing=refuses)).rollbacks
    assert done.complete
    assert rig.served == rig.owned == {0}
    assert rig.written.stand[DOMAIN].served == 0


def test_an_owner_that_does_not_answer_is_not_taken_for_one_at_zero(plain_config: Config) -> None:
    rig = PodRig(percentage=50, epoch=4)
    rig.written.write(DOMAIN, DomainFlags(True, 0, 5))
    rig.world.away = {"old"}
    (done,) = rollback(refusing(plain_config), tools=rig.unfenced_tools()).rollbacks
    assert not done.already
    assert not done.complete


def test_typed_twice_it_changes_nothing(plain_config: Config) -> None:
    rig = PodRig(percentage=50, epoch=4)
    rollback(refusing(plain_config), tools=rig.unfenced_tools())
    rig.log.clear()
    (done,) = rollback(refusing(plain_config), tools=rig.unfenced_tools()).rollbacks
    assert done.already
    assert not [name for name in rig.log if name.startswith(("write", "own"))]


def test_a_deployment_that_is_switched_off_is_told_before_a_step_and_by_the_plan(
    config: Config,
) -> None:
    """Waiting for pods that never come would leave flags half-way until `settle` is over."""
    rig = PodRig()
    tools = rig.unfenced_tools(lambda: open_ledger(config))
    rig.traffic(old=1, new=0)
    verified(config)
    off = Problem(
        "deployment gateway", "is paused", "", "kubectl rollout resume deployment/gateway"
    )
    rig.written.hindered = [off]
    with pytest.raises(Refused, match="deployment gateway is paused") as refused:
        controller.start(config, DOMAIN, tools=tools)
    assert refused.value.next_command.startswith("kubectl rollout resume deployment/gateway")
    rig.written.hindered = []
    controller.start(config, DOMAIN, tools=tools)
    rig.written.hindered, before = [off], list(rig.written.stand.values())
    told = controller.plan(config, DOMAIN, tools=tools)
    assert any("deployment gateway is paused" in blocker for blocker in told.blockers)
    with pytest.raises(Refused, match="deployment gateway is paused"):
        controller.advance(config, DOMAIN, tools=tools)
    assert list(rig.written.stand.values()) == before
    with open_ledger(config) as ledger:
        assert [act.kind for act in ledger.history()] == ["start"], "no step was begun"
