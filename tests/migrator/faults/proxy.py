"""A TCP proxy between the tool and a database, whose wires can be cut, slowed down or go silent."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
BLOCK = 65_536


class Proxy:
    """Listens on a port of its own on 127.0.0.1 and passes everything on to `port`."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._open = True
        self._speaking = asyncio.Event()
        self._speaking.set()
        self._delay_s = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._do(lambda: asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Break off every connection at both ends, and refuse new ones until `heal`."""
        self._open = False
        self._do(self._end_all)

    def silence(self) -> None:
        """Pass nothing on, and tell neither end: a cable that is pulled. `heal` passes on again."""
        self._loop.call_soon_threadsafe(self._speaking.clear)

    def slow(self, delay_s: float) -> None:
        """Let every block wait so long, both ways."""
        self._delay_s = delay_s

    def heal(self) -> None:
        """Pass on as before."""
        self._open, self._delay_s = True, 0.0
        self._loop.call_soon_threadsafe(self._speaking.set)

    def close(self) -> None:
        """End everything."""
        self._open = False
        self._do(self._shut)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _do(self, work: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    async def _end_all(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _shut(self) -> None:
        self._server.close()
        await self._end_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self._open:
                await self._join(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection("127.0.0.1", self._upstream)
        try:
            ways = (self._pass(reader, downstream), self._pass(upstream, writer))
            tasks = [asyncio.ensure_future(way) for way in ways]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
        finally:
            downstream.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while block := await reader.read(BLOCK):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                await self._speaking.wait()
                writer.write(block)
                await writer.drain()
