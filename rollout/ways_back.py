"""The old code that is kept beside after a finish: whether a rollback would find it (law L8).

Nobody is served by it until then, so nobody else would see that it is gone.
"""

from collections.abc import Iterator, Mapping, Sequence

from estate.cluster import DEPLOYMENT, Cluster, Deployment, Kind, Object
from estate.config import Config
from rollout.deploy_planning import with_ends
from rollout.finish_parts import added
from rollout.finished import finished


def lacking(config: Config, cluster: Cluster) -> Mapping[str, Sequence[str]]:
    """What the way back of each finished domain lacks, each as a sentence; empty where nothing.

    Raises ManifestsInvalid, and what a cluster raises.
    """
    if config.deploy is None or config.gateway.driver == "admin":
        return {}
    ended = finished(config, cluster)
    return {name: list(_lacking(config, cluster, name, ended)) for name in ended}


def _lacking(config: Config, cluster: Cluster, domain: str, ended: Sequence[str]) -> Iterator[str]:
    others = [name for name in ended if name != domain]
    without = with_ends(config, cluster.namespace, others)
    for manifest in added(without, with_ends(config, cluster.namespace, [*others, domain])):
        if Kind.of(manifest) == DEPLOYMENT:
            name = manifest["metadata"]["name"]
            if why := _missing(cluster.get(DEPLOYMENT, name)):
                yield f"deployment {name} {why}: a rollback would lead customers to nobody"


def _missing(raw: Object | None) -> str:
    if raw is None:
        return "is gone"
    found = Deployment.of(raw)
    if not found.wanted:
        return "is scaled to 0"
    return "" if found.available else "has no ready pod"
