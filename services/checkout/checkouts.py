"""Checkouts as checkout_db keeps them: `checkouts`, and a row per address."""

import uuid
from collections.abc import Sequence
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from services.flows import customer
from services.flows.checkout_columns import COLUMNS, SAVE, checkout_of, saved_values
from services.flows.model import Address, AddressKind, Checkout
from services.web import Connection

# The keys of an address that have a column; a text goes there, all else into `legacy`.
FIELDS = ("name", "line1", "line2", "city", "state", "postal_code", "country", "phone")
READ = sql.SQL("""
    SELECT {columns}, c.customer_id, c.legacy_customer_id,
           (SELECT coalesce(json_agg(json_build_array(a.kind, a.legacy, a.name, a.line1, a.line2,
                                     a.city, a.state, a.postal_code, a.country, a.phone)), '[]')
              FROM checkout_addresses a WHERE a.checkout_id = c.id)
      FROM checkouts c
""").format(columns=sql.SQL(COLUMNS))
BY_ID = (READ + sql.SQL("WHERE c.id = %s")).as_string().encode()
BY_CART = (
    (READ + sql.SQL("WHERE c.cart_id = %s ORDER BY c.created_at DESC, c.id LIMIT 1"))
    .as_string()
    .encode()
)
LOCK = "SELECT FROM checkouts WHERE id = %s FOR UPDATE"
INSERT = """
    INSERT INTO checkouts (id, session_token, customer_id, legacy_customer_id, cart_id, status,
                           subtotal, tax_amount, shipping_amount, discount_amount, total_amount,
                           metadata, created_at, updated_at, expires_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, clock_timestamp(), %s)
"""
SAVE_NEW = sql.SQL(SAVE).format(table=sql.Identifier("checkouts")).as_string().encode()
TOUCH = "UPDATE checkouts SET updated_at = clock_timestamp() WHERE id = %s"
SAVE_ADDRESS = """
    INSERT INTO checkout_addresses (checkout_id, kind, legacy, name, line1, line2, city, state,
                                    postal_code, country, phone)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (checkout_id, kind) DO UPDATE
       SET legacy = excluded.legacy, name = excluded.name, line1 = excluded.line1,
           line2 = excluded.line2, city = excluded.city, state = excluded.state,
           postal_code = excluded.postal_code, country = excluded.country, phone = excluded.phone
"""


class NewCheckouts:
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
        *columns, customer_id, legacy, addresses = row
        checkout = checkout_of(columns, customer.join(customer_id, legacy) or "")
        kept = {kind: _address(legacy, texts) for kind, legacy, *texts in addresses}
        checkout.shipping_address = kept.get("shipping")
        checkout.billing_address = kept.get("billing")
        return checkout

    async def insert(self, connection: Connection, checkout: Checkout) -> None:
        """See `CheckoutStore.insert`."""
        come_to = checkout.totals
        values = (
            checkout.id,
            f"chk-{checkout.id.hex}",
            *customer.split(checkout.customer_id),
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
        await connection.execute(SAVE_NEW, saved_values(checkout))

    async def save_address(
        self, connection: Connection, checkout: Checkout, kind: AddressKind
    ) -> None:
        """See `CheckoutStore.save_address`."""
        shipping = kind == "shipping"
        address = checkout.shipping_address if shipping else checkout.billing_address
        legacy, texts = _columns(address or {})
        values = (checkout.id, kind, Jsonb(legacy) if legacy else None, *texts)
        await connection.execute(SAVE_ADDRESS, values)
        await connection.execute(TOUCH, (checkout.id,))


def _columns(address: Address) -> tuple[dict[str, Any], list[str | None]]:
    """What goes into `legacy`, and the values of FIELDS."""
    texts = {name: address[name] for name in FIELDS if isinstance(address.get(name), str)}
    legacy = {name: value for name, value in address.items() if name not in texts}
    return legacy, [texts.get(name) for name in FIELDS]


def _address(legacy: Any, texts: Sequence[str | None]) -> Any:
    """The address that was taken apart; what was no object comes back as it was."""
    if legacy is not None and not isinstance(legacy, dict):
        return legacy
    known = {name: text for name, text in zip(FIELDS, texts, strict=True) if text is not None}
    return {**known, **(legacy or {})}
