"""The gate that looks at pods, on the real API server: a rolling restart, a version that ends."""

from datetime import timedelta

from estate.config import GateConfig
from rehearsal.children import wait_until
from tests.cluster.conftest import Namespace
from tests.cluster.kubelet import Kubelet
from tests.cluster.manifests import variable, web
from tests.rollout.test_pod_health import Soak

LIMIT_S = 40.0
GATE = GateConfig(
    name="pods", kind="pods", max=1, deployments=["web"], grace=timedelta(seconds=60)
)  # fmt: skip


def test_a_rolling_restart_passes_and_a_version_that_ends_fails_with_its_reason(
    namespace: Namespace, kubelet: Kubelet
) -> None:
    cluster = namespace.cluster
    soak, verdicts = Soak(cluster), list[str]()

    def complete() -> bool:
        verdicts.append(soak.look(after_s=1.0, gate=GATE).verdict)
        return cluster.deployment("web").complete

    cluster.apply(web(replicas=2))
    assert wait_until(complete, LIMIT_S)
    assert soak.look(gate=GATE).reason == "2 pods are ready"
    cluster.apply(web(replicas=2, env=[variable("VERSION", "2")]))
    assert wait_until(complete, LIMIT_S)
    assert soak.look(gate=GATE).verdict == "pass"
    assert "fail" not in verdicts
    says = ["/bin/sh", "-c", "echo out of paper; exit 3"]
    cluster.apply(web(replicas=2, command=says))

    def failed() -> bool:
        return bool(soak.look(after_s=1.0, gate=GATE).verdict == "fail")

    assert wait_until(failed, LIMIT_S)
    assert "ends with 3 each time it starts" in soak.look(after_s=1.0, gate=GATE).reason
