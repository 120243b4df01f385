"""Returns as order_db keeps them: history and refund inside the metadata of `return_requests`."""

import uuid
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

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

READ = """
    SELECT {columns}, r.customer_id, r.return_shipping_label_url, r.return_tracking_number,
           r.metadata -> 'status_history', r.metadata -> 'refund', {lines}
      FROM return_requests r
"""
LOCK = "SELECT FROM return_requests WHERE id = %s FOR UPDATE"
# Metadata is patched, never written whole: what nobody knows any more stays exactly as it was.
MORE = """,
    return_shipping_label_url = %s, return_tracking_number = %s,
    metadata = CASE WHEN jsonb_typeof(metadata) = 'object' THEN metadata ELSE '{}' END
        || jsonb_build_object('status_history',
               CASE WHEN jsonb_typeof(metadata -> 'status_history') = 'array'
                    THEN metadata -> 'status_history' ELSE '[]' END || %s)
        || CASE WHEN %s::jsonb IS NULL THEN '{}' ELSE jsonb_build_object('refund',
               CASE WHEN jsonb_typeof(metadata -> 'refund') = 'object'
                    THEN metadata -> 'refund' ELSE '{}' END || %s::jsonb) END
"""
SAVE_OLD = sql.SQL(SAVE).format(more=sql.SQL(MORE)).as_string().encode()
INSERT_OLD = (
    sql.SQL(INSERT)
    .format(customer=sql.Identifier("customer_id"), customer_values=sql.SQL("%s"))
    .as_string()
    .encode()
)


class OldReturns(ReturnLines):
    """See `ReturnStore`."""

    def __init__(self) -> None:
        super().__init__("return_request_id")
        read = sql.SQL(READ).format(columns=sql.SQL(COLUMNS), lines=self.selected).as_string()
        self._by_id = (read + " WHERE r.id = %s").encode()
        self._by_order = (read + " WHERE r.order_id = %s ORDER BY r.created_at, r.id").encode()
        self._by_customer = (
            read + " WHERE lower(r.customer_id) = %s ORDER BY r.created_at DESC, r.id LIMIT %s"
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
        metadata = Jsonb({"status_history": _new_changes(wanted)})
        values = (*inserted_values(wanted), metadata, wanted.customer_id)
        await connection.execute(INSERT_OLD, values)
        await self.add(connection, wanted.id, wanted.items)

    async def save(self, connection: Connection, changed: Return) -> None:
        """See `ReturnStore.save`."""
        refund = Jsonb(_present(changed.refund.json())) if changed.refund is not None else None
        more = (
            changed.label_url,
            changed.tracking_number,
            Jsonb(_new_changes(changed)),
            refund,
            refund,
            changed.id,
        )
        await connection.execute(SAVE_OLD, (*saved_values(changed), *more))


def _return(row: Row) -> Return:
    *columns, customer_id, label_url, tracking_number, history, refund, lines = row
    found = return_of(columns, lines, customer_id or "")
    found.label_url, found.tracking_number = label_url, tracking_number
    if isinstance(history, list):
        found.history = [Change.parse(entry) for entry in history]
    found.known_changes = len(found.history)
    found.refund = Refund.parse(refund)
    return found


def _new_changes(changed: Return) -> list[dict[str, Any]]:
    new = changed.history[changed.known_changes :]
    changed.known_changes = len(changed.history)
    return [_present(change.json()) for change in new]


def _present(entry: dict[str, Any]) -> dict[str, Any]:
    """The old side leaves out what is not there."""
    return {key: value for key, value in entry.items() if value is not None}
