"""Weights of a Gateway API route on a real API server, with a controller that accepts them and a
proxy that follows them by chance: whoever a request meets first, its customer's owner serves it."""

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import httpx
import psycopg
import pytest
import yaml

from estate.cluster import FLAGS_MANAGER, HTTP_ROUTE, Object, Route
from estate.config import BackendsConfig, Config, load
from migrator import control, ownership
from migrator.mapping import Side
from migrator.ownership import bucket
from rehearsal.children import wait_until
from rehearsal.estate import apply_migrations
from rehearsal.postgres import free_port
from rollout import permissions
from rollout.field_managers import FieldManagers
from rollout.flags import DomainFlags
from rollout.interrupts import Interrupts
from rollout.metrics import InMemoryMetrics
from rollout.owner_step import NotServed, OwnerLimits, OwnerStep
from rollout.pods import PodMetrics
from rollout.rollback import rollback
from rollout.routes import BackendPods, HttpRouteFlags, backends_of
from rollout.step_plan import StepPlan
from rollout.tools import Tools
from rollout.world import HttpWriters, InMemoryWorld
from rollout.written import Unfenced
from tests.cluster import routing
from tests.cluster.conftest import ROOT, Namespace
from tests.cluster.kubelet import Kubelet
from tests.cluster.manifests import PORT, variable
from tests.cluster.manifests import field as of_pod
from tests.conftest import FreshDatabase
from tests.services.conftest import Host

LIMIT_S = 40.0
DOMAIN = "checkout"
DATABASES: dict[Side, str] = {"old": "order", "new": "checkout"}
CUSTOMERS = 40


class SwitchedWorld(InMemoryWorld):
    """Owners stand in two real databases; sync is left out, so nothing has to cross."""

    databases: dict[str, FreshDatabase]

    def switch_owner(self, side: Side, new_below: int, epoch: int, timeout_s: float) -> None:
        """In the database, too."""
        super().switch_owner(side, new_below, epoch, timeout_s)
        with self.databases[DATABASES[side]].connect() as connection:
            ownership.switch(connection, DOMAIN, new_below, epoch)


@dataclass(frozen=True)
class Served:
    """One request: by whom its customer was served, and whom it had met first. `began`: seconds."""

    customer: str
    side: str
    first: str
    began: float


@dataclass
class Shoppers:
    """Customers who make carts one after the other, until they are told to end."""

    url: str
    customers: list[str] = field(
        default_factory=lambda: [str(uuid.uuid4()) for _ in range(CUSTOMERS)]
    )
    failed: list[str] = field(default_factory=list)
    served: list[Served] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def shop(self) -> None:
        with httpx.Client(timeout=20) as http:
            for customer in cycle(self.customers):
                if self.over.is_set():
                    return
                # What services say to each other, the route takes away.
                headers = {"X-Customer-Id": customer, "X-Passed-On": "1"}
                began = time.monotonic()
                answer = http.post(f"{self.url}/carts", headers=headers)
                if answer.status_code != httpx.codes.CREATED:
                    self.failed.append(f"{answer.status_code} {answer.text}")
                    continue
                side = answer.headers["x-served-by"].split("/")[1]
                self.served.append(Served(customer, side, answer.headers["x-first"], began))

    def seen(self) -> list[Served]:
        """Requests that begin from now on, some of each customer."""
        now = time.monotonic()

        def since() -> list[Served]:
            return [one for one in self.served if one.began >= now]

        assert wait_until(lambda: len(since()) >= 4 * CUSTOMERS or bool(self.failed), LIMIT_S)
        assert self.failed == []
        return since()

    def ways(self) -> set[tuple[str, str]]:
        """By whom, and whom they meet first."""
        return {(one.side, one.first) for one in self.seen()}


@pytest.fixture
def routes(namespace: Namespace) -> Iterator[None]:
    """The cluster knows HTTPRoutes."""
    take_away = routing.define(namespace.api)
    assert wait_until(lambda: routing.known(namespace.cluster), LIMIT_S)
    yield
    take_away()


@pytest.fixture
def controller(namespace: Namespace, routes: None) -> Iterator[routing.Controller]:
    """Looks at the routes of the namespace."""
    made = routing.Controller(namespace.api)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def config() -> Config:
    """The order split, behind the shipped route."""
    found = load(ROOT / "config.example.toml")
    told = {"driver": "http-route", "route": "shop", "owners_refuse": True, "port": PORT}
    sides = {"checkout": "checkout", "return": "returns"}
    domains = {
        name: domain.model_copy(update={"backends": BackendsConfig(old="order", new=sides[name])})
        for name, domain in found.domains.items()
    }
    gateway = found.gateway.model_copy(update=told)
    return found.model_copy(update={"gateway": gateway, "domains": domains})


def shipped(name: str) -> list[Object]:
    text = (ROOT / "deploy/http-route" / name).read_text(encoding="utf-8")
    return list(yaml.safe_load_all(text))


