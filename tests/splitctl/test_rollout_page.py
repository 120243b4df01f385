"""Every command of docs/rollout.md, in its order: typed, and ended as the page says.

The ledger is real, the estate around it in memory. The page calls its domain `checkout`, the estate
`d`. What stands in `<!-- world: ... -->` before a block happens before its commands.
"""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from estate.config import Config
from rollout.flags import DomainFlags
from rollout.tools import Tools
from splitctl.main import app
from tests.rollout.conftest import (
    config,
    ledger_database,
    rig,
    tools,
)
from tests.rollout.rig import DOMAIN, Rig
from tests.rollout.way import busy, soaked, verified

__all__ = ["config", "ledger_database", "rig", "tools"]  # fixtures of a rollout in memory

PAGE = Path(__file__).parents[2] / "docs" / "rollout.md"
BLOCK = re.compile(r"(?:<!-- world: (\w+) -->\n)?```console\n(.*?)```", re.DOTALL)
LINE = re.compile(r"\$ splitctl (.*?)(?:\s+# exit (\d+))?$")


def commands() -> list[tuple[str, str, int]]:
    """What the world does before, the command, and the exit code, in the order of the page."""
    found = []
    for world, block in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        for number, text in enumerate(block.strip().splitlines()):
            told = LINE.match(text)
            assert told, f"not a command of ours: {text}"
            found.append((world if number == 0 else "", told[1], int(told[2] or 0)))
    return found


def test_every_command_group_of_a_rollout_is_on_the_page() -> None:
    told = {shlex.split(command)[1] for _, command, _ in commands() if "rollout" in command}
    known = {"start", "advance", "watch", "run", "pause", "resume", "answer", "history", "status"}
    assert told >= known


def test_the_page_is_true(
    config: Config, tools: Tools, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = PAGE.read_text(encoding="utf-8")
    question = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert question
    with config.path.open("a", encoding="utf-8") as file:
        # The page's own gate stands in the configuration; its domains come first there.
        file.write("\n" + question[1])
    monkeypatch.setattr("rollout.tools.Tools.of", lambda _: tools)
    tools.sleep = busy(rig)

    def drift() -> None:
        gateway = rig.gateways["gw-2"]
        gateway.domains[DOMAIN] = DomainFlags(True, 30, gateway.domains[DOMAIN].epoch)

    worlds: dict[str, Callable[[], None]] = {
        "": lambda: None,
        "soaked": lambda: soaked(config, rig),
        "drift": drift,
        "errors": lambda: rig.traffic(old=1000, new=1000, errors=100),
    }
    verified(config)
    rig.traffic(old=1, new=1)
    for world, command, code in commands():
        worlds[world]()
        arguments = [DOMAIN if word == "checkout" else word for word in shlex.split(command)]
        typed = CliRunner().invoke(app, [*arguments, "--config", str(config.path)])
        assert typed.exit_code == code, f"splitctl {command}\n{typed.output}"
        assert "Traceback" not in typed.output
    assert rig.is_at(0)
