"""Watches phases soak: looks every second, counts the clock, and brings customers back on `fail`.

Everything is kept in the ledger, so a watch can end and another begin anywhere. Two watches at
once do no harm: each second is counted once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from estate.config import Config
from estate.errors import ExitCode, SplitctlError
from estate.ledger import Ledger, LedgerUnreachable
from rollout import evidence, phases
from rollout.evidence import Look
from rollout.gates import GateResult
from rollout.phases import Decision, Move, Stage
from rollout.rollback import rollback
from rollout.tools import Tools

SHORTEST_LOOK_S, LONGEST_LOOK_S = 1.0, 10.0
# Without any progress for this long (or a tenth of the soak) a person is told.
PATIENCE_S = 30.0


class NothingToWatch(SplitctlError):
    """No customer is on the new side of {domains}: there is nothing to watch."""

    hint = "splitctl status"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Watched:
    """Where a domain was at the end of a watch. Seconds of soak."""

    domain: str
    percentage: int
    result: str
    reason: str
    soak_s: float
    soak_required_s: float


@dataclass(frozen=True)
class Progress:
    """One look, for whoever watches; `str()` of it is a line."""

    domains: tuple[Watched, ...]
    gates: tuple[GateResult, ...]

    def __str__(self) -> str:
        parts = [
            f"{item.domain} {item.percentage} %: {item.soak_s:.0f}/{item.soak_required_s:.0f} s, "
            f"{item.result}" + (f" ({item.reason})" if item.reason else "")
            for item in self.domains
        ]
        return "; ".join(parts)


@dataclass(frozen=True)
class WatchResult:
    """The end of a watch: each domain, each gate's last answer, rollbacks that were made."""

    domains: list[Watched]
    gates: list[GateResult]
    rollbacks: list[dict[str, Any]]
    exit_code: ExitCode
    next_command: str


@dataclass
class _Domain:
    """What this watch remembers of one domain."""

    name: str
    decision: Decision = field(default_factory=lambda: Decision(Move.SOAK))
    results: list[GateResult] = field(default_factory=list)
    percentage: int = 0
    soak_s: float = 0.0
    required_s: float = 0.0
    evident: bool = False
    marker: Any = None
    moved_on_at: float = 0.0
    told: dict[str, str] = field(default_factory=dict)

    def view(self) -> Watched:
        return Watched(
            self.name,
            self.percentage,
            self.decision.move.value,
            self.decision.reason,
            round(self.soak_s, 1),
            self.required_s,
        )


def watch(
    config: Config,
    domains: Sequence[str] | None = None,
    *,
    soak: timedelta | None = None,
    timeout: timedelta | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    tools: Tools | None = None,
) -> WatchResult:
    """Watch until every domain has soaked and its gates pass, or something else is decided.

    Exit codes: 0 soaked and passed, 6 rolled back on a `fail`, 4 held without evidence, 7 still
    soaking at the timeout. `soak` replaces the present phase's, and is kept in the ledger.
    """
    tools = tools or Tools.of(config)
    with tools.ledger() as ledger:
        watched = [_Domain(name) for name in _chosen(config, domains, ledger)]
        if soak is not None:
            for item in watched:
                _require(ledger, item.name, soak)
        began = tools.clock()
        for item in watched:
            item.moved_on_at = began
        while True:
            _look(config, watched, ledger, tools)
            gates = tuple(result for item in watched for result in item.results)
            on_progress(Progress(tuple(item.view() for item in watched), gates))
            failed = [i.name for i in watched if i.decision.move is Move.ROLL_BACK]
            if failed:
                return _rolled_back(config, failed, watched, tools)
            code = _end(watched, tools.clock(), began, timeout)
            if code is not None:
                return _result(watched, code)
            tools.sleep(_pause(watched))


def _chosen(config: Config, domains: Sequence[str] | None, ledger: Ledger) -> list[str]:
    names = list(domains or config.domains)
    for name in names:
        config.domain(name)
    rows = {name: ledger.rollout(name) for name in names}
    chosen = [
        name
        for name, row in rows.items()
        if row and row.stage in (Stage.LIVE, Stage.RAMPDOWN) and row.percentage > 0
    ]
    if not chosen or (domains and len(chosen) < len(names)):
        raise NothingToWatch(domains=", ".join(n for n in names if n not in chosen))
    return chosen


