"""The unattended rollout: all the way up by itself, and at any trouble only what it may do."""

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from estate.config import Config
from estate.errors import ExitCode
from estate.ledger import open_ledger
from rollout import controller, pausing
from rollout.counters import Count, Snapshot
from rollout.evidence import VERIFY
from rollout.flags import DomainFlags
from rollout.notices import Notice, Notices, Receiver
from rollout.rollback import rollback
from rollout.rolled_back import RollbackResult
from rollout.run import NothingSoLow, run
from rollout.run_result import RunResult
from rollout.tools import Tools
from rollout.world import InMemoryWorld, Ownership
from tests.rollout.rig import DOMAIN, Killed, Rig, count
from tests.rollout.way import advanced, row, started, verified

SOAK = 0.1


@pytest.fixture
def config(config: Config) -> Config:
    """The ledger's clock is real, so phases are short here."""
    domain = config.domain(DOMAIN)
    phases = [phase.model_copy(update={"soak": timedelta(seconds=SOAK)}) for phase in domain.phases]
    changed = {DOMAIN: domain.model_copy(update={"phases": phases})}
    return config.model_copy(update={"domains": changed})


class Shop:
    """What happens while the run sleeps: customers, and a verifier that is never far behind."""

    def __init__(self, config: Config, rig: Rig) -> None:
        self.config, self.rig = config, rig
        self.errors = 0.0
        self.verifies = True
        self.then: dict[int, Callable[[], None]] = {}
        self.looks = 0

    def sleep(self, seconds: float) -> None:
        time.sleep(0.03)
        self.rig.clock.sleep(seconds)
        self.looks += 1
        assert self.looks < 1000, "the run has no end"
        self.rig.traffic(old=100, new=60, errors=self.errors)
        if self.verifies:
            verified(self.config)
        self.then.pop(self.looks, lambda: None)()


@pytest.fixture
def shop(config: Config, tools: Tools, rig: Rig) -> Shop:
    found = Shop(config, rig)
    tools.sleep = found.sleep
    rig.traffic(old=100, new=0)
    verified(config)
    return found


def ran(config: Config, tools: Tools, **how: object) -> tuple[RunResult, list[str]]:
    lines: list[str] = []
    return run(config, on_change=lines.append, tools=tools, **how), lines  # type: ignore[arg-type]


def kinds(config: Config) -> list[str]:
    with open_ledger(config) as ledger:
        return [act.kind for act in ledger.history(limit=100)]


def test_all_the_way_up_and_soaked_there(
    config: Config, tools: Tools, rig: Rig, shop: Shop
) -> None:
    result, lines = ran(config, tools)
    assert result.exit_code is ExitCode.DONE, lines
    assert result.next_command == "splitctl decommission rampdown d"
    assert rig.is_at(100)
    assert row(config).soak_evidence_s >= SOAK
    made = [kind for kind in kinds(config) if "hold" not in kind]
    assert made == ["start"] + 3 * ["step", "proven"]
    told = [
        percentage for percentage in (10, 50, 100) for line in lines if f"d {percentage} %" in line
    ]
    assert told == sorted(told)
    assert len(lines) < 20, "a line for each change, not for each look"
    again, lines = ran(config, tools)
    assert again.exit_code is ExitCode.DONE
    assert len(lines) == 1


def test_never_beyond_what_is_asked(config: Config, tools: Tools, rig: Rig, shop: Shop) -> None:
    result, lines = ran(config, tools, until=60)
    assert result.exit_code is ExitCode.DONE, lines
    assert (result.domains[0].percentage, result.domains[0].goal) == (50, 50)
    assert rig.is_at(50)
    with pytest.raises(NothingSoLow, match="its first is 10 %"):
        ran(config, tools, until=9)


