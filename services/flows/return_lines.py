"""The arithmetic of a return: which lines it has, what they are worth, what arrived."""

import uuid
from collections.abc import Sequence
from decimal import Decimal

from services import rules
from services.body import Body
from services.flows.orders import Order
from services.flows.return_model import Return, ReturnItem
from services.problems import Unprocessable


def wanted_lines(
    order: Order, earlier: Sequence[Return], asked: Sequence[Body]
) -> list[ReturnItem]:
    """The lines of a new return. Raises Unprocessable where more would come back than was sent."""
    left = {line.id: line.quantity for line in order.items}
    for each in earlier:
        for item in each.items:
            line_id = item.order_item_id
            if line_id is not None and line_id in left:
                left[line_id] -= item.quantity
    bought = {line.id: line for line in order.items}
    lines = []
    for entry in asked:
        line_id, quantity = entry.integer("order_item_id"), entry.quantity("quantity")
        if line_id not in bought:
            raise Unprocessable("not_in_order", f"the order has no item {line_id}")
        left[line_id] -= quantity
        if left[line_id] < 0:
            raise Unprocessable("too_many", f"more of item {line_id} than can come back")
        line = bought[line_id]
        lines.append(
            ReturnItem(
                order_item_id=line_id,
                product_id=uuid.UUID(line.product_id) if line.product_id is not None else None,
                product_sku=line.product_sku,
                product_name=line.product_name,
                quantity=quantity,
                reason=entry.optional_text("reason"),
                unit_price=line.unit_price,
                refund_amount=rules.NOTHING,
                warehouse_id=line.warehouse_id,
            )
        )
    return lines


def left_to_refund(order: Order, others: Sequence[Return]) -> Decimal:
    """What may still be refunded of an order: what was paid, less what its returns are given."""
    given = sum((each.total_refund for each in others), rules.NOTHING)
    return order.total_amount - given


def price(wanted: Return, order: Order, most: Decimal) -> None:
    """Work out each line's refund, the tax and the sum; the sum never exceeds `most`."""
    arrived = wanted.status == "items_received"
    for item in wanted.items:
        quantity = item.quantity_received if arrived else item.quantity
        item.refund_amount = rules.refund_for(
            item.unit_price, quantity, order.subtotal, order.discount_amount
        )
    lines = sum((item.refund_amount for item in wanted.items), rules.NOTHING)
    wanted.refund_tax = rules.refund_tax(
        lines, order.subtotal, order.discount_amount, order.tax_amount
    )
    wanted.total_refund = max(min(lines + wanted.refund_tax, most), rules.NOTHING)


def receive(found: Return, arrived: Sequence[Body] | None) -> None:
    """Write down what arrived; None is everything, in good condition. Raises Unprocessable."""
    if arrived is None:
        for item in found.items:
            item.quantity_received, item.condition = item.quantity, "good"
        return
    for item in found.items:
        item.quantity_received = 0
    for entry in arrived:
        known = found.item(entry.integer("item_id"))
        if known is None:
            raise Unprocessable("not_in_return", "the return has no such item")
        quantity = entry.integer("quantity_received")
        if not 0 <= quantity <= known.quantity:
            raise Unprocessable("bad_quantity", "more arrived than was announced")
        condition = entry.optional_text("condition", 50) or "good"
        if condition not in rules.CONDITIONS:
            raise Unprocessable("bad_condition", f"one of {', '.join(rules.CONDITIONS)}")
        known.quantity_received, known.condition = quantity, condition


def goes_back(item: ReturnItem) -> bool:
    """Whether a line goes back on the shelf."""
    return item.quantity_received > 0 and item.condition in rules.RESTOCKED_CONDITIONS
