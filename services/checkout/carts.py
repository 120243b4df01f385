"""Carts as checkout_db keeps them: `carts`, `cart_items`, `cart_promotions`."""

import uuid
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from services.flows import customer
from services.flows.lines import CartLines
from services.flows.model import Cart, Promotion, notes_of
from services.web import Connection

# `legacy` is what an entry held beside the columns; where it is no object, it is the whole entry.
READ = """
    SELECT c.id, c.customer_id, c.legacy_customer_id, c.guest_token, c.status, c.currency,
           c.version, c.expires_at, c.metadata, {lines},
           (SELECT coalesce(json_agg(json_build_array(p.position, p.code, p.type,
                                     p.discount_amount::text, p.legacy) ORDER BY p.position), '[]')
              FROM cart_promotions p WHERE p.cart_id = c.id)
      FROM carts c WHERE c.id = %s
"""
LOCK = "SELECT FROM carts WHERE id = %s FOR UPDATE"
INSERT = """
    INSERT INTO carts (id, session_id, customer_id, legacy_customer_id, guest_token, status,
                       currency, version, expires_at, metadata, created_at, updated_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, clock_timestamp(), clock_timestamp())
"""
SAVE = """
    UPDATE carts SET status = %s, version = %s, updated_at = clock_timestamp() WHERE id = %s
"""
# Metadata is patched, never written whole: what nobody knows any more stays exactly as it was.
SAVE_NOTES = """
    UPDATE carts
       SET metadata = CASE WHEN jsonb_typeof(metadata) = 'object' THEN metadata ELSE '{}' END || %s
     WHERE id = %s
"""
# Those that stay move up by themselves.
DROP_PROMOTIONS = "DELETE FROM cart_promotions WHERE cart_id = %s AND NOT position = ANY(%s)"
ADD_PROMOTION = """
    INSERT INTO cart_promotions (cart_id, position, code, type, discount_amount)
    VALUES (%s, %s, %s, %s, %s)
"""


class NewCarts(CartLines):
    """See `CartStore`."""

    def __init__(self) -> None:
        super().__init__("cart_id")
        self._read = sql.SQL(READ).format(lines=self.selected).as_string().encode()

    async def read(self, connection: Connection, cart_id: uuid.UUID) -> Cart | None:
        """See `CartStore.read`."""
        row = await (await connection.execute(self._read, (cart_id,))).fetchone()
        if row is None:
            return None
        id_, customer_id, legacy, *columns, metadata, lines, promotions = row
        cart = Cart(id_, customer.join(customer_id, legacy), *columns)
        cart.items, cart.notes = self.parse(lines), notes_of(metadata)
        cart.promotions = [_promotion(*entry) for entry in promotions]
        return cart

    async def lock(self, connection: Connection, cart_id: uuid.UUID) -> Cart | None:
        """See `CartStore.lock`."""
        await connection.execute(LOCK, (cart_id,))
        return await self.read(connection, cart_id)

    async def insert(self, connection: Connection, cart: Cart) -> None:
        """See `CartStore.insert`."""
        values = (
            cart.id,
            f"sess-{cart.id.hex}",
            *customer.split(cart.customer_id),
            cart.guest_token,
            cart.status,
            cart.currency,
            cart.version,
            cart.expires_at,
            Jsonb(cart.notes),
        )
        await connection.execute(INSERT, values)

    async def save(self, connection: Connection, cart: Cart) -> None:
        """See `CartStore.save`."""
        await connection.execute(SAVE, (cart.status, cart.version, cart.id))

    async def save_details(self, connection: Connection, cart: Cart) -> None:
        """See `CartStore.save_details`."""
        if cart.notes:
            await connection.execute(SAVE_NOTES, (Jsonb(cart.notes), cart.id))
        kept = [each.place for each in cart.promotions if each.place]
        await connection.execute(DROP_PROMOTIONS, (cart.id, kept))
        new = [each for each in cart.promotions if not each.place]
        for position, each in enumerate(new, start=len(kept) + 1):
            values = (cart.id, position, each.code, each.type, each.discount_amount)
            await connection.execute(ADD_PROMOTION, values)


def _promotion(
    position: int, code: str | None, type_: str | None, amount: str | None, legacy: Any
) -> Promotion:
    columns = {"code": code, "type": type_, "discount_amount": amount}
    entry = {name: value for name, value in columns.items() if value is not None}
    if isinstance(legacy, dict):
        entry |= legacy
    return Promotion.parse(entry, position)
