"""Flags in manifests are first values: what is live is moved by steps, never by a deployment.

Nor does a deployment say which side is a gateway's default: that is moved by `rollout finish`.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from estate.cluster import (
    CONFIG_MAP,
    DEPLOYMENT,
    HTTP_ROUTE,
    MANAGER,
    Kind,
    Object,
    Route,
    owners,
)
from estate.config import BackendsConfig, Config
from rollout.routes import backends_of


@dataclass(frozen=True)
class FlagNames:
    """What the gateways call the switches and percentages of all domains.

    defaults: the variable that stands in for a domain's flags, and these
    backends: whose weights in a route are a domain's percentage
    """

    flags: frozenset[str]
    defaults: Mapping[str, frozenset[str]] = field(default_factory=dict)
    backends: Sequence[BackendsConfig] = ()


def flag_names(config: Config, *, moving: str = "") -> FlagNames:
    """The names of all domains; `moving` is the one whose default is being moved just now."""
    flags = {name: frozenset((d.flag, d.percentage)) for name, d in config.domains.items()}
    defaults = {
        domain.default: flags[name]
        for name, domain in config.domains.items()
        if domain.default and name != moving
    }
    backends = tuple(backends_of(config).values())
    return FlagNames(frozenset().union(*flags.values()), defaults, backends)


def keep_flags(manifest: Object, live: Object, names: FlagNames) -> Object:
    """The manifest with each flag, and each default, as it is live.

    A flag that is not ours any more, because a step has set it, is left out: applied again, it
    would be ours too, and hold up the next step. So is one that a default has taken the place of.
    """
    kept = deepcopy(manifest)
    if Kind.of(manifest) == HTTP_ROUTE:
        kept.get("spec", {})["rules"] = _weighted(kept, live, names.backends)
    mine = [owner for owner in owners(live) if owner.manager == MANAGER]
    if Kind.of(manifest) == CONFIG_MAP:
        ours = {key for owner in mine for key in owner.data}
        kept["data"] = _kept(kept.get("data", {}), live.get("data", {}), names.flags, ours)
    if Kind.of(manifest) == DEPLOYMENT:
        containers = {c["name"]: c for c in _containers(live)}
        for container in _containers(kept):
            there = containers.get(container["name"], {}).get("env", [])
            ours = {
                name for owner in mine for where, name in owner.env if where == container["name"]
            }
            wanted = {entry["name"]: entry for entry in container.pop("env", [])}
            found = {entry["name"]: entry for entry in there}
            wanted = _by_default(wanted, found, names.defaults)
            if left := _kept(wanted, found, names.flags, ours):
                container["env"] = list(left.values())
    return kept


def _weighted(manifest: Object, live: Object, domains: Sequence[BackendsConfig]) -> list[Object]:
    """The rules of a route with each domain's weights as they are live."""
    stands, rules = Route.of(live).rules, []
    for rule in Route.of(manifest).rules:
        weights: dict[str, int] = {}
        for backends in domains:
            there = [old.weights for old in stands if backends.new in old.weights]
            if backends.new in rule.weights and there:
                weights |= there[0]
        rules.append(rule.weighted(weights) if weights else rule.raw)
    return rules


def _containers(deployment: Object) -> list[Any]:
    return list(deployment["spec"]["template"]["spec"].get("containers", []))


def _by_default(
    wanted: dict[str, Any], live: dict[str, Any], defaults: Mapping[str, frozenset[str]]
) -> dict[str, Any]:
    """A default that is live stays, and brings no first value of its flags back."""
    standing = {name: live[name] for name in defaults if name in live}
    replaced = frozenset().union(*(defaults[name] for name in standing)) - live.keys()
    return {**{n: entry for n, entry in wanted.items() if n not in replaced}, **standing}


def _kept(
    wanted: dict[str, Any], live: dict[str, Any], names: frozenset[str], ours: set[str]
) -> dict[str, Any]:
    return {
        name: live[name] if name in names and name in live else value
        for name, value in wanted.items()
        if name not in names or name not in live or name in ours
    }
