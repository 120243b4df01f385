"""One transaction in the target: what becomes of each key (migrator/plan.py, writing.py).

Nobody else writes these rows meanwhile: they are locked, and so is the owner row (law L5).
"""

from collections.abc import Collection

from tests.model.cures import Without
from tests.model.states import Entry, Hand, Row, State, logged, put, with_row, with_stream


def outcomes(s: State, side: int, hand: Hand, without: Collection[Without]) -> dict[int, str]:
    """For each key: spool, asleep (not live any more), asked, stray, across (a stray that is
    carried all the same), contested, parent, write."""
    found: dict[int, str] = {}
    for place, key in enumerate(hand.keys):
        found[key] = _outcome(s, side, hand, place, found, without)
    for key, (_, gone) in zip(hand.keys, hand.read, strict=True):
        if found[key] == "write" and gone and _hangs(s, side, hand, key, found):
            found[key] = "write" if Without.LOOKING_BELOW in without else "contested"
    return found


def _hangs(s: State, side: int, hand: Hand, key: int, found: dict[int, str]) -> bool:
    """Whether something stays that would go with this key's row (migrator/families.py)."""
    target = s.rows[1 - side]
    below = [child for child, parent in enumerate(s.parents) if parent == key]
    return any(
        found[child] != "write"
        if child in found
        else target[child].number > hand.known
        or child in hand.parked
        or not s.rows[side][child].gone
        for child in below
        if not target[child].gone
    )


def _outcome(
    s: State,
    side: int,
    hand: Hand,
    place: int,
    before: dict[int, str],
    without: Collection[Without],
) -> str:
    key, (_, gone) = hand.keys[place], hand.read[place]
    stream, opposite, target = s.streams[side], s.streams[1 - side], s.rows[1 - side]
    if stream.states[key] != "live" and hand.kind != "drain":
        if hand.kind == "retry":
            return "asleep"
        if Without.SPOOLING not in without:
            return "spool"
    if s.owner[1 - side].side != side and Without.OWNER not in without:
        if key in hand.quiet:
            return "asked"
        return "across" if _is_carried(s, side, hand, place, without) else "stray"
    known = opposite.decided if Without.HORIZON_FIRST in without else hand.known
    parked = key in hand.parked and Without.OPPOSITE_PARKED not in without
    fresh = not target[key].gone and target[key].number > known
    if (parked or fresh) and Without.FRESHNESS not in without:
        return "contested"
    parent = s.parents[key]
    if parent is not None and not gone:
        comes = before.get(parent) == "write"
        absent = hand.read[hand.keys.index(parent)][1] if comes else target[parent].gone
        if absent:
            return "parent"
    return "write"


def _is_carried(s: State, side: int, hand: Hand, place: int, without: Collection[Without]) -> bool:
    """migrator/proof.py: both sides have the row, and nobody has worked on the owner's since.

    By the rule of the mapping, or because it was changed while its side still owned it.
    """
    key, (_, gone) = hand.keys[place], hand.read[place]
    target = s.rows[1 - side][key]
    asked = s.streams[side].parked[key] == "asked" and Without.ASKED_IS_NO_CHANGE not in without
    late = s.owner[side].side == side
    if asked or target.gone or gone or not (late or s.rule == "carry"):
        return False
    fresh = key in hand.parked or target.number > hand.known
    unchanged = target.number <= s.since[1 - side] and not fresh
    return unchanged or Without.PROOF in without


def holders(s: State, side: int, hand: Hand, found: dict[int, str]) -> dict[int, int]:
    """Keys that cannot be written, and the key whose row holds the value that they need."""
    if not s.unique:
        return {}
    after = {
        key: s.versions[row.version].value
        for key, row in enumerate(s.rows[1 - side])
        if not row.gone
    }
    for key, (version, gone) in zip(hand.keys, hand.read, strict=True):
        if found[key] == "write":
            after.pop(key, None)
            if not gone:
                after[key] = s.versions[version].value
    return {
        key: other
        for key, outcome in found.items()
        for other in after
        if outcome == "write" and other != key and key in after and after[key] == after[other]
    }


