"""A key that cannot be written, or not even read: what can be told of it all the same."""

import psycopg

from migrator import reading
from migrator.changes import MappingKey
from migrator.mapping import Key, key_arguments
from migrator.reading import Connection, Prepared, Reading
from migrator.refusals import of_a_row


def known(source: Connection, target: Connection, prepared: Prepared, key: Key) -> Key | None:
    """The key in the target's text; None when it is none there."""
    try:
        if not prepared.shape.canonical:
            parts = [[part] for part in key]
            found = source.execute(prepared.statements.canonical, parts).fetchone()
            assert found is not None
            key = tuple(found)
        target.execute(prepared.statements.standing, key_arguments([key]))
    except psycopg.DataError:
        return None
    return key


def read(
    source: Connection, opposite: str, prepared: Prepared, name: MappingKey
) -> dict[str, Reading]:
    """What the source gives for a key; empty when it cannot be read."""
    try:
        return reading.read(source, opposite, {name[0]: (prepared, [name[1]])}, ()).readings
    except psycopg.Error as error:
        if not of_a_row(error):
            raise
        source.rollback()
        return {}
