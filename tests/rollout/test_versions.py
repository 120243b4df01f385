"""Another image or configuration runs than when the phase began: named, and the phase anew."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estate.cluster import (
    DEPLOYMENT,
    MANAGER,
    ClusterUnreachable,
    Kind,
    MemoryCluster,
    Object,
)
from estate.config import Config, DeployConfig
from estate.errors import ExitCode
from estate.ledger import ActRecord, open_ledger
from rollout import controller, status
from rollout.evidence import VERSIONS
from rollout.flags import DomainFlags
from rollout.gateways import versions_of
from rollout.phases import Move
from rollout.pod_templates import ClusterVersions
from rollout.preconditions import Refused
from rollout.survey import Drift
from rollout.tools import Tools
from rollout.versions import Fact, Seen, all_ours, changes
from tests.rollout.rig import DOMAIN, Rig
from tests.rollout.way import advanced, busy, row, soaked, started, verified

NAME = "order"
FLAGS = ("F", "P", "P_EPOCH")
LABELS = {"app": NAME}
PERSON = "kubectl-set"


def deployment(image: str, **variables: str) -> Object:
    env = [{"name": name, "value": value} for name, value in variables.items()]
    container = {"name": "main", "image": image, "env": env}
    spec = {"containers": [container], "volumes": [{"name": "c", "configMap": {"name": "conf"}}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME},
        "spec": {
            "selector": {"matchLabels": LABELS},
            "template": {"metadata": {"labels": LABELS}, "spec": spec},
        },
    }


def configuration(**data: str) -> Object:
    return {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "conf"}, "data": data,
    }  # fmt: skip


@pytest.fixture
def cluster() -> MemoryCluster:
    found = MemoryCluster()
    found.apply(deployment("shop/order:1", LIMIT="5", PASSWORD="s3cret", P="0"))
    found.apply(configuration(colour="red"))
    return found


def versions(cluster: MemoryCluster, clock: Callable[[], float]) -> ClusterVersions:
    return ClusterVersions(lambda: cluster, lambda _: [NAME, "not-there"], FLAGS, clock)


@pytest.fixture
def at_ten(
    config: Config,
    tools: Tools,
    rig: Rig,
    cluster: MemoryCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> Rig:
    """10 %, proven, and a watch that has seen what runs."""
    monkeypatch.setattr("rollout.pod_templates.LOOK_EVERY_S", 2.0)
    tools.versions = versions(cluster, rig.clock)
    started(config, tools)
    advanced(config, tools, rig, 10)
    verified(config)
    rig.traffic(old=1, new=1)
    tools.sleep = busy(rig)
    return rig


def watched(config: Config, tools: Tools, seconds: float = 5) -> Any:
    return controller.watch(config, [DOMAIN], timeout=timedelta(seconds=seconds), tools=tools)


def acts(config: Config, kind: str) -> list[ActRecord]:
    with open_ledger(config) as ledger:
        return [act for act in ledger.history() if act.kind == kind]


def set_by_a_person(cluster: MemoryCluster) -> None:
    changed = deployment("shop/order:2", LIMIT="6", PASSWORD="s3cret", P="0")
    cluster.apply(changed, manager=PERSON, force=True)


def test_another_image_stops_the_clock_and_says_who_and_what(
    config: Config, tools: Tools, at_ten: Rig, cluster: MemoryCluster
) -> None:
    set_by_a_person(cluster)
    result = watched(config, tools)
    assert result.domains[0].result == Move.DRIFT.value
    assert result.next_command == "splitctl rollout start d"
    (act,) = acts(config, "drift")
    assert act.intent["told"] == [
        "deployment order, container main, image: shop/order:1 -> shop/order:2",
        "deployment order, container main, variable LIMIT was changed",
    ]
    (who,) = act.intent["who"]
    assert who.startswith("it was set by kubectl-set at 20")
    text = status.status(config, tools=tools).to_text()
    assert "shop/order:1 -> shop/order:2" in text
    assert "kubectl-set" in text
    before = row(config).soak_evidence_s
    watched(config, tools)
    assert row(config).soak_evidence_s == before
    assert len(acts(config, "drift")) == 1
    soaked(config, at_ten)
    with pytest.raises(Drift, match="shop/order:2"):
        controller.advance(config, DOMAIN, tools=tools)
    assert at_ten.is_at(10), "nobody is moved"


def test_a_person_who_has_seen_it_begins_the_phase_anew(
    config: Config, tools: Tools, at_ten: Rig, cluster: MemoryCluster
) -> None:
    set_by_a_person(cluster)
    watched(config, tools)
    before = row(config)
    controller.start(config, DOMAIN, tools=tools)
    now = row(config)
    assert now.soak_evidence_s == 0
    assert before.phase_started_at is not None
    assert now.phase_started_at is not None
    assert now.phase_started_at > before.phase_started_at
    assert before.moved_at is not None
    assert now.moved_at is not None
    assert now.moved_at > before.moved_at, "a verification has to begin after it"
    (ended,) = acts(config, "drift-ended")
    assert "begins anew" in (ended.outcome or {})["clock"]
    watched(config, tools)
    assert len(acts(config, "drift")) == 1, "what runs now is what the phase began with"
    assert row(config).soak_evidence_s > 0


def test_what_was_put_back_begins_it_anew_too(
    config: Config, tools: Tools, at_ten: Rig, cluster: MemoryCluster
) -> None:
    set_by_a_person(cluster)
    watched(config, tools)
    first = deployment("shop/order:1", LIMIT="5", PASSWORD="s3cret", P="0")
    cluster.apply(first, manager=PERSON, force=True)
    watched(config, tools)
    (ended,) = acts(config, "drift-ended")
    assert "again" in (ended.outcome or {})["how"]


def test_our_own_deployment_is_no_drift_but_a_new_version(
    config: Config, tools: Tools, at_ten: Rig, cluster: MemoryCluster
) -> None:
    watched(config, tools)
    assert row(config).soak_evidence_s > 0
    began = row(config).phase_started_at
    cluster.apply(deployment("shop/order:2", LIMIT="5", PASSWORD="s3cret", P="0"), manager=MANAGER)
    result = watched(config, tools)
    assert result.domains[0].result in (Move.SOAK.value, Move.SOAKED.value)
    assert acts(config, "drift") == []
    (act,) = acts(config, "version")
    assert "shop/order:1 -> shop/order:2" in act.intent["told"][0]
    now = row(config).phase_started_at
    assert began is not None
    assert now is not None
    assert now > began
    assert len(acts(config, "proven")) == 2


def test_flags_secrets_restarts_and_replicas_are_no_version(
    config: Config, tools: Tools, at_ten: Rig, cluster: MemoryCluster
) -> None:
    changed = deployment("shop/order:1", LIMIT="5", PASSWORD="s3cret", P="10")
    changed["spec"]["replicas"] = 9
    marks = {"kubectl.kubernetes.io/restartedAt": "now"}
    changed["spec"]["template"]["metadata"]["annotations"] = marks
    cluster.apply(changed, manager=PERSON, force=True)
    watched(config, tools)
    assert acts(config, "drift") == []
    assert "s3cret" not in str(row(config).evidence)


def test_a_config_map_that_the_pods_read_is_part_of_it(
    config: Config, tools: Tools, at_ten: Rig, cluster: MemoryCluster
) -> None:
    cluster.apply(configuration(colour="blue"), manager=PERSON, force=True)
    watched(config, tools)
    (act,) = acts(config, "drift")
    assert act.intent["told"] == ["config map conf, colour was changed"]
    assert PERSON in act.intent["who"][0]


def test_what_changed_while_nobody_watched_is_found_before_the_step(
    config: Config, tools: Tools, at_ten: Rig, cluster: MemoryCluster
) -> None:
    soaked(config, at_ten)
    set_by_a_person(cluster)
    with pytest.raises(Drift, match="shop/order:1 -> shop/order:2"):
        controller.advance(config, DOMAIN, tools=tools)
    assert at_ten.is_at(10)


def test_what_changed_during_the_step_is_found_after_it(
    config: Config, tools: Tools, at_ten: Rig, cluster: MemoryCluster
) -> None:
    at_ten.hooks["quiesce old"] = lambda: set_by_a_person(cluster)
    advanced(config, tools, at_ten, 50)
    watched(config, tools)
    (act,) = acts(config, "drift")
    assert "shop/order:1 -> shop/order:2" in act.intent["told"][0]


def test_a_cluster_that_is_away_is_no_drift_and_no_way_up(
    config: Config,
    tools: Tools,
    at_ten: Rig,
    cluster: MemoryCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(kind: Any, name: str) -> None:
        raise ClusterUnreachable(server="s", reason="no route")

    with monkeypatch.context() as gone:
        gone.setattr(cluster, "get", away)
        assert watched(config, tools).exit_code is not ExitCode.PRECONDITION
        assert acts(config, "drift") == []
        soaked(config, at_ten)
        with pytest.raises(Refused, match="cannot be told"):
            controller.advance(config, DOMAIN, tools=tools)
    advanced(config, tools, at_ten, 50)


def lately(found: ClusterVersions) -> Seen:
    """Asked again and again until a look that was begun has come."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if (seen := found.lately()) is not None:
            return seen
        time.sleep(0.001)
    raise AssertionError("no look has come")


