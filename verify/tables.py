"""What a run found to differ, as a table in a file: CSV, or Parquet for who goes on with pandas."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from estate.errors import ExitCode, SplitctlError
from verify.verdict import Verdict

TEXTS = ("mapping", "what", "key", "column", "old", "new")
TIMES = ("first_seen", "confirmed_at")
HEAD = (*TEXTS, *TIMES)


class ParquetMissing(SplitctlError):
    """Parquet files are written by pandas and pyarrow, which are not installed: {reason}. Nothing
    was compared yet."""

    hint = "pip install 'splitctl[parquet]', or: splitctl verify run --csv FILE"
    exit_code = ExitCode.PRECONDITION


def write_csv(verdict: Verdict, path: Path) -> int:
    """Every difference, a line for each column, or for a row that one side lacks. Raises OSError.

    As PostgreSQL's COPY reads it: what is not there is NULL, an empty text stands in quotes.
    Returns how many lines.
    """
    number = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(",".join(HEAD) + "\r\n")
        for told in _lines(verdict):
            file.write(",".join(_cell(told[name]) for name in HEAD) + "\r\n")
            number += 1
    return number


def write_parquet(verdict: Verdict, path: Path) -> int:
    """The same as one Parquet table: texts, two times in UTC, keys and whole rows as JSON.

    Returns how many rows. Raises OSError, ParquetMissing.
    """
    parquet_can_be_written()
    import pandas as pd

    lines = list(_lines(verdict))
    columns = {name: pd.array([_text(x[name]) for x in lines], dtype="string") for name in TEXTS}
    for name in TIMES:
        times = [line[name] for line in lines]
        columns[name] = pd.to_datetime(times, utc=True, format="ISO8601")
    frame = pd.DataFrame(columns)
    frame.to_parquet(path, engine="pyarrow", index=False)
    return len(frame)


def parquet_can_be_written() -> None:
    """Raises ParquetMissing where that is not so."""
    try:
        import pandas  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ParquetMissing(reason=error) from error


def _lines(verdict: Verdict) -> Iterator[dict[str, Any]]:
    for mapping in verdict.mappings:
        for sample in mapping.found:
            yield {"mapping": mapping.mapping, **sample.to_json()}


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def _cell(value: Any) -> str:
    text = _text(value)
    return "" if text is None else '"' + text.replace('"', '""') + '"'
