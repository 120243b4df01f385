"""A real API server for the tests of this folder, and pods as processes.

`api_server` (session): the kubeconfig of its administrator, started once. SPLITCTL_TEST_KUBECONFIG
    names another cluster instead: one without kubelets, whose scheduler would be in the way.
`own_server` (session): the server that is started, for tests that do harm to it.
`namespace`: a new namespace as a `Namespace`: `.name`, `.api`, `.cluster` (as the administrator),
    `.cluster_as(account)`, `.kubeconfig_of(account)`. It is deleted after the test.
`kubelet`: runs the pods of that namespace, see `tests.cluster.kubelet`; `new_kubelet(...)` makes
    one with other settings.
`deployment_config`: a function that writes a configuration of that namespace, with an empty ledger.
"""

import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from estate.cluster import KubernetesCluster, Object
from estate.cluster.api import Api
from estate.config import ClusterConfig, Config, load
from rehearsal.children import wait_until
from rehearsal.postgres import Server as PostgresServer
from tests.cluster import binaries
from tests.cluster.kubelet import Kubelet
from tests.cluster.server import Server, account_kubeconfig, open_api
from tests.conftest import ConfigWriter, drop_database
from tests.rollout.conftest import DOMAIN, NOWHERE

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NAMESPACES = "/api/v1/namespaces"
IMAGES = {
    f"splitctl/{name}": (sys.executable, "-m", f"services.{name}")
    for name in ("gateway", "order", "checkout", "returns", "jobs", "partners")
} | {"splitctl/splitctl": (sys.executable, "-m", "splitctl")}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One cluster for all of these tests, however many processes share out the others.

    First, for what shares them out reads the groups then.
    """
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.xdist_group("tests/cluster"))
            # The first of them may wait for the build.
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(binaries.BUILD_S + 300))


@pytest.fixture(scope="session")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The API server that only these tests use."""
    binaries.await_build()
    if lacking := binaries.missing():
        pytest.skip(f"no {', '.join(lacking)} in {binaries.directory()}: make system builds them")
    server = Server(tmp_path_factory.mktemp("cluster"), binaries.directory())
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def api_server(request: pytest.FixtureRequest) -> Path:
    """The kubeconfig of the administrator."""
    other = binaries.other_cluster()
    if other is not None:
        return other
    server: Server = request.getfixturevalue("own_server")
    return server.kubeconfig


@dataclass(frozen=True)
class Namespace:
    """A namespace of one test, as the administrator sees it."""

    name: str
    kubeconfig: Path
    directory: Path

    @property
    def api(self) -> Api:
        """A connection of its own."""
        return open_api(self.kubeconfig, self.name)

    @property
    def cluster(self) -> KubernetesCluster:
        """What the tool would work with, if it were the administrator."""
        return KubernetesCluster(self.api)

    def kubeconfig_of(self, account: str) -> Path:
        """The kubeconfig of a service account."""
        path = self.directory / f"{account}.kubeconfig"
        return account_kubeconfig(self.kubeconfig, self.name, account, path)

    def cluster_as(self, account: str) -> KubernetesCluster:
        """What the tool works with as a service account."""
        return KubernetesCluster.of(ClusterConfig(kubeconfig=self.kubeconfig_of(account)))


@contextmanager
def new_namespace(kubeconfig: Path, directory: Path) -> Iterator[Namespace]:
    """A new namespace in which pods may be made."""
    name = f"t-{secrets.token_hex(4)}"
    made = Namespace(name, kubeconfig, directory)
    api = made.api
    body: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    api.call("POST", NAMESPACES, body=body)
    account = f"{NAMESPACES}/{name}/serviceaccounts/default"
    assert wait_until(lambda: api.call("GET", account) is not None, 30.0)
    yield made
    api.call("DELETE", f"{NAMESPACES}/{name}")
    api.close()


@pytest.fixture
def namespace(api_server: Path, tmp_path: Path) -> Iterator[Namespace]:
    """A namespace of this test."""
    with new_namespace(api_server, tmp_path) as made:
        yield made


@pytest.fixture
def new_kubelet(namespace: Namespace, tmp_path: Path) -> Iterator[Callable[..., Kubelet]]:
    """A function that starts a kubelet with settings of its own; they end with the test."""
    made: list[Kubelet] = []

    def start(**settings: Any) -> Kubelet:
        kubelet = Kubelet(
            namespace.api,
            tmp_path / f"kubelet-{len(made)}",
            **{"working_directory": ROOT, "images": IMAGES, **settings},
        )
        made.append(kubelet)
        kubelet.start()
        return kubelet

    yield start
    for kubelet in made:
        kubelet.stop()


@pytest.fixture
def kubelet(new_kubelet: Callable[..., Kubelet]) -> Kubelet:
    """Runs the pods of the test's namespace."""
    return new_kubelet()


@pytest.fixture(scope="session")
def ledger_database(pg_servers: dict[str, PostgresServer]) -> Iterator[str]:
    """One database for the ledgers of all tests here."""
    server, name = pg_servers["order"], f"t_{secrets.token_hex(4)}_ledgers"
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    yield server.dsn(name)
    drop_database(server, name)


@pytest.fixture
def deployment_config(
    namespace: Namespace, ledger_database: str, write_config: ConfigWriter, tmp_path: Path
) -> Callable[..., Config]:
    """A function that writes a configuration of this namespace, with an empty ledger.

    deployment_config(kubeconfig=PATH, manifests=PATH, overlay="staging", limit="60s", health=[URL])
    """
    with psycopg.connect(ledger_database, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS splitctl CASCADE")

    def write(
        *,
        kubeconfig: Path | None = None,
        manifests: Path | None = None,
        overlay: str = "test",
        limit: str = "60s",
        health: Sequence[str] = (),
    ) -> Config:
        extra = f"""
[cluster]
kubeconfig = "{kubeconfig or namespace.kubeconfig}"
namespace = "{namespace.name}"
[deploy]
manifests = "{manifests or tmp_path / "deploy"}"
overlay = "{overlay}"
limit = "{limit}"
health = {list(health)!r}
"""
        return load(
            write_config(
                databases={"a": f"{NOWHERE} application_name=a", "b": NOWHERE},
                domains=DOMAIN,
                mappings={"q.sql": "SELECT id, id::text AS splitctl_route FROM t"},
                ledger=ledger_database,
                extra=extra,
            )
        )

    return write
