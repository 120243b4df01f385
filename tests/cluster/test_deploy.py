"""`splitctl deploy` on the real API server: the shipped manifests and rights, and the reasons."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml
from typer.testing import CliRunner

from estate.cluster import (
    CONFIG_MAP,
    DEPLOYMENT,
    FLAGS_MANAGER,
    POD,
    Cluster,
    ClusterConflict,
    ClusterForbidden,
    FieldOwner,
    Kind,
    KubernetesCluster,
    Object,
)
from estate.config import Config
from estate.errors import ExitCode
from estate.ledger import open_ledger
from rehearsal.children import wait_until
from rehearsal.estate import apply_migrations
from rollout import deploy, permissions
from rollout.deploy import Site
from splitctl.main import app
from tests.cluster.conftest import ROOT, Namespace
from tests.cluster.kubelet import Kubelet
from tests.cluster.manifests import PORT, config_map, variable, web
from tests.conftest import FreshDatabase
from tests.pages.commands import commands

MakeConfig = Callable[..., Config]
ROLE = Kind("rbac.authorization.k8s.io/v1", "Role")
SERVICE = Kind("v1", "Service")
LIMIT_S = 40.0


def shipped_rights(namespace: Namespace, *, without: tuple[str, str, str] | None = None) -> Path:
    """What an administrator applies; all but one verb. The tool's kubeconfig, once it counts."""
    documents = yaml.safe_load_all((ROOT / "deploy/base/rbac.yaml").read_text(encoding="utf-8"))
    for manifest in documents:
        for subject in manifest.get("subjects", []):
            subject["namespace"] = namespace.name
        if manifest["kind"] == "Role" and without is not None:
            manifest["rules"] = list(reduced(manifest["rules"], *without))
        namespace.cluster.apply(manifest)
    tool = namespace.cluster_as("splitctl")

    def counts() -> bool:
        lacking = [(m.rule.group, m.rule.resource, m.verb) for m in permissions.missing(tool)]
        return lacking == ([without] if without else [])

    assert wait_until(counts, LIMIT_S)
    return namespace.kubeconfig_of("splitctl")


def reduced(rules: list[Object], group: str, resource: str, verb: str) -> Any:
    """The same rules without one verb on one resource."""
    for rule in rules:
        for one in rule["resources"]:
            left = [
                v for v in rule["verbs"] if (rule["apiGroups"], one, v) != ([group], resource, verb)
            ]
            if left:
                yield {"apiGroups": rule["apiGroups"], "resources": [one], "verbs": left}


def write(config: Config, *objects: Object) -> None:
    assert config.deploy is not None
    folder = config.deploy.manifests / "overlays" / "test"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kustomization.yaml").write_text("resources: [all.yaml]", encoding="utf-8")
    (folder / "all.yaml").write_text(yaml.safe_dump_all(objects), encoding="utf-8")


def service(port: int = 80) -> Object:
    ports = [{"port": port, "targetPort": PORT, "protocol": "TCP"}]
    spec = {"selector": {"app": "web"}, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec}


def splitctl(config: Config, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "splitctl", *arguments, "--config", str(config.path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def secret(cluster: Cluster, name: str, **data: str) -> None:
    head = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}}
    cluster.apply({**head, "stringData": data})


