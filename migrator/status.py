"""How each stream stands: carried how far, alive or not, what waits."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg

from estate.config import ALIVE_WITHIN_MS, HEARTBEAT_EVERY_MS, Config, DatabaseConfig
from estate.connections import connect
from estate.errors import ExitCode, SplitctlError, in_one_line
from migrator import control, kept, slots, states, watch
from migrator.mapping import Stream, streams
from migrator.pgoutput import lsn_number, lsn_text
from migrator.watch import LogSeen

Connection = psycopg.Connection[Any]
HELD_BYTES = 256 * 1024 * 1024
# A transaction that is open for so long is named.
OLD_S = 60.0

TARGET: LiteralString = """
SELECT p.lsn::text,
       extract(epoch FROM clock_timestamp() - p.heartbeat_at)::float8 * 1000,
       extract(epoch FROM p.updated_at - p.source_commit_at)::float8 * 1000,
       (SELECT count(*) FROM splitctl_sync.spool s WHERE s.stream = p.stream),
       (SELECT count(*) FROM splitctl_sync.waiting w WHERE w.stream = p.stream),
       (SELECT count(*) FROM splitctl_sync.stray t
         WHERE t.stream = p.stream AND t.settled_at IS NULL),
       (SELECT count(*) FROM splitctl_sync.stray t
         WHERE t.stream = p.stream AND t.settled_at IS NOT NULL),
       (SELECT coalesce(jsonb_object_agg(o.outcome, o.count), '{}')
          FROM (SELECT t.outcome, count(*) FROM splitctl_sync.stray t
                 WHERE t.stream = p.stream GROUP BY t.outcome) AS o),
       EXISTS (SELECT FROM splitctl_sync.mapping_state m
                 LEFT JOIN splitctl_sync.backfill b USING (stream, mapping)
                WHERE m.stream = p.stream AND m.state = 'spool'
                  AND coalesce(b.state, 'copied') = 'copied')
  FROM splitctl_sync.progress p WHERE p.stream = %s
"""
SOURCE: LiteralString = """
SELECT active,
       greatest(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %(lsn)s::pg_lsn), 0)::bigint
  FROM pg_replication_slots WHERE slot_name = %(slot)s AND database = current_database()
