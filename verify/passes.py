"""The passes of a run over its mappings: each in snapshots of its own, and told of."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from verify.calm import Calm
from verify.checksum import Hashing
from verify.reading import TimeUp, snapshot
from verify.scan import ROWS_IN_HAND, Scan
from verify.sides import Readers
from verify.subject import Subject
from verify.unfinished import Read

# A run over millions of rows should not be a thousand lines.
TOLD_EACH_S = 1.0


@dataclass(frozen=True)
class Limits:
    """How far a run goes: numbers of rows, keys or connections; times in seconds.

    After a lost connection it tries for `lost_s` to go on. Each connection reads no more than a
    `share` of the time, 0 to 1.
    """

    workers: int = 1
    share: float = 1.0
    rows_in_hand: int = ROWS_IN_HAND
    suspects: int = 10_000
    patience_s: float = 30.0
    barrier_s: float = 30.0
    timeout_s: float | None = None
    lost_s: float = 60.0


@dataclass(frozen=True)
class Progress:
    """How far a mapping is; `str()` of it is a line for a person.

    `share` of both sides has been read in this pass; those after the first look closer at what
    differs. `rows` is an estimate before the end. `slowed` says why it could read more quickly.
    """

    mapping: str
    share: float
    rows: int
    rows_per_second: float
    eta_s: float
    suspects: int | None = None
    slowed: str | None = None
    number: int = 1

    def __str__(self) -> str:
        if self.suspects is not None:
            return (
                f"{self.mapping}: {self.rows:,} rows, {self.rows_per_second:,.0f} rows/s, "
                f"{self.suspects:,} to look at again"
            )
        slowed = f"; slowed: {self.slowed}" if self.slowed else ""
        if self.number > 1:
            return (
                f"{self.mapping}: looking closer at what differs, pass {self.number}: "
                f"{self.share:.0%}{slowed}"
            )
        return (
            f"{self.mapping}: {self.share:.0%} of some {self.rows:,} rows, "
            f"{self.rows_per_second:,.0f} rows/s, {self.eta_s:.0f} s left{slowed}"
        )


OnProgress = Callable[[Progress], None]


@dataclass
class Passes:
    """Reads one mapping after the other; those for which there was no time are `skipped`.

    `moving` is set by the first sides that did not agree at once: the next ones are compared in
    buckets without trying.
    """

    old: Readers
    new: Readers
    hashing: Hashing
    on_progress: OnProgress | None
    limits: Limits
    calm: Calm
    deadline: float | None
    moving: bool = False
    skipped: list[str] = field(default_factory=list)

    def over(self, subject: Subject) -> Read | None:
        """What one mapping gave; None when the time was up. Raises ConnectionLost or
        ComparisonFailed."""
        started = time.monotonic()
        telling = _Telling(subject, self.on_progress, self.calm)
        readers = (self.old, self.new) if subject.direction == "forward" else (self.new, self.old)
        try:
            with snapshot(
                *readers, on_slice=telling.read, pause=self.calm.pause, deadline=self.deadline
            ) as reading:
                scan = Scan(
                    subject,
                    reading,
                    self.hashing,
                    limit=self.limits.suspects,
                    rows_in_hand=self.limits.rows_in_hand,
                )
                suspects = scan.run_in_buckets() if self.moving else scan.run()
        except TimeUp:
            self.skipped.append(subject.name)
            return None
        self.moving = self.moving or not scan.equal
        seconds = time.monotonic() - started
        telling.done(scan.rows, seconds, len(suspects))
        now = datetime.now(UTC)
        return Read(now, scan.rows, scan.unexamined, seconds, list(suspects.values()))


class _Telling:
    """Tells of the progress of one mapping, once a second."""

    def __init__(self, subject: Subject, on_progress: OnProgress | None, calm: Calm) -> None:
        self._subject, self._on_progress, self._calm = subject, on_progress, calm
        self._began = self._told = time.monotonic()
        self._share, self._number = 0.0, 1

    def read(self, share: float) -> None:
        """So much of both sides has been read in this pass."""
        now = time.monotonic()
        if share < self._share:
            self._began, self._number = now, self._number + 1
        self._share = share
        if self._on_progress is None or now - self._told < TOLD_EACH_S:
            return
        self._told = now
        seconds = max(now - self._began, 0.001)
        rows = self._subject.estimated_rows
        self._on_progress(
            Progress(
                self._subject.name,
                share,
                rows,
                share * rows / seconds,
                seconds * (1 - share) / max(share, 0.001),
                slowed=self._calm.reason,
                number=self._number,
            )
        )

    def done(self, rows: int, seconds: float, suspects: int) -> None:
        """The mapping has been read."""
        if self._on_progress is not None:
            rate = rows / max(seconds, 0.001)
            self._on_progress(Progress(self._subject.name, 1.0, rows, rate, 0.0, suspects))
