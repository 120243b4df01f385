"""Each invariant of the order split holds on sound data, and finds what it is there for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from estate import config as estate_config
from rehearsal.estate import FOLDERS, SERVICES, apply_migrations
from tests.conftest import FreshDatabase
from verify import invariants
from verify.diff import invariants_of
from verify.sides import Both

CONFIG = estate_config.load(Path(__file__).parents[2] / "config.example.toml")
SOUND = {
    "order": """
INSERT INTO cart_sessions (id, session_id, customer_id, status)
VALUES ('00000000-0000-0000-0000-00000000000a', 's', '00000000-0000-0000-0000-0000000000c1',
        'completed');
INSERT INTO cart_items (id, cart_session_id, product_sku, quantity, unit_price, total_price,
                        added_at)
VALUES (1, '00000000-0000-0000-0000-00000000000a', 'SKU', 2, 5, 10, '2026-01-01 12:00+00');
INSERT INTO checkout_sessions (id, session_token, cart_id, status, subtotal, tax_amount,
                               shipping_amount, discount_amount, total_amount, created_at)
VALUES ('00000000-0000-0000-0000-0000000000ce', 't', '00000000-0000-0000-0000-00000000000a',
        'completed', 10, 1, 4, 2, 13, '2026-01-01 12:00+00');
INSERT INTO orders (id, order_number, subtotal, total_amount, metadata)
VALUES ('00000000-0000-0000-0000-00000000000d', 'ORD', 10, 13,
        '{"checkout_id": "00000000-0000-0000-0000-0000000000ce"}');
INSERT INTO order_items (id, order_id, product_sku, quantity, unit_price, total_price)
VALUES (1, '00000000-0000-0000-0000-00000000000d', 'SKU', 2, 5, 10);
INSERT INTO return_requests (id, return_number, order_id, total_refund_amount, created_at)
VALUES ('00000000-0000-0000-0000-00000000000e', 'RET', '00000000-0000-0000-0000-00000000000d', 13,
        '2026-01-02 12:00+00');
INSERT INTO return_items (id, return_request_id, order_item_id, product_sku, quantity_returned,
                          unit_price)
VALUES (1, '00000000-0000-0000-0000-00000000000e', 1, 'SKU', 2, 5);
""",
    "checkout": """
INSERT INTO carts (id, session_id, customer_id, status)
VALUES ('00000000-0000-0000-0000-00000000000a', 's', '00000000-0000-0000-0000-0000000000c1',
        'completed');
INSERT INTO cart_items (id, cart_id, product_sku, quantity, unit_price, total_price, added_at)
VALUES (1, '00000000-0000-0000-0000-00000000000a', 'SKU', 2, 5, 10, '2026-01-01 12:00+00');
INSERT INTO checkouts (id, session_token, cart_id, status, subtotal, tax_amount,
                       shipping_amount, discount_amount, total_amount, created_at)
VALUES ('00000000-0000-0000-0000-0000000000ce', 't', '00000000-0000-0000-0000-00000000000a',
        'completed', 10, 1, 4, 2, 13, '2026-01-01 12:00+00');
""",
    "return": """
INSERT INTO return_requests (id, return_number, order_id, total_refund_amount, created_at)
VALUES ('00000000-0000-0000-0000-00000000000e', 'RET', '00000000-0000-0000-0000-00000000000d', 13,
        '2026-01-02 12:00+00');
INSERT INTO return_items (id, return_id, order_item_id, product_sku, quantity_returned, unit_price)
VALUES (1, '00000000-0000-0000-0000-00000000000e', 1, 'SKU', 2, 5);
""",
}
# What breaks each, by database: what is written, and taken back afterwards.
BREAKS = {
    "checkout: a line costs quantity times price": (
        ("order", "UPDATE cart_items SET quantity = 3"),
        ("checkout", "UPDATE cart_items SET total_price = 10.01"),
    ),
    "checkout: a checkout's total adds up, old": (
        ("order", "UPDATE checkout_sessions SET total_amount = 14"),
    ),
    "checkout: a checkout's total adds up, new": (
        ("checkout", "UPDATE checkouts SET tax_amount = 0"),
    ),
    "checkout: what was bought costs what its lines cost, old": (
        ("order", "UPDATE checkout_sessions SET subtotal = 11"),
    ),
    "checkout: what was bought costs what its lines cost, new": (
        ("checkout", "UPDATE cart_items SET total_price = 9"),
    ),
    "checkout: one order for each completed checkout": (
        ("order", "UPDATE orders SET metadata = '{}'"),
        ("order", "UPDATE orders SET total_amount = 12"),
    ),
    "checkout: items have the same ids and carts on both sides": (
        ("order", "UPDATE cart_items SET id = 2"),
        ("order", "UPDATE cart_items SET added_at = now()"),
        ("checkout", "DELETE FROM cart_items"),
    ),
    "checkout: checkouts are worth the same, day by day": (
        ("order", "UPDATE checkout_sessions SET discount_amount = 3"),
        ("checkout", "UPDATE checkouts SET created_at = now()"),
    ),
    "return: every return has its order": (
        ("order", "DELETE FROM orders"),
        ("order", "UPDATE return_items SET order_item_id = 9"),
    ),
    "return: refunds never exceed what was paid": (
        ("order", "UPDATE orders SET total_amount = 12.99"),
    ),
    "return: returns are worth the same, day by day": (
        ("return", "UPDATE return_requests SET total_refund_amount = 12"),
    ),
    "return: items have the same ids and returns on both sides": (
        ("order", "UPDATE return_items SET id = 1001"),
        ("return", "DELETE FROM return_items"),
    ),
}


@pytest.fixture
def databases(
    fresh_databases: dict[str, FreshDatabase],
) -> Iterator[dict[str, psycopg.Connection[Any]]]:
    opened = {}
    for name, text in SOUND.items():
        apply_migrations(SERVICES / FOLDERS[name] / "migrations", fresh_databases[name].dsn)
        opened[name] = fresh_databases[name].connect()
        opened[name].execute(text.encode())
    yield opened
    for connection in opened.values():
        connection.close()


def broken(databases: dict[str, psycopg.Connection[Any]], domain: str) -> set[str]:
    """The invariants that do not hold; each must have been asked."""
    both = Both(databases["order"], databases[domain])
    try:
        found = invariants.judge(invariants_of(CONFIG, domain), both, lambda: True, 5.0)
    finally:
        both.close()
    assert [item.problem for item in found if item.problem] == []
    return {item.name for item in found if item.verdict != "holds"}


def test_each_invariant_holds_and_is_broken_by_what_it_is_there_for(
    databases: dict[str, psycopg.Connection[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invariants, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(invariants, "LONGEST_PAUSE_S", 0.001)
    named = {name for domain in CONFIG.domains for name, _ in invariants_of(CONFIG, domain)}
    assert named == BREAKS.keys()
    for domain in CONFIG.domains:
        assert broken(databases, domain) == set()
    for name, breaks in BREAKS.items():
        for database, statement in breaks:
            with databases[database].transaction(force_rollback=True):
                databases[database].execute(statement.encode())
                assert name in broken(databases, name.split(":")[0]), (name, statement)
