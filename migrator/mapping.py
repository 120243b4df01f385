"""Mappings and streams: one query per target table and direction, and the SQL made from it.

A mapping's query is the only description of its data (law L1). Backfill, apply and diff select
from it by keys or by ranges of keys; all these statements are composed here.

Statements that hold a query double its percent signs: execute them with parameters, always.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, LiteralString

import psycopg
from psycopg import sql

from estate import catalog
from estate.config import Config, DatabaseConfig, DomainConfig, MappingConfig, StrayRule
from estate.errors import ExitCode, SplitctlError
from migrator import fragments as f

Direction = Literal["forward", "reverse"]
Side = Literal["old", "new"]
Key = tuple[str, ...]
Row = tuple[str | None, ...]
ROUTE = "splitctl_route"


def other(side: Side) -> Side:
    """The side that this one is not."""
    return "new" if side == "old" else "old"


class MappingMismatch(SplitctlError):
    """Mapping '{mapping}' does not fit its tables: {reason}. Nothing was changed."""

    hint = "correct its query or its key in the configuration, then: splitctl doctor"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Mapping:
    """One query for one target table. `name` is <domain>.<direction>.<target>."""

    name: str
    config: MappingConfig

    @property
    def target(self) -> str:
        """The table it fills."""
        return self.config.target

    @property
    def key(self) -> tuple[str, ...]:
        """The driving key: columns of the target and of the query's output."""
        return self.config.key


@dataclass(frozen=True)
class Stream:
    """A domain's sync in one direction: one slot, one publication, one applier.

    `ledger`: where its keys find refuge while the target is away.
    """

    domain: DomainConfig
    direction: Direction
    source: DatabaseConfig
    target: DatabaseConfig
    mappings: tuple[Mapping, ...]
    ledger: DatabaseConfig

    @property
    def name(self) -> str:
        """<domain>.<direction>."""
        return f"{self.domain.name}.{self.direction}"

    @property
    def slot(self) -> str:
        """The replication slot on the source."""
        return f"splitctl_{self.domain.name}_{self.direction}"

    @property
    def publication(self) -> str:
        """The publication on the source; it has the slot's name."""
        return self.slot

    @property
    def opposite(self) -> str:
        """The name of the domain's stream in the other direction."""
        return f"{self.domain.name}.{'reverse' if self.direction == 'forward' else 'forward'}"

    @property
    def opposite_publication(self) -> str:
        """The publication on the target, from which that other stream reads."""
        return f"splitctl_{self.opposite.replace('.', '_')}"

    @property
    def returning(self) -> tuple[MappingConfig, ...]:
        """The mappings of that other direction, as they are configured."""
        forward = self.direction == "forward"
        return tuple(self.domain.reverse if forward else self.domain.forward)

    @property
    def source_side(self) -> Side:
        """The side whose changes it carries."""
        return "old" if self.direction == "forward" else "new"

    @property
    def tables(self) -> tuple[str, ...]:
        """The base tables of all its mappings, each once, in the configuration's order."""
        return tuple(dict.fromkeys(name for m in self.mappings for name in m.config.sources))

    def mapping(self, name: str) -> Mapping:
        """The mapping of this name; KeyError when there is none."""
        for mapping in self.mappings:
            if mapping.name == name:
                return mapping
        raise KeyError(name)


def streams(config: Config, domain: str | None = None) -> list[Stream]:
    """Both streams of a domain, forward first, or of every domain. Raises UnknownName."""
    if domain is not None:
        config.domain(domain)
    return [
        _stream(config, item, direction)
        for item in config.domains.values()
        if domain in (None, item.name)
        for direction in ("forward", "reverse")
    ]


def _stream(config: Config, domain: DomainConfig, direction: Direction) -> Stream:
    old, new = config.database(domain.old), config.database(domain.new)
    forward = direction == "forward"
    configs = domain.forward if forward else domain.reverse
    return Stream(
        domain=domain,
        direction=direction,
        source=old if forward else new,
        target=new if forward else old,
        mappings=tuple(Mapping(f"{domain.name}.{direction}.{c.target}", c) for c in configs),
        ledger=config.ledger_database,
    )


