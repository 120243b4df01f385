"""What an unattended rollout came to, for a person and for a program."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from estate.errors import ExitCode
from rollout.gates import GateResult


class State(StrEnum):
    """How a domain of a run stands."""

    BEGINS = "begins"
    PROVES = "waits for the step's proof"
    SOAKS = "soaks"
    HELD = "held"
    WAITS = "waits for another operator"
    PAUSED = "paused"
    ROLLED_BACK = "rolled back"
    DONE = "there"


@dataclass(frozen=True)
class Ran:
    """One domain. `goal` is the percentage that the run was to bring it to."""

    domain: str
    percentage: int
    goal: int
    result: str
    reason: str


@dataclass(frozen=True)
class RunResult:
    """The end of a run: each domain, each gate's last answer, rollbacks that were made."""

    domains: list[Ran]
    gates: list[GateResult]
    rollbacks: list[dict[str, Any]]
    exit_code: ExitCode
    next_command: str
