"""Flags in manifests are first values: what is live is moved by steps, never by a deployment."""

from copy import deepcopy
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
from estate.config import Config
from rollout.routes import backends_of


def flag_names(config: Config) -> frozenset[str]:
    """What the gateways call the switches and percentages of all domains."""
    domains = config.domains.values()
    return frozenset(name for domain in domains for name in (domain.flag, domain.percentage))


def keep_flags(manifest: Object, live: Object, config: Config) -> Object:
    """The manifest with each flag as it is live.

    One that is not ours any more, because a step has set it, is left out: applied again, it would
    be ours too, and hold up the next step.
    """
    kept, names = deepcopy(manifest), flag_names(config)
    if Kind.of(manifest) == HTTP_ROUTE:
        kept.get("spec", {})["rules"] = _weighted(kept, live, config)
    mine = [owner for owner in owners(live) if owner.manager == MANAGER]
    if Kind.of(manifest) == CONFIG_MAP:
        ours = {key for owner in mine for key in owner.data}
        kept["data"] = _kept(kept.get("data", {}), live.get("data", {}), names, ours)
    if Kind.of(manifest) == DEPLOYMENT:
        containers = {c["name"]: c for c in _containers(live)}
        for container in _containers(kept):
            there = containers.get(container["name"], {}).get("env", [])
            ours = {
                name for owner in mine for where, name in owner.env if where == container["name"]
            }
            wanted = {entry["name"]: entry for entry in container.pop("env", [])}
            found = {entry["name"]: entry for entry in there}
            if left := _kept(wanted, found, names, ours):
                container["env"] = list(left.values())
    return kept


def _weighted(manifest: Object, live: Object, config: Config) -> list[Object]:
    """The rules of a route with each domain's weights as they are live."""
    stands, rules = Route.of(live).rules, []
    for rule in Route.of(manifest).rules:
        weights: dict[str, int] = {}
        for backends in backends_of(config).values():
            there = [old.weights for old in stands if backends.new in old.weights]
            if backends.new in rule.weights and there:
                weights |= there[0]
        rules.append(rule.weighted(weights) if weights else rule.raw)
    return rules


def _containers(deployment: Object) -> list[Any]:
    return list(deployment["spec"]["template"]["spec"].get("containers", []))


def _kept(
    wanted: dict[str, Any], live: dict[str, Any], names: frozenset[str], ours: set[str]
) -> dict[str, Any]:
    return {
        name: live[name] if name in names and name in live else value
        for name, value in wanted.items()
        if name not in names or name not in live or name in ours
    }
