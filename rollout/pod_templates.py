"""What runs in the cluster: the pod templates of the Deployments that a rollout is about.

The flags are no part of it: they change at every step.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from estate.cluster import CONFIG_MAP, DEPLOYMENT, Cluster, FieldOwner, Object, owners
from estate.errors import SplitctlError
from rollout.parallel import Running, TookTooLong
from rollout.versions import Fact, Seen

# A look is taken every second, and templates change once in weeks.
LOOK_EVERY_S = 15.0
# What a restart leaves in a template.
RESTARTED = "kubectl.kubernetes.io/restartedAt"


class ClusterVersions:
    """Deployments of a cluster, by name, with the ConfigMaps that they refer to.

    `flags`: variables, and keys of ConfigMaps, that are no part of a version.
    """

    def __init__(
        self,
        cluster: Callable[[], Cluster],
        deployments: Callable[[Cluster], Collection[str]],
        flags: Collection[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # It is found at the first look: a rollback, say, takes none.
        self._reach, self._names, self._flags = cluster, deployments, frozenset(flags)
        self._clock, self._next = clock, -math.inf
        self._cluster: Cluster | None = None
        self._coming: Running[None, Seen | None] | None = None

    def now(self) -> Seen | None:
        """One look at every Deployment. Raises what a cluster raises."""
        if self._cluster is None:
            self._cluster = self._reach()
        cluster = self._cluster
        found: dict[str, Fact] = {}
        writers: dict[str, FieldOwner] = {}
        asked: set[str] = set()
        maps: set[str] = set()
        # At each look: a finish brings one more, and takes it away when it is taken back.
        for name in self._names(cluster):
            key = f"deployment {name}"
            asked.add(key)
            raw = cluster.get(DEPLOYMENT, name)
            if raw is None:
                continue  # its facts are gone
            found |= {f"{key}, {what}": fact for what, fact in _template(raw, self._flags)}
            _note_last(writers, key, raw)
            maps |= set(_config_maps(raw["spec"]["template"]["spec"]))
        for name in sorted(maps):
            key = f"config map {name}"
            asked.add(key)
            raw = cluster.get(CONFIG_MAP, name)
            if raw is None:
                continue
            for what, text in raw.get("data", {}).items():
                if what not in self._flags:
                    owner = _newest(o for o in owners(raw) if what in o.data)
                    found[f"{key}, {what}"] = Fact(_digest(text), writer=owner)
            _note_last(writers, key, raw)
        return Seen(found, writers, asked)

    def lately(self) -> Seen | None:
        """What a look has brought that was begun by an earlier call; a new one begins now and then.

        Nobody waits for the cluster here: gates do not either.
        """
        seen = self._come()
        clock = self._clock()
        if self._coming is None and clock >= self._next:
            self._next = clock + LOOK_EVERY_S
            self._coming = Running({None: self.now})
        return seen

    def _come(self) -> Seen | None:
        if self._coming is None:
            return None
        outcome = self._coming.wait(0)[None]
        if isinstance(outcome.error, TookTooLong):
            return None
        self._coming = None
        if outcome.error is not None and not isinstance(outcome.error, SplitctlError):
            raise outcome.error
        return outcome.value


def _template(raw: Object, flags: frozenset[str]) -> Iterator[tuple[str, Fact]]:
    template = raw["spec"]["template"]
    found = owners(raw)
    for container in template["spec"].get("containers", []):
        name = container["name"]
        image = container.get("image", "")
        owner = _newest(o for o in found if name in o.images)
        yield f"container {name}, image", Fact(image, image, owner)
        for variable in container.get("env", []):
            if variable["name"] not in flags:
                pair = name, variable["name"]
                owner = _newest(o for o in found if pair in o.env)
                value = _digest({k: v for k, v in variable.items() if k != "name"})
                yield f"container {name}, variable {variable['name']}", Fact(value, "", owner)
    yield "the rest of its template", Fact(_digest(_rest(template)), "", _last(raw))


def _rest(template: Object) -> Object:
    """A template without what is told by name, and without the mark that a restart leaves."""
    spec = template["spec"]
    containers = [
        {key: value for key, value in container.items() if key not in ("image", "env")}
        for container in spec.get("containers", [])
    ]
    metadata = dict(template.get("metadata", {}))
    marks = {k: v for k, v in metadata.get("annotations", {}).items() if k != RESTARTED}
    metadata["annotations"] = marks
    return {"metadata": metadata, "spec": {**spec, "containers": containers}}


def _config_maps(spec: Object) -> Iterator[str]:
    """The names of those that a pod reads."""
    for volume in spec.get("volumes", []):
        if "configMap" in volume:
            yield volume["configMap"]["name"]
    for container in spec.get("containers", []):
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                yield source["configMapRef"]["name"]
        for variable in container.get("env", []):
            reference = variable.get("valueFrom", {}).get("configMapKeyRef")
            if reference:
                yield reference["name"]


def _note_last(writers: dict[str, FieldOwner], key: str, raw: Object) -> None:
    if (last := _last(raw)) is not None:
        writers[key] = last


def _last(raw: Object) -> FieldOwner | None:
    """Who wrote last; controllers, that only write how it stands, are nobody."""
    return _newest(o for o in owners(raw) if "f:data" in o.fields or _has_template(o))


def _has_template(owner: FieldOwner) -> bool:
    """Who only scales has none."""
    spec = owner.fields.get("f:spec")
    return spec is not None and (not spec or "f:template" in spec)


def _newest(found: Iterable[FieldOwner]) -> FieldOwner | None:
    dated = [owner for owner in found if owner.at is not None]
    return max(dated, key=lambda owner: (owner.at, owner.manager), default=None)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