@dataclass(frozen=True)
class Shape:
    """A mapping as both databases know it.

    `columns` are the mapped columns in the query's order, without the route; `casts` gives for
    each the type in whose text form the source is asked for it (the target's own, as far as the
    source knows it). `key_types` are the query's own types of the driving key. `table` is the
    target's catalogue entry. `canonical`: a key's text in the log is also its text in the target.
    """

    mapping: Mapping
    columns: tuple[str, ...]
    casts: tuple[str, ...]
    key_types: tuple[str, ...]
    table: catalog.Table
    canonical: bool

    @property
    def key_positions(self) -> tuple[int, ...]:
        """Where the driving key stands among the columns."""
        return tuple(self.columns.index(name) for name in self.mapping.key)

    @property
    def primary_positions(self) -> tuple[int, ...]:
        """Where the target's primary key stands among the columns."""
        return tuple(self.columns.index(name) for name in self.table.primary_key)

    def cast(self, column: str) -> str:
        """The type in whose text form this column travels."""
        return self.casts[self.columns.index(column)]


INTEGERS = frozenset(["smallint", "integer", "bigint"])
# Types whose binary form is the same on every server that the tool knows; an array's would carry
# the number of its element's type.
BINARY = INTEGERS | {
    "uuid",
    "boolean",
    "text",
    "bytea",
    "date",
    "real",
    "double precision",
    "numeric",
    "json",
    "jsonb",
    "inet",
    "timestamp with time zone",
    "timestamp without time zone",
    "time without time zone",
    "interval",
}
PRECISION = re.compile(r"\([^)]*\)")
# The log writes a value as its type does, a query as a cast to text does: not everywhere the same
# (a boolean is t in one and true in the other).
WRITTEN_ALIKE = frozenset(["integer", "text", "uuid", "date", "numeric"])
# What the rule `newest` can compare: whole numbers, and times with and without their zone.
ORDERED = re.compile(r"smallint|integer|bigint|date|timestamp(\(\d\))? with(out)? time zone")
NO_ROWS = sql.SQL("SELECT * FROM (\n{query}\n) q LIMIT 0")
# Only what the server brings counts as known: an enum or a domain of the same name may have other
# labels or another check in the source. As text it travels just as well.
KNOWN_TYPES: LiteralString = """
SELECT name FROM unnest(%s::text[]) AS t(name) JOIN pg_type y ON y.oid = to_regtype(name)
 WHERE y.oid < 16384
"""
# As format_type writes them; other types may have names that begin like these.
LENGTHS = re.compile(r"(character|bit)(?: varying)?(?:\(\d+\))?((?:\[\])?)")
WITHOUT_LENGTH = {"character": "text", "bit": "bit varying"}
TYPE_NAMES: LiteralString = (
    "SELECT format_type(oid, NULL) FROM unnest(%s::oid[]) WITH ORDINALITY AS t(oid, n) ORDER BY n"
)


def query(mapping: Mapping) -> sql.Composable:
    """The mapping's query as a subquery's body, for statements executed with parameters."""
    return f.verbatim(mapping.config.sql)


def route(mapping: Mapping) -> sql.Composable:
    """The expression that gives a target row's stable id; the row is called t."""
    return f.verbatim(mapping.config.route)


def described(source: psycopg.Connection[Any], mapping: Mapping) -> dict[str, int]:
    """The columns the query gives, with the route: name to type oid. Raises MappingMismatch."""
    try:
        cursor = source.execute(NO_ROWS.format(query=query(mapping)), ())
    except psycopg.ProgrammingError as error:
        reason = f"its query fails on the source: {error.diag.message_primary or error}"
        raise MappingMismatch(mapping=mapping.name, reason=reason) from error
    found = {column.name: column.type_code for column in cursor.description or ()}
    if len(found) < len(cursor.description or ()):
        raise MappingMismatch(mapping=mapping.name, reason="its query gives a column twice")
    return found


