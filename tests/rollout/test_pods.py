"""Gateways as pods: what each serves, what is missing, and who else has set their flags."""

from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estate.cluster import (
    DEPLOYMENT,
    ClusterForbidden,
    ClusterUnreachable,
    MemoryCluster,
    Object,
)
from estate.config import Config, DomainConfig
from rollout.field_managers import FieldManagers
from rollout.flags import DomainFlags
from rollout.pods import ConfigMapFlags, EnvironmentFlags, GatewayPods, PodMetrics, of_environment
from rollout.written import FlagsOvertaken
from services.gateway.flags import DEFAULTS, VARIABLES, from_environment

DOMAIN = "d"
LABELS = {"app": "gateway"}
PAGE = """
# TYPE gateway_requests counter
gateway_requests_total{domain="d",side="new",status="200"} 7
# TYPE gateway_flag_percentage gauge
gateway_flag_percentage{domain="d"} %d
# TYPE gateway_flag_epoch gauge
gateway_flag_epoch{domain="d"} %d
"""


@pytest.fixture
def config(plain_config: Config) -> Config:
    gateway = plain_config.gateway.model_copy(
        update={"driver": "environment", "deployment": "gateway", "config_map": "flags"}
    )
    return plain_config.model_copy(update={"gateway": gateway})


def env(percentage: int, epoch: int) -> list[Object]:
    values = {"F": "true", "P": str(percentage), "P_EPOCH": str(epoch)}
    return [{"name": name, "value": value} for name, value in values.items()]


def deployment(cluster: MemoryCluster, percentage: int, epoch: int, **status: Any) -> None:
    container = {"name": "gateway", "image": "g:1", "env": env(percentage, epoch)}
    cluster.put({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "gateway", "generation": 1},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": LABELS},
            "template": {"metadata": {"labels": LABELS}, "spec": {"containers": [container]}},
        },
        "status": {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2,
                   "readyReplicas": 2, "availableReplicas": 2, **status},
    })  # fmt: skip


def pod(
    cluster: MemoryCluster,
    name: str,
    percentage: int,
    epoch: int,
    *,
    ready: bool = True,
    ending: bool = False,
    waiting: str = "",
) -> None:
    metadata: Object = {"name": name, "labels": LABELS}
    if ending:
        metadata["deletionTimestamp"] = "2024-01-01T00:00:00Z"
    state = {"waiting": {"reason": waiting, "message": "no such image"}} if waiting else {}
    cluster.put({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [{"name": "gateway", "env": env(percentage, epoch)}]},
        "status": {
            "phase": "Running", "podIP": f"10.0.0.{name[-1]}",
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [{"name": "gateway", "state": state}],
        },
    })  # fmt: skip


@pytest.fixture
def cluster(config: Config) -> MemoryCluster:
    domain = config.domains[DOMAIN]
    assert (domain.flag, domain.percentage, domain.epoch_name) == (
        "F", "P", "P_EPOCH",
    )  # fmt: skip
    made = MemoryCluster()
    deployment(made, 10, 4)
    for name in ("gateway-1", "gateway-2"):
        pod(made, name, 10, 4)
    return made


def test_a_pod_serves_what_it_was_started_with(config: Config, cluster: MemoryCluster) -> None:
    flags = EnvironmentFlags(GatewayPods(cluster, config))
    deployment(cluster, 50, 5)
    assert [gateway.domains[DOMAIN] for gateway in flags.served()] == [DomainFlags(True, 10, 4)] * 2


def test_what_is_written_stands_in_the_template_under_a_manager_of_our_own(
    config: Config, cluster: MemoryCluster
) -> None:
    flags = EnvironmentFlags(GatewayPods(cluster, config))
    flags.write(DOMAIN, DomainFlags(True, 50, 5))
    values = cluster.deployment("gateway").env("gateway")
    assert of_environment(config.domains[DOMAIN], values) == DomainFlags(True, 50, 5)
    assert FieldManagers(cluster, config).who(DOMAIN) == []


def test_everything_that_is_missing_is_named(config: Config, cluster: MemoryCluster) -> None:
    flags = EnvironmentFlags(GatewayPods(cluster, config))
    wanted = DomainFlags(True, 50, 5)
    pod(cluster, "gateway-1", 50, 5)
    pod(cluster, "gateway-2", 10, 4, ending=True)
    pod(cluster, "gateway-3", 50, 5, ready=False, waiting="ErrImagePull")
    assert flags.unsettled(DOMAIN, wanted) == [
        "pod gateway-2 serves 10 % under epoch 4",
        "pod gateway-2 is ending",
        "pod gateway-3 is not ready (ErrImagePull: no such image)",
    ]


def test_flags_are_given_up_only_where_those_stand_that_were_seen(
    config: Config, cluster: MemoryCluster
) -> None:
    pods = GatewayPods(cluster, config)
    head = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "flags"}}
    cluster.apply({**head, "data": {"OTHER": "1"}})
    stands = DomainFlags(True, 100, 5)
    for driver in (EnvironmentFlags(pods), ConfigMapFlags(pods, "flags")):
        driver.write(DOMAIN, stands)
        assert driver.stands(DOMAIN) == stands
        with pytest.raises(FlagsOvertaken):
            driver.remove(DOMAIN, DomainFlags(True, 100, 4))
        assert driver.stands(DOMAIN) == stands
        driver.remove(DOMAIN, stands)
        assert driver.stands(DOMAIN) is None
    assert cluster.config_map("flags").data == {"OTHER": "1"}