def test_a_fail_brings_back_and_nothing_goes_up_again_by_itself(
    config: Config, tools: Tools, rig: Rig, shop: Shop
) -> None:
    """A Deployment starts it again at once: that must not try the same again."""
    shop.then[2] = lambda: setattr(shop, "errors", 30)
    result, lines = ran(config, tools)
    assert result.exit_code is ExitCode.ROLLED_BACK
    assert result.rollbacks[0]["to"] == 0
    assert "rolled back: errors" in lines[-1]
    assert rig.is_at(0)
    shop.errors, steps = 0, kinds(config).count("step")
    verified(config)
    again, lines = ran(config, tools)
    assert again.exit_code is ExitCode.PRECONDITION
    assert again.next_command == "splitctl rollout start d"
    assert "brought back by ann" in lines[-1]
    assert kinds(config).count("step") == steps
    controller.start(config, DOMAIN, tools=tools)  # a person's decision
    assert ran(config, tools)[0].exit_code is ExitCode.DONE
    assert rig.is_at(100)


def test_somebody_elses_rollback_ends_it(
    config: Config, tools: Tools, rig: Rig, shop: Shop
) -> None:
    shop.then[2] = lambda: rollback(config, tools=tools) and None
    result, _ = ran(config, tools)
    assert result.exit_code is ExitCode.PRECONDITION
    assert rig.is_at(0)


def test_it_waits_for_another_operator_and_says_so(
    config: Config, tools: Tools, rig: Rig, shop: Shop
) -> None:
    with open_ledger(config) as ledger:
        lock = ledger.lock("bob", "rollout advance d")
        lock.__enter__()
        shop.then[8] = lambda: lock.__exit__(None, None, None) and None
        result, lines = ran(config, tools)
    assert "waits for another operator: bob on" in lines[0]
    assert result.exit_code is ExitCode.DONE
    assert rig.is_at(100)


def test_it_takes_no_step_while_it_is_paused_and_goes_on_after(
    config: Config, tools: Tools, rig: Rig, shop: Shop
) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    pausing.pause(config, DOMAIN, reason="sale", tools=tools)
    seen: list[int] = []

    def resume() -> None:
        seen.append(row(config).percentage)
        pausing.resume(config, DOMAIN, tools=tools)

    shop.then[30] = resume
    result, lines = ran(config, tools, hold=timedelta(seconds=0))
    assert seen == [10]
    told = next(line for line in lines if "paused: paused by ann" in line)
    assert "sale" in told
    assert result.exit_code is ExitCode.DONE, lines


def test_what_cannot_be_told_holds_for_a_while_and_then_a_person_is_asked(
    config: Config, tools: Tools, rig: Rig, shop: Shop
) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    shop.verifies = False
    with open_ledger(config) as ledger:
        ledger.add_verdict(DOMAIN, VERIFY, VERIFY, "inconclusive", {})
    result, lines = ran(config, tools, hold=timedelta(seconds=0.5))
    assert result.exit_code is ExitCode.INCONCLUSIVE
    assert result.next_command == "splitctl verify run --domain d"
    assert result.domains[0].reason.startswith("held for")
    assert "same: " in lines[-1]
    assert rig.is_at(10), "no data is never a rollback"
    assert "hold" in kinds(config)
    # Another process goes on counting the same hold, and evidence ends it.
    assert ran(config, tools, hold=timedelta(seconds=0.5))[0].exit_code is ExitCode.INCONCLUSIVE
    assert kinds(config).count("hold") == 1
    shop.verifies = True
    assert ran(config, tools)[0].exit_code is ExitCode.DONE
    assert "hold-ended" in kinds(config)


def test_without_metrics_it_holds(config: Config, tools: Tools, rig: Rig, shop: Shop) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    away = Snapshot({}, {"gw-1": "refused", "gw-2": "refused"})
    rig.traffic = lambda **_: setattr(rig.metrics, "snapshot", away)  # type: ignore[method-assign]
    result, lines = ran(config, tools, hold=timedelta(seconds=0.3))
    assert result.exit_code is ExitCode.INCONCLUSIVE
    assert "no evidence comes in" in lines[-1]
    assert rig.is_at(10)


