"""Weights of a Gateway API route as flags: what is asked, what is served, who else changed it."""

import threading
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estate.cluster import FLAGS_MANAGER, HTTP_ROUTE, ClusterForbidden, MemoryCluster, Object, Route
from estate.config import BackendsConfig, Config
from rollout import permissions
from rollout.counters import Snapshot
from rollout.field_managers import FieldManagers
from rollout.flags import DomainFlags
from rollout.foresight import Way, extra_hops, sentences
from rollout.interrupts import Interrupts
from rollout.owner_step import NotServed, OwnerLimits, OwnerStep
from rollout.pods import PodMetrics
from rollout.rollback import rollback
from rollout.routes import BackendPods, RouteUnfit, epoch_key, percentage_of
from rollout.step_plan import StepPlan
from rollout.tools import Tools
from rollout.written import FlagsOvertaken, Unfenced
from splitctl import doctor
from tests.rollout.rig import DOMAIN, Rig
from tests.rollout.route import ACCEPTED, ROUTE, RouteCluster, backends, flags, manifest, status_of

TEN, FIFTY = DomainFlags(True, 10, 4), DomainFlags(True, 50, 5)


@pytest.fixture
def cluster() -> RouteCluster:
    """A route at 10 % under epoch 4, accepted."""
    made = RouteCluster(manifest(backends(None, None)))
    flags(made).write(DOMAIN, TEN)
    made.control()
    return made


@pytest.fixture
def config(plain_config: Config) -> Config:
    gateway = plain_config.gateway.model_copy(
        update={"driver": "http-route", "route": ROUTE, "owners_refuse": True}
    )
    both = BackendsConfig(old="old", new="new")
    domains = {DOMAIN: plain_config.domains[DOMAIN].model_copy(update={"backends": both})}
    return plain_config.model_copy(update={"gateway": gateway, "domains": domains})


def test_weights_are_written_under_a_manager_of_our_own_and_all_else_stays(
    cluster: RouteCluster,
) -> None:
    before = cluster.route.raw
    flags(cluster).write(DOMAIN, FIFTY)
    after = cluster.route.raw
    assert cluster.rules == [{"old": 50, "new": 50}, {"old": 1}]
    assert after["metadata"]["annotations"] == {epoch_key(DOMAIN): "5"}
    for rule, was in zip(after["spec"]["rules"], before["spec"]["rules"], strict=True):
        assert rule.get("matches") == was.get("matches")
        assert [b["port"] for b in rule["backendRefs"]] == [b["port"] for b in was["backendRefs"]]
    held = {
        o.manager: o.fields.get("f:spec", {}) for o in cluster.managed_fields(HTTP_ROUTE, ROUTE)
    }
    assert "f:rules" in held[FLAGS_MANAGER]
    assert "f:rules" not in held["release"]
    assert "f:parentRefs" in held["release"]


def test_a_weight_that_no_controller_has_accepted_is_asked_and_not_served(
    cluster: RouteCluster,
) -> None:
    driver = flags(cluster)
    driver.write(DOMAIN, FIFTY)
    (told,) = driver.unsettled(DOMAIN, FIFTY)
    assert told.startswith("gateway edge: Accepted is of generation ")
    assert [gateway.reachable for gateway in driver.served()] == [False]
    cluster.control()
    assert driver.unsettled(DOMAIN, FIFTY) == []
    (served,) = driver.served()
    assert (served.url, served.domains) == ("gateway edge", {DOMAIN: FIFTY})


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({}, "Accepted is not said; ResolvedRefs is not said"),
        ({"Accepted": ACCEPTED["Accepted"]}, "ResolvedRefs is not said"),
        (
            {**ACCEPTED, "Accepted": ("False", "NoMatchingParent", "no listener")},
            "Accepted is False (NoMatchingParent: no listener)",
        ),
        (
            {**ACCEPTED, "ResolvedRefs": ("False", "BackendNotFound", "Service new")},
            "ResolvedRefs is False (BackendNotFound: Service new)",
        ),
        (
            {**ACCEPTED, "PartiallyInvalid": ("True", "UnsupportedValue", "")},
            "PartiallyInvalid is True (UnsupportedValue)",
        ),
        ({**ACCEPTED, "Programmed": ("Unknown", "Pending", "")}, "Programmed is Unknown (Pending)"),
    ],
)
def test_what_a_controller_says_against_it_is_told(
    cluster: RouteCluster, said: dict[str, tuple[str, str, str]], told: str
) -> None:
    cluster.says = said
    cluster.control()
    assert flags(cluster).unsettled(DOMAIN, TEN) == [f"gateway edge: {told}"]


