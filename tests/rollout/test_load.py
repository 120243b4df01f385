"""A load against a server that does as the test says: what it measures, and when it doubts."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from estate.config import Config, load
from rollout import load as room
from rollout import load_plan
from rollout.latencies import NOBODY, Asked, Record, percentile
from rollout.load_report import Generator, Limits, LoadReport
from tests.conftest import ConfigWriter
from tests.rollout.conftest import DOMAIN, NOWHERE

ROOT = Path(__file__).parents[2]
FLOW = """
name = "look"
domain = "d"
headers = { X-Who = "{customer}" }
think = "50ms"
[[steps]]
name = "one"
method = "GET"
path = "/one"
assert = { ok = true }
[[steps]]
name = "two"
method = "POST"
path = "/two"
body = { who = "{customer}" }
"""


class Shop:
    """A server in a thread of its own. While `open` is not set every request waits."""

    def __init__(self) -> None:
        self.side = "old"
        self.status = 200
        self.paths: list[str] = []
        self.customers: set[str] = set()
        self.connections: set[Any] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._open = asyncio.Event()
        self._open.set()
        self._runner = web.AppRunner(self._app(), shutdown_timeout=0.2)
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        return app

    async def _start(self) -> str:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        return f"http://127.0.0.1:{port}"

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        await self._open.wait()
        self.paths.append(request.path)
        self.customers.add(request.headers["X-Who"])
        self.connections.add(request.transport)
        headers = {"X-Served-By": f"d/{self.side}/10"} if self.side else {}
        return web.json_response({"ok": True}, status=self.status, headers=headers)

    def stall(self, seconds: float) -> None:
        """Answer nobody for so long, from now on."""

        def begin() -> None:
            self._open.clear()
            self._loop.call_later(seconds, self._open.set)

        self._loop.call_soon_threadsafe(begin)

    def stop(self) -> None:
        """End it."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture
def shop() -> Iterator[Shop]:
    found = Shop()
    yield found
    found.stop()


@pytest.fixture
def estate(shop: Shop, write_config: ConfigWriter, tmp_path: Path) -> Config:
    return configured(write_config, tmp_path, shop.url)


def configured(write_config: ConfigWriter, directory: Path, url: str) -> Config:
    (directory / "flow.toml").write_text(FLOW, encoding="utf-8")
    return load(
        write_config(
            databases={"a": f"{NOWHERE} application_name=a", "b": NOWHERE},
            domains=DOMAIN,
            mappings={"q.sql": "SELECT id, id::text AS splitctl_route FROM t"},
            gateways=[url],
            extra="[flows]\nfiles = ['flow.toml']\nrequest_timeout = '5s'",
        )
    )


def run(estate: Config, seconds: float, **more: Any) -> LoadReport:
    more.setdefault("customers", 20)
    return room.load(load_plan.plan(estate, seconds=seconds, **more))


def test_a_stall_is_met_by_everybody_who_would_have_come_meanwhile(
    shop: Shop, estate: Config
) -> None:
    # Of 4 s one is a stall: a quarter of all arrivals fall into it, and wait half a second at the
    # mean. A generator that asks again only when it was answered would see a few slow requests.
    threading.Timer(1.0, shop.stall, [1.0]).start()
    report = run(estate, 4.0, customers=50, rate=100)
    side = next(side for side in report.sides if side.name == "d/old")
    assert side.p95 > 500
    assert side.p99 > 800
    assert side.max > 900
    # Half of those who came in the stall found a free customer; the others waited for one.
    assert side.service_p95 > 300
    assert report.requests == sum(step.requests for step in report.steps) > 250


def test_the_closed_model_meets_the_same_stall_once_a_customer(shop: Shop, estate: Config) -> None:
    threading.Timer(1.0, shop.stall, [1.0]).start()
    report = run(estate, 4.0, customers=2, think_s=0.01)
    (side,) = report.sides
    assert side.max > 900
    assert side.p95 < 500
    assert "met once by each" in report.to_text()


