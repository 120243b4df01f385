"""The protocol for one key, small enough to be searched: two sides, two streams, one step.

A *version* is what a writer left behind; it knows the versions that its writer had seen. The one
promise: when all is at rest, both sides hold the same version, and every acknowledged version was
seen by it, or is kept in a stray. Where the code has many keys, transactions and positions, the
model has one key and what matters of the rest; each action below names its place in the code.

Each cure can be left out (`Without`), which must break the promise: so it is known that the model
sees what the cure is for.
"""

from collections.abc import Iterator
from enum import Enum, auto

from tests.model.states import HELD, NEW, OLD, Hand, Row, State, put, with_stream

NAMES = ("old", "new", "held")
Steps = Iterator[tuple[str, State]]


class Without(Enum):
    """A cure that is left out."""

    READING_ANEW = auto()  # L2: a key that waits keeps the row that was read for it
    VISIBILITY = auto()  # L3: read although the change is not visible yet
    SPOOLING = auto()  # L3: carry while the copy goes on
    ONE_TRANSACTION = auto()  # L4: the position is committed before the rows
    OWNER = auto()  # L5: carry whoever owns the key
    MARK = auto()  # L5: the way back does not skip what was carried here
    FRESHNESS = auto()  # row 1, 2: write over what the opposite stream has not seen
    WHOLE_BARRIER = auto()  # row 3: a barrier looks at the position only
    GENERATIONS = auto()  # row 4: a drained key leaves the spool although it came again
    CLAIM = auto()  # row 4: a worker that was cut off can still commit
    QUIESCENCE = auto()  # row 7: the step does not wait for requests under way
    OLDER_TRANSACTIONS = auto()  # row 10: the copy does not wait for what was there before the slot
    SECOND_BARRIER = auto()  # decision 0005
    STOPPED_HORIZON = auto()  # a stopped stream is taken as one that was ended
    SPOOL_IN_HORIZON = auto()  # the horizon moves past what lies in the spool
    OPPOSITE_WAITING = auto()  # decision 0010: write over what waits in the opposite stream
    AGREEMENT = auto()  # a key that was asked for is tried again while the owner rows differ
    PROOF = auto()  # row 1, 2: a late key is carried although the owner's row has changed since
    ASKED_IS_NO_CHANGE = auto()  # a key that was only asked for is carried as a stray
    CONFLICT_IN_RECOVERY = auto()  # recovery waits for keys that both streams keep waiting


