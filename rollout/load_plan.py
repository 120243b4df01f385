"""What a load is to ask: which flows, where, for how many customers, how often."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from estate.config import Config
from rollout import flows as flow_files
from rollout import placing
from rollout.flows import Flow, Step
from rollout.load_report import Limits
from rollout.placing import Place, Through
from rollout.tools import Tools

LONGEST_PAUSES = 5  # no pause is longer than so many mean ones


@dataclass(frozen=True)
class Plan:
    """What to ask. `places`: by domain, one a gateway. `rate` (requests a second): open model.

    `think_s`: the mean pause instead of the flows' own.
    """

    flows: Sequence[Flow]
    places: Mapping[str, Sequence[Place]]
    through: Through
    customers: int
    seconds: float
    prefix: str
    request_s: float
    rate: float | None = None
    think_s: float | None = None
    limits: Limits = field(default_factory=Limits)
    next_command: str = "the same command without --dry-run"

    def to_text(self) -> str:
        """For a person."""
        names = ", ".join(flow.name for flow in self.flows)
        urls = ", ".join({place.url: None for places in self.places.values() for place in places})
        how = f"{self.rate:g} requests a second" if self.rate else "each thinking in between"
        who = f"{self.customers:,} customers ({self.prefix}...)"
        return f"{who} would walk {names} at {urls} for {self.seconds:g} s, {how}"

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        urls = {domain: [p.url for p in found] for domain, found in self.places.items()}
        return {**vars(self), "flows": [flow.name for flow in self.flows], "places": urls}

    def pause_s(self, flow: Flow, step: Step, chance: random.Random) -> float:
        """A pause before a step: exponential, as of people, but never without an end."""
        mean = flow.think_s(step) if self.think_s is None else self.think_s
        return min(chance.expovariate(1 / mean), LONGEST_PAUSES * mean) if mean else 0.0


def plan(
    config: Config,
    domains: Sequence[str] = (),
    names: Sequence[str] = (),
    through: Through = "gateway",
    *,
    customers: int,
    seconds: float,
    rate: float | None = None,
    think_s: float | None = None,
    limits: Limits | None = None,
    tools: Tools | None = None,
) -> Plan:
    """What a load asks: the flows named, or else those of these domains that have a weight.

    Raises NoFlow, FlowInvalid, UnknownName, SideUnknown, OwnersUnknown, OwnsNobody.
    """
    known = flow_files.read_all(config)
    for domain in domains:
        config.domain(domain)
    wanted = flow_files.chosen(known, names, config) or [flow for flow in known if flow.weight]
    wanted = [flow for flow in wanted if not domains or flow.domain in domains]
    if not wanted:
        what = f"A flow with a weight, or one named by --flow, of {', '.join(domains) or 'any'}"
        raise flow_files.NoFlow(what=what, path=config.path)
    places = {flow.domain: _places(config, flow.domain, through, tools) for flow in wanted}
    request_s = config.flows.request_timeout.total_seconds()
    return Plan(
        wanted,
        places,
        through,
        customers,
        seconds,
        config.flows.customer,
        request_s,
        rate,
        think_s,
        limits or Limits(),
    )


def _places(config: Config, domain: str, through: Through, tools: Tools | None) -> Sequence[Place]:
    """A gateway sends everybody to the right side; past it only a side's own customers may come."""
    if through == "gateway":
        return [Place(url, url, url, None) for url in placing.gateways(config)]
    standing = placing.standing(domain, tools or Tools.of(config))
    found = placing.places(config, domain, through, {domain: standing})
    if not found:
        raise placing.OwnsNobody(domain=domain, side=through)
    return found
