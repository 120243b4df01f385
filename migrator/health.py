"""What the sync worker tells about itself: life, readiness, figures for scraping and reports."""

import json
import logging
import math
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client import Counter as PrometheusCounter
from prometheus_client import Gauge as PrometheusGauge

from estate.errors import ExitCode, SplitctlError

log = logging.getLogger(__name__)
# A heartbeat goes round every second; without one for this long a stream is not ready.
HEARTBEAT_LIMIT_S = 10.0
# Each step of the quantile sketch is 2 % wider than the one before, from a microsecond on.
GROWTH = 1.02
SMALLEST_S = 1e-6
DELAYS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class AddressTaken(SplitctlError):
    """The health pages cannot be served at {listen} ({reason}): another sync worker may run here.
    Nothing was carried."""

    hint = "splitctl sync status  (is a worker alive?), or change sync.listen"
    exit_code = ExitCode.PRECONDITION


class Quantiles:
    """Counts durations (seconds) in steps of 2 %, so that quantiles need no samples kept."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.count = 0
        self.largest = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[int(math.log(max(seconds, SMALLEST_S) / SMALLEST_S, GROWTH))] += 1
        self.count += 1
        self.largest = max(self.largest, seconds)

    def at(self, share: float) -> float | None:
        """The duration (seconds) below which this share lies; None without any."""
        if not self.count:
            return None
        wanted, seen = math.ceil(share * self.count), 0
        for step in sorted(self._counts):
            seen += self._counts[step]
            if seen >= wanted:
                return min(SMALLEST_S * GROWTH ** (step + 1), self.largest)
        return self.largest


@dataclass
class StreamHealth:
    """One stream as its worker sees it. Written by its thread alone, read by everybody.

    `state`: starting, disabled (not enabled yet), standby (another worker carries it), running,
    retrying (after an error), stopped (it will not go on without a person). `horizon`: it has
    decided of every transaction of its source below this 64-bit id: carried, kept as a stray, or
    parked.
    """

    name: str
    state: str = "starting"
    reason: str | None = None
    last_lag_s: float = 0.0
    lag_bytes: int = 0
    gathered: int = 0
    waiting: int = 0
    spooled: int = 0
    transactions: int = 0
    upserted: int = 0
    deleted: int = 0
    strays: int = 0
    heartbeat_at: datetime | None = None
    horizon: int | None = None
    began: float = field(default_factory=time.monotonic)
    lags: Quantiles = field(default_factory=Quantiles)

    @property
    def heartbeat_age_s(self) -> float | None:
        """Seconds since the last heartbeat that came round was sent."""
        if self.heartbeat_at is None:
            return None
        return max((datetime.now(UTC) - self.heartbeat_at).total_seconds(), 0.0)

    @property
    def ready(self) -> bool:
        """Whether it does what it should now."""
        if self.state in ("disabled", "standby"):
            return True
        age = self.heartbeat_age_s
        return self.state == "running" and age is not None and age < HEARTBEAT_LIMIT_S

    def turn(self, state: str, reason: str | None = None) -> None:
        """Change the state; a new one is told in the log."""
        if (state, reason) != (self.state, self.reason):
            level = logging.WARNING if state in ("retrying", "stopped") else logging.INFO
            log.log(level, "%s: %s%s", self.name, state, f": {reason}" if reason else "")
        self.state, self.reason = state, reason

    def to_json(self) -> dict[str, Any]:
        """Everything, times in whole milliseconds with a fraction."""
        age = self.heartbeat_age_s
        quantiles = {f"p{int(q * 100)}": self.lags.at(q) for q in (0.5, 0.95, 0.99)}
        return {
            "state": self.state,
            "reason": self.reason,
            "ready": self.ready,
            "lag_ms": {
                **{name: _ms(value) for name, value in quantiles.items()},
                "max": _ms(self.lags.largest if self.lags.count else None),
                "last": _ms(self.last_lag_s if self.lags.count else None),
            },
            "lag_bytes": self.lag_bytes,
            "gathered": self.gathered,
            "waiting": self.waiting,
            "spooled": self.spooled,
            "transactions": self.transactions,
            "upserted": self.upserted,
            "deleted": self.deleted,
            "strays": self.strays,
            "heartbeat_age_ms": _ms(age),
        }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)


class Board:
    """All streams of a worker, and their figures as Prometheus wants them."""

    def __init__(self, names: list[str]) -> None:
        self.streams = {name: StreamHealth(name) for name in names}
        self.registry = CollectorRegistry()
        label = ["stream"]

        def gauge(name: str, text: str) -> PrometheusGauge:
            return PrometheusGauge(name, text, label, registry=self.registry)

        def counter(name: str, text: str) -> PrometheusCounter:
            return PrometheusCounter(name, text, label, registry=self.registry)

        self._lag = gauge("splitctl_sync_lag_seconds", "Commit on the source to commit here")
        self._bytes = gauge("splitctl_sync_lag_bytes", "Log of the source not carried yet")
        self._pending = gauge("splitctl_sync_pending_keys", "Keys gathered, spooled or waiting")
        self._age = gauge("splitctl_sync_heartbeat_age_seconds", "Since the last round trip began")
        self._up = gauge("splitctl_sync_ready", "1 while the stream does what it should")
        self._rows = counter("splitctl_sync_applied_rows", "Rows written or deleted")
        self._strays = counter("splitctl_sync_strays", "Changes on the side that does not own")
        self._delay = Histogram(
            "splitctl_sync_delay_seconds",
            "Commit on the source to commit here, each transaction",
            label,
            buckets=DELAYS,
            registry=self.registry,
        )
        for name in names:
            self._rows.labels(name)
            self._strays.labels(name)

    def carried(self, name: str, delays_s: list[float], rows: int, strays: int) -> None:
        """Count a batch that was committed."""
        health = self.streams[name]
        for delay in delays_s:
            health.lags.add(delay)
            self._delay.labels(name).observe(delay)
        if delays_s:
            health.last_lag_s = max(delays_s)
        health.transactions += len(delays_s)
        health.strays += strays
        self._rows.labels(name).inc(rows)
        self._strays.labels(name).inc(strays)

    def metrics(self) -> bytes:
        """The text of /metrics."""
        for name, health in self.streams.items():
            self._lag.labels(name).set(health.last_lag_s)
            self._bytes.labels(name).set(health.lag_bytes)
            self._pending.labels(name).set(health.gathered + health.waiting + health.spooled)
            age = health.heartbeat_age_s
            self._age.labels(name).set(math.nan if age is None else age)
            self._up.labels(name).set(1 if health.ready else 0)
        return generate_latest(self.registry)

    def to_json(self) -> dict[str, Any]:
        """The body of /status."""
        return {"streams": {name: health.to_json() for name, health in self.streams.items()}}

    @property
    def ready(self) -> bool:
        """Whether every stream is ready."""
        return all(health.ready for health in self.streams.values())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    board: Board


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        board = self.server.board
        match self.path.partition("?")[0]:
            case "/health/live":
                self._send(HTTPStatus.OK, {"status": "live"})
            case "/health/ready":
                status = HTTPStatus.OK if board.ready else HTTPStatus.SERVICE_UNAVAILABLE
                streams = {name: health.state for name, health in board.streams.items()}
                self._send(status, {"ready": board.ready, "streams": streams})
            case "/status":
                self._send(HTTPStatus.OK, board.to_json())
            case "/metrics":
                self._answer(HTTPStatus.OK, board.metrics(), "text/plain; version=0.0.4")
            case _:
                self._send(HTTPStatus.NOT_FOUND, {"error": "not found"})

    def _send(self, status: HTTPStatus, body: dict[str, Any]) -> None:
        self._answer(status, json.dumps(body).encode(), "application/json")

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


def serve(listen: str, board: Board) -> ThreadingHTTPServer:
    """Serve the board on `host:port` in a thread. Raises AddressTaken."""
    host, _, port = listen.rpartition(":")
    try:
        server = _Server((host, int(port)), _Handler)
    except OSError as error:
        raise AddressTaken(listen=listen, reason=error.strerror or error) from error
    server.board = board
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server
