"""One shape for every error: what happened, what it means, the next command, an exit code."""

from enum import IntEnum
from typing import Any, ClassVar


class ExitCode(IntEnum):
    """What a command's end tells the shell and the script around it."""

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    CHECK_FAILED = 3
    INCONCLUSIVE = 4
    PRECONDITION = 5
    ROLLED_BACK = 6
    IN_PROGRESS = 7
    INTERRUPTED = 130


class SplitctlError(Exception):
    """Something unexpected happened."""

    # The docstring of each subclass is its message, filled with the keyword arguments.
    hint: ClassVar[str] = "splitctl status"
    exit_code: ClassVar[ExitCode] = ExitCode.UNEXPECTED

    def __init__(self, **facts: Any) -> None:
        self.facts = facts
        super().__init__(str(self))

    def __str__(self) -> str:
        template = " ".join((type(self).__doc__ or "").split())
        return template.format(**self.facts)

    @property
    def next_command(self) -> str:
        """The hint, filled with the same facts as the message."""
        return self.hint.format(**self.facts)


def in_one_line(error: object) -> str:
    """What an error says, for a line of a screen or a log; its kind when it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
