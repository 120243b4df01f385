"""The shop's services on real databases: `shop` (whole session), `side` (the old and the new one).

All programs run in one thread with its own event loop; tests are plain HTTP clients.
"""

import asyncio
import contextlib
import itertools
import secrets
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import uvicorn
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool
from starlette.types import ASGIApp

from rehearsal.postgres import Server, free_port
from services.checkout import app as checkout_app
from services.order import app as order_app
from services.partners.app import Partners
from services.partners.goods import Catalog
from services.returns import app as returns_app
from services.web import Service, Settings
from tests.conftest import drop_database

ROOT = Path(__file__).parents[2]
FOLDERS = {"order": "order", "checkout": "checkout", "return": "returns"}
BUILD = {"order": order_app.build, "checkout": checkout_app.build, "return": returns_app.build}
Json = dict[str, Any]


class QuietServer(uvicorn.Server):
    """Without the signal handlers of a process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass
class Shop:
    """Base URLs and database addresses by name: "order", "checkout", "return"; and partners."""

    urls: dict[str, str]
    dsns: dict[str, str]
    services: dict[str, Service]
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def sql(self, database: str, statement: str, values: list[Any] | None = None) -> list[Any]:
        """Run a statement; its rows, where it has any."""
        with psycopg.connect(self.dsns[database], autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def payments(self) -> Json:
        """What the payment partner has done so far."""
        summary: Json = httpx.get(f"{self.urls['partners']}/payments/summary").json()
        return summary


@dataclass
class Side:
    """One side of the split, as a client sees it."""

    name: str
    shop: Shop
    http: httpx.Client

    def url(self, path: str) -> str:
        """Where a path is served on this side."""
        word = path.split("/")[1].split("?", maxsplit=1)[0]
        new = {"carts": "checkout", "checkouts": "checkout", "returns": "return"}
        place = new.get(word, "order") if self.name == "new" else "order"
        return self.shop.urls[place] + path

    def call(self, method: str, path: str, who: Json, body: Any = None) -> httpx.Response:
        """Send a request with identity headers."""
        return self.http.request(method, self.url(path), headers=who, json=body)

    def ok(self, method: str, path: str, who: Json, body: Any = None, status: int = 200) -> Json:
        """Send a request that must give this status; its JSON."""
        answer = self.call(method, path, who, body)
        assert answer.status_code == status, answer.text
        value: Json = answer.json()
        return value

    def refused(
        self, method: str, path: str, who: Json, body: Any = None, *, status: int, error: str
    ) -> None:
        """Send a request that must be refused with this status and word."""
        answer = self.call(method, path, who, body)
        assert (answer.status_code, answer.json()["error"]) == (status, error), answer.text
        assert answer.json()["detail"]

    @property
    def databases(self) -> tuple[str, str]:
        """Where this side keeps carts, and where returns."""
        return ("order", "order") if self.name == "old" else ("checkout", "return")

    def events(self, subject: str) -> list[str]:
        """Types of the events about something, in their order."""
        query = "SELECT id, event_type FROM outbox WHERE subject = %s ORDER BY id"
        found = [self.shop.sql(database, query, [subject]) for database in set(self.databases)]
        return [row[1] for rows in found for row in rows]


def migrate(dsn: str, folder: str) -> None:
    """Bring a database to the newest schema of a service."""
    config = Config()
    config.set_main_option("script_location", str(ROOT / "services" / folder / "migrations"))
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=NullPool
    )
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()


class Host:
    """A thread with an event loop that serves applications."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._serving: list[tuple[QuietServer, Future[None]]] = []

    def serve(self, app: ASGIApp, port: int) -> None:
        """Serve an application and wait until it answers."""
        config = uvicorn.Config(app, port=port, http="httptools", ws="none", log_level="warning")
        server = QuietServer(config)
        ended = asyncio.run_coroutine_threadsafe(server.serve(), self._loop)
        self._serving.append((server, ended))
        while not server.started and not ended.done():
            threading.Event().wait(0.01)

    def stop(self) -> None:
        """End everything."""
        for server, _ in self._serving:
            server.should_exit = True
        for _, ended in self._serving:
            ended.result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._loop.close()


@pytest.fixture(scope="session")
def shop(pg_servers: dict[str, Server]) -> Iterator[Shop]:
    """Partners and the three services on new databases."""
    mark = secrets.token_hex(4)
    names = {name: f"shop_{mark}_{name}" for name in FOLDERS}
    dsns = {name: pg_servers[name].dsn(database) for name, database in names.items()}
    for name, database in names.items():
        with psycopg.connect(pg_servers[name].dsn(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}"'.encode())
        migrate(dsns[name], FOLDERS[name])
    # As sync does it: two sides never give out the same id.
    for name, table in (("checkout", "cart_items"), ("return", "return_items")):
        with psycopg.connect(dsns[name], autocommit=True) as connection:
            connection.execute(f"ALTER TABLE {table} ALTER id RESTART WITH 1000000".encode())
    ports = {name: free_port() for name in ("partners", *FOLDERS)}
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    services = {
        name: BUILD[name](
            Settings(
                service=name,
                database_url=dsns[name],
                partners_url=urls["partners"],
                order_url=urls["order"],
                fault_admin=True,
            )
        )
        for name in FOLDERS
    }
    host = Host()
    try:
        host.serve(Partners(Catalog()).app(), ports["partners"])
        for name, service in services.items():
            host.serve(service.app(), ports[name])
        yield Shop(urls, dsns, services)
    finally:
        host.stop()
        for name, database in names.items():
            drop_database(pg_servers[name], database)


@pytest.fixture(scope="session")
def both_sides(shop: Shop) -> Iterator[dict[str, Side]]:
    """The old and the new side."""
    with httpx.Client(timeout=10) as http:
        yield {name: Side(name, shop, http) for name in ("old", "new")}


@pytest.fixture(params=["old", "new"])
def side(request: pytest.FixtureRequest, both_sides: dict[str, Side]) -> Side:
    """Each side in turn."""
    found: Side = both_sides[request.param]
    return found


@pytest.fixture
def customer() -> Json:
    """Headers of a customer whom nobody knows yet."""
    return {"X-Customer-Id": str(uuid.uuid4())}


@pytest.fixture
def guest() -> Json:
    """Headers of a guest whom nobody knows yet."""
    return {"X-Guest-Token": f"guest-{uuid.uuid4().hex}"}
