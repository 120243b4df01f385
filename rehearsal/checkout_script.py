"""A customer's checkout, from its start to the order, held against what was acknowledged."""

import asyncio
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rehearsal.browser import Browser, Identity, Json, Reply, Unexpected
from rehearsal.cart_script import CartScript, CartState

TOTALS = ("subtotal", "discount_amount", "shipping_amount", "tax_amount", "total_amount")
FIELDS = (
    "status",
    "shipping_address",
    "billing_address",
    "shipping_method_id",
    "payment_method_id",
    "order_id",
    "order_number",
    *TOTALS,
)


@dataclass
class CheckoutState:
    """What a checkout holds after its last acknowledged write, by the names of its JSON."""

    id: str
    cart: CartState
    fields: Json

    @property
    def who(self) -> Identity:
        """Whose it is."""
        return self.cart.who

    @property
    def order_id(self) -> str:
        """The order that came of it."""
        return str(self.fields["order_id"])


class CheckoutScript:
    """The checkout's methods as a customer uses them."""

    def __init__(self, browser: Browser, carts: CartScript) -> None:
        self._browser, self._carts = browser, carts

    async def start(self, cart: CartState) -> CheckoutState:
        """Go to the till: from now on the cart stays as it is."""
        reply = await self._browser.send(
            "POST",
            "/checkouts",
            cart.who,
            body={"cart_id": cart.id},
            expect=201,
            subjects=[("cart", cart.id)],
        )
        self._carts.moved_on(cart, "checkout", reply)
        lines = sum((Decimal(item[2]) for item in cart.items.values()), Decimal("0.00"))
        first: Json = dict.fromkeys(FIELDS) | {"status": "started", "subtotal": f"{lines:.2f}"}
        # What it comes to with discounts and tax is the service's own arithmetic.
        checkout = CheckoutState(reply.body["id"], cart, first)
        self._take(checkout, reply, *TOTALS[1:])
        self._settle(reply, "StartCheckout", checkout)
        return checkout

    async def ship_to(self, checkout: CheckoutState, address: Json) -> None:
        """Say where the parcel goes."""
        reply = await self._put(checkout, "shipping-address", {"address": address})
        checkout.fields["shipping_address"] = address
        self._settle(reply, "UpdateShippingAddress", checkout)

    async def bill_to(self, checkout: CheckoutState, address: Json) -> None:
        """Say where the bill goes."""
        reply = await self._put(checkout, "billing-address", {"address": address})
        checkout.fields["billing_address"] = address
        self._settle(reply, "UpdateBillingAddress", checkout)

    async def ship_by(self, checkout: CheckoutState, method: str) -> None:
        """Say how it is sent; this changes what it comes to."""
        reply = await self._put(checkout, "shipping-method", {"method_id": method})
        checkout.fields["shipping_method_id"] = method
        self._take(checkout, reply, *TOTALS[1:])
        self._settle(reply, "SelectShippingMethod", checkout)

    async def preview(self, checkout: CheckoutState) -> None:
        """Look at everything once more: checkout, lines and promotions."""
        path = f"/checkouts/{checkout.id}/preview"
        reply = await self._browser.send("GET", path, checkout.who)
        self._compare(reply, checkout)
        body = {**reply.body, "id": checkout.cart.id, "version": checkout.cart.version}
        seen = CartState.seen({**body, "status": checkout.cart.status}, checkout.who)
        same = seen.content() == checkout.cart.content()
        reason = "the preview shows other lines than the cart had"
        self._browser.must(same, reply, reason, "checkout", checkout.id, checkout.who)

    async def confirm(self, checkout: CheckoutState, clicks: int) -> None:
        """Buy; with two clicks at once there must still be one order."""
        checkout.fields |= {"status": "completed", "payment_method_id": "card-4242"}
        results = await asyncio.gather(
            *(self._confirm(checkout) for _ in range(clicks)), return_exceptions=True
        )
        replies = [result for result in results if isinstance(result, Reply)]
        for reply in replies:
            if checkout.fields["order_id"] is None:
                self._take(checkout, reply, "order_id", "order_number")
            self._note(reply, "ConfirmCheckout", checkout)
        if replies:
            self._carts.moved_on(checkout.cart, "completed", replies[0])
        for reply in replies:
            self._compare(reply, checkout)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        if not all(checkout.fields[name] for name in ("order_id", "order_number")):
            tell = {"subjects": [("checkout", checkout.id)], "route": checkout.who.route}
            reply = replies[0]
            raise self._browser.unexpected(tell, reply.served, "no order", reply.body)

    async def find_order(self, checkout: CheckoutState) -> list[tuple[int, int]]:
        """The order must be there as it was confirmed. Returns (item id, quantity) of its lines."""
        reply = await self._browser.send("GET", f"/orders/{checkout.order_id}", checkout.who)
        bought = sorted((i["product_sku"], i["quantity"]) for i in reply.body["items"])
        wanted = sorted((item[0], item[1]) for item in checkout.cart.items.values())
        same = bought == wanted and reply.body["checkout_id"] == checkout.id
        reason = f"the order holds {bought} instead of {wanted}"
        self._browser.must(same, reply, reason, "order", checkout.order_id, checkout.who)
        return [(int(item["id"]), int(item["quantity"])) for item in reply.body["items"]]

    async def deliver(self, checkout: CheckoutState) -> None:
        """The parcel arrives."""
        subject = ("order", checkout.order_id)
        path = f"/orders/{checkout.order_id}/deliver"
        reply = await self._browser.send("POST", path, checkout.who, body={}, subjects=[subject])
        route, expect = checkout.who.route, {"status": "delivered", "checkout_id": checkout.id}
        self._browser.acknowledged(reply, "DeliverOrder", *subject, route, expect)

    async def _confirm(self, checkout: CheckoutState) -> Reply | Unexpected:
        return await self._browser.send(
            "POST",
            f"/checkouts/{checkout.id}/confirm",
            checkout.who,
            body={"payment_method_id": "card-4242"},
            subjects=[("checkout", checkout.id), ("cart", checkout.cart.id)],
        )

    async def _put(self, checkout: CheckoutState, what: str, body: Json) -> Reply:
        path, subjects = f"/checkouts/{checkout.id}/{what}", [("checkout", checkout.id)]
        return await self._browser.send("PUT", path, checkout.who, body=body, subjects=subjects)

    def _take(self, checkout: CheckoutState, reply: Reply, *names: str) -> None:
        for name in names:
            checkout.fields[name] = reply.body.get(name)

    def _settle(self, reply: Reply, op: str, checkout: CheckoutState) -> None:
        self._note(reply, op, checkout)
        self._compare(reply, checkout)

    def _note(self, reply: Reply, op: str, checkout: CheckoutState) -> None:
        content = {"cart_id": checkout.cart.id, **checkout.fields}
        route = checkout.who.route
        self._browser.acknowledged(reply, op, "checkout", checkout.id, route, content)

    def _compare(self, reply: Reply, checkout: CheckoutState) -> None:
        seen: dict[str, Any] = {name: reply.body.get(name) for name in FIELDS}
        wrong = [name for name in FIELDS if seen[name] != checkout.fields[name]]
        reason = "; ".join(
            f"{name}: {seen[name]} instead of {checkout.fields[name]}" for name in wrong
        )
        self._browser.must(not wrong, reply, reason, "checkout", checkout.id, checkout.who)
