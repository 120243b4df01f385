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

from estate.config import Config, GateConfig, VerifyConfig
from estate.ledger import Ledger, open_ledger
from migrator import backfill, worker
from rollout import evidence, verification
from rollout.gates import evaluate
from rollout.seen import Evidence
from tests.conftest import ConfigWriter, FreshDatabase
from tests.faulty import fault
from tests.migrator.library import DOMAIN, Library
from tests.verify import lent
from verify import continuous
from verify.continuous import Continuous
from verify.due import Due
from verify.verdict import CHECKED, FOUND

LIMIT_S = 60.0


@pytest.fixture
def library(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> Iterator[Library]:
    """The lending domain, filled and enabled, without a worker."""
    with lent.enabled(fresh_databases, write_config) as built:
        yield built


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
            until(lambda: (told(listener)["covered_s"] or 0) > 0)
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
        until(lambda: told(listener)["compared"] >= 101)
        assert told(listener)["differing"] == 0
        text = listener.metrics().decode()
    assert 'splitctl_verify_differing_keys{domain="lending"} 0.0' in text
    assert told(listener)["covered_s"] is None, "nobody carries it any more"


def test_a_key_that_sync_dropped_is_found_by_itself_and_fails_the_gate(library: Library) -> None:
    config = quick(library.config)
    gate = GateConfig(name="data", kind="consistency", max_age=timedelta(hours=1))
    with fault("drop-key:1"), heard(config) as listener, open_ledger(config) as ledger:
        assert run(config) == "equal"
        assert asked(gate, ledger) == "pass"
        with library.old.transaction():
            # Each mapping has something to carry: whichever key is dropped, a row stays behind.
            library.old.execute("UPDATE books SET title = 'x', tags = '[]' WHERE id = 21")
            library.old.execute("UPDATE notes SET body = 'x' WHERE book_id = 21")
        until(lambda: told(listener)["differing"])
        until(lambda: ledger.verdicts(DOMAIN, FOUND, 1))
        assert asked(gate, ledger) == "fail"
        record = evidence.trusted(ledger, DOMAIN)
        assert record is not None
        mappings = {mapping["mapping"]: mapping for mapping in record.data["mappings"]}
        forward = [mapping for name, mapping in mappings.items() if ".forward." in name]
        keys = [sample["key"] for mapping in forward for sample in mapping["samples"]]
        assert {key.get("volume_id") or key["id"] for key in keys} == {"21"}
        assert [name for name in mappings if ".reverse." in name], "the way back is compared too"
        assert run(config) == "different", "a whole run finds it too"


def asked(gate: GateConfig, ledger: Ledger) -> str:
    """The gate's answer, by what the ledger has."""
    seen = evidence.verdict_seen(evidence.trusted(ledger, DOMAIN), None)
    return evaluate(gate, Evidence(DOMAIN, 0, verdict=seen)).verdict


def run(config: Config) -> str:
    """A whole run."""
    return verification.run(config, None, None, on_progress=lambda _: None).verdict.verdict


def test_trust_does_not_age_while_everything_is_compared(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuous, "TOLD_EACH_S", 0.5)
    config = quick(library.config)
    with heard(config) as listener, open_ledger(config) as ledger:
        assert run(config) == "equal"
        until(lambda: ledger.verdicts(DOMAIN, CHECKED, 1))
        until(lambda: (found := evidence.trusted(ledger, DOMAIN)) and found.age_s < age(ledger))
        # What nobody heard of ends it, until the next whole run.
        listener.missed("lending.forward")
        last = ledger.verdicts(DOMAIN, CHECKED, 1)[0].at
        until(lambda: ledger.verdicts(DOMAIN, CHECKED, 1)[0].at > last)
        until(lambda: (found := evidence.trusted(ledger, DOMAIN)) and found.age_s >= age(ledger))
        assert run(config) == "equal"
        until(lambda: (found := evidence.trusted(ledger, DOMAIN)) and found.age_s < age(ledger))
        ledger.add_verdict(DOMAIN, "verify", FOUND, "different", {})
        worse = evidence.trusted(ledger, DOMAIN)
        assert worse is not None
        assert worse.verdict == "different"
        assert run(config) == "equal"
        better = evidence.trusted(ledger, DOMAIN)
        assert better is not None
        assert better.verdict == "equal", "a whole run that began later has seen all"


def age(ledger: Any) -> float:
    """Of the last whole run, less what passes between two questions."""
    return float(ledger.latest_verdict(DOMAIN, "verify").age_s) - 0.2


def test_what_cannot_be_compared_makes_nothing_young(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuous, "TOLD_EACH_S", 0.3)
    config = quick(library.config)
    with heard(config) as listener, open_ledger(config) as ledger:
        assert run(config) == "equal"
        until(lambda: ledger.verdicts(DOMAIN, CHECKED, 1))
        listener.heard("lending.forward", [("lending.forward.volumes", ("no number",))])
        until(lambda: told(listener)["oldest_s"] > 3)
        behind = ledger.verdicts(DOMAIN, CHECKED, 1)[0].data["behind_s"]
        until(lambda: ledger.verdicts(DOMAIN, CHECKED, 1)[0].data["behind_s"] > behind + 1)
        assert told(listener)["waiting"] == 1


def test_what_waits_in_the_spool_is_not_covered(library: Library) -> None:
    with heard(quick(library.config)) as listener:
        until(lambda: (told(listener)["covered_s"] or 0) > 2)
        library.new.execute("UPDATE splitctl_sync.mapping_state SET state = 'drain'")
        library.old.execute("UPDATE books SET title = 'other' WHERE id <= 50")
        until(lambda: (told(listener)["covered_s"] or 9) < 2)


def test_it_ends_soon_though_a_table_is_locked(library: Library) -> None:
    with heard(quick(library.config)) as listener:
        until(lambda: not told(listener)["waiting"])
        with library.new.transaction():
            library.new.execute("LOCK TABLE volumes IN ACCESS EXCLUSIVE MODE")
            listener.heard("lending.forward", [("lending.forward.volumes", ("21",))])
            until(lambda: not told(listener)["waiting"])
            leaving = time.monotonic()
    assert time.monotonic() - leaving < 15


def test_another_worker_covers_nothing_here(library: Library) -> None:
    now = [0.0]
    verifier = Continuous(quick(library.config), clock=lambda: now[0])
    now[0] = 5.0
    assert told(verifier)["covered_s"] is None
    verifier.began("lending.forward")
    assert told(verifier)["covered_s"] is None
    verifier.began("lending.reverse")
    now[0] = 7.0
    assert told(verifier)["covered_s"] == 2.0
    verifier.ended("lending.forward")
    assert told(verifier)["covered_s"] is None


Name = tuple[str, tuple[str, ...]]
NAMES = st.lists(st.integers(0, 5).map(lambda n: ("m", (str(n),))), max_size=4)


@given(
    st.lists(
        st.tuples(NAMES, NAMES, st.integers(1, 30), st.integers(1, 4)),
        max_size=20,
    )
)
def test_each_key_is_taken_after_its_delay_and_once_and_stays_as_old_as_it_is(
    steps: list[tuple[list[Name], list[Name], int, int]],
) -> None:
    due, now = Due(10, 0, room=4), 0
    heard_at: dict[Name, float] = {}
    unsure: dict[Name, float] = {}
    for names, back, passed, most in steps:
        now += passed
        before = len(due)
        due.add(names, now)
        if due.since < now:
            for name in names:
                heard_at.setdefault(name, now)
            assert len(due) == len(heard_at), "nothing was left out: all of it waits"
        else:
            assert before + len(set(names)) > 4, "left out only for want of room"
            heard_at |= {name: now for name in names if name in due and name not in heard_at}
        assert due.oldest(now) == min(heard_at.values(), default=now)
        returned = [(name, unsure.pop(name)) for name in dict.fromkeys(back) if name in unsure]
        due.put_back(returned, now)
        for name, at in returned:
            heard_at[name] = min(at, heard_at.get(name, at))
        taken = due.take(now, most)
        assert len({name for name, _ in taken}) == len(taken) <= most
        for name, at in taken:
            assert heard_at.pop(name) == at <= now - 10
            unsure[name] = at
