"""Whom test customers may stand for: only those about whom everybody says the same."""

import random
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estate.config import BUCKETS
from migrator.ownership import OwnerMissing, Ownership, bucket
from rollout.flags import DomainFlags
from rollout.placing import Buckets, Customers, OwnersUnknown, Served, Standing, standing
from rollout.world import InMemoryWorld
from tests.rollout.rig import DOMAIN, Rig


def ask(rig: Rig) -> Standing:
    return standing(DOMAIN, rig.tools(nullcontext))


def serve(rig: Rig, *percentages: int) -> None:
    for gateway, percentage in zip(rig.gateways.values(), percentages, strict=True):
        gateway.domains[DOMAIN] = DomainFlags(True, percentage, 1)


@given(thresholds=st.lists(st.integers(0, BUCKETS), min_size=1), number=st.integers(0, BUCKETS - 1))
def test_a_bucket_is_never_a_sides_against_anybodys_word(
    thresholds: list[int], number: int
) -> None:
    told = Standing("d", {str(n): below for n, below in enumerate(thresholds)})
    new = {number < below for below in thresholds}
    for side, owns in (("new", True), ("old", False)):
        buckets = told.of(side)  # type: ignore[arg-type]
        assert (buckets.low <= number < buckets.high) == (new == {owns})


@settings(deadline=None)
@given(low=st.integers(0, BUCKETS - 100), width=st.integers(100, BUCKETS))
def test_an_id_is_in_its_buckets_and_begins_as_it_must(low: int, width: int) -> None:
    high = min(low + width, BUCKETS)
    found = Customers("abc-", random.Random(low)).new(Buckets(low, high))
    assert low <= bucket(found) < high
    assert found.startswith("abc-")
    assert len(found) == 36


def test_gateways_and_databases_are_asked_and_the_narrowest_counts(rig: Rig) -> None:
    serve(rig, 10, 50)
    rig.world.owners = {"old": Ownership(3000, 1), "new": Ownership(2000, 1)}
    told = ask(rig)
    assert (told.of("new"), told.of("old")) == (Buckets(0, 1000), Buckets(5000, BUCKETS))
    assert told.carried
    assert told.away == {}


def test_a_switched_off_flag_gives_nobody_to_the_new_side(rig: Rig) -> None:
    for gateway in rig.gateways.values():
        gateway.domains[DOMAIN] = DomainFlags(False, 50, 1)
    assert ask(rig).of("new").empty


def test_who_does_not_answer_is_told_and_the_others_count(rig: Rig) -> None:
    serve(rig, 10, 10)
    rig.world.owners = {"old": Ownership(1000, 1), "new": Ownership(1000, 1)}
    rig.world.away = {"old"}
    told = ask(rig)
    assert told.of("new") == Buckets(0, 1000)
    assert list(told.away) == ["the old side's database"]
    # A database that does not say whether sync is enabled may have it enabled.
    rig.world.away = {"old", "new"}
    assert ask(rig).carried


def test_with_nobody_to_ask_nobody_is_sent(rig: Rig) -> None:
    rig.world.away = {"old", "new"}
    for gateway in rig.gateways.values():
        gateway.reachable = False
    with pytest.raises(OwnersUnknown, match=r"gw-1: away.*the old side's database"):
        ask(rig)


def test_before_sync_is_enabled_the_gateways_alone_say_it(rig: Rig) -> None:
    class Unenabled(InMemoryWorld):
        def owner(self, side: Any) -> Ownership:
            raise OwnerMissing(database=side, domain=DOMAIN)

    serve(rig, 0, 0)
    rig.world = Unenabled()
    told = ask(rig)
    assert not told.carried
    assert told.of("old") == Buckets()


@pytest.mark.parametrize(
    ("header", "side"),
    [("d/new/10", "new"), ("d/old/0", "old"), ("d/left/10", None), ("new", None), (None, None)],
)
def test_who_served_is_read_from_the_gateways_header(header: str | None, side: str | None) -> None:
    served = Served.parse(header)
    assert (served.side if served else None) == side
