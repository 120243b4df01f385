"""Whether sync has caught up: the barriers between which a verdict is true."""

import time
from dataclasses import dataclass
from typing import Protocol

import psycopg

from estate.errors import ExitCode, SplitctlError
from migrator import barrier
from migrator.barrier import Marker, Passing
from migrator.mapping import Stream
from verify.sides import Both, Connection

# What was carried already is found out even when the time is up.
LEAST_S = 1.0


class SyncNotEnabled(SplitctlError):
    """Sync of '{stream}' is not enabled in database '{database}', so nothing can be told about it.
    Nothing was changed."""

    hint = "splitctl sync enable {domain}"
    exit_code = ExitCode.PRECONDITION


class Barriers(Protocol):
    """Where the run asks whether sync has caught up; the shipped one asks the sync itself."""

    def check(self, target: Connection, stream: Stream) -> None:
        """Raise SyncNotEnabled when the stream cannot ever pass a barrier."""

    def mark(self, source: Connection, stream: str) -> Marker:
        """Write a marker on the stream's source."""

    def wait_for(self, target: Connection, marker: Marker, timeout_s: float) -> Passing:
        """Wait until the target has everything from before the marker."""


class SyncBarriers:
    """Barriers of the real sync."""

    def check(self, target: Connection, stream: Stream) -> None:
        """Raise SyncNotEnabled when the target knows no progress of this stream."""
        query = "SELECT 1 FROM splitctl_sync.progress WHERE stream = %s"
        try:
            known = target.execute(query, (stream.name,)).fetchone()
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            known = None
        if known is None:
            raise SyncNotEnabled(
                stream=stream.name, database=stream.target.name, domain=stream.domain.name
            )

    def mark(self, source: Connection, stream: str) -> Marker:
        """See migrator.barrier.mark."""
        return barrier.mark(source, stream)

    def wait_for(self, target: Connection, marker: Marker, timeout_s: float) -> Passing:
        """See migrator.barrier.wait_for."""
        return barrier.wait_for(target, marker, timeout_s)


@dataclass
class Gate:
    """Barriers of both directions of one domain, always passed together.

    A key owned by the new side reaches the old one through the reverse stream, so a difference
    seen in the forward mapping means something only when both directions have nothing pending.
    It waits for `timeout_s` at most, and not beyond `deadline`, a monotonic time.
    """

    streams: list[Stream]
    both: Both
    barriers: Barriers
    timeout_s: float
    reasons: list[str]
    deadline: float | None = None

    def check(self) -> None:
        """Raise SyncNotEnabled unless both directions are."""
        for stream in self.streams:
            target = ends(stream, self.both)[1]
            with self.both.asking(target):
                self.barriers.check(target, stream)

    def passed(self) -> dict[str, str] | None:
        """Wait for all; the positions by stream, or None with a reason noted."""
        started = time.monotonic()
        limit_s = self.timeout_s
        if self.deadline is not None:
            limit_s = min(limit_s, max(self.deadline - started, LEAST_S))
        marked = []
        for stream in self.streams:
            source, target = ends(stream, self.both)
            with self.both.asking(source):
                marked.append((stream, target, self.barriers.mark(source, stream.name)))
        for stream, target, marker in marked:
            elapsed = time.monotonic() - started
            with self.both.asking(target):
                state = self.barriers.wait_for(target, marker, max(limit_s - elapsed, 0))
            if not state.passed:
                self.reasons.append(
                    f"{stream.name}: the barrier at {marker.lsn} was not passed within "
                    f"{time.monotonic() - started:.1f} s ({state.pending:,} keys pending); "
                    "is `splitctl sync run` running?"
                )
                return None
        return {stream.name: marker.lsn for stream, _, marker in marked}

    def ready(self) -> bool:
        """Wait for all; whether they were passed, or a reason was noted."""
        return self.passed() is not None


def ends(stream: Stream, both: Both) -> tuple[Connection, Connection]:
    """The connections to a stream's source and target."""
    return (both.old, both.new) if stream.direction == "forward" else (both.new, both.old)
