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

from splitctl.answers import Script
from splitctl.page import Page

# A cell that is longer is a sentence, or a structure: it goes on a line of its own.
LONG = 40


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
    """Write a command's result to stdout."""
    if form == "json":
        data = plain(value)
        if isinstance(data, dict):
            data = {"environment": environment, **data} if environment else data
            data.setdefault("next_command", getattr(value, "next_command", None))
        sys.stdout.write(json.dumps(data, ensure_ascii=False, indent=2) + "\n")
    elif isinstance(value, Script):
        sys.stdout.write(value.text.rstrip("\n") + "\n")
    elif value is not None:
        _text(Page(), value, environment)
    sys.stdout.flush()


def _text(page: Page, value: Any, environment: str | None) -> None:
    if environment:
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        page.line(f"{environment}  {now} UTC")
        page.line()
    text = getattr(value, "to_text", None)
    if text is not None:
        for line in text().rstrip("\n").splitlines():
            page.line(line)
        return
    data = plain(value)
    if isinstance(data, list):
        _list(page, data)
    else:
        _object(page, data)


def _object(page: Page, data: dict[str, Any]) -> None:
    hidden = ("next_command", "exit_code")
    simple = {k: v for k, v in data.items() if not _nested(v) and k not in hidden}
    width = max((len(key) for key in simple), default=0)
    for key, item in simple.items():
        page.line(f"{_title(key):<{width}}  {_cell(item)}", indent=width + 2)
    nested = {key: item for key, item in data.items() if _nested(item) and item}
    for number, (key, item) in enumerate(nested.items()):
        if simple or number:
            page.line()
        page.line(_title(key))
        _list(page, item if isinstance(item, list) else _rows(item))


def _rows(data: dict[str, Any]) -> list[Any]:
    return [
        {"": key, **item} if isinstance(item, dict) else {"": key, "value": item}
        for key, item in data.items()
    ]


def _list(page: Page, rows: Sequence[Any]) -> None:
    """A table where each row fits into a line, else a paragraph for each: no word is ever cut."""
    if not rows:
        page.line("(none)")
        return
    if not all(isinstance(row, dict) for row in rows):
        for row in rows:
            page.line(f"  {_cell(row)}", indent=4)
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    first, *others = [name for name in names if any(_told(row.get(name)) for row in rows)]
    long = [name for name in others if any(len(_cell(row.get(name))) > LONG for row in rows)]
    short = [name for name in others if name not in long]
    tabled = bool(short) and page.table(_table(rows, [first, *short]))
    for row in rows:
        title = _cell(row.get(first))
        if not tabled:
            page.line(title)
            told = [f"{_title(name)} {_cell(row[name])}" for name in short if _told(row.get(name))]
            if told:
                page.line(f"  {', '.join(told)}", indent=2)
        for name in long:
            if _told(row.get(name)):
                place = f"{title}: " if tabled else "  "
                page.line(f"{place}{_title(name)}: {_cell(row[name])}", indent=4)


def _table(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for name in names:
        numeric = all(_is_number(row.get(name)) for row in rows)
        table.add_column(_title(name), justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in names))
    return table


def _told(value: Any) -> bool:
    return value not in (None, [], {})


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
