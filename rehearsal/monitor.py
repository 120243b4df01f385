"""Looks at the running estate once a second, from outside, and keeps what it saw for the plots."""

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from rehearsal.scene import DomainScene, Scene, StreamScene


@dataclass
class Monitor:
    """Samples sync, gateways and shoppers. `series` maps a name to [(seconds, value), ...]."""

    scene: Scene
    sync_url: str
    gateway_urls: Sequence[str]
    gateway_token: str
    shopper_status: Path
    series: dict[str, list[tuple[float, float | None]]] = field(default_factory=dict)
    sync_status: dict[str, Any] = field(default_factory=dict)
    _carried: dict[str, int] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin sampling."""
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End sampling; waits for the sample under way."""
        self._stop.set()
        if self._thread:
            self._thread.join(timeout=10)

    def _run(self) -> None:
        with httpx.Client(timeout=2.0) as client:
            while not self._stop.wait(1.0):
                self.sample(client)

    def sample(self, client: httpx.Client) -> None:
        """One look at everything; what does not answer is left out, not guessed."""
        self._sync(client)
        self._gateways(client)
        self._shoppers()

    def _point(self, name: str, value: float | None) -> None:
        self.series.setdefault(name, []).append((round(self.scene.seconds, 2), value))

    def _sync(self, client: httpx.Client) -> None:
        status = _get(client, f"{self.sync_url}/status")
        if status is None:
            return
        self.sync_status = status
        for name, stream in status.get("streams", {}).items():
            lag = (stream.get("lag_ms") or {}).get("last")
            pending = _sum(stream, "gathered", "spooled", "waiting")
            carried = int(stream.get("transactions") or 0)
            if carried != self._carried.get(name, 0):
                self._carried[name] = carried
                self._point(f"lag {name}", lag)
            with self.scene.lock:
                scene = self.scene.streams.setdefault(name, StreamScene())
                scene.lag_ms, scene.pending, scene.strays = lag, pending, stream.get("strays")

    def _gateways(self, client: httpx.Client) -> None:
        served: dict[str, set[str]] = {}
        held: dict[str, int] = {}
        longest_ms = 0
        for url in self.gateway_urls:
            headers = {"Authorization": f"Bearer {self.gateway_token}"}
            flags = _get(client, f"{url}/admin/flags", headers)
            for name, domain in (flags or {}).get("domains", {}).items():
                share = domain["percentage"] if domain["enabled"] else 0
                served.setdefault(name, set()).add(f"{share}")
            for domain_name, waited, longest_s in _holds(client, url):
                held[domain_name] = held.get(domain_name, 0) + waited
                longest_ms = max(longest_ms, round(1000 * longest_s))
        with self.scene.lock:
            self.scene.longest_hold_ms = max(self.scene.longest_hold_ms, longest_ms)
            for name, values in served.items():
                scene = self.scene.domains.setdefault(name, DomainScene())
                scene.served = " / ".join(sorted(values, key=int)) + " %"
                scene.held = held.get(name, 0)

    def _shoppers(self) -> None:
        with contextlib.suppress(OSError, json.JSONDecodeError):
            status = json.loads(self.shopper_status.read_text(encoding="utf-8"))
            with self.scene.lock:
                self.scene.writes = int(status.get("writes", 0))
                self.scene.requests = int(status.get("requests", 0))
                self.scene.failed = int(status.get("failed", 0))
                for name, share in status.get("share_new", {}).items():
                    scene = self.scene.domains.setdefault(name, DomainScene())
                    scene.measured = None if share is None else 100 * float(share)


def _holds(client: httpx.Client, url: str) -> Iterator[tuple[str, int, float]]:
    """For each domain of a gateway: requests that ever waited at a fence, the longest wait (s)."""
    try:
        text = client.get(f"{url}/metrics").text
        families = {family.name: family for family in text_string_to_metric_families(text)}
    except (httpx.HTTPError, ValueError):
        return
    waited = _by_domain(families.get("gateway_held_requests"))
    longest = _by_domain(families.get("gateway_longest_hold_seconds"))
    for domain, value in waited.items():
        yield domain, int(value), longest.get(domain, 0.0)


def _by_domain(family: Metric | None) -> dict[str, float]:
    samples = family.samples if family else []
    return {s.labels["domain"]: s.value for s in samples if not s.name.endswith("_created")}


def _sum(stream: dict[str, Any], *names: str) -> int | None:
    numbers = [int(stream[name]) for name in names if stream.get(name) is not None]
    return sum(numbers) if numbers else None


def _get(client: httpx.Client, url: str, headers: dict[str, str] | None = None) -> Any:
    try:
        answer = client.get(url, headers=headers)
        return answer.json() if answer.status_code == 200 else None
    except (httpx.HTTPError, ValueError):
        return None
