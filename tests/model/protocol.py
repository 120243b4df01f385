"""The protocol: two sides with their rows, two streams, a copy, steps and rollbacks.

Read `states` for the words; then `carrying` (the worker), `settling` (what becomes of a key),
`copying` (the backfill), `refuge` (the target is away), `moving` (steps and the way back), and
`writers` (everybody else). `cures` are what can be left out, `stories` where a search begins.
"""

from collections.abc import Iterator

from tests.model import carrying, copying, moving, refuge, writers
from tests.model.cures import Without
from tests.model.states import NEW, OLD, State, side_put


class Protocol:
    """The steps that are possible in a state, with some cures left out."""

    def __init__(self, *without: Without) -> None:
        self._without = frozenset(without)

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """Everything that can happen next. A label with ! comes from outside."""
        if state.stopped:
            return
        for part in (writers, carrying, copying, moving, refuge):
            for label, after in part.steps(state, self._without):
                yield label, _with_moves(state, after)


def _with_moves(before: State, after: State) -> State:
    """Each move of an owner row is recorded with what had ended before it (ownership.py)."""
    if after.owner == before.owner:
        return after
    since = before.since
    for side in (OLD, NEW):
        if after.owner[side] != before.owner[side]:
            # What is not visible yet had not ended.
            hidden = after.hidden[side] is not None
            since = side_put(since, side, after.writes[side] - hidden)
    return after._replace(since=since)
