"""What the tool asks of a cluster: a few plain acts, and what is made from them."""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from estate.cluster.errors import ClusterChanged, ClusterConflict, ClusterLacks
from estate.cluster.fields import FieldOwner, Object, owners
from estate.cluster.objects import (
    CONFIG_MAP,
    DEPLOYMENT,
    POD,
    Change,
    ConfigMap,
    Deployment,
    Event,
    Kind,
    Pod,
)

# The field managers of the tool: manifests under one, flags under another, so that neither takes
# away what the other has set.
MANAGER = "splitctl"
FLAGS_MANAGER = "splitctl-flags"
OURS = frozenset((MANAGER, FLAGS_MANAGER))
ATTEMPTS = 8
PAUSE_S = 0.05


# Looks at what stands, in the very version that would be changed.
Check = Callable[[Mapping[str, str]], None]


class Cluster(Protocol):
    """One namespace of a cluster. Every act has a limit in time.

    Each raises ClusterUnreachable, ClusterForbidden and ClusterRefused.
    """

    namespace: str

    def get(self, kind: Kind, name: str) -> Object | None:
        """An object, None where there is none."""

    def listed(self, kind: Kind, selector: str = "") -> list[Object]:
        """The objects with these labels."""

    def apply(
        self,
        manifest: Object,
        *,
        manager: str = MANAGER,
        force: bool = False,
        dry_run: bool = False,
    ) -> Object:
        """Server-side apply; returns the object as it is then. Raises ClusterConflict.

        With a resourceVersion in the manifest it raises ClusterChanged when the object has another.
        force: take fields from other managers; dry_run: only say what would become of it.
        """

    def patch(self, kind: Kind, name: str, change: Object, *, manager: str = MANAGER) -> Object:
        """JSON merge patch: lists are replaced as a whole. Raises ClusterLacks.

        With a resourceVersion in it, it raises ClusterChanged when the object has another.
        """

    def delete(self, kind: Kind, name: str) -> None:
        """Delete an object; nothing happens when it is gone."""

    def events(self, kind: Kind, name: str) -> list[Event]:
        """What the cluster says about an object, the newest last."""

    def watch(self, kind: Kind, selector: str = "", *, limit_s: float) -> Iterator[Change]:
        """What is there, as ADDED, and then each change, until the limit or the server ends it."""

    def allowed(self, verb: str, group: str, resource: str) -> bool:
        """Whether we may do this here, as the cluster itself answers."""

    def deployment(self, name: str) -> Deployment:
        """A Deployment with the state of its rollout. Raises ClusterLacks."""
        return Deployment.of(needed(self, DEPLOYMENT, name))

    def pods(self, selector: str) -> list[Pod]:
        """The pods with these labels, by name."""
        return sorted(map(Pod.of, self.listed(POD, selector)), key=lambda pod: pod.name)

    def config_map(self, name: str) -> ConfigMap:
        """A ConfigMap. Raises ClusterLacks."""
        return ConfigMap.of(needed(self, CONFIG_MAP, name))

    def managed_fields(self, kind: Kind, name: str) -> list[FieldOwner]:
        """Who owns what of an object. Raises ClusterLacks."""
        return owners(needed(self, kind, name))

    def patch_env(
        self,
        deployment: str,
        container: str,
        values: Mapping[str, str],
        *,
        force: bool = False,
        check: Check = lambda _: None,
    ) -> Deployment:
        """Set variables of a Deployment's container, as our flags. Others that we set stay.

        `check` gets the variables that stand, and may raise: then nothing is changed.
        Raises ClusterLacks; ClusterConflict when one belongs to somebody else and not forced.
        """

        def changed(found: Object) -> Object:
            live = Deployment.of(found).env(container)
            check(live)
            ours = _flags_of(found, container)
            kept = {name: live[name] for name in sorted(ours) if name in live}
            env = [{"name": name, "value": text} for name, text in {**kept, **values}.items()]
            spec = {"containers": [{"name": container, "env": env}]}
            return {"spec": {"template": {"spec": spec}}}

        found = needed(self, DEPLOYMENT, deployment)
        return Deployment.of(_flagged(self, DEPLOYMENT, found, changed, force))

    def drop_env(
        self,
        deployment: str,
        container: str,
        names: frozenset[str],
        *,
        check: Check = lambda _: None,
    ) -> Deployment:
        """Give up variables that we set as our flags. One that others have set, too, stays.

        `check` gets the variables that stand, and may raise: then nothing is changed.
        Raises ClusterLacks.
        """

        def changed(found: Object) -> Object:
            live = Deployment.of(found).env(container)
            check(live)
            kept = _flags_of(found, container) - names
            env = [{"name": name, "value": live[name]} for name in sorted(kept) if name in live]
            inside = {"name": container, "env": env} if env else {"name": container}
            return {"spec": {"template": {"spec": {"containers": [inside]}}}}

        found = needed(self, DEPLOYMENT, deployment)
        return Deployment.of(_flagged(self, DEPLOYMENT, found, changed, False))

    def drop_keys(
        self, config_map: str, names: frozenset[str], *, check: Check = lambda _: None
    ) -> ConfigMap:
        """Give up keys that we set as our flags. One that others have set, too, stays.

        `check` gets the keys that stand, and may raise: then nothing is changed. Raises
        ClusterLacks.
        """

        def changed(found: Object) -> Object:
            live = found.get("data", {})
            check(live)
            mine = {key for o in owners(found) if o.manager == FLAGS_MANAGER for key in o.data}
            kept = {key: live[key] for key in sorted(mine - names) if key in live}
            return {"data": kept} if kept else {}

        found = needed(self, CONFIG_MAP, config_map)
        return ConfigMap.of(_flagged(self, CONFIG_MAP, found, changed, False))

    def edit(
        self, kind: Kind, name: str, changed: Callable[[Object], Object], *, manager: str
    ) -> Object:
        """Patch exactly what was read; read again when it has changed meanwhile.

        `changed` makes the merge patch of what stands, and may raise: then nothing is changed. For
        fields of which no part can be applied, such as a list that belongs to one manager.
        Raises ClusterLacks, ClusterChanged.
        """
        for attempt in range(ATTEMPTS):
            found = needed(self, kind, name)
            change = changed(found)
            version = {"resourceVersion": found["metadata"]["resourceVersion"]}
            metadata = {**change.get("metadata", {}), **version}
            try:
                return self.patch(kind, name, {**change, "metadata": metadata}, manager=manager)
            except ClusterChanged:
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(PAUSE_S * (attempt + random.random()))
        raise AssertionError("unreachable")

    def patch_config_map(
        self,
        name: str,
        data: Mapping[str, str],
        *,
        force: bool = False,
        check: Check = lambda _: None,
    ) -> ConfigMap:
        """Set keys of a ConfigMap, as our flags. Others that we set stay. Made if need be.

        `check` gets the keys that stand, and may raise: then nothing is changed.
        Raises ClusterConflict when a key belongs to somebody else and not forced.
        """

        def changed(found: Object) -> Object:
            live = found.get("data", {})
            check(live)
            mine = [owner for owner in owners(found) if owner.manager == FLAGS_MANAGER]
            kept = {key: live[key] for owner in mine for key in sorted(owner.data) if key in live}
            return {"data": {**kept, **data}}

        found = self.get(CONFIG_MAP, name) or {"metadata": {"name": name}}
        return ConfigMap.of(_flagged(self, CONFIG_MAP, found, changed, force))


