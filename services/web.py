"""What the services with a database share: environment, pool, answers, faults, health, metrics.

A service is a `Service` with routes added to it:

    service = Service(Settings.from_environment("checkout"))
    service.add("GET", "/carts/{id}", "GetCart", carts.get)
    run(service)

A handler takes a `Call` and returns (status, JSON value). What it cannot do it says by raising a
`Problem`; every other error becomes a plain 500 or 503 in JSON and a line in the log.
"""

import json
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import psycopg
import psycopg_pool
import uvicorn
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from psycopg import AsyncConnection, errors
from psycopg.pq import TransactionStatus
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services import owner, passing
from services.body import Body
from services.faults import Faults
from services.owner import Customer, Owners, TornDown
from services.problems import BadRequest, Problem, Unavailable

log = logging.getLogger("services")

Row = tuple[Any, ...]
Connection = AsyncConnection[Row]
Json = dict[str, Any] | list[Any]
Answer = tuple[int, Json]
Handler = Callable[["Call"], Awaitable[Answer]]
Result = TypeVar("Result")

LARGEST_POOL = 10
ATTEMPTS = 3
LARGEST_BODY = 256 * 1024
# Longer than any client keeps an idle connection: the client closes first, so that a request never
# meets a connection that is just going away.
KEEP_ALIVE_S = 75
SESSION = (
    "-c statement_timeout=10s -c lock_timeout=5s -c idle_in_transaction_session_timeout=15s"
    " -c timezone=UTC"
)
LATENCY_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5)


@dataclass(frozen=True)
class Settings:
    """One service's environment. `fault_rate` is the share (0..1) of writes answered with 500.

    `side`: whose customers are served here, the others are refused (421); None: everybody.
    `alone`: whether everybody is where nothing is carried between the sides; None: on the old one.
    `pass_on`: the other side's address by domain; whom this side does not own is passed on there.
    """

    service: str
    host: str = "127.0.0.1"
    port: int = 8080
    database_url: str = ""
    partners_url: str = "http://127.0.0.1:8090"
    order_url: str = "http://127.0.0.1:8091"
    fault_rate: float = 0.0
    fault_admin: bool = False
    side: owner.Side | None = None
    alone: bool | None = None
    pass_on: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_environment(cls, service: str) -> "Settings":
        """Read HOST, PORT, DATABASE_URL, PARTNERS_URL, ORDER_URL, SERVICE_FAULT_RATE, FAULT_ADMIN
        OWNER_SIDE, OWNER_UNCARRIED (serve or refuse) and PASS_ON (DOMAIN=URL,DOMAIN=URL).

        Raises SystemExit with a message that names the variable.
        """
        usual = cls(service)
        database_url = os.environ.get("DATABASE_URL", "").strip()
        if not database_url:
            raise SystemExit("DATABASE_URL is not set: give a PostgreSQL connection string")
        try:
            port = int(os.environ.get("PORT", usual.port))
        except ValueError:
            raise SystemExit("PORT is not a number") from None
        side = _side(os.environ.get("OWNER_SIDE", ""))
        pass_on = _pass_on(os.environ.get("PASS_ON", ""))
        if pass_on and side is None:
            raise SystemExit(
                "PASS_ON needs OWNER_SIDE: whose customers are served here, old or new"
            )
        return replace(
            usual,
            host=os.environ.get("HOST") or usual.host,
            port=port,
            database_url=database_url,
            partners_url=(os.environ.get("PARTNERS_URL") or usual.partners_url).rstrip("/"),
            order_url=(os.environ.get("ORDER_URL") or usual.order_url).rstrip("/"),
            fault_rate=_share(os.environ.get("SERVICE_FAULT_RATE", "0")),
            fault_admin=os.environ.get("FAULT_ADMIN") == "1",
            side=side,
            alone=_alone(os.environ.get("OWNER_UNCARRIED", "")),
            pass_on=pass_on,
        )


def _side(text: str) -> owner.Side | None:
    if not text:
        return None
    for side in owner.SIDES:
        if text == side:
            return side
    raise SystemExit(f"OWNER_SIDE is {text}: say old or new, or leave it out")


def _alone(text: str) -> bool | None:
    words: dict[str, bool | None] = {"": None, "serve": True, "refuse": False}
    if text not in words:
        raise SystemExit(f"OWNER_UNCARRIED is {text}: say serve or refuse, or leave it out")
    return words[text]


