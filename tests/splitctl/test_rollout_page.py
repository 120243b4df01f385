"""Every command of docs/rollout.md, in its order: typed, and ended as the page says.

The ledger is real, the estate around it in memory. The page calls its domain `checkout`, the estate
`d`. What stands in `<!-- world: ... -->` before a block happens before its commands.
"""

import re
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from estate.config import Config
from rollout.flags import DomainFlags
from rollout.tools import Tools
from splitctl.main import app
from tests.pages.commands import ROOT, Typed, commands
from tests.rollout.conftest import (
    config,
    ledger_database,
    rig,
    tools,
)
from tests.rollout.rig import DOMAIN, Rig
from tests.rollout.way import advanced, busy, soaked, started, verified

__all__ = ["config", "ledger_database", "rig", "tools"]  # fixtures of a rollout in memory

PAGE = "docs/rollout.md"
NAMED = (("checkout", DOMAIN),)
Type = Callable[[Typed], None]


@pytest.fixture
def type_in(config: Config, tools: Tools, monkeypatch: pytest.MonkeyPatch) -> Type:
    """Type a command of a page, over the estate in memory."""
    monkeypatch.setattr("rollout.tools.Tools.of", lambda _: tools)

    def work(command: Typed) -> None:
        words = [*command.words(named=NAMED), "--config", str(config.path)]
        typed = CliRunner().invoke(app, words)
        command.ended(typed.exit_code, typed.output)

    return work


def test_every_command_group_of_a_rollout_is_on_the_page() -> None:
    told = {command.words()[1] for command in commands(PAGE) if command.words()[0] == "rollout"}
    known = {"start", "advance", "watch", "run", "pause", "resume", "answer", "history", "status"}
    assert told >= known


def test_the_page_is_true(config: Config, tools: Tools, rig: Rig, type_in: Type) -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    question = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert question
    with config.path.open("a", encoding="utf-8") as file:
        # The page's own gate stands in the configuration; its domains come first there.
        file.write("\n" + question[1])
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
    for command in commands("docs/rollout.md"):
        worlds[command.world]()
        type_in(command)
    assert rig.is_at(0)


def test_the_first_page_is_true_at_night(
    config: Config, tools: Tools, rig: Rig, type_in: Type
) -> None:
    """Half of the customers are on the new side; then one command."""
    started(config, tools)
    advanced(config, tools, rig, 10, 50)
    for command in commands("README.md"):
        type_in(command)
    assert rig.is_at(0)
