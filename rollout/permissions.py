"""What the tool has to be allowed in the cluster; deploy/base/rbac.yaml grants just this."""

from dataclasses import dataclass

from estate.cluster import Cluster


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


def missing(cluster: Cluster) -> list[Missing]:
    """What we are not allowed, as the cluster itself answers."""
    return [
        Missing(rule, verb)
        for rule in RULES
        for verb in rule.verbs
        if not cluster.allowed(verb, rule.group, rule.resource)
    ]
