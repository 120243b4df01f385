"""A route of two Services in memory, and the controller that accepts it, or does not."""

from typing import Any

from estate.cluster import HTTP_ROUTE, Cluster, MemoryCluster, Object, Route
from estate.config import BackendsConfig
from rollout.routes import HttpRouteFlags
from tests.rollout.rig import DOMAIN

ROUTE = "shop"
BACKENDS = BackendsConfig(old="old", new="new")
ACCEPTED = {"Accepted": ("True", "", ""), "ResolvedRefs": ("True", "", "")}
Said = dict[str, tuple[str, str, str]]


def backends(old: int | None, new: int | None) -> list[Object]:
    """Both Services; None: without a weight."""
    weights = {"old": old, "new": new}
    return [
        {"name": name, "port": 8080, **({} if weight is None else {"weight": weight})}
        for name, weight in weights.items()
    ]


def manifest(*rules: list[Object], parents: tuple[str, ...] = ("edge",)) -> Object:
    """A route with a rule of its own for each list of backends, and one that is nobody's."""
    matches = [{"path": {"type": "PathPrefix", "value": "/things"}}]
    nobodys: Object = {"backendRefs": [{"name": "old", "port": 8080}]}
    return {
        "apiVersion": HTTP_ROUTE.api_version,
        "kind": HTTP_ROUTE.name,
        "metadata": {"name": ROUTE},
        "spec": {
            "parentRefs": [{"name": name} for name in parents],
            "rules": [*({"matches": matches, "backendRefs": refs} for refs in rules), nobodys],
        },
    }


def status_of(found: Object, said: Said, generation: int | None = None) -> Object:
    """The same route as its controllers would have it."""
    at = found["metadata"]["generation"] if generation is None else generation
    conditions = [
        {"type": kind, "status": status, "reason": reason, "message": message,
         "observedGeneration": at}
        for kind, (status, reason, message) in said.items()
    ]  # fmt: skip
    parents = [
        {"parentRef": {**parent, "group": "gateway.networking.k8s.io", "kind": "Gateway"},
         "controllerName": "tests/controller", "conditions": conditions}
        for parent in found["spec"]["parentRefs"]
    ]  # fmt: skip
    return {**found, "status": {"parents": parents}}


class RouteCluster(MemoryCluster):
    """With a route that a controller looks at when it is told to."""

    def __init__(self, route: Object) -> None:
        super().__init__()
        self.apply(route, manager="release")
        self.says: Said | None = ACCEPTED
        self.control()

    def control(self) -> None:
        """The controller looks. It does not when it has nothing to say."""
        if self.says is not None:
            found = self.get(HTTP_ROUTE, ROUTE)
            assert found is not None
            self.put(status_of(found, self.says))

    @property
    def route(self) -> Route:
        """As it stands."""
        found = self.get(HTTP_ROUTE, ROUTE)
        assert found is not None
        return Route.of(found)

    @property
    def rules(self) -> list[dict[str, int]]:
        """The weights of each rule."""
        return [dict(rule.weights) for rule in self.route.rules]


def flags(cluster: Cluster, **others: Any) -> HttpRouteFlags:
    """The driver."""
    return HttpRouteFlags(cluster, ROUTE, {DOMAIN: BACKENDS, **others})
