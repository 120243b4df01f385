"""Where in a table the differences lie: counts over equal parts of it, in the order of its key.

The parts are those of the server's own statistics of the key's first column, so this costs one
query whatever the table's size.
"""

from collections.abc import Sequence
from typing import LiteralString

import psycopg
from psycopg import sql

from verify.subject import Subject

PARTS: LiteralString = """
SELECT histogram_bounds::text FROM pg_stats
 WHERE schemaname = 'public' AND tablename = %s AND attname = %s AND histogram_bounds IS NOT NULL
 ORDER BY inherited DESC LIMIT 1
"""
# What lies before the first or behind the last part is counted into that.
COUNT = sql.SQL("""
WITH bounds AS (SELECT {bounds}::{kind}[] AS known)
SELECT cardinality(known) - 1,
       least(greatest(width_bucket(k.text::{kind}, known), 1), cardinality(known) - 1), count(*)
  FROM bounds, unnest({keys}::text[]) AS k(text)
 WHERE k.text IS NOT NULL
 GROUP BY 1, 2
""")


def spread(subject: Subject, keys: Sequence[str | None]) -> list[int]:
    """How many rows with these first key columns lie in each part of the target.

    Empty where the server has no statistics of that column, or cannot order it.
    """
    column = subject.target.key[0]
    if not keys:
        return []
    try:
        row = subject.target.connection.execute(PARTS, (subject.table, column.name)).fetchone()
        if row is None:
            return []
        query = COUNT.format(
            bounds=sql.Literal(str(row[0])),
            keys=sql.Literal(list(keys)),
            kind=sql.SQL(column.target.bare),
        )
        counted = subject.target.connection.execute(query).fetchall()
    except psycopg.Error:
        # A strip less is no reason to lose a verdict; a lost connection is met again at once.
        return []
    cells = [0] * (int(counted[0][0]) if counted else 0)
    for _, part, count in counted:
        cells[int(part) - 1] = int(count)
    return cells
