"""Rollouts of Deployments: waited for, and when one does not come, why."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from estate.cluster import POD, REPLICA_SET, Cluster, Container, Deployment, Object, Pod
from estate.cluster.objects import Kind

PAUSE_S = 0.5
REVISION = "deployment.kubernetes.io/revision"
# What a pod waits for that is only a matter of time.
STARTING = ("ContainerCreating", "PodInitializing")
FETCHING = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
GIVEN_UP = "ProgressDeadlineExceeded"
# Reasons of an end that say no more than its exit code.
PLAIN_ENDS = (None, "Error", "Completed")


@dataclass(frozen=True)
class RolloutState:
    """How far one Deployment is. `why`: what keeps it, where something is known to.

    given_up: since when the cluster says that it makes no progress
    """

    name: str
    complete: bool
    wanted: int
    updated: int
    available: int
    image: str
    why: str | None = None
    given_up: str | None = None

    def __str__(self) -> str:
        told = f"{self.name}: {self.available} of {self.wanted} available"
        if not self.complete:
            told += f", {self.updated} of the newest version"
        return f"{told}; {self.why}" if self.why else told


def look(cluster: Cluster, name: str) -> RolloutState:
    """How far a Deployment is, and what keeps it. Raises ClusterLacks."""
    found = cluster.deployment(name)
    return RolloutState(
        name=name,
        complete=found.complete,
        wanted=found.wanted,
        updated=found.updated,
        available=found.available,
        image=", ".join(found.images.values()),
        why=None if found.complete else why(cluster, found),
        given_up=_given_up(found),
    )


def _given_up(found: Deployment) -> str | None:
    for condition in found.raw.get("status", {}).get("conditions", []):
        if condition.get("reason") == GIVEN_UP:
            return str(condition.get("lastUpdateTime", "once"))
    return None


def wait(
    cluster: Cluster,
    names: Sequence[str],
    limit_s: float,
    *,
    moved: Collection[str],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    on_progress: Callable[[str], None],
) -> list[RolloutState]:
    """Until each is complete or given up by the cluster itself, or the limit has passed.

    moved: those that were just changed. That the cluster had given them up before says nothing now,
    and it says so until the first progress.
    """
    deadline = clock() + limit_s
    told: dict[str, str] = {}
    before: dict[str, str | None] | None = None
    while True:
        states = [look(cluster, name) for name in names]
        if before is None:
            before = {state.name: state.given_up for state in states if state.name in moved}
        states = [
            replace(state, given_up=None) if state.given_up == before.get(state.name) else state
            for state in states
        ]
        for state in states:
            if told.get(state.name) != str(state):
                told[state.name] = str(state)
                on_progress(str(state))
        if all(state.complete or state.given_up for state in states) or clock() >= deadline:
            return states
        sleep(PAUSE_S)


def why(cluster: Cluster, found: Deployment) -> str | None:
    """What keeps a Deployment, the most telling reason: what was refused, what cannot start, what
    is not ready. None where nothing is known to."""
    if found.paused:
        return "its rollout is paused: kubectl rollout resume"
    newest = newest_replica_set(found, cluster.listed(REPLICA_SET, found.selector))
    refused = found.reasons.get("ReplicaFailure")
    if refused and (newest is None or found.updated < found.wanted):
        return f"pods are refused: {refused.partition(': ')[2]}"
    pods = [pod for pod in cluster.pods(found.selector) if not pod.ending and not pod.ready]
    for pod in pods:
        if newest is None or pod.owner == newest:
            return why_not_ready(cluster, pod)
    return found.reasons.get("Progressing")


def newest_replica_set(found: Deployment, sets: Sequence[Object]) -> str | None:
    """The name of the one that the Deployment is going to."""
    wanted = found.raw["metadata"].get("annotations", {}).get(REVISION)
    for replica_set in sets:
        metadata = replica_set["metadata"]
        ours = any(o["name"] == found.name for o in metadata.get("ownerReferences", []))
        if ours and wanted and metadata.get("annotations", {}).get(REVISION) == wanted:
            return str(metadata["name"])
    return None


def why_not_ready(cluster: Cluster, pod: Pod) -> str:
    """Why a pod is not ready, with what the cluster says of it."""
    return reason_of(pod, _warning(cluster, POD, pod.name))


def last_end(pod: Pod) -> str:
    """How a container of a pod ended last; empty when none has."""
    ends = [_end(container) for container in pod.containers if container.exit_code is not None]
    return "; ".join(ends)


def _end(container: Container) -> str:
    told = f" ({container.ended})" if container.ended not in PLAIN_ENDS else ""
    return f"it ended with {container.exit_code}{told}"


def reason_of(pod: Pod, warning: str | None) -> str:
    """Why a pod is not ready. `warning`: the last that the cluster said of it."""
    for container in pod.containers:
        if told := _container(pod, container):
            return told
    for condition in pod.raw.get("status", {}).get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"pod {pod.name} has no node: {condition.get('message', '')}"
    if any(container.running for container in pod.containers):
        return f"pod {pod.name} runs and is not ready: {warning or 'its probe has not passed yet'}"
    return f"pod {pod.name} starts" + (f": {warning}" if warning else "")


def _container(pod: Pod, container: Container) -> str | None:
    if container.waiting in FETCHING:
        return f"pod {pod.name}: image {container.image} cannot be fetched: {container.message}"
    if container.waiting == "CrashLoopBackOff" or (container.restarts and not container.running):
        last = container.last_words.strip().splitlines()
        words = f": {last[-1]}" if last else ""
        how = f" ({container.ended})" if container.ended not in PLAIN_ENDS else ""
        return (
            f"pod {pod.name} ends with {container.exit_code}{how} each time it starts,"
            f" {container.restarts} restarts{words}"
        )
    if container.waiting and container.waiting not in STARTING:
        return f"pod {pod.name}: {container.waiting}: {container.message}"
    return None


def _warning(cluster: Cluster, kind: Kind, name: str) -> str | None:
    found = [event for event in cluster.events(kind, name) if event.warning]
    return f"{found[-1].reason}: {found[-1].message}" if found else None
