"""The way back (law L8): flags first, on every gateway at once; bookkeeping afterwards.

Needs no ledger, no metrics and no living new side, waits for no lock, and asks for an explicit
target: 0 %. Typed twice, it looks again and changes nothing.
"""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from estate import journal
from estate.config import Config
from estate.errors import ExitCode, SplitctlError
from migrator.barrier import Marker
from migrator.mapping import Side
from migrator.ownership import EpochConflict, Ownership
from rollout import parallel
from rollout.flags import DomainFlags, Fence, GatewayFlags
from rollout.interrupts import Interrupts
from rollout.parallel import Running
from rollout.phases import PER_PERCENT
from rollout.tools import Tools
from rollout.world import SIDES, Crossing

if TYPE_CHECKING:
    from estate.ledger import Ledger, Rollout

KIND = "rollback"
TARGET = 0
# How long the first look may wait for databases and ledger: customers are suffering.
GLANCE_S = 0.3
# Of the hold, what is kept for moving the owner before gateways let go by themselves.
FOR_OWNERS = 0.25
OWNER_S = 2.0
LATE_KEYS_S = 5.0
BOOKS_S = 10.0
RETRY_FOR_S = 10.0
RETRY_EVERY_S = 0.25
LONGEST_S = 60.0
LOOK_EVERY_S = 0.01
ATTEMPTS = 5


class WayClosed(SplitctlError):
    """Domain '{domain}' is complete: its old tables are archived, so the old side cannot serve.
    Nothing was changed."""

    hint = "splitctl decommission undo {domain}, then: splitctl rollback {domain}"
    exit_code = ExitCode.PRECONDITION


class GatewaysAway(SplitctlError):
    """No gateway can be asked: {reason}. What they serve was not changed."""

    hint = "restart the gateways with their percentage at 0, then: splitctl rollback"
    exit_code = ExitCode.PRECONDITION


