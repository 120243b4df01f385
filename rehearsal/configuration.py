"""The rehearsal's config.toml: the shipped example, with other addresses, soaks and secrets.

Everything else stays word for word, so that what is rehearsed is what is shipped.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEADER = re.compile(r"^\s*(\[{1,2})\s*([A-Za-z0-9_.\-]+)\s*\]{1,2}")
ASSIGNMENT = re.compile(r"^\s*([A-Za-z0-9_\-]+)\s*=")
Key = tuple[str, str]


class ExampleDamaged(Exception):
    """The shipped example is not as the rehearsal expects it; the message says how."""


def rewrite(text: str, values: Mapping[Key, str]) -> str:
    """Replace the values of `(table, key)`, given as TOML; comments and the rest stay.

    The top level is table "". Raises ExampleDamaged when a key is not there.
    """
    lines = text.splitlines()
    missing = dict(values)
    result: list[str] = []
    table, number = "", 0
    while number < len(lines):
        line = lines[number]
        header, assignment = HEADER.match(line), ASSIGNMENT.match(line)
        if header:
            table = header[2]
        if header or not assignment:
            result.append(line)
            number += 1
            continue
        end = _end_of_value(lines, number)
        key = (table, assignment[1])
        if key in missing:
            result.append(f"{assignment[1]} = {missing.pop(key)}")
        else:
            result.extend(lines[number:end])
        number = end
    if missing:
        names = ", ".join(f"[{table}] {key}" for table, key in missing)
        raise ExampleDamaged(f"the example configuration has no {names}")
    return "\n".join(result) + "\n"


def _end_of_value(lines: list[str], start: int) -> int:
    """The line after an assignment that may go over several lines."""
    for end in range(start + 1, len(lines) + 1):
        try:
            tomllib.loads("\n".join(lines[start:end]))
        except tomllib.TOMLDecodeError:
            continue
        return end
    raise ExampleDamaged(f"the value that begins with `{lines[start].strip()}` has no end")


def toml(value: Any) -> str:
    """A string, number or list of strings as a TOML value."""
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)


def phases(table: Mapping[str, Any], soak_s: float) -> str:
    """The phases of a domain with another soak (seconds), as TOML."""
    items = [
        f'{{ percentage = {phase["percentage"]}, soak = "{soak_s:g}s" }}'
        for phase in table["phases"]
    ]
    return "[" + ", ".join(items) + "]"


def write_secret(directory: Path, name: str, value: str) -> str:
    """Write a secret with mode 0600; returns the reference for the configuration."""
    folder = directory / "secrets"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / name
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(value, encoding="utf-8")
    return f"file:secrets/{name}"
