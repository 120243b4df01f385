"""Notices: whoever wants to know is told of every change of state, by webhook.

A notice never decides anything: one that cannot be delivered is a warning, and the rollout goes on.
Each has an id that stays the same however often it is sent, so that a receiver can drop a second
one. In the format `json` the body is signed, so that a receiver can tell that it is ours: see
`signature`, and docs/observe.md for how to verify it.
"""

import hashlib
import hmac
import json
import logging
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol, get_args

import httpx

from estate.config import Config, Event, NotifyConfig
from estate.errors import in_one_line
from estate.secrets import SecretRef
from rollout import parallel
from rollout.gates import GateResult

log = logging.getLogger(__name__)

TIMEOUT_S = 3.0
ATTEMPTS = 4
FIRST_PAUSE_S = 0.5
# All attempts together; whoever tells does not wait for longer.
LIMIT_S = 15.0
SIGNATURE_VERSION = "v1"
WORDS: Mapping[Event, str] = {
    "started": "was started",
    "stepped": "made a step",
    "failed": "fails a gate",
    "held": "holds: there is not enough evidence",
    "went_on": "goes on",
    "paused": "was paused",
    "resumed": "was resumed",
    "drifted": "was changed behind our back",
    "asked": "waits for a person's answer",
    "unfinished": "has a step that is not finished",
    "rolled_back": "was rolled back",
    "finished": "is finished",
}
assert set(WORDS) == set(get_args(Event))


@dataclass(frozen=True)
class Notice:
    """A change of state. `before` and `after` are percentages, stages or other words."""

    environment: str
    domain: str
    event: Event
    next_command: str
    before: str | None = None
    after: str | None = None
    reason: str | None = None
    verdicts: Sequence[GateResult] = ()
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def lines(self) -> list[str]:
        """For a person, the most important line first."""
        moved = f" from {self.before} to {self.after}" if self.before and self.after else ""
        told = [f"{self.environment}: {self.domain} {WORDS[self.event]}{moved}"]
        if self.reason:
            told.append(self.reason)
        # What passed is told only where it is the news.
        passed = self.event in ("stepped", "finished")
        told += [str(item) for item in self.verdicts if passed or item.verdict != "pass"]
        return [*told, f"Next: {self.next_command}"]

    def to_json(self) -> dict[str, Any]:
        """Plain data: the body of the format `json`."""
        return {
            "id": self.id,
            "at": self.at.astimezone(UTC).isoformat(timespec="milliseconds"),
            "environment": self.environment,
            "domain": self.domain,
            "event": self.event,
            "from": self.before,
            "to": self.after,
            "reason": self.reason,
            "verdicts": [vars(item) for item in self.verdicts],
            "next_command": self.next_command,
            "text": "\n".join(self.lines()),
        }


class NotDelivered(Exception):
    """A notice did not arrive. `final`: sending it again would not help."""

    def __init__(self, reason: str, final: bool) -> None:
        super().__init__(reason)
        self.final = final


class Notifier(Protocol):
    """Somebody who is told."""

    def send(self, notice: Notice) -> None:
        """Try once. Raises NotDelivered, SecretMissing."""


@dataclass
class InMemoryNotifier:
    """Keeps what it was told. `failures`: so many attempts fail first."""

    failures: int = 0
    final: bool = False
    notices: list[Notice] = field(default_factory=list)

    def send(self, notice: Notice) -> None:
        """Keep it."""
        if self.failures > 0:
            self.failures -= 1
            raise NotDelivered("it was told to fail", self.final)
        self.notices.append(notice)


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """What the header `Splitctl-Signature` holds: `v1=` and the HMAC-SHA256, in hex, of the header
    `Splitctl-Timestamp`, a full stop, and the body as it was sent (RFC 2104, FIPS 198-1)."""
    signed = timestamp.encode() + b"." + body
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    return f"{SIGNATURE_VERSION}={digest}"


