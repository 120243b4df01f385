"""A webhook's other end: keeps what it got, and answers what it was told to."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rehearsal.children import wait_until


@dataclass(frozen=True)
class Letter:
    """One request. Names of headers are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """Everything that was sent to `url`. `answers` are used up one by one, then it is 200."""

    url: str = ""
    letters: list[Letter] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    def to(self, path: str) -> list[Letter]:
        """What came to one path."""
        return [letter for letter in list(self.letters) if letter.path == path]

    def wait(self, wanted: Callable[[Letter], bool], limit_s: float) -> Letter:
        """The first letter that is as wanted, as soon as it is there."""
        found: list[Letter] = []

        def there() -> bool:
            found[:] = [letter for letter in list(self.letters) if wanted(letter)]
            return bool(found)

        assert wait_until(there, limit_s), [letter.body[:300] for letter in self.letters]
        return found[0]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on a port of its own."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.letters.append(Letter(self.path, headers, body))
            answer = receiver.answers.pop(0) if receiver.answers else 200
            self.send_response(answer)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