def test_arrivals_for_which_no_customer_is_free_to_the_end_are_counted_as_failed(
    shop: Shop, estate: Config
) -> None:
    threading.Timer(0.5, shop.stall, [60.0]).start()
    threading.Timer(1.6, shop._loop.call_soon_threadsafe, [shop._open.set]).start()
    report = run(estate, 1.5, customers=3, rate=200)
    assert report.reasons[f"arrival ({NOBODY}): no customer was free"] == report.failed > 50
    assert report.generator.late_p99 < 500  # it was not the generator that let them wait


def test_errors_are_counted_by_the_side_that_served_them(shop: Shop, estate: Config) -> None:
    def break_new() -> None:
        shop.side, shop.status = "new", 500

    threading.Timer(1.0, break_new).start()
    report = run(estate, 2.0, limits=Limits(errors=0))
    sides = {side.name: side for side in report.sides}
    assert set(sides) == {"d/old", "d/new"}
    assert sides["d/old"].failed == 0 < sides["d/old"].requests
    assert sides["d/new"].failed == sides["d/new"].requests == report.failed > 0
    assert "look: one (d/new): status 500 instead of 200" in report.reasons
    # A flow that failed is not gone on with: those are the customers who were in the middle.
    counts = {step.name: step.requests for step in report.steps}
    assert counts.get("look: two (d/new)", 0) <= report.customers < counts["look: one (d/new)"]
    assert (report.verdict, report.exit_code) == ("broken", 3)


def test_every_customer_is_recognisable_and_has_a_connection_of_its_own(
    shop: Shop, estate: Config
) -> None:
    report = run(estate, 1.0, customers=7)
    assert len(shop.connections) == 7
    assert len(shop.customers) > 7
    assert all(who.startswith(estate.flows.customer) and len(who) == 36 for who in shop.customers)
    assert report.requests == len(shop.paths)


