"""Manifests are rendered as kustomize renders them, or refused."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from estate.cluster import Object
from rollout.manifests import ManifestsInvalid, merge, render

ROOT = Path(__file__).parents[2]
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  template:
    spec:
      containers:
        - name: web
          image: shop/web:1
          env: [{name: A, value: "1"}, {name: B, value: "2"}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An overlay `here` over a base with one Deployment."""
    write(tmp_path / "base", "web.yaml", DEPLOYMENT)
    write(tmp_path / "base", "kustomization.yaml", "resources: [web.yaml]")
    return tmp_path / "here"


def write(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")


def container(found: list[Object]) -> Object:
    (deployment,) = found
    wanted: Object = deployment["spec"]["template"]["spec"]["containers"][0]
    return wanted


def test_an_overlay_changes_replicas_images_and_what_its_patches_name(folder: Path) -> None:
    patch = yaml.safe_load(DEPLOYMENT)
    named = [{"name": "B", "value": "9"}, {"name": "C", "value": "3"}]
    patch["spec"] = {"template": {"spec": {"containers": [{"name": "web", "env": named}]}}}
    write(folder, "patch.yaml", yaml.safe_dump(patch))
    write(
        folder,
        "kustomization.yaml",
        "resources: [../base]\nnamespace: shop\nreplicas: [{name: web, count: 4}]\n"
        "images: [{name: shop/web, newName: mirror/web, newTag: '7'}]\n"
        "patches: [{path: patch.yaml}]\n",
    )
    found = render(folder, "shop")
    assert found[0]["spec"]["replicas"] == 4
    assert found[0]["metadata"]["namespace"] == "shop"
    assert container(found)["image"] == "mirror/web:7"
    values = {entry["name"]: entry["value"] for entry in container(found)["env"]}
    assert values == {"A": "1", "B": "9", "C": "3"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("resources: [../base]\nnamePrefix: x-", "namePrefix is not understood"),
        ("resources: [nowhere.yaml]", "cannot be read"),
        ("resources: [../base, ../base/web.yaml]", "Deployment web is there twice"),
        ("resources: [../base]\nnamespace: other", "is for namespace other"),
        ("resources: [../base]\nreplicas: [{name: wbe, count: 2}]", "there is no Deployment wbe"),
        ("resources: [secret.yaml]", "what is secret stands in no manifest"),
        ("resources: [odd.yaml]", "lacks apiVersion"),
        ("resources: [", "not valid YAML"),
    ],
)
def test_what_cannot_be_rendered_rightly_is_refused(folder: Path, text: str, reason: str) -> None:
    write(folder, "secret.yaml", "{apiVersion: v1, kind: Secret, metadata: {name: s}}")
    write(folder, "odd.yaml", "{kind: Deployment}")
    write(folder, "kustomization.yaml", text)
    with pytest.raises(ManifestsInvalid, match=reason):
        render(folder, "shop")


def test_services_are_applied_before_the_deployments_that_ask_for_them() -> None:
    kinds = [m["kind"] for m in render(ROOT / "deploy/overlays/staging", "shop-staging")]
    assert kinds == sorted(kinds, key=["Service", "Deployment"].index)


@pytest.mark.parametrize(
    ("overlay", "namespace"), [("staging", "shop-staging"), ("production", "shop")]
)
def test_every_shipped_program_is_probed_drained_and_limited(overlay: str, namespace: str) -> None:
    found = render(ROOT / "deploy/overlays" / overlay, namespace)
    deployments = [m for m in found if m["kind"] == "Deployment"]
    services = {m["metadata"]["name"] for m in found if m["kind"] == "Service"}
    assert {"gateway", "order", "checkout", "returns"} <= services
    for deployment in deployments:
        (program,) = deployment["spec"]["template"]["spec"]["containers"]
        assert program["readinessProbe"]["httpGet"]
        assert program["resources"]["limits"]["memory"]
        assert not program["image"].endswith(":latest")
        assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        if deployment["metadata"]["name"] in services:
            assert program["lifecycle"]["preStop"]
    gateway = next(m for m in deployments if m["metadata"]["name"] == "gateway")
    assert gateway["spec"]["replicas"] == 3


def test_a_component_changes_what_is_there_and_is_changed_by_the_overlay(folder: Path) -> None:
    end = yaml.safe_load(DEPLOYMENT)
    env = [{"name": "A", "$patch": "delete"}, {"name": "C", "value": "3"}]
    end["spec"] = {"template": {"spec": {"containers": [{"name": "web", "env": env}]}}}
    write(folder, "kustomization.yaml", "resources: [../base]\nnamespace: shop\n")
    write(folder / "end", "patch.yaml", yaml.safe_dump(end))
    write(folder / "end", "more.yaml", DEPLOYMENT.replace("name: web", "name: beside"))
    text = "kind: Component\nresources: [more.yaml]\npatches: [{path: patch.yaml}]\n"
    write(folder / "end", "kustomization.yaml", text)
    asked = render(folder, "shop", ["end"])
    assert [m["metadata"] for m in asked] == [
        {"name": "web", "namespace": "shop"},
        {"name": "beside", "namespace": "shop"},
    ]
    assert container(asked[:1])["env"] == [
        {"name": "C", "value": "3"},
        {"name": "B", "value": "2"},
    ]
    text = "resources: [../base]\nnamespace: shop\ncomponents: [end]\n"
    write(folder, "kustomization.yaml", text)
    assert render(folder, "shop") == render(folder, "shop", ["end"]) == asked


ENDS = {"checkout": "CHECKOUT", "return": "RETURN"}


