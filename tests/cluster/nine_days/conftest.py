"""One split for each way to tell gateways; its customers shop throughout.

In CI it is the ConfigMap, whose steps are quick. By hand, all of them: see docs/nine-days.md.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rehearsal.postgres import FASTEST
from tests.cluster import binaries
from tests.cluster.conftest import IMAGES, ROOT, new_namespace
from tests.cluster.estate import (
    ClusterEstate,
    EnvironmentEstate,
    FencedEstate,
    MountedEstate,
    UnfencedEstate,
)
from tests.cluster.kubelet import Kubelet
from tests.cluster.nine_days.ground import SOAK_S, NineDays
from tests.cluster.server import Server
from tests.receiver import receiving

DRIVERS: dict[str, type[ClusterEstate]] = {
    "config-map": MountedEstate,
    "environment": EnvironmentEstate,
    "admin": FencedEstate,
}


@pytest.fixture(
    scope="package",
    params=[
        "config-map",
        pytest.param("environment", marks=pytest.mark.faults),
        pytest.param("admin", marks=pytest.mark.faults),
    ],
)
def built(
    request: pytest.FixtureRequest, api_server: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NineDays]:
    """A split at 0 % with customers at work, built once for each driver."""
    directory = tmp_path_factory.mktemp(f"nine-days-{request.param}")
    with new_namespace(api_server, directory) as namespace, receiving() as receiver:
        kubelet = Kubelet(
            namespace.api, directory / "kubelet", working_directory=ROOT, images=IMAGES
        )
        kubelet.start()
        estate = DRIVERS[request.param](
            directory / "estate",
            namespace.cluster,
            kubelet,
            namespace.kubeconfig,
            soak_s=SOAK_S,
            settings={**FASTEST, "shared_buffers": "32MB"},
        )
        out = os.environ.get("SPLITCTL_NINE_DAYS")
        ours = binaries.other_cluster() is None
        server: Server | None = request.getfixturevalue("own_server") if ours else None
        split = NineDays(estate, server, receiver, Path(out) if out else None)
        try:
            split.begin()
            yield split
        finally:
            if split.discovery is not None:
                split.discovery.stop()
            estate.stop()
            kubelet.stop()


@pytest.fixture
def ground(built: NineDays) -> Iterator[NineDays]:
    """The split at 0 %, with customers at work. After the test nothing was lost."""
    built.failed_before = None
    yield built
    built.type("rollback")
    built.customers_leave()
    try:
        built.whole()
        if built.failed_before is not None:
            assert built.failures()[built.failed_before :] == []
    finally:
        built.customers_come()


@pytest.fixture
def unharmed(ground: NineDays) -> NineDays:
    """A ground on which no customer may meet an error."""
    ground.failed_before = len(ground.failures())
    return ground


@pytest.fixture
def written(unharmed: NineDays) -> NineDays:
    """The same, where flags stand in the cluster."""
    if not isinstance(unharmed.estate, UnfencedEstate):
        pytest.skip("flags of this driver do not stand in the cluster")
    return unharmed


@pytest.fixture
def server(written: NineDays) -> Server:
    """The API server, to do harm to it."""
    if written.server is None:
        pytest.skip("the API server is somebody else's")
    return written.server
