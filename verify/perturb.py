"""Values that a self-test seeds: one for a column that has none, and small changes of one.

Pure: texts in, texts out, in the forms in which the server writes them in UTC.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation, localcontext
from typing import Any

from verify import pgtypes
from verify.pgtypes import PgType

MICROSECOND_DIGITS = 6
FALLBACK_DIGITS = 2
TRIES = 12
DAY = timedelta(days=1)


def invented(source: PgType, target: PgType, labels: Sequence[str], n: int) -> str | None:
    """The n-th made-up value (n from 0) that both types accept, or None when none is known.

    `labels` are the labels that both enums share, where one of the types is an enum.
    """
    if labels:
        return labels[n % len(labels)]
    # A text can hold anything, so the other type decides.
    strict = target if source.oid in pgtypes.TEXTS else source
    number = n + 1
    if pgtypes.NUMERIC in (source.oid, target.oid):
        scale = min(s for s in (source.scale, target.scale, FALLBACK_DIGITS) if s is not None)
        if source.oid in pgtypes.INTEGERS or target.oid in pgtypes.INTEGERS or scale <= 0:
            return str(number)
        return f"{number}.{'5' * scale}"
    known = {
        pgtypes.BOOL: "true" if n % 2 else "false",
        pgtypes.BYTEA: f"\\x{number:04x}",
        pgtypes.INT2: str(number),
        pgtypes.INT4: str(number),
        pgtypes.INT8: str(number),
        pgtypes.OID: str(number),
        pgtypes.FLOAT4: f"{number}.5",
        pgtypes.FLOAT8: f"{number}.5",
        pgtypes.TEXT: f"Value {number}",
        pgtypes.VARCHAR: f"Value {number}",
        pgtypes.BPCHAR: f"{number}",
        pgtypes.DATE: f"2024-02-{number % 28 + 1:02}",
        pgtypes.TIME: f"10:00:{number % 60:02}",
        pgtypes.TIMESTAMP: f"2024-02-28 10:00:{number % 60:02}",
        pgtypes.TIMESTAMPTZ: f"2024-02-28 10:00:{number % 60:02}+00",
        pgtypes.UUID: f"00000000-0000-4000-8000-{number:012x}",
        pgtypes.JSON: f'{{"a": {number}}}',
        pgtypes.JSONB: f'{{"a": {number}}}',
    }
    return known.get(strict.oid)


def changed(
    text: str | None, kind: PgType, labels: Sequence[str], taken: set[str | None]
) -> str | None:
    """The smallest change of a stored value that is none of `taken`.

    A NULL becomes a value and, where no other change of the type is known, a value becomes NULL.
    Returns the text itself when nothing else is possible.
    """
    for candidate in _candidates(text, kind, labels):
        if candidate != text and candidate not in taken:
            return candidate
    others = sorted(value for value in taken if value is not None and value != text)
    if others and text is None:
        return others[0]
    return None if text is not None else text


def _candidates(text: str | None, kind: PgType, labels: Sequence[str]) -> Iterator[str]:
    if labels:
        yield from labels
        return
    if text is None:
        for n in range(TRIES):
            made = invented(kind, kind, labels, n)
            if made is not None:
                yield made
        return
    for n in range(1, TRIES):
        try:
            candidate = _nudged(text, kind, n)
        except (ValueError, OverflowError, InvalidOperation):
            # An infinity, a year before Christ, or a NaN: any ordinary value is a change.
            candidate = invented(kind, kind, labels, n)
        if candidate is None:
            return
        yield candidate


def _nudged(text: str, kind: PgType, n: int) -> str | None:
    """The value moved by n of its smallest units."""
    nudge = _NUDGES.get(kind.oid)
    return nudge(text, kind, n) if nudge else None


def _integer(text: str, _kind: PgType, n: int) -> str:
    # Towards zero, so that the largest value of its type stays within it.
    number = int(text)
    return str(number - n if number > 0 else number + n)


def _numeric(text: str, kind: PgType, n: int) -> str:
    number = Decimal(text)
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int):
        raise ValueError(text)
    digits = kind.scale if kind.scale is not None else max(-exponent, FALLBACK_DIGITS)
    with localcontext(prec=len(text) + abs(digits) + FALLBACK_DIGITS):
        return format(number + n * Decimal(1).scaleb(-digits), "f")


def _double(text: str, _kind: PgType, n: int) -> str:
    number = float(text)
    for _ in range(n):
        number = math.nextafter(number, 0.0 if number else 1.0)
    if not math.isfinite(number):
        raise ValueError(text)
    return repr(number)


def _real(text: str, _kind: PgType, n: int) -> str:
    if not math.isfinite(float(text)):
        raise ValueError(text)
    return repr(float(text) / 2 + n)


def _boolean(text: str, _kind: PgType, _n: int) -> str:
    return "false" if text == "true" else "true"


def _uuid(text: str, _kind: PgType, n: int) -> str:
    return f"{text[:-1]}{(int(text[-1], 16) + n) % 16:x}"


def _date(text: str, _kind: PgType, n: int) -> str:
    return (date.fromisoformat(text) + n * DAY).isoformat()


def _time(text: str, kind: PgType, n: int) -> str:
    digits = kind.modifier if kind.modifier >= 0 else MICROSECOND_DIGITS
    by = n * timedelta(microseconds=10 ** (MICROSECOND_DIGITS - digits))
    if kind.oid == pgtypes.TIME:
        return (datetime.fromisoformat(f"2024-02-28 {text}") + by).time().isoformat()
    return (datetime.fromisoformat(text) + by).isoformat(sep=" ")


def _text(text: str, _kind: PgType, n: int) -> str:
    return text + "x" * n


def _padded(_text: str, _kind: PgType, n: int) -> str:
    return chr(ord("a") + n)


def _bytes(text: str, _kind: PgType, n: int) -> str:
    return text + "00" * n


def _json(text: str, _kind: PgType, n: int) -> str:
    value = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    for _ in range(n):
        value = _changed_leaf(value)
    return _json_text(value)


_NUDGES: dict[int, Callable[[str, PgType, int], str]] = {
    **dict.fromkeys((pgtypes.INT2, pgtypes.INT4, pgtypes.INT8, pgtypes.OID), _integer),
    **dict.fromkeys((pgtypes.NUMERIC, pgtypes.MONEY), _numeric),
    pgtypes.FLOAT8: _double,
    pgtypes.FLOAT4: _real,
    pgtypes.BOOL: _boolean,
    pgtypes.UUID: _uuid,
    pgtypes.DATE: _date,
    **dict.fromkeys((pgtypes.TIME, pgtypes.TIMESTAMP, pgtypes.TIMESTAMPTZ), _time),
    **dict.fromkeys((pgtypes.TEXT, pgtypes.VARCHAR), _text),
    pgtypes.BPCHAR: _padded,
    pgtypes.BYTEA: _bytes,
    **dict.fromkeys((pgtypes.JSON, pgtypes.JSONB), _json),
}


def _changed_leaf(value: Any) -> Any:
    match value:
        case dict() if value:
            name = next(iter(value))
            return {**value, name: _changed_leaf(value[name])}
        case list() if value:
            return [_changed_leaf(value[0]), *value[1:]]
        case bool():
            return not value
        case Decimal():
            return value + 1
        case str():
            return value + "x"
        case None:
            return False
        case _:
            return [value]


def _json_text(value: Any) -> str:
    match value:
        case dict():
            members = (f"{json.dumps(name)}: {_json_text(item)}" for name, item in value.items())
            return "{" + ", ".join(members) + "}"
        case list():
            return "[" + ", ".join(_json_text(item) for item in value) + "]"
        case Decimal():
            return str(value)
        case _:
            return json.dumps(value)
