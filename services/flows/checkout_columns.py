"""The columns of a checkout that both sides have, under the same names."""

from collections.abc import Sequence
from typing import Any

from psycopg.types.json import Jsonb

from services import rules
from services.flows.model import Checkout

COLUMNS = """
    c.id, c.cart_id, c.status, c.payment_method_id, c.payment_method_type, c.shipping_method_id,
    c.shipping_method_name, c.subtotal, c.discount_amount, c.shipping_amount, c.tax_amount,
    c.total_amount, c.metadata, c.created_at, c.expires_at, c.completed_at
"""
SAVE = """
    UPDATE {table}
       SET status = %s, payment_method_id = %s, payment_method_type = %s, shipping_method_id = %s,
           shipping_method_name = %s, shipping_cost = %s, subtotal = %s, tax_amount = %s,
           shipping_amount = %s, discount_amount = %s, total_amount = %s,
           metadata = CASE WHEN jsonb_typeof(metadata) = 'object' THEN metadata ELSE '{{}}' END
                      || %s,
           completed_at = %s, updated_at = clock_timestamp()
     WHERE id = %s
"""
ORDER = ("order_id", "order_number")


def checkout_of(columns: Sequence[Any], customer_id: str) -> Checkout:
    """A checkout from COLUMNS, without its addresses. The order it gave is in its metadata."""
    metadata = columns[12] if isinstance(columns[12], dict) else {}
    order_id, order_number = (metadata.get(key) for key in ORDER)
    return Checkout(
        id=columns[0],
        cart_id=columns[1],
        customer_id=customer_id,
        status=columns[2],
        payment_method_id=columns[3],
        payment_method_type=columns[4],
        shipping_method_id=columns[5],
        shipping_method_name=columns[6],
        totals=rules.Totals(columns[7], columns[8], columns[9], columns[10], columns[11]),
        created_at=columns[13],
        expires_at=columns[14],
        completed_at=columns[15],
        order_id=order_id if isinstance(order_id, str) else None,
        order_number=order_number if isinstance(order_number, str) else None,
    )


def saved_values(checkout: Checkout) -> tuple[Any, ...]:
    """The values of SAVE."""
    come_to = checkout.totals
    given = {"order_id": checkout.order_id, "order_number": checkout.order_number}
    chosen = checkout.shipping_method_id is not None
    return (
        checkout.status,
        checkout.payment_method_id,
        checkout.payment_method_type,
        checkout.shipping_method_id,
        checkout.shipping_method_name,
        come_to.shipping if chosen else None,
        come_to.subtotal,
        come_to.tax,
        come_to.shipping,
        come_to.discount,
        come_to.total,
        Jsonb(given if checkout.order_id is not None else {}),
        checkout.completed_at,
        checkout.id,
    )
