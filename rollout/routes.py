"""Flags as weights of a Gateway API route, for estates whose gateways are somebody else's.

A weight knows no customer: each request goes to a side by chance. So this driver needs services
that refuse whom they do not own and pass him on to the other side themselves. Then owners decide,
always, and a weight that fits only spares a hop.

The rules of a route are one list that belongs to one field manager as a whole; no weight of them
can be applied by itself. So weights are patched into exactly what was read, and whoever changes the
list next has it, and is named.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from estate.cluster import (
    FLAGS_MANAGER,
    HTTP_ROUTE,
    SERVICE,
    Cluster,
    Object,
    Pod,
    Route,
    Rule,
)
from estate.cluster.protocol import needed
from estate.config import BackendsConfig, Config, Problem
from estate.errors import ExitCode, SplitctlError
from rollout.flags import DomainFlags, GatewayFlags
from rollout.pods import page_of, pods_alive
from rollout.written import FlagsOvertaken, differing, may_follow

# A controller sees the change at once, and its proxies soon after.
ESTIMATED_S = 5.0


class RouteUnfit(SplitctlError):
    """HTTPRoute {route} does not send domain '{domain}' to both of its services: {reason}. Nothing
    was changed."""

    hint = "mend the route, or domains.{domain}.backends (docs/drivers.md)"
    exit_code = ExitCode.PRECONDITION


def epoch_key(domain: str) -> str:
    """The annotation that holds the epoch of a domain's flags."""
    return f"splitctl/{domain}-epoch"


def backends_of(config: Config) -> dict[str, BackendsConfig]:
    """The Services of each domain, where a route sends customers to them; else none."""
    if config.gateway.driver != "http-route":
        return {}
    found = {name: domain.backends for name, domain in config.domains.items()}
    # The configuration has seen to it that each domain has them.
    return {name: backends for name, backends in found.items() if backends is not None}


def rules_of(route: Route, domain: str, backends: BackendsConfig) -> list[Rule]:
    """The rules of a domain: those that send to its new Service. Raises RouteUnfit."""
    found = [rule for rule in route.rules if backends.new in rule.weights]
    reason = "" if found else f"no rule has Service {backends.new} among its backends"
    for rule in found:
        if rule.weights.keys() != {backends.old, backends.new} or rule.backends != 2:
            told = ", ".join(sorted(rule.weights))
            reason = (
                f"the backends of rule {rule.number} are {told}; {backends.old} and {backends.new} "
                "are wanted, each once"
            )
    if reason:
        raise RouteUnfit(route=route.name, domain=domain, reason=reason)
    return found


def percentage_of(rule: Rule, backends: BackendsConfig) -> int:
    """The new Service's share of a rule's requests. More than none is never 0."""
    new, both = rule.weights[backends.new], sum(rule.weights.values())
    return math.ceil(100 * new / both) if both else 0


