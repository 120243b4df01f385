"""The gateway over HTTP: real servers on this machine, upstreams that do as they are told."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from aiohttp import web
from yarl import URL

from services.gateway.app import Gateway, Settings
from services.gateway.flags import DomainFlags

ROOT = Path(__file__).parents[2]
TOKEN = "a-token"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
GUEST_0, GUEST_2768, GUEST_4999, GUEST_5000 = "guest-38825", "Guest-17", "guest-15624", "guest-6472"
CART = "0d5c8ad5-8c9a-4a8b-9a2e-0a4f0b8a4a11"


class FakeSide:
    """An upstream: answers with its name, waits while told to, remembers what it saw."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.started = 0
        self.ended = 0
        self.carts: dict[str, dict[str, Any]] = {}
        self.hang_up = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.started += 1
        try:
            body = await request.read()
            headers = {name.lower(): value for name, value in request.headers.items()}
            self.seen.append((request.method, request.raw_path, headers, body))
            await self.open.wait()
            if self.hang_up and request.transport is not None:
                request.transport.close()
            parts = request.path.strip("/").split("/")
            cart = self.carts.get(parts[1]) if len(parts) > 1 else None
            if request.path.endswith("/close") and cart is not None:
                cart.update(status="completed", version=cart["version"] + 1)
                return web.json_response(cart)
            if request.method == "GET" and cart is not None:
                return web.json_response(cart)
            if len(parts) > 1 and parts[1] == "missing":
                return web.json_response({"error": "no such cart"}, status=404)
            return web.json_response(
                {"side": self.name}, status=201, headers={"X-Own": "kept", "X-Served-By": "liar"}
            )
        finally:
            self.ended += 1

    def targets(self) -> list[str]:
        return [f"{method} {target}" for method, target, _, _ in self.seen]


