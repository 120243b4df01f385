"""Equality by value, of values as the server writes them as text.

The text comes from a session in UTC with ISO dates and full float digits, so most types have
one text per value. Numbers and JSON do not: 1.0 and 1.00 are one number. NULL is None here; it
equals only NULL, and neither an empty text nor a row that is not there.
"""

import json
import math
from collections.abc import Hashable
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """How two texts of one type are compared."""

    EXACT = "exact"
    INTEGER = "integer"
    NUMERIC = "numeric"
    FLOAT = "float"
    JSON = "json"


def canonical(kind: Kind, text: str | None) -> Hashable:
    """A hashable stand-in: two values of one kind are equal when their stand-ins are equal."""
    if text is None:
        return None
    try:
        match kind:
            case Kind.EXACT:
                return text
            case Kind.INTEGER:
                return int(text)
            case Kind.NUMERIC:
                return _number(text)
            case Kind.FLOAT:
                number = float(text)
                return "NaN" if math.isnan(number) else number
            case Kind.JSON:
                return _json(text)
    except (ValueError, InvalidOperation, RecursionError):
        # Out of what Python can hold: then only the same text is the same value.
        return ("text", text)


def equal(kind: Kind, one: str | None, other: str | None) -> bool:
    """True when both texts stand for the same value of this kind."""
    if one is None or other is None:
        return one is other
    if one == other or kind is Kind.EXACT:
        return one == other
    return canonical(kind, one) == canonical(kind, other)


def _number(text: str) -> Hashable:
    # A NaN is one value to the server, but unequal to itself in Python.
    return "NaN" if text == "NaN" else Decimal(text)


def _json(text: str) -> Hashable:
    return _tagged(
        json.loads(text, parse_float=Decimal, parse_int=Decimal, object_pairs_hook=_Pairs)
    )


class _Pairs(list[tuple[str, Any]]):
    """The members of an object in the order written; a name given twice stays twice."""


def _tagged(value: Any) -> Hashable:
    # Tags keep apart what Python calls equal: True and 1, an empty array and an empty object.
    match value:
        case None:
            return ("null",)
        case bool():
            return ("bool", value)
        case Decimal():
            return ("number", value)
        case str():
            return ("string", value)
        case _Pairs():
            members = [(name, _tagged(item)) for name, item in value]
            return ("object", tuple(sorted(members, key=lambda member: member[0])))
        case _:
            return ("array", tuple(_tagged(item) for item in value))
