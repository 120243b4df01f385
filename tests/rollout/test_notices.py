"""Whoever wants to know is told, in time, signed, and never at the rollout's cost."""

import hashlib
import hmac
import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from estate.config import Config, ConfigInvalid, NotifyConfig, load
from estate.secrets import SecretRef
from rollout.gates import GateResult
from rollout.notices import (
    ATTEMPTS,
    LIMIT_S,
    Delivery,
    HttpNotifier,
    InMemoryNotifier,
    Notice,
    Notices,
    Receiver,
)
from tests.conftest import ConfigWriter
from tests.receiver import Receiver as Webhook
from tests.receiver import receiving
from tests.rollout.conftest import DOMAIN, NOWHERE
from tests.rollout.rig import Clock

Configure = Callable[[str], Config]
FAILED = GateResult("d", "errors", "error_rate", "fail", 0.02, 0.01, 4000, "")
PASSED = GateResult("d", "latency", "latency_p95", "pass", 40, 100, 4000, "")


def notice() -> Notice:
    return Notice(
        "production", "d", "rolled_back", "splitctl verify run", "10 %", "0 %",
        verdicts=(FAILED, PASSED), at=datetime(2024, 5, 1, tzinfo=UTC),
    )  # fmt: skip


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with receiving() as found:
        yield found


@pytest.fixture
def configure(write_config: ConfigWriter) -> Configure:
    def work(lines: str) -> Config:
        return load(
            write_config(
                databases={"a": f"{NOWHERE} application_name=a", "b": NOWHERE},
                domains=DOMAIN,
                mappings={"q.sql": "SELECT id, id::text AS splitctl_route FROM t"},
                extra=lines,
            )
        )

    return work


def test_a_receiver_can_tell_that_a_notice_is_ours(
    webhook: Webhook, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTICE_SECRET", "s3cret")
    lines = f'[[notify]]\nname = "ops"\nurl = "{webhook.url}/in"\nsecret = "env:NOTICE_SECRET"'
    told = notice()
    assert Notices.of(configure(lines)).tell(told) == [Delivery("ops", 1)]
    (letter,) = webhook.to("/in")
    stamp = letter.headers["splitctl-timestamp"]
    wanted = hmac.new(b"s3cret", stamp.encode() + b"." + letter.body, hashlib.sha256).hexdigest()
    assert letter.headers["splitctl-signature"] == f"v1={wanted}"
    assert letter.headers["idempotency-key"] == told.id
    body = json.loads(letter.body)
    assert (body["id"], body["event"], body["from"], body["to"]) == (
        told.id, "rolled_back", "10 %", "0 %",
    )  # fmt: skip
    assert body["at"] == "2024-05-01T00:00:00.000+00:00"
    assert [verdict["verdict"] for verdict in body["verdicts"]] == ["fail", "pass"]
    assert body["next_command"] == "splitctl verify run"


def test_a_chat_gets_what_a_person_reads_and_its_address_is_a_secret(
    webhook: Webhook, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAT", f"{webhook.url}/services/T0/B0")
    notices = Notices.of(configure('[[notify]]\nname = "team"\nurl = "env:CHAT"\nformat = "slack"'))
    assert notices.tell(notice()) == [Delivery("team", 1)]
    (letter,) = webhook.to("/services/T0/B0")
    assert json.loads(letter.body)["text"].splitlines() == [
        "production: d was rolled back from 10 % to 0 %",
        "d errors: fail (0.02, limit 0.01, 4000 samples)",
        "Next: splitctl verify run",
    ]
    assert "splitctl-signature" not in letter.headers


def test_a_receiver_that_is_away_for_a_moment_is_told_again_with_the_same_id(
    webhook: Webhook,
) -> None:
    webhook.answers = [503, 429]
    clock = Clock()
    settings = NotifyConfig(name="ops", url=webhook.url)
    receiver = Receiver("ops", HttpNotifier(settings))
    assert Notices([receiver], clock.sleep, clock).tell(notice()) == [Delivery("ops", 3)]
    assert len(webhook.letters) == 3
    assert len({letter.headers["idempotency-key"] for letter in webhook.letters}) == 1
    assert clock.now - Clock().now >= 0.5 * 0.5 + 1.0 * 0.5


def test_a_refusal_is_not_repeated(webhook: Webhook) -> None:
    webhook.answers = [404]
    receiver = Receiver("ops", HttpNotifier(NotifyConfig(name="ops", url=webhook.url)))
    assert Notices([receiver]).tell(notice()) == [Delivery("ops", 1, "it answers 404")]
    assert len(webhook.letters) == 1


def test_every_retry_has_an_end() -> None:
    clock, away = Clock(), InMemoryNotifier(failures=1000)
    (delivery,) = Notices([Receiver("ops", away)], clock.sleep, clock).tell(notice())
    assert str(delivery) == "'ops' was not told after 4 tries: it was told to fail"
    assert 1000 - away.failures == ATTEMPTS
    assert clock.now - Clock().now < LIMIT_S


def test_nothing_that_is_wrong_with_a_receiver_reaches_the_rollout_nor_tells_a_secret(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DEAD", "http://127.0.0.1:1/services/T0PSECRET")
    monkeypatch.setenv("NONE", "T0PSECRET")
    clock, reached = Clock(), InMemoryNotifier()
    receivers = [
        Receiver(name, HttpNotifier(NotifyConfig(name=name, url=SecretRef(f"env:{place}"))))
        for name, place in (("dead", "DEAD"), ("none", "NONE"), ("unset", "NOWHERE_TO_BE_FOUND"))
    ]
    told = notice()
    with caplog.at_level(logging.INFO):
        found = Notices([*receivers, Receiver("here", reached)], clock.sleep, clock).tell(told)
    warnings = [str(delivery) for delivery in found if delivery.problem is not None]
    assert reached.notices == [told], "one that works is told whatever becomes of the others"
    assert [warning.partition(" ")[0] for warning in warnings] == ["'dead'", "'none'", "'unset'"]
    assert "T0PSECRET" not in "\n".join([*warnings, caplog.text])


def test_only_what_was_asked_for_is_told(configure: Configure) -> None:
    some = InMemoryNotifier()
    receiver = Receiver("ops", some, frozenset({"rolled_back"}))
    notices = Notices([receiver])
    notices.tell(Notice("production", "d", "stepped", "splitctl status"))
    assert some.notices == []
    notices.tell(notice())
    assert [item.event for item in some.notices] == ["rolled_back"]
    assert Notices.of(configure("")).tell(notice()) == []


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ('name = "x"\nurl = "ftp://x"', "notify.0.url"),
        ('name = "x"\nurl = "http://x"\nevents = ["exploded"]', "notify.0.events"),
        ('name = "x"\nurl = "http://x"\nsecret = "hunter2"', "notify.0.secret"),
        ('url = "http://x"', "notify.0.name"),
    ],
)
def test_a_mistake_in_the_configuration_is_told_by_its_key(
    configure: Configure, lines: str, key: str
) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        configure(f"[[notify]]\n{lines}")
    assert any(problem.key.startswith(key) for problem in caught.value.problems)
    assert "hunter2" not in str(caught.value)
