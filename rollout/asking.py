"""One look, put to the gates of a domain: what was counted, what they answer, where it stands."""

from dataclasses import dataclass, replace

from estate.config import Config
from estate.ledger import Change, Ledger, Rollout
from rollout import drift, evidence, marks, proof
from rollout.evidence import Look
from rollout.gates import GateResult
from rollout.phases import Position
from rollout.proof import Proof
from rollout.seen import Evidence


@dataclass(frozen=True)
class Asked:
    """Where a domain stands, what the gates looked at, and what they answer.

    proof: of the step that opened the phase; None where there is none to be proven
    """

    row: Rollout
    found: Evidence
    results: list[GateResult]
    position: Position
    proof: Proof | None = None


def count(
    config: Config, domain: str, ledger: Ledger, seen: Look, *, stands: bool = False
) -> Asked | None:
    """Count one look, keep it, and ask. None for a domain whose rollout was never started.

    stands: the soak clock must not move, though there is evidence, and nothing is proven; a pause
    stops the clock anyway, and nothing counts before the step is proven.
    """
    with ledger.changing(domain) as change:
        before = change.rollout
        if before is None:
            return None
        row = evidence.counted(before, seen, change.now)
        proven = not proof.wanted(row) or marks.proven(change, row) is not None
        if not proven and not stands:
            _prove(config, row, seen, change)
        if stands or not proven or marks.paused(change, domain) is not None:
            row = replace(row, soak_evidence_s=before.soak_evidence_s)
        change.save(row)
    found = ask(config, row, ledger, seen)
    if stands and not proven and found.proof is not None and found.proof.proven:
        reason = "what gateways serve is not what was asked for"
        share = replace(found.proof, word="open", reason=reason)
        found = replace(found, proof=share, position=replace(found.position, unproven=share.told))
    return found


def _prove(config: Config, row: Rollout, seen: Look, change: Change) -> None:
    """Write down that the step is proven, if this look proves it. Once: the row is locked."""
    found = proof.of(config, row, evidence.of(row, seen, None))
    if found.proven:
        told = {"how": f"{found}, {found.asked} % asked", **found.to_json()}
        change.record(row.domain, marks.PROVEN, {"epoch": row.epoch}, told)


def ask(config: Config, row: Rollout, ledger: Ledger, seen: Look) -> Asked:
    """Ask, without keeping anything; `row` has counted this look already."""
    paused, drifted = marks.paused(ledger, row.domain), marks.drift(ledger, row)
    proven = marks.proven(ledger, row)
    found = replace(
        evidence.of(row, seen, evidence.trusted(ledger, row.domain)),
        answers=marks.answers(config, ledger, row),
    )
    results = evidence.ask(config, found)
    share = None
    if proof.wanted(row):
        share = Proof.from_json(proven.outcome or {}) if proven else proof.of(config, row, found)
    position = replace(
        evidence.position(config, row),
        paused=marks.why_paused(paused) if paused else "",
        drift=marks.why_drifted(drifted) if drifted else "",
        unproven=share.told if share is not None and share.word == "open" else "",
        contradicted=share.told if share is not None and share.word == "contradicted" else "",
    )
    results = drift.blind_to_share(results) if drifted else results
    return Asked(row, found, results, position, share)
