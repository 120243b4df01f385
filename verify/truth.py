"""Whose version of a key counts: its rows on both sides, and the side that owns them (law L5)."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg import sql

from estate import catalog
from estate.catalog import ForeignKey
from estate.config import Config
from migrator import fragments as f
from migrator import mapping as m
from migrator import ownership, reading, states
from migrator.changes import MappingKey
from migrator.mapping import Key, Shape, Side, Stream, key_arguments, streams
from migrator.opposite import keys_of_rows
from migrator.ownership import Ownership
from migrator.plan import Values, owns, pick
from migrator.prepared import Mappings
from migrator.reading import Prepared
from verify import checksum
from verify.barriers import ends
from verify.sides import Both, ComparisonFailed, Connection
from verify.subject import Subject

KEYS_PER_READ = 500
# Arrays of texts: to build JSON of so many values has a limit, and changes some of them.
STANDING = sql.SQL(
    "SELECT {key}, ({route})::text, to_jsonb(ARRAY[{columns}])::text,"
    " to_jsonb(ARRAY[{all}])::text FROM {table} AS t{others} WHERE {condition} ORDER BY {primary}"
)
BY_PRIMARY = sql.SQL(" JOIN unnest({arrays}) AS u({names}) ON {condition}")
CHILDREN = sql.SQL(
    "SELECT {names}, {child} FROM {table} AS t JOIN unnest({arrays}) AS u({names}) ON {condition}"
)
# By its text, whatever type the source has it in: the whole table is read, for a few rows.
GIVEN = sql.SQL(
    "SELECT {names} FROM unnest({arrays}) AS u({names})"
    " WHERE ({names}) IN (SELECT {primary} FROM (\n{query}\n) AS q)"
)
OUTSIDE: LiteralString = """
SELECT EXISTS (SELECT FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid
                WHERE o.confrelid = %s AND o.contype = 'f'
                  AND c.relnamespace <> 'public'::regnamespace)
