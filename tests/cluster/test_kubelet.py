"""Pods as processes: what the other tests of this folder stand on."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import pytest

from estate.cluster import POD, Cluster, KubernetesCluster, Pod
from rehearsal.children import wait_until
from tests.cluster.conftest import Namespace
from tests.cluster.kubelet import Kubelet
from tests.cluster.manifests import PORT, config_map, variable, web
from tests.cluster.manifests import field as from_pod

LIMIT_S = 40.0
# The protocol is part of the key, and old servers do not fill it in before they merge.
PORTS = {"port": 80, "targetPort": PORT, "protocol": "TCP"}


def ask(pod: Pod, path: str) -> str:
    """What a pod's program answers."""
    answer = httpx.get(f"http://{pod.ip}:{PORT}{path}", timeout=5.0)
    assert answer.status_code == httpx.codes.OK
    return answer.text


def pods(cluster: Cluster) -> list[Pod]:
    return cluster.pods("app=web")


def complete(cluster: Cluster) -> bool:
    return wait_until(lambda: cluster.deployment("web").complete, LIMIT_S)


@dataclass
class Watched:
    """How many pods were ready, as every change that the API server told says.

    Each is asked for a variable as soon as it is said to be ready.
    """

    cluster: KubernetesCluster
    variable: str
    fewest: int = 1000
    answers: set[str] = field(default_factory=set)
    seen: dict[str, bool] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Watched":
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()
        assert self._begun.wait(LIMIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        started = len(pods(self.cluster))
        for change in self.cluster.watch(POD, "app=web", limit_s=LIMIT_S):
            pod = Pod.of(change.object)
            if pod.ready and not self.seen.get(pod.name) and not pod.ending:
                self.answers.add(ask(pod, f"/env?{self.variable}"))
            self.seen[pod.name] = pod.ready and not pod.ending and change.type != "DELETED"
            if len(self.seen) >= started:
                self._begun.set()
                self.fewest = min(self.fewest, sum(self.seen.values()))
            if self._stop.is_set():
                return


def test_a_deployment_runs_as_processes_with_the_environment_it_asks_for(
    namespace: Namespace, kubelet: Kubelet
) -> None:
    cluster = namespace.cluster
    cluster.apply(config_map("colours", sky="blue", sea="green"))
    sky = {"configMapKeyRef": {"name": "colours", "key": "sky"}}
    env = [
        variable("PLAIN", "$(PORT) as is"),
        {"name": "SKY", "valueFrom": sky},
        from_pod("NAME", "metadata.name"),
    ]
    whole = [{"prefix": "C_", "configMapRef": {"name": "colours"}}]
    cluster.apply(web(env=env, envFrom=whole))
    assert complete(cluster)
    found = pods(cluster)
    assert len(found) == len({pod.ip for pod in found}) == 3
    for pod in found:
        assert pod.ready and pod.phase == "Running"
        assert ask(pod, "/env?PLAIN") == "8080 as is"
        assert ask(pod, "/env?SKY") == "blue"
        assert ask(pod, "/env?NAME") == pod.name
        assert ask(pod, "/env?C_sea") == "green"


def test_an_env_change_is_a_rolling_restart_with_every_replica_ready(
    namespace: Namespace, kubelet: Kubelet
) -> None:
    cluster = namespace.cluster
    cluster.apply(web(env=[variable("SHARE", "0")]))
    assert complete(cluster)
    before = {pod.name for pod in pods(cluster)}
    with Watched(namespace.cluster, "SHARE") as watched:
        cluster.patch_env("web", "web", {"SHARE": "10"})
        assert complete(cluster)
    after = [pod for pod in pods(cluster) if not pod.ending]
    assert {ask(pod, "/env?SHARE") for pod in after} == {"10"}
    assert before.isdisjoint(pod.name for pod in after)
    assert len(watched.seen) == 6
    assert watched.answers == {"0", "10"}
    assert watched.fewest == 3
    assert wait_until(lambda: {pod.name for pod in pods(cluster)} == {p.name for p in after}, 20.0)
    assert {ended.exit_code for ended in kubelet.ended} == {0}
    assert not any(ended.killed for ended in kubelet.ended)


def test_a_service_passes_connections_on_to_ready_pods_alone(
    namespace: Namespace, new_kubelet: Callable[..., Kubelet]
) -> None:
    cluster = namespace.cluster
    spec = {"selector": {"app": "web"}, "ports": [PORTS]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "front"}, "spec": spec}
    cluster.apply(service)
    kubelet = new_kubelet()
    env = [from_pod("NAME", "metadata.name"), variable("FRONT_URL", "http://front:80/x")]
    cluster.apply(web(env=env, replicas=2))
    assert complete(cluster)
    first, second = pods(cluster)
    assert ask(first, "/env?FRONT_URL") == f"http://{kubelet.service('front')}:80/x"
    httpx.post(f"http://{first.ip}:{PORT}/unready")
    assert wait_until(lambda: sum(pod.ready for pod in pods(cluster)) == 1, LIMIT_S)
    url = f"http://{kubelet.service('front')}/env?NAME"
    assert {httpx.get(url).text for _ in range(10)} == {second.name}


