"""Whether a domain can be synced at all: everything that is in the way, told at once."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from estate import catalog
from estate.config import Config, DatabaseConfig, MappingConfig, Problem
from estate.connections import connect
from estate.errors import ExitCode, SplitctlError, in_one_line
from migrator import publication, slots
from migrator.mapping import ROUTE, Stream, of_stray_rule, streams

Connection = psycopg.Connection[Any]
TEXT_OIDS = {25, 1043}
ROUTE_LIMIT = "20s"

SERVER: LiteralString = """
SELECT current_setting('wal_level'), current_setting('server_encoding'),
       current_setting('max_replication_slots')::int
         - (SELECT count(*)::int FROM pg_replication_slots),
       current_setting('max_wal_senders')::int - (SELECT count(*)::int FROM pg_stat_replication)
"""
ROLE: LiteralString = """
SELECT current_user, r.rolsuper OR r.rolreplication,
       has_database_privilege(current_database(), 'CREATE'),
       has_database_privilege(current_database(), 'TEMPORARY')
  FROM pg_roles r WHERE r.rolname = current_user
"""
MEMBER: LiteralString = """
SELECT CASE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = %(role)s)
            THEN pg_has_role(current_user, %(role)s::name, 'USAGE') END
"""
OWNED: LiteralString = """
SELECT relowner::regrole::text, pg_has_role(current_user, relowner, 'USAGE')
  FROM pg_class WHERE oid = %s
"""
INDEXED: LiteralString = """
SELECT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a
                 ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                WHERE i.indrelid = %s AND i.indisvalid AND i.indpred IS NULL
                  AND a.attname = ANY(%s))
"""


TRIGGERS: LiteralString = """
SELECT tgname FROM pg_trigger
 WHERE tgrelid = %s AND NOT tgisinternal AND tgenabled IN ('O', 'A') ORDER BY tgname
"""
TABLES: LiteralString = """
SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
   AND NOT relispartition AND relname <> 'alembic_version' ORDER BY relname
