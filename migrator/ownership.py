"""Who owns which bucket of a domain: one row on each side, moved in one transaction per side."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from estate.config import BUCKETS, Config, DatabaseConfig
from estate.connections import connect
from estate.errors import ExitCode, SplitctlError
from migrator.mapping import Side, other

UTF8 = "utf-8"

READ: LiteralString = "SELECT new_below, epoch FROM splitctl_sync.owner WHERE domain = %s"
READ_LOCKED: LiteralString = (
    "SELECT new_below, epoch FROM splitctl_sync.owner WHERE domain = %s FOR UPDATE"
)
# Who asks for the owner waits here behind a step that waits (splitctl_sync.owns, in control.sql).
QUEUE: LiteralString = "SELECT pg_advisory_xact_lock(hashtextextended('splitctl owner ' || %s, 0))"
CREATE: LiteralString = """
INSERT INTO splitctl_sync.owner (domain, new_below, epoch) VALUES (%s, 0, 1)
ON CONFLICT (domain) DO NOTHING
"""
# Sub-transactions have greater ids than their transaction: below the snapshot's xmin are none that
# still run. (Its list of running ones would not name them.)
MOVED: LiteralString = """
INSERT INTO splitctl_sync.owner_move (domain, epoch, from_below, new_below, horizon)
VALUES (%s, %s, %s, %s, pg_snapshot_xmin(pg_current_snapshot()))
ON CONFLICT (domain, epoch) DO NOTHING
"""
RECORDED: LiteralString = "SELECT to_regclass('splitctl_sync.owner_move') IS NOT NULL"
MOVES: LiteralString = """
SELECT epoch, from_below, new_below, horizon::text FROM splitctl_sync.owner_move
 WHERE domain = %s ORDER BY epoch DESC
"""
WRITE: LiteralString = """
UPDATE splitctl_sync.owner SET new_below = %s, epoch = %s, changed_at = clock_timestamp()
 WHERE domain = %s
