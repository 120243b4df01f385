"""Services that refuse customers whom their database does not own, and a gateway that then asks the
other side, or services that pass such a customer on themselves: whatever flags and weights say, a
customer is served where he belongs."""

import random
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estate.config import Problem
from estate.config.flows import SideUrls
from migrator import control, ownership
from migrator.mapping import Side as SideName
from migrator.ownership import bucket
from rehearsal.postgres import free_port
from rollout import flows, refusal
from rollout.placing import Buckets
from services.gateway.app import Gateway
from services.gateway.app import Settings as GatewaySettings
from services.gateway.buckets import BUCKETS
from services.gateway.flags import DomainFlags, from_environment
from services.gateway.metrics import Customers
from services.order import app as order_app
from services.passing import in_front
from services.web import Settings
from tests.services.conftest import BUILD, ROOT, Host, Json, Shop

SIDES: dict[str, SideName] = {"order": "old", "checkout": "new", "return": "new"}
DATABASES: dict[SideName, str] = {"old": "order", "new": "checkout"}
TOKEN = "t0ken"
NOWHERE = "http://127.0.0.1:9"


@dataclass
class Owned:
    """Services that ask their databases, and a gateway before them whose flags are at 0 %."""

    shop: Shop
    urls: dict[str, str]
    gateway: str
    http: httpx.Client
    host: Host
    epoch: int = 1

    def own(self, side: SideName, percentage: int, epoch: int) -> None:
        """Move the owner on one side."""
        with self.shop_connection(DATABASES[side]) as connection:
            ownership.switch(connection, "checkout", 100 * percentage, epoch)

    def own_both(self, percentage: int) -> None:
        """Move the owner on both sides."""
        self.epoch += 1
        for side in DATABASES:
            self.own(side, percentage, self.epoch)

    def shop_connection(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(self.shop.dsns[database], autocommit=True)

    def call(self, base: str, method: str, path: str, who: Json, body: Any = None) -> Any:
        return self.http.request(method, base + path, headers=who, json=body)

    def through(self, method: str, path: str, who: Json, body: Any = None) -> Any:
        return self.call(self.gateway, method, path, who, body)

    def passing(self, away: str = "") -> dict[str, str]:
        """Addresses of the same services, which pass on; the one named `away` is not there."""
        urls = {name: f"http://127.0.0.1:{free_port()}" for name in BUILD}
        others = {
            "order": {"checkout": urls["checkout"], "return": urls["return"]},
            "checkout": {"checkout": urls["order"]},
            "return": {"return": urls["order"]},
        }
        for name in BUILD.keys() - {away}:
            app = BUILD[name](self.settings(name)).app()
            app = in_front(app, name, SIDES[name], others[name])
            self.host.serve(app, int(urls[name].rsplit(":", 1)[1]))
        return urls

    def settings(self, name: str) -> Settings:
        return Settings(
            service=name,
            database_url=self.shop.dsns[name],
            partners_url=self.shop.urls["partners"],
            order_url=self.urls["order"],
            side=SIDES[name],
        )

    def another_gateway(self, flags: DomainFlags, **changes: Any) -> str:
        """Its address; its flags are as they are, whoever owns whom."""
        port = free_port()
        made = GatewaySettings(
            instance=f"gateway-{port}",
            token=TOKEN,
            order_url=self.urls["order"],
            new_urls={"checkout": self.urls["checkout"], "return": self.urls["return"]},
            flags={"checkout": flags, "return": DomainFlags(True, 0, 1)},
            owners_refuse=True,
        )
        self.host.serve(Gateway(replace(made, **changes)), port)
        return f"http://127.0.0.1:{port}"


@pytest.fixture
def owned(shop: Shop) -> Iterator[Owned]:
    for database in shop.dsns:
        with psycopg.connect(shop.dsns[database], autocommit=True) as connection:
            control.install(connection)
            for domain in ("checkout", "return"):
                ownership.create(connection, domain)
    host = Host()
    urls = {name: f"http://127.0.0.1:{free_port()}" for name in BUILD}
    try:
        with httpx.Client(timeout=20) as http:
            made = Owned(shop, urls, "", http, host)
            for name, build in BUILD.items():
                app = build(made.settings(name)).app()
                host.serve(app, int(urls[name].rsplit(":", 1)[1]))
            made.gateway = made.another_gateway(DomainFlags(True, 0, 1))
            yield made
    finally:
        host.stop()
        for database in shop.dsns:
            with psycopg.connect(shop.dsns[database], autocommit=True) as connection:
                control.drop(connection)


def customer_of(fits: Callable[[int], bool]) -> Json:
    """Headers of a new customer whose bucket fits."""
    while True:
        customer = str(uuid.uuid4())
        if fits(bucket(customer)):
            return {"X-Customer-Id": customer}


def token_of(fits: Callable[[int], bool]) -> str:
    """A new guest's token whose bucket fits."""
    return next(t for _ in range(10_000) if fits(bucket(t := uuid.uuid4().hex)))


def served_by(answer: httpx.Response) -> str:
    return answer.headers["x-served-by"].split("/")[1]


def carts_of(owned: Owned, who: Json, side: SideName) -> int:
    table = {"old": "cart_sessions", "new": "carts"}[side]
    statement = f"SELECT count(*) FROM {table} WHERE customer_id::text = %s"
    return int(owned.shop.sql(DATABASES[side], statement, [who["X-Customer-Id"]])[0][0])


def test_a_service_refuses_customers_of_the_other_side(owned: Owned) -> None:
    owned.own_both(50)
    moved = customer_of(lambda number: number < 5000)
    stayed = customer_of(lambda number: number >= 5000)
    for who, owner, other in ((moved, "checkout", "order"), (stayed, "order", "checkout")):
        made = owned.call(owned.urls[owner], "POST", "/carts", who)
        refused = owned.call(owned.urls[other], "POST", "/carts", who)
        assert (made.status_code, refused.status_code) == (201, 421)
        assert refused.json()["error"] == "misdirected"
        path = f"/carts/{made.json()['id']}"
        assert owned.call(owned.urls[owner], "GET", path, who).status_code == 200
        assert owned.call(owned.urls[other], "GET", path, who).status_code == 421
        assert carts_of(owned, who, SIDES[other]) == 0


def test_at_the_end_the_old_code_is_kept_beside_and_found_by_whoever_comes_back(
    owned: Owned,
) -> None:
    """The order service has no carts any more; where these still are is the domain's old side."""
    settings = Settings(
        service="order",
        database_url=owned.shop.dsns["order"],
        partners_url=owned.shop.urls["partners"],
        side="old",
    )
    port = free_port()
    owned.host.serve(order_app.build(settings, moved={"checkout"}).app(), port)
    ended = f"http://127.0.0.1:{port}"
    old_urls = {"checkout": owned.urls["order"]}
    by_default = from_environment({"CHECKOUT_DEFAULT": "new"})["checkout"]
    gateway = owned.another_gateway(by_default, order_url=ended, old_urls=old_urls)
    owned.own_both(100)
    who = customer_of(lambda _: True)
    made = owned.call(gateway, "POST", "/carts", who)
    assert (made.status_code, served_by(made)) == (201, "new")
    for path in ("/carts", f"/carts/{uuid.uuid4()}/items", "/checkouts"):
        gone = owned.call(ended, "POST", path, who)
        assert (gone.status_code, gone.json()["error"]) == (410, "moved")
    assert owned.call(gateway, "GET", "/orders", who).json() == {"orders": []}
    assert owned.call(ended, "GET", f"/returns/{uuid.uuid4()}", who).status_code == 404
    # Called back: the owners have moved, and no gateway was told yet.
    owned.own_both(0)
    came_back = owned.call(gateway, "POST", "/carts", who)
    assert (came_back.status_code, served_by(came_back)) == (201, "old")
    assert carts_of(owned, who, "old") == 1


def test_where_nothing_is_carried_the_old_side_alone_serves(owned: Owned) -> None:
    """Before sync is enabled, and after it was torn down, nobody carries what the new writes."""
    owned.own_both(100)
    who = customer_of(lambda _: True)
    assert owned.call(owned.urls["order"], "POST", "/carts", who).status_code == 421
    for database in owned.shop.dsns:
        with owned.shop_connection(database) as connection:
            control.drop(connection)
    for _ in range(2):
        assert owned.call(owned.urls["order"], "POST", "/carts", who).status_code == 201
        assert owned.call(owned.urls["checkout"], "POST", "/carts", who).status_code == 421
        path = f"/carts/{uuid.uuid4()}"
        assert owned.call(owned.urls["order"], "GET", path, who).status_code == 404
        assert owned.call(owned.urls["checkout"], "GET", path, who).status_code == 421


def test_a_new_side_that_is_alone_for_good_is_told_so(owned: Owned) -> None:
    settings = Settings(
        service="checkout",
        database_url=owned.shop.dsns["checkout"],
        partners_url=owned.shop.urls["partners"],
        order_url=owned.urls["order"],
        side="new",
        alone=True,
    )
    port = free_port()
    owned.host.serve(BUILD["checkout"](settings).app(), port)
    for database in owned.shop.dsns:
        with owned.shop_connection(database) as connection:
            control.drop(connection)
    who = customer_of(lambda _: True)
    assert owned.call(f"http://127.0.0.1:{port}", "POST", "/carts", who).status_code == 201


def test_orders_belong_to_nobody_who_moves(owned: Owned) -> None:
    owned.own_both(100)
    who = customer_of(lambda _: True)
    answer = owned.call(owned.urls["order"], "GET", f"/orders/{uuid.uuid4()}", who)
    assert answer.status_code == 404


@pytest.mark.parametrize("flag", [0, 10, 100])
def test_a_customer_is_served_by_his_owner_whatever_the_flags_say(owned: Owned, flag: int) -> None:
    owned.own_both(50)
    gateway = owned.another_gateway(DomainFlags(True, flag, 1))
    for fits, side in ((lambda n: n < 5000, "new"), (lambda n: n >= 5000, "old")):
        who = customer_of(fits)
        made = owned.call(gateway, "POST", "/carts", who)
        assert (made.status_code, served_by(made)) == (201, side)
        item = {"product_sku": "SKU-1", "quantity": 1}
        path = f"/carts/{made.json()['id']}/items"
        assert owned.call(gateway, "POST", path, who, item).status_code == 201
    page = httpx.get(f"{gateway}/metrics").text
    for side in ("old", "new"):
        assert f'gateway_customers{{domain="checkout",side="{side}"}} 1.0' in page


def test_while_the_owner_moves_a_customer_waits_and_is_served(owned: Owned) -> None:
    owned.own_both(0)
    owned.epoch += 1
    who = customer_of(lambda _: True)
    owned.own("old", 100, owned.epoch)
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(owned.through("POST", "/carts", who)))
    asking.start()
    asking.join(0.2)
    assert asking.is_alive()
    owned.own("new", 100, owned.epoch)
    asking.join(10)
    assert [(a.status_code, served_by(a)) for a in answers] == [(201, "new")]


