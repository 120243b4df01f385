"""Deployments on a cluster in memory: what is kept, what is given back, and what a kill leaves."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from estate.cluster import (
    CONFIG_MAP,
    DEPLOYMENT,
    FLAGS_MANAGER,
    HTTP_ROUTE,
    MANAGER,
    ClusterConflict,
    Kind,
    MemoryCluster,
    Object,
    Pod,
)
from estate.config import BackendsConfig, Config, DeployConfig
from estate.errors import ExitCode
from estate.ledger import Ledger, LedgerUnreachable, open_ledger
from rollout import deploy
from rollout.deploy import NothingToUndo, Site
from rollout.flags import DomainFlags
from rollout.rollouts import reason_of
from tests.rollout import route as routes
from tests.rollout.rig import DOMAIN, Clock, Killed

SERVICE = Kind("v1", "Service")


class Obedient(MemoryCluster):
    """Its Deployments are complete at once. `before`: called before each write, and may kill."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[str], None] = lambda _: None
        self.obeys = True

    def apply(
        self,
        manifest: Object,
        *,
        manager: str = MANAGER,
        force: bool = False,
        dry_run: bool = False,
    ) -> Object:
        if not dry_run:
            self.before(manifest["metadata"]["name"])
        found = super().apply(manifest, manager=manager, force=force, dry_run=dry_run)
        if not dry_run and Kind.of(manifest) == DEPLOYMENT and self.obeys:
            wanted = found["spec"]["replicas"]
            names = ("replicas", "updatedReplicas", "availableReplicas", "readyReplicas")
            generation = found["metadata"]["generation"]
            status = {**dict.fromkeys(names, wanted), "observedGeneration": generation}
            self.put({**found, "status": status})
        return found

    def delete(self, kind: Kind, name: str) -> None:
        self.before(name)
        super().delete(kind, name)


@pytest.fixture
def cluster() -> Obedient:
    return Obedient()


@pytest.fixture
def site(config: Config, cluster: Obedient) -> Site:
    clock = Clock()
    return Site(cluster, lambda: open_ledger(config), clock, clock.sleep)


@pytest.fixture
def shop(config: Config, tmp_path: Path) -> Config:
    """Manifests in a folder of the test's own; the domain's flags are F and P."""
    settings = DeployConfig(manifests=tmp_path / "deploy")
    made = config.model_copy(update={"deploy": settings})
    write(made, web())
    return made


def write(config: Config, *objects: Object) -> None:
    assert config.deploy is not None
    folder = config.deploy.manifests / "overlays" / config.environment
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kustomization.yaml").write_text("resources: [all.yaml]", encoding="utf-8")
    (folder / "all.yaml").write_text(yaml.safe_dump_all(objects), encoding="utf-8")


def web(image: str = "web:1", **values: str) -> Object:
    env = [{"name": name, "value": text} for name, text in {"P": "0", **values}.items()]
    container = {"name": "web", "image": image, "env": env}
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}}
    selector = {"matchLabels": {"app": "web"}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": selector, "template": template},
    }


