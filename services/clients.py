"""The programs a service asks over HTTP: the partners, and for the new services the orders.

Every call may be sent twice: reads by nature, the others by their Idempotency-Key. So a
connection that broke is tried once more.
"""

import time
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import aiohttp

from services.problems import Conflict, NotFound, Unavailable, Unprocessable
from services.rules import LARGEST_PRICE, money

CACHE_SECONDS = 60.0
CACHE_ENTRIES = 20_000
# Shorter than any server keeps an idle connection, so that we are the ones who close it.
IDLE_SECONDS = 3.0
TIMEOUT = aiohttp.ClientTimeout(total=5.0, sock_connect=2.0)
CONNECTIONS = 32

Value = TypeVar("Value")


class Cache(Generic[Value]):
    """Answers by key for a fixed time; the oldest leaves when it is full."""

    def __init__(self, seconds: float, entries: int) -> None:
        self._seconds = seconds
        self._entries = entries
        self._kept: dict[str, tuple[float, Value]] = {}

    def get(self, key: str) -> Value | None:
        """What was put, unless its time is over."""
        found = self._kept.get(key)
        if found is None:
            return None
        if found[0] < time.monotonic():
            del self._kept[key]
            return None
        return found[1]

    def put(self, key: str, value: Value) -> None:
        """Keep an answer."""
        while len(self._kept) >= self._entries:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = (time.monotonic() + self._seconds, value)


class Http:
    """A pool of kept-alive connections to one program. Open it inside the event loop."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the pool; nothing is connected yet."""
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=IDLE_SECONDS)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()
        )

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Status and JSON of an answer below 500. Raises Unavailable for all else."""
        assert self._session is not None, "not opened"
        url = self._base_url + path
        problem = ""
        for _ in range(2):
            try:
                async with self._session.request(method, url, json=body, headers=headers) as answer:
                    if answer.status < 500:
                        return answer.status, await answer.json(content_type=None)
                    problem = f"answered {answer.status}"
                    break
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                problem = f"hung up ({type(error).__name__})"
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                problem = f"did not answer ({type(error).__name__})"
                break
        raise Unavailable("partner_unavailable", f"{method} {path.partition('?')[0]} {problem}")


@dataclass(frozen=True, slots=True)
class Product:
    """A product as the catalog knows it."""

    product_id: str
    sku: str
    name: str
    price: Decimal


@dataclass(frozen=True, slots=True)
class ShippingMethod:
    """A way to send a parcel."""

    id: str
    name: str
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Discount:
    """A promotion that was found valid for a subtotal."""

    code: str
    type: str
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Reservation:
    """Items set aside for an order."""

    id: str
    warehouse_id: str | None


class Declined(Conflict):
    """The customer's bank said no; nothing was taken."""


class Partners:
    """Catalog, promotion, shipping, warehouse and payment partners."""

    def __init__(self, url: str) -> None:
        self._http = Http(url)
        self._products: Cache[Product] = Cache(CACHE_SECONDS, CACHE_ENTRIES)
        self._methods: Cache[dict[str, ShippingMethod]] = Cache(CACHE_SECONDS, 1)

    async def open(self) -> None:
        """Get ready to call."""
        await self._http.open()

    async def close(self) -> None:
        """Close every connection."""
        await self._http.close()

    async def product(self, sku_or_id: str) -> Product:
        """A product by its SKU or id. Raises Unprocessable where there is none."""
        found = self._products.get(sku_or_id)
        if found is None:
            path = f"/catalog/products/{quote(sku_or_id, safe='')}"
            status, value = await self._http.call("GET", path)
            if status != 200:
                raise Unprocessable("unknown_product", f"the catalog has no {sku_or_id}")
            found = Product(value["product_id"], value["sku"], value["name"], money(value["price"]))
            self._products.put(sku_or_id, found)
        return found

    async def discount(self, code: str, subtotal: Decimal) -> Discount:
        """What a promotion gives on a subtotal. Raises NotFound for a code that gives nothing."""
        body = {"code": code, "subtotal": str(subtotal)}
        status, value = await self._http.call("POST", "/promotions/validate", body)
        if status != 200:
            raise NotFound("unknown_promotion", f"there is no promotion {code}")
        amount = min(money(value["discount_amount"]), LARGEST_PRICE)
        return Discount(value["code"], value["type"], amount)

    async def shipping_method(self, method_id: str) -> ShippingMethod:
        """A shipping method. Raises Unprocessable where there is none."""
        methods = self._methods.get("")
        if methods is None:
            _, value = await self._http.call("GET", "/shipping/methods")
            methods = {
                item["id"]: ShippingMethod(item["id"], item["name"], money(item["cost"]))
                for item in value
            }
            self._methods.put("", methods)
        if method_id not in methods:
            raise Unprocessable("unknown_shipping_method", f"there is no method {method_id}")
        return methods[method_id]

    async def charge(self, amount: Decimal, currency: str, method: str, key: str) -> str:
        """Take a payment once per key; its id. Raises Declined, or Conflict for a key misused."""
        body = {"amount": str(amount), "currency": currency, "method": method}
        status, value = await self._http.call("POST", "/payments/charge", body, _once(key))
        if status == 402:
            raise Declined("payment_declined", _reason(value))
        if status not in (200, 201):
            raise Conflict("payment_refused", _reason(value))
        payment_id: str = value["payment_id"]
        return payment_id

    async def refund(self, payment_id: str, amount: Decimal, key: str) -> str:
        """Give money back once per key; the refund's id. Raises Conflict where it is refused."""
        body = {"payment_id": payment_id, "amount": str(amount)}
        status, value = await self._http.call("POST", "/payments/refund", body, _once(key))
        if status not in (200, 201):
            raise Conflict("refund_refused", _reason(value))
        refund_id: str = value["refund_id"]
        return refund_id

    async def reserve(self, sku: str, quantity: int, key: str) -> Reservation:
        """Set items aside once per key. Raises Conflict where there are not enough."""
        body = {"sku": sku, "quantity": quantity}
        status, value = await self._http.call("POST", "/warehouse/reserve", body, _once(key))
        if status not in (200, 201):
            raise Conflict("not_in_stock", _reason(value))
        return Reservation(value["reservation_id"], value.get("warehouse_id"))

    async def restock(self, sku: str, quantity: int, key: str) -> None:
        """Put items back on the shelf once per key. Raises Conflict where that is refused."""
        body = {"sku": sku, "quantity": quantity}
        status, value = await self._http.call("POST", "/warehouse/restock", body, _once(key))
        if status not in (200, 201):
            raise Conflict("restock_refused", _reason(value))


def _once(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def _reason(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("detail") or value.get("error") or value)
    return str(value)
