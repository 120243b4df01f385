"""Watches phases soak: looks every second, counts the clock, and brings customers back on `fail`.

Everything is kept in the ledger, so a watch can end and another begin anywhere. Two watches at
once do no harm: each second is counted once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from estate.config import Config
from estate.errors import ExitCode
from estate.ledger import Ledger
from rollout import looks
from rollout.gates import GateResult
from rollout.looks import NothingToWatch, Progress, Subject, Watched
from rollout.phases import Move, Stage
from rollout.preconditions import evidence_from
from rollout.rollback import rollback
from rollout.tools import Tools

# How a watch ends that makes no progress, unless it only lacks evidence.
STUCK = {
    Move.FAIL: ExitCode.CHECK_FAILED,
    Move.CONTRADICTED: ExitCode.CHECK_FAILED,
    Move.DRIFT: ExitCode.PRECONDITION,
}


@dataclass(frozen=True)
class WatchResult:
    """The end of a watch: each domain, each gate's last answer, rollbacks that were made."""

    domains: list[Watched]
    gates: list[GateResult]
    rollbacks: list[dict[str, Any]]
    exit_code: ExitCode
    next_command: str


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

    Exit codes: 0 soaked and passed, 6 rolled back on a `fail`, 3 a gate fails that only holds, or
    the measured share is not what was asked, 4 held without evidence, 5 drift or somebody else's
    rollback, 7 still soaking at the timeout.
    `soak` replaces the present phase's, and is kept in the ledger.
    """
    tools = tools or Tools.of(config)
    with tools.ledger() as ledger:
        watched = [Subject(name) for name in _chosen(config, domains, ledger)]
        if soak is not None:
            for item in watched:
                _require(ledger, item.name, soak)
        began = tools.clock()
        for item in watched:
            item.moved_on_at = began
        while True:
            looks.look(config, watched, ledger, tools)
            on_progress(looks.progress(watched))
            failed = {
                item.name: item.decision.reason
                for item in watched
                if item.decision.move is Move.ROLL_BACK
            }
            if failed:
                return _rolled_back(config, failed, watched, tools)
            code = _end(watched, tools.clock(), began, timeout)
            if code is not None:
                return _result(watched, code)
            tools.sleep(looks.pause_s(watched))


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


def _end(
    watched: list[Subject], clock: float, began: float, timeout: timedelta | None
) -> ExitCode | None:
    """The exit code when the watch is over, None while it goes on."""
    if any(item.decision.move is Move.REFUSE for item in watched):
        return ExitCode.PRECONDITION  # somebody else brought the customers back meanwhile
    if all(item.decision.move is Move.SOAKED for item in watched):
        return ExitCode.DONE
    stuck = {item.decision.move for item in watched if item.stuck(clock)}
    for move, code in STUCK.items():
        if move in stuck:
            return code
    if stuck:
        return ExitCode.INCONCLUSIVE
    if timeout is not None and clock - began >= timeout.total_seconds():
        waits = (Move.SOAKED, Move.PAUSED)
        blind = [i for i in watched if i.decision.move not in waits and not i.evident]
        return ExitCode.INCONCLUSIVE if blind else ExitCode.IN_PROGRESS
    return None


def _rolled_back(
    config: Config, failed: Mapping[str, str], watched: list[Subject], tools: Tools
) -> WatchResult:
    data = rollback(config, list(failed), why=failed, tools=tools).to_json()["rollbacks"]
    result = _result(watched, ExitCode.ROLLED_BACK)
    return replace(result, rollbacks=data, next_command="splitctl verify run")


def _result(watched: list[Subject], code: ExitCode) -> WatchResult:
    first = next((i for i in watched if i.decision.move is not Move.SOAKED), watched[0])
    following = {
        ExitCode.DONE: f"splitctl rollout advance {watched[0].name}",
        ExitCode.IN_PROGRESS: f"splitctl rollout watch {first.name}",
    }.get(code, "splitctl status")
    if code is ExitCode.DONE and watched[0].percentage == 100:
        following = f"splitctl decommission rampdown {watched[0].name}"
    if code is ExitCode.INCONCLUSIVE:
        following = evidence_from(first.name, first.results) or following
    if first.decision.move is Move.PAUSED:
        following = f"splitctl rollout resume {first.name}"
    if first.decision.move is Move.DRIFT:
        following = f"splitctl rollout start {first.name}"
    gates = [result for item in watched for result in item.results]
    return WatchResult([item.view() for item in watched], gates, [], code, following)
