"""What became of the suspects, counted and sampled into a mapping's verdict."""

from collections import Counter
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from psycopg import sql

from verify.recheck import Confirmed, Settled
from verify.rows import Difference, Values
from verify.spread import spread
from verify.subject import Subject
from verify.verdict import HotKey, MappingVerdict, Sample

MASKED = "(not shown)"


def record(
    subject: Subject, result: MappingVerdict, settled: Settled, first_seen: datetime | None
) -> None:
    """Add what was settled to a mapping's verdict: what differs was first seen to do so then."""
    columns: Counter[str] = Counter()
    confirmed = sorted(settled.confirmed, key=lambda found: _order(subject, found.key))
    for found in confirmed:
        match found.difference.what:
            case Difference.MISMATCHED:
                result.mismatched += 1
                columns.update(list(found.difference.pairs))
            case Difference.MISSING:
                result.missing += 1
            case Difference.EXTRA:
                result.extra += 1
        result.found.extend(_samples(subject, found, first_seen or found.at))
    result.differing = list(dict.fromkeys(found.key for found in confirmed))
    result.columns = dict(sorted(columns.items()))
    result.spread = spread(subject, [found.key[0] for found in confirmed])
    result.statements = statements(subject)
    result.driving = tuple(column.name for column in subject.source.key)
    result.inconclusive += len(settled.inconclusive)
    for suspect in settled.inconclusive:
        unequal = sorted({column for _, column in suspect.unequal if column is not None})
        key = {
            name: shown(name, text, subject.shape.sensitive)
            for name, text in _key(subject, suspect.key).items()
        }
        result.moving.append(HotKey(key, unequal, suspect.looks))


def statements(subject: Subject) -> dict[str, str]:
    """What a person types to see a row on each side: the text up to its condition."""
    source = sql.SQL("SELECT * FROM (\n{}\n) AS q WHERE").format(subject.source.query)
    target = sql.SQL("SELECT * FROM ({}) AS q WHERE").format(subject.target.query)
    sides = (source, target) if subject.direction == "forward" else (target, source)
    names = ("old", "new")
    return {name: side.as_string() for name, side in zip(names, sides, strict=True)}


def _order(subject: Subject, key: Values) -> list[tuple[bool, bool, Any]]:
    """By value, NULLs last; what is no number among numbers (NaN) behind them."""
    order = []
    for text, value in zip(key, subject.shape.canonical_key(key), strict=True):
        number = isinstance(value, int | float | Decimal)
        order.append((text is None, not number, value if number else text or ""))
    return order


def _key(subject: Subject, key: Values) -> dict[str, str | None]:
    names = [column.name for column in subject.source.key]
    return dict(zip(names, key, strict=True))


def _samples(subject: Subject, found: Confirmed, first_seen: datetime) -> list[Sample]:
    # The driving key alone does not name a row of a key with several; its own key is added.
    row_key, difference = _key(subject, found.key), found.difference
    if subject.shape.identity:
        names = [subject.shape.names[n] for n in subject.shape.identity]
        row_key |= dict(zip(names, difference.identity, strict=True))
    hidden = subject.shape.sensitive
    row_key = {name: shown(name, text, hidden) for name, text in row_key.items()}
    forward = subject.direction == "forward"
    what: Literal["mismatched", "missing", "extra"] = difference.what.value
    if difference.what is Difference.MISMATCHED:
        samples = []
        for column, pair in difference.pairs.items():
            before, after = pair if forward else pair[::-1]
            values = shown(column, before, hidden), shown(column, after, hidden)
            samples.append(Sample(row_key, what, column, *values, first_seen, found.at))
        return samples
    side = 0 if difference.what is Difference.MISSING else 1
    row: dict[str, Any] = {
        column: shown(column, pair[side], hidden) for column, pair in difference.pairs.items()
    }
    on_source = difference.what is Difference.MISSING
    on_old = on_source == forward
    old, new = (row, None) if on_old else (None, row)
    return [Sample(row_key, what, None, old, new, first_seen, found.at)]


def shown(column: str, text: str | None, hidden: frozenset[str]) -> str | None:
    """A value as a report may show it; that there is none may be seen."""
    return MASKED if column in hidden and text is not None else text
