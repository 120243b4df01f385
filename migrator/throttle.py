"""How long to wait between two ranges, by what the source feels."""

import threading
import time
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from estate.config import BackfillConfig, VerifyConfig

Connection = psycopg.Connection[Any]
PROBE_EVERY_S = 0.5
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 30.0
SHRINKING = 0.7
SHARE_OF_NEWS = 0.3
ROOM = 1.2
# Fewer sessions than this at work are no load, whatever was measured at the start.
FEWEST_ACTIVE = 8

# Replay lag of standbys that replay whole clusters; a logical reader has no replay of its own.
# What the tool's role may not see comes as null, and counts as nothing seen.
PROBE: LiteralString = """
SELECT (SELECT max(extract(epoch FROM r.replay_lag)) * 1000 FROM pg_stat_replication r
         WHERE r.state = 'streaming'
           AND NOT EXISTS (SELECT FROM pg_replication_slots s
                            WHERE s.active_pid = r.pid AND s.slot_type = 'logical')),
       (SELECT count(*) FROM pg_stat_activity a
         WHERE a.state = 'active' AND a.backend_type = 'client backend'
           AND a.application_name NOT LIKE 'splitctl %')
"""
TRIVIAL: LiteralString = "SELECT 1"


@dataclass(frozen=True)
class Sample:
    """What the source feels: replay lag of its standbys and the time of a trivial query in ms,
    sessions at work that are not ours."""

    lag_ms: float | None
    active: int
    probe_ms: float


@dataclass(frozen=True)
class Limits:
    """What it may feel before what reads it slows down."""

    lag_ms: float
    active: int
    probe_ms: float

    def exceeded(self, sample: Sample) -> str | None:
        """Which of them, in words; None when all is well."""
        if sample.lag_ms is not None and sample.lag_ms > self.lag_ms:
            return f"a standby lags {sample.lag_ms:,.0f} ms (limit {self.lag_ms:,.0f})"
        if sample.active > self.active:
            return f"{sample.active} sessions are at work (limit {self.active})"
        if sample.probe_ms > self.probe_ms:
            return f"a trivial query takes {sample.probe_ms:,.0f} ms (limit {self.probe_ms:,.0f})"
        return None


class Brake:
    """The pause between two ranges: it doubles while a limit is exceeded, and shrinks after."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._probe_ms: float | None = None
        self.pause_s = 0.0
        self.reason: str | None = None

    def feel(self, sample: Sample) -> None:
        """Take a sample into account."""
        before = self._probe_ms
        smooth = sample.probe_ms
        if before is not None:
            smooth = before + SHARE_OF_NEWS * (sample.probe_ms - before)
        self._probe_ms = smooth
        found = self._limits.exceeded(Sample(sample.lag_ms, sample.active, smooth))
        if found is not None:
            self.pause_s = min(max(self.pause_s * 2, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            self.reason = found
            return
        self.pause_s *= SHRINKING
        if self.pause_s < FIRST_PAUSE_S:
            self.pause_s, self.reason = 0.0, None


class Throttle:
    """A brake for all workers of a run: whoever passes when it is time takes the sample."""

    def __init__(self, source: Connection, settings: BackfillConfig | VerifyConfig) -> None:
        active = settings.max_active
        if active is None:
            active = max(int(_sample(source).active * ROOM), FEWEST_ACTIVE)
        self._brake = Brake(
            Limits(settings.max_replica_lag.total_seconds() * 1000, active, settings.max_probe_ms)
        )
        self._lock = threading.Lock()
        self._next = 0.0

    @property
    def reason(self) -> str | None:
        """Why it goes slower than it could, in words."""
        return self._brake.reason

    def pause(self, source: Connection) -> float:
        """Seconds to wait before the next range or slice."""
        with self._lock:
            if time.monotonic() >= self._next:
                self._brake.feel(_sample(source))
                self._next = time.monotonic() + PROBE_EVERY_S
            return self._brake.pause_s


def _sample(source: Connection) -> Sample:
    row = source.execute(PROBE).fetchone()
    assert row is not None
    started = time.monotonic()
    source.execute(TRIVIAL)
    elapsed = (time.monotonic() - started) * 1000
    return Sample(None if row[0] is None else float(row[0]), int(row[1]), elapsed)