def columns(source: psycopg.Connection[Any], mapping: Mapping) -> tuple[str, ...]:
    """The mapped columns: what the query gives, without the route. Raises MappingMismatch."""
    return tuple(name for name in described(source, mapping) if name != ROUTE)


def shape(
    source: psycopg.Connection[Any],
    target: psycopg.Connection[Any],
    mapping: Mapping,
    table: catalog.Table | None = None,
) -> Shape:
    """Look at both sides of a mapping. Raises MappingMismatch or TableMissing.

    `table` stands for the target's catalogue entry while its keys are set aside.
    """
    given = described(source, mapping)
    table = table or catalog.table(target, mapping.target)
    names = tuple(name for name in given if name != ROUTE)
    _check(mapping, tuple(given), table)
    types = [travel_type(column) for name in names if (column := table.column(name)) is not None]
    known = {str(row[0]) for row in source.execute(KNOWN_TYPES, (types,)).fetchall()}
    casts = tuple(name if name in known else "text" for name in types)
    oids = [given[name] for name in mapping.key]
    named = source.execute(TYPE_NAMES, (oids,)).fetchall()
    key_types = tuple(_without_length(str(row[0])) for row in named)
    key_casts = tuple(casts[names.index(name)] for name in mapping.key)
    canonical = _canonical(source, mapping, key_types, key_casts)
    return Shape(mapping, names, casts, key_types, table, canonical)


def _check(mapping: Mapping, given: tuple[str, ...], table: catalog.Table) -> None:
    def refuse(reason: str) -> None:
        raise MappingMismatch(mapping=mapping.name, reason=reason)

    if ROUTE not in given:
        refuse(f"its query gives no column {ROUTE}")
    strangers = [n for n in given if n != ROUTE and table.column(n) is None]
    if strangers:
        refuse(f"'{table.name}' has no column {', '.join(strangers)}")
    computed = [c.name for c in table.columns if c.generated and c.name in given]
    if computed:
        refuse(f"'{table.name}' computes {', '.join(computed)} by itself")
    fixed = [c.name for c in table.columns if c.always and c.name in given]
    fixed = [name for name in fixed if name not in table.primary_key]
    if fixed:
        refuse(f"'{table.name}' never lets {', '.join(fixed)} be changed")
    if not table.primary_key:
        refuse(f"'{table.name}' has no primary key")
    lacking = [n for n in (*table.primary_key, *mapping.key) if n not in given]
    if lacking:
        refuse(f"its query does not give {', '.join(dict.fromkeys(lacking))}")
    problem = of_stray_rule(mapping.config.stray, given, table)
    if problem is not None:
        refuse(problem)


def of_stray_rule(rule: StrayRule, given: Collection[str], table: catalog.Table) -> str | None:
    """Why the rule for strays does not fit a query that gives these columns, if it does not."""
    if rule.column is None:
        return None
    column = table.column(rule.column)
    if rule.column not in given or column is None:
        return f"the rule for strays compares {rule.column}, which the query does not give"
    if not ORDERED.fullmatch(column.type):
        return f"the rule for strays compares {rule.column}, no time and no whole number"
    return None


def _canonical(
    source: psycopg.Connection[Any],
    mapping: Mapping,
    key_types: tuple[str, ...],
    key_casts: tuple[str, ...],
) -> bool:
    """Whether base columns, query and target write a key alike."""
    for table_name, leads in mapping.config.sources.items():
        table = catalog.table(source, table_name)
        for name, own, wanted in zip(mapping.key, key_types, key_casts, strict=True):
            column = table.column(leads[name])
            if column is None:
                reason = f"'{table_name}' has no column {leads[name]}"
                raise MappingMismatch(mapping=mapping.name, reason=reason)
            written = {_written(column.type), _written(own), _written(wanted)}
            if len(written) > 1 or not written <= WRITTEN_ALIKE:
                return False
    return True


