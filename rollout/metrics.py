"""Metrics: what the gateways counted, read from their own pages."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import httpx

from estate.config import Config
from estate.errors import in_one_line
from rollout import parallel
from rollout.counters import SIDES, Count, Counts, Side, Snapshot

REQUESTS = "gateway_requests"
SECONDS = "gateway_request_seconds"
CUSTOMERS = "gateway_customers"
TIMEOUT_S = 2.0


class Metrics(Protocol):
    """Where counters come from."""

    def scrape(self) -> Snapshot:
        """One look at every gateway; one that does not answer is told, not guessed."""


@dataclass
class InMemoryMetrics:
    """A look that was set by hand."""

    snapshot: Snapshot = field(default_factory=Snapshot)

    def scrape(self) -> Snapshot:
        """What was set."""
        return self.snapshot


class Unreadable(Exception):
    """A page that does not hold what is needed."""


class ScrapeMetrics:
    """Reads `/metrics` of each gateway, all at the same time."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = tuple(urls)
        self._client = httpx.Client(timeout=TIMEOUT_S, trust_env=False)

    @classmethod
    def of(cls, config: Config) -> "ScrapeMetrics":
        """The pages the configuration names, or else each gateway's own."""
        urls = config.metrics.urls or [f"{url.rstrip('/')}/metrics" for url in config.gateway.urls]
        return cls(urls)

    def scrape(self) -> Snapshot:
        """One look at every page."""
        tasks = {url: partial(self._read, url) for url in self._urls}
        gateways: dict[str, dict[str, Counts]] = {}
        problems: dict[str, str] = {}
        for url, outcome in parallel.gather(tasks, 2 * TIMEOUT_S).items():
            if outcome.value is not None:
                gateways[url] = outcome.value
            else:
                problems[url] = in_one_line(outcome.error)
        if not self._urls:
            problems["metrics"] = "no page is configured"
        return Snapshot(gateways, problems)

    def _read(self, url: str) -> dict[str, Counts]:
        answer = self._client.get(url)
        if not answer.is_success:
            raise Unreadable(f"it answers {answer.status_code}")
        return parse(answer.text)


def parse(page: str) -> dict[str, Counts]:
    """The counts of a metrics page, by domain and side. Raises Unreadable."""
    from prometheus_client.parser import text_string_to_metric_families

    requests: dict[tuple[str, Side], list[float]] = {}
    buckets: dict[tuple[str, Side], dict[float, float]] = {}
    customers: dict[tuple[str, Side], float] = {}
    seen = False
    try:
        for family in text_string_to_metric_families(page):
            seen = seen or family.name == REQUESTS
            if family.name not in (REQUESTS, SECONDS, CUSTOMERS):
                continue
            for sample in family.samples:
                key = _key(sample.labels)
                if key is None or sample.name.endswith("_created"):
                    continue
                if math.isnan(sample.value):
                    raise Unreadable(f"{sample.name} is not a number")
                if family.name == REQUESTS:
                    both = requests.setdefault(key, [0.0, 0.0])
                    both[0] += sample.value
                    if sample.labels.get("status", "").startswith("5"):
                        both[1] += sample.value
                elif family.name == CUSTOMERS:
                    customers[key] = customers.get(key, 0.0) + sample.value
                elif sample.name.endswith("_bucket"):
                    edge = float(sample.labels["le"])
                    edges = buckets.setdefault(key, {})
                    edges[edge] = edges.get(edge, 0.0) + sample.value
    except (ValueError, KeyError) as error:
        raise Unreadable("it is not in the Prometheus text format") from error
    if not seen:
        raise Unreadable(f"it has no counter {REQUESTS}_total")
    return _together(requests, buckets, customers)


def _key(labels: dict[str, str]) -> tuple[str, Side] | None:
    side = labels.get("side")
    for known in SIDES:
        if side == known:
            return labels.get("domain", ""), known
    return None


def _together(
    requests: dict[tuple[str, Side], list[float]],
    buckets: dict[tuple[str, Side], dict[float, float]],
    customers: dict[tuple[str, Side], float],
) -> dict[str, Counts]:
    domains: dict[str, dict[Side, Count]] = {}
    keys: Iterable[tuple[str, Side]] = {*requests, *buckets, *customers}
    for domain, side in sorted(keys):
        all_, errors = requests.get((domain, side), [0.0, 0.0])
        edges = dict(sorted(buckets.get((domain, side), {}).items()))
        number = customers.get((domain, side))
        domains.setdefault(domain, {})[side] = Count(all_, errors, edges, number)
    return dict(domains)
