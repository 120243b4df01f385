"""Carts and checkouts as both sides know them, and as clients see them.

In JSON, money is a text with two places ("12.30"), ids of rows are numbers, all others uuids,
times are UTC with microseconds and a final Z.
"""

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from services import rules

Address = dict[str, Any]
AddressKind = Literal["shipping", "billing"]


# What we write into a cart's metadata.
NOTES = ("closed_for", "merged_carts")


def notes_of(metadata: Any) -> dict[str, Any]:
    """The keys of a cart's metadata that we know."""
    if not isinstance(metadata, dict):
        return {}
    return {key: metadata[key] for key in NOTES if key in metadata}


def now() -> datetime:
    """The present time, in UTC."""
    return datetime.now(UTC)


def time_or_text(value: Any) -> str | None:
    """A time that somebody wrote down, in the one way; what is no time stays as it is."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return value
    return time_text(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))


def time_text(moment: datetime) -> str:
    """The one way in which a time is written."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(slots=True)
class Item:
    """A line of a cart. `id` is 0 until the database has given one."""

    product_id: uuid.UUID | None
    product_sku: str
    quantity: int
    unit_price: Decimal
    total_price: Decimal
    id: int = 0

    def set_quantity(self, quantity: int, unit_price: Decimal | None = None) -> None:
        """Change the quantity, and the price where a new one is given."""
        self.quantity = quantity
        if unit_price is not None:
            self.unit_price = unit_price
        self.total_price = rules.line_total(self.unit_price, quantity)

    def json(self) -> dict[str, Any]:
        """As clients see it."""
        return {
            "id": self.id,
            "product_id": str(self.product_id) if self.product_id is not None else None,
            "product_sku": self.product_sku,
            "quantity": self.quantity,
            "unit_price": str(self.unit_price),
            "total_price": str(self.total_price),
        }


@dataclass(slots=True)
class Promotion:
    """A promotion applied to a cart, with what it gave when it was applied.

    `place` is its place in the cart's list, from 1; 0 for a new one. An entry without a code is
    something that nobody knows any more: it is kept, and not shown.
    """

    code: str | None
    type: str | None
    discount_amount: Decimal
    place: int = 0

    @classmethod
    def parse(cls, entry: Any, place: int) -> "Promotion":
        """From {code, type, discount_amount}, whatever it may be."""
        if not isinstance(entry, dict) or not isinstance(entry.get("code"), str):
            return cls(None, None, rules.NOTHING, place)
        kind = entry.get("type")
        amount = rules.money_or_nothing(entry.get("discount_amount"))
        return cls(entry["code"], kind if isinstance(kind, str) else None, amount, place)

    def is_code(self, code: str) -> bool:
        """Whether this is the promotion of a code; letters' case does not matter."""
        return self.code is not None and self.code.upper() == code.upper()

    def json(self) -> dict[str, Any]:
        """As clients see it."""
        return {
            "code": self.code,
            "type": self.type,
            "discount_amount": str(self.discount_amount),
        }


@dataclass(slots=True)
class Cart:
    """A cart with its lines and promotions. `notes` are those keys of its metadata that we know;
    the others stay as they are."""

    id: uuid.UUID
    customer_id: str | None
    guest_token: str | None
    status: str
    currency: str
    version: int
    expires_at: datetime | None
    items: list[Item] = field(default_factory=list)
    promotions: list[Promotion] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def route(self) -> str:
        """The stable id of whom it belongs to."""
        return rules.cart_route(self.customer_id, self.guest_token)

    def totals(self, shipping: Decimal = rules.NOTHING) -> rules.Totals:
        """What it comes to."""
        lines = (item.total_price for item in self.items)
        return rules.totals(lines, (each.discount_amount for each in self.promotions), shipping)

    def line(self, sku: str) -> Item | None:
        """The first line of this SKU."""
        return next((item for item in self.items if item.product_sku == sku), None)

    @property
    def merged(self) -> list[str]:
        """Ids of guests' carts that were merged into this one."""
        known = self.notes.get("merged_carts")
        return known if isinstance(known, list) else []

    @property
    def closed_for_merge(self) -> bool:
        """Whether its guest has logged in and the cart got its last write."""
        return self.status == "completed" and self.notes.get("closed_for") == "merge"

    def json(self) -> dict[str, Any]:
        """As clients see it."""
        come_to = self.totals()
        return {
            "id": str(self.id),
            "customer_id": self.customer_id.lower() if self.customer_id is not None else None,
            "guest_token": self.guest_token,
            "status": self.status,
            "currency": self.currency,
            "version": self.version,
            "subtotal": str(come_to.subtotal),
            "discount": str(come_to.discount),
            "items": [item.json() for item in self.items],
            "promotions": [each.json() for each in self.promotions if each.code is not None],
        }


@dataclass(slots=True)
class Checkout:
    """A checkout. It is `started`, then `confirming` while it is paid, then `completed`."""

    id: uuid.UUID
    cart_id: uuid.UUID
    customer_id: str
    status: str
    totals: rules.Totals
    created_at: datetime
    expires_at: datetime | None
    shipping_address: Address | None = None
    billing_address: Address | None = None
    payment_method_id: str | None = None
    payment_method_type: str | None = None
    shipping_method_id: str | None = None
    shipping_method_name: str | None = None
    completed_at: datetime | None = None
    order_id: str | None = None
    order_number: str | None = None

    def json(self) -> dict[str, Any]:
        """As clients see it."""
        return {
            "id": str(self.id),
            "cart_id": str(self.cart_id),
            "customer_id": self.customer_id.lower(),
            "status": self.status,
            "shipping_address": self.shipping_address,
            "billing_address": self.billing_address,
            "payment_method_id": self.payment_method_id,
            "shipping_method_id": self.shipping_method_id,
            "shipping_method_name": self.shipping_method_name,
            "subtotal": str(self.totals.subtotal),
            "discount_amount": str(self.totals.discount),
            "shipping_amount": str(self.totals.shipping),
            "tax_amount": str(self.totals.tax),
            "total_amount": str(self.totals.total),
            "completed_at": time_text(self.completed_at) if self.completed_at else None,
            "order_id": self.order_id,
            "order_number": self.order_number,
        }
