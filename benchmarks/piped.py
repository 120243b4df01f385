"""The rival that a DBA types: `COPY (SELECT the mapping)` into `COPY`, then keys and indexes."""

import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from benchmarks.ground import DOMAIN, Ground, program

DATABASE = "piped_db"
# A trigger of promotions looks each cart up, which has no index then; it changes nothing in rows
# that come from the old side.
QUIET = {"PGOPTIONS": "-c session_replication_role=replica"}
CONSTRAINTS: LiteralString = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
 WHERE connamespace = 'public'::regnamespace AND contype IN ('p', 'u', 'f')
 ORDER BY contype = 'f', conrelid, conname
"""
INDEXES: LiteralString = """
SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
 WHERE indrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
   AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
"""


class Piped:
    """psql into psql, binary, table after table; then everything that the tables had is built."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        ground.make(DATABASE, "checkout")
        with self.connect() as target:
            self._constraints = target.execute(CONSTRAINTS).fetchall()
            self._indexes = target.execute(INDEXES).fetchall()
        with ground.old() as source:
            self._copies = list(_copies(ground.estate.config, source))

    def connect(self) -> psycopg.Connection[Any]:
        """Its database."""
        return self._ground.new(DATABASE)

    def put_back(self) -> None:
        """Empty tables without keys and indexes."""
        with self.connect() as target:
            names = sql.SQL(", ").join(sql.Identifier(table) for table, _, _ in self._copies)
            target.execute(sql.SQL("TRUNCATE {} CASCADE").format(names))
            for table, name, _ in reversed(self._constraints):
                target.execute(f'ALTER TABLE {table} DROP CONSTRAINT IF EXISTS "{name}"'.encode())
            for name, _ in self._indexes:
                target.execute(f"DROP INDEX IF EXISTS {name}".encode())

    def remove(self) -> None:
        """Nothing of it is left."""
        self._ground.drop(DATABASE)

    def copy(self) -> None:
        """Copy all rows, then build."""
        source = self._ground.estate.database("order")
        target = self._ground.new_dsn(DATABASE)
        for _, out, into in self._copies:
            read = [program("psql"), "-qX", "-d", source, "-c", out]
            write = [program("psql"), "-qX", "-v", "ON_ERROR_STOP=1", "-d", target, "-c", into]
            with (
                subprocess.Popen(read, stdout=subprocess.PIPE) as reader,
                subprocess.Popen(write, stdin=reader.stdout, env=os.environ | QUIET) as writer,
            ):
                assert reader.stdout is not None
                # Ours is closed, so that the reader ends when the writer does.
                reader.stdout.close()
            if reader.returncode or writer.returncode:
                raise subprocess.CalledProcessError(reader.returncode or writer.returncode, "psql")
        with self.connect() as connection:
            connection.execute("SET maintenance_work_mem = '512MB'")
            for table, name, definition in self._constraints:
                connection.execute(
                    f'ALTER TABLE {table} ADD CONSTRAINT "{name}" {definition}'.encode()
                )
            for _, definition in self._indexes:
                connection.execute(str(definition).encode())


def _copies(config: Path, source: psycopg.Connection[Any]) -> list[tuple[str, str, str]]:
    """For each forward mapping: its table, the command that reads and the one that writes."""
    found = []
    for mapping in tomllib.loads(config.read_text(encoding="utf-8"))["domains"][DOMAIN]["forward"]:
        query = (config.parent / mapping["query"]).read_text(encoding="utf-8")
        described = source.execute(f"SELECT * FROM (\n{query}\n) q LIMIT 0".encode())
        names = [column.name for column in described.description or ()]
        columns = ", ".join(f'"{name}"' for name in names if name != "splitctl_route")
        table = mapping["target"]
        found.append(
            (
                table,
                f"COPY (SELECT {columns} FROM (\n{query}\n) q) TO STDOUT (FORMAT binary)",
                f"COPY {table} ({columns}) FROM STDIN (FORMAT binary)",
            )
        )
    return found
