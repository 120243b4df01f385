"""The nine days in minutes, on the cluster: services and gateways as pods, flags that reach the
gateways one by one, up to 100 % and back in one command. Customers shop throughout.

The phase of 50 % is left out: each is a rolling restart a domain, and it takes minutes as it is.
"""

from pathlib import Path

import pytest

from rehearsal.run import Options, Run
from rehearsal.scene import Scene
from rehearsal.story import Story
from rehearsal.view import view_for
from tests.cluster.conftest import Namespace
from tests.cluster.estate import EnvironmentEstate
from tests.cluster.kubelet import Kubelet

SOAK_S = 5.0
# The new side serves everybody when all of them are called back.
WAY_UP = (10, 100)


class TwoPhases(EnvironmentEstate):
    """Each phase is a rolling restart of all gateways for each domain."""

    def _write_config(self) -> None:
        super()._write_config()
        text = self.config.read_text(encoding="utf-8")
        between = f'{{ percentage = 50, soak = "{SOAK_S:g}s" }}, '
        assert between in text
        self.config.write_text(text.replace(between, ""), encoding="utf-8")


class UpAndBack(Story):
    """Up to the last phase, and back."""

    def tell(self) -> None:
        """The story. Raises CommandFailed or EvidenceMissing."""
        self.prepare()
        self.ascend(WAY_UP)
        self.fall_back()


@pytest.mark.rehearsal
@pytest.mark.timeout(1200)
def test_up_to_100_and_back_with_flags_that_come_pod_by_pod(
    namespace: Namespace, kubelet: Kubelet, tmp_path: Path
) -> None:
    directory = tmp_path / "estate"
    estate = TwoPhases(directory, namespace.cluster, kubelet, namespace.kubeconfig, soak_s=SOAK_S)
    options = Options(
        carts=1_000,
        returns=200,
        shoppers=32,
        soak_s=SOAK_S,
        seed=1,
        out=directory,
        keep=False,
        least_writes=100,
    )
    scene = Scene("cluster")
    try:
        with view_for(scene) as view:
            certificate = Run(options, estate, scene, view, UpAndBack).whole()
    finally:
        estate.stop()
    assert certificate["result"] == "pass", certificate["reasons"]
    steps = [(step["domain"], step["to"]) for step in certificate["steps"]]
    assert steps == [(domain, to) for to in WAY_UP for domain in ("checkout", "return")]
    # Neither side took those who moved for a moment, and each found his way.
    assert all(step["moving_ms"] > 0 for step in certificate["steps"])
    for back in certificate["rollbacks"]:
        served = back["seconds_until_the_old_side_serves_everybody"]
        assert served < back["seconds_until_every_gateway_serves_it"]
