"""Drift: something is not as the phase began with it, and no command of ours made it so.

Either gateways serve something else than the ledger says, or other images or configuration run
(`rollout.versions`). A watch names it and stops the soak clock. When the flags are as they were
asked for again, or a person has seen what runs now and types `rollout start`, the phase begins
anew: what was counted meanwhile, and before, is no evidence for it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from estate.ledger import ActRecord, Ledger, Rollout
from rollout import evidence, marks
from rollout.counters import Snapshot
from rollout.evidence import VERSIONS
from rollout.flags import DomainFlags, GatewayFlags
from rollout.gates import GateResult
from rollout.marks import DRIFT, DRIFT_ENDED, VERSION
from rollout.phases import Stage
from rollout.provenance import Provenance
from rollout.versions import Seen, all_ours, changes, first_seen

# A rollback waits for no lock and writes its books last: so long it looks like a drift.
SETTLES_S = 5.0
# Of a gateway that has its flags from its environment.
NO_EPOCH = 0
ANEW = "the phase begins anew, at zero"


@dataclass(frozen=True)
class Served:
    """What of a domain is served otherwise than asked. `all_seen`: every gateway answered."""

    told: tuple[str, ...] = ()
    all_seen: bool = True


@dataclass
class Sight:
    """What a watch remembers of one domain's flags between two looks. Times in seconds."""

    domain: str
    since: float | None = None
    told: tuple[str, ...] = field(default=())


def served(rollout: Rollout, gateways: Sequence[GatewayFlags]) -> Served:
    """Compare what gateways serve with what the ledger says. One that is silent tells nothing."""
    told: list[str] = []
    for gateway in gateways:
        flags = gateway.domains.get(rollout.domain)
        if flags is not None and not _as_asked(flags, rollout):
            told.append(
                f"{gateway.url} serves {flags.served} % under epoch {flags.epoch}, "
                f"{rollout.percentage} % under epoch {rollout.epoch} is asked"
            )
    silent = [gateway for gateway in gateways if rollout.domain not in gateway.domains]
    return Served(tuple(told), not silent)


def note(
    sight: Sight,
    seen: Served,
    before: Rollout,
    ledger: Ledger,
    provenance: Provenance,
    clock: Callable[[], float],
) -> bool:
    """One look. Returns whether the soak clock has to stand.

    A drift is written down once it has lasted, unless a command is at work or was left unfinished:
    then what is served is that command's business.
    """
    if not seen.told:
        sight.since = None
        return marks.drift(ledger, before) is not None
    if sight.since is None:
        sight.since = clock()
    lasted = clock() - sight.since
    written = _of_flags(marks.drift(ledger, before))
    if lasted >= SETTLES_S and not written and _nobody(ledger, before):
        _write(seen, before, ledger, provenance.who(before.domain), lasted)
    return True


def found(before: Rollout, seen: Served, ledger: Ledger, provenance: Provenance) -> None:
    """Write down what a command found that is about to bring it in line.

    Where another version is adopted with that, the phase begins anew anyway.
    """
    if seen.told and marks.drift(ledger, before) is None:
        _write(seen, before, ledger, provenance.who(before.domain), 0.0)


def ended(before: Rollout, seen: Served, snapshot: Snapshot, ledger: Ledger, how: str) -> bool:
    """Begin the phase anew if a drift was written down and all is as it was asked for again."""
    act = marks.drift(ledger, before)
    if seen.told or not seen.all_seen or act is None or not _of_flags(act):
        return False
    return _end(act, before.domain, snapshot, ledger, how)


def adopted(before: Rollout, snapshot: Snapshot, ledger: Ledger, how: str) -> bool:
    """Begin the phase anew with what runs now: there is nothing to be put back."""
    act = marks.drift(ledger, before)
    if act is None or _of_flags(act):
        return False
    return _end(act, before.domain, snapshot, ledger, how)


