"""What may happen while customers are on the new side, and how it has to end."""

import time

import pytest

from rehearsal.children import wait_until
from tests.cluster.nine_days.ground import LIMIT_S, NineDays
from tests.cluster.server import Server

pytestmark = [pytest.mark.rehearsal, pytest.mark.timeout(1800)]

DOMAIN = "checkout"


def brought_back(ground: NineDays, gate: str) -> float:
    """Let it run unattended until this gate brings everybody back; the seconds it took."""
    told = len(ground.notices("rolled_back"))
    began = time.monotonic()
    with ground.unattended(DOMAIN, "--config", ground.patient()) as running:
        assert running.ended(2 * LIMIT_S) == 6
    seconds = time.monotonic() - began
    assert ground.domain(DOMAIN)["asked"] == 0
    assert ground.owned(DOMAIN) == {0}
    assert ground.served(DOMAIN) == {0}
    notice = ground.notices("rolled_back")[told]
    assert (notice["from"], notice["to"]) == ("10 %", "0 %")
    assert gate in notice["reason"], notice
    return round(seconds, 1)


def test_two_percent_of_errors_at_10_percent(ground: NineDays) -> None:
    """Everybody is brought back by itself; what was acknowledged stays."""
    ground.strike(DOMAIN, rate=0.025)  # of the writes, which are four of five requests
    try:
        # The gate may fail while customers are still waited for who prove the step.
        ground.type("rollout", "advance", DOMAIN, expect=(0, 3, 7))
        ground.verify("--domain", DOMAIN)
        seconds = brought_back(ground, "errors")
    finally:
        ground.strike(DOMAIN)
    ground.measured("2 % errors", seconds=seconds)
    ground.shop_goes_on()


@pytest.mark.faults
def test_errors_that_nobody_watches(ground: NineDays) -> None:
    """Prometheus sees them, and Alertmanager wakes somebody, with the command to type."""
    ground.strike(DOMAIN, rate=0.1)
    try:
        # The gate may fail while customers are still waited for who prove the step.
        ground.type("rollout", "advance", DOMAIN, expect=(0, 3, 7))
        ground.verify("--domain", DOMAIN)
        began = time.monotonic()
        woken = ground.receiver.wait(lambda letter: b"SplitctlErrorRate" in letter.body, LIMIT_S)
    finally:
        ground.strike(DOMAIN)
    assert woken.path == "/page"
    assert f"splitctl rollback {DOMAIN}".encode() in woken.body
    ground.measured("errors, nobody watches", woken_after_s=round(time.monotonic() - began, 1))


@pytest.mark.faults
def test_a_new_service_that_gets_slow(unharmed: NineDays) -> None:
    """Everybody is brought back by itself; slow is not failed, so no customer sees an error."""
    ground = unharmed
    ground.advance(DOMAIN, 10)
    ground.strike(DOMAIN, delay_ms=2500)
    try:
        seconds = brought_back(ground, "latency")
    finally:
        ground.strike(DOMAIN)
    ground.measured("slow by 2.5 s", seconds=seconds)
    ground.shop_goes_on()


@pytest.mark.faults
def test_prometheus_dies(unharmed: NineDays) -> None:
    """It holds, tells that it does, and brings nobody back; when evidence comes in, it goes on."""
    ground = unharmed
    ground.advance(DOMAIN, 10)
    ground.monitoring.stop("prometheus")
    with ground.unattended(DOMAIN) as running:
        running.says("held: ")
        assert wait_until(lambda: bool(ground.notices("held")), LIMIT_S)
        ground.shop_goes_on(200)
        assert running.alive()
        assert (ground.domain(DOMAIN)["asked"], ground.owned(DOMAIN)) == (10, {10})
        ground.type("rollout", "advance", DOMAIN, expect=(4, 7))
        ground.monitoring.programs.start_again("prometheus")
        assert running.ended() == 0
    assert ground.domain(DOMAIN)["asked"] == 10


@pytest.mark.faults
def test_gitops_puts_a_flag_back(written: NineDays) -> None:
    """It is named, with the tool; the clock stands; customers stay where their owner says."""
    ground = written
    ground.advance(DOMAIN, 10)
    ground.put_back_by("argocd-controller", DOMAIN)
    answer = ground.type("rollout", "watch", DOMAIN, "--timeout", "12s", expect=(4, 5))
    assert "Argo CD puts back what stands in Git" in str(answer.data), answer.data
    assert ground.owned(DOMAIN) == {10}
    ground.type("rollout", "advance", DOMAIN, expect=(5,))
    assert "Argo CD" in str(ground.type("rollout", "history", DOMAIN).data)
    ground.shop_goes_on()
    ground.given_up_by("argocd-controller")
    ground.type("rollout", "start", DOMAIN)
    assert wait_until(lambda: ground.served(DOMAIN) == {10}, LIMIT_S)
    # Customers had been elsewhere meanwhile: a verification from before does not count.
    ground.verify("--domain", DOMAIN)
    ground.type("rollout", "watch", DOMAIN, "--timeout", "60s")


