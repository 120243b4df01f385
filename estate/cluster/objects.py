"""What the tool looks at in a cluster, as plain records."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from estate.cluster.fields import Object, moment


@dataclass(frozen=True)
class Kind:
    """A kind of object, as a manifest names it. `api_version` has the form `apps/v1`, or `v1`."""

    api_version: str
    name: str

    @property
    def group(self) -> str:
        """The API group, empty for the oldest kinds."""
        return self.api_version.rpartition("/")[0]

    @classmethod
    def of(cls, manifest: Object) -> "Kind":
        """The kind of a manifest."""
        return cls(manifest["apiVersion"], manifest["kind"])


DEPLOYMENT = Kind("apps/v1", "Deployment")
REPLICA_SET = Kind("apps/v1", "ReplicaSet")
POD = Kind("v1", "Pod")
CONFIG_MAP = Kind("v1", "ConfigMap")
EVENT = Kind("v1", "Event")
SERVICE = Kind("v1", "Service")
HTTP_ROUTE = Kind("gateway.networking.k8s.io/v1", "HTTPRoute")


@dataclass(frozen=True)
class Container:
    """A container's state in a pod. `waiting`: the reason, such as `CrashLoopBackOff`.

    ended, exit_code, last_words: of its last end, where it has ended; `ended` is the reason, such
    as `OOMKilled`
    """

    name: str
    image: str
    ready: bool
    running: bool
    restarts: int
    waiting: str | None
    message: str
    ended: str | None
    exit_code: int | None
    last_words: str


@dataclass(frozen=True)
class Pod:
    """A pod. `ending`: it was told to end and serves no new customer."""

    name: str
    uid: str
    labels: Mapping[str, str]
    ready: bool
    ending: bool
    phase: str
    ip: str | None
    owner: str | None
    created: datetime | None
    containers: tuple[Container, ...]
    raw: Object

    @classmethod
    def of(cls, found: Object) -> "Pod":
        """From the API server's object."""
        metadata, status = found["metadata"], found.get("status", {})
        return cls(
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            labels=metadata.get("labels", {}),
            ready=any(
                c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", [])
            ),
            ending="deletionTimestamp" in metadata,
            phase=status.get("phase", ""),
            ip=status.get("podIP"),
            owner=next((o["name"] for o in metadata.get("ownerReferences", [])), None),
            created=moment(metadata.get("creationTimestamp")),
            containers=tuple(_container(c) for c in status.get("containerStatuses", [])),
            raw=found,
        )

    @property
    def over(self) -> bool:
        """Whether it has ended for good. One that was evicted, say, stays in the list for days."""
        return self.phase in ("Failed", "Succeeded")

    def env(self, container: str) -> dict[str, str]:
        """The plain variables of a container, as it was started with them."""
        return plain_env(self.raw["spec"], container)


def _container(status: Mapping[str, Any]) -> Container:
    state = status.get("state", {})
    waiting = state.get("waiting", {})
    ended = state.get("terminated") or status.get("lastState", {}).get("terminated") or {}
    return Container(
        name=status["name"],
        image=status.get("image", ""),
        ready=status.get("ready", False),
        running="running" in state,
        restarts=status.get("restartCount", 0),
        waiting=waiting.get("reason"),
        message=waiting.get("message", ""),
        ended=ended.get("reason"),
        exit_code=ended.get("exitCode"),
        last_words=ended.get("message", ""),
    )


def plain_env(pod_spec: Object, container: str) -> dict[str, str]:
    """Variables with a value of their own; those taken from elsewhere are left out."""
    for found in pod_spec.get("containers", []):
        if found["name"] == container:
            return {
                entry["name"]: entry.get("value", "")
                for entry in found.get("env", [])
                if "valueFrom" not in entry
            }
    return {}


@dataclass(frozen=True)
class Deployment:
    """A Deployment and how far its rollout is."""

    name: str
    generation: int
    observed_generation: int
    wanted: int
    replicas: int
    updated: int
    ready: int
    available: int
    paused: bool
    selector: str
    images: Mapping[str, str]
    reasons: Mapping[str, str]
    raw: Object

    @classmethod
    def of(cls, found: Object) -> "Deployment":
        """From the API server's object."""
        spec, status = found["spec"], found.get("status", {})
        containers = spec["template"]["spec"]["containers"]
        return cls(
            name=found["metadata"]["name"],
            generation=found["metadata"].get("generation", 0),
            observed_generation=status.get("observedGeneration", 0),
            wanted=spec.get("replicas", 1),
            replicas=status.get("replicas", 0),
            updated=status.get("updatedReplicas", 0),
            ready=status.get("readyReplicas", 0),
            available=status.get("availableReplicas", 0),
            paused=spec.get("paused", False),
            selector=",".join(
                f"{key}={value}" for key, value in spec["selector"].get("matchLabels", {}).items()
            ),
            images={c["name"]: c.get("image", "") for c in containers},
            reasons={
                c["type"]: f"{c.get('reason', '')}: {c.get('message', '')}"
                for c in status.get("conditions", [])
                if (c["status"] == "True") == (c["type"] == "ReplicaFailure")
            },
            raw=found,
        )

    @property
    def complete(self) -> bool:
        """Every pod is of the newest template and available, and no older one is left."""
        return (
            self.observed_generation >= self.generation
            and self.updated == self.available == self.replicas == self.wanted
        )

    def env(self, container: str) -> dict[str, str]:
        """The plain variables of a container in the template."""
        return plain_env(self.raw["spec"]["template"]["spec"], container)


@dataclass(frozen=True)
class ConfigMap:
    """A ConfigMap's data."""

    name: str
    data: Mapping[str, str]
    version: str

    @classmethod
    def of(cls, found: Object) -> "ConfigMap":
        """From the API server's object."""
        metadata = found["metadata"]
        return cls(metadata["name"], found.get("data", {}), metadata.get("resourceVersion", ""))


@dataclass(frozen=True)
class Event:
    """Something that the cluster says about an object. `warning`: else it is normal."""

    at: datetime | None
    warning: bool
    reason: str
    message: str
    count: int

    @classmethod
    def of(cls, found: Object) -> "Event":
        """From the API server's object."""
        at = found.get("lastTimestamp") or found.get("eventTime") or found.get("firstTimestamp")
        return cls(
            at=moment(at),
            warning=found.get("type") == "Warning",
            reason=found.get("reason", ""),
            message=found.get("message", ""),
            count=found.get("count") or 1,
        )


@dataclass(frozen=True)
class Change:
    """One line of a watch. `type`: ADDED, MODIFIED or DELETED."""

    type: str
    object: Object
