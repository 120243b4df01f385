"""The words of the model: rows, streams, the state of everything, and what is promised of it.

A *version* is what a writer left behind under a key; it knows the versions that its writer had
seen. So "nothing is lost" can be asked of every state in which all is at rest.
"""

from typing import NamedTuple, TypeVar

T = TypeVar("T")
OLD, NEW, HELD = 0, 1, 2
NAMES = ("old", "new")
# The two keys: a parent and its child, or two rows with a unique value.
KEYS = ("a", "b")
# No story has so many writes.
MANY_STRAYS = 6


class Version(NamedTuple):
    """One write. `seen`: the versions that its writer had seen, itself too, as bits."""

    key: int
    seen: int
    value: int


class Change(NamedTuple):
    """What one transaction does to its keys: write, delete, swap (the unique value), move or huge.

    A move takes something from under the first key and puts it under the second; a huge one is
    told in parts, because the worker cannot hold its keys.
    """

    kind: str
    keys: tuple[int, ...]


class Row(NamedTuple):
    """What stands on a side. `number`: which of the side's own writes made it, 0: sync did."""

    version: int = 0
    gone: bool = True
    number: int = 0


Read = tuple[int, bool]  # the version, and whether the row is gone


class Hidden(NamedTuple):
    """A transaction that is committed and in the log, but no snapshot sees it yet."""

    number: int
    rows: tuple[tuple[int, Read], ...]


class Entry(NamedTuple):
    """One transaction in the log: write, huge, carried (by sync), marker, ask (the owner's row)."""

    kind: str
    keys: tuple[int, ...] = ()


class Batch(NamedTuple):
    """The head of the log, in a worker's hands.

    `left`: keys that the lanes are to settle. `careful`: keys for the transaction that stores the
    position. `later`: keys for the spool. `quiet`: keys that nobody changed, but that were asked
    for. `newer`: all of it was committed behind the last marker.
    """

    entries: int
    left: tuple[int, ...]
    careful: tuple[int, ...]
    later: tuple[int, ...]
    quiet: tuple[int, ...]
    newer: bool


class Hand(NamedTuple):
    """One transaction of a worker in the target: what it has read, and not yet written.

    Its kind: lane (one key of a batch), part (one of a huge transaction, also by a lane), batch
    (the others, with the position), retry, drain.
    `known`: how far the opposite stream was. `parked`: the keys that the opposite stream had parked
    when the rows were read. `generations`: of the keys that come from the spool.
    """

    kind: str
    keys: tuple[int, ...]
    read: tuple[Read, ...]
    known: int
    parked: tuple[int, ...]
    generations: tuple[int, ...] = ()
    quiet: tuple[int, ...] = ()


class Refuge(NamedTuple):
    """Keys in the ledger while the target is away. `landed`: they lie in the target's spool too.

    `known` are kept as well: the slot was behind the target, which has them already.
    """

    keys: tuple[int, ...]
    landed: bool = False
    known: tuple[int, ...] = ()


class Stream(NamedTuple):
    """One direction; it stands under the side that it reads. Tuples are indexed by key.

    In the target, so never lost: `log` (what lies beyond the stored position), `states` of the
    mappings, `spool` (the generation, 0 when the key is not there), `parked` (why), `newer` (what
    waits began to behind the last marker), `decided` (how far it has told that it decided the
    source's writes). In the ledger: `refuge`. The rest is the worker's memory.
    """

    log: tuple[Entry, ...] = ()
    states: tuple[str, ...] = ("live",)
    spool: tuple[int, ...] = (0,)
    parked: tuple[str, ...] = ("",)
    newer: tuple[bool, ...] = (False,)
    decided: int = 0
    refuge: Refuge | None = None
    running: bool = True
    batch: Batch | None = None
    hands: tuple[Hand, ...] = ()
    parts: int = 0  # of a huge transaction, put to the spool so far
    afloat: tuple[int, ...] = ()
    cut_off: Hand | None = None
    remembered: tuple[Read | None, ...] = (None,)
    unconfirmed: tuple[Entry, ...] = ()  # stored, but the slot has not been told yet


class Copy(NamedTuple):
    """The backfill. `place` is what comes next: a mapping in chunks, a range in the fast copy.

    `chunk` was read and is not yet written. `pile`: the versions that stand without a key.
    """

    stage: str = "done"
    place: int = 0
    chunk: Read | None = None
    pile: tuple[int, ...] = ()
    row_lies_in: int = 0


class Owner(NamedTuple):
    """What the owner row of a side says."""

    side: int = OLD
    epoch: int = 1


class Gateway(NamedTuple):
    """Who serves, since which epoch; and the epoch of the fence that stands, 0: none."""

    serves: int = OLD
    epoch: int = 1
    fence: int = 0


class Command(NamedTuple):
    """A step, recovery or rollback under way: where it is, and its epoch. Nowhere: none."""

    at: str = ""
    epoch: int = 0


class Replica(NamedTuple):
    """The new side as a replica has it, which lags."""

    rows: tuple[Row, ...]
    stream: Stream
    missed: tuple[Entry, ...] = ()  # what the stream has stored on the primary since