def test_the_owner_moves_only_after_a_write_under_way(owned: Owned) -> None:
    owned.own_both(0)
    owned.epoch += 1
    who = customer_of(lambda _: True)
    cart = owned.through("POST", "/carts", who).json()["id"]
    path, item = f"/carts/{cart}/items", {"product_sku": "SKU-1", "quantity": 1}
    added: list[httpx.Response] = []
    with owned.shop_connection("order") as held, held.transaction():
        held.execute("SELECT FROM cart_sessions WHERE id = %s FOR UPDATE", [cart])
        adding = threading.Thread(
            target=lambda: added.append(owned.through("POST", path, who, item))
        )
        adding.start()
        _until_somebody_waits(owned, held)
        moving = threading.Thread(target=lambda: owned.own("old", 100, owned.epoch))
        moving.start()
        moving.join(0.3)
        assert moving.is_alive()
    adding.join(10)
    moving.join(10)
    assert [(a.status_code, served_by(a)) for a in added] == [(201, "old")]
    counted = "SELECT count(*) FROM cart_items WHERE cart_session_id = %s"
    assert owned.shop.sql("order", counted, [cart]) == [(1,)]


def _until_somebody_waits(owned: Owned, held: psycopg.Connection[Any]) -> None:
    waiting = """
        SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))
    """
    pid = held.info.backend_pid
    limit = threading.Event()
    for _ in range(500):
        if owned.shop.sql("order", waiting, [pid]) != [(0,)]:
            return
        limit.wait(0.02)
    raise AssertionError("nobody waits")


