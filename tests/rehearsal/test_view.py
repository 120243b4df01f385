"""What a person sees: everything at one look, in a small window too; lines without a terminal."""

import io

import pytest
from rich.console import Console

from rehearsal.scene import DomainScene, Scene, StreamScene
from rehearsal.view import LineView, panel


def scene() -> Scene:
    found = Scene("rehearsal", step="10 %: soak", command="splitctl rollout watch --soak 20s")
    found.domains["things"] = DomainScene("live", 10, "10 %", 9.6, 2)
    found.streams["things.forward"] = StreamScene(12.0, 3, 0)
    found.gates["things errors"] = "pass"
    found.writes, found.failed, found.longest_hold_ms = 12_345, 0, 87
    for number in range(9):
        found.tell("command", f"$ splitctl command {number}")
    return found


def shown(found: Scene, width: int, height: int) -> str:
    buffer = io.StringIO()
    console = Console(file=buffer, width=width, height=height, force_terminal=True, no_color=True)
    console.print(panel(found, width, height))
    return buffer.getvalue()


def test_the_panel_shows_every_figure() -> None:
    text = shown(scene(), 110, 40)
    for wanted in ("10 %: soak", "rollout watch", "12,345", "failed requests 0", "87 ms",
                   "9.6 %", "12 ms", "things errors pass", "command 8"):  # fmt: skip
        assert wanted in text


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 16), (40, 12)])
def test_a_small_window_keeps_the_figures_and_does_not_overflow(width: int, height: int) -> None:
    text = shown(scene(), width, height)
    assert "things" in text
    assert "failed" in text
    lines = text.rstrip("\n").split("\n")
    assert len(lines) <= max(height, 17)


def test_without_a_terminal_an_event_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    found = scene()
    with LineView() as view:
        view.event(found.tell("step", "rollback"))
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "rollback" in line
    assert "\x1b" not in line
