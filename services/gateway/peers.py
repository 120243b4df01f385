"""Asks a gateway's peers what became of an epoch, when its lease ends and nobody has ended it."""

import asyncio
import time
from collections.abc import Sequence

import aiohttp

from services.gateway.admin import Fields, Unfit
from services.gateway.fence import Door
from services.gateway.flags import DomainFlags

ANSWER_SECONDS, AGAIN_SECONDS = 0.4, 0.05


class Peers:
    """The question as HTTP, with the token that all gateways of an estate share."""

    def __init__(self, token: str) -> None:
        self._headers = {"Authorization": f"Bearer {token}"}
        self._session: aiohttp.ClientSession | None = None
        self._asking: set[asyncio.Task[None]] = set()

    def ask(self, door: Door, epoch: int, peers: Sequence[str], seconds: float) -> None:
        """Begin to ask all of them at once; the door hears of it within `seconds`."""
        task = asyncio.get_running_loop().create_task(self._conclude(door, epoch, peers, seconds))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def close(self) -> None:
        """Ask no more."""
        for task in self._asking:
            task.cancel()
        if self._session is not None:
            await self._session.close()

    async def _conclude(self, door: Door, epoch: int, peers: Sequence[str], seconds: float) -> None:
        # At least one round, also when this gateway stood still over the end of its lease.
        limit = time.monotonic() + max(seconds, ANSWER_SECONDS)
        urls = [f"{peer}/admin/fences/{door.domain}/settle" for peer in peers]
        answers: list[DomainFlags] = []
        while (left := limit - time.monotonic()) > 0:
            # Never longer than this for one: a silent peer must not hide what another says.
            patience = min(ANSWER_SECONDS, left)
            found = await asyncio.gather(*(self._question(url, epoch, patience) for url in urls))
            answers = [flags for flags in found if flags is not None]
            if len(answers) == len(urls) or any(flags.epoch >= epoch for flags in answers):
                break
            # While one is silent, the others are asked again: they may follow it meanwhile.
            await asyncio.sleep(min(AGAIN_SECONDS, left))
        door.conclude(epoch, answers)

    async def _question(self, url: str, epoch: int, seconds: float) -> DomainFlags | None:
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            async with self._open().post(
                url, json={"epoch": epoch}, headers=self._headers, timeout=timeout
            ) as answer:
                return Fields(await answer.json()).flags() if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, AttributeError, Unfit):
            return None

    def _open(self) -> aiohttp.ClientSession:
        # A pool of its own: customers' requests may have taken all connections of theirs.
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        return self._session
