"""All that a person wants to see of rollouts that go on for days, gathered at one moment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from estate.config import Config
from estate.errors import SplitctlError
from rollout.gates import GateResult
from rollout.history import TOLD_ALL, Event, history
from rollout.looks import Progress, Watched
from rollout.status import DomainStatus, EstateStatus, status
from rollout.tools import Tools

VALUES = 24  # of each gate, from the latest samples
EVENTS = 6


@dataclass(frozen=True)
class GateLine:
    """A gate's last answer, and its latest values, oldest first."""

    result: GateResult
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class DomainBoard:
    """One domain: how it stands, what its gates say, how far its clock is."""

    status: DomainStatus
    watched: Watched | None = None
    gates: tuple[GateLine, ...] = ()


@dataclass(frozen=True)
class Board:
    """Everything at `at`. `events`: the newest last; `away`: parts that did not answer."""

    environment: str
    at: datetime
    domains: tuple[DomainBoard, ...] = ()
    lock: str | None = None
    away: Mapping[str, str] = field(default_factory=dict)
    events: tuple[Event, ...] = ()


def gather(config: Config, progress: Progress, tools: Tools | None = None) -> Board:
    """Ask everybody. Never raises for what is away: it is named."""
    tools = tools or Tools.of(config)
    found = status(config, tools=tools)
    names = [item.domain for item in found.domains]
    samples: dict[str, list[Mapping[str, Any]]] = {}
    events: Sequence[Event] = ()
    try:
        with tools.ledger() as ledger:
            for name in names:
                samples[name] = [item.data for item in ledger.samples(name, limit=VALUES)]
        # That somebody was told is no news here; that somebody was not is.
        latest = history(config, limit=2 * EVENTS, tools=tools).events
        events = [event for event in latest if event.outcome != TOLD_ALL][-EVENTS:]
    except SplitctlError:
        pass  # the status names the ledger as away, with the reason
    return board(config.environment, datetime.now(UTC), found, progress, samples, events)


def board(
    environment: str,
    at: datetime,
    found: EstateStatus,
    progress: Progress,
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    events: Sequence[Event],
) -> Board:
    """Put together what was gathered. Domains that are watched come first."""
    watched = {item.domain: item for item in progress.domains}
    domains = [
        DomainBoard(
            item,
            watched.get(item.domain),
            tuple(
                GateLine(result, _values(result.name, samples.get(item.domain, ())))
                for result in progress.gates
                if result.domain == item.domain
            ),
        )
        for item in found.domains
    ]
    domains.sort(key=lambda item: item.watched is None)
    return Board(environment, at, tuple(domains), found.operator, found.away, tuple(events))


def _values(gate: str, samples: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    found = [sample.get("gates", {}).get(gate) for sample in samples]
    return tuple(float(value) for value in found if value is not None)
