"""Connections to the estate's databases: named, limited in time, and counted."""

import os
import select
import time
from collections.abc import Sequence
from typing import Any, LiteralString

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq.abc import PGconn

from estate.arrays import TextsDumper
from estate.config import DatabaseConfig
from estate.errors import ExitCode, SplitctlError

APPLICATION = "splitctl"
CONNECT_TIMEOUT_S = 5
SETTINGS: dict[str, str] = {
    "statement_timeout": "60s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "60s",
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmlbinary": "base64",
    "array_nulls": "on",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "client_encoding": "UTF8",
    # A snapshot for each statement; who needs one for several asks for it.
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    # Progress is committed with the data (L4): an acknowledged commit must survive a crash.
    "synchronous_commit": "on",
    "search_path": "public",
}
COUNT_OURS: LiteralString = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name LIKE 'splitctl %'"
)

DEFAULTS: LiteralString = "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)"


class DatabaseUnreachable(SplitctlError):
    """Database '{database}' cannot be reached: {reason}. What it holds was not changed."""

    hint = "splitctl doctor"
    exit_code = ExitCode.PRECONDITION


class DatabaseFailed(SplitctlError):
    """A database ended what was under way: {reason}. What was committed until then stays, and the
    same command can be typed again: it goes on from there."""

    hint = "splitctl doctor, then the same command again"
    exit_code = ExitCode.PRECONDITION


class ConnectionBudgetExceeded(SplitctlError):
    """The tool already has {count} of the {budget} connections it may open to '{database}'."""

    hint = "end other splitctl commands, or raise databases.{database}.connections"
    exit_code = ExitCode.PRECONDITION


def parameters(database: DatabaseConfig) -> dict[str, Any]:
    """What the connection string says, part by part. Raises DatabaseUnreachable, SecretMissing."""
    try:
        return dict(conninfo_to_dict(database.dsn.reveal()))
    except psycopg.ProgrammingError:
        # The parser's own message may repeat parts of the string, and so a password.
        reason = f"{database.dsn} does not hold a connection string"
        raise DatabaseUnreachable(database=database.name, reason=reason) from None


def _conninfo(database: DatabaseConfig, purpose: str, **extra: str) -> str:
    options = " ".join(f"-c {name}={_escape(value)}" for name, value in SETTINGS.items())
    given = parameters(database)
    parts: dict[str, Any] = {
        "connect_timeout": str(CONNECT_TIMEOUT_S),
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "20000",
        **given,
        # Asked for like the rest of SETTINGS it would lose against the environment's.
        "client_encoding": SETTINGS["client_encoding"],
        "application_name": f"{APPLICATION} {purpose}"[:63],
        "options": f"{given.get('options', '')} {options}".strip(),
        **extra,
    }
    return make_conninfo(**parts)


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def connect(
    database: DatabaseConfig, purpose: str, *, autocommit: bool = True
) -> psycopg.Connection[tuple[Any, ...]]:
    """Open one connection named `splitctl <purpose>`, within the database's budget.

    Raises DatabaseUnreachable, ConnectionBudgetExceeded or SecretMissing.
    """
    try:
        connection = psycopg.connect(_conninfo(database, purpose), autocommit=True)
    except psycopg.Error as error:
        raise DatabaseUnreachable(database=database.name, reason=_reason(error)) from error
    connection.adapters.register_dumper(list, TextsDumper)
    try:
        row = connection.execute(COUNT_OURS).fetchone()
        count = int(row[0]) if row else 0
        if count > database.connections:
            raise ConnectionBudgetExceeded(
                database=database.name, count=count - 1, budget=database.connections
            )
        connection.autocommit = autocommit
    except psycopg.Error as error:
        connection.close()
        raise DatabaseUnreachable(database=database.name, reason=_reason(error)) from error
    except SplitctlError:
        connection.close()
        raise
    return connection


def server_defaults(database: DatabaseConfig, names: Sequence[str]) -> dict[str, str]:
    """What a session of our role has where it asks for nothing: these settings, by name.

    Raises DatabaseUnreachable, SecretMissing.
    """
    given = {"connect_timeout": str(CONNECT_TIMEOUT_S), **parameters(database)}
    conninfo = make_conninfo(**given, application_name=f"{APPLICATION} defaults")
    try:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            rows = connection.execute(DEFAULTS, (list(names),)).fetchall()
    except psycopg.Error as error:
        raise DatabaseUnreachable(database=database.name, reason=_reason(error)) from error
    return {str(name): str(setting) for name, setting in rows}


def replication_connection(database: DatabaseConfig, purpose: str) -> PGconn:
    """Open a walsender connection (`replication=database`) as a bare libpq connection."""
    conninfo = _conninfo(database, purpose, replication="database")
    # A walsender lives long and idles: the statement limits of ordinary work do not fit it.
    # The later -c wins; date and number formats stay, because keys arrive as text.
    options = conninfo_to_dict(conninfo)["options"]
    options = f"{options} -c statement_timeout=0 -c idle_in_transaction_session_timeout=0"
    conninfo = make_conninfo(conninfo, options=options)
    connection = _open(conninfo)
    if connection.status != pq.ConnStatus.OK:
        reason = connection.get_error_message().strip() or "it does not answer"
        connection.finish()
        raise DatabaseUnreachable(database=database.name, reason=reason)
    return connection


def _open(conninfo: str) -> PGconn:
    """Connect as the library does, but let other threads run meanwhile: one server that does not
    answer must not hold up the streams of the others."""
    connection = pq.PGconn.connect_start(conninfo.encode())
    limit = time.monotonic() + CONNECT_TIMEOUT_S
    while connection.status != pq.ConnStatus.BAD:
        state = connection.connect_poll()
        if state in (pq.PollingStatus.OK, pq.PollingStatus.FAILED):
            break
        reads = [connection.socket] if state == pq.PollingStatus.READING else []
        writes = [] if reads else [connection.socket]
        left = limit - time.monotonic()
        if left <= 0 or not any(select.select(reads, writes, [], left)):
            break
    return connection


def told(error: Exception) -> SplitctlError | None:
    """What an error of the estate's own making means; None when it is a mistake of ours.

    A lost connection, a server that stops, a full disk, a lock or a statement over its limit.
    """
    if isinstance(error, psycopg.OperationalError | psycopg.errors.IdleInTransactionSessionTimeout):
        return DatabaseFailed(reason=_reason(error))
    return None


def _reason(error: psycopg.Error) -> str:
    # The library adds, indented by a tab, what might be wrong: "Is the server running ...?"
    facts = [line for line in str(error).splitlines() if not line.startswith("\t")]
    told = " ".join(" ".join(facts).split()).removeprefix("connection failed: ")
    return told or type(error).__name__


def operator() -> str:
    """Who is at the terminal, for the ledger and for messages."""
    return os.environ.get("SPLITCTL_OPERATOR") or os.environ.get("USER") or f"uid {os.getuid()}"
