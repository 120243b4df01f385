"""A guest's cart into a customer's, also when the two are on different sides.

The guest's cart gets its last write on the guest's own side: it is closed there. Sync carries
that to the customer's side, and only when all of it has arrived is the cart merged there. So the
copy that is merged is the last one, and each side writes only to carts that it owns.
"""

import asyncio
import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from services.gateway.flags import Side
from services.gateway.proxy import Answer, Header, UpstreamDown
from services.gateway.sides import MISDIRECTED, Askable, Moving, Sides, opposite
from services.owner import CROSSING

CROSSING_SECONDS = 2.0
FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.05

NOT_THE_CUSTOMERS = (b"x-guest-token", b"content-type", b"idempotency-key")
MERGE_PATH = re.compile(r"/carts/[^/]+/merge/?")


State = tuple[object, object, list[tuple[str, object, object]], list[str]]


class MergeInvalid(Exception):
    """The merge names no guest cart."""


class NotCrossed(Exception):
    """The closed guest cart did not reach the customer's side in time."""


class CustomerMoved(Exception):
    """The customer changed sides while the guest's cart was crossing. Nothing was merged."""


@dataclass(frozen=True, slots=True)
class Merge:
    """One merge request as it came, with the sides on which it is counted as under way.

    `moved` tells whether the customer has left that side. The merge must not follow on its own: it
    would write on the other side before a rollback's barrier is passed there, and be overwritten.
    """

    target: str
    headers: list[Header]
    body: bytes
    guest_side: Side
    customer_side: Side
    moved: Callable[[], bool]


def is_merge(method: str, path: str) -> bool:
    """Whether a request merges carts."""
    return method == "POST" and MERGE_PATH.fullmatch(path) is not None


def guest_cart(body: bytes) -> str:
    """The guest cart's id in a merge's body. Raises MergeInvalid."""
    try:
        document = json.loads(body)
        return str(uuid.UUID(document["guest_cart_id"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise MergeInvalid("a merge needs a JSON body with guest_cart_id, a uuid") from error


async def run(merge: Merge, sides: Sides) -> Answer:
    """Close, wait for the crossing, merge.

    A side that refuses the close has the last word: its answer goes to the customer.
    Raises MergeInvalid, NotCrossed, UpstreamDown, NobodyOwns, and CustomerMoved: then enter and run
    it anew.
    """
    cart = guest_cart(merge.body)
    as_guest = [
        header
        for header in merge.headers
        if header[0] not in (b"x-customer-id", b"content-type", b"idempotency-key")
    ]
    closed = await sides.ask(merge.guest_side, "POST", f"/carts/{cart}/close", as_guest, b"")
    if closed.status >= 300:
        return closed
    moving = Moving()
    side = await _customers_side(merge, sides)
    while True:
        if closed.side != side:
            await _crossed(cart, _state(closed), merge.moved, as_guest, sides[side])
        # From this look on the request counts as under way on the customer's side until it ends.
        if merge.moved():
            raise CustomerMoved
        answer = await sides[side].call("POST", merge.target, merge.headers, merge.body)
        if not sides.refusing or answer.status != MISDIRECTED:
            return answer
        await moving.refused()
        side = opposite(side)


async def _customers_side(merge: Merge, sides: Sides) -> Side:
    """Who owns the customer: the guest's cart has to cross to that side, not to the other."""
    if not sides.refusing:
        return merge.customer_side
    cart = merge.target.split("?", 1)[0].rstrip("/").removesuffix("/merge")
    asked = [header for header in merge.headers if header[0] not in NOT_THE_CUSTOMERS]
    return (await sides.ask(merge.customer_side, "GET", cart, asked, b"")).side or "old"


async def _crossed(
    cart: str,
    wanted: State,
    moved: Callable[[], bool],
    headers: list[Header],
    customers: Askable,
) -> None:
    pause = FIRST_PAUSE
    # The guest need not be theirs: what is asked is whether the cart is there.
    headers = [*headers, (CROSSING.encode(), b"1")]
    try:
        async with asyncio.timeout(CROSSING_SECONDS):
            while not moved():
                seen = await customers.call("GET", f"/carts/{cart}", headers, b"")
                if seen.status == 200 and _state(seen) == wanted:
                    return
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, LONGEST_PAUSE)
    except TimeoutError:
        raise NotCrossed(f"guest cart {cart} did not cross in {CROSSING_SECONDS:g} s") from None


def _state(answer: Answer) -> State:
    """Status, version, lines and codes of a cart.

    The version alone would not do. Sync carries a cart and its lines in whatever order they can be
    written: a line that has to wait comes after the version that it belongs to.
    """
    try:
        document = json.loads(answer.body)
        lines = [
            (str(line["id"]), line["quantity"], line["total_price"]) for line in document["items"]
        ]
        codes = [str(promotion["code"]) for promotion in document["promotions"]]
        return document["status"], document["version"], sorted(lines), sorted(codes)
    except (ValueError, TypeError, KeyError) as error:
        raise UpstreamDown(
            "a cart came back without status, version, items or promotions"
        ) from error
