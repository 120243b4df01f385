"""The way back (law L8): flags first, on every gateway at once; bookkeeping afterwards.

Needs no ledger, no metrics and no living new side, waits for no lock, and asks for an explicit
target: 0 %. Typed twice, it looks again and changes nothing.
"""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from estate import journal
from estate.config import Config
from estate.errors import in_one_line
from migrator.mapping import Side
from rollout import parallel
from rollout.crossing_back import ATTEMPTS, at_risk, let_cross, move_owner, move_owners
from rollout.flags import DomainFlags
from rollout.glance import Glance, glance_at
from rollout.interrupts import Interrupts
from rollout.parallel import Running
from rollout.rolled_back import (
    ROLLBACK,
    STILL_WRITING,
    TARGET,
    RollbackPlan,
    RollbackResult,
    RolledBack,
    WayClosed,
)
from rollout.telling import Teller
from rollout.tools import Tools

if TYPE_CHECKING:
    from estate.ledger import Ledger, Rollout

BOOKS_S = 10.0
RETRY_FOR_S = 10.0
RETRY_EVERY_S = 0.25
LONGEST_S = 60.0


def rollback(
    config: Config,
    domains: Sequence[str] | None = None,
    *,
    why: Mapping[str, str] | None = None,
    telling: type[Teller] = Teller,
    tools: Tools | None = None,
) -> RollbackResult:
    """Bring the customers of these domains (or all that are not at 0 %) back to the old side.

    why: the reason, by domain, for the books and for whoever is told
    telling: who waits for those who are told, or does not
    Raises WayClosed for a named domain that is complete, GatewaysAway when none can be asked.
    """
    names = list(domains or config.domains)
    for name in names:
        config.domain(name)
    tools = tools or Tools.of(config)
    started = tools.clock()
    with Interrupts():  # a rollback under way is not given up; it has an end of its own
        glances = glance_at(names, tools)
        closed = [name for name in names if glances[name].complete]
        if closed and domains:
            raise WayClosed(domain=closed[0])
        tasks: dict[str, Callable[[], RolledBack]] = {
            name: _way_back(name, glances[name], config, tools, started)
            for name in names
            if name not in closed
        }
        results = []
        for outcome in parallel.gather(tasks, LONGEST_S).values():
            if outcome.value is None:
                assert outcome.error is not None
                raise outcome.error
            results.append(outcome.value)
        for item in results:
            item.why = (why or {}).get(item.domain, "")
        notes = _keep_books(config, results, tools)
        # Last of all: customers are back, and it is written down.
        for item in results:
            if not item.already:
                notes += telling(config, tools).rolled_back(item)
    return RollbackResult(results, closed, notes)


def plan(
    config: Config, domains: Sequence[str] | None = None, *, tools: Tools | None = None
) -> RollbackPlan:
    """What a rollback would do, without doing it."""
    names = list(domains or config.domains)
    tools = tools or Tools.of(config)
    glances = glance_at(names, tools)
    moving = [n for n in names if not glances[n].complete and not glances[n].at_target]
    blockers = [f"{n} is complete" for n in names if glances[n].complete]
    blockers += [f"{url} does not answer" for url in sorted({u for n in names for u in
                                                             glances[n].silent})]  # fmt: skip
    if not moving:
        steps = [f"nothing: everybody is at {TARGET} %"]
        return RollbackPlan([], steps, blockers, "splitctl status")
    steps = [
        f"set {', '.join(moving)} to {TARGET} % on every gateway at once, and meanwhile move the "
        "owner in the new side's database if it answers",
        f"hold those who return for at most {config.rollback.hold_ms} ms, until the new side is "
        "quiet and the reverse barrier is passed",
        "move the owner in the old side's database",
        "let the held requests go on, to the old side",
        "name the keys that had not crossed",
        "write it down, in the ledger or in the local journal",
    ]
    return RollbackPlan(moving, steps, blockers)


# One domain


def _way_back(
    name: str, glance: Glance, config: Config, tools: Tools, started: float
) -> Callable[[], RolledBack]:
    if tools.written is not None:
        from rollout.unfenced_rollback import roll_back

        return partial(roll_back, name, glance, config, tools, tools.written, started)
    return partial(_one, name, glance, config, tools, started)