def test_a_side_that_cannot_be_reached_is_not_in_the_way_of_the_other(owned: Owned) -> None:
    """After a rollback the gateways may still be told to ask a new side that is dead."""
    owned.own_both(0)
    gateway = owned.another_gateway(
        DomainFlags(True, 100, 1), new_urls={"checkout": NOWHERE, "return": NOWHERE}
    )
    who = customer_of(lambda _: True)
    answer = owned.call(gateway, "POST", "/carts", who)
    assert (answer.status_code, served_by(answer)) == (201, "old")


def test_a_dead_owner_is_told_and_nobody_else_writes(owned: Owned) -> None:
    owned.own_both(100)
    gateway = owned.another_gateway(
        DomainFlags(True, 100, 1), new_urls={"checkout": NOWHERE, "return": NOWHERE}
    )
    who = customer_of(lambda _: True)
    assert owned.call(gateway, "POST", "/carts", who).status_code == 502
    assert carts_of(owned, who, "old") == 0


def test_a_merge_finds_both_owners_whatever_the_flags_say(owned: Owned) -> None:
    owned.own_both(100)
    guest, who = {"X-Guest-Token": uuid.uuid4().hex}, customer_of(lambda _: True)
    carts = [owned.through("POST", "/carts", each).json()["id"] for each in (guest, who)]
    item = {"product_sku": "SKU-1", "quantity": 2}
    added = owned.through("POST", f"/carts/{carts[0]}/items", guest, item)
    assert (added.status_code, served_by(added)) == (201, "new")
    body = {"guest_cart_id": carts[0]}
    merged = owned.through("POST", f"/carts/{carts[1]}/merge", guest | who, body)
    assert (merged.status_code, served_by(merged)) == (200, "new")
    assert [line["quantity"] for line in merged.json()["items"]] == [2]


