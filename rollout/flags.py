"""Flags: what every gateway is asked to serve, and what it really serves.

`Flags` speaks to all gateways at once and answers for each by its address. A gateway that cannot
be reached, or that refuses, is an answer too, not an exception: the caller decides what it means.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import httpx

from estate.config import Config
from estate.errors import in_one_line
from rollout import parallel

T = TypeVar("T")
# What is sent: the same to every gateway, or made for each address; None: nothing.
Body = Mapping[str, Any] | Callable[[str], Mapping[str, Any]] | None
ANSWER_S = 3.0
# Whoever is held waits for the slowest gateway: no answer may take much of the fence's budget.
SHARE_OF_BUDGET = 0.5


@dataclass(frozen=True)
class DomainFlags:
    """What a gateway serves for a domain. While not `enabled` everyone is on the old side."""

    enabled: bool
    percentage: int
    epoch: int

    @property
    def served(self) -> int:
        """The percentage that takes effect."""
        return self.percentage if self.enabled else 0


@dataclass(frozen=True)
class GatewayFlags:
    """One gateway's own report. `problem` says why there is none."""

    url: str
    instance: str = ""
    reachable: bool = True
    domains: Mapping[str, DomainFlags] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class Fence:
    """A fence that stands. Buckets low <= b < high are held; the lease ends in expires_in_ms."""

    epoch: int
    low: int
    high: int
    state: str
    in_flight: int
    held: int
    expires_in_ms: int

    @property
    def holding(self) -> bool:
        """Whether nobody passes."""
        return self.state == "holding"


@dataclass(frozen=True)
class Cost:
    """What a fence had cost customers when it ended."""

    held_requests: int = 0
    held_ms_max: int = 0


@dataclass(frozen=True)
class Answer(Generic[T]):
    """One gateway's answer: a value, or why there is none. `refused`: it answered, with a no."""

    url: str
    value: T | None = None
    problem: str | None = None
    refused: bool = False

    @property
    def ok(self) -> bool:
        """Whether the gateway did what was asked."""
        return self.problem is None


class Flags(Protocol):
    """Every gateway of the estate. `only` limits an act to some of them, by address."""

    @property
    def urls(self) -> Sequence[str]:
        """The addresses of all gateways."""

    def served(self) -> list[GatewayFlags]:
        """What each gateway really serves."""

    def put(
        self, domain: str, flags: DomainFlags, only: Collection[str] | None = None
    ) -> list[Answer[DomainFlags]]:
        """Serve these flags at once, without a fence. Refused when a newer epoch is served."""

    def fence(
        self, domain: str, epoch: int, low: int, high: int, lease_ms: int, holder: str
    ) -> list[Answer[Fence]]:
        """Hold new requests of buckets low <= b < high until switch, release or the lease's end."""

    def fences(self, domain: str) -> list[Answer[Fence]]:
        """The fence that stands at each gateway; refused where there is none."""

    def confirm(self, domain: str, epoch: int, lease_ms: int) -> list[Answer[Fence]]:
        """Renew the lease. Refused when somebody passed or may have passed."""

    def switch(
        self, domain: str, flags: DomainFlags, only: Collection[str] | None = None
    ) -> list[Answer[Cost]]:
        """Set the flags of the fence's epoch and let the held go on, in one act. Idempotent."""

    def forgo(self, domain: str, epoch: int) -> list[Answer[DomainFlags]]:
        """What each gateway serves; from now on none of them takes a switch to this epoch."""

    def release(
        self, domain: str, epoch: int, only: Collection[str] | None = None
    ) -> list[Answer[Cost]]:
        """Let the held go on under the flags as they are. Refused when no such fence stands."""

    def rollback(
        self,
        domain: str,
        epoch: int,
        percentage: int,
        hold_ms: int,
        only: Collection[str] | None = None,
    ) -> list[Answer[Fence]]:
        """Serve the lower percentage now; hold those who come back until release or hold_ms."""


