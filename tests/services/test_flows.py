"""The shop's named flows, on both sides: the same script gives the same answers."""

import json
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from tests.services.conftest import ROOT, Json, Side

ADDRESS = {
    "name": "Ada Berg",
    "line1": "Hauptstraße 7",
    "city": "Köln",
    "postal_code": "50667",
    "country": "DE",
    "doorbell": {"ring": [1, "twice", None]},
}
TOKENS = re.compile(
    r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}|TRK[0-9A-F]{16}|\d{4}-\d\d-\d\dT[\d:.]+Z"
)


class Script:
    """A customer's script that keeps every answer it got."""

    def __init__(self, side: Side, who: Json) -> None:
        self.side = side
        self.who = who
        self.answers: list[Json] = []

    def ok(self, method: str, path: str, body: Any = None, status: int = 200) -> Json:
        answer = self.side.ok(method, path, self.who, body, status)
        self.answers.append(answer)
        return answer


def fill_cart(script: Script) -> Json:
    """A cart with two lines and a promotion, after some changes of mind."""
    cart = script.ok("POST", "/carts", {}, 201)
    at = f"/carts/{cart['id']}"
    script.ok("POST", f"{at}/items", {"product_sku": "SKU-1", "quantity": 2}, 201)
    script.ok("POST", f"{at}/items", {"product_sku": "SKU-2", "quantity": 1}, 201)
    cart = script.ok("POST", f"{at}/items", {"product_sku": "SKU-3", "quantity": 5}, 201)
    first, second, third = (item["id"] for item in cart["items"])
    script.ok("PATCH", f"{at}/items/{first}", {"quantity": 3})
    script.ok("DELETE", f"{at}/items/{third}")
    script.ok("POST", f"{at}/items", {"product_sku": "SKU-2", "quantity": 1}, 201)
    script.ok("POST", f"{at}/promotions", {"code": "WELCOME"})
    script.ok("POST", f"{at}/promotions", {"code": "save10"})
    script.ok("POST", f"{at}/promotions", {"code": "WELCOME", "remove": True})
    cart = script.ok("GET", at)
    assert [(item["id"], item["quantity"]) for item in cart["items"]] == [(first, 3), (second, 2)]
    assert [each["code"] for each in cart["promotions"]] == ["SAVE10"]
    assert cart["version"] == 10
    return cart


def buy(script: Script) -> Json:
    """Cart to checkout to order; the completed checkout."""
    cart = fill_cart(script)
    checkout = script.ok("POST", "/checkouts", {"cart_id": cart["id"]}, 201)
    at = f"/checkouts/{checkout['id']}"
    script.ok("PUT", f"{at}/shipping-address", {"address": ADDRESS})
    script.ok("PUT", f"{at}/billing-address", {"address": {"name": "Ada", "vat": 7}})
    script.ok("PUT", f"{at}/shipping-method", {"method_id": "express"})
    script.ok("GET", f"{at}/preview")
    checkout = script.ok("POST", f"{at}/confirm", {"payment_method_id": "card-4242"})
    assert checkout["status"] == "completed"
    assert checkout["shipping_address"] == ADDRESS
    script.ok("GET", at)
    script.ok("GET", f"/carts/{cart['id']}")
    return checkout


def send_back(script: Script, order_id: str) -> Json:
    """Order to return to refund; the completed return."""
    order = script.ok("POST", f"/orders/{order_id}/deliver", {})
    line = order["items"][0]
    wanted = {
        "order_id": order_id,
        "return_type": "refund",
        "reason": "too small",
        "items": [{"order_item_id": line["id"], "quantity": 2, "reason": "tight"}],
    }
    made = script.ok("POST", "/returns", wanted, 201)
    at = f"/returns/{made['id']}"
    script.ok("POST", f"{at}/review", {"by": "eve", "note": "looks worn"})
    script.ok("POST", f"{at}/approve", {"by": "eve"})
    script.ok("POST", f"{at}/receive", {})
    made = script.ok("POST", f"{at}/refund", {"by": "cem"})
    script.ok("GET", at)
    listed = script.ok("GET", "/returns")
    assert [each["id"] for each in listed["returns"]] == [made["id"]]
    return made


def plain(answers: list[Json]) -> list[Any]:
    """Answers without what differs from run to run: ids, numbers made of them, times."""

    def walk(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: walk(item, name) for name, item in sorted(value.items())}
        if isinstance(value, list):
            return [walk(item) for item in value]
        if key in ("id", "order_item_id") and isinstance(value, int):
            return "<row>"
        if key == "warehouse_id":
            return "<warehouse>"
        if isinstance(value, str):
            return TOKENS.sub("<token>", value)
        return value

    return [walk(answer) for answer in answers]


