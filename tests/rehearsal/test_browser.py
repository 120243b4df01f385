"""What a shopper counts as failed, and what is written down of what was acknowledged."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from rehearsal.browser import Browser, Identity, Leaving, Unexpected
from rehearsal.recorder import FAILURES, REQUESTS, STAGE, STATUS, WRITES, Recorder, percentile

SERVED = {"X-Served-By": "shop/new/10"}
ME = Identity.customer("ABC-1")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def shop(request: web.Request) -> web.StreamResponse:
    if request.path == "/cut":
        assert request.transport is not None
        request.transport.abort()
    if request.path == "/text":
        return web.Response(text="hello", headers=SERVED)
    status = int(request.query.get("status", "200"))
    return web.json_response({"id": "c1"}, status=status, headers=SERVED)


def browse(directory: Path, visit: Callable[[Browser, asyncio.Event], Awaitable[None]]) -> Recorder:
    """Run a visit against a small shop."""

    async def run() -> Recorder:
        app = web.Application()
        app.router.add_route("*", "/{anything:.*}", shop)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        recorder, closing = Recorder(directory), asyncio.Event()
        async with aiohttp.ClientSession() as session:
            gateways = [f"http://127.0.0.1:{port}"]
            browser = Browser(session, gateways, recorder, random.Random(1), closing, 0.01)
            await visit(browser, closing)
        recorder.close()
        await runner.cleanup()
        return recorder

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/x?status=503", "status 503 instead of 200"),
        ("/x?status=404", "status 404 instead of 200"),
        ("/x?status=201", "status 201 instead of 200"),
        ("/text", "the answer is no JSON"),
        ("/cut", "ServerDisconnectedError"),
    ],
)
def test_every_answer_but_the_expected_one_is_a_failure(
    tmp_path: Path, path: str, reason: str
) -> None:
    async def visit(browser: Browser, closing: asyncio.Event) -> None:
        with pytest.raises(Unexpected):
            await browser.send("POST", path, ME, subjects=[("cart", "c1")])

    recorder = browse(tmp_path, visit)
    assert (recorder.requests, recorder.failed, recorder.writes) == (1, 1, 0)
    (failure,) = lines(tmp_path / FAILURES)
    assert failure["reason"].startswith(reason)
    assert failure["subjects"] == [["cart", "c1"]]


def test_a_request_without_an_answer_in_time_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rehearsal.browser._LIMIT", aiohttp.ClientTimeout(total=0.000001))

    async def visit(browser: Browser, closing: asyncio.Event) -> None:
        with pytest.raises(Unexpected, match="Timeout"):
            await browser.send("GET", "/x", ME)

    assert browse(tmp_path, visit).failed == 1


def test_a_write_is_written_down_with_its_stage_and_side(tmp_path: Path) -> None:
    def stage(name: str) -> None:
        text = json.dumps({"domains": {"shop": {"stage": name, "percentage": 10}}})
        (tmp_path / "draft").write_text(text)
        (tmp_path / "draft").replace(tmp_path / STAGE)

    async def visit(browser: Browser, closing: asyncio.Event) -> None:
        for name in (None, "live", "rampdown"):
            if name:
                stage(name)
            reply = await browser.send("POST", "/x", ME)
            browser.acknowledged(reply, "AddItem", "cart", "c1", ME.route, {"version": 2})

    browse(tmp_path, visit)
    written = lines(tmp_path / WRITES)
    assert [line["stage"] for line in written] == ["off", "live", "rampdown"]
    assert [line["n"] for line in written] == [1, 2, 3]
    last = written[-1]
    assert {name: last[name] for name in ("domain", "side", "percentage", "route", "expect")} == {
        "domain": "shop",
        "side": "new",
        "percentage": 10,
        "route": "abc-1",
        "expect": {"version": 2},
    }


def test_customers_click_faster_in_a_rush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paces: list[float] = []

    def expovariate(pace: float) -> float:
        paces.append(pace)
        return 0.0

    async def visit(browser: Browser, closing: asyncio.Event) -> None:
        monkeypatch.setattr(browser.chance, "expovariate", expovariate)
        await browser.think()
        (tmp_path / STAGE).write_text(json.dumps({"domains": {}, "pace": 5}))
        await browser.think()

    browse(tmp_path, visit)
    assert paces[1] == pytest.approx(5 * paces[0])


def test_a_wrong_content_is_a_failure_although_it_was_acknowledged(tmp_path: Path) -> None:
    async def visit(browser: Browser, closing: asyncio.Event) -> None:
        reply = await browser.send("POST", "/x", ME)
        browser.must(True, reply, "fine", "cart", "c1", ME)
        with pytest.raises(Unexpected):
            browser.must(False, reply, "an item is gone", "cart", "c1", ME)

    assert browse(tmp_path, visit).failed == 1
    assert lines(tmp_path / FAILURES)[0]["reason"] == "an item is gone"


def test_nothing_new_is_begun_once_the_shop_closes(tmp_path: Path) -> None:
    async def visit(browser: Browser, closing: asyncio.Event) -> None:
        under_way = asyncio.create_task(browser.send("POST", "/x", ME))
        await asyncio.sleep(0)
        closing.set()
        assert (await under_way).body["id"] == "c1"
        with pytest.raises(Leaving):
            await browser.send("POST", "/x", ME)
        with pytest.raises(Leaving):
            await browser.think()

    assert browse(tmp_path, visit).requests == 1


def test_the_status_tells_share_and_latency(tmp_path: Path) -> None:
    async def visit(browser: Browser, closing: asyncio.Event) -> None:
        for _ in range(4):
            await browser.send("GET", "/x", ME)

    browse(tmp_path, visit)
    status = json.loads((tmp_path / STATUS).read_text())
    assert status["share_new"] == {"shop": 1.0}
    assert (status["requests"], status["failed"], status["writes"]) == (4, 0, 0)
    (second,) = lines(tmp_path / REQUESTS)
    assert second["sides"][0]["count"] == 4
    assert second["sides"][0]["p95_ms"] > 0


def test_percentile_is_the_nearest_rank() -> None:
    assert percentile([], 0.95) is None
    assert percentile([5.0], 0.99) == 5.0
    assert percentile(range(1, 101), 0.95) == 96
