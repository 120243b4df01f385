"""Which domains are finished: their gateways serve the new side by default.

The cluster itself says so, so that a deployment is right also without a ledger, and after a
rollback: until the finish is taken back its manifests are those that count.
"""

from pathlib import Path

from estate.cluster import DEPLOYMENT, Cluster, Deployment
from estate.config import Config, DeployConfig
from estate.errors import ExitCode, SplitctlError
from rollout.pods import on_new_by_default, pods_alive

FINISH, UNFINISH = "finish", "finish undo"
FOLDER = "finished"  # in an overlay: what the end of each domain changes


class FinishUnderWay(SplitctlError):
    """The finish of domain '{domain}' was begun and is not at its end. Nothing was changed."""

    hint = "splitctl rollout finish {domain}  (goes on; with --undo it goes back)"
    exit_code = ExitCode.PRECONDITION


class FinishedSince(SplitctlError):
    """Domain '{domain}' was finished after the last deployment: what stood before that would
    bring back flags that are gone. Nothing was changed."""

    hint = "splitctl rollout finish {domain} --undo, then: splitctl deploy undo"
    exit_code = ExitCode.PRECONDITION


class GatewaysBehind(SplitctlError):
    """Domain '{domain}' is finished, and gateways run that were started before that: {pods}. They
    send customers to the old service, whose code a deployment would take away. Nothing was
    changed."""

    hint = "once they are gone: splitctl deploy apply; or: splitctl rollout finish {domain} --undo"
    exit_code = ExitCode.PRECONDITION


def component(domain: str) -> str:
    """The folder of a domain's end, in the overlay's."""
    return f"{FOLDER}/{domain}"


def prepared(settings: DeployConfig, overlay: str, domain: str) -> Path:
    """The file that a person has read: where it has to be."""
    return settings.manifests / "overlays" / overlay / FOLDER / domain / "kustomization.yaml"


def finished(config: Config, cluster: Cluster) -> list[str]:
    """The domains whose default is the new side, by the gateways' Deployment as it stands."""
    found = _gateways(config, cluster)
    if found is None:
        return []
    values = found.env(config.gateway.container)
    return [name for name, d in config.domains.items() if on_new_by_default(d, values)]


def need_followed(config: Config, cluster: Cluster) -> None:
    """Every gateway's pod, ending ones too, knows the end of each finished domain.

    Raises GatewaysBehind.
    """
    found, container = _gateways(config, cluster), config.gateway.container
    if found is None or not (ended := finished(config, cluster)):
        return
    pods = pods_alive(cluster, found.selector)
    for domain in ended:
        settings = config.domains[domain]
        behind = [p.name for p in pods if not on_new_by_default(settings, p.env(container))]
        if behind:
            raise GatewaysBehind(domain=domain, pods=", ".join(behind))


def _gateways(config: Config, cluster: Cluster) -> Deployment | None:
    """Their Deployment, if domains may be finished here, and it is there."""
    name = config.gateway.deployment
    if name is None or not any(domain.default for domain in config.domains.values()):
        return None
    found = cluster.get(DEPLOYMENT, name)
    return None if found is None else Deployment.of(found)
