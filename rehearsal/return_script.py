"""A return, from its request to the refund, held against what was acknowledged."""

from dataclasses import dataclass, field
from typing import Any

from rehearsal.browser import Browser, Identity, Json, Reply

LEADS_TO = {
    "review": "under_review",
    "approve": "approved",
    "reject": "rejected",
    "receive": "items_received",
    "refund": "completed",
    "cancel": "cancelled",
}
OPS = {
    "review": "ReviewReturn",
    "approve": "ApproveReturn",
    "reject": "RejectReturn",
    "receive": "ReceiveItems",
    "refund": "ProcessRefund",
    "cancel": "CancelReturn",
}


@dataclass
class ReturnState:
    """What a return holds after its last acknowledged write.

    `items`: id -> [order item's id, quantity, quantity received].
    """

    id: str
    who: Identity
    order_id: str
    number: str
    status: str = "requested"
    items: dict[int, list[Any]] = field(default_factory=dict)
    history: list[str] = field(default_factory=lambda: ["requested"])
    total: str = ""
    refund: str | None = None

    def content(self) -> Json:
        """What must be found in the database."""
        return {
            "order_id": self.order_id,
            "number": self.number,
            "status": self.status,
            "items": {str(number): list(item) for number, item in sorted(self.items.items())},
            "history": list(self.history),
            "total": self.total,
            "refund": self.refund,
        }

    @staticmethod
    def seen(body: Json) -> Json:
        """The same, as an answer tells it."""
        items = {
            str(item["id"]): [
                item["order_item_id"],
                item["quantity"],
                item["quantity_received"] or 0,  # null and 0 are the same to the tables
            ]
            for item in sorted(body["items"], key=lambda item: int(item["id"]))
        }
        refund = body.get("refund")
        return {
            "order_id": body["order_id"],
            "number": body["return_number"],
            "status": body["status"],
            "items": items,
            "history": [change["status"] for change in body["history"]],
            "total": body["total_refund_amount"],
            "refund": refund["status"] if refund else None,
        }


class ReturnScript:
    """The return's methods, as the customer and the people who handle it use them."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    async def create(
        self, order_id: str, who: Identity, kind: str, lines: list[tuple[int, int]]
    ) -> ReturnState:
        """Ask to return lines (order item's id, quantity) of a delivered order."""
        items = [
            {"order_item_id": number, "quantity": quantity, "reason": "too small"}
            for number, quantity in lines
        ]
        body = {"order_id": order_id, "return_type": kind, "reason": "does not fit", "items": items}
        reply = await self._browser.send("POST", "/returns", who, body=body, expect=201)
        made = ReturnState(reply.body["id"], who, order_id, reply.body["return_number"])
        # Ids of lines and the sum are the service's; which lines there are is known.
        ids = {int(item["order_item_id"]): int(item["id"]) for item in reply.body["items"]}
        for position, (number, quantity) in enumerate(lines):
            made.items[ids.get(number, -position)] = [number, quantity, 0]
        made.total = reply.body["total_refund_amount"]
        self._settle(reply, "CreateReturnRequest", made)
        return made

    async def act(self, made: ReturnState, act: str) -> None:
        """Review, approve, reject, receive, refund or cancel."""
        reply = await self._browser.send(
            "POST",
            f"/returns/{made.id}/{act}",
            made.who,
            body={"by": "desk-3", "note": f"{act}: agreed by phone"},
            subjects=[("return", made.id)],
        )
        made.status = LEADS_TO[act]
        made.history.append(made.status)
        if act == "receive":
            for item in made.items.values():
                item[2] = item[1]
        if act == "refund":
            made.refund = "completed"
        self._settle(reply, OPS[act], made)

    async def look(self, made: ReturnState) -> None:
        """Look at a return: it must be as it was left."""
        reply = await self._browser.send("GET", f"/returns/{made.id}", made.who)
        self._compare(reply, made)

    async def find_in_list(self, made: ReturnState) -> None:
        """The customer's list must hold it, as it was left."""
        reply = await self._browser.send("GET", "/returns", made.who)
        found = [each for each in reply.body["returns"] if each["id"] == made.id]
        same = len(found) == 1 and ReturnState.seen(found[0]) == made.content()
        reason = "the list does not hold the return as it was left"
        self._browser.must(same, reply, reason, "return", made.id, made.who)

    def _settle(self, reply: Reply, op: str, made: ReturnState) -> None:
        content = made.content()
        self._browser.acknowledged(reply, op, "return", made.id, made.who.route, content)
        self._compare(reply, made)

    def _compare(self, reply: Reply, made: ReturnState) -> None:
        seen, wanted = ReturnState.seen(reply.body), made.content()
        wrong = [name for name in wanted if seen[name] != wanted[name]]
        reason = "; ".join(f"{name}: {seen[name]} instead of {wanted[name]}" for name in wrong)
        self._browser.must(not wrong, reply, reason, "return", made.id, made.who)
