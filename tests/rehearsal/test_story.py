"""The story's steps: made once each, and in the certificate with the proof that came later."""

from pathlib import Path
from typing import Any

from rehearsal.certificate import Evidence, build
from rehearsal.commands import CommandAnswer, CommandRecord
from rehearsal.scene import Scene
from rehearsal.story import Story
from rehearsal.tally import Tally

OPEN = {"word": "open", "measured": 12.5, "low": 0.0, "high": 60.0, "customers": 8}
PROVEN = {"word": "proven", "measured": 9.8, "low": 6.2, "high": 14.2, "customers": 1204}
STEP = {"domain": "things", "from": 0, "to": 10, "epoch": 2, "held_requests": 3}


class Terminal:
    """Answers each command by its first words; several answers in turn."""

    def __init__(self, **answers: list[tuple[int, Any]]) -> None:
        self.answers, self.typed = answers, []  # type: ignore[var-annotated]

    def run(
        self, *arguments: str, expect: tuple[int, ...] = (0,), timeout_s: float = 600
    ) -> CommandAnswer:
        self.typed.append(arguments[:2])
        given = self.answers.get(arguments[1], [(0, {})])
        code, data = given.pop(0) if len(given) > 1 else given[0]
        assert code in expect
        return CommandAnswer(CommandRecord(" ".join(arguments), code, 0.1), data, "")


def told(terminal: Terminal, directory: Path) -> list[dict[str, Any]]:
    evidence = Evidence(seed=1)
    story = Story(
        typist=terminal,
        ground=None,  # type: ignore[arg-type]
        scene=Scene("test"),
        evidence=evidence,
        tally=Tally(directory / "writes.jsonl"),
        stage_file=directory / "stage.json",
        domains=["things"],
        soak_s=1.0,
        on_step=lambda _: None,
        least_writes=0,
    )
    story.ascend((10,))
    steps: list[dict[str, Any]] = build(evidence)["steps"]
    return steps


def test_a_step_that_lacked_customers_is_made_once_and_proven_by_the_watch(tmp_path: Path) -> None:
    other = {"kind": "proven", "data": {**PROVEN, "epoch": 1, "measured": 1.0}}
    events = [
        other,
        {"kind": "step", "data": {}},
        {"kind": "proven", "data": PROVEN | {"epoch": 2}},
    ]
    terminal = Terminal(advance=[(7, STEP | {"proof": OPEN})], history=[(0, events)])
    (step,) = told(terminal, tmp_path)
    assert (step["proven"], step["measured"], step["customers"]) == (True, 9.8, 1204)
    assert terminal.typed.count(("rollout", "advance")) == 1


def test_a_step_that_soaks_still_is_typed_again(tmp_path: Path) -> None:
    soaks = {"verdict": "soaking", "reason": "soaked 1 s of 6 s"}
    terminal = Terminal(advance=[(7, soaks), (0, STEP | {"proof": PROVEN})])
    (step,) = told(terminal, tmp_path)
    assert step["proven"]
    assert ("rollout", "history") not in terminal.typed
