"""How a transaction that writes rows begins: what it is told of claim, owner and states."""

from dataclasses import dataclass
from typing import Any

import psycopg

from estate.errors import ExitCode, SplitctlError
from migrator.ownership import Ownership


class Superseded(SplitctlError):
    """Another worker has taken over stream '{stream}'; this one wrote nothing more."""

    hint = "splitctl sync status"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Entered:
    """The transaction's own 64-bit id, who owns what, and the state of each mapping.

    Owner and states are locked: they stay so until the transaction ends.
    """

    own: int
    ownership: Ownership | None
    states: dict[str, str]


def entered(cursor: psycopg.Cursor[Any], stream: str) -> Entered:
    """What `statements.ENTER` or `ENTER_BESIDE` gave. Raises Superseded without the claim."""
    row = cursor.fetchone()
    if row is None:
        raise Superseded(stream=stream)
    own, new_below, epoch, states = row
    ownership = None if epoch is None else Ownership(int(new_below), int(epoch))
    return Entered(int(own), ownership, dict(states or {}))
