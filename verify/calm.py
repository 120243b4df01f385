"""A run that reads more slowly while either side feels it."""

import threading
import time
from collections.abc import Callable

from estate.config import VerifyConfig
from migrator.throttle import Throttle
from verify.sides import Connection, asking

# Who waits looks up so often: a run that ends does not wait for a pause.
GLANCE_S = 0.1


class Calm:
    """Pauses between slices, by what both servers feel (see migrator.throttle), and so long that
    each connection reads no more than a `share` of the time, 0 to 1.

    Raises ConnectionLost or ComparisonFailed.
    """

    def __init__(
        self,
        old: tuple[Connection, str],
        new: tuple[Connection, str],
        settings: VerifyConfig,
        share: float = 1.0,
    ) -> None:
        self._share = share
        self._sides = []
        for connection, name in (old, new):
            with asking(name, connection):
                self._sides.append((Throttle(connection, settings), connection, name))
        self._lock = threading.Lock()

    @property
    def reason(self) -> str | None:
        """Why it goes slower than it could; None when it does not."""
        for throttle, _, name in self._sides:
            if throttle.reason is not None:
                return f"'{name}': {throttle.reason}"
        return f"it reads {self._share:.0%} of the time" if self._share < 1 else None

    def pause(self, seconds: float, ended: Callable[[], bool]) -> None:
        """After a slice that took so long: wait as long as either side asks for, and as its share
        says, or until the run has ended."""
        longest = seconds * (1 / self._share - 1)
        with self._lock:
            for throttle, connection, name in self._sides:
                with asking(name, connection):
                    longest = max(longest, throttle.pause(connection))
        until = time.monotonic() + longest
        while time.monotonic() < until and not ended():
            time.sleep(GLANCE_S)
