"""The end of a split in memory: nobody moves, and whenever it is killed everybody can come back.

The estate: a gateway with flags F and P, a service `old`, both as Deployments that are rolled out
pod by pod. The end of domain `d` makes the new side the gateway's default, keeps `old` beside as
`beside`, and takes the code that has moved out of `old`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from estate.cluster import DEPLOYMENT, POD, ClusterConflict, Object
from estate.config import BackendsConfig, Config, DeployConfig, SideUrls
from estate.errors import ExitCode
from estate.ledger import Rollout, open_ledger
from rollout import (
    controller,
    decommission,
    deploy,
    evidence,
    finish_parts,
    finishing,
    phases,
)
from rollout.deploy import Site
from rollout.finish_course import (
    DefaultUnnamed,
    EndNotPrepared,
    FlagsNotInCluster,
    RouteLeadsToOld,
)
from rollout.finish_report import Finished
from rollout.finished import FinishedSince, FinishUnderWay, GatewaysBehind
from rollout.finishing import CalledBack
from rollout.flags import DomainFlags
from rollout.following import after_rampdown
from rollout.gates import GateResult
from rollout.manifests import ManifestsInvalid
from rollout.phases import Move, Phase, Position, Stage
from rollout.pods import EnvironmentFlags, GatewayPods
from rollout.preconditions import Held, Refused
from rollout.rollback import rollback
from rollout.status import status
from rollout.survey import Drift
from rollout.tools import Tools
from rollout.world import Ownership
from rollout.written import FlagsKept, FlagsOvertaken, Unfenced
from splitctl import surroundings
from splitctl.main import app
from tests.pages.commands import commands
from tests.rollout.rig import DOMAIN, Killed, Rig
from tests.rollout.rolling import RollingClock, RollingCluster, pod_of
from tests.rollout.way import row, verified

EPOCH = 7
FLAGS = {"F": "true", "P": "100", "P_EPOCH": str(EPOCH)}
FOLDER = f"finished/{DOMAIN}"


def deployment(name: str, **values: str) -> Object:
    env = [{"name": key, "value": value} for key, value in values.items()]
    container: Object = {"name": name, "image": f"{name}:1"} | ({"env": env} if env else {})
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template},
    }


def patch(name: str, *env: Object) -> Object:
    spec = {"template": {"spec": {"containers": [{"name": name, "env": list(env)}]}}}
    metadata = {"name": name}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


GONE = [{"name": "F", "$patch": "delete"}, {"name": "P", "$patch": "delete"}]
GATEWAY_END = [{"name": "DEFAULT", "value": "new"}, {"name": "OLD_URL", "value": "beside"}, *GONE]


@dataclass
class Estate:
    """What the tests work with. `called_back`: customers may be on the old side."""

    config: Config
    cluster: RollingCluster
    rig: Rig
    tools: Tools
    site: Site
    called_back: bool = False
    broken_rules: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    kill_at: int | None = None

    def before(self, act: str) -> None:
        """Called before each write to the cluster."""
        self.check()
        if self.kill_at is not None and len(self.writes) >= self.kill_at:
            raise Killed
        self.writes.append(act)

    def check(self) -> None:
        """Nobody has been moved, and a rollback would find the old code behind every gateway."""
        for pod in self.cluster.of("gateway"):
            env = pod.env("gateway")
            served = int(env["P"]) if "P" in env else 100 * (env.get("DEFAULT") == "new")
            if served != 100 and not self.called_back:
                self.broken_rules.append(f"{pod.name} serves {served} %: {env}")
            old = env.get("OLD_URL", "old")
            behind = self.cluster.of(old)
            if not behind or any(one.env(old).get("MOVED") for one in behind):
                self.broken_rules.append(f"{pod.name}: {old} has not the old code: {behind}")

    def finish(self) -> Finished | Held:
        return finishing.finish(self.config, DOMAIN, tools=self.tools, site=self.site)

    def undo(self) -> Finished:
        return finishing.undo(self.config, DOMAIN, tools=self.tools, site=self.site)

    def killed(self, act: Callable[[], object], before: int) -> bool:
        """Whether it died before this write (counted from 0)."""
        self.writes, self.kill_at = [], before
        try:
            act()
        except Killed:
            return True
        finally:
            self.kill_at = None
        return False

    def template(self, name: str) -> dict[str, str]:
        return self.cluster.deployment(name).env(name)

    def there(self) -> list[str]:
        return sorted(found["metadata"]["name"] for found in self.cluster.listed(DEPLOYMENT))

    def soak(self) -> None:
        """Until every pod is of its newest template."""
        for _ in range(10):
            self.cluster.tick()

    def is_finished(self) -> bool:
        moved = self.template("old").get("MOVED") == "true"
        return self.template("gateway") == {"DEFAULT": "new", "OLD_URL": "beside"} and moved

    def is_as_before(self) -> bool:
        plain = self.there() == ["gateway", "old"] and not self.template("old")
        return plain and self.template("gateway").keys() == FLAGS.keys()


@pytest.fixture
def estate(config: Config, tmp_path: Path) -> Estate:
    """At 100 %, in rampdown: soaked, verified, and the flags are the steps' own."""
    gateway = config.gateway.model_copy(
        update={"driver": "environment", "deployment": "gateway", "owners_refuse": True}
    )
    domain = config.domains[DOMAIN].model_copy(update={"default": "DEFAULT"})
    settings = DeployConfig(manifests=tmp_path / "deploy")
    made = config.model_copy(
        update={"gateway": gateway, "domains": {DOMAIN: domain}, "deploy": settings}
    )
    return assembled(made)


