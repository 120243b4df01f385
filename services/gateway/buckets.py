"""Buckets: the 10,000 shares of a domain's customers."""

import hashlib
from collections.abc import Mapping

BUCKETS = 10_000
PER_PERCENT = BUCKETS // 100
LONGEST_IDENTITY = 255


class IdentityMissing(Exception):
    """The request names no customer, or names one in a way that cannot be placed."""


def bucket(route: str) -> int:
    """The bucket (0..9999) of a stable id: md5 of its UTF-8, first 8 hex digits, modulo 10,000."""
    digest = hashlib.md5(route.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:4], "big") % BUCKETS


def customer_route(customer_id: str) -> str:
    """The stable id of a customer: databases hold the same id in either case."""
    return customer_id.lower()


def guest_route(guest_token: str) -> str:
    """The stable id of a guest: the token as it is."""
    return guest_token


def identity(header: bytes) -> str:
    """The text of an identity header. Raises IdentityMissing unless it is printable ASCII.

    Lower-casing and encoding of other characters differ between databases and languages, so a
    bucket made from them could not be trusted.
    """
    try:
        text = header.decode("ascii")
    except UnicodeDecodeError:
        raise IdentityMissing("an identity header must be plain ASCII") from None
    if not text or len(text) > LONGEST_IDENTITY or not text.isprintable():
        raise IdentityMissing("an identity header is empty, too long or not printable")
    return text


def route_of(identities: Mapping[bytes, bytes]) -> str:
    """The one stable id behind `x-customer-id` or `x-guest-token`.

    Two identities are refused: the request would belong to two buckets, and only a merge does.
    """
    customer = identities.get(b"x-customer-id")
    guest = identities.get(b"x-guest-token")
    if customer is not None and guest is not None:
        raise IdentityMissing("send X-Customer-Id or X-Guest-Token; only a merge carries both")
    if customer is not None:
        return customer_route(identity(customer))
    if guest is not None:
        return guest_route(identity(guest))
    raise IdentityMissing("send X-Customer-Id or X-Guest-Token")


def merge_routes(identities: Mapping[bytes, bytes]) -> tuple[str, str]:
    """The stable ids (guest, customer) of a merge. Raises IdentityMissing unless both are there."""
    customer = identities.get(b"x-customer-id")
    guest = identities.get(b"x-guest-token")
    if customer is None or guest is None:
        raise IdentityMissing("a merge carries both X-Customer-Id and X-Guest-Token")
    return guest_route(identity(guest)), customer_route(identity(customer))
