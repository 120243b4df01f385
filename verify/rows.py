"""Rows in hand: which rows of one driving key differ, in which columns, judged by value."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from verify.checksum import Key, Row
from verify.values import Kind, canonical, equal

Values = tuple[str | None, ...]
# The source's value and the target's, as text.
Pair = tuple[str | None, str | None]


class Difference(StrEnum):
    """What is wrong with one target row, as seen from the mapping's query."""

    MISMATCHED = "mismatched"
    MISSING = "missing"
    EXTRA = "extra"


@dataclass(frozen=True)
class RowDifference:
    """One row that differs. `pairs` maps a column to (source value, target value) as text.

    A row that is missing or extra has the values of the side that holds it, NULL on the other.
    """

    what: Difference
    identity: Values
    pairs: Mapping[str, Pair]


@dataclass(frozen=True)
class Shape:
    """How rows of one mapping are read: names and kinds of the compared columns.

    `identity` are positions of the columns that tell rows of one driving key apart; empty when
    the target's primary key is not mapped. `sensitive` columns are compared but never shown.
    """

    key_kinds: tuple[Kind, ...]
    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    identity: tuple[int, ...]
    sensitive: frozenset[str] = frozenset()

    def canonical_key(self, key: Values) -> tuple[Hashable, ...]:
        """The driving key by value, so that both sides' texts of one key meet."""
        return tuple(canonical(k, text) for k, text in zip(self.key_kinds, key, strict=True))

    def canonical_row(self, values: Values) -> tuple[Hashable, ...]:
        """A row by value."""
        return tuple(canonical(k, text) for k, text in zip(self.kinds, values, strict=True))


@dataclass
class KeyRows:
    """All rows of one driving key on both sides. `key` is its text on the side seen first."""

    key: Values
    source: list[Values]
    target: list[Values]


def by_key(
    shape: Shape, source: Iterable[Row], target: Iterable[Row]
) -> dict[tuple[Hashable, ...], KeyRows]:
    """Both sides' rows, grouped by driving key."""
    groups: dict[tuple[Hashable, ...], KeyRows] = {}
    for key, values in source:
        group = groups.setdefault(shape.canonical_key(key), KeyRows(key, [], []))
        group.source.append(values)
    for key, values in target:
        group = groups.setdefault(shape.canonical_key(key), KeyRows(key, [], []))
        group.target.append(values)
    return groups


def compare(shape: Shape, rows: KeyRows) -> list[RowDifference]:
    """Every row of one driving key that differs by value; an empty list when both are equal.

    A row that is there twice on one side and once on the other is a difference too.
    """
    source, target = _without_equal_rows(shape, rows.source, rows.target)
    if not source and not target:
        return []
    found: list[RowDifference] = []
    by_identity: dict[tuple[Hashable, ...], tuple[list[Values], list[Values]]] = {}
    for side, held in enumerate((source, target)):
        for values in held:
            identity = _identity(shape, values, rows.key)
            by_identity.setdefault(identity, ([], []))[side].append(values)
    for here, there in by_identity.values():
        # Rows of one identity are paired in order: what is left over is missing or extra.
        for one, other in zip(here, there, strict=False):
            shown = _shown_identity(shape, one, rows.key)
            found.append(RowDifference(Difference.MISMATCHED, shown, _pairs(shape, one, other)))
        for what, rest in (
            (Difference.MISSING, here[len(there) :]),
            (Difference.EXTRA, there[len(here) :]),
        ):
            found.extend(_whole_row(shape, what, rows.key, values) for values in rest)
    return found


def _whole_row(shape: Shape, what: Difference, key: Values, values: Values) -> RowDifference:
    pairs = {
        name: (text, None) if what is Difference.MISSING else (None, text)
        for name, text in zip(shape.names, values, strict=True)
    }
    return RowDifference(what, _shown_identity(shape, values, key), pairs)


def _pairs(shape: Shape, one: Values, other: Values) -> dict[str, Pair]:
    return {
        name: (here, there)
        for name, kind, here, there in zip(shape.names, shape.kinds, one, other, strict=True)
        if not equal(kind, here, there)
    }


def _without_equal_rows(
    shape: Shape, source: Sequence[Values], target: Sequence[Values]
) -> tuple[list[Values], list[Values]]:
    if len(source) == 1 and source == target:
        return [], []
    here = Counter(shape.canonical_row(values) for values in source)
    there = Counter(shape.canonical_row(values) for values in target)
    return _beyond(shape, source, here - there), _beyond(shape, target, there - here)


def _beyond(
    shape: Shape, rows: Sequence[Values], surplus: Counter[tuple[Hashable, ...]]
) -> list[Values]:
    left: list[Values] = []
    for values in rows:
        row = shape.canonical_row(values)
        if surplus[row] > 0:
            surplus[row] -= 1
            left.append(values)
    return left


def _identity(shape: Shape, values: Values, key: Values) -> tuple[Hashable, ...]:
    if not shape.identity:
        return key
    return tuple(canonical(shape.kinds[n], values[n]) for n in shape.identity)


def _shown_identity(shape: Shape, values: Values, key: Values) -> Values:
    return tuple(values[n] for n in shape.identity) if shape.identity else key


def plain_key(key: Values) -> Key | None:
    """The key when it is whole, None when a part of it is NULL."""
    parts = tuple(part for part in key if part is not None)
    return parts if len(parts) == len(key) else None
