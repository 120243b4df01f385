"""The end of a split on the real API server: flags given up, field managers and rolling restarts.

Databases and counters are in memory; objects, pods and what these serve are real.
"""

from collections.abc import Callable

import httpx
import yaml

from estate.cluster import DEPLOYMENT, FLAGS_MANAGER, Object
from estate.config import Config
from estate.errors import ExitCode
from estate.ledger import Rollout, open_ledger
from rollout import deploy, evidence, finishing
from rollout.deploy import Site
from rollout.finish_report import Finished
from rollout.flags import DomainFlags
from rollout.pods import EnvironmentFlags, GatewayPods
from rollout.rollback import rollback
from rollout.tools import Tools
from rollout.written import Unfenced
from tests.cluster.conftest import Namespace
from tests.cluster.kubelet import Kubelet
from tests.cluster.manifests import PORT, variable, web
from tests.rollout.rig import DOMAIN, Rig
from tests.rollout.way import verified

EPOCH = 7
GONE = [{"name": name, "$patch": "delete"} for name in ("F", "P")]
END = [variable("DEFAULT", "new"), variable("OLD_URL", "http://beside"), *GONE]


def write(config: Config) -> None:
    """A gateway with first values of its flags, an old service, and the end of the domain."""
    assert config.deploy is not None
    folder = config.deploy.manifests / "overlays" / "test"
    end = folder / "finished" / DOMAIN
    end.mkdir(parents=True)
    gateway = web("gateway", replicas=2, env=[variable("F", "true"), variable("P", "0")])
    shipped = {
        folder: ("resources: [all.yaml]", [gateway, web("old", replicas=1)]),
        end: (
            "kind: Component\nresources: [all.yaml]\npatches: [{path: patch.yaml}]",
            [web("beside", replicas=1)],
        ),
    }
    for place, (text, objects) in shipped.items():
        (place / "kustomization.yaml").write_text(text, encoding="utf-8")
        (place / "all.yaml").write_text(yaml.safe_dump_all(objects), encoding="utf-8")
    changes = [patch("gateway", END), patch("old", [variable("MOVED", "true")])]
    (end / "patch.yaml").write_text(yaml.safe_dump_all(changes), encoding="utf-8")


def patch(name: str, env: list[Object]) -> Object:
    spec = {"template": {"spec": {"containers": [{"name": name, "env": env}]}}}
    metadata = {"name": name}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def at_the_end(config: Config, rig: Rig, site: Site) -> Tools:
    """At 100 %, in rampdown, with flags that a step has set."""
    tools = rig.tools(site.ledger)
    pods = GatewayPods(site.cluster, config)
    tools.written = EnvironmentFlags(pods)
    tools.flags = Unfenced(tools.written, 60.0, site.clock, site.sleep)
    tools.refusing, tools.clock, tools.sleep = True, site.clock, site.sleep
    tools.flags.put(DOMAIN, DomainFlags(True, 100, EPOCH))
    with open_ledger(config) as ledger:
        seen = evidence.opened(rig.metrics.scrape(), DOMAIN, EPOCH)
        ledger.save_rollout(
            Rollout(DOMAIN, stage="rampdown", percentage=100, phase=0, epoch=EPOCH,
                    moved_at=ledger.now(), soak_evidence_s=7 * 86400.0, evidence=seen)
        )  # fmt: skip
    verified(config)
    rig.traffic(old=10, new=10_000)
    return tools


def test_flags_are_given_up_written_by_a_rollback_and_brought_back(
    namespace: Namespace, kubelet: Kubelet, deployment_config: Callable[..., Config]
) -> None:
    made = deployment_config()
    gateway = made.gateway.model_copy(
        update={"driver": "environment", "deployment": "gateway", "owners_refuse": True}
    )
    domain = made.domains[DOMAIN].model_copy(update={"default": "DEFAULT"})
    config = made.model_copy(update={"gateway": gateway, "domains": {DOMAIN: domain}})
    write(config)
    site, rig = Site.of(config), Rig(percentage=100, epoch=EPOCH)
    assert deploy.apply(config, site=site).exit_code == ExitCode.DONE
    tools = at_the_end(config, rig, site)
    cluster = namespace.cluster

    def served(name: str) -> set[str]:
        """What a variable really is in the gateways' processes."""
        pods = [p for p in cluster.pods("app=gateway") if p.ready and not p.ending]
        assert pods
        return {httpx.get(f"http://{p.ip}:{PORT}/env?{name}").text for p in pods}

    done = finishing.finish(config, DOMAIN, tools=tools, site=site)
    assert isinstance(done, Finished), done
    assert done.exit_code == ExitCode.DONE, done.to_text()
    assert (served("P"), served("F"), served("DEFAULT")) == ({"(not set)"}, {"(not set)"}, {"new"})
    assert cluster.deployment("old").env("old")["MOVED"] == "true"
    held = [o for o in cluster.managed_fields(DEPLOYMENT, "gateway") if o.manager == FLAGS_MANAGER]
    assert [owner.env for owner in held if owner.env] == []
    assert not deploy.apply(config, site=site).changed
    assert rollback(config, [DOMAIN], tools=tools).exit_code == ExitCode.DONE
    assert (served("P"), served("DEFAULT")) == ({"0"}, {"new"})
    assert rig.owned == {0}
    back = finishing.undo(config, DOMAIN, tools=tools, site=site)
    assert back.exit_code == ExitCode.DONE, back.to_text()
    assert (served("P"), served("DEFAULT")) == ({"0"}, {"(not set)"})
    assert cluster.get(DEPLOYMENT, "beside") is None
    assert "MOVED" not in cluster.deployment("old").env("old")
