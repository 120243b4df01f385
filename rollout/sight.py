"""One look at the whole estate: everybody is asked at once, and nobody is waited for too long."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from estate.config import Config
from estate.errors import in_one_line
from migrator.mapping import Side
from migrator.ownership import OwnerMissing, Ownership
from migrator.status import StreamStatus
from rollout import marks, parallel
from rollout.counters import Snapshot
from rollout.flags import Answer, Fence, GatewayFlags
from rollout.parallel import Running
from rollout.tools import Tools
from rollout.world import SIDES

if TYPE_CHECKING:
    from estate.ledger import ActRecord, Ledger, LockRecord, Rollout, VerdictRecord

ANSWER_S = 6.0


@dataclass
class Books:
    """What the ledger says."""

    rollouts: "dict[str, Rollout]" = field(default_factory=dict)
    verdicts: "dict[str, VerdictRecord]" = field(default_factory=dict)
    unfinished: "list[ActRecord]" = field(default_factory=list)
    lock: "LockRecord | None" = None
    paused: "dict[str, ActRecord]" = field(default_factory=dict)
    drift: "dict[str, ActRecord]" = field(default_factory=dict)
    proven: "dict[str, ActRecord]" = field(default_factory=dict)
    unanswered: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Seen:
    """All answers. What is None did not come."""

    books: Books | None = None
    gateways: list[GatewayFlags] = field(default_factory=list)
    held: dict[tuple[str, str], int] = field(default_factory=dict)
    owners: dict[tuple[str, Side], Ownership] = field(default_factory=dict)
    owner_problems: dict[tuple[str, Side], str] = field(default_factory=dict)
    streams: list[StreamStatus] | None = None
    snapshot: Snapshot | None = None
    ways_back: Mapping[str, Sequence[str]] = field(default_factory=dict)
    away: dict[str, str] = field(default_factory=dict)


def look(config: Config, tools: Tools) -> Seen:
    """Ask everybody. What does not answer is named in `away`, or left out."""
    names = list(config.domains)
    pairs: list[tuple[str, Side]] = [(name, side) for name in names for side in SIDES]
    owners: Running[tuple[str, Side], Ownership | None] = Running(
        {pair: partial(_owner, *pair, tools) for pair in pairs}
    )
    fences: Running[str, list[Answer[Fence]]] = Running(
        {name: partial(tools.flags.fences, name) for name in names}
    )
    parts: dict[str, Callable[[], Any]] = {
        "ledger": partial(_read_books, config, names, tools),
        "gateways": tools.flags.served,
        "sync": tools.sync,
        "metrics": tools.metrics.scrape,
    }
    if config.deploy is not None and config.gateway.driver != "admin":
        parts["ways back"] = partial(_ways_back, config, tools)
    found = parallel.gather(parts, ANSWER_S)
    seen = Seen(
        books=found["ledger"].value,
        gateways=found["gateways"].value or [],
        streams=found["sync"].value,
        snapshot=found["metrics"].value,
    )
    if "ways back" in found:
        seen.ways_back = found["ways back"].value or {}
    seen.away = {
        part: in_one_line(item.error) for part, item in found.items() if item.error is not None
    }
    for name, answers in fences.wait(ANSWER_S).items():
        for answer in answers.value or []:
            if answer.value is not None and answer.value.holding:
                seen.held[name, answer.url] = answer.value.held
    for pair, owner in owners.wait(ANSWER_S).items():
        if owner.error is not None:
            seen.owner_problems[pair] = in_one_line(owner.error)
        elif owner.value is not None:
            seen.owners[pair] = owner.value
    seen.away |= {g.url: g.problem or "no answer" for g in seen.gateways if not g.reachable}
    seen.away |= {item.stream: item.problem for item in seen.streams or [] if item.problem}
    return seen


def _ways_back(config: Config, tools: Tools) -> Mapping[str, Sequence[str]]:
    from rollout import ways_back

    return ways_back.lacking(config, tools.cluster())


def _read_books(config: Config, names: list[str], tools: Tools) -> Books:
    from rollout.evidence import trusted

    books = Books()
    with tools.ledger() as ledger:
        for name in names:
            row, verdict = ledger.rollout(name), trusted(ledger, name)
            if row is not None:
                books.rollouts[name] = row
                _read_marks(config, row, ledger, books)
            if verdict is not None:
                books.verdicts[name] = verdict
        books.unfinished = ledger.unfinished()
        books.lock = ledger.lock_holder()
    return books


def _read_marks(config: Config, row: "Rollout", ledger: "Ledger", books: Books) -> None:
    if (paused := marks.paused(ledger, row.domain)) is not None:
        books.paused[row.domain] = paused
    if (drift := marks.drift(ledger, row)) is not None:
        books.drift[row.domain] = drift
    if (proven := marks.proven(ledger, row)) is not None:
        books.proven[row.domain] = proven
    answered = marks.answers(config, ledger, row)
    books.unanswered[row.domain] = [
        gate for gate in marks.questions(config, row) if gate not in answered
    ]


def _owner(name: str, side: Side, tools: Tools) -> Ownership | None:
    world = tools.world(name)
    try:
        return world.owner(side)
    except OwnerMissing:
        return None  # sync was never enabled: nothing is wrong
    finally:
        world.close()
