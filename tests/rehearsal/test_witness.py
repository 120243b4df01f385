"""The witness finds every acknowledged write where it belongs, and names each that is lost."""

import copy
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rehearsal.estate import SERVICES, apply_migrations
from rehearsal.postgres import Server
from rehearsal.witness import CLEANUP_IDLE_S, Entity, bucket, compare, look_up
from tests.conftest import new_databases

ADDRESS = {"name": "Ada", "line1": "Main St 1", "city": "Bern", "country": "CH"}
EXTRA = {"floor": 3, "ring": [1, "twice", None]}


@dataclass
class Sides:
    """Both sides with one cart, checkout, return and order each, and the record of the writes."""

    directory: Path
    databases: dict[str, str]
    routes: dict[str, str]
    ids: dict[tuple[str, str], str]

    def execute(self, database: str, query: str, *values: Any) -> None:
        with psycopg.connect(self.databases[database], autocommit=True) as connection:
            connection.execute(query.encode(), values)

    def look_up(self, percentage: int = 50) -> dict[str, Any]:
        return look_up(
            self.directory, self.databases, {"checkout": percentage, "return": percentage}
        )


def route_on(side: str) -> str:
    """A customer who belongs to this side at 50 %."""
    while True:
        route = str(uuid.uuid4())
        if (bucket(route) < 5000) == (side == "new"):
            return route


@pytest.fixture(scope="module")
def databases(pg_servers: dict[str, Server]) -> Iterator[dict[str, str]]:
    """Both sides' tables, made once; each test fills them anew."""
    with new_databases(pg_servers) as fresh:
        for name, folder in (("order", "order"), ("checkout", "checkout"), ("return", "returns")):
            apply_migrations(SERVICES / folder / "migrations", fresh[name].dsn)
        yield {name: fresh[name].dsn for name in ("order", "checkout", "return")}


EMPTY = {
    "order": "TRUNCATE cart_sessions, checkout_sessions, return_requests, orders CASCADE",
    "checkout": "TRUNCATE carts, checkouts CASCADE",
    "return": "TRUNCATE return_requests CASCADE",
}


@pytest.fixture
def sides(databases: dict[str, str], tmp_path: Path) -> Sides:
    made = Sides(tmp_path, databases, {s: route_on(s) for s in ("old", "new")}, {})
    for database, statement in EMPTY.items():
        made.execute(database, statement)
    lines: list[dict[str, Any]] = []
    for side in ("old", "new"):
        for kind in ("cart", "checkout", "return", "order"):
            made.ids[kind, side] = str(uuid.uuid4())
        _fill(made, side)
        lines += _writes(made, side)
    text = "".join(json.dumps({"n": n, **line}) + "\n" for n, line in enumerate(lines, start=1))
    (tmp_path / "writes.jsonl").write_text(text)
    return made


