"""Faults of one service on demand: writes that fail, answers that are late."""

import asyncio
import random
from dataclasses import dataclass

from services.body import Body
from services.problems import Unprocessable

LONGEST_DELAY_MS = 60_000


@dataclass
class Faults:
    """Of the writes `rate` (0..1) are answered with 500; every answer is late by `delay_s`."""

    rate: float = 0.0
    delay_s: float = 0.0

    def set(self, body: Body) -> dict[str, float]:
        """Take `rate`, and `delay_ms` where it is given; returns both. Raises Problem."""
        rate = body.share("rate")
        delay_ms = body.integer("delay_ms") if body.has("delay_ms") else 0
        if not 0 <= delay_ms <= LONGEST_DELAY_MS:
            raise Unprocessable("bad_delay", f"delay_ms is not between 0 and {LONGEST_DELAY_MS}")
        self.rate, self.delay_s = rate, delay_ms / 1000
        return {"rate": rate, "delay_ms": delay_ms}

    async def strike(self, method: str) -> bool:
        """Wait as long as is asked for; then whether this request has to fail."""
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        return method != "GET" and random.random() < self.rate
