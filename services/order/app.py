"""The old order service, put together."""

from services.clients import Partners
from services.flows.carts import Carts
from services.flows.checkouts import Checkouts
from services.flows.returns import Returns
from services.order.carts import OldCarts
from services.order.checkouts import OldCheckouts
from services.order.orders import OldOrders
from services.order.returns import OldReturns
from services.web import Service, Settings


def build(settings: Settings) -> Service:
    """Carts, checkouts, returns and orders on order_db."""
    service = Service(settings)
    database = service.database
    partners = Partners(settings.partners_url)
    service.own(partners)
    carts, orders = OldCarts(), OldOrders(database)
    Carts(database, carts, partners).routes(service)
    Checkouts(database, OldCheckouts(), carts, orders, partners).routes(service)
    Returns(database, OldReturns(), orders, partners).routes(service)
    orders.routes(service)
    return service