class GatewayServer(uvicorn.Server):
    """Without the signal handlers of a process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


class Estate:
    """Two upstreams and some gateways, with one client."""

    def __init__(self, client: aiohttp.ClientSession, old: FakeSide, new: FakeSide) -> None:
        self.client, self.old, self.new = client, old, new
        self.urls: list[str] = []
        self.gateways: list[Gateway] = []
        self.tasks: set[asyncio.Task[Any]] = set()

    async def ask(
        self, method: str, path: str, *, guest: str | None = None, gateway: int = 0, **more: Any
    ) -> tuple[int, str, Any]:
        """Status, X-Served-By and body of one request."""
        headers = more.pop("headers", {}) | ({"X-Guest-Token": guest} if guest else {})
        url = URL(self.urls[gateway] + path, encoded=True)
        async with self.client.request(method, url, headers=headers, **more) as answer:
            return answer.status, answer.headers.get("X-Served-By", ""), await answer.json()

    async def admin(
        self, method: str, path: str, document: Any = None, *, gateway: int = 0
    ) -> tuple[int, Any]:
        """Status and body of one admin request."""
        url = f"{self.urls[gateway]}/admin{path}"
        async with self.client.request(method, url, json=document, headers=ADMIN) as answer:
            return answer.status, await answer.json()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        return task

    async def fence(self, *, gateway: int = 0, lease_ms: int = 5000, epoch: int = 4) -> Any:
        body = {"epoch": epoch, "low": 1000, "high": 5000, "lease_ms": lease_ms, "holder": "test"}
        status, fence = await self.admin("POST", "/fences/checkout", body, gateway=gateway)
        assert status == 200, fence
        return fence

    async def view(self) -> Any:
        return (await self.admin("GET", "/fences/checkout"))[1]


async def until(met: Callable[[], Any], what: str = "condition") -> None:
    """Wait for a condition, twenty seconds at most."""
    async with asyncio.timeout(20):
        while True:
            result = met()
            if await result if asyncio.iscoroutine(result) else result:
                return
            await asyncio.sleep(0.005)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def upstream(side: FakeSide) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", side.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.2)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        side.open.set()
        await runner.cleanup()


@contextlib.asynccontextmanager
async def estate(gateways: int = 1, *, patience: float = 5.0) -> AsyncIterator[Estate]:
    old, new = FakeSide("old"), FakeSide("new")
    async with contextlib.AsyncExitStack() as stack:
        old_url = await stack.enter_async_context(upstream(old))
        new_url = await stack.enter_async_context(upstream(new))
        client = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
        )
        made = Estate(client, old, new)
        servers: list[tuple[GatewayServer, asyncio.Task[None]]] = []
        for number in range(gateways):
            gateway = Gateway(
                Settings(
                    instance=f"gw-{number + 1}",
                    token=TOKEN,
                    order_url=old_url,
                    new_urls={"checkout": new_url, "return": new_url},
                    flags={
                        "checkout": DomainFlags(True, 10, 3),
                        "return": DomainFlags(False, 50, 1),
                    },
                    upstream_seconds=patience,
                )
            )
            port = free_port()
            server = GatewayServer(
                uvicorn.Config(
                    gateway,
                    port=port,
                    lifespan="on",
                    log_level="warning",
                    ws="none",
                    access_log=False,
                    timeout_graceful_shutdown=1,
                )
            )
            servers.append((server, asyncio.create_task(server.serve())))
            made.urls.append(f"http://127.0.0.1:{port}")
            made.gateways.append(gateway)
        try:
            for server, _ in servers:
                await until(lambda server=server: server.started)
            yield made
        finally:
            old.open.set()
            new.open.set()
            for task in made.tasks:
                task.cancel()
            for server, task in servers:
                server.should_exit = True
                await task


def play(
    act: Callable[[Estate], Coroutine[Any, Any, None]], gateways: int = 1, patience: float = 5.0
) -> None:
    async def scene() -> None:
        async with asyncio.timeout(30), estate(gateways, patience=patience) as made:
            await act(made)

    asyncio.run(scene())


# Routing


def test_each_customer_is_sent_to_the_side_of_the_bucket() -> None:
    async def act(e: Estate) -> None:
        assert await e.ask("POST", "/carts", guest=GUEST_0) == (
            201,
            "checkout/new/10",
            {"side": "new"},
        )
        assert (await e.ask("POST", "/carts", guest=GUEST_4999))[1] == "checkout/old/10"
        assert (await e.ask("PUT", "/checkouts/7/preview?x=%2F1", guest=GUEST_0))[2] == {
            "side": "new"
        }
        assert e.new.targets()[-1] == "PUT /checkouts/7/preview?x=%2F1"
        # The switch of returns is off: the old side, whatever the percentage.
        assert (await e.ask("GET", "/returns", guest=GUEST_0))[1] == "return/old/0"
        assert (await e.ask("GET", "/orders/7"))[1] == "order/old/0"
        upper = {"X-Customer-Id": GUEST_0.upper()}
        assert (await e.ask("GET", "/carts/7", headers=upper))[1] == "checkout/new/10"

    play(act)


def test_headers_and_bodies_pass_unchanged() -> None:
    async def act(e: Estate) -> None:
        headers = {"X-Guest-Token": GUEST_4999, "Idempotency-Key": "k", "X-Odd": "é"}
        url = e.urls[0] + "/carts/7/items"
        async with e.client.post(url, data=b'{"q": 1}', headers=headers) as answer:
            assert answer.headers["X-Own"] == "kept"
            assert answer.headers.getall("X-Served-By") == ["checkout/old/10"]
        method, target, seen, body = e.old.seen[-1]
        assert (method, target, body) == ("POST", "/carts/7/items", b'{"q": 1}')
        assert seen["idempotency-key"] == "k"
        assert seen["x-odd"] == "é"
        assert seen["x-guest-token"] == GUEST_4999

    play(act)


def test_no_client_says_who_goes_on_to_the_other_side() -> None:
    async def act(e: Estate) -> None:
        headers = {"X-Guest-Token": GUEST_4999, "X-Passed-On": "1"}
        async with e.client.post(e.urls[0] + "/carts", headers=headers) as answer:
            assert answer.status == 201
        assert "x-passed-on" not in e.old.seen[-1][2]

    play(act)


def test_what_cannot_be_placed_is_refused_before_any_upstream() -> None:
    async def act(e: Estate) -> None:
        both = {"X-Customer-Id": "a", "X-Guest-Token": "b"}
        assert (await e.ask("GET", "/carts/7"))[0] == 400
        assert (await e.ask("GET", "/carts/7", headers=both))[0] == 400
        assert (await e.ask("POST", "/carts/7/close", guest=GUEST_0))[0] == 404
        assert (await e.ask("POST", "/carts/7%2Fclose", guest=GUEST_0))[0] == 404
        assert (await e.ask("GET", "/elsewhere"))[0] == 404
        assert (await e.ask("POST", "/carts", guest=GUEST_0, data=b"x" * 1_100_000))[0] == 413
        assert not e.old.seen and not e.new.seen

    play(act)


def test_an_upstream_that_is_away_or_slow() -> None:
    async def act(e: Estate) -> None:
        e.old.hang_up = True
        assert (await e.ask("POST", "/carts", guest=GUEST_4999))[:2] == (502, "checkout/old/10")
        e.new.open.clear()
        assert (await e.ask("POST", "/carts", guest=GUEST_0))[:2] == (504, "checkout/new/10")

    play(act, patience=0.2)


def test_metrics_and_health() -> None:
    async def act(e: Estate) -> None:
        await e.ask("POST", "/carts", guest=GUEST_0)
        async with e.client.get(e.urls[0] + "/metrics") as answer:
            text = await answer.text()
        for line in (
            'gateway_requests_total{domain="checkout",side="new",status="201"} 1.0',
            'gateway_request_seconds_count{domain="checkout",side="new"} 1.0',
            'gateway_flag_percentage{domain="checkout"} 10.0',
            'gateway_flag_percentage{domain="return"} 0.0',
            'gateway_flag_epoch{domain="checkout"} 3.0',
            'gateway_held_requests_total{domain="checkout"} 0.0',
            'gateway_longest_hold_seconds{domain="checkout"} 0.0',
            'gateway_in_flight{domain="checkout",side="old"} 0.0',
        ):
            assert line in text.splitlines(), line
        assert (await e.ask("GET", "/health/live"))[0] == 200
        assert (await e.ask("GET", "/health/ready"))[2] == {"status": "ready"}

    play(act)


CUSTOMERS = r'gateway_customers\{domain="checkout",side="(old|new)"\} (.+)'


def test_customers_are_counted_once_until_the_flags_change() -> None:
    async def act(e: Estate) -> None:
        async def customers() -> tuple[str, str]:
            async with e.client.get(e.urls[0] + "/metrics") as answer:
                told = dict(re.findall(CUSTOMERS, await answer.text()))
            return told["old"], told["new"]

        for guest in (GUEST_0, GUEST_0, GUEST_0, GUEST_4999, GUEST_5000):
            await e.ask("POST", "/carts", guest=guest)
        assert await customers() == ("2.0", "1.0")
        wanted = {"enabled": True, "percentage": 50, "epoch": 4}
        await e.admin("PUT", "/flags/checkout", wanted)
        assert await customers() == ("0.0", "0.0")
        for guest in (GUEST_4999, GUEST_5000, GUEST_5000):
            await e.ask("POST", "/carts", guest=guest)
        assert await customers() == ("1.0", "1.0")

    play(act)


# The admin endpoint


def test_the_admin_endpoint_needs_its_token() -> None:
    async def act(e: Estate) -> None:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
            for method, path in (
                ("GET", "/admin/flags"),
                ("PUT", "/admin/flags/checkout"),
                ("POST", "/admin/fences/checkout"),
                ("GET", "/admin/fences/checkout"),
                ("DELETE", "/admin/fences/checkout?epoch=1"),
                ("POST", "/admin/rollback/checkout"),
            ):
                assert (await e.ask(method, path, headers=headers))[0] == 401, path

    play(act)


def test_flags_are_set_live_and_epochs_only_grow() -> None:
    async def act(e: Estate) -> None:
        status, seen = await e.admin("GET", "/flags")
        assert status == 200
        assert seen == {
            "instance": "gw-1",
            "domains": {
                "checkout": {"enabled": True, "percentage": 10, "epoch": 3},
                "return": {"enabled": False, "percentage": 50, "epoch": 1},
            },
        }
        wanted = {"enabled": True, "percentage": 50, "epoch": 4}
        status, seen = await e.admin("PUT", "/flags/checkout", wanted)
        assert (status, seen["domains"]["checkout"]) == (200, wanted)
        assert (await e.ask("POST", "/carts", guest=GUEST_4999))[1] == "checkout/new/50"
        assert (await e.ask("POST", "/carts", guest=GUEST_5000))[1] == "checkout/old/50"
        status, seen = await e.admin("PUT", "/flags/checkout", wanted | {"epoch": 3})
        assert status == 409 and "error" in seen
        assert (await e.admin("PUT", "/flags/nothing", wanted))[0] == 404

    play(act)


@pytest.mark.parametrize(
    ("document", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[" * 60_000, 400),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"enabled": "yes", "percentage": 10, "epoch": 4}', 422),
        (b'{"enabled": true, "percentage": 101, "epoch": 4}', 422),
        (b'{"enabled": true, "percentage": -1, "epoch": 4}', 422),
        (b'{"enabled": true, "percentage": 10.5, "epoch": 4}', 422),
        (b'{"enabled": true, "percentage": true, "epoch": 4}', 422),
        (b'{"enabled": true, "percentage": 10, "epoch": null}', 422),
        (b'{"enabled": true, "percentage": 10}', 422),
        (b" " * 70_000, 413),
    ],
)
def test_a_wrong_body_is_refused_with_a_reason(document: bytes, status: int) -> None:
    async def act(e: Estate) -> None:
        url = e.urls[0] + "/admin/flags/checkout"
        async with e.client.put(url, data=document, headers=ADMIN) as answer:
            assert answer.status == status
            assert (await answer.json())["error"]
        assert (await e.admin("GET", "/flags"))[1]["domains"]["checkout"]["percentage"] == 10

    play(act)


def test_a_wrong_fence_is_refused() -> None:
    async def act(e: Estate) -> None:
        right = {"epoch": 4, "low": 1000, "high": 5000, "lease_ms": 100, "holder": "test"}
        for wrong in (
            {"low": 5000},
            {"high": 10_001},
            {"low": -1},
            {"lease_ms": 0},
            {"lease_ms": 3_600_000},
            {"holder": ""},
        ):
            assert (await e.admin("POST", "/fences/checkout", right | wrong))[0] == 422, wrong
        assert (await e.admin("POST", "/fences/checkout", right | {"epoch": 3}))[0] == 409
        assert (await e.admin("GET", "/fences/checkout"))[0] == 404
        assert (await e.admin("DELETE", "/fences/checkout?epoch=4"))[0] == 404
        assert (await e.admin("DELETE", "/fences/checkout"))[0] == 422
        body = {"epoch": 4, "lease_ms": 100}
        assert (await e.admin("POST", "/fences/checkout/confirm", body))[0] == 409

    play(act)


# The fence


def test_a_step_holds_those_who_move_and_fails_nobody() -> None:
    async def act(e: Estate) -> None:
        fence = await e.fence()
        assert fence["state"] == "holding"
        assert fence["instance"] == "gw-1"
        assert 0 < fence["expires_in_ms"] <= 5000
        held = [e.spawn(e.ask("POST", "/carts", guest=GUEST_4999)) for _ in range(20)]
        await until(lambda: e.gateways[0].doors["checkout"].held_total == 20)
        assert (await e.ask("POST", "/carts", guest=GUEST_0))[1] == "checkout/new/10"
        assert (await e.ask("POST", "/carts", guest=GUEST_5000))[1] == "checkout/old/10"
        seen = await e.view()
        assert (seen["held"], seen["in_flight"]) == (20, 0)
        confirmed = {"epoch": 4, "lease_ms": 5000}
        assert (await e.admin("POST", "/fences/checkout/confirm", confirmed))[0] == 200
        wanted = {"epoch": 4, "enabled": True, "percentage": 50}
        status, switched = await e.admin("POST", "/fences/checkout/switch", wanted)
        assert status == 200
        assert switched["held_requests"] == 20
        assert switched["held_ms_max"] >= 1
        assert switched["percentage"] == 50 and switched["epoch"] == 4 and switched["enabled"]
        for answer in await asyncio.gather(*held):
            assert answer == (201, "checkout/new/50", {"side": "new"})
        again = await e.admin("POST", "/fences/checkout/switch", wanted)
        assert again == (200, switched)
        assert (await e.admin("GET", "/fences/checkout"))[0] == 404

    play(act)


def test_the_lease_ends_by_itself_when_its_holder_died() -> None:
    async def act(e: Estate) -> None:
        await e.fence(lease_ms=300)
        began = time.monotonic()
        assert await e.ask("POST", "/carts", guest=GUEST_4999) == (
            201,
            "checkout/old/10",
            {"side": "old"},
        )
        assert 0.2 < time.monotonic() - began < 3
        wanted = {"epoch": 4, "enabled": True, "percentage": 50}
        assert (await e.admin("POST", "/fences/checkout/switch", wanted))[0] == 409
        status, gone = await e.admin("DELETE", "/fences/checkout?epoch=4")
        assert (status, gone["how"], gone["held_requests"]) == (404, "expired", 1)
        assert (await e.admin("GET", "/flags"))[1]["domains"]["checkout"]["epoch"] == 3

    play(act)


def test_when_the_command_dies_between_two_gateways_the_second_follows_the_first() -> None:
    async def act(e: Estate) -> None:
        for number, url in enumerate(e.urls):
            peers = [peer for peer in e.urls if peer != url]
            body = {"epoch": 4, "low": 1000, "high": 5000, "lease_ms": 1500, "holder": "test"}
            path = "/fences/checkout"
            assert (await e.admin("POST", path, {**body, "peers": peers}, gateway=number))[0] == 200
        wanted = {"epoch": 4, "enabled": True, "percentage": 50}
        assert (await e.admin("POST", "/fences/checkout/switch", wanted, gateway=0))[0] == 200
        # Here it dies. Who is held at the other gateway must not go to the other side.
        answer = await e.ask("POST", "/carts", guest=GUEST_4999, gateway=1)
        assert answer == (201, "checkout/new/50", {"side": "new"})
        assert not e.old.seen

    play(act, gateways=2)


def test_released_unswitched() -> None:
    async def act(e: Estate) -> None:
        await e.fence()
        held = e.spawn(e.ask("POST", "/carts", guest=GUEST_4999))
        await until(lambda: e.gateways[0].doors["checkout"].held_total == 1)
        status, cost = await e.admin("DELETE", "/fences/checkout?epoch=4")
        assert (status, cost["held_requests"]) == (200, 1)
        assert (await held)[1] == "checkout/old/10"

    play(act)


def test_requests_under_way_are_waited_for() -> None:
    async def act(e: Estate) -> None:
        e.old.open.clear()
        before = e.spawn(e.ask("POST", "/carts", guest=GUEST_4999))
        await until(lambda: e.old.started == 1)
        assert (await e.fence())["in_flight"] == 1
        e.old.open.set()
        assert (await before)[0] == 201
        assert (await e.view())["in_flight"] == 0

    play(act)


@pytest.mark.parametrize("how", ["the client hung up", "the gateway gave up"])
def test_an_abandoned_request_counts_until_its_upstream_answered(how: str) -> None:
    async def act(e: Estate) -> None:
        e.old.open.clear()
        task = e.spawn(e.ask("POST", "/carts", guest=GUEST_4999))
        await until(lambda: e.old.started == 1)
        if how == "the client hung up":
            task.cancel()
            await asyncio.wait([task])
        else:
            assert (await task)[0] == 504
        await e.fence()
        await asyncio.sleep(0.1)
        assert (await e.view())["in_flight"] == 1
        assert e.old.ended == 0
        e.old.open.set()

        async def nobody() -> bool:
            return bool((await e.view())["in_flight"] == 0)

        await until(nobody)

    play(act, patience=5.0 if how == "the client hung up" else 0.1)


def test_two_gateways_have_fences_and_flags_of_their_own() -> None:
    async def act(e: Estate) -> None:
        await e.fence(gateway=0)
        held = e.spawn(e.ask("POST", "/carts", guest=GUEST_4999, gateway=0))
        assert (await e.ask("POST", "/carts", guest=GUEST_4999, gateway=1))[1] == "checkout/old/10"
        assert (await e.admin("GET", "/fences/checkout", gateway=1))[0] == 404
        await e.fence(gateway=1, lease_ms=1)
        wanted = {"epoch": 4, "enabled": True, "percentage": 50}

        async def gone() -> bool:
            return (await e.admin("GET", "/fences/checkout", gateway=1))[0] == 404

        await until(gone)
        assert (await e.admin("POST", "/fences/checkout/switch", wanted, gateway=1))[0] == 409
        assert (await e.admin("POST", "/fences/checkout/switch", wanted, gateway=0))[0] == 200
        assert (await held)[1] == "checkout/new/50"
        flags = (await e.admin("GET", "/flags", gateway=1))[1]["domains"]["checkout"]
        assert flags == {"enabled": True, "percentage": 10, "epoch": 3}

    play(act, gateways=2)


# Rollback


def test_a_rollback_serves_old_and_holds_the_returning_for_a_second_at_most() -> None:
    async def act(e: Estate) -> None:
        e.new.open.clear()
        under_way = e.spawn(e.ask("POST", "/carts", guest=GUEST_0))
        await until(lambda: e.new.started == 1)
        began = time.monotonic()
        body = {"epoch": 4, "percentage": 0, "hold_ms": 60_000}
        status, fence = await e.admin("POST", "/rollback/checkout", body)
        assert status == 200
        assert (fence["low"], fence["high"], fence["in_flight"]) == (0, 1000, 1)
        assert fence["expires_in_ms"] <= 1000
        flags = (await e.admin("GET", "/flags"))[1]["domains"]["checkout"]
        assert flags == {"enabled": True, "percentage": 0, "epoch": 4}
        assert (await e.admin("POST", "/rollback/checkout", body))[0] == 200
        # The new side is dead, as it were: nobody waits longer than the limit for it.
        assert await e.ask("POST", "/carts", guest=GUEST_0) == (
            201,
            "checkout/old/0",
            {"side": "old"},
        )
        assert 0.8 < time.monotonic() - began < 3
        e.new.open.set()
        assert (await under_way)[1] == "checkout/new/10"

    play(act)


def test_a_rollback_is_released_early_and_breaks_a_fence() -> None:
    async def act(e: Estate) -> None:
        await e.fence()
        of_the_step = e.spawn(e.ask("POST", "/carts", guest=GUEST_4999))
        await until(lambda: e.gateways[0].doors["checkout"].held_total == 1)
        body = {"epoch": 5, "percentage": 0, "hold_ms": 1000}
        assert (await e.admin("POST", "/rollback/checkout", body))[0] == 200
        assert (await of_the_step)[1] == "checkout/old/0"
        returning = e.spawn(e.ask("POST", "/carts", guest=GUEST_0))
        await until(lambda: e.gateways[0].doors["checkout"].held_total == 2)
        status, cost = await e.admin("DELETE", "/fences/checkout?epoch=5")
        assert (status, cost["held_requests"]) == (200, 1)
        assert (await returning)[1] == "checkout/old/0"
        wanted = {"epoch": 4, "enabled": True, "percentage": 50}
        assert (await e.admin("POST", "/fences/checkout/switch", wanted))[0] == 409
        higher = {"epoch": 6, "percentage": 20, "hold_ms": 1000}
        assert (await e.admin("POST", "/rollback/checkout", higher))[0] == 409
        older = {"epoch": 4, "percentage": 0, "hold_ms": 1000}
        assert (await e.admin("POST", "/rollback/checkout", older))[0] == 409

    play(act)


# Merging a guest's cart


def guest_cart(quantity: int = 2) -> dict[str, Any]:
    line = {"id": 7, "quantity": quantity, "total_price": "9.90"}
    return {"id": CART, "status": "active", "version": 3, "items": [line], "promotions": []}


def merging(guest: str, customer: str) -> dict[str, Any]:
    return {
        "headers": {"X-Guest-Token": guest, "X-Customer-Id": customer},
        "json": {"guest_cart_id": CART},
    }


def test_a_merge_on_one_side_closes_and_merges_there() -> None:
    async def act(e: Estate) -> None:
        e.old.carts[CART] = guest_cart()
        answer = await e.ask("POST", "/carts/mine/merge", **merging(GUEST_4999, GUEST_5000))
        assert answer == (201, "checkout/old/10", {"side": "old"})
        assert e.old.targets() == [f"POST /carts/{CART}/close", "POST /carts/mine/merge"]
        close, merge = e.old.seen
        assert "x-customer-id" not in close[2] and close[2]["x-guest-token"] == GUEST_4999
        assert merge[2]["x-customer-id"] == GUEST_5000
        assert json.loads(merge[3]) == {"guest_cart_id": CART}
        assert not e.new.seen

    play(act)


def test_a_merge_across_sides_waits_until_the_last_write_has_crossed() -> None:
    async def act(e: Estate) -> None:
        e.old.carts[CART] = guest_cart()
        e.new.carts[CART] = guest_cart()
        task = e.spawn(e.ask("POST", "/carts/mine/merge", **merging(GUEST_4999, GUEST_0)))
        await until(lambda: len(e.new.seen) >= 3)
        assert not any("merge" in target for target in e.new.targets())
        e.new.carts[CART] = dict(e.old.carts[CART])
        assert await task == (201, "checkout/new/10", {"side": "new"})
        assert e.old.targets() == [f"POST /carts/{CART}/close"]
        assert e.new.targets()[-1] == "POST /carts/mine/merge"
        door = e.gateways[0].doors["checkout"]
        assert door.in_flight("old") == door.in_flight("new") == 0

    play(act)


def test_a_merges_parts_are_passed_on_by_no_service() -> None:
    """One that passes on would refuse the close as anybody's, and the look across, too."""

    async def act(e: Estate) -> None:
        e.old.carts[CART] = guest_cart()
        e.new.carts[CART] = e.old.carts[CART]
        merge = merging(GUEST_4999, GUEST_0)
        assert (await e.ask("POST", "/carts/mine/merge", **merge))[0] == 201
        seen = [*e.old.seen, *e.new.seen]
        assert [method for method, *_ in seen] == ["POST", "GET", "POST"]
        assert all(headers["x-passed-on"] == "1" for _, _, headers, _ in seen)

    play(act)


