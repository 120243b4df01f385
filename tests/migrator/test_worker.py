"""The worker as a whole: begun, killed, doubled, cut off, switched off; nothing is lost."""

import contextlib
import json
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrator import sync, worker
from migrator.health import AddressTaken, Board, serve
from migrator.mapping import Stream
from migrator.session import Session
from tests.faulty import fault
from tests.migrator.parcels import COPIED, LIVE, Post, carrying, until, working

PROGRAM = """
import signal, sys, threading
from pathlib import Path
from estate.config import load
from migrator.worker import run
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
run(load(Path(sys.argv[1])), stop)
"""


@contextmanager
def process(post: Post) -> Iterator[subprocess.Popen[bytes]]:
    """A sync worker as a process of its own."""
    command = [sys.executable, "-c", PROGRAM, str(post.config.path)]
    root = Path(__file__).parents[2]
    started = subprocess.Popen(command, cwd=root)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def get(post: Post, path: str) -> Any:
    try:
        with urllib.request.urlopen(f"http://{post.config.sync.listen}{path}", timeout=2) as answer:
            return answer.read().decode()
    except OSError:
        return None


def running(post: Post) -> Any:
    text = get(post, "/status")
    streams = json.loads(text)["streams"] if text else {}
    return streams and all(stream["state"] == "running" for stream in streams.values())


def test_carries_inserts_updates_and_deletes(carried: Post) -> None:
    old = carried.old
    old.execute(
        "INSERT INTO depots VALUES"
        " ('n', 1, 'A', 'ann', '[\"x\", \"y\"]'), ('n', 2, 'B', 'bob', '[]')"
    )
    old.execute("INSERT INTO parcels (region, code, weight, note) VALUES ('n', 1, 1.005, 'a\tb')")
    carried.settle(carried.forward)
    assert carried.differences(carried.forward) == {}
    old.execute("UPDATE depots SET name = 'C', tags = '[\"z\"]' WHERE code = 1")
    old.execute("DELETE FROM depots WHERE code = 2")
    old.execute("UPDATE parcels SET code = 1, note = NULL")
    carried.settle()
    assert carried.differences(carried.forward) == {}
    assert carried.new.execute("SELECT tag FROM station_tags").fetchall() == [("z",)]
    assert carried.strays(carried.forward) == carried.strays(carried.reverse) == []


def test_tells_how_it_is(carried: Post) -> None:
    carried.old.execute("INSERT INTO depots VALUES ('n', 1, 'A', 'ann', '[]')")
    carried.settle()
    until(lambda: (get(carried, "/health/ready") or "").startswith('{"ready": true'))
    assert json.loads(get(carried, "/health/live")) == {"status": "live"}
    forward = json.loads(get(carried, "/status"))["streams"]["post.forward"]
    assert forward["transactions"] == 1 and forward["upserted"] == 1
    assert 0 < forward["lag_ms"]["p50"] <= forward["lag_ms"]["p99"] <= forward["lag_ms"]["max"]
    metrics = get(carried, "/metrics")
    for name in ("lag_seconds", "lag_bytes", "pending_keys", "heartbeat_age_seconds"):
        assert f'splitctl_sync_{name}{{stream="post.forward"}}' in metrics
    assert 'splitctl_sync_applied_rows_total{stream="post.forward"} 1.0' in metrics
    assert 'splitctl_sync_strays_total{stream="post.reverse"} 0.0' in metrics
    (status, _) = sync.status(carried.config)
    assert status.worker_alive and status.problem is None


def test_streams_are_picked_up_when_they_are_enabled_and_left_when_torn_down(post: Post) -> None:
    sync.teardown(post.config, "post")
    with working(post.config):
        until(lambda: '"disabled"' in (get(post, "/status") or ""))
        until(lambda: (text := get(post, "/health/ready")) and json.loads(text)["ready"])
        sync.enable(post.config, "post")
        for connection in (post.old, post.new):
            connection.execute(LIVE)
            connection.execute(COPIED)
        post.old.execute("INSERT INTO depots VALUES ('n', 1, 'A', 'ann', '[]')")
        post.settle()
        assert post.differences(post.forward) == {}
        sync.teardown(post.config, "post")
        until(lambda: (get(post, "/status") or "").count('"state": "disabled"') == 2)
    slots = post.old.execute(
        "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"
    ).fetchall()
    assert slots == []


