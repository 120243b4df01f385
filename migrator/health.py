"""What the sync worker tells about itself: its pages for probes, scraping and reports."""

import json
import logging
import threading
from collections import Counter
from collections.abc import Iterable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from estate.errors import ExitCode, SplitctlError
from migrator.changes import MappingKey
from migrator.gauges import Gauges
from migrator.stream_health import StreamHealth

__all__ = ["AddressTaken", "Board", "StreamHealth", "serve"]

log = logging.getLogger(__name__)


# Delays are told apart by a tenth of a millisecond, or by one of so many parts of the longest.
PER_S = 10_000
STEPS = 200


class AddressTaken(SplitctlError):
    """The health pages cannot be served at {listen} ({reason}): another sync worker may run here.
    Nothing was carried."""

    hint = "splitctl sync status  (is a worker alive?), or change sync.listen"
    exit_code = ExitCode.PRECONDITION


class Listener(Protocol):
    """Hears in any thread which keys were carried, and has figures of its own."""

    def began(self, stream: str) -> None:
        """This process carries the stream from now on."""

    def ended(self, stream: str) -> None:
        """It does not any more."""

    def heard(self, stream: str, names: Iterable[MappingKey]) -> None:
        """These keys were carried now."""

    def missed(self, stream: str) -> None:
        """Keys were put aside, to be carried when nobody hears of it."""

    def altered(self, stream: str) -> None:
        """A base table has other columns than before."""

    def metrics(self) -> bytes:
        """Its part of /metrics."""

    def to_json(self) -> dict[str, Any]:
        """Its part of /status."""


class Nobody:
    """The listener of a worker to which nobody listens."""

    def began(self, stream: str) -> None:
        """Nothing."""

    def ended(self, stream: str) -> None:
        """Nothing."""

    def heard(self, stream: str, names: Iterable[MappingKey]) -> None:
        """Nothing."""

    def missed(self, stream: str) -> None:
        """Nothing."""

    def altered(self, stream: str) -> None:
        """Nothing."""

    def metrics(self) -> bytes:
        """No figures."""
        return b""

    def to_json(self) -> dict[str, Any]:
        """Nothing to tell."""
        return {}


class Board:
    """All streams of a worker, and their figures as Prometheus wants them."""

    def __init__(self, names: list[str], listener: Listener | None = None) -> None:
        self.streams = {name: StreamHealth(name) for name in names}
        self.listener = listener or Nobody()
        self._gauges = Gauges(names)

    def carried(
        self, name: str, delays_s: list[float], rows: int, strays: int, across: int
    ) -> None:
        """Count a batch that was committed; `across` are strays that were written too."""
        health = self.streams[name]
        if delays_s:
            health.last_lag_s = max(delays_s)
            # A burst brings a hundred thousand at once: those that hardly differ are as one.
            per_s = min(PER_S, STEPS / max(health.last_lag_s, 1 / PER_S))
            for step, count in Counter([int(delay * per_s) for delay in delays_s]).items():
                health.lags.add((step + 1) / per_s, count)
                self._gauges.delay(name, (step + 1) / per_s, count)
        health.transactions += len(delays_s)
        health.strays += strays
        self._gauges.carried(name, rows, strays, across)

    def metrics(self) -> bytes:
        """The text of /metrics."""
        return self._gauges.text(self.streams) + self.listener.metrics()

    def to_json(self) -> dict[str, Any]:
        """The body of /status."""
        told = {"streams": {name: health.to_json() for name, health in self.streams.items()}}
        heard = self.listener.to_json()
        return told | {"verifier": heard} if heard else told

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
            case "/health":
                status = HTTPStatus.OK if board.ready else HTTPStatus.SERVICE_UNAVAILABLE
                self._send(status, {"ready": board.ready, **board.to_json()})
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
    # How often it looks whether it is to end: whoever ends the worker waits for that.
    serve = partial(server.serve_forever, poll_interval=0.05)
    threading.Thread(target=serve, name="health", daemon=True).start()
    return server
