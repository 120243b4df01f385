"""Whether servers can carry a split: version, log, slots, durability, clocks, old transactions.

Two databases may share one server; what belongs to a server is asked once.
"""

import shlex
import time
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from estate.config import DatabaseConfig
from estate.connections import server_defaults
from estate.errors import SplitctlError
from migrator import holding, slots
from migrator.mapping import Stream
from migrator.readiness.findings import Findings, name

Connection = psycopg.Connection[Any]
OLDEST, NEWEST = 14, 18
# A slot is waited for as long as this: an older transaction makes that fail.
LONG_S = 60.0
CLOCKS_APART_S = 1.0
CLOCK_LOOKS = 3
# A slot of somebody else that nobody reads, and that keeps more than this, is worth a word.
FORGOTTEN_BYTES = 2**30
ABSENCE_S = 24 * 3600.0

SETTINGS: LiteralString = """
SELECT current_setting('server_version_num')::int / 10000,
       (SELECT system_identifier::text FROM pg_control_system()),
       current_setting('wal_level'), current_setting('server_encoding'),
       pg_is_in_recovery(),
       current_setting('max_replication_slots')::int,
       (SELECT count(*)::int FROM pg_replication_slots),
       current_setting('max_wal_senders')::int,
       (SELECT count(*)::int FROM pg_stat_replication),
       pg_size_bytes(current_setting('max_slot_wal_keep_size')),
       coalesce(current_setting('idle_replication_slot_timeout', true), '0'),
       pg_database_size(current_database()),
       coalesce((SELECT max(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery()
                            THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_insert_lsn() END,
                                            restart_lsn)) FROM pg_replication_slots), 0)::bigint,
       (SELECT (wal_bytes / nullif(extract(epoch FROM now() - stats_reset), 0))::float8
          FROM pg_stat_wal),
       current_setting('synchronous_standby_names')
"""
NO_DURABILITY: LiteralString = """
SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'
"""
# Who commits without waiting for the disk, by a setting of the database or of a role.
LAZY: LiteralString = """
SELECT coalesce(r.rolname, 'every role')::text FROM pg_db_role_setting s
  LEFT JOIN pg_roles r ON r.oid = s.setrole CROSS JOIN unnest(s.setconfig) AS c(setting)
 WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
   AND c.setting = 'synchronous_commit=off' ORDER BY 1
"""
FORGOTTEN: LiteralString = """
SELECT slot_name::text, pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn)::bigint
  FROM pg_replication_slots
 WHERE NOT active AND slot_name NOT LIKE 'splitctl\\_%%'
   AND pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn) > %s ORDER BY 1
"""
CLOCK: LiteralString = "SELECT extract(epoch FROM clock_timestamp())::float8"
SLOTS: LiteralString = "SELECT slot_name::text, active FROM pg_replication_slots"


@dataclass(frozen=True)
class ServerFacts:
    """A database and its server. Sizes in bytes; `log_per_s` is the average since its statistics
    began, None without any. `log_kept` is what all slots keep. `system_id` tells servers apart."""

    database: str
    version: int
    system_id: str
    size: int
    slots: int
    slots_free: int
    senders: int
    senders_free: int
    log_kept: int
    log_per_s: float | None
    slot_limit: int | None
    clock_ahead_s: float