def _require(ledger: Ledger, domain: str, soak: timedelta) -> None:
    with ledger.changing(domain) as change:
        if change.rollout is not None:
            change.save(replace(change.rollout, soak_required_s=soak.total_seconds()))


def _look(config: Config, watched: list[_Domain], ledger: Ledger, tools: Tools) -> None:
    """One look at everything, for all domains at once."""
    seen = evidence.look(tools, config, ledger, [item.name for item in watched])
    for item in watched:
        try:
            _count(config, item, seen, ledger, tools.clock())
        except LedgerUnreachable as error:
            # Neither passed nor failed: the clock stands until the ledger is back.
            item.decision, item.evident = Decision(Move.HOLD, str(error)), False


def _count(config: Config, item: _Domain, seen: Look, ledger: Ledger, clock: float) -> None:
    with ledger.changing(item.name) as change:
        if change.rollout is None:
            raise NothingToWatch(domains=item.name)
        before = change.rollout
        row = evidence.counted(before, seen, change.now)
        change.save(row)
    found = evidence.of(row, seen, evidence.trusted(ledger, item.name))
    item.results = evidence.ask(config, found)
    position = evidence.position(config, row)
    item.decision = phases.on_watch(position, item.results)
    item.percentage, item.soak_s, item.required_s = (
        row.percentage,
        row.soak_evidence_s,
        position.soak_s,
    )
    item.evident = row.soak_evidence_s > before.soak_evidence_s
    # Progress is more soak, or more samples for a gate that is not sure yet.
    unsure = tuple((r.name, r.samples) for r in item.results if r.verdict == "inconclusive")
    marker = (None if position.soaked else round(row.soak_evidence_s, 3), unsure)
    if marker != item.marker or item.decision.move is Move.SOAKED:
        item.marker, item.moved_on_at = marker, clock
    ledger.add_sample(item.name, "watch", evidence.sample(found, row))
    for result in item.results:
        if item.told.get(result.name) != result.verdict:
            item.told[result.name] = result.verdict
            ledger.add_verdict(item.name, "gate", result.name, result.verdict, vars(result))


def _end(
    watched: list[_Domain], clock: float, began: float, timeout: timedelta | None
) -> ExitCode | None:
    """The exit code when the watch is over, None while it goes on."""
    if any(item.decision.move is Move.REFUSE for item in watched):
        return ExitCode.PRECONDITION  # somebody else brought the customers back meanwhile
    if all(item.decision.move is Move.SOAKED for item in watched):
        return ExitCode.DONE
    stuck = [
        item
        for item in watched
        if clock - item.moved_on_at >= max(PATIENCE_S, item.required_s / 10)
    ]
    if stuck:
        return ExitCode.INCONCLUSIVE
    if timeout is not None and clock - began >= timeout.total_seconds():
        blind = [i for i in watched if i.decision.move is not Move.SOAKED and not i.evident]
        return ExitCode.INCONCLUSIVE if blind else ExitCode.IN_PROGRESS
    return None


def _pause(watched: list[_Domain]) -> float:
    """Seconds until the next look: every second, less often when days are to soak."""
    shortest = min(item.required_s for item in watched)
    return min(LONGEST_LOOK_S, max(SHORTEST_LOOK_S, shortest / 3600))


def _rolled_back(
    config: Config, failed: list[str], watched: list[_Domain], tools: Tools
) -> WatchResult:
    data = rollback(config, failed, tools=tools).to_json()["rollbacks"]
    result = _result(watched, ExitCode.ROLLED_BACK)
    return replace(result, rollbacks=data, next_command="splitctl verify run")


def _result(watched: list[_Domain], code: ExitCode) -> WatchResult:
    first = next((i for i in watched if i.decision.move is not Move.SOAKED), watched[0])
    following = {
        ExitCode.DONE: f"splitctl rollout advance {watched[0].name}",
        ExitCode.IN_PROGRESS: f"splitctl rollout watch {first.name}",
    }.get(code, "splitctl status")
    if code is ExitCode.DONE and watched[0].percentage == 100:
        following = f"splitctl decommission rampdown {watched[0].name}"
    unsure = {r.kind for r in first.results if r.verdict == "inconclusive"}
    if code is ExitCode.INCONCLUSIVE and "consistency" in unsure:
        following = f"splitctl verify run --domain {first.name}"
    gates = [result for item in watched for result in item.results]
    return WatchResult([item.view() for item in watched], gates, [], code, following)
