"""Pods of the new side: broken for longer than its grace is a fail, not known is none."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from estate.cluster import DEPLOYMENT, POD, ClusterUnreachable, MemoryCluster, Object
from estate.cluster.objects import Event
from estate.config import Config, ConfigInvalid, GateConfig, load
from estate.errors import ExitCode
from estate.ledger import Rollout
from rollout import controller, evidence, pod_health
from rollout.evidence import Look
from rollout.gates import asked, evaluate
from rollout.parallel import Outcome
from rollout.pod_health import PodNow
from rollout.preconditions import Held, Refused
from rollout.seen import Evidence, PodSeen, PodsSeen
from rollout.tools import Tools
from tests.conftest import ConfigWriter
from tests.rollout.conftest import DOMAIN as DOMAIN_TEXT
from tests.rollout.conftest import NOWHERE
from tests.rollout.rig import DOMAIN, Rig
from tests.rollout.way import advanced, soaked, started

GATE = GateConfig(name="pods", kind="pods", max=2, deployments=["checkout"], shared=["gateway"])
START = datetime(2024, 1, 1, tzinfo=UTC)
AWAY = ClusterUnreachable(server="https://cluster", reason="connection refused")


def deployment(cluster: MemoryCluster, name: str, wanted: int = 2, **status: Any) -> None:
    labels = {"app": name}
    containers = [{"name": name, "image": f"{name}:1"}]
    cluster.put({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": wanted,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
        },
        "status": status,
    })  # fmt: skip


def pod(
    cluster: MemoryCluster,
    of: str,
    name: str,
    *,
    ready: bool = True,
    restarts: int = 0,
    state: Object | None = None,
    ended: Object | None = None,
    created: datetime = START - timedelta(days=1),
    phase: str = "Running",
) -> None:
    status: Object = {"name": of, "restartCount": restarts, "state": state or {"running": {}}}
    if ended is not None:
        status["lastState"] = {"terminated": ended}
    cluster.put({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name, "labels": {"app": of}, "creationTimestamp": created.isoformat()
        },
        "spec": {"containers": [{"name": of}]},
        "status": {
            "phase": phase,
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [status],
        },
    })  # fmt: skip


@pytest.fixture
def shop() -> MemoryCluster:
    cluster = MemoryCluster("shop")
    whole(cluster)
    return cluster


def whole(cluster: MemoryCluster) -> None:
    """Two Deployments with two pods each, all ready."""
    for name in ("checkout", "gateway"):
        deployment(cluster, name)
        for number in (1, 2):
            pod(cluster, name, f"{name}-{number}")


class Soak:
    """A phase that is looked at every ten seconds."""

    def __init__(self, cluster: MemoryCluster) -> None:
        self.cluster, self.now = cluster, START
        self.row = Rollout(DOMAIN, percentage=10, phase_started_at=START)

    def look(self, away: bool = False, after_s: float = 10.0, gate: GateConfig = GATE) -> Any:
        """The gate's answer to one more look."""
        self.now += timedelta(seconds=after_s)
        pods: dict[str, Outcome[list[PodNow]]] = {}
        for name in (*gate.deployments, *gate.shared):
            found = None if away else pod_health.look(self.cluster, name)
            pods[name] = Outcome(found, AWAY if away else None)
        seen_now = Look(rig_snapshot(), self.now, pods={DOMAIN: pods})
        self.row = evidence.counted(self.row, seen_now, self.now)
        seen = Evidence(DOMAIN, 10, pods=pod_health.seen(self.row.evidence))
        return evaluate(gate, seen)

    def looks(self, number: int, **options: Any) -> Any:
        """So many looks; the last answer."""
        return [self.look(**options) for _ in range(number)][-1]


def rig_snapshot() -> Any:
    return Rig().metrics.snapshot


def test_pods_that_are_ready_pass(shop: MemoryCluster) -> None:
    result = Soak(shop).look()
    assert (result.verdict, result.measured, result.samples) == ("pass", 0.0, 4)
    assert result.reason == "4 pods are ready"


def test_a_pod_that_does_not_come_back_fails_after_its_grace_and_says_why(
    shop: MemoryCluster,
) -> None:
    soak = Soak(shop)
    soak.look()
    crashed = {"exitCode": 137, "reason": "OOMKilled"}
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    pod(shop, "checkout", "checkout-1", ready=False, restarts=1, state=waiting, ended=crashed)
    result = soak.looks(12)
    assert result.verdict == "inconclusive", "110 s of its grace of 120 s"
    result = soak.look()
    assert result.verdict == "fail"
    assert result.reason == (
        "pod checkout-1 ends with 137 (OOMKilled) each time it starts, 1 restarts (for 120 s)"
    )


