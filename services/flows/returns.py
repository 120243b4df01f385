"""The return: CreateReturnRequest, GetReturnRequest, ListReturnRequests, ApproveReturn,
RejectReturn, ReceiveItems, ProcessRefund, CancelReturn; and the review before a decision."""

import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Protocol

from services import rules
from services.body import Body, uuid_or_bad
from services.clients import Partners
from services.flows.carts import identity
from services.flows.model import now, time_text
from services.flows.orders import Order, Orders, owned_order
from services.flows.return_lines import goes_back, left_to_refund, price, receive, wanted_lines
from services.flows.return_model import Change, Refund, Return, ReturnItem
from services.outbox import emit
from services.problems import Conflict, NotFound, Unprocessable
from services.web import Answer, Call, Connection, Database, Service

WINDOW = timedelta(days=30)
MOST_LISTED = 100
LOCK_ORDER = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"
LABELS = "https://labels.example/"


class ReturnStore(Protocol):
    """Where one side keeps returns."""

    async def read(self, connection: Connection, return_id: uuid.UUID) -> Return | None:
        """A return as of one moment."""

    async def lock(self, connection: Connection, return_id: uuid.UUID) -> Return | None:
        """A return that nobody else can change before the transaction ends."""

    async def of_order(self, connection: Connection, order_id: uuid.UUID) -> list[Return]:
        """All returns of an order."""

    async def of_customer(self, connection: Connection, route: str, most: int) -> list[Return]:
        """The latest returns of a customer, newest first."""

    async def insert(self, connection: Connection, wanted: Return) -> None:
        """A new return with its lines and history; gives each line its id."""

    async def save(self, connection: Connection, changed: Return) -> None:
        """Everything but the lines."""

    async def save_items(self, connection: Connection, items: Sequence[ReturnItem]) -> None:
        """What changes of lines: received, condition, refund, restocked."""


