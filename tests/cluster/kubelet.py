"""The process kubelet: runs each pod of a namespace as a process of this machine.

What it does as a kubelet does: binds pods to its node, resolves environment and volumes, probes
over HTTP, restarts with back-off, reports, and ends a pod with its grace period before the API
server may forget it. What is different:

- A pod has one container. Its program is its own `command`, else the one that `images` names for
  its image (without the tag). An image whose name contains `missing` cannot be pulled.
- A pod has an address of its own in 127.0.0.0/8, so that many pods can listen on the same port. A
  program listens there only when it is told: `HOST` from `status.podIP`.
- There are no mounts: volumes are directories, and their paths are replaced in arguments and
  variables. Files follow their ConfigMap after `sync_s`.
- There is no name service: `//NAME` in a variable or an argument becomes the address of the
  service, at which `tests.cluster.services` passes connections on to its ready pods.
"""

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from estate.cluster import ClusterChanged, ClusterUnreachable, Object, Pod
from estate.cluster.api import MERGE, Api
from estate.errors import SplitctlError
from rehearsal.children import Children
from tests.cluster.addresses import Subnet
from tests.cluster.podspec import Unresolved
from tests.cluster.running import Ended, Node, PodRun
from tests.cluster.services import Services

WATCH_S = 30.0
AGAIN_S = 0.3
KINDS = {"ConfigMap": "configmaps", "Secret": "secrets"}


def _none(_: str) -> bool:
    return False