def _pass_on(text: str) -> dict[str, str]:
    found = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        domain, _, url = entry.partition("=")
        if domain not in owner.DOMAINS.values() or not url.startswith(("http://", "https://")):
            raise SystemExit(f"PASS_ON has {entry}: say DOMAIN=URL,DOMAIN=URL, or leave it out")
        found[domain] = url
    return found


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise SystemExit("SERVICE_FAULT_RATE is not a share between 0 and 1")
    return share


class Call:
    """One request as a handler sees it."""

    __slots__ = ("_request",)

    def __init__(self, request: Request) -> None:
        self._request = request

    def header(self, name: str) -> str | None:
        """A header's value, None where it is absent or empty."""
        return self._request.headers.get(name) or None

    def customer(self) -> Customer | None:
        """Whose request it is, where it belongs to a domain that moves."""
        return owner.customer_of(
            self._request.method, self._request.url.path, self._request.headers
        )

    def path(self, name: str) -> str:
        """A part of the path."""
        value: str = self._request.path_params[name]
        return value

    def query(self, name: str) -> str | None:
        """A parameter of the query string."""
        return self._request.query_params.get(name)

    async def body(self) -> Body:
        """The JSON object that was sent; an empty request is an empty object."""
        raw = await self._request.body()
        if len(raw) > LARGEST_BODY:
            raise BadRequest("too_large", f"a body has at most {LARGEST_BODY} bytes")
        if not raw:
            return Body({})
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            raise BadRequest("not_json", "the body is not JSON") from None
        if not isinstance(value, dict):
            raise BadRequest("not_an_object", "the body is not a JSON object")
        return Body(value)


class Resource(Protocol):
    """Something a service opens when it starts and closes when it ends."""

    async def open(self) -> None:
        """Get ready."""

    async def close(self) -> None:
        """Let go."""


class Database:
    """A small pool of connections to the service's own database."""

    def __init__(self, url: str, application_name: str, owners: Owners | None = None) -> None:
        self._owners = owners
        self._pool = psycopg_pool.AsyncConnectionPool(
            url,
            kwargs={"autocommit": True, "application_name": application_name, "options": SESSION},
            min_size=1,
            max_size=LARGEST_POOL,
            timeout=5,
            max_idle=60,
            open=False,
            name=application_name,
        )

    async def open(self) -> None:
        """Start connecting; a database that is away is seen at /health/ready."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """A connection without a transaction: each statement sees its own snapshot."""
        async with self._pool.connection() as connection:
            if self._owners is not None:
                try:
                    await self._owners.before_reading(connection)
                except TornDown:
                    await self._owners.before_reading(connection)
            yield connection

    async def transact(self, work: Callable[[Connection], Awaitable[Result]]) -> Result:
        """Run `work` in one transaction and commit it. Runs again after a deadlock.

        Statements are sent as a pipeline: only those whose rows are fetched are waited for.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with self._pool.connection() as connection:
                    return await self._in_transaction(connection, work)
            except (errors.DeadlockDetected, errors.SerializationFailure, TornDown):
                if attempt == ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    async def _in_transaction(
        self, connection: Connection, work: Callable[[Connection], Awaitable[Result]]
    ) -> Result:
        try:
            async with connection.pipeline():
                await connection.execute("BEGIN")
                if self._owners is not None:
                    await self._owners.before_writing(connection)
                result = await work(connection)
                await connection.execute("COMMIT")
        except BaseException:
            # The end of the pipeline has settled all statements; the transaction may be still open.
            status = connection.info.transaction_status
            if not connection.closed and status != TransactionStatus.IDLE:
                await connection.rollback()
            raise
        return result

    async def reachable(self) -> bool:
        """Whether a statement is answered within two seconds."""
        try:
            async with self._pool.connection(timeout=2) as connection:
                await connection.execute("SELECT 1")
        except (psycopg.Error, psycopg_pool.PoolTimeout, psycopg_pool.PoolClosed):
            return False
        return True


