"""The unattended rollout: starts, watches, steps up, holds, and brings back on a fail.

It keeps nothing that the ledger does not have: killed at any moment, it goes on from anywhere. A
person is asked for what only a person decides: after a rollback, and after a hold of `hold`.
"""

import signal
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import timedelta
from typing import Any

from estate.config import Config, Event
from estate.errors import ExitCode, SplitctlError
from estate.ledger import Ledger, LedgerUnreachable, LockHeld, Rollout
from rollout import controller, looks, marks
from rollout.backoff import Backoff
from rollout.books import ADOPT
from rollout.freshness import Keeper
from rollout.gates import asked
from rollout.interrupts import Interrupted, Interrupts
from rollout.looks import Progress, Subject
from rollout.phases import Move, Stage
from rollout.preconditions import Held, evidence_from
from rollout.rollback import rollback
from rollout.rolled_back import ROLLBACK
from rollout.run_result import Ran, RunResult, State
from rollout.telling import Meanwhile, Teller
from rollout.tools import Tools

HOLD = timedelta(hours=24)
AT_ONCE = timedelta()
SHORTEST_WAIT_S, LONGEST_WAIT_S = 2.0, 120.0
SLICE_S = 1.0
ENDED = (Stage.RAMPDOWN, Stage.COMPLETE)
# What time and customers bring, unless none come.
WAITS = {Move.SOAK: State.SOAKS, Move.UNPROVEN: State.PROVES}
MOVES = (controller.START, controller.STEP, ROLLBACK, ADOPT)


class NothingSoLow(SplitctlError):
    """Domain '{domain}' has no phase up to {until} %: its first is {first} %. Nothing was
    changed."""

    hint = "splitctl rollout run {domain} --until {first}"
    exit_code = ExitCode.USAGE


class Domain:
    """What a run remembers of one domain: where it is to go, and what it waits for."""

    def __init__(self, name: str, goal: int, clock: float) -> None:
        self.name, self.goal = name, goal
        self.subject = Subject(name, moved_on_at=clock)
        self.percentage = 0
        self.state, self.reason, self.following = State.BEGINS, "", ""
        self.backoff = Backoff(SHORTEST_WAIT_S, LONGEST_WAIT_S, clock)
        self.held_since: float | None = None
        self.verifying = False
        self.over: ExitCode | None = None

    def say(self, state: State, reason: str = "", following: str = "") -> None:
        """How it stands now."""
        self.state, self.reason, self.following = state, reason, following

    def line(self) -> str:
        """For a log."""
        told = f"{self.name} {self.percentage} %: {self.state.value}"
        told = f"{told}: {self.reason}" if self.reason else told
        return f"{told} (a verification is under way)" if self.verifying else told

    def key(self) -> tuple[Any, ...]:
        """What makes a line worth being told: not the seconds and samples that it names."""
        unsure = tuple(r.name for r in self.subject.results if r.verdict != "pass")
        gates = unsure if self.state in (State.HELD, State.SOAKS) else ()
        return (self.percentage, self.state, self.following, gates)

    def view(self) -> Ran:
        """For the answer."""
        return Ran(self.name, self.percentage, self.goal, self.state.value, self.reason)


def run(
    config: Config,
    domains: Sequence[str] | None = None,
    *,
    until: int = 100,
    hold: timedelta = HOLD,
    on_change: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    tools: Tools | None = None,
) -> RunResult:
    """Bring domains to the highest phase up to `until` percent and let them soak there.

    hold: how long a domain may make no headway before a person has to decide (exit code 4)
    Between its looks it has domains verified as often as their gates want it, and ends that when
    it ends. on_change gets a line for each change of state, on_progress every look.
    """
    tools = tools or Tools.of(config)
    chosen = [
        Domain(name, _goal(config, name, until), tools.clock())
        for name in domains or config.domains
    ]
    keeper = Keeper(config, tools.verifications, on_change)
    with tools.ledger() as ledger, Interrupts() as stop, closing(keeper):
        runner = Runner(config, chosen, ledger, tools, keeper, until, hold)
        told: dict[str, tuple[Any, ...]] = {}
        while True:
            runner.look()
            for item in chosen:
                if told.get(item.name) != item.key():
                    told[item.name] = item.key()
                    on_change(item.line())
            on_progress(looks.progress([item.subject for item in runner.on_new]))
            code = runner.end(stop)
            if code is not None:
                return runner.result(code)
            _rest(looks.pause_s([item.subject for item in runner.on_new]), stop, tools)


def _goal(config: Config, name: str, until: int) -> int:
    percentages = [phase.percentage for phase in config.domain(name).phases]
    goal = max((found for found in percentages if found <= until), default=None)
    if goal is None:
        raise NothingSoLow(domain=name, until=until, first=percentages[0])
    return goal


def _rest(seconds: float, stop: Interrupts, tools: Tools) -> None:
    """Sleep in short pieces: a signal must not wait for the next look."""
    while seconds > 0 and not stop.pending:
        tools.sleep(min(seconds, SLICE_S))
        seconds -= SLICE_S


