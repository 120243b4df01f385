"""`splitctl doctor` beyond the databases: rights, evidence, flows, webhooks; nothing is sent."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from estate.cluster import MemoryCluster
from estate.config import Config, ConfigInvalid, FlowsConfig, NotifyConfig, Problem
from estate.errors import ExitCode
from estate.secrets import SecretRef
from rollout.counters import Count, Snapshot
from rollout.metrics import InMemoryMetrics
from rollout.prometheus_api import PrometheusSilent
from splitctl import doctor, surroundings
from splitctl.doctor import Examination
from tests.rollout.conftest import plain_config

__all__ = ["plain_config"]  # a configuration whose databases are all away

ROOT = Path(__file__).parents[2]
COUNT = Count(10, 0, {0.1: 10, float("inf"): 10}, customers=5)


def asked(config: Config, part: str) -> Examination:
    return surroundings.parts(config)[part]()


def told(problems: list[Problem]) -> str:
    return "\n".join(map(str, problems))


# Rights of who has only the flags in the cluster


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> MemoryCluster:
    found = MemoryCluster("shop")
    monkeypatch.setattr("estate.cluster.connect", lambda _: found)
    return found


def driven_by(config: Config, driver: str) -> Config:
    changed = {"driver": driver, "deployment": "gateway", "config_map": "flags"}
    return config.model_copy(update={"gateway": config.gateway.model_copy(update=changed)})


@pytest.mark.parametrize(
    ("driver", "needed"),
    [
        ("environment", [("get", "apps", "Deployment"), ("patch", "apps", "Deployment"),
                         ("list", "", "Pod")]),
        ("config-map", [("get", "", "ConfigMap"), ("patch", "", "ConfigMap"),
                        ("get", "apps", "Deployment"), ("list", "", "Pod")]),
    ],
)  # fmt: skip
def test_a_driver_in_the_cluster_needs_its_rights_though_nothing_is_deployed(
    plain_config: Config,
    cluster: MemoryCluster,
    driver: str,
    needed: list[tuple[str, str, str]],
) -> None:
    config = driven_by(plain_config, driver)
    assert asked(config, "cluster").healthy == ["cluster: flags for namespace shop, and all rights"]
    for verb, group, kind in needed:
        cluster.forbidden = {(verb, group, kind)}
        (problem,) = asked(config, "cluster").problems
        assert f'resources ["{kind.lower()}s"], verbs ["{verb}"]' in problem.reason
    # What only deployments need is not asked for.
    cluster.forbidden = {("delete", "apps", "Deployment"), ("create", "", "Service")}
    assert not asked(config, "cluster").problems


@pytest.mark.parametrize(
    ("looked_at", "needed"),
    [
        ("versions", [("get", "apps", "Deployment"), ("get", "", "ConfigMap")]),
        ("pods", [("get", "apps", "Deployment"), ("list", "", "Pod"),
                  ("list", "apps", "ReplicaSet"), ("list", "", "Event")]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("driver", ["admin", "environment"])
def test_what_is_only_looked_at_needs_its_rights_too(
    plain_config: Config,
    cluster: MemoryCluster,
    driver: str,
    looked_at: str,
    needed: list[tuple[str, str, str]],
) -> None:
    config = driven_by(plain_config, driver)
    if looked_at == "versions":
        settings = config.rollout.model_copy(update={"deployments": ["order"]})
        config = config.model_copy(update={"rollout": settings})
    else:
        gate = config.gates[0].model_copy(update={"name": "pods", "kind": "pods"})
        config = config.model_copy(update={"gates": [*config.gates, gate]})
    assert "and all rights" in asked(config, "cluster").healthy[0]
    for verb, group, kind in needed:
        cluster.forbidden = {(verb, group, kind)}
        (problem,) = asked(config, "cluster").problems
        assert f'resources ["{kind.lower()}s"], verbs ["{verb}"]' in problem.reason


def test_gateways_with_an_endpoint_need_no_cluster(plain_config: Config) -> None:
    assert set(surroundings.parts(plain_config)) == {"metrics"}


# Evidence


@pytest.fixture
def watched(plain_config: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Evidence comes from a Prometheus that answers; what it has, a test says with `seen`."""
    changed = {"driver": "prometheus", "url": "http://prometheus:9090", "matcher": 'job="g"'}
    monkeypatch.setattr("rollout.prometheus_api.Prometheus.instant", lambda *_: [])
    metrics = plain_config.metrics.model_copy(update=changed)
    share = plain_config.gates[0].model_copy(update={"name": "p95", "kind": "latency_p95"})
    gates = [*plain_config.gates, share]
    return plain_config.model_copy(update={"metrics": metrics, "gates": gates})


