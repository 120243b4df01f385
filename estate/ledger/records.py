"""What the ledger gives back: plain records, free of any session."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Rollout:
    """Where a domain stands, as the ledger has it.

    phase: index into the domain's phases, -1 before the first step and after a rollback
    phase_started_at: since when its window counts; moved_at: when customers last changed side
    soak_evidence_s, soak_required_s: seconds; required is None when the configuration's holds
    counted_at: until when the soak clock was counted
    evidence: what was gathered since the phase began (counters, recent lags)
    """

    domain: str
    stage: str = "off"
    percentage: int = 0
    phase: int = -1
    phase_started_at: datetime | None = None
    moved_at: datetime | None = None
    soak_evidence_s: float = 0.0
    soak_required_s: float | None = None
    counted_at: datetime | None = None
    epoch: int = 0
    evidence: dict[str, Any] = field(default_factory=dict)
    updated_at: datetime | None = None


@dataclass(frozen=True)
class ActRecord:
    """An intent with its outcome, if it has one."""

    id: int
    at: datetime
    operator: str
    host: str
    command: str
    domain: str | None
    kind: str
    state: str
    intent: dict[str, Any]
    outcome: dict[str, Any] | None
    finished_at: datetime | None


@dataclass(frozen=True)
class SampleRecord:
    """What was measured at one moment."""

    at: datetime
    domain: str
    source: str
    data: dict[str, Any]


@dataclass(frozen=True)
class VerdictRecord:
    """The answer of a gate or of a verification, with its age in seconds when it was read."""

    at: datetime
    started_at: datetime
    domain: str
    kind: str
    name: str
    verdict: str
    data: dict[str, Any]
    age_s: float


@dataclass(frozen=True)
class LockRecord:
    """Who holds the operator lock."""

    operator: str
    host: str
    command: str
    since: datetime