def test_what_is_asked_for_no_more_is_no_drift_and_what_is_gone_is(
    config: Config, tools: Tools, at_ten: Rig, cluster: MemoryCluster
) -> None:
    """As the way back, which a finish brings and its undo deletes."""
    beside = deployment("shop/order:1")
    beside["metadata"]["name"] = "beside"
    cluster.apply(beside)
    named = [NAME, "beside"]
    tools.versions = ClusterVersions(lambda: cluster, lambda _: named, FLAGS, at_ten.clock)
    watched(config, tools)
    cluster.delete(DEPLOYMENT, "beside")
    named.remove("beside")
    watched(config, tools)
    assert acts(config, "drift") == []
    named.append("beside")
    watched(config, tools)
    (act,) = acts(config, "drift")
    assert "deployment beside, container main, image is gone" in act.intent["told"]


def test_without_the_manifests_what_is_named_is_looked_at(
    config: Config, cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("estate.cluster.connect", lambda _: cluster)
    settings = config.rollout.model_copy(update={"deployments": [NAME]})
    deploying = DeployConfig(manifests=tmp_path / "not-there")
    found = versions_of(config.model_copy(update={"rollout": settings, "deploy": deploying})).now()
    assert found is not None
    assert "deployment order, container main, image" in found.facts


def test_it_is_not_looked_at_every_second(cluster: MemoryCluster, rig: Rig) -> None:
    found = versions(cluster, rig.clock)
    lately(found)
    for _ in range(14):
        rig.clock.sleep(1)
        assert found.lately() is None
    rig.clock.sleep(1)
    lately(found)


def test_a_cluster_that_is_slow_keeps_no_look_waiting(
    cluster: MemoryCluster, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says comes with a later look: gates are asked meanwhile."""
    answers, get = threading.Event(), cluster.get

    def slow(kind: Kind, name: str) -> Object | None:
        assert answers.wait(10)
        return get(kind, name)

    monkeypatch.setattr(cluster, "get", slow)
    found = versions(cluster, rig.clock)
    for _ in range(3):
        assert found.lately() is None
        rig.clock.sleep(20)
    answers.set()
    assert "deployment order, container main, image" in lately(found).facts


def test_watches_that_know_other_deployments_call_nothing_a_drift(
    config: Config, tools: Tools, at_ten: Rig, cluster: MemoryCluster
) -> None:
    """A Job knows the gateways, a laptop the manifests as well."""
    other = deployment("shop/other:1")
    other["metadata"]["name"] = "other"
    cluster.apply(other)
    laptop = ClusterVersions(lambda: cluster, lambda _: [NAME, "other"], FLAGS, at_ten.clock)
    job = tools.versions
    tools.versions = laptop
    with open_ledger(config) as ledger:
        found = ledger.rollout(DOMAIN)
        assert found is not None
        ledger.save_rollout(replace(found, evidence={**found.evidence, VERSIONS: None}))
    for each in (laptop, job, laptop):
        tools.versions = each
        watched(config, tools)
    assert acts(config, "drift") == []
    cluster.apply(other | {"spec": deployment("shop/other:2")["spec"]}, manager=PERSON, force=True)
    for each in (laptop, job, laptop):
        tools.versions = each
        watched(config, tools)
    (act,) = acts(config, "drift")
    assert act.intent["told"] == [
        "deployment other, container main, image: shop/other:1 -> shop/other:2"
    ]
    assert acts(config, "drift-ended") == [], "who does not know it cannot say that it is back"


def test_flags_that_change_beside_another_version_are_a_drift_of_their_own(
    config: Config, tools: Tools, at_ten: Rig, cluster: MemoryCluster
) -> None:
    set_by_a_person(cluster)
    watched(config, tools)
    gateway = at_ten.gateways["gw-2"]
    was = gateway.domains[DOMAIN]
    gateway.domains[DOMAIN] = DomainFlags(True, 30, was.epoch)
    watched(config, tools, 7)
    version, flags = acts(config, "drift")
    assert "shop/order:2" in version.intent["told"][0]
    assert "gw-2 serves 30 %" in flags.intent["told"][0]
    moved_at = row(config).moved_at
    gateway.domains[DOMAIN] = was
    watched(config, tools)
    now = row(config).moved_at
    assert moved_at is not None
    assert now is not None
    assert now > moved_at
    again = acts(config, "drift")[2:]
    assert ["shop/order:2" in act.intent["told"][0] for act in again] == [True], "nobody adopted it"


def test_what_deploy_takes_away_with_what_it_sets_is_ours(cluster: MemoryCluster) -> None:
    found = ClusterVersions(lambda: cluster, lambda _: [NAME, "other"], FLAGS)
    cluster.apply(deployment("shop/other:1") | {"metadata": {"name": "other"}})
    before = found.now()
    assert before is not None
    cluster.delete(DEPLOYMENT, "other")
    taken = found.now()
    assert taken is not None
    assert not all_ours(changes(before.to_json(), taken)), "nobody knows by whom"
    cluster.apply(deployment("shop/order:2", LIMIT="5", PASSWORD="s3cret", P="0"), manager=MANAGER)
    ours = found.now()
    assert ours is not None
    assert all_ours(changes(before.to_json(), ours))
    set_by_a_person(cluster)
    theirs = found.now()
    assert theirs is not None
    assert not all_ours(changes(before.to_json(), theirs))


def test_who_only_scales_is_nobody_who_changed_a_template(cluster: MemoryCluster) -> None:
    cluster.patch(DEPLOYMENT, NAME, {"spec": {"replicas": 5}}, manager="autoscaler")
    seen = versions(cluster, time.monotonic).now()
    assert seen is not None
    writer = seen.facts["deployment order, the rest of its template"].writer
    assert writer is not None
    assert writer.manager == MANAGER


@given(
    before=st.dictionaries(st.sampled_from("abcd"), st.sampled_from("12")),
    now=st.dictionaries(st.sampled_from("abcd"), st.sampled_from("12")),
    asked=st.sets(st.sampled_from("abcd")),
)
def test_exactly_what_differs_is_told(
    before: dict[str, str], now: dict[str, str], asked: set[str]
) -> None:
    seen = Seen({what: Fact(value) for what, value in now.items()}, asked=asked)
    found = changes({"asked": list("abc"), "facts": before}, seen)
    both = asked & {*"abc"}
    assert [item.told.split()[0] for item in found] == sorted(
        key for key in both if before.get(key) != now.get(key)
    ), "of objects that both looks have asked for"


def test_whoever_looks_at_more_remembers_it_and_whoever_looks_at_less_passes_it_over(
    config: Config, tools: Tools, at_ten: Rig, cluster: MemoryCluster
) -> None:
    """A laptop without the manifests began the phase, and others that have them go on."""
    more = deployment("shop/more:1")
    more["metadata"]["name"] = "more"
    cluster.apply(more, manager=PERSON)

    def looked_at(*names: str) -> None:
        tools.versions = ClusterVersions(lambda: cluster, lambda _: names, FLAGS, at_ten.clock)
        watched(config, tools)

    looked_at(NAME)
    looked_at(NAME, "more")
    looked_at(NAME)
    assert acts(config, "drift") == []
    more["spec"]["template"]["spec"]["containers"][0]["image"] = "shop/more:2"
    cluster.apply(more, manager=PERSON)
    looked_at(NAME, "more")
    (act,) = acts(config, "drift")
    assert act.intent["told"] == [
        "deployment more, container main, image: shop/more:1 -> shop/more:2"
    ]
    looked_at(NAME)
    assert acts(config, "drift-ended") == [], "who does not look at it cannot tell"
