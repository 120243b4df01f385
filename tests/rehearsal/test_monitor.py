"""The monitor shows what gateways and sync say of themselves, and leaves out what is unknown."""

from pathlib import Path

import httpx
import pytest

from rehearsal.monitor import Monitor
from rehearsal.scene import Scene
from services.gateway.fence import Door
from services.gateway.flags import DomainFlags
from services.gateway.metrics import Metrics

HELD = {"one": 3, "two": 4}
FLAGS = {"domains": {"a": {"enabled": True, "percentage": 10, "epoch": 3}}}


def page(gateway: str) -> bytes:
    """What a real gateway tells at /metrics."""
    door = Door("a", DomainFlags(True, 10, 3), lambda: 0.0, lambda *_: pytest.fail("no timer"))
    door.held_total, door.longest_hold = HELD[gateway], 0.25
    return Metrics({"a": door}).text()


def answer(request: httpx.Request) -> httpx.Response:
    match request.url.path:
        case "/admin/flags":
            return httpx.Response(200, json=FLAGS)
        case "/metrics":
            return httpx.Response(200, content=page(request.url.host))
        case _:
            return httpx.Response(503)


@pytest.fixture
def monitor(tmp_path: Path) -> Monitor:
    gateways = ("http://one", "http://two")
    return Monitor(Scene("test"), "http://sync", gateways, "token", tmp_path / "none.json")


def test_held_requests_are_added_up_over_the_gateways(monitor: Monitor) -> None:
    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        monitor.sample(client)
    assert monitor.scene.domains["a"].held == 7
    assert monitor.scene.domains["a"].served == "10 %"
    assert monitor.scene.longest_hold_ms == 250


def test_a_lag_is_a_point_only_when_something_was_carried(monitor: Monitor) -> None:
    transactions = iter([1, 1, 5])

    def sync(request: httpx.Request) -> httpx.Response:
        if request.url.host != "sync":
            return answer(request)
        stream = {"lag_ms": {"last": 20.0}, "transactions": next(transactions)}
        return httpx.Response(200, json={"streams": {"a.forward": stream}})

    with httpx.Client(transport=httpx.MockTransport(sync)) as client:
        for _ in range(3):
            monitor.sample(client)
    assert [value for _, value in monitor.series["lag a.forward"]] == [20.0, 20.0]