def _fill(made: Sides, side: str) -> None:
    cart, checkout = made.ids["cart", side], made.ids["checkout", side]
    back, order, route = made.ids["return", side], made.ids["order", side], made.routes[side]
    metadata = json.dumps({"order_id": order, "order_number": f"ORD-{side}"})
    promotions = [{"code": "WELCOME", "type": "fixed"}, {"code": "SAVE5", "type": "percentage"}]
    history = [{"status": "requested"}, {"status": "approved"}]
    address = json.dumps({**ADDRESS, "instructions": EXTRA})
    item = (cart, "SKU-1", 2, "1.50", "3.00")
    if side == "old":
        made.execute(
            "order",
            "INSERT INTO cart_sessions (id, session_id, customer_id, status, version, metadata)"
            " VALUES (%s, 'a', %s, 'active', 3, %s)",
            cart,
            route,
            json.dumps({"promotions": promotions, "odd": 1}),
        )
        made.execute(
            "order",
            "INSERT INTO cart_items (id, cart_session_id, product_sku, quantity, unit_price,"
            " total_price) VALUES (7, %s, %s, %s, %s, %s)",
            *item,
        )
        made.execute(
            "order",
            "INSERT INTO checkout_sessions (id, session_token, customer_id, cart_id, status,"
            " shipping_address, subtotal, total_amount, metadata)"
            " VALUES (%s, 't', %s, %s, 'completed', %s, 3, 3.24, %s)",
            checkout,
            route,
            cart,
            address,
            metadata,
        )
        made.execute(
            "order",
            "INSERT INTO return_requests (id, return_number, order_id, customer_id, status,"
            " total_refund_amount, metadata) VALUES (%s, 'R-old', %s, %s, 'approved', 3, %s)",
            back,
            order,
            route,
            json.dumps({"status_history": history, "refund": {"status": "completed"}}),
        )
        made.execute(
            "order",
            "INSERT INTO return_items (id, return_request_id, order_item_id, product_sku,"
            " quantity_returned, unit_price) VALUES (9, %s, 4, 'SKU-1', 2, 1.5)",
            back,
        )
    else:
        made.execute(
            "checkout",
            "INSERT INTO carts (id, session_id, customer_id, status, version)"
            " VALUES (%s, 'a', %s, 'active', 3)",
            cart,
            route,
        )
        made.execute(
            "checkout",
            "INSERT INTO cart_items (id, cart_id, product_sku, quantity, unit_price, total_price)"
            " VALUES (7, %s, %s, %s, %s, %s)",
            *item,
        )
        for position, promotion in enumerate(promotions, start=1):
            made.execute(
                "checkout",
                "INSERT INTO cart_promotions (cart_id, position, code, type)"
                " VALUES (%s, %s, %s, %s)",
                cart,
                position,
                promotion["code"],
                promotion["type"],
            )
        made.execute(
            "checkout",
            "INSERT INTO checkouts (id, session_token, customer_id, cart_id, status, subtotal,"
            " total_amount, metadata) VALUES (%s, 't', %s, %s, 'completed', 3, 3.24, %s)",
            checkout,
            route,
            cart,
            metadata,
        )
        made.execute(
            "checkout",
            "INSERT INTO checkout_addresses (checkout_id, kind, name, line1, city, country, legacy)"
            " VALUES (%s, 'shipping', %s, %s, %s, %s, %s)",
            checkout,
            *ADDRESS.values(),
            json.dumps({"instructions": EXTRA}),
        )
        made.execute(
            "return",
            "INSERT INTO return_requests (id, return_number, order_id, customer_id, status,"
            " total_refund_amount) VALUES (%s, 'R-new', %s, %s, 'approved', 3)",
            back,
            order,
            route,
        )
        made.execute(
            "return",
            "INSERT INTO return_items (id, return_id, order_item_id, product_sku,"
            " quantity_returned, unit_price) VALUES (9, %s, 4, 'SKU-1', 2, 1.5)",
            back,
        )
        for position, change in enumerate(history, start=1):
            made.execute(
                "return",
                "INSERT INTO return_status_history (return_id, position, status)"
                " VALUES (%s, %s, %s)",
                back,
                position,
                change["status"],
            )
        made.execute(
            "return",
            "INSERT INTO return_refunds (return_id, status) VALUES (%s, 'completed')",
            back,
        )
    made.execute(
        "order",
        "INSERT INTO orders (id, order_number, status, metadata)"
        " VALUES (%s, %s, 'delivered', jsonb_build_object('checkout_id', %s::text))",
        order,
        f"ORD-{side}",
        checkout,
    )


def _writes(made: Sides, side: str) -> list[dict[str, Any]]:
    cart, checkout = made.ids["cart", side], made.ids["checkout", side]
    back, order = made.ids["return", side], made.ids["order", side]
    first = {
        "status": "active",
        "version": 2,
        "items": {"7": ["SKU-1", 1, "1.50"], "8": ["SKU-2", 1, "9.00"]},
        "promotions": [],
    }
    last = {
        "status": "active",
        "version": 3,
        "items": {"7": ["SKU-1", 2, "3.00"]},
        "promotions": ["SAVE5", "WELCOME"],
    }
    bought = {
        "cart_id": cart,
        "status": "completed",
        "shipping_address": {**ADDRESS, "instructions": EXTRA},
        "billing_address": None,
        "order_id": order,
        "order_number": f"ORD-{side}",
        "subtotal": "3.00",
        "total_amount": "3.24",
    }
    returned = {
        "order_id": order,
        "number": f"R-{side}",
        "status": "approved",
        "items": {"9": [4, 2, 0]},
        "history": ["requested", "approved"],
        "total": "3.00",
        "refund": "completed",
    }
    common = {"at": 0.0, "route": made.routes[side]}
    return [
        {**common, "op": "AddItem", "kind": "cart", "id": cart, "expect": first},
        {**common, "op": "RemoveItem", "kind": "cart", "id": cart, "expect": last},
        {**common, "op": "Confirm", "kind": "checkout", "id": checkout, "expect": bought},
        {**common, "op": "Approve", "kind": "return", "id": back, "expect": returned},
        {
            **common,
            "op": "Deliver",
            "kind": "order",
            "id": order,
            "expect": {"status": "delivered", "checkout_id": checkout},
        },
    ]


