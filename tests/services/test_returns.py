"""Returns, on both sides: what may come back, what is refunded, and what goes wrong."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.services.conftest import Json, Side
from tests.services.test_checkout import CARD, new_cart, ready_checkout


def bought(side: Side, who: Json, *, code: str | None = None, **skus: int) -> Json:
    """A delivered order."""
    cart = new_cart(side, who, **skus)
    if code is not None:
        side.ok("POST", f"/carts/{cart['id']}/promotions", who, {"code": code})
    at = ready_checkout(side, who, cart)
    order_id = side.ok("POST", f"{at}/confirm", who, CARD)["order_id"]
    return side.ok("POST", f"/orders/{order_id}/deliver", who, {})


def wanted(order: Json, *quantities: int, kind: str = "refund") -> Json:
    lines = zip(order["items"], quantities, strict=False)
    items = [{"order_item_id": line["id"], "quantity": n, "reason": "r"} for line, n in lines]
    return {"order_id": order["id"], "return_type": kind, "reason": "too big", "items": items}


def received(side: Side, who: Json, made: Json, body: Any = None) -> Json:
    side.ok("POST", f"/returns/{made['id']}/approve", who, {})
    return side.ok("POST", f"/returns/{made['id']}/receive", who, body or {})


def test_only_a_delivered_order_of_ones_own(side: Side, customer: Json) -> None:
    at = ready_checkout(side, customer, new_cart(side, customer, SKU_1=1))
    order_id = side.ok("POST", f"{at}/confirm", customer, CARD)["order_id"]
    order = side.ok("GET", f"/orders/{order_id}", customer)
    early = {"status": 409, "error": "order_not_delivered"}
    side.refused("POST", "/returns", customer, wanted(order, 1), **early)
    side.ok("POST", f"/orders/{order_id}/deliver", customer, {})
    side.ok("POST", f"/orders/{order_id}/deliver", customer, {})
    stranger = {"X-Customer-Id": str(uuid.uuid4())}
    missing = {"status": 404, "error": "order_not_found"}
    side.refused("POST", "/returns", stranger, wanted(order, 1), **missing)
    made = side.ok("POST", "/returns", customer, wanted(order, 1), 201)
    missing = {"status": 404, "error": "return_not_found"}
    side.refused("GET", f"/returns/{made['id']}", stranger, **missing)
    side.refused("POST", f"/returns/{made['id']}/approve", stranger, {}, **missing)
    assert side.ok("GET", "/returns", stranger) == {"returns": []}
    assert side.shop.sql(
        "order",
        "SELECT count(*) FROM outbox WHERE subject = %s AND event_type = 'order.delivered'",
        [order_id],
    ) == [(1,)]


def test_no_more_comes_back_than_was_bought(side: Side, customer: Json) -> None:
    order = bought(side, customer, SKU_1=3)
    too_many = {"status": 422, "error": "too_many"}
    side.refused("POST", "/returns", customer, wanted(order, 4), **too_many)
    first = side.ok("POST", "/returns", customer, wanted(order, 2), 201)
    side.refused("POST", "/returns", customer, wanted(order, 2), **too_many)
    side.ok("POST", f"/returns/{first['id']}/reject", customer, {"note": "worn"})
    body = wanted(order, 2)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: side.call("POST", "/returns", customer, body), range(4)))
    assert sorted(answer.status_code for answer in answers) == [201, 422, 422, 422]
    twice = wanted(order, 1)
    twice["items"] *= 2
    side.refused("POST", "/returns", customer, twice, **too_many)
    strange = wanted(order, 1)
    strange["items"][0]["order_item_id"] += 100_000
    side.refused("POST", "/returns", customer, strange, status=422, error="not_in_order")


def test_never_more_is_refunded_than_was_paid(side: Side, customer: Json) -> None:
    order = bought(side, customer, code="SUMMER15", SKU_1=3, SKU_2=1, SKU_3=7)
    paid = Decimal(order["total_amount"]) - Decimal(order["shipping_amount"])
    given = Decimal(0)
    for quantities in ((1, 0, 0), (2, 1, 3), (0, 0, 4)):
        body = wanted(order, *quantities)
        body["items"] = [item for item in body["items"] if item["quantity"]]
        made = side.ok("POST", "/returns", customer, body, 201)
        received(side, customer, made)
        done = side.ok("POST", f"/returns/{made['id']}/refund", customer, {})
        given += Decimal(done["refund"]["amount"])
    assert paid - Decimal("0.10") <= given <= Decimal(order["total_amount"])
    assert side.shop.payments()["refunds_over_charge"] == 0


def test_less_arrived_less_is_refunded(side: Side, customer: Json) -> None:
    order = bought(side, customer, SKU_1=4)
    made = side.ok("POST", "/returns", customer, wanted(order, 4), 201)
    item = made["items"][0]["id"]
    body = {"items": [{"item_id": item, "quantity_received": 1, "condition": "damaged"}]}
    before = side.shop.payments()
    found = received(side, customer, made, body)
    assert Decimal(found["total_refund_amount"]) < Decimal(made["total_refund_amount"]) / 3
    done = side.ok("POST", f"/returns/{made['id']}/refund", customer, {})
    assert done["items"][0]["condition"] == "damaged"
    assert done["items"][0]["restocked"] is False
    assert side.shop.payments()["acted"]["restock"] == before["acted"]["restock"]


def test_a_double_click_refunds_once(side: Side, customer: Json) -> None:
    made = side.ok("POST", "/returns", customer, wanted(bought(side, customer, SKU_1=1), 1), 201)
    received(side, customer, made)
    before = side.shop.payments()
    path = f"/returns/{made['id']}/refund"
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: side.ok("POST", path, customer, {}), range(4)))
    assert all(answer == answers[0] for answer in answers)
    assert side.ok("POST", path, customer, {}) == answers[0]
    after = side.shop.payments()
    assert after["refunds"] - before["refunds"] == 1
    assert after["acted"]["restock"] - before["acted"]["restock"] == 1
    assert len(answers[0]["history"]) == 4


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_refund_whose_answer_was_lost_is_not_sent_twice(
    side: Side, customer: Json, when: str
) -> None:
    made = side.ok("POST", "/returns", customer, wanted(bought(side, customer, SKU_1=1), 1), 201)
    received(side, customer, made)
    before = side.shop.payments()
    faults = f"{side.shop.urls['partners']}/admin/faults"
    fault = {"path_prefix": "/payments/refund", "rate": 1, "status": 500, "when": when}
    assert httpx.post(faults, json=fault).status_code == 200
    path = f"/returns/{made['id']}"
    try:
        lost = {"status": 503, "error": "partner_unavailable"}
        side.refused("POST", f"{path}/refund", customer, {}, **lost)
    finally:
        httpx.delete(faults)
    pending = side.ok("GET", path, customer)
    assert (pending["status"], pending["refund"]["status"]) == ("items_received", "pending")
    done = side.ok("POST", f"{path}/refund", customer, {})
    assert done["refund"]["status"] == "completed"
    assert side.shop.payments()["refunds"] - before["refunds"] == 1


@pytest.mark.parametrize("kind", ["exchange", "store_credit"])
def test_an_exchange_sends_no_money(side: Side, customer: Json, kind: str) -> None:
    body = wanted(bought(side, customer, SKU_1=1), 1, kind=kind)
    made = side.ok("POST", "/returns", customer, body, 201)
    received(side, customer, made)
    before = side.shop.payments()
    done = side.ok("POST", f"/returns/{made['id']}/refund", customer, {})
    assert (done["status"], done["refund"]["method"]) == ("completed", kind)
    assert side.shop.payments()["refunds"] == before["refunds"]


def test_a_return_goes_its_way_and_no_other(side: Side, customer: Json) -> None:
    order = bought(side, customer, SKU_1=3)
    made = side.ok("POST", "/returns", customer, wanted(order, 1), 201)
    at = f"/returns/{made['id']}"
    wrong = {"status": 409, "error": "wrong_status"}
    for act in ("receive", "refund"):
        side.refused("POST", f"{at}/{act}", customer, {}, **wrong)
    side.ok("POST", f"{at}/approve", customer, {})
    for act in ("approve", "reject", "review", "refund"):
        side.refused("POST", f"{at}/{act}", customer, {}, **wrong)
    found = side.ok("POST", f"{at}/cancel", customer, {"note": "keep it"})
    for act in ("approve", "reject", "review", "receive", "refund", "cancel"):
        side.refused("POST", f"{at}/{act}", customer, {}, **wrong)
    assert [(each["status"], each["by"], each["note"]) for each in found["history"]] == [
        ("requested", "customer", None),
        ("approved", "agent", None),
        ("cancelled", "customer", "keep it"),
    ]
    assert side.ok("GET", at, customer) == found
    assert side.ok("GET", "/returns", customer) == {"returns": [found]}


def test_bad_input(side: Side, customer: Json) -> None:
    order = bought(side, customer, SKU_1=1)
    good = wanted(order, 1)
    tries: list[tuple[Json, int, str]] = [
        ({**good, "return_type": "gift"}, 422, "bad_return_type"),
        ({**good, "items": []}, 422, "bad_count"),
        ({**good, "items": "all"}, 400, "bad_field"),
        ({**good, "items": [{"order_item_id": "x", "quantity": 1}]}, 400, "bad_field"),
        ({**good, "order_id": "17"}, 400, "bad_id"),
        ({**good, "reason": ""}, 400, "missing_field"),
    ]
    for body, status, error in tries:
        side.refused("POST", "/returns", customer, body, status=status, error=error)
    made = side.ok("POST", "/returns", customer, good, 201)
    side.ok("POST", f"/returns/{made['id']}/approve", customer, {})
    item = made["items"][0]["id"]
    for body, error in (
        ({"items": [{"item_id": item, "quantity_received": 2}]}, "bad_quantity"),
        ({"items": [{"item_id": item + 100_000, "quantity_received": 1}]}, "not_in_return"),
        ({"items": [{"item_id": item, "quantity_received": 1, "condition": "?"}]}, "bad_condition"),
    ):
        path = f"/returns/{made['id']}/receive"
        side.refused("POST", path, customer, body, status=422, error=error)
    assert side.ok("GET", f"/returns/{made['id']}", customer)["status"] == "approved"
