"""Taking everything out again that the tool put into the data databases."""

from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from estate.config import Config
from estate.connections import DatabaseUnreachable, connect
from estate.errors import ExitCode, SplitctlError
from migrator import archive, control, kept, ownership, sequences, setaside, slots
from migrator.mapping import Stream, streams

Connection = psycopg.Connection[Any]

ATTEMPTS = 4

# Positions first: a worker that still runs finds its row gone, and stops.
OF_STREAMS: tuple[LiteralString, ...] = (
    "DELETE FROM splitctl_sync.progress WHERE stream = ANY(%s)",
    "DELETE FROM splitctl_sync.mapping_state WHERE stream = ANY(%s)",
    "DELETE FROM splitctl_sync.spool WHERE stream = ANY(%s)",
    "DELETE FROM splitctl_sync.waiting WHERE stream = ANY(%s)",
    "DELETE FROM splitctl_sync.own_write WHERE stream = ANY(%s)",
    "DELETE FROM splitctl_sync.stray WHERE stream = ANY(%s)",
    "DELETE FROM splitctl_sync.backfill WHERE stream = ANY(%s)",
    "DELETE FROM splitctl_sync.backfill_range WHERE stream = ANY(%s)",
    "DELETE FROM splitctl_sync.backfill_control WHERE stream = ANY(%s)",
    "DELETE FROM splitctl_sync.slot_horizon WHERE stream = ANY(%s)",
)
OWNER: LiteralString = "DELETE FROM splitctl_sync.owner WHERE domain = %s"
IN_USE: LiteralString = """
SELECT EXISTS (SELECT FROM splitctl_sync.owner) OR EXISTS (SELECT FROM splitctl_sync.progress)
    OR EXISTS (SELECT FROM splitctl_sync.sequence_share)
"""
LEFT: LiteralString = """
SELECT kind || ' ' || name FROM (
    SELECT 'slot' AS kind, slot_name::text AS name FROM pg_replication_slots
     WHERE slot_name LIKE 'splitctl\\_%' AND database = current_database()
    UNION ALL SELECT 'publication', pubname::text FROM pg_publication
     WHERE pubname LIKE 'splitctl\\_%'
    UNION ALL SELECT 'schema', nspname::text FROM pg_namespace WHERE nspname = 'splitctl_sync'
) AS t ORDER BY 1
"""


class NewSideOwns(SplitctlError):
    """Sync of domain '{domain}' cannot be torn down: the new side owns the buckets below
    {new_below}, and what its customers write would never reach the old side. Nothing was
    changed."""

    hint = "splitctl rollback {domain}, or finish: splitctl decommission archive {domain}"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Removed:
    """What a teardown removed, database by database, and what it could not or must not.

    `unreachable` databases still hold what they held: the same command again finishes them.
    `left` is what still stands there for other domains; `for_the_dba` is beyond the tool's rights.
    """

    domains: tuple[str, ...]
    removed: tuple[str, ...]
    left: tuple[str, ...]
    unreachable: tuple[str, ...]
    for_the_dba: tuple[str, ...]

    @property
    def exit_code(self) -> ExitCode:
        """Done, or not: a database was away."""
        return ExitCode.PRECONDITION if self.unreachable else ExitCode.DONE

    @property
    def next_command(self) -> str:
        """The rest, when there is one; the tool's role goes last, by a DBA's hand."""
        if self.unreachable:
            return "splitctl sync teardown  (again, when what is unreachable answers)"
        if self.left:
            return "splitctl status"
        return "splitctl sync grants DATABASE --revoke  (when no split needs the role)"


def teardown(config: Config, domain: str | None = None) -> Removed:
    """Remove slots, publications, sequence shares and the control schema of a domain, or of all.

    Begun, finished or abandoned half-way: whatever is there goes, and again there is nothing to
    do. A table that a backfill is filling is empty again and has its keys. The schema goes with the
    last domain of a database. Rows of the business stay untouched.
    Raises NewSideOwns while customers live on the new side and the old tables are not archived,
    SlotInUse, SequenceBusy.
    """
    both = streams(config, domain)
    for stream in both:
        _refuse_while_new_owns(stream)
    domains = tuple(dict.fromkeys(stream.domain.name for stream in both))
    removed: list[str] = []
    left: list[str] = []
    unreachable: list[str] = []
    for name in dict.fromkeys(stream.source.name for stream in both):
        here = [stream for stream in both if stream.source.name == name]
        try:
            with connect(config.database(name), "teardown") as connection:
                found = _patiently(connection, here)
                removed += [f"{name}: {what}" for what in found]
                left += [f"{name}: {row[0]}" for row in connection.execute(LEFT).fetchall()]
        except DatabaseUnreachable as error:
            unreachable.append(f"{name}: {error.facts['reason']}")
    try:
        with connect(config.ledger_database, "teardown") as ledger:
            if kept.discard_all(ledger, [stream.name for stream in both]):
                removed.append("ledger: keys kept while a target was away")
    except DatabaseUnreachable as error:
        unreachable.append(f"ledger: {error.facts['reason']}")
    roles = tuple(
        f"{name}: the tool's role, when no split needs it: splitctl sync grants {name} --revoke"
        for name in dict.fromkeys(stream.source.name for stream in both)
    )
    return Removed(domains, tuple(removed), tuple(left), tuple(unreachable), roles)


def _refuse_while_new_owns(stream: Stream) -> None:
    """Ask the old side, by the stream that ends there; one that is away cannot be asked."""
    if stream.direction != "reverse":
        return
    try:
        with connect(stream.target, "teardown") as old:
            owner = ownership.read(old, stream.domain.name) if control.installed(old) else None
            if owner and owner.new_below and not archive.is_archived(old, stream):
                raise NewSideOwns(domain=stream.domain.name, new_below=owner.new_below)
    except DatabaseUnreachable:
        return  # named in the result


def _patiently(connection: Connection, here: list[Stream]) -> list[str]:
    """A sync worker that still runs may hold a lock for a moment: try again a few times."""
    removed: list[str] = []
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _one_database(connection, here, removed)
            break
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if attempt == ATTEMPTS:
                raise
    return removed


def _one_database(connection: Connection, here: list[Stream], removed: list[str]) -> None:
    """`here` are the streams whose source this database is; the others of its domains end here."""
    names = [name for stream in here for name in (stream.name, stream.opposite)]
    there = control.installed(connection)
    if there:
        control.bring_up(connection)  # one of an older version lacks tables that are emptied here
        removed += [f"unfinished copy in {name}" for name in setaside.abandon(connection, names)]
        with connection.transaction():
            for statement in OF_STREAMS:
                connection.execute(statement, (names,))
    for stream in here:
        if slots.drop(connection, stream.slot, stream.source.name):
            removed.append(f"slot {stream.slot}")
        if slots.unpublish(connection, stream.publication):
            removed.append(f"publication {stream.publication}")
    if there:
        for stream in here:
            for sequence in sequences.restore(connection, stream.domain.name):
                removed.append(f"share of sequence {sequence}")
            connection.execute(OWNER, (stream.domain.name,))
        row = connection.execute(IN_USE).fetchone()
        if row and row[0]:
            return
    if control.drop(connection):
        removed.append("schema splitctl_sync")
