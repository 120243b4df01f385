"""The worker of one stream: from the log to the target (migrator/session.py, apply.py).

A batch is the head of the log, when all of it is visible (law L3). One transaction writes it with
its position (migrator/writing.py). Where there is much to write, lanes settle what is plain before
(migrator/lanes.py), each in a transaction of its own, and give the rest back. Whatever a worker has
in its hands it loses when it is killed; the next one begins at the stored position.
"""

from collections.abc import Collection, Iterator

from tests.model.cures import Without
from tests.model.settling import dated, holders, outcomes, settle, spooled
from tests.model.states import (
    KEYS,
    NAMES,
    NEW,
    OLD,
    Batch,
    Hand,
    State,
    Stream,
    names,
    put,
    with_stream,
)

Steps = Iterator[tuple[str, State]]


def steps(s: State, without: Collection[Without]) -> Steps:
    """What both workers can do next."""
    for side in (OLD, NEW):
        yield from _worker(s, side, without)


def _worker(s: State, side: int, without: Collection[Without]) -> Steps:
    stream, name = s.streams[side], f"from {NAMES[side]}"
    if not stream.running:
        going = stream._replace(running=True)
        yield f"{name}: set right and started", with_stream(s, side, going)
        return
    if s.stops:
        stopped = with_stream(s, side, idle(stream)._replace(running=False))
        yield f"!{name}: stops for a person", stopped._replace(stops=s.stops - 1)
    if s.crashes and _has_something_to_lose(stream, without):
        for after in killed(s, side, without):
            yield f"!{name}: killed, another worker begins", after._replace(crashes=s.crashes - 1)
    if (s.away and side == OLD) or stream.refuge or stream.afloat:
        return  # tests/model/refuge.py
    if stream.log and stream.log[0].kind == "huge" and not stream.batch:
        yield from _huge(s, side, without)
    else:
        yield from _take(s, side, name, without)
    yield from _lanes(s, side, name, without)
    yield from _waiting(s, side, name, without)
    for hand in stream.hands:
        yield from _write(s, side, name, hand, without)
    if stream.cut_off and _unlocked(s, side, stream.cut_off):
        freed = with_stream(s, side, stream._replace(cut_off=None))
        found = outcomes(s, side, stream.cut_off, without)
        after = settle(freed, side, stream.cut_off, found, without)
        yield f"{name}: the worker that was cut off commits", after
    yield from _horizon(s, side, name, without)


# Death


def idle(stream: Stream) -> Stream:
    """The stream without what was in its worker's memory."""
    return stream._replace(batch=None, hands=(), parts=0, afloat=())


def _has_something_to_lose(stream: Stream, without: Collection[Without]) -> bool:
    memory = Without.PARKED_DURABLY in without and any(stream.parked)
    return bool(stream.batch or stream.hands or stream.parts or stream.afloat or memory)


def killed(s: State, side: int, without: Collection[Without]) -> Iterator[State]:
    """A worker ends at once; what it had sent may arrive later, but then its claim is gone."""
    stream = s.streams[side]
    after = idle(stream)
    if Without.PARKED_DURABLY in without:
        after = after._replace(parked=("",) * len(stream.parked))
    if Without.WHOLE_HUGE in without and stream.parts:
        after = after._replace(log=stream.log[1:])
    yield with_stream(s, side, after)
    if Without.CLAIM in without:
        for hand in stream.hands:
            yield with_stream(s, side, after._replace(cut_off=hand))


# From the log into its hands


def _take(s: State, side: int, name: str, without: Collection[Without]) -> Steps:
    stream = s.streams[side]
    beside = s.beside or Without.KEY_LANES in without
    if stream.batch or not stream.log or (stream.hands and not beside):
        return
    if s.hidden[side] is not None and Without.VISIBILITY not in without:
        return
    kinds = [entry.kind for entry in stream.log]
    entries = kinds.index("huge") if "huge" in kinds else len(kinds)
    telling = {"write", "carried"} if Without.MARK in without else {"write"}
    changed: set[int] = set()
    asked: set[int] = set()
    for entry in stream.log[:entries]:
        changed.update(entry.keys if entry.kind in telling else ())
        asked.update(entry.keys if entry.kind == "ask" else ())
    keys = tuple(sorted(changed | asked))
    live = Without.SPOOLING in without
    left = tuple(key for key in keys if live or stream.states[key] == "live")
    later = tuple(key for key in keys if key not in left)
    quiet = tuple(sorted(asked - changed))
    if not keys:
        if entries:
            yield f"{name}: nothing to carry, the position is stored", consumed(s, side, entries)
        return
    # Who was asked for, or waits already, is never plain.
    plain = [k for k in left if s.lanes and k not in quiet and not stream.parked[k]]
    careful = tuple(key for key in left if key not in plain)
    first = next(n for n, entry in enumerate(stream.log) if entry.kind in {*telling, "ask"})
    begins = entries if Without.FIRST_POSITION in without else first
    newer = "marker" not in kinds[begins:]
    batch = Batch(entries, tuple(plain), careful, later, quiet, newer)
    after = with_stream(s, side, stream._replace(batch=batch))
    if careful and not s.lanes:
        after = _careful(after, side, without)
    yield f"{name}: reads the log" + (f", then {names(careful)}" if careful else ""), after


