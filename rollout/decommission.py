"""The end that is earned: rampdown, archive, and the archive's undo."""

from contextlib import suppress
from dataclasses import dataclass, replace

from estate.config import Config
from estate.errors import SplitctlError
from estate.ledger import ActRecord, Ledger, Rollout
from migrator import archive as archiving
from migrator.archive import Renamed
from rollout import evidence, phases
from rollout.finished import FINISH, UNFINISH, FinishUnderWay
from rollout.following import after_rampdown
from rollout.phases import Move, Stage
from rollout.preconditions import Held, Refused, ask, held, in_line, need_verdict
from rollout.survey import survey
from rollout.telling import Teller
from rollout.tools import Tools

RAMPDOWN, ARCHIVE, UNDO = "rampdown", "archive", "undo"
BARRIER_S = 30.0


@dataclass(frozen=True)
class Entered:
    """A stage that was entered. `tables`: old and new name of each that was renamed now."""

    domain: str
    stage: str
    already: bool
    tables: list[str]
    next_command: str


def rampdown(config: Config, domain: str, *, tools: Tools | None = None) -> Entered | Held:
    """End the last phase once it has soaked and its gates pass: no more steps.

    Both directions go on, and rollback stays open until `complete`. Raises Refused or Drift.
    """
    tools = _opened(config, domain, tools)
    with tools.ledger() as ledger, ledger.lock():
        row = _row(ledger, domain)
        if row.stage == Stage.LIVE and row.percentage == 100:
            asked = ask(config, row, ledger, evidence.look(tools, config, ledger, [domain]))
            row, results, position = asked.row, asked.results, asked.position
        else:
            results, position = [], evidence.position(config, row)
        decision = phases.on_rampdown(position, results)
        following = after_rampdown(config, domain)
        if decision.move is Move.NOTHING:
            return Entered(domain, row.stage, True, [], following)
        if decision.move is Move.REFUSE:
            reason = decision.reason
            raise Refused(domain=domain, reason=reason, next=f"splitctl rollout advance {domain}")
        if decision.move is not Move.ENTER:
            return held(row, decision, results)
        _in_line(domain, row, tools)
        act = _begin(ledger, domain, RAMPDOWN)
        row = replace(row, stage=Stage.RAMPDOWN)
        ledger.finish(act, {"stage": row.stage}, rollout=row)
    return Entered(domain, row.stage, False, [], following)


def archive(config: Config, domain: str, *, tools: Tools | None = None) -> Entered:
    """Rename the old tables and close the way back: everything has crossed and is the same.

    Raises Refused or Drift, and what `migrator.archive` raises. Typed again, it goes on.
    """
    tools = _opened(config, domain, tools)
    following = f"splitctl sync teardown {domain}, when the way back is no longer wanted"
    with tools.ledger() as ledger, ledger.lock():
        row = _row(ledger, domain)
        decision = phases.on_archive(evidence.position(config, row))
        if decision.move is Move.NOTHING:
            return Entered(domain, row.stage, True, [], following)
        if decision.move is Move.REFUSE:
            command = f"splitctl decommission rampdown {domain}"
            raise Refused(domain=domain, reason=decision.reason, next=command)
        for open_act in ledger.unfinished(domain):
            if open_act.kind in (FINISH, UNFINISH):
                raise FinishUnderWay(domain=domain)
        begun = any(act.kind == ARCHIVE for act in ledger.unfinished(domain))
        if not (begun and _archived(domain, tools)):
            _proven(config, domain, row, ledger, tools)
        act = _begin(ledger, domain, ARCHIVE)
        try:
            done = archiving.archive(config, domain)
        except SplitctlError as error:
            # Half an archive would keep the forward direction waiting: back to where it was.
            with suppress(SplitctlError):
                archiving.undo(config, domain)
            ledger.finish(act, {"error": str(error)}, state="abandoned")
            raise
        row = replace(row, stage=Stage.COMPLETE)
        ledger.finish(act, {"renamed": _told(done)}, rollout=row)
    Teller(config, tools).tell(domain, "finished", following, after=str(row.stage))
    return Entered(domain, row.stage, False, _told(done), following)


def undo(config: Config, domain: str, *, tools: Tools | None = None) -> Entered:
    """Take an archive back: old names, and what changed since is carried over."""
    tools = _opened(config, domain, tools)
    following = (
        f"splitctl sync status  (until nothing waits), then: splitctl rollout watch {domain}"
    )
    with tools.ledger() as ledger, ledger.lock():
        row = _row(ledger, domain)
        decision = phases.on_undo(evidence.position(config, row))
        begun = any(act.kind == ARCHIVE for act in ledger.unfinished(domain))
        if decision.move is Move.NOTHING and not begun and not _archived(domain, tools):
            return Entered(domain, row.stage, True, [], "splitctl status")
        act = _begin(ledger, domain, UNDO)
        done = archiving.undo(config, domain)
        row = replace(row, stage=Stage.RAMPDOWN)
        ledger.finish(act, {"renamed": _told(done)}, rollout=row)
        for other in ledger.unfinished(domain):
            if other.kind == ARCHIVE:
                ledger.finish(other, {"how": "undone"}, state="abandoned")
    return Entered(domain, row.stage, False, _told(done), following)


def _opened(config: Config, domain: str, tools: Tools | None) -> Tools:
    config.domain(domain)
    return tools or Tools.of(config)


def _row(ledger: Ledger, domain: str) -> Rollout:
    row = ledger.rollout(domain)
    if row is None:
        command = f"splitctl rollout start {domain}"
        raise Refused(domain=domain, reason="its rollout was not started", next=command)
    return row


def _begin(ledger: Ledger, domain: str, kind: str) -> ActRecord:
    """The intent; one of the same kind that was found unfinished is gone on with."""
    for act in ledger.unfinished(domain):
        if act.kind == kind:
            return act
    return ledger.begin(domain, kind, {})


def _proven(config: Config, domain: str, row: Rollout, ledger: Ledger, tools: Tools) -> None:
    """Everybody is on the new side, everything has crossed back, and both sides are the same."""
    _in_line(domain, row, tools)
    need_verdict(config, domain, row, ledger)
    world = tools.world(domain)
    try:
        crossing = world.cross("reverse", BARRIER_S)
    finally:
        world.close()
    if not crossing.passed:
        reason = f"{crossing.pending} keys have not crossed to the old side"
        raise Refused(domain=domain, reason=reason, next="splitctl sync status")


def _in_line(domain: str, row: Rollout, tools: Tools) -> None:
    world = tools.world(domain)
    try:
        in_line(domain, row, survey(domain, tools.flags, world))
    finally:
        world.close()


def _archived(domain: str, tools: Tools) -> bool:
    world = tools.world(domain)
    try:
        return world.archived()
    finally:
        world.close()


def _told(done: Renamed) -> list[str]:
    return [f"{before} -> {after}" for before, after in done.renamed]
