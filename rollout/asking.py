"""One look, put to the gates of a domain: what was counted, what they answer, where it stands."""

from dataclasses import dataclass, replace

from estate.config import Config
from estate.ledger import Ledger, Rollout
from rollout import drift, evidence, marks
from rollout.evidence import Look
from rollout.gates import GateResult
from rollout.phases import Position
from rollout.seen import Evidence


@dataclass(frozen=True)
class Asked:
    """Where a domain stands, what the gates looked at, and what they answer."""

    row: Rollout
    found: Evidence
    results: list[GateResult]
    position: Position


def count(
    config: Config, domain: str, ledger: Ledger, seen: Look, *, stands: bool = False
) -> Asked | None:
    """Count one look, keep it, and ask. None for a domain whose rollout was never started.

    stands: the soak clock must not move, though there is evidence; a pause stops it anyway.
    """
    with ledger.changing(domain) as change:
        before = change.rollout
        if before is None:
            return None
        row = evidence.counted(before, seen, change.now)
        if stands or marks.paused(change, domain) is not None:
            row = replace(row, soak_evidence_s=before.soak_evidence_s)
        change.save(row)
    return ask(config, row, ledger, seen)


def ask(config: Config, row: Rollout, ledger: Ledger, seen: Look) -> Asked:
    """Ask, without keeping anything; `row` has counted this look already."""
    paused, drifted = marks.paused(ledger, row.domain), marks.drift(ledger, row)
    found = replace(
        evidence.of(row, seen, evidence.trusted(ledger, row.domain)),
        answers=marks.answers(config, ledger, row),
    )
    results = evidence.ask(config, found)
    position = replace(
        evidence.position(config, row),
        paused=marks.why_paused(paused) if paused else "",
        drift=marks.why_drifted(drifted) if drifted else "",
    )
    return Asked(row, found, drift.blind_to_share(results) if drifted else results, position)
