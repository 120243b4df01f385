"""Samples of the gateways' counters, added up by domain and side. Pure: no network.

A page of a gateway and an answer of Prometheus hold the same samples, so both are read here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from rollout.counters import SIDES, Count, Counts, Side, Snapshot

REQUESTS = "gateway_requests"
SECONDS = "gateway_request_seconds"
CUSTOMERS = "gateway_customers"
EPOCH = "gateway_flag_epoch"
# The names of the samples that are read.
SAMPLES = (f"{REQUESTS}_total", f"{SECONDS}_bucket", CUSTOMERS, EPOCH)

Key = tuple[str, Side]


class Unreadable(Exception):
    """A page that does not hold what is needed."""


@dataclass
class Sums:
    """What one gateway has counted, and under which epoch of each domain's flags."""

    requests: dict[Key, list[float]] = field(default_factory=dict)
    buckets: dict[Key, dict[float, float]] = field(default_factory=dict)
    customers: dict[Key, float] = field(default_factory=dict)
    epochs: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """One sample; others than SAMPLES, and those of no side, are passed over.

        Raises Unreadable for a value that is not a number, ValueError or KeyError for a bucket
        without an edge.
        """
        if name not in SAMPLES:
            return
        if math.isnan(value):
            raise Unreadable(f"{name} is not a number")
        if name == EPOCH:
            self.epochs[labels.get("domain", "")] = value
        key = _key(labels)
        if key is None:
            return
        if name == CUSTOMERS:
            self.customers[key] = self.customers.get(key, 0.0) + value
        elif name == SAMPLES[0]:
            both = self.requests.setdefault(key, [0.0, 0.0])
            both[0] += value
            if labels.get("status", "").startswith("5"):
                both[1] += value
        else:
            edges = self.buckets.setdefault(key, {})
            edge = float(labels["le"])
            edges[edge] = edges.get(edge, 0.0) + value

    def counts(self) -> dict[str, Counts]:
        """By domain and side."""
        domains: dict[str, dict[Side, Count]] = {}
        for domain, side in sorted({*self.requests, *self.buckets, *self.customers}):
            key = domain, side
            all_, errors = self.requests.get(key, [0.0, 0.0])
            edges = dict(sorted(self.buckets.get(key, {}).items()))
            count = Count(all_, errors, edges, self.customers.get(key))
            domains.setdefault(domain, {})[side] = count
        return dict(domains)


def _key(labels: Mapping[str, str]) -> Key | None:
    side = labels.get("side")
    for known in SIDES:
        if side == known:
            return labels.get("domain", ""), known
    return None


def snapshot(
    seen: Mapping[str, Sums], problems: Mapping[str, str], behind_s: float = 0.0
) -> Snapshot:
    """One look, from what each gateway has counted and why others were not seen."""
    gateways = {name: found.counts() for name, found in seen.items()}
    epochs = {name: dict(found.epochs) for name, found in seen.items()}
    return Snapshot(gateways, problems, epochs, behind_s)
