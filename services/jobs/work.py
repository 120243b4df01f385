"""The three jobs. Each does one small batch and says how many rows it settled."""

import json
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

from psycopg import sql
from psycopg.types.json import Jsonb

from services.jobs.ownership import Connection, Side, owns
from services.jobs.tables import CartTables
from services.outbox import INSERT

DOMAIN = "checkout"
BATCH = 20
RELAY_BATCH = 500
PARTNER_SECONDS = 2.0
FIRST = uuid.UUID(int=0)

IDLE = """
    SELECT c.id, {route} FROM {carts} c
    WHERE c.id > %(after)s AND c.status = 'active'
      AND (c.expires_at < now() OR c.updated_at < now() - %(idle)s::interval)
    ORDER BY c.id LIMIT %(limit)s
"""
# Asked again under the row's lock: the customer may have come back since.
SET_ASIDE = """
    UPDATE {carts} c
    SET status = CASE WHEN c.expires_at < now() THEN 'expired' ELSE 'abandoned' END,
        version = c.version + 1, updated_at = clock_timestamp()
    WHERE c.id = %(id)s AND c.status = 'active'
      AND (c.expires_at < now() OR c.updated_at < now() - %(idle)s::interval)
    RETURNING c.status, c.version, {customer}
"""
RESERVED = """
    SELECT c.id, {route} FROM {carts} c
    WHERE c.id > %(after)s AND c.status IN ('abandoned', 'expired')
      AND EXISTS (SELECT FROM {items} i
                  WHERE i.{items_cart} = c.id AND i.reservation_id IS NOT NULL)
    ORDER BY c.id LIMIT %(limit)s
"""
RESERVATIONS = """
    SELECT i.id, i.reservation_id FROM {items} i
    WHERE i.{items_cart} = %(id)s AND i.reservation_id IS NOT NULL ORDER BY i.id
"""
FREE = """
    UPDATE {items} i SET reservation_id = NULL, updated_at = clock_timestamp()
    FROM {carts} c
    WHERE i.id = ANY(%(items)s) AND i.{items_cart} = c.id AND c.id = %(id)s
      AND c.status IN ('abandoned', 'expired') AND i.reservation_id IS NOT NULL
"""
PUBLISH = """
    UPDATE outbox SET published_at = clock_timestamp()
    WHERE id IN (SELECT id FROM outbox WHERE published_at IS NULL
                 ORDER BY created_at LIMIT %s FOR UPDATE SKIP LOCKED)
"""


class Job(Protocol):
    """One job."""

    def run(self, connection: Connection) -> int:
        """Do one batch in transactions of its own; how many rows were settled."""


@dataclass(slots=True)
class Sweep:
    """Goes through the carts that a statement names, batch after batch, and round again.

    It remembers where it was: carts that another side owns would else be looked at for ever, and
    those behind them never.
    """

    statement: sql.Composed
    after: uuid.UUID = FIRST

    def next(self, connection: Connection, **values: Any) -> list[tuple[uuid.UUID, str]]:
        """The next carts and their stable ids."""
        given = {"after": self.after, "limit": BATCH, **values}
        rows = connection.execute(self.statement, given).fetchall()
        self.after = rows[-1][0] if len(rows) == BATCH else FIRST
        return [(row[0], row[1]) for row in rows]


@dataclass(slots=True)
class Cleanup:
    """Carts that nobody touched for long are abandoned; those past their time are expired."""

    side: Side
    tables: CartTables
    idle: timedelta
    alone: bool | None = None
    _sweep: Sweep = field(init=False)
    _set_aside: sql.Composed = field(init=False)

    def __post_init__(self) -> None:
        names = self.tables.names()
        self._sweep = Sweep(sql.SQL(IDLE).format(**names))
        self._set_aside = sql.SQL(SET_ASIDE).format(**names)

    def run(self, connection: Connection) -> int:
        """One batch: a transaction per cart, so that no lock is held for longer than one write."""
        idle = {"idle": self.idle}
        done = 0
        for cart, route in self._sweep.next(connection, **idle):
            with connection.transaction():
                if not owns(connection, DOMAIN, route, self.side, self.alone):
                    continue
                row = connection.execute(self._set_aside, {"id": cart, **idle}).fetchone()
                if row is None:
                    continue
                status, version, customer = row
                if status == "abandoned":
                    data = {"cart_id": str(cart), "customer_id": customer, "version": version}
                    event = ("cart.abandoned", str(cart), route, Jsonb(data))
                    connection.execute(INSERT, event)
                done += 1
        return done


@dataclass(slots=True)
class Compensation:
    """Goods that were set aside for a cart that came to nothing are given back.

    `release` tells the warehouse; it may be told twice. Raises OSError when it does not answer,
    and then the next round tries again.
    """

    side: Side
    tables: CartTables
    release: Callable[[str], None]
    alone: bool | None = None
    _sweep: Sweep = field(init=False)
    _reservations: sql.Composed = field(init=False)
    _free: sql.Composed = field(init=False)

    def __post_init__(self) -> None:
        names = self.tables.names()
        self._sweep = Sweep(sql.SQL(RESERVED).format(**names))
        self._reservations = sql.SQL(RESERVATIONS).format(**names)
        self._free = sql.SQL(FREE).format(**names)

    def run(self, connection: Connection) -> int:
        """One batch. The warehouse is told outside the transaction, which must stay short."""
        done = 0
        for cart, route in self._sweep.next(connection):
            with connection.transaction():
                if not owns(connection, DOMAIN, route, self.side, self.alone):
                    continue
            rows = connection.execute(self._reservations, {"id": cart}).fetchall()
            for _, reservation in rows:
                self.release(reservation)
            with connection.transaction():
                if owns(connection, DOMAIN, route, self.side, self.alone):
                    values = {"id": cart, "items": [row[0] for row in rows]}
                    done += connection.execute(self._free, values).rowcount
        return done


@dataclass(slots=True)
class Relay:
    """Marks the outbox's rows as published.

    It asks for no owner: the outbox is each side's own and never carried, so what was written here
    is published here, also after its customer has moved.
    """

    def run(self, connection: Connection) -> int:
        """One batch, oldest first."""
        with connection.transaction():
            return connection.execute(PUBLISH, [RELAY_BATCH]).rowcount


def warehouse(url: str) -> Callable[[str], None]:
    """A function that releases a reservation at the warehouse. Raises OSError."""

    def release(reservation: str) -> None:
        request = urllib.request.Request(  # noqa: S310 - the estate names this address
            f"{url.rstrip('/')}/warehouse/release",
            data=json.dumps({"reservation_id": reservation}).encode(),
            headers={
                "Content-Type": "application/json",
                "Idempotency-Key": f"release-{reservation}",
            },
        )
        # An answer of 500 and above is an HTTPError, which is an OSError too.
        with urllib.request.urlopen(request, timeout=PARTNER_SECONDS):  # noqa: S310
            pass

    return release


def no_warehouse(reservation: str) -> None:
    """For an estate without partners."""
