"""The new return service, put together."""

from services.clients import Partners
from services.flows.orders import RemoteOrders
from services.flows.returns import Returns
from services.returns.store import NewReturns
from services.web import Service, Settings


def build(settings: Settings) -> Service:
    """Returns on return_db."""
    service = Service(settings)
    database = service.database
    partners, orders = Partners(settings.partners_url), RemoteOrders(settings.order_url)
    service.own(partners)
    service.own(orders)
    Returns(database, NewReturns(), orders, partners).routes(service)
    return service
