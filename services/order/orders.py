"""Orders, which stay: `orders` and `order_items`, and their own HTTP methods."""

import uuid

from psycopg.types.json import Jsonb

from services.body import uuid_of, uuid_or_bad
from services.flows.carts import identity
from services.flows.orders import DELIVERED, Order, OrderLine, owned_order
from services.outbox import emit
from services.problems import BadRequest, Conflict, NotFound
from services.rules import Identity
from services.web import Answer, Call, Connection, Database, Row, Service

MOST_LISTED = 100
# A customer's id that is no uuid is only in the metadata.
SELECT = """
    SELECT o.id, o.order_number, coalesce(o.metadata ->> 'customer_id', o.customer_id::text),
    o.status, o.currency, o.subtotal, o.tax_amount, o.shipping_amount, o.discount_amount,
    o.total_amount, o.payment_id, o.payment_method, o.payment_status, o.shipping_address,
    o.billing_address, o.metadata ->> 'checkout_id', o.metadata ->> 'cart_id',
    (SELECT coalesce(json_agg(json_build_object('id', i.id, 'product_id', i.product_id,
                'product_sku', i.product_sku, 'product_name', i.product_name,
                'quantity', i.quantity, 'unit_price', i.unit_price::text,
                'total_price', i.total_price::text, 'warehouse_id', i.warehouse_id,
                'reservation_id', i.reservation_id) ORDER BY i.id), '[]')
       FROM order_items i WHERE i.order_id = o.id)
      FROM orders o
"""
BY_ID = SELECT + "WHERE o.id = %s"
BY_CUSTOMER = SELECT + "WHERE o.customer_id = %s ORDER BY o.created_at DESC LIMIT %s"
BY_OTHER_CUSTOMER = (
    SELECT
    + "WHERE o.customer_id IS NULL AND lower(o.metadata ->> 'customer_id') = %s"
    + " ORDER BY o.created_at DESC LIMIT %s"
)
INSERT = """
    INSERT INTO orders (id, order_number, customer_id, status, currency, subtotal, tax_amount,
                        shipping_amount, discount_amount, total_amount, payment_id, payment_method,
                        payment_status, shipping_address, billing_address, metadata)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT DO NOTHING RETURNING id
"""
INSERT_LINES = """
    INSERT INTO order_items (order_id, product_id, product_sku, product_name, quantity, unit_price,
                             total_price, warehouse_id, reservation_id)
    SELECT %s, * FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::int[], %s::numeric[],
                             %s::numeric[], %s::text[], %s::text[])
"""
DELIVER = """
    UPDATE orders SET status = %s, updated_at = clock_timestamp(),
           metadata = coalesce(metadata, '{}') || jsonb_build_object('delivered_at', now())
     WHERE id = %s AND status <> %s RETURNING id
"""
DELIVERABLE = ("pending", "confirmed", "shipped", DELIVERED)


