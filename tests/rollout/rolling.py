"""A cluster in memory whose Deployments are rolled out pod by pod, one with each second slept."""

from collections.abc import Callable
from copy import deepcopy

from estate.cluster import DEPLOYMENT, MANAGER, POD, Kind, MemoryCluster, Object, Pod
from tests.rollout.rig import Clock


class RollingCluster(MemoryCluster):
    """`before`: called with a few words before each write, and may kill. Names in `stuck` stay."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[str], None] = lambda _: None
        self.stuck: set[str] = set()

    def apply(
        self,
        manifest: Object,
        *,
        manager: str = MANAGER,
        force: bool = False,
        dry_run: bool = False,
    ) -> Object:
        """As it is, but the controller has not seen it yet."""
        if not dry_run:
            self.before(f"apply {manifest['kind']} {manifest['metadata']['name']}")
        return super().apply(manifest, manager=manager, force=force, dry_run=dry_run)

    def delete(self, kind: Kind, name: str) -> None:
        """With its pods."""
        self.before(f"delete {kind.name} {name}")
        super().delete(kind, name)
        for pod in self.of(name):
            super().delete(POD, pod.name)

    def of(self, name: str) -> list[Pod]:
        """The pods of a Deployment."""
        return self.pods(f"app={name}")

    def tick(self) -> None:
        """One pod of each Deployment becomes one of its newest template."""
        for found in self.listed(DEPLOYMENT):
            name = found["metadata"]["name"]
            if name not in self.stuck:
                self._tick(found, name)

    def _tick(self, found: Object, name: str) -> None:
        wanted, newest = found["spec"]["replicas"], found["spec"]["template"]["spec"]
        there = {pod.name: pod.raw["spec"] == newest for pod in self.of(name)}
        names = [f"{name}-{number}" for number in range(wanted)]
        behind = [pod for pod in names if not there.get(pod)]
        if behind:
            self.put(pod_of(behind[0], name, newest))
        updated = wanted - len(behind[1:])
        known = dict.fromkeys(("updatedReplicas", "availableReplicas", "readyReplicas"), updated)
        status = {
            **known,
            "replicas": wanted,
            "observedGeneration": found["metadata"]["generation"],
        }
        self.put({**found, "status": status})


class RollingClock(Clock):
    """Sleeping lets the cluster go on."""

    cluster: RollingCluster | None = None

    def sleep(self, seconds: float) -> None:
        """Time passes, and one pod of each Deployment is replaced."""
        super().sleep(seconds)
        if self.cluster is not None:
            self.cluster.tick()


def pod_of(name: str, app: str, spec: Object) -> Object:
    """One that is ready, of this template."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": app}},
        "spec": deepcopy(spec),
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [],
        },
    }
