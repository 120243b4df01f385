"""Asks a gateway's peers what became of an epoch, when its lease ends and nobody has ended it."""

import asyncio
from collections.abc import Callable, Sequence

import aiohttp

from services.gateway.fence import Door
from services.gateway.flags import DomainFlags


class Peers:
    """The question as HTTP. `session` gives the pool, which opens when the gateway starts."""

    def __init__(self, session: Callable[[], aiohttp.ClientSession | None], token: str) -> None:
        self._session = session
        self._headers = {"Authorization": f"Bearer {token}"}
        self._asking: set[asyncio.Task[None]] = set()

    def ask(self, door: Door, epoch: int, peers: Sequence[str], seconds: float) -> None:
        """Begin to ask all of them at once; the door hears of it within `seconds`."""
        task = asyncio.get_running_loop().create_task(self._conclude(door, epoch, peers, seconds))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _conclude(self, door: Door, epoch: int, peers: Sequence[str], seconds: float) -> None:
        answers = await asyncio.gather(
            *(self._one(peer, door.domain, epoch, seconds) for peer in peers)
        )
        door.conclude(epoch, [flags for flags in answers if flags is not None])

    async def _one(self, peer: str, domain: str, epoch: int, seconds: float) -> DomainFlags | None:
        session = self._session()
        if session is None:
            return None
        try:
            async with session.post(
                f"{peer}/admin/fences/{domain}/settle",
                json={"epoch": epoch},
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=seconds),
            ) as answer:
                if answer.status != 200:
                    return None
                found = await answer.json()
                return DomainFlags(
                    bool(found["enabled"]), int(found["percentage"]), int(found["epoch"])
                )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError):
            return None