def test_a_drift_holds_and_is_not_stepped_over(
    config: Config, tools: Tools, rig: Rig, shop: Shop
) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    gateway = rig.gateways["gw-2"]
    was, gateway.domains[DOMAIN] = gateway.domains[DOMAIN], DomainFlags(True, 30, 2)
    seen: list[int] = []

    def back() -> None:
        seen.append(row(config).percentage)
        gateway.domains[DOMAIN] = was

    shop.then[30] = back
    result, lines = ran(config, tools)
    assert seen == [10]
    assert any("gw-2 serves 30 %" in line for line in lines)
    assert result.exit_code is ExitCode.DONE, lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("when", ["between looks", "in a step"])
def test_a_signal_ends_it_cleanly(
    config: Config, tools: Tools, rig: Rig, shop: Shop, number: signal.Signals, when: str
) -> None:
    if when == "in a step":
        rig.hooks["fence"] = lambda: signal.raise_signal(number)
    else:
        shop.then[2] = lambda: signal.raise_signal(number)
    result, _ = ran(config, tools)
    ends = {signal.SIGTERM: ExitCode.IN_PROGRESS, signal.SIGINT: ExitCode.INTERRUPTED}
    assert result.exit_code is ends[number]
    assert result.next_command == "splitctl rollout run d"
    assert not rig.fenced
    with open_ledger(config) as ledger:
        assert ledger.unfinished() == []
    assert ran(config, tools)[0].exit_code is ExitCode.DONE


@pytest.mark.parametrize("at", range(1, 60, 9))
def test_killed_anywhere_it_goes_on_from_there(
    config: Config, tools: Tools, rig: Rig, shop: Shop, at: int
) -> None:
    rig.kill_at = rig.acts + at
    with pytest.raises(Killed):
        ran(config, tools)
    rig.restart()
    rig.clock.sleep(60)  # leases are over
    result, lines = ran(config, tools)
    assert result.exit_code is ExitCode.DONE, lines
    assert rig.is_at(100)
    assert rig.broken_rules == []
    with open_ledger(config) as ledger:
        assert ledger.unfinished() == []


def test_a_step_that_gives_up_is_tried_again_later(
    config: Config, tools: Tools, rig: Rig, shop: Shop
) -> None:
    rig.hooks["quiesce old"] = lambda: setattr(rig.world, "caught_up", False)
    shop.then[3] = lambda: setattr(rig.world, "caught_up", True)
    result, lines = ran(config, tools)
    assert any("held: Customers of domain 'd' were held" in line for line in lines)
    assert result.exit_code is ExitCode.DONE, lines
    assert kinds(config).count("step") == 4


def test_what_is_refused_at_the_start_is_waited_for(
    config: Config, tools: Tools, rig: Rig, shop: Shop
) -> None:
    good = list(rig.statuses)
    rig.statuses = [replace(item, worker_alive=False) for item in good]
    shop.then[5] = lambda: setattr(rig, "statuses", good)
    result, lines = ran(config, tools)
    assert "has no living worker" in lines[0]
    assert result.exit_code is ExitCode.DONE, lines


OTHER = "e"


@pytest.fixture
def two(config: Config, tools: Tools, rig: Rig) -> Config:
    """A second domain beside the first, with owners and counters of its own."""
    world = InMemoryWorld(owners={"old": Ownership(0, 1), "new": Ownership(0, 1)})
    tools.world = lambda name: world if name == OTHER else rig.world
    for gateway in rig.gateways.values():
        gateway.domains[OTHER] = DomainFlags(True, 0, 1)
    rig.statuses += [replace(s, stream=s.stream.replace("d.", "e.")) for s in rig.statuses]
    other = config.domain(DOMAIN).model_copy(update={"name": OTHER})
    return config.model_copy(update={"domains": {**config.domains, OTHER: other}})


