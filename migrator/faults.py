"""Mistakes made on purpose, for tests that prove that the checks can fail. Nothing else uses them.

SPLITCTL_TEST_FAULT=drop-key:N     the Nth row that would be updated is forgotten, then and later
SPLITCTL_TEST_FAULT=reorder:N      from the Nth carried key on: the first key that changes once more
                                   gets its earlier version back
SPLITCTL_TEST_FAULT=skip-delete:N  the Nth row to delete stays
"""

import os
import threading
from typing import Any

VARIABLE = "SPLITCTL_TEST_FAULT"
KINDS = ("drop-key", "reorder", "skip-delete")


class Faults:
    """At most one fault, counted over all streams of the process."""

    def __init__(self, text: str = "") -> None:
        kind, _, number = text.partition(":")
        self._kind = kind if kind in KINDS else ""
        self._number = int(number) if self._kind else 0
        self._count = 0
        self._victims: set[Any] = set()
        self._earlier: dict[Any, Any] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_environment(cls) -> "Faults":
        """The fault that the environment asks for; usually none."""
        return cls(os.environ.get(VARIABLE, ""))

    def __bool__(self) -> bool:
        return bool(self._kind)

    def forgets(self, row: Any) -> bool:
        """Whether this row is not updated."""
        return self._hit("drop-key", row)

    def skips(self, row: Any) -> bool:
        """Whether this row is not deleted."""
        return self._hit("skip-delete", row)

    def version(self, name: Any, rows: Any) -> Any:
        """The rows to write for a key: the ones read now, or stale ones."""
        # A row that is gone stays gone: without its parent a stale one could not be written.
        if self._kind != "reorder" or not rows:
            return rows
        with self._lock:
            self._count += 1
            if name in self._victims:
                return self._earlier[name]
            if self._count < self._number:
                return rows
            earlier = self._earlier.setdefault(name, rows)
            if earlier != rows and not self._victims:
                self._victims.add(name)
                return earlier
            return rows

    def _hit(self, kind: str, name: Any) -> bool:
        if self._kind != kind:
            return False
        with self._lock:
            if name in self._victims:
                return True
            self._count += 1
            if self._count == self._number:
                self._victims.add(name)
                return True
            return False
