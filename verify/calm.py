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
    """Pauses between slices, by what both servers feel: see migrator.throttle.

    Raises ConnectionLost or ComparisonFailed.
    """

    def __init__(
        self, old: tuple[Connection, str], new: tuple[Connection, str], settings: VerifyConfig
    ) -> None:
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
        return None

    def pause(self, ended: Callable[[], bool]) -> None:
        """Wait as long as either side asks for, or until the run has ended."""
        longest = 0.0
        with self._lock:
            for throttle, connection, name in self._sides:
                with asking(name, connection):
                    longest = max(longest, throttle.pause(connection))
        until = time.monotonic() + longest
        while time.monotonic() < until and not ended():
            time.sleep(GLANCE_S)
