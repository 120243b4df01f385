"""The shop's rules: prices, statuses, who may do what. No database, network or clock.

Both sides of the split use these rules, so that a customer cannot tell the sides apart. Money is
`Decimal` with two places, in the cart's currency.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from services.problems import BadRequest, Conflict

CENT = Decimal("0.01")
NOTHING = Decimal("0.00")
TAX_RATE = Decimal("0.08")
LARGEST_PRICE = Decimal("99999999.99")
CURRENCY = "EUR"
FREE_SHIPPING = "free_shipping"
LONGEST_CUSTOMER_ID = 36
LONGEST_GUEST_TOKEN = 255

# Orders get their id from the checkout's, so that every place that makes one makes the same.
ORDER_IDS = uuid.UUID("5f0c7c52-9a5e-4a53-9a52-0d9a4d1f6b11")

RETURN_TYPES = ("refund", "exchange", "store_credit")
# From which statuses an act on a return may start, and where it leads.
RETURN_ACTS: dict[str, tuple[frozenset[str], str]] = {
    "review": (frozenset({"requested"}), "under_review"),
    "approve": (frozenset({"requested", "under_review"}), "approved"),
    "reject": (frozenset({"requested", "under_review"}), "rejected"),
    "receive": (frozenset({"approved"}), "items_received"),
    "refund": (frozenset({"items_received"}), "completed"),
    "cancel": (frozenset({"requested", "under_review", "approved"}), "cancelled"),
}
# These give their items back to the customer: what they named may be returned again.
RETURN_VOID = frozenset({"rejected", "cancelled"})
CONDITIONS = ("good", "opened", "damaged")
RESTOCKED_CONDITIONS = frozenset({"good", "opened"})


def money(value: Decimal | str | int | float) -> Decimal:
    """Two places, halves away from zero. A float is taken by its shortest text."""
    return Decimal(str(value)).quantize(CENT, ROUND_HALF_UP)


def money_or_nothing(value: object) -> Decimal:
    """An amount that somebody wrote down long ago; what is no amount is nothing."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return NOTHING
    try:
        amount = money(value)
    except ArithmeticError:
        return NOTHING
    return amount if NOTHING <= amount <= LARGEST_PRICE else NOTHING


def line_total(unit_price: Decimal, quantity: int) -> Decimal:
    """The price of a line."""
    return money(unit_price * quantity)


@dataclass(frozen=True, slots=True)
class Totals:
    """What a cart or checkout comes to."""

    subtotal: Decimal
    discount: Decimal
    shipping: Decimal
    tax: Decimal
    total: Decimal


def totals(
    lines: Iterable[Decimal], discounts: Iterable[Decimal], shipping: Decimal = NOTHING
) -> Totals:
    """Add up. Discounts never exceed the lines; tax is on what is left; shipping is untaxed."""
    subtotal = sum(lines, NOTHING)
    discount = min(sum(discounts, NOTHING), subtotal)
    tax = money((subtotal - discount) * TAX_RATE)
    return Totals(subtotal, discount, shipping, tax, subtotal - discount + tax + shipping)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks: a customer's id as it was sent, or a guest's token."""

    customer_id: str | None
    guest_token: str | None

    @property
    def route(self) -> str:
        """The stable id. A customer's id is the same in either case of its letters."""
        if self.customer_id is not None:
            return self.customer_id.lower()
        assert self.guest_token is not None
        return self.guest_token

    @property
    def routes(self) -> tuple[str, ...]:
        """Both stable ids, where both were sent (a merge)."""
        customer = self.customer_id.lower() if self.customer_id is not None else None
        return tuple(route for route in (customer, self.guest_token) if route is not None)


def identity(customer_id: str | None, guest_token: str | None) -> Identity:
    """Who asks, from the two headers. Raises BadRequest."""
    if customer_id is None and guest_token is None:
        raise BadRequest("identity_missing", "send X-Customer-Id or X-Guest-Token")
    limits = ((customer_id, LONGEST_CUSTOMER_ID), (guest_token, LONGEST_GUEST_TOKEN))
    for text, longest in limits:
        if text is not None and (
            len(text) > longest or not text.isascii() or not text.isprintable()
        ):
            raise BadRequest("bad_identity", f"an identity is ASCII, at most {longest} characters")
    return Identity(customer_id, guest_token)


def cart_route(customer_id: str | None, guest_token: str | None) -> str:
    """The stable id of a cart; it never changes. A cart with a guest's token is the guest's."""
    return guest_token or (customer_id or "").lower()


def must_be_open(cart_status: str) -> None:
    """Raise Conflict unless a cart may still be changed."""
    if cart_status != "active":
        raise Conflict("cart_not_active", f"the cart is {cart_status}")


def after(act: str, status: str) -> str:
    """The status of a return after an act. Raises Conflict where the act is not allowed."""
    start, end = RETURN_ACTS[act]
    if status not in start:
        raise Conflict("wrong_status", f"a return that is {status} cannot be done: {act}")
    return end


def order_number(checkout_id: uuid.UUID) -> str:
    """The order's number; made of the whole id, so that one checkout gives one order."""
    return f"ORD-{checkout_id.hex.upper()}"


def order_id(checkout_id: uuid.UUID) -> uuid.UUID:
    """The order's id; the same wherever and however often the order is made."""
    return uuid.uuid5(ORDER_IDS, checkout_id.hex)


def return_number(return_id: uuid.UUID) -> str:
    """The return's number."""
    return f"RET-{return_id.hex.upper()}"


def refund_for(
    unit_price: Decimal, quantity: int, order_subtotal: Decimal, order_discount: Decimal
) -> Decimal:
    """What a returned line is worth: its price less its share of the order's discount."""
    if order_subtotal <= 0:
        return NOTHING
    paid_share = (order_subtotal - order_discount) / order_subtotal
    return money(unit_price * quantity * max(paid_share, Decimal(0)))


def refund_tax(
    refunds: Decimal, order_subtotal: Decimal, order_discount: Decimal, order_tax: Decimal
) -> Decimal:
    """The part of the order's tax that goes back with these refunds."""
    taxed = order_subtotal - order_discount
    return money(order_tax * refunds / taxed) if taxed > 0 else NOTHING