@pytest.mark.timeout(400)
def test_the_shipped_manifests_come_up_with_the_shipped_rights_and_sell_something(
    namespace: Namespace,
    new_kubelet: Callable[..., Kubelet],
    deployment_config: MakeConfig,
    fresh_databases: dict[str, FreshDatabase],
    tmp_path: Path,
) -> None:
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    overlay = tmp_path / "deploy/overlays/staging/kustomization.yaml"
    text = overlay.read_text(encoding="utf-8")
    overlay.write_text(text.replace("shop-staging", namespace.name), encoding="utf-8")
    folders = {"order": "order", "checkout": "checkout", "return": "returns"}
    for name, folder in folders.items():
        apply_migrations(ROOT / "services" / folder / "migrations", fresh_databases[name].dsn)
        secret(namespace.cluster, f"{name}-db", url=url(fresh_databases[name]))
    secret(namespace.cluster, "gateway-admin", token="t0ken")
    kubelet = new_kubelet(pace=1.0)
    config = deployment_config(
        kubeconfig=shipped_rights(namespace), overlay="staging", limit="240s"
    )
    first = splitctl(config, "deploy", "apply", "-o", "json")
    told = json.loads(first.stdout)
    assert first.returncode == ExitCode.DONE, (first.stderr, told)
    assert len([p for p in namespace.cluster.pods("app=gateway") if p.ready]) == 3
    customer = {"x-customer-id": "0b7e2d3c-5a5f-4d5b-9c58-3d7a4d1f0a11"}
    carts = f"http://{kubelet.service('gateway')}:8080/carts"
    answer = httpx.post(carts, json={}, headers=customer, timeout=10.0)
    assert answer.status_code == httpx.codes.CREATED, answer.text
    with psycopg.connect(fresh_databases["order"].dsn) as connection:
        assert connection.execute("SELECT count(*) FROM cart_sessions").fetchone() == (1,)
    second = splitctl(config, "deploy", "apply")
    assert second.returncode == ExitCode.DONE
    assert "nothing to change" in second.stdout
    status = splitctl(config, "deploy", "status")
    assert "13 of 13 objects are as their manifests say" in status.stdout


def url(database: FreshDatabase) -> str:
    """As services take it."""
    return f"postgresql://postgres@127.0.0.1:{database.server.port}/{database.name}"


def test_a_change_is_shown_field_by_field_and_rolled_out(
    namespace: Namespace, kubelet: Kubelet, deployment_config: MakeConfig
) -> None:
    config = deployment_config()
    write(config, web(env=[variable("COLOUR", "red")]), service())
    assert deploy.apply(config).exit_code == ExitCode.DONE
    write(config, web(env=[variable("COLOUR", "blue")]), service(81))
    dry = splitctl(config, "deploy", "apply", "--dry-run")
    assert "env[COLOUR].value: red -> blue" in dry.stdout
    assert "port: 80" in dry.stdout and "81" in dry.stdout
    assert "generation" not in dry.stdout
    assert namespace.cluster.deployment("web").env("web")["COLOUR"] == "red"
    done = deploy.apply(config)
    assert done.exit_code == ExitCode.DONE
    pods = [p for p in namespace.cluster.pods("app=web") if p.ready and not p.ending]
    assert {p.env("web")["COLOUR"] for p in pods} == {"blue"}
    assert not deploy.apply(config).changed
    deploy.undo(config)
    assert namespace.cluster.deployment("web").env("web")["COLOUR"] == "red"


