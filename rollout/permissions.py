"""What the tool has to be allowed in the cluster; deploy/base/rbac.yaml grants just this."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from estate.cluster import Cluster
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
}


def rules(config: Config) -> Sequence[Rule]:
    """What this estate needs; nothing where the cluster is not used."""
    return RULES if config.deploy is not None else FLAGS[config.gateway.driver]


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
