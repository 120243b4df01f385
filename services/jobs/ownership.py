"""Who owns a bucket, asked inside the transaction that is going to write."""

from typing import Any, Literal

import psycopg

Connection = psycopg.Connection[tuple[Any, ...]]
Side = Literal["old", "new"]

CARRIED = "SELECT to_regprocedure('splitctl_sync.owns(text,text,text)') IS NOT NULL"
OWNS = "SELECT splitctl_sync.owns(%s, %s, %s)"


def owns(
    connection: Connection, domain: str, route: str, side: Side, alone: bool | None = None
) -> bool:
    """Whether this side owns the stable id's bucket. The answer holds until the transaction ends.

    Where nothing is carried between the sides there is nobody to ask: before sync began, and after
    it was torn down. `alone` says whether this side then owns everything; None: the old side does.
    """
    if not _truth(connection.execute(CARRIED).fetchone()):
        return side == "old" if alone is None else alone
    return _truth(connection.execute(OWNS, [domain, route, side]).fetchone())


def _truth(row: tuple[Any, ...] | None) -> bool:
    return row is not None and bool(row[0])