class Protocol:
    """The steps that are possible in a state, with some cures left out.

    `rule` is what becomes of a stray (migrator/rules.py): owner or carry.
    """

    def __init__(self, *without: Without, rule: str = "owner") -> None:
        self._without = frozenset(without)
        self._rule = rule

    def _has(self, cure: Without) -> bool:
        return cure not in self._without

    def steps(self, state: State) -> Steps:
        """Everything that can happen next. A label with ! comes from outside."""
        for label, after in self._steps(state):
            since = state.since
            for side in (OLD, NEW):
                if after.owner[side] != state.owner[side]:
                    # What has begun and is not visible yet had not ended.
                    hidden = after.rows[side].hidden is not None
                    since = put(since, side, after.writes[side] - hidden)
            yield label, after._replace(since=since) if since != state.since else after

    def _steps(self, state: State) -> Steps:
        yield from self._customers(state)
        yield from self._others(state)
        for side in (OLD, NEW):
            yield from self._stream(state, side)
        yield from self._backfill(state)
        yield from self._step(state)

    # Who writes

    def _customers(self, s: State) -> Steps:
        if s.customers and s.flag != HELD and not s.under_way[s.flag]:
            under_way = put(s.under_way, s.flag, True)
            left = s.customers - 1
            yield f"!request to {NAMES[s.flag]}", s._replace(under_way=under_way, customers=left)
        for side in (OLD, NEW):
            row = s.rows[side]
            if row.hidden is not None:
                shown = Row(*row.hidden, s.writes[side])
                yield f"{NAMES[side]}: visible", s._replace(rows=put(s.rows, side, shown))
            elif s.under_way[side]:
                done = s._replace(under_way=put(s.under_way, side, False))
                yield f"{NAMES[side]}: commit", _commit(done, side, gone=False)
                if s.deletes and not row.gone:
                    done = done._replace(deletes=s.deletes - 1)
                    yield f"{NAMES[side]}: commit a delete", _commit(done, side, gone=True)

    def _others(self, s: State) -> Steps:
        """Who writes beside the gateway: without asking, or as a job that locks the owner row."""
        for side in (OLD, NEW):
            if s.others and s.rows[side].hidden is None:
                after = _commit(s._replace(others=s.others - 1, excused=True), side, gone=False)
                yield f"!somebody writes on {NAMES[side]}", after
            if s.jobs and s.owner[side] == side and s.rows[side].hidden is None:
                after = _commit(s._replace(jobs=s.jobs - 1), side, gone=False)
                yield f"!a job writes on {NAMES[side]}", after

    # The streams (migrator/session.py, apply.py, writing.py, plan.py)

    def _stream(self, s: State, side: int) -> Steps:
        stream, name = s.streams[side], f"from {NAMES[side]}"
        if not stream.running:
            yield (
                f"{name}: set right and started",
                with_stream(s, side, stream._replace(running=True)),
            )
            return
        if s.stops:
            stopped = with_stream(s, side, stream._replace(running=False, hand=None))
            yield f"!{name}: stops", stopped._replace(stops=s.stops - 1)
        if stream.hand is not None:
            if s.crashes:
                yield f"!{name}: killed", self._killed(s, side)
            target = s.rows[1 - side]
            if target.hidden is None:  # else its writer holds the row's lock
                if s.refusals and stream.hand.kind != "drain":
                    yield f"!{name}: cannot be written", _refused(s, side, stream.hand)
                if self._has(Without.ONE_TRANSACTION) or not stream.hand.entries:
                    yield f"{name}: write", self._write(s, side, stream.hand)
                else:
                    rest = stream.unread[stream.hand.entries :]
                    moved = stream._replace(unread=rest, hand=stream.hand._replace(entries=0))
                    yield f"{name}: position", with_stream(s, side, moved)
            visible = s.rows[side].hidden is None
            if stream.hand.kind == "drain" and "w" in stream.unread and visible:
                # Another lane reads the log meanwhile; who reads the key later relies on it that
                # the change is visible.
                rest = tuple(entry for entry in stream.unread if entry != "w")
                spooled = stream._replace(unread=rest, spool=stream.spool + 1)
                yield f"{name}: spool beside", with_stream(s, side, spooled)
        else:
            yield from self._take(s, side)
        if stream.cut_off is not None and s.rows[1 - side].hidden is None:
            freed = with_stream(s, side, stream._replace(cut_off=None))
            yield f"{name}: the cut-off worker commits", self._write(freed, side, stream.cut_off)

    def _killed(self, s: State, side: int) -> State:
        stream = s.streams[side]
        cut_off = None if self._has(Without.CLAIM) else stream.hand
        after = with_stream(s, side, stream._replace(hand=None, cut_off=cut_off))
        return after._replace(crashes=s.crashes - 1)

    def _take(self, s: State, side: int) -> Steps:
        """Read keys from the log or from where they wait, and the row from the source."""
        stream, name, row = s.streams[side], f"from {NAMES[side]}", s.rows[side]
        known = s.streams[1 - side].decided
        if not s.streams[1 - side].running and not self._has(Without.STOPPED_HORIZON):
            known = 1 << 30
        waits = bool(s.streams[1 - side].waits) and self._has(Without.OPPOSITE_WAITING)
        visible = row.hidden is None or not self._has(Without.VISIBILITY)
        read = row[:2]
        if stream.unread and visible:
            hand = Hand("batch", len(stream.unread), read, known, waits)
            yield f"{name}: read the log", with_stream(s, side, stream._replace(hand=hand))
        agreed = s.owner[OLD] == s.owner[NEW] or not self._has(Without.AGREEMENT)
        if stream.waits and stream.mapping == "live" and (stream.waits != "asked" or agreed):
            again = stream.remembered or read
            hand = Hand("retry", 0, again, known, waits)
            yield f"{name}: read what waits", with_stream(s, side, stream._replace(hand=hand))
        if stream.mapping == "drain":
            if stream.spool:
                hand = Hand("drain", 0, read, known, waits, stream.spool)
                yield f"{name}: read the spool", with_stream(s, side, stream._replace(hand=hand))
            else:
                yield f"{name}: live", with_stream(s, side, stream._replace(mapping="live"))
        if self._publishes(s, side):
            decided = s.writes[side] - stream.unread.count("w")
            yield f"{name}: horizon", with_stream(s, side, stream._replace(decided=decided))

    def _publishes(self, s: State, side: int) -> bool:
        stream = s.streams[side]
        if stream.decided >= s.writes[side] - stream.unread.count("w"):
            return False
        spooling = stream.mapping != "live" or stream.spool > 0
        return not spooling or not self._has(Without.SPOOL_IN_HORIZON)

    def _write(self, s: State, side: int, hand: Hand) -> State:
        """One transaction in the target: nobody else writes this row meanwhile."""
        stream = s.streams[side]
        taken, rest = stream.unread[: hand.entries], stream.unread[hand.entries :]
        changed = hand.kind != "batch" or "w" in taken or not hand.entries
        if not self._has(Without.MARK):
            changed = changed or "c" in taken
        asked = "a" in taken
        stream = stream._replace(unread=rest, hand=None)
        if not changed and not asked:
            return with_stream(s, side, stream)
        if hand.kind == "batch" and stream.mapping != "live" and self._has(Without.SPOOLING):
            return with_stream(s, side, stream._replace(spool=stream.spool + 1))
        if hand.kind == "drain":
            stale = self._has(Without.GENERATIONS) and stream.spool != hand.generation
            if not stale:
                stream = stream._replace(spool=0)
        return self._decide(with_stream(s, side, stream), side, hand, changed=changed)

    def _decide(self, s: State, side: int, hand: Hand, *, changed: bool) -> State:
        stream, target = s.streams[side], s.rows[1 - side]
        if s.owner[1 - side] != side and self._has(Without.OWNER):
            if not changed:  # asked for, but not ours to write any more
                return with_stream(s, side, stream._replace(waits="asked"))
            if self._is_carried_all_the_same(s, side, hand):
                return _across(s, side, hand)
            return _stray(s, side, hand)
        fresh = hand.opposite_waits or (not target.gone and target.number > hand.known)
        if fresh and self._has(Without.FRESHNESS):
            remembered = None if self._has(Without.READING_ANEW) else hand.row
            return with_stream(s, side, stream._replace(waits="contested", remembered=remembered))
        s = with_stream(s, side, stream._replace(waits="", remembered=None))
        if hand.row == target[:2] or (hand.row[1] and target.gone):
            return s
        back = s.streams[1 - side]
        if not self._has(Without.MARK):
            back = back._replace(unread=(*back.unread, "c"))
        carried = s._replace(rows=put(s.rows, 1 - side, Row(*hand.row)))
        return with_stream(carried, 1 - side, back)

    def _is_carried_all_the_same(self, s: State, side: int, hand: Hand) -> bool:
        """migrator/proof.py: nobody has worked on the owner's row since, and both sides have it."""
        target = s.rows[1 - side]
        late = s.owner[side] == side
        if s.streams[side].waits == "asked" and self._has(Without.ASKED_IS_NO_CHANGE):
            return False
        if target.gone or hand.row[1] or not (late or self._rule == "carry"):
            return False
        fresh = hand.opposite_waits or target.number > hand.known
        unchanged = target.number <= s.since[1 - side] and not fresh
        return unchanged or not self._has(Without.PROOF)

    # The copy (migrator/backfill.py, copying.py)

    def _backfill(self, s: State) -> Steps:
        if s.copy == "slot":
            if s.rows[OLD].hidden is None or not self._has(Without.OLDER_TRANSACTIONS):
                yield "copy: nothing older is under way", s._replace(copy="copying")
        elif s.copy == "copying" and s.chunk is None:
            yield "copy: read", s._replace(chunk=s.rows[OLD][:2])
        elif s.copy == "copying" and s.chunk is not None:
            stream = s.streams[OLD]
            after = with_stream(s, OLD, stream._replace(mapping="drain"))
            if s.rows[NEW].gone and not s.chunk[1]:
                after = after._replace(rows=put(s.rows, NEW, Row(*s.chunk)))
            yield "copy: written", after._replace(copy="copied", chunk=None)
            if s.crashes:
                yield "!copy: killed", s._replace(chunk=None, crashes=s.crashes - 1)

    # A step and a rollback (rollout/fenced.py, recovery.py, rollback.py)

    def _passed(self, s: State, side: int) -> bool:
        """migrator/barrier.py, but stricter: keys that changed later are waited for too."""
        stream = s.streams[side]
        whole = not stream.spool and not stream.waits
        return "b" not in stream.unread and (whole or not self._has(Without.WHOLE_BARRIER))

    def _step(self, s: State) -> Steps:
        if not s.step:
            if s.moves and s.owner[OLD] == s.owner[NEW] == s.flag:
                yield from self._begin(s)
        elif s.step.startswith("forward"):
            yield from self._forward(s)
            if s.crashes:
                lost = s._replace(crashes=s.crashes - 1, step="recover")
                yield "!step: killed", lost._replace(flag=OLD if s.flag == HELD else s.flag)
        elif s.step == "rollback again":
            yield "rollback: typed again", s._replace(owner=(OLD, OLD), step="")
        elif s.step == "recover back":
            yield "recovery: done", s._replace(owner=(OLD, OLD), step="")
        elif s.step.startswith("recover"):
            yield from self._recover(s)
        else:
            yield from self._rollback(s)

    def _begin(self, s: State) -> Steps:
        move, left = s.moves[0], s.moves[1:]
        if move == "f" and s.flag == OLD:
            yield "!step: hold", s._replace(step="forward held", flag=HELD, moves=left)
        if move == "r" and s.flag == NEW:
            yield "!rollback: hold", s._replace(step="rollback", flag=HELD, moves=left)

    def _forward(self, s: State) -> Steps:
        at = s.step.removeprefix("forward ")
        quiet = not s.under_way[OLD] and s.rows[OLD].hidden is None
        if at in {"held", "marked"}:
            yield "step: gives up", s._replace(step="", flag=OLD)
        if at == "held" and (quiet or not self._has(Without.QUIESCENCE)):
            yield "step: marker", _mark(s, OLD)._replace(step="forward marked")
        if at == "marked" and self._passed(s, OLD) and s.rows[OLD].hidden is None:
            moved = s._replace(owner=put(s.owner, OLD, NEW), step="forward moved")
            yield "step: owner on old moves", moved
        if at in {"moved", "again"}:
            yield "step: its lease ends", s._replace(step="recover", flag=OLD)
        if at == "moved":
            if self._has(Without.SECOND_BARRIER):
                yield "step: second marker", _mark(s, OLD)._replace(step="forward again")
            else:
                yield "step: switch", s._replace(flag=NEW, step="forward switched")
        if at == "again" and self._passed(s, OLD):
            yield "step: switch", s._replace(flag=NEW, step="forward switched")
        if at == "switched":
            yield "step: owner on new moves", s._replace(owner=put(s.owner, NEW, NEW), step="")

    def _recover(self, s: State) -> Steps:
        """After a kill: forward if a gateway serves the new side, else back; the winner last."""
        if s.flag == OLD:
            yield (
                "recovery: owners back",
                s._replace(owner=(s.owner[OLD], OLD), step="recover back"),
            )
        elif s.step == "recover":
            yield "recovery: marker", _mark(s, OLD)._replace(step="recover forward")
        elif self._passed(s, OLD) or (self._conflict(s) and "b" not in s.streams[OLD].unread):
            yield "recovery: finished", s._replace(owner=(NEW, NEW), step="")

    def _conflict(self, s: State) -> bool:
        """Only keys that wait for the opposite stream are left: the owner decides them."""
        contested = s.streams[OLD].waits in {"contested", "asked"} and not s.streams[OLD].spool
        return contested and self._has(Without.CONFLICT_IN_RECOVERY)

    def _rollback(self, s: State) -> Steps:
        if s.owner[NEW] == NEW:
            if s.deaths:
                away = s._replace(owner=(OLD, NEW), flag=OLD, step="rollback again", deaths=0)
                yield "!rollback: the new database is away", away._replace(excused=True)
            owner = put(s.owner, NEW, OLD)
            yield "rollback: owner on new moves", s._replace(owner=owner)
        elif s.step == "rollback":
            if not s.under_way[NEW] and s.rows[NEW].hidden is None:
                yield "rollback: marker", _mark(s, NEW)._replace(step="rollback marked")
        elif self._passed(s, NEW):
            yield "rollback: passed", _back(s)
        if s.owner[NEW] == OLD:
            yield "rollback: a second is over", _back(s)._replace(excused=True)


