"""Services without a kube-proxy: an address for each, which passes connections on to ready pods."""

import asyncio
import itertools
import random
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from estate.cluster import Object
from estate.cluster.api import Api

CHUNK = 65536
_numbers = itertools.count(1)


class Services:
    """The services of one namespace. `endpoints`: the addresses of the ready pods of a selector."""

    def __init__(self, api: Api, endpoints: Callable[[Mapping[str, str]], list[str]]) -> None:
        self._api, self._endpoints = api, endpoints
        number = next(_numbers)
        self._free = (f"127.78.{number % 256}.{low}" for low in range(2, 254))
        self._known: dict[str, str] = {}
        self._open: set[tuple[str, int]] = set()
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def start(self) -> None:
        """Begin to pass connections on."""
        self._thread.start()

    def stop(self) -> None:
        """Close every connection."""

        async def close() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        if self._thread.is_alive():
            self._do(close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    def addresses(self) -> dict[str, str]:
        """The address of each service by its name."""
        return dict(self._known)

    def refresh(self) -> None:
        """Look for new services."""
        answer = self._api.call("GET", f"/api/v1/namespaces/{self._api.namespace}/services") or {}
        with self._lock:
            for service in answer.get("items", []):
                name = service["metadata"]["name"]
                if name not in self._known:
                    self._known[name] = next(self._free)
                for port in service["spec"]["ports"]:
                    self._listen(self._known[name], service, port)

    def _listen(self, address: str, service: Object, port: Object) -> None:
        here = (address, port["port"])
        target = port.get("targetPort", port["port"])
        if here in self._open or not isinstance(target, int):
            return
        selector = service["spec"].get("selector", {})

        async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._pass_on(reader, writer, selector, target)

        self._do(asyncio.start_server(passed, *here))
        self._open.add(here)

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        selector: Mapping[str, str],
        port: int,
    ) -> None:
        """One connection to one ready pod, chosen by chance as kube-proxy does."""
        ready = self._endpoints(selector)
        try:
            there = await asyncio.open_connection(random.choice(ready), port) if ready else None
        except OSError:
            there = None
        if there is None:
            writer.transport.abort()  # what a client meets at a service without pods
            return
        await asyncio.gather(_copy(reader, there[1]), _copy(there[0], writer))

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10.0)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side closes; then the other is closed too."""
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
