"""What a Gateway API implementation does, in small: a definition of HTTPRoute, a controller that
accepts routes, and a proxy that sends each request to a side by weight, by chance.

The official definition checks itself with CEL, which a server as old as the tests' does not know.
This one has the same shape for what is used here: the rules are one atomic list, weights default to
1, and the status is a resource of its own.
"""

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aiohttp
from starlette.types import Receive, Scope, Send
from yarl import URL

from estate.cluster import HTTP_ROUTE, SERVICE, ClusterKindUnknown, KubernetesCluster, Object, Route
from estate.cluster.api import MERGE, Api
from estate.errors import SplitctlError
from services.gateway.app import send_answer
from services.gateway.proxy import CONNECTION_HEADERS, Answer, Header, open_session

GROUP = "gateway.networking.k8s.io"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CONTROLLER = "tests.splitctl/routing"
LOOK_S = 1.0

ANY: Object = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
TEXT: Object = {"type": "string"}
BACKEND: Object = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "group": TEXT,
        "kind": {**TEXT, "default": "Service"},
        "name": TEXT,
        "port": {"type": "integer"},
        "weight": {"type": "integer", "default": 1, "minimum": 0, "maximum": 1_000_000},
    },
}
RULE: Object = {
    "type": "object",
    "properties": {
        "matches": {"type": "array", "items": ANY},
        "filters": {"type": "array", "items": ANY},
        "backendRefs": {"type": "array", "items": BACKEND, "x-kubernetes-list-type": "atomic"},
    },
}
PARENT: Object = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "group": {**TEXT, "default": GROUP},
        "kind": {**TEXT, "default": "Gateway"},
        "name": TEXT,
        "sectionName": TEXT,
    },
}
SCHEMA: Object = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "parentRefs": {"type": "array", "items": PARENT},
                "rules": {"type": "array", "items": RULE, "x-kubernetes-list-type": "atomic"},
            },
        },
        "status": {"type": "object", "properties": {"parents": {"type": "array", "items": ANY}}},
    },
}
DEFINITION: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": f"httproutes.{GROUP}",
        # Without it a server refuses a name of a group that belongs to Kubernetes.
        "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
    },
    "spec": {
        "group": GROUP,
        "scope": "Namespaced",
        "names": {"kind": "HTTPRoute", "plural": "httproutes", "singular": "httproute"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": SCHEMA},
            }
        ],
    },
}


def define(api: Api) -> Callable[[], None]:
    """Install the definition, unless the cluster has one. Returns what takes it away again."""
    place = f"{DEFINITIONS}/httproutes.{GROUP}"
    if api.call("GET", place) is not None:
        return lambda: None
    api.call("POST", DEFINITIONS, body=DEFINITION)
    return lambda: api.call("DELETE", place) and None


def known(cluster: KubernetesCluster) -> bool:
    """Whether routes can be made by now."""
    try:
        cluster.listed(HTTP_ROUTE)
    except ClusterKindUnknown:
        return False
    return True


class Controller(threading.Thread):
    """Accepts routes, and gives the rules that it has accepted to the proxy.

    `refusing`: a message with which it accepts nothing. One whose Services are not all there is not
    resolved, and not served.
    """

    def __init__(self, api: Api) -> None:
        super().__init__(name="routing", daemon=True)
        self._api, self._cluster = api, KubernetesCluster(api)
        self._over = threading.Event()
        self.refusing = ""
        self.rules: list[Object] = []

    def run(self) -> None:
        """Until it is over."""
        while not self._over.is_set():
            with suppress(SplitctlError):
                for change in self._cluster.watch(HTTP_ROUTE, limit_s=LOOK_S):
                    if change.type != "DELETED" and not self._over.is_set():
                        self._see(change.object)

    def stop(self) -> None:
        """No look more."""
        self._over.set()
        self.join(timeout=10 * LOOK_S)

    def _see(self, found: Object) -> None:
        route = Route.of(found)
        names = {name for rule in route.rules for name in rule.weights}
        lacking = sorted(name for name in names if self._cluster.get(SERVICE, name) is None)
        said = {
            "Accepted": ("Pending", self.refusing) if self.refusing else ("Accepted", ""),
            "ResolvedRefs": ("BackendNotFound", ", ".join(lacking))
            if lacking
            else ("ResolvedRefs", ""),
        }
        if not self.refusing and not lacking:
            self.rules = found["spec"]["rules"]
        conditions = [
            {
                "type": kind,
                "status": "True" if reason == kind else "False",
                "reason": reason,
                "message": message,
                "observedGeneration": route.generation,
                "lastTransitionTime": found["metadata"]["creationTimestamp"],
            }
            for kind, (reason, message) in said.items()
        ]
        parents = [
            {"parentRef": parent, "controllerName": CONTROLLER, "conditions": conditions}
            for parent in found["spec"]["parentRefs"]
        ]
        status = {"status": {"parents": parents}}
        if found.get("status") != status["status"]:
            path = self._api.path(HTTP_ROUTE, route.name) + "/status"
            self._api.call("PATCH", path, body=status, content=MERGE)


class Edge:
    """The proxy, as an ASGI application. `address`: of a Service, without its port."""

    def __init__(self, controller: Controller, address: Callable[[str], str]) -> None:
        self._controller, self._address = controller, address
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await receive()
            self._session = open_session()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self._session.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        target = scope["raw_path"].decode()
        if scope["query_string"]:
            target += "?" + scope["query_string"].decode()
        rule = next(rule for rule in self._controller.rules if _matches(rule, scope["path"]))
        backends: list[Any] = rule["backendRefs"]
        (backend,) = random.choices(backends, [one["weight"] for one in backends])
        base = f"http://{self._address(backend['name'])}:{backend['port']}"
        assert self._session is not None
        asked = {n.decode(): v.decode() for n, v in _filtered(rule, scope["headers"])}
        where = URL(base + target, encoded=True)
        async with self._session.request(
            scope["method"], where, headers=asked, data=body or None
        ) as answer:
            content = await answer.read()
        told = [(n.lower(), v) for n, v in answer.raw_headers]
        kept = [(n, v) for n, v in told if n not in CONNECTION_HEADERS]
        kept.append((b"x-first", backend["name"].encode()))
        await send_answer(send, Answer(answer.status, kept, content))


def _matches(rule: Object, path: str) -> bool:
    return any(path.startswith(match["path"]["value"]) for match in rule["matches"])


def _filtered(rule: Object, headers: list[Header]) -> list[Header]:
    removed = CONNECTION_HEADERS | {
        name.lower().encode()
        for found in rule.get("filters", [])
        for name in found["requestHeaderModifier"]["remove"]
    }
    return [(name, value) for name, value in headers if name not in removed]
