"""The admin endpoint: flags, fences and rollback, behind a token.

Every answer is JSON. 400 not JSON, 401 no or a wrong token, 404 unknown, 409 it does not fit the
epoch or the fence that stands, 422 a field is missing or out of range.
"""

import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from services.gateway.buckets import BUCKETS
from services.gateway.fence import Door
from services.gateway.flags import DomainFlags
from services.gateway.leases import Ended, FenceMissing, FenceRefused, FenceView

LARGEST_BODY = 64 * 1024
LONGEST_LEASE_MS = 60_000
HIGHEST_EPOCH = 2**63 - 1

Handler = Callable[[Request], Awaitable[JSONResponse]]


class Unfit(Exception):
    """An answer other than the wanted one: status and reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Fields:
    """The body of an admin request, read field by field. Every reader raises Unfit."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    @classmethod
    async def of(cls, request: Request) -> "Fields":
        """Read a JSON object of reasonable size."""
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > LARGEST_BODY:
                raise Unfit(413, "the body is too large")
        try:
            values = json.loads(bytes(body))
        except (ValueError, RecursionError):
            raise Unfit(400, "the body is not JSON") from None
        if not isinstance(values, dict):
            raise Unfit(422, "the body is not a JSON object")
        return cls(values)

    def number(self, name: str, low: int, high: int) -> int:
        """A whole number within low..high."""
        value = self._values.get(name)
        if type(value) is not int or not low <= value <= high:
            raise Unfit(422, f"{name}: a whole number from {low} to {high}")
        return value

    def truth(self, name: str) -> bool:
        """True or false."""
        value = self._values.get(name)
        if not isinstance(value, bool):
            raise Unfit(422, f"{name}: true or false")
        return value

    def text(self, name: str) -> str:
        """A text that is not empty."""
        value = self._values.get(name)
        if not isinstance(value, str) or not value:
            raise Unfit(422, f"{name}: a text")
        return value

    def addresses(self, name: str) -> tuple[str, ...]:
        """A list of HTTP addresses, empty where it is not given."""
        value = self._values.get(name, [])
        if not isinstance(value, list) or not all(
            isinstance(item, str) and item.startswith(("http://", "https://")) for item in value
        ):
            raise Unfit(422, f"{name}: a list of addresses")
        return tuple(item.rstrip("/") for item in value)

    def epoch(self) -> int:
        """The epoch."""
        return self.number("epoch", 0, HIGHEST_EPOCH)

    def lease(self) -> float:
        """The lease, in seconds."""
        return self.number("lease_ms", 1, LONGEST_LEASE_MS) / 1000

    def flags(self) -> DomainFlags:
        """The flags of a domain."""
        return DomainFlags(self.truth("enabled"), self.number("percentage", 0, 100), self.epoch())


