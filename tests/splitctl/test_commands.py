"""The command line as a person meets it: help, mistakes, exit codes; never a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from estate.config import load
from estate.errors import ExitCode


def splitctl(
    *arguments: str, directory: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program as a process, with a state directory of its own and no terminal."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("SPLITCTL_")}
    state = {"SPLITCTL_STATE_DIR": str(directory / "state")}
    return subprocess.run(
        [sys.executable, "-m", "splitctl", *arguments],
        cwd=directory,
        env={**inherited, **state, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """A directory with the worked example's configuration; none of its secrets is set."""
    found = splitctl("init", ".", directory=tmp_path)
    assert found.returncode == 0, found.stderr
    return tmp_path


def test_alone_it_shows_help_with_examples(tmp_path: Path) -> None:
    found = splitctl(directory=tmp_path)
    assert found.returncode == 0
    assert "splitctl rollback" in found.stdout
    for group in ("schema", "sync", "backfill", "verify", "rollout", "decommission", "rehearse"):
        assert group in found.stdout


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["rollout", "watch", "--soak", "soon"], ["history", "--limit", "0"]]
)
def test_typed_wrong_it_says_what_is_right(arguments: list[str], tmp_path: Path) -> None:
    found = splitctl(*arguments, directory=tmp_path)
    assert found.returncode == ExitCode.USAGE
    assert "Usage:" in found.stderr
    assert "Traceback" not in found.stderr


def test_init_writes_a_configuration_once(started: Path) -> None:
    assert (started / "config.toml").is_file()
    assert len(list((started / "mappings").rglob("*.sql"))) == 15
    for database in load(started / "config.toml").databases.values():
        folder = database.migrations
        assert folder is None or list((folder / "versions").glob("0001_*.py"))
    again = splitctl("init", ".", directory=started)
    assert again.returncode == ExitCode.PRECONDITION
    assert "not overwritten" in again.stderr


EVERY_COMMAND = [
    ["doctor"],
    ["status"],
    ["history"],
    ["plan", "checkout"],
    ["rollback"],
    ["schema", "apply"],
    ["schema", "status"],
    ["sync", "enable", "checkout"],
    ["sync", "disable", "checkout"],
    ["sync", "run"],
    ["sync", "status"],
    ["sync", "teardown", "--confirm", "example"],
    ["sync", "grants", "order"],
    ["backfill", "run", "checkout"],
    ["backfill", "status"],
    ["verify", "run"],
    ["verify", "self-check"],
    ["rollout", "start", "checkout"],
    ["rollout", "advance", "checkout"],
    ["rollout", "watch"],
    ["rollout", "status"],
    ["decommission", "rampdown", "checkout"],
    ["decommission", "archive", "checkout", "--confirm", "checkout"],
    ["decommission", "undo", "checkout"],
]


@pytest.mark.parametrize("arguments", EVERY_COMMAND, ids=" ".join)
def test_without_a_configuration_every_command_says_so(
    arguments: list[str], tmp_path: Path
) -> None:
    found = splitctl(*arguments, directory=tmp_path)
    assert found.returncode == ExitCode.USAGE
    assert "no configuration at config.toml" in found.stderr
    assert "Next: splitctl init" in found.stderr
    assert "Traceback" not in found.stderr


# The worker waits for its databases to come back, so it is no command that ends.
ENDING = [arguments for arguments in EVERY_COMMAND if arguments != ["sync", "run"]]
# Who only looks has no answer (law L6); who prints a script needs nobody; the rest cannot begin.
ENDS_WITH = {
    ("status",): ExitCode.INCONCLUSIVE,
    ("rollout", "status"): ExitCode.INCONCLUSIVE,
    ("sync", "status"): ExitCode.INCONCLUSIVE,
    ("sync", "grants", "order"): ExitCode.DONE,
}


@pytest.mark.parametrize("arguments", ENDING, ids=" ".join)
def test_with_everything_away_no_command_breaks(arguments: list[str], started: Path) -> None:
    dead = "postgresql://nobody:hunter2@127.0.0.1:9/none"
    names = ("ORDER_DB_DSN", "CHECKOUT_DB_DSN", "RETURN_DB_DSN", "SPLITCTL_LEDGER_DSN")
    environment = {**dict.fromkeys(names, dead), "GATEWAY_ADMIN_TOKEN": "t0ken"}
    found = splitctl(*arguments, directory=started, environment=environment)
    told = found.stdout + found.stderr
    assert found.returncode == ENDS_WITH.get(tuple(arguments), ExitCode.PRECONDITION), told
    assert "Traceback" not in told
    assert "hunter2" not in told
    assert "t0ken" not in told
    assert found.stderr.count("Next: ") == 1
    assert found.stderr.splitlines()[-1].startswith("Next: ")


def test_an_error_is_data_too(started: Path) -> None:
    found = splitctl("schema", "status", "-o", "json", directory=started)
    assert found.returncode == ExitCode.USAGE
    error = json.loads(found.stdout)
    assert error["error"] == "SecretMissing"
    assert "CHECKOUT_DB_DSN" in error["message"]
    assert error["next"].startswith("export CHECKOUT_DB_DSN=")
    assert error["next"] in found.stderr


def test_a_severe_act_wants_the_name_typed(started: Path) -> None:
    found = splitctl("decommission", "archive", "checkout", directory=started)
    assert found.returncode == ExitCode.USAGE
    assert "--confirm checkout" in found.stderr


def test_an_unknown_domain_is_named_with_those_there_are(started: Path) -> None:
    names = ("ORDER_DB_DSN", "CHECKOUT_DB_DSN", "RETURN_DB_DSN", "SPLITCTL_LEDGER_DSN")
    environment = {**dict.fromkeys(names, "host=127.0.0.1 port=9"), "GATEWAY_ADMIN_TOKEN": "x"}
    found = splitctl("sync", "enable", "nothing", directory=started, environment=environment)
    assert found.returncode == ExitCode.USAGE
    assert "checkout, return" in found.stderr
