"""The two shapes in which carts are kept: on the old side, and on the new."""

from dataclasses import dataclass
from typing import Literal

from psycopg import sql

Shape = Literal["order", "checkout", "return"]


@dataclass(frozen=True, slots=True)
class CartTables:
    """Names of one side. `route` is SQL over the carts as c: the stable id of a cart's owner."""

    carts: str
    items: str
    items_cart: str
    route: str
    customer: str

    def names(self) -> dict[str, sql.Composable]:
        """The names as parts of a statement."""
        return {
            "carts": sql.Identifier(self.carts),
            "items": sql.Identifier(self.items),
            "items_cart": sql.Identifier(self.items_cart),
            "route": sql.SQL(self.route),
            "customer": sql.SQL(self.customer),
        }


# A database of returns keeps no carts: only its outbox is looked after.
CARTS: dict[Shape, CartTables] = {
    "order": CartTables(
        carts="cart_sessions",
        items="cart_items",
        items_cart="cart_session_id",
        route='coalesce(c.guest_token, lower(c.customer_id COLLATE "C"), c.session_id)',
        customer="c.customer_id",
    ),
    "checkout": CartTables(
        carts="carts",
        items="cart_items",
        items_cart="cart_id",
        route="coalesce(c.guest_token, c.customer_key, c.session_id)",
        customer="coalesce(c.legacy_customer_id, c.customer_id::text)",
    ),
}