def test_a_pod_that_is_not_ready_holds_the_rollout(namespace: Namespace, kubelet: Kubelet) -> None:
    cluster = namespace.cluster
    cluster.apply(web(env=[variable("READY", "yes")], deadline_s=3))
    assert complete(cluster)
    old = {pod.name for pod in pods(cluster)}
    cluster.apply(web(env=[variable("READY", "no")], deadline_s=3))

    def given_up() -> bool:
        found = cluster.deployment("web").reasons.get("Progressing", "")
        return "ProgressDeadlineExceeded" in found

    assert wait_until(given_up, LIMIT_S)
    now = pods(cluster)
    assert {pod.name for pod in now if pod.ready} == old
    assert [pod.phase for pod in now if not pod.ready] == ["Running"]


def test_a_pod_that_does_not_end_is_killed_after_its_grace_period(
    namespace: Namespace, kubelet: Kubelet
) -> None:
    cluster = namespace.cluster
    manifest = web(replicas=1, env=[variable("STUBBORN", "1")])
    manifest["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 1
    cluster.apply(manifest)
    assert complete(cluster)
    (pod,) = pods(cluster)
    cluster.delete(POD, pod.name)
    assert [p.ending for p in pods(cluster) if p.name == pod.name] == [True]
    assert wait_until(lambda: cluster.get(POD, pod.name) is None, LIMIT_S)
    (ended,) = kubelet.ended
    assert (ended.pod, ended.killed, ended.asked) == (pod.name, True, True)


def test_a_program_that_fails_is_started_again_with_back_off(
    namespace: Namespace, kubelet: Kubelet
) -> None:
    cluster = namespace.cluster
    says = ["/bin/sh", "-c", "echo out of paper; exit 3"]
    cluster.apply(web(replicas=1, command=says))

    def looping() -> bool:
        (pod,) = pods(cluster) or (None,)
        state = pod.containers[0] if pod and pod.containers else None
        return bool(state and state.waiting == "CrashLoopBackOff" and state.restarts >= 2)

    assert wait_until(looping, LIMIT_S)
    (pod,) = pods(cluster)
    assert pod.containers[0].exit_code == 3
    assert "out of paper" in kubelet.log(pod.name)
    assert not pod.ready


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        ({"image": "tests/missing:1"}, "ErrImagePull"),
        ({"envFrom": [{"configMapRef": {"name": "nowhere"}}]}, "CreateContainerConfigError"),
    ],
)
def test_a_pod_that_cannot_start_says_why(
    namespace: Namespace, kubelet: Kubelet, container: dict[str, object], reason: str
) -> None:
    cluster = namespace.cluster
    cluster.apply(web(replicas=1, **container))

    def told() -> bool:
        return [c.waiting for pod in pods(cluster) for c in pod.containers] == [reason]

    assert wait_until(told, LIMIT_S)


def test_a_mounted_file_follows_its_config_map_and_the_environment_does_not(
    namespace: Namespace, new_kubelet: Callable[..., Kubelet]
) -> None:
    new_kubelet(sync_s=0.2)
    cluster = namespace.cluster
    cluster.apply(config_map("flags", share="0"))
    share = {"configMapKeyRef": {"name": "flags", "key": "share"}}
    env = [{"name": "SHARE", "valueFrom": share}, variable("FLAGS", "/etc/flags/share")]
    manifest = web(replicas=1, env=env, volumeMounts=[{"name": "flags", "mountPath": "/etc/flags"}])
    volume = {"name": "flags", "configMap": {"name": "flags"}}
    manifest["spec"]["template"]["spec"]["volumes"] = [volume]
    cluster.apply(manifest)
    assert complete(cluster)
    (pod,) = pods(cluster)
    path = ask(pod, "/env?FLAGS")
    assert ask(pod, f"/file?{path}") == "0"
    # As its first owner: another manager would be in conflict.
    cluster.apply(config_map("flags", share="10"))
    assert wait_until(lambda: ask(pod, f"/file?{path}") == "10", LIMIT_S)
    assert ask(pod, "/env?SHARE") == "0"


def test_a_paused_pod_keeps_a_rolling_restart_from_its_end(
    namespace: Namespace, kubelet: Kubelet
) -> None:
    cluster = namespace.cluster
    cluster.apply(web(env=[variable("SHARE", "0")], replicas=2))
    assert complete(cluster)
    old = {pod.name for pod in pods(cluster)}
    kubelet.pause(lambda name: name not in old)
    cluster.patch_env("web", "web", {"SHARE": "10"})
    assert wait_until(lambda: len(pods(cluster)) == 3, LIMIT_S)
    (stuck,) = (pod for pod in pods(cluster) if pod.name not in old)
    assert wait_until(lambda: pods(cluster)[0].containers != (), LIMIT_S)
    assert not stuck.ready
    assert not cluster.deployment("web").complete
    kubelet.go_on()
    assert complete(cluster)


def test_the_kubelet_goes_on_when_its_watch_is_cut(
    namespace: Namespace, kubelet: Kubelet, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each watch ends after a second, so that several lists and watches follow one another.
    monkeypatch.setattr("tests.cluster.kubelet.WATCH_S", 1.0)
    cluster = namespace.cluster
    cluster.apply(web(replicas=1))
    assert complete(cluster)
    for share in ("1", "2"):
        cluster.patch_env("web", "web", {"SHARE": share})
        assert complete(cluster)
        assert wait_until(lambda: len(pods(cluster)) == 1, LIMIT_S)
        assert ask(pods(cluster)[0], "/env?SHARE") == share
