"""Where a domain stands after an act, and where that is written down."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from estate import journal
from estate.config import Config
from estate.ledger import ActRecord, Ledger, LedgerUnreachable, Rollout
from rollout import evidence, phases
from rollout.evidence import VERSIONS
from rollout.phases import Stage
from rollout.step_plan import StepResult
from rollout.survey import Survey
from rollout.tools import Tools

ADOPT = "adopt"
REPAIR = "repair"


def arrived(
    config: Config,
    result: StepResult,
    tools: Tools,
    ledger: Ledger,
    soak: timedelta | None,
) -> Rollout:
    """Where the domain stands after a step: a new phase, its clock at zero."""
    # First: whatever was looked at before this moment is of the phase before.
    opened = evidence.opened(
        tools.metrics.scrape(), result.domain, result.epoch, result.from_percentage
    )
    try:
        now, before = ledger.now(), ledger.rollout(result.domain)
    except LedgerUnreachable:
        now, before = None, None
    # A step changes nothing of what runs: it was compared just before.
    opened[VERSIONS] = before.evidence.get(VERSIONS) if before else None
    return Rollout(
        result.domain,
        stage=Stage.LIVE,
        percentage=result.to_percentage,
        phase=phase_of(config, result.domain, result.to_percentage),
        phase_started_at=now,
        moved_at=now,
        soak_required_s=soak.total_seconds() if soak is not None else None,
        counted_at=now,
        epoch=result.epoch,
        evidence=opened,
    )


def phase_of(config: Config, domain: str, percentage: int) -> int:
    """The index of the phase with this percentage, -1 for none (0 %)."""
    percentages = [phase.percentage for phase in config.domain(domain).phases]
    return percentages.index(percentage) if percentage in percentages else -1


def adopt(config: Config, row: Rollout, seen: Survey, ledger: Ledger) -> Rollout:
    """The ledger follows the world where the world is newer and agrees with itself.

    So it is after a rollback that was written down on another machine, or nowhere.
    """
    owned = seen.owned
    if owned is None or owned.epoch <= row.epoch or row.stage == Stage.COMPLETE:
        return row
    percentage = owned.new_below // phases.PER_PERCENT
    agreed = all(flags.served == percentage for flags in seen.served.values())
    if percentage == row.percentage or not seen.served or not agreed:
        return row
    now = ledger.now()
    moved = replace(
        row,
        stage=Stage.LIVE,
        percentage=percentage,
        phase=phase_of(config, row.domain, percentage),
        phase_started_at=now,
        moved_at=now,
        soak_evidence_s=0.0,
        soak_required_s=None,
        counted_at=now,
        epoch=owned.epoch,
        evidence={},
    )
    act = ledger.begin(row.domain, ADOPT, {"from": row.percentage, "to": percentage})
    ledger.finish(act, {"why": "the world was moved without this ledger"}, rollout=moved)
    return moved


def finish(
    config: Config,
    ledger: Ledger,
    act: ActRecord,
    outcome: Mapping[str, Any],
    *,
    state: str = "done",
    row: Rollout | None = None,
) -> bool:
    """Write an outcome down, in the local journal when the ledger is away. Returns where: True
    for the ledger."""
    try:
        ledger.finish(act, outcome, state=state, rollout=row)
        return True
    except LedgerUnreachable:
        told = None
        if row is not None:
            names = ("stage", "percentage", "phase", "epoch")
            told = {name: getattr(row, name) for name in names}
        entry = journal.Entry(
            kind=act.kind,
            domain=act.domain,
            intent=act.intent,
            outcome=dict(outcome),
            state=state,
            rollout=told,
            act_id=act.id,
            command=act.command,
        )
        journal.of(config).append(entry)
        return False
