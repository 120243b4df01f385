"""Who changed the flags in the cluster, as its API server keeps it for each field.

https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
"""

from estate.cluster import CONFIG_MAP, DEPLOYMENT, FLAGS_MANAGER, Cluster, FieldOwner, Kind
from estate.config import Config
from estate.errors import SplitctlError

# What names itself so applies what stands in Git, again and again.
GITOPS = {
    "argocd": "Argo CD",
    "kustomize-controller": "Flux",
    "helm-controller": "Flux",
    "fluxcd": "Flux",
    "fleet": "Fleet",
}


class FieldManagers:
    """Whoever else has set a domain's flags, where these stand in the cluster."""

    def __init__(self, cluster: Cluster, config: Config) -> None:
        self._cluster, self._config = cluster, config

    def who(self, domain: str) -> list[str]:
        """A sentence for each other manager; none when the cluster cannot be asked."""
        gateway, settings = self._config.gateway, self._config.domains[domain]
        ours = {settings.flag, settings.percentage, settings.epoch_name}
        kind: Kind = CONFIG_MAP if gateway.driver == "config-map" else DEPLOYMENT
        name = gateway.config_map if gateway.driver == "config-map" else gateway.deployment
        try:
            owners = self._cluster.managed_fields(kind, name or "")
        except SplitctlError:
            return []
        told = []
        for owner in owners:
            held = {name for container, name in owner.env if container == gateway.container}
            found = sorted((held | owner.data) & ours)
            if found and owner.manager != FLAGS_MANAGER:
                told.append(sentence(owner, ", ".join(found)) + _puts_back(owner))
        return told


def sentence(owner: FieldOwner, what: str) -> str:
    """Who has set something, and when."""
    at = f" at {owner.at:%Y-%m-%d %H:%M:%S} UTC" if owner.at is not None else ""
    return f"{what} was set by {owner.manager}{at}"


def _puts_back(owner: FieldOwner) -> str:
    """What to do about a tool that sets it again and again; empty for anybody else."""
    for word, tool in GITOPS.items():
        if word in owner.manager.lower():
            return f": {tool} puts back what stands in Git, so take it out there"
    return ""