@dataclass
class RolledBack:
    """One domain. `seconds_until_every_gateway_serves_it` is None while one does not.

    at_risk: keys that had not crossed to the old side, by name where it could be known
    """

    domain: str
    from_percentage: int
    epoch: int
    already: bool = False
    seconds: float | None = None
    at_risk: list[Any] = field(default_factory=list)
    barrier_passed: bool = False
    held_requests: int = 0
    held_ms_max: int = 0
    unreachable: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every gateway serves it and the old side's database knows that it owns."""
        return self.seconds is not None and not self.problems

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the names `from` and `to`."""
        return {
            "domain": self.domain,
            "from": self.from_percentage,
            "to": TARGET,
            "epoch": self.epoch,
            "already": self.already,
            "seconds_until_every_gateway_serves_it": self.seconds,
            "at_risk": self.at_risk,
            "barrier_passed": self.barrier_passed,
            "held_requests": self.held_requests,
            "held_ms_max": self.held_ms_max,
            "unreachable": self.unreachable,
            "problems": self.problems,
            "notes": self.notes,
        }

    def lines(self) -> list[str]:
        """For a person."""
        if self.already and not self.problems:
            return [f"{self.domain}: at {TARGET} % already, on every gateway; nothing was changed"]
        if self.seconds is not None:
            first = (
                f"{self.domain}: {self.from_percentage} % -> {TARGET} %, "
                f"served by every gateway after {self.seconds:.2f} s"
            )
        else:
            first = f"{self.domain}: {TARGET} % is NOT served by every gateway yet"
        lines = [first]
        lines += [f"  {item['mapping']} {item['key'] or ''} {item['why']}" for item in self.at_risk]
        if self.at_risk:
            lines.insert(1, f"  {len(self.at_risk)} at risk; each is kept, on the new side:")
        elif not self.already:
            lines.append("  every change made on the new side has crossed to the old one")
        return [*lines, *(f"  {line}" for line in [*self.problems, *self.notes])]


@dataclass
class RollbackResult:
    """All domains. `skipped`: those that are complete, and so have no way back."""

    rollbacks: list[RolledBack]
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> ExitCode:
        """0 when everybody is on the old side."""
        whole = all(item.complete for item in self.rollbacks)
        return ExitCode.DONE if whole else ExitCode.PRECONDITION

    @property
    def next_command(self) -> str:
        """What comes after it."""
        if self.exit_code is not ExitCode.DONE:
            return "splitctl rollback  (again, when what is named above answers)"
        moved = any(not item.already for item in self.rollbacks)
        return "splitctl verify run" if moved else "splitctl status"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "rollbacks": [item.to_json() for item in self.rollbacks],
            "skipped": self.skipped,
            "notes": self.notes,
            "next_command": self.next_command,
        }

    def to_text(self) -> str:
        """For a person."""
        lines = [line for item in self.rollbacks for line in item.lines()]
        lines += [f"{name}: complete, and so left as it is" for name in self.skipped]
        return "\n".join([*lines, *self.notes])


@dataclass(frozen=True)
class RollbackPlan:
    """What a rollback would do now."""

    domains: list[str]
    steps: list[str]
    blockers: list[str]
    next_command: str = "splitctl rollback"


@dataclass
class _Glance:
    """What could be learned quickly of one domain. Owners that did not answer are not in it."""

    percentages: dict[str, int] = field(default_factory=dict)
    epochs: list[int] = field(default_factory=list)
    fenced: bool = False
    silent: list[str] = field(default_factory=list)
    owners: dict[Side, Ownership] = field(default_factory=dict)
    complete: bool = False

    @property
    def at_target(self) -> bool:
        """Whether all who answered are there, and no gateway is silent."""
        return (
            bool(self.percentages)
            and not self.silent
            and not self.fenced
            and not any(self.percentages.values())
            and not any(owner.new_below for owner in self.owners.values())
        )

    @property
    def highest(self) -> int:
        """The newest epoch seen."""
        return max([*self.epochs, *(owner.epoch for owner in self.owners.values())], default=0)

    @property
    def percentage(self) -> int:
        """Where customers were, as far as it was seen."""
        owned = [owner.new_below // PER_PERCENT for owner in self.owners.values()]
        return max([*self.percentages.values(), *owned], default=0)


def rollback(
    config: Config, domains: Sequence[str] | None = None, *, tools: Tools | None = None
) -> RollbackResult:
    """Bring the customers of these domains (or all that are not at 0 %) back to the old side.

    Raises WayClosed for a named domain that is complete, GatewaysAway when none can be asked.
    """
    names = list(domains or config.domains)
    for name in names:
        config.domain(name)
    tools = tools or Tools.of(config)
    started = tools.clock()
    with Interrupts():  # a rollback under way is not given up; it has an end of its own
        glances = _glance(names, tools)
        closed = [name for name in names if glances[name].complete]
        if closed and domains:
            raise WayClosed(domain=closed[0])
        tasks: dict[str, Callable[[], RolledBack]] = {
            name: partial(_one, name, glances[name], config, tools, started)
            for name in names
            if name not in closed
        }
        results = []
        for name, outcome in parallel.gather(tasks, LONGEST_S).items():
            if outcome.value is None:
                assert outcome.error is not None
                raise outcome.error
            results.append(outcome.value)
            del name
        notes = _keep_books(config, results, tools)
    return RollbackResult(results, closed, notes)


def plan(
    config: Config, domains: Sequence[str] | None = None, *, tools: Tools | None = None
) -> RollbackPlan:
    """What a rollback would do, without doing it."""
    names = list(domains or config.domains)
    tools = tools or Tools.of(config)
    glances = _glance(names, tools)
    moving = [n for n in names if not glances[n].complete and not glances[n].at_target]
    blockers = [f"{n} is complete" for n in names if glances[n].complete]
    blockers += [f"{url} does not answer" for url in sorted({u for n in names for u in
                                                             glances[n].silent})]  # fmt: skip
    if not moving:
        return RollbackPlan([], [f"nothing: everybody is at {TARGET} %"], blockers)
    steps = [
        f"set {', '.join(moving)} to {TARGET} % on every gateway at once",
        f"hold those who return for at most {config.rollback.hold_ms} ms, until the new side is "
        "quiet and the reverse barrier is passed",
        "move the owners back: the new side's database if it answers, then the old side's",
        "let the held requests go on, to the old side",
        "name the keys that had not crossed",
        "write it down, in the ledger or in the local journal",
    ]
    return RollbackPlan(moving, steps, blockers)


def _glance(names: Sequence[str], tools: Tools) -> dict[str, _Glance]:
    """One quick look at gateways, owners and ledger. Only gateways are waited for."""
    looks: dict[tuple[str, str], Callable[[], Any]] = {}
    for name in names:
        for side in SIDES:
            looks[name, side] = partial(_owner, name, side, tools)
        looks[name, "archived"] = partial(_archived, name, tools)
    owners: Running[tuple[str, str], Any] = Running(looks)
    gateways = tools.flags.served()
    if not any(gateway.reachable for gateway in gateways):
        reason = "; ".join(f"{gateway.url}: {gateway.problem}" for gateway in gateways)
        raise GatewaysAway(reason=reason)
    glances = {name: _at_gateways(name, gateways, tools) for name in names}
    found = owners.wait(GLANCE_S)
    for name, glance in glances.items():
        glance.complete = bool(found[name, "archived"].value)
        seen = {side: found[name, side].value for side in SIDES}
        glance.owners = {side: owner for side, owner in seen.items() if owner is not None}
    if any(found[name, "archived"].error for name in names):
        # Only then: the ledger takes longer to load than gateways take to answer.
        asked = parallel.gather({"ledger": partial(_stages, names, tools)}, GLANCE_S)
        for name, stage in (asked["ledger"].value or {}).items():
            glances[name].complete |= stage == "complete"
    return glances


def _at_gateways(name: str, gateways: Sequence[GatewayFlags], tools: Tools) -> _Glance:
    glance = _Glance()
    for gateway in gateways:
        flags = gateway.domains.get(name)
        if flags is None:
            glance.silent.append(gateway.url)
        else:
            glance.percentages[gateway.url] = flags.served
            glance.epochs.append(flags.epoch)
    for answer in tools.flags.fences(name):
        if answer.value is not None and answer.value.holding:
            glance.fenced = True
            glance.epochs.append(answer.value.epoch)
    return glance


def _owner(name: str, side: Side, tools: Tools) -> Ownership:
    world = tools.world(name)
    try:
        return world.owner(side)
    finally:
        world.close()


def _archived(name: str, tools: Tools) -> bool:
    world = tools.world(name)
    try:
        return world.archived()
    finally:
        world.close()


def _stages(names: Sequence[str], tools: Tools) -> dict[str, str]:
    with tools.ledger() as ledger:
        rows = {name: ledger.rollout(name) for name in names}
    return {name: row.stage for name, row in rows.items() if row is not None}


# One domain


def _one(name: str, glance: _Glance, config: Config, tools: Tools, started: float) -> RolledBack:
    result = RolledBack(name, glance.percentage, glance.highest)
    if glance.at_target:
        result.already, result.barrier_passed = True, True
        result.seconds = round(tools.clock() - started, 3)
        return result
    result.epoch = _flags_first(name, glance, config, tools, result)
    set_at = tools.clock()
    _serves_it(name, tools, result, started)
    crossing = _let_cross(name, config, tools, set_at)
    result.barrier_passed = crossing is not None and crossing.passed
    # A new side that does not answer must not delay the old one.
    order: tuple[Side, Side] = ("new", "old") if crossing is not None else ("old", "new")
    owners_epoch = _move_owners(name, order, tools, result)
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
        result.at_risk = _at_risk(name, tools, marker, result.epoch)
    return result


def _flags_first(
    name: str, glance: _Glance, config: Config, tools: Tools, result: RolledBack
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


def _let_cross(name: str, config: Config, tools: Tools, set_at: float) -> Crossing | None:
    """While the gateways hold: requests end, the new side is quiet, everything crosses.

    Never longer than the hold, less what moving the owner takes. None when a database is away.
    """
    deadline = set_at + config.rollback.hold_ms / 1000 * (1 - FOR_OWNERS)

    def left() -> float:
        return max(deadline - tools.clock(), 0.0)

    def work() -> Crossing:
        world = tools.world(name)
        try:
            # Opened while requests end: a dead database must be known early.
            world.owner("new")
            _until_nobody_is_under_way(name, tools, left)
            world.quiesce("new", left())
            return world.cross("reverse", left())
        finally:
            world.close()

    outcome = parallel.gather({name: work}, left() + 0.05)[name]
    return outcome.value


def _until_nobody_is_under_way(name: str, tools: Tools, left: Callable[[], float]) -> None:
    while left() > 0:
        standing: list[Fence] = [
            answer.value for answer in tools.flags.fences(name) if answer.value is not None
        ]
        if not any(fence.in_flight for fence in standing):
            return
        tools.sleep(LOOK_EVERY_S)


def _move_owners(name: str, order: tuple[Side, Side], tools: Tools, result: RolledBack) -> int:
    """Both owner rows to the target, in this order. Returns the epoch they have now.

    A side that does not answer in time is reported, and no reason to wait. The new side may be
    dead: what it holds is kept by the owner's row on the old side, which decides there.
    """
    epoch = result.epoch
    for _ in range(ATTEMPTS):
        try:
            for side in order:
                problem = _move_owner(name, side, epoch, tools)
                if problem:
                    (result.notes if side == "new" else result.problems).append(problem)
            return epoch
        except EpochConflict as error:
            # A step that was still under way had moved it to this epoch or beyond.
            epoch = max(epoch, int(error.facts["current"])) + 1
            result.problems.clear()
            result.notes.clear()
    result.problems.append("the owners are being moved by somebody else")
    return epoch


def _move_owner(name: str, side: Side, epoch: int, tools: Tools) -> str | None:
    def work() -> None:
        world = tools.world(name)
        try:
            world.switch_owner(side, TARGET * PER_PERCENT, epoch, OWNER_S)
        finally:
            world.close()

    error = parallel.gather({side: work}, OWNER_S + 0.5)[side].error
    if isinstance(error, EpochConflict):
        raise error
    if error is not None:
        return (
            f"the {side} side's database does not know of it yet ({error}); "
            f"type `splitctl rollback {name}` again when it answers"
        )
    return None


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


def _at_risk(name: str, tools: Tools, marker: Marker | None, epoch: int) -> list[Any]:
    world = tools.world(name)
    try:
        return world.left_behind(marker, epoch, LATE_KEYS_S if marker else 0.0)
    except SplitctlError as error:
        why = f"what had not crossed cannot be known: {error}"
        return [{"mapping": "every mapping", "key": None, "why": why}]
    finally:
        world.close()


# Bookkeeping


def _keep_books(config: Config, results: Sequence[RolledBack], tools: Tools) -> list[str]:
    """Write each rollback down, in the ledger or else in the local journal."""
    moved = [item for item in results if not item.already]
    outcome = parallel.gather({"ledger": partial(_to_ledger, results, tools)}, BOOKS_S)["ledger"]
    if outcome.error is None:
        return []
    if not moved:
        return []
    book = journal.of(config)
    now = datetime.now(UTC)
    try:
        for item in moved:
            book.append(_entry(item, now))
    except OSError as error:
        return [f"neither the ledger nor the local journal could be written: {error}"]
    told = " ".join(str(outcome.error).split())
    return [f"The ledger is away ({told}); the local journal keeps it: {book.path}"]


def _entry(item: RolledBack, now: datetime) -> journal.Entry:
    return journal.Entry(
        kind=KIND,
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

    act = ledger.begin(item.domain, KIND, {"from": item.from_percentage, "to": TARGET})
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
        if other.kind == "step":
            ledger.finish(other, ended, state="abandoned")
