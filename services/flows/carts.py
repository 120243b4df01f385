"""The cart: CreateCart, GetCart, AddItem, UpdateItem, RemoveItem, ClearCart, MergeCarts,
ApplyPromotion; and the close of a guest's cart, which comes before its merge."""

import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Protocol

from services import rules
from services.body import LARGEST_QUANTITY, uuid_or_bad
from services.clients import Partners
from services.flows.model import Cart, Item, Promotion, now
from services.outbox import emit
from services.problems import BadRequest, Conflict, NotFound, Unprocessable
from services.web import Answer, Call, Connection, Database, Service

LIFETIME = timedelta(days=7)
MOST_LINES = 100
MOST_PROMOTIONS = 20


class CartStore(Protocol):
    """Where one side keeps carts."""

    async def read(self, connection: Connection, cart_id: uuid.UUID) -> Cart | None:
        """A cart as of one moment."""

    async def lock(self, connection: Connection, cart_id: uuid.UUID) -> Cart | None:
        """A cart that nobody else can change before the transaction ends."""

    async def insert(self, connection: Connection, cart: Cart) -> None:
        """A new cart without lines."""

    async def add_items(
        self, connection: Connection, cart_id: uuid.UUID, items: Sequence[Item]
    ) -> None:
        """New lines; gives each its id."""

    async def change_item(self, connection: Connection, item: Item) -> None:
        """Quantity and prices of a line."""

    async def remove_items(self, connection: Connection, item_ids: Sequence[int]) -> None:
        """Remove lines."""

    async def save(self, connection: Connection, cart: Cart) -> None:
        """Status and version."""

    async def save_details(self, connection: Connection, cart: Cart) -> None:
        """Promotions and notes."""


Change = Callable[[Connection, Cart], Awaitable[None]]