"""


class NotReady(SplitctlError):
    """Domain '{domain}' is not ready: {count} thing(s) are in the way. Nothing was changed."""

    hint = "mend what is listed above, then: splitctl sync enable {domain}"
    exit_code = ExitCode.PRECONDITION

    def __init__(self, domain: str, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__(domain=domain, count=len(problems))

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  {problem}" for problem in self.problems)])


@dataclass(frozen=True)
class Readiness:
    """What must be mended first, and what will be slow or was not checked."""

    problems: list[Problem]
    warnings: list[str]


def check(config: Config, domain: str) -> Readiness:
    """Ask both databases everything. Changes nothing. Raises DatabaseUnreachable."""
    both = streams(config, domain)
    readiness = Readiness([], [])
    with ExitStack() as stack:
        connections = {
            database.name: stack.enter_context(connect(database, "readiness"))
            for stream in both
            for database in [stream.source]
        }
        for stream in both:
            readiness.problems.extend(_database(connections[stream.source.name], stream.source))
        readiness.problems.extend(_room(connections, both))
        for stream in both:
            source, target = connections[stream.source.name], connections[stream.target.name]
            for mapping in stream.mappings:
                key = f"domains.{domain}.{stream.direction}.{mapping.config.target}"
                reader = _MappingCheck(source, target, mapping.config, key)
                readiness.problems.extend(reader.problems())
                readiness.warnings.extend(reader.warnings)
        readiness.warnings.extend(_strangers(config, domain, connections))
    unique = list(dict.fromkeys(readiness.problems))
    return Readiness(unique, readiness.warnings)


def require(config: Config, domain: str) -> list[str]:
    """Raise NotReady with every problem, or return the warnings."""
    readiness = check(config, domain)
    if readiness.problems:
        raise NotReady(domain, readiness.problems)
    return readiness.warnings


def _database(connection: Connection, database: DatabaseConfig) -> Iterator[Problem]:
    key = f"databases.{database.name}"
    grants = f"Have a DBA run the script of: splitctl sync grants {database.name}"
    server = connection.execute(SERVER).fetchone()
    role = connection.execute(ROLE).fetchone()
    assert server is not None and role is not None
    if server[0] != "logical":
        reason = f"wal_level is '{server[0]}'"
        yield Problem(key, reason, "Set wal_level = logical in postgresql.conf and restart it.")
    if server[1] != "UTF8":
        reason = f"its encoding is {server[1]}, but buckets are made from UTF-8"
        yield Problem(key, reason, "Move it to a database with encoding UTF8.")
    user, replicates, creates, stages = role
    if not replicates:
        yield Problem(key, f"role '{user}' has not REPLICATION", grants)
    if not creates:
        yield Problem(key, f"role '{user}' may not create a schema or publication", grants)
    if not stages:
        yield Problem(key, f"role '{user}' may not create temporary tables", grants)
    if database.owner_role is not None:
        member = connection.execute(MEMBER, {"role": database.owner_role}).fetchone()
        if member is None or not member[0]:
            yield Problem(key, f"role '{user}' is no member of '{database.owner_role}'", grants)


def _room(connections: dict[str, Connection], both: list[Stream]) -> Iterator[Problem]:
    """Free slots and walsenders; two databases may share one server."""
    needed: dict[str, list[Stream]] = {}
    for stream in both:
        system = slots.identify(stream.source).system_id
        connection = connections[stream.source.name]
        other = slots.elsewhere(connection, stream.slot)
        if other is not None:
            reason = f"a slot {stream.slot} of database '{other}' is on the same server"
            remedy = "Tear that split down, or give this domain another name."
            yield Problem(f"domains.{stream.domain.name}", reason, remedy)
        elif slots.find(connection, stream.slot) is None:
            needed.setdefault(system, []).append(stream)
    for waiting in needed.values():
        name = waiting[0].source.name
        server = connections[name].execute(SERVER).fetchone()
        assert server is not None
        for free, setting in ((server[2], "max_replication_slots"), (server[3], "max_wal_senders")):
            if free < len(waiting):
                reason = f"{len(waiting)} needed, {max(free, 0)} free of {setting}"
                yield Problem(f"databases.{name}", reason, f"Raise {setting} and restart it.")


def _strangers(config: Config, domain: str, connections: dict[str, Connection]) -> Iterator[str]:
    """Tables of the new database that nobody fills and nobody has declared."""
    new = config.domain(domain).new
    known = {
        name
        for other in config.domains.values()
        if other.new == new
        for name in [*(mapping.target for mapping in other.forward), *other.unmapped_new]
    }
    for row in connections[new].execute(TABLES).fetchall():
        if row[0] not in known:
            yield f"domains.{domain}.unmapped_new: table {row[0]} of {new} has no mapping"


class _MappingCheck:
    """All questions to one mapping: its tables, its query, its key, its route."""

    def __init__(
        self, source: Connection, target: Connection, mapping: MappingConfig, key: str
    ) -> None:
        self.source, self.target, self.mapping, self.key = source, target, mapping, key
        self.warnings: list[str] = []

    def problems(self) -> list[Problem]:
        return [*self._sources(), *self._target_and_query()]

    def _problem(self, reason: str, remedy: str) -> Problem:
        return Problem(self.key, reason, remedy)

    def _sources(self) -> Iterator[Problem]:
        for name, leading in self.mapping.sources.items():
            found = self._table(self.source, name)
            if isinstance(found, Problem):
                yield found
                continue
            yield from self._owned(self.source, found)
            columns = set(leading.values())
            unknown = sorted(column for column in columns if found.column(column) is None)
            if unknown:
                reason = f"source {name} has no column {', '.join(unknown)}"
                yield self._problem(reason, f"Correct sources.{name}.")
                continue
            if not columns <= set(found.identity_columns):
                lacking = ", ".join(sorted(columns - set(found.identity_columns)))
                yield self._problem(
                    f"a change of {name} would not tell its old {lacking}: "
                    f"not in the replica identity ({found.replica_identity})",
                    f"ALTER TABLE {name} REPLICA IDENTITY FULL, or USING INDEX one that has it.",
                )
            elif not found.identity_columns:
                reason = f"{name} has no replica identity: its updates would fail once published"
                yield self._problem(reason, f"Give {name} a primary key.")
            for partition in publication.unfit_partitions(self.source, name, sorted(columns)):
                reason = f"a change of partition {partition} would not tell its old key"
                yield self._problem(reason, f"ALTER TABLE {partition} REPLICA IDENTITY FULL;")
            indexed = self.source.execute(INDEXED, (found.oid, sorted(columns))).fetchone()
            if indexed is not None and not indexed[0]:
                names = ", ".join(sorted(columns))
                self.warnings.append(f"{self.key}: no index of {name} begins with {names}")

    def _target_and_query(self) -> Iterator[Problem]:
        found = self._table(self.target, self.mapping.target)
        described = self._describe()
        if isinstance(found, Problem):
            yield found
        else:
            yield from self._owned(self.target, found)
            for trigger in self.target.execute(TRIGGERS, (found.oid,)).fetchall():
                self.warnings.append(
                    f"{self.key}: trigger {trigger[0]} of {found.name} fires for carried rows too"
                )
            if not found.primary_key:
                reason = f"target {found.name} has no primary key"
                yield self._problem(reason, "Give it one: rows are written by it.")
        if isinstance(described, Problem):
            yield described
        if isinstance(found, Problem) or isinstance(described, Problem):
            return
        yield from self._columns(found, described)
        yield from self._route(found, described)

    def _columns(self, target: catalog.Table, output: list[tuple[str, int]]) -> Iterator[Problem]:
        names = [name for name, _ in output]
        remedy = f"Correct {self.mapping.query.name}."
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield self._problem(f"the query gives column {name} twice", remedy)
        written = set(names) - {ROUTE}
        for name in sorted(written):
            column = target.column(name)
            if column is None:
                reason = f"the query gives {name}, which {target.name} does not have"
                yield self._problem(reason, remedy)
            elif column.generated:
                reason = f"the query gives {name}, which {target.name} generates itself"
                yield self._problem(reason, remedy)
            elif column.always and name not in target.primary_key:
                reason = f"{target.name}.{name} is GENERATED ALWAYS: no change could be carried"
                mend = f"ALTER TABLE {target.name} ALTER {name} SET GENERATED BY DEFAULT;"
                yield self._problem(reason, mend)
        for column in target.columns:
            needed = column.not_null and not column.has_default and not column.generated
            if needed and column.name not in written:
                reason = f"{target.name}.{column.name} must have a value, and the query gives none"
                yield self._problem(reason, f"Add it to {self.mapping.query.name}, or a default.")
        for kind, columns in (("key", self.mapping.key), ("primary key", target.primary_key)):
            lacking = sorted(set(columns) - written)
            if lacking:
                reason = f"the query does not give {', '.join(lacking)} of the {kind}"
                yield self._problem(reason, remedy)
        problem = of_stray_rule(self.mapping.stray, written, target)
        if problem is not None:
            yield self._problem(problem, "Correct stray, or let the query give that column.")
        indexed = self.target.execute(INDEXED, (target.oid, list(self.mapping.key))).fetchone()
        if indexed is not None and not indexed[0]:
            names_ = ", ".join(self.mapping.key)
            self.warnings.append(f"{self.key}: no index of {target.name} begins with {names_}")

    def _route(self, target: catalog.Table, output: list[tuple[str, int]]) -> Iterator[Problem]:
        types = [oid for name, oid in output if name == ROUTE]
        remedy = f"Let {self.mapping.query.name} give the stable id as text, for every row."
        if not types:
            yield self._problem(f"the query does not give {ROUTE}", remedy)
            return
        if types[0] not in TEXT_OIDS:
            yield self._problem(f"{ROUTE} is not of type text", remedy)
        elif len(types) == 1:
            yield from self._null_routes(remedy)
        query = "SELECT ({})::text FROM {} AS t LIMIT 0"
        try:
            with self.target.transaction():
                self.target.execute(
                    sql.SQL(query).format(
                        sql.SQL(self.mapping.route),
                        sql.Identifier("public", target.name),
                    )
                )
        except psycopg.Error as error:
            reason = f"the route does not fit {target.name} ({_line(error)})"
            yield self._problem(reason, "Correct route: SQL over the target table as t.")

    def _null_routes(self, remedy: str) -> Iterator[Problem]:
        query = "SELECT 1 FROM (\n{}\n) AS q WHERE q.splitctl_route IS NULL LIMIT 1"
        try:
            with self.source.transaction():
                self.source.execute(
                    "SELECT set_config('statement_timeout', %s, true)", (ROUTE_LIMIT,)
                )
                found = self.source.execute(sql.SQL(query).format(self._query())).fetchone()
        except psycopg.errors.QueryCanceled:
            self.warnings.append(f"{self.key}: not every {ROUTE} was looked at, it took too long")
            return
        except psycopg.Error as error:
            reason = f"the query fails on some row ({_line(error)})"
            yield self._problem(reason, f"Let {self.mapping.query.name} survive such rows.")
            return
        if found is not None:
            yield self._problem(f"{ROUTE} is null for some rows", remedy)

    def _describe(self) -> list[tuple[str, int]] | Problem:
        try:
            with self.source.transaction():
                query = sql.SQL("SELECT * FROM (\n{}\n) AS q LIMIT 0").format(self._query())
                description = self.source.execute(query).description or []
        except psycopg.Error as error:
            reason = f"the query does not run ({_line(error)})"
            return self._problem(reason, f"Correct {self.mapping.query}.")
        return [(column.name, column.type_code) for column in description]

    def _query(self) -> sql.SQL:
        return sql.SQL(self.mapping.sql)

    def _table(self, connection: Connection, name: str) -> catalog.Table | Problem:
        try:
            return catalog.table(connection, name)
        except catalog.TableMissing:
            reason = f"there is no table {name} in {connection.info.dbname}"
            return self._problem(reason, "Correct its name, or: splitctl schema apply")

    def _owned(self, connection: Connection, found: catalog.Table) -> Iterator[Problem]:
        row = connection.execute(OWNED, (found.oid,)).fetchone()
        if row is not None and not row[1]:
            reason = f"table {found.name} belongs to '{row[0]}', the tool is no member of it"
            yield self._problem(reason, "Run the script of splitctl sync grants, for this owner.")


def _line(error: psycopg.Error) -> str:
    return in_one_line(error.diag.message_primary or error)
