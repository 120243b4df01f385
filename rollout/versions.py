"""What runs: the pod templates of the Deployments that a rollout is about, as facts to be compared.

The flags are no part of it: they change at every step. Values of variables may be secret, so only
their digests are kept; images are kept as they are.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from estate.cluster import CONFIG_MAP, DEPLOYMENT, OURS, Cluster, FieldOwner, Object, owners
from estate.errors import SplitctlError
from rollout.field_managers import sentence

# A look is taken every second, and templates change once in weeks.
LOOK_EVERY_S = 15.0
# What a restart leaves in a template.
RESTARTED = "kubectl.kubernetes.io/restartedAt"
NONE = "none"


@dataclass(frozen=True)
class Fact:
    """One thing of a template, and whoever has set it, as far as the cluster knows.

    shown: the value for a person; empty where it may be a secret
    """

    value: str
    shown: str = ""
    writer: FieldOwner | None = None


@dataclass(frozen=True)
class Seen:
    """Facts by what they are of; the last writer of each object, for facts that are gone."""

    facts: Mapping[str, Fact] = field(default_factory=dict)
    writers: Mapping[str, FieldOwner] = field(default_factory=dict)

    def to_json(self) -> dict[str, str]:
        """What a later look is compared with."""
        return {what: fact.shown or fact.value for what, fact in self.facts.items()}


@dataclass(frozen=True)
class Changed:
    """One fact that is not as it was."""

    told: str
    writer: FieldOwner | None

    @property
    def ours(self) -> bool:
        """Whether a command of ours set it: `deploy apply`, say."""
        return self.writer is not None and self.writer.manager in OURS

    @property
    def who(self) -> str:
        """A sentence; empty where nobody knows."""
        return sentence(self.writer, "it") if self.writer is not None else ""


class Versions(Protocol):
    """Where it can be asked what runs."""

    def now(self) -> Seen | None:
        """What runs; None where nothing is to be compared. Raises what a cluster raises."""

    def lately(self) -> Seen | None:
        """The same for who looks every second: None also between two looks, and while the cluster
        is away."""


class Unwatched:
    """No cluster is known: what runs is nobody's business here."""

    def now(self) -> Seen | None:
        """Nothing."""
        return None

    def lately(self) -> Seen | None:
        """Nothing."""
        return None


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
        # Both are found at the first look: a rollback, say, takes none.
        self._reach, self._names, self._flags = cluster, deployments, frozenset(flags)
        self._clock, self._next = clock, -math.inf
        self._cluster: Cluster | None = None
        self._deployments: Collection[str] = ()

    def now(self) -> Seen | None:
        """One look at every Deployment. Raises what a cluster raises."""
        if self._cluster is None:
            cluster = self._reach()
            self._deployments = self._names(cluster)
            self._cluster = cluster
        cluster = self._cluster
        found: dict[str, Fact] = {}
        writers: dict[str, FieldOwner] = {}
        maps: set[str] = set()
        for name in self._deployments:
            raw = cluster.get(DEPLOYMENT, name)
            if raw is None:
                continue  # its facts are gone
            key = f"deployment {name}"
            found |= {f"{key}, {what}": fact for what, fact in _template(raw, self._flags)}
            _note_last(writers, key, raw)
            maps |= set(_config_maps(raw["spec"]["template"]["spec"]))
        for name in sorted(maps):
            raw = cluster.get(CONFIG_MAP, name)
            if raw is None:
                continue
            key = f"config map {name}"
            for what, text in raw.get("data", {}).items():
                if what not in self._flags:
                    owner = _newest(o for o in owners(raw) if what in o.data)
                    found[f"{key}, {what}"] = Fact(_digest(text), writer=owner)
            _note_last(writers, key, raw)
        return Seen(found, writers)

    def lately(self) -> Seen | None:
        """One look, unless the last was a moment ago."""
        clock = self._clock()
        if clock < self._next:
            return None
        self._next = clock + LOOK_EVERY_S
        try:
            return self.now()
        except SplitctlError:
            return None


def changes(before: Mapping[str, str], seen: Seen) -> list[Changed]:
    """What is not as it was, in order. Pure."""
    now = seen.to_json()
    told = []
    for what in sorted({*before, *now}):
        was, became = before.get(what), now.get(what)
        if was == became:
            continue
        fact = seen.facts.get(what)
        if fact is None:
            gone = f"{what} is gone"
            told.append(Changed(gone, seen.writers.get(what.partition(",")[0])))
        elif fact.shown:
            told.append(Changed(f"{what}: {was or NONE} -> {fact.shown}", fact.writer))
        else:
            how = "is new" if was is None else "was changed"
            told.append(Changed(f"{what} {how}", fact.writer))
    return told


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
    return _newest(o for o in owners(raw) if {"f:spec", "f:data"} & o.fields.keys())


def _newest(found: Iterable[FieldOwner]) -> FieldOwner | None:
    dated = [owner for owner in found if owner.at is not None]
    return max(dated, key=lambda owner: (owner.at, owner.manager), default=None)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
