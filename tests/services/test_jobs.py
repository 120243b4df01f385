"""The jobs beside the gateway, on real databases with the services' own migrations."""

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import psycopg
import pytest
from alembic import command
from alembic.config import Config
from psycopg.types.json import Jsonb
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from rehearsal.children import wait_until
from services.jobs import ownership
from services.jobs.loop import Rounds, Settings
from services.jobs.report import Report, serve
from services.jobs.tables import CARTS, Shape
from services.jobs.work import no_warehouse, warehouse
from services.outbox import INSERT

ROOT = Path(__file__).parents[2]
CONTROL = (ROOT / "migrator" / "control.sql").read_text(encoding="utf-8")
HOUR = timedelta(hours=1)
LOW, HIGH = "guest-16897", "guest-17047"  # buckets 999 and 1000
Connection = psycopg.Connection[tuple[Any, ...]]


def migrate(dsn: str, folder: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "services" / folder / "migrations"))
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=NullPool
    )
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()


@dataclass
class Place:
    """One side's database with a few carts."""

    shape: Shape
    dsn: str
    connection: Connection

    @property
    def settings(self) -> Settings:
        return Settings(
            side="old" if self.shape == "order" else "new",
            database_url=self.dsn,
            jobs=("cleanup", "outbox", "compensation"),
            interval_s=0.05,
            idle=HOUR,
            release=no_warehouse,
        )

    def cart(
        self,
        guest: str,
        *,
        status: str = "active",
        idle: str = "2 hours",
        left: str = "1 day",
        reservation: str | None = None,
    ) -> uuid.UUID:
        tables = CARTS[self.shape]
        cart = uuid.uuid4()
        self.connection.execute(
            f"INSERT INTO {tables.carts} (id, session_id, guest_token, status, version, expires_at,"
            " updated_at) VALUES (%s, %s, %s, %s, 3, now() + %s::interval, now() - %s::interval)",
            [cart, str(cart), guest, status, left, idle],
        )
        self.connection.execute(
            f"INSERT INTO {tables.items} ({tables.items_cart}, product_sku, quantity, unit_price,"
            " total_price, reservation_id) VALUES (%s, 'SKU-1', 1, 1, 1, %s)",
            [cart, reservation],
        )
        return cart

    def state(self, cart: uuid.UUID) -> tuple[str, int]:
        statement = f"SELECT status, version FROM {CARTS[self.shape].carts} WHERE id = %s"
        row = self.connection.execute(statement, [cart]).fetchone()
        assert row is not None
        return row[0], row[1]

    def reservations(self) -> list[str | None]:
        statement = f"SELECT reservation_id FROM {CARTS[self.shape].items} ORDER BY id"
        return [row[0] for row in self.connection.execute(statement)]

    def owned_by_new_below(self, bucket: int) -> None:
        self.connection.execute(
            "INSERT INTO splitctl_sync.owner (domain, new_below, epoch) VALUES ('checkout', %s, 1)"
            " ON CONFLICT (domain) DO UPDATE SET new_below = %s, epoch = owner.epoch + 1",
            [bucket, bucket],
        )

    def rounds(self, number: int = 1, **changes: Any) -> None:
        settings = replace(self.settings, **changes)
        rounds = Rounds(settings, Report(), threading.Event())
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for _ in range(number):
                rounds.round(connection)


@pytest.fixture(params=["order", "checkout"])
def place(request: pytest.FixtureRequest, fresh_databases: Any) -> Iterator[Place]:
    database = fresh_databases[request.param]
    migrate(database.dsn, request.param)
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        yield Place(request.param, database.dsn, connection)


@pytest.fixture
def carried(place: Place) -> Place:
    """The same with the control schema; the old side owns all."""
    place.connection.execute(CONTROL.encode())
    return place


@pytest.fixture
def owned(carried: Place) -> Place:
    """All buckets belong to the side at hand."""
    carried.owned_by_new_below(0 if carried.shape == "order" else 10_000)
    return carried


def test_idle_carts_are_abandoned_and_late_ones_expire(owned: Place) -> None:
    idle, late = owned.cart("a"), owned.cart("b", left="-1 minute", idle="0")
    busy = owned.cart("c", idle="59 minutes")
    closed = [owned.cart("d", status=status) for status in ("checkout", "completed", "expired")]
    owned.rounds()
    assert owned.state(idle) == ("abandoned", 4)
    assert owned.state(late) == ("expired", 4)
    assert owned.state(busy) == ("active", 3)
    assert [owned.state(cart)[1] for cart in closed] == [3, 3, 3]
    events = owned.connection.execute(
        "SELECT event_type, subject, route, published_at IS NOT NULL FROM outbox"
    ).fetchall()
    assert events == [("cart.abandoned", str(idle), "a", True)]
    owned.rounds()
    assert owned.state(idle) == ("abandoned", 4)


