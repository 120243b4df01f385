"""A cluster in memory: objects, and server-side apply with its owners and conflicts.

It runs no controllers: whoever uses it says with `put` what became of an object. Lists whose items
have names are merged by name, other lists are whole; defaults are not filled in.
"""

import json
from collections.abc import Collection, Iterator
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

from estate.cluster.errors import ClusterChanged, ClusterConflict, ClusterForbidden, ClusterLacks
from estate.cluster.fields import FieldTree, Object, owned, owners, united
from estate.cluster.objects import POD, Change, Event, Kind
from estate.cluster.protocol import MANAGER, Cluster

Path = tuple[str, ...]
UNOWNED = ("apiVersion", "kind", "metadata")


class MemoryCluster(Cluster):
    """`forbidden`: (verb, group, kind) that are refused; `said`: events by kind and name."""

    def __init__(self, namespace: str = "default") -> None:
        self.namespace = namespace
        self.forbidden: set[tuple[str, str, str]] = set()
        self.said: dict[tuple[str, str], list[Event]] = {}
        self._objects: dict[tuple[str, str], Object] = {}
        self._version = 0

    def put(self, found: Object) -> None:
        """What a controller, or somebody else, makes of an object."""
        self._store(Kind.of(found), deepcopy(found))

    def get(self, kind: Kind, name: str) -> Object | None:
        """An object, None where there is none."""
        self._may("get", kind)
        return deepcopy(self._objects.get((kind.name, name)))

    def listed(self, kind: Kind, selector: str = "") -> list[Object]:
        """The objects with these labels."""
        self._may("list", kind)
        wanted = dict(part.split("=", 1) for part in selector.split(",") if part)
        return [
            deepcopy(found)
            for (name, _), found in sorted(self._objects.items(), key=lambda item: item[0])
            if name == kind.name and wanted.items() <= found["metadata"].get("labels", {}).items()
        ]

    def apply(
        self,
        manifest: Object,
        *,
        manager: str = MANAGER,
        force: bool = False,
        dry_run: bool = False,
    ) -> Object:
        """Server-side apply; returns the object as it is then."""
        kind, name = Kind.of(manifest), manifest["metadata"]["name"]
        self._may("patch", kind)
        live = self._objects.get((kind.name, name))
        version = manifest["metadata"].get("resourceVersion")
        if version and (live is None or live["metadata"]["resourceVersion"] != version):
            raise ClusterChanged(kind=kind.name, name=name)
        after = _applied(live or {}, deepcopy(manifest), manager, force=force)
        if not dry_run:
            self._store(kind, after)
        return deepcopy(after)

    def patch(self, kind: Kind, name: str, change: Object, *, manager: str = MANAGER) -> Object:
        """JSON merge patch."""
        self._may("patch", kind)
        live = self._objects.get((kind.name, name))
        if live is None:
            raise ClusterLacks(kind=kind.name, name=name, namespace=self.namespace)
        version = live["metadata"]["resourceVersion"]
        if change.get("metadata", {}).get("resourceVersion", version) != version:
            raise ClusterChanged(kind=kind.name, name=name)
        self._store(kind, _updated(live, _merge_patched(deepcopy(live), change), change, manager))
        return deepcopy(self._objects[kind.name, name])

    def delete(self, kind: Kind, name: str) -> None:
        """Delete an object; nothing happens when it is gone."""
        self._may("delete", kind)
        self._objects.pop((kind.name, name), None)

    def events(self, kind: Kind, name: str) -> list[Event]:
        """What the cluster says about an object, the newest last."""
        return list(self.said.get((kind.name, name), []))

    def watch(self, kind: Kind, selector: str = "", *, limit_s: float) -> Iterator[Change]:
        """What is there, as ADDED; nothing changes while one waits."""
        yield from (Change("ADDED", found) for found in self.listed(kind, selector))

    def allowed(self, verb: str, group: str, resource: str) -> bool:
        """Whether we may do this here."""
        return not any(
            (verb, group) == (refused, where) and resource == f"{kind.lower()}s"
            for refused, where, kind in self.forbidden
        )

    def _may(self, verb: str, kind: Kind) -> None:
        if (verb, kind.group, kind.name) in self.forbidden:
            told = {"verb": verb, "group": kind.group, "resource": f"{kind.name.lower()}s"}
            raise ClusterForbidden(namespace=self.namespace, **told)

    def _store(self, kind: Kind, found: Object) -> None:
        metadata = found["metadata"]
        before = self._objects.get((kind.name, metadata["name"]))
        if before is not None and _bare(before) == _bare(found):
            return
        self._version += 1
        metadata["resourceVersion"] = str(self._version)
        if before is None or before.get("spec") != found.get("spec"):
            old = before["metadata"].get("generation", 0) if before else 0
            metadata["generation"] = max(old + 1, metadata.get("generation", 0))
        self._objects[kind.name, metadata["name"]] = found
        if kind == POD:
            metadata.setdefault("uid", metadata["name"])


def _bare(found: Object) -> Object:
    """What counts as a change: all but the times at which managers wrote."""
    metadata = {**found["metadata"], "resourceVersion": ""}
    entries = metadata.get("managedFields", [])
    metadata["managedFields"] = [{**entry, "time": ""} for entry in entries]
    return {**found, "metadata": metadata}