def test_the_probe_is_named_as_the_cluster_tells_it(shop: MemoryCluster) -> None:
    soak = Soak(shop)
    pod(shop, "checkout", "checkout-1", ready=False)
    shop.said["Pod", "checkout-1"] = [Event(START, True, "Unhealthy", "Readiness probe failed", 9)]
    assert "is not ready: Unhealthy: Readiness probe failed" in soak.look().reason


def test_a_pod_that_starts_again_and_again_fails_though_it_is_ready_in_between(
    shop: MemoryCluster,
) -> None:
    soak = Soak(shop)
    soak.look()
    killed = {"exitCode": 137, "reason": "OOMKilled"}
    for restarts, verdict in ((1, "pass"), (2, "pass"), (3, "fail")):
        pod(shop, "checkout", "checkout-1", restarts=restarts, ended=killed)
        result = soak.look()
        assert (result.verdict, result.measured) == (verdict, restarts)
    assert result.reason == (
        "pod checkout-1 started anew 3 times since the phase began: it ended with 137 (OOMKilled)"
    )


def test_what_a_pod_counted_before_the_phase_is_not_the_phases(shop: MemoryCluster) -> None:
    soak = Soak(shop)
    pod(shop, "checkout", "checkout-1", restarts=9)
    assert soak.look().verdict == "pass"
    pod(shop, "checkout", "checkout-3", restarts=9, created=START + timedelta(seconds=5))
    assert soak.look().verdict == "fail", "this one was made in it"


def test_a_rolling_restart_fails_nothing(shop: MemoryCluster) -> None:
    """Each new pod is not ready for a while, and all together for longer than the grace."""
    soak = Soak(shop)
    soak.look()
    for number in range(3, 9):
        pod(shop, "checkout", f"checkout-{number}", ready=False)
        assert soak.looks(5).verdict == "inconclusive"
        pod(shop, "checkout", f"checkout-{number}")
        shop.delete(POD, f"checkout-{number - 2}")
        assert soak.look().verdict == "pass"


def test_pods_that_are_not_even_there_are_missed(shop: MemoryCluster) -> None:
    soak = Soak(shop)
    refused = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
               "message": "exceeded quota"}  # fmt: skip
    deployment(shop, "checkout", conditions=[refused])
    shop.delete(POD, "checkout-2")
    result = soak.looks(14)
    assert result.verdict == "fail"
    told = "deployment checkout has 1 of 2 pods: pods are refused: exceeded quota"
    assert told in result.reason


def test_an_evicted_pod_is_not_counted_and_its_successor_is(shop: MemoryCluster) -> None:
    pod(shop, "checkout", "checkout-0", ready=False, phase="Failed")
    assert Soak(shop).looks(20).verdict == "pass"


def test_a_broken_gateway_holds_and_never_fails(shop: MemoryCluster) -> None:
    soak = Soak(shop)
    pod(shop, "gateway", "gateway-1", ready=False)
    result = soak.looks(60)
    assert result.verdict == "inconclusive", "to bring customers back would not mend it"
    assert "pod gateway-1" in result.reason
    pod(shop, "gateway", "gateway-1", restarts=9)
    assert soak.look().verdict == "inconclusive"


def test_while_the_cluster_is_away_nothing_fails_and_no_time_counts(shop: MemoryCluster) -> None:
    soak = Soak(shop)
    pod(shop, "checkout", "checkout-1", ready=False)
    soak.looks(10)
    result = soak.looks(500, away=True)
    assert result.verdict == "inconclusive"
    assert "connection refused" in result.reason
    assert soak.look().verdict == "inconclusive", "100 s of its grace were seen"
    assert soak.looks(3).verdict == "fail"


def test_time_in_which_nobody_looked_does_not_count(shop: MemoryCluster) -> None:
    soak = Soak(shop)
    pod(shop, "checkout", "checkout-1", ready=False)
    assert soak.looks(4, after_s=86_400).verdict == "inconclusive"


def test_before_the_first_look_nothing_is_known() -> None:
    result = evaluate(GATE, Evidence(DOMAIN, 10))
    assert (result.verdict, result.measured) == ("inconclusive", None)
    assert asked([GATE], DOMAIN, 0) == [GATE], "they must be well before the first customer comes"


