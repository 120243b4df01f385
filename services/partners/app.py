"""The partners' HTTP interface. Amounts are decimal texts ("12.34"); a number is accepted too."""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from prometheus_client import CollectorRegistry, Counter, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.partners import faults
from services.partners.goods import CENT, PROMOTIONS, SHIPPING, Catalog
from services.partners.once import Document, KeyReused, Once

Handler = Callable[[Request], Awaitable[Any]]
LARGEST_AMOUNT = Decimal(10_000_000)
DECLINED = "declined"


class Refusal(Exception):
    """An answer that is not the wanted one: status, word for programs, sentence for people."""

    def __init__(self, status: int, error: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.error = error


async def body_of(request: Request) -> Document:
    """The JSON object sent. Raises Refusal."""
    try:
        document = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise Refusal(400, "not_json", "the body is not JSON") from None
    if not isinstance(document, dict):
        raise Refusal(400, "not_an_object", "the body is not a JSON object")
    return document


def key_of(request: Request) -> str:
    """The idempotency key. Raises Refusal."""
    key = request.headers.get("idempotency-key", "").strip()
    if not key:
        raise Refusal(400, "key_missing", "send an Idempotency-Key header")
    return key


def amount(document: Document, name: str) -> Decimal:
    """An amount of money, two decimals, not negative. Raises Refusal."""
    value = document.get(name)
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise InvalidOperation
        read = Decimal(str(value))
        if not 0 <= read <= LARGEST_AMOUNT:
            raise InvalidOperation
        return read.quantize(CENT)
    except InvalidOperation:
        raise Refusal(422, "bad_amount", f"{name} is not an amount of money") from None


def text(document: Document, name: str) -> str:
    """A text that must be there. Raises Refusal."""
    value = document.get(name)
    if not isinstance(value, str) or not value:
        raise Refusal(422, "missing_field", f"{name} is missing")
    return value


class Partners:
    """All partners, in memory."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._once = Once()
        self._faults = faults.Faults()
        self._charged: dict[str, Decimal] = {}
        self._refunded: dict[str, Decimal] = {}
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "partner_requests_total",
            "Requests answered.",
            ["partner", "status"],
            registry=self._registry,
        )

    def app(self) -> Starlette:
        """The ASGI application."""
        routes: list[tuple[str, str, Handler]] = [
            ("GET", "/catalog/products/{product}", self.product),
            ("GET", "/pricing/products/{product}", self.price),
            ("POST", "/promotions/validate", self.promotion),
            ("POST", "/payments/charge", self.charge),
            ("POST", "/payments/refund", self.refund),
            ("GET", "/payments/summary", self.summary),
            ("GET", "/shipping/methods", self.shipping),
            ("GET", "/shipping/methods/{method}", self.shipping_method),
            ("POST", "/warehouse/reserve", self.reserve),
            ("POST", "/warehouse/release", self.release),
            ("POST", "/warehouse/restock", self.restock),
            ("GET", "/customers/{customer}", self.customer),
        ]
        made = [Route(path, self._served(act), methods=[verb]) for verb, path, act in routes]
        made += [
            Route("/admin/faults", self._set_fault, methods=["POST"]),
            Route("/admin/faults", self._clear_faults, methods=["DELETE"]),
            Route("/health/live", self._health),
            Route("/health/ready", self._health),
            Route("/metrics", self._metrics),
        ]
        return Starlette(routes=made)

    def _served(self, act: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            path = request.url.path
            fault = self._faults.strikes(path)
            if fault is not None and fault.delay_ms:
                await asyncio.sleep(fault.delay_ms / 1000)
            if fault is not None and fault.status and fault.when == "before":
                response = _refuse(fault.status, "fault", "a fault that was asked for")
            else:
                response = await self._answer(act, request)
                if fault is not None and fault.status:
                    response = _refuse(fault.status, "fault", "done, and the answer was lost")
            self._requests.labels(path.split("/")[1], str(response.status_code)).inc()
            return response

        return endpoint

    async def _answer(self, act: Handler, request: Request) -> Response:
        try:
            return JSONResponse(await act(request))
        except Refusal as error:
            return _refuse(error.status, error.error, str(error))
        except KeyReused as error:
            return _refuse(409, "key_reused", str(error))

    # Catalog, pricing, promotion, shipping, customer

    async def product(self, request: Request) -> Document:
        """A product by its sku or its id."""
        found = self._catalog.find(request.path_params["product"])
        if found is None:
            raise Refusal(404, "no_such_product", "there is no such product")
        return found

    async def price(self, request: Request) -> Document:
        """A product's price."""
        found = await self.product(request)
        return {name: found[name] for name in ("product_id", "sku", "price", "currency")}

    async def promotion(self, request: Request) -> Document:
        """What a code takes off a subtotal."""
        document = await body_of(request)
        code = text(document, "code").strip().upper()
        promotion = PROMOTIONS.get(code)
        if promotion is None:
            raise Refusal(404, "no_such_code", "there is no such code")
        taken = promotion.discount(amount(document, "subtotal"))
        return {"code": code, "type": promotion.kind, "discount_amount": str(taken)}

    async def shipping(self, request: Request) -> list[dict[str, str]]:
        """The ways to send a parcel."""
        return list(SHIPPING)

    async def shipping_method(self, request: Request) -> Document:
        """One way to send a parcel."""
        for method in SHIPPING:
            if method["id"] == request.path_params["method"]:
                return dict(method)
        raise Refusal(404, "no_such_method", "there is no such shipping method")

    async def customer(self, request: Request) -> Document:
        """A customer; every id is one."""
        customer = request.path_params["customer"]
        mail = f"{uuid.uuid5(uuid.NAMESPACE_URL, customer.lower()).hex[:12]}@example.com"
        return {"customer_id": customer, "name": f"Customer {customer[:8]}", "email": mail}

    # Payment

    async def charge(self, request: Request) -> Document:
        """Take money, once per key. A method that starts with "declined" gives 402."""
        key, document = key_of(request), await body_of(request)
        money, method = amount(document, "amount"), text(document, "method")
        currency = text(document, "currency")
        if method.startswith(DECLINED):
            raise Refusal(402, "declined", "the payment was declined")

        def act() -> Document:
            payment = str(uuid.uuid4())
            self._charged[payment] = money
            answer = {"payment_id": payment, "status": "captured", "amount": str(money)}
            return answer | {"currency": currency}

        return self._once.answer("charge", key, document, act)

    async def refund(self, request: Request) -> Document:
        """Give money back, once per key. Payments from before this process are taken as they are.

        More than was charged is counted in the summary, not refused: it is the caller's error.
        """
        key, document = key_of(request), await body_of(request)
        money, payment = amount(document, "amount"), text(document, "payment_id")

        def act() -> Document:
            self._refunded[payment] = self._refunded.get(payment, Decimal(0)) + money
            answer = {"refund_id": str(uuid.uuid4()), "status": "refunded"}
            return answer | {"payment_id": payment, "amount": str(money)}

        return self._once.answer("refund", key, document, act)

    async def summary(self, request: Request) -> Document:
        """What was done, and how often a key came again."""
        over = sum(
            1
            for payment, money in self._refunded.items()
            if payment in self._charged and money > self._charged[payment]
        )
        operations = ("charge", "refund", "reserve", "release", "restock")
        return {
            "charges": self._once.acted["charge"],
            "refunds": self._once.acted["refund"],
            "charged_amount": str(sum(self._charged.values(), Decimal("0.00"))),
            "refunded_amount": str(sum(self._refunded.values(), Decimal("0.00"))),
            "refunds_over_charge": over,
            "acted": {name: self._once.acted[name] for name in operations},
            "duplicates": {name: self._once.repeated[name] for name in operations},
            "keys_reused": {name: self._once.refused[name] for name in operations},
        }

    # Warehouse

    async def reserve(self, request: Request) -> Document:
        """Set goods aside, once per key."""
        key, document = key_of(request), await body_of(request)
        return self._once.answer(
            "reserve",
            key,
            document,
            lambda: {
                "reservation_id": str(uuid.uuid4()),
                "warehouse_id": f"WH-{len(key) % 3 + 1}",
                "status": "reserved",
            },
        )

    async def release(self, request: Request) -> Document:
        """Give up a reservation, once per key."""
        key, document = key_of(request), await body_of(request)
        reservation = text(document, "reservation_id")
        return self._once.answer(
            "release", key, document, lambda: {"reservation_id": reservation, "status": "released"}
        )

    async def restock(self, request: Request) -> Document:
        """Take goods back, once per key."""
        key, document = key_of(request), await body_of(request)
        return self._once.answer(
            "restock",
            key,
            document,
            lambda: {"restock_id": str(uuid.uuid4()), "status": "restocked"},
        )

    # The program itself

    async def _set_fault(self, request: Request) -> Response:
        try:
            fault = faults.read(await body_of(request))
        except Refusal as error:
            return _refuse(error.status, error.error, str(error))
        except faults.FaultInvalid as error:
            return _refuse(422, "bad_fault", str(error))
        self._faults.set(fault)
        return JSONResponse({"path_prefix": fault.path_prefix, "rate": fault.rate})

    async def _clear_faults(self, request: Request) -> Response:
        self._faults.clear()
        return JSONResponse({})

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "service": "partners"})

    async def _metrics(self, request: Request) -> Response:
        return Response(generate_latest(self._registry), media_type="text/plain; version=0.0.4")


def _refuse(status: int, error: str, detail: str) -> Response:
    return JSONResponse({"error": error, "detail": detail}, status_code=status)