class Service:
    """A named HTTP service over one database."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        side = settings.side
        owners = None if side is None else Owners(side, settings.alone)
        self.database = Database(settings.database_url, f"{settings.service}-service", owners)
        self.faults = Faults(settings.fault_rate)
        self._resources: list[Resource] = [self.database]
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "service_requests_total",
            "Requests answered",
            ("service", "method", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "service_request_seconds",
            "Time to answer a request",
            ("service", "method"),
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self._unconnected = Counter(
            "database_connection_failures_total",
            "Requests and probes for which the database could not be reached",
            ("service",),
            registry=self.registry,
        ).labels(settings.service)
        self._routes = [
            Route("/health/live", self._live),
            Route("/health/ready", self._ready),
            Route("/metrics", self._metrics),
        ]
        if settings.fault_admin:
            self._routes.append(Route("/admin/fault", self._set_fault, methods=["POST"]))

    def own(self, resource: Resource) -> None:
        """Open and close this together with the service."""
        self._resources.append(resource)

    def add(self, method: str, path: str, name: str, handler: Handler) -> None:
        """Add a route. `name` is its label in the metrics; all but GET count as writes."""
        seconds = self._seconds.labels(self.settings.service, name)

        async def endpoint(request: Request) -> Response:
            began = time.perf_counter()
            status, value = await self._answer(name, method, handler, Call(request))
            seconds.observe(time.perf_counter() - began)
            self._requests.labels(self.settings.service, name, str(status)).inc()
            return reply(status, value)

        self._routes.append(Route(path, endpoint, methods=[method]))

    def app(self) -> Starlette:
        """The ASGI application with the routes added so far."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            for resource in self._resources:
                await resource.open()
            try:
                yield
            finally:
                for resource in reversed(self._resources):
                    await resource.close()

        handlers = {HTTPException: _http_error, Exception: _unexpected}
        return Starlette(routes=self._routes, lifespan=lifespan, exception_handlers=handlers)

    async def _answer(self, name: str, method: str, handler: Handler, call: Call) -> Answer:
        if await self.faults.strike(method):
            return 500, {"error": "fault", "detail": "a fault that was asked for"}
        try:
            with owner.serving(call.customer()):
                return await handler(call)
        except Problem as problem:
            return problem.status, problem.json()
        except (psycopg.OperationalError, psycopg_pool.PoolTimeout) as error:
            if unconnected(error):
                self._unconnected.inc()
            log.warning("%s: database: %s", name, error)
            away = Unavailable("database_unavailable", "the database did not answer; try again")
            return away.status, away.json()
        except Exception:
            log.exception("%s failed", name)
            return 500, {"error": "internal", "detail": "the service made a mistake"}

    async def _live(self, _: Request) -> Response:
        return reply(200, {"status": "ok", "service": self.settings.service})

    async def _ready(self, _: Request) -> Response:
        if await self.database.reachable():
            return reply(200, {"status": "ok", "service": self.settings.service})
        self._unconnected.inc()
        return reply(503, {"status": "unready", "detail": "the database does not answer"})

    async def _metrics(self, _: Request) -> Response:
        return Response(generate_latest(self.registry), media_type="text/plain; version=0.0.4")

    async def _set_fault(self, request: Request) -> Response:
        try:
            stands = self.faults.set(await Call(request).body())
        except Problem as problem:
            return reply(problem.status, problem.json())
        return reply(200, stands)


def unconnected(error: Exception) -> bool:
    """Whether the database could not be reached, or went away; not merely slow, or in conflict."""
    if not isinstance(error, psycopg.OperationalError):
        return isinstance(error, psycopg_pool.PoolTimeout)
    # Without a code the server has said nothing at all; the rest is its way to say good-bye.
    return error.sqlstate is None or error.sqlstate.startswith(("08", "57P", "53300"))


def reply(status: int, value: Json) -> Response:
    """A JSON response."""
    content = json.dumps(value, separators=(",", ":")).encode()
    return Response(content, status, media_type="application/json")


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    word = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    return reply(error.status_code, {"error": word, "detail": str(error.detail)})


async def _unexpected(_: Request, __: Exception) -> Response:
    return reply(500, {"error": "internal", "detail": "the service made a mistake"})


def run(service: Service) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are answered first."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    settings = service.settings
    uvicorn.run(
        passing.in_front(service.app(), settings.service, settings.side, settings.pass_on),
        host=service.settings.host,
        port=service.settings.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=10,
    )
