"""The commands that pages show in blocks, in the order in which somebody types them.

A block is fenced, as `console` or `sh`. `# exit 3` after a command is how it ends, where that is
not 0; what else stands behind `#` is a remark. `<!-- world: NAME -->` before a block is what has
happened before its commands: the test that types them says what that is.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?:^<!-- world: (.+?) -->\n)?^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHELLS = ("console", "sh")
LINE = re.compile(r"^(?:\$ )?splitctl +([^#]*?)(?:\s+#(?:\s*exit (\d+))?.*)?$")
SHOWN = re.compile(r"^\s*(?:\$ )?splitctl [a-z-]")


@dataclass(frozen=True)
class Typed:
    """A command of a page. `world`: what happens before it; empty: nothing."""

    page: str
    line: int
    world: str
    text: str
    code: int = 0

    def words(self, *, named: Sequence[tuple[str, str]] = ()) -> list[str]:
        """What follows `splitctl`, with names of the page replaced by those of a test's estate."""
        names = dict(named)
        return [names.get(word, word) for word in shlex.split(self.text)]

    def ended(self, code: int, told: str) -> None:
        """Fail unless it ended as the page says."""
        assert code == self.code, f"{self}: it ends with {code}, not {self.code}\n{told}"
        assert "Traceback" not in told, f"{self}\n{told}"

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: `splitctl {self.text}`"


def pages() -> list[str]:
    """All that people read, by their paths in the repository."""
    return ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]


def commands(page: str) -> list[Typed]:
    """What a page's blocks have people type."""
    text = _text(page)
    return [
        Typed(page, line, world if first else "", found[1].strip(), int(found[2] or 0))
        for world, start, lines in _blocks(text)
        for line, first, shown in _shown(start, lines)
        if (found := LINE.match(shown))
    ]


def unread(page: str) -> list[str]:
    """Lines of blocks, fenced or indented, that look like commands where no test reads them."""
    text = _text(page)
    read = {command.line for command in commands(page)}
    fenced = {
        line
        for block in BLOCK.finditer(text)
        for line in range(text.count("\n", 0, block.start(3)), text.count("\n", 0, block.end()))
    }
    return [
        f"{page}:{number}: `{line.strip()}`"
        for number, line in enumerate(text.splitlines(), 1)
        if SHOWN.match(line)
        and number not in read
        and (number - 1 in fenced or line.startswith(("    ", "$ ")))
    ]


def _blocks(text: str) -> Iterator[tuple[str, int, list[str]]]:
    """Each block's world, the number of its first line, and its lines."""
    for block in BLOCK.finditer(text):
        if block[2] in SHELLS:
            yield block[1] or "", text.count("\n", 0, block.start(3)) + 1, block[3].splitlines()


def _shown(start: int, lines: list[str]) -> Iterator[tuple[int, bool, str]]:
    """The commands of a block: number of the line, whether it is the first one, the line."""
    found = [(start + n, line) for n, line in enumerate(lines) if SHOWN.match(line)]
    for n, (number, line) in enumerate(found):
        yield number, n == 0, line


def _text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")
