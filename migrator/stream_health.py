"""One stream as its worker sees it, for whoever asks: life, lag, what waits, what the log keeps."""

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from migrator.figures import Quantiles, Rate
from migrator.mapping import Side
from migrator.ownership import Ownership
from migrator.watch import Seen

log = logging.getLogger(__name__)
# A heartbeat goes round every second; without one for this long a stream is not ready.
HEARTBEAT_LIMIT_S = 10.0
# Rows a second are those of so many seconds.
ROWS_WINDOW_S = 10.0
SEEN = (
    "parked",
    "strays_unsettled",
    "slot",
    "source_log",
    "oldest_transaction",
    "source_clock_ahead_ms",
)


@dataclass
class StreamHealth:
    """One stream as its worker sees it. Written by its thread alone, read by everybody.

    `state`: starting, disabled (not enabled yet), standby (another worker carries it), running,
    refuge (its target is away, changed keys are kept in the ledger: `refuge` of them), retrying
    (after an error), stopped (it will not go on without a person). `horizon`: it has decided of
    every transaction of its source below this 64-bit id: carried, kept as a stray, or parked.
    `seen` is its last look at both databases, while it runs. `round_trip_s` is the time a heartbeat
    took from the source, through the log, to its commit in the target. `owners` is what each side's
    database said of its domain's owner, at about the same time.
    """

    name: str
    state: str = "starting"
    reason: str | None = None
    last_lag_s: float = 0.0
    lag_bytes: int = 0
    gathered: int = 0
    waiting: int = 0
    spooled: int = 0
    refuge: int = 0
    transactions: int = 0
    upserted: int = 0
    deleted: int = 0
    strays: int = 0
    heartbeat_at: datetime | None = None
    round_trip_s: float | None = None
    horizon: int | None = None
    seen: Seen | None = None
    owners: Mapping[tuple[str, Side], Ownership] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    lags: Quantiles = field(default_factory=Quantiles)
    rows: Rate = field(default_factory=lambda: Rate(ROWS_WINDOW_S))

    def beat(self, sent_at: datetime) -> None:
        """A heartbeat that the source sent at this moment, by its own clock, was committed."""
        self.heartbeat_at = sent_at
        ahead = self.seen.log.clock_ahead_s if self.seen else 0.0
        self.round_trip_s = max(time.time() + ahead - sent_at.timestamp(), 0.0)

    def look(self, seen: Seen) -> None:
        """What was seen of both databases just now; about once a second."""
        self.seen = seen
        self.rows.add(time.monotonic(), self.upserted + self.deleted)

    @property
    def heartbeat_age_s(self) -> float | None:
        """Seconds since the last heartbeat that came round was sent."""
        if self.heartbeat_at is None:
            return None
        return max((datetime.now(UTC) - self.heartbeat_at).total_seconds(), 0.0)

    @property
    def rows_per_s(self) -> float | None:
        """Rows written and deleted in a second, of late; None while it does not run."""
        return self.rows.per_s if self.seen else None

    @property
    def ready(self) -> bool:
        """Whether it does what it should now."""
        if self.state in ("disabled", "standby"):
            return True
        age = self.heartbeat_age_s
        return self.state == "running" and age is not None and age < HEARTBEAT_LIMIT_S

    def turn(self, state: str, reason: str | None = None) -> None:
        """Change the state; a new one is told in the log."""
        if (state, reason) != (self.state, self.reason):
            alarming = state in ("refuge", "retrying", "stopped")
            level = logging.WARNING if alarming else logging.INFO
            log.log(level, "%s: %s%s", self.name, state, f": {reason}" if reason else "")
        if state != "running":
            # What was true while it ran may be true no more: unknown is better.
            self.seen, self.round_trip_s, self.owners = None, None, {}
        self.state, self.reason = state, reason

    def to_json(self) -> dict[str, Any]:
        """Everything, times in whole milliseconds with a fraction."""
        age = self.heartbeat_age_s
        quantiles = zip(("p50", "p95", "p99"), self.lags.at_each((0.5, 0.95, 0.99)), strict=True)
        return {
            "state": self.state,
            "reason": self.reason,
            "ready": self.ready,
            "lag_ms": {
                **{name: _ms(value) for name, value in quantiles},
                "max": _ms(self.lags.largest if self.lags.count else None),
                "last": _ms(self.last_lag_s if self.lags.count else None),
            },
            "lag_bytes": self.lag_bytes,
            "gathered": self.gathered,
            "waiting": self.waiting,
            "spooled": self.spooled,
            "refuge": self.refuge,
            "transactions": self.transactions,
            "upserted": self.upserted,
            "deleted": self.deleted,
            "strays": self.strays,
            "rows_per_s": self.rows_per_s,
            "heartbeat_age_ms": _ms(age),
            "heartbeat_round_trip_ms": _ms(self.round_trip_s),
            **_seen(self.seen),
        }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)


def _seen(seen: Seen | None) -> dict[str, Any]:
    """The last look, as plain data; what is not known is null."""
    if seen is None:
        return dict.fromkeys(SEEN)
    log_seen = seen.log
    return {
        "parked": seen.parked,
        "strays_unsettled": seen.unsettled,
        "slot": {
            "restart_lsn": log_seen.restart_lsn,
            "status": log_seen.slot_status,
            "retained_bytes": log_seen.retained_bytes,
            "spilled_transactions": log_seen.spilled_transactions,
            "spilled_bytes": log_seen.spilled_bytes,
        },
        "source_log": {"written_bytes_per_s": log_seen.written_per_s, **asdict(log_seen.room)},
        "oldest_transaction": None if log_seen.oldest is None else log_seen.oldest.to_json(),
        "source_clock_ahead_ms": _ms(log_seen.clock_ahead_s),
    }
