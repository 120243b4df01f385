"""The gateway as one ASGI application.

The proxied path is written against ASGI itself: it carries every customer's request, and a
framework would cost more than the work. The admin endpoint is an ordinary Starlette application.
"""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, MutableMapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from starlette.types import Receive, Scope, Send

from services.gateway import merge, proxy
from services.gateway.admin import Admin
from services.gateway.buckets import IdentityMissing, bucket, merge_routes, route_of
from services.gateway.fence import Door, Visit
from services.gateway.flag_files import FlagFiles
from services.gateway.flags import DomainFlags, Side
from services.gateway.leases import Cancellable, Clock, Timer
from services.gateway.metrics import Metrics
from services.gateway.peers import Peers
from services.gateway.proxy import Answer, Header, Upstream, UpstreamDown, UpstreamSlow
from services.gateway.sides import NobodyOwns, Sides
from services.owner import CROSSING, DOMAINS, PASSED_ON

LARGEST_BODY = 1024 * 1024
IDENTITIES = (b"x-customer-id", b"x-guest-token")
JSON_TYPE = (b"content-type", b"application/json")
PLAIN_TYPE = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
DRAIN_SECONDS = 10.0


class Refused(Exception):
    """The gateway itself answers: status and reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Settings:
    """What a gateway needs to know. `new_urls`: the new side's service of each domain.

    `old_urls`: the old side's, where that is not the service of the orders.
    `owners_refuse`: all services answer 421 to customers whom their database does not own.
    `flags_folder`: files that change the flags while it runs, a mounted ConfigMap.
    """

    instance: str
    token: str = field(repr=False)
    order_url: str
    new_urls: dict[str, str]
    flags: dict[str, DomainFlags]
    upstream_seconds: float = 10.0
    owners_refuse: bool = False
    flags_folder: Path | None = None
    old_urls: dict[str, str] = field(default_factory=dict)


def loop_timer(delay: float, callback: Any) -> Cancellable:
    """The event loop's own timer."""
    return asyncio.get_running_loop().call_later(max(0.0, delay), callback)