def assembled(config: Config) -> Estate:
    write(config, "", [deployment("gateway", F="true", P="0"), deployment("old")])
    write_end(config, GATEWAY_END)
    cluster, rig = RollingCluster(), Rig(percentage=100, epoch=EPOCH)
    rig.clock = clock = RollingClock()
    clock.cluster = cluster
    tools = rig.tools(lambda: open_ledger(config))
    tools.written = EnvironmentFlags(GatewayPods(cluster, config))
    tools.flags = Unfenced(tools.written, 60.0, clock, clock.sleep)
    tools.refusing = True
    site = Site(cluster, lambda: open_ledger(config), clock, clock.sleep)
    estate = Estate(config, cluster, rig, tools, site)
    deploy.apply(config, site=site)
    tools.written.write(DOMAIN, DomainFlags(True, 100, EPOCH))
    estate.soak()
    with open_ledger(config) as ledger:
        ledger.save_rollout(
            Rollout(DOMAIN, stage="rampdown", percentage=100, phase=2, epoch=EPOCH,
                    phase_started_at=ledger.now(), moved_at=ledger.now(), soak_evidence_s=60.0,
                    evidence=evidence.opened(rig.metrics.scrape(), DOMAIN, EPOCH))
        )  # fmt: skip
    verified(config)
    rig.traffic(old=10, new=1000)
    cluster.before = estate.before
    return estate


def write(config: Config, folder: str, objects: list[Object]) -> None:
    assert config.deploy is not None
    place = config.deploy.manifests / "overlays" / config.environment / folder
    place.mkdir(parents=True, exist_ok=True)
    (place / "kustomization.yaml").write_text("resources: [all.yaml]", encoding="utf-8")
    (place / "all.yaml").write_text(yaml.safe_dump_all(objects), encoding="utf-8")


def write_end(config: Config, gateway: list[Object]) -> None:
    write(config, FOLDER, [deployment("beside")])
    assert config.deploy is not None
    place = config.deploy.manifests / "overlays" / config.environment / FOLDER
    changes = [patch("gateway", *gateway), patch("old", {"name": "MOVED", "value": "true"})]
    (place / "patch.yaml").write_text(yaml.safe_dump_all(changes), encoding="utf-8")
    text = "kind: Component\nresources: [all.yaml]\npatches: [{path: patch.yaml}]\n"
    (place / "kustomization.yaml").write_text(text, encoding="utf-8")


