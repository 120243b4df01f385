"""Runs public `splitctl` commands as processes, as a release engineer would type them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rehearsal.children import leashed

Line = Callable[[str], None]


@dataclass(frozen=True)
class CommandRecord:
    """One command that was run: what was typed, how it ended, how long it took (seconds)."""

    command: str
    exit_code: int
    seconds: float


@dataclass(frozen=True)
class CommandAnswer:
    """A record with the command's JSON answer (None when it printed none)."""

    record: CommandRecord
    data: Any
    stderr: str


class CommandFailed(Exception):
    """A command of the story ended otherwise than the story expects."""

    def __init__(self, answer: CommandAnswer) -> None:
        self.answer = answer
        found = answer.data if isinstance(answer.data, dict) else {}
        told = answer.stderr.strip() or str(found.get("reason", ""))
        super().__init__(f"`{answer.record.command}` ended with {answer.record.exit_code}: {told}")


@dataclass
class Commands:
    """The terminal of the rehearsal. `on_start` gets each command line, `on_line` its stderr."""

    config: Path
    environment: dict[str, str]
    on_start: Line
    on_line: Line
    records: list[CommandRecord] = field(default_factory=list)

    def run(
        self, *arguments: str, expect: tuple[int, ...] = (0,), timeout_s: float = 600
    ) -> CommandAnswer:
        """Run `splitctl ARGUMENTS -o json`. Raises CommandFailed on another exit code."""
        shown = " ".join(("splitctl", *arguments))
        self.on_start(shown)
        started = time.monotonic()
        process = subprocess.Popen(
            leashed([sys.executable, "-m", "splitctl", *arguments, "-o", "json"]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **self.environment, "SPLITCTL_CONFIG": str(self.config)},
            start_new_session=True,
        )
        lines: list[str] = []
        reader = threading.Thread(target=self._follow, args=(process, lines), daemon=True)
        reader.start()
        try:
            stdout = self._stdout(process, timeout_s)
        except BaseException:
            _end(process)
            raise
        reader.join(timeout=5)
        seconds = round(time.monotonic() - started, 3)
        record = CommandRecord(shown, process.returncode, seconds)
        self.records.append(record)
        answer = CommandAnswer(record, _json(stdout), "\n".join(lines))
        if process.returncode not in expect:
            raise CommandFailed(answer)
        return answer

    def _follow(self, process: "subprocess.Popen[str]", lines: list[str]) -> None:
        if process.stderr is not None:
            for line in process.stderr:
                lines.append(line.rstrip("\n"))
                self.on_line(line.rstrip("\n"))

    @staticmethod
    def _stdout(process: "subprocess.Popen[str]", timeout_s: float) -> str:
        box: list[str] = []

        def read() -> None:
            if process.stdout is not None:
                box.append(process.stdout.read())

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        process.wait(timeout=timeout_s)
        reader.join(timeout=5)
        return box[0] if box else ""


def _end(process: "subprocess.Popen[str]") -> None:
    """A command is asked first, so that it can release what it holds, then ended."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=5)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None
