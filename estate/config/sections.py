"""What stands in a `config.toml`: the whole estate, section by section."""

from datetime import timedelta
from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator

from estate.config.cluster import ClusterConfig
from estate.config.deploy import DeployConfig
from estate.config.flows import FlowsConfig
from estate.config.gates import GateConfig
from estate.config.mappings import InvariantConfig, MappingConfig
from estate.config.metrics import MetricsConfig
from estate.config.mistakes import UnknownName
from estate.config.model import Model, beside
from estate.config.notices import NotifyConfig
from estate.config.observing import ObserveConfig
from estate.config.traffic import (
    BackendsConfig,
    FenceConfig,
    GatewayConfig,
    PhaseConfig,
    RollbackConfig,
    RolloutConfig,
    WriterConfig,
)
from estate.config.values import Duration, HostPort, Identifier, Name, Size
from estate.secrets import SecretRef

SHORTEST_RANGE = timedelta(milliseconds=50)
LONGEST_RANGE = timedelta(seconds=60)


class LedgerConfig(Model):
    """Where the ledger is kept: any PostgreSQL database of the user's choice."""

    dsn: SecretRef
    connections: int = Field(default=10, ge=2)


class DatabaseConfig(Model):
    """One PostgreSQL database of the estate. `connections` is the tool's whole budget there.

    `wal_disk` (bytes): how much log the slots may make its server keep before its disk is full.
    """

    name: str = ""
    dsn: SecretRef
    owner_role: Identifier | None = None
    connections: int = Field(default=20, ge=6)
    wal_disk: Size | None = None
    migrations: Path | None = None

    @field_validator("migrations")
    @classmethod
    def _relative_to_config(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        return None if value is None else beside(value, info)


class SyncConfig(Model):
    """The sync worker: `listen` is the address of its health and metrics pages.

    So many `appliers` of a stream write large batches side by side, each with a connection to both
    sides. A stream whose target was away for `refuge_after` keeps its changed keys in the ledger.
    """

    listen: HostPort = "127.0.0.1:9187"
    appliers: int = Field(default=2, ge=1, le=16)
    refuge_after: Duration = timedelta(seconds=10)


class BackfillConfig(Model):
    """The copy of what was there: how many ranges at a time, how long each, and when to slow down.

    `max_active` counts sessions at work on the source that are not ours; by default a fifth more
    than there are when the copy begins.
    """

    workers: int = Field(default=2, ge=1, le=16)
    range: Duration = timedelta(seconds=1)
    max_replica_lag: Duration = timedelta(seconds=10)
    max_active: int | None = Field(default=None, ge=1)
    max_probe_ms: float = Field(default=250, gt=0)

    @field_validator("range")
    @classmethod
    def _short(cls, value: timedelta) -> timedelta:
        if not SHORTEST_RANGE <= value <= LONGEST_RANGE:
            raise ValueError("a range takes between 50ms and 60s: its snapshot is held so long")
        return value


class VerifyConfig(Model):
    """The comparison: connections to each side that read at the same time, and when to slow down.

    `max_active` counts sessions at work that are not ours; by default a fifth more than there are
    when the run begins. The sync worker compares so many keys a second (`continuous`; 0 is none),
    each some time after it was carried.
    """

    workers: int = Field(default=1, ge=1, le=16)
    max_replica_lag: Duration = timedelta(seconds=10)
    max_active: int | None = Field(default=None, ge=1)
    max_probe_ms: float = Field(default=250, gt=0)
    continuous: int = Field(default=50, ge=0, le=100_000)
    continuous_after: Duration = timedelta(seconds=10)


class DomainConfig(Model):
    """A slice that moves together: two sides, flags, phases and mappings both ways.

    `flag`, `percentage` and `epoch` are what the gateways call them. Without a name of its own the
    epoch stands beside the percentage: a gateway need not know it. `default` is the variable that
    tells a gateway which side (old or new) everybody is on where no flag stands.
    epoch stands beside the percentage: a gateway need not know it. `backends` are the Services
    whose weights stand for them, where a Gateway API route sends customers to a side.
    """

    name: str = ""
    old: str
    new: str
    flag: str
    percentage: str
    epoch: str = ""
    default: str = ""
    backends: BackendsConfig | None = None
    phases: list[PhaseConfig] = Field(min_length=1)
    forward: list[MappingConfig] = Field(min_length=1)
    reverse: list[MappingConfig] = Field(min_length=1)
    invariants: list[InvariantConfig] = Field(default_factory=list)
    unmapped_old: list[Name] = Field(default_factory=list)
    unmapped_new: list[Name] = Field(default_factory=list)

    @property
    def epoch_name(self) -> str:
        """The variable that holds the flags' epoch."""
        return self.epoch or f"{self.percentage}_EPOCH"

    def before(self, percentage: int) -> int:
        """The phase from which a percentage is come to; 0 where it is the first."""
        lower = (phase.percentage for phase in self.phases if phase.percentage < percentage)
        return max(lower, default=0)

    @field_validator("phases")
    @classmethod
    def _rising(cls, value: list[PhaseConfig]) -> list[PhaseConfig]:
        steps = [phase.percentage for phase in value]
        if steps != sorted(set(steps)):
            raise ValueError("percentages must rise from phase to phase")
        if steps[-1] != 100:
            raise ValueError("the last phase must be 100")
        return value

    @field_validator("invariants")
    @classmethod
    def _one_invariant_per_name(cls, value: list[InvariantConfig]) -> list[InvariantConfig]:
        names = [invariant.name for invariant in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"more than one invariant called {', '.join(twice)}")
        return value

    @field_validator("forward", "reverse")
    @classmethod
    def _one_mapping_per_target(cls, value: list[MappingConfig]) -> list[MappingConfig]:
        targets = [mapping.target for mapping in value]
        twice = sorted({target for target in targets if targets.count(target) > 1})
        if twice:
            raise ValueError(f"more than one mapping for {', '.join(twice)}")
        return value


class Config(Model):
    """The whole estate. `path` is the file it was read from."""

    path: Path
    environment: str = Field(min_length=1, max_length=60)
    ledger: LedgerConfig
    databases: dict[Identifier, DatabaseConfig] = Field(min_length=2)
    gateway: GatewayConfig
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    deploy: DeployConfig | None = None
    metrics: MetricsConfig = Field(default_factory=MetricsConfig)
    sync: SyncConfig = Field(default_factory=SyncConfig)
    backfill: BackfillConfig = Field(default_factory=BackfillConfig)
    verify: VerifyConfig = Field(default_factory=VerifyConfig)
    fence: FenceConfig = Field(default_factory=FenceConfig)
    rollback: RollbackConfig = Field(default_factory=RollbackConfig)
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)
    writers: list[WriterConfig] = Field(default_factory=list)
    gates: list[GateConfig] = Field(default_factory=list)
    flows: FlowsConfig = Field(default_factory=FlowsConfig)
    notify: list[NotifyConfig] = Field(default_factory=list)
    observe: ObserveConfig = Field(default_factory=ObserveConfig)
    domains: dict[str, DomainConfig] = Field(min_length=1)

    @property
    def ledger_database(self) -> DatabaseConfig:
        """The ledger's database. Where it shares one with the data, it shares the budget too."""
        own = self.ledger.dsn
        shared = sum(other.connections for other in self.databases.values() if own.same(other.dsn))
        return DatabaseConfig(name="ledger", dsn=own, connections=self.ledger.connections + shared)

    def database(self, name: str) -> DatabaseConfig:
        """The database of this name. Raises UnknownName."""
        if name not in self.databases:
            raise UnknownName(kind="database", name=name, known=", ".join(self.databases))
        return self.databases[name]

    def domain(self, name: str) -> DomainConfig:
        """The domain of this name. Raises UnknownName."""
        if name not in self.domains:
            raise UnknownName(kind="domain", name=name, known=", ".join(self.domains))
        return self.domains[name]


# Every key that some section knows.
KEYS = frozenset(key for section in Model.__subclasses__() for key in section.model_fields)