CART = flows.read(ROOT / "flows" / "cart.toml", ["checkout"])


def unrefused(owned: Owned, below: int, **urls: str) -> list[Problem]:
    """What the rollout finds when it asks both sides, of which new owns the buckets below."""
    sides = SideUrls(**({"old": owned.urls["order"], "new": owned.urls["checkout"]} | urls))
    buckets = {"new": Buckets(0, below), "old": Buckets(below, BUCKETS)}
    return refusal.unrefused("checkout", [CART], sides, buckets, "5317c71e")


@pytest.mark.parametrize("percentage", [0, 10, 100])
def test_services_that_refuse_are_found_to_do_so(owned: Owned, percentage: int) -> None:
    owned.own_both(percentage)
    assert unrefused(owned, 100 * percentage) == []


def test_a_service_that_takes_whom_it_does_not_own_is_named(owned: Owned) -> None:
    owned.own_both(100)
    (told,) = unrefused(owned, 0)[:1]
    assert "the old service of checkout answers 421 to a customer whom its database owns" in (
        told.reason
    )
    told = unrefused(owned, 0)[-1]
    assert "the new service of checkout answers 404 instead of 421" in told.reason
    assert "flow cart" in told.reason


def test_a_service_that_cannot_be_asked_is_not_believed(owned: Owned) -> None:
    owned.own_both(10)
    found = unrefused(owned, 1000, new=NOWHERE)
    assert found
    assert all("the new service of checkout could not be asked" in item.reason for item in found)
    reads_nothing = CART.model_copy(update={"steps": CART.steps[:1]})
    sides = SideUrls(old=NOWHERE, new=NOWHERE)
    (lacking,) = refusal.unrefused("checkout", [reads_nothing], sides, {}, "5317c71e")
    assert "no flow of checkout has a step that reads" in lacking.reason


def test_only_a_gateway_may_look_across(owned: Owned) -> None:
    who = customer_of(lambda _: True) | {"X-Crossing": "1"}
    assert owned.through("GET", f"/carts/{uuid.uuid4()}", who).status_code == 400


# Services that pass on: nobody before them asks anew


