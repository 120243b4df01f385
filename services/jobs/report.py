"""Health and metrics of the jobs, at PORT."""

import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

READY_SECONDS = 60.0
SERVICE = "jobs"
# The job that publishes events.
PUBLISHER = "outbox"


@dataclass
class Report:
    """What the jobs did. Ready means: a round ended well within the last minute."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    last_round: float = float("-inf")

    def __post_init__(self) -> None:
        self._rows = Counter("job_rows_total", "Rows settled.", ["job"], registry=self.registry)
        self._failures = Counter(
            "job_failures_total", "Batches that failed.", ["job"], registry=self.registry
        )
        self._unconnected = Counter(
            "database_connection_failures_total",
            "Attempts to connect to the database that failed, and connections that were lost.",
            ["service"],
            registry=self.registry,
        ).labels(SERVICE)
        self._unpublished = Counter(
            "event_publish_failures_total",
            "Batches of events that could not be published.",
            ["service"],
            registry=self.registry,
        ).labels(SERVICE)
        self._seconds = Gauge(
            "job_last_round_seconds", "Time of the last round.", registry=self.registry
        )

    def settled(self, job: str, rows: int) -> None:
        """A batch ended well."""
        self._rows.labels(job).inc(rows)

    def failed(self, job: str) -> None:
        """A batch failed."""
        self._failures.labels(job).inc()
        if job == PUBLISHER:
            self._unpublished.inc()

    def unconnected(self) -> None:
        """The database could not be reached, or went away."""
        self._unconnected.inc()

    def round_ended(self, seconds: float) -> None:
        """All jobs had their turn."""
        self._seconds.set(seconds)
        self.last_round = time.monotonic()

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body of a GET."""
        if path == "/metrics":
            return 200, "text/plain; version=0.0.4", generate_latest(self.registry)
        if path == "/health/live":
            return 200, "application/json", b'{"status": "ok", "service": "jobs"}'
        if path == "/health/ready":
            if time.monotonic() - self.last_round < READY_SECONDS:
                return 200, "application/json", b'{"status": "ok", "service": "jobs"}'
            return 503, "application/json", b'{"status": "unready"}'
        return 404, "application/json", b'{"error": "not_found"}'


def serve(report: Report, host: str, port: int) -> ThreadingHTTPServer:
    """Answer in the background until the server's `shutdown`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, body = report.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="report", daemon=True).start()
    return server