def test_the_page_is_true(
    namespace: Namespace,
    deployment_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Each command of docs/deploy.md. The page's overlay is the test's; no pods, so it is quick."""
    monkeypatch.setenv("SPLITCTL_STATE_DIR", str(tmp_path / "state"))
    config = deployment_config()

    def first() -> None:
        """Of an environment: what the first block has made is not there."""
        deploy.undo(config, delete_new=True)
        assert namespace.cluster.get(DEPLOYMENT, "web") is None

    write(config, web(replicas=0, env=[variable("COLOUR", "red")]), service())
    deploy.apply(config)
    write(config, web(replicas=0, env=[variable("COLOUR", "blue")]), service())
    for command in commands("docs/deploy.md"):
        if command.world == "first":
            first()
        words = [*command.words(named=[("staging", "test")]), "--config", str(config.path)]
        found = CliRunner().invoke(app, words)
        command.ended(found.exit_code, found.output)
    assert namespace.cluster.get(DEPLOYMENT, "web") is None


def test_a_flag_keeps_its_value_through_a_deployment_and_its_undo(
    namespace: Namespace, deployment_config: MakeConfig
) -> None:
    # Without pods every rollout is complete at once. P is the domain's percentage.
    config, cluster = deployment_config(), namespace.cluster
    write(config, web(replicas=0, env=[variable("P", "0"), variable("COLOUR", "red")]))
    deploy.apply(config)
    cluster.patch_env("web", "web", {"P": "50"})
    assert not deploy.apply(config).changed
    write(config, web(replicas=0, env=[variable("P", "0"), variable("COLOUR", "blue")]))
    done = deploy.apply(config)
    assert [str(d) for d in done.objects[0].differences] == [
        "spec.template.spec.containers[web].env[COLOUR].value: red -> blue"
    ]
    assert cluster.deployment("web").env("web")["P"] == "50"
    cluster.patch_env("web", "web", {"P": "100"})
    deploy.undo(config)
    env = cluster.deployment("web").env("web")
    assert (env["P"], env["COLOUR"]) == ("100", "red")
    holders = {o.manager for o in owners_of(cluster) if ("web", "P") in o.env}
    assert holders == {FLAGS_MANAGER}


def owners_of(cluster: Cluster) -> list[FieldOwner]:
    return cluster.managed_fields(DEPLOYMENT, "web")


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        ({"image": "tests/missing:2"}, "image tests/missing:2 cannot be fetched"),
        (
            {"command": ["/bin/sh", "-c", "echo out of paper; exit 3"]},
            "ends with 3 each time it starts",
        ),
        ({"env": [variable("READY", "no")]}, "Readiness probe failed"),
        (
            {"envFrom": [{"configMapRef": {"name": "nowhere"}}]},
            "ConfigMap nowhere is not there",
        ),
    ],
    ids=["image", "crash", "probe", "configuration"],
)
def test_a_rollout_that_does_not_come_says_why_and_is_undone(
    namespace: Namespace,
    kubelet: Kubelet,
    deployment_config: MakeConfig,
    container: dict[str, Any],
    reason: str,
) -> None:
    config = deployment_config()
    write(config, web(replicas=2))
    assert deploy.apply(config).exit_code == ExitCode.DONE
    # Long enough for a second restart, which is what tells a crash from a start.
    write(config, web(replicas=2, deadline_s=4, **container))
    told: list[str] = []
    done = deploy.apply(config, on_progress=told.append)
    assert done.exit_code == ExitCode.CHECK_FAILED
    assert reason in (done.rollouts[0].why or "")
    assert any(reason in line for line in told)
    assert len([p for p in namespace.cluster.pods("app=web") if p.ready]) == 2
    assert done.next_command == "splitctl deploy undo"
    undone = deploy.undo(config)
    assert undone.exit_code == ExitCode.DONE
    with open_ledger(config) as ledger:
        outcome = ledger.history()[1].outcome
    assert outcome is not None and reason in outcome["rollouts"][0]


def test_pods_that_a_quota_refuses_are_told_as_that(
    namespace: Namespace, kubelet: Kubelet, deployment_config: MakeConfig
) -> None:
    hard = {"hard": {"pods": "1"}}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}}
    namespace.cluster.apply({**quota, "spec": hard})
    kind = Kind.of(quota)

    def counted() -> bool:
        found = namespace.cluster.get(kind, "small") or {}
        return bool(found.get("status", {}).get("hard"))

    assert wait_until(counted, LIMIT_S)
    config = deployment_config(limit="30s")
    write(config, web(replicas=2, deadline_s=3))
    done = deploy.apply(config)
    assert "exceeded quota: small" in (done.rollouts[0].why or "")


def test_a_field_of_another_manager_is_named_and_taken_only_when_asked(
    namespace: Namespace, deployment_config: MakeConfig
) -> None:
    config = deployment_config()
    namespace.cluster.apply(config_map("cm", a="theirs"), manager="argocd-controller")
    write(config, config_map("cm", a="ours"))
    with pytest.raises(ClusterConflict) as refused:
        deploy.apply(config)
    assert "argocd-controller" in str(refused.value)
    assert ".data.a" in str(refused.value)
    told = splitctl(config, "deploy", "apply")
    assert told.returncode == ExitCode.PRECONDITION
    assert "argocd-controller" in told.stderr
    assert namespace.cluster.config_map("cm").data == {"a": "theirs"}
    assert splitctl(config, "deploy", "apply", "--force-conflicts").returncode == ExitCode.DONE
    assert namespace.cluster.config_map("cm").data == {"a": "ours"}
    deploy.undo(config)
    assert namespace.cluster.config_map("cm").data == {"a": "theirs"}


def test_health_is_asked_once_the_rollouts_have_come(
    namespace: Namespace,
    kubelet: Kubelet,
    deployment_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rollout.deploy.HEALTH_S", 1.0)
    write(deployment_config(), web(replicas=1))
    deploy.apply(deployment_config())
    (pod,) = namespace.cluster.pods("app=web")
    good, bad = (f"http://{pod.ip}:{PORT}{path}" for path in ("/ready", "/nowhere"))
    assert deploy.apply(deployment_config(health=[good])).exit_code == ExitCode.DONE
    sick = deploy.apply(deployment_config(health=[good, bad]))
    assert sick.exit_code == ExitCode.CHECK_FAILED
    assert [one.problem for one in sick.health] == [None, "answers 404"]


VERBS = [(rule.group, rule.resource, verb) for rule in permissions.RULES for verb in rule.verbs]


def test_the_shipped_role_grants_what_is_needed_and_nothing_else() -> None:
    documents = yaml.safe_load_all((ROOT / "deploy/base/rbac.yaml").read_text(encoding="utf-8"))
    (role,) = (manifest for manifest in documents if manifest["kind"] == "Role")
    granted = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == set(VERBS)


@pytest.mark.parametrize("lacking", VERBS, ids=lambda verb: " ".join(filter(None, verb)))
def test_without_one_rule_the_rule_is_named(
    namespace: Namespace, deployment_config: MakeConfig, lacking: tuple[str, str, str]
) -> None:
    config = deployment_config(kubeconfig=shipped_rights(namespace, without=lacking), limit="1s")
    with pytest.raises(ClusterForbidden) as refused:
        everything(config, namespace.cluster)
    facts = refused.value.facts
    assert (facts["group"], facts["resource"], facts["verb"]) == lacking
    assert namespace.name in str(refused.value)


def test_with_all_rules_everything_works(
    namespace: Namespace, deployment_config: MakeConfig
) -> None:
    config = deployment_config(kubeconfig=shipped_rights(namespace), limit="1s")
    everything(config, namespace.cluster)
    assert namespace.cluster.get(CONFIG_MAP, "cm") is None
    assert namespace.cluster.get(SERVICE, "web") is None


def everything(config: Config, admin: KubernetesCluster) -> None:
    """All that the tool does with a cluster. No kubelet runs the pods: their rollout is told of."""
    site = Site.of(config)
    write(config, config_map("cm", a="1"), service(), web(replicas=1))
    deploy.apply(config, site=site)
    assert wait_until(lambda: admin.listed(POD, "app=web") != [], LIMIT_S)
    found = deploy.status(config, site=site)
    assert found.exit_code == ExitCode.IN_PROGRESS
    site.cluster.patch_env("web", "web", {"P": "10"})
    site.cluster.patch_config_map("cm", {"P": "10"})
    deploy.undo(config, delete_new=True, site=site)


def test_doctor_names_the_rule_that_is_missing(
    namespace: Namespace, deployment_config: MakeConfig
) -> None:
    lacking = ("apps", "replicasets", "list")
    config = deployment_config(kubeconfig=shipped_rights(namespace, without=lacking))
    write(config, config_map("cm", a="1"))
    told = json.loads(splitctl(config, "doctor", "-o", "json").stdout)
    (problem,) = (p for p in told["problems"] if p["key"] == "cluster")
    assert 'apiGroups ["apps"], resources ["replicasets"], verbs ["list"]' in problem["reason"]
    shipped_rights(namespace)
    told = json.loads(splitctl(config, "doctor", "-o", "json").stdout)
    assert f"cluster: 1 manifests for namespace {namespace.name}, and all rights" in told["healthy"]
