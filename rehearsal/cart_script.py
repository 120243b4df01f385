"""A shopper's own idea of a cart, kept beside each answer: what was acknowledged must be there."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from rehearsal.browser import Browser, Identity, Json, Reply
from rehearsal.stock import Good

ENOUGH = 1000  # the most of one product in a cart


@dataclass
class CartState:
    """What a cart holds after its last acknowledged write. `items`: id -> [SKU, quantity, total]"""

    id: str
    who: Identity
    status: str = "active"
    version: int = 1
    items: dict[int, list[Any]] = field(default_factory=dict)
    promotions: list[str] = field(default_factory=list)

    @classmethod
    def seen(cls, body: Json, who: Identity) -> "CartState":
        """As an answer tells it."""
        items = {
            int(item["id"]): [item["product_sku"], item["quantity"], item["total_price"]]
            for item in body["items"]
        }
        codes = sorted(promotion["code"] for promotion in body["promotions"])
        return cls(body["id"], who, body["status"], body["version"], items, codes)

    def content(self) -> Json:
        """What must be found in the database."""
        return {
            "status": self.status,
            "version": self.version,
            "items": {str(number): list(item) for number, item in sorted(self.items.items())},
            "promotions": sorted(self.promotions),
        }

    def line(self, sku: str) -> int | None:
        """The id of the line of this SKU."""
        return next((number for number, item in self.items.items() if item[0] == sku), None)


def total(cents: int, quantity: int) -> str:
    """The price of a line as the services write it."""
    return f"{Decimal(cents * quantity) / 100:.2f}"


def _each(item: list[Any]) -> Decimal:
    return Decimal(item[2]) / int(item[1])


class CartScript:
    """The cart's methods as a customer uses them; every answer is held against the state."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    async def create(self, who: Identity) -> CartState:
        """Take a cart."""
        reply = await self._browser.send("POST", "/carts", who, body={}, expect=201)
        cart = CartState(reply.body["id"], who)
        self._settle(reply, "CreateCart", cart)
        return cart

    async def find(self, cart_id: str, who: Identity) -> CartState:
        """A cart from before the run, as it is now."""
        reply = await self._browser.send("GET", f"/carts/{cart_id}", who)
        return CartState.seen(reply.body, who)

    async def look(self, cart: CartState) -> None:
        """Look at a cart: it must be as it was left."""
        reply = await self._browser.send("GET", f"/carts/{cart.id}", cart.who)
        self._compare(reply, cart)

    async def add(self, cart: CartState, good: Good, quantity: int) -> None:
        """Put a product in; of one that is there already there are more."""
        body = {"product_sku": good.sku, "quantity": quantity}
        reply = await self._write(cart, "POST", "/items", body, 201)
        number = cart.line(good.sku)
        if number is None:
            # The line's id is the database's choice; all else of it is known.
            ids = [int(i["id"]) for i in reply.body["items"] if i["product_sku"] == good.sku]
            number = ids[0] if ids else 0
            cart.items[number] = [good.sku, 0, "0.00"]
        line = cart.items[number]
        line[1] += quantity
        line[2] = total(good.cents, line[1])
        self._settle_next(reply, "AddItem", cart)

    async def change(self, cart: CartState, number: int, quantity: int) -> None:
        """Change the quantity of a line."""
        body = {"quantity": quantity}
        reply = await self._write(cart, "PATCH", f"/items/{number}", body, 200)
        line = cart.items[number]
        line[1:] = [quantity, f"{_each(line) * quantity:.2f}"]
        self._settle_next(reply, "UpdateItem", cart)

    async def remove(self, cart: CartState, number: int) -> None:
        """Take a line out."""
        reply = await self._write(cart, "DELETE", f"/items/{number}", None, 200)
        del cart.items[number]
        self._settle_next(reply, "RemoveItem", cart)

    async def clear(self, cart: CartState) -> None:
        """Take everything out."""
        reply = await self._write(cart, "DELETE", "/items", None, 200)
        cart.items.clear()
        cart.promotions.clear()
        self._settle_next(reply, "ClearCart", cart)

    async def promote(self, cart: CartState, code: str) -> None:
        """Apply a promotion; the same code again is still one."""
        reply = await self._write(cart, "POST", "/promotions", {"code": code}, 200)
        cart.promotions = [*(c for c in cart.promotions if c != code), code]
        self._settle_next(reply, "ApplyPromotion", cart)

    async def demote(self, cart: CartState, code: str) -> None:
        """Take a promotion back."""
        body = {"code": code, "remove": True}
        reply = await self._write(cart, "POST", "/promotions", body, 200)
        cart.promotions = [c for c in cart.promotions if c != code]
        self._settle_next(reply, "RemovePromotion", cart)

    async def merge(self, cart: CartState, guest: CartState) -> None:
        """Log in: the guest's cart goes into the customer's, and is closed."""
        who = cart.who.merging(guest.who)
        reply = await self._browser.send(
            "POST",
            f"/carts/{cart.id}/merge",
            who,
            body={"guest_cart_id": guest.id},
            subjects=[("cart", cart.id), ("cart", guest.id)],
        )
        # The close is a write of its own, acknowledged with the merge.
        guest.status = "completed"
        guest.version += 1
        self._imply(reply, "CloseCart", guest)
        for item in guest.items.values():
            number = cart.line(item[0])
            if number is None:
                ids = [int(i["id"]) for i in reply.body["items"] if i["product_sku"] == item[0]]
                cart.items[ids[0] if ids else -len(cart.items)] = list(item)
                continue
            line = cart.items[number]
            quantity = min(line[1] + item[1], ENOUGH)
            line[1:] = [quantity, f"{_each(line) * quantity:.2f}"]
        self._settle_next(reply, "MergeCarts", cart)

    def moved_on(self, cart: CartState, status: str, reply: Reply) -> None:
        """A checkout that starts or ends writes its cart too."""
        cart.status = status
        cart.version += 1
        self._imply(reply, "LockCart" if status == "checkout" else "CompleteCart", cart)

    async def _write(
        self, cart: CartState, method: str, path: str, body: Json | None, expect: int
    ) -> Reply:
        return await self._browser.send(
            method,
            f"/carts/{cart.id}{path}",
            cart.who,
            body=body,
            expect=expect,
            subjects=[("cart", cart.id)],
        )

    def _settle_next(self, reply: Reply, op: str, cart: CartState) -> None:
        cart.version += 1
        self._settle(reply, op, cart)

    def _settle(self, reply: Reply, op: str, cart: CartState) -> None:
        self._note(reply, op, cart)
        self._compare(reply, cart)

    def _note(self, reply: Reply, op: str, cart: CartState) -> None:
        content = cart.content()
        self._browser.acknowledged(reply, op, "cart", cart.id, cart.who.route, content)

    def _imply(self, reply: Reply, op: str, cart: CartState) -> None:
        content = cart.content()
        self._browser.implied(reply, op, "cart", cart.id, cart.who.route, content)

    def _compare(self, reply: Reply, cart: CartState) -> None:
        """The answer must hold exactly what was acknowledged before it."""
        seen = CartState.seen(reply.body, cart.who).content()
        wanted = cart.content()
        wrong = [name for name in wanted if seen[name] != wanted[name]]
        reason = "; ".join(f"{name}: {seen[name]} instead of {wanted[name]}" for name in wrong)
        self._browser.must(not wrong, reply, reason, "cart", cart.id, cart.who)
