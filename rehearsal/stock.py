"""What shoppers find: goods, codes, and the carts and orders that were there before the run."""

import hashlib
import json
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rehearsal.browser import Identity

STOCK = "stock.json"
GOODS = 1000
# The catalog works ids and prices out of the SKU; so does this.
PRODUCT_IDS = uuid.UUID("5e1f0c9a-3c53-5b7c-9d6c-2d1f4f6b7a10")
CODES = ("SAVE5", "SAVE10", "SUMMER15", "WELCOME", "FREESHIP")
METHODS = ("standard", "express", "pickup")
CITIES = (("Bern", "CH"), ("Köln", "DE"), ("Oslo", "NO"), ("Porto", "PT"))


@dataclass(frozen=True)
class Good:
    """A product: SKU-0 to SKU-999 of the catalog. `cents` is its price."""

    sku: str
    product_id: uuid.UUID
    cents: int


def good(number: int) -> Good:
    """The product of a number."""
    sku = f"SKU-{number % GOODS}"
    digest = hashlib.md5(sku.encode(), usedforsecurity=False).digest()
    cents = int.from_bytes(digest[:4], "big") % 25_000 + 100
    return Good(sku, uuid.uuid5(PRODUCT_IDS, sku), cents)


def goods() -> Iterator[Good]:
    """Every product, by number."""
    return (good(number) for number in range(GOODS))


@dataclass(frozen=True)
class OldCart:
    """An active cart from before the run."""

    cart_id: str
    who: Identity


@dataclass(frozen=True)
class OldOrder:
    """A delivered order from before the run that has no return. `items`: (item id, quantity)."""

    order_id: str
    who: Identity
    items: tuple[tuple[int, int], ...]


class Stock:
    """Shared by all shoppers of a process: an old cart or order is handed out once."""

    def __init__(self, carts: list[OldCart], orders: list[OldOrder], chance: random.Random) -> None:
        self._carts, self._orders = list(carts), list(orders)
        chance.shuffle(self._carts)
        chance.shuffle(self._orders)

    @classmethod
    def read(cls, directory: Path, chance: random.Random) -> "Stock":
        """From DIR/stock.json, which the seed writes; without it there is nothing old."""
        path = directory / STOCK
        if not path.exists():
            return cls([], [], chance)
        data = json.loads(path.read_text(encoding="utf-8"))
        carts = [
            OldCart(cart, Identity.guest(token) if token else Identity.customer(customer))
            for cart, customer, token in data["carts"]
        ]
        orders = [
            OldOrder(order, Identity.customer(customer), tuple((i, q) for i, q in items))
            for order, customer, items in data["orders"]
        ]
        return cls(carts, orders, chance)

    def cart(self) -> OldCart | None:
        """An old cart that nobody had yet."""
        return self._carts.pop() if self._carts else None

    def order(self) -> OldOrder | None:
        """An old order that nobody had yet."""
        return self._orders.pop() if self._orders else None


def address(chance: random.Random) -> dict[str, Any]:
    """A postal address as customers send it, some with keys that nobody asked for."""
    city, country = chance.choice(CITIES)
    number = chance.randrange(1, 240)
    sent: dict[str, Any] = {
        "name": chance.choice(("Ada Berg", "Cem Demir", "Eve Fox", "Zoë Müller", "李雷")),
        "line1": f"{chance.choice(('Main St', 'Hauptstraße', 'Rue Neuve'))} {number}",
        "city": city,
        "postal_code": f"{chance.randrange(100_000):05d}",
        "country": country,
    }
    if chance.random() < 0.2:
        sent["instructions"] = {"floor": chance.randrange(9), "ring": [1, "twice", None]}
    return sent
