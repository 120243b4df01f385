"""kill -9 and Ctrl-C of `splitctl rehearse`: nothing of it is left, and nobody else is touched."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rehearsal.children import PIDS
from tests.rehearsal.faults.ground import end, processes_of
from tests.rehearsal.faults.place import Place

pytestmark = pytest.mark.faults

# What the rehearsal prints when it comes to a point of its story.
POINTS = (
    "step     seed",
    "$ splitctl schema apply",
    "$ splitctl sync enable",
    "$ splitctl backfill run",
    "$ splitctl verify run",
    "$ splitctl rollout start",
    "$ splitctl rollout advance",
    "$ splitctl rollout watch",
    "$ splitctl rollback",
)


@pytest.fixture(scope="module")
def place(open_directory: Path) -> Iterator[Place]:
    directory = open_directory / "rehearsed"
    sleep = [sys.executable, "-c", "import time; time.sleep(3600)"]
    bystanders = [subprocess.Popen([*sleep, str(directory)]), subprocess.Popen(sleep)]
    try:
        yield Place(directory, bystanders)
    finally:
        for bystander in bystanders:
            end(bystander)


@pytest.mark.parametrize("point", POINTS)
def test_kill_9_leaves_nothing_and_the_next_run_begins(place: Place, point: str) -> None:
    """Each of these runs begins where the one before was killed."""
    running = place.rehearse()
    try:
        if POINTS.index(point) > POINTS.index("$ splitctl schema apply"):
            place.await_point(running, "$ splitctl schema apply")
            place.lenient()
        place.await_point(running, point)
        assert len(processes_of(place.directory)) > 4
        running.kill()
        assert running.wait(timeout=10) == -signal.SIGKILL
        place.nothing_left()
        place.accuse()
    finally:
        end(running)


def test_ctrl_c_leaves_nothing(place: Place) -> None:
    running = place.rehearse()
    try:
        place.await_point(running, "$ splitctl backfill run")
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=60) == 130, place.told()[-2000:]
        place.nothing_left()
        assert not (place.directory / PIDS).exists()
    finally:
        end(running)


@pytest.mark.timeout(900)
def test_keep_and_the_way_back_from_anywhere(place: Place, tmp_path: Path) -> None:
    """The whole story, kept; the runbook's command, twice; then kill -9 at its end."""
    running = place.rehearse("--keep")
    try:
        place.await_point(running, "$ splitctl schema apply")
        place.lenient()
        place.await_point(running, "the estate keeps running")
        made = json.loads((place.directory / "certificate.json").read_text(encoding="utf-8"))
        # So small a run need not pass (a step may have held nobody), but it came to its end.
        assert [c for c in made["commands"] if "archive" in c["command"]], made["reasons"]
        assert (made["lost_writes"], made["duplicate_orders"]) == (0, 0)
        assert f"export SPLITCTL_CONFIG={place.directory / 'config.toml'}" in place.told()
        first, second = (type_rollback(place, tmp_path) for _ in range(2))
        for back in first["rollbacks"]:
            assert (back["from"], back["to"], back["already"]) == (100, 0, False)
            assert (back["at_risk"], back["problems"]) == ([], [])
        epochs = {back["domain"]: back["epoch"] for back in first["rollbacks"]}
        assert set(epochs) == {"checkout", "return"}
        assert [back["already"] for back in second["rollbacks"]] == [True, True]
        assert {back["domain"]: back["epoch"] for back in second["rollbacks"]} == epochs
        told = typed(place, tmp_path, "rollback").stdout
        assert told.count("nothing was changed") == 2, told
        stands = json.loads(typed(place, tmp_path, "status", "-o", "json").stdout)
        for domain in stands["domains"]:
            both = [*domain["served"], *domain["owned"]]
            assert {item["percentage"] for item in both} == {0}
            assert (domain["unfinished"], domain["disagreements"]) == ([], [])
        verified = typed(place, tmp_path, "verify", "run", "-o", "json")
        assert verified.returncode == 0, verified.stdout[-2000:]
        running.kill()
        assert running.wait(timeout=10) == -signal.SIGKILL
        place.nothing_left()
    finally:
        end(running)


def typed(place: Place, anywhere: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """A command from another directory, told of the estate by SPLITCTL_CONFIG alone."""
    program = Path(sys.executable).with_name("splitctl")
    environment = {
        "SPLITCTL_CONFIG": str(place.directory / "config.toml"),
        "SPLITCTL_STATE_DIR": str(anywhere / "state"),
    }
    return subprocess.run(
        [str(program), *words], cwd=anywhere, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def type_rollback(place: Place, anywhere: Path) -> dict[str, Any]:
    answer = typed(place, anywhere, "rollback", "-o", "json")
    assert answer.returncode == 0, (answer.stdout, answer.stderr)
    return dict(json.loads(answer.stdout))
