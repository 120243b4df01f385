"""What commands of this room work with, gathered in one place so that tests can give their own."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from estate.config import Config, Problem
from migrator.status import StreamStatus
from rollout.flags import Flags
from rollout.metrics import Metrics
from rollout.notices import Notices
from rollout.provenance import Provenance, Unknown
from rollout.subjects import InMemorySubjects, Subjects
from rollout.verifying import InMemoryVerifications, Verifications
from rollout.versions import Unwatched, Versions
from rollout.world import World, Writers
from rollout.written import Written

if TYPE_CHECKING:
    # Loaded only by commands that use it: rollback sets the flags before it looks for a ledger.
    from estate.cluster import Cluster
    from estate.ledger import Ledger


UNLIMITED = 1_000_000


def no_cluster() -> "Cluster":
    """One in memory, with nothing in it."""
    from estate.cluster import MemoryCluster

    return MemoryCluster()


@dataclass
class Tools:
    """Gateways, counters, databases and ledger of one estate. `clock` and `sleep` in seconds.

    written: where the flags of gateways without a fence stand; None: gateways have a fence
    refusing: services refuse whom they do not own, so customers follow the owners at once
    unrefused: what says otherwise when they are asked, by domain
    """

    ledger: "Callable[[], AbstractContextManager[Ledger]]"
    flags: Flags
    metrics: Metrics
    world: Callable[[str], World]
    writers: Writers
    sync: Callable[[], list[StreamStatus]]
    # The same databases for a rollback, which the tool's own connection budget must not refuse.
    rescue: Callable[[str], World] | None = None
    sequences: Callable[[str], list[Problem]] = lambda _: []
    written: Written | None = None
    refusing: bool = False
    unrefused: Callable[[str], list[Problem]] = lambda _: []
    versions: Versions = field(default_factory=Unwatched)
    subjects: Subjects = field(default_factory=InMemorySubjects)
    cluster: "Callable[[], Cluster]" = no_cluster
    provenance: Provenance = field(default_factory=Unknown)
    notices: Notices = field(default_factory=Notices)
    verifications: Verifications = field(default_factory=InMemoryVerifications)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def way_back(self, domain: str) -> World:
        """The databases of a domain, for a rollback."""
        return (self.rescue or self.world)(domain)

    @classmethod
    def of(cls, config: Config) -> "Tools":
        """The real ones. Nothing is opened yet."""
        from rollout.gateways import flags_of, metrics_of, provenance_of, versions_of, written_of
        from rollout.subjects import DatabaseSubjects
        from rollout.verifying import Children
        from rollout.world import DatabaseWorld, HttpWriters

        def ledger() -> "Ledger":
            from estate.ledger import open_ledger

            return open_ledger(config)

        def sync() -> list[StreamStatus]:
            from migrator.status import status

            return status(config)

        @cache
        def cluster() -> "Cluster":
            from estate.cluster import connect

            return connect(config)

        def shared(domain: str) -> list[Problem]:
            from migrator.sequences import check

            return check(config, domain)

        written = written_of(config)

        def unrefused(domain: str) -> list[Problem]:
            from rollout import refusal

            return refusal.problems(config, domain, found) if found.refusing else []

        found = cls(
            ledger=ledger,
            flags=flags_of(config, written),
            metrics=metrics_of(config),
            world=lambda domain: DatabaseWorld(config, domain),
            writers=HttpWriters(config.writers),
            sync=sync,
            rescue=lambda domain: DatabaseWorld(without_budget(config), domain, "rollback"),
            sequences=shared,
            written=written,
            provenance=provenance_of(config),
            notices=Notices.of(config),
            verifications=Children(config),
            refusing=written is not None and config.gateway.owners_refuse,
            unrefused=unrefused,
            versions=versions_of(config),
            subjects=DatabaseSubjects(config),
            cluster=cluster,
        )
        return found


def without_budget(config: Config) -> Config:
    """The same estate, whose databases may be connected to as often as they allow themselves."""
    databases = {
        name: database.model_copy(update={"connections": UNLIMITED})
        for name, database in config.databases.items()
    }
    return config.model_copy(update={"databases": databases})
