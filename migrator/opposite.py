"""The stream of the other direction: which of its keys lead to the rows of our target."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from migrator.changes import MappingKey
from migrator.mapping import Stream
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


def keys_of_rows(
    found: Iterable[Way], columns: Sequence[str], rows: Iterable[Values]
) -> Iterable[MappingKey]:
    """The opposite stream's keys to which rows of these columns lead, by the ways that were found.

    A way over a column that is not among them cannot be told from such a row.
    """
    for way in found:
        if set(way.columns) <= set(columns):
            positions = [columns.index(column) for column in way.columns]
            for row in rows:
                key = way.key([row[n] for n in positions])
                if key is not None:
                    yield key
