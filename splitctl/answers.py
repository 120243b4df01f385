"""Answers that no room has a dataclass for: a list, and a text for another program."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from estate.errors import ExitCode


@dataclass(frozen=True)
class Listing:
    """Several results as one answer. As data it is the list alone."""

    items: Sequence[Any]
    next_command: str
    exit_code: ExitCode = ExitCode.DONE

    def to_json(self) -> list[Any]:
        """Plain data."""
        return list(self.items)


@dataclass(frozen=True)
class Script:
    """A text to be run by another program: written as it is, without a heading."""

    text: str
    next_command: str
