"""The target is away, or comes back as it was some time ago.

While it is away, changed keys go to the ledger, and only then the slot moves on: an outage costs
the source no disk. When it is back they go to its spool, and the position jumps in the same
transaction. The slot was not told the last position, or lost it when its server crashed: so what
the target has already is read again, and is left out when the keys go to the spool. A target that
lost commits (a replica that lagged) says so by its position.
"""

from collections.abc import Collection, Iterable, Iterator

from tests.model.carrying import idle, killed
from tests.model.cures import Without
from tests.model.settling import spooled
from tests.model.states import NEW, OLD, Entry, Refuge, Replica, State, Stream, names, with_stream

Steps = Iterator[tuple[str, State]]


def steps(s: State, without: Collection[Without]) -> Steps:
    """What happens to the new side as a whole, and what the stream to it does then."""
    if s.outages and not s.away:
        for after in killed(s, OLD, without):
            yield "!new: away", after._replace(away=True, outages=s.outages - 1)
    yield from _refuge(s, without)
    if s.away:
        yield "new: back", s._replace(away=False)
    yield from _failover(s, without)


def _refuge(s: State, without: Collection[Without]) -> Steps:
    stream = s.streams[OLD]
    visible = s.hidden[OLD] is None or Without.REFUGE_VISIBLE in without
    held, known = (stream.refuge.keys, stream.refuge.known) if stream.refuge else ((), ())
    if s.away and (stream.log or stream.unconfirmed) and visible:
        keys, before = _told(stream.log), _told(stream.unconfirmed)
        if Without.LEDGER_FIRST in without:
            afloat = tuple(sorted({*stream.afloat, *keys}))
            moved = stream._replace(log=(), unconfirmed=(), afloat=afloat)
            yield "from old: the slot moves on", with_stream(s, OLD, moved)
        else:
            kept = Refuge(tuple(sorted({*held, *keys})), known=tuple(sorted({*known, *before})))
            moved = stream._replace(log=(), unconfirmed=(), refuge=kept)
            yield f"from old: {names(kept.keys)} in the ledger", with_stream(s, OLD, moved)
    if s.away and stream.afloat:
        kept = Refuge(tuple(sorted({*held, *stream.afloat})), known=known)
        after = with_stream(s, OLD, stream._replace(refuge=kept, afloat=()))
        yield f"from old: {names(kept.keys)} in the ledger", after
    if not s.away:
        yield from _landing(s, without)


def _landing(s: State, without: Collection[Without]) -> Steps:
    stream = s.streams[OLD]
    keys = stream.refuge.keys if stream.refuge else ()
    if stream.refuge and Without.TOLD_AT in without:
        keys = tuple(sorted({*keys, *stream.refuge.known}))
    if stream.refuge and Without.LANDING_FIRST in without and not stream.refuge.landed:
        gone = stream._replace(refuge=None, afloat=keys)
        yield "from old: the ledger lets its keys go", with_stream(s, OLD, gone)
    elif stream.refuge and not stream.refuge.landed:
        landed = stream._replace(refuge=stream.refuge._replace(landed=True))
        after = _landed(with_stream(s, OLD, landed), keys)
        yield f"from old: {names(keys)} from the ledger to the spool", after
    elif stream.refuge:
        # The target's position tells that they were landed, also to another worker.
        after = with_stream(s, OLD, stream._replace(refuge=None))
        yield "from old: the ledger lets its keys go", after
    if stream.afloat and (Without.LANDING_FIRST in without or Without.LEDGER_FIRST in without):
        after = _landed(with_stream(s, OLD, stream._replace(afloat=())), stream.afloat)
        yield f"from old: {names(stream.afloat)} to the spool", after


def _told(log: Iterable[Entry]) -> set[int]:
    """The keys that these transactions changed, ours aside."""
    return {key for entry in log if entry.kind in {"write", "huge", "ask"} for key in entry.keys}


def _landed(s: State, keys: tuple[int, ...]) -> State:
    for key in keys:
        s = spooled(s, OLD, key)
    stream = s.streams[OLD]
    states = tuple(
        "drain" if key in keys and state == "live" else state
        for key, state in enumerate(stream.states)
    )
    newer = tuple(new and key not in keys for key, new in enumerate(stream.newer))
    return with_stream(s, OLD, stream._replace(states=states, newer=newer))


# A failover of the target (migrator/session.py: PositionLost)


def _failover(s: State, without: Collection[Without]) -> Steps:
    stream = s.streams[OLD]
    if s.failovers and s.replica is None:
        yield "!new: its replica has this", s._replace(replica=Replica(s.rows[NEW], idle(stream)))
    if stream.unconfirmed:
        told = with_stream(s, OLD, stream._replace(unconfirmed=()))
        yield "from old: the slot is told the position", told
    if s.replica and s.failovers:
        yield "!new: fails over to its replica", _failed_over(s, s.replica, without)


def _failed_over(s: State, replica: Replica, without: Collection[Without]) -> State:
    stream = s.streams[OLD]
    missed, known = replica.missed, len(stream.unconfirmed)
    again = missed[max(len(missed) - known, 0) :]
    back = _as_it_was(replica.stream, stream, again)
    s = with_stream(s, OLD, back)._replace(
        rows=(s.rows[OLD], replica.rows), failovers=s.failovers - 1, replica=None
    )
    if len(missed) > known and Without.POSITION_CHECK not in without:
        return s._replace(stopped="the target has lost commits: verify anew")
    return s


def _as_it_was(then: Stream, now: Stream, again: tuple) -> Stream:  # type: ignore[type-arg]
    return then._replace(log=(*again, *now.log), unconfirmed=())
