"""Start, advance, watch, decommission, status: with a real ledger, the rest in memory."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from estate.config import Config, Problem
from estate.errors import ExitCode
from estate.ledger import Ledger, LockHeld, Rollout, open_ledger
from migrator.archive import Renamed, TablesBusy
from rollout import controller, decommission, status
from rollout.controller import Held, Started
from rollout.counters import Snapshot
from rollout.evidence import VERIFY
from rollout.flags import DomainFlags
from rollout.looks import NothingToWatch
from rollout.preconditions import Refused
from rollout.rollback import rollback
from rollout.step_plan import BudgetExceeded, StepResult, StepUnfinished
from rollout.survey import Drift
from rollout.tools import Tools
from rollout.world import Ownership
from tests.rollout.rig import DOMAIN, Killed, Rig
from tests.rollout.way import advanced, busy, row, soaked, started, verified

# Start


def test_no_step_while_ids_of_both_sides_could_meet(config: Config, tools: Tools, rig: Rig) -> None:
    """Somebody put a sequence back between two steps: the next one is refused, nobody is held."""
    started(config, tools)
    advanced(config, tools, rig, 10)
    soaked(config, rig)
    enable = f"splitctl sync enable {DOMAIN}"
    wrong = Problem("old.carts.id", "carts_id_seq goes on at 8 by 1", "", enable)
    tools.sequences = lambda _: [wrong]
    with pytest.raises(Refused, match="carts_id_seq goes on at 8 by 1") as caught:
        controller.advance(config, DOMAIN, tools=tools)
    assert caught.value.next_command == enable
    assert rig.is_at(10)
    planned = controller.plan(config, DOMAIN, tools=tools)
    assert any("carts_id_seq" in blocker for blocker in planned.blockers)
    tools.sequences = lambda _: [replace(wrong, fix="ALTER SEQUENCE carts_id_seq NO CYCLE;")]
    with pytest.raises(Refused) as caught:
        controller.advance(config, DOMAIN, tools=tools)
    assert caught.value.next_command == "splitctl doctor"
    tools.sequences = lambda _: []
    advanced(config, tools, rig, 50)


def test_services_that_take_whom_they_do_not_own_are_found_before_anybody_moves(
    config: Config, tools: Tools, rig: Rig
) -> None:
    key, reason = "gateway.owners_refuse", "the new service answers 404 instead of 421"
    wrong = Problem(key, reason, "Have it ask the owner first.")
    tools.unrefused = lambda _: [wrong]
    verified(config)
    with pytest.raises(Refused, match=reason) as caught:
        controller.start(config, DOMAIN, tools=tools)
    assert caught.value.next_command == "splitctl doctor"
    tools.unrefused = lambda _: []
    controller.start(config, DOMAIN, tools=tools)
    tools.unrefused = lambda _: [wrong]
    with pytest.raises(Refused, match=reason):
        controller.advance(config, DOMAIN, tools=tools)
    planned = controller.plan(config, DOMAIN, tools=tools)
    assert any(reason in blocker for blocker in planned.blockers)
    assert rig.is_at(0)


def test_start_needs_a_verdict_and_a_live_sync(config: Config, tools: Tools, rig: Rig) -> None:
    with pytest.raises(Refused, match="never verified"):
        controller.start(config, DOMAIN, tools=tools)
    verified(config, "different")
    with pytest.raises(Refused, match="was different"):
        controller.start(config, DOMAIN, tools=tools)
    verified(config)
    good = list(rig.statuses)
    for broken, why in [
        ({"worker_alive": False}, "no living worker"),
        ({"enabled": False}, "not enabled"),
        ({"states": {"m": "spool"}}, "not live yet"),
        ({"problem": "no route to host"}, "no route"),
    ]:
        rig.statuses = [replace(good[0], **broken), good[1]]
        with pytest.raises(Refused, match=why):
            controller.start(config, DOMAIN, tools=tools)
    rig.statuses = good[:1]
    with pytest.raises(Refused, match="not enabled"):
        controller.start(config, DOMAIN, tools=tools)
    rig.statuses = good
    begun = controller.start(config, DOMAIN, tools=tools)
    assert isinstance(begun, Started)
    assert (begun.stage, begun.percentage) == ("live", 0)
    assert row(config).stage == "live"


def test_start_does_not_begin_where_somebody_is_on_the_new_side(
    config: Config, tools: Tools, rig: Rig
) -> None:
    verified(config)
    rig.gateways["gw-2"].domains[DOMAIN] = DomainFlags(True, 30, 1)
    with pytest.raises(Drift, match="gw-2 serves 30 %"):
        controller.start(config, DOMAIN, tools=tools)


def test_start_again_brings_a_restarted_gateway_along(
    config: Config, tools: Tools, rig: Rig
) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    rig.gateways["gw-2"].domains[DOMAIN] = DomainFlags(False, 0, 0)  # as its environment says
    soaked(config, rig)
    with pytest.raises(Drift, match="gw-2 serves 0 %"):
        controller.advance(config, DOMAIN, tools=tools)
    again = controller.start(config, DOMAIN, tools=tools)
    assert again.changes == ("gw-2 serves 10 % now",)
    assert rig.is_at(10)


def test_start_again_does_not_undo_a_rollback_that_was_begun(
    config: Config, tools: Tools, rig: Rig
) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    rig.flags.rollback(DOMAIN, 9, 0, 0)
    with pytest.raises(Drift, match="a rollback was begun") as raised:
        controller.start(config, DOMAIN, tools=tools)
    assert raised.value.next_command == "splitctl rollback d"
    assert rig.served == {0}


# Advance


def test_the_whole_way_up(config: Config, tools: Tools, rig: Rig) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10, 50, 100)
    found = row(config)
    assert (found.percentage, found.phase, found.stage) == (100, 2, "live")
    with open_ledger(config) as ledger:
        kinds = [a.kind for a in ledger.history()]
    assert kinds == ["start", *3 * ["step", "proven"]]
    soaked(config, rig)
    with pytest.raises(Refused, match="last phase"):
        controller.advance(config, DOMAIN, tools=tools)


def test_without_a_start_there_is_no_advance(config: Config, tools: Tools) -> None:
    with pytest.raises(Refused, match="not started"):
        controller.advance(config, DOMAIN, tools=tools)


def test_a_phase_that_has_not_soaked_is_still_in_progress(
    config: Config, tools: Tools, rig: Rig
) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    rig.traffic(old=900, new=100)
    verified(config)
    held = controller.advance(config, DOMAIN, tools=tools)
    assert isinstance(held, Held)
    assert (held.exit_code, held.verdict) == (ExitCode.IN_PROGRESS, "soaking")
    assert rig.is_at(10)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda c, r: soaked(c, r, errors=100), ExitCode.CHECK_FAILED),
        (lambda c, r: verified(c, "different"), ExitCode.CHECK_FAILED),
        (lambda c, r: verified(c, "inconclusive"), ExitCode.INCONCLUSIVE),
        (lambda c, r: setattr(r.metrics, "snapshot", Snapshot({}, {"gw-1": "away"})),
         ExitCode.INCONCLUSIVE),
        (lambda c, r: setattr(r, "statuses", [replace(s, strays=1) for s in r.statuses]),
         ExitCode.CHECK_FAILED),
    ],
)  # fmt: skip
def test_no_step_without_every_gate(
    config: Config,
    tools: Tools,
    rig: Rig,
    spoil: Callable[[Config, Rig], None],
    code: ExitCode,
) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    soaked(config, rig)
    spoil(config, rig)
    held = controller.advance(config, DOMAIN, tools=tools)
    assert isinstance(held, Held)
    assert held.exit_code is code
    assert held.reason
    assert rig.is_at(10)


def test_a_verification_from_before_the_step_says_nothing_of_the_phase(
    config: Config, tools: Tools, rig: Rig
) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    soaked(config, rig)
    with open_ledger(config) as ledger:
        ledger.add_verdict(DOMAIN, VERIFY, VERIFY, "equal", {}, seconds=3600)
    held = controller.advance(config, DOMAIN, tools=tools)
    assert isinstance(held, Held)
    assert "before customers moved" in held.reason
    assert held.next_command == "splitctl verify run --domain d"


def test_only_one_operator(config: Config, tools: Tools) -> None:
    with open_ledger(config) as ledger, ledger.lock("bob"), pytest.raises(LockHeld, match="bob"):
        controller.advance(config, DOMAIN, tools=tools)


def test_a_step_that_gave_up_is_abandoned_and_can_be_typed_again(
    config: Config, tools: Tools, rig: Rig
) -> None:
    started(config, tools)
    rig.hooks["quiesce old"] = lambda: setattr(rig.world, "caught_up", False)
    with pytest.raises(BudgetExceeded):
        controller.advance(config, DOMAIN, tools=tools)
    with open_ledger(config) as ledger:
        assert ledger.history()[-1].state == "abandoned"
    rig.world.caught_up = True
    advanced(config, tools, rig, 10)


@pytest.mark.parametrize("at", range(5, 15))
def test_a_killed_advance_typed_again_finishes_the_step(
    config: Config, tools: Tools, rig: Rig, at: int
) -> None:
    started(config, tools)
    rig.kill_at = rig.acts + at
    with pytest.raises(Killed):
        controller.advance(config, DOMAIN, tools=tools)
    rig.restart()
    told = status.status(config, tools=tools)
    assert told.domains[0].unfinished or at == 5
    assert told.next_command == "splitctl rollout advance d"
    result = controller.advance(config, DOMAIN, tools=tools)
    assert isinstance(result, StepResult)
    assert rig.is_at(10)
    assert row(config).percentage == 10
    with open_ledger(config) as ledger:
        assert ledger.unfinished() == []
    assert rig.broken_rules == []
    told = status.status(config, tools=tools)
    assert told.domains[0].disagreements == []


def test_a_step_that_cannot_be_judged_stays_in_the_ledger(
    config: Config, tools: Tools, rig: Rig
) -> None:
    started(config, tools)
    rig.kill_at = rig.acts + 13
    with pytest.raises(Killed):
        controller.advance(config, DOMAIN, tools=tools)
    rig.restart()
    rig.gateways["gw-1"].reachable = False
    with pytest.raises(StepUnfinished):
        controller.advance(config, DOMAIN, tools=tools)
    with open_ledger(config) as ledger:
        assert len(ledger.unfinished()) == 1


def test_a_rollback_from_another_machine_is_adopted(config: Config, tools: Tools, rig: Rig) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    rig.flags.rollback(DOMAIN, 8, 0, 0)
    rig.world.owners = {"old": Ownership(0, 8), "new": Ownership(0, 8)}
    verified(config)
    result = controller.advance(config, DOMAIN, tools=tools)
    assert isinstance(result, Held)  # the verification began before it was known to have moved
    verified(config)
    result = controller.advance(config, DOMAIN, tools=tools)
    assert isinstance(result, StepResult)
    assert (result.from_percentage, result.to_percentage) == (0, 10)


def test_without_any_gate_a_step_still_wants_a_verification(
    config: Config, tools: Tools, rig: Rig
) -> None:
    bare = config.model_copy(update={"gates": []})
    started(bare, tools)
    with open_ledger(bare) as ledger:
        ledger.add_verdict(DOMAIN, "verify", "verify", "different", {})
    with pytest.raises(Refused, match="was different"):
        controller.advance(bare, DOMAIN, tools=tools)
    assert rig.is_at(0)


def test_the_plan_tells_steps_and_blockers(config: Config, tools: Tools, rig: Rig) -> None:
    assert "not started" in controller.plan(config, DOMAIN, tools=tools).blockers[0]
    started(config, tools)
    ready = controller.plan(config, DOMAIN, tools=tools)
    assert (ready.to, ready.blockers, len(ready.steps)) == (10, [], 14)
    rig.gateways["gw-1"].reachable = False
    assert controller.plan(config, DOMAIN, tools=tools).blockers
    assert rig.served == {0}


# Watch


def test_a_watch_soaks_and_passes(config: Config, tools: Tools, rig: Rig) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    verified(config)
    rig.traffic(old=1, new=1)
    tools.sleep = busy(rig)
    seen: list[str] = []
    result = controller.watch(
        config, None, soak=timedelta(seconds=0.2), on_progress=lambda p: seen.append(str(p)),
        tools=tools,
    )  # fmt: skip
    assert result.exit_code is ExitCode.DONE
    assert {gate.verdict for gate in result.gates} == {"pass"}
    assert {gate.domain for gate in result.gates} == {DOMAIN}
    assert row(config).soak_evidence_s >= 0.2
    assert seen
    # The replaced soak is kept, so the next step may be made.
    assert isinstance(controller.advance(config, DOMAIN, tools=tools), StepResult)


def test_errors_bring_the_customers_back(config: Config, tools: Tools, rig: Rig) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    verified(config)
    rig.traffic(old=1, new=1)
    tools.sleep = busy(rig, new=60, errors=3)
    result = controller.watch(config, [DOMAIN], tools=tools)
    assert result.exit_code is ExitCode.ROLLED_BACK
    assert result.rollbacks[0]["to"] == 0
    assert rig.is_at(0)
    assert row(config).percentage == 0
    samples = open_ledger(config).samples(DOMAIN)
    assert samples[-1].data["requests_new"] >= 100


def test_no_metrics_at_all_holds(config: Config, tools: Tools, rig: Rig) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    verified(config)
    rig.metrics.snapshot = Snapshot({}, {"gw-1": "refused", "gw-2": "refused"})
    result = controller.watch(config, [DOMAIN], soak=timedelta(seconds=5), tools=tools)
    assert result.exit_code is ExitCode.INCONCLUSIVE
    assert row(config).soak_evidence_s == 0
    assert rig.is_at(10)
    assert result.rollbacks == []


def test_without_traffic_the_clock_stands(config: Config, tools: Tools, rig: Rig) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    rig.traffic(old=1, new=0)
    tools.sleep = busy(rig, new=0)
    result = controller.watch(config, [DOMAIN], tools=tools)
    assert result.exit_code is ExitCode.INCONCLUSIVE
    assert row(config).soak_evidence_s == 0


def test_a_watch_that_ends_at_its_timeout_goes_on_later(
    config: Config, tools: Tools, rig: Rig
) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    verified(config)
    rig.traffic(old=1, new=1)
    tools.sleep = busy(rig)
    limit = timedelta(seconds=3)
    first = controller.watch(config, [DOMAIN], timeout=limit, tools=tools)
    assert first.exit_code is ExitCode.IN_PROGRESS
    before = row(config).soak_evidence_s
    assert before > 0
    controller.watch(config, [DOMAIN], timeout=limit, tools=tools)
    assert row(config).soak_evidence_s > before


def test_there_must_be_something_to_watch(config: Config, tools: Tools) -> None:
    with pytest.raises(NothingToWatch):
        controller.watch(config, tools=tools)
    started(config, tools)
    with pytest.raises(NothingToWatch):
        controller.watch(config, [DOMAIN], tools=tools)


def test_somebody_elses_rollback_ends_the_watch(config: Config, tools: Tools, rig: Rig) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    verified(config)

    def sleep(seconds: float) -> None:
        rig.clock.sleep(seconds)
        with open_ledger(config) as ledger:
            ledger.save_rollout(Rollout(DOMAIN, "live", 0, epoch=99))

    tools.sleep = sleep
    result = controller.watch(config, [DOMAIN], tools=tools)
    assert result.exit_code is ExitCode.PRECONDITION


# The end


@pytest.fixture
def renames(monkeypatch: pytest.MonkeyPatch, rig: Rig) -> list[str]:
    log: list[str] = []

    def archive(config: Config, domain: str) -> Renamed:
        del config
        log.append("archive")
        rig.world.is_archived = True
        return Renamed(domain, (("t", "archived_t"),), ())

    def undo(config: Config, domain: str) -> Renamed:
        del config
        log.append("undo")
        rig.world.is_archived = False
        return Renamed(domain, (("archived_t", "t"),), ())

    monkeypatch.setattr("rollout.decommission.archiving.archive", archive)
    monkeypatch.setattr("rollout.decommission.archiving.undo", undo)
    return log


def test_rampdown_archive_and_undo(
    config: Config, tools: Tools, rig: Rig, renames: list[str]
) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10, 50)
    with pytest.raises(Refused, match="not at 100 %"):
        decommission.rampdown(config, DOMAIN, tools=tools)
    advanced(config, tools, rig, 100)
    verified(config)
    held = decommission.rampdown(config, DOMAIN, tools=tools)
    assert isinstance(held, Held)
    with pytest.raises(Refused, match="not in rampdown"):
        decommission.archive(config, DOMAIN, tools=tools)
    soaked(config, rig)
    entered = decommission.rampdown(config, DOMAIN, tools=tools)
    assert (entered.stage, row(config).stage) == ("rampdown", "rampdown")  # type: ignore[union-attr]
    again = decommission.rampdown(config, DOMAIN, tools=tools)
    assert again.already  # type: ignore[union-attr]
    with pytest.raises(Refused, match="rampdown"):
        controller.advance(config, DOMAIN, tools=tools)

    rig.world.caught_up = False
    with pytest.raises(Refused, match="have not crossed"):
        decommission.archive(config, DOMAIN, tools=tools)
    rig.world.caught_up = True
    verified(config, "different")
    with pytest.raises(Refused, match="was different"):
        decommission.archive(config, DOMAIN, tools=tools)
    verified(config)
    done = decommission.archive(config, DOMAIN, tools=tools)
    assert (done.stage, done.tables) == ("complete", ["t -> archived_t"])
    assert decommission.archive(config, DOMAIN, tools=tools).already
    assert status.status(config, tools=tools).domains[0].stage == "complete"
    with pytest.raises(Refused, match="at complete"):
        controller.start(config, DOMAIN, tools=tools)

    undone = decommission.undo(config, DOMAIN, tools=tools)
    assert (undone.stage, row(config).stage) == ("rampdown", "rampdown")
    assert decommission.undo(config, DOMAIN, tools=tools).already
    assert renames == ["archive", "undo"]


def test_an_archive_that_was_killed_goes_on(
    config: Config, tools: Tools, rig: Rig, renames: list[str]
) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10, 50, 100)
    with open_ledger(config) as ledger:
        found = ledger.rollout(DOMAIN)
        assert found is not None
        ledger.save_rollout(replace(found, stage="rampdown"))
        ledger.begin(DOMAIN, "archive", {})
    rig.world.is_archived = True  # renamed, but the outcome was not written
    told = status.status(config, tools=tools)
    assert told.next_command == "splitctl decommission archive d"
    done = decommission.archive(config, DOMAIN, tools=tools)
    assert done.stage == "complete"
    with open_ledger(config) as ledger:
        assert ledger.unfinished() == []
    assert renames == ["archive"]


def test_an_archive_that_fails_leaves_the_domain_as_it_was(
    config: Config, tools: Tools, rig: Rig, renames: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing stays open, so that a rollback and a new rollout can follow."""
    started(config, tools)
    advanced(config, tools, rig, 10, 50, 100)
    with open_ledger(config) as ledger:
        found = ledger.rollout(DOMAIN)
        assert found is not None
        ledger.save_rollout(replace(found, stage="rampdown"))

    def busy(config: Config, domain: str) -> Renamed:
        raise TablesBusy(domain=domain, database="old", seconds=30.0)

    monkeypatch.setattr("rollout.decommission.archiving.archive", busy)
    verified(config)
    with pytest.raises(TablesBusy):
        decommission.archive(config, DOMAIN, tools=tools)
    assert renames == ["undo"], "what was half done is taken back"
    with open_ledger(config) as ledger:
        assert ledger.unfinished() == []
    rollback(config, tools=tools)
    assert rig.is_at(0)
    verified(config)
    assert isinstance(controller.advance(config, DOMAIN, tools=tools), StepResult)


