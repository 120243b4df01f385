"""Where each key stands in the text of a configuration, for messages."""

import re
import tomllib
from collections.abc import Mapping

HEADER = re.compile(r"\s*(\[\[?)\s*([\w.\-]+)\s*\]")
ASSIGNMENT = re.compile(r"\s*([\w.\-]+)\s*=")


def of_keys(text: str) -> dict[str, int]:
    """The line of each dotted key in a valid text; lists of tables are counted from 0."""
    lines = text.splitlines()
    found: dict[str, int] = {}
    counts: dict[str, int] = {}
    table, number = "", 0
    while number < len(lines):
        header, assignment = HEADER.match(lines[number]), ASSIGNMENT.match(lines[number])
        end = number + 1
        if header:
            if header[1] == "[[":
                counts[header[2]] = counts.get(header[2], -1) + 1
            table = _numbered(header[2], counts)
            found.setdefault(table, number + 1)
        elif assignment:
            found[f"{table}.{assignment[1]}".lstrip(".")] = number + 1
            while not _whole("\n".join(lines[number:end])) and end < len(lines):
                end += 1
        number = end
    return found


def of_key(key: str, lines: Mapping[str, int]) -> int:
    """The line of a key, or of the nearest thing around it that has one; 0 for none."""
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return lines.get(key, 0)


def _numbered(name: str, counts: Mapping[str, int]) -> str:
    """The name of a table with the numbers of the lists that it lies in."""
    path, told = "", ""
    for part in name.split("."):
        path, told = f"{path}.{part}".lstrip("."), f"{told}.{part}".lstrip(".")
        if path in counts:
            told = f"{told}.{counts[path]}"
    return told


def _whole(assignment: str) -> bool:
    """Whether these lines hold all of a value, which may go over several."""
    try:
        tomllib.loads(assignment)
    except tomllib.TOMLDecodeError:
        return False
    return True
