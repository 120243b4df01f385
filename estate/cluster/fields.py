"""Who owns which fields of an object, as the API server keeps it in `metadata.managedFields`.

A set of fields is a tree: `f:NAME` a field, `k:{JSON}` the item of a list with those keys, `v:JSON`
the value of a list, `.` the place itself; an empty tree is everything below.
https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Object = dict[str, Any]
FieldTree = dict[str, Any]


@dataclass(frozen=True)
class FieldOwner:
    """What one manager owns of an object. `operation`: Apply or Update.

    env: (container, variable) of a workload's template; images: its containers; data: keys of a
    ConfigMap
    """

    manager: str
    operation: str
    at: datetime | None
    env: frozenset[tuple[str, str]]
    data: frozenset[str]
    images: frozenset[str]
    fields: FieldTree


def owners(found: Object) -> list[FieldOwner]:
    """Every manager of an object's fields; its status has managers of its own, left out here."""
    return [
        FieldOwner(
            manager=entry.get("manager", ""),
            operation=entry.get("operation", ""),
            at=moment(entry.get("time")),
            env=frozenset(_env(entry.get("fieldsV1", {}))),
            data=frozenset(_named(entry.get("fieldsV1", {}).get("f:data", {}))),
            images=frozenset(_images(entry.get("fieldsV1", {}))),
            fields=entry.get("fieldsV1", {}),
        )
        for entry in found.get("metadata", {}).get("managedFields", [])
        if not entry.get("subresource") and set(entry.get("fieldsV1", {})) != {"f:status"}
    ]


def owned(found: Object, manager: str) -> FieldTree:
    """The fields that this manager has applied."""
    for owner in owners(found):
        if owner.manager == manager and owner.operation == "Apply":
            return owner.fields
    return {}


def moment(text: str | None) -> datetime | None:
    """A time as the API server writes it."""
    return datetime.fromisoformat(text) if text else None


def _named(tree: FieldTree) -> Iterator[str]:
    for step in tree:
        if step.startswith("f:"):
            yield step[2:]


def _containers(tree: FieldTree) -> Iterator[tuple[str, FieldTree]]:
    template = tree.get("f:spec", {}).get("f:template", {}).get("f:spec", {})
    yield from _keyed(template.get("f:containers", {}))


def _images(tree: FieldTree) -> Iterator[str]:
    return (container for container, inside in _containers(tree) if "f:image" in inside)


def _env(tree: FieldTree) -> Iterator[tuple[str, str]]:
    for container, inside in _containers(tree):
        for variable, owned_of_it in _keyed(inside.get("f:env", {})):
            # Who lost the value to another manager still holds the name.
            if {"f:value", "f:valueFrom"} & owned_of_it.keys():
                yield container, variable


def _keyed(tree: FieldTree) -> Iterator[tuple[str, FieldTree]]:
    """The items of a list whose key is their name."""
    for step, inside in tree.items():
        if step.startswith("k:"):
            name = json.loads(step[2:]).get("name")
            if name is not None:
                yield name, inside


def united(one: FieldTree, other: FieldTree) -> FieldTree:
    """The fields that stand in either set; an empty one at the very top is none."""
    return _united(one, other) if one and other else one or other


def _united(one: FieldTree, other: FieldTree) -> FieldTree:
    if not one or not other:
        return {}  # below the top: everything from here on
    steps = {**one, **other}
    return {
        step: _united(one[step], other[step]) if step in one and step in other else tree
        for step, tree in steps.items()
    }


def extract(found: Object, tree: FieldTree) -> Object:
    """The part of an object that a set of fields covers, fit to be applied again."""
    part = _extract({k: v for k, v in found.items() if k != "status"}, tree) if tree else {}
    metadata = {**part.get("metadata", {}), "name": found["metadata"]["name"]}
    kept = {"apiVersion": found["apiVersion"], "kind": found["kind"], "metadata": metadata}
    return {**part, **kept}


def _extract(value: Any, tree: FieldTree) -> Any:
    steps = {step: inside for step, inside in tree.items() if step != "."}
    if not steps:
        return value
    if isinstance(value, dict):
        return {
            step[2:]: _extract(value[step[2:]], inside)
            for step, inside in steps.items()
            if step[2:] in value
        }
    if isinstance(value, list):
        return list(_items(value, steps))
    return value


def _items(values: list[Any], steps: FieldTree) -> Iterator[Any]:
    for value in values:
        for step, inside in steps.items():
            wanted = json.loads(step[2:])
            if step.startswith("v:"):
                if value == wanted:
                    yield value
            elif isinstance(value, dict) and all(value.get(k) == v for k, v in wanted.items()):
                yield {**wanted, **_extract(value, inside)}