@pytest.mark.parametrize("asked", ["order", "checkout"])
def test_whoever_is_asked_a_customer_is_served_by_his_owner(owned: Owned, asked: str) -> None:
    owned.own_both(50)
    urls = owned.passing()
    for fits, side in ((lambda n: n < 5000, "new"), (lambda n: n >= 5000, "old")):
        who = customer_of(fits)
        made = owned.call(urls[asked], "POST", "/carts", who)
        assert (made.status_code, served_by(made)) == (201, side)
        item = {"product_sku": "SKU-1", "quantity": 1}
        path = f"/carts/{made.json()['id']}"
        assert owned.call(urls[asked], "POST", f"{path}/items", who, item).status_code == 201
        found = owned.call(urls[asked], "GET", path, who)
        assert (found.status_code, len(found.json()["items"])) == (200, 1)
    page = httpx.get(f"{urls[asked]}/metrics").text
    for side in ("old", "new"):
        # Each request once, by the side that served it.
        assert f'gateway_requests_total{{domain="checkout",side="{side}",status="201"}} 2.0' in page
    assert "service_requests_total" in page
    assert "gateway_customers{" not in page


def test_what_was_passed_on_is_passed_on_by_nobody(owned: Owned) -> None:
    owned.own_both(100)
    urls = owned.passing()
    who = customer_of(lambda _: True)
    for asked, status in (("order", 421), ("checkout", 201)):
        answer = owned.call(urls[asked], "POST", "/carts", who | {"X-Passed-On": "1"})
        assert answer.status_code == status


def test_while_the_owner_moves_a_service_waits_and_passes_on(owned: Owned) -> None:
    owned.own_both(0)
    owned.epoch += 1
    urls, who = owned.passing(), customer_of(lambda _: True)
    owned.own("old", 100, owned.epoch)
    answers: list[httpx.Response] = []
    asking = threading.Thread(
        target=lambda: answers.append(owned.call(urls["order"], "POST", "/carts", who))
    )
    asking.start()
    asking.join(0.2)
    assert asking.is_alive()
    owned.own("new", 100, owned.epoch)
    asking.join(10)
    assert [(a.status_code, served_by(a)) for a in answers] == [(201, "new")]


def test_a_guests_cart_is_merged_across_by_whoever_is_asked(owned: Owned) -> None:
    owned.own_both(50)
    urls = owned.passing()
    who = customer_of(lambda number: number < 5000)
    guest = {"X-Guest-Token": token_of(lambda number: number < 5000)}
    carts = [owned.call(urls["order"], "POST", "/carts", one).json()["id"] for one in (guest, who)]
    item = {"product_sku": "SKU-1", "quantity": 2}
    owned.call(urls["order"], "POST", f"/carts/{carts[0]}/items", guest, item)
    body = {"guest_cart_id": carts[0]}
    merged = owned.call(urls["order"], "POST", f"/carts/{carts[1]}/merge", guest | who, body)
    assert (merged.status_code, served_by(merged)) == (200, "new")
    assert [line["quantity"] for line in merged.json()["items"]] == [2]


def test_nobody_from_outside_closes_a_guests_cart_or_looks_across(owned: Owned) -> None:
    urls, who = owned.passing(), customer_of(lambda _: True)
    path = f"/carts/{uuid.uuid4()}"
    assert owned.call(urls["order"], "POST", f"{path}/close", who).status_code == 404
    assert owned.call(urls["order"], "GET", path, who | {"X-Crossing": "1"}).status_code == 400


def test_a_service_that_is_away_is_told_of_only_to_its_own_customers(owned: Owned) -> None:
    owned.own_both(50)
    urls = owned.passing(away="checkout")
    stayed = customer_of(lambda number: number >= 5000)
    assert owned.call(urls["order"], "POST", "/carts", stayed).status_code == 201
    moved = customer_of(lambda number: number < 5000)
    assert owned.call(urls["order"], "POST", "/carts", moved).status_code == 502


