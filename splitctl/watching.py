"""How a watch is shown: one screen on a terminal, lines elsewhere; and how a person leaves it."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from estate.config import Config
from estate.errors import ExitCode, SplitctlError
from rollout.looks import Progress


class WatchLeft(SplitctlError):
    """You left the watch. Customers stay where they are, and nobody brings them back when a gate
    fails, until somebody watches again."""

    hint = "splitctl rollout watch{domains}"
    exit_code = ExitCode.INTERRUPTED


@contextmanager
def shown(
    config: Config, domains: Sequence[str] | None, line: Callable[[Progress], None]
) -> Iterator[Callable[[Progress], None]]:
    """Gives what takes each look. Raises WatchLeft at Ctrl-C."""
    try:
        with ExitStack() as stack:
            yield _screen(config, stack) if _is_terminal() else line
    except KeyboardInterrupt:
        raise WatchLeft(domains="".join(f" {name}" for name in domains or ())) from None


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _screen(config: Config, stack: ExitStack) -> Callable[[Progress], None]:
    """A screen that opens with the first look: what comes before it may still be refused."""
    from rollout.board import gather
    from splitctl.screen import Screen

    seen: list[Progress] = []

    def take(look: Progress) -> None:
        first = not seen
        seen[:] = [look]
        if first:
            stack.enter_context(Screen(lambda: gather(config, seen[0])))

    return take