def test_a_rollback_closes_whatever_was_begun(config: Config, tools: Tools, rig: Rig) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10, 50, 100)
    with open_ledger(config) as ledger:
        for kind in ("rampdown", "archive", "step"):
            ledger.begin(DOMAIN, kind, {"from": 50, "to": 100, "epoch": 3})
    rollback(config, tools=tools)
    with open_ledger(config) as ledger:
        assert ledger.unfinished() == []


# Status


def test_status_follows_the_split(config: Config, tools: Tools, rig: Rig) -> None:
    def following() -> tuple[str, str]:
        found = status.status(config, tools=tools).domains[0]
        assert found.disagreements == []
        return found.stage, found.next_command

    good = list(rig.statuses)
    rig.statuses = [replace(item, enabled=False) for item in good]
    assert following() == ("off", "splitctl sync enable d")
    rig.statuses = [replace(item, worker_alive=False) for item in good]
    assert following() == ("dual-write", "splitctl sync run")
    rig.statuses = [replace(item, states={"m": "spool"}) for item in good]
    assert following() == ("dual-write", "splitctl backfill run d")
    rig.statuses = good
    assert following() == ("dual-write", "splitctl verify run --domain d")
    verified(config)
    assert following() == ("dual-write", "splitctl rollout start d")
    controller.start(config, DOMAIN, tools=tools)
    assert following() == ("live", "splitctl rollout advance d")
    advanced(config, tools, rig, 10)
    assert following() == ("live", "splitctl rollout watch d")
    soaked(config, rig)
    assert following() == ("live", "splitctl rollout advance d")
    advanced(config, tools, rig, 50, 100)
    soaked(config, rig)
    assert following() == ("live", "splitctl decommission rampdown d")


