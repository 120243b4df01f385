"""A whole estate in memory: two gateways, two databases, one clock, one log of acts."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from estate.cluster import MemoryCluster
from estate.ledger import ActRecord
from migrator.status import StreamStatus
from rollout.counters import SIDES, Count, Counts, Snapshot
from rollout.flags import DomainFlags
from rollout.interrupts import Interrupts
from rollout.memory import InMemoryFlags, MemoryGateway
from rollout.metrics import InMemoryMetrics
from rollout.phases import PER_PERCENT
from rollout.step import Step
from rollout.step_plan import StepLimits, StepPlan
from rollout.tools import Tools
from rollout.world import InMemoryWorld, Ownership, WriterUnpaused

DOMAIN = "d"
START = datetime(2024, 1, 1, tzinfo=UTC)


class Killed(BaseException):
    """The process is gone: nothing of it runs any more."""


@dataclass
class Clock:
    """Seconds; sleeping is free."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class MemoryWriters:
    """A writer that can be paused."""

    log: list[str]
    paused: bool = False
    broken: bool = False
    before: Callable[[str], None] = lambda _: None

    def pause(self) -> None:
        self.before("pause")
        self.log.append("pause")
        if self.broken:
            raise WriterUnpaused(writer="w", reason="broken")
        self.paused = True

    def resume(self) -> list[str]:
        self.before("resume")
        self.log.append("resume")
        self.paused = False
        return []


class Customers(InMemoryMetrics):
    """What was set by hand, with as many customers on each side as the flags send there."""

    def __init__(self, rig: "Rig", snapshot: Snapshot) -> None:
        super().__init__(snapshot)
        self.rig = rig

    def scrape(self) -> Snapshot:
        seen = self.snapshot
        gateways = {url: self._counted(url, all_) for url, all_ in seen.gateways.items()}
        return replace(seen, gateways=gateways)

    def _counted(self, url: str, domains: Mapping[str, Counts]) -> Mapping[str, Counts]:
        return {
            domain: self._on_each_side(domains.get(domain, {}), flags.served)
            for domain, flags in self.rig.gateways[url].domains.items()
        }

    def _on_each_side(self, counts: Counts, served: int) -> Counts:
        new = (served if self.rig.astray is None else self.rig.astray) / 100
        return {
            side: replace(counts.get(side, Count()), customers=self.rig.customers * share)
            for side, share in zip(SIDES, (1 - new, new), strict=True)
        }


@dataclass
class Rig:
    """The estate. `kill_at`: the process dies before this act (counted from 0)."""

    percentage: int = 0
    epoch: int = 1
    clock: Clock = field(default_factory=Clock)
    log: list[str] = field(default_factory=list)
    kill_at: int | None = None
    acts: int = 0
    hooks: dict[str, Callable[[], None]] = field(default_factory=dict)
    broken_rules: list[str] = field(default_factory=list)
    # Customers that each gateway has seen since its flags last changed; `astray`: of a percentage
    # of its own, whatever the flags say.
    customers: float = 1000
    astray: int | None = None

    def __post_init__(self) -> None:
        flags = DomainFlags(True, self.percentage, self.epoch)
        self.gateways = {name: MemoryGateway(domains={DOMAIN: flags}) for name in ("gw-1", "gw-2")}
        owner = Ownership(PER_PERCENT * self.percentage, self.epoch)
        self.flags = InMemoryFlags(
            self.gateways, clock=self.clock, log=self.log, before=self._before
        )
        self.world = InMemoryWorld(
            owners={"old": owner, "new": owner}, log=self.log, before=self._before
        )
        self.writers = MemoryWriters(self.log, before=self._before)
        self.metrics = Customers(self, Snapshot({name: {} for name in self.gateways}))
        self.cluster = MemoryCluster()
        self.statuses = [healthy("forward"), healthy("reverse")]

    def _before(self, act: str) -> None:
        self._check()
        if self.kill_at is not None and self.acts >= self.kill_at:
            raise Killed
        self.acts += 1
        hook = self.hooks.pop(act, None)
        if hook is not None:
            hook()

    def _check(self) -> None:
        """Nobody is served by the new side before the old side's database knows that it owns."""
        for name, gateway in self.gateways.items():
            served = gateway.domains[DOMAIN]
            owner = self.world.owners["old"]
            if served.served * PER_PERCENT > owner.new_below and served.epoch >= owner.epoch:
                self.broken_rules.append(f"{name} serves {served}, the old side has {owner}")

    def restart(self) -> None:
        """A new process, later: leases may have run out."""
        self.kill_at = None

    def plan(self, to: int, epoch: int | None = None) -> StepPlan:
        return StepPlan(DOMAIN, self.percentage, to, epoch or self.highest + 1, "ann@host")

    @property
    def highest(self) -> int:
        served = [gateway.domains[DOMAIN].epoch for gateway in self.gateways.values()]
        return max([*served, *(owner.epoch for owner in self.world.owners.values())])

    def step(self, to: int, *, budget_ms: int = 2000, lease_ms: int = 5000) -> Step:
        return Step(
            self.plan(to), self.world, self.flags, self.writers,
            StepLimits(budget_ms, lease_ms), Interrupts(), self.clock, self.clock.sleep,
        )  # fmt: skip

    def tools(self, ledger: Callable[[], AbstractContextManager[Any]]) -> Tools:
        return Tools(
            ledger=ledger,
            flags=self.flags,
            metrics=self.metrics,
            world=lambda _: self.world,
            writers=self.writers,
            sync=lambda: list(self.statuses),
            cluster=lambda: self.cluster,
            clock=self.clock,
            sleep=self.clock.sleep,
        )

    @property
    def served(self) -> set[int]:
        return {gateway.domains[DOMAIN].served for gateway in self.gateways.values()}

    @property
    def owned(self) -> set[float]:
        return {owner.new_below / PER_PERCENT for owner in self.world.owners.values()}

    @property
    def fenced(self) -> bool:
        return any(gateway.standing for gateway in self.gateways.values())

    def is_at(self, percentage: int) -> bool:
        """Everybody agrees, nobody is held, nobody is paused."""
        epochs = {owner.epoch for owner in self.world.owners.values()}
        return (
            self.served == {percentage}
            and self.owned == {percentage}
            and len(epochs) == 1
            and not self.fenced
            and not self.writers.paused
        )

    def traffic(self, old: float, new: float, errors: float = 0, fast: float = 1.0) -> None:
        """Every gateway counted this much more; `fast` is the share below 50 ms."""
        gateways = {}
        for url in self.gateways:
            before = self.metrics.snapshot.gateways.get(url, {}).get(DOMAIN, {})
            grown = {
                "old": before.get("old", Count()) + count(old, 0, 1.0),
                "new": before.get("new", Count()) + count(new, errors, fast),
            }
            gateways[url] = {DOMAIN: grown}
        self.metrics.snapshot = Snapshot(gateways)  # type: ignore[arg-type]


def count(requests: float, errors: float, fast: float) -> Count:
    return Count(requests, errors, {0.05: requests * fast, 1.0: requests, float("inf"): requests})


def healthy(direction: str) -> StreamStatus:
    return StreamStatus(
        f"{DOMAIN}.{direction}", True, True, 20.0, 0, 0, 0, 0, {"m": "live"}, 300.0, 0, None
    )


def act(plan: StepPlan) -> ActRecord:
    """A step's intent that was found unfinished."""
    return ActRecord(
        1, START, "ann", "host", "rollout advance d", DOMAIN, "step", "intended",
        plan.intent(), None, None,
    )  # fmt: skip