def test_a_merge_waits_for_lines_that_come_after_the_version_they_belong_to() -> None:
    """Sync promises no order across keys: a line that waited is carried later than its cart."""

    async def act(e: Estate) -> None:
        e.old.carts[CART] = guest_cart(quantity=5)
        e.new.carts[CART] = {**guest_cart(quantity=2), "status": "completed", "version": 4}
        task = e.spawn(e.ask("POST", "/carts/mine/merge", **merging(GUEST_4999, GUEST_0)))
        await until(lambda: len(e.new.seen) >= 3)
        assert e.old.carts[CART]["version"] == e.new.carts[CART]["version"]
        assert not any("merge" in target for target in e.new.targets())
        e.new.carts[CART] = dict(e.old.carts[CART])
        assert await task == (201, "checkout/new/10", {"side": "new"})

    play(act)


def test_a_merge_whose_customer_is_brought_back_waits_behind_the_hold_and_runs_anew() -> None:
    """It must not follow on its own: what the new side acknowledged has not crossed yet."""

    async def act(e: Estate) -> None:
        e.old.carts[CART] = guest_cart()
        e.new.carts[CART] = guest_cart()
        task = e.spawn(e.ask("POST", "/carts/mine/merge", **merging(GUEST_4999, GUEST_0)))
        await until(lambda: len(e.new.seen) >= 3)
        door = e.gateways[0].doors["checkout"]
        body = {"epoch": 5, "percentage": 0, "hold_ms": 1000}
        hold = (await e.admin("POST", "/rollback/checkout", body))[1]
        assert (hold["state"], hold["in_flight"]) == ("holding", 1)
        await until(lambda: door.held_total == 1)
        assert (await e.view())["in_flight"] == 0
        assert not any(target.endswith("/merge") for target in e.old.targets() + e.new.targets())
        assert (await e.admin("DELETE", "/fences/checkout?epoch=5"))[0] == 200
        assert await task == (201, "checkout/old/0", {"side": "old"})
        assert e.old.targets()[-1] == "POST /carts/mine/merge"
        assert door.in_flight("old") == door.in_flight("new") == 0

    play(act)


