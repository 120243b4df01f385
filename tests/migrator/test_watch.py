"""What a stream does to its source's log is seen, and whoever holds it is named."""

import json
import urllib.error
import urllib.request
from typing import Any

import psycopg
import pytest

from migrator import holding, ownership, watch
from migrator.watch import Room, Watch
from tests.conftest import FreshDatabase, ensure_role
from tests.migrator.parcels import Post, until, working

GB = 2**30


def page(post: Post, path: str) -> str:
    """A page of the worker, also one that says by its code that something is wrong."""
    try:
        with urllib.request.urlopen(f"http://{post.config.sync.listen}{path}", timeout=5) as found:
            return str(found.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except OSError:
        return ""


def forward(post: Post) -> dict[str, Any]:
    """The stream as /health tells it; empty while there is no page."""
    text = page(post, "/health")
    return dict(json.loads(text)["streams"]["post.forward"]) if text else {}


def figure(post: Post, name: str, more: str = "") -> float:
    label = f'splitctl_sync_{name}{{{more}stream="post.forward"}} '
    (line,) = [line for line in page(post, "/metrics").splitlines() if line.startswith(label)]
    return float(line.rpartition(" ")[2])


def test_room_is_counted_to_the_nearer_limit_and_never_guessed() -> None:
    assert watch.room(None, 5 * GB, None, 100.0) == Room(
        unknown="no limit is known: set wal_disk of this database"
    )
    assert watch.room(10 * GB, 4 * GB, None, GB) == Room(6 * GB, "wal_disk", 6.0)
    assert watch.room(10 * GB, 4 * GB, GB, GB) == Room(GB, "max_slot_wal_keep_size", 1.0)
    assert watch.room(10 * GB, 11 * GB, None, None) == Room(0, "wal_disk", 0.0)
    assert watch.room(10 * GB, 0, None, None).seconds is None
    assert watch.room(10 * GB, 0, None, 0.0) == Room(10 * GB, "wal_disk", unknown="none is written")


@pytest.mark.every_version
def test_pages_tell_every_figure_of_a_running_stream(carried: Post) -> None:
    carried.old.execute("INSERT INTO depots VALUES ('n', 1, 'one', 'ann', '[]')")
    # One that the new side refuses: too heavy for its check.
    carried.old.execute("INSERT INTO parcels (region, code, weight) VALUES ('n', 1, 5000)")
    until(lambda: (forward(carried).get("parked") or {}).get("unwritable") == 1, 20)
    until(lambda: forward(carried).get("heartbeat_round_trip_ms") is not None, 20)
    until(lambda: forward(carried)["source_log"]["written_bytes_per_s"] is not None, 20)
    found = forward(carried)
    assert found["slot"]["status"] == "reserved"
    assert found["slot"]["retained_bytes"] > 0
    assert found["source_log"]["written_bytes_per_s"] >= 0
    assert found["source_log"]["seconds"] is None
    assert found["source_log"]["unknown"] == "no limit is known: set wal_disk of this database"
    assert 0 <= found["heartbeat_round_trip_ms"] < 60_000
    assert abs(found["source_clock_ahead_ms"]) < 5_000
    assert found["strays_unsettled"] == 0
    assert found["rows_per_s"] >= 0
    assert figure(carried, "parked_keys", 'reason="unwritable",') == 1
    assert figure(carried, "parked_keys", 'reason="parent",') == 0
    assert figure(carried, "slot_retained_bytes") > 0
    assert figure(carried, "heartbeat_round_trip_seconds") >= 0
    full = figure(carried, "source_log_full_seconds")
    assert full != full, "without a known limit it is not a number"


def test_the_owners_of_both_sides_are_told_and_a_move_is_seen(carried: Post) -> None:
    """Dashboards mark each step where the epoch changes."""

    def told(name: str) -> dict[str, float]:
        lines = [line for line in page(carried, "/metrics").splitlines() if line.startswith(name)]
        return {line.split('side="')[1][:3]: float(line.rpartition(" ")[2]) for line in lines}

    until(lambda: told("splitctl_owner_percentage") == {"old": 0, "new": 0}, 20)
    before = told("splitctl_owner_epoch")["old"]
    ownership.switch_both(carried.config, "post", 2_550, int(before) + 1, "old")
    until(lambda: told("splitctl_owner_percentage") == {"old": 25.5, "new": 25.5}, 20)
    assert told("splitctl_owner_epoch") == {"old": before + 1, "new": before + 1}


def test_what_was_seen_is_told_no_more_when_the_stream_does_not_run(post: Post) -> None:
    with working(post.config):
        until(lambda: forward(post).get("slot"), 20)
        post.new.execute("ALTER TABLE splitctl_sync.progress RENAME TO progress_away")
        until(lambda: forward(post)["state"] != "running", 20)
        assert forward(post)["slot"] is None
        until(lambda: "splitctl_owner_epoch{" not in page(post, "/metrics"), 20)
        assert figure(post, "slot_retained_bytes") != figure(post, "slot_retained_bytes")
        post.new.execute("ALTER TABLE splitctl_sync.progress_away RENAME TO progress")
        until(lambda: forward(post).get("slot"), 20)


def test_a_size_of_the_logs_disk_gives_the_time_until_it_is_full(post: Post) -> None:
    looked = Watch("post.forward", post.forward.slot, GB)
    assert looked.look(post.old, post.new).log.room.unknown is not None

    def written() -> watch.LogSeen | None:
        post.old.execute("SELECT pg_logical_emit_message(false, 'noise', repeat('x', 100000))")
        seen = looked.look(post.old, post.new).log
        return seen if seen.room.seconds is not None else None

    seen = until(written, 20)
    assert seen.room.limited_by == "wal_disk"
    assert seen.room.left_bytes <= GB - seen.retained_bytes
    assert seen.room.seconds == seen.room.left_bytes / seen.written_per_s


def test_the_servers_own_limit_counts_too(post: Post) -> None:
    """Beyond max_slot_wal_keep_size the slot is lost: that is nearer than a full disk."""
    looked = Watch("post.forward", post.forward.slot, 1000 * GB)
    post.old.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '4GB'")
    try:
        post.old.execute("SELECT pg_reload_conf()")
        limit = "max_slot_wal_keep_size"

        def limited() -> watch.LogSeen | None:
            seen = looked.look(post.old, post.new).log
            return seen if seen.room.limited_by == limit else None

        seen = until(limited, 20)
        assert 0 < seen.room.left_bytes <= 5 * GB
    finally:
        post.old.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
        post.old.execute("SELECT pg_reload_conf()")


def test_a_transaction_too_large_for_memory_is_seen_to_spill(post: Post) -> None:
    name = psycopg.sql.Identifier(post.old.info.dbname)
    post.old.execute(
        psycopg.sql.SQL("ALTER DATABASE {} SET logical_decoding_work_mem = '64kB'").format(name)
    )
    with working(post.config):
        until(lambda: forward(post).get("slot"), 20)
        assert figure(post, "slot_spilled_bytes") == 0
        post.old.execute(
            "INSERT INTO depots SELECT 'r', i, i::text, 'h' FROM generate_series(1, 5000) i"
        )
        until(lambda: forward(post)["slot"]["spilled_bytes"] > 64_000, 30)
        assert forward(post)["slot"]["spilled_transactions"] == 1
        post.settle(post.forward, timeout_s=60)


def test_the_worker_names_who_holds_the_log(
    carried: Post, fresh_databases: dict[str, FreshDatabase]
) -> None:
    """Protocol row 12: a session first, then the same transaction prepared and forgotten."""
    ensure_role(carried.old.info.dsn, "clerk")
    carried.old.execute("GRANT ALL ON depots TO clerk")

    def oldest() -> dict[str, Any]:
        return dict(forward(carried).get("oldest_transaction") or {})

    with psycopg.connect(
        fresh_databases["order"].dsn_as("clerk"), autocommit=True, application_name="night report"
    ) as busy:
        busy.execute("BEGIN")
        busy.execute("INSERT INTO depots VALUES ('z', 1, 'kept open', 'clerk', '[]')")
        until(lambda: oldest().get("application") == "night report", 20)
        session = oldest()
        assert session["user"] == "clerk"
        assert session["name"] == str(busy.info.backend_pid)
        assert session["state"] == "idle in transaction"
        assert session["age_s"] >= 0
        assert session["query_began"] is not None
        assert session["ending"] == f"SELECT pg_terminate_backend({busy.info.backend_pid});"
        busy.execute("PREPARE TRANSACTION 'for''gotten'")
        until(lambda: oldest().get("kind") == "prepared", 20)
        assert oldest()["told"].startswith("prepared transaction 'for'gotten' (user clerk) since")
        assert figure(carried, "oldest_transaction_seconds") > 0
        # The command that is printed for it ends it.
        carried.old.execute(oldest()["ending"].encode())
        until(lambda: oldest().get("name") != "for'gotten", 20)


def test_whose_age_is_hidden_is_named_all_the_same(
    post: Post, fresh_databases: dict[str, FreshDatabase]
) -> None:
    """A role without pg_read_all_stats sees who, but not since when."""
    place = fresh_databases["order"]
    ensure_role(place.dsn, "clerk")
    ensure_role(place.dsn, "looker")
    post.old.execute("GRANT ALL ON depots TO clerk")
    with (
        psycopg.connect(place.dsn_as("clerk"), application_name="batch") as busy,
        psycopg.connect(place.dsn_as("looker"), autocommit=True) as looker,
    ):
        busy.execute("INSERT INTO depots VALUES ('z', 2, 'kept', 'clerk', '[]')")
        found = holding.oldest(looker)
        assert found is not None
        assert (found.user, found.application, found.age_s) == ("clerk", "batch", None)
        assert "since when is hidden" in str(found)
        looker.execute("SELECT 1")
        post.old.execute("GRANT pg_read_all_stats TO looker")
        try:
            seen = holding.oldest(looker)
            assert seen is not None and seen.age_s is not None
        finally:
            post.old.execute("REVOKE pg_read_all_stats FROM looker")
