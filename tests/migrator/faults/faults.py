"""The faults, each a thing that is done for a while and then ends."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from migrator.mapping import Side
from rehearsal.children import wait_until
from tests.migrator.faults.ground import FAKETIME, Ground

WORKER, SECOND, BACKFILL = "sync", "sync-second", "backfill"
TAKE_OVER_S = 20.0


@dataclass
class Harm:
    """Does harm to one run, by chance. `tell` gets what is done.

    `carried_by` tells whether the worker of this name is the one that carries now, `in_refuge`
    whether what would be written on this side is kept in the ledger.
    """

    ground: Ground
    config: Path
    chance: random.Random
    tell: Callable[[str], None]
    carried_by: Callable[[str], bool]
    in_refuge: Callable[[Side], bool]

    @property
    def kinds(self) -> dict[str, Callable[[], None]]:
        """What can be done."""
        return {
            "kill the worker": self._kill_worker,
            "kill the backfill": lambda: self.ground.kill(BACKFILL),
            "let the second worker take over": self._take_over,
            "cut the worker off and let it wake": self._zombie,
            "freeze the worker": self._freeze,
            "kill the old server": lambda: self._kill_server("old"),
            "kill the new server": lambda: self._kill_server("new"),
            "cut the old side off": lambda: self._cut("old"),
            "cut the new side off": lambda: self._cut("new"),
            "silence the old side": lambda: self._silence("old"),
            "silence the new side": lambda: self._silence("new"),
            "take the old side away": lambda: self._take_away("old"),
            "take the new side away": lambda: self._take_away("new"),
            "slow the old side down": lambda: self._slow("old"),
            "slow the new side down": lambda: self._slow("new"),
            "end the sessions on the old side": lambda: self.ground.end_sessions("old"),
            "end the sessions on the new side": lambda: self.ground.end_sessions("new"),
            "fill the new side's disk": self._fill,
            "set the clock": self._set_clock,
        }

    @property
    def missing(self) -> dict[str, str]:
        """What cannot be done on this machine, and why."""
        found = {}
        if self.ground.disk is None:
            found["fill the new side's disk"] = "needs root on Linux: a small disk is mounted"
        if FAKETIME is None:
            found["set the clock"] = "needs libfaketime: make system"
        return found

    def do(self, kind: str) -> None:
        """Do it and let it end."""
        if kind not in self.missing:
            self.tell(kind)
            self.kinds[kind]()

    def any(self) -> None:
        """One of them; the same seed chooses the same on every machine."""
        self.do(self.chance.choice(list(self.kinds)))

    def _kill_worker(self) -> None:
        self.ground.kill(WORKER)
        self._for_a_while(0.5)
        self.ground.start_worker(WORKER, self.config)

    def _second(self) -> None:
        # On the same machine it needs an address of its own.
        self.ground.start_worker(SECOND, self.config.with_name("second.toml"))
        self._for_a_while(1.5)

    def _take_over(self) -> None:
        """The first one is killed when the second has had time to stand by."""
        self._second()
        self.ground.kill(WORKER)
        self._for_a_while(1.0)
        self.ground.start_worker(WORKER, self.config)
        self.ground.kill(SECOND)

    def _zombie(self) -> None:
        """It stands still and loses its sessions, another takes over; then it goes on."""
        self._second()
        with self.ground.frozen(WORKER):
            for side in self.ground.servers:
                self.ground.end_sessions(side)
            wait_until(lambda: self.carried_by(SECOND), TAKE_OVER_S)
        self._for_a_while(1.0)
        self.ground.kill(SECOND)

    def _freeze(self) -> None:
        with self.ground.frozen(WORKER):
            self._for_a_while(2.0)

    def _kill_server(self, side: Side) -> None:
        self.ground.kill_server(side)
        self._for_a_while(0.7)
        self.ground.start_server(side)

    def _cut(self, side: Side) -> None:
        self.ground.proxies[side].cut()
        self._for_a_while(1.0)
        self.ground.proxies[side].heal()

    def _take_away(self, side: Side) -> None:
        """For so long that what would be written there finds refuge in the ledger; at times the
        worker is killed in the middle of that."""
        self.ground.proxies[side].cut()
        wait_until(lambda: self.in_refuge(side), TAKE_OVER_S)
        self._for_a_while(2.0)
        if self.chance.random() < 0.5:
            self._kill_worker()
            self._for_a_while(2.0)
        self.ground.proxies[side].heal()

    def _silence(self, side: Side) -> None:
        self.ground.proxies[side].silence()
        self._for_a_while(2.0)
        # At times the packets come late, at times the connections are found to be dead.
        if self.chance.random() < 0.5:
            self.ground.proxies[side].cut()
        self.ground.proxies[side].heal()

    def _slow(self, side: Side) -> None:
        self.ground.proxies[side].slow(self.chance.uniform(0.01, 0.15))
        self._for_a_while(2.0)
        self.ground.proxies[side].heal()

    def _fill(self) -> None:
        with self.ground.full_disk():
            self._for_a_while(1.5)
        self.ground.heal_server("new")

    def _set_clock(self) -> None:
        self.ground.set_clock(self.chance.choice([-86_400, -3_600, -5, 5, 3_600, 86_400]))

    def _for_a_while(self, at_most_s: float) -> None:
        threading.Event().wait(self.chance.uniform(0.0, at_most_s))