class OldOrders:
    """See `Orders`. Also the HTTP methods of orders."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def routes(self, service: Service) -> None:
        """Add the methods to a service."""
        service.add("POST", "/orders", "PlaceOrder", self.place_order)
        service.add("GET", "/orders", "ListOrders", self.list_orders)
        service.add("GET", "/orders/{id}", "GetOrder", self.get_order)
        service.add("POST", "/orders/{id}/deliver", "DeliverOrder", self.deliver)

    async def place(self, order: Order) -> Order:
        """See `Orders.place`: whoever comes second finds the first one's order."""

        async def work(connection: Connection) -> None:
            customer = order.customer_id or ""
            metadata = {
                "checkout_id": str(order.checkout_id),
                "cart_id": str(order.cart_id),
                **({} if uuid_of(customer) else {"customer_id": customer}),
            }
            values = (
                order.id,
                order.order_number,
                uuid_of(customer),
                order.status,
                order.currency,
                order.subtotal,
                order.tax_amount,
                order.shipping_amount,
                order.discount_amount,
                order.total_amount,
                order.payment_id,
                order.payment_method,
                order.payment_status,
                Jsonb(order.shipping_address),
                Jsonb(order.billing_address),
                Jsonb(metadata),
            )
            if await (await connection.execute(INSERT, values)).fetchone() is None:
                return
            lines = order.items
            columns = (
                [line.product_id for line in lines],
                [line.product_sku for line in lines],
                [line.product_name for line in lines],
                [line.quantity for line in lines],
                [line.unit_price for line in lines],
                [line.total_price for line in lines],
                [line.warehouse_id for line in lines],
                [line.reservation_id for line in lines],
            )
            await connection.execute(INSERT_LINES, (order.id, *columns))

        await self._database.transact(work)
        placed = await self.get(order.id)
        if placed is None:
            raise Conflict("order_number_taken", f"{order.order_number} is another order's")
        return placed

    async def get(self, order_id: uuid.UUID) -> Order | None:
        """See `Orders.get`."""
        async with self._database.reading() as connection:
            return await self._read(connection, order_id)

    async def place_order(self, call: Call) -> Answer:
        """POST /orders: for the checkout service. The same checkout again: the same order."""
        try:
            order = Order.parse((await call.body()).fields)
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise BadRequest("bad_order", f"this is not an order: {error!r}") from None
        if order.checkout_id is None:
            raise BadRequest("bad_order", "an order names its checkout")
        return 201, (await self.place(order)).json()

    async def get_order(self, call: Call) -> Answer:
        """GET /orders/{id}. Services ask without an identity and see every order."""
        order = await self.get(uuid_or_bad(call.path("id"), "the id"))
        return 200, _visible(order, call).json()

    async def list_orders(self, call: Call) -> Answer:
        """GET /orders?customer_id=: newest first."""
        customer = call.query("customer_id") or call.header("x-customer-id")
        if not customer:
            raise BadRequest("identity_missing", "say whose orders: customer_id")
        if _known(call) and customer.lower() not in identity(call).routes:
            raise NotFound("customer_not_found", "there is no such customer")
        known = uuid_of(customer)
        query, key = (BY_CUSTOMER, known) if known else (BY_OTHER_CUSTOMER, customer.lower())
        async with self._database.reading() as connection:
            cursor = await connection.execute(query.encode(), (key, MOST_LISTED))
            return 200, {"orders": [_order(row).json() for row in await cursor.fetchall()]}

    async def deliver(self, call: Call) -> Answer:
        """POST /orders/{id}/deliver. Again: nothing changes."""
        order_id = uuid_or_bad(call.path("id"), "the id")

        async def work(connection: Connection) -> Order:
            order = _visible(await self._read(connection, order_id), call)
            if order.status not in DELIVERABLE:
                raise Conflict("wrong_status", f"the order is {order.status}")
            values = (DELIVERED, order_id, DELIVERED)
            if await (await connection.execute(DELIVER, values)).fetchone() is not None:
                about = {"order_id": str(order_id), "customer_id": order.customer_id}
                await emit(connection, "order.delivered", order_id, order.route, about)
            return _visible(await self._read(connection, order_id), call)

        return 200, (await self._database.transact(work)).json()

    async def _read(self, connection: Connection, order_id: uuid.UUID) -> Order | None:
        row = await (await connection.execute(BY_ID.encode(), (order_id,))).fetchone()
        return _order(row) if row is not None else None


def _order(row: Row) -> Order:
    *columns, checkout_id, cart_id, lines = row
    ids = [uuid_of(text) if text is not None else None for text in (checkout_id, cart_id)]
    return Order(*[*columns, *ids, tuple(OrderLine.parse(line) for line in lines)])


def _known(call: Call) -> bool:
    return bool(call.header("x-customer-id") or call.header("x-guest-token"))


def _visible(order: Order | None, call: Call) -> Order:
    if order is not None and not _known(call):
        return order
    return owned_order(order, identity(call) if _known(call) else Identity(None, ""))