def test_status_names_what_disagrees(config: Config, tools: Tools, rig: Rig) -> None:
    started(config, tools)
    advanced(config, tools, rig, 10)
    rig.gateways["gw-2"].domains[DOMAIN] = DomainFlags(True, 0, 0)
    found = status.status(config, tools=tools)
    assert "gw-2 serves 0 %" in found.domains[0].disagreements[0]
    assert found.next_command == "splitctl rollout start d"
    rig.flags.rollback(DOMAIN, 9, 0, 0)
    assert status.status(config, tools=tools).next_command == "splitctl rollback d"


def test_status_measures_the_share(config: Config, tools: Tools, rig: Rig) -> None:
    started(config, tools)
    rig.traffic(old=500, new=0)
    advanced(config, tools, rig, 10)
    rig.traffic(old=90, new=10)
    found = status.status(config, tools=tools).domains[0]
    assert (found.measured, found.requests) == (10.0, 200)
    assert "measured 10.0 % of 200 requests" in "\n".join(found.lines())


def test_status_is_true_while_everything_is_away(plain_config: Config) -> None:
    def away() -> Ledger:
        return open_ledger(plain_config)

    rig = Rig(percentage=10, epoch=4)
    tools = rig.tools(away)
    rig.metrics.snapshot = Snapshot({}, {"gw-1": "refused"})
    rig.gateways["gw-1"].reachable = False
    rig.world.away.add("new")
    found = status.status(plain_config, tools=tools)
    assert set(found.away) >= {"ledger", "gw-1"}
    (domain,) = found.domains
    assert domain.asked is None
    assert [s.percentage for s in domain.served] == [None, 10]
    assert domain.owned[0].percentage == 10
    assert domain.owned[1].problem
    assert found.to_text()


def test_status_reads_as_text(config: Config, tools: Tools) -> None:
    started(config, tools)
    with open_ledger(config, "rollout watch") as ledger, ledger.lock("bob"):
        text = status.status(config, tools=tools).to_text()
    assert "d: live, asked 0 %" in text
    assert "served   gw-1: 0 % under epoch 1" in text
    assert "lock: bob on" in text