def settle(
    s: State, side: int, hand: Hand, found: dict[int, str], without: Collection[Without]
) -> State:
    """Write the hand's keys, each by its outcome."""
    for place, key in enumerate(hand.keys):
        outcome = found[key]
        if hand.kind == "drain" and hand.generations[place]:
            s = _unspool(s, side, key, hand.generations[place], without)
        if hand.kind in {"batch", "lane"} and outcome not in {"write", "across", "stray"}:
            s = dated(s, side, key)
        if outcome == "spool":
            s = spooled(s, side, key, without)
        elif outcome in {"asked", "contested", "parent", "unwritable"}:
            s = park(s, side, key, outcome, hand.read[place], without)
        elif outcome == "stray":
            s = _stray(s, side, hand, place, without)
        elif outcome == "across":
            target = s.versions[s.rows[1 - side][key].version]
            s = unpark(s, side, key)._replace(kept=s.kept | target.seen, strays=s.strays + 1)
        elif outcome == "write":
            s = unpark(s, side, key)
        s = _forgotten(s, side, key)
    for place, key in enumerate(hand.keys):
        if found[key] in {"write", "across"}:
            s = _written(s, side, hand, place, without)
    return s


def _written(s: State, side: int, hand: Hand, place: int, without: Collection[Without]) -> State:
    key, read = hand.keys[place], hand.read[place]
    target = s.rows[1 - side][key]
    if read == target[:2] or (read[1] and (target.gone or Without.DELETING in without)):
        return s
    s = with_row(s, 1 - side, key, Row(*read))
    if read[1]:
        for child, parent in enumerate(s.parents):
            row = s.rows[1 - side][child]
            if parent == key and not row.gone:
                # What stood there is nowhere any more, whoever wrote it.
                s = with_row(s, 1 - side, child, Row(s.rows[side][child].version))
    return logged(s, 1 - side, Entry("carried", (key,))) if Without.MARK in without else s


def _forgotten(s: State, side: int, key: int) -> State:
    """The position goes with the last row that had it."""
    stream = s.streams[side]
    if stream.spool[key] or stream.parked[key] or not stream.newer[key]:
        return s
    return with_stream(s, side, stream._replace(newer=put(stream.newer, key, False)))


def dated(s: State, side: int, key: int) -> State:
    """What begins to wait has its batch's position; what waits already keeps the older one."""
    stream = s.streams[side]
    waits = stream.spool[key] or stream.parked[key]
    if waits or stream.batch is None:
        return s
    newer = put(stream.newer, key, stream.batch.newer)
    return with_stream(s, side, stream._replace(newer=newer))


def spooled(s: State, side: int, key: int, without: Collection[Without] = ()) -> State:
    """The key is put down for later; it has another generation now."""
    stream = s.streams[side]
    if Without.READING_ANEW in without and not stream.spool[key]:
        row = s.rows[side][key][:2]
        stream = stream._replace(remembered=put(stream.remembered, key, row))
    return with_stream(
        s, side, stream._replace(spool=put(stream.spool, key, stream.spool[key] + 1))
    )


def _unspool(s: State, side: int, key: int, generation: int, without: Collection[Without]) -> State:
    """Take the key out, if it is still the generation that was read; then live with the last."""
    stream = s.streams[side]
    if stream.spool[key] == generation or Without.GENERATIONS in without:
        remembered = put(stream.remembered, key, None)
        stream = stream._replace(spool=put(stream.spool, key, 0), remembered=remembered)
        if stream.states[key] == "drain":
            stream = stream._replace(states=put(stream.states, key, "live"))
    return with_stream(s, side, stream)


def park(
    s: State, side: int, key: int, why: str, read: tuple[int, bool], without: Collection[Without]
) -> State:
    """The key waits, durably and with its reason; its row is read again when it is tried again."""
    stream = s.streams[side]._replace(parked=put(s.streams[side].parked, key, why))
    if Without.READING_ANEW in without:
        stream = stream._replace(remembered=put(stream.remembered, key, read))
    return with_stream(s, side, stream)


def unpark(s: State, side: int, key: int) -> State:
    """The key waits no more."""
    stream = s.streams[side]
    if not stream.parked[key]:
        return s
    parked, remembered = put(stream.parked, key, ""), put(stream.remembered, key, None)
    return with_stream(s, side, stream._replace(parked=parked, remembered=remembered))


def _stray(s: State, side: int, hand: Hand, place: int, without: Collection[Without]) -> State:
    """migrator/strays.py: both versions are kept, and the owner's is asked for."""
    key, (version, gone) = hand.keys[place], hand.read[place]
    target = s.rows[1 - side][key]
    kept = s.kept | s.versions[version].seen | s.versions[target.version].seen
    s = unpark(s, side, key)._replace(kept=kept, strays=s.strays + 1)
    if (gone and target.gone) or Without.ASKING in without:
        return s
    return logged(s, 1 - side, Entry("ask", (key,)))
