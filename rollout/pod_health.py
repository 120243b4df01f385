"""How the pods of Deployments stand, look after look while a phase soaks.

What was seen of them is kept in the ledger with the phase's other evidence. A pod is broken for as
long as it was seen not ready: time in which nobody looked, or the cluster did not answer, counts
for nothing (law L6). A pod that takes another one's place, as in a rolling restart, begins anew.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from estate.cluster import Cluster, Pod
from estate.config import Config, GateConfig, Problem
from estate.errors import SplitctlError, in_one_line
from estate.ledger.records import Rollout
from rollout import rollouts
from rollout.parallel import Outcome, Running
from rollout.seen import PodSeen, PodsSeen

# A look waits no longer for the cluster.
ANSWER_S = 5.0


@dataclass(frozen=True)
class PodNow:
    """A pod at one look; where one is lacking, its Deployment in its place.

    restarts: of its containers, as the cluster counts them; why: it is not ready, or ended last
    """

    uid: str
    name: str
    ready: bool
    restarts: int = 0
    created: datetime | None = None
    why: str = ""


# What each Deployment's pods were at a look, or why nobody knows.
Pods = Mapping[str, Outcome[list[PodNow]]]


def look(cluster: Cluster, name: str) -> list[PodNow]:
    """The pods of a Deployment that serve or are to serve. Raises what a cluster raises."""
    found = cluster.deployment(name)
    pods = [pod for pod in cluster.pods(found.selector) if not pod.ending and not pod.over]
    told = [_now(cluster, pod) for pod in pods]
    if len(pods) < max(found.wanted, 1):
        lack = f"deployment {name} has {len(pods)} of {found.wanted} pods"
        why = ": ".join(filter(None, (lack, rollouts.why(cluster, found))))
        told.append(PodNow(name, f"deployment {name}", ready=False, why=why))
    return told


def _now(cluster: Cluster, pod: Pod) -> PodNow:
    restarts = sum(container.restarts for container in pod.containers)
    why = rollouts.last_end(pod) if pod.ready else rollouts.why_not_ready(cluster, pod)
    return PodNow(pod.uid, f"pod {pod.name}", pod.ready, restarts, pod.created, why)


def asked(config: Config, domain: str) -> list[GateConfig]:
    """The gates that look at pods, of one domain."""
    return [g for g in config.gates if g.kind == "pods" and domain in (g.domains or [domain])]


def names(config: Config, domain: str) -> set[str]:
    """The Deployments that a domain's gates look at."""
    return {name for gate in asked(config, domain) for name in (*gate.deployments, *gate.shared)}


def begin(
    config: Config, domains: Sequence[str], reach: Callable[[], Cluster]
) -> Running[str, list[PodNow]]:
    """Look at all that these domains' gates ask for, each Deployment beside the others."""
    wanted = {name for domain in domains for name in names(config, domain)}
    return Running({name: partial(_look, reach, name) for name in sorted(wanted)})


def _look(reach: Callable[[], Cluster], name: str) -> list[PodNow]:
    return look(reach(), name)


def problems(config: Config, domain: str, reach: Callable[[], Cluster]) -> Iterator[Problem]:
    """Deployments that a domain's gates name, and that cannot be looked at."""
    for gate in asked(config, domain):
        for name in (*gate.deployments, *gate.shared):
            try:
                reach().deployment(name)
            except SplitctlError as error:
                remedy = "Correct deployments and shared, or take the gate out."
                yield Problem(f"gates.{gate.name}", in_one_line(error).rstrip("."), remedy)


def kept(rollout: Rollout, found: Pods, seconds: float) -> dict[str, Any]:
    """The ledger's part after a look, so many seconds after the one before."""
    before: dict[str, Any] = rollout.evidence.get("pods", {})
    return {
        name: _kept(before.get(name, {}).get("pods", {}), outcome, rollout, seconds)
        for name, outcome in found.items()
    }


def _kept(
    before: Mapping[str, Any], outcome: Outcome[list[PodNow]], rollout: Rollout, seconds: float
) -> dict[str, Any]:
    if outcome.value is None:
        return {"problem": in_one_line(outcome.error), "pods": before}
    pods = {pod.uid: _counted(pod, before.get(pod.uid), rollout, seconds) for pod in outcome.value}
    return {"problem": None, "pods": pods}


def _counted(
    pod: PodNow, before: Mapping[str, Any] | None, rollout: Rollout, seconds: float
) -> dict[str, Any]:
    began = rollout.phase_started_at
    if before is not None:
        first = before["first"]
    else:
        # What a pod counted before the phase is not the phase's.
        fresh = began is not None and pod.created is not None and pod.created >= began
        first = 0 if fresh else pod.restarts
    lasting = before is not None and not before["ready"] and not pod.ready
    broken_s = before["broken_s"] + seconds if before is not None and lasting else 0.0
    return {
        "name": pod.name,
        "ready": pod.ready,
        "first": first,
        "restarts": pod.restarts,
        "broken_s": round(broken_s, 3),
        "why": pod.why,
    }


def seen(evidence: Mapping[str, Any]) -> dict[str, PodsSeen]:
    """What the gates may look at, by the Deployment's name."""
    return {
        name: PodsSeen(tuple(map(_seen, data["pods"].values())), data["problem"])
        for name, data in evidence.get("pods", {}).items()
    }


def _seen(pod: Mapping[str, Any]) -> PodSeen:
    restarts = max(0, pod["restarts"] - pod["first"])
    return PodSeen(pod["name"], pod["ready"], pod["broken_s"], restarts, pod["why"])
