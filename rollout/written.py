"""Flags that are written in one place and reach the gateways in their own time: no fence.

`Written` is such a place. `Unfenced` shows it to whoever only looks at flags, or puts them.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from estate.config import Problem
from estate.errors import ExitCode, SplitctlError
from rollout.flags import Answer, Cost, DomainFlags, Fence, GatewayFlags

T = TypeVar("T")
LOOK_EVERY_S = 0.5
# What a gateway without a flag serves whose default is the new side.
BY_DEFAULT = DomainFlags(True, 100, 0)


class FlagsOvertaken(SplitctlError):
    """The flags of domain '{domain}' were changed by another command meanwhile: {percentage} %
    under epoch {epoch} stand. They were left as they are."""

    hint = "splitctl status"
    exit_code = ExitCode.PRECONDITION


def may_follow(
    domain: str, stands: DomainFlags, flags: DomainFlags, expecting: DomainFlags | None
) -> None:
    """Whether these flags may take the place of those that stand. Raises FlagsOvertaken."""
    overtaken = stands.epoch > flags.epoch if expecting is None else stands != expecting
    if overtaken:
        raise FlagsOvertaken(domain=domain, percentage=stands.served, epoch=stands.epoch)


class FlagsKept(SplitctlError):
    """{where} still has {names} of domain '{domain}': somebody else has set them, too. Gateways
    serve what they say."""

    hint = "take them out where they were set, then: splitctl rollout finish {domain}"
    exit_code = ExitCode.PRECONDITION


def need_none(domain: str, stands: DomainFlags | None) -> None:
    """No flag stands. Raises FlagsOvertaken."""
    if stands is not None:
        raise FlagsOvertaken(domain=domain, percentage=stands.served, epoch=stands.epoch)


def need_gone(domain: str, where: str, names: Collection[str], left: Collection[str]) -> None:
    """None of these variables is left. Raises FlagsKept."""
    if kept := sorted(set(names) & set(left)):
        raise FlagsKept(domain=domain, where=where, names=", ".join(kept))


def differing(gateways: Sequence[GatewayFlags], domain: str, flags: DomainFlags) -> list[str]:
    """Gateways that serve something else, or do not tell what, each as a sentence."""
    told = []
    for gateway in gateways:
        found = gateway.domains.get(domain)
        if found is None:
            told.append(f"{gateway.url}: {gateway.problem or 'it does not tell'}")
        elif (found.served, found.epoch) != (flags.served, flags.epoch):
            told.append(f"{gateway.url} serves {found.served} % under epoch {found.epoch}")
    return told


class Written(Protocol):
    """Where the flags stand, and what every gateway made of them."""

    name: str

    def write(self, domain: str, flags: DomainFlags, expecting: DomainFlags | None = None) -> None:
        """Ask for these flags; with `expecting` only where those stand.

        Raises FlagsOvertaken where newer ones stand, or others than expected: nothing was changed.
        After any other SplitctlError it is not known whether they stand.
        """

    def stands(self, domain: str) -> DomainFlags | None:
        """The flags that are written; None where none are, and gateways serve their default."""

    def remove(self, domain: str, expecting: DomainFlags) -> None:
        """Take the flags away, only where those stand. Raises FlagsOvertaken, FlagsKept."""

    def restore(self, domain: str, flags: DomainFlags) -> None:
        """Ask for these flags, only where none stand. Raises FlagsOvertaken."""

    def unflagged(self, domain: str) -> list[str]:
        """What is missing until every gateway serves all customers by the new side, by default."""

    def served(self) -> list[GatewayFlags]:
        """What each gateway serves; those that end, or are not ready yet, too. Never raises."""

    def unsettled(self, domain: str, flags: DomainFlags) -> list[str]:
        """What is missing until every gateway serves these and no other, each as a sentence."""

    def takes_s(self) -> float:
        """How long a change takes until every gateway serves it, as far as can be told before."""

    def hindrances(self) -> list[Problem]:
        """What would keep a change from ever being served, whoever makes it. Never raises."""


def settle(
    written: Written,
    domain: str,
    flags: DomainFlags,
    limit_s: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> list[str]:
    """Wait until every gateway serves these flags; returns what is missing at the limit."""
    deadline = clock() + limit_s
    while True:
        missing = written.unsettled(domain, flags)
        if not missing or clock() >= deadline:
            return missing
        sleep(LOOK_EVERY_S)


class Unfenced:
    """A place of flags as `Flags`. It has no fence: whoever asks for one is refused."""

    def __init__(
        self,
        written: Written,
        limit_s: float,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self.written = written
        self._limit_s, self._clock, self._sleep = limit_s, clock, sleep

    @property
    def urls(self) -> Sequence[str]:
        """The gateways there are at the moment."""
        return tuple(gateway.url for gateway in self.written.served())

    def served(self) -> list[GatewayFlags]:
        """What each gateway serves."""
        return self.written.served()

    def put(
        self, domain: str, flags: DomainFlags, only: Collection[str] | None = None
    ) -> list[Answer[DomainFlags]]:
        """Write the flags and wait until every gateway serves them."""
        del only  # there is one place for all of them
        try:
            self.written.write(domain, flags)
        except SplitctlError as error:
            return [Answer(self.written.name, problem=str(error))]
        missing = settle(self.written, domain, flags, self._limit_s, self._clock, self._sleep)
        if missing:
            return [Answer(self.written.name, problem="; ".join(missing))]
        return [Answer(self.written.name, value=flags)]

    def fences(self, domain: str) -> list[Answer[Fence]]:
        """None stands."""
        del domain
        return []

    def fence(
        self, domain: str, epoch: int, low: int, high: int, lease_ms: int, holder: str
    ) -> list[Answer[Fence]]:
        """Refused."""
        del domain, epoch, low, high, lease_ms, holder
        return self._refused()

    def confirm(self, domain: str, epoch: int, lease_ms: int) -> list[Answer[Fence]]:
        """Refused."""
        del domain, epoch, lease_ms
        return self._refused()

    def switch(
        self, domain: str, flags: DomainFlags, only: Collection[str] | None = None
    ) -> list[Answer[Cost]]:
        """Refused."""
        del domain, flags, only
        return self._refused()

    def forgo(self, domain: str, epoch: int) -> list[Answer[DomainFlags]]:
        """Refused."""
        del domain, epoch
        return self._refused()

    def release(
        self, domain: str, epoch: int, only: Collection[str] | None = None
    ) -> list[Answer[Cost]]:
        """Refused."""
        del domain, epoch, only
        return self._refused()

    def rollback(
        self,
        domain: str,
        epoch: int,
        percentage: int,
        hold_ms: int,
        only: Collection[str] | None = None,
    ) -> list[Answer[Fence]]:
        """Refused: there is nothing that could hold those who return."""
        del domain, epoch, percentage, hold_ms, only
        return self._refused()

    def _refused(self) -> list[Answer[T]]:
        problem = f"driver {self.written.name} has no fence"
        return [Answer(self.written.name, problem=problem, refused=True)]


@dataclass
class InMemoryWritten:
    """A place in memory. A gateway in `stuck` keeps what it serves, whatever is written.

    `before` is called with each act's name before it is done; it may raise.
    """

    gateways: dict[str, dict[str, DomainFlags]]
    name: str = "memory"
    stuck: set[str] = field(default_factory=set)
    away: SplitctlError | None = None
    log: list[str] = field(default_factory=list)
    before: Callable[[str], None] = lambda _: None
    stand: dict[str, DomainFlags] = field(default_factory=dict)
    hindered: list[Problem] = field(default_factory=list)

    def write(self, domain: str, flags: DomainFlags, expecting: DomainFlags | None = None) -> None:
        """At once, at every gateway that is not stuck."""
        self.before("write")
        if self.away is not None:
            raise self.away
        if domain in self.stand:
            may_follow(domain, self.stand[domain], flags, expecting)
        self.stand[domain] = flags
        self.log.append(f"write {flags.served}")
        for name, domains in self.gateways.items():
            if name not in self.stuck:
                domains[domain] = flags

    def stands(self, domain: str) -> DomainFlags | None:
        """What is written."""
        if self.away is not None:
            raise self.away
        return self.stand.get(domain)

    def remove(self, domain: str, expecting: DomainFlags) -> None:
        """At once: every gateway serves everybody by the new side."""
        self.before("remove")
        if self.away is not None:
            raise self.away
        may_follow(domain, self.stand[domain], expecting, expecting)
        del self.stand[domain]
        self.log.append("remove")
        for domains in self.gateways.values():
            domains[domain] = BY_DEFAULT

    def restore(self, domain: str, flags: DomainFlags) -> None:
        """At once, at every gateway."""
        need_none(domain, self.stands(domain))
        self.write(domain, flags)

    def unflagged(self, domain: str) -> list[str]:
        """Gateways that serve a flag."""
        return self.unsettled(domain, BY_DEFAULT)

    def served(self) -> list[GatewayFlags]:
        """What each gateway serves."""
        if self.away is not None:
            return [GatewayFlags(self.name, reachable=False, problem=str(self.away))]
        return [GatewayFlags(name, name, True, dict(d)) for name, d in self.gateways.items()]

    def unsettled(self, domain: str, flags: DomainFlags) -> list[str]:
        """Gateways that serve something else."""
        self.before("look")
        return [
            f"{name} serves {domains[domain].served} %"
            for name, domains in self.gateways.items()
            if domains[domain] != flags
        ]

    def takes_s(self) -> float:
        """At once."""
        return 0.0

    def hindrances(self) -> list[Problem]:
        """What the test says."""
        return list(self.hindered)
