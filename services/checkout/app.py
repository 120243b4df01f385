"""The new checkout service, put together."""

from services.checkout.carts import NewCarts
from services.checkout.checkouts import NewCheckouts
from services.clients import Partners
from services.flows.carts import Carts
from services.flows.checkouts import Checkouts
from services.flows.orders import RemoteOrders
from services.web import Service, Settings


def build(settings: Settings) -> Service:
    """Carts and checkouts on checkout_db."""
    service = Service(settings)
    database = service.database
    partners, orders = Partners(settings.partners_url), RemoteOrders(settings.order_url)
    service.own(partners)
    service.own(orders)
    carts = NewCarts()
    Carts(database, carts, partners).routes(service)
    Checkouts(database, NewCheckouts(), carts, orders, partners).routes(service)
    return service
