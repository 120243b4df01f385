"""The programs of an estate as child processes: started, waited for, ended in order."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import httpx

from rehearsal.children import Child, ChildFailed, Children, wait_until

READY_LIMIT_S = 60.0


@dataclass(frozen=True)
class Program:
    """A program to run. `ready_url` answers 200 once it can work; None: running is enough."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready_url: str | None = None


def module(name: str, *arguments: str) -> list[str]:
    """The command line that runs a Python module with this interpreter."""
    return [sys.executable, "-m", name, *arguments]


class Programs:
    """Programs by name, each with its log in DIR/logs."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self._programs: dict[str, Program] = {}

    def start(self, *programs: Program, limit_s: float = READY_LIMIT_S) -> None:
        """Start programs side by side and wait until each is ready. Raises ChildFailed."""
        for program in programs:
            self._programs[program.name] = program
            self._children.start(
                program.name, program.command, environment=dict(program.environment)
            )
        for program in programs:
            self.await_ready(program.name, limit_s=limit_s)

    def start_again(self, name: str) -> None:
        """Start one that was stopped, as it was. Raises ChildFailed, KeyError."""
        self.start(self._programs[name])

    def await_ready(self, name: str, *, limit_s: float = READY_LIMIT_S) -> None:
        """Wait until one is ready. Raises ChildFailed with the end of its log."""
        child, url = self._children.get(name), self._programs[name].ready_url
        if not wait_until(partial(_settled, child, url), limit_s):
            raise ChildFailed(f"{name} was not ready in {limit_s:g} s:\n{child.last_words()}")
        code = child.ended()
        if code is not None:
            raise ChildFailed(f"{name} ended with {code}:\n{child.last_words()}")

    def stop(self, *names: str) -> None:
        """End programs side by side."""
        self._children.stop(*names)

    def fallen(self) -> list[str]:
        """One line for each program that ended without being asked to."""
        return [
            f"{child.name} ended with {child.ended()}: {child.last_words()[-300:]}"
            for child in self._children.fallen()
            if child.name in self._programs
        ]


def _settled(child: Child, url: str | None) -> bool:
    if child.ended() is not None or url is None:
        return True
    try:
        return httpx.get(url, timeout=2.0).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
