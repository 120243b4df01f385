"""The outbox: events are rows, written in the transaction that they tell of."""

import uuid
from typing import Any

from psycopg.types.json import Jsonb

from services.web import Connection

INSERT = "INSERT INTO outbox (event_type, subject, route, payload) VALUES (%s, %s, %s, %s)"


async def emit(
    connection: Connection, type_: str, subject: uuid.UUID, route: str, data: dict[str, Any]
) -> None:
    """Add an event about `subject` to the transaction. `route` is its customer's stable id."""
    await connection.execute(INSERT, (type_, str(subject), route, Jsonb(data)))
