"""What a container of a pod is as a process: its arguments, its environment, its files."""

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from estate.cluster import Object

# Every pod has these files in a real cluster; the client library looks for them at one fixed place.
ACCOUNT = "/var/run/secrets/kubernetes.io"
REFERENCE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")
# `http://order:8080`, `http://order.shop.svc.cluster.local`
HOST = re.compile(r"(?<=//)([a-z0-9][a-z0-9-]*)(\.[a-z0-9.-]+\.svc[a-z.]*)?(?=[:/]|$)")

Find = Callable[[str, str], Object | None]


class Unresolved(Exception):
    """Something that the pod refers to is not there; a kubelet waits for it."""


@dataclass(frozen=True)
class Surroundings:
    """What a process of a pod sees in place of a container's own world.

    files: mount paths and the directories that stand for them; find: an object by kind and name
    hosts: service names and the addresses that stand for them
    """

    pod: Object
    ip: str
    files: Mapping[str, Path]
    hosts: Mapping[str, str]
    find: Find

    def here(self, text: str) -> str:
        """A text with mount paths and service names replaced."""
        for mounted, directory in self.files.items():
            text = re.sub(rf"{re.escape(mounted)}(?=/|$)", str(directory), text)
        return HOST.sub(lambda match: self.hosts.get(match[1], match[0]), text)


def container_of(pod: Object) -> Object:
    """The one container that a pod of the tests has."""
    container: Object = pod["spec"]["containers"][0]
    return container


def arguments(
    container: Object, images: Mapping[str, Sequence[str]], around: Surroundings
) -> list[str]:
    """The command line: the container's own command, else that of its image, and its arguments."""
    image = container["image"].rpartition(":")[0] or container["image"]
    command = container.get("command") or [*images.get(image, ())]
    values = environment(container, around)
    return [around.here(_expanded(part, values)) for part in [*command, *container.get("args", [])]]


def environment(container: Object, around: Surroundings) -> dict[str, str]:
    """The variables that the container asks for. Raises Unresolved."""
    values: dict[str, str] = {}
    for source in container.get("envFrom", []):
        prefix = source.get("prefix", "")
        values |= {prefix + key: text for key, text in _whole(source, around)}
    for entry in container.get("env", []):
        if "valueFrom" in entry:
            text = _taken(entry["valueFrom"], around)
        else:
            text = around.here(_expanded(entry.get("value", ""), values))
        if text is not None:
            values[entry["name"]] = text
    return values


def _whole(source: Object, around: Surroundings) -> Iterator[tuple[str, str]]:
    for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
        if key in source:
            yield from contents(kind, source[key], around.find).items()


def _taken(source: Object, around: Surroundings) -> str | None:
    for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
        if key in source:
            wanted = source[key]
            found = contents(kind, wanted, around.find).get(wanted["key"])
            if found is None and not wanted.get("optional"):
                raise Unresolved(f"{kind} {wanted['name']} has no key {wanted['key']}")
            return found
    return {
        "metadata.name": around.pod["metadata"]["name"],
        "metadata.namespace": around.pod["metadata"]["namespace"],
        "metadata.uid": around.pod["metadata"]["uid"],
        "spec.nodeName": around.pod["spec"].get("nodeName", ""),
        "status.podIP": around.ip,
    }[source["fieldRef"]["fieldPath"]]


def contents(kind: str, wanted: Object, find: Find) -> dict[str, str]:
    """The data of a ConfigMap or a Secret. Raises Unresolved."""
    found = find(kind, wanted["name"])
    if found is None:
        if wanted.get("optional"):
            return {}
        raise Unresolved(f"{kind} {wanted['name']} is not there")
    data: dict[str, str] = found.get("data") or {}
    if kind == "Secret":
        return {key: base64.b64decode(text).decode() for key, text in data.items()}
    return data


def _expanded(text: str, values: Mapping[str, str]) -> str:
    return REFERENCE.sub(lambda match: values.get(match[1], match[0]), text)


def mounts(pod: Object, directory: Path) -> dict[str, Path]:
    """The mount paths of a pod's volumes and what stands for them: a directory, or a file in it."""
    return {
        mount["mountPath"]: directory / mount["name"] / mount.get("subPath", "")
        for mount in container_of(pod).get("volumeMounts", [])
        if not mount["mountPath"].startswith(ACCOUNT)
    }


def files(pod: Object, find: Find) -> Iterator[tuple[str, dict[str, str]]]:
    """Each mounted volume of a pod with the files in it. Raises Unresolved."""
    mounted = {path.parts[0] for path in mounts(pod, Path()).values()}
    for volume in pod["spec"].get("volumes", []):
        if volume["name"] not in mounted:
            continue
        if "configMap" in volume:
            yield volume["name"], contents("ConfigMap", volume["configMap"], find)
        elif "secret" in volume:
            named = {**volume["secret"], "name": volume["secret"]["secretName"]}
            yield volume["name"], contents("Secret", named, find)
        else:
            yield volume["name"], {}  # an empty directory
