"""Fills the old database with years of an untidy life; the same seed gives the same data."""

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from rehearsal.children import write_whole
from rehearsal.stock import GOODS, STOCK, goods

TABLES = (
    "cart_sessions",
    "cart_items",
    "checkout_sessions",
    "orders",
    "order_items",
    "return_requests",
    "return_items",
)
# Orders without a return, for shoppers to send back.
SPARE_ORDERS = 12_000
SPARE_CARTS = 4_000
# Only carts that the clean-up job leaves alone, and customers whom the gateway can tell apart.
OPEN_CARTS = """
    SELECT id::text, customer_id, guest_token FROM cart_sessions
    WHERE status = 'active' AND expires_at > now() AND updated_at > now() - interval '30 minutes'
      AND num_nonnulls(customer_id, guest_token) = 1
    ORDER BY id LIMIT %s
"""
SENDABLE_ORDERS = """
    SELECT o.id::text, coalesce(o.customer_id::text, o.metadata ->> 'customer_id'),
        jsonb_agg(jsonb_build_array(i.id, i.quantity) ORDER BY i.id)
    FROM orders AS o
    JOIN order_items AS i ON i.order_id = o.id
    WHERE o.status = 'delivered'
      AND NOT EXISTS (SELECT FROM return_requests AS r WHERE r.order_id = o.id)
    GROUP BY o.id ORDER BY o.id LIMIT %s
"""


@dataclass(frozen=True)
class Seeded:
    """How many rows each table got."""

    rows: dict[str, int]


def seed(dsn: str, directory: Path, *, carts: int, returns: int, number: int) -> Seeded:
    """Fill the old database (as its owner or a superuser) and write DIR/stock.json.

    `number` is the seed. The tables must be there and empty.
    """
    values = {
        "seed": number,
        "carts": carts,
        "returns": returns,
        "orders": returns + SPARE_ORDERS,
        "goods": GOODS,
    }
    text = files("rehearsal").joinpath("seed.sql").read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(int(value)))
    with psycopg.connect(dsn) as connection:
        # All of it or nothing, and one wait for the disk.
        connection.execute("SET LOCAL synchronous_commit = off")
        connection.execute("SET LOCAL work_mem = '64MB'")
        _load_goods(connection)
        connection.execute(text.encode())
        stock = {
            "carts": connection.execute(OPEN_CARTS, [SPARE_CARTS]).fetchall(),
            "orders": connection.execute(SENDABLE_ORDERS, [SPARE_ORDERS]).fetchall(),
        }
        rows = {table: _count(connection, table) for table in TABLES}
    with psycopg.connect(dsn, autocommit=True) as connection:
        for table in TABLES:
            connection.execute(sql.SQL("VACUUM ANALYZE {}").format(sql.Identifier(table)))
    write_whole(directory / STOCK, json.dumps(stock))
    return Seeded(rows)


def _load_goods(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    connection.execute(
        "CREATE TEMPORARY TABLE goods (number bigint PRIMARY KEY, product_id uuid, sku text,"
        " price numeric(10, 2))"
    )
    with (
        connection.cursor() as cursor,
        cursor.copy("COPY pg_temp.goods FROM STDIN") as copy,
    ):
        for number, good in enumerate(goods()):
            copy.write_row((number, good.product_id, good.sku, f"{good.cents / 100:.2f}"))
    connection.execute("ANALYZE pg_temp.goods")


def _count(connection: psycopg.Connection[tuple[Any, ...]], table: str) -> int:
    query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0
