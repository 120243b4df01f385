"""A stream as a person sees it: so wide, and on a terminal wrapped between words."""

import shutil
import textwrap
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.table import Table


class Page:
    """Where text is written, line by line. Off a terminal no line is wrapped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._terminal = stream, stream.isatty()
        self._width = shutil.get_terminal_size().columns

    def line(self, text: str = "", indent: int | None = None) -> None:
        """A line; what does not fit goes on below, `indent` columns from the left."""
        if self._terminal and len(text) > self._width:
            left = len(text) - len(text.lstrip())
            below = left + 2 if indent is None else indent
            text = textwrap.fill(
                text,
                self._width,
                subsequent_indent=" " * (below if below < self._width / 2 else left + 2),
                break_long_words=False,
                break_on_hyphens=False,
            )
        self._stream.write(text + "\n")

    def table(self, table: "Table") -> bool:
        """A table, if each of its rows fits into a line; else nothing, and False."""
        from rich.console import Console

        console = Console(highlight=False, markup=False, width=self._width)
        wide = console.options.update(max_width=10_000)
        if console.measure(table, options=wide).maximum > self._width:
            return False
        with console.capture() as drawn:
            console.print(table)
        # Written here and not by rich, which would end the program when the reader goes away.
        for row in drawn.get().splitlines():
            self._stream.write(row.rstrip() + "\n")
        return True
