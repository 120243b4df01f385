"""The cluster: one namespace of Kubernetes, through the API server or in memory."""

from typing import TYPE_CHECKING

from estate.cluster.errors import (
    ClusterChanged,
    ClusterConfigInvalid,
    ClusterConflict,
    ClusterForbidden,
    ClusterKindUnknown,
    ClusterLacks,
    ClusterRefused,
    ClusterUnauthorized,
    ClusterUnreachable,
)
from estate.cluster.fields import FieldOwner, Object, extract, owned, owners, united
from estate.cluster.memory import MemoryCluster
from estate.cluster.objects import (
    CONFIG_MAP,
    DEPLOYMENT,
    HTTP_ROUTE,
    POD,
    REPLICA_SET,
    SERVICE,
    Change,
    ConfigMap,
    Container,
    Deployment,
    Event,
    Kind,
    Pod,
)
from estate.cluster.protocol import FLAGS_MANAGER, MANAGER, OURS, Cluster
from estate.cluster.real import KubernetesCluster
from estate.cluster.routes import Route, Rule

if TYPE_CHECKING:
    from estate.config import Config

__all__ = [
    "CONFIG_MAP",
    "DEPLOYMENT",
    "FLAGS_MANAGER",
    "HTTP_ROUTE",
    "MANAGER",
    "OURS",
    "POD",
    "REPLICA_SET",
    "SERVICE",
    "Change",
    "Cluster",
    "ClusterChanged",
    "ClusterConfigInvalid",
    "ClusterConflict",
    "ClusterForbidden",
    "ClusterKindUnknown",
    "ClusterLacks",
    "ClusterRefused",
    "ClusterUnauthorized",
    "ClusterUnreachable",
    "ConfigMap",
    "Container",
    "Deployment",
    "Event",
    "FieldOwner",
    "Kind",
    "KubernetesCluster",
    "MemoryCluster",
    "Object",
    "Pod",
    "Route",
    "Rule",
    "connect",
    "extract",
    "owned",
    "owners",
    "united",
]


def connect(config: "Config") -> KubernetesCluster:
    """The cluster of this estate. Nothing is asked yet. Raises ClusterConfigInvalid."""
    return KubernetesCluster.of(config.cluster)