class HttpNotifier:
    """A webhook. Secrets are read when something is told, never before."""

    def __init__(self, settings: NotifyConfig, clock: Callable[[], float] = time.time) -> None:
        self._settings, self._clock = settings, clock

    def send(self, notice: Notice) -> None:
        """One attempt. 408, 425, 429 and 5xx may pass, any other refusal is final."""
        place = self._settings.url
        url = place.reveal() if isinstance(place, SecretRef) else place
        body, headers = self._letter(notice)
        try:
            with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as client:
                answer = client.post(url, content=body, headers=headers)
        except httpx.InvalidURL:
            # What it says holds the address, which may be a secret.
            raise NotDelivered("its address is none", True) from None
        except httpx.HTTPError as error:
            told = in_one_line(error).replace(url, "its address")
            raise NotDelivered(told, isinstance(error, httpx.UnsupportedProtocol)) from None
        if not answer.is_success:
            passing = answer.status_code in (408, 425, 429) or answer.is_server_error
            raise NotDelivered(f"it answers {answer.status_code}", not passing)

    def _letter(self, notice: Notice) -> tuple[bytes, dict[str, str]]:
        slack = self._settings.format == "slack"
        data = {"text": "\n".join(notice.lines())} if slack else notice.to_json()
        body = json.dumps(data, ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json", "Idempotency-Key": notice.id}
        if self._settings.secret is not None and not slack:
            # The time of this attempt: a letter that somebody kept and sends again is an old one.
            stamp = str(int(self._clock()))
            headers["Splitctl-Timestamp"] = stamp
            headers["Splitctl-Signature"] = signature(self._settings.secret.reveal(), stamp, body)
        return body, headers


@dataclass(frozen=True)
class Delivery:
    """What became of a notice at one receiver. `problem` None: it arrived."""

    receiver: str
    tries: int
    problem: str | None = None

    def __str__(self) -> str:
        tries = f"{self.tries} tries" if self.tries > 1 else "1 try"
        if self.problem is None:
            return f"'{self.receiver}' was told" + (f" after {tries}" if self.tries > 1 else "")
        return f"'{self.receiver}' was not told after {tries}: {self.problem}"


@dataclass(frozen=True)
class Receiver:
    """Somebody who is told, by a name that may be shown; `events` None: of everything."""

    name: str
    notifier: Notifier
    events: frozenset[Event] | None = None


class Notices:
    """Tells everybody who wants to know. One call: `notices.tell(Notice(...))`."""

    def __init__(
        self,
        receivers: Sequence[Receiver] = (),
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._receivers, self._sleep, self._clock = tuple(receivers), sleep, clock

    @classmethod
    def of(cls, config: Config) -> "Notices":
        """Those whom the configuration names. Nothing is opened, and no secret read, yet."""
        return cls(
            [
                Receiver(
                    settings.name,
                    HttpNotifier(settings),
                    None if settings.events is None else frozenset(settings.events),
                )
                for settings in config.notify
            ]
        )

    def tell(self, notice: Notice) -> list[Delivery]:
        """Tell everybody at the same time, at most LIMIT_S long. Never raises.

        Returns what became of it at each who wants to know; who was not reached is in the log,
        too. What has to be quick is done first, and told afterwards.
        """
        tries: dict[int, int] = {}
        tasks = {
            number: partial(self._deliver, receiver, notice, partial(tries.__setitem__, number))
            for number, receiver in enumerate(self._receivers)
            if receiver.events is None or notice.event in receiver.events
        }
        outcomes = parallel.gather(tasks, LIMIT_S + TIMEOUT_S)
        deliveries = [
            Delivery(
                self._receivers[number].name,
                tries.get(number, 0),
                None if outcome.error is None else in_one_line(outcome.error),
            )
            for number, outcome in outcomes.items()
        ]
        for delivery in deliveries:
            if delivery.problem is not None:
                log.warning("%s (notice %s)", delivery, notice.id)
        return deliveries

    def _deliver(self, receiver: Receiver, notice: Notice, tried: Callable[[int], None]) -> None:
        deadline, pause = self._clock() + LIMIT_S, FIRST_PAUSE_S
        for attempt in range(1, ATTEMPTS + 1):
            tried(attempt)
            try:
                return receiver.notifier.send(notice)
            except NotDelivered as error:
                # Jitter: all the tools that lost the same receiver must not come back at once.
                wait = pause * random.uniform(0.5, 1.5)
                late = self._clock() + wait >= deadline
                if error.final or attempt == ATTEMPTS or late:
                    raise
                log.info("'%s', attempt %d: %s", receiver.name, attempt, error)
                self._sleep(wait)
                pause *= 2
        return None
