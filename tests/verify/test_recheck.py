"""Suspects and patience: what is on its way is no difference, what stays is one."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from verify import recheck
from verify.rows import Difference, Shape
from verify.values import Kind

SHAPE = Shape((Kind.EXACT,), ("id", "a", "b"), (Kind.EXACT,) * 3, (0,))
KEY = ("1",)


class FakeSubject:
    """All that a look needs of a subject."""

    shape = SHAPE


Pair = tuple[str | None, str | None]


def settle(
    monkeypatch: pytest.MonkeyPatch,
    looks: Callable[[int], tuple[Pair | None, Pair | None]],
    passed: Callable[[int], bool] = lambda n: True,
    patience_s: float = 0.3,
) -> tuple[list[Any], list[recheck.Suspect], int]:
    """Settle one suspect; `looks(n)` gives (a, b) of the source's and of the target's row."""
    turn = 0

    def read(subject: object, both: object, suspects: object) -> Any:
        def rows(values: Pair | None) -> Iterator[Any]:
            if values is not None:
                yield KEY, ("1", *values)

        source, target = looks(turn)
        return list(rows(source)), list(rows(target))

    def barrier() -> bool:
        nonlocal turn
        turn += 1
        return passed(turn)

    monkeypatch.setattr(recheck, "read_keys", read)
    monkeypatch.setattr(recheck, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(recheck, "LONGEST_PAUSE_S", 0.01)
    subject: Any = FakeSubject()
    both: Any = None
    settled = recheck.settle([(subject, {KEY: KEY})], both, barrier, patience_s)[0]
    return [found.difference for found in settled.confirmed], settled.inconclusive, turn


def test_what_arrives_before_the_barrier_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settle(monkeypatch, lambda n: (("x", "y"), ("x", "y"))) == ([], [], 1)


def test_the_same_pair_at_every_look_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    confirmed, inconclusive, barriers = settle(
        monkeypatch, lambda n: (("x", "y"), ("x", "z")), patience_s=0
    )
    assert [(d.what, d.pairs) for d in confirmed] == [(Difference.MISMATCHED, {"b": ("y", "z")})]
    assert (inconclusive, barriers) == ([], recheck.LOOKS)


def test_a_row_that_is_never_there_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    confirmed, _, _ = settle(monkeypatch, lambda n: ((str(n), "y"), None))
    assert [d.what for d in confirmed] == [Difference.MISSING]


def test_a_hot_key_that_is_caught_equal_once_is_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    def looks(n: int) -> tuple[Pair, Pair]:
        return (str(n), "y"), (str(n if n == 27 else n - 1), "y")

    confirmed, inconclusive, barriers = settle(monkeypatch, looks, patience_s=5)
    assert (confirmed, inconclusive, barriers) == ([], [], 27)


def test_a_hot_key_that_is_never_caught_is_inconclusive_and_its_columns_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    confirmed, inconclusive, _ = settle(monkeypatch, lambda n: ((str(n), "y"), (str(n - 1), "y")))
    assert confirmed == []
    assert inconclusive[0].unequal == {(("1",), "a")}
    assert inconclusive[0].looks >= recheck.LOOKS


def test_a_column_damaged_under_a_hot_key_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    confirmed, inconclusive, _ = settle(
        monkeypatch, lambda n: ((str(n), "right"), (str(n - 1), "wrong"))
    )
    assert [d.pairs for d in confirmed] == [{"b": ("right", "wrong")}]
    assert inconclusive == []


def test_damage_that_begins_after_the_first_look_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def looks(n: int) -> tuple[Pair, Pair]:
        return ("x", "y"), ("x", "early" if n < 4 else "late")

    confirmed, _, barriers = settle(monkeypatch, looks, patience_s=5)
    assert [d.pairs for d in confirmed] == [{"b": ("y", "late")}]
    assert barriers == 3 + recheck.LOOKS


def test_a_value_that_swings_is_not_called_different(monkeypatch: pytest.MonkeyPatch) -> None:
    # By chance the same pair is met again and again, and at last both sides are caught alike.
    def looks(n: int) -> tuple[Pair, Pair]:
        return ("on", "y"), ("on" if n == recheck.LOOKS else "off", "y")

    assert settle(monkeypatch, looks)[:2] == ([], [])


def test_without_a_barrier_nothing_is_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    confirmed, inconclusive, _ = settle(
        monkeypatch, lambda n: (("x", "y"), None), passed=lambda n: n < 2
    )
    assert confirmed == []
    assert len(inconclusive) == 1
