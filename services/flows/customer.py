"""A customer's id in the new databases: a uuid, and beside it what a uuid cannot give back."""

import uuid

from services.body import uuid_of


def split(customer_id: str | None) -> tuple[uuid.UUID | None, str | None]:
    """(customer_id, legacy_customer_id): the text only where the uuid is written otherwise."""
    if customer_id is None:
        return None, None
    known = uuid_of(customer_id)
    return known, customer_id if known is None or str(known) != customer_id else None


def join(customer_id: uuid.UUID | None, legacy: str | None) -> str | None:
    """The text that was split."""
    if legacy is not None:
        return legacy
    return str(customer_id) if customer_id is not None else None
