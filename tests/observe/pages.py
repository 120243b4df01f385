"""Pages that a test fills by hand: a gateway's metrics, a sync worker's, a service's."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from services.gateway.metrics import EDGES


@dataclass
class Page:
    """A page of metrics at `address`."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    address: str = ""
    _server: WSGIServer | None = None

    @property
    def url(self) -> str:
        """Where it is read."""
        return f"http://{self.address}/metrics"

    def open(self) -> None:
        """Serve it, at the address it had before if it had one."""
        port = int(self.address.rpartition(":")[2] or 0)
        self._server, _ = start_http_server(port, "127.0.0.1", registry=self.registry)
        self.address = f"127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Answer nobody any more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class GatewayPage(Page):
    """What a gateway tells, as the reference gateway calls it."""

    def __init__(self, domain: str = "d") -> None:
        super().__init__()
        self.domain = domain
        self.begin()

    def begin(self) -> None:
        """Count from zero, as a new process does."""
        for collector in list(self.registry._collector_to_names):
            self.registry.unregister(collector)
        self._requests = Counter(
            "gateway_requests", "n", ["domain", "side", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "gateway_request_seconds", "n", ["domain", "side"], buckets=EDGES,
            registry=self.registry,
        )  # fmt: skip
        self._customers = Gauge(
            "gateway_customers", "n", ["domain", "side"], registry=self.registry
        )
        self._epoch = Gauge("gateway_flag_epoch", "n", ["domain"], registry=self.registry)
        self._percentage = Gauge("gateway_flag_percentage", "n", ["domain"], registry=self.registry)
        self.flags(1, 10)

    def flags(self, epoch: int, percentage: int) -> None:
        """Serve this percentage: its customers are counted anew."""
        self._epoch.labels(self.domain).set(epoch)
        self._percentage.labels(self.domain).set(percentage)
        for side in ("old", "new"):
            self._customers.labels(self.domain, side).set(0)

    def served(self, side: str, number: int, status: int = 200, seconds: float = 0.02) -> None:
        """So many requests of different customers were answered."""
        self._requests.labels(self.domain, side, str(status)).inc(number)
        self._customers.labels(self.domain, side).inc(number)
        for _ in range(number):
            self._seconds.labels(self.domain, side).observe(seconds)


@contextmanager
def opened(*pages: Page) -> Iterator[None]:
    """Serve these pages."""
    try:
        for page in pages:
            page.open()
        yield
    finally:
        for page in pages:
            page.close()
