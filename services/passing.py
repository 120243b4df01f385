"""A service that passes on: whom its database does not own, it sends to the other side itself.

Where a load balancer chooses a side by weight, as a Gateway API route does, nobody asks anew after
a 421. So each service has the gateway's own way to ask (`services.gateway.sides`) before it, in the
same process: first itself, then the other side, and both again while the owner is being moved. What
is passed on bears `X-Passed-On`, and whoever gets that answers 421 like any service: no request is
passed on twice.

It counts as a gateway does, each request once, where it came in, by the side that answered it.
"""

import logging
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote

import aiohttp
from starlette.types import ASGIApp, Receive, Scope, Send

from services.gateway.app import Gateway, Settings, send_answer
from services.gateway.flags import DomainFlags
from services.gateway.metrics import Metrics
from services.gateway.proxy import (
    CONNECTION_HEADERS,
    NOT_PASSED_ON,
    Answer,
    Header,
    Upstream,
    UpstreamDown,
)
from services.gateway.sides import Sides, opposite
from services.owner import DOMAINS, PASSED_ON, Side

log = logging.getLogger("services")


class Here:
    """The service itself as one of the sides: asked within the process."""

    def __init__(self, app: ASGIApp, side: Side) -> None:
        self._app, self._side = app, side

    async def call(
        self, method: str, target: str, headers: Iterable[Header], body: bytes
    ) -> Answer:
        """Its answer. Raises UpstreamDown when it gives none."""
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "root_path": "",
            "headers": [(n, v) for n, v in headers if n not in CONNECTION_HEADERS],
            "client": None,
            "server": None,
        }
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])
        status, kept, parts = 0, list[Header](), list[bytes]()

        async def receive() -> MutableMapping[str, Any]:
            return next(messages, {"type": "http.disconnect"})

        async def send(message: MutableMapping[str, Any]) -> None:
            nonlocal status, kept
            if message["type"] == "http.response.start":
                status = message["status"]
                kept = [(n, v) for n, v in message["headers"] if n not in NOT_PASSED_ON]
            else:
                parts.append(message.get("body", b""))

        try:
            await self._app(scope, receive, send)
        except Exception:
            # What the framework could not handle it has answered before it raises.
            log.exception("%s %s failed", method, path)
        if not status:
            raise UpstreamDown("the service gave no answer")
        return Answer(status, kept, b"".join(parts), self._side)


class InFront(Gateway):
    """A gateway before one service: itself first, then the other side of each domain."""

    def __init__(self, app: ASGIApp, service: str, side: Side, others: Mapping[str, str]) -> None:
        mine = DomainFlags(True, 100 if side == "new" else 0, 0)
        super().__init__(
            Settings(
                instance=service,
                token="",
                order_url="",
                new_urls={},
                flags=dict.fromkeys(others, mine),
                owners_refuse=True,
            )
        )
        self._app, self._side, self._others = app, side, others
        self._here = Here(app, side)
        # It has no flags that anybody sets, so it tells of none.
        self.metrics = Metrics({})
        for domain in others:
            self.metrics.expect(domain)

    def _both_sides(self, session: aiohttp.ClientSession) -> dict[str, Sides]:
        there = opposite(self._side)
        return {
            domain: Sides(
                {self._side: self._here, there: Upstream(session, url, there)}, refusing=True
            )
            for domain, url in self._others.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, self._around(receive), send)
        elif scope["type"] == "http" and scope["path"] == "/metrics":
            page = await self._here.call("GET", "/metrics", scope["headers"], b"")
            await send_answer(
                send, Answer(page.status, _typed(page.headers), page.body + self.metrics.text())
            )
        elif (domain := self._coming_in(scope)) is not None:
            await self._proxied(scope, receive, send, domain)
        else:
            await self._app(scope, receive, send)

    def _around(self, receive: Receive) -> Receive:
        """It begins before the service, and ends before it: what is under way needs the service."""

        async def received() -> MutableMapping[str, Any]:
            message = await receive()
            await (self.start() if message["type"] == "lifespan.startup" else self.stop())
            return message

        return received

    def _coming_in(self, scope: Scope) -> str | None:
        """The domain of a request that came from outside, and may have to be passed on."""
        if scope["type"] != "http" or PASSED_ON.encode() in dict(scope["headers"]):
            return None
        domain = DOMAINS.get(scope["path"].lstrip("/").split("/", 1)[0])
        return domain if domain in self._others else None


def _typed(headers: Iterable[Header]) -> list[Header]:
    return [(name, value) for name, value in headers if name == b"content-type"]


def in_front(app: ASGIApp, service: str, side: Side | None, others: Mapping[str, str]) -> ASGIApp:
    """The application that passes on to these other sides, by domain; itself where there are none.

    A service without a side of its own refuses nobody, so it has nobody to pass on.
    """
    return InFront(app, service, side, others) if others and side is not None else app