def seen(monkeypatch: pytest.MonkeyPatch, snapshot: Snapshot) -> None:
    monkeypatch.setattr("rollout.gateways.metrics_of", lambda _: InMemoryMetrics(snapshot))


def test_a_prometheus_that_is_away_is_a_problem(
    watched: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise PrometheusSilent(url="http://prometheus:9090", reason="refused")

    monkeypatch.setattr("rollout.prometheus_api.Prometheus.instant", away)
    found = doctor.examine(watched)
    (problem,) = (item for item in found.problems if item.key == "metrics")
    assert "http://prometheus:9090 does not tell: refused" in problem.reason
    assert found.exit_code is ExitCode.PRECONDITION


def test_what_it_does_not_have_yet_is_named_and_in_nobodys_way(
    watched: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen(monkeypatch, Snapshot(problems={"prometheus": "0 of 2 gateways are scraped"}))
    found = asked(watched, "metrics")
    assert not found.problems
    assert "0 of 2 gateways are scraped. Gates that look at traffic" in told(found.warnings)
    assert found.healthy == ["Prometheus at http://prometheus:9090"]


@pytest.mark.parametrize(
    ("counts", "lacking"),
    [
        ({}, ["gateway_requests_total", "gateway_request_seconds_bucket"]),
        ({"d": {"old": replace(COUNT, buckets={})}}, ["gateway_request_seconds_bucket"]),
        ({"d": {"old": COUNT}}, []),
    ],
)
def test_each_gate_whose_series_is_not_there_is_named(
    watched: Config,
    monkeypatch: pytest.MonkeyPatch,
    counts: Mapping[str, Mapping[str, Count]],
    lacking: list[str],
) -> None:
    seen(monkeypatch, Snapshot({"gw-1": counts}))  # type: ignore[dict-item]
    found = asked(watched, "metrics")
    assert not found.problems
    assert len(found.warnings) == len(lacking)
    for name in lacking:
        assert f"no gateway tells {name} of domain d" in told(found.warnings)


# Flow files


def test_flow_files_are_read(plain_config: Config) -> None:
    example = (ROOT / "flows/cart.toml").read_text(encoding="utf-8")
    path = plain_config.path.parent / "cart.toml"
    path.write_text(example.replace('"checkout"', '"d"'), encoding="utf-8")
    config = plain_config.model_copy(update={"flows": FlowsConfig(files=[path])})
    assert asked(config, "flows").healthy == ["flows: cart"]


def test_each_mistake_of_a_flow_file_is_told_with_its_place(plain_config: Config) -> None:
    path = plain_config.path.parent / "cart.toml"
    path.write_text('name = "cart"\ndomain = "d"\nheaders = {a = "b"}\nsteps = [{nme = "x"}]\n')
    config = plain_config.model_copy(update={"flows": FlowsConfig(files=[path])})
    with pytest.raises(ConfigInvalid):
        asked(config, "flows")
    keys = {problem.key for problem in doctor.examine(config).problems}
    assert {key for key in keys if key.startswith("flows steps.0")}
    path.unlink()
    (problem,) = (p for p in doctor.examine(config).problems if p.key.startswith("flows"))
    assert "cannot be read" in problem.reason


# Webhooks


def webhook(config: Config, **settings: object) -> Config:
    notify = [NotifyConfig.model_validate({"name": "chat", **settings})]
    return config.model_copy(update={"notify": notify})


@pytest.mark.parametrize("value", ["hooks.example/T0/hunter2", "ftp://hunter2", "https://", "a b"])
def test_an_address_that_is_none_is_told_and_not_repeated(
    plain_config: Config, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("CHAT_URL", value)
    (problem,) = asked(webhook(plain_config, url="env:CHAT_URL"), "notify").problems
    assert problem.key == "notify.0 (chat)"
    assert problem.reason == "env:CHAT_URL does not hold an address"
    assert "hunter2" not in str(problem)


def test_a_secret_that_is_missing_is_told_with_how_to_set_it(
    plain_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = webhook(plain_config, url="http://chat/hook", secret="env:CHAT_KEY")
    monkeypatch.delenv("CHAT_KEY", raising=False)
    (problem,) = asked(config, "notify").problems
    assert "export CHAT_KEY=VALUE" in str(problem)
    monkeypatch.setenv("CHAT_KEY", "k")
    found = asked(config, "notify")
    assert (found.problems, found.healthy) == ([], ["webhook chat: its address can be one"])
    assert isinstance(config.notify[0].secret, SecretRef)


def test_nobody_is_told_anything(plain_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def sent(*_: object, **__: object) -> None:
        raise AssertionError("a notice was sent")

    monkeypatch.setattr("httpx.Client.post", sent)
    parts: dict[str, Callable[[], Examination]] = surroundings.parts(
        webhook(plain_config, url="http://127.0.0.1:1/hook")
    )
    assert not parts["notify"]().problems
