"""What a command answers when a database fails under it, and when the mistake is ours."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from splitctl.session import Output, answer_without_config
from tests.conftest import FreshDatabase


def ended(
    work: Callable[[], Any], capsys: pytest.CaptureFixture[str]
) -> tuple[int, dict[str, str]]:
    """The exit code and the answer as data."""
    with pytest.raises(SystemExit) as end:
        answer_without_config(work, Output.JSON)
    code = end.value.code
    assert isinstance(code, int)
    answer: dict[str, str] = json.loads(capsys.readouterr().out)
    return code, answer


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the log is written."""
    monkeypatch.setenv("SPLITCTL_STATE_DIR", str(tmp_path))
    return tmp_path / "splitctl.log"


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("SELECT pg_terminate_backend(pg_backend_pid())", "terminating connection"),
        ("SET statement_timeout = '10ms'; SELECT pg_sleep(5)", "statement timeout"),
    ],
)
def test_a_database_that_fails_in_the_middle_is_told_as_that(
    fresh_databases: dict[str, FreshDatabase],
    capsys: pytest.CaptureFixture[str],
    state: Path,
    statement: str,
    reason: str,
) -> None:
    def work() -> None:
        with psycopg.connect(fresh_databases["order"].dsn) as connection:
            connection.execute(statement.encode())

    code, answer = ended(work, capsys)
    assert code == 5 and answer["error"] == "DatabaseFailed"
    assert reason in answer["message"] and "stays" in answer["message"]
    assert "again" in answer["next"]
    # Whoever has to look for the cause finds the place.
    assert "Traceback" in state.read_text() and "unexpected" not in state.read_text()


def test_a_mistake_of_ours_is_not_blamed_on_a_database(
    fresh_databases: dict[str, FreshDatabase], capsys: pytest.CaptureFixture[str], state: Path
) -> None:
    def work() -> None:
        with psycopg.connect(fresh_databases["order"].dsn) as connection:
            connection.execute("SELECT no_such_column")

    code, answer = ended(work, capsys)
    assert code == 1 and answer["error"] == "Unexpected"
    assert str(state) in answer["message"] and "Traceback" in state.read_text()
