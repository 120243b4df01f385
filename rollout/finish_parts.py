"""The parts of a finish, in their order: pure, from manifests without a domain's end and with it.

Forward   1 the way back: what only the end has, the old code beside the new order of things
          2 the gateway: the new side is its default, and the way back its old side
          3 the flags are taken away
          4 the rest: services without the code that has moved
Back      the same in reverse: 4, 3, 2, and 1 is deleted.

At every moment of either, old and new code that a gateway may send a customer to is there, and
what a gateway serves is the same: everybody, by the new side.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from estate.cluster import CONFIG_MAP, DEPLOYMENT, Kind, Object
from estate.config import Config
from rollout.manifests import ManifestsInvalid


class Name(StrEnum):
    """What a part is about."""

    WAY_BACK = "way back"
    GATEWAY = "gateway"
    FLAGS = "flags"
    REST = "rest"


@dataclass(frozen=True)
class Part:
    """Objects that are applied, or deleted, or the flags themselves; nothing else is both."""

    name: Name
    applies: Sequence[Object] = field(default_factory=tuple)
    deletes: Sequence[Object] = field(default_factory=tuple)


def forward(
    config: Config, domain: str, without: Sequence[Object], ended: Sequence[Object], path: Path
) -> list[Part]:
    """The parts of a finish. Raises ManifestsInvalid where the end of `path` is none."""
    before = {_key(manifest): manifest for manifest in without}
    new = added(without, ended)
    changed = [m for m in ended if _key(m) in before and m != before[_key(m)]]
    _needs_default(config, domain, [m for m in ended if _is_gateway(config, m)], path)
    gateway = [manifest for manifest in changed if _is_gateway(config, manifest)]
    rest = [manifest for manifest in changed if manifest not in gateway]
    return [
        Part(Name.WAY_BACK, new),
        Part(Name.GATEWAY, gateway),
        Part(Name.FLAGS),
        Part(Name.REST, rest),
    ]


def back(
    config: Config, domain: str, without: Sequence[Object], ended: Sequence[Object], path: Path
) -> list[Part]:
    """The parts of a finish that is taken back. Raises ManifestsInvalid."""
    before = {_key(manifest): manifest for manifest in without}
    way_back, gateway, flags, rest = forward(config, domain, without, ended, path)
    names = _flags(config, domain)
    return [
        Part(rest.name, [before[_key(manifest)] for manifest in rest.applies]),
        flags,
        Part(
            gateway.name,
            # The flags stand by then, and are the steps' own: no first value goes over them.
            [_unflagged(config, before[_key(m)], names) for m in gateway.applies],
        ),
        Part(way_back.name, deletes=[*reversed(way_back.applies)]),
    ]


def added(without: Sequence[Object], ended: Sequence[Object]) -> list[Object]:
    """What only an end has: the way back."""
    before = {_key(manifest) for manifest in without}
    return [manifest for manifest in ended if _key(manifest) not in before]


def touched(without: Sequence[Object], ended: Sequence[Object]) -> list[Object]:
    """What an end changes of what is there, as it is without it."""
    after = {_key(manifest): manifest for manifest in ended}
    return [m for m in without if after.get(_key(m), m) != m]


def _needs_default(config: Config, domain: str, gateway: Sequence[Object], path: Path) -> None:
    settings, where = config.domains[domain], config.gateway
    # Whether a domain is finished is read from the Deployment, so only there the default counts.
    variables = [_said(config, m) for m in gateway if Kind.of(m) == DEPLOYMENT]
    said = {name for manifest in gateway for name in _said(config, manifest)}
    if not any(one.get(settings.default, {}).get("value") == "new" for one in variables):
        told = f'{settings.default} "new" in Deployment {where.deployment}'
        reason = f"a domain's end says {told}, container {where.container}"
        raise ManifestsInvalid(path=path, reason=reason)
    if left := sorted(_flags(config, domain) & said):
        reason = f"{', '.join(left)} is still there: take it out with `$patch: delete`"
        raise ManifestsInvalid(path=path, reason=reason)


def _is_gateway(config: Config, manifest: Object) -> bool:
    """Whether flags and defaults may stand in it."""
    kind, name, where = Kind.of(manifest), manifest["metadata"]["name"], config.gateway
    if where.driver == "config-map" and kind == CONFIG_MAP:
        return bool(name == where.config_map)
    return bool(kind == DEPLOYMENT and name == where.deployment)


def _said(config: Config, manifest: Object) -> dict[str, Object]:
    """Variables or keys, by name."""
    if Kind.of(manifest) == CONFIG_MAP:
        return {key: {"value": text} for key, text in manifest.get("data", {}).items()}
    for container in manifest["spec"]["template"]["spec"].get("containers", []):
        if container["name"] == config.gateway.container:
            return {entry["name"]: entry for entry in container.get("env", [])}
    return {}


def _flags(config: Config, domain: str) -> frozenset[str]:
    settings = config.domains[domain]
    return frozenset((settings.flag, settings.percentage, settings.epoch_name))


def _unflagged(config: Config, manifest: Object, names: frozenset[str]) -> Object:
    kept = deepcopy(manifest)
    if Kind.of(manifest) == CONFIG_MAP:
        kept["data"] = {key: text for key, text in kept.get("data", {}).items() if key not in names}
        return kept
    for container in kept["spec"]["template"]["spec"]["containers"]:
        if container["name"] == config.gateway.container:
            container["env"] = [e for e in container.get("env", []) if e["name"] not in names]
    return kept


def _key(manifest: Object) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]