class Gateway:
    """The application. `start` and `stop` are its lifespan."""

    def __init__(
        self, settings: Settings, *, clock: Clock = time.monotonic, timer: Timer = loop_timer
    ) -> None:
        self.settings = settings
        self._peers = Peers(settings.token)
        self.doors = {
            domain: Door(domain, flags, clock, timer, self._peers.ask)
            for domain, flags in settings.flags.items()
        }
        self.metrics = Metrics(self.doors)
        self._admin = Admin(settings.instance, settings.token, self.doors).app()
        self._patience = proxy.Patience(settings.upstream_seconds)
        self._session: aiohttp.ClientSession | None = None
        self._sides: dict[str, Sides] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the pools, and look at the files."""
        if self.settings.flags_folder is not None:
            files = FlagFiles(self.settings.flags_folder, self.doors)
            files.look()
            self._following = asyncio.create_task(files.follow())
        self._loop = asyncio.get_running_loop()
        self._session = proxy.open_session()
        self._sides = self._both_sides(self._session)

    def _both_sides(self, session: aiohttp.ClientSession) -> dict[str, Sides]:
        settings = self.settings
        old = Upstream(session, settings.order_url, "old")
        found = {}
        for domain in self.doors:
            there = settings.old_urls.get(domain)
            upstreams: dict[Side, Upstream] = {
                "old": Upstream(session, there, "old") if there else old,
                "new": Upstream(session, settings.new_urls[domain], "new"),
            }
            found[domain] = Sides(upstreams, refusing=settings.owners_refuse)
        return {**found, "order": Sides({"old": old, "new": old}, refusing=False)}

    def interrupt(self, drain_s: float, end: Callable[[], None]) -> None:
        """Begin to stop, from a signal handler: nobody may be held by a gateway that goes.

        `end` is called after so many seconds, in which customers find other gateways.
        """
        if self._loop is None:
            end()
            return

        def begin() -> None:
            self._release()
            loop_timer(drain_s, end)

        self._loop.call_soon_threadsafe(begin)

    def _release(self) -> None:
        self._stopping = True
        for door in self.doors.values():
            door.close()

    async def stop(self) -> None:
        """Let upstream calls end that nobody waits for, then close the pools."""
        self._release()
        if self._following is not None:
            self._following.cancel()
        await self._peers.close()
        await self._patience.drain(DRAIN_SECONDS)
        if self._session is not None:
            await self._session.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            head = scope["path"].split("/", 2)[1] if scope["path"].startswith("/") else ""
            if head in DOMAINS or head == "orders":
                await self._proxied(scope, receive, send, DOMAINS.get(head, "order"))
            elif head == "admin":
                await self._admin(scope, receive, send)
            else:
                await self._own(scope["path"], send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await self.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _own(self, path: str, send: Send) -> None:
        if path == "/metrics":
            await send_answer(send, Answer(200, [PLAIN_TYPE], self.metrics.text()))
        elif path == "/health/live":
            await send_answer(send, _json(200, {"status": "live"}))
        elif path == "/health/ready":
            ready = self._session is not None and not self._stopping
            status = {"status": "ready" if ready else "stopping"}
            await send_answer(send, _json(200 if ready else 503, status))
        else:
            await send_answer(send, _json(404, {"error": "not found"}))

    async def _proxied(self, scope: Scope, receive: Receive, send: Send, domain: str) -> None:
        began = time.perf_counter()
        try:
            request = _Request.of(scope, domain)
            request.body = await _body(request.has_body, receive)
            answer, side, served = await self._answer(request)
        except Refused as error:
            await send_answer(send, _json(error.status, {"error": str(error)}))
            return
        except ConnectionAbortedError:
            return  # the customer left before the request was whole
        self.metrics.answered(domain, side, answer.status, time.perf_counter() - began)
        answer.headers.append((b"x-served-by", f"{domain}/{side}/{served}".encode()))
        if self._stopping:
            answer.headers.append((b"connection", b"close"))
        await send_answer(send, answer)

    async def _answer(self, request: "_Request") -> tuple[Answer, Side, int]:
        """The answer, the side that gave it or failed to, and the percentage served then."""
        sides = self._sides[request.domain].for_one()
        if sides.refusing or merge.is_merge(request.method, request.path):
            # Whoever is refused is sent to the other side from here, and by nobody else. A merge's
            # parts are for one side each.
            request.headers = [*request.headers, (PASSED_ON.encode(), b"1")]
        door = self.doors.get(request.domain)
        visit: Visit | None = None
        failed: Side | None = None
        buckets: tuple[int, ...] = ()
        try:
            if door is None:
                work = _plain(request, sides, "old")
            else:
                buckets = request.buckets()
                visit = await door.enter(*buckets)
                if len(buckets) == 1:
                    work = _plain(request, sides, visit.sides[0])
                else:
                    work = _merged(request, buckets, visit, sides)
                work = _leaving(visit, work)
            answer = await self._patience.wait(work)
        except UpstreamDown as error:
            failed = sides.last or _side(visit)
            answer = _json(502, {"error": f"{request.domain} {failed}: {error}"})
        except NobodyOwns as error:
            answer = _json(503, {"error": f"{request.domain}: {error}"})
        except (UpstreamSlow, merge.NotCrossed) as error:
            failed = sides.last or _side(visit)
            answer = _json(504, {"error": f"{request.domain} {failed}: {error}"})
        except merge.MergeInvalid as error:
            raise Refused(400, str(error)) from None
        if visit is None:
            return answer, "old", 0
        # Where the services know better than the flags, they have the last word.
        side = answer.side or _side(visit)
        self.metrics.visited(request.domain, visit.flags, buckets, (*visit.sides[:-1], side))
        # A side that fails says nothing of whom it owns; but the failure is its own.
        return answer, failed or side, visit.flags.served


async def _plain(request: "_Request", sides: Sides, side: Side) -> Answer:
    return await sides.ask(side, request.method, request.target, request.headers, request.body)


def _side(visit: Visit | None) -> Side:
    return visit.sides[-1] if visit else "old"


async def _leaving(visit: Visit, work: Coroutine[Any, Any, Answer]) -> Answer:
    try:
        return await work
    finally:
        visit.leave()


async def _merged(
    request: "_Request",
    buckets: tuple[int, ...],
    visit: Visit,
    sides: Sides,
) -> Answer:
    """A merge; anew from the door whenever its customer was moved before the merge itself."""
    while True:
        guest, customer = visit.sides
        asked = merge.Merge(
            request.target,
            request.headers,
            request.body,
            guest,
            customer,
            partial(visit.moved, buckets[-1], customer),
        )
        try:
            return await merge.run(asked, sides)
        except merge.CustomerMoved:
            await visit.enter_anew(*buckets)


@dataclass(slots=True)
class _Request:
    """One proxied request, read from its ASGI scope."""

    domain: str
    method: str
    path: str
    target: str
    headers: list[Header]
    identities: dict[bytes, bytes]
    has_body: bool
    body: bytes = b""

    @classmethod
    def of(cls, scope: Scope, domain: str) -> "_Request":
        """Read the scope. Raises Refused."""
        path: str = scope["path"]
        method: str = scope["method"]
        # The close of a guest's cart belongs to a merge; nobody may ask for it from outside.
        if domain == "checkout" and path.rstrip("/").endswith("/close"):
            raise Refused(404, "not found")
        target = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            target += "?" + scope["query_string"].decode("latin-1")
        identities: dict[bytes, bytes] = {}
        has_body = False
        for name, value in scope["headers"]:
            if name == CROSSING.encode():
                raise Refused(400, f"{CROSSING} is the gateway's own")
            if name in IDENTITIES:
                if name in identities:
                    raise Refused(400, f"{name.decode()} stands twice")
                identities[name] = value
            elif name in (b"content-length", b"transfer-encoding"):
                has_body = True
        # Who goes on to the other side is not the client's to say.
        headers = [header for header in scope["headers"] if header[0] != PASSED_ON.encode()]
        return cls(domain, method, path, target, headers, identities, has_body)

    def buckets(self) -> tuple[int, ...]:
        """The bucket, or for a merge the guest's and the customer's. Raises Refused."""
        try:
            if merge.is_merge(self.method, self.path):
                guest, customer = merge_routes(self.identities)
                return bucket(guest), bucket(customer)
            return (bucket(route_of(self.identities)),)
        except IdentityMissing as error:
            raise Refused(400, str(error)) from None


async def _body(has_body: bool, receive: Receive) -> bytes:
    if not has_body:
        return b""
    parts: list[bytes] = []
    size = 0
    while True:
        message: MutableMapping[str, Any] = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionAbortedError
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > LARGEST_BODY:
            raise Refused(413, "the body is too large")
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _json(status: int, document: dict[str, str]) -> Answer:
    return Answer(status, [JSON_TYPE], json.dumps(document).encode())


async def send_answer(send: Send, answer: Answer) -> None:
    """One whole answer to whoever asked."""
    headers = answer.headers
    if not any(name == b"content-length" for name, _ in headers):
        headers = [*headers, (b"content-length", str(len(answer.body)).encode())]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