END_READER = """
SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = %s
"""
BEGUN_ANEW = "UPDATE splitctl_sync.progress SET worker_epoch = 0, lsn = %s WHERE stream = %s"
MAKE_SLOT = "SELECT lsn FROM pg_create_logical_replication_slot(%s, 'pgoutput')"


def test_a_stream_whose_slot_was_gone_goes_on_when_it_was_enabled_again(carried: Post) -> None:
    """However quickly that came: its worker may have looked neither before nor in between."""
    slot = carried.forward.slot

    def drop() -> bool:
        with contextlib.suppress(psycopg.errors.ObjectInUse):
            carried.old.execute(END_READER, (slot,))
            carried.old.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
            return True
        return False

    carried.settle()
    until(drop)
    until(lambda: '"stopped"' in (get(carried, "/status") or ""))
    row = carried.old.execute(MAKE_SLOT, (slot,)).fetchone()
    assert row is not None
    carried.new.execute(BEGUN_ANEW, (row[0], "post.forward"))
    carried.old.execute("INSERT INTO depots VALUES ('n', 1, 'A', 'ann', '[]')")
    carried.settle()
    assert carried.differences(carried.forward) == {}


def test_what_is_disabled_waits_in_the_spool_and_is_carried_afterwards(carried: Post) -> None:
    carried.settle()
    sync.disable(carried.config, "post")
    carried.old.execute("INSERT INTO depots VALUES ('n', 1, 'A', 'ann', '[\"t\"]')")
    carried.old.execute("INSERT INTO parcels (region, code) VALUES ('n', 1)")
    until(
        lambda: (
            carried.new.execute("SELECT count(*) = 3 FROM splitctl_sync.spool").fetchone()
            == (True,)
        )
    )
    assert carried.new.execute("SELECT * FROM stations").fetchall() == []
    sync.enable(carried.config, "post")
    carried.settle()
    assert carried.differences(carried.forward) == {}
    states = carried.new.execute("SELECT DISTINCT state FROM splitctl_sync.mapping_state")
    assert states.fetchall() == [("live",)]


def test_a_second_worker_waits_until_the_first_is_gone(post: Post) -> None:
    with process(post) as first:
        until(lambda: running(post), timeout_s=15)
        second = post.config.model_copy(
            update={"sync": post.config.sync.model_copy(update={"listen": "127.0.0.1:0"})}
        )
        with working(second):
            time.sleep(1.0)
            epoch = "SELECT worker_epoch FROM splitctl_sync.progress WHERE stream = 'post.forward'"
            assert post.new.execute(epoch).fetchone() == (1,)
            post.old.execute("INSERT INTO depots VALUES ('n', 1, 'A', 'ann', '[]')")
            post.settle()
            first.kill()
            first.wait()
            post.old.execute("UPDATE depots SET name = 'B'")
            post.settle(timeout_s=20)
            assert post.new.execute(epoch).fetchone() == (2,)
    assert post.differences(post.forward) == {}


def test_connections_that_are_lost_are_opened_again(carried: Post) -> None:
    carried.settle()
    for number in range(3):
        for connection in (carried.old, carried.new):
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name LIKE 'splitctl %'"
            )
        carried.old.execute(
            "INSERT INTO depots VALUES ('n', %s, %s, 'ann', '[]')", (number, f"name {number}")
        )
        carried.settle(timeout_s=20)
    assert carried.differences(carried.forward) == {}
    assert carried.strays(carried.forward) == carried.strays(carried.reverse) == []


