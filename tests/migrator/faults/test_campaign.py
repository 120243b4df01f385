"""Whatever is done to worker, servers and wires: what was acknowledged is on both sides, once."""

import os
from collections.abc import Callable

import pytest

from tests.migrator.faults.run import Reckoned, Run

RUNS = int(os.environ.get("SPLITCTL_FAULT_RUNS", "200"))
SHORT = 2


@pytest.mark.parametrize("seed", range(SHORT))
def test_nothing_is_lost_or_doubled(new_run: Callable[[int], Run], seed: int) -> None:
    new_run(seed).perform()


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(SHORT, SHORT + RUNS))
def test_nothing_is_lost_or_doubled_ever(new_run: Callable[[int], Run], seed: int) -> None:
    new_run(seed).perform()


@pytest.mark.parametrize(
    "kinds",
    [
        ["kill the worker", "kill the backfill", "kill the worker"],
        ["cut the worker off and let it wake"],
        ["kill the old server", "kill the new server"],
        ["cut the old side off", "silence the new side"],
        ["take the new side away", "take the old side away"],
        ["fill the new side's disk"],
        ["set the clock", "set the clock"],
    ],
    ids="-".join,
)
def test_each_fault_by_itself(new_run: Callable[[int], Run], kinds: list[str]) -> None:
    run = new_run(1)
    for kind in kinds:
        if kind in run.harm.missing:
            pytest.skip(f"{kind}: {run.harm.missing[kind]}")
    run.perform(kinds)


@pytest.mark.parametrize("fault", ["drop-each:40", "skip-each-delete:20"])
def test_the_reckoning_finds_what_a_sync_forgets(new_run: Callable[[int], Run], fault: str) -> None:
    run = new_run(1)
    run.ground.program = ("tests.faulty", fault)
    with pytest.raises(Reckoned, match="differs"):
        run.perform([])
