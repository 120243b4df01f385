"""Keys that wait to be compared, each once, some time after they were carried. Thread-safe."""

import threading
from collections.abc import Iterable

from migrator.changes import MappingKey

ROOM = 100_000


class Due:
    """Times are seconds of one clock, which whoever calls reads.

    `since`: of everything that was carried from that moment on, nothing was left out.
    """

    def __init__(self, delay_s: float, now: float, room: int = ROOM) -> None:
        self._delay_s, self._room = delay_s, room
        # When each is due, and when it was heard of first.
        self._waiting: dict[MappingKey, tuple[float, float]] = {}
        self._lock = threading.Lock()
        self.since, self.left_out = now, 0

    def add(self, names: Iterable[MappingKey], now: float) -> None:
        """Carried now. One that waits already keeps its turn: it is read as it is by then."""
        with self._lock:
            for name in names:
                self._put(name, now, now)

    def put_back(self, names: Iterable[tuple[MappingKey, float]], now: float) -> None:
        """Nothing could be told of them: they get another turn, and stay as old as they are."""
        with self._lock:
            for name, heard_at in names:
                due, newer = self._waiting.pop(name, (now + self._delay_s, heard_at))
                self._waiting[name] = (due, min(heard_at, newer))

    def _put(self, name: MappingKey, heard_at: float, now: float) -> None:
        if name in self._waiting:
            return
        if len(self._waiting) >= self._room:
            self.since = now
            self.left_out += 1
        else:
            self._waiting[name] = (now + self._delay_s, heard_at)

    def left(self, now: float) -> None:
        """Something was carried that will not be looked at."""
        with self._lock:
            self.since = now

    def forget(self, now: float) -> None:
        """None of them can be looked at."""
        with self._lock:
            self._waiting.clear()
            self.since = now

    def take(self, now: float, most: int) -> list[tuple[MappingKey, float]]:
        """So many of those that are due, each with the moment when it was heard of first."""
        taken: list[tuple[MappingKey, float]] = []
        with self._lock:
            for name, (due, heard_at) in self._waiting.items():
                if due > now or len(taken) >= most:
                    break
                taken.append((name, heard_at))
            for name, _ in taken:
                del self._waiting[name]
        return taken

    def oldest(self, now: float) -> float:
        """When the one was heard of that waits longest; now, when none waits."""
        with self._lock:
            return min((heard_at for _, heard_at in self._waiting.values()), default=now)

    def __contains__(self, name: MappingKey) -> bool:
        return name in self._waiting

    def __len__(self) -> int:
        return len(self._waiting)
