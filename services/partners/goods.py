"""What is sold, at what price, with which promotions and shipping: worked out, never stored."""

import hashlib
import re
import uuid
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

SKUS = 100_000
SKU = re.compile(r"SKU-(0|[1-9][0-9]{0,4})")
NAMESPACE = uuid.UUID("5e1f0c9a-3c53-5b7c-9d6c-2d1f4f6b7a10")
CENT = Decimal("0.01")
COLOURS = ("Amber", "Blue", "Coral", "Green", "Ivory", "Plum", "Sand", "Teal")
THINGS = ("Bowl", "Chair", "Cup", "Jar", "Lamp", "Plate", "Rug", "Shelf", "Spoon", "Table")

SHIPPING = (
    {"id": "standard", "name": "Standard", "cost": "4.90"},
    {"id": "express", "name": "Express", "cost": "9.90"},
    {"id": "pickup", "name": "Pick up", "cost": "0.00"},
)


@dataclass(frozen=True, slots=True)
class Promotion:
    """A code: a share of the subtotal, an amount, or free shipping."""

    code: str
    kind: str  # "percentage", "fixed" or "free_shipping"
    value: Decimal

    def discount(self, subtotal: Decimal) -> Decimal:
        """What it takes off a subtotal, never more than that."""
        share = self.kind == "percentage"
        taken = subtotal * self.value / 100 if share else self.value
        return min(taken, subtotal).quantize(CENT, ROUND_HALF_UP)


PROMOTIONS = {
    promotion.code: promotion
    for promotion in (
        Promotion("SAVE5", "percentage", Decimal(5)),
        Promotion("SAVE10", "percentage", Decimal(10)),
        Promotion("SUMMER15", "percentage", Decimal(15)),
        Promotion("WELCOME", "fixed", Decimal("5.00")),
        Promotion("FREESHIP", "free_shipping", Decimal("0.00")),
    )
}


def product_id(sku: str) -> uuid.UUID:
    """The product id of a sku: always the same."""
    return uuid.uuid5(NAMESPACE, sku)


def price(sku: str) -> Decimal:
    """The price of a sku: 1.00 to 250.99, always the same."""
    number = int.from_bytes(hashlib.md5(sku.encode(), usedforsecurity=False).digest()[:4], "big")
    return (Decimal(number % 25_000 + 100) / 100).quantize(CENT)


class Catalog:
    """Finds a product by its sku or its id."""

    def __init__(self) -> None:
        # Made at start: it takes a moment that no customer should wait for.
        self._by_id = {product_id(sku).int: sku for sku in (f"SKU-{n}" for n in range(SKUS))}

    def find(self, sku_or_id: str) -> dict[str, str] | None:
        """The product as JSON, or None."""
        sku = sku_or_id if SKU.fullmatch(sku_or_id) else self._sku_of(sku_or_id)
        if sku is None:
            return None
        number = int(sku.removeprefix("SKU-"))
        name = f"{COLOURS[number % len(COLOURS)]} {THINGS[number % len(THINGS)]} {number}"
        found = {"product_id": str(product_id(sku)), "sku": sku, "name": name}
        return found | {"price": str(price(sku)), "currency": "EUR"}

    def _sku_of(self, text: str) -> str | None:
        try:
            return self._by_id.get(uuid.UUID(text).int)
        except ValueError:
            return None
