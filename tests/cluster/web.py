"""A program for pods of the tests: answers over HTTP with what it was started with.

Environment: HOST, PORT. GET /env?NAME gives a variable, /file?PATH a file, /ready 200 until
POST /unready was called. SIGTERM ends it after the requests under way; with STUBBORN set, never.
"""

import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

ready = threading.Event()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Ready, a variable, or a file."""
        asked = urlsplit(self.path)
        match asked.path:
            case "/ready":
                self._answer(200 if ready.is_set() else 503, "")
            case "/env":
                self._answer(200, os.environ.get(asked.query, "(not set)"))
            case "/file":
                self._answer(200, Path(asked.query).read_text(encoding="utf-8"))
            case _:
                self._answer(404, "")

    def do_POST(self) -> None:
        """Not ready any more."""
        ready.clear()
        self._answer(200, "")

    def _answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def main() -> None:
    """Serve until SIGTERM."""
    server = ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler)

    def told(*_: object) -> None:
        if "STUBBORN" not in os.environ:
            threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, told)
    if os.environ.get("READY", "yes") == "yes":
        ready.set()
    server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main()
