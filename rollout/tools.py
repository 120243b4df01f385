"""What commands of this room work with, gathered in one place so that tests can give their own."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from estate.config import Config, Problem
from migrator.status import StreamStatus
from rollout.flags import Flags
from rollout.metrics import Metrics
from rollout.world import World, Writers

if TYPE_CHECKING:
    # Loaded only by commands that use it: rollback sets the flags before it looks for a ledger.
    from estate.ledger import Ledger


@dataclass
class Tools:
    """Gateways, counters, databases and ledger of one estate. `clock` and `sleep` in seconds."""

    ledger: "Callable[[], AbstractContextManager[Ledger]]"
    flags: Flags
    metrics: Metrics
    world: Callable[[str], World]
    writers: Writers
    sync: Callable[[], list[StreamStatus]]
    sequences: Callable[[str], list[Problem]] = lambda _: []
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    @classmethod
    def of(cls, config: Config) -> "Tools":
        """The real ones. Nothing is opened yet."""
        from rollout.flags import GatewayAdmin
        from rollout.metrics import ScrapeMetrics
        from rollout.world import DatabaseWorld, HttpWriters

        def ledger() -> "Ledger":
            from estate.ledger import open_ledger

            return open_ledger(config)

        def sync() -> list[StreamStatus]:
            from migrator.status import status

            return status(config)

        def shared(domain: str) -> list[Problem]:
            from migrator.sequences import check

            return check(config, domain)

        return cls(
            ledger=ledger,
            flags=GatewayAdmin.of(config),
            metrics=ScrapeMetrics.of(config),
            world=lambda domain: DatabaseWorld(config, domain),
            writers=HttpWriters(config.writers),
            sync=sync,
            sequences=shared,
        )
