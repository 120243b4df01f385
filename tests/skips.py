"""Pytest plugin of the CI run: a skip that is not on the reviewed list is a failure.

Loaded with `-p tests.skips`. The list is `tests/skips.txt`: one `test id: reason` a line.
"""

from pathlib import Path

import pytest

REVIEWED = Path(__file__).with_name("skips.txt")


def reviewed() -> set[str]:
    """The test ids that may be skipped."""
    lines = REVIEWED.read_text(encoding="utf-8").splitlines()
    return {line.split(": ")[0].strip() for line in lines if line and not line.startswith("#")}


class Unreviewed:
    """Collects skips and turns the run red when one is not on the list."""

    def __init__(self) -> None:
        self.allowed = reviewed()
        self.found: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember a skip that nobody reviewed."""
        # Behind the test's own name may stand the group with which it shares a process.
        if report.skipped and report.nodeid.partition("@tests/")[0] not in self.allowed:
            self.found.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A whole module that is skipped counts too."""
        if report.skipped and report.nodeid not in self.allowed:
            self.found.append(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the run."""
        if self.found:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name them."""
        for nodeid in self.found:
            terminalreporter.write_line(f"SKIP NOT REVIEWED: {nodeid}", red=True)


def pytest_configure(config: pytest.Config) -> None:
    """Install the plugin."""
    config.pluginmanager.register(Unreviewed(), "unreviewed-skips")