def look(found: Findings, connection: Connection, database: DatabaseConfig) -> ServerFacts:
    """Ask one database's server. What it lacks goes to `found`."""
    key, where = f"databases.{database.name}", f"On the server of {database.name}, as a superuser,"
    row = connection.execute(SETTINGS).fetchone()
    assert row is not None
    version, system_id, wal_level, encoding, standby, slots_all, slots_used, *more = row
    senders, senders_used, slot_limit, idle, size, kept, per_s, waits_for = more
    if version < OLDEST:
        remedy = f"Upgrade it to PostgreSQL {OLDEST} or newer, after:"
        fix = f"pg_upgrade --check --link  # by the pg_upgrade of version {OLDEST} or newer"
        found.problem(key, f"PostgreSQL {version} is too old", remedy, fix)
    elif version > NEWEST:
        reason = f"PostgreSQL {version} is newer than what was tried ({OLDEST} to {NEWEST})"
        found.warning(key, reason, "Rehearse on it first:", "splitctl rehearse")
    if standby:
        reason = "its server is a standby: nothing can be written there"
        found.problem(key, reason, f"Name the primary in {key}.dsn, or make this one it:",
                      "SELECT pg_promote();")  # fmt: skip
    if wal_level != "logical":
        reason = f"wal_level is '{wal_level}'"
        fix = "ALTER SYSTEM SET wal_level = logical;"
        found.problem(key, reason, f"{where} and restart it:", fix)
    if encoding != "UTF8":
        reason = f"its encoding is {encoding}, but buckets are made from UTF-8"
        old = shlex.quote(connection.info.dbname)
        fix = f"createdb -E UTF8 -T template0 {old}_utf8 && pg_dump {old} | psql {old}_utf8"
        found.problem(key, reason, "Move it to a database with encoding UTF8:", fix)
    if idle != "0":
        reason = f"a slot that nobody reads for {idle} is given up, and its changes with it"
        fix = "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();"
        found.warning(key, reason, f"{where} for as long as the split lasts:", fix)
    if waits_for:
        reason = f"each commit here waits for a standby ({waits_for}): without it the sync stands"
        found.warning(key, reason, "See that another can take its place:",
                      "SELECT application_name, sync_state FROM pg_stat_replication;")  # fmt: skip
    limit = int(slot_limit) if slot_limit >= 0 else None
    facts = ServerFacts(
        database=database.name,
        version=int(version),
        system_id=str(system_id),
        size=int(size),
        slots=int(slots_all),
        slots_free=max(int(slots_all) - int(slots_used), 0),
        senders=int(senders),
        senders_free=max(int(senders) - int(senders_used), 0),
        log_kept=int(kept),
        log_per_s=per_s,
        slot_limit=limit,
        clock_ahead_s=_ahead(connection),
    )
    if not standby:
        _room_for_log(found, database, facts, connection)
    _durability(found, connection, database)
    return facts


def _room_for_log(
    found: Findings, database: DatabaseConfig, facts: ServerFacts, connection: Connection
) -> None:
    key = f"databases.{database.name}"
    if facts.slot_limit is None:
        if database.wal_disk is None:
            reason = (
                "nothing tells how much log its disk can hold: when the worker is away, its slots"
                " keep all of it"
            )
            remedy = f"Put the true size into [{key}], and how long it lasts is watched:"
            found.warning(key, reason, remedy, 'wal_disk = "100GB"')
    else:
        lasts = facts.slot_limit / facts.log_per_s if facts.log_per_s else None
        if lasts is None or lasts < ABSENCE_S:
            told = "unknown" if lasts is None else f"{lasts / 3600:.1f} h as it writes on average"
            reason = (
                f"max_slot_wal_keep_size is {facts.slot_limit >> 20} MB ({told}): if the worker is"
                " away for longer its slot is lost, and all has to be copied anew"
            )
            fix = "ALTER SYSTEM SET max_slot_wal_keep_size = -1; SELECT pg_reload_conf();"
            found.warning(key, reason, "As a superuser, where the disk has room for more:", fix)
    for slot, kept in connection.execute(FORGOTTEN, (FORGOTTEN_BYTES,)).fetchall():
        reason = f"slot {slot}, which nobody reads, keeps {int(kept) >> 20} MB of log"
        fix = f"SELECT pg_drop_replication_slot('{slot}');"
        found.warning(key, reason, "If nobody needs it any more:", fix)


def _durability(found: Findings, connection: Connection, database: DatabaseConfig) -> None:
    """What was acknowledged must survive a crash, on both sides, or they differ after it."""
    key, where = f"databases.{database.name}", "On its server, as a superuser:"
    for (setting,) in connection.execute(NO_DURABILITY).fetchall():
        reason = f"{setting} is off: after a crash this server is not what it was"
        fix = f"ALTER SYSTEM SET {setting} = on; SELECT pg_reload_conf();"
        found.warning(key, reason, where, fix)
    reason = (
        "{who} commits without waiting for the disk (synchronous_commit = off): after a crash the"
        " other side may hold rows that this one has lost; compare them then (splitctl verify run)"
    )
    if server_defaults(database, ["synchronous_commit"])["synchronous_commit"] == "off":
        fix = "ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf();"
        found.warning(key, reason.format(who="whoever asks for nothing else"), where, fix)
    for (who,) in connection.execute(LAZY).fetchall():
        scope = f"DATABASE {name(connection.info.dbname)}" if who == "every role" else (
            f"ROLE {name(who)} IN DATABASE {name(connection.info.dbname)}"
        )  # fmt: skip
        fix = f"ALTER {scope} SET synchronous_commit = on;"
        found.warning(key, reason.format(who=who), where, fix)


