"""Whose customer is it? A service answers 421 to one whom its database does not own.

A gateway's flags say where a customer is sent, the owner's row in the database where he belongs.
Flags may be late, and differ from gateway to gateway while they change; the row is one, and moves
in a transaction. So each transaction asks it first: what was written is the owner's, always, and a
gateway that is told 421 (RFC 9110, 15.5.20) asks the other side. Where no gateway does, the service
itself passes such a request on (`services.passing`).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from psycopg import AsyncConnection, errors

from services.problems import Problem
from services.rules import Identity

Side = Literal["old", "new"]
SIDES: tuple[Side, ...] = ("old", "new")
# The first part of a path, and the domain that it belongs to.
DOMAINS = {"carts": "checkout", "checkouts": "checkout", "returns": "return"}
# A gateway asks with this whether something has crossed: also the side that does not own it tells.
# For reads alone: whoever forges it may look at what he knows the identity of, and write nothing.
CROSSING = "x-crossing"
# Whoever asks with this goes on to the other side himself: he is told 421, and passed on by nobody.
PASSED_ON = "x-passed-on"

CARRIED = "SELECT to_regprocedure('splitctl_sync.serves(text,text,text)') IS NOT NULL"
OWNS = "SELECT splitctl_sync.owns(%s, %s, %s)"
SERVES = "SELECT splitctl_sync.serves(%s, %s, %s)"
GONE = (errors.UndefinedFunction, errors.InvalidSchemaName, errors.UndefinedTable)

Connection = AsyncConnection[tuple[Any, ...]]


class Misdirected(Problem):
    """Another side's database owns this customer; nothing was done here."""

    status = 421


class TornDown(Exception):
    """Sync was torn down just now, in the middle of the question: ask anew."""


@dataclass(frozen=True, slots=True)
class Customer:
    """Who is being served, and of which domain."""

    domain: str
    route: str


def customer_of(method: str, path: str, headers: Mapping[str, str]) -> Customer | None:
    """Whose request it is, where it belongs to a domain that moves.

    The close and the merge of a guest's cart are two requests; each has an owner of its own.
    `headers` by lower-case name.
    """
    domain = DOMAINS.get(path.split("/", 2)[1])
    who = Identity(headers.get("x-customer-id") or None, headers.get("x-guest-token") or None)
    crossing = method == "GET" and headers.get(CROSSING)
    return None if domain is None or crossing or not who.routes else Customer(domain, who.route)


_served: ContextVar[Customer | None] = ContextVar("served", default=None)


@contextmanager
def serving(customer: Customer | None) -> Iterator[None]:
    """Whose request the transactions in here belong to; None: nobody's that could have moved."""
    token = _served.set(customer)
    try:
        yield
    finally:
        _served.reset(token)


class Owners:
    """Asks the database whether this side owns who is being served.

    Before sync is enabled, and after it was torn down, there is nobody to ask. `alone` says whether
    this side then serves everybody; None: the old side does.
    """

    def __init__(self, side: Side, alone: bool | None = None) -> None:
        self._side = side
        self._alone = side == "old" if alone is None else alone
        self._carried = False

    async def before_writing(self, connection: Connection) -> None:
        """The first statement of a transaction. The answer holds until its end. Raises Misdirected.

        The owner's row cannot move meanwhile: a step waits for this transaction.
        """
        await self._ask(connection, OWNS)

    async def before_reading(self, connection: Connection) -> None:
        """The same for one that changes nothing, which no step has to wait for."""
        await self._ask(connection, SERVES)

    async def _ask(self, connection: Connection, question: str) -> None:
        customer = _served.get()
        if customer is None:
            return
        if not self._carried:
            self._carried = await _truth(connection, CARRIED, ())
        owned = self._alone
        if self._carried:
            values = (customer.domain, customer.route, self._side)
            try:
                owned = await _truth(connection, question, values)
            except GONE as error:
                self._carried = False
                raise TornDown from error
        if not owned:
            raise Misdirected("misdirected", f"the {self._side} side does not serve this customer")


async def _truth(connection: Connection, question: str, values: tuple[str, ...]) -> bool:
    cursor = await connection.execute(question, values)
    row = await cursor.fetchone()
    return row is not None and bool(row[0])
