"""The gateways of an estate, by the driver that its configuration names."""

import logging
import time
from functools import cache
from typing import TYPE_CHECKING

from estate.config import Config
from rollout.flags import Flags, GatewayAdmin
from rollout.metrics import Metrics, ScrapeMetrics
from rollout.provenance import Provenance, Unknown
from rollout.versions import Unwatched, Versions
from rollout.written import Unfenced, Written

if TYPE_CHECKING:
    from estate.cluster import Cluster

log = logging.getLogger(__name__)


def written_of(config: Config) -> Written | None:
    """Where the flags stand in the cluster; None for gateways with an endpoint of their own.

    Raises ClusterConfigInvalid.
    """
    gateway = config.gateway
    if gateway.driver == "admin":
        return None
    from estate.cluster import connect
    from rollout.pods import ConfigMapFlags, EnvironmentFlags, GatewayPods

    if gateway.driver == "http-route":
        from rollout.routes import HttpRouteFlags, backends_of

        assert gateway.route is not None  # the configuration has seen to it
        return HttpRouteFlags(connect(config), gateway.route, backends_of(config))
    pods = GatewayPods(connect(config), config)
    if gateway.driver == "config-map":
        assert gateway.config_map is not None  # the configuration has seen to it
        return ConfigMapFlags(pods, gateway.config_map)
    return EnvironmentFlags(pods)


def flags_of(config: Config, written: Written | None) -> Flags:
    """What each gateway serves, and how that is changed."""
    if written is None:
        return GatewayAdmin.of(config)
    settle_s = config.gateway.settle.total_seconds()
    return Unfenced(written, settle_s, time.monotonic, time.sleep)


def provenance_of(config: Config) -> Provenance:
    """Who changed flags behind our back, where that can be known."""
    if config.gateway.driver == "admin":
        return Unknown()
    from estate.cluster import connect
    from rollout.field_managers import FieldManagers

    return FieldManagers(connect(config), config)


def versions_of(config: Config) -> Versions:
    """What runs beside the flags, where a cluster can be asked. Nothing is asked yet."""
    gateway, deploying = config.gateway, config.deploy
    in_cluster = gateway.driver != "admin" and gateway.deployment is not None
    if not (in_cluster or deploying or config.rollout.deployments):
        return Unwatched()
    from rollout.pod_templates import ClusterVersions

    @cache
    def deployed(namespace: str, *ended: str) -> list[str]:
        from rollout.deploy_planning import with_ends

        found = with_ends(config, namespace, ended)
        return [item["metadata"]["name"] for item in found if item["kind"] == "Deployment"]

    def reach() -> "Cluster":
        from estate.cluster import connect

        return connect(config)

    def names(cluster: "Cluster") -> list[str]:
        from rollout.finished import finished
        from rollout.manifests import ManifestsInvalid

        found = dict.fromkeys(config.rollout.deployments)
        if in_cluster and gateway.deployment:
            found[gateway.deployment] = None
        if deploying is not None:
            try:
                found |= dict.fromkeys(deployed(cluster.namespace, *finished(config, cluster)))
            except ManifestsInvalid as error:
                # As on a laptop that has the configuration alone.
                log.info("what runs is looked at without the manifests: %s", error)
        return list(found)

    domains = config.domains.values()
    flags = {name for item in domains for name in (item.flag, item.percentage, item.epoch_name)}
    return ClusterVersions(reach, names, flags)


def metrics_of(config: Config) -> Metrics:
    """Where the counters come from."""
    if config.metrics.driver == "prometheus":
        from rollout.prometheus import PrometheusMetrics

        return PrometheusMetrics.of(config)
    if config.gateway.driver == "admin" or config.metrics.urls:
        return ScrapeMetrics.of(config)
    from estate.cluster import connect
    from rollout.pods import GatewayPods, PodMetrics

    if config.gateway.driver == "http-route":
        from rollout.routes import BackendPods

        return PodMetrics(BackendPods(connect(config), config))
    return PodMetrics(GatewayPods(connect(config), config))