def test_a_merge_that_does_not_cross_is_given_up_after_two_seconds() -> None:
    async def act(e: Estate) -> None:
        e.old.carts[CART] = guest_cart()
        began = time.monotonic()
        answer = await e.ask("POST", "/carts/mine/merge", **merging(GUEST_4999, GUEST_0))
        assert answer[0] == 504 and "cross" in answer[2]["error"]
        assert 1.9 < time.monotonic() - began < 4
        assert not any("merge" in target for target in e.new.targets())

    play(act)


def test_a_merge_is_held_by_a_fence_on_either_bucket_and_blocks_none() -> None:
    async def act(e: Estate) -> None:
        e.old.carts[CART] = guest_cart()
        await e.fence()
        tasks = [
            e.spawn(e.ask("POST", "/carts/mine/merge", **merging(GUEST_4999, GUEST_5000))),
            e.spawn(e.ask("POST", "/carts/mine/merge", **merging(GUEST_5000, GUEST_4999))),
        ]
        await until(lambda: e.gateways[0].doors["checkout"].held_total == 2)
        assert (await e.view())["in_flight"] == 0
        assert not e.old.seen
        assert (await e.admin("DELETE", "/fences/checkout?epoch=4"))[0] == 200
        assert [answer[0] for answer in await asyncio.gather(*tasks)] == [201, 201]

    play(act)