def test_cart_to_checkout_to_order(side: Side, customer: Json) -> None:
    script = Script(side, customer)
    checkout = buy(script)
    cart_id, order_id = checkout["cart_id"], checkout["order_id"]
    order = script.ok("GET", f"/orders/{order_id}")
    assert order["checkout_id"] == checkout["id"]
    assert order["order_number"] == checkout["order_number"]
    assert order["total_amount"] == checkout["total_amount"]
    assert [(line["product_sku"], line["quantity"]) for line in order["items"]] == [
        ("SKU-1", 3),
        ("SKU-2", 2),
    ]
    lines = sum(Decimal(line["total_price"]) for line in order["items"])
    assert Decimal(order["subtotal"]) == lines
    parts = [Decimal(order[name]) for name in ("subtotal", "tax_amount", "shipping_amount")]
    assert sum(parts) - Decimal(order["discount_amount"]) == Decimal(order["total_amount"])
    assert script.ok("GET", f"/carts/{cart_id}")["status"] == "completed"
    listed = script.ok("GET", f"/orders?customer_id={customer['X-Customer-Id']}")
    assert [each["id"] for each in listed["orders"]] == [order_id]
    assert side.events(checkout["id"]) == ["checkout.started", "checkout.completed"]
    assert side.events(cart_id) == [
        "cart.created",
        *["cart.item.added"] * 3,
        "cart.item.updated",
        "cart.item.removed",
        "cart.item.updated",
        "cart.converted",
    ]


def test_order_to_return_to_refund(side: Side, customer: Json) -> None:
    script = Script(side, customer)
    checkout = buy(script)
    before = side.shop.payments()
    made = send_back(script, checkout["order_id"])
    after = side.shop.payments()
    assert made["status"] == "completed"
    assert [change["status"] for change in made["history"]] == [
        "requested",
        "under_review",
        "approved",
        "items_received",
        "completed",
    ]
    assert [change["by"] for change in made["history"]][1:3] == ["eve", "eve"]
    assert made["refund"]["status"] == "completed"
    assert made["refund"]["amount"] == made["total_refund_amount"]
    assert Decimal(0) < Decimal(made["total_refund_amount"]) < Decimal(checkout["total_amount"])
    assert made["items"][0]["restocked"] is True
    assert after["refunds"] - before["refunds"] == 1
    given = Decimal(after["refunded_amount"]) - Decimal(before["refunded_amount"])
    assert given == Decimal(made["total_refund_amount"])
    assert after["acted"]["restock"] - before["acted"]["restock"] == 1
    assert side.events(made["id"]) == [
        "return.requested",
        "return.approved",
        "return.items_received",
        "refund.initiated",
        "refund.completed",
        "item.restocked",
    ]


@pytest.mark.parametrize("kind", ["uuid", "upper", "text", "none"])
def test_a_client_cannot_tell_the_sides_apart(both_sides: dict[str, Side], kind: str) -> None:
    seen = []
    for name, side in both_sides.items():
        number = next(side.shop.numbers)
        who = {
            "uuid": f"0b8ffc7e-0000-4000-8000-{number:012x}",
            "upper": f"0B8FFC7E-AAAA-4000-8000-{number:012X}",
            "text": f"Guest-{number:06d}-{name}",
            "none": f"nobody_{number:06d}_{name}",
        }[kind]
        script = Script(side, {"X-Customer-Id": who})
        checkout = buy(script)
        send_back(script, checkout["order_id"])
        assert {answer.get("customer_id", who.lower()) for answer in script.answers} == {
            who.lower()
        }
        seen.append(str(plain(script.answers)).replace(who.lower(), "<who>"))
    assert seen[0] == seen[1]