def test_a_gateway_that_never_picks_up_the_flag(written: NineDays) -> None:
    """The step is not done, and says which pod; nobody has moved, the flags are as before."""
    ground = written
    ground.verify("--domain", DOMAIN)
    hurried = ground.hurried("5s")
    with ground.written.one_stuck() as pod:
        answer = ground.type("rollout", "advance", DOMAIN, "--config", hurried, expect=(5,))
        assert pod() in answer.stderr, answer.stderr
        assert ground.owned(DOMAIN) == {0}
    assert wait_until(lambda: ground.served(DOMAIN) == {0}, LIMIT_S)
    ground.estate.await_deployed("gateway")
    ground.step(DOMAIN)
    assert ground.owned(DOMAIN) == {10}


@pytest.mark.faults
def test_a_second_operator(written: NineDays) -> None:
    """He is refused and told who is at work; the step of the first one is made."""
    ground = written
    ground.verify("--domain", DOMAIN)
    with ground.written.one_stuck(), ground.command("rollout", "advance", DOMAIN) as first:
        assert wait_until(lambda: bool(ground.domain(DOMAIN)["unfinished"]), LIMIT_S)
        answer = ground.type("rollout", "advance", DOMAIN, expect=(5,))
        assert "is at work" in answer.stderr, answer.stderr
        ground.estate.kubelet.go_on()
        assert first.ended() in (0, 7)
    assert ground.owned(DOMAIN) == {10}


@pytest.mark.faults
def test_the_api_server_is_away_for_a_minute(written: NineDays, server: Server) -> None:
    """While a phase soaks: it holds, customers notice nothing, and it goes on by itself."""
    ground = written
    ground.advance(DOMAIN, 10)
    with ground.unattended(DOMAIN) as running:
        with server.away():
            began = time.monotonic()
            while time.monotonic() < began + 60.0:
                ground.shop_goes_on(20)
                assert running.alive() or running.ended() == 0
        assert running.ended() == 0
    assert (ground.domain(DOMAIN)["asked"], ground.owned(DOMAIN)) == (10, {10})


@pytest.mark.faults
def test_a_step_while_the_api_server_is_away(written: NineDays, server: Server) -> None:
    """Nobody is moved; the same command makes the step when it is there again."""
    ground = written
    ground.verify("--domain", DOMAIN)
    with server.away():
        answer = ground.type("rollout", "advance", DOMAIN, expect=(1, 4, 5))
        assert answer.record.exit_code == 5, answer.stderr
        ground.shop_goes_on(20)
    assert ground.owned(DOMAIN) == {0}
    ground.step(DOMAIN)
    assert ground.owned(DOMAIN) == {10}


@pytest.mark.faults
def test_a_rollback_while_the_api_server_is_away(written: NineDays, server: Server) -> None:
    """The old side serves everybody at once; the gateways follow when they can be told."""
    ground = written
    ground.advance(DOMAIN, 10)
    with server.away():
        began = time.monotonic()
        answer = ground.type("rollback", DOMAIN, expect=(5,))
        seconds = time.monotonic() - began
        (back,) = answer.data["rollbacks"]
        assert back["seconds_until_the_old_side_serves_everybody"] < 10
        ground.shop_goes_on(20)
    ground.type("rollback", DOMAIN)
    assert (ground.served(DOMAIN), ground.owned(DOMAIN)) == ({0}, {0})
    served = back["seconds_until_the_old_side_serves_everybody"]
    ground.measured("rollback, API server away", served_s=served, command_s=round(seconds, 1))


@pytest.mark.faults
def test_conversion_drops_by_a_fifth(unharmed: NineDays) -> None:
    """Everybody is brought back by itself: those who stayed buy more than those who moved."""
    ground = unharmed
    half = ground.asking_for_conversion()
    ground.customers_leave()
    ground.customers_come(think_ms=30.0, shoppers=24)
    ground.put_off(0.2)
    try:
        ground.step(DOMAIN, "--config", half)
        ground.verify("--domain", DOMAIN)
        began = time.monotonic()
        answer = ground.type(
            "rollout", "watch", DOMAIN, "--config", half, "--timeout", "20m", expect=(6,),
            timeout_s=1300,
        )  # fmt: skip
    finally:
        ground.put_off(0.0)
    (gate,) = [gate for gate in answer.data["gates"] if gate["name"] == "conversion"]
    assert gate["verdict"] == "fail", gate
    seconds = round(time.monotonic() - began, 1)
    figures = {name: gate[name] for name in ("measured", "samples", "reason")}
    ground.measured("conversion down by a fifth", seconds=seconds, **figures)
