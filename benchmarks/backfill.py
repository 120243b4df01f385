"""The first copy of carts, items and promotions, through the shipped mappings."""

import time
from typing import Any

from benchmarks.contest import Figure, Result, Tell, alternate
from benchmarks.ground import NEW_TABLES, Ground
from benchmarks.native import RIVAL, Native
from benchmarks.piped import Piped

NAME = "backfill, real mapping"
PIPED = Figure(NAME, "psql COPY into COPY, then keys and indexes", "rows/s", "at least", 0.9)
NATIVE = Figure(NAME, f"{RIVAL}, first copy (no mapping)", "rows/s", "at least", 2.0)


def against_psql(ground: Ground, rounds: int, tell: Tell) -> list[Result]:
    """Ours and `COPY (SELECT the mapping)` piped into `COPY`, plus building the same indexes."""
    rival = Piped(ground)

    def theirs() -> float:
        rival.put_back()
        ground.checkpoint()
        started = time.monotonic()
        rival.copy()
        seconds = time.monotonic() - started
        with rival.connect() as target:
            _check(ground, _rows(target, NEW_TABLES))
        return ground.expected / seconds

    try:
        return [alternate(PIPED, lambda: ours(ground), theirs, rounds, tell)]
    finally:
        rival.remove()


def against_native(ground: Ground, rounds: int, tell: Tell) -> list[Result]:
    """Ours and a subscription's first copy of the same base rows, which give all of ours."""
    rival = Native(ground)

    def theirs() -> float:
        rival.put_back()
        ground.checkpoint()
        started = time.monotonic()
        rival.subscribe()
        seconds = time.monotonic() - started
        with rival.connect() as target:
            rows = _rows(target, ("cart_sessions", "cart_items"))
        assert rows == ground.carts + ground.items, rows
        rival.put_back()
        return ground.expected / seconds

    try:
        return [alternate(NATIVE, lambda: ours(ground), theirs, rounds, tell)]
    finally:
        rival.remove()


def ours(ground: Ground) -> float:
    """`splitctl backfill run`, beside a worker, until every mapping is live: rows a second."""
    with ground.enabled():
        ground.checkpoint()
        started = time.monotonic()
        ground.backfill()
        seconds = time.monotonic() - started
        with ground.new() as target:
            _check(ground, _rows(target, NEW_TABLES))
    return ground.expected / seconds


def _check(ground: Ground, rows: int) -> None:
    assert rows == ground.expected, f"{rows:,} rows were copied of {ground.expected:,}"


def _rows(target: Any, tables: tuple[str, ...]) -> int:
    return sum(int(target.execute(f"SELECT count(*) FROM {name}").fetchone()[0]) for name in tables)
