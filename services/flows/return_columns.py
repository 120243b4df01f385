"""The columns of a return that both sides have, under the same names."""

from collections.abc import Sequence
from typing import Any

from services import rules
from services.flows.lines import ReturnLines
from services.flows.return_model import Return

COLUMNS = """
    r.id, r.return_number, r.order_id, r.status, r.return_type, r.reason, r.description,
    r.created_at, r.expires_at, r.approved_by, r.approved_at, r.processed_by, r.processed_at,
    r.completed_at, r.total_refund_amount, r.refund_shipping, r.refund_tax
"""
INSERT = """
    INSERT INTO return_requests (id, return_number, order_id, status, return_type, reason,
                                 description, created_at, expires_at, total_refund_amount,
                                 refund_shipping, refund_tax, metadata, {customer}, updated_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, {customer_values},
            clock_timestamp())
"""
SAVE = """
    UPDATE return_requests
       SET status = %s, approved_by = %s, approved_at = %s, processed_by = %s, processed_at = %s,
           completed_at = %s, total_refund_amount = %s, refund_shipping = %s, refund_tax = %s,
           updated_at = clock_timestamp() {more}
     WHERE id = %s
"""


def return_of(columns: Sequence[Any], lines: Sequence[Sequence[Any]], customer_id: str) -> Return:
    """A return from COLUMNS and its lines, without history, refund and shipping."""
    amounts = [rules.NOTHING if each is None else each for each in columns[14:17]]
    return Return(
        id=columns[0],
        return_number=columns[1],
        order_id=columns[2],
        customer_id=customer_id,
        status=columns[3],
        return_type=columns[4],
        reason=columns[5],
        description=columns[6],
        created_at=columns[7],
        expires_at=columns[8],
        approved_by=columns[9],
        approved_at=columns[10],
        processed_by=columns[11],
        processed_at=columns[12],
        completed_at=columns[13],
        total_refund=amounts[0],
        refund_shipping=amounts[1],
        refund_tax=amounts[2],
        items=ReturnLines.parse(lines),
    )


def inserted_values(wanted: Return) -> tuple[Any, ...]:
    """The values of INSERT up to the metadata."""
    return (
        wanted.id,
        wanted.return_number,
        wanted.order_id,
        wanted.status,
        wanted.return_type,
        wanted.reason,
        wanted.description,
        wanted.created_at,
        wanted.expires_at,
        wanted.total_refund,
        wanted.refund_shipping,
        wanted.refund_tax,
    )


def saved_values(changed: Return) -> tuple[Any, ...]:
    """The values of SAVE up to `more`."""
    return (
        changed.status,
        changed.approved_by,
        changed.approved_at,
        changed.processed_by,
        changed.processed_at,
        changed.completed_at,
        changed.total_refund,
        changed.refund_shipping,
        changed.refund_tax,
    )
