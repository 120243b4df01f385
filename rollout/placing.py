"""Where test customers may be sent: addresses, and ids whose bucket the side asked really owns.

A write on the side that does not own the customer is a stray (law L5). So a bucket counts as a
side's only where everybody who could be asked says so: both databases and every gateway.
"""

import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from estate.config import BUCKETS, Config
from estate.errors import ExitCode, SplitctlError, in_one_line
from migrator.mapping import Side
from migrator.ownership import OwnerMissing, bucket
from rollout.phases import PER_PERCENT
from rollout.tools import Tools
from rollout.world import SIDES

Through = Literal["old", "new", "gateway"]


class OwnersUnknown(SplitctlError):
    """Nobody could be asked which customers of domain '{domain}' belong to which side: {reason}.
    Nothing was sent."""

    hint = "splitctl status"
    exit_code = ExitCode.INCONCLUSIVE


class SideUnknown(SplitctlError):
    """The configuration does not say where the sides of domain '{domain}' are asked directly.
    Nothing was sent."""

    hint = 'in config.toml: [flows.urls.{domain}] with old = "http://..." and new = "http://..."'
    exit_code = ExitCode.USAGE


class OwnsNobody(SplitctlError):
    """The {side} side owns no customer of domain '{domain}': every write there would be a stray.
    Nothing was sent."""

    hint = "splitctl smoke {domain} --side {side} --health  (asks and writes nothing)"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Buckets:
    """Buckets low <= b < high."""

    low: int = 0
    high: int = BUCKETS

    @property
    def empty(self) -> bool:
        """Whether nobody is in them."""
        return self.low >= self.high

    def hold(self, route: str) -> bool:
        """Whether the customer of this stable id is in them."""
        return self.low <= bucket(route) < self.high


EVERYBODY = Buckets()


@dataclass(frozen=True)
class Standing:
    """Who says from which bucket on the old side owns a domain; `away`: who said nothing, and why.

    `carried`: sync is enabled, so that a write on the wrong side becomes a stray.
    """

    domain: str
    thresholds: Mapping[str, int] = field(default_factory=dict)
    away: Mapping[str, str] = field(default_factory=dict)
    carried: bool = False

    def of(self, side: Side) -> Buckets:
        """The buckets that everybody gives to this side."""
        if not self.thresholds:
            reason = "; ".join(f"{who}: {why}" for who, why in self.away.items())
            raise OwnersUnknown(domain=self.domain, reason=reason)
        if side == "new":
            return Buckets(0, min(self.thresholds.values()))
        return Buckets(max(self.thresholds.values()), BUCKETS)


def standing(domain: str, tools: Tools) -> Standing:
    """Ask both databases and every gateway. Raises OwnersUnknown when none of them answers."""
    thresholds: dict[str, int] = {}
    away: dict[str, str] = {}
    carried = False
    for gateway in tools.flags.served():
        flags = gateway.domains.get(domain)
        if flags is not None:
            thresholds[gateway.url] = flags.served * PER_PERCENT
        else:
            away[gateway.url] = gateway.problem or f"it knows no domain '{domain}'"
    world = tools.world(domain)
    try:
        for side in SIDES:
            try:
                thresholds[f"the {side} side's database"] = world.owner(side).new_below
                carried = True
            except OwnerMissing:
                pass  # sync is not enabled: that database has no opinion
            except SplitctlError as error:
                away[f"the {side} side's database"] = in_one_line(error)
                carried = True  # as far as anybody knows
    finally:
        world.close()
    found = Standing(domain, thresholds, away, carried)
    found.of("old")
    return found


@dataclass(frozen=True)
class Place:
    """Where a flow's requests go, which customers it may be for, and which side must answer.

    `gateway` takes the steps that only prepare. `side` None: either.
    """

    name: str
    url: str
    gateway: str
    side: Side | None
    buckets: Buckets = EVERYBODY

    def url_of(self, prepares: bool) -> str:
        """The base address for a step."""
        return self.gateway if prepares else self.url


def gateways(config: Config) -> list[str]:
    """The addresses of all gateways, without a final slash."""
    return [url.rstrip("/") for url in config.gateway.urls]


def direct(config: Config, domain: str, side: Side, buckets: Buckets) -> Place:
    """One side asked past the gateways. Raises SideUnknown."""
    urls = config.flows.urls.get(domain)
    if urls is None:
        raise SideUnknown(domain=domain)
    url = urls.old if side == "old" else urls.new
    return Place(side, url.rstrip("/"), gateways(config)[0], side, buckets)


class Customers:
    """Ids of test customers and guests: all begin alike, and are as long as a uuid."""

    def __init__(self, prefix: str, chance: random.Random) -> None:
        self._prefix, self._chance = prefix, chance

    def values(self, buckets: Buckets, number: int) -> dict[str, str | int]:
        """What a walk of a new customer begins with."""
        return {"customer": self.new(buckets), "guest": self.new(buckets), "n": number}

    def new(self, buckets: Buckets = EVERYBODY) -> str:
        """An id that nobody had, in these buckets, of which there must be one."""
        assert not buckets.empty
        while True:  # one in 10,000 tries at the rarest
            tail = str(uuid.UUID(int=self._chance.getrandbits(128), version=4))
            found = self._prefix + tail[len(self._prefix) :]
            if buckets.hold(found):
                return found


@dataclass(frozen=True)
class Served:
    """Who answered, as a gateway says in `X-Served-By: domain/side/percentage`."""

    domain: str
    side: str

    def __str__(self) -> str:
        return f"{self.domain}/{self.side}"

    @classmethod
    def parse(cls, header: str | None) -> "Served | None":
        """None when the header is not there or says something else."""
        domain, _, rest = (header or "").partition("/")
        told = rest.partition("/")[0]
        for side in SIDES:
            if told == side:
                return cls(domain, side)
        return None


SERVED_BY = "X-Served-By"


def places(
    config: Config, domain: str, through: Through, standings: Mapping[str, Standing]
) -> Sequence[Place]:
    """Where a domain is asked: both sides at every gateway, or one side. Empty: it owns nobody."""
    if through != "gateway":
        place = direct(config, domain, through, standings[domain].of(through))
        return [] if place.buckets.empty else [place]
    return [
        Place(url, url, url, side, buckets)
        for url in gateways(config)
        for side in SIDES
        if not (buckets := standings[domain].of(side)).empty
    ]
