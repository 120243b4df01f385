"""A verification beside everything else: a process of its own, `splitctl verify run`.

It takes hours where a look at the gates takes a second. It holds no lock, nobody waits for it, and
it ends with whoever began it, by kill -9 too.
"""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

from estate.config import Config
from estate.leash import leashed

ENDING_S = 10.0


@dataclass(frozen=True)
class Outcome:
    """What became of one. `verdict`: equal, different, inconclusive, or "" where none was made."""

    verdict: str
    reason: str = ""


class Running(Protocol):
    """One that is under way."""

    def outcome(self) -> Outcome | None:
        """None while it goes on."""

    def end(self) -> None:
        """Let it end; waits for nothing."""

    def close(self) -> None:
        """See that it has ended, for some seconds at most."""


class Verifications(Protocol):
    """Who makes them."""

    def begin(self, domain: str) -> Running:
        """Compare both sides of a whole domain, beside everything else. Raises OSError."""


# Processes


class Child:
    """`splitctl verify run`, which ends when this process does, by kill -9 too."""

    def __init__(self, command: Sequence[str]) -> None:
        # Files and no pipes: nobody reads while it runs, and a verdict can be long.
        self._answer: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            leashed(command, death_signal=signal.SIGKILL),
            stdin=subprocess.DEVNULL,
            stdout=self._answer,
            stderr=subprocess.DEVNULL,
            # Ctrl-C at the terminal is for whoever began it.
            start_new_session=True,
        )

    def outcome(self) -> Outcome | None:
        """From what it answered."""
        code = self._process.poll()
        if code is None:
            return None
        self._answer.seek(0)
        return outcome_of(self._answer.read(), code)

    def end(self) -> None:
        """Ctrl-C: it takes its statements in the databases with it."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """The same, and after a while SIGKILL."""
        self.end()
        try:
            self._process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            # One that waits for a disk ends when that answers, and nothing depends on it.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(ENDING_S)
        self._answer.close()


def outcome_of(answer: bytes, code: int) -> Outcome:
    """What `splitctl verify run -o json` has answered; `code` is how it ended."""
    try:
        told: dict[str, Any] = json.loads(answer)
    except ValueError:
        return Outcome("", f"`splitctl verify run` ended with code {code}")
    if "verdict" not in told:
        return Outcome("", str(told.get("message", f"it ended with code {code}")))
    reasons = [str(reason) for reason in told.get("reasons") or []]
    if not told.get("recorded", True):
        return Outcome("", "the ledger is away: the verdict was not recorded")
    return Outcome(str(told["verdict"]), "; ".join(reasons))


@dataclass(frozen=True)
class Children:
    """The same program again, with the same configuration."""

    config: Config

    def begin(self, domain: str) -> Child:
        """Start it. Raises OSError."""
        words = ["verify", "run", "--domain", domain, "--config", str(self.config.path.absolute())]
        return Child([sys.executable, "-m", "splitctl", *words, "-o", "json"])


# In memory


@dataclass
class InMemoryRunning:
    """One that goes on until the test says how it ends."""

    domain: str
    result: Outcome | None = None
    ended: bool = False

    def outcome(self) -> Outcome | None:
        """What the test said."""
        return self.result

    def end(self) -> None:
        """Noted."""
        self.ended = True

    def close(self) -> None:
        """Noted."""
        self.ended = True


@dataclass
class InMemoryVerifications:
    """Keeps what was begun; `then` is asked for each, and may say at once how it ends."""

    then: Callable[[InMemoryRunning], None] = lambda _: None
    begun: list[InMemoryRunning] = field(default_factory=list)

    def begin(self, domain: str) -> InMemoryRunning:
        """One more."""
        running = InMemoryRunning(domain)
        self.begun.append(running)
        self.then(running)
        return running
