"""A namespace of a real Kubernetes cluster."""

from collections.abc import Iterator

from estate.cluster.api import APPLY, MERGE, Api, connect
from estate.cluster.errors import ClusterLacks, ClusterRefused
from estate.cluster.fields import Object
from estate.cluster.objects import EVENT, Change, Event, Kind
from estate.cluster.protocol import MANAGER, Cluster
from estate.config import ClusterConfig

REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


class KubernetesCluster(Cluster):
    """Through the API server."""

    def __init__(self, api: Api) -> None:
        self._api, self.namespace = api, api.namespace

    @classmethod
    def of(cls, settings: ClusterConfig) -> "KubernetesCluster":
        """As the configuration says. Nothing is asked yet. Raises ClusterConfigInvalid."""
        return cls(connect(settings))

    def get(self, kind: Kind, name: str) -> Object | None:
        """An object, None where there is none."""
        return self._api.call("GET", self._api.path(kind, name))

    def listed(self, kind: Kind, selector: str = "") -> list[Object]:
        """The objects with these labels."""
        return self._page(kind, {"labelSelector": selector} if selector else {})[0]

    def apply(
        self,
        manifest: Object,
        *,
        manager: str = MANAGER,
        force: bool = False,
        dry_run: bool = False,
    ) -> Object:
        """Server-side apply; returns the object as it is then."""
        kind, name = Kind.of(manifest), manifest["metadata"]["name"]
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        if dry_run:
            query["dryRun"] = "All"
        path = self._api.path(kind, name)
        found = self._api.call("PATCH", path, query=query, body=manifest, content=APPLY)
        if found is None:
            reason = f"there is no namespace {self.namespace}"
            raise ClusterRefused(kind=kind.name, name=name, reason=reason)
        return found

    def patch(self, kind: Kind, name: str, change: Object, *, manager: str = MANAGER) -> Object:
        """JSON merge patch."""
        query = {"fieldManager": manager}
        path = self._api.path(kind, name)
        found = self._api.call("PATCH", path, query=query, body=change, content=MERGE)
        if found is None:
            raise ClusterLacks(kind=kind.name, name=name, namespace=self.namespace)
        return found

    def delete(self, kind: Kind, name: str) -> None:
        """Delete an object and, in the background, what it owns."""
        options = {"propagationPolicy": "Background"}
        self._api.call("DELETE", self._api.path(kind, name), body=options)

    def events(self, kind: Kind, name: str) -> list[Event]:
        """What the cluster says about an object, the newest last."""
        about = f"involvedObject.kind={kind.name},involvedObject.name={name}"
        found = [Event.of(event) for event in self._page(EVENT, {"fieldSelector": about})[0]]
        return sorted(found, key=lambda event: event.at.timestamp() if event.at else 0.0)

    def watch(self, kind: Kind, selector: str = "", *, limit_s: float) -> Iterator[Change]:
        """What is there, as ADDED, and then each change, until the limit or the server ends it."""
        query = {"labelSelector": selector} if selector else {}
        there, version = self._page(kind, query)
        for found in there:
            yield Change("ADDED", found)
        query["resourceVersion"] = version
        for line in self._api.stream(self._api.path(kind), query, limit_s):
            if line["type"] == "ERROR":
                return  # the version is too old: who still wants to know watches again
            yield Change(line["type"], line["object"])

    def allowed(self, verb: str, group: str, resource: str) -> bool:
        """Whether we may do this here, as the cluster itself answers."""
        wanted = {
            "namespace": self.namespace,
            "verb": verb,
            "group": group,
            "resource": resource,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": wanted},
        }
        answer = self._api.call("POST", REVIEW, body=review) or {}
        return bool(answer.get("status", {}).get("allowed"))

    def close(self) -> None:
        """Close every connection."""
        self._api.close()

    def _page(self, kind: Kind, query: dict[str, str]) -> tuple[list[Object], str]:
        answer = self._api.call("GET", self._api.path(kind), query=query) or {}
        # The items of a list come without their kind.
        head = {"apiVersion": kind.api_version, "kind": kind.name}
        items = [{**head, **item} for item in answer.get("items", [])]
        return items, answer.get("metadata", {}).get("resourceVersion", "")