"""


@dataclass(frozen=True)
class Held:
    """A driving key's rows: as the mapping gives them, and as they stand in its target.

    `stored` is the key's text in the target. Rows are their mapped columns, as text in the target's
    form; `whole` are the target's rows with all their columns. What the source gives under this
    key and the target has under another one stands among them. `owner` is the side to which all of
    them belong, None when they belong to both or there are none. `leads` are the keys of the
    opposite stream behind them.
    """

    stored: Key
    given: tuple[Values, ...]
    standing: tuple[Values, ...]
    whole: tuple[Values, ...]
    owner: Side | None
    leads: tuple[MappingKey, ...]

    @property
    def differs(self) -> bool:
        """Whether sync would write anything for this key."""
        return sorted(self.given, key=repr) != sorted(self.standing, key=repr)

    @property
    def seal(self) -> str:
        """A name for just these rows on both sides: it changes when any of them does."""
        rows = [sorted(map(list, side), key=repr) for side in (self.given, self.whole)]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


@dataclass(frozen=True)
class _Row:
    route: str | None
    values: Values
    whole: Values


class Truth:
    """Looks at keys of one domain's mappings on both sides, which are `both`."""

    def __init__(self, config: Config, domain: str, both: Both) -> None:
        self._both, self._domain = both, domain
        self._streams: dict[str, Stream] = {}
        self._mappings: dict[str, Mappings] = {}
        for stream in streams(config, domain):
            mappings = Mappings(stream, *ends(stream, both))
            for mapping in stream.mappings:
                self._streams[mapping.name] = stream
                self._mappings[mapping.name] = mappings
                # All of them at once: only then is the order parents first.
                with both.asking(*ends(stream, both)):
                    mappings[mapping.name]

    def stream(self, mapping: str) -> Stream:
        """The stream of a mapping; KeyError when there is none."""
        return self._streams[mapping]

    def shape(self, mapping: str) -> Shape:
        """What both sides know of a mapping."""
        return self._prepared(mapping).shape

    def order(self, stream: Stream) -> list[str]:
        """A stream's mappings, parents before children."""
        return list(self._mappings[stream.mappings[0].name].order)

    def ownership(self) -> Ownership | None:
        """Who owns what, where both sides say the same; None while the owner is being moved."""
        with self._both.asking(self._both.old, self._both.new):
            old, new = (ownership.read(c, self._domain) for c in (self._both.old, self._both.new))
        return old if old == new else None

    def as_logged(self, subject: Subject, keys: Sequence[Key]) -> dict[Key, list[Key]]:
        """How the source's log writes keys that are given in the target's text; a key that only
        the target has stands for itself."""
        if self.shape(subject.name).canonical:
            return {key: [key] for key in keys}
        found: dict[Key, list[Key]] = {}
        width = len(subject.source.key)
        for start in range(0, len(keys), KEYS_PER_READ):
            query = checksum.raw_keys(subject.source, keys[start : start + KEYS_PER_READ])
            for row in self._both.fetch(subject.source.connection, query):
                found.setdefault(tuple(row[width:]), []).append(tuple(row[:width]))
        return {key: found.get(key) or [key] for key in keys}

    def look(self, mapping: str, keys: Sequence[Key], owner: Ownership) -> dict[Key, Held]:
        """What is held under these keys, as the log has them; those are left out that are no value
        of the source's type.

        What the two sides give is of two moments, as near as two statements are. Raises
        ComparisonFailed or ConnectionLost.
        """
        found: dict[Key, Held] = {}
        for start in range(0, len(keys), KEYS_PER_READ):
            part = keys[start : start + KEYS_PER_READ]
            try:
                found |= self._look(mapping, part, owner)
            except ComparisonFailed as error:
                if not isinstance(error.__cause__, psycopg.DataError):
                    raise
                self._rest(mapping)
                if len(part) > 1:
                    for key in part:
                        found |= self.look(mapping, [key], owner)
        return found

    def _rest(self, mapping: str) -> None:
        """What was read when it failed is over."""
        source, _ = ends(self._streams[mapping], self._both)
        with self._both.asking(source):
            source.rollback()

    def _look(self, mapping: str, asked: Sequence[Key], owner: Ownership) -> dict[Key, Held]:
        stream, prepared = self._streams[mapping], self._prepared(mapping)
        source, target = ends(stream, self._both)
        keys = list(asked)
        with self._both.asking(source):
            seen = reading.read(source, stream.opposite, {mapping: (prepared, keys)}, ())
        given = seen.readings[mapping]
        standing = self._standing(prepared, target, given)
        ways, columns = prepared.statements.ways, prepared.shape.columns
        found: dict[Key, Held] = {}
        for key in keys:
            stored = given.canonical[key]
            routed, there = given.rows.get(stored, []), standing.get(stored, [])
            # A row whose parent is gone leads to nobody; beside others it decides nothing.
            routes: list[str | None] = [item.route for item in routed]
            routes += [row.route for row in there if row.route is not None or not routed]
            mine, theirs = [item.row for item in routed], [row.values for row in there]
            found[key] = Held(
                stored,
                tuple(mine),
                tuple(theirs),
                tuple(row.whole for row in there),
                _owner(routes, owner),
                tuple(dict.fromkeys(keys_of_rows(ways, columns, [*mine, *theirs]))),
            )
        return found

    def _standing(
        self, prepared: Prepared, target: Connection, given: reading.Reading
    ) -> dict[Key, list[_Row]]:
        """The target's rows of these keys, and those which the source gives under them."""
        wanted = sorted(set(given.canonical.values()))
        with self._both.asking(target):
            rows = target.execute(_by_key(prepared.shape), key_arguments(wanted)).fetchall()
        standing: dict[Key, list[_Row]] = {}
        for key, row in map(_row, rows):
            standing.setdefault(key, []).append(row)
        positions = prepared.shape.primary_positions
        comes = {
            pick(item.row, positions): key for key, items in given.rows.items() for item in items
        }
        home = {pick(row.values, positions): key for key in standing for row in standing[key]}
        elsewhere = [primary for primary, key in comes.items() if home.get(primary) != key]
        missing: list[list[str | None]] = [list(part) for part in zip(*elsewhere, strict=True)]
        if prepared.statements.elsewhere is not None and missing:
            with self._both.asking(target):
                rows = target.execute(_by_primary(prepared.shape), missing).fetchall()
            for _, row in map(_row, rows):
                home_key = comes.get(pick(row.values, positions))
                if home_key is not None:
                    standing.setdefault(home_key, []).append(row)
        return standing

    def references(self, mapping: str) -> tuple[ForeignKey, ...]:
        """The foreign keys of a mapping's target whose columns it carries."""
        return self._prepared(mapping).statements.references

    def parents(self, mapping: str, reference: ForeignKey, values: Sequence[Values]) -> set[Values]:
        """Which of these referenced values stand in the target."""
        prepared = self._prepared(mapping)
        number = prepared.statements.references.index(reference)
        target = ends(self._streams[mapping], self._both)[1]
        columns = [list(column) for column in zip(*values, strict=True)]
        with self._both.asking(target):
            found = target.execute(prepared.statements.parents[number], columns).fetchall()
        return {tuple(row) for row in found}

    def referring(self, mapping: str) -> list[tuple[str, ForeignKey]]:
        """The foreign keys that lead to a mapping's target, each with its table."""
        target = ends(self._streams[mapping], self._both)[1]
        with self._both.asking(target):
            return catalog.referring(target, [self.shape(mapping).table.oid])

    def referred_from_outside(self, mapping: str) -> bool:
        """Whether tables of other schemas refer to a mapping's target."""
        target = ends(self._streams[mapping], self._both)[1]
        with self._both.asking(target):
            row = target.execute(OUTSIDE, (self.shape(mapping).table.oid,)).fetchone()
        return bool(row and row[0])

    def given_by_the_source(self, mapping: str, primaries: Sequence[Values]) -> set[Values]:
        """Which of these primary keys the source gives, under whatever driving key."""
        shape = self.shape(mapping)
        source = ends(self._streams[mapping], self._both)[0]
        names = shape.table.primary_key
        query = GIVEN.format(
            names=f.names(len(names)),
            arrays=f.arrays(len(names)),
            primary=f.texts_of("q", names, [shape.cast(name) for name in names]),
            query=m.query(shape.mapping),
        )
        columns = [list(column) for column in zip(*primaries, strict=True)]
        with self._both.asking(source):
            return {tuple(row) for row in source.execute(query, columns).fetchall()}

    def live(self, mapping: str) -> bool:
        """Whether sync carries what changes at once."""
        stream = self._streams[mapping]
        target = ends(stream, self._both)[1]
        with self._both.asking(target):
            return states.read(target, stream.name).get(mapping) == "live"

    def children(
        self, mapping: str, table: str, reference: ForeignKey, values: Sequence[Values]
    ) -> list[tuple[Values, Values]]:
        """Rows of another table that refer to these values: the value, then their primary key."""
        target = ends(self._streams[mapping], self._both)[1]
        width = len(reference.columns)
        columns = [list(column) for column in zip(*values, strict=True)]
        with self._both.asking(target):
            primary = catalog.table(target, table).primary_key
            kinds = m.target_types(self.shape(mapping), reference.referenced_columns)
            query = CHILDREN.format(
                child=f.texts("t", primary or reference.columns),
                table=f.table(table),
                arrays=f.arrays(width),
                names=f.names(width),
                condition=f.equal("t", reference.columns, kinds),
            )
            rows = target.execute(query, columns).fetchall()
        return [(tuple(row[:width]), tuple(row[width:])) for row in rows]

    def _prepared(self, mapping: str) -> Prepared:
        return self._mappings[mapping][mapping]