def write_at_random(post: Post, seconds: float, seed: int) -> None:
    """A customer's program: small transactions, some with several rows, some rolled back."""
    chance = random.Random(seed)
    limit = time.monotonic() + seconds
    with psycopg.connect(post.old.info.dsn, options="-c synchronous_commit=on") as connection:
        while time.monotonic() < limit:
            region, code = chance.choice("abc"), chance.randint(1, 12)
            try:
                with connection.transaction(force_rollback=chance.random() < 0.1):
                    for _ in range(chance.randint(1, 3)):
                        one_change(connection, chance, region, code)
            except psycopg.errors.IntegrityError:
                continue
            connection.commit()


def one_change(
    connection: psycopg.Connection[Any], chance: random.Random, region: str, code: int
) -> None:
    kind = chance.randint(0, 6)
    name = f"name {chance.randint(1, 60)}"
    tags = json.dumps(sorted({chance.choice("pqrs") for _ in range(chance.randint(0, 3))}))
    if kind <= 1:
        connection.execute(
            "INSERT INTO depots VALUES (%s, %s, %s, %s, %s) ON CONFLICT (region, code)"
            " DO UPDATE SET name = excluded.name, tags = excluded.tags",
            (region, code, name, f"holder {code}", tags),
        )
    elif kind == 2:
        connection.execute("DELETE FROM depots WHERE (region, code) = (%s, %s)", (region, code))
    elif kind <= 4:
        connection.execute(
            "INSERT INTO parcels (region, code, weight, note)"
            " SELECT region, code, %s, %s FROM depots WHERE (region, code) = (%s, %s)",
            (chance.randint(1, 999), name, region, code),
        )
    elif kind == 5:
        connection.execute(
            "UPDATE parcels SET note = %s WHERE (region, code) = (%s, %s)", (name, region, code)
        )
    else:
        connection.execute(
            "DELETE FROM parcels WHERE id IN (SELECT id FROM parcels WHERE code = %s LIMIT 2)",
            (code,),
        )


def test_kill_9_at_any_instruction_loses_nothing(post: Post) -> None:
    """L4: several kills in the middle of the stream, at times that chance chooses."""
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    writer = threading.Thread(target=write_at_random, args=(post, 8.0, seed))
    with process(post) as first:
        until(lambda: running(post), timeout_s=15)
        writer.start()
        time.sleep(chance.uniform(0.1, 1.5))
        first.kill()
    while writer.is_alive():
        with process(post) as killed:
            until(lambda: running(post) or not writer.is_alive(), timeout_s=15)
            time.sleep(chance.uniform(0.05, 1.0))
            killed.kill()
    with working(post.config):
        post.settle(timeout_s=30)
        post.settle(timeout_s=30)
    assert post.differences(post.forward) == {}
    assert post.differences(post.reverse) == {}
    assert post.strays(post.forward) == post.strays(post.reverse) == []


def test_sigterm_finishes_and_leaves_within_two_seconds(post: Post) -> None:
    with process(post) as started:
        until(lambda: running(post), timeout_s=15)
        post.old.execute(
            "INSERT INTO depots SELECT 'r', i, i::text, 'h' FROM generate_series(1, 500) i"
        )
        began = time.monotonic()
        started.send_signal(signal.SIGTERM)
        assert started.wait(10) == 0
        assert time.monotonic() - began < 2.0
    with working(post.config):
        post.settle()
    assert post.differences(post.forward) == {}


CHANGE = st.tuples(
    st.sampled_from(["put", "drop", "send", "note", "move", "lose", "swap"]),
    st.sampled_from("ab"),
    st.integers(1, 3),
    st.text("äb\\\t\n'\"", max_size=6),
)
TRANSACTIONS = st.lists(
    st.tuples(st.integers(0, 1), st.lists(CHANGE, min_size=1, max_size=3), st.booleans()),
    max_size=8,
)