class GatewayAdmin:
    """Gateways with the admin endpoint, reached over HTTP, all at the same time."""

    def __init__(self, urls: Sequence[str], token: str, answer_s: float = ANSWER_S) -> None:
        self._urls = tuple(url.rstrip("/") for url in urls)
        self._latest_s = 2 * answer_s
        # Gateways are inside the estate: a proxy of the environment is none of their business.
        self._client = httpx.Client(
            timeout=answer_s,
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
        )

    @classmethod
    def of(cls, config: Config) -> "GatewayAdmin":
        """The gateways of a configuration. Raises SecretMissing."""
        answer_s = min(ANSWER_S, SHARE_OF_BUDGET * config.fence.budget_ms / 1000)
        token = config.gateway.token
        assert token is not None  # the configuration has seen to it
        return cls(config.gateway.urls, token.token(), answer_s)

    @property
    def urls(self) -> Sequence[str]:
        """The addresses of all gateways."""
        return self._urls

    def served(self) -> list[GatewayFlags]:
        """GET /admin/flags of each gateway."""
        answers = self._each("GET", "/admin/flags", _report)
        return [
            answer.value or GatewayFlags(answer.url, reachable=False, problem=answer.problem)
            for answer in answers
        ]

    def put(
        self, domain: str, flags: DomainFlags, only: Collection[str] | None = None
    ) -> list[Answer[DomainFlags]]:
        """PUT /admin/flags/{domain}."""
        path = f"/admin/flags/{domain}"
        return self._each("PUT", path, lambda *_: flags, body=vars(flags), only=only)

    def fence(
        self, domain: str, epoch: int, low: int, high: int, lease_ms: int, holder: str
    ) -> list[Answer[Fence]]:
        """POST /admin/fences/{domain}."""
        body = {"epoch": epoch, "low": low, "high": high, "lease_ms": lease_ms, "holder": holder}

        def beside(url: str) -> Mapping[str, Any]:
            return {**body, "peers": [peer for peer in self._urls if peer != url]}

        return self._each("POST", f"/admin/fences/{domain}", _fence, body=beside)

    def fences(self, domain: str) -> list[Answer[Fence]]:
        """GET /admin/fences/{domain}."""
        return self._each("GET", f"/admin/fences/{domain}", _fence)

    def confirm(self, domain: str, epoch: int, lease_ms: int) -> list[Answer[Fence]]:
        """POST /admin/fences/{domain}/confirm."""
        body = {"epoch": epoch, "lease_ms": lease_ms}
        return self._each("POST", f"/admin/fences/{domain}/confirm", _fence, body=body)

    def switch(
        self, domain: str, flags: DomainFlags, only: Collection[str] | None = None
    ) -> list[Answer[Cost]]:
        """POST /admin/fences/{domain}/switch."""
        path = f"/admin/fences/{domain}/switch"
        return self._each("POST", path, _cost, body=vars(flags), only=only)

    def forgo(self, domain: str, epoch: int) -> list[Answer[DomainFlags]]:
        """POST /admin/fences/{domain}/settle."""
        path = f"/admin/fences/{domain}/settle"
        return self._each("POST", path, _flags, body={"epoch": epoch})

    def release(
        self, domain: str, epoch: int, only: Collection[str] | None = None
    ) -> list[Answer[Cost]]:
        """DELETE /admin/fences/{domain}?epoch=N."""
        path = f"/admin/fences/{domain}?epoch={epoch}"
        return self._each("DELETE", path, _cost, only=only)

    def rollback(
        self,
        domain: str,
        epoch: int,
        percentage: int,
        hold_ms: int,
        only: Collection[str] | None = None,
    ) -> list[Answer[Fence]]:
        """POST /admin/rollback/{domain}."""
        body = {"epoch": epoch, "percentage": percentage, "hold_ms": hold_ms}
        path = f"/admin/rollback/{domain}"
        return self._each("POST", path, _fence, body=body, only=only)

    def _each(
        self,
        verb: str,
        path: str,
        read: Callable[[str, Any], T],
        *,
        body: Body = None,
        only: Collection[str] | None = None,
    ) -> list[Answer[T]]:
        urls = [url for url in self._urls if only is None or url in only]

        def ask(url: str) -> Answer[T]:
            return self._ask(verb, url, path, read, body(url) if callable(body) else body)

        outcomes = parallel.gather({url: partial(ask, url) for url in urls}, self._latest_s)
        return [
            outcome.value or Answer(url, problem=str(outcome.error))
            for url, outcome in outcomes.items()
        ]

    def _ask(
        self,
        verb: str,
        url: str,
        path: str,
        read: Callable[[str, Any], T],
        body: Mapping[str, Any] | None,
    ) -> Answer[T]:
        try:
            answer = self._client.request(verb, url + path, json=body)
            data = answer.json() if answer.content else {}
            if answer.is_success:
                return Answer(url, value=read(url, data))
        except httpx.HTTPError as error:
            return Answer(url, problem=in_one_line(error))
        except (ValueError, KeyError, TypeError, AttributeError):
            return Answer(url, problem="its answer is not that of a gateway's admin endpoint")
        told = data.get("error") if isinstance(data, dict) else None
        reason = f"{answer.status_code} {told or answer.reason_phrase}"
        # Only these speak of the fence or the epoch. Others (a wrong token, a proxy in between)
        # leave open what the gateway does.
        return Answer(url, problem=reason, refused=answer.status_code in (404, 409))


def _report(url: str, data: Any) -> GatewayFlags:
    domains = {str(name): _flags(url, found) for name, found in data["domains"].items()}
    return GatewayFlags(url, str(data["instance"]), True, domains)


def _flags(_: str, data: Any) -> DomainFlags:
    return DomainFlags(bool(data["enabled"]), int(data["percentage"]), int(data["epoch"]))


def _fence(_: str, data: Any) -> Fence:
    numbers = ("epoch", "low", "high", "in_flight", "held", "expires_in_ms")
    return Fence(state=str(data["state"]), **{name: int(data[name]) for name in numbers})


def _cost(_: str, data: Any) -> Cost:
    return Cost(int(data["held_requests"]), int(data["held_ms_max"]))
