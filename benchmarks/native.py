"""The rival that ships with PostgreSQL: logical replication of the same base tables."""

from typing import Any, LiteralString

import psycopg
from psycopg import sql

from benchmarks.ground import Ground, await_row, await_true, is_true

DATABASE = "native_db"
NAME = "bench_native"
RIVAL = "native logical replication"
TABLES = ("cart_sessions", "cart_items")
READY: LiteralString = "SELECT count(*) > 0 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel"
LET_GO: LiteralString = "SELECT NOT active FROM pg_replication_slots WHERE slot_name = %s"
CONFIRMED: LiteralString = (
    "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s"
)
APPLIED: LiteralString = """
SELECT s.remote_lsn >= %s::pg_lsn FROM pg_replication_origin_status s
  JOIN pg_subscription b ON s.external_id = 'pg_' || b.oid WHERE b.subname = %s
"""


class Native:
    """A subscription in a database of its own on the new server, to the old one's carts and items.

    Its tables are the source's own: it transforms nothing.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        ground.make(DATABASE, "order")
        with ground.old() as source:
            names = sql.SQL(", ").join(map(sql.Identifier, TABLES))
            source.execute(
                sql.SQL("CREATE PUBLICATION {} FOR TABLE {}").format(sql.Identifier(NAME), names)
            )

    def connect(self) -> psycopg.Connection[Any]:
        """Its database."""
        return self._ground.new(DATABASE)

    def subscribe(self) -> None:
        """Copy everything, and return when each table is in step."""
        source = self._ground.estate.database("order")
        with self.connect() as target:
            target.execute(
                sql.SQL("CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION {}").format(
                    sql.Identifier(NAME), sql.Literal(source), sql.Identifier(NAME)
                )
            )
            await_row(target, READY, (), "the subscription's first copy")

    def put_back(self) -> None:
        """No subscription, empty tables."""
        with self.connect() as target:
            target.execute(sql.SQL("DROP SUBSCRIPTION IF EXISTS {}").format(sql.Identifier(NAME)))
            names = sql.SQL(", ").join(map(sql.Identifier, TABLES))
            target.execute(sql.SQL("TRUNCATE {} CASCADE").format(names))

    def remove(self) -> None:
        """Nothing of it is left: no subscription, no slot, no publication, no database."""
        self.put_back()
        with self._ground.old() as source:
            source.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(NAME)))
        self._ground.drop(DATABASE)

    def pause(self) -> None:
        """Let the source's log wait; returns when its walsender is gone."""
        with self.connect() as target:
            target.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(sql.Identifier(NAME)))
        with self._ground.old() as source:
            await_row(source, LET_GO, (NAME,), "the subscription to let go of its slot")

    def resume(self) -> None:
        """Read on."""
        with self.connect() as target:
            target.execute(sql.SQL("ALTER SUBSCRIPTION {} ENABLE").format(sql.Identifier(NAME)))

    def await_applied(self, position: str) -> None:
        """Until everything up to this position of the source is applied.

        The target tells at once, but only of transactions that it got something from; the slot
        tells of all of them, some time later.
        """
        with self.connect() as target, self._ground.old() as source:

            def applied() -> bool:
                ways = ((target, APPLIED), (source, CONFIRMED))
                return any(is_true(where, query, (position, NAME)) for where, query in ways)

            await_true(applied, "the subscription to apply everything")