class HttpRouteFlags:
    """Weights of one HTTPRoute. They are served once a gateway's controller has accepted them."""

    name = "http-route"

    def __init__(
        self, cluster: Cluster, route: str, backends: Mapping[str, BackendsConfig]
    ) -> None:
        self._cluster, self._route, self._backends = cluster, route, backends

    def write(self, domain: str, flags: DomainFlags, expecting: DomainFlags | None = None) -> None:
        """Patch the weights of the domain's rules, under a field manager of our own.

        Raises FlagsOvertaken, RouteUnfit, and what a cluster raises.
        """

        def check(route: Route) -> None:
            may_follow(domain, self._asked(route, domain)[0], flags, expecting)

        self._patch(domain, flags.served, str(flags.epoch), check)

    def stands(self, domain: str) -> DomainFlags | None:
        """What a command has written; None where none has, or the flags were taken away.

        Raises RouteUnfit, and what a cluster raises.
        """
        return self._written(Route.of(needed(self._cluster, HTTP_ROUTE, self._route)), domain)

    def remove(self, domain: str, expecting: DomainFlags) -> None:
        """Everybody to the new Service for good, and no epoch. Raises FlagsOvertaken."""

        def check(route: Route) -> None:
            may_follow(domain, self._asked(route, domain)[0], expecting, expecting)

        self._patch(domain, 100, None, check)

    def restore(self, domain: str, flags: DomainFlags) -> None:
        """Ask for these flags, only where none stand. Raises FlagsOvertaken."""

        def check(route: Route) -> None:
            stands = self._written(route, domain)
            if stands is not None:
                raise FlagsOvertaken(domain=domain, percentage=stands.served, epoch=stands.epoch)

        self._patch(domain, flags.served, str(flags.epoch), check)

    def unflagged(self, domain: str) -> list[str]:
        """What is missing until every gateway sends everybody to the new Service, without flags."""
        return differing(self.served(), domain, DomainFlags(True, 100, 0))

    def _written(self, route: Route, domain: str) -> DomainFlags | None:
        return self._asked(route, domain)[0] if epoch_key(domain) in route.annotations else None

    def _patch(
        self, domain: str, percentage: int, epoch: str | None, check: Callable[[Route], None]
    ) -> None:
        backends = self._backends[domain]
        weights = {backends.new: percentage, backends.old: 100 - percentage}

        def changed(found: Object) -> Object:
            route = Route.of(found)
            mine = rules_of(route, domain, backends)
            check(route)
            rules = [rule.weighted(weights) if rule in mine else rule.raw for rule in route.rules]
            annotations = {epoch_key(domain): epoch}
            return {"metadata": {"annotations": annotations}, "spec": {"rules": rules}}

        self._cluster.edit(HTTP_ROUTE, self._route, changed, manager=FLAGS_MANAGER)

    def served(self) -> list[GatewayFlags]:
        """What each gateway that the route hangs at has accepted, of the domains that it fits."""
        try:
            route = Route.of(needed(self._cluster, HTTP_ROUTE, self._route))
        except SplitctlError as error:
            return [GatewayFlags("cluster", reachable=False, problem=str(error))]
        asked: dict[str, list[DomainFlags]] = {}
        unfit: list[str] = []
        for domain in self._backends:
            try:
                asked[domain] = self._asked(route, domain)
            except RouteUnfit as error:
                unfit.append(str(error))
        gateways = route.gateways()
        if not gateways:
            unfit.append(f"HTTPRoute {self._route} hangs at no gateway")
        problem = "; ".join(unfit) or None
        if not (gateways and asked):
            return [GatewayFlags(f"route {self._route}", reachable=False, problem=problem)]
        return [
            replace(at, problem=at.problem or problem)
            for gateway, reasons in gateways.items()
            for at in _accepted(gateway, reasons, asked)
        ]

    def unsettled(self, domain: str, flags: DomainFlags) -> list[str]:
        """Rules with other weights, and gateways that have not accepted them, with reasons."""
        return differing(self.served(), domain, flags)

    def takes_s(self) -> float:
        """As long as a controller."""
        return ESTIMATED_S

    def hindrances(self) -> list[Problem]:
        """None that can be seen before a controller is asked."""
        return []

    def _asked(self, route: Route, domain: str) -> list[DomainFlags]:
        """What the route says of a domain; more than once where its rules differ."""
        backends = self._backends[domain]
        text = route.annotations.get(epoch_key(domain), "")
        epoch = int(text) if text.isascii() and text.isdigit() else 0
        shares = [percentage_of(rule, backends) for rule in rules_of(route, domain, backends)]
        return [DomainFlags(True, share, epoch) for share in dict.fromkeys(shares)]


def _accepted(
    gateway: str, reasons: list[str], asked: Mapping[str, list[DomainFlags]]
) -> Iterator[GatewayFlags]:
    """One gateway; as often as the rules of one domain differ, so that each is seen."""
    told = GatewayFlags(f"gateway {gateway}", gateway)
    if reasons:
        yield replace(told, reachable=False, problem="; ".join(reasons))
        return
    for number in range(max(map(len, asked.values()))):
        domains = {name: flags[min(number, len(flags) - 1)] for name, flags in asked.items()}
        where = f" (rules differ, {number + 1})" if number else ""
        yield replace(told, url=told.url + where, domains=domains)


class BackendPods:
    """The pods behind the Services of a route: where requests come in, so they count them."""

    name = "the route's services"

    def __init__(self, cluster: Cluster, config: Config) -> None:
        self._cluster, self._port = cluster, config.gateway.port
        named = [(one.old, one.new) for one in backends_of(config).values()]
        self._services = sorted({name for both in named for name in both})

    def all(self) -> list[Pod]:
        """Those that are there, ending ones too. Raises what a cluster raises."""
        found: dict[str, Pod] = {}
        for name in self._services:
            selector = needed(self._cluster, SERVICE, name).get("spec", {}).get("selector") or {}
            labels = ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
            # Without a selector a Service has pods that only it knows: none, as far as we can see.
            pods = pods_alive(self._cluster, labels) if labels else []
            found |= {pod.name: pod for pod in pods}
        return [found[name] for name in sorted(found)]

    def page(self, pod: Pod, path: str) -> str:
        """The address of one of its pages."""
        return page_of(pod, self._port, path)