class Returns:
    """The return's methods over one side's store."""

    def __init__(
        self,
        database: Database,
        store: ReturnStore,
        orders: Orders,
        partners: Partners,
    ) -> None:
        self._database = database
        self._store = store
        self._orders = orders
        self._partners = partners

    def routes(self, service: Service) -> None:
        """Add the methods to a service."""
        service.add("POST", "/returns", "CreateReturnRequest", self.create)
        service.add("GET", "/returns", "ListReturnRequests", self.list_own)
        service.add("GET", "/returns/{id}", "GetReturnRequest", self.get)
        service.add("POST", "/returns/{id}/review", "ReviewReturn", self.review)
        service.add("POST", "/returns/{id}/approve", "ApproveReturn", self.approve)
        service.add("POST", "/returns/{id}/reject", "RejectReturn", self.reject)
        service.add("POST", "/returns/{id}/receive", "ReceiveItems", self.receive)
        service.add("POST", "/returns/{id}/refund", "ProcessRefund", self.refund)
        service.add("POST", "/returns/{id}/cancel", "CancelReturn", self.cancel)

    async def create(self, call: Call) -> Answer:
        """POST /returns {order_id, return_type, reason, items: [{order_item_id, quantity, ...}]}.

        The order is the customer's and delivered, and no more comes back than was bought.
        """
        who, body = identity(call), await call.body()
        order_id = body.uuid("order_id")
        kind = body.text("return_type", 20)
        if kind not in rules.RETURN_TYPES:
            raise Unprocessable("bad_return_type", f"one of {', '.join(rules.RETURN_TYPES)}")
        reason, description = body.text("reason", 255), body.optional_text("description", 2000)
        asked = body.objects("items")
        order = owned_order(await self._orders.get(order_id), who)
        if not order.delivered:
            raise Conflict("order_not_delivered", f"the order is {order.status}")
        assert order.customer_id is not None
        customer_id = who.customer_id or order.customer_id

        async def work(connection: Connection) -> Return:
            earlier = await self._others(connection, order_id, None)
            return_id, moment = uuid.uuid4(), now()
            wanted = Return(
                id=return_id,
                return_number=rules.return_number(return_id),
                order_id=order_id,
                customer_id=customer_id,
                status="requested",
                return_type=kind,
                reason=reason,
                description=description,
                created_at=moment,
                expires_at=moment + WINDOW,
                items=wanted_lines(order, earlier, asked),
                history=[Change("requested", time_text(moment), "customer", None)],
            )
            price(wanted, order, left_to_refund(order, earlier))
            await self._store.insert(connection, wanted)
            await self._emit(connection, "return.requested", wanted, {})
            return wanted

        return 201, (await self._database.transact(work)).json()

    async def get(self, call: Call) -> Answer:
        """GET /returns/{id}."""
        who, return_id = identity(call), uuid_or_bad(call.path("id"), "the id")
        async with self._database.reading() as connection:
            return 200, _theirs(await self._store.read(connection, return_id), who).json()

    async def list_own(self, call: Call) -> Answer:
        """GET /returns: the customer's own, newest first."""
        who = identity(call)
        async with self._database.reading() as connection:
            found = await self._store.of_customer(connection, who.route, MOST_LISTED)
        return 200, {"returns": [each.json() for each in found]}

    async def review(self, call: Call) -> Answer:
        """POST /returns/{id}/review {by?, note?}: somebody looks at it before deciding."""
        return await self._decide(call, "review")

    async def approve(self, call: Call) -> Answer:
        """POST /returns/{id}/approve {by?, note?}: the customer gets a label."""
        return await self._decide(call, "approve")

    async def reject(self, call: Call) -> Answer:
        """POST /returns/{id}/reject {by?, note?}."""
        return await self._decide(call, "reject")

    async def cancel(self, call: Call) -> Answer:
        """POST /returns/{id}/cancel {note?}: the customer changed his mind."""
        return await self._decide(call, "cancel")

    async def receive(self, call: Call) -> Answer:
        """POST /returns/{id}/receive {items?: [{item_id, quantity_received, condition?}]}.

        Without items everything has arrived, in good condition. Less arrived: less is refunded.
        """
        who, body = identity(call), await call.body()
        return_id = uuid_or_bad(call.path("id"), "the id")
        arrived = body.objects("items") if body.has("items") else None
        by, note = _actor(body)
        async with self._database.reading() as connection:
            seen = _theirs(await self._store.read(connection, return_id), who)
        order = await self._order(seen)

        async def work(connection: Connection) -> Return:
            others = await self._others(connection, order.id, return_id)
            found = _theirs(await self._store.lock(connection, return_id), who)
            _move(found, "receive", by, note)
            receive(found, arrived)
            price(found, order, left_to_refund(order, others))
            found.processed_by, found.processed_at = by, now()
            await self._store.save_items(connection, found.items)
            await self._store.save(connection, found)
            await self._emit(connection, "return.items_received", found, {})
            return found

        return 200, (await self._database.transact(work)).json()

    async def refund(self, call: Call) -> Answer:
        """POST /returns/{id}/refund {by?, note?}. Twice, even at once: one refund.

        First the refund is written down, then the money is sent and the items are put back, then
        the return is completed. The partners know the return's id, so a retry does nothing twice.
        """
        who, body = identity(call), await call.body()
        return_id = uuid_or_bad(call.path("id"), "the id")
        by, note = _actor(body)
        async with self._database.reading() as connection:
            seen = _theirs(await self._store.read(connection, return_id), who)
        if seen.status == "completed":
            return 200, seen.json()
        rules.after("refund", seen.status)
        order = await self._order(seen)

        async def begin(connection: Connection) -> Return:
            found = _theirs(await self._store.lock(connection, return_id), who)
            if found.status == "completed":
                return found
            rules.after("refund", found.status)
            if found.refund is None:
                found.refund = Refund(
                    payment_id=order.payment_id,
                    method=_method(found, order),
                    amount=found.total_refund,
                    currency=order.currency,
                    status="pending",
                )
                await self._store.save(connection, found)
                await self._emit(connection, "refund.initiated", found, {})
            return found

        found = await self._database.transact(begin)
        if found.status == "completed":
            return 200, found.json()
        refund_id = await self._send_money(found)
        for item in found.items:
            if goes_back(item):
                key = f"return-{found.id}-{item.id}"
                await self._partners.restock(item.product_sku, item.quantity_received, key)
        return 200, (await self._complete(found.id, who, refund_id, by, note)).json()

    async def _send_money(self, found: Return) -> str:
        refund = found.refund
        assert refund is not None
        key = f"return-{found.id}"
        if found.return_type != "refund" or refund.amount == 0 or refund.payment_id is None:
            # Credit and exchange are booked by us; no money leaves.
            return key
        return await self._partners.refund(refund.payment_id, refund.amount, key)

    async def _complete(
        self, return_id: uuid.UUID, who: rules.Identity, refund_id: str, by: str, note: str | None
    ) -> Return:
        async def work(connection: Connection) -> Return:
            found = _theirs(await self._store.lock(connection, return_id), who)
            if found.status == "completed":
                return found
            _move(found, "refund", by, note)
            moment = now()
            assert found.refund is not None
            found.refund.status, found.refund.refund_id = "completed", refund_id
            found.processed_at = found.completed_at = moment
            found.refund.processed_at = time_text(moment)
            found.processed_by = by
            back = [item for item in found.items if goes_back(item)]
            for item in back:
                item.restocked, item.restocked_at = True, moment
            await self._store.save_items(connection, back)
            await self._store.save(connection, found)
            await self._emit(connection, "refund.completed", found, {"refund_id": refund_id})
            for item in back:
                about = {"product_sku": item.product_sku, "quantity": item.quantity_received}
                await self._emit(connection, "item.restocked", found, about)
            return found

        return await self._database.transact(work)

    async def _decide(self, call: Call, act: str) -> Answer:
        who, body = identity(call), await call.body()
        return_id = uuid_or_bad(call.path("id"), "the id")
        by, note = _actor(body)
        if act == "cancel":
            by = "customer"

        async def work(connection: Connection) -> Return:
            found = _theirs(await self._store.lock(connection, return_id), who)
            _move(found, act, by, note)
            if act == "approve":
                found.approved_by, found.approved_at = by, now()
                found.label_url = f"{LABELS}{found.return_number}.pdf"
                found.tracking_number = f"TRK{found.id.hex[:16].upper()}"
            await self._store.save(connection, found)
            if act in ("approve", "reject"):
                await self._emit(connection, f"return.{found.status}", found, {})
            return found

        return 200, (await self._database.transact(work)).json()

    async def _others(
        self, connection: Connection, order_id: uuid.UUID, but: uuid.UUID | None
    ) -> list[Return]:
        """The order's other returns that count; locked, so that two never share one item."""
        await connection.execute(LOCK_ORDER, (str(order_id),))
        known = await self._store.of_order(connection, order_id)
        return [each for each in known if each.id != but and each.status not in rules.RETURN_VOID]

    async def _order(self, found: Return) -> Order:
        order = await self._orders.get(found.order_id)
        if order is None:
            raise Conflict("order_missing", "the order of this return is not there")
        return order

    async def _emit(
        self, connection: Connection, type_: str, about: Return, data: dict[str, Any]
    ) -> None:
        seen = {
            "return_id": str(about.id),
            "order_id": str(about.order_id),
            "customer_id": about.customer_id,
            "status": about.status,
            "total_refund_amount": str(about.total_refund),
        }
        await emit(connection, type_, about.id, about.route, {**seen, **data})


def _theirs(found: Return | None, who: rules.Identity) -> Return:
    if found is None or found.route not in who.routes:
        raise NotFound("return_not_found", "there is no such return")
    return found


def _actor(body: Body) -> tuple[str, str | None]:
    return body.optional_text("by", 100) or "agent", body.optional_text("note", 500)


def _move(found: Return, act: str, by: str, note: str | None) -> None:
    found.status = rules.after(act, found.status)
    found.history.append(Change(found.status, time_text(now()), by, note))


def _method(found: Return, order: Order) -> str:
    if found.return_type == "refund":
        return order.payment_method or "original"
    return found.return_type
