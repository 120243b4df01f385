"""Lines of carts and returns: the same columns on both sides, below a parent of another name."""

import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from psycopg import sql

from services import rules
from services.flows.model import Item
from services.flows.return_model import ReturnItem
from services.web import Connection

# As a list in one column, so that a parent and its lines are read as of one moment. Money as
# text, because a JSON number would be read as a float.
CART_LINES = """
    (SELECT coalesce(json_agg(json_build_array(i.id, i.product_id, i.product_sku, i.quantity,
                              i.unit_price::text, i.total_price::text) ORDER BY i.id), '[]')
       FROM cart_items i WHERE i.{parent} = c.id)
"""
ADD_CART_LINE = """
    INSERT INTO cart_items ({parent}, product_id, product_sku, quantity, unit_price, total_price,
                            added_at, updated_at)
    VALUES (%s, %s, %s, %s, %s, %s, clock_timestamp(), clock_timestamp()) RETURNING id
"""
CHANGE_CART_LINE = """
    UPDATE cart_items SET quantity = %s, unit_price = %s, total_price = %s,
           updated_at = clock_timestamp() WHERE id = %s
"""
REMOVE_CART_LINES = "DELETE FROM cart_items WHERE id = ANY(%s)"

RETURN_LINES = """
    (SELECT coalesce(json_agg(json_build_array(i.id, i.order_item_id, i.product_id, i.product_sku,
                              i.product_name, i.quantity_returned, i.quantity_received,
                              i.return_reason, i.condition_received, i.unit_price::text,
                              i.refund_amount::text, i.restocked, i.restocked_at, i.warehouse_id)
                     ORDER BY i.id), '[]')
       FROM return_items i WHERE i.{parent} = r.id)
"""
ADD_RETURN_LINE = """
    INSERT INTO return_items ({parent}, order_item_id, product_id, product_sku, product_name,
                              quantity_returned, return_reason, unit_price, refund_amount,
                              warehouse_id)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING id
"""
CHANGE_RETURN_LINE = """
    UPDATE return_items SET quantity_received = %s, condition_received = %s, refund_amount = %s,
           restocked = %s, restocked_at = %s WHERE id = %s
"""


class CartLines:
    """The lines of carts; `parent` is the column that names the cart."""

    def __init__(self, parent: str) -> None:
        column = sql.Identifier(parent)
        self.selected = sql.SQL(CART_LINES).format(parent=column)
        self._add = sql.SQL(ADD_CART_LINE).format(parent=column).as_string().encode()

    @staticmethod
    def parse(rows: Iterable[Sequence[Any]]) -> list[Item]:
        """From the column `selected`."""
        return [
            Item(
                product_id=uuid.UUID(product) if product is not None else None,
                product_sku=sku,
                quantity=quantity,
                unit_price=Decimal(unit_price),
                total_price=Decimal(total_price),
                id=id_,
            )
            for id_, product, sku, quantity, unit_price, total_price in rows
        ]

    async def add_items(
        self, connection: Connection, cart_id: uuid.UUID, items: Sequence[Item]
    ) -> None:
        """See `CartStore.add_items`."""
        for item in items:
            values = (
                cart_id,
                item.product_id,
                item.product_sku,
                item.quantity,
                item.unit_price,
                item.total_price,
            )
            row = await (await connection.execute(self._add, values)).fetchone()
            assert row is not None
            item.id = row[0]

    async def change_item(self, connection: Connection, item: Item) -> None:
        """See `CartStore.change_item`."""
        values = (item.quantity, item.unit_price, item.total_price, item.id)
        await connection.execute(CHANGE_CART_LINE, values)

    async def remove_items(self, connection: Connection, item_ids: Sequence[int]) -> None:
        """See `CartStore.remove_items`."""
        await connection.execute(REMOVE_CART_LINES, (list(item_ids),))


class ReturnLines:
    """The lines of returns; `parent` is the column that names the return."""

    def __init__(self, parent: str) -> None:
        column = sql.Identifier(parent)
        self.selected = sql.SQL(RETURN_LINES).format(parent=column)
        self._add = sql.SQL(ADD_RETURN_LINE).format(parent=column).as_string().encode()

    @staticmethod
    def parse(rows: Iterable[Sequence[Any]]) -> list[ReturnItem]:
        """From the column `selected`."""
        return [
            ReturnItem(
                id=row[0],
                order_item_id=row[1],
                product_id=uuid.UUID(row[2]) if row[2] is not None else None,
                product_sku=row[3],
                product_name=row[4],
                quantity=row[5],
                quantity_received=row[6],
                reason=row[7],
                condition=row[8],
                unit_price=Decimal(row[9]),
                refund_amount=Decimal(row[10]) if row[10] is not None else rules.NOTHING,
                restocked=row[11],
                restocked_at=datetime.fromisoformat(row[12]) if row[12] is not None else None,
                warehouse_id=row[13],
            )
            for row in rows
        ]

    async def add(
        self, connection: Connection, return_id: uuid.UUID, items: Sequence[ReturnItem]
    ) -> None:
        """Insert lines; gives each its id."""
        for item in items:
            values = (
                return_id,
                item.order_item_id,
                item.product_id,
                item.product_sku,
                item.product_name,
                item.quantity,
                item.reason,
                item.unit_price,
                item.refund_amount,
                item.warehouse_id,
            )
            row = await (await connection.execute(self._add, values)).fetchone()
            assert row is not None
            item.id = row[0]

    async def save_items(self, connection: Connection, items: Sequence[ReturnItem]) -> None:
        """See `ReturnStore.save_items`."""
        for item in items:
            values = (
                item.quantity_received,
                item.condition,
                item.refund_amount,
                item.restocked,
                item.restocked_at,
                item.id,
            )
            await connection.execute(CHANGE_RETURN_LINE, values)
