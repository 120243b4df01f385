"""One request to its upstream and back."""

import asyncio
import socket
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.client_exceptions import (
    ClientConnectorError,
    ClientError,
    ConnectionTimeoutError,
)
from multidict import CIMultiDict
from yarl import URL

from services.gateway.flags import Side

Header = tuple[bytes, bytes]

# Headers that speak of one connection only, and those that the client library writes itself.
CONNECTION_HEADERS = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization",
        b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect",
        b"host", b"content-length",
    }
)  # fmt: skip
# What of an answer stays here: the gateway alone says who served it.
NOT_PASSED_ON = (CONNECTION_HEADERS - {b"content-length"}) | {b"x-served-by"}
# Shorter than any upstream's keep-alive: a connection that the upstream is just closing would
# cost a customer an error, and a POST must not be sent twice.
IDLE_SECONDS = 3.0
CONNECT_SECONDS = 2.0
CONNECTIONS = 512


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. Header names are lower case. `side` gave it; None: the gateway itself."""

    status: int
    headers: list[Header]
    body: bytes
    side: Side | None = None


class UpstreamDown(Exception):
    """The upstream could not be reached, or hung up without an answer."""


class UpstreamUnreached(UpstreamDown):
    """There was not even a connection: nothing was sent, and nothing was done."""


class UpstreamSlow(Exception):
    """The upstream did not answer in time. What it does may still happen."""


def _socket(address: Any) -> socket.socket:
    # An upstream whose machine died never says goodbye. Without probes its requests would count
    # as under way for ever, as there is no limit on how long they may take.
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made


def open_session() -> aiohttp.ClientSession:
    """A pool of kept-alive connections. Call inside the event loop; close it at the end.

    There is deliberately no limit on an answer's time: see `Patience`.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=CONNECTIONS,
            keepalive_timeout=IDLE_SECONDS,
            ttl_dns_cache=30,
            socket_factory=_socket,
        ),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("user-agent", "accept", "accept-encoding", "content-type"),
    )


class Upstream:
    """One service behind the gateway, on one side of a domain."""

    def __init__(self, session: aiohttp.ClientSession, base: str, side: Side) -> None:
        self.side = side
        self._session = session
        self._base = base.rstrip("/")

    async def call(
        self, method: str, target: str, headers: Iterable[Header], body: bytes
    ) -> Answer:
        """Send one request; `target` is the raw path with its query. Raises UpstreamDown."""
        sent: CIMultiDict[str] = CIMultiDict()
        for name, value in headers:
            if name not in CONNECTION_HEADERS:
                # The client library writes headers as UTF-8, so this gives the same bytes again.
                sent.add(name.decode("latin-1"), value.decode("utf-8", "replace"))
        try:
            async with self._session.request(
                method,
                URL(self._base + target, encoded=True),
                headers=sent,
                data=body or None,
                allow_redirects=False,
            ) as response:
                content = await response.read()
        except (ClientConnectorError, ConnectionTimeoutError) as error:
            raise UpstreamUnreached(f"{type(error).__name__}: {error}") from error
        except (ClientError, OSError, ValueError) as error:
            raise UpstreamDown(f"{type(error).__name__}: {error}") from error
        kept = [
            (lower, value)
            for name, value in response.raw_headers
            if (lower := name.lower()) not in NOT_PASSED_ON
        ]
        if not any(name == b"content-length" for name, _ in kept) and response.status not in (
            204,
            304,
        ):
            kept.append((b"content-length", str(len(content)).encode()))
        return Answer(response.status, kept, content, self.side)


class Patience:
    """Waits a limited time for work that goes on regardless.

    When the gateway gives up, or its customer has gone, the upstream still works and may still
    commit. So the work is a task of its own that nobody cancels; it leaves its door itself.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._under_way: set[asyncio.Task[Answer]] = set()

    async def wait(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """The work's answer. Raises what the work raises, and UpstreamSlow."""
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        await asyncio.wait((task,), timeout=self._seconds)
        if not task.done():
            raise UpstreamSlow(f"no answer in {self._seconds:g} s")
        return task.result()

    def _ended(self, task: asyncio.Task[Answer]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # seen, even when nobody waits any more

    async def drain(self, seconds: float) -> int:
        """Wait for all work under way; returns how much was still not done."""
        if not self._under_way:
            return 0
        _, pending = await asyncio.wait(set(self._under_way), timeout=seconds)
        return len(pending)