class Carts:
    """The cart's methods over one side's store."""

    def __init__(self, database: Database, store: CartStore, partners: Partners) -> None:
        self._database = database
        self._store = store
        self._partners = partners

    def routes(self, service: Service) -> None:
        """Add the methods to a service."""
        service.add("POST", "/carts", "CreateCart", self.create)
        service.add("GET", "/carts/{id}", "GetCart", self.get)
        service.add("POST", "/carts/{id}/items", "AddItem", self.add_item)
        service.add("PATCH", "/carts/{id}/items/{item_id}", "UpdateItem", self.update_item)
        service.add("DELETE", "/carts/{id}/items/{item_id}", "RemoveItem", self.remove_item)
        service.add("DELETE", "/carts/{id}/items", "ClearCart", self.clear)
        service.add("POST", "/carts/{id}/merge", "MergeCarts", self.merge)
        service.add("POST", "/carts/{id}/promotions", "ApplyPromotion", self.apply_promotion)
        service.add("POST", "/carts/{id}/close", "CloseCart", self.close)

    async def create(self, call: Call) -> Answer:
        """POST /carts {currency?}."""
        who = identity(call)
        currency = (await call.body()).optional_text("currency", 3) or rules.CURRENCY
        if not (len(currency) == 3 and currency.isascii() and currency.isupper()):
            raise Unprocessable("bad_currency", "currency is three capital letters")
        guest = who.guest_token if who.customer_id is None else None
        cart = Cart(
            id=uuid.uuid4(),
            customer_id=who.customer_id,
            guest_token=guest,
            status="active",
            currency=currency,
            version=1,
            expires_at=now() + LIFETIME,
        )

        async def work(connection: Connection) -> None:
            await self._store.insert(connection, cart)
            await tell(connection, "cart.created", cart, {})

        await self._database.transact(work)
        return 201, cart.json()

    async def get(self, call: Call) -> Answer:
        """GET /carts/{id}."""
        who, cart_id = identity(call), cart_id_of(call)
        async with self._database.reading() as connection:
            cart = owned(await self._store.read(connection, cart_id), who)
        return 200, cart.json()

    async def add_item(self, call: Call) -> Answer:
        """POST /carts/{id}/items {product_sku or product_id, quantity}. Same SKU: one line."""
        body = await call.body()
        quantity = body.quantity("quantity")
        wanted = body.optional_text("product_sku", 100) or body.text("product_id")
        who, cart_id = identity(call), cart_id_of(call)
        product = await self._partners.product(wanted)
        product_id = uuid_or_bad(product.product_id, "the catalog's product_id")

        async def change(connection: Connection, cart: Cart) -> None:
            price = product.price
            line = cart.line(product.sku)
            if line is not None:
                line.set_quantity(_enough(line.quantity + quantity), price)
                await self._store.change_item(connection, line)
                await tell(connection, "cart.item.updated", cart, line.json())
                return
            _must_fit(cart, 1)
            total = rules.line_total(price, quantity)
            line = Item(product_id, product.sku, quantity, price, total)
            await self._store.add_items(connection, cart.id, [line])
            cart.items.append(line)
            await tell(connection, "cart.item.added", cart, line.json())

        return 201, await self._change(cart_id, who, change)

    async def update_item(self, call: Call) -> Answer:
        """PATCH /carts/{id}/items/{item_id} {quantity}."""
        item_id = _item_id(call)
        quantity = (await call.body()).quantity("quantity")

        async def change(connection: Connection, cart: Cart) -> None:
            line = _line(cart, item_id)
            line.set_quantity(quantity)
            await self._store.change_item(connection, line)
            await tell(connection, "cart.item.updated", cart, line.json())

        return 200, await self._change(cart_id_of(call), identity(call), change)

    async def remove_item(self, call: Call) -> Answer:
        """DELETE /carts/{id}/items/{item_id}."""
        item_id = _item_id(call)

        async def change(connection: Connection, cart: Cart) -> None:
            line = _line(cart, item_id)
            await self._store.remove_items(connection, [line.id])
            cart.items.remove(line)
            await tell(connection, "cart.item.removed", cart, line.json())

        return 200, await self._change(cart_id_of(call), identity(call), change)

    async def clear(self, call: Call) -> Answer:
        """DELETE /carts/{id}/items. Promotions go with the lines that earned them."""

        async def change(connection: Connection, cart: Cart) -> None:
            removed, cart.items = cart.items, []
            if removed:
                await self._store.remove_items(connection, [line.id for line in removed])
            if cart.promotions:
                cart.promotions = []
                await self._store.save_details(connection, cart)
            for line in removed:
                await tell(connection, "cart.item.removed", cart, line.json())

        return 200, await self._change(cart_id_of(call), identity(call), change)

    async def apply_promotion(self, call: Call) -> Answer:
        """POST /carts/{id}/promotions {code, remove?}. The same code again is valued anew."""
        body = await call.body()
        code = body.text("code", 50).upper()
        who, cart_id = identity(call), cart_id_of(call)
        if body.flag("remove"):

            async def remove(connection: Connection, cart: Cart) -> None:
                kept = [each for each in cart.promotions if not each.is_code(code)]
                if len(kept) == len(cart.promotions):
                    raise NotFound("promotion_not_applied", f"the cart has no promotion {code}")
                cart.promotions = kept
                await self._store.save_details(connection, cart)

            return 200, await self._change(cart_id, who, remove)

        # The partner is asked before the cart is locked: what a promotion gives is settled by the
        # subtotal of that moment, as if it had been applied just then.
        async with self._database.reading() as connection:
            seen = owned(await self._store.read(connection, cart_id), who)
        rules.must_be_open(seen.status)
        found = await self._partners.discount(code, seen.totals().subtotal)

        async def apply(connection: Connection, cart: Cart) -> None:
            kept = [each for each in cart.promotions if not each.is_code(code)]
            if len(kept) >= MOST_PROMOTIONS:
                raise Unprocessable("too_many_promotions", f"at most {MOST_PROMOTIONS}")
            cart.promotions = [*kept, Promotion(found.code, found.type, found.amount)]
            await self._store.save_details(connection, cart)

        return 200, await self._change(cart_id, who, apply)

    async def close(self, call: Call) -> Answer:
        """POST /carts/{id}/close: a guest's cart gets its last write. Again: nothing changes."""
        who, cart_id = identity(call), cart_id_of(call)

        async def work(connection: Connection) -> Cart:
            cart = owned(await self._store.lock(connection, cart_id), who)
            if cart.guest_token is None:
                raise Conflict("not_a_guest_cart", "only a guest's cart is merged into another")
            if cart.closed_for_merge:
                return cart
            rules.must_be_open(cart.status)
            cart.status = "completed"
            cart.version += 1
            cart.notes["closed_for"] = "merge"
            await self._store.save_details(connection, cart)
            await self._store.save(connection, cart)
            await tell(connection, "cart.converted", cart, {"into": "cart"})
            return cart

        return 200, (await self._database.transact(work)).json()

    async def merge(self, call: Call) -> Answer:
        """POST /carts/{id}/merge {guest_cart_id}: add a closed guest cart's lines to this one.

        The guest's cart is read where this one is. Merged once, it adds nothing a second time.
        """
        who, cart_id = identity(call), cart_id_of(call)
        if who.customer_id is None or who.guest_token is None:
            raise BadRequest("identity_missing", "a merge needs X-Customer-Id and X-Guest-Token")
        guest_id = (await call.body()).uuid("guest_cart_id")
        if guest_id == cart_id:
            raise Unprocessable("same_cart", "a cart cannot be merged into itself")
        customer = rules.Identity(who.customer_id, None)
        guest = rules.Identity(None, who.guest_token)

        async def work(connection: Connection) -> Cart:
            cart = owned(await self._store.lock(connection, cart_id), customer)
            if str(guest_id) in cart.merged:
                return cart
            rules.must_be_open(cart.status)
            other = owned(await self._store.read(connection, guest_id), guest)
            if not other.closed_for_merge:
                raise Conflict("guest_cart_open", "close the guest's cart first")
            await self._take_over(connection, cart, other)
            cart.notes["merged_carts"] = [*cart.merged, str(guest_id)]
            cart.version += 1
            await self._store.save_details(connection, cart)
            await self._store.save(connection, cart)
            return cart

        return 200, (await self._database.transact(work)).json()

    async def _take_over(self, connection: Connection, cart: Cart, other: Cart) -> None:
        added: list[Item] = []
        for line in other.items:
            same = cart.line(line.product_sku)
            if same is None:
                copy = Item(
                    line.product_id,
                    line.product_sku,
                    line.quantity,
                    line.unit_price,
                    line.total_price,
                )
                cart.items.append(copy)
                added.append(copy)
                continue
            same.set_quantity(min(same.quantity + line.quantity, LARGEST_QUANTITY))
            if same.id:
                await self._store.change_item(connection, same)
                await tell(connection, "cart.item.updated", cart, same.json())
        if added:
            await self._store.add_items(connection, cart.id, added)
        for line in added:
            await tell(connection, "cart.item.added", cart, line.json())

    async def _change(
        self, cart_id: uuid.UUID, who: rules.Identity, change: Change
    ) -> dict[str, Any]:
        """Lock an open cart, change it, bump its version; the cart as clients see it."""

        async def work(connection: Connection) -> Cart:
            cart = owned(await self._store.lock(connection, cart_id), who)
            rules.must_be_open(cart.status)
            cart.version += 1
            await change(connection, cart)
            await self._store.save(connection, cart)
            return cart

        return (await self._database.transact(work)).json()


