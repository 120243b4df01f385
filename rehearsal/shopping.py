"""What people do in a shop: the visits that make up the load, in realistic shares."""

import uuid

from rehearsal.browser import Browser, Identity
from rehearsal.cart_script import CartScript, CartState
from rehearsal.checkout_script import CheckoutScript, CheckoutState
from rehearsal.return_script import ReturnScript
from rehearsal.stock import CODES, GOODS, METHODS, Good, OldCart, Stock, address, good

OLD_CART = 0.15
GUEST = 0.35
LOGS_IN = 0.6
BUYS = 0.55
DOUBLE_CLICK = 0.3
COUPON = 0.4
REMOVES_COUPON = 0.3
CLEARS = 0.1
RETURNS_IT = 0.35
UPPER_CASE = 0.08
KINDS = ("refund", "refund", "refund", "exchange", "store_credit")
# Every way through a return, with its share of 100.
WAYS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (38, ("approve", "receive", "refund")),
    (22, ("review", "approve", "receive", "refund")),
    (12, ("reject",)),
    (8, ("review", "reject")),
    (10, ("cancel",)),
    (6, ("approve", "cancel")),
    (4, ("approve", "receive")),
)


class Shopper:
    """Somebody who fills carts, and at times buys."""

    def __init__(self, browser: Browser, stock: Stock) -> None:
        self._browser, self._stock, self._chance = browser, stock, browser.chance
        self._carts = CartScript(browser)
        self._till = CheckoutScript(browser, self._carts)
        self._desk = Desk(browser)

    async def visit(self) -> None:
        """One visit. Raises Unexpected when a request fails, Leaving when the shop closes."""
        share = self._chance.random()
        old = self._stock.cart() if share < OLD_CART else None
        if old is not None:
            await self._come_back(old)
        elif share < OLD_CART + GUEST:
            await self._visit_as_guest()
        else:
            who = self._customer()
            cart = await self._carts.create(who)
            await self._fill(cart)
            await self._decide(cart)

    def _customer(self) -> Identity:
        name = str(uuid.UUID(int=self._chance.getrandbits(128), version=4))
        return Identity.customer(name.upper() if self._chance.random() < UPPER_CASE else name)

    async def _visit_as_guest(self) -> None:
        token = f"gt-{self._chance.getrandbits(96):024x}"
        guest = await self._carts.create(Identity.guest(token))
        await self._fill(guest)
        if self._chance.random() >= LOGS_IN:
            return  # left behind, as carts are
        cart = await self._carts.create(self._customer())
        if self._chance.random() < 0.5:
            await self._browser.think()
            await self._carts.add(cart, self._good(), 1)
        await self._browser.think()
        await self._carts.merge(cart, guest)
        await self._decide(cart)

    async def _come_back(self, old: OldCart) -> None:
        cart = await self._carts.find(old.cart_id, old.who)
        await self._browser.think()
        await self._carts.add(cart, self._good(), 1)
        await self._fill(cart)
        if "X-Customer-Id" in old.who.headers:
            await self._decide(cart)

    async def _fill(self, cart: CartState) -> None:
        for _ in range(self._chance.randint(1, 3)):
            await self._browser.think()
            await self._carts.add(cart, self._good(), self._chance.randint(1, 3))
        if self._chance.random() < 0.4:
            await self._browser.think()
            await self._carts.change(cart, self._line(cart), self._chance.randint(1, 5))
        if self._chance.random() < COUPON:
            code = self._chance.choice(CODES)
            await self._browser.think()
            await self._carts.promote(cart, code)
            if self._chance.random() < REMOVES_COUPON:
                await self._browser.think()
                await self._carts.demote(cart, code)
        if len(cart.items) > 1 and self._chance.random() < 0.3:
            await self._browser.think()
            await self._carts.remove(cart, self._line(cart))
        if self._chance.random() < 0.5:
            await self._browser.think()
            await self._carts.look(cart)

    async def _decide(self, cart: CartState) -> None:
        share = self._chance.random()
        if share < CLEARS:
            await self._browser.think()
            await self._carts.clear(cart)
        elif share < CLEARS + BUYS and cart.items and not self._put_off():
            checkout = await self._buy(cart)
            if self._chance.random() < RETURNS_IT:
                await self._send_back(checkout)

    def _put_off(self) -> bool:
        """Whether the side that showed this cart costs the shop a sale, without any error."""
        served = self._browser.served
        reluctance = self._browser.recorder.stages.reluctance(served.side if served else "")
        return reluctance > 0 and self._chance.random() < reluctance

    async def _buy(self, cart: CartState) -> CheckoutState:
        await self._browser.think()
        checkout = await self._till.start(cart)
        await self._browser.think()
        await self._till.ship_to(checkout, address(self._chance))
        if self._chance.random() < 0.7:
            await self._browser.think()
            await self._till.bill_to(checkout, address(self._chance))
        await self._browser.think()
        await self._till.ship_by(checkout, self._chance.choice(METHODS))
        if self._chance.random() < 0.6:
            await self._browser.think()
            await self._till.preview(checkout)
        await self._browser.think()
        await self._till.confirm(checkout, 2 if self._chance.random() < DOUBLE_CLICK else 1)
        return checkout

    async def _send_back(self, checkout: CheckoutState) -> None:
        await self._browser.think()
        lines = await self._till.find_order(checkout)
        await self._browser.think()
        await self._till.deliver(checkout)
        await self._desk.handle(checkout.order_id, checkout.who, lines)

    def _good(self) -> Good:
        return good(self._chance.randrange(GOODS))

    def _line(self, cart: CartState) -> int:
        return self._chance.choice(sorted(cart.items))


class Returner:
    """Somebody who sends back what was bought before the run."""

    def __init__(self, browser: Browser, stock: Stock) -> None:
        self._stock = stock
        self._desk, self._shopper = Desk(browser), Shopper(browser, stock)

    async def visit(self) -> None:
        """One return of an old order; without one left, a visit to the shop."""
        order = self._stock.order()
        if order is None:
            await self._shopper.visit()
        else:
            await self._desk.handle(order.order_id, order.who, list(order.items))


class Desk:
    """The counter for returns."""

    def __init__(self, browser: Browser) -> None:
        self._browser, self._chance = browser, browser.chance
        self._returns = ReturnScript(browser)

    async def handle(self, order_id: str, who: Identity, lines: list[tuple[int, int]]) -> None:
        """One return through one of all ways."""
        chosen = self._chance.sample(lines, self._chance.randint(1, len(lines)))
        wanted = [(number, self._chance.randint(1, quantity)) for number, quantity in chosen]
        await self._browser.think()
        kind = self._chance.choice(KINDS)
        made = await self._returns.create(order_id, who, kind, wanted)
        shares, ways = zip(*WAYS, strict=True)
        for act in self._chance.choices(ways, weights=shares)[0]:
            await self._browser.think()
            await self._returns.act(made, act)
        share = self._chance.random()
        if share < 0.25:
            await self._browser.think()
            await self._returns.look(made)
        elif share < 0.4:
            await self._browser.think()
            await self._returns.find_in_list(made)
