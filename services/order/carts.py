"""Carts as order_db keeps them: `cart_sessions`, promotions as a list in its metadata."""

import uuid

from psycopg import sql
from psycopg.types.json import Jsonb

from services.flows.lines import CartLines
from services.flows.model import Cart, Promotion, notes_of
from services.web import Connection

READ = """
    SELECT c.id, c.customer_id, c.guest_token, c.status, c.currency, c.version, c.expires_at,
           c.metadata, {lines}
      FROM cart_sessions c WHERE c.id = %s
"""
LOCK = "SELECT FROM cart_sessions WHERE id = %s FOR UPDATE"
INSERT = """
    INSERT INTO cart_sessions (id, session_id, customer_id, guest_token, status, currency, version,
                               expires_at, metadata, created_at, updated_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, clock_timestamp(), clock_timestamp())
"""
SAVE = """
    UPDATE cart_sessions SET status = %s, version = %s, updated_at = clock_timestamp()
     WHERE id = %s
"""
# Metadata is patched, never written whole: what nobody knows any more stays exactly as it was.
OBJECT = "CASE WHEN jsonb_typeof(metadata) = 'object' THEN metadata ELSE '{{}}' END"
SAVE_NOTES = "UPDATE cart_sessions SET metadata = {object} || %s WHERE id = %s"
KEEP_PROMOTIONS = """
    UPDATE cart_sessions
       SET metadata = (metadata - 'promotions') || coalesce(
               (SELECT jsonb_build_object('promotions', jsonb_agg(p.entry ORDER BY p.place))
                  FROM jsonb_array_elements(metadata -> 'promotions')
                       WITH ORDINALITY AS p (entry, place)
                 WHERE p.place = ANY(%s)
                HAVING count(*) > 0), '{}')
     WHERE id = %s AND jsonb_typeof(metadata -> 'promotions') = 'array'
"""
# The amount is a JSON number with two places.
ADD_PROMOTION = """
    UPDATE cart_sessions
       SET metadata = {object} || jsonb_build_object('promotions',
               CASE WHEN jsonb_typeof(metadata -> 'promotions') = 'array'
                    THEN metadata -> 'promotions' ELSE '[]' END
               || jsonb_build_array(jsonb_build_object('code', %s::text, 'type', %s::text,
                                    'discount_amount', %s::numeric(10, 2))))
     WHERE id = %s
"""


class OldCarts(CartLines):
    """See `CartStore`."""

    def __init__(self) -> None:
        super().__init__("cart_session_id")
        self._read = sql.SQL(READ).format(lines=self.selected).as_string().encode()
        patched = sql.SQL(OBJECT).format()
        self._save_notes = sql.SQL(SAVE_NOTES).format(object=patched).as_string().encode()
        self._add_promotion = sql.SQL(ADD_PROMOTION).format(object=patched).as_string().encode()

    async def read(self, connection: Connection, cart_id: uuid.UUID) -> Cart | None:
        """See `CartStore.read`."""
        row = await (await connection.execute(self._read, (cart_id,))).fetchone()
        if row is None:
            return None
        *columns, metadata, lines = row
        cart = Cart(*columns)
        cart.items, cart.notes = self.parse(lines), notes_of(metadata)
        listed = metadata.get("promotions") if isinstance(metadata, dict) else None
        if isinstance(listed, list):
            cart.promotions = [
                Promotion.parse(entry, place) for place, entry in enumerate(listed, start=1)
            ]
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
            cart.customer_id,
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
            await connection.execute(self._save_notes, (Jsonb(cart.notes), cart.id))
        kept = [each.place for each in cart.promotions if each.place]
        await connection.execute(KEEP_PROMOTIONS, (kept, cart.id))
        for each in cart.promotions:
            if not each.place:
                values = (each.code, each.type, each.discount_amount, cart.id)
                await connection.execute(self._add_promotion, values)
