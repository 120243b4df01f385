"""Steps, their recovery, and rollbacks (rollout/step.py, recovery.py, rollback.py).

A command can be killed at any point; then the next one brings its step to an end. It can also fall
asleep at any point and wake up much later: whatever it does then, it does under its own epoch.
"""

from collections.abc import Collection, Iterator

from tests.model.cures import Without
from tests.model.states import (
    HELD,
    NAMES,
    NEW,
    OLD,
    Command,
    Entry,
    Gateway,
    Owner,
    State,
    logged,
    side_put,
)

Steps = Iterator[tuple[str, State]]
# What a command does next, and where it is then; nowhere: it has ended.
Acts = Iterator[tuple[str, State, str]]
STEP = {"held", "marked", "confirmed", "moved", "again", "switched", "follow", "back", "back 2"}


def steps(s: State, without: Collection[Without]) -> Steps:
    """What commands and the gateway can do next."""
    if not s.command.at:
        yield from _begin(s)
        yield from _bring_in_line(s)
    else:
        at, epoch = s.command
        for label, after, following in _acts(s, s.command, without):
            yield label, after._replace(command=Command(following, epoch if following else 0))
        yield from _fate(s, at, epoch)
    yield from _rollback_begins(s)
    if s.sleeper.at:
        for label, after, following in _acts(s, s.sleeper, without):
            epoch = s.sleeper.epoch if following else 0
            yield f"!awake again, {label}", after._replace(sleeper=Command(following, epoch))
    if s.gateway.serves == HELD and s.command.at not in {"rollback", "rolling", "crossing"}:
        released = s._replace(gateway=s.gateway._replace(serves=OLD, fence=0))
        yield "gateway: the lease ends, the held go on to old", released


def _begin(s: State) -> Steps:
    settled = s.owner[OLD].side == s.owner[NEW].side == s.gateway.serves == OLD
    if s.moves[:1] == "f" and settled:
        epoch = _highest(s) + 1
        held = s._replace(moves=s.moves[1:], gateway=Gateway(HELD, s.gateway.epoch, epoch))
        yield "!step: hold", held._replace(command=Command("held", epoch))


def _bring_in_line(s: State) -> Steps:
    """What the next command says to type where owners or gateways do not agree (controller.py)."""
    newest = max(s.owner, key=lambda owner: owner.epoch)
    if s.owner == (newest, newest) and s.gateway.serves in {newest.side, HELD}:
        return
    if s.gateway.epoch > newest.epoch:
        back = Owner(OLD, _highest(s) + 1)
        yield "rollback, typed again: both owners", _let_go(s._replace(owner=(back, back)))
    else:
        served = (
            s.gateway if s.gateway.serves == newest.side else Gateway(newest.side, newest.epoch)
        )
        brought = s._replace(owner=(newest, newest), gateway=served)
        yield "rollout start: all as the newer owner says", brought


def _rollback_begins(s: State) -> Steps:
    """On-call types it, whatever else is under way: then that goes on beside it."""
    served = s.gateway.serves == NEW or s.command.at in STEP
    stepping = s.command.at in STEP
    if s.moves[:1] != "r" or not served or (stepping and s.sleeper.at):
        return
    beside = s.command if stepping else s.sleeper
    epoch = max(s.gateway.epoch, s.gateway.fence) + 1
    held = s._replace(moves=s.moves[1:], gateway=Gateway(HELD, epoch, 0), sleeper=beside)
    yield (
        "!rollback: old serves, who comes back is held",
        held._replace(command=Command("rollback", epoch)),
    )


def _fate(s: State, at: str, epoch: int) -> Steps:
    again = Command("rollback again" if at.startswith(("roll", "cross")) else "recover", epoch)
    if at in {"recover", "rollback again"}:
        return
    if s.crashes:
        died = s._replace(crashes=s.crashes - 1, command=again)
        if again.at == "rollback again":
            died = died._replace(excused=True)
        yield f"!{at}: the command is killed", died
    if s.sleeps and not s.sleeper.at and at in STEP:
        yield (
            f"!{at}: the command falls asleep, another one recovers",
            s._replace(sleeps=s.sleeps - 1, sleeper=s.command, command=again),
        )


