"""What services and gateways say to each other, and whose failure it is, without a database."""

import asyncio
from collections.abc import Iterable
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from services import owner
from services.gateway.proxy import (
    Answer,
    Header,
    Patience,
    UpstreamDown,
    UpstreamUnreached,
)
from services.gateway.sides import Sides
from services.passing import Here, InFront

WHO = {"x-customer-id": "5317c71e-0000-4000-8000-000000000000"}


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT", "DELETE", "HEAD"])
def test_whoever_forges_a_look_across_writes_nothing_to_whom_the_side_does_not_own(
    method: str,
) -> None:
    forged = WHO | {owner.CROSSING: "1", owner.PASSED_ON: "1"}
    served = owner.Customer("checkout", WHO["x-customer-id"])
    assert owner.customer_of(method, "/carts/7/items", forged) == served
    assert owner.customer_of("GET", "/carts/7", forged) is None


class Failing:
    """The other side, which does not answer in one way or another."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    async def call(
        self, method: str, target: str, headers: Iterable[Header], body: bytes
    ) -> Answer:
        if self._error is None:
            await asyncio.Event().wait()
        assert self._error is not None
        raise self._error


async def refusing(_: Scope, __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 421, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    ("error", "status"),
    [(UpstreamDown("hung up"), 502), (UpstreamUnreached("away"), 502), (None, 504)],
)
def test_a_failure_is_counted_on_the_side_that_failed(
    error: Exception | None, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the new side's errors would be the old side's, and nobody would be brought back."""
    monkeypatch.setattr("services.gateway.sides.COMING_SECONDS", -1.0)
    front = InFront(refusing, "order", "old", {"checkout": "http://127.0.0.1:9"})

    async def scene() -> tuple[Any, str]:
        await front.start()
        monkeypatch.setattr(front, "_patience", Patience(0.05))
        sides = Sides({"old": Here(refusing, "old"), "new": Failing(error)}, refusing=True)
        monkeypatch.setattr(front, "_sides", {"checkout": sides})
        transport = httpx.ASGITransport(front)
        async with httpx.AsyncClient(transport=transport, base_url="http://order") as client:
            answer = await client.post("/carts", headers=WHO)
        return answer, front.metrics.text().decode()

    answer, page = asyncio.run(scene())
    assert answer.status_code == status
    assert answer.headers["x-served-by"].startswith("checkout/new/")
    assert answer.json()["error"].startswith("checkout new: ")
    counted = 'gateway_requests_total{{domain="checkout",side="{}",status="{}"}} 1.0'
    assert counted.format("new", status) in page
    assert counted.format("old", status) not in page
