"""Carts and checkouts, on both sides: merges, promotions, double clicks, and what goes wrong."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import httpx
import pytest

from services import rules
from services.problems import Conflict
from tests.services.conftest import Json, Side

ADDRESS = {"name": "Ada", "line1": "Main St 1", "city": "Oslo", "postal_code": "1", "country": "NO"}
CARD = {"payment_method_id": "card-4242"}


def new_cart(side: Side, who: Json, **skus: int) -> Json:
    cart = side.ok("POST", "/carts", who, {}, 201)
    for sku, quantity in skus.items():
        body = {"product_sku": sku.replace("_", "-"), "quantity": quantity}
        cart = side.ok("POST", f"/carts/{cart['id']}/items", who, body, 201)
    return cart


def ready_checkout(side: Side, who: Json, cart: Json) -> str:
    """A checkout that only waits to be confirmed; its path."""
    checkout = side.ok("POST", "/checkouts", who, {"cart_id": cart["id"]}, 201)
    at = f"/checkouts/{checkout['id']}"
    side.ok("PUT", f"{at}/shipping-address", who, {"address": ADDRESS})
    side.ok("PUT", f"{at}/shipping-method", who, {"method_id": "standard"})
    return at


def lines(cart: Json) -> dict[str, int]:
    return {item["product_sku"]: item["quantity"] for item in cart["items"]}


def orders_of(side: Side, checkout_path: str) -> int:
    query = "SELECT count(*) FROM orders WHERE metadata ->> 'checkout_id' = %s"
    count: int = side.shop.sql("order", query, [checkout_path.split("/")[2]])[0][0]
    return count


def test_a_new_cart(side: Side, customer: Json) -> None:
    cart = side.ok("POST", "/carts", customer, None, 201)
    assert cart == {
        "id": cart["id"],
        "customer_id": customer["X-Customer-Id"],
        "guest_token": None,
        "status": "active",
        "currency": "EUR",
        "version": 1,
        "subtotal": "0.00",
        "discount": "0.00",
        "items": [],
        "promotions": [],
    }
    assert side.ok("GET", f"/carts/{cart['id']}", customer) == cart


def test_somebody_elses_cart_is_not_there(side: Side, customer: Json, guest: Json) -> None:
    cart = new_cart(side, customer, SKU_1=1)
    shouted = {"X-Customer-Id": customer["X-Customer-Id"].upper()}
    assert side.ok("GET", f"/carts/{cart['id']}", shouted) == cart
    for stranger in (guest, {"X-Customer-Id": str(uuid.uuid4())}):
        missing = {"status": 404, "error": "cart_not_found"}
        side.refused("GET", f"/carts/{cart['id']}", stranger, **missing)
        side.refused("DELETE", f"/carts/{cart['id']}/items", stranger, **missing)
        side.refused(
            "POST",
            "/checkouts",
            stranger,
            {"cart_id": cart["id"]},
            status=400 if stranger is guest else 404,
            error="identity_missing" if stranger is guest else "cart_not_found",
        )
    side.refused("GET", f"/carts/{cart['id']}", {}, status=400, error="identity_missing")


def test_no_write_is_lost_among_many(side: Side, customer: Json) -> None:
    cart = new_cart(side, customer, SKU_9=1)
    at = f"/carts/{cart['id']}/items"
    body = {"product_sku": "SKU-9", "quantity": 1}
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: side.ok("POST", at, customer, body, 201), range(12)))
    assert sorted(answer["version"] for answer in answers) == list(range(3, 15))
    found = side.ok("GET", f"/carts/{cart['id']}", customer)
    assert lines(found) == {"SKU-9": 13}
    assert found["version"] == 14


def test_clear_takes_lines_and_promotions(side: Side, customer: Json) -> None:
    cart = new_cart(side, customer, SKU_1=1, SKU_2=2)
    at = f"/carts/{cart['id']}"
    side.ok("POST", f"{at}/promotions", customer, {"code": "SAVE5"})
    cleared = side.ok("DELETE", f"{at}/items", customer)
    assert (cleared["items"], cleared["promotions"], cleared["version"]) == ([], [], 5)
    assert side.ok("GET", at, customer) == cleared


def test_the_same_promotion_again_is_one(side: Side, customer: Json) -> None:
    cart = new_cart(side, customer, SKU_1=1)
    at = f"/carts/{cart['id']}/promotions"
    side.ok("POST", at, customer, {"code": "SAVE10"})
    side.ok("POST", at, customer, {"code": "WELCOME"})
    found = side.ok("POST", at, customer, {"code": "SAVE10"})
    assert [each["code"] for each in found["promotions"]] == ["WELCOME", "SAVE10"]
    price = Decimal(found["subtotal"])
    assert Decimal(found["discount"]) == min(Decimal(5) + rules.money(price / 10), price)
    found = side.ok("POST", at, customer, {"code": "WELCOME", "remove": True})
    assert [each["code"] for each in found["promotions"]] == ["SAVE10"]
    assert side.ok("GET", f"/carts/{cart['id']}", customer) == found


def test_merge_adds_the_guests_lines_once(side: Side, customer: Json, guest: Json) -> None:
    mine = new_cart(side, customer, SKU_1=1, SKU_2=2)
    theirs = new_cart(side, guest, SKU_2=3, SKU_3=4)
    path, body = f"/carts/{mine['id']}/merge", {"guest_cart_id": theirs["id"]}
    both = {**customer, **guest}
    side.refused("POST", path, both, body, status=409, error="guest_cart_open")
    closed = side.ok("POST", f"/carts/{theirs['id']}/close", guest)
    assert (closed["status"], closed["version"]) == ("completed", theirs["version"] + 1)
    assert side.ok("POST", f"/carts/{theirs['id']}/close", guest) == closed
    merged = side.ok("POST", path, both, body)
    assert lines(merged) == {"SKU-1": 1, "SKU-2": 5, "SKU-3": 4}
    assert merged["version"] == mine["version"] + 1
    assert not {item["id"] for item in merged["items"]} & {item["id"] for item in theirs["items"]}
    assert side.ok("POST", path, both, body) == merged
    assert side.ok("GET", f"/carts/{mine['id']}", customer) == merged
    add = {"product_sku": "SKU-1", "quantity": 1}
    gone = {"status": 409, "error": "cart_not_active"}
    side.refused("POST", f"/carts/{theirs['id']}/items", guest, add, **gone)


def test_two_merges_at_once_add_once(side: Side, customer: Json, guest: Json) -> None:
    mine, theirs = new_cart(side, customer), new_cart(side, guest, SKU_3=4)
    side.ok("POST", f"/carts/{theirs['id']}/close", guest)
    path, body = f"/carts/{mine['id']}/merge", {"guest_cart_id": theirs["id"]}
    both = {**customer, **guest}
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: side.ok("POST", path, both, body), range(3)))
    assert [lines(answer) for answer in answers] == [{"SKU-3": 4}] * 3


def test_nobody_merges_a_strangers_cart(side: Side, customer: Json, guest: Json) -> None:
    mine, theirs = new_cart(side, customer), new_cart(side, guest, SKU_3=4)
    side.ok("POST", f"/carts/{theirs['id']}/close", guest)
    both = {**customer, "X-Guest-Token": "another"}
    path, body = f"/carts/{mine['id']}/merge", {"guest_cart_id": theirs["id"]}
    side.refused("POST", path, both, body, status=404, error="cart_not_found")


def test_a_checkout_freezes_its_cart(side: Side, customer: Json) -> None:
    cart = new_cart(side, customer, SKU_1=1)
    start = {"cart_id": cart["id"]}
    checkout = side.ok("POST", "/checkouts", customer, start, 201)
    assert side.ok("POST", "/checkouts", customer, start) == checkout
    add = {"product_sku": "SKU-1", "quantity": 1}
    gone = {"status": 409, "error": "cart_not_active"}
    side.refused("POST", f"/carts/{cart['id']}/items", customer, add, **gone)
    at = f"/checkouts/{checkout['id']}"
    side.refused("POST", f"{at}/confirm", customer, CARD, status=422, error="no_shipping_address")
    side.ok("PUT", f"{at}/shipping-address", customer, {"address": ADDRESS})
    side.refused("POST", f"{at}/confirm", customer, CARD, status=422, error="no_shipping_method")
    found = side.ok("PUT", f"{at}/shipping-method", customer, {"method_id": "express"})
    assert found["shipping_amount"] == "9.90"
    side.ok("POST", f"{at}/confirm", customer, CARD)
    late = {"method_id": "standard"}
    gone = {"status": 409, "error": "checkout_not_open"}
    side.refused("PUT", f"{at}/shipping-method", customer, late, **gone)
    assert side.ok("GET", at, customer)["shipping_amount"] == "9.90"


def test_free_shipping(side: Side, customer: Json) -> None:
    cart = new_cart(side, customer, SKU_1=1)
    side.ok("POST", f"/carts/{cart['id']}/promotions", customer, {"code": "FREESHIP"})
    at = ready_checkout(side, customer, cart)
    assert side.ok("GET", at, customer)["shipping_amount"] == "0.00"


def test_an_empty_cart_cannot_be_bought(side: Side, customer: Json) -> None:
    cart = new_cart(side, customer)
    body = {"cart_id": cart["id"]}
    side.refused("POST", "/checkouts", customer, body, status=422, error="cart_empty")


def test_a_double_click_makes_one_order(side: Side, customer: Json) -> None:
    at = ready_checkout(side, customer, new_cart(side, customer, SKU_1=1, SKU_2=2))
    before = side.shop.payments()
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(lambda _: side.ok("POST", f"{at}/confirm", customer, CARD), range(4))
        )
    assert all(answer == answers[0] for answer in answers)
    assert side.ok("POST", f"{at}/confirm", customer, CARD) == answers[0]
    assert orders_of(side, at) == 1
    assert side.shop.payments()["charges"] - before["charges"] == 1


def test_a_declined_card_leaves_the_checkout_open(side: Side, customer: Json) -> None:
    at = ready_checkout(side, customer, new_cart(side, customer, SKU_1=1))
    declined = {"payment_method_id": "declined-card"}
    refusal = {"status": 409, "error": "payment_declined"}
    side.refused("POST", f"{at}/confirm", customer, declined, **refusal)
    assert orders_of(side, at) == 0
    found = side.ok("GET", at, customer)
    assert (found["status"], found["payment_method_id"]) == ("started", None)
    assert side.ok("POST", f"{at}/confirm", customer, CARD)["status"] == "completed"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_payment_whose_answer_was_lost_is_not_taken_twice(
    side: Side, customer: Json, when: str
) -> None:
    at = ready_checkout(side, customer, new_cart(side, customer, SKU_1=1))
    before = side.shop.payments()
    faults = f"{side.shop.urls['partners']}/admin/faults"
    fault = {"path_prefix": "/payments/charge", "rate": 1, "status": 500, "when": when}
    assert httpx.post(faults, json=fault).status_code == 200
    try:
        lost = {"status": 503, "error": "partner_unavailable"}
        side.refused("POST", f"{at}/confirm", customer, CARD, **lost)
    finally:
        httpx.delete(faults)
    late = {"address": {"name": "elsewhere"}}
    gone = {"status": 409, "error": "checkout_not_open"}
    side.refused("PUT", f"{at}/shipping-address", customer, late, **gone)
    done = side.ok("POST", f"{at}/confirm", customer, CARD)
    assert done["status"] == "completed"
    assert orders_of(side, at) == 1
    assert side.shop.payments()["charges"] - before["charges"] == 1


def test_an_order_service_that_fails_is_asked_again(
    both_sides: dict[str, Side], customer: Json
) -> None:
    side = both_sides["new"]
    at = ready_checkout(side, customer, new_cart(side, customer, SKU_1=1))
    before = side.shop.payments()
    fault = f"{side.shop.urls['order']}/admin/fault"
    httpx.post(fault, json={"rate": 1.0})
    try:
        lost = {"status": 503, "error": "partner_unavailable"}
        side.refused("POST", f"{at}/confirm", customer, CARD, **lost)
    finally:
        httpx.post(fault, json={"rate": 0})
    assert side.ok("POST", f"{at}/confirm", customer, CARD)["status"] == "completed"
    assert orders_of(side, at) == 1
    assert side.shop.payments()["charges"] - before["charges"] == 1


def test_the_new_side_keeps_a_customers_id_as_it_was_written(both_sides: dict[str, Side]) -> None:
    side = both_sides["new"]
    plain, shouted = str(uuid.uuid4()), str(uuid.uuid4()).upper()
    wanted = {
        plain: (uuid.UUID(plain), None),
        shouted: (uuid.UUID(shouted), None if shouted.isdigit() else shouted),
        "guest-17": (None, "guest-17"),
    }
    query = "SELECT customer_id, legacy_customer_id FROM carts WHERE id = %s"
    for customer, columns in wanted.items():
        cart = new_cart(side, {"X-Customer-Id": customer})
        assert side.shop.sql("checkout", query, [cart["id"]]) == [columns]


def test_totals() -> None:
    come_to = rules.totals([Decimal("10.00"), Decimal("5.55")], [Decimal("3.00")], Decimal("4.90"))
    assert come_to == rules.Totals(
        Decimal("15.55"), Decimal("3.00"), Decimal("4.90"), Decimal("1.00"), Decimal("18.45")
    )
    over = rules.totals([Decimal("2.00")], [Decimal("3.00"), Decimal("3.00")])
    assert (over.discount, over.total) == (Decimal("2.00"), Decimal("0.00"))


def test_every_act_on_a_return_starts_where_it_may() -> None:
    allowed = {
        (act, start): end for act, (starts, end) in rules.RETURN_ACTS.items() for start in starts
    }
    statuses = {status for pair in allowed for status in pair[1:]} | set(allowed.values())
    for act in rules.RETURN_ACTS:
        for status in statuses:
            if (act, status) in allowed:
                assert rules.after(act, status) == allowed[act, status]
            else:
                with pytest.raises(Conflict):
                    rules.after(act, status)
    ends = statuses - {start for _, start in allowed}
    assert ends == {"completed", "cancelled", "rejected"}