def test_everything_is_found_on_the_side_that_owns_it(sides: Sides) -> None:
    found = sides.look_up()
    assert found["samples"] == []
    assert (found["acknowledged_writes"], found["entities"]) == (10, 8)
    assert (found["lost_writes"], found["duplicate_orders"]) == (0, 0)


@pytest.mark.parametrize(
    ("kind", "side", "database", "statement", "lost", "problem"),
    [
        ("cart", "new", "checkout", "DELETE FROM carts", 2, "the row is not there"),
        ("cart", "old", "order", "DELETE FROM cart_items", 1, "items: {} instead of"),
        ("cart", "new", "checkout", "UPDATE cart_items SET quantity = 3", 1, "items:"),
        ("cart", "new", "checkout", "UPDATE cart_items SET total_price = 4", 1, "items:"),
        ("cart", "old", "order", "UPDATE cart_sessions SET version = 2", 1, "version: 2 instead"),
        ("cart", "new", "checkout", "UPDATE carts SET version = 1", 2, "version: 1 instead of 3"),
        ("cart", "new", "checkout", "UPDATE carts SET version = 4", 1, "version: 4 instead of 3"),
        ("cart", "new", "checkout", "UPDATE carts SET status = 'expired'", 1, "status: expired"),
        (
            "cart",
            "new",
            "checkout",
            "DELETE FROM cart_promotions WHERE code = 'SAVE5'",
            1,
            "promotions: ['WELCOME']",
        ),
        # The item that was removed, and came back.
        (
            "cart",
            "new",
            "checkout",
            "INSERT INTO cart_items (id, cart_id, product_sku, quantity, unit_price, total_price)"
            " SELECT 8, id, 'SKU-2', 1, 9, 9 FROM carts",
            1,
            "items:",
        ),
        (
            "checkout",
            "new",
            "checkout",
            "UPDATE checkout_addresses SET legacy = NULL",
            1,
            "shipping_address:",
        ),
        (
            "checkout",
            "old",
            "order",
            "UPDATE checkout_sessions SET shipping_address = shipping_address - 'city'",
            1,
            "shipping_address:",
        ),
        ("checkout", "old", "order", "UPDATE checkout_sessions SET total_amount = 3", 1, "total"),
        ("checkout", "new", "checkout", "UPDATE checkouts SET metadata = '{}'", 1, "order_id:"),
        (
            "return",
            "new",
            "return",
            "DELETE FROM return_status_history WHERE position = 2",
            1,
            "history: ['requested']",
        ),
        ("return", "new", "return", "DELETE FROM return_refunds", 1, "refund: None"),
        ("return", "old", "order", "UPDATE return_items SET quantity_received = 2", 1, "items:"),
        ("return", "old", "order", "UPDATE return_requests SET status = 'x'", 1, "status: x"),
    ],
)
def test_each_loss_is_found_and_named(
    sides: Sides, kind: str, side: str, database: str, statement: str, lost: int, problem: str
) -> None:
    sides.execute(database, statement)
    found = sides.look_up()
    assert found["lost_writes"] == lost
    (sample,) = found["samples"]
    assert sample["id"] == sides.ids[kind, side]
    assert (sample["kind"], sample["side"], sample["database"]) == (kind, side, database)
    assert sample["problem"].startswith(problem)


def test_an_order_that_is_gone_is_a_loss(sides: Sides) -> None:
    sides.execute("order", "DELETE FROM orders WHERE order_number = 'ORD-new'")
    found = sides.look_up()
    assert found["lost_writes"] == 1
    assert found["samples"][0]["table"] == "orders"


def test_a_write_on_the_side_that_does_not_own_it_is_lost(sides: Sides) -> None:
    # At 0 % everything belongs to the old side; at 100 % to the new one.
    assert sides.look_up(percentage=0)["lost_writes"] == 4
    assert sides.look_up(percentage=100)["lost_writes"] == 4


