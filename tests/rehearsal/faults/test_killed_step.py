"""kill -9 of `rollout advance` after each of its acts: the lease ends, and the command goes on."""

import signal
import time
from collections.abc import Iterator

import httpx
import psycopg
import pytest

from rehearsal.children import wait_until
from tests.rehearsal.faults.ground import LEASE_MS, Split
from tests.rehearsal.faults.killed import ACTS

pytestmark = pytest.mark.faults

DOMAIN = "return"
# A gateway looks at its clock, and the machine may be busy.
LATE_S = 1.0
# After these nobody types until every lease has ended.
LEFT_ALONE = ("fence", "confirm", "own-losing", "own-winning", "switch-one")


@pytest.fixture(autouse=True, scope="module")
def nothing_was_lost(built: Split) -> Iterator[None]:
    """At the very end, over all kills: every customer's every acknowledged write is there."""
    built.customers_leave()
    failed_before = len(built.failures())
    built.customers_come()
    yield
    built.type("rollback")
    built.customers_leave()
    try:
        assert built.failures()[failed_before:] == []
        found = built.witness()
        assert (found["lost_writes"], found["duplicate_orders"]) == (0, 0), found["samples"]
        assert built.verify()["verdict"] == "equal"
    finally:
        built.customers_come()


def kill_at(split: Split, act: str) -> None:
    ended = split.run("tests.rehearsal.faults.killed", act, "rollout", "advance", DOMAIN)
    assert ended.returncode == -signal.SIGKILL, (ended.stdout, ended.stderr)


def truth(split: Split) -> tuple[list[tuple[int, int]], list[tuple[float, int]]]:
    """(percentage, epoch) of each gateway and of each owner's row, asked without the tool."""
    headers = {"Authorization": f"Bearer {split.estate.token}"}
    served, owned = [], []
    for url in split.estate.gateways:
        flags = httpx.get(f"{url}/admin/flags", headers=headers).json()["domains"][DOMAIN]
        served.append((flags["percentage"], flags["epoch"]))
    for database in ("order", "return"):
        with psycopg.connect(split.estate.database(database)) as connection:
            row = connection.execute(
                "SELECT new_below / 100.0, epoch FROM splitctl_sync.owner WHERE domain = %s",
                [DOMAIN],
            ).fetchone()
        assert row is not None
        owned.append((float(row[0]), row[1]))
    return served, owned


@pytest.mark.parametrize("act", ACTS)
def test_a_step_killed_after(split: Split, act: str) -> None:
    verdict = split.verify("--domain", DOMAIN)
    assert verdict["verdict"] == "equal", verdict
    kill_at(split, act)
    if act in LEFT_ALONE:
        assert wait_until(lambda: not split.fences(DOMAIN), LEASE_MS / 1000 + LATE_S)
        time.sleep(1.0)  # customers go on, all of them on one side
        assert len(set(truth(split)[0])) == 1
    # Status tells what is true.
    stands = split.domain(DOMAIN)
    served, owned = truth(split)
    assert [(item["percentage"], item["epoch"]) for item in stands["served"]] == served
    assert [(item["percentage"], item["epoch"]) for item in stands["owned"]] == owned
    assert len(stands["unfinished"]) == 1
    assert stands["next_command"] == f"splitctl rollout advance {DOMAIN}"
    # The same command again finishes the step.
    step = split.type("rollout", "advance", DOMAIN).data
    assert (step["domain"], step["from"], step["to"]) == (DOMAIN, 0, 10)
    assert step["resumed"] is ((10, step["epoch"]) in served)
    stands = split.domain(DOMAIN)
    assert {item["percentage"] for item in [*stands["served"], *stands["owned"]]} == {10}
    assert (stands["asked"], stands["unfinished"], stands["disagreements"]) == (10, [], [])
    # Nobody waited for longer than the lease, and what was written meanwhile is on both sides.
    assert split.longest_hold_s() <= LEASE_MS / 1000 + LATE_S
    split.type("rollback")