"""

NEVER_BEGUN = {"enabled": False, "worker_alive": False, "spooled": 0, "waiting": 0, "strays": 0}


@dataclass(frozen=True)
class StreamStatus:
    """How a stream stands. What could not be asked is None, and `problem` says why.

    `enabled`: it has begun and was not switched off. `lag_ms` is how far the target is behind in
    time, `lag_bytes` in log; `retained_bytes` is the log that the slot makes the source keep.
    When it keeps much more than is behind, `held_by` names the transaction that is to blame;
    `oldest_transaction` names one that has been open for long, before it does harm. `spilled_bytes`
    were too large for the decoder's memory. `log_left_bytes` may still be kept until
    `log_limited_by` is reached: in `log_full_in_s`, were nothing confirmed and log written as fast
    as on average.
    `strays` counts those not settled yet; `strays_by_outcome` all of them, by what was done: `kept`
    (the owner's version stands), `carried` across, `stopped` (the stream waits at it), `passed`.
    `refuge` counts the keys that the ledger keeps, because the target is away.
    """

    stream: str
    enabled: bool | None = None
    worker_alive: bool | None = None
    lag_ms: float | None = None
    lag_bytes: int | None = None
    spooled: int | None = None
    waiting: int | None = None
    strays: int | None = None
    states: dict[str, str] = field(default_factory=dict)
    heartbeat_age_ms: float | None = None
    retained_bytes: int | None = None
    restart_lsn: str | None = None
    spilled_bytes: int | None = None
    log_left_bytes: int | None = None
    log_limited_by: str | None = None
    log_full_in_s: float | None = None
    oldest_transaction: str | None = None
    held_by: str | None = None
    end_it_with: str | None = None
    problem: str | None = None
    strays_settled: int = 0
    strays_by_outcome: dict[str, int] = field(default_factory=dict)
    refuge: int = 0


def status(config: Config) -> list[StreamStatus]:
    """How each stream of each domain stands. A database that is away is told, not raised."""
    found = streams(config)
    with ExitStack() as stack:
        desk = _Desk(stack, [stream.target for stream in found])
        return [_status(stream, desk) for stream in found]


def exit_code(found: list[StreamStatus]) -> ExitCode:
    """Inconclusive while a stream could not be asked, or has lost its slot."""
    return ExitCode.INCONCLUSIVE if any(item.problem for item in found) else ExitCode.DONE


class _Desk:
    """One connection per database, all opened at once: several silent ones cost the time of one.

    Both directions together have every database as a target. A failure is kept as an answer.
    """

    def __init__(self, stack: ExitStack, databases: list[DatabaseConfig]) -> None:
        self._stack = stack
        self._open: dict[str, Connection | SplitctlError] = {}
        each = {database.name: database for database in databases}
        with ThreadPoolExecutor(max_workers=len(each) or 1) as pool:
            coming = {name: pool.submit(connect, item, "status") for name, item in each.items()}
        for name, future in coming.items():
            self._keep(name, future.result)

    def _keep(self, name: str, come: Callable[[], Connection]) -> None:
        try:
            self._open[name] = self._stack.enter_context(come())
        except SplitctlError as error:
            self._open[name] = error

    def is_away(self, database: DatabaseConfig) -> bool:
        """Whether it did not answer."""
        return isinstance(self._open[database.name], SplitctlError)

    def ledger(self, stream: Stream) -> Connection:
        """The ledger's; opened only when it is asked for."""
        if stream.ledger.name not in self._open:
            self._keep(stream.ledger.name, lambda: connect(stream.ledger, "status"))
        return self.connection(stream.ledger)

    def connection(self, database: DatabaseConfig) -> Connection:
        found = self._open[database.name]
        if isinstance(found, SplitctlError):
            raise found
        return found


def _status(stream: Stream, desk: _Desk) -> StreamStatus:
    facts: dict[str, Any] = {}
    try:
        lsn = _from_target(desk.connection(stream.target), stream, facts)
        if lsn is not None:
            _from_source(desk.connection(stream.source), stream, lsn, facts)
    except (SplitctlError, psycopg.Error) as error:
        facts["problem"] = in_one_line(error)
        if desk.is_away(stream.target):
            _from_ledger(stream, desk, facts)
    return StreamStatus(stream.name, **facts)


def _from_target(target: Connection, stream: Stream, facts: dict[str, Any]) -> str | None:
    """Fill in what the target knows. Returns the stored position, or None without any."""
    row = None
    if control.installed(target):
        row = target.execute(TARGET, (stream.name,)).fetchone()
    if row is None:
        facts |= NEVER_BEGUN
        return None
    lsn, heartbeat_age, delay, spooled, waiting, strays, settled, outcomes, paused = row
    facts |= {
        "enabled": not paused,
        "spooled": int(spooled),
        "waiting": int(waiting),
        "strays": int(strays),
        "strays_settled": int(settled),
        "strays_by_outcome": outcomes,
        "states": states.read(target, stream.name),
    }
    if heartbeat_age is not None:
        # Behind by what the last batch took, or by the time without a heartbeat, if that is more.
        late = max(float(heartbeat_age) - HEARTBEAT_EVERY_MS, 0.0)
        facts["heartbeat_age_ms"] = max(float(heartbeat_age), 0.0)
        facts["lag_ms"] = max(late, float(delay or 0.0))
    return str(lsn)


def _from_ledger(stream: Stream, desk: _Desk, facts: dict[str, Any]) -> None:
    """Fill in what is kept of a stream whose target is away, as far as it can be asked."""
    try:
        ledger, source = desk.ledger(stream), desk.connection(stream.source)
        held, slot = kept.find(ledger, stream.name), slots.find(source, stream.slot)
        if held is None or slot is None or held.end < lsn_number(slot.lsn):
            return  # nothing, or what was taken back long ago
        facts["refuge"] = kept.count(ledger, stream.name)
        facts["problem"] += f"; {facts['refuge']} changed key(s) are kept in the ledger until then"
        _from_source(source, stream, lsn_text(held.end), facts)
        facts["worker_alive"] = slot.active_pid is not None
    except (SplitctlError, psycopg.Error) as error:
        facts["problem"] += f"; {in_one_line(error)}"


def _from_source(source: Connection, stream: Stream, lsn: str, facts: dict[str, Any]) -> None:
    row = source.execute(SOURCE, {"lsn": lsn, "slot": stream.slot}).fetchone()
    if row is None:
        facts["enabled"] = facts["worker_alive"] = False
        facts["problem"] = f"the slot {stream.slot} is gone from '{stream.source.name}'"
        return
    active, behind = row
    age = facts.get("heartbeat_age_ms")
    facts["worker_alive"] = bool(active) and age is not None and age < ALIVE_WITHIN_MS
    facts["lag_bytes"] = int(behind)
    _from_log(watch.log_of(source, stream.slot, stream.source.wal_disk), int(behind), facts)


def _from_log(seen: LogSeen, behind: int, facts: dict[str, Any]) -> None:
    """Fill in what the slot keeps and who is to blame for it."""
    room, oldest = seen.room, seen.oldest
    facts |= {
        "restart_lsn": seen.restart_lsn,
        "retained_bytes": seen.retained_bytes,
        "spilled_bytes": seen.spilled_bytes,
        "log_left_bytes": room.left_bytes,
        "log_limited_by": room.limited_by,
        "log_full_in_s": room.seconds,
    }
    if seen.slot_status == "lost":
        facts["problem"] = "its slot is lost: the server gave up the log that it needs"
    if oldest is None:
        return
    if oldest.age_s is not None and oldest.age_s >= OLD_S:
        facts |= {"oldest_transaction": str(oldest), "end_it_with": oldest.ending}
    if seen.retained_bytes is not None and seen.retained_bytes - behind > HELD_BYTES:
        # Everything is confirmed, and still the log cannot go: something old is open.
        facts |= {"held_by": str(oldest), "end_it_with": oldest.ending}
