"""Returns as return_db keeps them: history, refund and shipping in tables of their own."""

import uuid
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from services.flows import customer
from services.flows.lines import ReturnLines
from services.flows.return_columns import (
    COLUMNS,
    INSERT,
    SAVE,
    inserted_values,
    return_of,
    saved_values,
)
from services.flows.return_model import Change, Refund, Return
from services.web import Connection, Row

# Rows are given as the JSON they came from: the columns, and over them what `legacy` knows better.
READ = """
    SELECT {columns}, r.customer_id, r.legacy_customer_id,
           (SELECT json_build_array(s.label_url, s.tracking_number)
              FROM return_shipping s WHERE s.return_id = r.id),
           (SELECT coalesce(json_agg(CASE WHEN jsonb_typeof(h.legacy) <> 'object' THEN h.legacy
                ELSE jsonb_build_object('status', h.status, 'at', h.changed_at,
                                        'by', h.changed_by, 'note', h.note)
                     || coalesce(h.legacy, '{{}}') END ORDER BY h.position), '[]')
              FROM return_status_history h WHERE h.return_id = r.id),
           (SELECT jsonb_build_object('payment_id', f.payment_id, 'method', f.method,
                                      'amount', f.amount, 'currency', f.currency,
                                      'status', f.status, 'refund_id', f.refund_id,
                                      'processed_at', f.processed_at) || coalesce(f.legacy, '{{}}')
              FROM return_refunds f WHERE f.return_id = r.id),
           {lines}
      FROM return_requests r
"""
LOCK = "SELECT FROM return_requests WHERE id = %s FOR UPDATE"
SAVE_NEW = sql.SQL(SAVE).format(more=sql.SQL("")).as_string().encode()
INSERT_NEW = (
    sql.SQL(INSERT)
    .format(customer=sql.SQL("customer_id, legacy_customer_id"), customer_values=sql.SQL("%s, %s"))
    .as_string()
    .encode()
)
ADD_CHANGE = """
    INSERT INTO return_status_history (return_id, position, status, changed_at, changed_by, note)
    VALUES (%s, %s, %s, %s, %s, %s)
"""
SAVE_REFUND = """
    INSERT INTO return_refunds AS known (return_id, payment_id, method, amount, currency, status,
                                         refund_id, processed_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (return_id) DO UPDATE
       SET status = excluded.status, refund_id = excluded.refund_id,
           processed_at = excluded.processed_at
     WHERE known.status IS DISTINCT FROM excluded.status
"""
SAVE_SHIPPING = """
    INSERT INTO return_shipping AS known (return_id, label_url, tracking_number)
    VALUES (%s, %s, %s)
    ON CONFLICT (return_id) DO UPDATE
       SET label_url = excluded.label_url, tracking_number = excluded.tracking_number
     WHERE (known.label_url, known.tracking_number)
           IS DISTINCT FROM (excluded.label_url, excluded.tracking_number)
"""


class NewReturns(ReturnLines):
    """See `ReturnStore`."""

    def __init__(self) -> None:
        super().__init__("return_id")
        read = sql.SQL(READ).format(columns=sql.SQL(COLUMNS), lines=self.selected).as_string()
        self._by_id = (read + " WHERE r.id = %s").encode()
        self._by_order = (read + " WHERE r.order_id = %s ORDER BY r.created_at, r.id").encode()
        self._by_customer = (
            read + " WHERE r.customer_key = %s ORDER BY r.created_at DESC, r.id LIMIT %s"
        ).encode()

    async def read(self, connection: Connection, return_id: uuid.UUID) -> Return | None:
        """See `ReturnStore.read`."""
        row = await (await connection.execute(self._by_id, (return_id,))).fetchone()
        return _return(row) if row is not None else None

    async def lock(self, connection: Connection, return_id: uuid.UUID) -> Return | None:
        """See `ReturnStore.lock`."""
        await connection.execute(LOCK, (return_id,))
        return await self.read(connection, return_id)

    async def of_order(self, connection: Connection, order_id: uuid.UUID) -> list[Return]:
        """See `ReturnStore.of_order`."""
        cursor = await connection.execute(self._by_order, (order_id,))
        return [_return(row) for row in await cursor.fetchall()]

    async def of_customer(self, connection: Connection, route: str, most: int) -> list[Return]:
        """See `ReturnStore.of_customer`."""
        cursor = await connection.execute(self._by_customer, (route, most))
        return [_return(row) for row in await cursor.fetchall()]

    async def insert(self, connection: Connection, wanted: Return) -> None:
        """See `ReturnStore.insert`."""
        who = customer.split(wanted.customer_id)
        await connection.execute(INSERT_NEW, (*inserted_values(wanted), Jsonb({}), *who))
        await self.add(connection, wanted.id, wanted.items)
        await self._add_changes(connection, wanted)

    async def save(self, connection: Connection, changed: Return) -> None:
        """See `ReturnStore.save`."""
        await connection.execute(SAVE_NEW, (*saved_values(changed), changed.id))
        await self._add_changes(connection, changed)
        refund = changed.refund
        if refund is not None:
            values = (
                changed.id,
                refund.payment_id,
                refund.method,
                refund.amount,
                refund.currency,
                refund.status,
                refund.refund_id,
                refund.processed_at,
            )
            await connection.execute(SAVE_REFUND, values)
        if changed.label_url is not None or changed.tracking_number is not None:
            shipping = (changed.id, changed.label_url, changed.tracking_number)
            await connection.execute(SAVE_SHIPPING, shipping)

    async def _add_changes(self, connection: Connection, changed: Return) -> None:
        known = changed.known_changes
        for position, each in enumerate(changed.history[known:], start=known + 1):
            values: tuple[Any, ...] = (changed.id, position, each.status, each.at, each.by)
            await connection.execute(ADD_CHANGE, (*values, each.note))
        changed.known_changes = len(changed.history)


def _return(row: Row) -> Return:
    *columns, customer_id, legacy, shipping, history, refund, lines = row
    found = return_of(columns, lines, customer.join(customer_id, legacy) or "")
    if shipping is not None:
        found.label_url, found.tracking_number = shipping
    found.history = [Change.parse(entry) for entry in history]
    found.known_changes = len(found.history)
    found.refund = Refund.parse(refund)
    return found
