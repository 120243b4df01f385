"""Ctrl-C and SIGTERM during an act that must not be cut in two.

Signals are remembered and take effect where the act asks for them: between its parts, and never
between the move of the owner and the switch of the flags.
"""

import signal
import threading
from types import FrameType
from typing import Any, Self

from estate.errors import ExitCode, SplitctlError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(SplitctlError):
    """Interrupted: fences were released and nobody changed sides."""

    hint = "splitctl status"
    exit_code = ExitCode.INTERRUPTED


class Interrupts:
    """While entered, signals wait. Outside the main thread there is nothing to catch.

    `signal` is the one that came. An act within another passes it on, so that both end.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        outer = getattr(self._before.get(number), "__self__", None)
        if isinstance(outer, Interrupts):
            outer._note(number, frame)

    @property
    def pending(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None

    def check(self) -> None:
        """Raise Interrupted when a signal came."""
        if self.pending:
            raise Interrupted
