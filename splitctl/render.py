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
        _text(Page(sys.stdout), value, environment)
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
    _pairs(page, simple)
    nested = {key: item for key, item in data.items() if _nested(item) and item}
    for number, (key, item) in enumerate(nested.items()):
        if simple or number:
            page.line()
        page.line(_title(key))
        if isinstance(item, list):
            _list(page, item)
        elif all(isinstance(value, dict) for value in item.values()):
            _list(page, [{"": name, **value} for name, value in item.items()])
        else:
            _pairs(page, item, "  ")


def _pairs(page: Page, data: dict[str, Any], margin: str = "") -> None:
    width = max((len(key) for key in data), default=0)
    for key, item in data.items():
        line = f"{margin}{_title(key):<{width}}  {_cell(item)}"
        page.line(line, indent=len(margin) + width + 2)


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
    shown = [name for name in names if any(_told(row.get(name)) for row in rows)]
    long = [name for name in shown[1:] if any(len(_cell(row.get(name))) > LONG for row in rows)]
    short = [name for name in shown if name not in long]
    titles = _titles(rows, short)
    others = [name for name in short if name not in titles]
    if len(short) > 1 and page.table(_table(rows, short)):
        if long:
            page.line()
        for row in rows:
            for fact in _facts(row, long, ": "):
                page.line(f"{_title_of(row, titles)}: {fact}", indent=4)
        return
    for row in rows:
        page.line(_title_of(row, titles))
        for fact in [", ".join(_facts(row, others)), *_facts(row, long, ": ")]:
            if fact:
                page.line(f"  {fact}", indent=4)


def _titles(rows: Sequence[dict[str, Any]], names: list[str]) -> list[str]:
    """The first columns that together tell every row from every other."""
    for number in range(1, len(names)):
        if len({_title_of(row, names[:number]) for row in rows}) == len(rows):
            return names[:number]
    return names[:1]


def _title_of(row: dict[str, Any], names: Sequence[str]) -> str:
    return " ".join(_cell(row.get(name)) for name in names)


def _facts(row: dict[str, Any], names: Sequence[str], between: str = " ") -> list[str]:
    """Name and value of what this row tells in these columns."""
    told = [name for name in names if _told(row.get(name))]
    return [f"{_title(name)}{between}{_cell(row[name])}" for name in told]


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
    return value not in (None, "", [], {})


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
