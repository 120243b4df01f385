"""One place that writes answers: dataclasses in, text for a person or JSON for a program out."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

Scalar = str | int | float | bool | None


def plain(value: Any) -> Any:
    """Any result as plain JSON data: dataclasses to objects, times to ISO 8601 UTC."""
    if hasattr(value, "to_json"):
        return plain(value.to_json())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {name: item for name, item in fields.items() if not name.startswith("_")}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (Path, Decimal)):
        return str(value)
    return value


def result(value: Any, environment: str | None, form: str) -> None:
    """Write a command's result to stdout, and its next command to stderr."""
    if value is None:
        return
    if form == "json":
        data = plain(value)
        if isinstance(data, dict) and environment:
            data = {"environment": environment, **data}
        sys.stdout.write(json.dumps(data, ensure_ascii=False, indent=2) + "\n")
        return
    if isinstance(value, str):
        sys.stdout.write(value.rstrip("\n") + "\n")
        return
    if environment:
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        sys.stdout.write(f"{environment}  {now} UTC\n\n")
    text = getattr(value, "to_text", None)
    if text is not None:
        sys.stdout.write(str(text()).rstrip("\n") + "\n")
    else:
        _print(plain(value))
    next_command = getattr(value, "next_command", None)
    if next_command:
        sys.stdout.flush()
        sys.stderr.write(f"\nNext: {next_command}\n")


def _print(data: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=not sys.stdout.isatty())
    if isinstance(data, dict):
        _print_object(console, data)
    elif isinstance(data, list):
        _print_list(console, data)
    else:
        console.print(_cell(data))


def _print_object(console: Any, data: dict[str, Any]) -> None:
    simple = {key: item for key, item in data.items() if not _nested(item)}
    width = max((len(key) for key in simple), default=0)
    for key, item in simple.items():
        if key not in ("next_command", "exit_code"):
            console.print(f"{_title(key):<{width}}  {_cell(item)}")
    for key, item in data.items():
        if _nested(item) and item:
            console.print(f"\n{_title(key)}")
            _print_list(console, item if isinstance(item, list) else _rows(item))


def _rows(data: dict[str, Any]) -> list[Any]:
    return [
        {"": key, **item} if isinstance(item, dict) else {"": key, "value": item}
        for key, item in data.items()
    ]


def _print_list(console: Any, rows: Sequence[Any]) -> None:
    if not rows:
        console.print("(none)")
        return
    if not all(isinstance(row, dict) for row in rows):
        for row in rows:
            console.print(f"  {_cell(row)}")
        return
    from rich.table import Table

    names = list(dict.fromkeys(name for row in rows for name in row))
    shown = [name for name in names if any(row.get(name) not in (None, [], {}) for row in rows)]
    grid = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for name in shown:
        numeric = all(_is_number(row.get(name)) for row in rows)
        grid.add_column(_title(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(_cell(row.get(name)) for name in shown))
    console.print(grid)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _nested(value: Any) -> bool:
    return isinstance(value, (dict, list))


def _title(name: str) -> str:
    return name.replace("_", " ")


def _cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.3f}".rstrip("0").rstrip(".")
        case dict():
            return ", ".join(f"{key}={_cell(item)}" for key, item in value.items()) or "-"
        case list():
            return ", ".join(_cell(item) for item in value) or "-"
        case _:
            return str(value)
