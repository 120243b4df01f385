"""The seed: the numbers that were asked for, untidy in every way that was promised, repeatable."""

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rehearsal.estate import SERVICES, apply_migrations
from rehearsal.seed import seed
from rehearsal.stock import OldCart, OldOrder, Stock, good
from tests.conftest import FreshDatabase

CARTS, RETURNS = 3000, 600


@pytest.fixture
def database(fresh_databases: dict[str, FreshDatabase], tmp_path: Path) -> FreshDatabase:
    apply_migrations(SERVICES / "order" / "migrations", fresh_databases["order"].dsn)
    return fresh_databases["order"]


def ask(database: FreshDatabase, query: str) -> Any:
    with psycopg.connect(database.dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def test_what_was_asked_for_is_there_and_untidy(database: FreshDatabase, tmp_path: Path) -> None:
    made = seed(database.dsn, tmp_path, carts=CARTS, returns=RETURNS, number=7)
    assert made.rows["cart_sessions"] == CARTS
    assert made.rows["return_requests"] == RETURNS
    assert made.rows["cart_items"] > CARTS
    assert made.rows["return_items"] >= RETURNS
    assert made.rows["orders"] > RETURNS

    some = {
        "guests": "SELECT count(*) FROM cart_sessions WHERE guest_token IS NOT NULL",
        "customers in upper case": "SELECT count(*) FROM cart_sessions"
        " WHERE customer_id ~ '[A-F]' AND customer_id = upper(customer_id)",
        "customers that are no uuid": "SELECT count(*) FROM cart_sessions"
        " WHERE customer_id LIKE 'guest-%'",
        "returns of such": "SELECT count(*) FROM return_requests WHERE customer_id LIKE 'guest-%'",
        "both at once": "SELECT count(*) FROM cart_sessions"
        " WHERE customer_id IS NOT NULL AND guest_token IS NOT NULL",
        "the same promotion twice": "SELECT count(*) FROM cart_sessions WHERE"
        " jsonb_path_query_array(metadata, '$.promotions[*].code') @> '[\"SAVE10\"]'"
        " AND jsonb_array_length(jsonb_path_query_array(metadata,"
        " '$.promotions[*] ? (@.code == \"SAVE10\")')) > 1",
        "metadata nobody knows": "SELECT count(*) FROM cart_sessions WHERE metadata ? 'utm'",
        "no metadata": "SELECT count(*) FROM cart_sessions WHERE metadata IS NULL",
        "extra keys in addresses": "SELECT count(*) FROM checkout_sessions"
        " WHERE shipping_address ? 'geo'",
        "no address": "SELECT count(*) FROM checkout_sessions WHERE shipping_address IS NULL",
        "histories": "SELECT count(*) FROM return_requests WHERE metadata ? 'status_history'",
        "refunds": "SELECT count(*) FROM return_requests WHERE metadata ? 'refund'",
        "odd times": "SELECT count(*) FROM return_requests"
        " WHERE metadata -> 'status_history' -> 0 ->> 'at' LIKE '%.%.% %'",
        "carts for the clean-up": "SELECT count(*) FROM cart_sessions"
        " WHERE status = 'active' AND expires_at < now()",
        "goods set aside": "SELECT count(*) FROM cart_items WHERE reservation_id IS NOT NULL",
    }
    for what, query in some.items():
        assert ask(database, query) > 0, f"none: {what}"
    none = {
        "carts of nobody": "SELECT count(*) FROM cart_sessions"
        " WHERE customer_id IS NULL AND guest_token IS NULL",
        "statuses nobody knows": "SELECT count(*) FROM cart_sessions WHERE status NOT IN"
        " ('active', 'checkout', 'completed', 'expired', 'abandoned')",
        "returns without items": "SELECT count(*) FROM return_requests r WHERE NOT EXISTS"
        " (SELECT FROM return_items i WHERE i.return_request_id = r.id)",
        "returns of more than was bought": "SELECT count(*) FROM return_items r"
        " JOIN order_items o ON o.id = r.order_item_id WHERE r.quantity_returned > o.quantity",
        "returns of others' orders": "SELECT count(*) FROM return_requests r"
        " JOIN orders o ON o.id = r.order_id WHERE lower(r.customer_id)"
        " <> coalesce(o.customer_id::text, lower(o.metadata ->> 'customer_id'))",
        "wrong sums": "SELECT count(*) FROM cart_items WHERE total_price <> unit_price * quantity",
    }
    for what, query in none.items():
        assert ask(database, query) == 0, what
    statuses = ask(database, "SELECT array_agg(DISTINCT status) FROM return_requests")
    assert set(statuses) == {
        "requested",
        "under_review",
        "approved",
        "rejected",
        "items_received",
        "completed",
        "cancelled",
    }


def test_shoppers_find_only_what_they_can_use(database: FreshDatabase, tmp_path: Path) -> None:
    import random

    seed(database.dsn, tmp_path, carts=CARTS, returns=RETURNS, number=7)
    stock = Stock.read(tmp_path, random.Random(1))
    cart, order = stock.cart(), stock.order()
    assert isinstance(cart, OldCart)
    assert isinstance(order, OldOrder)
    status = ask(database, f"SELECT status FROM cart_sessions WHERE id = '{cart.cart_id}'")
    assert status == "active"
    assert ask(database, f"SELECT status FROM orders WHERE id = '{order.order_id}'") == "delivered"
    query = f"SELECT count(*) FROM return_requests WHERE order_id = '{order.order_id}'"
    assert ask(database, query) == 0
    seen = {cart.cart_id}
    while (more := stock.cart()) is not None:
        assert more.cart_id not in seen, "handed out twice"
        seen.add(more.cart_id)


DIGEST = """
    SELECT md5(string_agg(t, ';' ORDER BY t COLLATE "C")) FROM (
        SELECT concat_ws('|', id, customer_id, guest_token, status, version, metadata) AS t
        FROM cart_sessions
        UNION ALL SELECT concat_ws('|', id, cart_session_id, product_sku, quantity, total_price)
        FROM cart_items
        UNION ALL SELECT concat_ws('|', id, customer_id, status, order_id, return_number)
        FROM return_requests
        UNION ALL SELECT concat_ws('|', id, return_request_id, order_item_id, quantity_returned)
        FROM return_items) AS rows
"""


def test_the_same_seed_gives_the_same_data(
    fresh_databases: dict[str, FreshDatabase], tmp_path: Path
) -> None:
    digests = {}
    for name, number in (("order", 7), ("checkout", 7), ("return", 8)):
        database = fresh_databases[name]
        apply_migrations(SERVICES / "order" / "migrations", database.dsn)
        seed(database.dsn, tmp_path, carts=500, returns=100, number=number)
        digests[name] = ask(database, DIGEST)
    assert digests["order"] == digests["checkout"]
    assert digests["order"] != digests["return"]


def test_goods_are_those_of_the_catalog() -> None:
    from services.partners.goods import price, product_id

    for number in (0, 1, 17, 999):
        known = good(number)
        assert known.product_id == product_id(known.sku)
        assert known.cents == price(known.sku) * 100


def test_the_stock_is_a_file_that_json_can_read(database: FreshDatabase, tmp_path: Path) -> None:
    seed(database.dsn, tmp_path, carts=300, returns=60, number=1)
    assert set(json.loads((tmp_path / "stock.json").read_text())) == {"carts", "orders"}
