"""A stream's mappings with the statements made for them, in the order parents first."""

from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from estate import catalog
from estate.catalog import ForeignKey
from migrator import mapping as m
from migrator import opposite, statements
from migrator.mapping import Shape, Stream
from migrator.plan import Reference, Values
from migrator.reading import Connection, Prepared


@dataclass(frozen=True)
class _Parent:
    mapping: str
    positions: tuple[int, ...]
    refers_to_primary: bool


class Mappings:
    """Statements are made when a mapping is first carried: an archived table has none."""

    def __init__(self, stream: Stream, source: Connection, target: Connection) -> None:
        self._stream, self._source, self._target = stream, source, target
        self._prepared: dict[str, Prepared] = {}
        self.order: list[str] = []

    def __getitem__(self, name: str) -> Prepared:
        """The mapping of this name, ready. Raises MappingMismatch or TableMissing."""
        if name not in self._prepared:
            shape = m.shape(self._source, self._target, self._stream.mapping(name))
            ways = opposite.ways(self._stream, shape.table.name)
            self._prepared[name] = Prepared(shape, statements.make(shape, ways))
            self.order = _parents_before_children(self._prepared)
        return self._prepared[name]

    def forget(self) -> None:
        """Make them anew when they are needed: tables have other columns than before."""
        self._prepared.clear()
        self.order.clear()

    @property
    def moved(self) -> bool:
        """Whether a target has other columns than the statements were made for."""
        made = [prepared.shape.table for prepared in self._prepared.values()]
        found = catalog.layouts(self._target, [table.oid for table in made])
        return any(found.get(table.oid) != table.layout for table in made)

    @property
    def by_table(self) -> dict[str, Prepared]:
        """Those made so far, by target table."""
        return {prepared.shape.table.name: prepared for prepared in self._prepared.values()}

    def parents(self, name: str) -> set[str]:
        """The mappings of the stream that fill tables to which this one's table refers.

        In a ring of references somebody has to begin: those later in the order are left out.
        """
        known = {mapping.target: mapping.name for mapping in self._stream.mappings}
        referred = {key.referenced_table for key in self[name].shape.table.foreign_keys}
        parents = {known[table] for table in referred if table in known} - {name}
        later = set(self.order[self.order.index(name) :])
        return parents - later

    def references(self, name: str, present: list[frozenset[Values]]) -> tuple[Reference, ...]:
        """The foreign keys of a mapping's target, each with the values that the target holds."""
        prepared = self[name]
        columns = prepared.shape.columns
        found = []
        for key, values in zip(prepared.statements.references, present, strict=True):
            parent = self._parent(key)
            found.append(
                Reference(
                    name=key.name,
                    positions=tuple(columns.index(column) for column in key.columns),
                    parent=parent.mapping if parent else None,
                    parent_positions=parent.positions if parent else (),
                    refers_to_primary=parent is not None and parent.refers_to_primary,
                    present=values,
                )
            )
        return tuple(found)

    def _parent(self, key: ForeignKey) -> _Parent | None:
        """The mapping made so far whose rows hold what this foreign key refers to."""
        prepared = self.by_table.get(key.referenced_table)
        if prepared is None:
            return None
        shape: Shape = prepared.shape
        if not set(key.referenced_columns) <= set(shape.columns):
            return None
        positions = tuple(shape.columns.index(column) for column in key.referenced_columns)
        primary = key.referenced_columns == shape.table.primary_key
        return _Parent(shape.mapping.name, positions, primary)


def _parents_before_children(prepared: dict[str, Prepared]) -> list[str]:
    by_target = {item.shape.table.name: name for name, item in prepared.items()}
    graph = {
        name: {
            by_target[key.referenced_table]
            for key in item.shape.table.foreign_keys
            if key.referenced_table in by_target
        }
        - {name}
        for name, item in prepared.items()
    }
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError:
        # Tables that refer to each other in a ring have no order; late parents are waited for.
        return list(prepared)