"""


class OwnerMissing(SplitctlError):
    """Database '{database}' has no owner row for domain '{domain}': sync was never enabled."""

    hint = "splitctl sync enable {domain}"
    exit_code = ExitCode.PRECONDITION


class EpochConflict(SplitctlError):
    """Domain '{domain}' is at epoch {current} (new side below bucket {current_below}) in database
    '{database}'; epoch {epoch} with threshold {new_below} cannot be set. Nothing was changed."""

    hint = "splitctl status"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Ownership:
    """Buckets below `new_below` (0..10,000) belong to the new side since `epoch`."""

    new_below: int
    epoch: int

    def owner(self, route: str) -> Side:
        """The side that owns the bucket of this stable id."""
        return "new" if bucket(route) < self.new_below else "old"


@dataclass(frozen=True)
class Move:
    """A move of the owner, as one database has recorded it.

    It gave away the buckets between the two thresholds. `horizon`: each of its transactions below
    this 64-bit id had ended by then.
    """

    epoch: int
    from_below: int
    new_below: int
    horizon: int


@dataclass(frozen=True)
class Reconciled:
    """The ownership both sides now have, and the databases that had to be brought up to it."""

    ownership: Ownership
    moved: tuple[str, ...]


def bucket(route: str) -> int:
    """The bucket (0..9,999) of a stable id; the same as splitctl_sync.bucket() in SQL."""
    digest = hashlib.md5(route.encode(UTF8), usedforsecurity=False).hexdigest()
    return int(digest[:8], 16) % BUCKETS


def read(connection: psycopg.Connection[Any], domain: str) -> Ownership | None:
    """What this database says, or None when it has no row (or no control schema)."""
    try:
        with connection.transaction():
            row = connection.execute(READ, (domain,)).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return None
    return Ownership(int(row[0]), int(row[1])) if row else None


def create(connection: psycopg.Connection[Any], domain: str) -> None:
    """The first row of a domain: the old side owns everything, epoch 1. A row there stays."""
    with connection.transaction():
        if connection.execute(CREATE, (domain,)).rowcount:
            connection.execute(MOVED, (domain, 1, 0, 0))


def switch(
    connection: psycopg.Connection[Any], domain: str, new_below: int, epoch: int
) -> Ownership:
    """Set threshold and epoch in this database, in one transaction of its own.

    The row is locked FOR UPDATE, so that every transaction which asked for the owner has ended.
    Doing it twice with the same epoch and threshold changes nothing. Raises EpochConflict for a
    lower epoch, or for the same epoch with another threshold; OwnerMissing without a row.
    """
    wanted = Ownership(new_below, epoch)
    if not 0 <= new_below <= BUCKETS:
        raise ValueError(f"new_below is 0..{BUCKETS}, not {new_below}")
    with connection.transaction():
        connection.execute(QUEUE, (domain,))
        row = connection.execute(READ_LOCKED, (domain,)).fetchone()
        database = connection.info.dbname
        if row is None:
            raise OwnerMissing(database=database, domain=domain)
        if turns(Ownership(int(row[0]), int(row[1])), wanted, domain, database):
            connection.execute(WRITE, (new_below, epoch, domain))
            recorded = connection.execute(RECORDED).fetchone()
            # A rollback must not fail because the schema is of an older version.
            if recorded and recorded[0]:
                connection.execute(MOVED, (domain, epoch, int(row[0]), new_below))
    return wanted


def moves(connection: psycopg.Connection[Any], domain: str) -> list[Move]:
    """The moves that this database has recorded, the latest first."""
    return [Move(*map(int, row)) for row in connection.execute(MOVES, (domain,)).fetchall()]


def owned_since(current: Ownership, recorded: Sequence[Move], number: int) -> int | None:
    """The horizon of the move that gave this bucket to its present owner.

    A bucket that never moved has its owner since the domain began. None when the records do not
    reach so far back without a gap: a move by hand, or one of an older version.
    """
    below = current.new_below
    if not recorded or recorded[0].epoch != current.epoch:
        return None
    for move in recorded:
        if move.new_below != below:
            return None
        if min(move.from_below, below) <= number < max(move.from_below, below) or move.epoch == 1:
            return move.horizon
        below = move.from_below
    return None


def turns(current: Ownership, wanted: Ownership, domain: str, database: str) -> bool:
    """Whether a database that says `current` has to be switched. Raises EpochConflict."""
    if current == wanted:
        return False
    if wanted.epoch <= current.epoch:
        raise EpochConflict(
            domain=domain,
            database=database,
            current=current.epoch,
            current_below=current.new_below,
            epoch=wanted.epoch,
            new_below=wanted.new_below,
        )
    return True


def sides(config: Config, domain: str) -> dict[Side, DatabaseConfig]:
    """The two databases of a domain."""
    names = config.domains[domain]
    return {"old": config.database(names.old), "new": config.database(names.new)}


def switch_both(config: Config, domain: str, new_below: int, epoch: int, first: Side) -> Ownership:
    """Switch both databases, the losing side (`first`) before the winning one.

    In between, neither side owns the buckets that move: nothing can be written twice. When the
    second half fails, the same call again finishes it.
    """
    databases = sides(config, domain)
    for side in (first, other(first)):
        with connect(databases[side], "ownership") as connection:
            switch(connection, domain, new_below, epoch)
    return Ownership(new_below, epoch)


def reconcile(config: Config, domain: str) -> Reconciled:
    """Bring both databases to the higher epoch of the two. Raises OwnerMissing without rows."""
    databases = sides(config, domain)
    found: dict[Side, Ownership] = {}
    for side, database in databases.items():
        with connect(database, "ownership") as connection:
            ownership = read(connection, domain)
        if ownership is None:
            raise OwnerMissing(database=database.name, domain=domain)
        found[side] = ownership
    wanted = max(found.values(), key=lambda ownership: ownership.epoch)
    moved = []
    for side, database in databases.items():
        if found[side] != wanted:
            with connect(database, "ownership") as connection:
                switch(connection, domain, wanted.new_below, wanted.epoch)
            moved.append(database.name)
    return Reconciled(wanted, tuple(moved))
