"""Between whole runs: every key that sync carried is compared, and what it dropped is found."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estate.config import Config
from estate.config.sections import VerifyConfig
from estate.ledger import open_ledger
from migrator import backfill, sync, worker
from rollout import evidence, verification
from tests.conftest import ConfigWriter, FreshDatabase
from tests.faulty import fault
from tests.migrator import library as lending
from tests.migrator.library import DOMAIN, Library
from tests.verify.test_with_sync import FILL
from verify import continuous
from verify.continuous import Continuous, Due
from verify.verdict import CHECKED, FOUND

LIMIT_S = 60.0


@pytest.fixture
def library(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> Iterator[Library]:
    """The lending domain, filled and enabled, without a worker."""
    built = lending.build(fresh_databases, write_config)
    try:
        built.old.execute(FILL.encode())
        sync.enable(built.config, DOMAIN)
        yield built
    finally:
        built.old.close()
        built.new.close()


def quick(config: Config, rate: int = 1000) -> Config:
    """The same, where keys are compared soon after they were carried."""
    settings = VerifyConfig(continuous=rate, continuous_after=timedelta(milliseconds=200))
    return config.model_copy(update={"verify": settings})


@contextmanager
def heard(config: Config) -> Iterator[Continuous]:
    """A worker, and a verifier that hears of what it carries; everything is copied."""
    stop = threading.Event()
    with continuous.running(config, stop) as listener:
        assert listener is not None
        thread = threading.Thread(target=worker.run, args=(config, stop, listener))
        thread.start()
        try:
            backfill.run(config, DOMAIN, on_progress=lambda *_: None)
            until(lambda: (listener.covered_s(DOMAIN) or 0) > 0)
            yield listener
        finally:
            stop.set()
            thread.join(LIMIT_S)


def until(condition: Callable[[], Any]) -> None:
    """Wait for it."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def told(listener: Continuous) -> dict[str, Any]:
    found: dict[str, Any] = listener.to_json()["domains"][DOMAIN]
    return found


def test_what_sync_carries_is_compared(library: Library) -> None:
    with heard(quick(library.config)) as listener:
        library.old.execute("UPDATE books SET title = 'other' WHERE id <= 50")
        library.old.execute("DELETE FROM notes WHERE book_id = 60")
        until(lambda: told(listener)["checked"] >= 101)
        assert told(listener)["differing"] == 0
        text = listener.metrics().decode()
    assert 'splitctl_verify_differing_keys_total{domain="lending"} 0.0' in text
    assert told(listener)["covered_s"] is None, "nobody carries it any more"


def test_a_key_that_sync_dropped_is_found_by_itself_and_fails_the_gate(library: Library) -> None:
    config = quick(library.config)
    with fault("drop-key:1"), heard(config) as listener:
        with library.old.transaction():
            # Each mapping has something to carry: whichever key is dropped, a row stays behind.
            library.old.execute("UPDATE books SET title = 'x', tags = '[]' WHERE id = 21")
            library.old.execute("UPDATE notes SET body = 'x' WHERE book_id = 21")
        until(lambda: told(listener)["differing"])
        until(lambda: recorded(config, FOUND))
        (record,) = recorded(config, FOUND)[:1]
        (mapping,) = record.data["mappings"]
        assert mapping["verdict"] == "different"
        keys = [sample["key"] for sample in mapping["samples"]]
        assert {key.get("volume_id") or key["id"] for key in keys} == {"21"}


def recorded(config: Config, name: str) -> list[Any]:
    with open_ledger(config) as ledger:
        return ledger.verdicts(DOMAIN, name, 10)


def test_trust_does_not_age_while_everything_is_compared(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuous, "TOLD_EACH_S", 0.5)
    config = quick(library.config)

    def run() -> str:
        return verification.run(config, None, None, on_progress=lambda _: None).verdict.verdict

    with heard(config) as listener, open_ledger(config) as ledger:
        assert run() == "equal"
        first = evidence.trusted(ledger, DOMAIN)
        assert first is not None
        began = listener.covered_s(DOMAIN)
        assert began is not None
        until(lambda: ledger.verdicts(DOMAIN, CHECKED, 1))
        until(lambda: (found := evidence.trusted(ledger, DOMAIN)) and found.age_s < age(ledger))
        # What nobody heard of ends it, until the next whole run.
        listener.missed()
        last = ledger.verdicts(DOMAIN, CHECKED, 1)[0].at
        until(lambda: ledger.verdicts(DOMAIN, CHECKED, 1)[0].at > last)
        until(lambda: (found := evidence.trusted(ledger, DOMAIN)) and found.age_s >= age(ledger))
        assert run() == "equal"
        until(lambda: (found := evidence.trusted(ledger, DOMAIN)) and found.age_s < age(ledger))
        ledger.add_verdict(DOMAIN, "verify", FOUND, "different", {})
        worse = evidence.trusted(ledger, DOMAIN)
        assert worse is not None
        assert worse.verdict == "different"
        assert run() == "equal"
        better = evidence.trusted(ledger, DOMAIN)
        assert better is not None
        assert better.verdict == "equal", "a whole run that began later has seen all"


def age(ledger: Any) -> float:
    """Of the last whole run, less what passes between two questions."""
    return float(ledger.latest_verdict(DOMAIN, "verify").age_s) - 0.2


def test_while_a_side_is_away_keys_wait(library: Library) -> None:
    now = [0.0]
    verifier = Continuous(quick(library.config), clock=lambda: now[0])
    verifier.heard([("lending.forward.volumes", ("21",))])
    library.new.execute("ALTER TABLE volumes RENAME TO elsewhere")
    now[0] = 1.0
    with pytest.raises(Exception, match="volumes"):
        verifier.look()
    assert verifier.to_json()["waiting"] == 1


NAMES = st.lists(st.integers(0, 5).map(lambda n: ("m", (str(n),))), max_size=4)


@given(st.lists(st.tuples(NAMES, st.floats(0, 3), st.integers(1, 4)), max_size=20))
def test_each_key_is_taken_after_its_delay_and_once(
    steps: list[tuple[list[tuple[str, tuple[str, ...]]], float, int]],
) -> None:
    due, now, heard_at = Due(1.0, 0.0, room=4), 0.0, {}
    for names, passed, most in steps:
        now += passed
        before = due.since
        due.add(names, now)
        for name in names:
            heard_at.setdefault(name, now)
        taken = due.take(now, most)
        assert len(taken) == len(set(taken)) <= most
        for name in taken:
            assert now - heard_at.pop(name) >= 1.0
        assert len(due) <= 4
        if due.since == before:
            # Nothing was left out: what was heard waits or was taken.
            continue
        assert due.since == now
        heard_at = {name: at for name, at in heard_at.items() if due_has(due, name)}


def due_has(due: Due, name: tuple[str, tuple[str, ...]]) -> bool:
    return name in due._waiting