def test_without_sync_the_old_side_owns_all_and_the_new_nothing(place: Place) -> None:
    cart = place.cart("a")
    place.rounds()
    assert place.state(cart)[0] == ("abandoned" if place.shape == "order" else "active")


@pytest.mark.parametrize("alone", [True, False])
def test_a_job_that_was_told_works_or_waits_where_nothing_is_carried(
    place: Place, alone: bool
) -> None:
    """As after the end of a split, when sync is torn down and the new side is all there is."""
    cart = place.cart(LOW, reservation="r-1")
    place.rounds(2, alone=alone)
    assert place.state(cart)[0] == ("abandoned" if alone else "active")
    assert place.reservations() == [None if alone else "r-1"]


def test_what_a_job_was_told_means_nothing_while_sync_carries(carried: Place) -> None:
    """Told too early it must not write what the other side owns, also before a step."""
    carried.owned_by_new_below(1000)
    low, high = carried.cart(LOW), carried.cart(HIGH)
    carried.rounds(alone=True)
    mine, others = (high, low) if carried.shape == "order" else (low, high)
    assert carried.state(mine)[0] == "abandoned"
    assert carried.state(others)[0] == "active"


def test_a_job_on_the_new_side_works_on_after_teardown(place: Place) -> None:
    place.connection.execute(CONTROL.encode())
    place.owned_by_new_below(10_000 if place.shape == "checkout" else 0)
    first = place.cart(LOW)
    place.rounds(alone=True)
    place.connection.execute("DROP SCHEMA splitctl_sync CASCADE")
    second = place.cart(LOW)
    place.rounds(alone=True)
    assert place.state(first)[0] == place.state(second)[0] == "abandoned"


def test_each_side_leaves_the_others_buckets_alone(carried: Place) -> None:
    carried.owned_by_new_below(1000)
    low, high = carried.cart(LOW, reservation="r-low"), carried.cart(HIGH, reservation="r-high")
    carried.rounds(2)
    mine, others = (high, low) if carried.shape == "order" else (low, high)
    assert carried.state(mine)[0] == "abandoned"
    assert carried.state(others) == ("active", 3)
    kept = "r-low" if carried.shape == "order" else "r-high"
    assert [each for each in carried.reservations() if each] == [kept]


def test_carts_of_others_do_not_hide_those_behind_them(carried: Place) -> None:
    carried.owned_by_new_below(1000)
    others = LOW if carried.shape == "order" else HIGH
    for _ in range(50):
        carried.cart(others)
    mine = carried.cart(HIGH if carried.shape == "order" else LOW)
    carried.rounds(4)
    assert carried.state(mine)[0] == "abandoned"


def test_a_step_waits_for_the_job_and_the_job_for_the_step(owned: Place) -> None:
    cart = owned.cart(LOW)
    side = owned.settings.side
    with psycopg.connect(owned.dsn) as job, psycopg.connect(owned.dsn) as step:
        assert ownership.owns(job, "checkout", LOW, side)
        step.execute("SET lock_timeout = '200ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            step.execute("SELECT FROM splitctl_sync.owner FOR UPDATE")
        step.rollback()
        job.rollback()
        step.execute("SELECT FROM splitctl_sync.owner FOR UPDATE")
        moved = 10_000 if owned.shape == "order" else 0
        step.execute("UPDATE splitctl_sync.owner SET new_below = %s, epoch = epoch + 1", [moved])
        worker = threading.Thread(target=owned.rounds)
        worker.start()
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock'"
        )
        until(lambda: owned.connection.execute(waiting).fetchone() != (0,))
        step.commit()
        worker.join()
    assert owned.state(cart) == ("active", 3)


def test_reservations_of_lost_carts_are_released_once(owned: Place) -> None:
    released: list[str] = []
    owned.cart("a", status="abandoned", reservation="r-1")
    owned.cart("b", status="expired", reservation="r-2")
    owned.cart("c", idle="0", reservation="r-3")
    owned.cart("d", status="completed", reservation="r-4")
    owned.rounds(2, release=released.append)
    assert sorted(released) == ["r-1", "r-2"]
    assert sorted(each for each in owned.reservations() if each) == ["r-3", "r-4"]


def test_a_warehouse_that_does_not_answer_is_asked_again(owned: Place) -> None:
    owned.cart("a", status="abandoned", reservation="r-1")

    def away(reservation: str) -> None:
        raise TimeoutError("the warehouse is away")

    owned.rounds(release=away)
    assert owned.reservations() == ["r-1"]
    owned.rounds()
    assert owned.reservations() == [None]


