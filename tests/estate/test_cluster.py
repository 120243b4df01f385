"""How a cluster is reached, and what is said when it is not."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from estate.cluster import (
    DEPLOYMENT,
    ClusterConfigInvalid,
    ClusterUnreachable,
    KubernetesCluster,
)
from estate.cluster.api import Api
from estate.config import ClusterConfig


def kubeconfig(path: Path, **namespaces: str) -> Path:
    """One context for each namespace, at an address where nobody listens; the first is active."""
    contexts = [
        {"name": name, "context": {"cluster": "c", "user": "u", "namespace": namespace}}
        for name, namespace in namespaces.items()
    ]
    data = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"token": "t0ken"}}],
        "contexts": contexts,
        "current-context": contexts[0]["name"],
    }
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def test_the_namespace_is_the_one_given_else_that_of_the_context(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", one="shop", two="office")

    def namespace(**given: str) -> str:
        return KubernetesCluster.of(ClusterConfig(kubeconfig=path, **given)).namespace

    assert namespace() == "shop"
    assert namespace(context="two") == "office"
    assert namespace(context="two", namespace="attic") == "attic"


def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", one="shop")
    cluster = KubernetesCluster.of(ClusterConfig(kubeconfig=path))
    with pytest.raises(ClusterUnreachable, match=r"https://127\.0\.0\.1:1 does not answer"):
        cluster.get(DEPLOYMENT, "web")


@pytest.mark.parametrize("text", ["", "{", "kind: Config"])
def test_a_kubeconfig_that_cannot_be_read_is_told_as_that(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ClusterConfigInvalid):
        KubernetesCluster.of(ClusterConfig(kubeconfig=path))
    with pytest.raises(ClusterConfigInvalid):
        KubernetesCluster.of(ClusterConfig(kubeconfig=tmp_path / "nowhere"))


def test_a_context_that_is_not_there_is_told_as_that(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", one="shop")
    with pytest.raises(ClusterConfigInvalid, match="attic"):
        KubernetesCluster.of(ClusterConfig(kubeconfig=path, context="attic"))


def test_a_page_in_place_of_an_answer_is_a_cluster_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy's sign-in page comes with code 200."""
    cluster = KubernetesCluster.of(
        ClusterConfig(kubeconfig=kubeconfig(tmp_path / "config", one="shop"))
    )
    page = SimpleNamespace(status=200, data=b"<html>Please sign in</html>")
    monkeypatch.setattr(Api, "_send", lambda *_: page)
    with pytest.raises(ClusterUnreachable, match="200, and no answer of a cluster: <html>Please"):
        cluster.get(DEPLOYMENT, "web")
