"""What the tool has to be allowed in the cluster; deploy/base/rbac.yaml grants just this.

Weights of a route need one rule more, which deploy/http-route/rbac.yaml grants.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from estate.cluster import HTTP_ROUTE, Cluster
from estate.config import Config


@dataclass(frozen=True)
class Rule:
    """Verbs on one kind of object, and which act needs them."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    why: str


OBJECTS = ("get", "create", "patch", "delete")
RULES = (
    Rule("apps", "deployments", OBJECTS, "manifests, and flags as variables"),
    Rule("", "services", OBJECTS, "manifests"),
    Rule("", "configmaps", OBJECTS, "manifests, and flags in a ConfigMap"),
    Rule("apps", "replicasets", ("list",), "which pods are of the newest version"),
    Rule("", "pods", ("list",), "who is ready, and why somebody is not"),
    Rule("", "events", ("list",), "what the cluster says of a pod that does not come"),
)
# Who deploys by other means and has only the flags in the cluster needs less.
FLAGS: Mapping[str, Sequence[Rule]] = {
    "admin": (),
    "environment": (
        Rule("apps", "deployments", ("get", "patch"), "flags as variables"),
        Rule("", "pods", ("list",), "what each gateway serves"),
    ),
    "config-map": (
        Rule("", "configmaps", ("get", "patch"), "flags in a ConfigMap"),
        Rule("apps", "deployments", ("get",), "which pods are gateways"),
        Rule("", "pods", ("list",), "what each gateway serves"),
    ),
    "http-route": (
        Rule(HTTP_ROUTE.group, "httproutes", ("get", "patch"), "flags as weights of a route"),
        Rule("", "services", ("get",), "which pods are behind a route"),
        Rule("", "pods", ("list",), "the metrics pages of the pods behind a route"),
    ),
}


# Which versions run, and whether pods stay up: looked at also where nothing is deployed from here.
VERSIONS = (
    Rule("apps", "deployments", ("get",), "what runs"),
    Rule("", "configmaps", ("get",), "what runs"),
)
PODS = (
    Rule("apps", "deployments", ("get",), "gates that look at pods"),
    Rule("", "pods", ("list",), "gates that look at pods"),
    Rule("apps", "replicasets", ("list",), "which pods are of the newest version"),
    Rule("", "events", ("list",), "what the cluster says of a pod that does not come"),
)


def rules(config: Config) -> Sequence[Rule]:
    """What this estate needs: by what it deploys, where its flags stand, and what is looked at.

    No verb is in two of them.
    """
    gateway = config.gateway
    wanted = [*(RULES if config.deploy is not None else ()), *FLAGS[gateway.driver]]
    if config.rollout.deployments or (gateway.driver != "admin" and gateway.deployment):
        wanted += VERSIONS
    if any(gate.kind == "pods" for gate in config.gates):
        wanted += PODS
    found: list[Rule] = []
    for rule in wanted:
        place = (rule.group, rule.resource)
        known = {verb for one in found if (one.group, one.resource) == place for verb in one.verbs}
        if verbs := tuple(verb for verb in rule.verbs if verb not in known):
            found.append(replace(rule, verbs=verbs))
    return found


@dataclass(frozen=True)
class Missing:
    """A verb that we are not allowed."""

    rule: Rule
    verb: str

    def __str__(self) -> str:
        rule = self.rule
        return (
            f'apiGroups ["{rule.group}"], resources ["{rule.resource}"], verbs ["{self.verb}"]'
            f" ({rule.why})"
        )


def missing(cluster: Cluster, needed: Sequence[Rule] = RULES) -> list[Missing]:
    """What we are not allowed, as the cluster itself answers."""
    return [
        Missing(rule, verb)
        for rule in needed
        for verb in rule.verbs
        if not cluster.allowed(verb, rule.group, rule.resource)
    ]
