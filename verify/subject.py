"""What is compared for one mapping: its query on one side, its target table on the other."""

from dataclasses import dataclass
from typing import Any, Literal, LiteralString

import psycopg
from psycopg import sql

from estate import catalog
from estate.config import Config, MappingConfig
from estate.errors import ExitCode, SplitctlError
from migrator import archive
from migrator.mapping import ROUTE, Stream, streams
from verify import pgtypes, slices
from verify.checksum import Choice, Column, Side
from verify.pgtypes import PgType
from verify.rows import Shape
from verify.scope import WHOLE, NotAPart, Scope

ESTIMATE: LiteralString = "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = %s"


class UnknownMapping(SplitctlError):
    """There is no mapping '{mapping}'. The mappings are: {known}."""

    hint = "splitctl verify run MAPPING, with one of these names"
    exit_code = ExitCode.USAGE


class TableArchived(SplitctlError):
    """Mapping '{mapping}' cannot be compared: table '{table}' is archived as '{archived}'."""

    hint = "splitctl decommission undo {domain}, or verify another domain"
    exit_code = ExitCode.PRECONDITION


class MappingNotComparable(SplitctlError):
    """Mapping '{mapping}' cannot be compared in database '{database}': {reason}."""

    hint = "correct its query or its key in the configuration, then: splitctl doctor"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Selection:
    """One stream and the names of its mappings that are asked for."""

    stream: Stream
    mappings: tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """A mapping ready to be compared; `table` is its target."""

    name: str
    table: str
    direction: str
    source: Side
    target: Side
    shape: Shape
    choice: Choice
    estimated_rows: int


def select(config: Config, domain: str | None, mappings: list[str] | None) -> list[Selection]:
    """The streams and mappings asked for, in the configuration's order; all when None.

    A mapping may be named by the end of its name when that is unique: `forward.items`.
    Raises UnknownName or UnknownMapping.
    """
    every = streams(config, domain)
    known = [mapping.name for stream in every for mapping in stream.mappings]
    wanted = set(known)
    if mappings:
        wanted = set()
        for asked in mappings:
            found = [name for name in known if name == asked or name.endswith(f".{asked}")]
            if len(found) != 1:
                raise UnknownMapping(mapping=asked, known=", ".join(known))
            wanted.update(found)
    chosen = [
        Selection(stream, tuple(m.name for m in stream.mappings if m.name in wanted))
        for stream in every
    ]
    return [selection for selection in chosen if selection.mappings]


def prepare(
    stream: Stream,
    mapping: MappingConfig,
    name: str,
    source: psycopg.Connection[Any],
    target: psycopg.Connection[Any],
    scope: Scope = WHOLE,
) -> Subject:
    """Describe both sides of a mapping.

    Raises TableArchived, MappingNotComparable, UnknownColumn, NoTouchedColumn or NotAPart.
    """
    domain = stream.domain.name
    for table in mapping.sources:
        _not_archived(source, domain, name, table)
    _not_archived(target, domain, name, mapping.target)
    try:
        held_table = catalog.table(target, mapping.target)
    except catalog.TableMissing as error:
        raise MappingNotComparable(
            mapping=name, database=stream.target.name, reason=f"no table '{mapping.target}'"
        ) from error
    query = sql.SQL(mapping.sql)
    given = _described(source, query, name, stream.source.name)
    held_query = sql.SQL("TABLE {}").format(sql.Identifier(mapping.target))
    held = _described(target, held_query, name, stream.target.name)
    names = [column for column in given if column != ROUTE]
    misfit = _misfit(mapping, names, held)
    if misfit is not None:
        side, reason = misfit
        database = stream.source.name if side == "source" else stream.target.name
        raise MappingNotComparable(mapping=name, database=database, reason=reason)

    def columns(here: dict[str, PgType], wanted: list[str]) -> tuple[Column, ...]:
        return tuple(Column(column, here[column], held[column]) for column in wanted)

    key = list(mapping.key)
    identity = held_table.primary_key if set(held_table.primary_key) <= set(names) else ()
    choice = scope.choice(mapping, name, names)
    for connection, asked in ((source, query), (target, held_query)):
        _condition_fits(connection, asked, names, choice, scope)
    names = scope.among(names, (*key, *identity), name)
    row = target.execute(ESTIMATE, (held_table.oid,)).fetchone()
    return Subject(
        name=name,
        table=mapping.target,
        direction=stream.direction,
        source=Side(
            source,
            query,
            columns(given, key),
            columns(given, names),
            stream.source.name,
            slices.cut(source, query, names, choice.condition, list(mapping.sources)),
        ),
        target=Side(
            target,
            held_query,
            columns(held, key),
            columns(held, names),
            stream.target.name,
            slices.cut(target, held_query, names, choice.condition, [mapping.target]),
        ),
        shape=Shape(
            key_kinds=tuple(held[column].kind for column in key),
            names=tuple(names),
            kinds=tuple(held[column].kind for column in names),
            identity=tuple(names.index(column) for column in identity),
            sensitive=frozenset(mapping.sensitive),
        ),
        choice=choice,
        estimated_rows=int(row[0]) if row else 0,
    )


def _misfit(
    mapping: MappingConfig, names: list[str], held: dict[str, PgType]
) -> tuple[Literal["source", "target"], str] | None:
    """What does not fit between a query that gives these columns and its target, and on which side
    to look for it."""
    strangers = [column for column in names if column not in held]
    if strangers:
        told = ", ".join(strangers)
        return "target", f"the query gives columns that '{mapping.target}' has not: {told}"
    unknown = [column for column in mapping.sensitive if column not in held]
    if unknown:
        told = ", ".join(unknown)
        return "target", f"sensitive names columns that '{mapping.target}' has not: {told}"
    lacking = [column for column in mapping.key if column not in names]
    if lacking:
        return "source", f"the query does not give the key's columns: {', '.join(lacking)}"
    return None


def _described(
    connection: psycopg.Connection[Any], query: sql.Composable, name: str, database: str
) -> dict[str, PgType]:
    try:
        return pgtypes.describe(connection, query)
    except psycopg.Error as error:
        reason = error.diag.message_primary or type(error).__name__
        raise MappingNotComparable(mapping=name, database=database, reason=reason) from error


def _condition_fits(
    connection: psycopg.Connection[Any],
    query: sql.Composable,
    names: list[str],
    choice: Choice,
    scope: Scope,
) -> None:
    if scope.where is None:
        return
    try:
        relation = slices.relation(query, None, None)
        slices.explained(connection, relation, names, choice.condition)
    except (psycopg.ProgrammingError, psycopg.DataError) as error:
        reason = error.diag.message_primary or type(error).__name__
        what = f"condition on the target's columns: {reason}"
        raise NotAPart(given=scope.where, what=what) from error


def _not_archived(
    connection: psycopg.Connection[Any], domain: str, mapping: str, table: str
) -> None:
    archived = f"{archive.PREFIX}{table}"
    row = connection.execute(
        "SELECT to_regclass(quote_ident(%s)) IS NULL AND to_regclass(quote_ident(%s)) IS NOT NULL",
        (table, archived),
    ).fetchone()
    if row and row[0]:
        raise TableArchived(domain=domain, mapping=mapping, table=table, archived=archived)
