"""Two troubles, one for each route: through a real Prometheus and a real Alertmanager to whoever is
woken, and to the chat."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rehearsal.children import Children
from rollout.observe import writing
from tests.observe import programs
from tests.observe.conftest import Configure
from tests.observe.pages import GatewayPage, opened
from tests.receiver import Receiver, receiving

LIMIT_S = 120.0


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


def test_errors_wake_somebody_and_slowness_is_told_in_the_chat(
    tmp_path: Path, children: Children, configure: Configure, receiver: Receiver
) -> None:
    config = configure(metrics="matcher = 'job=\"gateway\"'", interval="1s", receiver=receiver.url)
    written = tmp_path / "observe"
    writing.rules(config, written)
    writing.alertmanager(config, written)
    page, stop = GatewayPage(), threading.Event()

    def shop() -> None:
        # Two in a hundred fail, one in ten is slow.
        while not stop.wait(0.1):
            page.served("new", 88)
            page.served("new", 10, seconds=0.4)
            page.served("new", 2, status=500)
            page.served("old", 100)

    customers = threading.Thread(target=shop, daemon=True)
    with opened(page):
        customers.start()
        try:
            programs.start(
                tmp_path,
                children,
                {"gateway": [page.address]},
                interval="1s",
                rules=written / writing.RULES,
                alertmanager=written / writing.ALERTMANAGER,
            )
            woken = receiver.wait(lambda letter: b"SplitctlErrorRate" in letter.body, LIMIT_S)
            told = receiver.wait(lambda letter: b"SplitctlLatency" in letter.body, LIMIT_S)
        finally:
            stop.set()
            customers.join(5)
    assert woken.path == "/page"
    event = json.loads(woken.body)
    assert (event["routing_key"], event["event_action"]) == ("a-routing-key", "trigger")
    assert event["payload"]["summary"].startswith("d, new side: ")
    assert event["payload"]["custom_details"]["next"] == "splitctl rollback d"

    assert told.path == "/chat"
    (message,) = json.loads(told.body)["attachments"]
    assert message["title"] == "SplitctlLatency d (test)"
    assert "d, new side: p95 is " in message["text"]
    assert "Next: splitctl status" in message["text"]
    # Each goes one way, and the side that is well is not told of.
    for path, other in (("/page", b"SplitctlLatency"), ("/chat", b"SplitctlErrorRate")):
        assert not any(other in letter.body for letter in receiver.to(path))
    assert not any(b"old side" in letter.body for letter in receiver.letters)
