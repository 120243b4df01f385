"""Changes on the side that does not own them: kept with both versions, never carried (law L5).

The owner's version is asked for in the same breath, by a message in the log that the opposite
stream reads: it carries those keys as if they had changed there, and the sides agree again.
"""

import json
import logging
from collections.abc import Mapping
from typing import LiteralString

from migrator import statements as s
from migrator.changes import AGAIN, MappingKey
from migrator.mapping import Key, Stream, key_arguments
from migrator.opposite import keys_of_rows
from migrator.pgoutput import lsn_text
from migrator.plan import Values
from migrator.reading import Connection, Prepared, Reading

log = logging.getLogger(__name__)
ASK_AGAIN: LiteralString = "SELECT pg_logical_emit_message(true, %s, %s)"


class Strays:
    """Parks strays of one stream in its target, inside the transaction that is open there."""

    def __init__(self, stream: Stream, target: Connection) -> None:
        self._stream, self._target = stream, target

    def park(
        self,
        names: list[MappingKey],
        prepared: Mapping[str, Prepared],
        readings: Mapping[str, Reading],
        epoch: int | None,
        lsn: int | None,
    ) -> None:
        """Write them down with both versions and ask for the owner's."""
        if not names:
            return
        held = self._held(names, prepared)
        given: list[str] = []
        asked: list[bool] = []
        again: set[tuple[str, Key]] = set()
        for name, key in names:
            shape, found = prepared[name].shape, prepared[name].statements.ways
            rows = [item.row for item in readings[name].rows.get(key, [])]
            given.append(json.dumps([dict(zip(shape.columns, row, strict=True)) for row in rows]))
            ways = set(keys_of_rows(found, shape.columns, [*rows, *held[(name, key)][1]]))
            asked.append(bool(ways))
            again |= ways
        log.warning("%s: %d stray(s), the first %s %s", self._stream.name, len(names), *names[0])
        position = None if lsn is None else lsn_text(lsn)
        versions = [held[name][0] for name in names]
        columns = s.name_arguments(names)
        arguments = (self._stream.name, epoch, position, *columns, given, versions, asked)
        self._target.execute(s.STRAY, arguments)
        if again:
            content = json.dumps({"stream": self._stream.opposite, "keys": sorted(again)})
            self._target.execute(ASK_AGAIN, (AGAIN, content))

    def _held(
        self, names: list[MappingKey], prepared: Mapping[str, Prepared]
    ) -> dict[MappingKey, tuple[str, list[Values]]]:
        """For each key the target's rows, as JSON, and their mapped columns as texts."""
        found: dict[MappingKey, tuple[str, list[Values]]] = {name: ("[]", []) for name in names}
        for name in dict.fromkeys(name for name, _ in names):
            keys = [key for item, key in names if item == name]
            query = prepared[name].statements.versions
            for row in self._target.execute(query, key_arguments(keys)).fetchall():
                *key, version, texts = row
                rows = [tuple(values) for values in json.loads(texts)]
                found[(name, tuple(key))] = (version, rows)
        return found
