"""What the tool has to be allowed in the cluster; deploy/base/rbac.yaml grants just this.

Weights of a route need one rule more, which deploy/http-route/rbac.yaml grants.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


def rules(config: Config) -> Sequence[Rule]:
    """What this estate needs, by what it deploys and where its flags stand."""
    if config.deploy is None:
        return FLAGS[config.gateway.driver]
    known = {(rule.group, rule.resource) for rule in RULES}
    others = FLAGS[config.gateway.driver]
    return (*RULES, *(rule for rule in others if (rule.group, rule.resource) not in known))


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
