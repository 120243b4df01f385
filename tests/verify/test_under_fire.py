"""Exact under fire: nothing is reported that is not planted, and all that is planted is found.

`SPLITCTL_FIRE_MINUTES` makes the run longer (the campaign: 30), and what it did is told.
"""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from migrator import backfill, sync
from rehearsal.children import Children
from rehearsal.processes import module
from tests.conftest import ConfigWriter, FreshDatabase
from tests.migrator import library as lending
from tests.migrator.library import DOMAIN, Library
from tests.verify import fire
from tests.verify.fire import Damage
from verify import diff
from verify.passes import Limits
from verify.verdict import Verdict

ROWS = 1_000_000
WRITES_PER_S = 1_000
PLANTED = 200
MINUTES = float(os.environ.get("SPLITCTL_FIRE_MINUTES", "2"))
LIMITS = Limits(workers=2, patience_s=60, barrier_s=60)
pytestmark = [pytest.mark.rehearsal, pytest.mark.timeout(MINUTES * 60 + 900)]


@pytest.fixture
def library(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter, tmp_path: Path
) -> Iterator[Library]:
    """Two tables of a million rows, carried, half of the holders on each side."""
    built = lending.build(
        fresh_databases,
        write_config,
        old_ddl=fire.OLD,
        new_ddl=fire.NEW,
        toml=fire.TOML,
        queries=fire.QUERIES,
    )
    children = Children(tmp_path / "children")
    try:
        built.old.execute(fire.FILL.format(rows=ROWS).encode())
        sync.enable(built.config, DOMAIN)
        # A process of its own: here are the writers and the comparison.
        state = {"SPLITCTL_STATE_DIR": str(tmp_path / "state")}
        command = module("splitctl", "sync", "run", "--config", str(built.path))
        children.start("sync", command, environment=state)
        backfill.run(built.config, DOMAIN, on_progress=lambda *_: None)
        fire.share_out(built)
        yield built
    finally:
        children.stop_all()
        built.old.close()
        built.new.close()


def found(verdict: Verdict, direction: str) -> set[Damage]:
    """What a verdict says of one direction: table, id, what."""
    return {
        (mapping.mapping.rpartition(".")[2], int(str(sample.key["id"])), sample.what)
        for mapping in verdict.mappings
        if f".{direction}." in mapping.mapping
        for sample in mapping.found
    }


def test_all_that_is_planted_is_found_and_nothing_else(library: Library) -> None:
    planted: set[Damage] = set()
    seconds = MINUTES * 60
    runs = inconclusive = 0
    with fire.writers(library, ROWS, WRITES_PER_S) as burning:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            before = set(planted)
            # The rest is planted while the first half of the time runs out.
            done = 1 - (end - time.monotonic()) / seconds
            due = min(PLANTED, int(PLANTED * (0.05 + 2 * done)))
            with planting(library, planted, due):
                verdict = diff.run(library.config, limits=LIMITS)
            runs += 1
            seen = found(verdict, "forward")
            assert seen <= planted, f"not planted: {seen - planted}"
            assert seen >= before, f"not found: {before - seen}"
            backwards = found(verdict, "reverse")
            assert backwards <= fire.mirrored(planted)
            assert backwards >= fire.mirrored(before)
            assert not verdict.reasons, verdict.reasons
            inconclusive += verdict.totals()["inconclusive"]
        with planting(library, planted, PLANTED):
            pass
        verdict = diff.run(library.config, limits=LIMITS)
        rate = burning.rate
    assert len(planted) == PLANTED
    assert found(verdict, "forward") == planted
    assert found(verdict, "reverse") == fire.mirrored(planted)
    print(
        f"\n{runs + 1} runs over {verdict.totals()['rows_compared']:,} rows each, under"
        f" {rate:,.0f} rows written a second, {sum(burning.rows):,} in all; {PLANTED} planted,"
        f" all found, no other; keys that could not be told: {inconclusive}"
    )


@contextmanager
def planting(library: Library, planted: set[Damage], due: int) -> Iterator[None]:
    """Plant up to so many, one after the other, while what stands below goes on."""
    connections = library.old.info.dsn, library.new.info.dsn
    with (
        psycopg.connect(connections[0], autocommit=True) as old,
        psycopg.connect(connections[1], autocommit=True) as new,
        ThreadPoolExecutor(1) as pool,
    ):
        own = replace(library, old=old, new=new)

        def plant() -> None:
            while len(planted) < due:
                planted.add(fire.plant(own, ROWS, len(planted)))

        work = pool.submit(plant)
        try:
            yield
        finally:
            work.result()
