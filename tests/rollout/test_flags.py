"""The admin driver against real gateways: two processes of the reference estate."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from rollout.flags import DomainFlags, GatewayAdmin
from rollout.metrics import ScrapeMetrics

TOKEN = "a-token-of-the-tests"
DOMAIN = "checkout"
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def urls() -> Iterator[list[str]]:
    """Two gateways, in front of services that do not exist."""
    ports = [free_port(), free_port()]
    nobody = "http://127.0.0.1:1"
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "services.gateway"],
            cwd=ROOT,
            env={
                **os.environ,
                "PORT": str(port),
                "INSTANCE": f"gw-{number}",
                "GATEWAY_ADMIN_TOKEN": TOKEN,
                **{f"{name}_URL": nobody for name in ("ORDER", "CHECKOUT", "RETURN")},
            },
        )
        for number, port in enumerate(ports, 1)
    ]
    found = [f"http://127.0.0.1:{port}" for port in ports]
    try:
        for url in found:
            _await(f"{url}/health/live")
        yield found
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=20)


def _await(url: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if httpx.get(url, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise AssertionError(f"{url} does not come up")


@pytest.fixture
def flags(urls: list[str]) -> GatewayAdmin:
    """The driver; both gateways are at 0 %, without a fence."""
    driver = GatewayAdmin(urls, TOKEN)
    newest = max(gateway.domains[DOMAIN].epoch for gateway in driver.served())
    assert all(a.ok for a in driver.put(DOMAIN, DomainFlags(True, 0, newest + 1)))
    return driver


def epoch_of(flags: GatewayAdmin) -> int:
    (epoch,) = {gateway.domains[DOMAIN].epoch for gateway in flags.served()}
    return epoch


def test_what_is_served(flags: GatewayAdmin) -> None:
    served = flags.served()
    assert [gateway.instance for gateway in served] == ["gw-1", "gw-2"]
    assert all(gateway.reachable for gateway in served)
    assert {gateway.domains[DOMAIN].served for gateway in served} == {0}


def test_a_fence_from_its_beginning_to_the_switch(flags: GatewayAdmin) -> None:
    epoch = epoch_of(flags) + 1
    fences = flags.fence(DOMAIN, epoch, 0, 1000, 4000, "ann@host")
    assert all(a.value and a.value.holding and a.value.epoch == epoch for a in fences)
    assert all(a.value and a.value.in_flight == 0 for a in flags.fences(DOMAIN))
    assert all(a.value and a.value.expires_in_ms > 4500 for a in flags.confirm(DOMAIN, epoch, 5000))
    wanted = DomainFlags(True, 10, epoch)
    assert all(a.value is not None for a in flags.switch(DOMAIN, wanted))
    assert all(a.value is not None for a in flags.switch(DOMAIN, wanted))  # again: the same
    assert {gateway.domains[DOMAIN] for gateway in flags.served()} == {wanted}
    assert all(a.refused for a in flags.fences(DOMAIN))


def test_a_fence_that_is_released_cannot_be_switched(flags: GatewayAdmin) -> None:
    epoch = epoch_of(flags) + 1
    flags.fence(DOMAIN, epoch, 0, 1000, 4000, "ann@host")
    assert all(a.value is not None for a in flags.release(DOMAIN, epoch))
    assert all(a.refused for a in flags.release(DOMAIN, epoch))
    assert all(a.refused for a in flags.confirm(DOMAIN, epoch, 4000))
    assert all(a.refused for a in flags.switch(DOMAIN, DomainFlags(True, 10, epoch)))
    assert {gateway.domains[DOMAIN].served for gateway in flags.served()} == {0}


def test_an_epoch_that_was_given_up_cannot_be_switched_to(flags: GatewayAdmin) -> None:
    epoch = epoch_of(flags) + 1
    flags.fence(DOMAIN, epoch, 0, 1000, 4000, "ann@host")
    served = [answer.value for answer in flags.forgo(DOMAIN, epoch)]
    assert [found.epoch for found in served if found] == [epoch - 1, epoch - 1]
    assert all(a.refused for a in flags.switch(DOMAIN, DomainFlags(True, 10, epoch)))
    flags.release(DOMAIN, epoch)


def test_an_older_epoch_is_refused(flags: GatewayAdmin) -> None:
    epoch = epoch_of(flags)
    assert all(a.refused for a in flags.fence(DOMAIN, epoch, 0, 1000, 4000, "ann@host"))
    assert all(a.refused for a in flags.put(DOMAIN, DomainFlags(True, 10, epoch - 1)))


def test_a_rollback_is_served_at_once_and_breaks_a_fence(flags: GatewayAdmin) -> None:
    epoch = epoch_of(flags) + 1
    flags.put(DOMAIN, DomainFlags(True, 50, epoch))
    flags.fence(DOMAIN, epoch + 1, 5000, 10_000, 4000, "ann@host")
    holds = flags.rollback(DOMAIN, epoch + 2, 0, 900)
    assert all(a.value and (a.value.low, a.value.high) == (0, 5000) for a in holds)
    assert {gateway.domains[DOMAIN].served for gateway in flags.served()} == {0}
    assert all(a.refused for a in flags.confirm(DOMAIN, epoch + 1, 4000))
    assert all(a.ok for a in flags.release(DOMAIN, epoch + 2))


def test_an_act_may_go_to_one_gateway_alone(flags: GatewayAdmin, urls: list[str]) -> None:
    wanted = DomainFlags(True, 30, epoch_of(flags) + 1)
    assert [a.url for a in flags.put(DOMAIN, wanted, [urls[1]])] == [urls[1]]
    assert [g.domains[DOMAIN].served for g in flags.served()] == [0, 30]
    flags.put(DOMAIN, wanted)


def test_a_gateway_that_is_away_is_an_answer_and_keeps_nobody_waiting(urls: list[str]) -> None:
    driver = GatewayAdmin([urls[0], "http://127.0.0.1:1"], TOKEN)
    began = time.monotonic()
    here, away = driver.served()
    assert time.monotonic() - began < 3
    assert (here.reachable, away.reachable) == (True, False)
    assert away.problem
    answers = driver.confirm(DOMAIN, 1, 1000)
    assert [a.refused for a in answers] == [True, False]


def test_a_wrong_token_is_not_taken_for_an_answer_about_the_fence(urls: list[str]) -> None:
    driver = GatewayAdmin(urls, "wrong")
    assert not any(gateway.reachable for gateway in driver.served())
    answers = driver.switch(DOMAIN, DomainFlags(True, 10, 99))
    assert all(a.problem and a.problem.startswith("401") and not a.refused for a in answers)
    assert "wrong" not in str(answers)


def test_the_gateways_own_metrics_are_read(urls: list[str]) -> None:
    httpx.get(f"{urls[0]}/carts/1", headers={"X-Guest-Token": "g"}, trust_env=False)
    snapshot = ScrapeMetrics([f"{url}/metrics" for url in urls]).scrape()
    assert snapshot.complete, snapshot.problems
    old = snapshot.gateways[f"{urls[0]}/metrics"][DOMAIN]["old"]
    assert old.requests >= 1
    assert old.errors >= 1  # nobody is behind this gateway
    assert old.quantile(0.95) is not None
