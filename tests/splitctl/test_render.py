"""Answers as they are read: wide and narrow, on a terminal and off it, as data."""

import json
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest

from splitctl import render
from splitctl.answers import Listing, Script

PROBLEM = "Database 'order' cannot be reached: connection to server at db-1 failed: timed out"


@dataclass(frozen=True)
class Row:
    stream: str
    alive: bool | None = None
    lag_ms: float | None = None
    states: dict[str, str] = field(default_factory=dict)
    problem: str | None = None


ROWS = [Row("checkout.forward", True, 12.5, {"carts": "live"}), Row("b", problem=PROBLEM)]
ANSWER = Listing(ROWS, "splitctl doctor")


def written(answer: Any, capsys: pytest.CaptureFixture[str], form: str = "text") -> str:
    render.result(answer, "test", form)
    return capsys.readouterr().out


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", "30")
    return 30


def test_rows_that_fit_are_a_table_with_long_words_below(
    capsys: pytest.CaptureFixture[str],
) -> None:
    heading, blank, *lines = written(ANSWER, capsys).splitlines()
    assert heading.startswith("test  ") and heading.endswith(" UTC")
    assert blank == ""
    assert lines == [
        "stream            alive  lag ms  states",
        "checkout.forward  yes      12.5  carts=live",
        "b                 -           -  -",
        "",
        f"b: problem: {PROBLEM}",
    ]


def test_rows_that_do_not_fit_are_paragraphs(
    capsys: pytest.CaptureFixture[str], narrow: int
) -> None:
    lines = written(ANSWER, capsys).splitlines()[2:]
    assert lines == [
        "checkout.forward",
        "  alive yes, lag ms 12.5, states carts=live",
        "b",
        f"  problem: {PROBLEM}",
    ]


def test_a_narrow_terminal_is_kept_to_and_no_word_is_cut(
    capsys: pytest.CaptureFixture[str], narrow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    text = written(ANSWER, capsys)
    assert [line for line in text.splitlines() if len(line) > narrow] == []
    words = " ".join(text.split())
    assert PROBLEM in words


def test_a_list_is_the_same_list_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(written(ANSWER, capsys, "json"))
    assert [row["stream"] for row in data] == ["checkout.forward", "b"]


def test_an_object_holds_its_next_command_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass(frozen=True)
    class Done:
        rows: int

        @property
        def next_command(self) -> str:
            return "splitctl status"

    data = json.loads(written(Done(3), capsys, "json"))
    assert data == {"environment": "test", "rows": 3, "next_command": "splitctl status"}


def test_a_script_is_written_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    script = Script("CREATE ROLE x;\n", "splitctl doctor")
    assert written(script, capsys) == "CREATE ROLE x;\n"


def test_nothing_is_said_to_be_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert written(Listing([], "splitctl status"), capsys).splitlines()[-1] == "(none)"
