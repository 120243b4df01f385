"""Drift: gateways serve something else than the ledger says, and no command is at work.

A watch names it and stops the soak clock. When the flags are as they were asked for again, the
phase begins anew: what was counted meanwhile, and before, is no evidence for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from estate.ledger import Ledger, Rollout
from rollout import evidence, marks
from rollout.counters import Snapshot
from rollout.flags import DomainFlags, GatewayFlags
from rollout.gates import GateResult
from rollout.marks import DRIFT, DRIFT_ENDED
from rollout.provenance import Provenance

# A rollback waits for no lock and writes its books last: so long it looks like a drift.
SETTLES_S = 5.0
# Of a gateway that has its flags from its environment.
NO_EPOCH = 0


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
    if lasted >= SETTLES_S and marks.drift(ledger, before) is None and _nobody(ledger, before):
        _write(seen, before, ledger, provenance.who(before.domain), lasted)
    return True


def found(before: Rollout, seen: Served, ledger: Ledger, provenance: Provenance) -> None:
    """Write down what a command found that is about to bring it in line."""
    if seen.told:
        _write(seen, before, ledger, provenance.who(before.domain), 0.0)


def ended(before: Rollout, seen: Served, snapshot: Snapshot, ledger: Ledger, how: str) -> bool:
    """Begin the phase anew if a drift was written down and all is as it was asked for again."""
    if seen.told or not seen.all_seen or marks.drift(ledger, before) is None:
        return False
    domain = before.domain
    with ledger.changing(domain) as change:
        if change.rollout is None or (act := marks.drift(change, change.rollout)) is None:
            return False  # another watch was faster
        lasted = marks.span(change.now - act.at)
        told = {"how": how, "lasted": lasted, "clock": "the phase begins anew, at zero"}
        change.record(domain, DRIFT_ENDED, {"epoch": change.rollout.epoch}, told)
        change.save(
            replace(
                change.rollout,
                phase_started_at=change.now,
                # Whoever was served by the other side meanwhile has moved, and moved again.
                moved_at=change.now,
                soak_evidence_s=0.0,
                counted_at=change.now,
                evidence=evidence.opened(
                    snapshot,
                    domain,
                    change.rollout.epoch,
                    change.rollout.evidence.get("from"),
                ),
            )
        )
    return True


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
        if row is None or row.epoch != before.epoch or marks.drift(change, row) is not None:
            return  # customers moved meanwhile, or another watch was faster
        since = marks.moment(change.now - timedelta(seconds=lasted))
        told = {"told": list(seen.told), "who": list(who), "since": since, "epoch": row.epoch}
        change.record(before.domain, DRIFT, told, {"clock": "it stands"})