def _acts(s: State, command: Command, without: Collection[Without]) -> Acts:
    at, epoch = command
    if at in STEP:
        return _step(s, at, epoch, without)
    if at.startswith("recover"):
        return _recover(s, at, epoch, without)
    return _rollback(s, at, epoch, without)


# The step


def _step(s: State, at: str, epoch: int, without: Collection[Without]) -> Acts:
    fenced = s.gateway.fence == epoch
    if at in {"held", "marked"}:
        yield "step: gives up", _release(s, epoch), ""
    if at == "held" and fenced and (_quiet(s, OLD) or Without.QUIESCENCE in without):
        yield "step: marker", logged(s, OLD, Entry("marker")), "marked"
    elif at == "marked" and fenced and passed(s, OLD, without):
        yield "step: passed, the fences are confirmed", s, "confirmed"
    elif at == "confirmed":
        yield _moved(s, "step", OLD, Owner(NEW, epoch), without, "moved")
    elif at == "moved":
        if Without.WINNER_LAST in without:
            yield _moved(s, "step", NEW, Owner(NEW, epoch), without, "again")
        elif Without.SECOND_BARRIER in without:
            yield "step: no second marker", s, "again"
        else:
            yield "step: second marker", logged(s, OLD, Entry("marker")), "again"
    elif at == "again":
        late = Without.SECOND_BARRIER in without or Without.WINNER_LAST in without
        if late or passed(s, OLD, without):
            yield from _switch(s, epoch, without)
        yield "step: the late keys take too long", s, "back"
    elif at == "switched":
        yield _moved(s, "step", NEW, Owner(NEW, epoch), without, "")
    elif at in {"back", "back 2"}:
        if s.gateway.epoch > epoch:
            yield "step: somebody decided since", _release(s, epoch), ""
        else:
            yield from _take_back(s, "step", at, epoch, without)


def _switch(s: State, epoch: int, without: Collection[Without]) -> Acts:
    """Only a gateway whose fence stands takes it: its acknowledgement for this epoch."""
    if s.gateway.fence == epoch or Without.ACKNOWLEDGEMENT in without:
        switched = s._replace(gateway=Gateway(NEW, epoch, 0))
        yield "step: the gateway switches", switched, "switched"
    else:
        yield "step: the gateway refuses the switch", s, "back"


def _moved(
    s: State, who: str, side: int, wanted: Owner, without: Collection[Without], following: str
) -> tuple[str, State, str]:
    """Move one owner row; an epoch that is not newer moves nothing (EpochConflict)."""
    current = s.owner[side]
    if current != wanted and wanted.epoch <= current.epoch and Without.EPOCHS not in without:
        return f"{who}: a newer epoch stands on {NAMES[side]}", _release(s, wanted.epoch), ""
    after = s._replace(owner=side_put(s.owner, side, wanted))
    return f"{who}: {NAMES[side]} says that {NAMES[wanted.side]} owns it", after, following


def _take_back(s: State, who: str, at: str, epoch: int, without: Collection[Without]) -> Acts:
    """Nobody is served by it: both owners back under the next epoch, then the held go on."""
    second = at.endswith("2")
    newer = epoch if Without.NEWER_EPOCH in without else epoch + 1
    if Without.NEWER_EPOCH in without and s.owner[OLD if second else NEW].side == OLD:
        after, following = s, "" if second else f"{at} 2"
        label = f"{who}: {NAMES[OLD if second else NEW]} is as it should be"
    else:
        label, after, following = _moved(
            s, who, OLD if second else NEW, Owner(OLD, newer), without, "" if second else f"{at} 2"
        )
    yield label, (_release(after, epoch) if second else after), following


def _release(s: State, epoch: int) -> State:
    fence = s.gateway.fence in {epoch, 0}
    if s.gateway.serves == HELD and fence and s.command.at[:4] not in {"roll", "cros"}:
        return s._replace(gateway=s.gateway._replace(serves=OLD, fence=0))
    return s


def _quiet(s: State, side: int) -> bool:
    return s.under_way[side] is None and s.hidden[side] is None


def passed(s: State, side: int, without: Collection[Without]) -> bool:
    """migrator/barrier.py: the position, and nothing spooled or parked since before the marker."""
    stream = s.streams[side]
    waiting = zip(stream.spool, stream.parked, stream.newer, strict=True)
    whole = not any((gen or why) and not newer for gen, why, newer in waiting)
    reached = Entry("marker") not in stream.log and not stream.refuge and not stream.afloat
    return reached and (whole or Without.WHOLE_BARRIER in without)


