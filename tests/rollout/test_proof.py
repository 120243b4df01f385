"""A step is done when customers show it: proven, contradicted, or not to be told yet."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from estate.config import Config
from estate.config.gates import GateConfig
from estate.config.traffic import RolloutConfig
from estate.errors import ExitCode
from estate.ledger import ActRecord, open_ledger
from rollout import controller, pausing, proof, status
from rollout.controller import Held
from rollout.counters import Count, Snapshot, Window
from rollout.flags import DomainFlags
from rollout.proof import ALPHA, Proof, bounds, judge
from rollout.proving import ProofLeft
from rollout.rollback import rollback
from rollout.step_plan import StepOvertaken, StepResult
from rollout.tools import Tools
from splitctl.main import app
from tests.rollout.rig import DOMAIN, Rig
from tests.rollout.way import advanced, busy, row, soaked, started, verified


def seen(new: float, old: float) -> Window:
    counts = {"new": Count(customers=new), "old": Count(customers=old)}
    return Window({}, {"gw-1": counts})  # type: ignore[dict-item]


# The decision


@pytest.mark.parametrize(
    ("percentage", "before", "new", "old", "word"),
    [
        (10, 0, 0, 0, "open"),
        (10, 0, 1, 9, "open"),  # ten customers may be of any percentage
        (10, 0, 7, 63, "proven"),  # a small shop: some seventy are enough
        (10, 0, 4, 8, "open"),  # these tell it from nobody, and from nothing else
        (10, 0, 0, 150, "contradicted"),
        (10, 0, 3000, 7000, "contradicted"),
        (50, 10, 10, 10, "open"),
        (50, 10, 45, 45, "proven"),
        (50, 10, 20, 180, "contradicted"),
        (50, 10, 5, 15, "open"),
        (100, 50, 14, 0, "open"),
        (100, 50, 45, 0, "proven"),
        (100, 50, 998, 2, "proven"),  # two were under way when the flags changed
        (100, 50, 90, 10, "contradicted"),
        (11, 10, 88, 712, "open"),  # nobody tells 11 from 10 by so few customers
        (11, 10, 1100, 8900, "proven"),  # both lie within the tolerance, and many moved
        (11, 10, 1000, 9000, "open"),  # nobody has moved
        (1, 0, 0, 200, "open"),
        (1, 0, 4, 396, "proven"),
        (5, 0, 0, 60, "open"),
        (5, 0, 10, 190, "proven"),
        (5, 1, 2, 98, "open"),  # who was there before
        (100, 99, 495, 5, "open"),
        (100, 99, 999, 1, "proven"),
        (10, 10, 200, 1800, "proven"),  # nobody had to move
        (10, None, 5, 45, "open"),
        (10, None, 200, 1800, "proven"),
    ],
)
def test_what_customers_say(
    percentage: int, before: int | None, new: int, old: int, word: str
) -> None:
    found = judge(percentage, before, seen(new, old), {}, 0.05)
    assert found.word == word, found.told
    assert f"{percentage} % asked" in found.told


@given(
    percentage=st.integers(1, 100),
    before=st.none() | st.integers(0, 100),
    new=st.integers(0, 20_000),
    old=st.integers(0, 20_000),
    within=st.floats(0.001, 0.5),
)
@example(percentage=10, before=0, new=0, old=0, within=0.05)
def test_never_proven_against_the_bounds_nor_without_customers(
    percentage: int, before: int | None, new: int, old: int, within: float
) -> None:
    found = judge(percentage, before, seen(new, old), {}, within)
    if new + old == 0:
        assert (found.word, found.measured) == ("open", None)
        return
    low, high = (100 * bound for bound in bounds(new / (new + old), new + old))
    assert low <= 100 * new / (new + old) <= high
    holds = low <= percentage <= high
    assert (found.word == "contradicted") is not holds
    if found.proven:
        excluded = before is not None and not low <= before <= high
        off = max(percentage - low, high - percentage) / 100
        means = off <= within or (excluded and off <= max(within, proof.NEAR))
        means = means or new + old >= proof.ENOUGH
        assert holds and means, "an agreement that means something"
        if before is not None and before != percentage:
            moved = 100 * new / (new + old) - before
            assert moved * (percentage - before) > 0, "away from where they were"
    assert judge(percentage, before, seen(new, old), {"gw-2": "away"}, within).word == "open"


def test_where_nobody_could_measure_it_better_what_was_measured_is_enough() -> None:
    """A tolerance narrower than the bounds of all the customers that a gateway tells apart."""
    assert judge(11, 10, seen(880, 7120), {}, 0.01).word == "open"
    found = judge(11, 10, seen(1_090, 8_900), {}, 0.01)
    assert found.proven
    assert "more customers cannot be told apart" in found.reason
    assert judge(11, 10, seen(1_500, 8_490), {}, 0.01).word == "contradicted"


def test_bounds_hold_however_often_one_looks() -> None:
    """In shops whose share is right, after every ten of 600 customers."""
    chance, wrong, shops = random.Random(1), 0, 200
    for _ in range(shops):
        new = 0
        for number in range(1, 601):
            new += chance.random() < 0.1
            if number % 10 == 0 and judge(10, 0, seen(new, number - new), {}, 0.05).word == (
                "contradicted"
            ):
                wrong += 1
                break
    assert wrong <= shops * ALPHA


def test_while_nobody_has_moved_hardly_a_step_is_ever_proven() -> None:
    """From 1 to 2 %, flags that do nothing: asked after every ten of a thousand customers."""
    chance, wrong, shops = random.Random(2), 0, 200
    for _ in range(shops):
        new = 0
        for number in range(1, 1001):
            new += chance.random() < 0.01
            if number % 10 == 0 and judge(2, 1, seen(new, number - new), {}, 0.05).proven:
                wrong += 1
                break
    assert wrong <= shops * ALPHA


def test_requests_alone_count_for_less() -> None:
    """A few busy customers are no crowd: where only requests are counted, twenty are one."""
    few = Window({"new": Count(40), "old": Count(360)})
    assert judge(10, 0, few, {}, 0.05).word == "open"
    assert judge(10, 0, few, {}, 0.05).customers == 20
    many = Window({"new": Count(1_000), "old": Count(9_000)})
    assert judge(10, 0, many, {}, 0.05).proven


def test_the_share_gates_tolerance_is_the_proofs(config: Config) -> None:
    assert proof.tolerance(config, DOMAIN) == proof.TOLERANCE
    gate = GateConfig(name="share", kind="share", tolerance=0.02)
    elsewhere = GateConfig(name="other", kind="share", tolerance=0.3, domains=["x"])
    told = config.model_copy(update={"gates": [elsewhere, gate]})
    assert proof.tolerance(told, DOMAIN) == 0.02


def test_it_stands_in_the_ledger_as_it_was_found() -> None:
    found = judge(10, 0, seen(50, 450), {}, 0.05)
    assert Proof.from_json(found.to_json()) == found


# After a step


def acts(config: Config, kind: str = "proven") -> list[ActRecord]:
    with open_ledger(config) as ledger:
        return [act for act in ledger.history() if act.kind == kind]


def step(config: Config, tools: Tools, **more: timedelta) -> StepResult:
    verified(config)
    result = controller.advance(config, DOMAIN, tools=tools, **more)  # type: ignore[arg-type]
    assert isinstance(result, StepResult)
    assert result.proof is not None
    return result


def test_a_step_says_what_it_measured_and_the_ledger_keeps_it(
    config: Config, tools: Tools, rig: Rig
) -> None:
    started(config, tools)
    rig.customers = 602
    result = step(config, tools)
    assert (result.exit_code, result.next_command) == (ExitCode.DONE, "splitctl rollout watch d")
    assert "proven: measured 10.0 % (" in result.to_text()
    assert result.to_json()["proof"]["customers"] == 602
    (act,) = acts(config)
    assert act.outcome is not None
    assert (act.outcome["measured"], act.outcome["customers"]) == (10.0, 602)
    found = status.status(config, tools=tools)
    assert "proven   measured 10.0 % (" in found.to_text()
    assert found.domains[0].proof == result.proof


def test_a_step_waits_for_customers_and_tells_who_has_come(
    config: Config, tools: Tools, rig: Rig
) -> None:
    started(config, tools)
    rig.customers = 0

    def sleep(seconds: float) -> None:
        rig.clock.sleep(seconds)
        rig.customers += 4

    tools.sleep = sleep
    told: list[str] = []
    verified(config)
    controller.advance(config, DOMAIN, tools=tools, on_progress=told.append)
    assert len(acts(config)) == 1
    assert "no customer was seen yet" in told[0]
    assert "too few customers to tell it from 0 %" in told[1]
    assert len(told) < 5, "a line now and then"


def test_too_few_customers_leave_the_step_unproven_and_a_watch_goes_on(
    config: Config, tools: Tools, rig: Rig
) -> None:
    assert config.rollout.proof == timedelta(minutes=1)
    waits = RolloutConfig(proof=timedelta(seconds=5))
    config = config.model_copy(update={"rollout": waits})
    started(config, tools)
    rig.customers = 10
    began = rig.clock.now
    result = step(config, tools)
    assert 5 <= rig.clock.now - began < 8, "the configured time"
    assert (result.exit_code, result.next_command) == (
        ExitCode.IN_PROGRESS, "splitctl rollout watch d",
    )  # fmt: skip
    assert "NOT PROVEN, so it is not done: measured 10.0 %" in result.to_text()
    assert rig.is_at(10), "nobody is moved back for that"
    found = status.status(config, tools=tools)
    assert "UNPROVEN measured 10.0 %" in found.to_text()
    soaked(config, rig)
    held = controller.advance(config, DOMAIN, tools=tools)
    assert isinstance(held, Held)
    assert (held.verdict, held.exit_code) == ("unproven", ExitCode.IN_PROGRESS)
    rig.customers = 1000
    tools.sleep = busy(rig)
    controller.watch(config, [DOMAIN], timeout=timedelta(seconds=2), tools=tools)
    controller.watch(config, [DOMAIN], timeout=timedelta(seconds=2), tools=tools)
    assert len(acts(config)) == 1, "once"


def test_the_clock_counts_nothing_before_the_proof(config: Config, tools: Tools, rig: Rig) -> None:
    started(config, tools)
    rig.customers = 10
    step(config, tools, proof=timedelta())
    rig.traffic(old=1, new=1)
    tools.sleep = busy(rig)
    watched = controller.watch(config, [DOMAIN], timeout=timedelta(seconds=4), tools=tools)
    assert (watched.exit_code, watched.domains[0].result) == (ExitCode.IN_PROGRESS, "unproven")
    assert row(config).soak_evidence_s == 0
    rig.customers = 1000
    controller.watch(config, [DOMAIN], timeout=timedelta(seconds=4), tools=tools)
    assert row(config).soak_evidence_s > 0


def test_a_watch_to_which_no_customer_comes_ends(config: Config, tools: Tools, rig: Rig) -> None:
    started(config, tools)
    rig.customers = 10
    step(config, tools, proof=timedelta())
    watched = controller.watch(config, [DOMAIN], tools=tools)
    assert (watched.exit_code, watched.domains[0].result) == (ExitCode.INCONCLUSIVE, "unproven")


def test_another_share_than_asked_is_told_and_moves_nobody(
    config: Config, tools: Tools, rig: Rig
) -> None:
    """Gateways say 10 %, customers say 30 %."""
    started(config, tools)
    rig.astray = 30
    result = step(config, tools, proof=timedelta(seconds=1))
    assert result.exit_code is ExitCode.CHECK_FAILED
    assert result.next_command.startswith("splitctl status")
    for told in ("measured 30.0 % (", "1,000 customers", "10 % asked"):
        assert told in result.to_text()
    assert rig.is_at(10)
    assert (acts(config), row(config).percentage) == ([], 10)
    soaked(config, rig)
    held = controller.advance(config, DOMAIN, tools=tools)
    assert isinstance(held, Held)
    assert (held.verdict, held.exit_code) == ("contradicted", ExitCode.CHECK_FAILED)
    watched = controller.watch(config, [DOMAIN], tools=tools)
    assert watched.exit_code is ExitCode.CHECK_FAILED
    assert rig.is_at(10)


@pytest.mark.parametrize("command", ["advance", "watch", "start"])
def test_killed_between_flags_and_proof_the_next_command_goes_on(
    config: Config, tools: Tools, rig: Rig, command: str
) -> None:
    started(config, tools)
    verified(config)

    def killed(seconds: float) -> None:
        raise KeyboardInterrupt

    rig.customers, tools.sleep = 10, killed
    with pytest.raises(ProofLeft, match=r"to 10 % is made .*measured 10.0 %") as left:
        controller.advance(config, DOMAIN, tools=tools)
    assert left.value.exit_code is ExitCode.INTERRUPTED
    with open_ledger(config) as ledger:
        assert (ledger.unfinished(), ledger.lock_holder()) == ([], None)
    rig.customers, tools.sleep = 1000, busy(rig)
    rig.traffic(old=1, new=1)
    if command == "advance":
        held = controller.advance(config, DOMAIN, tools=tools)
        assert isinstance(held, Held)
        assert held.verdict == "soaking"
    else:
        if command == "start":
            controller.start(config, DOMAIN, tools=tools)
        controller.watch(config, [DOMAIN], timeout=timedelta(), tools=tools)
    assert len(acts(config)) == 1


def test_no_way_down_waits_for_a_proof(config: Config, tools: Tools, rig: Rig) -> None:
    started(config, tools)
    rig.customers = 0
    step(config, tools, proof=timedelta())
    began = rig.clock.now
    rollback(config, tools=tools)
    assert rig.clock.now - began < 5
    assert status.status(config, tools=tools).domains[0].proof is None


def test_brought_back_while_customers_were_waited_for(
    config: Config, tools: Tools, rig: Rig
) -> None:
    started(config, tools)
    verified(config)
    rig.customers = 0

    def sleep(seconds: float) -> None:
        rig.clock.sleep(seconds)
        rollback(config, tools=tools)

    tools.sleep = sleep
    with pytest.raises(StepOvertaken):
        controller.advance(config, DOMAIN, tools=tools)
    assert rig.is_at(0)


def test_a_pause_is_in_no_proofs_way(config: Config, tools: Tools, rig: Rig) -> None:
    started(config, tools)
    rig.customers = 10
    step(config, tools, proof=timedelta())
    pausing.pause(config, DOMAIN, tools=tools)
    rig.customers = 1000
    controller.watch(config, [DOMAIN], timeout=timedelta(), tools=tools)
    assert len(acts(config)) == 1
    assert row(config).soak_evidence_s == 0


def test_a_drift_proves_nothing_and_what_follows_it_is_proven_anew(
    config: Config, tools: Tools, rig: Rig
) -> None:
    started(config, tools)
    rig.customers = 10
    step(config, tools, proof=timedelta())
    gateway = rig.gateways["gw-2"]
    was = gateway.domains[DOMAIN]
    gateway.domains[DOMAIN] = DomainFlags(True, 11, was.epoch)
    rig.customers, tools.sleep = 1000, busy(rig)
    flicker = controller.watch(config, [DOMAIN], timeout=timedelta(seconds=2), tools=tools)
    assert flicker.domains[0].result == "unproven", "before it is called a drift, too"
    for _ in range(2):
        controller.watch(config, [DOMAIN], timeout=timedelta(seconds=7), tools=tools)
    assert acts(config) == []
    controller.start(config, DOMAIN, tools=tools)
    controller.watch(config, [DOMAIN], timeout=timedelta(), tools=tools)
    gateway.domains[DOMAIN] = DomainFlags(True, 30, was.epoch)
    controller.watch(config, [DOMAIN], timeout=timedelta(seconds=7), tools=tools)
    controller.start(config, DOMAIN, tools=tools)
    assert status.status(config, tools=tools).domains[0].proof is not None
    controller.watch(config, [DOMAIN], timeout=timedelta(), tools=tools)
    assert len(acts(config)) == 2


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda r: replace(r.metrics.snapshot, problems={"gw-2": "refused"}), "gw-2: refused"),
        (
            lambda r: Snapshot(
                r.metrics.snapshot.gateways, epochs={"gw-1": {DOMAIN: 1}, "gw-2": {DOMAIN: 2}}
            ),
            "gw-1: it was not seen under the flags of the step yet",
        ),
    ],
)
def test_gateways_that_were_not_seen_since_the_step_prove_nothing(
    config: Config, tools: Tools, rig: Rig, spoil: Callable[[Rig], Snapshot], why: str
) -> None:
    """One is away; or a Prometheus has not scraped it since."""
    started(config, tools)
    rig.metrics.snapshot = spoil(rig)
    result = step(config, tools, proof=timedelta(seconds=1))
    assert result.exit_code is ExitCode.IN_PROGRESS
    assert result.proof is not None
    assert why in result.proof.reason


def test_a_gate_that_fails_meanwhile_ends_the_wait(config: Config, tools: Tools, rig: Rig) -> None:
    started(config, tools)
    rig.customers = 0
    tools.sleep = busy(rig, new=60, errors=30)
    result = step(config, tools)
    assert "`splitctl rollout watch d` brings customers back" in result.warnings[-1]
    assert (result.exit_code, rig.is_at(10)) == (ExitCode.CHECK_FAILED, True)


def test_a_gate_that_fails_when_customers_prove_the_step_is_told_and_is_no_success(
    config: Config, tools: Tools, rig: Rig
) -> None:
    """The share is right, and every second of those who make it up gets an error."""
    started(config, tools)
    rig.customers = 0

    def sleep(seconds: float) -> None:
        rig.clock.sleep(seconds)
        rig.customers = 1000
        rig.traffic(old=100, new=60, errors=30)

    tools.sleep = sleep
    result = step(config, tools)
    assert result.proof is not None
    assert result.proof.proven
    assert (result.exit_code, result.next_command) == (
        ExitCode.CHECK_FAILED, "splitctl rollout watch d",
    )  # fmt: skip
    assert "a gate fails: errors: " in result.to_text()
    watched = controller.watch(config, [DOMAIN], tools=tools)
    assert (watched.exit_code, rig.served) == (ExitCode.ROLLED_BACK, {0})


def test_without_time_for_the_proof_nobody_looks(config: Config, tools: Tools, rig: Rig) -> None:
    """An unattended rollout looks by itself, and what it sees is told and written down once."""
    started(config, tools)
    result = step(config, tools, proof=timedelta())
    assert result.exit_code is ExitCode.IN_PROGRESS
    with open_ledger(config) as ledger:
        assert ledger.samples(DOMAIN) == []
    assert acts(config) == []


def test_what_the_command_prints_and_how_it_ends(
    config: Config, tools: Tools, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollout.tools.Tools.of", lambda _: tools)
    started(config, tools)
    verified(config)
    with config.path.open("a", encoding="utf-8") as file:
        file.write('[rollout]\nproof = "2s"\n')
    rig.customers = 10
    typed = CliRunner().invoke(
        app, ["rollout", "advance", DOMAIN, "--config", str(config.path)], catch_exceptions=False
    )
    assert typed.exit_code == ExitCode.IN_PROGRESS
    assert "NOT PROVEN, so it is not done: measured 10.0 %" in typed.stdout
    assert "every gateway serves it; measured 10.0 %" in typed.stderr
    assert "Next: splitctl rollout watch d" in typed.stderr


def test_all_the_way_up_each_step_is_proven(config: Config, tools: Tools, rig: Rig) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10, 50, 100)
    told = [(act.outcome or {})["measured"] for act in acts(config)]
    assert told == [10.0, 50.0, 100.0]