class Admin:
    """The handlers over the doors of this gateway."""

    def __init__(self, instance: str, token: str, doors: Mapping[str, Door]) -> None:
        self._instance = instance
        self._expected = f"Bearer {token}".encode()
        self._doors = doors

    def app(self) -> Starlette:
        """The ASGI application for /admin."""
        routes: list[tuple[str, str, Handler]] = [
            ("/admin/flags", "GET", self.flags),
            ("/admin/flags/{domain}", "PUT", self.set_flags),
            ("/admin/fences/{domain}", "POST", self.fence),
            ("/admin/fences/{domain}", "GET", self.view),
            ("/admin/fences/{domain}", "DELETE", self.release),
            ("/admin/fences/{domain}/confirm", "POST", self.confirm),
            ("/admin/fences/{domain}/switch", "POST", self.switch),
            ("/admin/fences/{domain}/settle", "POST", self.settle),
            ("/admin/rollback/{domain}", "POST", self.rollback),
        ]
        return Starlette(
            routes=[Route(path, self._guard(act), methods=[verb]) for path, verb, act in routes]
        )

    def _guard(self, act: Handler) -> Handler:
        async def guarded(request: Request) -> JSONResponse:
            given = request.headers.get("authorization", "").encode("latin-1")
            if not hmac.compare_digest(given, self._expected):
                return _refusal(401, "a bearer token is needed")
            try:
                return await act(request)
            except Unfit as error:
                return _refusal(error.status, str(error))
            except ClientDisconnect:
                return _refusal(400, "the body is not whole")
            except FenceMissing as error:
                return _refusal(404, str(error))
            except FenceRefused as error:
                return _refusal(409, str(error))

        return guarded

    def _door(self, request: Request) -> Door:
        door = self._doors.get(request.path_params["domain"])
        if door is None:
            raise Unfit(404, "no such domain")
        return door

    def _all_flags(self) -> JSONResponse:
        domains = {name: asdict(door.flags) for name, door in self._doors.items()}
        return JSONResponse({"instance": self._instance, "domains": domains})

    def _fence(self, view: FenceView) -> JSONResponse:
        return JSONResponse({"instance": self._instance, **asdict(view)})

    def _cost(self, ended: Ended) -> dict[str, object]:
        return {
            "instance": self._instance,
            "held_requests": ended.held_requests,
            "held_ms_max": ended.held_ms_max,
        }

    async def flags(self, request: Request) -> JSONResponse:
        """GET: the flags that are really served."""
        return self._all_flags()

    async def set_flags(self, request: Request) -> JSONResponse:
        """PUT: serve these flags at once, without a fence."""
        door = self._door(request)
        door.set_flags((await Fields.of(request)).flags())
        return self._all_flags()

    async def fence(self, request: Request) -> JSONResponse:
        """POST: hold new requests of the buckets that move."""
        door = self._door(request)
        fields = await Fields.of(request)
        low = fields.number("low", 0, BUCKETS)
        high = fields.number("high", 0, BUCKETS)
        if low >= high:
            raise Unfit(422, "low: below high")
        fields.text("holder")
        peers = fields.addresses("peers")
        return self._fence(door.fence(fields.epoch(), low, high, fields.lease(), peers))

    async def view(self, request: Request) -> JSONResponse:
        """GET: the fence that stands."""
        return self._fence(self._door(request).view())

    async def confirm(self, request: Request) -> JSONResponse:
        """POST: renew the lease."""
        door = self._door(request)
        fields = await Fields.of(request)
        return self._fence(door.confirm(fields.epoch(), fields.lease()))

    async def switch(self, request: Request) -> JSONResponse:
        """POST: the flags of the fence's epoch, and the held requests go on."""
        door = self._door(request)
        wanted = (await Fields.of(request)).flags()
        ended = door.switch(wanted)
        return JSONResponse({**asdict(wanted), **self._cost(ended)})

    async def settle(self, request: Request) -> JSONResponse:
        """POST: a peer asks what is served here; an epoch that is not served is given up."""
        door = self._door(request)
        return JSONResponse(asdict(door.settle((await Fields.of(request)).epoch())))

    async def release(self, request: Request) -> JSONResponse:
        """DELETE: the held requests go on under the flags as they are."""
        door = self._door(request)
        given = request.query_params.get("epoch", "")
        if not (given.isascii() and given.isdigit() and len(given) < 20):
            raise Unfit(422, "epoch: a whole number, in the query")
        epoch = int(given)
        try:
            return JSONResponse(self._cost(door.release(epoch)))
        except FenceMissing as error:
            ended = door.ended(epoch)
            known = {"how": ended.how, **self._cost(ended)} if ended is not None else {}
            return JSONResponse({"error": str(error), **known}, status_code=404)

    async def rollback(self, request: Request) -> JSONResponse:
        """POST: serve the lower percentage at once, hold those who come back for a moment."""
        door = self._door(request)
        fields = await Fields.of(request)
        hold = fields.number("hold_ms", 0, LONGEST_LEASE_MS) / 1000
        view = door.rollback(fields.epoch(), fields.number("percentage", 0, 100), hold)
        return self._fence(view)


def _refusal(status: int, reason: str) -> JSONResponse:
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"error": reason}, status_code=status, headers=headers)