def runs(before: Rollout, seen: Seen | None, snapshot: Snapshot, ledger: Ledger) -> None:
    """Compare what runs with what ran when the phase began, or remember it for that.

    What a command of ours has set is a new version too: then the phase begins anew at once, and
    the act says so. At 0 % no phase has begun: it does with what runs when the step is made. None:
    nobody could be asked, which is no drift.
    """
    if seen is None or before.stage != Stage.LIVE:
        return
    kept = _kept(before) if before.percentage else None
    if kept is not None and not changes(kept, seen):
        if seen.covers(kept):
            adopted(before, snapshot, ledger, "what runs is what ran before again")
        if not first_seen(kept, seen):
            return
    with ledger.changing(before.domain) as change:
        row = change.rollout
        if row is None or row.epoch != before.epoch:
            return  # customers moved meanwhile
        kept = _kept(row) if row.percentage else None
        if kept is None:
            change.save(replace(row, evidence={**row.evidence, VERSIONS: seen.to_json()}))
            return
        if new := first_seen(kept, seen):
            row = replace(row, evidence={**row.evidence, VERSIONS: new})
            change.save(row)
        found = changes(kept, seen)
        if not found or marks.drift(change, row) is not None:
            return
        who = list(dict.fromkeys(item.who for item in found if item.who))
        told = {"told": [item.told for item in found], "who": who, "epoch": row.epoch}
        if all_ours(found):
            change.record(row.domain, VERSION, told, {"clock": ANEW})
            change.save(_anew(row, change.now, snapshot, None))
        else:
            since = marks.moment(change.now)
            more = {"since": since, "of": VERSION}
            change.record(row.domain, DRIFT, {**told, **more}, {"clock": "it stands"})


def _of_flags(act: ActRecord | None) -> bool:
    return act is not None and act.intent.get("of") != VERSION


def _kept(row: Rollout) -> Mapping[str, Any] | None:
    """What ran when the phase began. Without the objects asked for it says too little."""
    kept: Mapping[str, Any] | None = row.evidence.get(VERSIONS)
    return kept if kept is not None and "asked" in kept else None


def _end(act: ActRecord, domain: str, snapshot: Snapshot, ledger: Ledger, how: str) -> bool:
    """In one transaction: the drift is over, and the phase begins anew. False: it was over."""
    with ledger.changing(domain) as change:
        row = change.rollout
        standing = marks.drift(change, row) if row is not None else None
        if row is None or standing is None or standing.id != act.id:
            return False  # another watch was faster
        # Another version may have run beside a drift of flags, and is none that anybody adopted.
        runs = _kept(row) if _of_flags(act) else None
        lasted = marks.span(change.now - act.at)
        told = {"how": how, "lasted": lasted, "clock": ANEW}
        change.record(domain, DRIFT_ENDED, {"epoch": row.epoch}, told)
        # Whoever was served by the other side meanwhile has moved, and moved again. While another
        # version runs that may have been so, too.
        change.save(replace(_anew(row, change.now, snapshot, runs), moved_at=change.now))
    return True


def _anew(
    row: Rollout, now: datetime, snapshot: Snapshot, runs: Mapping[str, Any] | None
) -> Rollout:
    """The phase at its beginning. `runs`: the version that it is of, None: what runs now."""
    opened = evidence.opened(snapshot, row.domain, row.epoch, row.evidence.get("from"))
    return replace(
        row,
        phase_started_at=now,
        soak_evidence_s=0.0,
        counted_at=now,
        evidence={**opened, VERSIONS: runs},
    )


def blind_to_share(results: Sequence[GateResult]) -> list[GateResult]:
    """While something else is served than was asked, the observed share proves nothing."""
    reason = "the gateways do not serve what was asked"
    return [
        replace(result, verdict="inconclusive", reason=reason)
        if result.kind == "share" and result.verdict == "fail"
        else result
        for result in results
    ]


def _as_asked(flags: DomainFlags, rollout: Rollout) -> bool:
    # At 0 % an epoch says nothing: whatever was given out, everybody is on the old side.
    told = rollout.percentage > 0 and flags.epoch != NO_EPOCH
    # A newer one with the same percentage is that of a step which was taken back.
    return flags.served == rollout.percentage and not (told and flags.epoch < rollout.epoch)


def _nobody(ledger: Ledger, before: Rollout) -> bool:
    """Whether no command is at work, and none was left unfinished."""
    return ledger.lock_holder() is None and not ledger.unfinished(before.domain)


def _write(
    seen: Served, before: Rollout, ledger: Ledger, who: Sequence[str], lasted: float
) -> None:
    with ledger.changing(before.domain) as change:
        row = change.rollout
        if row is None or row.epoch != before.epoch or _of_flags(marks.drift(change, row)):
            return  # customers moved meanwhile, or another watch was faster
        since = marks.moment(change.now - timedelta(seconds=lasted))
        told = {"told": list(seen.told), "who": list(who), "since": since, "epoch": row.epoch}
        change.record(before.domain, DRIFT, told, {"clock": "it stands"})