def _one(name: str, glance: Glance, config: Config, tools: Tools, started: float) -> RolledBack:
    result = RolledBack(name, glance.percentage, glance.highest)
    if glance.at_target:
        result.already, result.barrier_passed = True, True
        result.seconds = round(tools.clock() - started, 3)
        return result
    # At the same time, and waited for by nobody: from then on the new side takes in what customers
    # write on the old one, also if a gateway hangs now or this command dies before the owners.
    Running({name: partial(move_owner, name, "new", glance.highest + 1, tools)})
    # The holds begin while the flags are being set: their end is counted from before it.
    set_at = tools.clock()
    result.epoch = _flags_first(name, glance, config, tools, result)
    if not result.unreachable:
        result.seconds = round(tools.clock() - started, 3)
    crossing, moved = let_cross(name, config, tools, set_at, result.epoch)
    result.barrier_passed = crossing is not None and crossing.passed
    # A new side that does not answer must not delay the old one.
    sides: tuple[Side, Side] = ("new", "old") if crossing is not None else ("old", "new")
    owners_epoch = move_owners(name, [side for side in sides if side not in moved], tools, result)
    for answer in tools.flags.release(name, result.epoch):
        if answer.value is not None:
            result.held_requests += answer.value.held_requests
            result.held_ms_max = max(result.held_ms_max, answer.value.held_ms_max)
    if owners_epoch > result.epoch:
        result.epoch = owners_epoch
        tools.flags.put(name, DomainFlags(True, TARGET, owners_epoch))
    _bring_the_rest(name, tools, result, started)
    if not result.barrier_passed:
        marker = crossing.marker if crossing is not None else None
        result.at_risk = at_risk(name, tools, marker, result.epoch)
        if crossing is not None and not crossing.ended:
            result.at_risk.append({"mapping": "every mapping", "key": None, "why": STILL_WRITING})
    return result


def _flags_first(
    name: str, glance: Glance, config: Config, tools: Tools, result: RolledBack
) -> int:
    """Every gateway that answers serves the target when this returns. Returns the epoch."""
    epoch = glance.highest + 1
    hold_ms = config.rollback.hold_ms
    for _ in range(ATTEMPTS):
        answers = tools.flags.rollback(name, epoch, TARGET, hold_ms)
        if not any(answer.refused for answer in answers):
            break
        # A newer epoch than we saw: a step switched meanwhile. Above all of them, again.
        found = [g.domains[name].epoch for g in tools.flags.served() if name in g.domains]
        epoch = max([epoch, *found]) + 1
    result.unreachable = [answer.url for answer in answers if not answer.ok]
    return epoch


def _serves_it(name: str, tools: Tools, result: RolledBack, started: float) -> None:
    """Read back what is served; the measured time ends when every gateway serves the target."""
    late = []
    for gateway in tools.flags.served():
        flags = gateway.domains.get(name)
        if flags is None or flags.served != TARGET:
            late.append(gateway.url)
    result.unreachable = late
    if not late and result.seconds is None:
        result.seconds = round(tools.clock() - started, 3)


def _bring_the_rest(name: str, tools: Tools, result: RolledBack, started: float) -> None:
    """Gateways that did not answer are tried again, for a while."""
    deadline = tools.clock() + RETRY_FOR_S
    _serves_it(name, tools, result, started)
    while result.unreachable and tools.clock() < deadline:
        tools.sleep(RETRY_EVERY_S)
        tools.flags.put(name, DomainFlags(True, TARGET, result.epoch), result.unreachable)
        _serves_it(name, tools, result, started)
    if result.unreachable:
        result.seconds = None
        result.problems += [
            f"{url} does not serve {TARGET} %: restart it with its percentage at {TARGET}"
            for url in result.unreachable
        ]


# Bookkeeping


def _keep_books(config: Config, results: Sequence[RolledBack], tools: Tools) -> list[str]:
    """Write each rollback down, in the ledger or else in the local journal."""
    moved = [item for item in results if not item.already]
    # A step that was killed may have left them paused, and nobody else will remember.
    notes = tools.writers.resume() if moved else []
    outcome = parallel.gather({"ledger": partial(_to_ledger, results, tools)}, BOOKS_S)["ledger"]
    if outcome.error is None or not moved:
        return notes
    book = journal.of(config)
    now = datetime.now(UTC)
    try:
        for item in moved:
            book.append(_entry(item, now))
    except OSError as error:
        return [*notes, f"neither the ledger nor the local journal could be written: {error}"]
    told = in_one_line(outcome.error)
    return [*notes, f"The ledger is away ({told}); the local journal keeps it: {book.path}"]


def _entry(item: RolledBack, now: datetime) -> journal.Entry:
    return journal.Entry(
        kind=ROLLBACK,
        domain=item.domain,
        intent={"from": item.from_percentage, "to": TARGET},
        outcome=item.to_json(),
        rollout={"stage": "live", "percentage": TARGET, "phase": -1, "epoch": item.epoch},
        command=shlex.join(sys.argv[1:]),
        at=now,
        finished_at=now,
    )


def _to_ledger(results: Sequence[RolledBack], tools: Tools) -> None:
    with tools.ledger() as ledger:
        for item in results:
            known = ledger.rollout(item.domain)
            if item.already and (known is None or known.percentage == TARGET):
                continue
            _write(ledger, item, known)


def _write(ledger: "Ledger", item: RolledBack, known: "Rollout | None") -> None:
    from estate.ledger import Rollout

    act = ledger.begin(item.domain, ROLLBACK, {"from": item.from_percentage, "to": TARGET})
    row = None
    if known is not None:
        now = ledger.now()
        row = Rollout(
            item.domain,
            stage="live",
            percentage=TARGET,
            phase_started_at=now,
            moved_at=now,
            epoch=item.epoch,
        )
    ledger.finish(act, item.to_json(), rollout=row)
    for other in ledger.unfinished(item.domain):
        ended: Mapping[str, Any] = {"how": f"rolled back to {TARGET} % under epoch {item.epoch}"}
        ledger.finish(other, ended, state="abandoned")
