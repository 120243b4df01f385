"""The command line as a person meets it: help, mistakes, exit codes; never a traceback."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from estate.config import load
from estate.errors import ExitCode

SPLITCTL = [sys.executable, "-m", "splitctl"]
DSNS = ("ORDER_DB_DSN", "CHECKOUT_DB_DSN", "RETURN_DB_DSN", "SPLITCTL_LEDGER_DSN")


def surroundings(directory: Path, dsn: str | None = None) -> dict[str, str]:
    """An environment with a state directory of its own; with a DSN all secrets are set."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("SPLITCTL_")}
    secrets = {**dict.fromkeys(DSNS, dsn), "GATEWAY_ADMIN_TOKEN": "t0ken"} if dsn else {}
    return {**inherited, "SPLITCTL_STATE_DIR": str(directory / "state"), **secrets}


def splitctl(
    *arguments: str, directory: Path, dsn: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program as a process, without a terminal."""
    return subprocess.run(
        [*SPLITCTL, *arguments],
        cwd=directory,
        env=surroundings(directory, dsn),
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
    for group in (
        "schema",
        "sync",
        "backfill",
        "verify",
        "rollout",
        "deploy",
        "decommission",
        "rehearse",
    ):
        assert group in found.stdout


def test_it_starts_without_what_only_commands_need(tmp_path: Path) -> None:
    heavy = {"psycopg", "sqlalchemy", "alembic", "httpx", "rich", "jinja2", "matplotlib"}
    program = f"import sys, splitctl.main; print(sorted({heavy!r} & set(sys.modules)))"
    command = [sys.executable, "-c", program]
    told = subprocess.check_output(command, env=surroundings(tmp_path), text=True)
    assert told.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["rollout", "watch", "--soak", "soon"],
        ["history", "--limit", "0"],
        ["load", "--rate", "many"],
        ["load", "--rate", "9/s", "--think", "1s"],
        ["smoke", "--side", "left"],
        ["rollout", "history", "--since", "noon"],
        ["rollout", "run", "--until", "0"],
        ["rollout", "answer", "checkout", "--gate", "complaints"],
    ],
)
def test_typed_wrong_it_says_what_is_right(arguments: list[str], tmp_path: Path) -> None:
    found = splitctl(*arguments, directory=tmp_path)
    assert found.returncode == ExitCode.USAGE
    assert "Usage:" in found.stderr
    assert "Traceback" not in found.stderr


def test_init_writes_a_configuration_once(started: Path) -> None:
    assert (started / "config.toml").is_file()
    assert len(list((started / "mappings").rglob("*.sql"))) == 15
    assert len(list((started / "invariants").rglob("*.sql"))) == 16
    assert len(list((started / "flows").glob("*.toml"))) == 3
    assert len(list((started / "gates").rglob("*.sql"))) == 3
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
    ["sync", "strays", "checkout"],
    ["sync", "waiting"],
    ["sync", "settle", "checkout.forward/1", "--keep", "owner"],
    ["sync", "teardown", "--confirm", "example"],
    ["sync", "grants", "order"],
    ["backfill", "run", "checkout"],
    ["backfill", "status"],
    ["backfill", "pause", "checkout"],
    ["backfill", "resume", "checkout"],
    ["verify", "run"],
    ["verify", "invariants"],
    ["verify", "self-test"],
    ["verify", "repair", "checkout"],
    ["rollout", "start", "checkout"],
    ["rollout", "advance", "checkout"],
    ["rollout", "watch"],
    ["rollout", "run"],
    ["rollout", "finish", "checkout"],
    ["rollout", "finish", "checkout", "--undo", "--dry-run"],
    ["rollout", "pause", "checkout"],
    ["rollout", "resume", "checkout"],
    ["rollout", "answer", "checkout", "--gate", "complaints", "--no"],
    ["rollout", "history"],
    ["rollout", "status"],
    ["smoke"],
    ["smoke", "checkout", "--side", "new", "--confirm", "checkout"],
    ["load", "--customers", "3", "--for", "1s"],
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


AWAY = "postgresql://nobody:hunter2@127.0.0.1:9/none"
# The worker waits for its databases to come back, so it is no command that ends.
ENDING = [arguments for arguments in EVERY_COMMAND if arguments != ["sync", "run"]]
# Who only looks has no answer (law L6); who prints a script needs nobody; the rest cannot begin.
ENDS_WITH = {
    ("status",): ExitCode.INCONCLUSIVE,
    ("rollout", "status"): ExitCode.INCONCLUSIVE,
    ("sync", "status"): ExitCode.INCONCLUSIVE,
    ("sync", "strays", "checkout"): ExitCode.INCONCLUSIVE,
    ("sync", "waiting"): ExitCode.INCONCLUSIVE,
    ("smoke",): ExitCode.INCONCLUSIVE,
    ("smoke", "checkout", "--side", "new", "--confirm", "checkout"): ExitCode.INCONCLUSIVE,
    ("load", "--customers", "3", "--for", "1s"): ExitCode.INCONCLUSIVE,
    ("sync", "grants", "order"): ExitCode.DONE,
    # The example asks no question.
    ("rollout", "answer", "checkout", "--gate", "complaints", "--no"): ExitCode.USAGE,
}


@pytest.mark.parametrize("arguments", ENDING, ids=" ".join)
def test_with_everything_away_no_command_breaks(arguments: list[str], started: Path) -> None:
    found = splitctl(*arguments, directory=started, dsn=AWAY)
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
    found = splitctl("sync", "enable", "nothing", directory=started, dsn=AWAY)
    assert found.returncode == ExitCode.USAGE
    assert "checkout, return" in found.stderr


@pytest.mark.parametrize("arguments", [["sync", "grants", "order"], ["doctor"]], ids=" ".join)
def test_a_secret_that_is_no_connection_string_is_not_repeated(
    arguments: list[str], started: Path
) -> None:
    found = splitctl(*arguments, directory=started, dsn="hunter2 and more")
    log = (started / "state" / "splitctl.log").read_text()
    assert found.returncode == ExitCode.PRECONDITION
    assert "env:ORDER_DB_DSN does not hold a connection string" in found.stdout + found.stderr
    assert "hunter2" not in found.stdout + found.stderr + log


def test_doctor_tells_each_secret_that_is_missing_and_how_to_set_it(started: Path) -> None:
    found = splitctl("doctor", directory=started)
    assert found.returncode == ExitCode.PRECONDITION
    for name in (*DSNS, "GATEWAY_ADMIN_TOKEN"):
        assert f"export {name}=VALUE" in found.stdout


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(30)
        yield listening


@pytest.mark.parametrize(
    "arguments",
    [["schema", "status"], ["status"], ["rollout", "advance", "checkout"]],
    ids=" ".join,
)
def test_ctrl_c_ends_a_wait_for_a_silent_database(
    arguments: list[str], started: Path, silent: socket.socket
) -> None:
    dsn = f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/none"
    running = subprocess.Popen(
        # Below a test run in the background, Ctrl-C would be ignored without this.
        ["env", "--default-signal=INT", *SPLITCTL, *arguments],
        cwd=started,
        env=surroundings(started, dsn),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    connection, _ = silent.accept()
    running.send_signal(signal.SIGINT)
    told = running.communicate(timeout=30)[1]
    connection.close()
    assert running.returncode == ExitCode.INTERRUPTED, told
    assert "Interrupted." in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    "end", ["| head -1", "2>&1 | head -1", "2>&-", ">&- 2>&-"], ids=["head", "both", "err", "none"]
)
def test_a_reader_that_goes_away_changes_no_answer(end: str, started: Path) -> None:
    command = f"set -o pipefail; '{sys.executable}' -m splitctl sync status {end}"
    found = subprocess.run(
        ["bash", "-c", command],
        cwd=started,
        env=surroundings(started, AWAY),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == ExitCode.INCONCLUSIVE, found.stderr
    assert "Error" not in found.stderr