def writable(shape: Shape) -> tuple[str, ...]:
    """The columns of a target that a statement may give a value, mapped or not."""
    return tuple(column.name for column in shape.table.columns if not column.generated)


def _owner(routes: Iterable[str | None], owner: Ownership) -> Side | None:
    sides: set[Side] = {"new" if owns(owner, "new", route) else "old" for route in routes}
    return sides.pop() if len(sides) == 1 else None


def _row(found: Sequence[str]) -> tuple[Key, _Row]:
    *key, route, values, whole = found
    return tuple(key), _Row(route, tuple(json.loads(values)), tuple(json.loads(whole)))


def _by_key(shape: Shape) -> sql.Composed:
    return _standing(shape, sql.SQL(""), m.keys_condition(shape, "t"))


def _by_primary(shape: Shape) -> sql.Composed:
    primary = shape.table.primary_key
    join = BY_PRIMARY.format(
        arrays=f.arrays(len(primary)),
        names=f.names(len(primary)),
        condition=f.equal("t", primary, m.target_types(shape, primary)),
    )
    return _standing(shape, join, sql.SQL("true"))


def _standing(shape: Shape, others: sql.Composable, condition: sql.Composable) -> sql.Composed:
    return STANDING.format(
        key=f.texts("t", shape.mapping.key),
        route=m.route(shape.mapping),
        columns=f.texts("t", shape.columns),
        all=f.texts("t", writable(shape)),
        table=f.table(shape.table.name),
        others=others,
        condition=condition,
        primary=f.columns("t", shape.table.primary_key),
    )