def test_the_page_is_true(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command of docs/finish.md; the page calls the domain `checkout`."""
    monkeypatch.setattr("estate.config.load", lambda _: estate.config)
    monkeypatch.setattr("rollout.tools.Tools.of", lambda _: estate.tools)
    monkeypatch.setattr("rollout.deploy.Site.of", lambda _: estate.site)
    for command in commands("docs/finish.md"):
        words = command.words(named=[("checkout", DOMAIN)])
        typed = CliRunner().invoke(app, [*words, "--config", str(estate.config.path)])
        command.ended(typed.exit_code, typed.output)
    assert estate.is_as_before()


def test_it_takes_the_flags_and_the_code_away_in_an_order_that_keeps_the_way_back(
    estate: Estate,
) -> None:
    done = estate.finish()
    assert isinstance(done, Finished) and done.exit_code == ExitCode.DONE
    assert estate.writes == [
        "apply Deployment beside",
        "apply Deployment gateway",
        "apply Deployment gateway",
        "apply Deployment old",
    ]
    assert estate.is_finished()
    assert estate.broken_rules == []
    assert [flags.domains[DOMAIN].served for flags in estate.tools.flags.served()] == [100, 100]
    again = estate.finish()
    assert isinstance(again, Finished) and again.already
    assert again.exit_code == ExitCode.DONE
    with open_ledger(estate.config) as ledger:
        assert [a.kind for a in ledger.history(DOMAIN)] == ["finish"]


def test_what_it_would_do_is_shown_part_by_part(estate: Estate) -> None:
    plan = finishing.plan(estate.config, DOMAIN, tools=estate.tools, site=estate.site)
    text = plan.to_text()
    assert "env[DEFAULT]: + {name: DEFAULT, value: new}" in text
    assert "remove   the flags (100 %)" in text
    assert "new      Deployment beside" in text
    assert plan.blockers == []
    assert plan.next_command == f"splitctl rollout finish {DOMAIN}"
    assert estate.writes == []


def test_it_says_where_the_old_side_is_to_be_asked_from_then_on(estate: Estate) -> None:
    """The address of code that is gone answers 410, and nobody's refusal would be believed."""
    urls = {DOMAIN: SideUrls(old="http://old:8080", new="http://new:8080")}
    flows = estate.config.flows.model_copy(update={"urls": urls})
    estate.config = estate.config.model_copy(update={"flows": flows})
    plan = finishing.plan(estate.config, DOMAIN, tools=estate.tools, site=estate.site)
    there = f"then: in config.toml point flows.urls.{DOMAIN}.old at the way back"
    done = estate.finish()
    assert isinstance(done, Finished)
    assert plan.to_text().splitlines()[-1] == done.to_text().splitlines()[-1] == there
    back = f"then: in config.toml point flows.urls.{DOMAIN}.old at the old service again"
    assert estate.undo().to_text().splitlines()[-1] == back


def test_a_finished_domain_is_called_back_by_the_same_one_command(estate: Estate) -> None:
    estate.finish()
    estate.called_back = True
    result = rollback(estate.config, [DOMAIN], tools=estate.tools)
    assert result.exit_code == ExitCode.DONE
    assert {flags.domains[DOMAIN].served for flags in estate.tools.flags.served()} == {0}
    assert estate.rig.owned == {0}
    estate.check()
    assert estate.broken_rules == []
    assert row(estate.config).percentage == 0


def test_after_a_rollback_a_deployment_leaves_flags_and_way_back_as_they_are(
    estate: Estate,
) -> None:
    estate.finish()
    estate.called_back = True
    rollback(estate.config, [DOMAIN], tools=estate.tools)
    assert not deploy.apply(estate.config, site=estate.site).changed
    undone = estate.undo()
    assert undone.exit_code == ExitCode.DONE
    assert estate.is_as_before()
    assert estate.template("gateway")["P"] == "0"
    assert estate.broken_rules == []


def test_it_is_taken_back_and_nobody_moves(estate: Estate) -> None:
    estate.finish()
    done = estate.undo()
    assert done.exit_code == ExitCode.DONE
    assert estate.is_as_before()
    assert estate.template("gateway") == FLAGS
    assert estate.broken_rules == []
    assert estate.undo().already


def test_the_way_back_stays_until_the_last_gateway_that_leads_there_is_gone(
    estate: Estate,
) -> None:
    estate.finish()
    estate.writes.clear()
    seen, last_of_undo = estate.cluster.before, 3

    def still_ending(act: str) -> None:
        seen(act)
        if len(estate.writes) == last_of_undo:
            template = estate.cluster.deployment("gateway").raw["spec"]["template"]["spec"]
            ending = pod_of("gateway-slow", "gateway", template)
            ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            estate.cluster.put(ending)

    estate.cluster.before = still_ending
    stopped = estate.undo()
    assert stopped.exit_code == ExitCode.IN_PROGRESS
    assert stopped.parts[-1].missing == ["pod gateway-slow is ending"]
    assert "beside" in estate.there()
    estate.cluster.before = seen
    estate.cluster.delete(POD, "gateway-slow")
    assert estate.undo().exit_code == ExitCode.DONE
    assert estate.is_as_before()
    assert estate.broken_rules == []


def test_after_a_rollback_no_deployment_takes_code_away_that_a_gateway_still_leads_to(
    estate: Estate,
) -> None:
    """The rollback has given up the finish, which else would be in a deployment's way."""
    estate.cluster.stuck = {"gateway"}
    assert estate.finish().exit_code == ExitCode.IN_PROGRESS
    estate.called_back = True
    rollback(estate.config, [DOMAIN], tools=estate.tools)
    estate.writes.clear()
    with pytest.raises(GatewaysBehind) as refused:
        deploy.apply(estate.config, site=estate.site)
    assert "gateway-0, gateway-1" in str(refused.value)
    assert estate.writes == []
    estate.cluster.stuck = set()
    estate.soak()
    assert deploy.apply(estate.config, site=estate.site).exit_code == ExitCode.DONE
    assert estate.template("old")["MOVED"] == "true"
    estate.check()
    assert estate.broken_rules == []


def test_a_start_writes_no_flag_where_the_end_has_taken_them_away(estate: Estate) -> None:
    estate.finish()
    estate.writes.clear()
    found = controller.start(estate.config, DOMAIN, tools=estate.tools)
    assert found.changes == ("gateways serve the new side by default: no flag is written",)
    assert estate.writes == []
    assert estate.is_finished()
    assert row(estate.config).stage == "rampdown"


def test_a_way_back_that_is_not_there_is_told_though_nobody_needs_it_yet(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate.tools.cluster = lambda: estate.cluster
    monkeypatch.setattr("estate.cluster.connect", lambda _: estate.cluster)

    def told() -> tuple[list[str], list[str]]:
        domain = status(estate.config, tools=estate.tools).domains[0]
        asked = surroundings.parts(estate.config)["cluster"]()
        assert domain.way_back == [] or domain.next_command == "splitctl deploy apply --dry-run"
        return domain.way_back, [problem.reason for problem in asked.problems]

    assert told() == ([], [])
    estate.finish()
    assert told() == ([], [])
    beside = estate.cluster.get(DEPLOYMENT, "beside")
    assert beside is not None
    estate.cluster.put({**beside, "spec": {**beside["spec"], "replicas": 0}})
    nobody = "a rollback would lead customers to nobody"
    assert told() == ([f"deployment beside is scaled to 0: {nobody}"],) * 2
    estate.cluster.put({**beside, "status": {**beside["status"], "availableReplicas": 0}})
    assert told() == ([f"deployment beside has no ready pod: {nobody}"],) * 2
    estate.cluster.delete(DEPLOYMENT, "beside")
    assert told() == ([f"deployment beside is gone: {nobody}"],) * 2
    _at(estate, stage="complete")
    assert told() == ([], [])


def test_another_domain_that_is_half_way_keeps_its_flags(estate: Estate) -> None:
    names = {"flag": "G", "percentage": "Q", "default": "DEFAULT_E"}
    other = estate.config.domains[DOMAIN].model_copy(update=names)
    config = estate.config.model_copy(
        update={"domains": {DOMAIN: estate.config.domains[DOMAIN], "e": other}}
    )
    estate.config = config
    first = {"F": "true", "P": "0", "G": "true", "Q": "0"}
    write(config, "", [deployment("gateway", **first), deployment("old")])
    deploy.apply(config, site=estate.site)
    estate.tools.written = EnvironmentFlags(GatewayPods(estate.cluster, config))
    estate.tools.flags = Unfenced(
        estate.tools.written, 60.0, estate.rig.clock, estate.rig.clock.sleep
    )
    estate.tools.written.write("e", DomainFlags(True, 50, 3))
    estate.soak()
    half_way = {"G": "true", "Q": "50", "Q_EPOCH": "3"}
    with open_ledger(config) as ledger:
        ledger.save_rollout(Rollout("e", stage="live", percentage=50, phase=1, epoch=3))
    plan = finishing.plan(config, DOMAIN, tools=estate.tools, site=estate.site)
    assert "anew: the present phase of e, on other versions" in plan.to_text()
    done = estate.finish()
    assert isinstance(done, Finished) and done.exit_code == ExitCode.DONE
    assert estate.template("gateway") == {"DEFAULT": "new", "OLD_URL": "beside", **half_way}
    assert not deploy.apply(config, site=estate.site).changed
    estate.undo()
    assert estate.template("gateway") == {**FLAGS, **half_way}
    assert estate.broken_rules == []


WRITES_THERE, WRITES_BACK = 4, 4


@pytest.mark.parametrize("goes_on", ["finish", "undo", "rollback"])
@pytest.mark.parametrize("before", range(WRITES_THERE))
def test_killed_before_any_write_it_goes_on_or_back(
    estate: Estate, before: int, goes_on: str
) -> None:
    assert estate.killed(estate.finish, before)
    _ended(estate, goes_on)


@pytest.mark.parametrize("goes_on", ["undo", "rollback"])
@pytest.mark.parametrize("before", range(WRITES_BACK))
def test_its_undo_killed_before_any_write_goes_on_or_back(
    estate: Estate, before: int, goes_on: str
) -> None:
    estate.finish()
    assert estate.killed(estate.undo, before)
    _ended(estate, goes_on)


def _ended(estate: Estate, how: str) -> None:
    told = status(estate.config, tools=estate.tools).domains[0]
    assert told.unfinished
    assert told.next_command.startswith(f"splitctl rollout finish {DOMAIN}")
    with pytest.raises(FinishUnderWay):
        deploy.apply(estate.config, site=estate.site)
    if how == "finish":
        estate.finish()
        assert estate.is_finished()
    elif how == "undo":
        estate.undo()
        assert estate.is_as_before()
        assert estate.template("gateway") == FLAGS
    else:
        estate.called_back = True
        assert rollback(estate.config, [DOMAIN], tools=estate.tools).exit_code == ExitCode.DONE
        assert {f.domains[DOMAIN].served for f in estate.tools.flags.served()} == {0}
        assert estate.rig.owned == {0}
    estate.soak()
    estate.check()
    assert estate.broken_rules == []
    with open_ledger(estate.config) as ledger:
        assert ledger.unfinished(DOMAIN) == []


@pytest.mark.parametrize("at", range(WRITES_THERE))
def test_a_rollback_meanwhile_has_the_last_word(estate: Estate, at: int) -> None:
    _called_back_before(estate, at)
    if at < WRITES_THERE - 1:
        with pytest.raises((CalledBack, FlagsOvertaken)):
            estate.finish()
    else:
        estate.finish()  # nothing was left to be stopped
    _everybody_is_back(estate)


@pytest.mark.parametrize("at", range(WRITES_BACK))
def test_a_rollback_during_its_undo_has_the_last_word(estate: Estate, at: int) -> None:
    estate.finish()
    estate.writes.clear()
    _called_back_before(estate, at)
    if at == 1:  # the flags were just going to be written
        with pytest.raises(FlagsOvertaken):
            estate.undo()
    else:
        estate.undo()
    _everybody_is_back(estate)


def _called_back_before(estate: Estate, write: int) -> None:
    seen = estate.cluster.before

    def called_back(act: str) -> None:
        seen(act)
        if len(estate.writes) == write + 1 and not estate.called_back:
            estate.called_back = True
            rollback(estate.config, [DOMAIN], tools=estate.tools)

    estate.cluster.before = called_back


def _everybody_is_back(estate: Estate) -> None:
    estate.soak()
    assert {flags.domains[DOMAIN].served for flags in estate.tools.flags.served()} == {0}
    assert estate.rig.owned == {0}
    estate.check()
    assert estate.broken_rules == []


def test_a_part_that_does_not_come_stops_it_and_it_goes_on_later(estate: Estate) -> None:
    estate.cluster.stuck = {"beside"}
    stopped = estate.finish()
    assert isinstance(stopped, Finished)
    assert stopped.exit_code == ExitCode.IN_PROGRESS
    assert estate.template("gateway") == FLAGS
    assert "--undo" in stopped.next_command
    with pytest.raises(FinishUnderWay):
        decommission.archive(estate.config, DOMAIN, tools=estate.tools)
    estate.cluster.stuck = set()
    assert estate.finish().exit_code == ExitCode.DONE
    assert estate.is_finished()


def test_a_deployment_renders_the_end_and_never_brings_a_first_value_back(estate: Estate) -> None:
    estate.finish()
    write(estate.config, "", [deployment("gateway", F="true", P="0", LOG="1"), deployment("old")])
    done = deploy.apply(estate.config, site=estate.site)
    assert done.exit_code == ExitCode.DONE
    assert estate.template("gateway") == {"DEFAULT": "new", "OLD_URL": "beside", "LOG": "1"}
    assert estate.template("old")["MOVED"] == "true"
    deploy.undo(estate.config, site=estate.site)
    assert estate.is_finished()
    with pytest.raises(FinishedSince):
        deploy.undo(estate.config, site=estate.site)
    assert estate.broken_rules == []


def test_flags_that_somebody_else_has_set_too_are_named(estate: Estate) -> None:
    theirs = patch("gateway", {"name": "P", "value": "100"})
    estate.cluster.apply(theirs, manager="kubectl-edit")
    with pytest.raises(FlagsKept) as kept:
        estate.finish()
    assert "P" in kept.value.facts["names"]
    assert estate.broken_rules == []


def test_a_field_of_another_manager_stops_it_before_anything_is_done(estate: Estate) -> None:
    theirs = patch("old", {"name": "MOVED", "value": "false"})
    estate.cluster.apply(theirs, manager="argocd-controller")
    estate.writes.clear()
    with pytest.raises(ClusterConflict):
        estate.finish()
    assert estate.writes == []


def test_it_is_refused_before_rampdown_and_its_undo_once_complete(estate: Estate) -> None:
    _at(estate, stage="live")
    with pytest.raises(Refused) as early:
        estate.finish()
    assert early.value.next_command == f"splitctl decommission rampdown {DOMAIN}"
    _at(estate, stage="complete")
    with pytest.raises(Refused) as late:
        estate.undo()
    assert late.value.next_command == f"splitctl decommission undo {DOMAIN}"
    assert estate.writes == []
    # Whoever archived first may still take flags and code away.
    assert estate.finish().exit_code == ExitCode.DONE
    assert estate.is_finished()


def _at(estate: Estate, **changes: str) -> None:
    from dataclasses import replace

    with open_ledger(estate.config) as ledger:
        ledger.save_rollout(replace(row(estate.config), **changes))  # type: ignore[arg-type]


def test_gates_and_what_is_served_are_asked_first(estate: Estate) -> None:
    verified(estate.config, "different")
    held = estate.finish()
    assert isinstance(held, Held)
    assert held.exit_code == ExitCode.CHECK_FAILED
    estate.rig.world.owners["old"] = Ownership(0, EPOCH + 1)
    with pytest.raises(Drift):
        estate.finish()
    assert estate.writes == []


def test_manifests_that_were_not_applied_are_not_mixed_into_it(estate: Estate) -> None:
    write(estate.config, "", [deployment("gateway", F="true", P="0"), deployment("old", NEW="1")])
    with pytest.raises(Refused) as refused:
        estate.finish()
    assert "Deployment old" in str(refused.value)
    assert refused.value.next_command == "splitctl deploy apply --dry-run"


@pytest.mark.parametrize(
    ("env", "reason"),
    [(GONE, 'DEFAULT "new"'), ([{"name": "DEFAULT", "value": "new"}], "F, P is still there")],
)
def test_an_end_that_would_move_customers_is_refused(
    estate: Estate, env: list[Object], reason: str
) -> None:
    write_end(estate.config, env)
    with pytest.raises(ManifestsInvalid) as refused:
        estate.finish()
    assert reason in str(refused.value)


def test_a_default_in_the_config_map_alone_is_no_end(estate: Estate) -> None:
    """Whether a domain is finished is read from the Deployment."""
    where = {"driver": "config-map", "config_map": "flags"}
    gateway = estate.config.gateway.model_copy(update=where)
    config = estate.config.model_copy(update={"gateway": gateway})
    flags = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "flags"}}
    without = [deployment("gateway"), {**flags, "data": {"F": "true", "P": "0"}}]
    there = {**flags, "data": {"DEFAULT": "new"}}
    with pytest.raises(ManifestsInvalid, match='DEFAULT "new" in Deployment gateway'):
        finish_parts.forward(config, DOMAIN, without, [deployment("gateway"), there], Path("end"))
    ended = [deployment("gateway", DEFAULT="new"), {**flags, "data": {}}]
    assert finish_parts.forward(config, DOMAIN, without, ended, Path("end"))