def _careful(s: State, side: int, without: Collection[Without]) -> State:
    batch = s.streams[side].batch
    assert batch is not None
    return _with_hand(s, side, _read(s, side, "batch", batch.careful, without, batch.quiet))


def _read(
    s: State,
    side: int,
    kind: str,
    keys: tuple[int, ...],
    without: Collection[Without],
    quiet: tuple[int, ...] = (),
) -> Hand:
    """The horizon, and then rows and the opposite stream's parked keys from one snapshot.

    A horizon that was read earlier is one that was told later: the search has both.
    """
    opposite = s.streams[1 - side]
    known = opposite.decided
    if not opposite.running and Without.STOPPED_HORIZON in without:
        known = 1 << 30
    read = tuple(s.rows[side][key][:2] for key in keys)
    parked = tuple(key for key, why in enumerate(opposite.parked) if why)
    return Hand(kind, keys, read, known, parked, quiet=quiet)


def _lanes(s: State, side: int, name: str, without: Collection[Without]) -> Steps:
    """Lanes settle what is plain; then the batch's own transaction has what they gave back."""
    stream = s.streams[side]
    batch = stream.batch
    if batch is None:
        return
    at_work = {key for hand in stream.hands for key in hand.keys if hand.kind == "lane"}
    for key in batch.left:
        if key not in at_work:
            hand = _read(s, side, "lane", (key,), without)
            yield f"{name}: a lane reads {KEYS[key]}", _with_hand(s, side, hand)
    if any(stream.states[key] == "live" for key in batch.later):
        yield f"{name}: a mapping went live meanwhile", _sorted_again(s, side)
        return
    early = Without.ALL_LANES in without and set(batch.left) <= at_work
    if (batch.left and not early) or any(hand.kind == "batch" for hand in stream.hands):
        if Without.ONE_TRANSACTION in without and not batch.left:
            yield f"{name}: the position is stored", closed(s, side, without)
    elif batch.careful:
        yield f"{name}: reads {names(batch.careful)}", _careful(s, side, without)
    else:
        yield f"{name}: the position is stored", closed(s, side, without)


def _sorted_again(s: State, side: int) -> State:
    """A drain beside the batch has made a mapping live; nothing was written (StatesMoved)."""
    stream = s.streams[side]
    batch = stream.batch
    assert batch is not None
    moved = {key for key in batch.later if stream.states[key] == "live"}
    again = batch._replace(
        careful=tuple(sorted({*batch.careful, *moved})),
        later=tuple(key for key in batch.later if key not in moved),
    )
    hands = tuple(hand for hand in stream.hands if hand.kind != "batch")
    return with_stream(s, side, stream._replace(batch=again, hands=hands))


def _waiting(s: State, side: int, name: str, without: Collection[Without]) -> Steps:
    """Between batches: parked keys are read again, and keys of the spool."""
    stream = s.streams[side]
    if any(hand.kind in {"retry", "drain"} for hand in stream.hands):
        return
    if (not stream.batch and not stream.hands) or Without.KEY_LANES in without:
        yield from _retries(s, side, name, without)
    if (not stream.batch and not stream.hands) or s.beside:
        yield from _drains(s, side, name, without)


def _retries(s: State, side: int, name: str, without: Collection[Without]) -> Steps:
    stream = s.streams[side]
    agreed = s.owner[OLD] == s.owner[NEW] or Without.AGREEMENT in without
    for key, why in enumerate(stream.parked):
        due = why and stream.states[key] == "live" and (why != "asked" or agreed)
        if due:
            hand = _again(s, side, "retry", key, without)
            yield f"{name}: reads {KEYS[key]} again, which waits", _with_hand(s, side, hand)