async def tell(connection: Connection, type_: str, cart: Cart, data: dict[str, Any]) -> None:
    """Add an event about a cart to the transaction."""
    about = {"cart_id": str(cart.id), "customer_id": cart.customer_id, "version": cart.version}
    await emit(connection, type_, cart.id, cart.route, {**about, **data})


def identity(call: Call) -> rules.Identity:
    """Who asks. Raises BadRequest."""
    return rules.identity(call.header("x-customer-id"), call.header("x-guest-token"))


def cart_id_of(call: Call) -> uuid.UUID:
    """The id in the path. Raises BadRequest."""
    return uuid_or_bad(call.path("id"), "the id")


def owned(cart: Cart | None, who: rules.Identity) -> Cart:
    """The cart, if it is there and theirs. Raises NotFound: nobody learns of others' carts."""
    if cart is None or cart.route not in who.routes:
        raise NotFound("cart_not_found", "there is no such cart")
    return cart


def _item_id(call: Call) -> int:
    text = call.path("item_id")
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise BadRequest("bad_id", "an item's id is a whole number")
    return int(text)


def _line(cart: Cart, item_id: int) -> Item:
    for line in cart.items:
        if line.id == item_id:
            return line
    raise NotFound("item_not_found", f"the cart has no item {item_id}")


def _enough(quantity: int) -> int:
    if quantity > LARGEST_QUANTITY:
        raise Unprocessable("bad_quantity", f"at most {LARGEST_QUANTITY} of one product")
    return quantity


def _must_fit(cart: Cart, more: int) -> None:
    if len(cart.items) + more > MOST_LINES:
        raise Unprocessable("cart_full", f"a cart has at most {MOST_LINES} lines")