def service(name: str) -> Object:
    ports = [{"port": PORT, "targetPort": PORT, "protocol": "TCP"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": ports},
    }


def deployment(name: str, replicas: int, values: dict[str, str]) -> Object:
    labels = {"app": name}
    env = [of_pod("HOST", "status.podIP"), variable("PORT", str(PORT))]
    ready = {"httpGet": {"path": "/health/ready", "port": PORT}, "periodSeconds": 1}
    container = {
        "name": name,
        "image": f"splitctl/{name}:1",
        "env": [*env, *(variable(key, value) for key, value in values.items())],
        "readinessProbe": ready,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


def passing_on(name: str) -> str:
    """What the shipped patch says."""
    (found,) = (one for one in shipped("pass-on.yaml") if one["metadata"]["name"] == name)
    (container,) = found["spec"]["template"]["spec"]["containers"]
    (entry,) = container["env"]
    assert entry["name"] == "PASS_ON"
    return str(entry["value"])


def deploy(namespace: Namespace, databases: dict[str, FreshDatabase]) -> None:
    """Both sides of the checkout, which pass on, and the route."""
    cluster = namespace.cluster
    for name in ("partners", "order", "checkout", "returns"):
        cluster.apply(service(name))
    for side, name in DATABASES.items():
        apply_migrations(ROOT / "services" / name / "migrations", databases[name].dsn)
        with databases[name].connect() as connection:
            control.install(connection)
            ownership.create(connection, DOMAIN)
        values = {
            "DATABASE_URL": databases[name].dsn,
            "PARTNERS_URL": f"http://partners:{PORT}",
            "ORDER_URL": f"http://order:{PORT}",
            "OWNER_SIDE": side,
            "PASS_ON": passing_on(name),
        }
        cluster.apply(deployment(name, 2, values))
    cluster.apply(deployment("partners", 1, {}))
    cluster.apply(shipped("route.yaml")[0], manager="release")
    for name in ("partners", *DATABASES.values()):
        assert wait_until(lambda name=name: cluster.deployment(name).complete, LIMIT_S)


def as_the_tool(namespace: Namespace) -> None:
    """The shipped rights, and no more."""
    for path in ("base/rbac.yaml", "http-route/rbac.yaml"):
        for manifest in yaml.safe_load_all((ROOT / "deploy" / path).read_text(encoding="utf-8")):
            for subject in manifest.get("subjects", []):
                subject["namespace"] = namespace.name
            namespace.cluster.apply(manifest)


def owner_of(customer: str, percentage: int) -> str:
    return "new" if bucket(customer) < 100 * percentage else "old"


@pytest.mark.timeout(400)
def test_whoever_a_request_meets_its_customers_owner_serves_it(
    namespace: Namespace,
    kubelet: Kubelet,
    controller: routing.Controller,
    config: Config,
    fresh_databases: dict[str, FreshDatabase],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SPLITCTL_STATE_DIR", str(tmp_path))
    as_the_tool(namespace)
    deploy(namespace, fresh_databases)
    cluster = namespace.cluster_as("splitctl")
    assert wait_until(lambda: not permissions.missing(cluster, permissions.rules(config)), 10)
    flags = HttpRouteFlags(cluster, "shop", backends_of(config))
    assert wait_until(lambda: not flags.unsettled(DOMAIN, DomainFlags(True, 0, 0)), LIMIT_S)
    world = SwitchedWorld()
    world.databases = fresh_databases

    def step(to: int, settle_s: float = LIMIT_S) -> OwnerStep:
        plan = StepPlan(DOMAIN, 0, to, 2, "ann@host")
        return OwnerStep(
            plan, world, flags, HttpWriters([]), OwnerLimits(settle_s, 5.0), Interrupts()
        )

    host, port = Host(), free_port()
    host.serve(routing.Edge(controller, kubelet.service), port)
    shoppers = Shoppers(f"http://127.0.0.1:{port}")
    threads = [threading.Thread(target=shoppers.shop) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        assert shoppers.ways() == {("old", "order")}

        controller.refusing = "the listener has no address"
        with pytest.raises(NotServed, match="the listener has no address"):
            step(50, settle_s=2.0).perform()
        controller.refusing = ""
        assert world.owners["old"].new_below == 0

        step(50).perform()
        met = shoppers.seen()
        assert all(one.side == owner_of(one.customer, 50) for one in met)
        # Chance sends both kinds to both sides, and half of all requests are passed on.
        assert {(one.side, one.first) for one in met} == {
            (side, first) for side in DATABASES for first in DATABASES.values()
        }
        route = Route.of(cluster.get(HTTP_ROUTE, "shop") or {})
        assert [dict(rule.weights) for rule in route.rules] == [
            {"order": 50, "checkout": 50}, {"order": 100, "returns": 0}, {"order": 1},
        ]  # fmt: skip
        assert route.gateways() == {"shop": []}
        held = {o.manager: o.fields for o in cluster.managed_fields(HTTP_ROUTE, "shop")}
        assert "f:rules" in held[FLAGS_MANAGER]["f:spec"]
        assert "f:rules" not in held["release"]["f:spec"]
        assert FieldManagers(cluster, config).who(DOMAIN) == []

        snapshot = PodMetrics(BackendPods(cluster, config)).scrape()
        assert snapshot.problems == {}
        counted = [all_[DOMAIN] for all_ in snapshot.gateways.values() if DOMAIN in all_]
        assert len(counted) == 4
        assert sum(counts["new"].requests for counts in counted) > 0

        tools = Tools(
            ledger=nullcontext,  # type: ignore[arg-type]
            flags=Unfenced(flags, LIMIT_S, time.monotonic, time.sleep),
            metrics=InMemoryMetrics(),
            world=lambda _: world,
            writers=HttpWriters([]),
            sync=list,
            written=flags,
            refusing=True,
        )
        (back,) = rollback(config, domains=[DOMAIN], tools=tools).rollbacks
        assert back.complete, back.problems
        assert shoppers.ways() == {("old", "order")}
        assert back.served_s is not None
        assert back.seconds is not None
        assert back.served_s < back.seconds
    finally:
        shoppers.over.set()
        for thread in threads:
            thread.join()
        host.stop()
    assert shoppers.failed == []
    with psycopg.connect(fresh_databases["checkout"].dsn) as connection:
        made = connection.execute("SELECT DISTINCT customer_id::text FROM carts").fetchall()
    assert {owner_of(customer, 50) for (customer,) in made} == {"new"}