def test_behind_a_gateway_that_asks_anew_a_service_passes_nothing_on(owned: Owned) -> None:
    owned.own_both(100)
    urls = owned.passing()
    changes = {"order_url": urls["order"], "new_urls": {"checkout": urls["checkout"], "return": ""}}
    gateway = owned.another_gateway(DomainFlags(True, 0, 1), **changes)
    made = owned.call(gateway, "POST", "/carts", customer_of(lambda _: True))
    assert (made.status_code, served_by(made)) == (201, "new")
    for name in ("order", "checkout"):
        page = httpx.get(f"{urls[name]}/metrics").text
        assert 'gateway_requests_total{domain="checkout",side="new",status="201"}' not in page


def test_services_that_pass_on_take_a_merge_from_a_gateway_that_asks_nobody_anew(
    owned: Owned,
) -> None:
    owned.own_both(0)
    urls = owned.passing()
    new_urls = {"checkout": urls["checkout"], "return": ""}
    gateway = owned.another_gateway(
        DomainFlags(True, 0, 1), order_url=urls["order"], new_urls=new_urls, owners_refuse=False
    )
    guest, who = {"X-Guest-Token": uuid.uuid4().hex}, customer_of(lambda _: True)
    carts = [owned.call(gateway, "POST", "/carts", one).json()["id"] for one in (guest, who)]
    item = {"product_sku": "SKU-1", "quantity": 2}
    owned.call(gateway, "POST", f"/carts/{carts[0]}/items", guest, item)
    body = {"guest_cart_id": carts[0]}
    merged = owned.call(gateway, "POST", f"/carts/{carts[1]}/merge", guest | who, body)
    assert (merged.status_code, served_by(merged)) == (200, "old")
    assert [line["quantity"] for line in merged.json()["items"]] == [2]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("checkout=http://x", "needs OWNER_SIDE"),
        ("nonsense", "say DOMAIN=URL"),
        ("shipping=http://x", "say DOMAIN=URL"),
        ("checkout=ftp://x", "say DOMAIN=URL"),
    ],
)
def test_what_cannot_be_passed_on_is_refused_at_the_start(
    text: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "x")
    monkeypatch.setenv("PASS_ON", text)
    with pytest.raises(SystemExit, match=told):
        Settings.from_environment("checkout")


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, BUCKETS - 1)), max_size=60),
    st.lists(st.integers(0, BUCKETS), min_size=10, max_size=10),
)
def test_what_is_counted_never_contradicts_the_last_owner(
    visits: list[tuple[int, int]], thresholds: list[int]
) -> None:
    """However often the owner moved: nobody is counted below a customer of the new side as old."""
    customers, flags = Customers(), DomainFlags(True, 50, 3)
    for owner, number in sorted(visits):
        side: SideName = "new" if number < thresholds[owner] else "old"
        customers.add(flags, [number], [side])
        held = customers._served
        assert max(held["new"], default=-1) < min(held["old"], default=BUCKETS)
        # Who tells of a move is not counted: then there is nobody yet.
        assert number in held[side] or not (held["old"] or held["new"])


def test_who_tells_that_the_owner_has_moved_is_not_counted_for_it() -> None:
    """Else each gateway's count would begin with one of those who moved, at 10 % as at 50 %."""
    chance, shares = random.Random(1), []
    for _ in range(300):
        customers, flags = Customers(), DomainFlags(True, 10, 3)
        for number in chance.choices(range(BUCKETS), k=40):
            customers.add(flags, [number], ["old"])
        for number in chance.choices(range(BUCKETS), k=40):
            customers.add(flags, [number], ["new" if number < 1000 else "old"])
        new, old = customers.count(flags, "new"), customers.count(flags, "old")
        if new + old >= 15:
            shares.append(new / (new + old))
    assert sum(shares) / len(shares) == pytest.approx(0.1, abs=0.012)


def test_after_the_owner_moved_both_sides_are_counted_from_then_on() -> None:
    """Else who stayed would outnumber who moved: they were seen before, too."""
    customers, flags = Customers(), DomainFlags(True, 50, 3)
    everybody = range(0, BUCKETS, 10)
    for threshold in (1000, 5000):
        for number in everybody[::2] if threshold == 1000 else everybody[1::2]:
            customers.add(flags, [number], ["new" if number < threshold else "old"])
    new, old = customers.count(flags, "new"), customers.count(flags, "old")
    assert new / (new + old) == pytest.approx(0.5, abs=0.06)