def test_every_gateway_that_the_route_hangs_at_has_to_accept_it() -> None:
    cluster = RouteCluster(manifest(backends(90, 10), parents=("edge", "inner")))
    found = cluster.route.raw
    parents = status_of(found, ACCEPTED)["status"]["parents"]
    cluster.put({**found, "status": {"parents": parents[:1]}})
    wanted = DomainFlags(True, 10, 0)
    assert flags(cluster).unsettled(DOMAIN, wanted) == [
        "gateway inner: no controller has taken it up"
    ]
    cluster.put({**found, "status": {"parents": parents}})
    assert flags(cluster).unsettled(DOMAIN, wanted) == []


def test_a_route_that_hangs_at_no_gateway_is_served_by_nobody() -> None:
    cluster = RouteCluster(manifest(backends(90, 10), parents=()))
    (told,) = flags(cluster).unsettled(DOMAIN, DomainFlags(True, 10, 0))
    assert "hangs at no gateway" in told


def test_rules_that_differ_are_each_seen() -> None:
    cluster = RouteCluster(manifest(backends(90, 10), backends(50, 50), backends(90, 10)))
    driver = flags(cluster)
    assert [gateway.domains[DOMAIN].served for gateway in driver.served()] == [10, 50]
    (told,) = driver.unsettled(DOMAIN, DomainFlags(True, 10, 0))
    assert "serves 50 %" in told
    driver.write(DOMAIN, TEN)
    assert cluster.rules == [{"old": 90, "new": 10}] * 3 + [{"old": 1}]


@given(st.integers(0, 1_000_000), st.integers(0, 1_000_000))
def test_a_share_of_the_requests_is_never_taken_for_none(old: int, new: int) -> None:
    rule = RouteCluster(manifest(backends(old, new))).route.rules[0]
    share = percentage_of(rule, BackendsConfig(old="old", new="new"))
    assert 0 <= share <= 100
    assert (share == 0) == (new == 0)
    assert 0 <= share - (100 * new / (old + new) if old + new else 0) < 1


@given(st.integers(0, 100))
def test_what_is_written_is_what_is_read(percentage: int) -> None:
    cluster = RouteCluster(manifest(backends(1, 0)))
    wanted = DomainFlags(True, percentage, 7)
    flags(cluster).write(DOMAIN, wanted)
    cluster.control()
    assert [gateway.domains[DOMAIN] for gateway in flags(cluster).served()] == [wanted]


def test_domains_of_one_route_have_weights_of_their_own() -> None:
    theirs: list[Object] = [{"name": "old", "weight": 30}, {"name": "other", "weight": 70}]
    cluster = RouteCluster(manifest(backends(90, 10), theirs))
    driver = flags(cluster, e=BackendsConfig(old="old", new="other"))
    driver.write(DOMAIN, FIFTY)
    assert cluster.rules[:2] == [{"old": 50, "new": 50}, {"old": 30, "other": 70}]
    cluster.control()
    (served,) = driver.served()
    assert {name: found.served for name, found in served.domains.items()} == {DOMAIN: 50, "e": 70}


@pytest.mark.parametrize(
    ("refs", "told"),
    [
        ([{"name": "old"}], "no rule has Service new among its backends"),
        ([{"name": "new"}], "the backends of rule 1 are new; old and new are wanted"),
        ([*backends(1, 1), {"name": "third"}], "are new, old, third; old and new are wanted"),
        ([*backends(1, 1), {"name": "new"}], "old and new are wanted, each once"),
        ([{"name": "new", "kind": "Import", "group": "x"}], "no rule has Service new"),
    ],
)
def test_a_route_that_does_not_fit_is_named_and_left_as_it_is(
    refs: list[Object], told: str
) -> None:
    cluster = RouteCluster(manifest(refs))
    before = cluster.route.raw
    with pytest.raises(RouteUnfit, match=told):
        flags(cluster).write(DOMAIN, FIFTY)
    assert cluster.route.raw == before
    assert told in flags(cluster).unsettled(DOMAIN, FIFTY)[0]


def test_a_domain_that_does_not_fit_is_in_no_other_domains_way() -> None:
    cluster = RouteCluster(manifest(backends(90, 10)))
    driver = flags(cluster, e=BackendsConfig(old="old", new="gone"))
    assert driver.unsettled(DOMAIN, DomainFlags(True, 10, 0)) == []
    (told,) = driver.unsettled("e", DomainFlags(True, 10, 0))
    assert "no rule has Service gone among its backends" in told
    driver.write(DOMAIN, FIFTY)
    assert cluster.rules[0] == {"old": 50, "new": 50}


def test_newer_flags_stay_and_so_do_others_than_expected(cluster: RouteCluster) -> None:
    driver = flags(cluster)
    with pytest.raises(FlagsOvertaken):
        driver.write(DOMAIN, DomainFlags(True, 50, 3))
    with pytest.raises(FlagsOvertaken):
        driver.write(DOMAIN, FIFTY, expecting=FIFTY)
    assert cluster.rules[0] == {"old": 90, "new": 10}
    driver.write(DOMAIN, DomainFlags(True, 0, 4), expecting=TEN)
    assert cluster.rules[0] == {"old": 100, "new": 0}


