"""Which domains are finished: their gateways serve the new side by default.

The cluster itself says so, so that a deployment is right also without a ledger, and after a
rollback: until the finish is taken back its manifests are those that count.
"""

from pathlib import Path

from estate.cluster import DEPLOYMENT, Cluster, Deployment
from estate.config import Config, DeployConfig
from estate.errors import ExitCode, SplitctlError
from rollout.pods import on_new_by_default

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


def component(domain: str) -> str:
    """The folder of a domain's end, in the overlay's."""
    return f"{FOLDER}/{domain}"


def prepared(settings: DeployConfig, overlay: str, domain: str) -> Path:
    """The file that a person has read: where it has to be."""
    return settings.manifests / "overlays" / overlay / FOLDER / domain / "kustomization.yaml"


def finished(config: Config, cluster: Cluster) -> list[str]:
    """The domains whose default is the new side, by the gateways' Deployment as it stands."""
    gateway = config.gateway
    asked = [name for name, domain in config.domains.items() if domain.default]
    if gateway.deployment is None or not asked:
        return []
    found = cluster.get(DEPLOYMENT, gateway.deployment)
    if found is None:
        return []
    values = Deployment.of(found).env(gateway.container)
    return [name for name in asked if on_new_by_default(config.domains[name], values)]