def test_the_same_refusals_on_both_sides(both_sides: dict[str, Side], customer: Json) -> None:
    seen = []
    for side in both_sides.values():
        cart = side.ok("POST", "/carts", customer, {}, 201)
        at, nobody = f"/carts/{cart['id']}", "0b8ffc7e-0000-4000-8000-0000000000ff"
        tries = [
            ("GET", f"/carts/{nobody}", None),
            ("GET", "/carts/17", None),
            ("PATCH", f"{at}/items/5", {"quantity": 1}),
            ("PATCH", f"{at}/items/five", {"quantity": 1}),
            ("POST", f"{at}/items", {"product_sku": "SKU-1", "quantity": 0}),
            ("POST", f"{at}/items", {"product_sku": "SKU-1", "quantity": "2"}),
            ("POST", f"{at}/items", {"product_sku": "no such", "quantity": 1}),
            ("POST", f"{at}/items", {"quantity": 1}),
            ("POST", f"{at}/items", []),
            ("POST", f"{at}/promotions", {"code": "NOTHING"}),
            ("POST", f"{at}/promotions", {"code": "SAVE10", "remove": True}),
            ("POST", f"{at}/merge", {"guest_cart_id": nobody}),
            ("POST", f"{at}/close", {}),
            ("PUT", at, {}),
            ("POST", "/checkouts", {"cart_id": cart["id"]}),
            ("POST", "/checkouts", {"cart_id": nobody}),
            ("POST", "/checkouts", {}),
            ("GET", f"/checkouts/{nobody}", None),
            ("POST", f"/checkouts/{nobody}/confirm", {"payment_method_id": "card"}),
            ("PUT", f"/checkouts/{nobody}/shipping-address", {"address": {}}),
            ("PUT", f"/checkouts/{nobody}/shipping-method", {"method_id": "by-balloon"}),
            ("POST", "/returns", {"order_id": nobody}),
            ("GET", f"/returns/{nobody}", None),
            ("POST", f"/returns/{nobody}/refund", {}),
            ("POST", f"/returns/{nobody}/approve", {}),
        ]
        answers = [side.call(method, path, customer, body) for method, path, body in tries]
        assert all(400 <= answer.status_code < 500 for answer in answers)
        assert all(set(answer.json()) == {"error", "detail"} for answer in answers)
        seen.append([(answer.status_code, answer.json()["error"]) for answer in answers])
    assert seen[0] == seen[1]


def test_a_confirm_on_each_side_at_once_makes_one_order(
    both_sides: dict[str, Side], customer: Json
) -> None:
    """A confirm whose answer was lost, and its retry on the side that the customer moved to."""
    old, new = both_sides["old"], both_sides["new"]
    script = Script(new, customer)
    cart = fill_cart(script)
    checkout = script.ok("POST", "/checkouts", {"cart_id": cart["id"]}, 201)
    at = f"/checkouts/{checkout['id']}"
    script.ok("PUT", f"{at}/shipping-address", {"address": ADDRESS})
    script.ok("PUT", f"{at}/shipping-method", {"method_id": "standard"})
    carry_cart(new, cart["id"], checkout["id"])
    before = new.shop.payments()
    body = {"payment_method_id": "card-4242"}
    with ThreadPoolExecutor(4) as pool:
        results = list(
            pool.map(lambda s: s.ok("POST", f"{at}/confirm", customer, body), [old, new, new, old])
        )
    assert len({result["order_id"] for result in results}) == 1
    assert len({result["order_number"] for result in results}) == 1
    assert new.shop.payments()["charges"] - before["charges"] == 1
    made = "SELECT count(*) FROM orders WHERE metadata ->> 'checkout_id' = %s"
    assert new.shop.sql("order", made, [checkout["id"]]) == [(1,)]
    lines = "SELECT count(*) FROM order_items WHERE order_id = %s"
    assert new.shop.sql("order", lines, [results[0]["order_id"]]) == [(2,)]


def test_a_refund_on_each_side_at_once_pays_once(
    both_sides: dict[str, Side], customer: Json
) -> None:
    old, new = both_sides["old"], both_sides["new"]
    script = Script(new, customer)
    order_id = buy(script)["order_id"]
    made = send_back_first(script, order_id)
    carry_return(new, made["id"])
    before = new.shop.payments()
    with ThreadPoolExecutor(4) as pool:
        path = f"/returns/{made['id']}/refund"
        results = list(pool.map(lambda s: s.ok("POST", path, customer, {}), [old, new, old, new]))
    assert len({result["refund"]["refund_id"] for result in results}) == 1
    after = new.shop.payments()
    assert after["refunds"] - before["refunds"] == 1
    assert after["acted"]["restock"] - before["acted"]["restock"] == 1


def test_what_crossed_looks_the_same(both_sides: dict[str, Side], customer: Json) -> None:
    """A customer who is moved sees on the other side what he left on this one."""
    old, new = both_sides["old"], both_sides["new"]
    customer = {"X-Customer-Id": customer["X-Customer-Id"].upper()}
    for here, there in ((old, new), (new, old)):
        script = Script(here, customer)
        checkout = buy(script)
        cart_id, at = checkout["cart_id"], f"/checkouts/{checkout['id']}"
        carry_cart(here, cart_id, checkout["id"])
        for path in (f"/carts/{cart_id}", at, f"{at}/preview"):
            assert there.ok("GET", path, customer) == here.ok("GET", path, customer)
        again = {"payment_method_id": "card-4242"}
        assert there.ok("POST", f"{at}/confirm", customer, again) == checkout
        made = send_back_first(script, checkout["order_id"])
        carry_return(here, made["id"])
        path = f"/returns/{made['id']}"
        assert there.ok("GET", path, customer) == here.ok("GET", path, customer)
        # What the other side adds is what this side would have added.
        done = there.ok("POST", f"{path}/refund", customer, {})
        assert done["history"][:-1] == made["history"]
        assert done["refund"]["status"] == "completed"