# After a kill


def _recover(s: State, at: str, epoch: int, without: Collection[Without]) -> Acts:
    gateway = s.gateway
    if at == "recover":
        latest = max(gateway.epoch, s.owner[OLD].epoch, s.owner[NEW].epoch)
        if latest > epoch:
            yield "recovery: a later command decided", _release(s, epoch), ""
        elif gateway.epoch == epoch:
            yield "recovery: new serves, so forward", s, "recover forward"
        else:
            forgo = Without.FORGOING not in without
            yield "recovery: nobody is served by it", s, f"recover {'forgo' if forgo else 'back'}"
    elif at == "recover forgo":
        if gateway.epoch >= epoch:
            way = "forward" if gateway.epoch == epoch else ""
            yield "recovery: it was switched meanwhile", s, f"recover {way}".rstrip()
        else:
            given_up = s._replace(gateway=gateway._replace(fence=0))
            yield "recovery: the gateway gives the epoch up", given_up, "recover back"
    elif at.startswith("recover back"):
        yield from _take_back(s, "recovery", at, epoch, without)
    elif at == "recover forward":
        yield _moved(s, "recovery", OLD, Owner(NEW, epoch), without, "recover mark")
    elif at == "recover mark":
        yield "recovery: marker", logged(s, OLD, Entry("marker")), "recover finish"
    elif passed(s, OLD, without) or (Without.DISPUTED not in without and _disputed(s)):
        yield _moved(s, "recovery", NEW, Owner(NEW, epoch), without, "")


def _disputed(s: State) -> bool:
    """Only keys that wait for the opposite stream are left: the owner decides them."""
    stream = s.streams[OLD]
    older = [key for key, newer in enumerate(stream.newer) if not newer]
    reached = Entry("marker") not in stream.log and not any(stream.spool[key] for key in older)
    waits = {stream.parked[key] for key in older} - {""}
    return (
        reached
        and bool(waits & {"contested", "asked"})
        and waits
        <= {
            "contested",
            "asked",
            "parent",
        }
    )


# The way back


def _rollback(s: State, at: str, epoch: int, without: Collection[Without]) -> Acts:
    """The flags are set. The owner on new, the reverse barrier, the owner on old; then release.

    Whatever happens, a second is over at last; then the owner moves on old all the same.
    """
    if at == "rollback again":
        newer = _highest(s) + 1
        if s.owner[OLD].side == s.owner[NEW].side == OLD:
            yield "rollback again: nothing to do", _let_go(s), ""
        else:
            both = (Owner(OLD, newer), Owner(OLD, newer))
            yield "rollback again: both owners", _let_go(s)._replace(owner=both), ""
        return
    if s.deaths:
        away = _owner_back(s, OLD, epoch)._replace(deaths=0, excused=True)
        yield "!rollback: the new database is away", _let_go(away), "rollback again"
    if at == "rollback":
        yield "rollback: new says that old owns it", _owner_back(s, NEW, epoch), "rolling"
    elif at == "rolling" and _quiet(s, NEW):
        yield "rollback: marker", logged(s, NEW, Entry("marker")), "crossing"
    elif at == "crossing" and passed(s, NEW, without):
        yield "rollback: passed", _let_go(_owner_back(s, OLD, epoch)), ""
    if at in {"rolling", "crossing"}:
        late = _let_go(_owner_back(s, OLD, epoch))._replace(excused=True)
        yield "rollback: a second is over", late, ""


def _owner_back(s: State, side: int, epoch: int) -> State:
    """Outbidding a step that moved it meanwhile."""
    newer = max(epoch, s.owner[side].epoch + 1)
    return s._replace(owner=side_put(s.owner, side, Owner(OLD, newer)))


def _let_go(s: State) -> State:
    """The held go on to old; where an owner had to be outbid, the gateway hears its epoch."""
    return s._replace(gateway=Gateway(OLD, max(s.gateway.epoch, s.owner[OLD].epoch), 0))


def _highest(s: State) -> int:
    return max(s.gateway.epoch, s.gateway.fence, *(owner.epoch for owner in s.owner))
