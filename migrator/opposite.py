"""The stream of the other direction: which of its keys lead to the rows of our target."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from migrator.changes import MappingKey
from migrator.mapping import Shape, Stream
from migrator.plan import Values


@dataclass(frozen=True)
class Way:
    """The columns of a table that hold the driving key of one of the opposite stream's mappings."""

    mapping: str
    columns: tuple[str, ...]

    def key(self, values: Sequence[str | None]) -> MappingKey | None:
        """The key to which these values of its columns lead; a null leads nowhere."""
        found = tuple(value for value in values if value is not None)
        return (self.mapping, found) if len(found) == len(values) else None


def ways(stream: Stream, table: str) -> tuple[Way, ...]:
    """How the opposite stream comes from rows of this table to its keys."""
    return tuple(
        Way(f"{stream.opposite}.{config.target}", tuple(leads[part] for part in config.key))
        for config in stream.returning
        if (leads := config.sources.get(table)) is not None
    )


def keys_of_rows(stream: Stream, shape: Shape, rows: Iterable[Values]) -> Iterable[MappingKey]:
    """The opposite stream's keys to which rows of the target lead, given their mapped columns.

    A way over a column that is not mapped cannot be told from such a row.
    """
    for way in ways(stream, shape.table.name):
        if set(way.columns) <= set(shape.columns):
            positions = [shape.columns.index(column) for column in way.columns]
            for row in rows:
                key = way.key([row[n] for n in positions])
                if key is not None:
                    yield key