def test_domains_go_up_beside_each_other_and_one_that_fails_leaves_the_other(
    two: Config, tools: Tools, rig: Rig
) -> None:
    """Customers of the first come back; the second goes on, watched, to where it was to go."""
    errors = {DOMAIN: 0, OTHER: 0}
    counts = {name: {"old": Count(), "new": Count()} for name in errors}

    def sleep(seconds: float) -> None:
        time.sleep(0.03)
        rig.clock.sleep(seconds)
        for name, sides in counts.items():
            sides["old"] += count(100, 0, 1.0)
            sides["new"] += count(60, errors[name], 1.0)
            with open_ledger(two) as ledger:
                ledger.add_verdict(name, VERIFY, VERIFY, "equal", {})
                row = ledger.rollout(DOMAIN)
            if row is not None and row.percentage == 50:
                errors[DOMAIN] = 30
        seen = {name: dict(sides) for name, sides in counts.items()}
        rig.metrics.snapshot = Snapshot(dict.fromkeys(rig.gateways, seen))  # type: ignore[arg-type]

    tools.sleep = sleep
    result, lines = ran(two, tools)
    assert result.exit_code is ExitCode.ROLLED_BACK, lines
    assert {item.domain: (item.percentage, item.result) for item in result.domains} == {
        DOMAIN: (0, "rolled back"),
        OTHER: (100, "there"),
    }
    assert rig.served == {0}
    assert {gateway.domains[OTHER].served for gateway in rig.gateways.values()} == {100}
    assert [back["domain"] for back in result.rollbacks] == [DOMAIN]


def test_several_that_fail_go_back_at_the_same_time(
    two: Config, tools: Tools, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Customers of the second do not wait for the first to be back, to be checked and told of."""
    made: list[set[str]] = []

    def once(config: Config, domains: list[str], **how: Any) -> RollbackResult:
        made.append(set(domains))
        return rollback(config, domains, **how)

    monkeypatch.setattr("rollout.run.rollback", once)
    sides = {"old": Count(), "new": Count()}

    def sleep(seconds: float) -> None:
        time.sleep(0.03)
        rig.clock.sleep(seconds)
        there = all(
            g.domains[name].served for g in rig.gateways.values() for name in (DOMAIN, OTHER)
        )
        sides["old"] += count(100, 0, 1.0)
        sides["new"] += count(60, 30 if there else 0, 1.0)
        with open_ledger(two) as ledger:
            for name in (DOMAIN, OTHER):
                ledger.add_verdict(name, VERIFY, VERIFY, "equal", {})
        seen = {name: dict(sides) for name in (DOMAIN, OTHER)}
        rig.metrics.snapshot = Snapshot(dict.fromkeys(rig.gateways, seen))  # type: ignore[arg-type]

    tools.sleep = sleep
    result, lines = ran(two, tools)
    assert result.exit_code is ExitCode.ROLLED_BACK, lines
    assert made == [{DOMAIN, OTHER}]
    assert {back["domain"] for back in result.rollbacks} == {DOMAIN, OTHER}
    assert all(
        g.domains[name].served == 0 for g in rig.gateways.values() for name in (DOMAIN, OTHER)
    )


def test_it_looks_on_while_somebody_is_told_of_a_step(
    config: Config, tools: Tools, rig: Rig, shop: Shop
) -> None:
    """Whoever is told answers only when the run has rested, and so has looked, once more."""
    rested, waited = threading.Event(), []

    class Slow:
        def send(self, notice: Notice) -> None:
            rested.clear()
            waited.append((notice.event, rested.wait(5)))

    tools.notices = Notices([Receiver("team", Slow())])
    looked, tools.sleep = tools.sleep, lambda seconds: (rested.set(), looked(seconds))[1]
    result, lines = ran(config, tools, until=10)
    assert result.exit_code is ExitCode.DONE, lines
    for thread in [item for item in threading.enumerate() if item.name == "notice"]:
        thread.join(10)
    assert sorted(waited) == [("started", True), ("stepped", True)]


def test_it_waits_for_customers_who_prove_a_step_and_says_so(
    config: Config, tools: Tools, rig: Rig, shop: Shop
) -> None:
    """Other domains are watched meanwhile: the wait is between its looks."""
    rig.customers = 10
    shop.then[5] = lambda: setattr(rig, "customers", 1000)
    result, lines = ran(config, tools)
    assert result.exit_code is ExitCode.DONE, lines
    (told,) = [line for line in lines if "waits for the step's proof" in line]
    assert told.startswith("d 10 %: waits for the step's proof: measured 10.0 %")
    with open_ledger(config) as ledger:
        kinds = [act.kind for act in ledger.history()]
    assert kinds[:4] == ["start", "step", "proven", "step"]
