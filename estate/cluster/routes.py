"""A route of the Gateway API: which Services its rules send to, with which weights, and what each
gateway's controller has made of it.

https://gateway-api.sigs.k8s.io/api-types/httproute/
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from estate.cluster.fields import Object

# Without these a gateway does not serve the route, or a part of it. Controllers may set more.
NEEDED = ("Accepted", "ResolvedRefs")
# True here means that a part of the route is not served.
HARMFUL = ("PartiallyInvalid",)
# What some controllers say besides: that their proxies have it.
PROVES = ("Programmed",)


@dataclass(frozen=True)
class Rule:
    """One rule. `weights` by the name of the Service; what is no Service is under its kind, too.

    `backends`: how many there are; the same Service may stand there twice.
    """

    number: int
    weights: Mapping[str, int]
    backends: int
    raw: Object

    @classmethod
    def of(cls, number: int, found: Object) -> "Rule":
        """From the API server's object."""
        backends = found.get("backendRefs") or []
        weights = {_backend(one): one.get("weight", 1) for one in backends}
        return cls(number, weights, len(backends), found)

    def weighted(self, weights: Mapping[str, int]) -> Object:
        """The same rule with these weights."""
        backends = [
            {**one, "weight": weights.get(_backend(one), one.get("weight", 1))}
            for one in self.raw.get("backendRefs") or []
        ]
        return {**self.raw, "backendRefs": backends}


@dataclass(frozen=True)
class Route:
    """An HTTPRoute. `generation` counts the changes of what is asked, not those of its status."""

    name: str
    generation: int
    annotations: Mapping[str, str]
    rules: tuple[Rule, ...]
    raw: Object

    @classmethod
    def of(cls, found: Object) -> "Route":
        """From the API server's object."""
        metadata = found["metadata"]
        rules = found.get("spec", {}).get("rules") or []
        return cls(
            name=metadata["name"],
            generation=metadata.get("generation", 0),
            annotations=metadata.get("annotations") or {},
            rules=tuple(Rule.of(number, rule) for number, rule in enumerate(rules, 1)),
            raw=found,
        )

    def gateways(self) -> dict[str, list[str]]:
        """Each gateway that the route hangs at, with why it does not serve this generation yet.

        An empty list: its controller has accepted it, with all that it refers to.
        """
        namespace = self.raw["metadata"].get("namespace", "")
        wanted = self.raw.get("spec", {}).get("parentRefs") or []
        entries = self.raw.get("status", {}).get("parents") or []
        found: dict[str, list[str]] = {}
        for parent in wanted:
            here = _parent(parent, namespace)
            told = [e for e in entries if _parent(e.get("parentRef", {}), namespace) == here]
            reasons = [why for entry in told for why in self._lacks(entry.get("conditions") or [])]
            if not told:
                reasons = ["no controller has taken it up"]
            found[_named(here, namespace)] = reasons
        return found

    def _lacks(self, conditions: list[Mapping[str, Any]]) -> list[str]:
        by_type = {condition["type"]: condition for condition in conditions}
        told = [f"{kind} is not said" for kind in NEEDED if kind not in by_type]
        for kind, good in {**dict.fromkeys((*NEEDED, *PROVES), "True"),
                           **dict.fromkeys(HARMFUL, "False")}.items():  # fmt: skip
            condition = by_type.get(kind)
            if condition is None:
                continue
            at = condition.get("observedGeneration", 0)
            if at < self.generation:
                told.append(f"{kind} is of generation {at}, {self.generation} is asked")
            elif condition["status"] != good:
                why = ": ".join(filter(None, (condition.get("reason"), condition.get("message"))))
                told.append(f"{kind} is {condition['status']} ({why})")
        return told


def _backend(found: Mapping[str, Any]) -> str:
    kind: str = found.get("kind") or "Service"
    name: str = found["name"]
    return name if kind == "Service" and not found.get("group") else f"{kind} {name}"


def _parent(reference: Mapping[str, Any], namespace: str) -> tuple[Any, ...]:
    """What tells one parent from another; defaults may or may not be written out."""
    return (
        reference.get("kind") or "Gateway",
        reference.get("namespace") or namespace,
        reference.get("name"),
        reference.get("sectionName"),
        reference.get("port"),
    )


def _named(parent: tuple[Any, ...], namespace: str) -> str:
    """One parent for a person, each under a name of its own: `edge/web:443 (in infra)`."""
    kind, where, name, section, port = parent
    told = (
        "" if kind == "Gateway" else f"{kind} ",
        name,
        f"/{section}" if section else "",
        f":{port}" if port else "",
        "" if where == namespace else f" (in {where})",
    )
    return "".join(told)
