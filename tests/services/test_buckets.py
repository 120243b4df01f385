"""Buckets and flags: who is on the new side."""

import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.buckets import (
    IdentityMissing,
    bucket,
    customer_route,
    merge_routes,
    route_of,
)
from services.gateway.fence import Door
from services.gateway.flag_files import FlagFiles
from services.gateway.flags import DomainFlags, FlagsInvalid, from_environment

# Worked out with md5sum: the first 8 hex digits as an integer, modulo 10,000.
VECTORS = {
    "guest-17": 3083,  # a7ea312b
    "6ba7b810-9dad-11d1-80b4-00c04fd430c8": 9456,  # 1677cad0
    "00000000-0000-0000-0000-000000000000": 7050,  # 9f89c84a: above 2^31, so unsigned matters
    "ffffffff-ffff-ffff-ffff-ffffffffffff": 4477,  # b537846d
    "": 6393,  # d41d8cd9
    # both ends, and both sides of 10 % and of 50 %
    "guest-38825": 0,
    "guest-16897": 999,
    "guest-17047": 1000,
    "guest-15624": 4999,
    "guest-6472": 5000,
    "guest-23705": 9999,
}
ROUTES = st.text(min_size=1, max_size=60)


@pytest.mark.parametrize(("route", "expected"), VECTORS.items())
def test_vectors(route: str, expected: int) -> None:
    assert bucket(route) == expected


@pytest.mark.parametrize(
    ("route", "percentage", "side"),
    [
        ("guest-38825", 0, "old"),
        ("guest-38825", 1, "new"),
        ("guest-16897", 10, "new"),
        ("guest-17047", 10, "old"),
        ("guest-17047", 11, "new"),
        ("guest-15624", 50, "new"),
        ("guest-6472", 50, "old"),
        ("guest-23705", 99, "old"),
        ("guest-23705", 100, "new"),
    ],
)
def test_boundaries(route: str, percentage: int, side: str) -> None:
    assert DomainFlags(True, percentage, 1).side(bucket(route)) == side


def test_customer_ids_are_one_in_either_case_guest_tokens_are_not() -> None:
    upper = "6BA7B810-9DAD-11D1-80B4-00C04FD430C8"
    assert bucket(route_of({b"x-customer-id": upper.encode()})) == 9456
    assert bucket(customer_route("GUEST-17")) == 3083
    assert bucket(route_of({b"x-guest-token": b"Guest-17"})) == 2768
    assert bucket(route_of({b"x-guest-token": b"guest-17"})) == 3083


@given(ROUTES, st.integers(0, 100), st.integers(0, 100), st.integers(0, 9))
def test_raising_a_percentage_never_moves_anyone_back(
    route: str, one: int, other: int, epoch: int
) -> None:
    low, high = sorted((one, other))
    if DomainFlags(True, low, epoch).side(bucket(route)) == "new":
        assert DomainFlags(True, high, epoch + 1).side(bucket(route)) == "new"


@given(ROUTES, st.integers(0, 100))
def test_a_switch_that_is_off_sends_everyone_to_the_old_side(route: str, percentage: int) -> None:
    assert DomainFlags(False, percentage, 1).side(bucket(route)) == "old"
    assert DomainFlags(True, 0, 1).side(bucket(route)) == "old"
    assert DomainFlags(True, 100, 1).side(bucket(route)) == "new"


@given(st.uuids())
def test_buckets_are_in_range(identity: uuid.UUID) -> None:
    assert 0 <= bucket(str(identity)) < 10_000


def test_shares_are_what_they_say() -> None:
    routes = [str(uuid.UUID(int=number)) for number in range(20_000)]
    share = sum(bucket(route) < 1000 for route in routes) / len(routes)
    assert 0.09 < share < 0.11


@pytest.mark.parametrize(
    "identities",
    [
        {},
        {b"x-customer-id": b""},
        {b"x-customer-id": "käse".encode()},
        {b"x-customer-id": b"a\tb"},
        {b"x-guest-token": b"g" * 256},
        {b"x-customer-id": b"a", b"x-guest-token": b"b"},
    ],
)
def test_an_identity_that_cannot_be_placed_is_refused(identities: dict[bytes, bytes]) -> None:
    with pytest.raises(IdentityMissing):
        route_of(identities)


def test_a_merge_needs_both_identities() -> None:
    both = {b"x-customer-id": b"ABC", b"x-guest-token": b"Guest-1"}
    assert merge_routes(both) == ("Guest-1", "abc")
    with pytest.raises(IdentityMissing):
        merge_routes({b"x-customer-id": b"ABC"})


def test_a_default_counts_where_no_flag_stands_and_a_flag_has_the_last_word() -> None:
    default = {"CHECKOUT_DEFAULT": "new"}
    assert from_environment(default)["checkout"] == DomainFlags(True, 100, 0)
    assert from_environment(default)["return"] == DomainFlags(False, 0, 0)
    back = {"USE_CHECKOUT_SERVICE": "true", "CHECKOUT_TRAFFIC_PERCENTAGE": "0"}
    back["CHECKOUT_TRAFFIC_EPOCH"] = "8"
    assert from_environment({**default, **back})["checkout"] == DomainFlags(True, 0, 8)
    off = {"USE_CHECKOUT_SERVICE": "false"}
    assert from_environment({**default, **off})["checkout"].served == 0
    with pytest.raises(FlagsInvalid):
        from_environment({"CHECKOUT_DEFAULT": "ours"})


def test_a_domain_whose_flag_files_are_gone_goes_on_as_it_is(tmp_path: Path) -> None:
    flags = {"checkout": DomainFlags(True, 100, 7), "return": DomainFlags(True, 50, 3)}
    doors = {name: Door(name, of, lambda: 0.0, lambda *_: Never()) for name, of in flags.items()}
    files = FlagFiles(tmp_path, doors)
    (tmp_path / "USE_RETURN_SERVICE").write_text("true", encoding="utf-8")
    (tmp_path / "RETURN_TRAFFIC_PERCENTAGE").write_text("60", encoding="utf-8")
    (tmp_path / "RETURN_TRAFFIC_EPOCH").write_text("4", encoding="utf-8")
    files.look()
    assert doors["checkout"].flags == DomainFlags(True, 100, 7)
    assert doors["return"].flags == DomainFlags(True, 60, 4)


class Never:
    """A timer that nobody waits for."""

    def cancel(self) -> None:
        """Nothing."""


def test_flags_from_the_environment() -> None:
    assert from_environment({}) == {
        "checkout": DomainFlags(False, 0, 0),
        "return": DomainFlags(False, 0, 0),
    }
    flags = from_environment(
        {
            "USE_CHECKOUT_SERVICE": "True",
            "CHECKOUT_TRAFFIC_PERCENTAGE": "10",
            "RETURN_TRAFFIC_PERCENTAGE": "50",
        }
    )
    assert flags["checkout"].new_below == 1000
    assert flags["return"].new_below == 0
    with pytest.raises(FlagsInvalid) as caught:
        from_environment({"USE_CHECKOUT_SERVICE": "perhaps", "RETURN_TRAFFIC_PERCENTAGE": "101"})
    assert "USE_CHECKOUT_SERVICE" in str(caught.value)
    assert "RETURN_TRAFFIC_PERCENTAGE" in str(caught.value)
