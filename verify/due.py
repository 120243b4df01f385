"""Keys that wait to be compared, each once, some time after they were carried. Thread-safe."""

import threading
from collections.abc import Iterable, Mapping

from migrator.changes import MappingKey

ROOM = 100_000
SOON_S = 1.0
# When a key is due, and when it was heard of first; in the order in which they are due.
Turns = dict[MappingKey, tuple[float, float]]


class Due:
    """Times are seconds of one clock, which whoever calls reads.

    `since`: of everything that was carried from that moment on, nothing was left out.
    """

    def __init__(self, delay_s: float, now: float, room: int = ROOM) -> None:
        self._delay_s, self._room = delay_s, room
        self._waiting: Turns = {}
        # Those of which nothing could be told yet.
        self._again: Turns = {}
        self._lock = threading.Lock()
        self.since, self.left_out = now, 0

    def add(self, names: Iterable[MappingKey], now: float) -> None:
        """Carried now. One that waits already keeps its turn: it is read as it is by then."""
        with self._lock:
            for name in names:
                if name in self._waiting or name in self._again:
                    continue
                if len(self._waiting) + len(self._again) >= self._room:
                    self.since = now
                    self.left_out += 1
                else:
                    self._waiting[name] = (now + self._delay_s, now)

    def put_back(self, names: Iterable[tuple[MappingKey, float]], now: float) -> None:
        """Nothing could be told of them: they come soon again, and stay as old as they are."""
        due = now + min(SOON_S, self._delay_s)
        with self._lock:
            for name, heard_at in names:
                _, newer = self._waiting.pop(name, (due, heard_at))
                turn, other = self._again.get(name, (due, heard_at))
                self._again[name] = (turn, min(heard_at, newer, other))

    def left(self, now: float) -> None:
        """Something was carried that will not be looked at."""
        with self._lock:
            self.since = now

    def forget(self, now: float) -> None:
        """None of them can be looked at."""
        with self._lock:
            self._waiting.clear()
            self._again.clear()
            self.since = now

    def take(self, now: float, most: int) -> list[tuple[MappingKey, float]]:
        """So many of those that are due, each with the moment when it was heard of first."""
        with self._lock:
            # Those that are looked at again leave room for others.
            taken = _due(self._again, now, (most + 1) // 2)
            taken += _due(self._waiting, now, most - len(taken))
            for name, _ in taken:
                self._again.pop(name, None)
                self._waiting.pop(name, None)
        return taken

    def oldest(self, now: float) -> float:
        """When the one was heard of that waits longest; now, when none waits."""
        with self._lock:
            every = (*self._waiting.values(), *self._again.values())
        return min((heard_at for _, heard_at in every), default=now)

    def __contains__(self, name: MappingKey) -> bool:
        return name in self._waiting or name in self._again

    def __len__(self) -> int:
        return len(self._waiting) + len(self._again)


def _due(
    turns: Mapping[MappingKey, tuple[float, float]], now: float, most: int
) -> list[tuple[MappingKey, float]]:
    found: list[tuple[MappingKey, float]] = []
    for name, (due, heard_at) in turns.items():
        if due > now or len(found) >= most:
            break
        found.append((name, heard_at))
    return found
