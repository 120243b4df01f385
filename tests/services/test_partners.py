"""The partners' interface."""

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest

from services.partners.app import Partners
from services.partners.goods import PROMOTIONS, Catalog, price, product_id


class Client:
    """Asks the application without a network."""

    def __init__(self, runner: asyncio.Runner, catalog: Catalog) -> None:
        self._runner = runner
        self._transport = httpx.ASGITransport(Partners(catalog).app())

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def asked() -> httpx.Response:
            client = httpx.AsyncClient(transport=self._transport, base_url="http://partners")
            async with client:
                return await client.request(method, path, **more)

        return self._runner.run(asked())

    def get(self, path: str) -> httpx.Response:
        return self.ask("GET", path)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog()


@pytest.fixture
def partners(catalog: Catalog) -> Iterator[Client]:
    with asyncio.Runner() as runner:
        yield Client(runner, catalog)


def post(client: Client, path: str, body: Any, key: str | None = None) -> tuple[int, Any]:
    headers = {"Idempotency-Key": key} if key else {}
    answer = client.ask("POST", path, json=body, headers=headers)
    return answer.status_code, answer.json()


def test_products_are_always_the_same(partners: Client) -> None:
    found = partners.get("/catalog/products/SKU-77").json()
    assert found["product_id"] == str(product_id("SKU-77"))
    assert found["price"] == str(price("SKU-77"))
    assert partners.get(f"/catalog/products/{found['product_id'].upper()}").json() == found
    assert partners.get("/pricing/products/SKU-77").json()["price"] == found["price"]
    assert Decimal("1.00") <= price("SKU-99999") <= Decimal("250.99")
    for unknown in ("SKU-100000", "SKU-07", "sku-7", "x", str(product_id("SKU-100000"))):
        assert partners.get(f"/catalog/products/{unknown}").status_code == 404, unknown


def test_promotions(partners: Client) -> None:
    def taken(code: str, subtotal: Any) -> Any:
        return post(partners, "/promotions/validate", {"code": code, "subtotal": subtotal})

    assert taken("SAVE10", "99.95") == (
        200,
        {"code": "SAVE10", "type": "percentage", "discount_amount": "10.00"},
    )
    assert taken("save5", 20)[1]["discount_amount"] == "1.00"
    assert taken("WELCOME", "3.00")[1]["discount_amount"] == "3.00"
    assert taken("FREESHIP", "3.00")[1]["discount_amount"] == "0.00"
    assert taken("NOPE", "3.00")[0] == 404
    for wrong in ("-1", "much", None, True, "NaN", "1e30"):
        assert taken("SAVE10", wrong)[0] == 422, wrong
    assert {"SAVE5", "SAVE10", "FREESHIP", "WELCOME"} <= set(PROMOTIONS)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/payments/charge", {"amount": "12.50", "currency": "EUR", "method": "card"}),
        ("/payments/refund", {"amount": "2.50", "payment_id": "p-1"}),
        ("/warehouse/reserve", {"sku": "SKU-1", "quantity": 2}),
        ("/warehouse/release", {"reservation_id": "r-1"}),
        ("/warehouse/restock", {"sku": "SKU-1", "quantity": 2}),
    ],
)
def test_a_key_acts_once(partners: Client, path: str, body: dict[str, Any]) -> None:
    assert post(partners, path, body)[0] == 400
    status, first = post(partners, path, body, "k1")
    assert status == 200
    assert post(partners, path, body, "k1") == (200, first)
    assert post(partners, path, body | {"amount": "1.00"}, "k1")[0] == 409
    assert post(partners, path, body, "k2")[0] == 200
    summary = partners.get("/payments/summary").json()
    operation = path.rsplit("/", 1)[1]
    assert summary["acted"][operation] == 2
    assert summary["duplicates"][operation] == 1
    assert summary["keys_reused"][operation] == 1


def test_payments_add_up(partners: Client) -> None:
    charge = {"amount": "12.50", "currency": "EUR", "method": "card"}
    _, paid = post(partners, "/payments/charge", charge, "c")
    refund = {"amount": "12.50", "payment_id": paid["payment_id"]}
    post(partners, "/payments/refund", refund, "r1")
    assert partners.get("/payments/summary").json()["refunds_over_charge"] == 0
    post(partners, "/payments/refund", refund, "r2")
    summary = partners.get("/payments/summary").json()
    assert summary["refunds_over_charge"] == 1
    assert (summary["charges"], summary["charged_amount"]) == (1, "12.50")
    assert (summary["refunds"], summary["refunded_amount"]) == (2, "25.00")
    declined = charge | {"method": "declined-card"}
    assert post(partners, "/payments/charge", declined, "d")[0] == 402


def test_faults_on_demand(partners: Client) -> None:
    charge = {"amount": "12.50", "currency": "EUR", "method": "card"}
    fault = {"path_prefix": "/payments", "rate": 1, "status": 503}
    assert post(partners, "/admin/faults", fault)[0] == 200
    assert post(partners, "/payments/charge", charge, "k")[0] == 503
    assert partners.get("/catalog/products/SKU-1").status_code == 200
    lost = fault | {"path_prefix": "/payments/charge", "when": "after"}
    assert post(partners, "/admin/faults", lost)[0] == 200
    assert post(partners, "/payments/charge", charge, "k")[0] == 503
    assert partners.ask("DELETE", "/admin/faults").status_code == 200
    assert post(partners, "/payments/charge", charge, "k")[0] == 200
    summary = partners.get("/payments/summary").json()
    assert (summary["charges"], summary["duplicates"]["charge"]) == (1, 1)
    wrongs: list[Any] = [{"rate": 2}, {"status": 200}, {"delay_ms": -1}, {"path_prefix": "x"}, []]
    for wrong in wrongs:
        assert post(partners, "/admin/faults", wrong)[0] in (400, 422)


def test_the_rest_answers(partners: Client) -> None:
    methods = partners.get("/shipping/methods").json()
    assert all(set(method) == {"id", "name", "cost"} for method in methods)
    assert partners.get(f"/shipping/methods/{methods[0]['id']}").json() == methods[0]
    assert partners.get("/shipping/methods/rocket").status_code == 404
    assert partners.get("/customers/guest-17").json()["customer_id"] == "guest-17"
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert partners.get(path).status_code == 200
    assert partners.ask("POST", "/payments/charge", content=b"{").status_code == 400
    text = partners.get("/metrics").text
    assert 'partner_requests_total{partner="customers",status="200"} 1.0' in text
