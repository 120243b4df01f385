"""What a stream does to its source's log, looked at once a second: kept, spilled, by whom, how long
until there is no room left.

Room is counted only where a limit is known: the size of the log's disk, as the configuration has
it, or the server's own `max_slot_wal_keep_size`. Everything else is unknown, and is said to be.
"""

import time
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from migrator import holding
from migrator.figures import Rate
from migrator.holding import Holder

Connection = psycopg.Connection[Any]
# Writing comes in bursts, and a checkpoint makes pages whole again: a rate of seconds says little.
WAL_WINDOW_S = 60.0

# `behind`: what all slots of the server keep together, which is what the oldest of them keeps.
# safe_wal_size: what may still be written before this slot is lost; null without a limit.
LOG: LiteralString = """
SELECT clock_timestamp(), pg_wal_lsn_diff(i.lsn, '0/0')::bigint AS written,
       (w.wal_bytes / nullif(extract(epoch FROM now() - w.stats_reset), 0))::float8 AS average,
       s.wal_status, s.restart_lsn::text, pg_wal_lsn_diff(i.lsn, s.restart_lsn)::bigint AS retained,
       (SELECT max(pg_wal_lsn_diff(i.lsn, a.restart_lsn))::bigint
          FROM pg_replication_slots a) AS behind,
       s.safe_wal_size, t.spill_txns, t.spill_bytes
  FROM (SELECT pg_current_wal_insert_lsn() AS lsn) AS i
  LEFT JOIN pg_replication_slots s
    ON s.slot_name = %(slot)s AND s.database = current_database()
  LEFT JOIN pg_stat_replication_slots t ON t.slot_name = s.slot_name
 CROSS JOIN pg_stat_wal w
"""
PARKED: LiteralString = (
    "SELECT reason, count(*) FROM splitctl_sync.waiting WHERE stream = %s GROUP BY reason"
)
UNSETTLED: LiteralString = (
    "SELECT count(*) FROM splitctl_sync.stray WHERE stream = %s AND settled_at IS NULL"
)


@dataclass(frozen=True)
class Room:
    """How much more log the source can keep, and how long that lasts were nothing confirmed.

    `limited_by` is `wal_disk` (the disk is full then) or `max_slot_wal_keep_size` (the slot is lost
    then); None: no limit is known. `seconds` is None when it is unknown, and `unknown` says why.
    """

    left_bytes: int | None = None
    limited_by: str | None = None
    seconds: float | None = None
    unknown: str | None = None


def room(wal_disk: int | None, behind: int, safe_wal_size: int | None, rate: float | None) -> Room:
    """The nearer limit (bytes) and the time to it at this rate (bytes/s); nothing is guessed."""
    limits = []
    if wal_disk is not None:
        limits.append((max(wal_disk - behind, 0), "wal_disk"))
    if safe_wal_size is not None:
        limits.append((max(safe_wal_size, 0), "max_slot_wal_keep_size"))
    if not limits:
        return Room(unknown="no limit is known: set wal_disk of this database")
    left, limited_by = min(limits)
    if left == 0:
        return Room(left, limited_by, 0.0)
    if not rate:
        why = "how fast log is written is not measured yet" if rate is None else "none is written"
        return Room(left, limited_by, unknown=why)
    return Room(left, limited_by, left / rate)


@dataclass(frozen=True)
class LogSeen:
    """A source's log at one look. Sizes in bytes, rates in bytes a second; None is unknown.

    `retained_bytes` is what the slot makes the server keep; `slot_status` is its wal_status.
    `spilled` are transactions, and their bytes, too large for the decoder's memory, since the
    slot's statistics began. `oldest` is the oldest transaction that has written, if there is one.
    `clock_ahead_s` is how much the source's clock is before ours.
    """

    restart_lsn: str | None
    retained_bytes: int | None
    slot_status: str | None
    spilled_transactions: int
    spilled_bytes: int
    written_per_s: float | None
    room: Room
    oldest: Holder | None
    clock_ahead_s: float


@dataclass(frozen=True)
class Seen:
    """What a running stream saw. `parked` counts the keys put aside in the target by reason;
    `unsettled` are its strays that nobody has settled."""

    log: LogSeen
    parked: dict[str, int]
    unsettled: int


def log_of(
    source: Connection, slot: str, wal_disk: int | None, written: Rate | None = None
) -> LogSeen:
    """The log as it is now; `wal_disk` as in `room`.

    `written` takes the position and gives the rate. Without it the rate is the server's average
    since its statistics began.
    """
    asked = time.time()
    row = source.execute(LOG, {"slot": slot}).fetchone()
    answered = time.time()
    assert row is not None
    now, position, average, status, restart, retained, behind, safe, spills, spilled = row
    if written is not None:
        written.add(time.monotonic(), float(position))
    rate = average if written is None else written.per_s
    return LogSeen(
        restart_lsn=restart,
        retained_bytes=retained,
        slot_status=status,
        spilled_transactions=int(spills or 0),
        spilled_bytes=int(spilled or 0),
        written_per_s=rate,
        room=room(wal_disk, behind or 0, safe, rate),
        oldest=holding.oldest(source),
        # Their clock was read at some moment between asking and answer.
        clock_ahead_s=now.timestamp() - (asked + answered) / 2,
    )


class Watch:
    """Looks at one stream's source and target, about once a second; `wal_disk` as in `room`."""

    def __init__(self, stream: str, slot: str, wal_disk: int | None) -> None:
        self._stream, self._slot, self._wal_disk = stream, slot, wal_disk
        self._written = Rate(WAL_WINDOW_S)

    def look(self, source: Connection, target: Connection) -> Seen:
        """How it stands now. Rates are made from look to look."""
        parked = target.execute(PARKED, (self._stream,)).fetchall()
        unsettled = target.execute(UNSETTLED, (self._stream,)).fetchone()
        return Seen(
            log=log_of(source, self._slot, self._wal_disk, self._written),
            parked={str(reason): int(count) for reason, count in parked},
            unsettled=int(unsettled[0]) if unsettled else 0,
        )