def _drains(s: State, side: int, name: str, without: Collection[Without]) -> Steps:
    stream = s.streams[side]
    for key, state in enumerate(stream.states):
        parent = s.parents[key]
        ready = state == "drain" and (parent is None or stream.states[parent] == "live")
        if not ready:
            continue
        if stream.spool[key]:
            hand = _again(s, side, "drain", key, without)
            hand = hand._replace(generations=(stream.spool[key],))
            yield f"{name}: reads {KEYS[key]}, which is in the spool", _with_hand(s, side, hand)
        else:
            live = stream._replace(states=put(stream.states, key, "live"))
            yield f"{name}: the spool of {KEYS[key]} is empty: live", with_stream(s, side, live)


def _again(s: State, side: int, kind: str, key: int, without: Collection[Without]) -> Hand:
    """A key that waited is read anew; what was read before is nowhere (law L2)."""
    hand = _read(s, side, kind, (key,), without)
    remembered = s.streams[side].remembered[key]
    return hand if remembered is None else hand._replace(read=(remembered,))


def _with_hand(s: State, side: int, hand: Hand) -> State:
    stream = s.streams[side]
    return with_stream(s, side, stream._replace(hands=tuple(sorted((*stream.hands, hand)))))


# From its hands into the target


def _unlocked(s: State, side: int, hand: Hand) -> bool:
    """Whether no writer of the target holds one of the rows."""
    hidden = s.hidden[1 - side]
    return hidden is None or not {key for key, _ in hidden.rows} & set(hand.keys)


def _write(s: State, side: int, name: str, hand: Hand, without: Collection[Without]) -> Steps:
    if not _unlocked(s, side, hand):
        return
    stream = s.streams[side]
    later = stream.batch.later if stream.batch and hand.kind == "batch" else ()
    if any(stream.states[key] == "live" for key in later):
        return
    rest = tuple(other for other in stream.hands if other is not hand)
    freed = with_stream(s, side, stream._replace(hands=rest))
    found = outcomes(s, side, hand, without)
    clash = holders(s, side, hand, found)
    if hand.kind in {"lane", "part"}:
        yield _lane(side, name, freed, hand, found, bool(clash), without)
        if s.refusals:
            again = dict.fromkeys(hand.keys, "refused")
            yield _lane(side, name, freed, hand, again, bool(clash), without)
        return
    strangers = tuple(sorted(set(clash.values()) - set(hand.keys)))
    if strangers and Without.MERGING not in without:
        label = f"{name}: {names(strangers)} holds a value that is wanted, and is merged"
        yield label, _merged(s, side, hand, strangers, without)
        return
    found.update(dict.fromkeys(clash, "unwritable"))
    told = ", ".join(f"{KEYS[k]}: {outcome}" for k, outcome in found.items())
    after = settle(freed, side, hand, found, without)
    yield f"{name}: {hand.kind} commits ({told})", _with_position(after, side, hand, without)
    if s.refusals and hand.kind != "drain":
        yield from _refusals(freed, side, name, hand, found, without)


def _refusals(
    s: State,
    side: int,
    name: str,
    hand: Hand,
    found: dict[int, str],
    without: Collection[Without],
) -> Steps:
    """The target refuses a row; its key is parked, and the position moves on."""
    for key in (key for key, outcome in found.items() if outcome == "write"):
        outcome = {**found, key: "unwritable"}
        outcome.update(dict.fromkeys(holders(s, side, hand, outcome), "unwritable"))
        after = _with_position(settle(s, side, hand, outcome, without), side, hand, without)
        told = f"!{name}: the target refuses {KEYS[key]}, which is parked"
        yield told, after._replace(refusals=s.refusals - 1)


def _lane(
    side: int,
    name: str,
    freed: State,
    hand: Hand,
    found: dict[int, str],
    clash: bool,
    without: Collection[Without],
) -> tuple[str, State]:
    """Rows that the source owns, that nobody else wrote, whose parents stand; no deletes."""
    (key,), ((_, gone),) = hand.keys, hand.read
    plain = found[key] == "write" and not gone and not clash
    after = settle(freed, side, hand, found, without) if plain else freed
    stream = after.streams[side]
    batch = stream.batch
    if hand.kind == "part":
        after = _part_done(after, side) if plain else _put_down(after, side, without)
        stream = after.streams[side]
    elif batch is not None:
        left = tuple(other for other in batch.left if other != key)
        careful = batch.careful if plain else tuple(sorted({*batch.careful, key}))
        stream = stream._replace(batch=batch._replace(left=left, careful=careful))
    outcome = "commits" if plain else f"gives it back: {'clash' if clash else found[key]}"
    return f"{name}: the lane of {KEYS[key]} {outcome}", with_stream(after, side, stream)


