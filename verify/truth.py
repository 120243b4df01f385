"""Whose version of a key counts: its rows on both sides, and the side that owns them (law L5)."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import sql

from estate.config import Config
from migrator import fragments as f
from migrator import mapping as m
from migrator import ownership, reading
from migrator.changes import MappingKey
from migrator.mapping import Key, Shape, Side, Stream, key_arguments, streams
from migrator.opposite import keys_of_rows
from migrator.ownership import Ownership
from migrator.plan import owns
from migrator.prepared import Mappings
from verify.barriers import ends
from verify.rows import Values
from verify.sides import Both

KEYS_PER_READ = 500
STANDING = sql.SQL(
    "SELECT {key}, ({route})::text, to_jsonb(t)::text, jsonb_build_array({columns})::text"
    " FROM {table} AS t WHERE {condition} ORDER BY {primary}"
)


@dataclass(frozen=True)
class Held:
    """A driving key's rows: as the mapping gives them, and as they stand in its target.

    Rows are their mapped columns, as text in the target's form; `whole` are the target's rows with
    all their columns, as JSON. `owner` is the side to which all of them belong, None when they
    belong to both or there are none. `leads` are the keys of the opposite stream behind them.
    """

    given: tuple[Values, ...]
    standing: tuple[Values, ...]
    whole: tuple[str, ...]
    owner: Side | None
    leads: tuple[MappingKey, ...]

    @property
    def differs(self) -> bool:
        """Whether sync would write anything for this key."""
        return sorted(self.given, key=repr) != sorted(self.standing, key=repr)

    @property
    def seal(self) -> str:
        """A name for just these rows on both sides: it changes when any of them does."""
        rows = [sorted(map(list, side), key=repr) for side in (self.given, self.standing)]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


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
        return self._mappings[mapping][mapping].shape

    def order(self, stream: Stream) -> list[str]:
        """A stream's mappings, parents before children."""
        return list(self._mappings[stream.mappings[0].name].order)

    def ownership(self) -> Ownership | None:
        """Who owns what, where both sides say the same; None while the owner is being moved."""
        with self._both.asking(self._both.old, self._both.new):
            old, new = (ownership.read(c, self._domain) for c in (self._both.old, self._both.new))
        return old if old == new else None

    def look(self, mapping: str, keys: Sequence[Key], owner: Ownership) -> dict[Key, Held]:
        """What is held under these keys. Raises ComparisonFailed, ConnectionLost.

        What the two sides give is of two moments, as near as two statements are.
        """
        found: dict[Key, Held] = {}
        for start in range(0, len(keys), KEYS_PER_READ):
            found |= self._look(mapping, keys[start : start + KEYS_PER_READ], owner)
        return found

    def _look(self, mapping: str, asked: Sequence[Key], owner: Ownership) -> dict[Key, Held]:
        stream, prepared = self._streams[mapping], self._mappings[mapping][mapping]
        source, target = ends(stream, self._both)
        keys = list(asked)
        with self._both.asking(source):
            seen = reading.read(source, stream.opposite, {mapping: (prepared, keys)}, ())
        given = seen.readings[mapping]
        canonical = {key: given.canonical[key] for key in keys}
        wanted = sorted(set(canonical.values()))
        standing: dict[Key, list[tuple[str | None, str, Values]]] = {}
        with self._both.asking(target):
            rows = target.execute(_standing(prepared.shape), key_arguments(wanted)).fetchall()
        for *name, route, row, texts in rows:
            standing.setdefault(tuple(name), []).append((route, row, tuple(json.loads(texts))))
        ways, columns = prepared.statements.ways, prepared.shape.columns
        found: dict[Key, Held] = {}
        for key, stored in canonical.items():
            routed, there = given.rows.get(stored, []), standing.get(stored, [])
            routes = [item.route for item in routed] + [route for route, *_ in there]
            mine, theirs = [item.row for item in routed], [values for *_, values in there]
            found[key] = Held(
                tuple(mine),
                tuple(theirs),
                tuple(row for _, row, _ in there),
                _owner(routes, owner),
                tuple(dict.fromkeys(keys_of_rows(ways, columns, [*mine, *theirs]))),
            )
        return found


def _owner(routes: Iterable[str | None], owner: Ownership) -> Side | None:
    sides: set[Side] = {"new" if owns(owner, "new", route) else "old" for route in routes}
    return sides.pop() if len(sides) == 1 else None


def _standing(shape: Shape) -> sql.Composed:
    return STANDING.format(
        key=f.texts("t", shape.mapping.key),
        route=m.route(shape.mapping),
        columns=f.texts("t", shape.columns),
        table=f.table(shape.table.name),
        condition=m.keys_condition(shape, "t"),
        primary=f.columns("t", shape.table.primary_key),
    )
