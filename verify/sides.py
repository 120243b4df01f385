"""Both databases of a domain: asked the same question at once, and read in one snapshot each."""

import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from estate.config import DatabaseConfig
from estate.connections import connect
from estate.errors import ExitCode, SplitctlError, in_one_line
from verify.checksum import Hashing, Side

T = TypeVar("T")
Connection = psycopg.Connection[tuple[Any, ...]]
PURPOSE = "verify"
CANCEL_TIMEOUT_S = 5.0
QUOTED = re.compile(r'"[^"]*"|\'[^\']*\'')
log = logging.getLogger(__name__)
# Compiling a plan costs more than a slice of rows does; how many work at once is ours to choose;
# and the side that was read first waits in its snapshot for the other.
SETTINGS: LiteralString = "SET jit = off; SET max_parallel_workers_per_gather = 0"
# What cannot be read in slices is one long statement; the run has a deadline of its own.
UNHURRIED: LiteralString = """
SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0
"""

# One literal of each type that is hashed natively, and the edges at which servers could differ.
CALIBRATION: LiteralString = """
SELECT hash_record_extended(ROW(
         true, '\\x00ff'::bytea, 7::smallint, -8::int, 9007199254740993::bigint,
         'plain'::text COLLATE "C", 'Grüße, 日本 '::varchar COLLATE "C", 26::oid, 0.1::real,
         -0.0::double precision, 'NaN'::double precision, '2024-02-29'::date, '23:59:59.5'::time,
         '2024-02-29 12:00:00.000001'::timestamp, '2024-02-29 12:00:00.000001+05:30'::timestamptz,
         12345678901234567890.0100::numeric, 'NaN'::numeric,
         '6ba7b810-9dad-11d1-80b4-00c04fd430c8'::uuid, NULL::text, ''::text COLLATE "C"), seed),
       hashint8extended(-81985529216486896, 1)
  FROM (VALUES (0), (1)) AS v(seed)
"""


class ConnectionLost(SplitctlError):
    """The connection to '{database}' was lost while comparing: {reason}. Nothing was changed."""

    hint = "splitctl verify run"
    exit_code = ExitCode.INCONCLUSIVE


class ComparisonFailed(SplitctlError):
    """'{database}' could not answer while comparing: {reason}. Nothing was changed."""

    hint = "splitctl doctor"
    exit_code = ExitCode.INCONCLUSIVE


@contextmanager
def asking(name: str, connection: Connection) -> Iterator[None]:
    """Errors of this connection become ConnectionLost or ComparisonFailed, with its name."""
    try:
        yield
    except psycopg.Error as error:
        kind = ConnectionLost if connection.closed else ComparisonFailed
        raise kind(database=name, reason=_reason(error)) from error


def _reason(error: psycopg.Error) -> str:
    """What the server says; of a value that it could not read, not the value: it may be secret."""
    if isinstance(error, psycopg.DataError) and error.diag.message_primary:
        return QUOTED.sub('"(not shown)"', error.diag.message_primary)
    return in_one_line(error)


class Both:
    """Two connections that work at the same time. Use `open_both` to make one."""

    def __init__(
        self, old: Connection, new: Connection, old_name: str = "old", new_name: str = "new"
    ) -> None:
        self.old, self.new = old, new
        self.names = {id(old): old_name, id(new): new_name}
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="verify")

    def close(self) -> None:
        """End the worker threads; a statement under way is cancelled."""
        for connection in (self.old, self.new):
            if connection.info.transaction_status == TransactionStatus.ACTIVE:
                with suppress(psycopg.Error):
                    connection.cancel_safe(timeout=CANCEL_TIMEOUT_S)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def rows(
        self,
        source: Side,
        target: Side,
        query: Callable[[Side], sql.Composed],
    ) -> tuple[list[Any], list[Any]]:
        """The rows of one query about each side, asked at the same time."""
        futures = [
            self._pool.submit(self.fetch, side.connection, query(side)) for side in (source, target)
        ]
        first, second = (future.result() for future in futures)
        return first, second

    def together(self, one: Callable[[], T], other: Callable[[], T]) -> tuple[T, T]:
        """What both give, called at the same time. Raises what they raise."""
        futures = [self._pool.submit(work) for work in (one, other)]
        first, second = (future.result() for future in futures)
        return first, second

    def fetch(self, connection: Connection, query: sql.Composed) -> list[tuple[Any, ...]]:
        """The rows of one query. Raises ConnectionLost or ComparisonFailed."""
        with self.asking(connection):
            return connection.execute(query).fetchall()

    @contextmanager
    def asking(self, *connections: Connection) -> Iterator[None]:
        """Errors of these connections become ConnectionLost or ComparisonFailed, with names."""
        try:
            yield
        except psycopg.Error as error:
            reason = _reason(error)
            lost = [connection for connection in connections if connection.closed]
            names = "' or '".join(self.names[id(c)] for c in lost or connections)
            kind = ConnectionLost if lost else ComparisonFailed
            raise kind(database=names, reason=reason) from error

    def calibrate(self) -> Hashing:
        """RECORD when both servers give the same hashes for the same literals, else MD5."""
        answers = []
        for connection in (self.old, self.new):
            try:
                answers.append(connection.execute(CALIBRATION).fetchall())
            except psycopg.Error:
                return Hashing.MD5
        return Hashing.RECORD if answers[0] == answers[1] else Hashing.MD5


class Readers:
    """Some connections to one database that read in one snapshot. Use `open_readers`."""

    def __init__(self, database: str, connections: list[Connection]) -> None:
        self.database, self.connections = database, connections

    def begin(self) -> None:
        """Take a snapshot, the same for all. Raises ConnectionLost or ComparisonFailed."""
        first, *others = self.connections
        with asking(self.database, first):
            first.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            # The snapshot is taken here, whether or not it is handed on.
            row = first.execute("SELECT CASE WHEN %s THEN pg_export_snapshot() END", (
                bool(others),
            )).fetchone()  # fmt: skip
        for other in others:
            with asking(self.database, other):
                other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                query = sql.SQL("SET TRANSACTION SNAPSHOT {}")
                other.execute(query.format(sql.Literal(row[0] if row else None)))

    def cancel(self) -> None:
        """End what is under way. Raises nothing: whoever calls it has something worse to tell."""
        for connection in self.connections:
            if connection.info.transaction_status == TransactionStatus.ACTIVE:
                try:
                    connection.cancel_safe(timeout=CANCEL_TIMEOUT_S)
                except psycopg.Error as error:
                    log.info("%s: not cancelled: %s", self.database, error)

    def rest(self) -> None:
        """Hold no snapshot. Nothing may be under way. Raises nothing: a lost one is met again."""
        for connection in self.connections:
            if not connection.closed:
                with suppress(psycopg.Error):
                    connection.rollback()


@contextmanager
def open_both(old: DatabaseConfig, new: DatabaseConfig) -> Iterator[Both]:
    """Connections to both databases of a domain, one each."""
    with connect(old, PURPOSE) as first, connect(new, PURPOSE) as second:
        for database, connection in ((old, first), (new, second)):
            with asking(database.name, connection):
                connection.execute(SETTINGS)
                connection.execute(UNHURRIED)
        both = Both(first, second, old.name, new.name)
        try:
            yield both
        finally:
            both.close()


@contextmanager
def open_readers(database: DatabaseConfig, number: int) -> Iterator[Readers]:
    """So many connections to one database."""
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(database, PURPOSE)) for _ in range(number)]
        for connection in connections:
            with asking(database.name, connection):
                connection.execute(SETTINGS)
                connection.execute(UNHURRIED)
        yield Readers(database.name, connections)
