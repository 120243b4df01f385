"""One pod as a process: started, probed, started again, ended with its grace period."""

import contextlib
import http.client
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from estate.cluster import ClusterChanged, ClusterUnreachable, Object
from estate.cluster.api import MERGE, Api
from rehearsal.children import Child, Children, write_whole
from tests.cluster.podspec import Surroundings, Unresolved, arguments, container_of, files, mounts
from tests.cluster.podspec import environment as variables

if TYPE_CHECKING:
    from tests.cluster.podspec import Find

TICK_S = 0.05
RETRY_S = 0.3
BACKOFF_S, LONGEST_BACKOFF_S = 0.5, 10.0
CONDITIONS = ("Initialized", "Ready", "ContainersReady", "PodScheduled")
# An image whose name contains this word cannot be had.
MISSING = "missing"


@dataclass(frozen=True)
class Ended:
    """How a container's process ended. `asked`: it was told to; `killed`: its grace was over."""

    pod: str
    exit_code: int
    asked: bool
    killed: bool
    seconds: float


@dataclass(frozen=True)
class Node:
    """What the pods of one kubelet share. `pace`: real seconds to one second of a probe."""

    name: str
    api: Api
    children: Children
    directory: Path
    working_directory: Path
    images: Mapping[str, Sequence[str]]
    environment: Mapping[str, str]
    find: "Find"
    hosts: Callable[[], Mapping[str, str]]
    held: Callable[[str], bool]
    pace: float
    ended: list[Ended] = field(default_factory=list)


class Probe:
    """An HTTP probe: counts answers until they say something else than before."""

    def __init__(self, wanted: Object | None, container: Object, ip: str, pace: float) -> None:
        self._wanted, self._ip, self._pace = wanted or {}, ip, pace
        self._ports = {p.get("name"): p["containerPort"] for p in container.get("ports", [])}
        self._next, self._good, self._bad = 0.0, 0, 0
        self.passing: bool | None = None if wanted else True
        self.problem = ""

    def begin(self) -> None:
        """The container has started."""
        self._next = time.monotonic() + self._wanted.get("initialDelaySeconds", 0) * self._pace

    def look(self) -> None:
        """Ask, when it is time."""
        if not self._wanted or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._wanted.get("periodSeconds", 10) * self._pace
        good = self._ask()
        self._good, self._bad = (self._good + 1, 0) if good else (0, self._bad + 1)
        if self._good >= self._wanted.get("successThreshold", 1):
            self.passing = True
        elif self._bad >= self._wanted.get("failureThreshold", 3):
            self.passing = False

    def _ask(self) -> bool:
        get = self._wanted["httpGet"]
        port = self._ports.get(get["port"], get["port"])
        limit = self._wanted.get("timeoutSeconds", 1)
        with contextlib.closing(http.client.HTTPConnection(self._ip, port, timeout=limit)) as wire:
            try:
                wire.request("GET", get.get("path", "/"))
                status = wire.getresponse().status
                self.problem = f"HTTP probe failed with statuscode: {status}"
                return 200 <= status < 400
            except (OSError, http.client.HTTPException) as error:
                self.problem = str(error) or type(error).__name__
                return False


