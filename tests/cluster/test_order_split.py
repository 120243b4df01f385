"""The nine days in minutes, on the cluster: the whole story of a rehearsal, with services and
gateways as pods, and flags that reach the gateways one by one. Customers shop throughout."""

from pathlib import Path

import pytest

from rehearsal.run import Options, Run
from rehearsal.scene import Scene
from rehearsal.view import view_for
from tests.cluster.conftest import Namespace
from tests.cluster.estate import ClusterEstate
from tests.cluster.kubelet import Kubelet

SOAK_S = 8.0


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("driver", ["environment", "config-map"])
def test_the_whole_split_with_flags_that_come_pod_by_pod(
    namespace: Namespace, kubelet: Kubelet, tmp_path: Path, driver: str
) -> None:
    directory = tmp_path / "estate"
    estate = ClusterEstate(
        directory, namespace.cluster, kubelet, namespace.kubeconfig, driver, soak_s=SOAK_S
    )
    options = Options(
        carts=2_000,
        returns=400,
        shoppers=32,
        soak_s=SOAK_S,
        seed=1,
        out=directory,
        keep=False,
        least_writes=150,
    )
    scene = Scene("cluster")
    try:
        with view_for(scene) as view:
            certificate = Run(options, estate, scene, view).whole()
    finally:
        estate.stop()
    assert certificate["result"] == "pass", certificate["reasons"]
    steps = [(step["domain"], step["to"]) for step in certificate["steps"]]
    assert len(steps) == 10
    assert all(step["moving_ms"] > 0 for step in certificate["steps"])
    (rolled_back, _) = certificate["rollbacks"]
    assert rolled_back["seconds_until_the_old_side_serves_everybody"] < 5
