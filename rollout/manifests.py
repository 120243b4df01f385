"""Manifests of an environment, rendered from the part of kustomize that is easy to foresee.

A folder has a `kustomization.yaml` with resources, components, namespace, images, replicas and
patches (files that are merged into the object of the same kind and name). A component is a folder
like any other that changes what is there already. `kubectl kustomize` gives the same; what else it
can do is refused here rather than left out.
https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from estate.cluster import Object
from estate.errors import ExitCode, SplitctlError

FILE = "kustomization.yaml"
KNOWN = {
    "apiVersion", "kind", "resources", "components", "namespace", "images", "replicas", "patches",
}  # fmt: skip
# By which field the items of a list are told from one another.
ITEM_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
}
PATCH = "$patch"
# What others need comes first.
FIRST = ("ServiceAccount", "ConfigMap", "PersistentVolumeClaim", "Service")
LAST = "Deployment"


class ManifestsInvalid(SplitctlError):
    """The manifests cannot be used: {path}: {reason}. Nothing was changed."""

    hint = "mend the file, then: splitctl deploy apply --dry-run"
    exit_code = ExitCode.USAGE


def render(folder: Path, namespace: str, components: Sequence[str] = ()) -> list[Object]:
    """The objects of an overlay for this namespace, in the order in which they are applied.

    components: folders in it that are taken as if its file named them. Raises ManifestsInvalid.
    """
    found = _render(folder, [], components)
    for manifest in found:
        where = manifest["metadata"].setdefault("namespace", namespace)
        told = f"{manifest['kind']} {manifest['metadata']['name']}"
        if where != namespace:
            reason = f"{told} is for namespace {where}, cluster.namespace is {namespace}"
            raise ManifestsInvalid(path=folder, reason=reason)
        if manifest["kind"] == "Secret":
            reason = f"{told}: what is secret stands in no manifest; make it in the cluster"
            raise ManifestsInvalid(path=folder, reason=reason)
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in found]
    for name in names:
        if names.count(name) > 1:
            raise ManifestsInvalid(path=folder, reason=f"{' '.join(name)} is there twice")
    return sorted(found, key=_rank)


def _rank(manifest: Object) -> int:
    kind: str = manifest["kind"]
    if kind in FIRST:
        return FIRST.index(kind)
    return len(FIRST) + (kind == LAST)


def _render(folder: Path, found: list[Object], components: Sequence[str] = ()) -> list[Object]:
    """What is found so far, and what this folder makes of it."""
    path = folder / FILE
    (settings,) = _documents(path) or [{}]
    if unknown := sorted(set(settings) - KNOWN):
        told = f"{', '.join(unknown)} is not understood; known are {', '.join(sorted(KNOWN))}"
        raise ManifestsInvalid(path=path, reason=told)
    for entry in settings.get("resources", []):
        place = folder / entry
        found = found + (_render(place, []) if place.is_dir() else _documents(place))
    for entry in dict.fromkeys([*settings.get("components", []), *components]):
        found = _render(folder / entry, found)
    if any(not {"apiVersion", "kind", "metadata"} <= manifest.keys() for manifest in found):
        raise ManifestsInvalid(path=path, reason="an object lacks apiVersion, kind or metadata")
    for patch in settings.get("patches", []):
        _patches(found, folder, patch)
    for replicas in settings.get("replicas", []):
        for manifest in _named(found, LAST, replicas["name"], path):
            manifest["spec"]["replicas"] = replicas["count"]
    for image in settings.get("images", []):
        _tag(found, image)
    if namespace := settings.get("namespace"):
        for manifest in found:
            manifest["metadata"]["namespace"] = namespace
    return found


def _patches(found: list[Object], folder: Path, patch: Object) -> None:
    if set(patch) != {"path"}:
        reason = "a patch has a path, and nothing else"
        raise ManifestsInvalid(path=folder / FILE, reason=reason)
    for change in _documents(folder / patch["path"]):
        _patch(found, change, folder / patch["path"])


def _documents(path: Path) -> list[Object]:
    try:
        text = path.read_text(encoding="utf-8")
        return [document for document in yaml.safe_load_all(text) if document]
    except OSError as error:
        raise ManifestsInvalid(path=path, reason=f"cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        raise ManifestsInvalid(path=path, reason=f"not valid YAML: {error}") from None


def _named(found: list[Object], kind: str, name: str, path: Path) -> Iterator[Object]:
    chosen = [m for m in found if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    if not chosen:
        raise ManifestsInvalid(path=path, reason=f"there is no {kind} {name}")
    yield from chosen


def _patch(found: list[Object], change: Object, path: Path) -> None:
    for manifest in _named(found, change["kind"], change["metadata"]["name"], path):
        merged = merge(manifest, change)
        manifest.clear()
        manifest.update(merged)


def merge(value: Any, change: Any, field: str = "") -> Any:
    """A strategic merge patch: objects by field, lists of named items by name, the rest whole.

    A field that is null is taken away, and an item of a list that says `$patch: delete`.
    """
    if isinstance(value, dict) and isinstance(change, dict):
        merged = {**value}
        for name, inside in change.items():
            if inside is None:
                merged.pop(name, None)
            else:
                merged[name] = merge(value.get(name), inside, name)
        return merged
    key = ITEM_KEYS.get(field)
    if key is None or not isinstance(value, list):
        return deepcopy(change)
    there = {item[key]: item for item in value}
    # kustomize puts what a patch names first, too.
    named = [(item, there.pop(item[key], {})) for item in change]
    kept = [merge(before, item) for item, before in named if item.get(PATCH) != "delete"]
    return [*kept, *there.values()]


def _tag(found: list[Object], wanted: Object) -> None:
    for manifest in found:
        spec = manifest.get("spec", {}).get("template", {}).get("spec", {})
        for container in [*spec.get("initContainers", []), *spec.get("containers", [])]:
            name, _, tag = container["image"].partition(":")
            if name == wanted["name"]:
                new = wanted.get("newName", name)
                container["image"] = f"{new}:{wanted.get('newTag', tag)}"