class PodRun(threading.Thread):
    """The life of one pod."""

    def __init__(self, pod: Object, ip: str, node: Node) -> None:
        super().__init__(name=f"pod {pod['metadata']['name']}", daemon=True)
        self.pod, self.ip, self._node = pod, ip, node
        self.name_of_pod: str = pod["metadata"]["name"]
        self.ready = False
        self._grace: float | None = None
        self._told = threading.Event()
        self._abandoned = threading.Event()
        self._restarts = 0
        self._state: Object = {"waiting": {"reason": "ContainerCreating"}}
        self._last: Object = {}
        self._phase = "Pending"
        self._since: dict[str, tuple[bool, str]] = {}
        self._reported: Object | None = None
        self._retry_at = 0.0
        self._around = Surroundings(pod, ip, mounts(pod, self.directory), node.hosts(), node.find)

    @property
    def directory(self) -> Path:
        """Where its volumes are."""
        return self._node.directory / self.name_of_pod

    @property
    def ending(self) -> bool:
        """Whether it was told to end."""
        return self._told.is_set()

    @property
    def started(self) -> bool:
        """Whether its program was started, and has not ended for good."""
        return self._phase == "Running"

    def told_to_end(self, grace_s: float) -> None:
        """The API server has marked it for deletion."""
        self._grace = grace_s
        self._told.set()

    def abandon(self) -> None:
        """End without a word to the API server."""
        self._abandoned.set()
        self.told_to_end(0.0)

    def write_files(self) -> None:
        """Bring its volumes to what ConfigMaps and Secrets say now. Raises Unresolved."""
        for volume, texts in files(self.pod, self._node.find):
            place = self.directory / volume
            place.mkdir(parents=True, exist_ok=True)
            for name, text in texts.items():
                path = place / name
                if not path.exists() or path.read_text(encoding="utf-8") != text:
                    write_whole(path, text)
            for path in place.iterdir():
                if path.name not in texts and texts:
                    path.unlink()

    def run(self) -> None:
        """Until it is gone."""
        try:
            self._live()
        finally:
            self.ready = False
            if not self._abandoned.is_set():
                self._gone()

    def _live(self) -> None:
        self._report()
        backoff = BACKOFF_S
        while not self._told.is_set():
            if self._may_start():
                began = time.monotonic()
                code = self._run_once()
                if self._told.is_set():
                    return
                if self._finished(code):
                    self._wait(None)
                    return
                if time.monotonic() - began > 2 * LONGEST_BACKOFF_S:
                    backoff = BACKOFF_S
                told = f"back-off {backoff:g}s restarting failed container"
                self._state = {"waiting": {"reason": "CrashLoopBackOff", "message": told}}
                self._restarts += 1
                self._wait(backoff)
                backoff = min(2 * backoff, LONGEST_BACKOFF_S)
            else:
                self._wait(RETRY_S)

    def _may_start(self) -> bool:
        """Whether everything that the container needs is there; else its state says what is not."""
        image = container_of(self.pod)["image"]
        if MISSING in image:
            told = f'failed to pull image "{image}": not found'
            self._state = {"waiting": {"reason": "ErrImagePull", "message": told}}
            return False
        if self._node.held(self.name_of_pod):
            return False
        try:
            self.write_files()
            variables(container_of(self.pod), self._around)
        except Unresolved as lacking:
            why = {"reason": "CreateContainerConfigError", "message": str(lacking)}
            self._state = {"waiting": why}
            return False
        except ClusterUnreachable:
            return False
        return True

    def _run_once(self) -> int:
        """One process, from its start to its end. Returns its exit code."""
        container = container_of(self.pod)
        readiness, liveness = (
            Probe(container.get(kind), container, self.ip, self._node.pace)
            for kind in ("readinessProbe", "livenessProbe")
        )
        child = self._node.children.start(
            self.name_of_pod,
            arguments(container, self._node.images, self._around),
            environment={**self._node.environment, **variables(container, self._around)},
            directory=self._node.working_directory,
        )
        self._phase, self._state = "Running", {"running": {"startedAt": _now()}}
        readiness.begin()
        liveness.begin()
        began, said = time.monotonic(), ""
        while child.ended() is None and not self._told.is_set():
            readiness.look()
            liveness.look()
            if readiness.passing is False and readiness.problem != said:
                said = readiness.problem
                self._say("Unhealthy", f"Readiness probe failed: {said}")
            self.ready = bool(readiness.passing)
            self._report()
            if liveness.passing is False:
                break
            self._told.wait(TICK_S)
        asked = self._told.is_set()
        killed = self._end(child)
        self.ready = False
        code = child.process.wait()
        seconds = time.monotonic() - began
        self._node.ended.append(Ended(self.name_of_pod, code, asked, killed, seconds))
        # What a process has started itself goes with it, as with a container.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        self._node.children.stop(self.name_of_pod)
        shown = code if code >= 0 else 128 - code
        ended = {"exitCode": shown, "reason": "Error" if shown else "Completed"}
        times = {"startedAt": _now(), "finishedAt": _now()}
        self._last = {"terminated": {**ended, **times, "message": child.last_words()[-300:]}}
        return shown

    def _end(self, child: Child) -> bool:
        """Politely, then not: whether it had to be killed."""
        if child.ended() is not None:
            return False
        spec = self.pod["spec"]
        wanted = spec.get("terminationGracePeriodSeconds", 30)
        deadline = time.monotonic() + (self._grace if self._grace is not None else wanted)
        self._before_stop()
        child.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(timeout=max(0.0, deadline - time.monotonic()))
            return False
        child.signal(signal.SIGKILL)
        return True

    def _before_stop(self) -> None:
        hook = container_of(self.pod).get("lifecycle", {}).get("preStop", {}).get("exec")
        if hook and not self._abandoned.is_set():
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(hook["command"], check=False, timeout=self._grace)

    def _finished(self, code: int) -> bool:
        """Whether a process that has ended is not to be started again, as in a Job."""
        policy = self.pod["spec"].get("restartPolicy", "Always")
        if policy == "Always" or (policy == "OnFailure" and code != 0):
            return False
        self._phase, self._state = ("Failed" if code else "Succeeded"), self._last
        return True

    def _wait(self, seconds: float | None) -> None:
        """Until it is told to end, or for so long; what is new is reported."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while deadline is None or time.monotonic() < deadline:
            self._report()
            if self._told.wait(TICK_S):
                return

    def _say(self, reason: str, message: str) -> None:
        """A warning, as `kubectl describe` shows it."""
        metadata = self.pod["metadata"]
        about = {"kind": "Pod", "name": self.name_of_pod, "namespace": metadata["namespace"]}
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{self.name_of_pod}."},
            "involvedObject": {**about, "uid": metadata["uid"]},
            "type": "Warning",
            "reason": reason,
            "message": message,
            "firstTimestamp": _now(),
            "lastTimestamp": _now(),
        }
        with contextlib.suppress(ClusterUnreachable):
            path = f"/api/v1/namespaces/{metadata['namespace']}/events"
            self._node.api.call("POST", path, body=event)

    def _report(self) -> None:
        """Tell the API server, if there is news; again later while it is away."""
        status = self._status()
        if status == self._reported or time.monotonic() < self._retry_at:
            return
        path = f"/api/v1/namespaces/{self._node.api.namespace}/pods/{self.name_of_pod}/status"
        try:
            self._node.api.call("PATCH", path, body={"status": status}, content=MERGE)
            self._reported = status
        except (ClusterUnreachable, ClusterChanged):
            self._retry_at = time.monotonic() + RETRY_S

    def _status(self) -> Object:
        container = container_of(self.pod)
        state = {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": self.ready,
            "started": "running" in self._state,
            "restartCount": self._restarts,
            "state": {"waiting": None, "running": None, "terminated": None, **self._state},
            "lastState": self._last,
        }
        self._since.setdefault("started", (True, _now()))
        return {
            "phase": self._phase,
            "hostIP": "127.0.0.1",
            "podIP": self.ip,
            "podIPs": [{"ip": self.ip}],
            "startTime": self._since["started"][1],
            "conditions": [self._condition(kind) for kind in CONDITIONS],
            "containerStatuses": [state],
        }

    def _condition(self, kind: str) -> Object:
        true = self.ready or kind in ("Initialized", "PodScheduled")
        if self._since.get(kind, (None, ""))[0] is not true:
            self._since[kind] = (true, _now())
        changed = self._since[kind][1]
        return {"type": kind, "status": str(true), "lastTransitionTime": changed}

    def _gone(self) -> None:
        """Nothing is left of it: the API server may forget it."""
        path = f"/api/v1/namespaces/{self._node.api.namespace}/pods/{self.name_of_pod}"
        uid = self.pod["metadata"]["uid"]
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        while not self._abandoned.is_set():
            try:
                self._node.api.call("DELETE", path, body=body)
                return
            except ClusterUnreachable:
                self._abandoned.wait(RETRY_S)
            except ClusterChanged:
                return  # another pod of this name


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