def test_a_default_counts_where_no_flag_stands(config: Config) -> None:
    domain = config.domains[DOMAIN].model_copy(update={"default": "D"})
    assert of_environment(domain, {"D": "new"}) == DomainFlags(True, 100, 0)
    assert of_environment(domain, {"D": "old"}).served == 0
    assert of_environment(domain, {}).served == 0
    back = {"F": "true", "P": "0", "P_EPOCH": "8"}
    assert of_environment(domain, {"D": "new", **back}) == DomainFlags(True, 0, 8)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "USE_CHECKOUT_SERVICE": st.sampled_from(["", " ", "true", "false"]),
            "CHECKOUT_TRAFFIC_PERCENTAGE": st.sampled_from(["", " ", "0", "50"]),
            "CHECKOUT_DEFAULT": st.sampled_from(["", "old", "new"]),
        },
    )
)
def test_variables_are_read_as_the_gateway_itself_reads_them(values: dict[str, str]) -> None:
    (flag, percentage, epoch), default = VARIABLES["checkout"], DEFAULTS["checkout"]
    domain = DomainConfig.model_construct(
        flag=flag, percentage=percentage, epoch=epoch, default=default
    )
    read = from_environment(values)["checkout"]
    assert of_environment(domain, values).served == read.served


def test_a_deployment_that_is_not_observed_yet_is_not_settled(
    config: Config, cluster: MemoryCluster
) -> None:
    flags = EnvironmentFlags(GatewayPods(cluster, config))
    deployment(cluster, 10, 4, observedGeneration=0)
    (told,) = flags.unsettled(DOMAIN, DomainFlags(True, 10, 4))
    assert "of 2 pods are of the newest template" in told


def test_a_cluster_that_is_away_is_told_and_never_guessed(
    config: Config, cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods = GatewayPods(cluster, config)

    def away(*_: object) -> None:
        raise ClusterUnreachable(server="https://c", reason="refused")

    monkeypatch.setattr(cluster, "get", away)
    for driver in (EnvironmentFlags(pods), ConfigMapFlags(pods, "flags")):
        (told,) = driver.served()
        assert not told.reachable
        assert "refused" in (told.problem or "")
        assert "refused" in driver.unsettled(DOMAIN, DomainFlags(True, 10, 4))[0]
    snapshot = PodMetrics(pods).scrape()
    assert not snapshot.complete
    assert "refused" in snapshot.problems["cluster"]


def test_a_rule_that_is_missing_is_named(config: Config, cluster: MemoryCluster) -> None:
    cluster.forbidden.add(("patch", "apps", "Deployment"))
    with pytest.raises(ClusterForbidden):
        EnvironmentFlags(GatewayPods(cluster, config)).write(DOMAIN, DomainFlags(True, 50, 5))


@pytest.mark.parametrize(
    ("manager", "told"),
    [
        ("kubectl-client-side-apply", "set by kubectl-client-side-apply"),
        ("argocd-controller", "Argo CD puts back what stands in Git"),
        ("kustomize-controller", "Flux puts back what stands in Git"),
    ],
)
def test_whoever_else_has_set_a_flag_is_named(
    config: Config, cluster: MemoryCluster, manager: str, told: str
) -> None:
    spec = {"containers": [{"name": "gateway", "env": env(0, 0)[1:2]}]}
    cluster.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "gateway"},
            "spec": {"template": {"spec": spec}},
        },
        manager=manager,
        force=True,
    )
    (sentence,) = FieldManagers(cluster, config).who(DOMAIN)
    assert sentence.startswith("P was set by")
    assert told in sentence


def test_mounted_files_are_asked_of_each_pod(config: Config, cluster: MemoryCluster) -> None:
    flags = ConfigMapFlags(GatewayPods(cluster, config), "flags")
    pages = {"10.0.0.1": PAGE % (50, 5), "10.0.0.2": PAGE % (10, 4)}
    transport = httpx.MockTransport(
        lambda request: httpx.Response(200, text=pages[request.url.host])
    )
    flags._client = httpx.Client(transport=transport)
    assert [gateway.domains[DOMAIN] for gateway in flags.served()] == [
        DomainFlags(True, 50, 5), DomainFlags(True, 10, 4),
    ]  # fmt: skip
    assert flags.unsettled(DOMAIN, DomainFlags(True, 50, 5)) == [
        "pod gateway-2 serves 10 % under epoch 4"
    ]
    flags.write(DOMAIN, DomainFlags(True, 50, 5))
    assert cluster.config_map("flags").data["P"] == "50"


@pytest.mark.parametrize(
    ("spec", "told", "fix"),
    [
        ({"paused": True}, "is paused (spec.paused)", "rollout resume deployment/gateway"),
        ({"replicas": 0}, "has no pods (spec.replicas is 0)", "scale deployment/gateway"),
    ],
)
@pytest.mark.parametrize("driver", ["environment", "config-map"])
def test_what_somebody_has_switched_off_is_told_before_a_step(
    config: Config, driver: str, spec: dict[str, Any], told: str, fix: str
) -> None:
    """With what switches it on again; the same words as while a step waits for pods."""
    cluster = MemoryCluster("shop")
    deployment(cluster, 10, 1)
    pods = GatewayPods(cluster, config)
    flags = EnvironmentFlags(pods) if driver == "environment" else ConfigMapFlags(pods, "flags")
    assert flags.hindrances() == []
    changed = cluster.get(DEPLOYMENT, "gateway")
    assert changed is not None
    changed["spec"] |= spec
    cluster.put(changed)
    (found,) = flags.hindrances()
    assert told in found.reason
    assert found.fix is not None and found.fix.startswith(f"kubectl -n shop {fix}")
    assert any(told in line for line in pods.incomplete())


def test_a_cluster_that_cannot_be_asked_hinders_too(config: Config) -> None:
    (found,) = GatewayPods(MemoryCluster(), config).hindrances()
    assert "gateway" in found.reason