def _ahead(connection: Connection) -> float:
    """How much its clock is before ours (seconds), by the quickest of a few looks."""
    looks = []
    for _ in range(CLOCK_LOOKS):
        asked = time.time()
        row = connection.execute(CLOCK).fetchone()
        answered = time.time()
        assert row is not None
        looks.append((answered - asked, float(row[0]) - (asked + answered) / 2))
    return min(looks)[1]


def clocks(found: Findings, one: ServerFacts, other: ServerFacts) -> None:
    """Two servers whose clocks differ: figures of delay are wrong by as much."""
    apart = abs(one.clock_ahead_s - other.clock_ahead_s)
    if apart > CLOCKS_APART_S:
        wrong = max(one, other, key=lambda facts: abs(facts.clock_ahead_s))
        found.warning(
            f"databases.{wrong.database}",
            f"the clocks of {one.database} and {other.database} are {apart:.1f} s apart: each"
            " figure of lag is wrong by that",
            f"On the machine of {wrong.database}, as root:",
            "timedatectl set-ntp true",
        )


def room(
    found: Findings,
    connections: dict[str, Connection],
    facts: dict[str, ServerFacts],
    both: list[Stream],
    others: list[Stream],
) -> None:
    """Free slots for streams that have none yet, and free senders for those that nobody reads.

    `others` are the streams of other domains, which need theirs too, sooner or later.
    """
    for seen in {facts.system_id: facts for facts in facts.values()}.values():
        connection = connections[seen.database]
        here = [stream for stream in both if _on(stream, facts, seen)]
        more = [stream for stream in others if _on(stream, facts, seen)]
        read = {str(row[0]): bool(row[1]) for row in connection.execute(SLOTS).fetchall()}
        slotless = [stream for stream in here if stream.slot not in read]
        for setting, total, free, has in (
            ("max_replication_slots", seen.slots, seen.slots_free, set(read)),
            ("max_wal_senders", seen.senders, seen.senders_free, {s for s in read if read[s]}),
        ):
            needed = sum(stream.slot not in has for stream in here)
            together = needed + sum(stream.slot not in has for stream in more)
            key, remedy = f"databases.{seen.database}", "As a superuser, then restart the server:"
            fix = f"ALTER SYSTEM SET {setting} = {total + together - free};"
            if free < needed:
                found.problem(key, f"{needed} needed, {free} free of {setting}", remedy, fix)
            elif free < together:
                reason = f"{together} needed by all domains together, {free} free of {setting}"
                found.warning(key, reason, remedy, fix)
        if slotless:
            _transactions(found, connection, seen.database)
    for stream in both:
        _elsewhere(found, connections[stream.source.name], stream)


def _on(stream: Stream, facts: dict[str, ServerFacts], seen: ServerFacts) -> bool:
    source = facts.get(stream.source.name)
    return source is not None and source.system_id == seen.system_id


def _elsewhere(found: Findings, connection: Connection, stream: Stream) -> None:
    other = slots.elsewhere(connection, stream.slot)
    if other is not None:
        reason = f"a slot {stream.slot} of database '{other}' is on the same server"
        remedy = f"Give this domain another name; or, when nobody needs it, in '{other}':"
        fix = f"SELECT pg_drop_replication_slot('{stream.slot}');"
        found.problem(f"domains.{stream.domain.name}", reason, remedy, fix)


def _transactions(found: Findings, connection: Connection, database: str) -> None:
    """A slot begins when whoever has written before has ended."""
    for holder in holding.holders(connection):
        if holder.age_s is None or holder.age_s < LONG_S:
            continue
        reason = f"a slot can only begin when this has ended: {holder}"
        if holder.kind == "prepared":
            # Nothing ends it by itself, not even a restart.
            remedy = f"In database {holder.database}, as {holder.user} or a superuser:"
            found.problem(f"databases.{database}", reason, remedy, holder.ending)
        else:
            remedy = f"Wait for it; or, as {holder.user} or a superuser:"
            found.warning(f"databases.{database}", reason, remedy, holder.ending)


def walsender(found: Findings, database: DatabaseConfig, facts: ServerFacts) -> None:
    """Whether the log can be asked for at all: pg_hba.conf, TLS and proxies have a say in that."""
    if not facts.senders_free:
        return
    try:
        slots.identify(database)
    except SplitctlError as error:
        reason = f"its log cannot be asked for ({error})"
        remedy = "Let the role's ordinary line of pg_hba.conf stand above; then:"
        found.problem(f"databases.{database.name}", reason, remedy, "SELECT pg_reload_conf();")
