"""What an object of the cluster would become, told field by field."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from estate.cluster import Object

# What the API server writes by itself.
SERVERS_OWN = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp")
REVISION = "deployment.kubernetes.io/revision"


@dataclass(frozen=True)
class Difference:
    """One field. None: it is not there."""

    path: str
    before: Any
    after: Any

    def __str__(self) -> str:
        if self.before is None:
            return f"{self.path}: + {_short(self.after)}"
        if self.after is None:
            return f"{self.path}: - {_short(self.before)}"
        return f"{self.path}: {_short(self.before)} -> {_short(self.after)}"


def differences(before: Object, after: Object) -> list[Difference]:
    """What differs between two states of an object, but for what the server writes itself."""
    return list(_between(_plain(before), _plain(after), ""))


def _plain(found: Object) -> Object:
    metadata = {k: v for k, v in found["metadata"].items() if k not in (*SERVERS_OWN, "selfLink")}
    metadata["annotations"] = {
        key: text for key, text in metadata.get("annotations", {}).items() if key != REVISION
    }
    return {**{k: v for k, v in found.items() if k != "status"}, "metadata": metadata}


def _between(before: Any, after: Any, path: str) -> Iterator[Difference]:
    if before == after:
        return
    if isinstance(before, list) and isinstance(after, list):
        named, other = _by_name(before), _by_name(after)
        if named is not None and other is not None:
            for name in dict.fromkeys([*named, *other]):
                yield from _between(named.get(name), other.get(name), f"{path}[{name}]")
            return
    if isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys([*before, *after]):
            here = f"{path}.{name}" if path else name
            yield from _between(before.get(name), after.get(name), here)
        return
    yield Difference(path, before, after)


def _by_name(values: list[Any]) -> dict[str, Any] | None:
    if not all(isinstance(value, dict) and "name" in value for value in values):
        return None
    named = {value["name"]: value for value in values}
    return named if len(named) == len(values) else None


def _short(value: Any) -> str:
    if isinstance(value, dict):
        told = ", ".join(f"{key}: {_short(inside)}" for key, inside in value.items())
        return f"{{{told}}}"
    if isinstance(value, list):
        return f"[{', '.join(_short(inside) for inside in value)}]"
    return str(value)
