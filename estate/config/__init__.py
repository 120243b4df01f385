"""The estate as one `config.toml` tells it, checked whole before anything is touched.

Every mistake is reported at once, each with its key, the reason and what would be right.
"""

from estate.config.cluster import ClusterConfig
from estate.config.deploy import DeployConfig
from estate.config.flows import FlowsConfig, SideUrls
from estate.config.gates import GateConfig
from estate.config.mappings import InvariantConfig, MappingConfig
from estate.config.metrics import MetricsConfig
from estate.config.mistakes import ConfigInvalid, ConfigNotFound, Problem, UnknownName
from estate.config.notices import Event, NotifyConfig
from estate.config.observing import ObserveConfig, PanelConfig, ReceiverConfig, ServiceConfig
from estate.config.reading import find, load
from estate.config.sections import (
    BackfillConfig,
    Config,
    DatabaseConfig,
    DomainConfig,
    LedgerConfig,
    SyncConfig,
    VerifyConfig,
)
from estate.config.traffic import (
    BackendsConfig,
    FenceConfig,
    GatewayConfig,
    PhaseConfig,
    RollbackConfig,
    WriterConfig,
)
from estate.config.values import (
    ALIVE_WITHIN_MS,
    BUCKETS,
    HEARTBEAT_EVERY_MS,
    StrayRule,
    parse_duration,
)

__all__ = [
    "ALIVE_WITHIN_MS",
    "BUCKETS",
    "HEARTBEAT_EVERY_MS",
    "BackendsConfig",
    "BackfillConfig",
    "ClusterConfig",
    "Config",
    "ConfigInvalid",
    "ConfigNotFound",
    "DatabaseConfig",
    "DeployConfig",
    "DomainConfig",
    "Event",
    "FenceConfig",
    "FlowsConfig",
    "GateConfig",
    "GatewayConfig",
    "InvariantConfig",
    "LedgerConfig",
    "MappingConfig",
    "MetricsConfig",
    "NotifyConfig",
    "ObserveConfig",
    "PanelConfig",
    "PhaseConfig",
    "Problem",
    "ReceiverConfig",
    "RollbackConfig",
    "ServiceConfig",
    "SideUrls",
    "StrayRule",
    "SyncConfig",
    "UnknownName",
    "VerifyConfig",
    "WriterConfig",
    "find",
    "load",
    "parse_duration",
]