pods = st.lists(
    st.builds(
        PodSeen,
        name=st.just("pod p"),
        ready=st.booleans(),
        broken_s=st.floats(0, 300),
        restarts=st.integers(0, 6),
        why=st.just("why"),
    ),
    max_size=3,
)
found = st.builds(PodsSeen, pods.map(tuple), st.sampled_from([None, None, "away"]))
RANK = {"pass": 0, "inconclusive": 1, "fail": 2}


@given(ours=found, shared=found, limits=st.tuples(st.integers(0, 5), st.integers(0, 5)),
       graces=st.tuples(st.integers(1, 300), st.integers(1, 300)))  # fmt: skip
def test_only_what_was_seen_of_the_new_side_fails_and_wider_limits_never_make_it_worse(
    ours: PodsSeen, shared: PodsSeen, limits: tuple[int, int], graces: tuple[int, int]
) -> None:
    seen = Evidence(DOMAIN, 10, pods={"checkout": ours, "gateway": shared})

    def verdict(most: int, grace_s: int) -> str:
        changed = {"max": float(most), "grace": timedelta(seconds=grace_s)}
        return evaluate(GATE.model_copy(update=changed), seen).verdict

    strict, wide = verdict(min(limits), min(graces)), verdict(max(limits), max(graces))
    assert RANK[strict] >= RANK[wide]
    if ours.problem:
        assert strict == "inconclusive"


# From the configuration to the act


@pytest.fixture
def watching(config: Config) -> Config:
    return config.model_copy(update={"gates": [*config.gates, GATE]})


def test_a_deployment_that_is_not_there_is_refused_at_the_start(
    watching: Config, tools: Tools, rig: Rig
) -> None:
    whole(rig.cluster)
    rig.cluster.delete(DEPLOYMENT, "checkout")
    with pytest.raises(Refused, match=r"gates\.pods: There is no Deployment checkout"):
        started(watching, tools)


def test_a_new_side_whose_pod_breaks_brings_its_customers_back(
    watching: Config, tools: Tools, rig: Rig
) -> None:
    whole(rig.cluster)
    started(watching, tools)
    advanced(watching, tools, rig, 10)
    rig.traffic(old=900, new=900)
    pod(rig.cluster, "checkout", "checkout-1", ready=False)
    soaked(watching, rig)
    held = controller.advance(watching, DOMAIN, tools=tools)
    assert isinstance(held, Held)
    assert "pod checkout-1" in held.reason, "one look proves nothing, and steps over nothing"
    impatient = GATE.model_copy(update={"grace": timedelta(microseconds=1)})
    broken = watching.model_copy(update={"gates": [*watching.gates[:-1], impatient]})
    result = controller.watch(broken, [DOMAIN], tools=tools)
    assert result.exit_code is ExitCode.ROLLED_BACK
    assert rig.is_at(0)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"deployments": []}, "at least one"),
        ({"max": None}, "exactly one limit: max"),
        ({"max": float("inf")}, "finite"),
        ({"grace": "0s"}, "some time"),
        ({"query": "a.sql"}, "knows no query"),
        ({"times": 2}, "knows no times"),
        ({"kind": "strays"}, "knows no deployments"),
    ],
)
def test_a_gate_that_could_look_at_nothing_is_refused(given: dict[str, Any], reason: str) -> None:
    right = {"name": "pods", "kind": "pods", "max": 2, "deployments": ["checkout"]}
    GateConfig.model_validate(right)
    with pytest.raises(ValidationError, match=reason):
        GateConfig.model_validate({**right, **given})


@pytest.mark.parametrize("section", ["", "[cluster]\n"])
def test_pods_need_a_cluster(section: str, write_config: ConfigWriter) -> None:
    gate = '[[gates]]\nname = "pods"\nkind = "pods"\nmax = 2\ndeployments = ["checkout"]\n'
    path = write_config(
        databases={"a": f"{NOWHERE} application_name=a", "b": NOWHERE},
        domains=DOMAIN_TEXT,
        mappings={"q.sql": "SELECT id, id::text AS splitctl_route FROM t"},
        extra=section + gate,
    )
    if section:
        assert load(path).gates[0].deployments == ["checkout"]
    else:
        with pytest.raises(ConfigInvalid, match=r"no \[cluster\] to ask for pods"):
            load(path)