def test_two_orders_of_one_checkout_or_cart_are_counted(sides: Sides) -> None:
    sides.execute("order", "DROP INDEX orders_checkout_key")
    insert = "INSERT INTO orders (order_number, metadata) VALUES (%s, %s)"
    again = json.dumps({"checkout_id": sides.ids["checkout", "new"]})
    sides.execute("order", insert, "ORD-again", again)
    for number in ("c1", "c2"):
        metadata = {"checkout_id": f"checkout-{number}", "cart_id": "the same cart"}
        sides.execute("order", insert, number, json.dumps(metadata))
    found = sides.look_up()
    sides.execute("order", "TRUNCATE orders CASCADE")
    key = "CREATE UNIQUE INDEX orders_checkout_key ON orders ((metadata ->> 'checkout_id'))"
    sides.execute("order", key)
    assert found["duplicate_orders"] == 2
    assert found["lost_writes"] == 0


def test_after_a_failed_write_either_content_is_right_but_nothing_may_be_gone(
    sides: Sides,
) -> None:
    cart = sides.ids["cart", "new"]
    failure = {"method": "PATCH", "subjects": [["cart", cart]], "reason": "timeout"}
    (sides.directory / "failures.jsonl").write_text(json.dumps(failure) + "\n")
    sides.execute("checkout", "UPDATE carts SET version = 4")
    sides.execute("checkout", "UPDATE cart_items SET quantity = 5")
    found = sides.look_up()
    assert (found["lost_writes"], found["uncertain"]) == (0, 1)
    sides.execute("checkout", "UPDATE carts SET version = 2")
    assert sides.look_up()["lost_writes"] == 1
    sides.execute("checkout", "DELETE FROM carts")
    assert sides.look_up()["lost_writes"] == 2


@pytest.mark.parametrize("change", ["GET", "acknowledged"])
def test_a_failed_read_or_a_wrong_answer_makes_nothing_uncertain(sides: Sides, change: str) -> None:
    failure: dict[str, Any] = {"method": "POST", "subjects": [["cart", sides.ids["cart", "new"]]]}
    failure |= {"method": "GET"} if change == "GET" else {"acknowledged": True}
    (sides.directory / "failures.jsonl").write_text(json.dumps(failure) + "\n")
    sides.execute("checkout", "DELETE FROM cart_items")
    found = sides.look_up()
    assert (found["lost_writes"], found["uncertain"]) == (1, 0)


def test_a_part_of_a_write_is_looked_up_but_not_counted_twice(sides: Sides) -> None:
    path = sides.directory / "writes.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "cart":
            line["implied"] = True
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert sides.look_up()["acknowledged_writes"] == 6
    sides.execute("order", "DELETE FROM cart_sessions")
    assert sides.look_up()["lost_writes"] == 2


CART = {"status": "active", "version": 3, "items": {}, "promotions": []}


@pytest.mark.parametrize(
    ("idle_s", "change", "right"),
    [
        (CLEANUP_IDLE_S + 60, {"status": "abandoned", "version": 4}, True),
        (CLEANUP_IDLE_S + 60, {"status": "expired", "version": 4}, True),
        (CLEANUP_IDLE_S + 60, {"status": "completed", "version": 4}, False),
        (CLEANUP_IDLE_S + 60, {"status": "abandoned", "version": 3}, False),
        (CLEANUP_IDLE_S + 60, {"status": "abandoned", "version": 4, "items": {"1": []}}, False),
        (CLEANUP_IDLE_S - 60, {"status": "abandoned", "version": 4}, False),
    ],
)
def test_the_clean_up_job_may_set_a_cart_aside_only_when_it_was_left_alone(
    idle_s: float, change: dict[str, Any], right: bool
) -> None:
    entity = Entity("cart", "c", "r", at=1000.0, expect=copy.deepcopy(CART))
    problem = compare(entity, {**CART, **change}, now=1000.0 + idle_s)
    assert (problem == "") is right


def test_buckets_are_those_of_everyone_else() -> None:
    from services.gateway.buckets import bucket as served

    ask: Callable[[str], int] = served
    for route in ("", "guest-17", "gt-0", "ü", "0e3cf4e8-74f7-424e-a091-ec6ecf5f034a"):
        assert bucket(route) == ask(route)