def test_a_merge_whose_guest_cart_is_refused_or_not_named() -> None:
    async def act(e: Estate) -> None:
        missing = merging(GUEST_4999, GUEST_5000)
        e.old.carts.clear()
        bodies: list[Any] = [{}, {"guest_cart_id": "../orders"}, [], {"guest_cart_id": None}]
        for body in bodies:
            answer = await e.ask("POST", "/carts/mine/merge", **(missing | {"json": body}))
            assert answer[0] == 400, body
        assert (await e.ask("POST", "/carts/mine/merge", guest=GUEST_0))[0] == 400
        assert not e.old.seen and not e.new.seen

    play(act)


# The process


def test_the_process_stops_gracefully_and_fails_nobody() -> None:
    async def act(e: Estate) -> None:
        port = free_port()
        environment = os.environ | {
            "PORT": str(port), "INSTANCE": "gw-9", "GATEWAY_ADMIN_TOKEN": TOKEN,
            "ORDER_URL": e.gateways[0].settings.order_url,
            "CHECKOUT_URL": e.gateways[0].settings.new_urls["checkout"],
            "RETURN_URL": e.gateways[0].settings.new_urls["return"],
            "USE_CHECKOUT_SERVICE": "true", "CHECKOUT_TRAFFIC_PERCENTAGE": "10",
        }  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.gateway", cwd=ROOT, env=environment
        )
        try:
            e.urls[0] = f"http://127.0.0.1:{port}"

            async def ready() -> bool:
                try:
                    return (await e.ask("GET", "/health/ready"))[0] == 200
                except aiohttp.ClientError:
                    return False

            await until(ready)
            assert (await e.ask("POST", "/carts", guest=GUEST_0))[1] == "checkout/new/10"
            await e.fence()
            e.old.open.clear()
            held = e.spawn(e.ask("POST", "/carts", guest=GUEST_4999))

            async def holding() -> bool:
                return bool((await e.view())["held"] == 1)

            await until(holding)
            process.send_signal(signal.SIGTERM)
            await until(lambda: e.old.started == 1)  # released unswitched, long before the lease
            e.old.open.set()
            assert (await held)[:2] == (201, "checkout/old/10")
            assert await asyncio.wait_for(process.wait(), 10) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    play(act)


def test_the_process_says_what_is_missing() -> None:
    async def scene() -> tuple[int | None, bytes]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.gateway", cwd=ROOT,
            env={"PATH": os.environ["PATH"], "PORT": "1"}, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, errors = await process.communicate()
        return process.returncode, errors

    code, errors = asyncio.run(scene())
    assert code == 2
    assert b"GATEWAY_ADMIN_TOKEN" in errors and b"Traceback" not in errors
