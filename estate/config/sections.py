"""What stands in a `config.toml`: the whole estate, section by section."""

from datetime import timedelta
from pathlib import Path
from typing import Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from estate.config.mistakes import UnknownName
from estate.config.values import (
    Duration,
    HostPort,
    HttpUrl,
    Identifier,
    Name,
    Size,
    Stray,
    StrayRule,
)
from estate.secrets import SecretRef

SHORTEST_RANGE = timedelta(milliseconds=50)
LONGEST_RANGE = timedelta(seconds=60)


def _beside(value: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("base", Path())
    path: Path = value.expanduser()
    return path if path.is_absolute() else base / path


def _sql_of(path: Path, key: str) -> str:
    """A file's SQL without a trailing semicolon."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ValueError(f"{key}: {path} cannot be read: {reason}") from error
    found = text.strip().rstrip(";").strip()
    if not found:
        raise ValueError(f"{key}: {path} is empty")
    return found


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


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
        return None if value is None else _beside(value, info)


class GatewayConfig(Model):
    """The gateways that send customers to a side, reached at their admin endpoints."""

    driver: Literal["admin"] = "admin"
    urls: list[HttpUrl] = Field(min_length=1)
    token: SecretRef


class MetricsConfig(Model):
    """Where evidence comes from; `scrape` reads the gateways' own /metrics pages."""

    driver: Literal["scrape"] = "scrape"
    urls: list[HttpUrl] = Field(default_factory=list)


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


class FenceConfig(Model):
    """How long a step may hold customers (budget), and when a gateway lets go by itself (lease)."""

    budget_ms: int = Field(default=2000, ge=100, le=30_000)
    lease_ms: int = Field(default=5000, ge=200, le=60_000)

    @model_validator(mode="after")
    def _lease_outlives_budget(self) -> Self:
        if self.lease_ms <= self.budget_ms:
            raise ValueError("lease_ms must be greater than budget_ms")
        return self


class RollbackConfig(Model):
    """The longest that a returning customer is held, in ms (law L8: at most 1000)."""

    hold_ms: int = Field(default=1000, ge=0, le=1000)


class WriterConfig(Model):
    """A program that writes to mapped tables beside the gateway."""

    name: str
    discipline: Literal["owner-aware", "paused"]
    pause_url: HttpUrl | None = None
    resume_url: HttpUrl | None = None

    @model_validator(mode="after")
    def _paused_writers_can_be_paused(self) -> Self:
        if self.discipline == "paused" and not (self.pause_url and self.resume_url):
            raise ValueError("a paused writer needs pause_url and resume_url")
        return self


GateKind = Literal["error_rate", "latency_p95", "consistency", "sync_lag", "strays", "share"]
GATE_LIMITS: dict[str, str] = {
    "error_rate": "max",
    "latency_p95": "max_ms",
    "consistency": "max_age",
    "sync_lag": "max_ms",
    "strays": "max",
    "share": "tolerance",
}


class GateConfig(Model):
    """A question put to evidence before a step. Each kind has one limit of its own."""

    name: str
    kind: GateKind
    max: float | None = Field(default=None, ge=0)
    max_ms: float | None = Field(default=None, gt=0)
    max_age: Duration | None = None
    tolerance: float | None = Field(default=None, gt=0, lt=1)
    min_samples: int = Field(default=200, ge=1)
    domains: list[str] | None = None

    @model_validator(mode="after")
    def _limit_of_its_kind(self) -> Self:
        wanted = GATE_LIMITS[self.kind]
        given = [name for name in set(GATE_LIMITS.values()) if getattr(self, name) is not None]
        if given != [wanted]:
            raise ValueError(f"a gate of kind {self.kind} has exactly one limit: {wanted}")
        if self.kind == "error_rate" and (self.max or 0) >= 1:
            raise ValueError("max is a share below 1; a gate that can never fail is refused")
        return self


class PhaseConfig(Model):
    """A percentage and how long it soaks before the next step."""

    percentage: int = Field(ge=1, le=100)
    soak: Duration


class MappingConfig(Model):
    """One SQL query that says what one table holds (law L1)."""

    target: Name
    query: Path
    key: tuple[Name, ...] = Field(min_length=1)
    route: str = Field(min_length=1)
    sources: dict[Name, dict[Name, Name]] = Field(min_length=1)
    stray: Stray = StrayRule("owner")
    touched: Name | None = None
    sensitive: tuple[Name, ...] = ()
    _sql: str = PrivateAttr(default="")

    @property
    def sql(self) -> str:
        """The mapping's query, as its file holds it, without a trailing semicolon."""
        return self._sql

    @field_validator("query")
    @classmethod
    def _relative_to_config(cls, value: Path, info: ValidationInfo) -> Path:
        return _beside(value, info)

    @model_validator(mode="after")
    def _read(self) -> Self:
        self._sql = _sql_of(self.query, "query")
        if shown := set(self.sensitive) & set(self.key):
            raise ValueError(
                f"sensitive names {sorted(shown)} of the key: rows are named by it in every report"
            )
        for table, columns in self.sources.items():
            if set(columns) != set(self.key):
                raise ValueError(
                    f"sources.{table} names {sorted(columns)}, "
                    f"but must lead to the whole key {sorted(self.key)}"
                )
        return self


class InvariantConfig(Model):
    """What must be true of the data: SQL that gives the rows which break it.

    Either `query`, for one side or both, each by itself; or `old` and `new`, whose rows must be the
    same. The first column names a row.
    """

    name: str = Field(min_length=1, max_length=80)
    query: Path | None = None
    sides: tuple[Literal["old", "new"], ...] = ()
    old: Path | None = None
    new: Path | None = None
    _texts: dict[str, str] = PrivateAttr(default_factory=dict)

    def text(self, name: str) -> str:
        """The SQL of `query`, `old` or `new`."""
        return self._texts[name]

    @field_validator("query", "old", "new")
    @classmethod
    def _relative_to_config(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        return None if value is None else _beside(value, info)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        alone = self.query is not None and self.sides and not (self.old or self.new)
        against = self.old is not None and self.new is not None and not (self.query or self.sides)
        if not alone and not against:
            raise ValueError("an invariant has either query and sides, or old and new")
        for name in ("query", "old", "new"):
            path = getattr(self, name)
            if path is not None:
                self._texts[name] = _sql_of(path, name)
        return self


class DomainConfig(Model):
    """A slice that moves together: two sides, flags, phases and mappings both ways."""

    name: str = ""
    old: str
    new: str
    flag: str
    percentage: str
    phases: list[PhaseConfig] = Field(min_length=1)
    forward: list[MappingConfig] = Field(min_length=1)
    reverse: list[MappingConfig] = Field(min_length=1)
    invariants: list[InvariantConfig] = Field(default_factory=list)
    unmapped_old: list[Name] = Field(default_factory=list)
    unmapped_new: list[Name] = Field(default_factory=list)

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
    metrics: MetricsConfig = Field(default_factory=MetricsConfig)
    sync: SyncConfig = Field(default_factory=SyncConfig)
    backfill: BackfillConfig = Field(default_factory=BackfillConfig)
    verify: VerifyConfig = Field(default_factory=VerifyConfig)
    fence: FenceConfig = Field(default_factory=FenceConfig)
    rollback: RollbackConfig = Field(default_factory=RollbackConfig)
    writers: list[WriterConfig] = Field(default_factory=list)
    gates: list[GateConfig] = Field(default_factory=list)
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
