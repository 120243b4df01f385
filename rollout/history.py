"""What happened to a rollout, in order: acts, and each turn of a gate or of a verification."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from estate.config import Config
from estate.errors import ExitCode
from estate.ledger import ActRecord, VerdictRecord
from rollout import marks
from rollout.notices import WORDS, Delivery
from rollout.telling import NOTICE
from rollout.tools import Tools

# Facts of an intent or an outcome that a line has room for.
TOLD = ("to", "reason", "gate", "answer", "note", "why", "how", "lasted", "paused_for", "error")
LONGEST_SHOWN = 160
KNOWN = frozenset(item.name for item in fields(Delivery))
TOLD_ALL, LOST = "told", "not delivered"
FEW = 30


@dataclass(frozen=True)
class Event:
    """One thing that happened. `seconds`: how long it took, None while it is not finished.

    outcome: done, abandoned or unfinished for an act; the verdict for a gate and a verification;
        told or not delivered for a notice
    """

    at: datetime
    domain: str | None
    kind: str
    outcome: str
    told: str
    operator: str
    host: str
    command: str
    seconds: float | None
    data: Mapping[str, Any]

    def lines(self) -> list[str]:
        """For a person."""
        took = "" if not self.seconds else f" ({self.seconds:.1f} s)"
        lines = [
            f"{marks.moment(self.at)}  {self.domain or '-'}  {self.kind}: {self.outcome}{took}"
        ]
        if self.told:
            lines.append(f"    {self.told}")
        if self.operator:
            lines.append(f"    {self.operator} on {self.host}: {self.command}")
        return lines


@dataclass(frozen=True)
class History:
    """The newest events, the oldest of them first."""

    events: list[Event]
    next_command: str = "splitctl status"
    exit_code: ExitCode = ExitCode.DONE

    def to_text(self) -> str:
        """For a person."""
        lines = [line for event in self.events for line in event.lines()]
        return "\n".join(lines or ["(nothing happened yet)"])


def history(
    config: Config,
    domain: str | None = None,
    *,
    limit: int = FEW,
    since: datetime | None = None,
    tools: Tools | None = None,
) -> History:
    """The last events of one domain, or of all. Raises UnknownName for a name nobody knows."""
    tools = tools or Tools.of(config)
    with tools.ledger() as ledger:
        acts = ledger.history(domain, limit, since)
        turns = ledger.turns(domain, limit, since)
    if domain and not acts and not turns:
        config.domain(domain)
    events = [*map(_of_act, acts), *map(_of_turn, turns)]
    return History(sorted(events, key=lambda event: event.at)[-limit:])


def _of_act(act: ActRecord) -> Event:
    facts = {**act.intent, **(act.outcome or {})}
    told, outcome = _told(facts), "unfinished" if act.state == "intended" else act.state
    if act.kind == NOTICE:
        told, outcome = _delivered(facts)
    took = (act.finished_at - act.at).total_seconds() if act.finished_at else None
    return Event(
        at=act.at,
        domain=act.domain,
        kind=act.kind,
        outcome=outcome,
        told=_short(told),
        operator=act.operator,
        host=act.host,
        command=f"splitctl {act.command}",
        seconds=None if took is None else round(max(took, 0.0), 3),
        data=facts,
    )


def _delivered(facts: Mapping[str, Any]) -> tuple[str, str]:
    """A notice: what was told to whom, and whether it arrived everywhere."""
    # A newer tool may have written down more of it, and events that this one has no words for.
    found = [
        Delivery(**{name: value for name, value in told.items() if name in KNOWN})
        for told in facts["receivers"]
    ]
    # First who was not reached: a line is short.
    found.sort(key=lambda delivery: delivery.problem is None)
    lost = any(delivery.problem is not None for delivery in found)
    said = f"'{WORDS.get(facts['event'], facts['event'])}': {'; '.join(map(str, found))}"
    return said, LOST if lost else TOLD_ALL


def _of_turn(record: VerdictRecord) -> Event:
    what = "" if record.name == record.kind else record.name
    took = (record.at - record.started_at).total_seconds()
    return Event(
        at=record.at,
        domain=record.domain,
        kind=f"{record.kind} {what}".strip(),
        outcome=record.verdict,
        told=_short(str(record.data.get("reason") or "")),
        operator="",
        host="",
        command="",
        seconds=round(max(took, 0.0), 3),
        data=record.data,
    )


def _told(facts: Mapping[str, Any]) -> str:
    """The facts that a person asks for first."""
    parts = []
    if facts.get("told"):
        parts += [str(item) for item in [*facts["told"], *facts.get("who", [])]]
    came_from = facts.get("from", facts.get("from_percentage"))
    if came_from is not None and "to" in facts:
        parts.append(f"{came_from} % -> {facts['to']} %")
    for name in TOLD:
        value = facts.get(name)
        if value in (None, "", [], {}) or (name == "to" and came_from is not None):
            continue
        parts.append(f"{name.replace('_', ' ')} {value}{' %' if name == 'to' else ''}")
    return "; ".join(parts)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."