def config_map(**data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": data}


def service(port: int = 80) -> Object:
    spec = {"selector": {"app": "web"}, "ports": [{"name": "http", "port": port}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec}


def stands(cluster: MemoryCluster) -> dict[str, object]:
    """What there is, in a few words."""
    found: dict[str, object] = {}
    for kind in (CONFIG_MAP, SERVICE, DEPLOYMENT):
        for item in cluster.listed(kind):
            template = item.get("spec", {}).get("template")
            said = (
                template["spec"]["containers"][0]
                if template
                else item.get("data", item.get("spec"))
            )
            found[kind.name] = said
    return found


def acts(config: Config) -> list[tuple[str, str]]:
    with open_ledger(config) as ledger:
        return [(act.kind, act.state) for act in ledger.history()]


def test_the_second_apply_says_that_there_is_nothing_to_change(
    shop: Config, site: Site, cluster: Obedient
) -> None:
    write(shop, config_map(a="1"), web())
    first = deploy.apply(shop, site=site)
    assert [(c.state, c.kind) for c in first.objects] == [
        ("new", "ConfigMap"),
        ("new", "Deployment"),
    ]
    assert first.exit_code == ExitCode.DONE
    second = deploy.apply(shop, site=site)
    assert not second.changed
    assert "nothing to change" in second.to_text()
    assert acts(shop) == [("deploy", "done")]


def test_only_changed_fields_are_shown_and_nothing_is_done_when_dry(
    shop: Config, site: Site, cluster: Obedient
) -> None:
    deploy.apply(shop, site=site)
    before = stands(cluster)
    write(shop, web("web:2", COLOUR="blue"))
    planned = deploy.plan(shop, site=site)
    told = [str(difference) for difference in planned.objects[0].differences]
    place = "spec.template.spec.containers[web]"
    assert sorted(told) == [
        f"{place}.env[COLOUR]: + {{name: COLOUR, value: blue}}",
        f"{place}.image: web:1 -> web:2",
    ]
    assert stands(cluster) == before
    assert acts(shop) == [("deploy", "done")]


def test_a_deployment_moves_no_customers(shop: Config, site: Site, cluster: Obedient) -> None:
    deploy.apply(shop, site=site)
    cluster.patch_env("web", "web", {"P": "50"})
    assert not deploy.apply(shop, site=site).changed
    write(shop, web("web:2"))
    done = deploy.apply(shop, site=site)
    assert cluster.deployment("web").env("web") == {"P": "50"}
    assert cluster.deployment("web").images == {"web": "web:2"}
    assert [d.path for d in done.objects[0].differences] == [
        "spec.template.spec.containers[web].image"
    ]
    deploy.undo(shop, site=site)
    assert cluster.deployment("web").env("web") == {"P": "50"}
    assert cluster.deployment("web").images == {"web": "web:1"}
    holders = {
        owner.manager
        for owner in cluster.managed_fields(DEPLOYMENT, "web")
        if ("web", "P") in owner.env
    }
    assert holders == {FLAGS_MANAGER}


def test_a_flag_that_was_not_moved_yet_keeps_its_value_too(
    shop: Config, site: Site, cluster: Obedient
) -> None:
    deploy.apply(shop, site=site)
    write(shop, web(P="100"))
    assert not deploy.apply(shop, site=site).changed
    assert cluster.deployment("web").env("web") == {"P": "0"}


def test_undo_brings_back_what_stood_one_deployment_after_the_other(
    shop: Config, site: Site, cluster: Obedient
) -> None:
    states = []
    for image in ("web:1", "web:2", "web:3"):
        write(shop, web(image), config_map(made=image))
        deploy.apply(shop, site=site)
        states.append(stands(cluster))
    deploy.undo(shop, site=site)
    assert stands(cluster) == states[1]
    deploy.undo(shop, site=site)
    assert stands(cluster) == states[0]
    assert deploy.plan_undo(shop, site=site).deletes == ["ConfigMap cm", "Deployment web"]
    assert deploy.undo(shop, delete_new=True, site=site).deleted == [
        "ConfigMap cm",
        "Deployment web",
    ]
    assert stands(cluster) == {}
    with pytest.raises(NothingToUndo):
        deploy.undo(shop, site=site)


def test_what_an_apply_has_made_stays_until_it_is_confirmed(
    shop: Config, site: Site, cluster: Obedient
) -> None:
    deploy.apply(shop, site=site)
    write(shop, web("web:2"), config_map(a="1"))
    deploy.apply(shop, site=site)
    done = deploy.undo(shop, site=site)
    assert done.left == ["ConfigMap cm"]
    assert "it goes with --confirm" in done.to_text()
    assert cluster.deployment("web").images == {"web": "web:1"}
    assert cluster.config_map("cm").data == {"a": "1"}


def test_a_field_of_somebody_else_stops_it_before_anything_is_done(
    shop: Config, site: Site, cluster: Obedient
) -> None:
    deploy.apply(shop, site=site)
    cluster.apply(config_map(a="theirs"), manager="helm")
    write(shop, web("web:2"), config_map(a="ours"))
    with pytest.raises(ClusterConflict) as refused:
        deploy.apply(shop, site=site)
    assert refused.value.facts["managers"] == "helm"
    assert cluster.deployment("web").images == {"web": "web:1"}
    assert acts(shop) == [("deploy", "done")]
    deploy.apply(shop, force=True, site=site)
    assert cluster.config_map("cm").data == {"a": "ours"}
    deploy.undo(shop, site=site)
    assert cluster.config_map("cm").data == {"a": "theirs"}


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_an_apply_that_was_killed_is_gone_on_with_and_undone_whole(
    shop: Config, site: Site, cluster: Obedient, writes: int
) -> None:
    write(shop, config_map(a="1"), service(), web())
    deploy.apply(shop, site=site)
    before = stands(cluster)
    write(shop, config_map(a="2"), service(81), web("web:2"))
    left = writes

    def kill(_: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    cluster.before = kill
    with pytest.raises(Killed):
        deploy.apply(shop, site=site)
    cluster.before = lambda _: None
    assert acts(shop)[-1] == ("deploy", "intended")
    assert "not finished" in (deploy.status(shop, site=site).last or "")
    deploy.apply(shop, site=site)
    assert cluster.deployment("web").images == {"web": "web:2"}
    assert acts(shop)[1:] == [("deploy", "abandoned"), ("deploy", "done")]
    deploy.undo(shop, site=site)
    assert stands(cluster) == before


def test_an_undo_can_follow_an_apply_that_was_killed(
    shop: Config, site: Site, cluster: Obedient
) -> None:
    write(shop, config_map(a="1"), web())
    deploy.apply(shop, site=site)
    before = stands(cluster)
    write(shop, config_map(a="2"), web("web:2"))

    def kill(name: str) -> None:
        if name == "web":
            raise Killed

    cluster.before = kill
    with pytest.raises(Killed):
        deploy.apply(shop, site=site)
    cluster.before = lambda _: None
    deploy.undo(shop, site=site)
    assert stands(cluster) == before


def test_a_rollout_that_does_not_come_is_still_under_way_when_the_limit_has_passed(
    shop: Config, site: Site, cluster: Obedient
) -> None:
    cluster.obeys = False
    done = deploy.apply(shop, site=site)
    assert done.exit_code == ExitCode.IN_PROGRESS
    assert not done.complete
    assert "deploy undo" in done.next_command
    assert deploy.status(shop, site=site).exit_code == ExitCode.IN_PROGRESS


def test_a_rollout_that_the_cluster_has_given_up_is_not_waited_for(
    shop: Config, site: Site, cluster: Obedient
) -> None:
    deploy.apply(shop, site=site)
    cluster.obeys = False
    found = cluster.get(DEPLOYMENT, "web")
    assert found is not None
    told = {"reason": "ProgressDeadlineExceeded", "message": "has timed out progressing"}
    conditions = [{"type": "Progressing", "status": "False", "lastUpdateTime": "t1", **told}]
    status = {"observedGeneration": 1, "conditions": conditions}
    cluster.put({**found, "status": status})
    began = site.clock()
    done = deploy.apply(shop, site=site)
    assert site.clock() == began
    assert done.exit_code == ExitCode.CHECK_FAILED
    assert "timed out progressing" in done.to_text()


def test_what_was_given_up_before_a_change_says_nothing_of_the_change(
    shop: Config, site: Site, cluster: Obedient
) -> None:
    deploy.apply(shop, site=site)
    cluster.obeys = False
    found = cluster.get(DEPLOYMENT, "web")
    assert found is not None
    condition = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    cluster.put({**found, "status": {"conditions": [{**condition, "lastUpdateTime": "t1"}]}})
    write(shop, web("web:2"))
    began = site.clock()

    def sleep(seconds: float) -> None:
        """The controller sees the change, and its old complaint stands; later it has a new one."""
        clock.sleep(seconds)
        again = cluster.get(DEPLOYMENT, "web")
        assert again is not None
        at = "t2" if clock() > began + 10.0 else "t1"
        conditions = [{**condition, "lastUpdateTime": at}]
        cluster.put({**again, "status": {"observedGeneration": 2, "conditions": conditions}})

    clock = Clock(began)
    site.clock, site.sleep = clock, sleep
    done = deploy.apply(shop, site=site)
    assert done.exit_code == ExitCode.CHECK_FAILED
    assert 10.0 <= clock() - began < 20.0


def test_status_works_while_the_ledger_is_away(shop: Config, site: Site, cluster: Obedient) -> None:
    deploy.apply(shop, site=site)

    def away() -> Ledger:
        raise LedgerUnreachable(reason="no route to host")

    site.ledger = away
    found = deploy.status(shop, site=site)
    assert found.exit_code == ExitCode.DONE
    assert (found.last or "").startswith("not known")


def pod(state: Object, *, scheduled: bool = True, **more: object) -> Pod:
    status = {"name": "c", "image": "web:9", "restartCount": 0, "state": state, **more}
    lacking = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes have room"}
    found: Object = {"metadata": {"name": "p"}, "spec": {}}
    conditions = [] if scheduled else [lacking]
    statuses = [status] if state else []
    return Pod.of({**found, "status": {"conditions": conditions, "containerStatuses": statuses}})


@pytest.mark.parametrize(
    ("seen", "warning", "reason"),
    [
        (
            pod({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}),
            None,
            "pod p: image web:9 cannot be fetched: not found",
        ),
        (
            pod(
                {"waiting": {"reason": "CrashLoopBackOff"}},
                restartCount=4,
                lastState={"terminated": {"exitCode": 3, "message": "trace\nout of paper\n"}},
            ),
            None,
            "pod p ends with 3 each time it starts, 4 restarts: out of paper",
        ),
        (
            pod({"waiting": {"reason": "CreateContainerConfigError", "message": "no key url"}}),
            None,
            "pod p: CreateContainerConfigError: no key url",
        ),
        (
            pod({"running": {}}),
            "Unhealthy: Readiness probe failed: 503",
            "pod p runs and is not ready: Unhealthy: Readiness probe failed: 503",
        ),
        (pod({}, scheduled=False), None, "pod p has no node: 0/3 nodes have room"),
        (
            pod({"waiting": {"reason": "ContainerCreating"}}),
            "FailedMount: no such secret",
            "pod p starts: FailedMount: no such secret",
        ),
    ],
)
def test_a_pod_says_why_it_is_not_ready(seen: Pod, warning: str | None, reason: str) -> None:
    assert reason_of(seen, warning) == reason


# Weights of a route


@pytest.fixture
def routed(shop: Config) -> Config:
    """The domain's flags are weights of a route."""
    gateway = shop.gateway.model_copy(update={"driver": "http-route", "route": routes.ROUTE})
    backends = BackendsConfig(old="old", new="new")
    domains = {DOMAIN: shop.domains[DOMAIN].model_copy(update={"backends": backends})}
    return shop.model_copy(update={"gateway": gateway, "domains": domains})


def weights(cluster: MemoryCluster) -> list[dict[str, int]]:
    found = cluster.get(HTTP_ROUTE, routes.ROUTE)
    assert found is not None
    refs = [rule["backendRefs"] for rule in found["spec"]["rules"]]
    return [{one["name"]: one.get("weight", 1) for one in some} for some in refs]


def test_weights_of_a_route_keep_their_value_whatever_the_manifest_says(
    routed: Config, site: Site, cluster: Obedient
) -> None:
    first = routes.manifest(routes.backends(100, 0))
    write(routed, web(), first)
    deploy.apply(routed, site=site)
    routes.flags(cluster).write(DOMAIN, DomainFlags(True, 50, 2))
    again = deploy.apply(routed, site=site)
    assert not again.changed
    # A rule more goes in, over the list that the step has taken, and sends as the others do.
    write(routed, web(), routes.manifest(routes.backends(100, 0), routes.backends(100, 0)))
    deploy.apply(routed, site=site)
    assert weights(cluster) == [{"old": 50, "new": 50}, {"old": 50, "new": 50}, {"old": 1}]
    deploy.undo(routed, site=site)
    assert weights(cluster) == [{"old": 50, "new": 50}, {"old": 1}]


def test_rules_of_a_route_that_somebody_else_has_changed_are_left_to_him(
    routed: Config, site: Site, cluster: Obedient
) -> None:
    write(routed, web(), routes.manifest(routes.backends(100, 0)))
    deploy.apply(routed, site=site)
    theirs = routes.manifest(routes.backends(100, 0), routes.backends(70, 30))
    rules = {"spec": {"rules": theirs["spec"]["rules"]}}
    cluster.patch(HTTP_ROUTE, routes.ROUTE, rules, manager="kubectl-edit")
    with pytest.raises(ClusterConflict, match="kubectl-edit"):
        deploy.apply(routed, site=site)