def _with_position(s: State, side: int, hand: Hand, without: Collection[Without]) -> State:
    """The batch's own transaction stores its position too (law L4)."""
    stored = hand.kind == "batch" and s.streams[side].batch is not None
    return closed(s, side, without) if stored else s


def _merged(
    s: State, side: int, hand: Hand, strangers: tuple[int, ...], without: Collection[Without]
) -> State:
    """One transaction for the keys that collide."""
    stream = s.streams[side]
    keys = tuple(sorted({*hand.keys, *strangers}))
    quiet = {*hand.quiet, *(key for key in strangers if not stream.parked[key])}
    known = dict(zip(hand.keys, hand.generations, strict=False))
    whole = _read(s, side, hand.kind, keys, without, tuple(sorted(quiet)))
    whole = whole._replace(generations=tuple(known.get(key, 0) for key in keys))
    rest = tuple(other for other in stream.hands if other is not hand)
    return _with_hand(with_stream(s, side, stream._replace(hands=rest)), side, whole)


def closed(s: State, side: int, without: Collection[Without]) -> State:
    """The batch's position is stored; what is to be carried later lies in the spool."""
    batch = s.streams[side].batch
    assert batch is not None
    for key in batch.later:
        s = spooled(dated(s, side, key), side, key, without)
    return consumed(with_stream(s, side, s.streams[side]._replace(batch=None)), side, batch.entries)


def consumed(s: State, side: int, entries: int) -> State:
    """The stored position moves past these entries; the slot is told a moment later."""
    stream = s.streams[side]
    taken, rest = stream.log[:entries], stream.log[entries:]
    if side == OLD and (s.replica or s.outages):
        stream = stream._replace(unconfirmed=(*stream.unconfirmed, *taken))
    if side == OLD and s.replica:
        s = s._replace(replica=s.replica._replace(missed=(*s.replica.missed, *taken)))
    return with_stream(s, side, stream._replace(log=rest))


def _huge(s: State, side: int, without: Collection[Without]) -> Steps:
    """A transaction too big for the memory: what is plain is written in parts, before its end.

    The rest goes to the spool, and its mappings are drained from then on, so the keys are not
    carried past those that wait.
    """
    stream, name = s.streams[side], f"from {NAMES[side]}"
    if s.hidden[side] is not None and Without.PARTS_VISIBLE not in without:
        return
    if stream.hands:
        return
    key = stream.log[0].keys[stream.parts]
    if s.lanes and stream.states[key] == "live" and not stream.parked[key]:
        hand = _read(s, side, "part", (key,), without)
        yield f"{name}: a lane reads {KEYS[key]} of a huge transaction", _with_hand(s, side, hand)
    else:
        told = f"{name}: {KEYS[key]} of a huge transaction goes to the spool"
        yield told, _put_down(s, side, without)


def _put_down(s: State, side: int, without: Collection[Without]) -> State:
    """The next key of a huge transaction is in the spool."""
    key = s.streams[side].log[0].keys[s.streams[side].parts]
    s = spooled(s, side, key, without)
    stream = s.streams[side]
    if stream.states[key] == "live":
        stream = stream._replace(states=put(stream.states, key, "drain"))
    return _part_done(with_stream(s, side, stream), side)


def _part_done(s: State, side: int) -> State:
    """One key of a huge transaction is settled; with the last one the position moves."""
    stream = s.streams[side]
    if stream.parts + 1 == len(stream.log[0].keys):
        return consumed(with_stream(s, side, stream._replace(parts=0)), side, 1)
    return with_stream(s, side, stream._replace(parts=stream.parts + 1))


def _horizon(s: State, side: int, name: str, without: Collection[Without]) -> Steps:
    """Let the opposite stream know what is decided: not while something lies in the spool."""
    stream = s.streams[side]
    unread = sum(entry.kind in {"write", "huge"} for entry in stream.log)
    decided = s.writes[side] - unread
    spooling = any(stream.spool) or any(state != "live" for state in stream.states)
    if stream.decided < decided and (not spooling or Without.SPOOL_IN_HORIZON in without):
        told = with_stream(s, side, stream._replace(decided=decided))
        yield f"{name}: tells how far it is", told
