"""The words of the model: rows, streams, the state of everything, and what is promised of it."""

from typing import NamedTuple, TypeVar

T = TypeVar("T")
OLD, NEW, HELD = 0, 1, 2
# No story has so many writes.
MANY_STRAYS = 6


class Row(NamedTuple):
    """What stands on a side. `hidden`: committed and in the log, but no snapshot sees it yet.

    `number` says which of the side's own writes made it, 0: sync did.
    """

    version: int = 0
    gone: bool = True
    number: int = 0
    hidden: tuple[int, bool] | None = None


class Hand(NamedTuple):
    """What a worker has read and not yet written."""

    kind: str  # batch, drain, retry
    entries: int
    row: tuple[int, bool]
    known: int
    opposite_waits: bool
    generation: int = 0


class Stream(NamedTuple):
    """One direction; it stands under the side that it reads.

    `unread` is the log beyond the committed position: w a write, c a carried one, b a barrier, a
    an asking again. `spool` is the generation of the key there, 0 when it is not.
    """

    unread: tuple[str, ...] = ()
    mapping: str = "live"
    spool: int = 0
    waits: str = ""
    hand: Hand | None = None
    cut_off: Hand | None = None
    decided: int = 0
    running: bool = True
    remembered: tuple[int, bool] | None = None


class State(NamedTuple):
    """Everything. Pairs are indexed by side; `owner` is what each side's owner row says."""

    rows: tuple[Row, Row]
    streams: tuple[Stream, Stream]
    owner: tuple[int, int] = (OLD, OLD)
    # How many writes each side had when its owner row last changed.
    since: tuple[int, int] = (0, 0)
    writes: tuple[int, int] = (0, 0)
    under_way: tuple[bool, bool] = (False, False)
    flag: int = OLD
    step: str = ""
    copy: str = "copied"
    chunk: tuple[int, bool] | None = None
    history: tuple[int, ...] = (0,)
    kept: int = 0
    strays: int = 0
    # What may still happen.
    customers: int = 0
    deletes: int = 0
    others: int = 0
    jobs: int = 0
    crashes: int = 0
    stops: int = 0
    refusals: int = 0
    deaths: int = 0
    moves: str = ""
    # A stray needs somebody who wrote without asking, or a rollback that did not wait.
    excused: bool = False


def at_rest(state: State) -> bool:
    """Nothing is under way anywhere."""
    return (
        all(
            not s.unread and not s.spool and not s.waits and not s.hand and s.mapping == "live"
            for s in state.streams
        )
        and not any(state.under_way)
        and not any(row.hidden for row in state.rows)
        and not state.step
        and state.copy == "copied"
        and state.owner[OLD] == state.owner[NEW] == state.flag
    )


def promise(state: State) -> str | None:
    """What is broken, if anything."""
    if state.strays > MANY_STRAYS:
        return "strays without end"
    if not at_rest(state):
        return None
    old, new = state.rows
    if (old.gone, new.gone) != (True, True) and old[:2] != new[:2]:
        return "the sides differ"
    seen = state.kept | state.history[old.version] | state.history[new.version]
    lost = [v for v in range(1, len(state.history)) if not seen >> v & 1]
    if lost:
        return f"acknowledged version {lost[0]} is lost"
    return "a stray without a reason" if state.strays and not state.excused else None


def by_itself(label: str) -> bool:
    """Whether a step needs nobody from outside: such steps must lead to rest."""
    return not label.startswith("!")


def with_stream(s: State, side: int, stream: Stream) -> State:
    """The state with another stream from this side."""
    return s._replace(streams=put(s.streams, side, stream))


def put(pair: tuple[T, T], side: int, value: T) -> tuple[T, T]:
    """The pair with another value for this side."""
    return (value, pair[1]) if side == 0 else (pair[0], value)
