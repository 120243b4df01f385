"""An unattended rollout has itself verified: often enough, beside its looks, in nobody's way."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estate.config import Config
from estate.errors import ExitCode
from estate.ledger import Rollout, open_ledger
from rehearsal.children import wait_until
from rollout.evidence import VERIFY
from rollout.freshness import LONGEST_PAUSE_S, Keeper, ages
from rollout.run import run
from rollout.run_result import RunResult
from rollout.tools import Tools
from rollout.verification import Verified
from rollout.verifying import Child, Children, InMemoryRunning, InMemoryVerifications, outcome_of
from rollout.verifying import Outcome as Found
from splitctl.render import plain
from tests.rollout.rig import DOMAIN, Rig
from tests.rollout.way import advanced, row, started, verified
from verify.selftest import SelfTest
from verify.verdict import Verdict


@pytest.fixture
def config(config: Config) -> Config:
    """The ledger's clock is real, so phases are short here."""
    domain = config.domain(DOMAIN)
    phases = [phase.model_copy(update={"soak": timedelta(seconds=0.1)}) for phase in domain.phases]
    changed = {DOMAIN: domain.model_copy(update={"phases": phases})}
    return config.model_copy(update={"domains": changed})


class Verifier:
    """Verifications in memory. `at_once`: what each finds, in the moment in which it begins."""

    def __init__(self, config: Config, tools: Tools) -> None:
        self.config, self.at_once = config, "equal"
        self.made = InMemoryVerifications(self.then)
        tools.verifications = self.made

    @property
    def begun(self) -> list[InMemoryRunning]:
        return self.made.begun

    def then(self, running: InMemoryRunning) -> None:
        if self.at_once:
            self.finds(running, self.at_once)

    def finds(self, running: InMemoryRunning, verdict: str) -> None:
        if verdict != "not made":
            with open_ledger(self.config) as ledger:
                ledger.add_verdict(running.domain, VERIFY, VERIFY, verdict, {})
        running.result = Found("" if verdict == "not made" else verdict, "refused")


@pytest.fixture
def verifier(config: Config, tools: Tools) -> Verifier:
    return Verifier(config, tools)


def ran(
    config: Config, tools: Tools, rig: Rig, look: Callable[[int], float] = lambda _: 0.0
) -> tuple[RunResult, list[str]]:
    """A run among customers; `look` is told how often was looked, and says how many errors come."""
    lines: list[str] = []
    looks = 0

    def sleep(seconds: float) -> None:
        nonlocal looks
        time.sleep(0.02)
        rig.clock.sleep(seconds)
        looks += 1
        assert looks < 600, lines
        rig.traffic(old=100, new=60, errors=look(looks))

    tools.sleep = sleep
    rig.traffic(old=100, new=0)
    return run(config, on_change=lines.append, tools=tools), lines


def test_it_goes_all_the_way_up_and_nobody_else_verifies(
    config: Config, tools: Tools, rig: Rig, verifier: Verifier
) -> None:
    result, lines = ran(config, tools, rig)
    assert result.exit_code is ExitCode.DONE, lines
    assert rig.is_at(100)
    # Before the start, and after each of the three steps.
    assert len(verifier.begun) == 4
    assert "d: verified: equal" in lines
    assert "d: a verification begins: it was never verified" in lines
    assert "d: a verification begins: the last verification began before customers moved" in lines


def test_the_gates_are_watched_and_customers_come_back_while_it_verifies(
    config: Config, tools: Tools, rig: Rig, verifier: Verifier
) -> None:
    """And it has been told to end before the rollback asks for anything."""
    started(config, tools)
    advanced(config, tools, rig, 10)
    verifier.at_once = ""
    seen: list[bool] = []

    def look(looks: int) -> float:
        if looks == 3:
            assert not verifier.begun[0].ended
            rig.hooks["rollback"] = lambda: seen.append(verifier.begun[0].ended)
        return 30 if looks >= 3 else 0

    result, lines = ran(config, tools, rig, look)
    assert result.exit_code is ExitCode.ROLLED_BACK, lines
    assert rig.is_at(0)
    assert len(verifier.begun) == 1
    assert verifier.begun[0].ended
    assert seen == [True]


def test_what_began_before_customers_moved_ends_and_another_begins(
    config: Config, tools: Tools, verifier: Verifier
) -> None:
    verifier.at_once = ""
    lines: list[str] = []
    started(config, tools)
    with open_ledger(config) as ledger, closing(Keeper(config, verifier.made, lines.append)) as it:
        for epoch in (1, 1, 2, 2):
            moved = Rollout(DOMAIN, stage="live", percentage=10, epoch=epoch, moved_at=ledger.now())
            it.keep(DOMAIN, moved, ledger, 0)
        assert [running.ended for running in verifier.begun] == [True, False]
        assert it.running(DOMAIN)
    assert all(running.ended for running in verifier.begun)