def test_what_is_missing_is_said(estate: Estate) -> None:
    config = estate.config
    gateway = config.gateway.model_copy(update={"driver": "admin"})
    estate.config = config.model_copy(update={"gateway": gateway})
    with pytest.raises(FlagsNotInCluster):
        estate.finish()
    gateway = config.gateway.model_copy(update={"driver": "http-route"})
    backends = BackendsConfig(old="old", new="new")
    domain = config.domains[DOMAIN].model_copy(update={"default": "D", "backends": backends})
    routed = {"gateway": gateway, "domains": {DOMAIN: domain}}
    estate.config = config.model_copy(update=routed)
    with pytest.raises(RouteLeadsToOld, match="a rollback would lead to code that is gone"):
        estate.finish()
    assert "decommission archive" in after_rampdown(estate.config, DOMAIN)
    assert "rollout finish" in after_rampdown(config, DOMAIN)
    domain = config.domains[DOMAIN].model_copy(update={"default": ""})
    estate.config = config.model_copy(update={"domains": {DOMAIN: domain}})
    with pytest.raises(DefaultUnnamed):
        estate.finish()
    assert config.deploy is not None
    place = config.deploy.manifests / "overlays" / config.environment / FOLDER
    (place / "kustomization.yaml").unlink()
    estate.config = config
    with pytest.raises(EndNotPrepared):
        estate.finish()


@given(
    stage=st.sampled_from(Stage),
    verdicts=st.lists(st.sampled_from(["pass", "fail", "inconclusive"]), max_size=3),
    paused=st.sampled_from(["", "paused by ann"]),
    evidence_s=st.floats(0, 100),
)
def test_it_begins_only_soaked_and_on_gates_that_pass(
    stage: Stage, verdicts: list[str], paused: str, evidence_s: float
) -> None:
    position = Position(stage, 100, 0, (Phase(100, 50.0),), evidence_s, paused=paused)
    results = [
        GateResult(DOMAIN, "g", "strays", verdict, 0, 0, 0, "", "hold")  # type: ignore[arg-type]
        for verdict in verdicts
    ]
    decision = phases.on_finish(position, results)
    earned = set(verdicts) <= {"pass"} and not paused and evidence_s >= 50.0
    allowed = stage is Stage.COMPLETE or (stage is Stage.RAMPDOWN and earned)
    assert (decision.move is Move.ENTER) == allowed
