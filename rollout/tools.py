"""What commands of this room work with, gathered in one place so that tests can give their own."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from estate.config import Config, Problem
from migrator.status import StreamStatus
from rollout.flags import Flags
from rollout.metrics import Metrics
from rollout.provenance import Provenance, Unknown
from rollout.world import World, Writers

if TYPE_CHECKING:
    # Loaded only by commands that use it: rollback sets the flags before it looks for a ledger.
    from estate.ledger import Ledger


UNLIMITED = 1_000_000


@dataclass
class Tools:
    """Gateways, counters, databases and ledger of one estate. `clock` and `sleep` in seconds."""

    ledger: "Callable[[], AbstractContextManager[Ledger]]"
    flags: Flags
    metrics: Metrics
    world: Callable[[str], World]
    writers: Writers
    sync: Callable[[], list[StreamStatus]]
    # The same databases for a rollback, which the tool's own connection budget must not refuse.
    rescue: Callable[[str], World] | None = None
    sequences: Callable[[str], list[Problem]] = lambda _: []
    provenance: Provenance = field(default_factory=Unknown)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def way_back(self, domain: str) -> World:
        """The databases of a domain, for a rollback."""
        return (self.rescue or self.world)(domain)

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
            rescue=lambda domain: DatabaseWorld(without_budget(config), domain, "rollback"),
            sequences=shared,
        )


def without_budget(config: Config) -> Config:
    """The same estate, whose databases may be connected to as often as they allow themselves."""
    databases = {
        name: database.model_copy(update={"connections": UNLIMITED})
        for name, database in config.databases.items()
    }
    return config.model_copy(update={"databases": databases})