def test_flags_that_are_taken_away_leave_everybody_with_the_new_service(
    cluster: RouteCluster,
) -> None:
    driver = flags(cluster)
    assert driver.stands(DOMAIN) == TEN
    with pytest.raises(FlagsOvertaken):
        driver.remove(DOMAIN, FIFTY)
    with pytest.raises(FlagsOvertaken):
        driver.restore(DOMAIN, FIFTY)
    driver.remove(DOMAIN, TEN)
    assert driver.unflagged(DOMAIN) != []
    cluster.control()
    assert (driver.stands(DOMAIN), driver.unflagged(DOMAIN)) == (None, [])
    assert cluster.rules == [{"old": 0, "new": 100}, {"old": 1}]
    driver.restore(DOMAIN, FIFTY)
    assert driver.stands(DOMAIN) == FIFTY


def test_what_somebody_else_writes_meanwhile_is_kept(
    cluster: RouteCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch, busy = cluster.patch, iter([True, False])

    def meets(*arguments: object, **named: object) -> Object:
        if next(busy):
            found = cluster.route.raw
            found["metadata"]["annotations"]["others"] = "new"
            found["spec"]["rules"][0]["matches"] = []
            cluster.put(found)
        return patch(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(cluster, "patch", meets)
    flags(cluster).write(DOMAIN, FIFTY)
    assert cluster.rules[0] == {"old": 50, "new": 50}
    assert cluster.route.rules[0].raw["matches"] == []
    assert cluster.route.annotations == {epoch_key(DOMAIN): "5", "others": "new"}


@pytest.mark.parametrize(
    ("manager", "told"),
    [
        ("kubectl-edit", "HTTPRoute shop: spec.rules was set by kubectl-edit"),
        ("argocd-controller", "Argo CD puts back what stands in Git, so let it ignore the weights"),
    ],
)
def test_whoever_else_has_changed_the_weights_is_named(
    config: Config, cluster: RouteCluster, manager: str, told: str
) -> None:
    assert FieldManagers(cluster, config).who(DOMAIN) == []
    rules = manifest(backends(70, 30))["spec"]["rules"]
    cluster.patch(HTTP_ROUTE, ROUTE, {"spec": {"rules": rules}}, manager=manager)
    (sentence,) = FieldManagers(cluster, config).who(DOMAIN)
    assert told in sentence
    flags(cluster).write(DOMAIN, FIFTY)
    assert FieldManagers(cluster, config).who(DOMAIN) == []


def test_a_cluster_that_lets_us_not_look_is_told(cluster: RouteCluster, config: Config) -> None:
    cluster.forbidden.add(("get", HTTP_ROUTE.group, HTTP_ROUTE.name))
    (told,) = flags(cluster).served()
    assert not told.reachable
    assert "httproutes" in (told.problem or "")
    with pytest.raises(ClusterForbidden):
        flags(cluster).write(DOMAIN, FIFTY)
    lacking = permissions.missing(cluster, permissions.rules(config))
    assert [(one.rule.resource, one.verb) for one in lacking] == [("httproutes", "get")]


# Steps and the way back


def step(rig: Rig, cluster: RouteCluster) -> OwnerStep:
    def sleep(seconds: float) -> None:
        cluster.control()
        rig.clock.sleep(seconds)

    return OwnerStep(
        rig.plan(50), rig.world, flags(cluster), rig.writers, OwnerLimits(60.0, 2.0),
        Interrupts(), rig.clock, sleep,
    )  # fmt: skip


def at_ten(cluster: RouteCluster) -> Rig:
    rig = Rig(percentage=10)
    stands = DomainFlags(True, 10, rig.epoch)
    flags(cluster).write(DOMAIN, stands, expecting=TEN)
    cluster.control()
    return rig


def test_a_step_is_done_when_it_is_accepted_and_owned(cluster: RouteCluster) -> None:
    rig = at_ten(cluster)
    result = step(rig, cluster).perform()
    assert result.flags_ms > 0
    assert {owner.new_below for owner in rig.world.owners.values()} == {5000}
    assert cluster.rules[0] == {"old": 50, "new": 50}


def test_a_route_that_is_not_accepted_is_named_put_back_and_moves_nobody(
    cluster: RouteCluster,
) -> None:
    rig = at_ten(cluster)
    cluster.says = {**ACCEPTED, "Accepted": ("False", "Pending", "no address")}
    with pytest.raises(NotServed, match=r"gateway edge: Accepted is False \(Pending: no address\)"):
        step(rig, cluster).perform()
    assert {owner.new_below for owner in rig.world.owners.values()} == {1000}
    assert cluster.rules[0] == {"old": 90, "new": 10}


def test_parents_of_one_name_are_told_apart() -> None:
    """Else the one that has accepted would hide the one that has not."""
    parents: list[Object] = [
        {"name": "edge"},
        {"name": "edge", "namespace": "infra"},
        {"name": "edge", "port": 80},
        {"name": "edge", "sectionName": "web"},
        {"name": "edge", "sectionName": "web", "port": 443, "namespace": "infra"},
        {"name": "edge", "kind": "Service"},
    ]
    made = manifest(backends(90, 10))
    made["spec"]["parentRefs"] = parents
    made["metadata"]["generation"] = 1
    told = status_of(made, ACCEPTED)["status"]["parents"]
    for entry, parent in zip(told, parents, strict=True):
        entry["parentRef"]["kind"] = parent.get("kind", "Gateway")
    for late in range(len(parents)):
        route = {**made, "status": {"parents": told[:late] + told[late + 1 :]}}
        gateways = Route.of(route).gateways()
        assert [bool(reasons) for reasons in gateways.values()] == [
            number == late for number in range(len(parents))
        ]
    assert list(gateways) == [
        "edge", "edge (in infra)", "edge:80", "edge/web", "edge/web:443 (in infra)", "Service edge"
    ]  # fmt: skip


def test_customers_are_back_before_any_controller_has_followed(
    cluster: RouteCluster, config: Config
) -> None:
    rig = at_ten(cluster)
    cluster.says = None
    tools: Tools = rig.tools(nullcontext)
    tools.written, tools.refusing = flags(cluster), True
    tools.flags = Unfenced(tools.written, 60.0, rig.clock, rig.clock.sleep)
    (done,) = rollback(config, tools=tools).rollbacks
    assert {owner.new_below for owner in rig.world.owners.values()} == {0}
    assert cluster.rules[0] == {"old": 100, "new": 0}
    assert done.served_s is not None
    assert done.seconds is None
    assert any("is of generation" in problem for problem in done.problems)


# What a plan tells


@given(st.integers(0, 100))
def test_what_is_passed_on_is_what_chance_sends_to_the_other_side(percentage: int) -> None:
    """Counted out: each of a hundred customers is sent to each of a hundred places."""
    wrong = sum(
        (customer < percentage) != (place < percentage)
        for customer in range(100)
        for place in range(100)
    )
    assert extra_hops(percentage) == pytest.approx(wrong / 10_000)


def test_a_plan_tells_of_the_hops_and_of_no_strays() -> None:
    told = sentences(
        StepPlan("d", 10, 50, 2, "a@h"), Way("http-route", 5.0, True, 2000, True), 80.0
    )
    assert "no strays are expected" in told[-2]
    assert told[-1] == (
        "weights know no customer: at 50 % some 50 % of the requests take a hop more, "
        "from one service to the other"
    )


# Counters


def service(name: str, **selector: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": selector},
    }


def pod(name: str, app: str, phase: str = "Running", ip: str = "10.0.0.1") -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"containers": []},
        "status": {
            "phase": phase,
            "podIP": ip,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def test_requests_are_counted_by_the_pods_behind_both_services(config: Config) -> None:
    cluster = MemoryCluster()
    for one in (service("old", app="old"), service("new", app="new")):
        cluster.put(one)
    for name, app in (("old-1", "old"), ("new-1", "new"), ("new-2", "new"), ("x-1", "x")):
        cluster.put(pod(name, app))
    cluster.put(pod("new-3", "new", "Failed"))
    pods = BackendPods(cluster, config)
    assert [one.name for one in pods.all()] == ["new-1", "new-2", "old-1"]
    assert pods.page(pods.all()[0], "/metrics") == "http://10.0.0.1:8080/metrics"


def test_a_service_that_is_not_there_leaves_no_evidence(config: Config) -> None:
    snapshot: Snapshot = PodMetrics(BackendPods(MemoryCluster(), config)).scrape()
    assert not snapshot.complete
    assert "Service new" in snapshot.problems["cluster"]


class Page(BaseHTTPRequestHandler):
    """Of a service that refuses, and counts nothing."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"service_requests_total 7\n")

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_doctor_names_a_service_that_does_not_pass_on(
    cluster: RouteCluster, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    for one in (service("old", app="old"), service("new", app="new")):
        cluster.put(one)
    cluster.put(pod("old-1", "old", ip="127.0.0.1"))
    monkeypatch.setattr("estate.cluster.connect", lambda _: cluster)
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = config.gateway.model_copy(update={"port": server.server_port})
        found = doctor._gateways(config.model_copy(update={"gateway": port}))
        server.shutdown()
    assert found.healthy == ["gateway edge at gateway edge"]
    (problem,) = found.problems
    assert "it has no counter gateway_requests_total" in problem.reason
    assert "passes on" in problem.remedy
