"""Who keeps a server's log: the oldest transaction that has written, running or prepared.

A slot begins only when all of them have ended, and its `restart_lsn` waits for them, however much
has been confirmed. Reading alone does not count: it holds back no log.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, LiteralString

import psycopg
from psycopg import sql

Connection = psycopg.Connection[Any]
# The whole server's: a transaction of any database holds the log back. Of other users' sessions
# PostgreSQL hides since when, unless the role has pg_read_all_stats; never who they are.
HOLDERS: LiteralString = """
SELECT kind, name, database, username, application, client, began, age_s, query_began, state
  FROM (
    SELECT 'session' AS kind, pid::text AS name, datname::text AS database,
           usename::text AS username, nullif(application_name, '') AS application,
           client_addr::text AS client, xact_start AS began,
           extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age_s,
           query_start AS query_began, state, age(backend_xid) AS behind
      FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
    UNION ALL
    SELECT 'prepared', gid, database::text, owner::text, NULL, NULL, prepared,
           extract(epoch FROM clock_timestamp() - prepared)::float8, NULL, 'prepared',
           age(transaction)
      FROM pg_prepared_xacts
  ) AS t ORDER BY behind DESC LIMIT %s
"""


@dataclass(frozen=True)
class Holder:
    """A transaction that has written and has not ended.

    `name` is the process id of a session, or the name of a prepared transaction. `age_s` (seconds),
    `began`, `query_began` and `state` are None where the role may not see them.
    """

    kind: Literal["session", "prepared"]
    name: str
    database: str | None
    user: str | None
    application: str | None
    client: str | None
    began: datetime | None
    age_s: float | None
    query_began: datetime | None
    state: str | None

    def __str__(self) -> str:
        since = f"since {self.began:%Y-%m-%d %H:%M:%S}" if self.began else "since when is hidden"
        if self.kind == "prepared":
            return f"prepared transaction '{self.name}' (user {self.user}) {since}"
        application = self.application or "no application name"
        told = f"session {self.name} ({application}, user {self.user}) {since}"
        if self.state and self.query_began:
            told += f", {self.state}, its last query began {self.query_began:%H:%M:%S}"
        return told

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data, with the sentence and with what ends it."""
        plain = {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in vars(self).items()
        }
        return {"told": str(self), **plain, "ending": self.ending}

    @property
    def ending(self) -> str:
        """The SQL that ends it; a prepared one in its own database, by its owner or a superuser."""
        if self.kind == "prepared":
            return sql.SQL("ROLLBACK PREPARED {};").format(sql.Literal(self.name)).as_string()
        return f"SELECT pg_terminate_backend({self.name});"


def holders(connection: Connection, limit: int = 10) -> list[Holder]:
    """The oldest transactions that have written, the oldest first; our own is left out."""
    return [Holder(*row) for row in connection.execute(HOLDERS, (limit,)).fetchall()]


def oldest(connection: Connection) -> Holder | None:
    """The oldest of them, or None."""
    found = holders(connection, 1)
    return found[0] if found else None
