"""The shipped Job on the real API server: the tool in a pod, as the shipped service account.

Its databases are away, its ledger is real, and its gateway serves something else than was asked:
that it sees by the API server alone.
"""

from collections.abc import Callable

import yaml

from estate.cluster import DEPLOYMENT, FLAGS_MANAGER, Kind, Object
from estate.config import Config
from estate.errors import ExitCode
from estate.ledger import ActRecord, Rollout, open_ledger
from rehearsal.children import wait_until
from rollout import evidence
from rollout.counters import Snapshot
from rollout.manifests import render
from rollout.marks import DRIFT
from rollout.rolled_back import ROLLBACK
from tests.cluster.conftest import ROOT, Namespace
from tests.cluster.kubelet import Kubelet
from tests.cluster.manifests import config_map, variable, web
from tests.cluster.test_deploy import secret, shipped_rights
from tests.rollout.rig import DOMAIN

JOB = Kind("batch/v1", "Job")
LIMIT_S = 60.0
FOLDER = ROOT / "deploy" / "rollout"


def in_the_pod(config: Config, kubeconfig: str) -> str:
    """The same configuration: secrets where the Job has them mounted, flags as variables."""
    text = config.path.read_text(encoding="utf-8").replace('"file:secrets/', '"file:../secrets/')
    text = text.replace("mappings/q.sql", "q.sql").replace(
        "[gateway]",
        '[gateway]\ndriver = "environment"\ndeployment = "gateway"\nowners_refuse = true',
    )
    lines = [
        f'kubeconfig = "{kubeconfig}"' if "kubeconfig" in at else at for at in text.splitlines()
    ]
    return "\n".join(lines)


def acts(config: Config, kind: str) -> list[ActRecord]:
    with open_ledger(config) as ledger:
        return [act for act in ledger.history(DOMAIN) if act.kind == kind]


def at(config: Config, percentage: int, epoch: int) -> Rollout:
    """Where the ledger has the domain."""
    seen = evidence.opened(Snapshot({}), DOMAIN, epoch)
    return Rollout(DOMAIN, stage="live", percentage=percentage, phase=0, epoch=epoch, evidence=seen)


def test_the_shipped_job_looks_at_the_cluster_and_goes_up_for_nobody_after_a_rollback(
    namespace: Namespace, kubelet: Kubelet, deployment_config: Callable[..., Config]
) -> None:
    cluster, config = namespace.cluster, deployment_config()
    text = in_the_pod(config, str(shipped_rights(namespace)))
    query = (config.path.parent / "mappings/q.sql").read_text(encoding="utf-8")
    cluster.apply(config_map("splitctl-config", **{"config.toml": text, "q.sql": query}))
    folder = config.path.parent / "secrets"
    kept = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    secret(cluster, "splitctl-secrets", **kept)
    flags = [variable("F", "true"), variable("P", "50"), variable("P_EPOCH", "4")]
    cluster.apply(web("gateway", replicas=1, env=flags), manager=FLAGS_MANAGER)
    with open_ledger(config) as ledger:
        ledger.save_rollout(at(config, 10, 3))
    for manifest in render(FOLDER, namespace.name):
        cluster.apply(manifest)

    assert wait_until(lambda: acts(config, DRIFT) != [], LIMIT_S), kubelet.ended
    (found,) = acts(config, DRIFT)
    assert found.operator == "rollout-job"
    assert "serves 50 % under epoch 4, 10 % under epoch 3 is asked" in str(found.intent)

    with open_ledger(config) as ledger:
        back = ledger.begin(DOMAIN, ROLLBACK, {"from": 10, "to": 0})
        ledger.finish(back, {}, rollout=at(config, 0, 5))
    assert wait_until(lambda: len(codes(kubelet)) > 1, LIMIT_S)
    # It was started again, and knew.
    assert set(codes(kubelet)) == {ExitCode.PRECONDITION}
    assert len(cluster.pods("app=rollout")) == 1
    assert cluster.deployment("gateway").env("gateway")["P"] == "50"
    assert {o.manager for o in cluster.managed_fields(DEPLOYMENT, "gateway") if o.env} == {
        FLAGS_MANAGER
    }


def codes(kubelet: Kubelet) -> list[int]:
    """How the Job's container has ended, each time."""
    return [end.exit_code for end in kubelet.ended if end.pod.startswith("rollout-")]


def test_the_timer_of_verifications_is_the_same_tool_with_the_same_files() -> None:
    """Its API version is newer than the server of these tests."""
    timer = yaml.safe_load((FOLDER / "verify.yaml").read_text(encoding="utf-8"))
    (job,) = render(FOLDER, "shop")
    there, here = (
        spec["template"]["spec"] for spec in (timer["spec"]["jobTemplate"]["spec"], job["spec"])
    )
    assert there["volumes"] == here["volumes"]
    (verify,), (rollout,) = there["containers"], here["containers"]
    for name in ("image", "volumeMounts", "resources", "securityContext"):
        assert verify[name] == rollout[name]
    assert verify["args"] == ["verify", "run"]
    assert (here["restartPolicy"], there["restartPolicy"]) == ("OnFailure", "Never")


def mounted(manifest: Object) -> list[str]:
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    return [mount["mountPath"] for mount in container["volumeMounts"]]


def test_the_job_can_write_to_its_state_alone() -> None:
    (job,) = render(FOLDER, "shop")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    writable = [m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")]
    values = {entry["name"]: entry["value"] for entry in container["env"]}
    assert writable == [values["SPLITCTL_STATE_DIR"]]
    assert values["SPLITCTL_CONFIG"] in mounted(job)
