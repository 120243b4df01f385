"""Both sides of a domain, when the services themselves know whose customer it is.

A side that does not own a customer answers 421 and has done nothing. Then the other side is asked.
While the owner is being moved neither says yes; that takes as long as sync needs to carry the last
writes, so the request waits, and goes on where it belongs. A side that cannot even be connected to
was not asked at all: the other one may own the customer, after a rollback, say.
"""

import asyncio
import random
import time
from collections.abc import Iterable, Mapping
from typing import Protocol

from services.gateway.flags import Side
from services.gateway.proxy import Answer, Header, UpstreamUnreached

MISDIRECTED = 421
# So long neither side may own a customer; an owner's move takes some ten milliseconds.
MOVING_SECONDS = 8.0
# So long a dead side's customers may be on their way to the other one.
COMING_SECONDS = 3.0
FIRST_PAUSE, LONGEST_PAUSE, GROWTH = 0.002, 0.25, 1.5


class NobodyOwns(Exception):
    """Neither side took the request in time. Nothing was done."""


class Moving:
    """Counts the refusals of one request; waits a little whenever both sides have refused it."""

    def __init__(self) -> None:
        self._until = time.monotonic() + MOVING_SECONDS
        self._refused = 0
        self._pause = FIRST_PAUSE

    async def refused(self) -> None:
        """One more. Raises NobodyOwns when it has taken too long."""
        self._refused += 1
        if self._refused % 2:
            return
        if time.monotonic() > self._until:
            raise NobodyOwns(f"neither side took it in {MOVING_SECONDS:g} s")
        await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
        self._pause = min(GROWTH * self._pause, LONGEST_PAUSE)


class Askable(Protocol):
    """One side of a domain: another program, or the one that asks."""

    async def call(
        self, method: str, target: str, headers: Iterable[Header], body: bytes
    ) -> Answer:
        """Its answer to one request. Raises UpstreamDown."""


class Sides:
    """The two sides of a domain. `refusing`: both answer 421 to whom they do not own.

    `last`: the side that was asked last, where they are one request's alone (`for_one`).
    """

    def __init__(self, upstreams: Mapping[Side, Askable], *, refusing: bool) -> None:
        self._upstreams = upstreams
        self.refusing = refusing
        self.last: Side | None = None

    def for_one(self) -> "Sides":
        """The same for one request."""
        return Sides(self._upstreams, refusing=self.refusing)

    def __getitem__(self, side: Side) -> Askable:
        self.last = side
        return self._upstreams[side]

    async def ask(
        self, side: Side, method: str, target: str, headers: Iterable[Header], body: bytes
    ) -> Answer:
        """The answer of the side that takes the request; this one is asked first.

        Raises UpstreamDown, NobodyOwns.
        """
        if not self.refusing:
            return await self[side].call(method, target, headers, body)
        moving, began = Moving(), time.monotonic()
        headers = list(headers)
        while True:
            try:
                answer = await self[side].call(method, target, headers, body)
            except UpstreamUnreached:
                # The other side may have said no only because it does not own him yet.
                if time.monotonic() - began > COMING_SECONDS:
                    raise
            else:
                if answer.status != MISDIRECTED:
                    return answer
            await moving.refused()
            side = opposite(side)


def opposite(side: Side) -> Side:
    """The other one."""
    return "old" if side == "new" else "new"
