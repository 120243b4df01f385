"""The old order service, put together."""

from collections.abc import Collection, Mapping

from services.clients import Partners
from services.flows.carts import Carts
from services.flows.checkouts import Checkouts
from services.flows.returns import Returns
from services.order.carts import OldCarts
from services.order.checkouts import OldCheckouts
from services.order.orders import OldOrders
from services.order.returns import OldReturns
from services.owner import DOMAINS
from services.problems import Gone
from services.web import Answer, Call, Service, Settings

# domain -> the variable that says that its code has moved
MOVED = {"checkout": "CHECKOUT_MOVED", "return": "RETURN_MOVED"}
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def moved(environment: Mapping[str, str]) -> frozenset[str]:
    """The domains whose code is not to be here any more. Raises SystemExit."""
    found = set()
    for domain, name in MOVED.items():
        word = environment.get(name, "").strip().lower()
        if word not in ("", "true", "false"):
            raise SystemExit(f"{name} is {word}: say true or false, or leave it out")
        if word == "true":
            found.add(domain)
    return frozenset(found)


def build(settings: Settings, moved: Collection[str] = ()) -> Service:
    """Orders on order_db, and carts, checkouts and returns where their domain has not moved."""
    service = Service(settings)
    database = service.database
    partners = Partners(settings.partners_url)
    service.own(partners)
    carts, orders = OldCarts(), OldOrders(database)
    if "checkout" not in moved:
        Carts(database, carts, partners).routes(service)
        Checkouts(database, OldCheckouts(), carts, orders, partners).routes(service)
    if "return" not in moved:
        Returns(database, OldReturns(), orders, partners).routes(service)
    for head, domain in DOMAINS.items():
        if domain in moved:
            _gone(service, head)
    orders.routes(service)
    return service


def _gone(service: Service, head: str) -> None:
    """Whoever still comes here is told: it is no cart that is missing, it is all of them."""

    async def gone(_: Call) -> Answer:
        raise Gone("moved", f"/{head} is not served here any more")

    for method in METHODS:
        for path in (f"/{head}", f"/{head}/{{rest:path}}"):
            service.add(method, path, "Gone", gone)
