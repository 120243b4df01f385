"""Gateways in memory: the same promises as the admin endpoint, for tests and for trying out."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from rollout.flags import Answer, Cost, DomainFlags, Fence, GatewayFlags
from rollout.phases import PER_PERCENT


@dataclass
class Standing:
    """A fence or a rollback's hold at one gateway."""

    epoch: int
    low: int
    high: int
    until: float
    returning: bool = False


@dataclass
class MemoryGateway:
    """One gateway. `reachable` False: no answer to anybody. `in_flight`: requests under way."""

    reachable: bool = True
    domains: dict[str, DomainFlags] = field(default_factory=dict)
    standing: dict[str, Standing] = field(default_factory=dict)
    in_flight: int = 0
    held: int = 0
    costs: dict[tuple[str, int], Cost] = field(default_factory=dict)
    forgone: dict[str, int] = field(default_factory=dict)


class InMemoryFlags:
    """Gateways by name. `log` gets every act, in order, for whoever wants to look at it.

    `before` is called with each act's name before it is done; it may raise, or change gateways.
    """

    def __init__(
        self,
        gateways: dict[str, MemoryGateway],
        *,
        clock: Callable[[], float] = time.monotonic,
        log: list[str] | None = None,
        before: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.gateways, self._clock, self._before = gateways, clock, before
        self.log = log if log is not None else []

    @property
    def urls(self) -> Sequence[str]:
        """The gateways' names."""
        return tuple(self.gateways)

    def _each(self, act: str, only: Collection[str] | None = None) -> list[tuple[str, bool]]:
        """The gateways an act goes to, and whether each answers."""
        self._before(act)
        self.log.append(act)
        return [
            (url, gateway.reachable)
            for url, gateway in self.gateways.items()
            if only is None or url in only
        ]

    def _fence_of(self, url: str, domain: str) -> Standing | None:
        standing = self.gateways[url].standing.get(domain)
        if standing is not None and self._clock() >= standing.until:
            del self.gateways[url].standing[domain]
            return None
        return standing

    def _view(self, url: str, standing: Standing) -> Fence:
        gateway = self.gateways[url]
        left = int(1000 * (standing.until - self._clock()))
        return Fence(
            standing.epoch, standing.low, standing.high, "holding",
            gateway.in_flight, gateway.held, left,
        )  # fmt: skip

    def _end(self, url: str, domain: str) -> Cost:
        gateway = self.gateways[url]
        standing = gateway.standing.pop(domain)
        cost = Cost(gateway.held, 10 * gateway.held)
        gateway.costs[domain, standing.epoch], gateway.held = cost, 0
        return cost

    def served(self) -> list[GatewayFlags]:
        """What each gateway serves."""
        return [
            GatewayFlags(url, url, True, dict(self.gateways[url].domains))
            if up
            else GatewayFlags(url, reachable=False, problem="away")
            for url, up in self._each("served")
        ]

    def put(
        self, domain: str, flags: DomainFlags, only: Collection[str] | None = None
    ) -> list[Answer[DomainFlags]]:
        """Serve these flags at once; a fence that stands is broken."""
        answers: list[Answer[DomainFlags]] = []
        for url, up in self._each("put", only):
            gateway = self.gateways[url]
            if not up:
                answers.append(Answer(url, problem="away"))
            elif flags.epoch < gateway.domains[domain].epoch:
                answers.append(Answer(url, problem="409 older epoch", refused=True))
            else:
                gateway.domains[domain] = flags
                if self._fence_of(url, domain):
                    self._end(url, domain)
                answers.append(Answer(url, value=flags))
        return answers

    def fence(
        self, domain: str, epoch: int, low: int, high: int, lease_ms: int, holder: str
    ) -> list[Answer[Fence]]:
        """Set a fence."""
        del holder
        answers: list[Answer[Fence]] = []
        for url, up in self._each("fence"):
            gateway = self.gateways[url]
            standing = self._fence_of(url, domain)
            if not up:
                answers.append(Answer(url, problem="away"))
            elif epoch <= gateway.domains[domain].epoch or (standing and standing.epoch != epoch):
                answers.append(Answer(url, problem="409 epoch", refused=True))
            else:
                standing = Standing(epoch, low, high, self._clock() + lease_ms / 1000)
                gateway.standing[domain] = standing
                answers.append(Answer(url, value=self._view(url, standing)))
        return answers

    def fences(self, domain: str) -> list[Answer[Fence]]:
        """The fences that stand."""
        return [self._look(url, up, domain) for url, up in self._each("fences")]

    def _look(self, url: str, up: bool, domain: str) -> Answer[Fence]:
        if not up:
            return Answer(url, problem="away")
        standing = self._fence_of(url, domain)
        if standing is None:
            return Answer(url, problem="404 no fence", refused=True)
        return Answer(url, value=self._view(url, standing))

    def confirm(self, domain: str, epoch: int, lease_ms: int) -> list[Answer[Fence]]:
        """Renew the lease."""
        answers = []
        for url, up in self._each("confirm"):
            standing = self._fence_of(url, domain) if up else None
            if standing and standing.epoch == epoch and not standing.returning:
                standing.until = self._clock() + lease_ms / 1000
                answers.append(self._look(url, up, domain))
            else:
                problem = "409 the fence does not stand" if up else "away"
                answers.append(Answer(url, problem=problem, refused=up))
        return answers

    def switch(
        self, domain: str, flags: DomainFlags, only: Collection[str] | None = None
    ) -> list[Answer[Cost]]:
        """Flags and release in one act."""
        answers: list[Answer[Cost]] = []
        for url, up in self._each("switch", only):
            gateway = self.gateways[url]
            standing = self._fence_of(url, domain) if up else None
            if not up:
                answers.append(Answer(url, problem="away"))
            elif gateway.domains[domain] == flags:
                cost = gateway.costs.get((domain, flags.epoch), Cost())
                answers.append(Answer(url, value=cost))
            elif standing is None or standing.epoch != flags.epoch or standing.returning:
                answers.append(Answer(url, problem="409 the fence is gone", refused=True))
            elif flags.epoch <= gateway.forgone.get(domain, -1):
                answers.append(Answer(url, problem="409 this epoch was given up", refused=True))
            else:
                gateway.domains[domain] = flags
                answers.append(Answer(url, value=self._end(url, domain)))
        return answers

    def forgo(self, domain: str, epoch: int) -> list[Answer[DomainFlags]]:
        """No switch to this epoch any more."""
        answers: list[Answer[DomainFlags]] = []
        for url, up in self._each("forgo"):
            gateway = self.gateways[url]
            if up:
                gateway.forgone[domain] = max(gateway.forgone.get(domain, -1), epoch)
                answers.append(Answer(url, value=gateway.domains[domain]))
            else:
                answers.append(Answer(url, problem="away"))
        return answers

    def release(
        self, domain: str, epoch: int, only: Collection[str] | None = None
    ) -> list[Answer[Cost]]:
        """Let the held go on."""
        answers: list[Answer[Cost]] = []
        for url, up in self._each("release", only):
            standing = self._fence_of(url, domain) if up else None
            if standing and standing.epoch == epoch:
                answers.append(Answer(url, value=self._end(url, domain)))
            else:
                answers.append(Answer(url, problem="404" if up else "away", refused=up))
        return answers

    def rollback(
        self,
        domain: str,
        epoch: int,
        percentage: int,
        hold_ms: int,
        only: Collection[str] | None = None,
    ) -> list[Answer[Fence]]:
        """The lower percentage at once, and a hold for those who come back."""
        answers: list[Answer[Fence]] = []
        for url, up in self._each("rollback", only):
            gateway = self.gateways[url]
            if not up:
                answers.append(Answer(url, problem="away"))
                continue
            before = gateway.domains[domain]
            again = epoch == before.epoch and percentage == before.percentage
            if percentage > before.percentage or (epoch <= before.epoch and not again):
                answers.append(Answer(url, problem="409 epoch", refused=True))
                continue
            if self._fence_of(url, domain) and not again:
                self._end(url, domain)
            gateway.domains[domain] = replace(before, percentage=percentage, epoch=epoch)
            low, high = PER_PERCENT * percentage, PER_PERCENT * before.served
            if low < high:
                until = self._clock() + hold_ms / 1000
                gateway.standing[domain] = Standing(epoch, low, high, until, returning=True)
                answers.append(self._look(url, up, domain))
            else:
                none = Fence(epoch, low, high, "released", gateway.in_flight, 0, 0)
                answers.append(Answer(url, value=none))
        return answers
