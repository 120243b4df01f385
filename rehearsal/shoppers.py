"""`python -m rehearsal.shoppers`: a closed population of customers who never retry.

Each shopper does one thing after another with pauses to think, through gateways picked at random.
SIGTERM: every request under way is finished and written down, then the process ends.
"""

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from rehearsal.browser import Browser, Leaving, Unexpected
from rehearsal.recorder import Recorder
from rehearsal.shopping import Returner, Shopper
from rehearsal.stock import Stock

FLUSH_S = 1.0
KEEP_ALIVE_S = 30.0
RETURNERS = 0.6


@dataclass(frozen=True)
class Options:
    """What the command line says. `think_ms` is the mean pause between two clicks."""

    directory: Path
    gateways: Sequence[str]
    shoppers: int
    seed: int
    think_ms: float


def options(arguments: Sequence[str]) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m rehearsal.shoppers", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="where the records are written")
    parser.add_argument("--gateway", action="append", required=True, help="address; repeatable")
    parser.add_argument("--shoppers", type=int, default=48)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--think-ms", type=float, default=240.0)
    given = parser.parse_args(arguments)
    return Options(given.dir, given.gateway, given.shoppers, given.seed, given.think_ms)


async def run(chosen: Options) -> int:
    """Shop until a signal. Returns the number of failed requests."""
    closing = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, closing.set)
    recorder = Recorder(chosen.directory)
    stock = Stock.read(chosen.directory, random.Random(f"{chosen.seed}/stock"))
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
    async with aiohttp.ClientSession(connector=connector) as session:
        flushing = asyncio.create_task(_flush(recorder))
        try:
            await asyncio.gather(
                *(
                    _shop(n, chosen, session, recorder, stock, closing)
                    for n in range(chosen.shoppers)
                )
            )
        finally:
            flushing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await flushing
            recorder.close()
    return recorder.failed


async def _shop(
    number: int,
    chosen: Options,
    session: aiohttp.ClientSession,
    recorder: Recorder,
    stock: Stock,
    closing: asyncio.Event,
) -> None:
    chance = random.Random(f"{chosen.seed}/{number}")
    think_s = chosen.think_ms / 1000
    browser = Browser(session, chosen.gateways, recorder, chance, closing, think_s)
    returner, shopper = Returner(browser, stock), Shopper(browser, stock)
    with contextlib.suppress(Leaving):
        while not closing.is_set():
            await browser.think()
            with contextlib.suppress(Unexpected):
                # What failed was written down; the customer goes on with something else.
                await (returner if chance.random() < RETURNERS else shopper).visit()


async def _flush(recorder: Recorder) -> None:
    while True:
        await asyncio.sleep(FLUSH_S)
        recorder.flush()


def main(arguments: Sequence[str]) -> int:
    """Run as a process; 0 also when requests failed: they are written down."""
    chosen = options(arguments)
    failed = asyncio.run(run(chosen))
    sys.stdout.write(json.dumps({"failed": failed}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
