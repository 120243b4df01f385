"""kill -9 of the command that makes a step, after each of its acts; the next one goes on."""

import signal

import pytest

from tests.cluster.nine_days.ground import NineDays
from tests.rehearsal.faults.killed import UNFENCED

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

DOMAIN = "return"
# The losing side has given those who move away, and nobody has taken them yet: whoever is in the
# way of `rollout advance` is served by nobody. It is typed at once.
BETWEEN = ("own-losing", "late-crossing")


@pytest.mark.parametrize("act", UNFENCED)
def test_killed_after(written: NineDays, act: str) -> None:
    """No customer sees an error; `status` tells the truth; the same command makes the step."""
    ground = written
    assert ground.verify("--domain", DOMAIN)["verdict"] == "equal"
    ended = ground.run("tests.rehearsal.faults.killed", act, "rollout", "advance", DOMAIN)
    assert ended.returncode == -signal.SIGKILL, (ended.stdout, ended.stderr)
    if act not in BETWEEN:
        stands = ground.domain(DOMAIN)
        assert len(stands["unfinished"]) == 1
        assert stands["next_command"] == f"splitctl rollout advance {DOMAIN}"
        assert stands["asked"] == 0
        ground.shop_goes_on()
    step = ground.step(DOMAIN)
    assert (step["domain"], step["from"], step["to"]) == (DOMAIN, 0, 10)
    assert (ground.served(DOMAIN), ground.owned(DOMAIN)) == ({10}, {10})
    stands = ground.domain(DOMAIN)
    assert (stands["asked"], stands["unfinished"], stands["disagreements"]) == (10, [], [])


def test_an_unattended_rollout_is_killed(written: NineDays) -> None:
    """Another one, started elsewhere, goes on with the same phase and its clock."""
    ground = written
    ground.advance(DOMAIN, 10)
    asked = ("rollout", "run", DOMAIN, "--until", "10")
    with ground.command(*asked, "--config", ground.patient()) as running:
        running.says(f"{DOMAIN} 10 %: ")
        running.kill()
    clock = ground.domain(DOMAIN)["soak_s"]
    with ground.command(*asked) as running:
        assert running.ended() == 0
    assert ground.domain(DOMAIN)["soak_s"] >= clock