@pytest.mark.parametrize("domains", [["checkout"], ["return"], ["checkout", "return"]])
@pytest.mark.parametrize(
    ("overlay", "namespace"), [("staging", "shop-staging"), ("production", "shop")]
)
def test_a_shipped_end_takes_one_domains_flags_and_code_and_keeps_the_old_code_beside(
    overlay: str, namespace: str, domains: list[str]
) -> None:
    folder = ROOT / "deploy/overlays" / overlay
    before = {m["metadata"]["name"]: m for m in deployments(render(folder, namespace))}
    ends = [f"finished/{domain}" for domain in domains]
    after = {m["metadata"]["name"]: m for m in deployments(render(folder, namespace, ends))}
    beside = {f"order-with-{domain}" for domain in domains}
    assert after.keys() - before.keys() == beside
    assert {n for n in before if before[n] != after[n]} == {"gateway", "order"}
    gateway, order = (values_of(after[name]) for name in ("gateway", "order"))
    for domain, word in ENDS.items():
        flags = {f"USE_{word}_SERVICE", f"{word}_TRAFFIC_PERCENTAGE"}
        gone = domain in domains
        assert flags.isdisjoint(gateway) if gone else flags <= gateway.keys()
        assert gateway.get(f"{word}_DEFAULT") == ("new" if gone else None)
        assert order.get(f"{word}_MOVED") == ("true" if gone else None)
    for name in beside:
        # The order service as it was, in all but its name.
        as_it_was = yaml.safe_dump(before["order"]).replace("order-split", "the split")
        there = (
            yaml.safe_dump(after[name]).replace(name, "order").replace("order-split", "the split")
        )
        assert same(there) == same(as_it_was)
        assert gateway[f"{ENDS[name.removeprefix('order-with-')]}_OLD_URL"] == f"http://{name}:8080"


@pytest.mark.parametrize(
    ("overlay", "namespace"), [("staging", "shop-staging"), ("production", "shop")]
)
def test_a_release_of_the_old_service_leaves_the_old_code_beside_as_it_was(
    tmp_path: Path, overlay: str, namespace: str
) -> None:
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    folder = tmp_path / "deploy/overlays" / overlay
    path, entry = folder / "kustomization.yaml", "{name: splitctl/order, newTag: 0.1.0}"
    text = path.read_text(encoding="utf-8")
    assert entry in text
    path.write_text(text.replace(entry, entry.replace("0.1.0", "0.2.0")), encoding="utf-8")
    ends = [f"finished/{domain}" for domain in ENDS]
    images = {
        m["metadata"]["name"]: container([m])["image"]
        for m in deployments(render(folder, namespace, ends))
    }
    assert images["order"] == "splitctl/order:0.2.0"
    assert {images[f"order-with-{domain}"] for domain in ENDS} == {"splitctl/order:0.1.0"}


def test_the_image_of_the_tool_has_the_manifests_that_the_example_names() -> None:
    example = (ROOT / "config.example.toml").read_text(encoding="utf-8")
    (folder,) = re.findall(r'^# manifests = "(.+)"$', example, re.MULTILINE)
    stage = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8").split("\nFROM ")[-1]
    assert stage.startswith("locked AS splitctl\n")
    assert f"COPY {folder} {folder}" in stage.splitlines()


def deployments(found: list[Object]) -> list[Object]:
    return [manifest for manifest in found if manifest["kind"] == "Deployment"]


def values_of(deployment: Object) -> dict[str, str | None]:
    return {entry["name"]: entry.get("value") for entry in container([deployment])["env"]}


def same(text: str) -> Object:
    """A Deployment whose variables have an order."""
    found: Object = yaml.safe_load(text)
    container([found])["env"].sort(key=lambda entry: entry["name"])
    return found


values = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.sampled_from(["env", "a", "b"]), values, max_size=3).filter(
    lambda o: "env" not in o
)
items = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from("xyz"), "value": st.integers()}),
    unique_by=lambda item: item["name"],
    max_size=3,
)


@given(objects, items, objects, items)
def test_a_patch_holds_afterwards_and_twice_is_once(
    base: Object, env: list[Object], change: Object, wanted: list[Object]
) -> None:
    once = merge({**base, "env": env}, {**change, "env": wanted})
    again = merge(once, {**change, "env": wanted})
    assert again == once
    values = {item["name"]: item["value"] for item in once["env"]}
    before = {item["name"]: item["value"] for item in env}
    assert values == {**before, **{item["name"]: item["value"] for item in wanted}}
    assert merge({**base, "env": env}, {}) == {**base, "env": env}


def test_the_base_behind_a_route_has_services_that_pass_on_and_no_gateways(folder: Path) -> None:
    write(folder, "kustomization.yaml", f"resources: [{ROOT / 'deploy/http-route'}]\n")
    found = {(one["kind"], one["metadata"]["name"]): one for one in render(folder, "shop")}
    assert found["Deployment", "gateway"]["spec"]["replicas"] == 0
    services = {"order": "old", "checkout": "new", "returns": "new"}
    for name, side in services.items():
        (container_of,) = found["Deployment", name]["spec"]["template"]["spec"]["containers"]
        values = {entry["name"]: entry.get("value") for entry in container_of["env"]}
        assert values["OWNER_SIDE"] == side
        for entry in values["PASS_ON"].split(","):
            target = entry.split("http://")[1].removesuffix(":8080")
            assert services[target] != side
    rules = found["HTTPRoute", "shop"]["spec"]["rules"]
    weights = [{b["name"]: b.get("weight") for b in rule["backendRefs"]} for rule in rules]
    assert weights == [{"order": 100, "checkout": 0}, {"order": 100, "returns": 0}, {"order": None}]
