"""`python -m tests.general.counter`: the library's gateway and both sides' programs, in one.

Its doors, admin endpoint and metrics are those of the shipped gateway, for a domain which that has
never heard of. PORT, INSTANCE, LIBRARY_GATEWAY_TOKEN, OLD_DSN, NEW_DSN come by environment.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator

import psycopg
import uvicorn
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.gateway.admin import Admin
from services.gateway.app import loop_timer
from services.gateway.buckets import bucket
from services.gateway.fence import Door
from services.gateway.flags import DomainFlags
from services.gateway.metrics import Metrics
from tests.general.shelves import NothingThere, write

DOMAIN = "lending"


class Counter:
    """One gateway: POST /desk with an act of a reader; `route` of a reader is `reader:<number>`."""

    def __init__(self) -> None:
        flags = DomainFlags(enabled=False, percentage=0, epoch=0)
        self.door = Door(DOMAIN, flags, time.monotonic, loop_timer)
        self.metrics = Metrics({DOMAIN: self.door})
        # The new side's tables do not exist yet when the counter opens: connect when needed.
        self.pools = {
            side: AsyncConnectionPool(os.environ[f"{side.upper()}_DSN"], min_size=0, max_size=6,
                                      open=False, timeout=10)
            for side in ("old", "new")
        }  # fmt: skip

    async def desk(self, request: Request) -> JSONResponse:
        """One act, on the side that owns the reader."""
        began = time.perf_counter()
        act = await request.json()
        mine = bucket(f"reader:{act['reader']}")
        visit = await self.door.enter(mine)
        side, status, problem = visit.sides[0], 200, ""
        try:
            async with self.pools[side].connection() as connection:
                await write(connection, side, act)
        except (psycopg.Error, PoolTimeout, NothingThere) as error:
            status, problem = 500, f"{type(error).__name__}: {error}"
        finally:
            visit.leave()
        self.metrics.answered(DOMAIN, side, status, time.perf_counter() - began)
        self.metrics.visited(DOMAIN, visit.flags, [mine], visit.sides)
        served = {"side": side, "percentage": visit.flags.served, "problem": problem}
        return JSONResponse(served, status_code=status)

    async def figures(self, _: Request) -> Response:
        """The metrics page."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def ready(self, _: Request) -> JSONResponse:
        """Ready as soon as it answers."""
        return JSONResponse({"status": "ready"})

    @contextlib.asynccontextmanager
    async def life(self, _: Starlette) -> AsyncIterator[None]:
        """Pools live as long as the program."""
        for pool in self.pools.values():
            await pool.open()
        yield
        self.door.close()
        await asyncio.gather(*(pool.close() for pool in self.pools.values()))

    def app(self) -> Starlette:
        """Its pages and the admin endpoint's."""
        doors = {DOMAIN: self.door}
        admin = Admin(os.environ["INSTANCE"], os.environ["LIBRARY_GATEWAY_TOKEN"], doors).app()
        own = [
            Route("/desk", self.desk, methods=["POST"]),
            Route("/metrics", self.figures),
            Route("/health/ready", self.ready),
        ]
        return Starlette(routes=[*own, *admin.routes], lifespan=self.life)


def main() -> int:
    """Serve until SIGTERM."""
    uvicorn.run(
        Counter().app(),
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        log_level="warning",
        access_log=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
