"""Faults on demand: answers that fail or are late, by path."""

import random
from dataclasses import dataclass
from typing import Any, Literal


class FaultInvalid(Exception):
    """A fault that cannot be set."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Of the requests below a path, `rate` (0..1) fail with `status` after `delay_ms`.

    status 0 only delays. `when` = "after" acts first and then loses the answer, so that a caller
    that tries again meets its own idempotency key.
    """

    path_prefix: str
    rate: float
    status: int
    delay_ms: int
    when: Literal["before", "after"]


def read(document: Any) -> Fault:
    """A fault from JSON. Raises FaultInvalid."""
    if not isinstance(document, dict):
        raise FaultInvalid("a JSON object is needed")
    prefix = document.get("path_prefix", "/")
    rate, status = document.get("rate", 1), document.get("status", 0)
    delay, when = document.get("delay_ms", 0), document.get("when", "before")
    if not isinstance(prefix, str) or not prefix.startswith("/"):
        raise FaultInvalid("path_prefix: a path")
    if type(rate) not in (int, float) or not 0 <= rate <= 1:
        raise FaultInvalid("rate: a number from 0 to 1")
    if type(status) is not int or not (status == 0 or 400 <= status <= 599):
        raise FaultInvalid("status: 400 to 599, or 0 for a delay only")
    if type(delay) is not int or not 0 <= delay <= 60_000:
        raise FaultInvalid("delay_ms: a whole number from 0 to 60000")
    if when not in ("before", "after"):
        raise FaultInvalid('when: "before" or "after"')
    return Fault(prefix, float(rate), status, delay, when)


class Faults:
    """The faults that are set, one per path prefix."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self._faults: dict[str, Fault] = {}
        self._chance = chance or random.Random()

    def set(self, fault: Fault) -> None:
        """Set or replace the fault of a prefix; rate 0 removes it."""
        self._faults.pop(fault.path_prefix, None)
        if fault.rate > 0:
            self._faults[fault.path_prefix] = fault

    def clear(self) -> None:
        """Remove all."""
        self._faults.clear()

    def strikes(self, path: str) -> Fault | None:
        """The fault that this request meets; the longest prefix counts."""
        fitting = [fault for fault in self._faults.values() if path.startswith(fault.path_prefix)]
        if not fitting:
            return None
        fault = max(fitting, key=lambda fault: len(fault.path_prefix))
        return fault if self._chance.random() < fault.rate else None