class State(NamedTuple):
    """Everything. Pairs are indexed by side."""

    rows: tuple[tuple[Row, ...], tuple[Row, ...]]
    streams: tuple[Stream, Stream]
    versions: tuple[Version, ...]
    # The rules of the tables: each key's parent, and whether a value may stand only once.
    parents: tuple[int | None, ...] = (None,)
    unique: bool = False
    # What becomes of a stray: the owner's version stands, or it is carried on proof.
    rule: str = "owner"
    # How the worker works: lanes beside each other, a drain beside the log.
    lanes: bool = False
    beside: bool = False
    lags: bool = True
    hidden: tuple[Hidden | None, Hidden | None] = (None, None)
    writes: tuple[int, int] = (0, 0)
    copy: Copy = Copy()
    away: bool = False
    stopped: str = ""
    replica: Replica | None = None
    # Steps and rollbacks.
    owner: tuple[Owner, Owner] = (Owner(), Owner())
    since: tuple[int, int] = (0, 0)  # the writes that had ended when its owner row last changed
    gateway: Gateway = Gateway()
    command: Command = Command()
    sleeper: Command = Command()
    under_way: tuple[Change | None, Change | None] = (None, None)
    kept: int = 0
    strays: int = 0
    # What may still happen. Each customer's request is one of several changes.
    customers: tuple[tuple[Change, ...], ...] = ()
    others: tuple[Change, ...] = ()
    jobs: int = 0
    crashes: int = 0
    stops: int = 0
    refusals: int = 0
    deaths: int = 0
    sleeps: int = 0
    outages: int = 0
    failovers: int = 0
    moves: str = ""
    # A stray needs somebody who wrote without asking, or a rollback that did not wait.
    excused: bool = False

    def __str__(self) -> str:
        return told(self)


def at_rest(s: State) -> bool:
    """Nothing is under way anywhere; or a stream has stopped for a person, and says so."""
    if s.stopped:
        return True
    return (
        all(_idle(stream) for stream in s.streams)
        and s.under_way == s.hidden == (None, None)
        and s.copy.stage == "done"
        and not s.away
        and not s.command.at
        and s.owner[OLD].side == s.owner[NEW].side == s.gateway.serves
    )


def _idle(stream: Stream) -> bool:
    waits = stream.log or any(stream.spool) or any(stream.parked) or stream.refuge or stream.afloat
    works = stream.batch or stream.hands or stream.cut_off
    return not waits and not works and all(state == "live" for state in stream.states)


def promise(s: State) -> str | None:
    """What is broken, if anything."""
    if s.strays > MANY_STRAYS:
        return "strays without end"
    if len(s.copy.pile) > 1 and s.copy.stage == "keyed":
        return "the key cannot be built: a row stands twice"
    if s.stopped or not at_rest(s):
        return None
    seen = s.kept
    for key, (old, new) in enumerate(zip(*s.rows, strict=True)):
        if old[:2] != new[:2] and not (old.gone and new.gone):
            return f"the sides differ in {KEYS[key]}"
        seen |= s.versions[old.version].seen | s.versions[new.version].seen
    lost = [v for v in range(len(s.versions)) if not seen >> v & 1]
    if lost:
        return f"acknowledged version {lost[0]} is lost"
    return "a stray without a reason" if s.strays and not s.excused else None


def by_itself(label: str) -> bool:
    """Whether a step needs nobody from outside: such steps must lead to rest."""
    return not label.startswith("!")


def put(given: tuple[T, ...], place: int, value: T) -> tuple[T, ...]:
    """The tuple with another value at this place."""
    return (*given[:place], value, *given[place + 1 :])


def side_put(pair: tuple[T, T], side: int, value: T) -> tuple[T, T]:
    """The pair with another value for this side."""
    return (value, pair[1]) if side == OLD else (pair[0], value)


def with_stream(s: State, side: int, stream: Stream) -> State:
    """The state with another stream from this side."""
    return s._replace(streams=side_put(s.streams, side, stream))


def with_row(s: State, side: int, key: int, row: Row) -> State:
    """The state with another row on this side."""
    return s._replace(rows=side_put(s.rows, side, put(s.rows[side], key, row)))


def logged(s: State, side: int, entry: Entry) -> State:
    """The state with one more transaction in this side's log."""
    stream = s.streams[side]
    stream = stream._replace(log=(*stream.log, entry))
    if entry.kind == "marker":
        batch = stream.batch and stream.batch._replace(newer=False)
        stream = stream._replace(newer=(False,) * len(stream.newer), batch=batch)
    return with_stream(s, side, stream)


def names(keys: tuple[int, ...]) -> str:
    """Keys for a person."""
    return " and ".join(KEYS[key] for key in keys)


def told(s: State) -> str:
    """A state in a few lines."""
    lines = []
    for side in (OLD, NEW):
        rows = ", ".join(
            f"{KEYS[key]} = " + ("gone" if row.gone else f"version {row.version}")
            for key, row in enumerate(s.rows[side])
        )
        owner = s.owner[side]
        lines.append(f"{NAMES[side]}: {rows}; owner {NAMES[owner.side]} (epoch {owner.epoch})")
    for side, stream in enumerate(s.streams):
        waits = [f"{KEYS[k]} in the spool" for k, gen in enumerate(stream.spool) if gen]
        waits += [f"{KEYS[k]} parked ({why})" for k, why in enumerate(stream.parked) if why]
        waits += [f"{len(stream.log)} unread"] if stream.log else []
        lines.append(f"from {NAMES[side]}: {', '.join(waits) or 'nothing waits'}")
    lines.append(f"strays: {s.strays}; the gateway serves {(*NAMES, 'nobody')[s.gateway.serves]}")
    return "\n".join(lines)