def _written(kind: str) -> str:
    """A type by how its values are written: whole numbers look the same in all their widths."""
    if kind in INTEGERS:
        return "integer"
    # Filled up with blanks in the log, without them as a text.
    return "bpchar" if kind.startswith("character(") else plain(kind)


def _without_length(kind: str) -> str:
    """A type as a cast that cuts nothing: `character` alone would be one letter."""
    return {"character": "bpchar", "bit": "bit varying"}.get(kind, kind)


def in_binary(shape: Shape) -> bool:
    """Whether rows may travel in binary: each column in a type that both sides know alike."""
    for name, cast in zip(shape.columns, shape.casts, strict=True):
        column = shape.table.column(name)
        assert column is not None
        if cast != travel_type(column) or PRECISION.sub("", cast) not in BINARY:
            return False
    return True


def travel_type(column: catalog.Column) -> str:
    """The type to cast to on the way.

    An explicit cast to varchar(n) or bit(n) cuts silently; the assignment to the column, later,
    reports what is too long. So these travel without their length. A domain travels as what is
    below it: what it checks is for the target to check.
    """
    return plain(column.base or column.type)


def plain(name: str) -> str:
    """A type without its length: text for every kind of character string."""
    cut = LENGTHS.fullmatch(name)
    return f"{WITHOUT_LENGTH[cut[1]]}{cut[2]}" if cut else name


# Each part of the key bounds by itself, so that it reaches an index below a GROUP BY too; the last
# condition makes it exact when the key has more than one column.
ROWS = sql.SQL("SELECT {columns}, q.splitctl_route::text FROM (\n{query}\n) q WHERE {condition}")
ANY_OF = sql.SQL("{column} = ANY(%s::text[]::{type}[])")
# IS TRUE keeps it a look-up in a hash table: as a join it is planned without knowing how many keys.
PAIRS = sql.SQL("(({columns}) IN (SELECT {casts} FROM unnest({arrays}) AS u({names}))) IS TRUE")


def rows_by_keys(shape: Shape) -> sql.Composed:
    """Rows of these driving keys: mapped columns as text, then the route.

    Parameters: `key_arguments`. One array of texts per key column, twice when the key is composite.
    """
    return ROWS.format(
        columns=f.texts_of("q", shape.columns, shape.casts),
        query=query(shape.mapping),
        condition=keys_condition(shape, "q", source=True),
    )


def keys_condition(shape: Shape, alias: str, *, source: bool = False) -> sql.Composable:
    """`alias`'s driving key is among the given keys. Parameters: `key_arguments`."""
    key = shape.mapping.key
    own = shape.key_types if source else target_types(shape, key)
    types = [f.verbatim(name) for name in own]
    fields = [f.identifier(alias, name) for name in key]
    each = [ANY_OF.format(column=c, type=t) for c, t in zip(fields, types, strict=True)]
    if len(key) == 1:
        return each[0]
    exact = PAIRS.format(
        columns=f.listed(fields),
        casts=f.listed(sql.SQL("{}::{}").format(f.value(n), t) for n, t in enumerate(types)),
        arrays=f.arrays(len(key)),
        names=f.names(len(key)),
    )
    return f.together([*each, exact])


def key_arguments(keys: list[Key]) -> list[list[str]]:
    """Parameters for a statement with `keys_condition`: the keys' parts, column by column."""
    parts = [[key[n] for key in keys] for n in range(len(keys[0]))]
    return parts if len(parts) == 1 else parts + parts


def target_types(shape: Shape, names: tuple[str, ...]) -> tuple[str, ...]:
    """The travelling types of the target's columns."""
    columns = {column.name: column for column in shape.table.columns}
    return tuple(travel_type(columns[name]) for name in names)