def test_an_old_cart_with_oddities_goes_on_on_the_new_side(both_sides: dict[str, Side]) -> None:
    old, new = both_sides["old"], both_sides["new"]
    cart_id, who = str(uuid.uuid4()), {"X-Customer-Id": "Guest-18"}
    promotions = [
        {"code": "SAVE10", "type": "percentage", "discount_amount": 1.5, "campaign": "x"},
        "what?",
        {"code": "SAVE10", "type": None, "discount_amount": "1.50"},
        {"code": "OLD", "type": 7, "discount_amount": "much"},
        {"code": "WELCOME", "type": "fixed", "discount_amount": 5},
    ]
    metadata = json.dumps({"promotions": promotions, "utm": [1, None]})
    insert = """INSERT INTO cart_sessions (id, session_id, customer_id, metadata)
                VALUES (%s, %s, 'guest-18', %s)"""
    old.shop.sql("order", insert, [cart_id, cart_id, metadata])
    carry_cart(old, cart_id)
    seen = old.ok("GET", f"/carts/{cart_id}", who)
    assert new.ok("GET", f"/carts/{cart_id}", who) == seen
    for body in ({"code": "SAVE10", "remove": True}, {"code": "SUMMER15"}, {"code": "welcome"}):
        path = f"/carts/{cart_id}/promotions"
        assert new.ok("POST", path, who, body) == old.ok("POST", path, who, body)
    assert new.ok("GET", f"/carts/{cart_id}", who) == old.ok("GET", f"/carts/{cart_id}", who)
    query = (ROOT / "mappings/checkout/reverse/cart_sessions.sql").read_text(encoding="utf-8")
    query = query.replace("%", "%%")
    back = new.shop.sql("checkout", f"SELECT metadata FROM ({query}) q WHERE id = %s", [cart_id])
    kept = old.shop.sql("order", "SELECT metadata FROM cart_sessions WHERE id = %s", [cart_id])
    assert back == kept


def send_back_first(script: Script, order_id: str) -> Json:
    """Order to return, up to the point where only the refund is left."""
    order = script.ok("POST", f"/orders/{order_id}/deliver", {})
    line = {"order_item_id": order["items"][0]["id"], "quantity": 1}
    wanted = {"order_id": order_id, "return_type": "refund", "reason": "r", "items": [line]}
    made = script.ok("POST", "/returns", wanted, 201)
    script.ok("POST", f"/returns/{made['id']}/approve", {})
    return script.ok("POST", f"/returns/{made['id']}/receive", {})


def carry_cart(here: Side, cart_id: str, checkout_id: str | None = None) -> None:
    """Carry a cart, and its checkout, to the other side, as sync would."""
    if here.name == "new":
        carry(here, "checkout", "cart_sessions", "id", cart_id)
        carry(here, "checkout", "cart_items", "cart_session_id", cart_id)
        if checkout_id is not None:
            carry(here, "checkout", "checkout_sessions", "id", checkout_id)
        return
    carry(here, "checkout", "carts", "id", cart_id)
    carry(here, "checkout", "cart_items", "cart_id", cart_id)
    carry(here, "checkout", "cart_promotions", "cart_id", cart_id)
    if checkout_id is not None:
        carry(here, "checkout", "checkouts", "id", checkout_id)
        carry(here, "checkout", "checkout_addresses", "checkout_id", checkout_id)


def carry_return(here: Side, return_id: str) -> None:
    """Carry a return to the other side, as sync would."""
    carry(here, "return", "return_requests", "id", return_id)
    if here.name == "new":
        carry(here, "return", "return_items", "return_request_id", return_id)
        return
    for table in ("return_items", "return_status_history", "return_refunds", "return_shipping"):
        carry(here, "return", table, "return_id", return_id)


def carry(here: Side, domain: str, table: str, key: str, value: str) -> None:
    """Copy the rows of one mapping into its target."""
    direction = "forward" if here.name == "old" else "reverse"
    source, target = ("order", domain) if here.name == "old" else (domain, "order")
    query = (ROOT / "mappings" / domain / direction / f"{table}.sql").read_text(encoding="utf-8")
    query = query.replace("%", "%%")
    found = here.shop.sql(
        source,
        "SELECT (to_jsonb(q) - 'splitctl_route')::text,"
        f" ARRAY(SELECT jsonb_object_keys(to_jsonb(q) - 'splitctl_route')) FROM ({query}) q"
        f" WHERE q.{key} = %s::uuid",
        [value],
    )
    for row, columns in found:
        names = ", ".join(columns)
        here.shop.sql(
            target,
            f"INSERT INTO {table} ({names}) SELECT {names}"
            f" FROM json_populate_record(NULL::{table}, %s::json)",
            [row],
        )