def test_two_domains_are_verified_one_after_the_other(
    config: Config, verifier: Verifier, tools: Tools
) -> None:
    other = config.domain(DOMAIN).model_copy(update={"name": "e"})
    config = config.model_copy(update={"domains": {**config.domains, "e": other}})
    verifier.at_once, begun = "", verifier.begun
    with open_ledger(config) as ledger, closing(Keeper(config, verifier.made, print)) as it:

        def look(clock: float) -> list[str]:
            for domain in (DOMAIN, "e"):
                it.keep(domain, None, ledger, clock)
            return [running.domain for running in begun]

        assert look(0) == look(1) == [DOMAIN]
        verifier.finds(begun[0], "not made")
        assert look(2) == [DOMAIN, "e"], "the other has its turn, while this one waits"
        verifier.finds(begun[1], "equal")
        look(1000)
        assert look(1001) == look(1002) == [DOMAIN, "e", DOMAIN]


def test_sides_that_differ_are_compared_again_with_growing_pauses(
    config: Config, verifier: Verifier, tools: Tools
) -> None:
    """And when they are equal, what comes after begins with a short pause again."""
    verifier.at_once, lines = "different", list[str]()
    begun_at: list[float] = []
    with open_ledger(config) as ledger, closing(Keeper(config, verifier.made, lines.append)) as it:

        def look(clock: float) -> None:
            before = len(verifier.begun)
            it.keep(DOMAIN, None, ledger, clock)
            begun_at.extend([clock] * (len(verifier.begun) - before))

        for clock in range(0, 1500, 2):
            look(clock)
        pauses = [later - earlier for earlier, later in pairwise(begun_at)]
        assert pauses[3] > 2 * pauses[1] > 2 * pauses[0]
        assert "d: verified: different; again in" in "".join(lines)
        verifier.at_once = "equal"
        while "d: verified: equal" not in lines:
            clock += 2
            look(clock)
        assert it._kept[DOMAIN].backoff.failures == 0


def test_one_that_has_ended_keeps_no_other_from_its_turn(
    config: Config, verifier: Verifier, tools: Tools
) -> None:
    """Also where nobody has seen its end, and where its domain does not want one any more."""
    other = config.domain(DOMAIN).model_copy(update={"name": "e"})
    config = config.model_copy(update={"domains": {**config.domains, "e": other}})
    verifier.at_once, begun = "", verifier.begun
    with open_ledger(config) as ledger, closing(Keeper(config, verifier.made, print)) as it:
        it.keep(DOMAIN, None, ledger, 0)
        verifier.finds(begun[0], "equal")
        it.keep("e", None, ledger, 1)
        assert [running.domain for running in begun] == [DOMAIN, "e"]
        it.see_to(DOMAIN, None, ledger, 2)
        assert (it.running(DOMAIN), begun[0].ended) == (False, True)
        it.see_to(DOMAIN, Rollout(DOMAIN, epoch=2), ledger, 3)
        assert len(begun) == 2, "none is begun"


def test_a_run_sees_to_one_that_does_not_matter_any_more(
    config: Config, tools: Tools, rig: Rig, verifier: Verifier
) -> None:
    """Without a gate that asks for it: begun when the phase had soaked, and then a gate held."""
    gates = [gate for gate in config.gates if gate.kind != "consistency"]
    config = config.model_copy(update={"gates": gates})
    started(config, tools)
    advanced(config, tools, rig, 10)
    verifier.at_once = ""
    good = list(rig.statuses)
    seen: list[bool] = []

    def look(looks: int) -> float:
        if verifier.begun and not verifier.begun[0].result:
            rig.statuses = []  # the strays gate cannot tell any more
            verifier.finds(verifier.begun[0], "not made")
        elif verifier.begun and not seen:
            seen.append(verifier.begun[0].ended)
            rig.statuses, verifier.at_once = good, "equal"
        return 0

    result, lines = ran(config, tools, rig, look)
    assert result.exit_code is ExitCode.DONE, lines
    assert seen == [True]


def test_work_that_somebody_else_has_done_is_not_done_again(
    config: Config, tools: Tools, rig: Rig, verifier: Verifier
) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    verifier.at_once = ""
    result, lines = ran(config, tools, rig, lambda _: verified(config) or 0.0)
    assert result.exit_code is ExitCode.DONE, lines
    assert all(running.ended for running in verifier.begun)
    assert "d: a verification of somebody else is fresh: ours has ended" in lines
    assert not any("not verified" in line for line in lines)


@pytest.mark.parametrize("found", ["not made", "inconclusive"])
def test_what_cannot_be_done_is_tried_again_with_growing_pauses(
    config: Config, tools: Tools, rig: Rig, verifier: Verifier, found: str
) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    verifier.at_once = found
    begun_at: list[float] = []
    then = verifier.made.then
    verifier.made.then = lambda running: (begun_at.append(rig.clock.now), then(running))[0]

    def look(looks: int) -> float:
        rig.clock.sleep(30)
        if len(begun_at) == 5:
            verifier.at_once = "equal"
        return 0

    result, lines = ran(config, tools, rig, look)
    assert result.exit_code is ExitCode.DONE, lines
    pauses = [later - earlier for earlier, later in pairwise(begun_at)][:5]
    assert pauses[0] >= 8
    assert pauses[4] > 2 * pauses[1]
    assert max(pauses) <= 1.2 * LONGEST_PAUSE_S + 32
    assert any("d: not verified (" in line and "again in" in line for line in lines)