def change(connection: psycopg.Connection[Any], what: tuple[str, str, int, str]) -> None:
    kind, region, code, text = what
    here = {"region": region, "code": code, "text": text, "name": f"{region}{code}{text}"}
    statements = {
        "put": "INSERT INTO depots VALUES (%(region)s, %(code)s, %(name)s, %(text)s, '[\"x\"]')"
        " ON CONFLICT (region, code) DO UPDATE SET name = excluded.name,"
        " tags = CASE depots.tags WHEN '[]' THEN '[\"y\", \"z\"]'::jsonb ELSE '[]' END",
        "drop": "DELETE FROM depots WHERE (region, code) = (%(region)s, %(code)s)",
        "send": "INSERT INTO parcels (region, code, note)"
        " SELECT region, code, %(text)s FROM depots WHERE code = %(code)s",
        "note": "UPDATE parcels SET note = %(text)s WHERE region = %(region)s",
        "move": "UPDATE parcels SET (region, code) = (SELECT d.region, d.code FROM depots d"
        " WHERE d.code = %(code)s LIMIT 1) WHERE region = %(region)s"
        " AND EXISTS (SELECT FROM depots WHERE code = %(code)s)",
        "lose": "DELETE FROM parcels WHERE region = %(region)s AND code = %(code)s",
        "swap": "WITH a AS (SELECT * FROM depots ORDER BY region, code LIMIT 1)"
        " UPDATE depots d SET name = left(d.name || '~', 40)"
        " FROM a WHERE (a.region, a.code) = (d.region, d.code)",
    }
    connection.execute(statements[kind].encode(), here)


def test_any_interleaving_ends_as_the_query_says(carried: Post) -> None:
    """Two sessions, transactions that overlap or are rolled back: the target is the query."""
    sessions = [psycopg.connect(carried.old.info.dsn) for _ in range(2)]
    for session in sessions:
        session.execute("SET lock_timeout = '20ms'")
        session.commit()

    @settings(
        max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
    )
    @given(TRANSACTIONS)
    def property_holds(transactions: Any) -> None:
        for number, changes, ends in transactions:
            session = sessions[number]
            try:
                for what in changes:
                    change(session, what)
            except (psycopg.errors.IntegrityError, psycopg.errors.OperationalError):
                session.rollback()
            if ends:
                session.commit()
        for session in sessions:
            session.commit()
        carried.settle(timeout_s=20)
        assert carried.differences(carried.forward) == {}
        assert carried.strays(carried.forward) == carried.strays(carried.reverse) == []

    try:
        property_holds()
    finally:
        for session in sessions:
            session.close()


@pytest.mark.parametrize("mistake", ["drop-key:1", "reorder:1", "skip-delete:1"])
def test_a_fault_made_on_purpose_is_a_difference(post: Post, mistake: str) -> None:
    with fault(mistake), working(post.config):
        for number in range(3):
            post.old.execute(
                "INSERT INTO depots VALUES ('n', %s, %s, 'ann', '[]')", (number, f"name {number}")
            )
            post.settle(timeout_s=20)
        post.old.execute("UPDATE depots SET name = 'new ' || name")
        post.settle()
        if mistake.startswith("skip-delete"):
            post.old.execute("DELETE FROM depots WHERE code = 2")
            post.settle()
    assert len(post.differences(post.forward)) == 1


def test_a_second_worker_on_one_address_is_told_so() -> None:
    server = serve("127.0.0.1:0", Board([]))
    try:
        with pytest.raises(AddressTaken, match="another sync worker") as caught:
            serve(f"127.0.0.1:{server.server_port}", Board([]))
        assert "splitctl sync status" in caught.value.next_command
    finally:
        server.shutdown()
        server.server_close()


def test_a_session_that_has_ended_does_not_stay_in_memory(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refers to itself, and may hold as much as the log had when its connection was lost."""
    made: list[weakref.ref[Session]] = []

    class Noted(Session):
        def __init__(self, stream: Stream, board: Board, appliers: int) -> None:
            made.append(weakref.ref(self))
            super().__init__(stream, board, appliers)

    monkeypatch.setattr(worker, "Session", Noted)
    ended = (
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
        " WHERE application_name = 'splitctl sync post.forward'"
    )
    with carrying(post.forward):
        for sessions in (1, 2, 3):
            until(lambda n=sessions: len(made) >= n)
            post.settle(post.forward)
            post.new.execute(ended)
        until(lambda: len(made) >= 4)
        post.settle(post.forward)
        assert sum(ref() is not None for ref in made) <= 2, "this one, and the one before it"
