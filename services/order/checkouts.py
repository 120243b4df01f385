"""Checkouts as order_db keeps them: `checkout_sessions`, addresses as JSON."""

import uuid

from psycopg import sql
from psycopg.types.json import Jsonb

from services.flows.checkout_columns import COLUMNS, SAVE, checkout_of, saved_values
from services.flows.model import AddressKind, Checkout
from services.web import Connection

READ = sql.SQL("""
    SELECT {columns}, c.customer_id, c.shipping_address, c.billing_address
      FROM checkout_sessions c
""").format(columns=sql.SQL(COLUMNS))
BY_ID = (READ + sql.SQL("WHERE c.id = %s")).as_string().encode()
BY_CART = (
    (READ + sql.SQL("WHERE c.cart_id = %s ORDER BY c.created_at DESC, c.id LIMIT 1"))
    .as_string()
    .encode()
)
LOCK = "SELECT FROM checkout_sessions WHERE id = %s FOR UPDATE"
INSERT = """
    INSERT INTO checkout_sessions (id, session_token, customer_id, cart_id, status, subtotal,
                                   tax_amount, shipping_amount, discount_amount, total_amount,
                                   metadata, created_at, updated_at, expires_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, clock_timestamp(), %s)
"""
SAVE_OLD = sql.SQL(SAVE).format(table=sql.Identifier("checkout_sessions")).as_string().encode()
SAVE_SHIPPING = """
    UPDATE checkout_sessions SET shipping_address = %s, updated_at = clock_timestamp()
     WHERE id = %s
"""
SAVE_BILLING = """
    UPDATE checkout_sessions SET billing_address = %s, updated_at = clock_timestamp()
     WHERE id = %s
"""


class OldCheckouts:
    """See `CheckoutStore`."""

    async def read(self, connection: Connection, checkout_id: uuid.UUID) -> Checkout | None:
        """See `CheckoutStore.read`."""
        return await self._one(connection, BY_ID, checkout_id)

    async def lock(self, connection: Connection, checkout_id: uuid.UUID) -> Checkout | None:
        """See `CheckoutStore.lock`."""
        await connection.execute(LOCK, (checkout_id,))
        return await self.read(connection, checkout_id)

    async def of_cart(self, connection: Connection, cart_id: uuid.UUID) -> Checkout | None:
        """See `CheckoutStore.of_cart`."""
        return await self._one(connection, BY_CART, cart_id)

    async def _one(self, connection: Connection, query: bytes, key: uuid.UUID) -> Checkout | None:
        row = await (await connection.execute(query, (key,))).fetchone()
        if row is None:
            return None
        *columns, customer_id, shipping, billing = row
        checkout = checkout_of(columns, customer_id or "")
        checkout.shipping_address, checkout.billing_address = shipping, billing
        return checkout

    async def insert(self, connection: Connection, checkout: Checkout) -> None:
        """See `CheckoutStore.insert`."""
        come_to = checkout.totals
        values = (
            checkout.id,
            f"chk-{checkout.id.hex}",
            checkout.customer_id,
            checkout.cart_id,
            checkout.status,
            come_to.subtotal,
            come_to.tax,
            come_to.shipping,
            come_to.discount,
            come_to.total,
            Jsonb({}),
            checkout.created_at,
            checkout.expires_at,
        )
        await connection.execute(INSERT, values)

    async def save(self, connection: Connection, checkout: Checkout) -> None:
        """See `CheckoutStore.save`."""
        await connection.execute(SAVE_OLD, saved_values(checkout))

    async def save_address(
        self, connection: Connection, checkout: Checkout, kind: AddressKind
    ) -> None:
        """See `CheckoutStore.save_address`."""
        if kind == "shipping":
            await connection.execute(SAVE_SHIPPING, (Jsonb(checkout.shipping_address), checkout.id))
        else:
            await connection.execute(SAVE_BILLING, (Jsonb(checkout.billing_address), checkout.id))
