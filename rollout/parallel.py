"""Several things at once, each with an end: a dead host must not keep the others waiting."""

import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class TookTooLong(Exception):
    """No answer in time."""

    def __str__(self) -> str:
        return "no answer in time"


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What a task gave: a value, or the error that it ended with."""

    value: T | None = None
    error: Exception | None = None


class Running(Generic[K, T]):
    """Tasks under way, each in a thread of its own that never keeps the program alive."""

    def __init__(self, tasks: Mapping[K, Callable[[], T]]) -> None:
        self._done: dict[K, Outcome[T]] = {}
        self._changed = threading.Condition()
        self._names = list(tasks)
        for name, task in tasks.items():
            arguments = (name, task)
            threading.Thread(target=self._run, args=arguments, daemon=True).start()

    def _run(self, name: K, task: Callable[[], T]) -> None:
        try:
            outcome: Outcome[T] = Outcome(task())
        except Exception as error:  # noqa: BLE001 - handed to whoever waits
            outcome = Outcome(error=error)
        with self._changed:
            self._done[name] = outcome
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> dict[K, Outcome[T]]:
        """Wait for all, at most so long. What has not ended yet has the error TookTooLong."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._done) == len(self._names), timeout_s)
            done = dict(self._done)
        return {name: done.get(name) or Outcome(error=TookTooLong()) for name in self._names}


def gather(tasks: Mapping[K, Callable[[], T]], timeout_s: float) -> dict[K, Outcome[T]]:
    """Run all at once and wait for them, at most so long."""
    return Running(tasks).wait(timeout_s)