def test_a_database_of_returns_has_only_its_outbox(fresh_databases: Any) -> None:
    database = fresh_databases["return"]
    migrate(database.dsn, "returns")
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        event = ("return.requested", "1", "guest-17", Jsonb({}))
        connection.execute(INSERT, event)
        place = Place("return", database.dsn, connection)
        place.rounds()
        left = "SELECT count(*) FROM outbox WHERE published_at IS NULL"
        assert connection.execute(left).fetchone() == (0,)


def test_tables_that_are_archived_are_left_alone(owned: Place) -> None:
    rounds = Rounds(owned.settings, Report(), threading.Event())
    with psycopg.connect(owned.dsn, autocommit=True) as connection:
        rounds.round(connection)
        carts = CARTS[owned.shape].carts
        connection.execute(f"ALTER TABLE {carts} RENAME TO archived_{carts}")
        rounds.round(connection)
        connection.execute(f"ALTER TABLE archived_{carts} RENAME TO {carts}")
        cart = owned.cart("a")
        rounds.round(connection)
    assert owned.state(cart)[0] == "abandoned"


@pytest.mark.parametrize("place", ["order"], indirect=True)  # one side is enough
def test_the_process_reconnects_and_stops_gracefully(place: Place) -> None:
    environment = os.environ | {"DATABASE_URL": place.dsn, "INTERVAL_S": "0.05"}
    process = subprocess.Popen(
        [sys.executable, "-m", "services.jobs", "--side", "old"], cwd=ROOT, env=environment
    )
    try:
        first = place.cart("a")
        until(lambda: place.state(first)[0] == "abandoned")
        place.connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'jobs-old' AND datname = current_database()"
        )
        second = place.cart("b")
        until(lambda: place.state(second)[0] == "abandoned")
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


class Warehouse(BaseHTTPRequestHandler):
    """Remembers what it was told; `status` is its answer."""

    status = 200
    told: ClassVar[list[tuple[str, str | None, bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.told.append((self.path, self.headers["Idempotency-Key"], body))
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def test_the_warehouse_is_told_with_a_key_of_the_reservation() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Warehouse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        release = warehouse(f"http://127.0.0.1:{server.server_port}/")
        release("r-1")
        body = b'{"reservation_id": "r-1"}'
        assert Warehouse.told == [("/warehouse/release", "release-r-1", body)]
        Warehouse.status = 503
        with pytest.raises(OSError, match="503"):
            release("r-1")
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(OSError, match="refused"):
        release("r-1")


def test_a_database_that_is_away_is_counted_by_the_jobs() -> None:
    report, stop = Report(), threading.Event()
    settings = Settings(
        "old", "host=127.0.0.1 port=1 dbname=x", ("outbox",), 0.01, timedelta(), no_warehouse
    )
    thread = threading.Thread(target=Rounds(settings, report, stop).run)
    thread.start()
    try:
        labels = ("database_connection_failures_total", {"service": "jobs"})
        assert wait_until(lambda: (report.registry.get_sample_value(*labels) or 0) >= 2, 30)
    finally:
        stop.set()
        thread.join(30)


def test_health_and_metrics_of_the_jobs() -> None:
    report = Report()
    server = serve(report, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        assert httpx.get(f"{address}/health/live").status_code == 200
        assert httpx.get(f"{address}/health/ready").status_code == 503
        report.settled("cleanup", 3)
        report.failed("outbox")
        report.round_ended(0.1)
        assert httpx.get(f"{address}/health/ready").status_code == 200
        text = httpx.get(f"{address}/metrics").text
        assert 'job_rows_total{job="cleanup"} 3.0' in text
        assert 'job_failures_total{job="outbox"} 1.0' in text
        assert 'event_publish_failures_total{service="jobs"} 1.0' in text
        assert 'database_connection_failures_total{service="jobs"} 0.0' in text
        assert httpx.get(f"{address}/elsewhere").status_code == 404
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "DATABASE_URL"),
        ({"DATABASE_URL": "x", "JOBS": "cleanup,sweep"}, "sweep"),
        ({"DATABASE_URL": "x", "INTERVAL_S": "often"}, "INTERVAL_S"),
        ({"DATABASE_URL": "x", "JOB_UNCARRIED": "maybe"}, "JOB_UNCARRIED"),
    ],
)
def test_the_process_says_what_is_wrong(environment: dict[str, str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.jobs", "--side", "new"],
        cwd=ROOT, env={"PATH": os.environ["PATH"]} | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr


def until(met: Any) -> None:
    """Wait for a condition, thirty seconds at most."""
    end = time.monotonic() + 30
    while not met():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
