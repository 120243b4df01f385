"""Returns as both sides know them, and as clients see them."""

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from services import rules
from services.flows.model import time_or_text


@dataclass(slots=True)
class ReturnItem:
    """A line of a return. `id` is 0 until the database has given one."""

    order_item_id: int | None
    product_id: uuid.UUID | None
    product_sku: str
    product_name: str | None
    quantity: int
    reason: str | None
    unit_price: Decimal
    refund_amount: Decimal
    warehouse_id: str | None = None
    quantity_received: int = 0
    condition: str | None = None
    restocked: bool = False
    restocked_at: datetime | None = None
    id: int = 0

    def json(self) -> dict[str, Any]:
        """As clients see it."""
        return {
            "id": self.id,
            "order_item_id": self.order_item_id,
            "product_id": str(self.product_id) if self.product_id is not None else None,
            "product_sku": self.product_sku,
            "product_name": self.product_name,
            "quantity": self.quantity,
            "quantity_received": self.quantity_received,
            "reason": self.reason,
            "condition": self.condition,
            "unit_price": str(self.unit_price),
            "refund_amount": str(self.refund_amount),
            "restocked": self.restocked,
        }


@dataclass(slots=True)
class Change:
    """One change of a return's status. `at` is a text, as time is written everywhere."""

    status: str | None
    at: str | None
    by: str | None
    note: str | None

    @classmethod
    def parse(cls, entry: Any) -> "Change":
        """From {status, at, by, note}, whatever it may be."""
        if not isinstance(entry, dict):
            return cls(None, None, None, None)
        texts = [entry.get(key) for key in ("status", "by", "note")]
        status, by, note = (text if isinstance(text, str) else None for text in texts)
        return cls(status, time_or_text(entry.get("at")), by, note)

    def json(self) -> dict[str, Any]:
        """As clients see it."""
        return {"status": self.status, "at": self.at, "by": self.by, "note": self.note}


@dataclass(slots=True)
class Refund:
    """Money on its way back: `pending`, then `completed`."""

    payment_id: str | None
    method: str | None
    amount: Decimal
    currency: str | None
    status: str | None
    refund_id: str | None = None
    processed_at: str | None = None

    @classmethod
    def parse(cls, entry: Any) -> "Refund | None":
        """From what clients see, whatever it may be; None for what is no object."""
        if not isinstance(entry, dict):
            return None
        names = ("payment_id", "method", "currency", "status", "refund_id")
        texts = {name: entry.get(name) for name in names}
        known = {name: text if isinstance(text, str) else None for name, text in texts.items()}
        amount = rules.money_or_nothing(entry.get("amount"))
        at = time_or_text(entry.get("processed_at"))
        return cls(amount=amount, processed_at=at, **known)

    def json(self) -> dict[str, Any]:
        """As clients see it."""
        return {
            "payment_id": self.payment_id,
            "method": self.method,
            "amount": str(self.amount),
            "currency": self.currency,
            "status": self.status,
            "refund_id": self.refund_id,
            "processed_at": self.processed_at,
        }


@dataclass(slots=True)
class Return:
    """A return with its lines, its history and its refund."""

    id: uuid.UUID
    return_number: str
    order_id: uuid.UUID
    customer_id: str
    status: str
    return_type: str
    reason: str | None
    description: str | None
    created_at: datetime
    expires_at: datetime | None
    approved_by: str | None = None
    approved_at: datetime | None = None
    processed_by: str | None = None
    processed_at: datetime | None = None
    completed_at: datetime | None = None
    total_refund: Decimal = rules.NOTHING
    refund_shipping: Decimal = rules.NOTHING
    refund_tax: Decimal = rules.NOTHING
    label_url: str | None = None
    tracking_number: str | None = None
    items: list[ReturnItem] = field(default_factory=list)
    history: list[Change] = field(default_factory=list)  # entries that are new come last
    refund: Refund | None = None
    known_changes: int = 0  # how many entries of the history the store already has

    @property
    def route(self) -> str:
        """The stable id of whom it belongs to."""
        return self.customer_id.lower()

    def item(self, item_id: int) -> ReturnItem | None:
        """A line by its id."""
        return next((item for item in self.items if item.id == item_id), None)

    def json(self) -> dict[str, Any]:
        """As clients see it."""
        seen: dict[str, Any] = {
            "id": str(self.id),
            "return_number": self.return_number,
            "order_id": str(self.order_id),
            "customer_id": self.customer_id.lower(),
            "status": self.status,
            "return_type": self.return_type,
            "reason": self.reason,
            "total_refund_amount": str(self.total_refund),
            "return_shipping_label_url": self.label_url,
            "return_tracking_number": self.tracking_number,
            "items": [item.json() for item in self.items],
            "history": [change.json() for change in self.history],
        }
        if self.refund is not None:
            seen["refund"] = self.refund.json()
        return seen