def test_the_end_of_the_run_is_the_end_of_what_it_began(
    config: Config, tools: Tools, rig: Rig, verifier: Verifier
) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    verifier.at_once = ""
    asked = {3: lambda: signal.raise_signal(signal.SIGTERM)}
    result, _ = ran(config, tools, rig, lambda looks: asked.get(looks, lambda: None)() or 0.0)
    assert result.exit_code is ExitCode.IN_PROGRESS
    assert [running.ended for running in verifier.begun] == [True]


def test_a_difference_that_it_finds_brings_customers_back(
    config: Config, tools: Tools, rig: Rig, verifier: Verifier
) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    verifier.at_once = "different"
    result, lines = ran(config, tools, rig)
    assert result.exit_code is ExitCode.ROLLED_BACK, lines
    assert "rolled back: same: the sides differ" in lines[-1]
    assert rig.is_at(0)
    assert row(config).percentage == 0


def test_without_a_gate_that_asks_nothing_is_compared_while_a_phase_soaks(
    config: Config, tools: Tools, rig: Rig, verifier: Verifier
) -> None:
    config = config.model_copy(
        update={"gates": [g for g in config.gates if g.kind != "consistency"]}
    )
    result, lines = ran(config, tools, rig)
    assert result.exit_code is ExitCode.DONE, lines
    # Before the start, and for each step from a phase that has soaked; nothing for the last phase.
    assert len(verifier.begun) == 3


SPANS = st.floats(0, 1e6, allow_nan=False)


@given(age_s=SPANS, takes_s=SPANS, limit_s=st.floats(1, 1e6))
def test_the_next_is_due_in_time_and_never_in_the_first_half(
    age_s: float, takes_s: float, limit_s: float
) -> None:
    due = ages(age_s, takes_s, timedelta(seconds=limit_s))
    if age_s >= limit_s:
        assert due
    if age_s < 0.49 * limit_s:
        assert not due
    if age_s + takes_s >= limit_s and age_s > limit_s / 2:
        assert due, "it would come too late"


# The real one: a process


@pytest.fixture
def sleeper() -> Iterator[Child]:
    child = Child(["sleep", "600"])
    yield child
    child.close()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_child_is_not_waited_for_and_ends_when_it_is_told(sleeper: Child) -> None:
    assert sleeper.outcome() is None
    sleeper.end()
    sleeper.close()
    assert not alive(sleeper._process.pid)


def test_one_that_is_deaf_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollout.verifying.ENDING_S", 0.2)
    program = (
        "import signal; signal.signal(2, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    )
    child = Child([sys.executable, "-c", program])
    assert wait_until(lambda: os.fstat(child._answer.fileno()).st_size > 0, 20)
    child.close()
    assert child._process.returncode == -signal.SIGKILL


def test_one_that_not_even_sigkill_ends_is_no_traceback(
    sleeper: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process waits for a disk that does not answer."""

    def still_there(timeout: float) -> int:
        raise subprocess.TimeoutExpired("sleep", timeout)

    with monkeypatch.context() as patched:
        patched.setattr(sleeper._process, "wait", still_there)
        patched.setattr(sleeper._process, "kill", lambda: None)
        sleeper.close()
    assert sleeper._answer.closed


def test_kill_9_of_the_run_leaves_no_verification() -> None:
    code = textwrap.dedent(
        """
        import sys
        from rollout.verifying import Child
        child = Child(["sleep", "600"])
        print(child._process.pid, flush=True)
        sys.stdin.read()
        """
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    assert alive(pid)
    owner.kill()
    owner.wait()
    try:
        assert wait_until(lambda: not alive(pid), 10)
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def test_databases_that_are_away_are_told_in_words(config: Config) -> None:
    child = Children(config).begin(DOMAIN)
    child._process.wait(60)
    outcome = child.outcome()
    child.close()
    assert outcome is not None
    assert (outcome.verdict, "Traceback" in outcome.reason) == ("", False)
    assert "cannot be reached" in outcome.reason or "does not answer" in outcome.reason, outcome


@pytest.mark.parametrize("verdict", ["equal", "different", "inconclusive"])
def test_what_the_command_answers_is_understood(verdict: str) -> None:
    now = datetime.now(UTC)
    made = Verdict(verdict, now, now, {}, [], ["too busy"])  # type: ignore[arg-type]
    check = SelfTest("pass", 3, [])  # type: ignore[call-arg]
    answer = json.dumps(plain(Verified(made, check, recorded=True)))
    assert outcome_of(answer.encode(), 0) == Found(verdict, "too busy")
    unrecorded = json.dumps(plain(Verified(made, check, recorded=False)))
    assert outcome_of(unrecorded.encode(), 0).verdict == ""
    assert "code 1" in outcome_of(b"", 1).reason
