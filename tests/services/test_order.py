"""Orders, and what all services share: transactions, faults, health, metrics, start and end."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import psycopg_pool
import pytest

from rehearsal.postgres import free_port
from services.problems import Conflict
from services.web import Answer, Call, Connection, Database, Service, Settings, unconnected
from tests.services.conftest import ROOT, Json, Shop, Side
from tests.services.test_checkout import CARD, new_cart, ready_checkout

Spelling = Callable[[uuid.UUID], str]


def placed(customer_id: str, checkout_id: str) -> Json:
    line = {
        "product_id": str(uuid.uuid4()),
        "product_sku": "SKU-1",
        "product_name": "Lamp",
        "quantity": 2,
        "unit_price": "3.00",
        "total_price": "6.00",
    }
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, checkout_id)),
        "order_number": f"ORD-{checkout_id}",
        "customer_id": customer_id,
        "status": "confirmed",
        "currency": "EUR",
        "subtotal": "6.00",
        "tax_amount": "0.48",
        "shipping_amount": "0.00",
        "discount_amount": "0.00",
        "total_amount": "6.48",
        "payment_id": "p-1",
        "payment_method": "card",
        "payment_status": "captured",
        "shipping_address": {"name": "Ada"},
        "billing_address": None,
        "checkout_id": checkout_id,
        "cart_id": None,
        "items": [line],
    }


@pytest.mark.parametrize(
    "spelled",
    [str, lambda key: str(key).upper(), lambda _: "guest-17"],
    ids=["lower", "upper", "guest"],
)
def test_an_order_is_placed_once(both_sides: dict[str, Side], spelled: Spelling) -> None:
    side, checkout_id = both_sides["old"], str(uuid.uuid4())
    customer_id = spelled(uuid.uuid4())
    who = {"X-Customer-Id": customer_id}
    order = side.ok("POST", "/orders", {}, placed(customer_id, checkout_id), 201)
    assert side.ok("POST", "/orders", {}, placed(customer_id, checkout_id), 201) == order
    assert order["customer_id"] == customer_id.lower()
    assert side.ok("GET", f"/orders/{order['id']}", who) == order
    assert side.ok("GET", f"/orders/{order['id']}", {}) == order
    listed = side.ok("GET", f"/orders?customer_id={customer_id}", who)["orders"]
    assert order["id"] in [each["id"] for each in listed]
    stranger = {"X-Customer-Id": str(uuid.uuid4())}
    missing = {"status": 404, "error": "order_not_found"}
    side.refused("GET", f"/orders/{order['id']}", stranger, **missing)
    side.refused("POST", f"/orders/{order['id']}/deliver", stranger, {}, **missing)
    missing = {"status": 404, "error": "customer_not_found"}
    side.refused("GET", f"/orders?customer_id={customer_id}", stranger, **missing)


def test_what_is_no_order(both_sides: dict[str, Side]) -> None:
    good = placed("guest-17", str(uuid.uuid4()))
    without = {name: value for name, value in good.items() if name != "items"}
    for bad in ({}, without, {**good, "checkout_id": None}, {**good, "subtotal": "much"}):
        both_sides["old"].refused("POST", "/orders", {}, bad, status=400, error="bad_order")


def test_an_old_cart_with_all_its_oddities(both_sides: dict[str, Side]) -> None:
    """Promotions nobody knows are kept and not shown; a write touches only what it changes."""
    side, cart_id, who = both_sides["old"], uuid.uuid4(), {"X-Customer-Id": "GUEST-17"}
    metadata = """{"promotions": [{"code": "SAVE10", "type": "percentage", "discount_amount": 1.50,
        "campaign": "x"}, "what?", null, {"code": "SAVE10", "discount_amount": "1.5"},
        {"code": "OLD", "type": 7, "discount_amount": "much"}], "utm": {"score": 1.10}}"""
    side.shop.sql(
        "order",
        "INSERT INTO cart_sessions (id, session_id, customer_id, metadata)"
        " VALUES (%s, %s, 'guest-17', %s)",
        [cart_id, str(cart_id), metadata],
    )
    found = side.ok("GET", f"/carts/{cart_id}", who)
    assert found["promotions"] == [
        {"code": "SAVE10", "type": "percentage", "discount_amount": "1.50"},
        {"code": "SAVE10", "type": None, "discount_amount": "1.50"},
        {"code": "OLD", "type": None, "discount_amount": "0.00"},
    ]
    path = f"/carts/{cart_id}/promotions"
    found = side.ok("POST", path, who, {"code": "SAVE10", "remove": True})
    assert [each["code"] for each in found["promotions"]] == ["OLD"]
    side.ok("POST", path, who, {"code": "WELCOME"})
    query = "SELECT metadata::text FROM cart_sessions WHERE id = %s"
    assert side.shop.sql("order", query, [cart_id])[0][0] == (
        '{"utm": {"score": 1.10}, "promotions": ["what?", null,'
        ' {"code": "OLD", "type": 7, "discount_amount": "much"},'
        ' {"code": "WELCOME", "type": "fixed", "discount_amount": 0.00}]}'
    )


def test_a_failed_transaction_leaves_nothing(shop: Shop) -> None:
    async def run() -> None:
        database = Database(shop.dsns["order"], "test")
        await database.open()
        mark = str(uuid.uuid4())
        insert = "INSERT INTO outbox (event_id, event_type, subject) VALUES (%s, 'x', %s)"
        event = uuid.uuid4()

        async def twice(connection: Connection) -> None:
            await connection.execute(insert, (event, mark))
            await connection.execute(insert, (event, mark))

        async def refuse(connection: Connection) -> None:
            await connection.execute(insert, (event, mark))
            raise Conflict("no", "not now")

        async def read(connection: Connection) -> Any:
            query = "SELECT count(*) FROM outbox WHERE subject = %s"
            return await (await connection.execute(query, (mark,))).fetchone()

        async def once(connection: Connection) -> None:
            await connection.execute(insert, (event, mark))

        with pytest.raises(psycopg.errors.UniqueViolation):
            await database.transact(twice)
        with pytest.raises(Conflict):
            await database.transact(refuse)
        assert await database.transact(read) == (0,)
        await database.transact(once)
        assert await database.transact(read) == (1,)
        await database.close()

    asyncio.run(run())


def test_a_deadlock_is_tried_again(shop: Shop) -> None:
    async def run() -> None:
        database = Database(shop.dsns["order"], "test")
        await database.open()
        met = asyncio.Barrier(2)
        tries: list[str] = []

        async def lock(first: int, second: int) -> None:
            async def work(connection: Connection) -> None:
                tries.append(f"{first}{second}")
                await (
                    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (first,))
                ).fetchone()
                if len(tries) <= 2:
                    await met.wait()
                await (
                    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (second,))
                ).fetchone()

            await database.transact(work)

        await asyncio.gather(lock(1, 2), lock(2, 1))
        assert len(tries) == 3
        await database.close()

    asyncio.run(run())


def test_faults_that_were_asked_for(side: Side, customer: Json) -> None:
    """They strike writes only, before anything is done."""
    cart = new_cart(side, customer, SKU_1=1)
    base = side.url("/carts").removesuffix("/carts")
    fault = httpx.post(f"{base}/admin/fault", json={"rate": 1})
    assert fault.json() == {"rate": 1.0, "delay_ms": 0}
    try:
        answer = side.call("DELETE", f"/carts/{cart['id']}/items", customer)
        assert (answer.status_code, answer.json()["error"]) == (500, "fault")
        assert side.ok("GET", f"/carts/{cart['id']}", customer) == cart
    finally:
        httpx.post(f"{base}/admin/fault", json={"rate": 0})
    side.ok("DELETE", f"/carts/{cart['id']}/items", customer)
    assert httpx.post(f"{base}/admin/fault", json={"rate": 2}).status_code == 422
    late = {"rate": 0, "delay_ms": -1}
    assert httpx.post(f"{base}/admin/fault", json=late).status_code == 422


def test_health_and_metrics(shop: Shop, both_sides: dict[str, Side], customer: Json) -> None:
    new_cart(both_sides["new"], customer)
    for name, url in shop.urls.items():
        assert httpx.get(f"{url}/health/live").json() == {"status": "ok", "service": name}
        assert httpx.get(f"{url}/health/ready").status_code == 200
    text = httpx.get(f"{shop.urls['checkout']}/metrics").text
    line = 'service_requests_total{method="CreateCart",service="checkout",status="201"}'
    assert line in text
    assert 'service_request_seconds_bucket{le="0.1",method="CreateCart"' in text
    missing = httpx.get(f"{shop.urls['checkout']}/nothing")
    assert (missing.status_code, missing.json()["error"]) == (404, "not_found")


def test_a_database_that_is_away_is_counted() -> None:
    """An alert is made of it; a probe counts too, so that it is seen without customers."""
    service = Service(Settings("shop", database_url="host=127.0.0.1 port=1"))

    async def answer(_: Call) -> Answer:
        raise psycopg.OperationalError("connection refused")

    service.add("GET", "/things", "ListThings", answer)

    async def ask() -> str:
        transport = httpx.ASGITransport(service.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            line = 'database_connection_failures_total{service="shop"} 0.0'
            assert line in (await client.get("/metrics")).text, "the first one must be seen to come"
            assert (await client.get("/health/ready")).status_code == 503
            assert (await client.get("/things")).status_code == 503
            return (await client.get("/metrics")).text

    assert 'database_connection_failures_total{service="shop"} 2.0' in asyncio.run(ask())


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (psycopg.OperationalError("no route to host"), True),
        (psycopg_pool.PoolTimeout("nobody came"), True),
        (psycopg.errors.AdminShutdown("bye"), True),
        (psycopg.errors.TooManyConnections("full"), True),
        (psycopg.errors.DeadlockDetected("again"), False),
        (psycopg.errors.LockNotAvailable("busy"), False),
        (psycopg.errors.UniqueViolation("twice"), False),
    ],
)
def test_only_a_database_that_is_away_counts_as_that(error: Exception, counts: bool) -> None:
    assert unconnected(error) is counts


@pytest.mark.parametrize("name", ["order", "checkout", "returns"])
def test_a_service_as_a_process(shop: Shop, name: str) -> None:
    """It starts from its environment, shows its name in the database, and ends when told."""
    key = {"returns": "return"}.get(name, name)
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "PORT": str(port),
        "DATABASE_URL": shop.dsns[key],
        "PARTNERS_URL": shop.urls["partners"],
        "ORDER_URL": shop.urls["order"],
        "SERVICE_FAULT_RATE": "1",
    }
    command = [sys.executable, "-m", f"services.{name}"]
    process = subprocess.Popen(
        command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    base = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 30
        while not _ready(base):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
        assert shop.sql(key, query, [f"{key}-service"])[0][0] >= 1
        path = "/returns" if key == "return" else "/carts"
        answer = httpx.post(f"{base}{path}", json={}, headers={"X-Customer-Id": "guest-17"})
        assert (answer.status_code, answer.json()["error"]) == (500, "fault")
        assert httpx.post(f"{base}/admin/fault", json={"rate": 0}).status_code == 404
        process.send_signal(signal.SIGTERM)
        _, words = process.communicate(timeout=15)
        assert process.returncode in (0, -signal.SIGTERM)
        assert "Traceback" not in words
    finally:
        process.kill()
        process.wait()


def test_an_environment_that_is_wrong(tmp_path: Any) -> None:
    base = {"PATH": os.environ["PATH"]}
    for wrong, word in (
        ({}, "DATABASE_URL"),
        ({"DATABASE_URL": "x", "PORT": "http"}, "PORT"),
        ({"DATABASE_URL": "x", "SERVICE_FAULT_RATE": "5"}, "SERVICE_FAULT_RATE"),
    ):
        command = [sys.executable, "-m", "services.checkout"]
        done = subprocess.run(
            command, env={**base, **wrong}, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert word in done.stderr
        assert "Traceback" not in done.stderr


def test_an_order_is_seen_by_its_customer_only(side: Side, customer: Json) -> None:
    at = ready_checkout(side, customer, new_cart(side, customer, SKU_1=1))
    order_id = side.ok("POST", f"{at}/confirm", customer, CARD)["order_id"]
    assert side.ok("GET", f"/orders/{order_id}", customer)["status"] == "confirmed"
    stranger = {"X-Guest-Token": "somebody"}
    missing = {"status": 404, "error": "order_not_found"}
    side.refused("GET", f"/orders/{order_id}", stranger, **missing)


def _ready(base: str) -> bool:
    try:
        return httpx.get(f"{base}/health/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