def _flags_of(found: Object, container: str) -> set[str]:
    """The variables of a container that we hold as our flags."""
    return {
        name
        for owner in owners(found)
        if owner.manager == FLAGS_MANAGER
        for where, name in owner.env
        if where == container
    }


def needed(cluster: Cluster, kind: Kind, name: str) -> Object:
    """An object that has to be there. Raises ClusterLacks."""
    found = cluster.get(kind, name)
    if found is None:
        raise ClusterLacks(kind=kind.name, name=name, namespace=cluster.namespace)
    return found


def _flagged(
    cluster: Cluster, kind: Kind, found: Object, changed: Callable[[Object], Object], force: bool
) -> Object:
    """Apply our flags to exactly what was read; read again when it has changed meanwhile."""
    name = found["metadata"]["name"]
    for attempt in range(ATTEMPTS):
        metadata = {"name": name}
        if version := found["metadata"].get("resourceVersion"):
            metadata["resourceVersion"] = version
        manifest = {
            "apiVersion": kind.api_version,
            "kind": kind.name,
            "metadata": metadata,
            **changed(found),
        }
        try:
            return over_our_own(cluster, manifest, manager=FLAGS_MANAGER, force=force)
        except ClusterChanged:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(PAUSE_S * (attempt + random.random()))
            found = cluster.get(kind, name) or {"metadata": {"name": name}}
    raise AssertionError("unreachable")


def over_our_own(
    cluster: Cluster, manifest: Object, *, manager: str, force: bool = False, dry_run: bool = False
) -> Object:
    """Apply over what the tool has set itself, over nobody else's. Raises ClusterConflict.

    So flags go over the first values that our own manifests gave them.
    """
    try:
        return cluster.apply(manifest, manager=manager, force=force, dry_run=dry_run)
    except ClusterConflict as conflict:
        if not OURS.issuperset(conflict.facts["managers"].split(", ")):
            raise
        return cluster.apply(manifest, manager=manager, force=True, dry_run=dry_run)
