"""Who changed the flags in the cluster, as its API server keeps it for each field.

https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
"""

from estate.cluster import (
    CONFIG_MAP,
    DEPLOYMENT,
    FLAGS_MANAGER,
    HTTP_ROUTE,
    Cluster,
    FieldOwner,
    Kind,
)
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
# What becomes of it where such a tool applies it.
LEAVE = {
    DEPLOYMENT: "take it out there",
    CONFIG_MAP: "take it out there",
    HTTP_ROUTE: "let it ignore the weights (docs/drivers.md)",
}


class FieldManagers:
    """Whoever else has set a domain's flags, where these stand in the cluster."""

    def __init__(self, cluster: Cluster, config: Config) -> None:
        self._cluster, self._config = cluster, config

    def who(self, domain: str) -> list[str]:
        """A sentence for each other manager; none when the cluster cannot be asked."""
        kind, name = self._place()
        try:
            owners = self._cluster.managed_fields(kind, name or "")
        except SplitctlError:
            return []
        told = []
        for owner in owners:
            found = self._held(owner, domain)
            if found and owner.manager != FLAGS_MANAGER:
                what = ", ".join(found)
                told.append(sentence(owner, what) + _puts_back(owner, LEAVE[kind]))
        return told

    def _place(self) -> tuple[Kind, str | None]:
        gateway = self._config.gateway
        if gateway.driver == "http-route":
            return HTTP_ROUTE, gateway.route
        if gateway.driver == "config-map":
            return CONFIG_MAP, gateway.config_map
        return DEPLOYMENT, gateway.deployment

    def _held(self, owner: FieldOwner, domain: str) -> list[str]:
        """Which of a domain's flags this manager has set."""
        gateway, settings = self._config.gateway, self._config.domains[domain]
        if gateway.driver == "http-route":
            # The rules are one list, which belongs as a whole to whoever changed it last.
            rules = "f:rules" in owner.fields.get("f:spec", {})
            return [f"HTTPRoute {gateway.route}: spec.rules"] if rules else []
        held = {name for container, name in owner.env if container == gateway.container}
        ours = {settings.flag, settings.percentage, settings.epoch_name}
        return sorted((held | owner.data) & ours)


def sentence(owner: FieldOwner, what: str) -> str:
    """Who has set something, and when."""
    at = f" at {owner.at:%Y-%m-%d %H:%M:%S} UTC" if owner.at is not None else ""
    return f"{what} was set by {owner.manager}{at}"


def _puts_back(owner: FieldOwner, leave: str) -> str:
    """What to do about a tool that sets it again and again; empty for anybody else."""
    for word, tool in GITOPS.items():
        if word in owner.manager.lower():
            return f": {tool} puts back what stands in Git, so {leave}"
    return ""
