"""What an order is, and what carts and returns ask of whoever keeps orders."""

import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from services import rules
from services.clients import Http
from services.problems import NotFound, Unavailable
from services.rules import money

DELIVERED = "delivered"


@dataclass(frozen=True, slots=True)
class OrderLine:
    """A line of an order. `id` is 0 until the order service has given one."""

    product_id: str | None
    product_sku: str
    product_name: str | None
    quantity: int
    unit_price: Decimal
    total_price: Decimal
    warehouse_id: str | None = None
    reservation_id: str | None = None
    id: int = 0

    def json(self) -> dict[str, Any]:
        """As clients see it."""
        return {
            "id": self.id,
            "product_id": self.product_id,
            "product_sku": self.product_sku,
            "product_name": self.product_name,
            "quantity": self.quantity,
            "unit_price": str(self.unit_price),
            "total_price": str(self.total_price),
            "warehouse_id": self.warehouse_id,
            "reservation_id": self.reservation_id,
        }

    @classmethod
    def parse(cls, value: dict[str, Any]) -> "OrderLine":
        """From JSON as above. Raises KeyError, TypeError or ArithmeticError for anything else."""
        product = value["product_id"]
        return cls(
            product_id=str(uuid.UUID(product)) if product is not None else None,
            product_sku=str(value["product_sku"]),
            product_name=value["product_name"],
            quantity=int(value["quantity"]),
            unit_price=money(value["unit_price"]),
            total_price=money(value["total_price"]),
            warehouse_id=value.get("warehouse_id"),
            reservation_id=value.get("reservation_id"),
            id=int(value.get("id", 0)),
        )


@dataclass(frozen=True, slots=True)
class Order:
    """An order. `customer_id` is a text: it need not be a uuid. `checkout_id` makes it unique."""

    id: uuid.UUID
    order_number: str
    customer_id: str | None
    status: str
    currency: str
    subtotal: Decimal
    tax_amount: Decimal
    shipping_amount: Decimal
    discount_amount: Decimal
    total_amount: Decimal
    payment_id: str | None
    payment_method: str | None
    payment_status: str | None
    shipping_address: dict[str, Any] | None
    billing_address: dict[str, Any] | None
    checkout_id: uuid.UUID | None
    cart_id: uuid.UUID | None
    items: tuple[OrderLine, ...]

    @property
    def delivered(self) -> bool:
        """Whether the customer has it."""
        return self.status == DELIVERED

    @property
    def route(self) -> str:
        """The stable id of whom it belongs to."""
        return (self.customer_id or "").lower()

    def json(self) -> dict[str, Any]:
        """As clients see it."""
        return {
            "id": str(self.id),
            "order_number": self.order_number,
            "customer_id": self.customer_id.lower() if self.customer_id is not None else None,
            "status": self.status,
            "currency": self.currency,
            "subtotal": str(self.subtotal),
            "tax_amount": str(self.tax_amount),
            "shipping_amount": str(self.shipping_amount),
            "discount_amount": str(self.discount_amount),
            "total_amount": str(self.total_amount),
            "payment_id": self.payment_id,
            "payment_method": self.payment_method,
            "payment_status": self.payment_status,
            "shipping_address": self.shipping_address,
            "billing_address": self.billing_address,
            "checkout_id": str(self.checkout_id) if self.checkout_id is not None else None,
            "cart_id": str(self.cart_id) if self.cart_id is not None else None,
            "items": [item.json() for item in self.items],
        }

    @classmethod
    def parse(cls, value: dict[str, Any]) -> "Order":
        """From JSON as above. Raises KeyError, TypeError, ValueError or ArithmeticError."""
        checkout, cart = value.get("checkout_id"), value.get("cart_id")
        return cls(
            id=uuid.UUID(value["id"]),
            order_number=str(value["order_number"]),
            customer_id=value["customer_id"],
            status=str(value["status"]),
            currency=str(value["currency"]),
            subtotal=money(value["subtotal"]),
            tax_amount=money(value["tax_amount"]),
            shipping_amount=money(value["shipping_amount"]),
            discount_amount=money(value["discount_amount"]),
            total_amount=money(value["total_amount"]),
            payment_id=value["payment_id"],
            payment_method=value["payment_method"],
            payment_status=value["payment_status"],
            shipping_address=value["shipping_address"],
            billing_address=value["billing_address"],
            checkout_id=uuid.UUID(checkout) if checkout is not None else None,
            cart_id=uuid.UUID(cart) if cart is not None else None,
            items=tuple(OrderLine.parse(item) for item in value["items"]),
        )


class Orders(Protocol):
    """Whoever keeps orders."""

    async def place(self, order: Order) -> Order:
        """Make the order of a checkout, once: again gives the order that is there."""

    async def get(self, order_id: uuid.UUID) -> Order | None:
        """An order, or None."""


class RemoteOrders:
    """Orders kept by the order service, asked over HTTP."""

    def __init__(self, url: str) -> None:
        self._http = Http(url)

    async def open(self) -> None:
        """Get ready to call."""
        await self._http.open()

    async def close(self) -> None:
        """Close every connection."""
        await self._http.close()

    async def place(self, order: Order) -> Order:
        """See `Orders.place`. Raises Unavailable."""
        status, value = await self._http.call("POST", "/orders", order.json())
        if status not in (200, 201):
            raise Unavailable("order_refused", f"the order service answered {status}")
        return Order.parse(value)

    async def get(self, order_id: uuid.UUID) -> Order | None:
        """See `Orders.get`. Raises Unavailable."""
        status, value = await self._http.call("GET", f"/orders/{order_id}")
        if status == 404:
            return None
        if status != 200:
            raise Unavailable("order_refused", f"the order service answered {status}")
        return Order.parse(value)


def owned_order(order: Order | None, who: rules.Identity) -> Order:
    """The order, if it is there and theirs. Raises NotFound."""
    if order is None or order.route not in who.routes:
        raise NotFound("order_not_found", "there is no such order")
    return order