class Kubelet:
    """Runs the pods of one namespace from `start` to `stop`.

    `pace`: real seconds to one second of a probe's period.
    """

    def __init__(
        self,
        api: Api,
        directory: Path,
        *,
        working_directory: Path,
        images: Mapping[str, Sequence[str]] | None = None,
        environment: Mapping[str, str] | None = None,
        sync_s: float = 1.0,
        pace: float = 0.25,
    ) -> None:
        self._api, self._sync_s = api, sync_s
        self._children = Children(directory)
        self._runs: dict[str, PodRun] = {}
        self._subnet = Subnet()
        self._held: Callable[[str], bool] = _none
        self._frozen: Callable[[str], bool] = _none
        self._stop = threading.Event()
        self._services = Services(api, self._subnet, self._endpoints)
        self.node = Node(
            name=f"node-{api.namespace}",
            api=api,
            children=self._children,
            directory=directory / "pods",
            working_directory=working_directory,
            images=images or {},
            environment=environment or {},
            find=self._find,
            hosts=self._services.addresses,
            held=self._is_held,
            pace=pace,
        )
        self._threads = [
            threading.Thread(target=self._follow, name="kubelet watch", daemon=True),
            threading.Thread(target=self._sync, name="kubelet sync", daemon=True),
        ]

    # What tests ask

    @property
    def ended(self) -> list[Ended]:
        """How each process ended, in order."""
        return list(self.node.ended)

    def log(self, pod: str) -> str:
        """What a pod has written."""
        return (self._children.logs / f"{pod}.log").read_text(encoding="utf-8", errors="replace")

    def running(self) -> list[Pod]:
        """The pods that have a process, with their addresses."""
        runs = list(self._runs.values())
        return [replace(Pod.of(run.pod), ip=run.ip) for run in runs if run.started]

    def service(self, name: str) -> str:
        """The address of a service, which passes connections on to its ready pods."""
        return self._services.addresses()[name]

    def pause(self, which: Callable[[str], bool]) -> None:
        """Pods whose name is chosen stay as they are before their start, until `go_on`."""
        self._held = which

    def freeze(self, which: Callable[[str], bool]) -> None:
        """Files of pods whose name is chosen stay as they are, until `go_on`."""
        self._frozen = which

    def go_on(self) -> None:
        """Start what was paused, follow what was frozen."""
        self._held = self._frozen = _none

    # Its life

    def start(self) -> None:
        """Register the node and begin."""
        self._register()
        self._services.start()
        self._services.refresh()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End every process, at once, and forget the node."""
        self._stop.set()
        for run in list(self._runs.values()):
            run.abandon()
        for run in list(self._runs.values()):
            run.join(timeout=10.0)
        self._children.stop_all()
        self._services.stop()
        self._subnet.close()
        with contextlib.suppress(SplitctlError):
            for name in list(self._runs):
                path = f"{self._pods}/{name}"
                self._api.call("DELETE", path, body={"gracePeriodSeconds": 0})
            self._api.call("DELETE", f"/api/v1/nodes/{self.node.name}")

    @property
    def _pods(self) -> str:
        return f"/api/v1/namespaces/{self._api.namespace}/pods"

    def _register(self) -> None:
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node.name}}
        with contextlib.suppress(ClusterChanged):  # it is there
            self._api.call("POST", "/api/v1/nodes", body=node)
        self._beat()

    def _beat(self) -> None:
        """Tell that the node lives."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}
        status = {"conditions": [{**ready, "lastHeartbeatTime": now}]}
        path = f"/api/v1/nodes/{self.node.name}/status"
        self._api.call("PATCH", path, body={"status": status}, content=MERGE)

    def _follow(self) -> None:
        """List, then watch from there; anew when the watch ends or the server was away."""
        while not self._stop.is_set():
            try:
                answer = self._api.call("GET", self._pods) or {}
                found = {pod["metadata"]["name"]: pod for pod in answer.get("items", [])}
                for name in self._runs.keys() - found.keys():
                    self._forget(name)
                for pod in found.values():
                    self._see(pod)
                version = {"resourceVersion": answer["metadata"]["resourceVersion"]}
                for line in self._api.stream(self._pods, version, WATCH_S):
                    if self._stop.is_set():
                        return
                    if line["type"] == "ERROR":
                        break
                    if line["type"] == "DELETED":
                        self._forget(line["object"]["metadata"]["name"])
                    else:
                        self._see(line["object"])
            except ClusterUnreachable:
                self._stop.wait(AGAIN_S)

    def _see(self, pod: Object) -> None:
        """A pod as it is now: run it, or tell its process that it has to end."""
        name = pod["metadata"]["name"]
        if pod["spec"].get("nodeName", self.node.name) != self.node.name:
            return
        run = self._runs.get(name)
        if run is not None and run.pod["metadata"]["uid"] != pod["metadata"]["uid"]:
            self._forget(name)
            run = None
        if run is None and not self._stop.is_set():
            if "nodeName" not in pod["spec"] and not self._bind(pod):
                return
            self._services.refresh()  # a pod knows the services that were there before it
            run = self._runs[name] = PodRun(pod, self._subnet.take(), self.node)
            run.start()
        if run is not None and "deletionTimestamp" in pod["metadata"]:
            run.told_to_end(float(pod["metadata"].get("deletionGracePeriodSeconds") or 0))

    def _bind(self, pod: Object) -> bool:
        """Assign it to our node; only then is its deletion a graceful one."""
        name = pod["metadata"]["name"]
        target = {"apiVersion": "v1", "kind": "Node", "name": self.node.name}
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "uid": pod["metadata"]["uid"]},
            "target": target,
        }
        try:
            return self._api.call("POST", f"{self._pods}/{name}/binding", body=body) is not None
        except ClusterChanged:
            return False  # gone, or bound by somebody else

    def _forget(self, name: str) -> None:
        """The API server has no such pod any more."""
        run = self._runs.pop(name, None)
        if run is not None:
            run.abandon()

    def _sync(self) -> None:
        """Files follow their ConfigMaps, addresses their services."""
        while not self._stop.wait(self._sync_s):
            with contextlib.suppress(SplitctlError):
                self._beat()
                self._services.refresh()
                for run in list(self._runs.values()):
                    if not self._frozen(run.name_of_pod):
                        with contextlib.suppress(Unresolved):
                            run.write_files()

    def _is_held(self, name: str) -> bool:
        return self._held(name)

    def _find(self, kind: str, name: str) -> Object | None:
        where = f"/api/v1/namespaces/{self._api.namespace}/{KINDS[kind]}/{name}"
        return self._api.call("GET", where)

    def _endpoints(self, selector: Mapping[str, str]) -> list[str]:
        """The addresses of the ready pods with these labels."""
        return [
            run.ip
            for run in list(self._runs.values())
            if run.ready and not run.ending and selector.items() <= Pod.of(run.pod).labels.items()
        ]
