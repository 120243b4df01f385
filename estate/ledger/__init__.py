"""The ledger: the durable record of every intent, act, sample and verdict (law L7)."""

from estate.ledger.ledger import (
    Ledger,
    LedgerNewer,
    LedgerUnreachable,
    LockHeld,
    open_ledger,
)
from estate.ledger.records import ActRecord, LockRecord, Rollout, SampleRecord, VerdictRecord
from estate.ledger.rows import Change

__all__ = [
    "ActRecord",
    "Change",
    "Ledger",
    "LedgerNewer",
    "LedgerUnreachable",
    "LockHeld",
    "LockRecord",
    "Rollout",
    "SampleRecord",
    "VerdictRecord",
    "open_ledger",
]