def _back(s: State) -> State:
    return s._replace(owner=(OLD, s.owner[NEW]), flag=OLD, step="")


def _mark(s: State, side: int) -> State:
    stream = s.streams[side]
    return with_stream(s, side, stream._replace(unread=(*stream.unread, "b")))


def _commit(s: State, side: int, *, gone: bool) -> State:
    """A write is committed: in the log at once, visible a moment later."""
    version = len(s.history)
    seen = s.history[s.rows[side].version] | 1 << version
    stream = s.streams[side]
    after = with_stream(s, side, stream._replace(unread=(*stream.unread, "w")))
    return after._replace(
        history=(*s.history, seen),
        writes=put(s.writes, side, s.writes[side] + 1),
        rows=put(s.rows, side, s.rows[side]._replace(hidden=(version, gone))),
    )


def _refused(s: State, side: int, hand: Hand) -> State:
    """The target refuses the row; the key is parked, and the position moves on."""
    stream = s.streams[side]
    taken, rest = stream.unread[: hand.entries], stream.unread[hand.entries :]
    changed = hand.kind == "retry" or "w" in taken or "a" in taken
    spooled = stream.mapping != "live"
    parked = stream._replace(unread=rest, hand=None)
    if changed and not spooled:
        parked = parked._replace(waits="unwritable")
    elif changed:
        parked = parked._replace(spool=stream.spool + 1)
    return with_stream(s, side, parked)._replace(refusals=s.refusals - 1)


def _across(s: State, side: int, hand: Hand) -> State:
    """The stray is written over the owner's version, which is kept."""
    target = s.rows[1 - side]
    mine = s.streams[side]._replace(waits="", remembered=None)
    s = with_stream(s, side, mine)._replace(
        kept=s.kept | s.history[target.version], strays=s.strays + 1
    )
    return s._replace(rows=put(s.rows, 1 - side, Row(*hand.row)))


def _stray(s: State, side: int, hand: Hand) -> State:
    """migrator/strays.py: both versions are kept, and the owner's is asked for."""
    target = s.rows[1 - side]
    kept = s.kept | s.history[hand.row[0]] | s.history[target.version]
    mine = s.streams[side]._replace(waits="", remembered=None)
    s = with_stream(s, side, mine)._replace(kept=kept, strays=s.strays + 1)
    if hand.row[1] and target.gone:
        return s
    other = s.streams[1 - side]
    return with_stream(s, 1 - side, other._replace(unread=(*other.unread, "a")))
