"""One shopper's way to the gateways: each request counted, each answer judged, nothing retried."""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from rehearsal.recorder import Recorder, Served

TIMEOUT_S = 10.0
EXCERPT = 400
Json = dict[str, Any]


class Unexpected(Exception):
    """A request failed, or its answer was not the one the script expects. It was written down."""


class Leaving(Exception):
    """The shop closes: no new request is begun."""


@dataclass(frozen=True)
class Identity:
    """Who asks. `headers` carry it to the gateway; `route` is the stable id behind it."""

    headers: Mapping[str, str]
    route: str

    @classmethod
    def customer(cls, customer_id: str) -> "Identity":
        """A customer who is logged in."""
        return cls({"X-Customer-Id": customer_id}, customer_id.lower())

    @classmethod
    def guest(cls, token: str) -> "Identity":
        """A guest, known by a token."""
        return cls({"X-Guest-Token": token}, token)

    def merging(self, guest: "Identity") -> "Identity":
        """This customer with a guest's token beside, as a merge sends it."""
        return Identity({**self.headers, **guest.headers}, self.route)


@dataclass(frozen=True)
class Reply:
    """An answer as expected: its JSON, who served it, when it came (seconds, any origin)."""

    body: Json
    served: Served | None
    at: float


class Browser:
    """Sends requests to a gateway picked at random for each. One browser per shopper.

    `served`: who answered last, None before the first answer and where it was not told.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        gateways: Sequence[str],
        recorder: Recorder,
        chance: random.Random,
        closing: asyncio.Event,
        think_s: float,
    ) -> None:
        self._session, self._gateways, self.recorder = session, gateways, recorder
        self.chance, self._closing, self._think_s = chance, closing, think_s
        self.served: Served | None = None

    async def think(self) -> None:
        """Pause as people do between two clicks. Raises Leaving when the shop closes."""
        mean_s = self._think_s / self.recorder.stages.pace
        pause = min(self.chance.expovariate(1 / mean_s), 5 * mean_s)
        try:
            async with asyncio.timeout(pause):
                await self._closing.wait()
        except TimeoutError:
            return
        raise Leaving

    async def send(
        self,
        method: str,
        path: str,
        who: Identity,
        *,
        body: Json | None = None,
        expect: int = 200,
        subjects: Sequence[tuple[str, str]] = (),
    ) -> Reply:
        """One request; `subjects` (kind, id) are what it would change, none for a read.

        Raises Unexpected on anything but the status expected; the failure is then written down.
        """
        if self._closing.is_set():
            raise Leaving
        url = self.chance.choice(self._gateways) + path
        began = time.monotonic()
        tell = {"method": method, "path": path, "route": who.route, "subjects": list(subjects)}
        try:
            async with self._session.request(
                method, url, json=body, headers=who.headers, timeout=_LIMIT
            ) as answer:
                text = await answer.read()
                status, header = answer.status, answer.headers.get("X-Served-By")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.recorder.unanswered()
            reason = f"{type(error).__name__}: {error}"
            seconds = round(time.monotonic() - began, 3)
            self.recorder.failure({**tell, "gateway": url, "reason": reason, "seconds": seconds})
            raise Unexpected(reason) from error
        now = time.monotonic()
        self.served = served = Served.parse(header)
        self.recorder.request(served, now - began)
        if status != expect:
            reason = f"status {status} instead of {expect}"
            raise self.unexpected(tell, served, reason, text.decode("utf-8", "replace"))
        try:
            document = await answer.json()
        except (ValueError, aiohttp.ClientError):
            reason = "the answer is no JSON"
            raise self.unexpected(tell, served, reason, text.decode("utf-8", "replace")) from None
        return Reply(document if isinstance(document, dict) else {"list": document}, served, now)

    def unexpected(
        self, tell: Mapping[str, Any], served: Served | None, reason: str, answer: Any
    ) -> Unexpected:
        """Write a failure down; returns the exception to raise."""
        by = f"{served.domain}/{served.side}/{served.percentage}" if served else None
        entry = {**tell, "served_by": by, "reason": reason, "answer": str(answer)[:EXCERPT]}
        self.recorder.failure(entry)
        return Unexpected(reason)

    def must(
        self, holds: bool, reply: Reply, reason: str, kind: str, entity: str, who: Identity
    ) -> None:
        """Check an answer against the script. Raises Unexpected after writing it down."""
        if not holds:
            tell = {"subjects": [(kind, entity)], "route": who.route, "acknowledged": True}
            raise self.unexpected(tell, reply.served, reason, reply.body)

    def acknowledged(
        self, reply: Reply, op: str, kind: str, entity: str, route: str, expect: Json
    ) -> None:
        """Write down an acknowledged write with the content that must be found from now on."""
        entry = self._entry(op, kind, entity, route, expect)
        self.recorder.write(self._server_of(reply, kind, entity, route), entry)

    def implied(
        self, reply: Reply, op: str, kind: str, entity: str, route: str, expect: Json
    ) -> None:
        """Write down what the same request wrote besides; it is not counted a second time."""
        entry = {**self._entry(op, kind, entity, route, expect), "implied": True}
        self.recorder.implied_write(self._server_of(reply, kind, entity, route), entry)

    @staticmethod
    def _entry(op: str, kind: str, entity: str, route: str, expect: Json) -> Json:
        return {"op": op, "kind": kind, "id": entity, "route": route, "expect": expect}

    def _server_of(self, reply: Reply, kind: str, entity: str, route: str) -> Served:
        if reply.served is None:
            tell = {"subjects": [(kind, entity)], "route": route}
            raise self.unexpected(tell, None, "no X-Served-By on an answer", reply.body)
        return reply.served


_LIMIT = aiohttp.ClientTimeout(total=TIMEOUT_S)