def test_nobody_answers_is_not_told_as_good(write_config: ConfigWriter, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        report = run(configured(write_config, tmp_path, url), 1.0, customers=3)
    assert (report.verdict, report.exit_code) == ("inconclusive", 4)
    assert report.failed == report.requests > 0
    # Nobody knocks at a shut door without a pause.
    assert report.requests <= 9


def test_a_generator_that_cannot_keep_up_says_so(shop: Shop, estate: Config) -> None:
    # Something else takes the generator's only thread, 60 ms of each 100.
    going = room.Load(
        load_plan.plan(estate, customers=20, seconds=1.5, rate=200, limits=Limits(p95_ms=60_000)),
        lambda _: None,
    )

    async def disturbed() -> LoadReport:
        async def hog() -> None:
            while True:
                time.sleep(0.06)  # noqa: ASYNC251 - this is the disturbance
                await asyncio.sleep(0.04)

        hogging = asyncio.create_task(hog())
        try:
            return await going.run()
        finally:
            hogging.cancel()

    report = asyncio.run(disturbed())
    assert report.generator.late_p99 > 20
    assert (report.verdict, report.exit_code) == ("inconclusive", 4)
    assert "the generator was behind" in report.to_text()
    assert report.next_command.startswith("splitctl load --customers 10")


def test_ctrl_c_ends_it_and_still_tells(shop: Shop, estate: Config, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "splitctl", "load", "--customers", "5", "--for", "10m"]
    running = subprocess.Popen(
        ["env", "--default-signal=INT", *command, "-o", "json", "--config", str(estate.path)],
        cwd=ROOT,
        env={**os.environ, "SPLITCTL_STATE_DIR": str(tmp_path / "state")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    assert "1 s of 600" in running.stderr.readline()
    running.send_signal(signal.SIGINT)
    told, errors = running.communicate(timeout=30)
    assert running.returncode == 130, errors
    report = json.loads(told)
    assert report["interrupted"] is True
    assert report["requests"] == len(shop.paths) > 0
    assert [side["name"] for side in report["sides"]] == ["d/old"]


def test_without_its_library_the_command_says_what_to_install(
    estate: Config, tmp_path: Path
) -> None:
    program = (
        "import sys; sys.modules['aiohttp'] = None; sys.argv[0] = 'splitctl';"
        "from splitctl.main import main; main()"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, "load", "--config", str(estate.path)],
        cwd=ROOT,
        env={**os.environ, "SPLITCTL_STATE_DIR": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 5
    assert "needs 'aiohttp'" in found.stderr
    assert "pip install 'splitctl[load]'" in found.stderr


def asked(due: float, began: float, ended: float, free: float = 0.0, **more: Any) -> Asked:
    return Asked("s", due, free, began, ended, "old", **more)


def test_latency_counts_from_when_it_was_due_and_lateness_only_what_is_ours() -> None:
    late = asked(due=1.0, began=1.5, ended=2.0)
    assert (late.latency, late.service, late.late) == (1.0, 0.5, 0.5)
    kept_by_server = asked(due=1.0, free=1.4, began=1.5, ended=2.0)
    assert kept_by_server.late == pytest.approx(0.1)
    assert kept_by_server.latency == 1.0


def test_percentiles_are_those_of_the_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, share) for share in (0.0, 0.5, 0.95, 0.99, 1.0)] == [
        1,
        50,
        95,
        99,
        100,
    ]
    assert percentile([7.0], 0.5) == 7.0
    assert percentile([], 0.5) is None


GOOD, LATE = Generator(0.1, 1.0, 2.0, 0.2), Generator(5.0, 80.0, 200.0, 1.0)


def report(
    ms: float, *, requests: int = 200, failed: int = 0, generator: Generator = GOOD, **limits: Any
) -> LoadReport:
    record = Record()
    for number in range(requests):
        failure = "broken" if number < failed else None
        record.add(asked(due=0.0, began=0.0, ended=ms / 1000, failure=failure))
    sides = [series.figures(side) for side, series in record.sides.items()]
    return LoadReport(
        model="closed",
        through="gateway",
        flows=["f"],
        customers=9,
        rate=None,
        seconds=1.0,
        requests=requests,
        failed=failed,
        throughput=1.0,
        sides=sides,
        steps=[],
        reasons=dict(record.reasons),
        generator=generator,
        limits=Limits(**limits),
    )


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (report(10), "measured"),
        (report(10, p95_ms=50, errors=0), "held"),
        (report(60, p95_ms=50), "broken"),
        (report(60, p99_ms=50), "broken"),
        (report(10, failed=1, errors=0), "broken"),
        (report(10, failed=1, errors=1), "held"),
        # Slow, or not: with a generator that was behind nobody can tell. An error is one.
        (report(60, p95_ms=50, generator=LATE), "inconclusive"),
        (report(10, p95_ms=50, generator=LATE), "inconclusive"),
        (report(10, failed=1, errors=0, generator=LATE), "broken"),
        (report(10, requests=99, p95_ms=50), "inconclusive"),
    ],
)
def test_limits_make_a_verdict_and_doubts_come_before_slowness(
    found: LoadReport, verdict: str
) -> None:
    codes = {"measured": 0, "held": 0, "broken": 3, "inconclusive": 4}
    assert (found.verdict, found.exit_code) == (verdict, codes[verdict])
    assert found.to_text().splitlines()[-1] == verdict


def test_a_run_with_both_sides_is_judged_by_the_slower_one() -> None:
    record = Record()
    for number in range(2000):
        slow = number < 150  # too few to be seen in the p95 of all together... of 2,150
        side, ms = ("new", 90) if slow else ("old", 5)
        record.add(Asked("s", 0.0, 0.0, 0.0, ms / 1000, side))
    sides = [series.figures(side) for side, series in record.sides.items()]
    base = report(1, p95_ms=50)
    found = LoadReport(**{**vars(base), "sides": sides})
    assert found.broken == ["p95 of new is 90.0 ms, 50.0 may be"]
