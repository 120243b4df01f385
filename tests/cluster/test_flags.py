"""Flags in a real cluster: written under a manager of our own, and followed by gateways as pods."""

import time

import httpx
import pytest

from estate.cluster import ClusterConflict, Object
from estate.config import Config, load
from rehearsal.children import wait_until
from rehearsal.estate import FLAGS
from rollout.field_managers import FieldManagers
from rollout.flags import DomainFlags
from rollout.pod_templates import ClusterVersions
from rollout.pods import ConfigMapFlags, EnvironmentFlags, GatewayPods, to_environment
from rollout.versions import Seen, changes
from rollout.written import Written, settle
from tests.cluster.conftest import ROOT, Namespace
from tests.cluster.kubelet import Kubelet
from tests.cluster.manifests import PORT, config_map, field, variable

LIMIT_S = 60.0
DOMAIN = "checkout"
FOLDER = "/etc/gateway"
NOWHERE = "http://127.0.0.1:9"
WANTED = DomainFlags(True, 50, 7)


def gateways(values: dict[str, str], *, mounted: bool) -> Object:
    """A Deployment of two gateways whose services are nowhere."""
    env = [field("HOST", "status.podIP"), variable("PORT", str(PORT))]
    where = {"ORDER_URL": NOWHERE, "CHECKOUT_URL": NOWHERE, "RETURN_URL": NOWHERE}
    env += [variable(k, v) for k, v in {**where, "GATEWAY_ADMIN_TOKEN": "t", **values}.items()]
    container: Object = {
        "name": "gateway",
        "image": "splitctl/gateway:1",
        "env": env,
        "readinessProbe": {
            "httpGet": {"path": "/health/ready", "port": PORT},
            "periodSeconds": 1,
        },
    }
    spec: Object = {"terminationGracePeriodSeconds": 5, "containers": [container]}
    if mounted:
        container["volumeMounts"] = [{"name": "flags", "mountPath": FOLDER}]
        spec["volumes"] = [{"name": "flags", "configMap": {"name": "flags"}}]
    labels = {"app": "gateway"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "gateway"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def told(driver: str) -> Config:
    config = load(ROOT / "config.example.toml")
    gateway = config.gateway.model_copy(
        update={"driver": driver, "deployment": "gateway", "config_map": "flags", "port": PORT}
    )
    return config.model_copy(update={"gateway": gateway})


def settled(written: Written) -> list[str]:
    return settle(written, DOMAIN, WANTED, LIMIT_S, time.monotonic, time.sleep)


def test_variables_bring_new_pods_that_serve_them(namespace: Namespace, kubelet: Kubelet) -> None:
    cluster, config = namespace.cluster, told("environment")
    cluster.apply(gateways({}, mounted=False), manager="release")
    assert wait_until(lambda: cluster.deployment("gateway").complete, LIMIT_S)
    before = {pod.name for pod in cluster.pods("app=gateway")}
    written = EnvironmentFlags(GatewayPods(cluster, config))
    written.write(DOMAIN, WANTED)
    assert settled(written) == []
    pods = cluster.pods("app=gateway")
    assert before.isdisjoint(pod.name for pod in pods)
    for pod in pods:
        page = httpx.get(f"http://{pod.ip}:{PORT}/metrics").text
        assert 'gateway_flag_percentage{domain="checkout"} 50.0' in page
        assert 'gateway_flag_epoch{domain="checkout"} 7.0' in page


def test_flags_of_somebody_else_are_left_to_him_and_he_is_named(namespace: Namespace) -> None:
    cluster, config = namespace.cluster, told("environment")
    written = EnvironmentFlags(GatewayPods(cluster, config))
    cluster.apply(gateways(FLAGS, mounted=False), manager="argocd-controller")
    with pytest.raises(ClusterConflict, match="argocd-controller"):
        written.write(DOMAIN, WANTED)
    (sentence,) = FieldManagers(cluster, config).who(DOMAIN)
    assert "CHECKOUT_TRAFFIC_PERCENTAGE" in sentence
    assert "Argo CD puts back what stands in Git" in sentence


def test_another_image_is_told_from_a_step_and_its_author_named(namespace: Namespace) -> None:
    """As the API server defaults templates, and keeps who has set what."""
    cluster, config = namespace.cluster, told("environment")
    cluster.apply(gateways(FLAGS, mounted=True))
    cluster.apply(config_map("flags", COLOUR="red"))
    domain = config.domain(DOMAIN)
    flags = [*FLAGS, domain.epoch_name]
    runs = ClusterVersions(lambda: cluster, lambda _: ["gateway"], flags)
    before = seen(runs).to_json()
    EnvironmentFlags(GatewayPods(cluster, config)).write(DOMAIN, WANTED)
    assert changes(before, seen(runs)) == [], "a step is no other version"
    # As `deploy apply` does it: flags as they stand.
    manifest = gateways({**FLAGS, **to_environment(domain, WANTED)}, mounted=True)
    manifest["spec"]["template"]["spec"]["containers"][0]["image"] = "splitctl/gateway:2"
    cluster.apply(manifest)
    (ours,) = changes(before, seen(runs))
    assert ours.ours
    image = {"name": "gateway", "image": "splitctl/gateway:3"}
    part = {"spec": {"template": {"spec": {"containers": [image]}}}}
    kind = {key: manifest[key] for key in ("apiVersion", "kind", "metadata")}
    cluster.apply({**kind, **part}, manager="kubectl-set", force=True)
    cluster.apply(config_map("flags", COLOUR="blue"), manager="bob", force=True)
    colour, moved = changes(before, seen(runs))
    assert colour.told == "config map flags, COLOUR was changed"
    assert colour.who.startswith("it was set by bob at 20")
    image_of = "deployment gateway, container gateway, image: "
    assert moved.told == f"{image_of}splitctl/gateway:1 -> splitctl/gateway:3"
    assert moved.who.startswith("it was set by kubectl-set at 20")
    assert not moved.ours


def seen(runs: ClusterVersions) -> Seen:
    found = runs.now()
    assert found is not None
    return found


def test_a_pod_that_never_picks_it_up_is_named(namespace: Namespace, kubelet: Kubelet) -> None:
    cluster, config = namespace.cluster, told("environment")
    cluster.apply(gateways({}, mounted=False))
    assert wait_until(lambda: cluster.deployment("gateway").complete, LIMIT_S)
    written = EnvironmentFlags(GatewayPods(cluster, config))
    kubelet.pause(lambda _: True)
    written.write(DOMAIN, WANTED)
    missing = settle(written, DOMAIN, WANTED, 3.0, time.monotonic, time.sleep)
    assert any("is not ready" in line for line in missing)
    assert any("serves 0 %" in line for line in missing)
    kubelet.go_on()
    assert settled(written) == []


def test_mounted_files_are_followed_by_pods_that_stay(
    namespace: Namespace, kubelet: Kubelet
) -> None:
    cluster, config = namespace.cluster, told("config-map")
    cluster.apply(config_map("flags", **FLAGS))
    values = {"FLAGS_DIR": FOLDER, "CHECKOUT_DEFAULT": "new"}
    cluster.apply(gateways(values, mounted=True))
    assert wait_until(lambda: cluster.deployment("gateway").complete, LIMIT_S)
    before = {pod.name for pod in cluster.pods("app=gateway")}
    written = ConfigMapFlags(GatewayPods(cluster, config), "flags")
    written.write(DOMAIN, WANTED)
    assert settled(written) == []
    assert before == {pod.name for pod in cluster.pods("app=gateway")}
    # At the end of a split the first values go first, then what a step has set.
    everybody, nobody = DomainFlags(True, 100, 8), DomainFlags(True, 0, 9)
    written.write(DOMAIN, everybody)
    others = {key: text for key, text in FLAGS.items() if "RETURN" in key}
    cluster.apply(config_map("flags", **others))
    assert settle(written, DOMAIN, everybody, LIMIT_S, time.monotonic, time.sleep) == []
    written.remove(DOMAIN, everybody)
    assert cluster.config_map("flags").data == others
    assert written.stands(DOMAIN) is None
    assert written.unflagged(DOMAIN) == []
    # A rollback writes them anew.
    written.write(DOMAIN, nobody)
    assert settle(written, DOMAIN, nobody, LIMIT_S, time.monotonic, time.sleep) == []
    assert before == {pod.name for pod in cluster.pods("app=gateway")}
