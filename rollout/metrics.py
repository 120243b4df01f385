"""Metrics: what the gateways counted, read from their own pages or from a Prometheus."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import httpx

from estate.config import Config
from estate.errors import in_one_line
from rollout import parallel, sums
from rollout.counters import Snapshot
from rollout.sums import REQUESTS, Sums, Unreadable

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
        seen: dict[str, Sums] = {}
        problems: dict[str, str] = {}
        for url, outcome in parallel.gather(tasks, 2 * TIMEOUT_S).items():
            if outcome.value is not None:
                seen[url] = outcome.value
            else:
                problems[url] = in_one_line(outcome.error)
        if not self._urls:
            problems["metrics"] = "no page is configured"
        return sums.snapshot(seen, problems)

    def _read(self, url: str) -> Sums:
        answer = self._client.get(url)
        if not answer.is_success:
            raise Unreadable(f"it answers {answer.status_code}")
        return parse(answer.text)


def parse(page: str) -> Sums:
    """What a metrics page tells. Raises Unreadable."""
    from prometheus_client.parser import text_string_to_metric_families

    found, seen = Sums(), False
    try:
        for family in text_string_to_metric_families(page):
            seen = seen or family.name == REQUESTS
            for sample in family.samples:
                found.add(sample.name, sample.labels, sample.value)
    except (ValueError, KeyError) as error:
        raise Unreadable("it is not in the Prometheus text format") from error
    if not seen:
        raise Unreadable(f"it has no counter {REQUESTS}_total")
    return found
