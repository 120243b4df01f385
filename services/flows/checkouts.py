"""The checkout: StartCheckout, GetCheckout, UpdateShippingAddress, UpdateBillingAddress,
SelectShippingMethod, PreviewOrder, ConfirmCheckout."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Protocol

from services import rules
from services.body import uuid_or_bad
from services.clients import Declined, Partners
from services.flows.carts import CartStore, identity, owned, tell
from services.flows.model import Address, AddressKind, Cart, Checkout, Item, now, time_text
from services.flows.orders import Order, OrderLine, Orders
from services.outbox import emit
from services.problems import BadRequest, Conflict, NotFound, Unprocessable
from services.web import Answer, Call, Connection, Database, Service

LIFETIME = timedelta(days=1)
Change = Callable[[Connection, Checkout], Awaitable[None]]


class CheckoutStore(Protocol):
    """Where one side keeps checkouts."""

    async def read(self, connection: Connection, checkout_id: uuid.UUID) -> Checkout | None:
        """A checkout as of one moment."""

    async def lock(self, connection: Connection, checkout_id: uuid.UUID) -> Checkout | None:
        """A checkout that nobody else can change before the transaction ends."""

    async def of_cart(self, connection: Connection, cart_id: uuid.UUID) -> Checkout | None:
        """The latest checkout of a cart."""

    async def insert(self, connection: Connection, checkout: Checkout) -> None:
        """A new checkout."""

    async def save(self, connection: Connection, checkout: Checkout) -> None:
        """Everything but the addresses."""

    async def save_address(
        self, connection: Connection, checkout: Checkout, kind: AddressKind
    ) -> None:
        """One of the two addresses."""


class Checkouts:
    """The checkout's methods over one side's stores."""

    def __init__(
        self,
        database: Database,
        store: CheckoutStore,
        carts: CartStore,
        orders: Orders,
        partners: Partners,
    ) -> None:
        self._database = database
        self._store = store
        self._carts = carts
        self._orders = orders
        self._partners = partners

    def routes(self, service: Service) -> None:
        """Add the methods to a service."""
        service.add("POST", "/checkouts", "StartCheckout", self.start)
        service.add("GET", "/checkouts/{id}", "GetCheckout", self.get)
        at = "/checkouts/{id}/"
        service.add("PUT", at + "shipping-address", "UpdateShippingAddress", self.ship_to)
        service.add("PUT", at + "billing-address", "UpdateBillingAddress", self.bill_to)
        service.add("PUT", at + "shipping-method", "SelectShippingMethod", self.ship_by)
        service.add("GET", at + "preview", "PreviewOrder", self.preview)
        service.add("POST", at + "confirm", "ConfirmCheckout", self.confirm)

    async def start(self, call: Call) -> Answer:
        """POST /checkouts {cart_id}. From here on the cart stays as it is. Again: the same."""
        who = identity(call)
        cart_id = (await call.body()).uuid("cart_id")
        if who.customer_id is None:
            raise BadRequest("identity_missing", "a checkout needs X-Customer-Id")
        customer_id = who.customer_id

        async def work(connection: Connection) -> Answer:
            cart = owned(await self._carts.lock(connection, cart_id), who)
            if cart.status == "checkout":
                known = await self._store.of_cart(connection, cart_id)
                if known is not None:
                    return 200, _theirs(known, who).json()
            rules.must_be_open(cart.status)
            if not cart.items:
                raise Unprocessable("cart_empty", "the cart has no items")
            moment = now()
            checkout = Checkout(
                id=uuid.uuid4(),
                cart_id=cart.id,
                customer_id=customer_id,
                status="started",
                totals=cart.totals(),
                created_at=moment,
                expires_at=moment + LIFETIME,
            )
            cart.status = "checkout"
            cart.version += 1
            await self._carts.save(connection, cart)
            await self._store.insert(connection, checkout)
            await self._emit(connection, "checkout.started", checkout)
            return 201, checkout.json()

        return await self._database.transact(work)

    async def get(self, call: Call) -> Answer:
        """GET /checkouts/{id}."""
        return 200, (await self._read(call)).json()

    async def ship_to(self, call: Call) -> Answer:
        """PUT /checkouts/{id}/shipping-address {address}."""
        address: Address = (await call.body()).object("address")

        async def change(connection: Connection, checkout: Checkout) -> None:
            checkout.shipping_address = address
            await self._store.save_address(connection, checkout, "shipping")

        return 200, await self._change(call, change)

    async def bill_to(self, call: Call) -> Answer:
        """PUT /checkouts/{id}/billing-address {address}."""
        address: Address = (await call.body()).object("address")

        async def change(connection: Connection, checkout: Checkout) -> None:
            checkout.billing_address = address
            await self._store.save_address(connection, checkout, "billing")

        return 200, await self._change(call, change)

    async def ship_by(self, call: Call) -> Answer:
        """PUT /checkouts/{id}/shipping-method {method_id}."""
        method = await self._partners.shipping_method((await call.body()).text("method_id", 100))

        async def change(connection: Connection, checkout: Checkout) -> None:
            cart = await self._cart(connection, checkout)
            free = any(each.type == rules.FREE_SHIPPING for each in cart.promotions)
            checkout.shipping_method_id = method.id
            checkout.shipping_method_name = method.name
            checkout.totals = cart.totals(rules.NOTHING if free else method.cost)
            await self._store.save(connection, checkout)

        return 200, await self._change(call, change)

    async def preview(self, call: Call) -> Answer:
        """GET /checkouts/{id}/preview: the checkout with the cart's lines and promotions."""
        checkout = await self._read(call)
        async with self._database.reading() as connection:
            cart = await self._cart(connection, checkout)
        seen = cart.json()
        lines = {"items": seen["items"], "promotions": seen["promotions"]}
        return 200, {**checkout.json(), "currency": cart.currency, **lines}

    async def confirm(self, call: Call) -> Answer:
        """POST /checkouts/{id}/confirm {payment_method_id}. Twice, even at once: one order.

        First the checkout is frozen, then it is paid and the order is made, then it is completed.
        No transaction is open while others are asked. Whoever comes after a break at any point
        goes the same way again: payment and order know the checkout's id.
        """
        method_id = (await call.body()).text("payment_method_id", 100)
        who, checkout_id = identity(call), uuid_or_bad(call.path("id"), "the id")

        async def freeze(connection: Connection) -> tuple[Checkout, Cart]:
            checkout = _theirs(await self._store.lock(connection, checkout_id), who)
            cart = await self._cart(connection, checkout)
            if checkout.status == "started":
                _must_be_complete(checkout, cart)
                checkout.status = "confirming"
                checkout.payment_method_id = method_id
                checkout.payment_method_type = "card"
                await self._store.save(connection, checkout)
            elif checkout.status not in ("confirming", "completed"):
                raise Conflict("checkout_not_open", f"the checkout is {checkout.status}")
            return checkout, cart

        checkout, cart = await self._database.transact(freeze)
        if checkout.status == "completed":
            return 200, checkout.json()
        order = await self._pay_and_order(checkout, cart)
        return 200, (await self._complete(checkout.id, who, order)).json()

    async def _pay_and_order(self, checkout: Checkout, cart: Cart) -> Order:
        try:
            lines = await asyncio.gather(*(self._line(checkout, item) for item in cart.items))
            payment_id = await self._partners.charge(
                checkout.totals.total,
                cart.currency,
                checkout.payment_method_id or "",
                f"checkout-{checkout.id}",
            )
        except Declined:
            await self._thaw(checkout.id)
            raise
        come_to = checkout.totals
        return await self._orders.place(
            Order(
                id=rules.order_id(checkout.id),
                order_number=rules.order_number(checkout.id),
                customer_id=checkout.customer_id,
                status="confirmed",
                currency=cart.currency,
                subtotal=come_to.subtotal,
                tax_amount=come_to.tax,
                shipping_amount=come_to.shipping,
                discount_amount=come_to.discount,
                total_amount=come_to.total,
                payment_id=payment_id,
                payment_method=checkout.payment_method_type,
                payment_status="captured",
                shipping_address=checkout.shipping_address,
                billing_address=checkout.billing_address or checkout.shipping_address,
                checkout_id=checkout.id,
                cart_id=cart.id,
                items=tuple(lines),
            )
        )

    async def _line(self, checkout: Checkout, item: Item) -> OrderLine:
        key = f"checkout-{checkout.id}-{item.id}"
        product = await self._partners.product(item.product_sku)
        reservation = await self._partners.reserve(item.product_sku, item.quantity, key)
        return OrderLine(
            product_id=str(item.product_id) if item.product_id is not None else None,
            product_sku=item.product_sku,
            product_name=product.name,
            quantity=item.quantity,
            unit_price=item.unit_price,
            total_price=item.total_price,
            warehouse_id=reservation.warehouse_id,
            reservation_id=reservation.id,
        )

    async def _complete(
        self, checkout_id: uuid.UUID, who: rules.Identity, order: Order
    ) -> Checkout:
        async def work(connection: Connection) -> Checkout:
            checkout = _theirs(await self._store.lock(connection, checkout_id), who)
            if checkout.status == "completed":
                return checkout
            checkout.status = "completed"
            checkout.completed_at = now()
            checkout.order_id, checkout.order_number = str(order.id), order.order_number
            await self._store.save(connection, checkout)
            cart = await self._carts.lock(connection, checkout.cart_id)
            await self._emit(connection, "checkout.completed", checkout)
            if cart is not None and cart.status != "completed":
                cart.status = "completed"
                cart.version += 1
                await self._carts.save(connection, cart)
                await tell(connection, "cart.converted", cart, {"into": "order"})
            return checkout

        return await self._database.transact(work)

    async def _thaw(self, checkout_id: uuid.UUID) -> None:
        async def work(connection: Connection) -> None:
            checkout = await self._store.lock(connection, checkout_id)
            if checkout is not None and checkout.status == "confirming":
                checkout.status = "started"
                checkout.payment_method_id = checkout.payment_method_type = None
                await self._store.save(connection, checkout)

        await self._database.transact(work)

    async def _read(self, call: Call) -> Checkout:
        who, checkout_id = identity(call), uuid_or_bad(call.path("id"), "the id")
        async with self._database.reading() as connection:
            return _theirs(await self._store.read(connection, checkout_id), who)

    async def _change(self, call: Call, change: Change) -> dict[str, Any]:
        who, checkout_id = identity(call), uuid_or_bad(call.path("id"), "the id")

        async def work(connection: Connection) -> Checkout:
            checkout = _theirs(await self._store.lock(connection, checkout_id), who)
            if checkout.status != "started":
                raise Conflict("checkout_not_open", f"the checkout is {checkout.status}")
            await change(connection, checkout)
            return checkout

        return (await self._database.transact(work)).json()

    async def _cart(self, connection: Connection, checkout: Checkout) -> Cart:
        cart = await self._carts.read(connection, checkout.cart_id)
        if cart is None:
            raise Conflict("cart_missing", "the checkout's cart is not there")
        return cart

    async def _emit(self, connection: Connection, type_: str, checkout: Checkout) -> None:
        data = {
            "checkout_id": str(checkout.id),
            "cart_id": str(checkout.cart_id),
            "customer_id": checkout.customer_id,
            "total_amount": str(checkout.totals.total),
            "at": time_text(now()),
        }
        if checkout.order_id is not None:
            data["order_id"] = checkout.order_id
        await emit(connection, type_, checkout.id, checkout.customer_id.lower(), data)


def _theirs(checkout: Checkout | None, who: rules.Identity) -> Checkout:
    if checkout is None or checkout.customer_id.lower() not in who.routes:
        raise NotFound("checkout_not_found", "there is no such checkout")
    return checkout


def _must_be_complete(checkout: Checkout, cart: Cart) -> None:
    if cart.status != "checkout":
        raise Conflict("cart_not_in_checkout", f"the cart is {cart.status}")
    if checkout.shipping_address is None:
        raise Unprocessable("no_shipping_address", "say where to send it first")
    if checkout.shipping_method_id is None:
        raise Unprocessable("no_shipping_method", "say how to send it first")