def _applied(live: Object, manifest: Object, manager: str, *, force: bool) -> Object:
    """The object after an apply. Raises ClusterConflict."""
    tree = _fields(manifest)
    wanted = {path: _at(manifest, path) for path in _leaves(tree)}
    others = {o.manager: set(_leaves(o.fields)) for o in owners(live) if o.manager != manager}
    held = {
        path: who
        for who, paths in others.items()
        for path in paths & wanted.keys()
        if _at(live, path) != wanted[path]
    }
    if held and not force:
        fields = ", ".join(".".join(("", *path)) for path in held)
        managers = ", ".join(sorted(set(held.values())))
        told = {"kind": manifest["kind"], "name": manifest["metadata"]["name"]}
        raise ClusterConflict(**told, fields=fields, managers=managers)
    after = deepcopy(live) or {key: manifest[key] for key in ("apiVersion", "kind")}
    after.setdefault("metadata", {"name": manifest["metadata"]["name"]})
    for path in set(_leaves(owned(live, manager))) - wanted.keys() - set().union(*others.values()):
        _drop(after, path)
    for path, value in wanted.items():
        if value not in ({}, []) or _at(after, path) is None:
            _put(after, path, value)
    entries = [
        {**entry, "fieldsV1": _without(entry["fieldsV1"], held)}
        for entry in after["metadata"].get("managedFields", [])
        if entry["manager"] != manager
    ]
    now = datetime.now(UTC).isoformat()
    mine = {"manager": manager, "operation": "Apply", "time": now, "fieldsV1": tree}
    after["metadata"]["managedFields"] = [*entries, mine]
    return after


def _updated(live: Object, after: Object, change: Object, manager: str) -> Object:
    """The object after an update: what changed belongs to who changed it, and to nobody else."""
    tree = _fields(change)
    taken = {path for path in _leaves(tree) if _at(live, path) != _at(after, path)}
    entries, mine = [], _without(tree, set(_leaves(tree)) - taken)
    for entry in after["metadata"].get("managedFields", []):
        if (entry["manager"], entry["operation"]) == (manager, "Update"):
            mine = united(mine, entry["fieldsV1"])
        else:
            entries.append({**entry, "fieldsV1": _without(entry["fieldsV1"], taken)})
    now = datetime.now(UTC).isoformat()
    update = {"manager": manager, "operation": "Update", "time": now, "fieldsV1": mine}
    after["metadata"]["managedFields"] = [*entries, update] if mine else entries
    return after


def _fields(manifest: Object) -> FieldTree:
    """The fields that a manifest, or a patch, names."""
    tree = _tree({key: value for key, value in manifest.items() if key not in UNOWNED})
    metadata = manifest.get("metadata", {})
    if labels := {k: v for k, v in metadata.items() if k in ("labels", "annotations")}:
        tree["f:metadata"] = _tree(labels)
    return tree


def _tree(value: Object) -> FieldTree:
    return {f"f:{key}": _below(inside) for key, inside in value.items()}


def _below(value: Any) -> FieldTree:
    if isinstance(value, dict):
        return _tree(value)
    if _by_name(value):
        return {
            f"k:{json.dumps({'name': item['name']})}": {".": {}, **_tree(item)} for item in value
        }
    return {}


def _by_name(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(i, dict) and "name" in i for i in value)


def _leaves(tree: FieldTree, before: Path = ()) -> Iterator[Path]:
    for step, inside in tree.items():
        if step == ".":
            continue
        here = (*before, step[2:])
        yield from _leaves(inside, here) if set(inside) - {"."} else (here,)


def _without(tree: FieldTree, paths: Collection[Path], before: Path = ()) -> FieldTree:
    left = {}
    for step, inside in tree.items():
        here = (*before, step[2:])
        if here not in paths:
            left[step] = _without(inside, paths, here)
    return left


def _item(values: list[Any], step: str) -> Any:
    wanted = json.loads(step)["name"]
    return next((item for item in values if item["name"] == wanted), None)


def _at(value: Any, path: Path) -> Any:
    for step in path:
        if value is None:
            return None
        value = _item(value, step) if isinstance(value, list) else value.get(step)
    return value


def _put(value: Any, path: Path, leaf: Any) -> None:
    for number, step in enumerate(path[:-1]):
        inside = _item(value, step) if isinstance(value, list) else value.get(step)
        if inside is None:
            # A list of named items follows where the next step is a key in JSON.
            inside = [] if path[number + 1].startswith("{") else {}
            if isinstance(value, list):
                inside = {"name": json.loads(step)["name"]}
                value.append(inside)
            else:
                value[step] = inside
        value = inside
    value[path[-1]] = leaf


def _drop(value: Any, path: Path) -> None:
    """Take a field away, and the item of a list of which nothing but the name is left."""
    holder = _at(value, path[:-1])
    if not isinstance(holder, dict):
        return
    item = len(path) > 1 and path[-2].startswith("{")
    if not (item and path[-1] == "name"):
        holder.pop(path[-1], None)
    if item and set(holder) <= {"name"}:
        items = _at(value, path[:-2])
        if holder in items:
            items.remove(holder)


def _merge_patched(value: Object, change: Object) -> Object:
    """RFC 7396."""
    for key, inside in change.items():
        if inside is None:
            value.pop(key, None)
        elif isinstance(inside, dict):
            there = value.get(key)
            value[key] = _merge_patched(there if isinstance(there, dict) else {}, inside)
        else:
            value[key] = inside
    return value
