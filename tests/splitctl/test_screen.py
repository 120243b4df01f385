"""The screen of a watch: all that matters at one look, in every window, in letters that it has."""

import io
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from estate.config import Config
from estate.errors import ExitCode
from migrator.status import StreamStatus
from rollout.board import Board, DomainBoard, GateLine
from rollout.gates import GateResult
from rollout.history import Event
from rollout.looks import Progress, Watched
from rollout.seen import Word
from rollout.status import DomainStatus, Served
from splitctl.screen import Drawing
from splitctl.watching import WatchLeft, shown

NOW = datetime(2024, 5, 1, 10, 0, tzinfo=UTC)


def gate(name: str, verdict: Word, reason: str = "", on_fail: str = "rollback") -> GateLine:
    result = GateResult("things", name, "kind", verdict, 0.0042, 0.01, 12_345, reason, on_fail)
    return GateLine(result, (1.0, 2.0, 3.0, 8.0))


def status(name: str, **changed: object) -> DomainStatus:
    found = DomainStatus(
        domain=name,
        stage="live",
        asked=10,
        served=[Served("gw-1", 10, 4), Served("gw-2", 10, 4)],
        owned=[],
        measured=9.8,
        requests=1_234_567,
        soak_s=7800.0,
        soak_required_s=86_400.0,
        verified="equal, 32 s ago",
        sync=[
            StreamStatus(
                f"{name}.forward", True, True, 12.0, 0, 0, 0, 0, {"m": "live"}, 300.0, 0, None
            )
        ],
        unfinished=[],
        disagreements=[],
        next_command=f"splitctl rollout watch {name}",
    )
    return replace(found, **changed)  # type: ignore[arg-type]


def board(*domains: DomainBoard) -> Board:
    event = Event(NOW, "things", "gate errors", "pass", "a reason", "ann", "host", "x", 0.0, {})
    shown = domains or (things(),)
    return Board("staging", NOW, shown, "bob on host: rollout advance", {}, (event,))


def things(result: str = "soak", **changed: object) -> DomainBoard:
    watched = Watched("things", 10, result, "", 7800.0, 86_400.0)
    gates = (
        gate("errors", "pass"),
        gate("latency", "inconclusive", "12 of 200 samples"),
        gate("complaints", "fail", "yes, said ann", on_fail="hold"),
    )
    return DomainBoard(status("things", **changed), watched, gates)


def drawn(found: Board, width: int = 110, height: int = 40, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    console = Console(file=file, width=width, height=height, force_terminal=True, no_color=True)
    console.print(Drawing(found), height=height)
    file.flush()
    raw = file.buffer.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in _plain(raw.decode(encoding)).rstrip("\n").split("\n")]


def _plain(text: str) -> str:
    """Without what makes letters bold."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_it_shows_what_is_asked_served_measured_and_how_far_the_clock_is() -> None:
    text = "\n".join(drawn(board()))
    for wanted in (
        "staging  2024-05-01 10:00:00 UTC", "lock: bob on host", "asked 10 %", "served 10 %",
        "measured 9.8 % of 1,234,567", "2 h 10 min of 1 day 0 h", "soak", "0.0042", "12,345",
        "0.01", "pass", "12 of 200 samples", "fail (hold)", "▁▂▃█", "forward: lag 12 ms",
        "equal, 32 s ago", "gate errors: pass", "by ann", "next  splitctl rollout watch things",
    ):  # fmt: skip
        assert wanted in text, wanted
    assert "██░░" in text


def test_what_a_person_must_know_stands_there() -> None:
    found = things(
        "paused",
        paused="paused by ann on host: sale",
        drift="gw-1 serves 30 %",
        wanted=["complaints"],
        unfinished=["step to 50 %"],
    )
    away = replace(board(found), away={"ledger": "no route to host"})
    text = "\n".join(drawn(away))
    for wanted in ("! paused by ann on host: sale", "! drift: gw-1 serves 30 %",
                   "! an answer is wanted: complaints", "! unfinished: step to 50 %",
                   "away: ledger: no route to host"):  # fmt: skip
        assert wanted in text


@pytest.mark.parametrize("width", [30, 43, 50, 60, 80, 200])
@pytest.mark.parametrize("height", [3, 6, 12, 24, 60])
def test_it_fits_every_window(width: int, height: int) -> None:
    other = DomainBoard(status("others"), None)
    lines = drawn(board(things(), other), width, height)
    assert len(lines) <= height
    assert max(len(line) for line in lines) <= width
    text = "\n".join(lines)
    assert "things" in text
    assert "others" in text or height < 6


def test_in_a_narrow_window_columns_go_and_the_verdict_stays() -> None:
    wide, narrow = ("\n".join(drawn(board(), width)) for width in (80, 50))
    assert "samples" in wide
    assert "▁▂▃█" in wide
    assert "12,345" not in narrow
    assert "▁▂▃█" not in narrow
    assert "inconclusive" in narrow


def test_a_gate_against_the_old_side_shows_both_figures_and_why_it_fails() -> None:
    why = "0.42 % errors, the old side 0.1 % of 90,000: 4.2 times, more than 2 times and no chance"
    lost = replace(gate("errors", "fail", why).result, ratio=4.2, times=2.0)
    found = board(replace(things(), gates=(GateLine(lost), gate("latency", "pass"))))
    wide = "\n".join(drawn(found, 80))
    for wanted in ("0.0042 = 4.2x old", "0.01, 2x", "fail"):
        assert wanted in wide, wanted
    assert why in " ".join(wide.split()), "its figures are not cut off"
    narrow = "\n".join(drawn(found, 50))
    assert "x old" not in narrow
    assert "fail" in narrow


def test_in_a_narrow_window_the_next_command_is_whole() -> None:
    following = "splitctl rollout answer things --gate complaints --yes|--no"
    text = " ".join(drawn(board(things(next_command=following)), 34))
    assert following in " ".join(text.split())


def test_without_colour_nothing_is_coloured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True)
    console.print(Drawing(board()), height=24)
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", file.getvalue())


def test_who_leaves_a_watch_is_told_how_to_go_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = Config.model_construct(path=tmp_path)
    lines: list[str] = []
    look = Progress((Watched("things", 10, "soak", "", 1.0, 2.0),), ())
    with (
        pytest.raises(WatchLeft) as left,
        shown(config, ["things"], lambda found: lines.append(str(found))) as on_progress,
    ):
        on_progress(look)
        raise KeyboardInterrupt
    assert left.value.exit_code is ExitCode.INTERRUPTED
    assert left.value.next_command == "splitctl rollout watch things"
    assert lines == ["things 10 %: 1/2 s, soak"], "no screen without a terminal"
    assert capsys.readouterr().err == ""


def test_in_a_low_window_what_passes_is_one_line() -> None:
    text = "\n".join(drawn(board(), 80, 14))
    assert "pass: errors" in text
    assert "latency" in text
    assert "next" in text


def test_a_terminal_without_such_letters_gets_others() -> None:
    text = "\n".join(drawn(board(), encoding="ascii"))
    assert "##" in text
    assert "_.-#" in text


def test_a_domain_that_nobody_is_on_yet_has_no_clock() -> None:
    found = DomainBoard(status("things", stage="dual-write", asked=None, measured=None), None)
    text = "\n".join(drawn(board(found)))
    assert "asked unknown" in text
    assert "  soak" not in text


def test_a_gate_that_was_never_measured_has_no_column() -> None:
    line = gate("errors", "inconclusive")
    empty = GateLine(replace(line.result, measured=None))
    found = replace(things(), gates=(empty,))
    text = "\n".join(drawn(board(found)))
    assert "▁" not in text
