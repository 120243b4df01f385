"""Looking below rows that are to be deleted, in the transaction that is open in the target."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from psycopg import sql

from estate import catalog
from migrator import look
from migrator import statements as s
from migrator.changes import MappingKey
from migrator.families import Hanging, carried, deleted, written
from migrator.mapping import Key, Stream
from migrator.parts import Own
from migrator.plan import Plan, Values, Work, pick
from migrator.prepared import Mappings
from migrator.reading import Connection, Prepared, read

Level = Mapping[str, Sequence[Values]]


class Families:
    """Finds the rows of a stream's mappings that would go with others."""

    def __init__(
        self, stream: Stream, source: Connection, target: Connection, mappings: Mappings
    ) -> None:
        self._stream, self._source, self._target = stream, source, target
        self._mappings = mappings

    def look(
        self,
        plan: Plan,
        works: Sequence[Work],
        waiting: Collection[MappingKey],
        own: Own,
        xids: Iterable[int],
    ) -> list[Hanging]:
        """What hangs on the rows that the plan deletes, and on what would go with them.

        All of it is locked from then on. `waiting` are the parked keys of the opposite stream.
        """
        seen = deleted(plan) | written(plan, works)
        found: list[Hanging] = []
        level: Level = {name: rows for name, rows in plan.deletes.items() if rows}
        while level:
            below: dict[str, list[Values]] = {}
            for item in self._below(level, waiting, own):
                found.append(item)
                if item.node not in seen:
                    seen.add(item.node)
                    below.setdefault(item.mapping, []).append(item.row.primary)
            level = below
        return self._as_given(found, plan, works, xids)

    def _below(self, level: Level, waiting: Collection[MappingKey], own: Own) -> Iterable[Hanging]:
        parents = {self._mappings[name].shape.table.name: name for name in level}
        oids = [self._mappings[name].shape.table.oid for name in level]
        with self._target.pipeline():
            for name, rows in level.items():
                held = s.hold(self._mappings[name].shape)
                self._target.execute(held, look.in_columns(rows))
        # Not known beforehand: a backfill takes foreign keys off, and puts them back.
        references = catalog.referring(self._target, oids)
        children = {mapping.target: mapping.name for mapping in self._stream.mappings}
        asked = []
        with self._target.pipeline():
            for table, reference in references:
                if table not in children:
                    continue
                child, parent = self._mappings[children[table]], parents[reference.referenced_table]
                query = self._query(child, parent, reference)
                cursor = self._target.execute(query, look.in_columns(level[parent]))
                asked.append((children[table], child, parent, cursor))
            following = self._target.execute(s.NEXT_ID)
        own.look_again(int(following.fetchall()[0][0]))
        for name, child, parent, cursor in asked:
            width = len(self._mappings[parent].shape.table.primary_key)
            for row in cursor.fetchall():
                key, item = look.standing_row(child, row[width:], own)
                undecided = not set(item.leads).isdisjoint(waiting)
                yield Hanging(name, key, item, (parent, tuple(row[:width])), undecided)

    def _query(self, child: Prepared, parent: str, reference: catalog.ForeignKey) -> sql.Composed:
        above = self._mappings[parent].shape
        return s.hanging(child.shape, child.statements.ways, above, reference)

    def _as_given(
        self,
        found: list[Hanging],
        plan: Plan,
        works: Sequence[Work],
        xids: Iterable[int],
    ) -> list[Hanging]:
        """The same, told which of those that the plan says nothing of the source has still."""
        known, done = carried(works), deleted(plan) | written(plan, works)
        wanted: dict[str, tuple[Prepared, list[Key]]] = {}
        for name, key in {
            (item.mapping, item.key): None for item in found if item.node not in done
        }:
            if (name, key) not in known:
                wanted.setdefault(name, (self._mappings[name], []))[1].append(key)
        if not wanted:
            return found
        readings = read(self._source, self._stream.opposite, wanted, xids).readings
        given = {
            (name, pick(item.row, wanted[name][0].shape.primary_positions))
            for name, reading in readings.items()
            for rows in reading.rows.values()
            for item in rows
        }
        return [replace(item, given=item.node in given) for item in found]