class Runner:
    """Looks at all domains of a run, and does for each what is to be done now."""

    def __init__(
        self,
        config: Config,
        domains: Sequence[Domain],
        ledger: Ledger,
        tools: Tools,
        keeper: Keeper,
        until: int,
        hold: timedelta,
    ) -> None:
        self._config, self._domains, self._ledger, self._tools = config, domains, ledger, tools
        self._keeper = keeper
        self._until, self._hold = until, hold
        self._teller = Teller(config, tools)
        self.on_new: list[Domain] = []
        self._rollbacks: list[dict[str, Any]] = []

    def look(self) -> None:
        """One round: gates first, then whatever each domain needs."""
        try:
            rows = {item.name: self._ledger.rollout(item.name) for item in self._domains}
        except LedgerUnreachable as error:
            for item in self._domains:
                item.say(State.HELD, str(error), error.next_command)
                item.held_since = item.held_since or self._tools.clock()
            return
        self.on_new = [item for item in self._domains if _has_customers(rows[item.name])]
        looks.look(self._config, [item.subject for item in self.on_new], self._ledger, self._tools)
        self._bring_back()
        for item in self._domains:
            if item.over is None:
                try:
                    self._go_on(item, self._ledger.rollout(item.name))
                    self._account(item)
                    self._verify(item)
                except LedgerUnreachable as error:
                    item.say(State.HELD, str(error), error.next_command)

    def end(self, stop: Interrupts) -> ExitCode | None:
        """The exit code when the run is over, None while it goes on."""
        if stop.pending:
            by_hand = stop.signal == signal.SIGINT
            return ExitCode.INTERRUPTED if by_hand else ExitCode.IN_PROGRESS
        over = {item.over for item in self._domains if item.over is not None}
        if any(item.over is None and item.state is not State.DONE for item in self._domains):
            return None
        ordered = (ExitCode.ROLLED_BACK, ExitCode.PRECONDITION, ExitCode.INCONCLUSIVE)
        return next((code for code in ordered if code in over), ExitCode.DONE)

    def result(self, code: ExitCode) -> RunResult:
        """What it came to."""
        gates = [result for item in self._domains for result in item.subject.results]
        names = [item.name for item in self._domains]
        following = f"splitctl rollout run {' '.join(names)}"
        if code is ExitCode.DONE:
            last = all(item.percentage == 100 for item in self._domains)
            following = f"splitctl decommission rampdown {names[0]}" if last else following
        elif code in (ExitCode.ROLLED_BACK, ExitCode.PRECONDITION, ExitCode.INCONCLUSIVE):
            stopped = next(item for item in self._domains if item.over is code)
            following = stopped.following or "splitctl status"
        views = [item.view() for item in self._domains]
        return RunResult(views, gates, self._rollbacks, code, following)

    # What happens to one domain

    def _bring_back(self) -> None:
        """Customers of a domain whose gate fails go back at once; the others stay."""
        failed = [i for i in self.on_new if i.subject.decision.move is Move.ROLL_BACK]
        if not failed:
            return
        for item in failed:
            self._keeper.stop(item.name)  # the databases have something better to do
            item.verifying = False
        why = {item.name: item.subject.decision.reason for item in failed}
        # All at the same time: nobody waits until somebody else is back, and was told of.
        result = rollback(self._config, list(why), why=why, telling=Meanwhile, tools=self._tools)
        self._rollbacks += result.to_json()["rollbacks"]
        for item in failed:
            item.percentage, item.over = 0, ExitCode.ROLLED_BACK
            following = f"splitctl verify run --domain {item.name}"
            item.say(State.ROLLED_BACK, why[item.name], following)
        self.on_new = [item for item in self.on_new if item not in failed]

    def _go_on(self, item: Domain, row: Rollout | None) -> None:
        item.percentage = row.percentage if row else 0
        if row is None or row.stage in (Stage.OFF, Stage.DUAL_WRITE, Stage.SHADOW):
            self._try(
                item,
                lambda: controller.start(
                    self._config, item.name, telling=Meanwhile, tools=self._tools
                ),
            )
            return
        if row.stage != Stage.LIVE:
            item.say(State.DONE, f"it is at {row.stage}")
            return
        if (paused := marks.paused(self._ledger, item.name)) is not None:
            why = marks.why_paused(paused)
            item.say(State.PAUSED, why, f"splitctl rollout resume {item.name}")
        elif self._unfinished(item):
            self._advance(item)  # a step of a command that is gone: to its end first
        elif row.percentage == 0:
            self._from_zero(item)
        else:
            self._soaking(item)

    def _from_zero(self, item: Domain) -> None:
        act = self._ledger.latest(item.name, MOVES)
        if act is not None and act.kind in (ROLLBACK, ADOPT):
            # Never up again by itself: whatever brought them back may still be there.
            ours = item.subject.decision.move is Move.ROLL_BACK
            item.over = ExitCode.ROLLED_BACK if ours else ExitCode.PRECONDITION
            told = f"brought back by {act.operator} on {act.host} at {marks.moment(act.at)}"
            item.say(State.ROLLED_BACK, told, f"splitctl rollout start {item.name}")
            return
        self._advance(item)

    def _soaking(self, item: Domain) -> None:
        subject = item.subject
        move, reason = subject.decision.move, subject.decision.reason
        if move is Move.SOAKED and item.percentage >= item.goal:
            item.say(State.DONE, reason)
        elif move is Move.SOAKED:
            self._advance(item)
        elif move in WAITS and not subject.stuck(self._tools.clock()):
            item.say(WAITS[move], reason)
        else:
            following = evidence_from(item.name, subject.results) or "splitctl status"
            if move is Move.DRIFT:
                following = f"splitctl rollout start {item.name}"
            told = reason if move not in WAITS else f"no evidence comes in: {reason}"
            item.say(State.HELD, told, following)

    def _advance(self, item: Domain) -> None:
        self._try(
            item,
            # The next looks prove it: other domains are not to wait for that, nor for notices.
            lambda: controller.advance(
                self._config,
                item.name,
                until=self._until,
                proof=AT_ONCE,
                telling=Meanwhile,
                tools=self._tools,
            ),
        )

    def _try(self, item: Domain, act: Callable[[], Any]) -> None:
        """Do it unless the last try was too short a time ago; what stands in its way is told."""
        clock = self._tools.clock()
        if clock < item.backoff.not_before:
            return
        try:
            done = act()
        except Interrupted:
            return  # the run ends after this round
        except LockHeld as error:
            item.say(State.WAITS, str(error), "splitctl status")
            item.backoff.wait(clock)
        except SplitctlError as error:
            item.say(State.HELD, str(error), error.next_command)
            item.backoff.wait(clock)
        else:
            if isinstance(done, Held):
                item.say(State.HELD, done.reason, done.next_command)
                item.backoff.wait(clock)
                return
            row = self._ledger.rollout(item.name)
            item.percentage = row.percentage if row else 0
            item.backoff.over(clock)
            item.subject.moved_on_at = clock
            item.say(State.SOAKS if item.percentage else State.BEGINS)

    def _verify(self, item: Domain) -> None:
        """After everything else: have it verified where its gates, or its next step, want that."""
        row = self._ledger.rollout(item.name)
        if item.over is not None or (row is not None and row.stage in ENDED):
            self._keeper.stop(item.name)
        elif row is None or self._matters(item, row):
            self._keeper.keep(item.name, row, self._ledger, self._tools.clock())
        else:
            # One that began when it still mattered must not be left: others wait for its end.
            self._keeper.see_to(item.name, row, self._ledger, self._tools.clock())
        item.verifying = self._keeper.running(item.name)

    def _matters(self, item: Domain, row: Rollout) -> bool:
        """Without a gate that asks for it, only a step does: not while a phase soaks."""
        gates = asked(self._config.gates, item.name, row.percentage)
        if row.percentage == 0 or any(gate.kind == "consistency" for gate in gates):
            return True
        return item.subject.decision.move is Move.SOAKED and row.percentage < item.goal

    def _unfinished(self, item: Domain) -> bool:
        return any(act.kind == controller.STEP for act in self._ledger.unfinished(item.name))

    def _account(self, item: Domain) -> None:
        """A hold that lasts stands in the ledger, so that a new process goes on counting it."""
        clock = self._tools.clock()
        if item.state not in (State.HELD, State.WAITS):
            item.held_since = None
        elif item.held_since is None:
            item.held_since = clock
        lasts = item.held_since is not None and clock - item.held_since >= looks.PATIENCE_S
        with self._ledger.changing(item.name) as change:
            row = change.rollout or Rollout(item.name)
            act = marks.hold(change, item.name)
            moved = act is not None and act.intent["epoch"] != row.epoch
            if act is not None and (item.held_since is None or moved):
                passed = {"lasted": marks.span(change.now - act.at)}
                change.record(item.name, marks.HOLD_ENDED, {"epoch": row.epoch}, passed)
                self._tell(item, "went_on", f"held for {passed['lasted']}")
            elif lasts and act is None:
                told = {"why": item.reason, "epoch": row.epoch, "percentage": row.percentage}
                change.record(item.name, marks.HOLD, told, {})
                self._tell(item, "held", item.reason)
            elif act is not None and change.now - act.at >= self._hold:
                item.over = ExitCode.INCONCLUSIVE
                item.reason = f"held for {marks.span(change.now - act.at)}: {item.reason}"

    def _tell(self, item: Domain, event: Event, reason: str) -> None:
        following = item.following or f"splitctl rollout watch {item.name}"
        self._teller.tell_meanwhile(item.name, event, following, reason=reason)


def _has_customers(row: Rollout | None) -> bool:
    return row is not None and row.stage == Stage.LIVE and row.percentage > 0
