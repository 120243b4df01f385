"""Whether a domain can be synced at all: everything that is in the way, told at once.

Read-only. `servers` asks the servers, `rights` the role's own rights, `tables` each table,
`queries` each mapping, `border` what refers across; numbers are those of `migrator.shares`.
"""

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import psycopg

from estate import catalog
from estate.config import Config, DatabaseConfig, DomainConfig, MappingConfig, Problem
from estate.connections import connect
from estate.errors import ExitCode, SplitctlError
from migrator import control, shares
from migrator.mapping import Mapping, MappingMismatch, Stream, other, shape, streams
from migrator.readiness import border, rights, servers, tables
from migrator.readiness.findings import Findings
from migrator.readiness.queries import QueryCheck
from migrator.readiness.servers import ServerFacts
from migrator.shares import NEARLY_USED, Share

__all__ = ["NotReady", "Readiness", "ServerFacts", "check", "check_servers", "require"]

Connection = psycopg.Connection[Any]
SIZES = """
SELECT coalesce(sum(pg_total_relation_size(coalesce(t.relid, c.oid::regclass))), 0)::bigint
  FROM pg_class c LEFT JOIN LATERAL pg_partition_tree(c.oid) t ON true
 WHERE c.oid IN (SELECT to_regclass(format('public.%%I', name)) FROM unnest(%s::text[]) AS n(name))
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
    """What must be mended first; what to know; what both servers and their sequences are like.

    `moving_bytes`: the old side's tables that the domain copies, with their indexes.
    """

    problems: list[Problem]
    warnings: list[Problem]
    servers: list[ServerFacts] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)
    moving_bytes: int = 0


def require(config: Config, domain: str) -> list[str]:
    """Raise NotReady with what `sync enable` does not mend itself, or return the warnings."""
    readiness = check(config, domain)
    mends = f"splitctl sync enable {domain}"
    left = [problem for problem in readiness.problems if problem.fix != mends]
    if left:
        raise NotReady(domain, left)
    return [warning.told for warning in readiness.warnings]


def check(config: Config, domain: str) -> Readiness:
    """Ask both databases everything. Changes nothing. Raises DatabaseUnreachable."""
    both, found = streams(config, domain), Findings()
    with ExitStack() as stack:
        connections = _connect(stack, both)
        facts, readable = _servers(found, connections, both, _others(config, domain))
        if not readable:
            return Readiness(found.problems, found.warnings, facts)
        fit = [_stream(found, stream, connections) for stream in both]
        forward = both[0]
        _borders(found, config, forward.domain, connections)
        counted = _shares(found, config, domain, connections) if all(fit) else []
        row = connections[forward.source.name].execute(SIZES, (list(forward.tables),)).fetchone()
    return Readiness(found.problems, found.warnings, facts, counted, int(row[0]) if row else 0)


def check_servers(config: Config, domain: str) -> Readiness:
    """What can be asked before the tables are made: the servers and the role's rights there."""
    both, found = streams(config, domain), Findings()
    with ExitStack() as stack:
        facts, _ = _servers(found, _connect(stack, both), both, _others(config, domain))
    return Readiness(found.problems, found.warnings, facts)


def _connect(stack: ExitStack, both: list[Stream]) -> dict[str, Connection]:
    """One connection to each side; together, both streams have each of them as a source."""
    return {
        stream.source.name: stack.enter_context(connect(stream.source, "readiness"))
        for stream in both
    }


def _others(config: Config, domain: str) -> list[Stream]:
    return [stream for stream in streams(config) if stream.domain.name != domain]


def _servers(
    found: Findings,
    connections: dict[str, Connection],
    both: list[Stream],
    others: list[Stream],
) -> tuple[list[ServerFacts], bool]:
    """Both servers and the role on them. Returns whether the tables can be looked at."""
    settings = {stream.source.name: stream.source for stream in both}
    facts = {
        name: servers.look(found, connection, settings[name])
        for name, connection in connections.items()
    }
    servers.clocks(found, *facts.values())
    servers.room(found, connections, facts, both, others)
    readable = [_role(found, connections[name], settings[name], facts[name]) for name in facts]
    return list(facts.values()), all(readable)


def _role(
    found: Findings, connection: Connection, database: DatabaseConfig, facts: ServerFacts
) -> bool:
    before = len(found.problems)
    readable = rights.of_role(found, connection, database)
    if len(found.problems) == before:
        servers.walsender(found, database, facts)
    return readable


def _stream(found: Findings, stream: Stream, connections: dict[str, Connection]) -> bool:
    """Every mapping of one direction. Returns whether both databases fit them."""
    before = len(found.problems)
    source, target = connections[stream.source.name], connections[stream.target.name]
    mapped = border.mapped(stream.domain, other(stream.source_side))
    for mapping in stream.mappings:
        so_far = len(found.problems)
        key = f"domains.{stream.domain.name}.{stream.direction}.{mapping.target}"
        _sources(found, key, source, stream.source, mapping.config)
        table = _table(found, key, target, mapping.target)
        if table is not None:
            rights.of_table(found, target, stream.target, table, rights.WRITE)
            tables.stored(found, target, stream.target, table)
            tables.of_target(found, key, target, table, mapping.config)
            tables.unique(found, key, target, table, mapping.config, mapped)
        QueryCheck(found, key, mapping.config, source, target, table).check()
        if len(found.problems) == so_far:
            _shape(found, key, source, target, mapping)
    return len(found.problems) == before


def _shape(
    found: Findings, key: str, source: Connection, target: Connection, mapping: Mapping
) -> None:
    """Whatever the worker would refuse a mapping for is told here first."""
    try:
        shape(source, target, mapping)
    except MappingMismatch as error:
        found.problem(key, str(error.facts["reason"]), f"Correct {mapping.config.query.name}.")


def _sources(
    found: Findings,
    key: str,
    source: Connection,
    database: DatabaseConfig,
    mapping: MappingConfig,
) -> None:
    for name, leading in mapping.sources.items():
        table = _table(found, key, source, name)
        if table is not None:
            rights.of_table(found, source, database, table, rights.READ)
            tables.stored(found, source, database, table)
            tables.of_source(found, key, source, table, leading)


def _table(found: Findings, key: str, connection: Connection, name: str) -> catalog.Table | None:
    try:
        return catalog.table(connection, name)
    except catalog.TableMissing:
        reason = f"there is no table {name} in {connection.info.dbname}"
        found.problem(key, reason, "Correct its name, or type:", "splitctl schema apply")
        return None


def _borders(
    found: Findings, config: Config, domain: DomainConfig, connections: dict[str, Connection]
) -> None:
    border.crossing(found, domain, "old", connections[domain.old])
    border.crossing(found, domain, "new", connections[domain.new])
    border.strangers(found, config, domain, connections[domain.new])


def _shares(
    found: Findings, config: Config, domain: str, connections: dict[str, Connection]
) -> list[Share]:
    """Numbers are shared out by `sync enable`; from then on they have to stay so."""
    counted = shares.shares(config, domain)
    begun = all(
        control.installed(connection)
        and connection.execute(shares.SHARED, (domain,)).fetchone() is not None
        for connection in connections.values()
    )
    for share in counted:
        key = f"domains.{domain}.{share.column}"
        if share.problem and (begun or share.hands_out):
            found.problem(key, share.problem, "Its share is set by:", share.fix)
        elif share.used >= NEARLY_USED:
            found.warning(
                key,
                f"{share.sequence} has used {share.used:.0%} of its numbers: {share.left} are left,"
                " and a side of a split takes every other one",
                "As the owner, before they end (it writes the table anew):",
                share.widening,
            )
    return counted
