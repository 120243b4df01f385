"""Equality by value, and the cut into ranges, for whatever comes."""

import json
import random
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from verify.values import Kind, canonical, equal

TEXTS = st.text(max_size=20)
FINITE = st.decimals(allow_nan=False, allow_infinity=False)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(Kind), TEXTS | st.none(), TEXTS | st.none())
def test_equal_is_the_same_as_equal_stand_ins(kind: Kind, a: str | None, b: str | None) -> None:
    assert equal(kind, a, a)
    assert equal(kind, a, b) == equal(kind, b, a)
    assert equal(kind, a, b) == (canonical(kind, a) == canonical(kind, b))
    hash(canonical(kind, a))


@given(st.sampled_from(Kind), TEXTS)
def test_null_equals_only_null(kind: Kind, text: str) -> None:
    assert not equal(kind, None, text)
    assert not equal(kind, text, None)
    assert equal(kind, None, None)


@given(TEXTS, TEXTS)
def test_exact_texts_are_equal_only_when_they_are_the_same(a: str, b: str) -> None:
    assert equal(Kind.EXACT, a, b) == (a == b)


@given(FINITE, FINITE)
def test_numbers_are_equal_by_value(a: Decimal, b: Decimal) -> None:
    assert equal(Kind.NUMERIC, str(a), str(b)) == (a == b)


@given(st.integers(-(10**30), 10**30), st.integers(0, 20), st.integers(1, 20))
def test_a_numbers_scale_does_not_matter_but_its_last_digit_does(
    digits: int, scale: int, more: int
) -> None:
    number = f"{digits}E-{scale}"
    assert equal(Kind.NUMERIC, number, f"{digits * 10**more}E-{scale + more}")
    assert not equal(Kind.NUMERIC, number, f"{digits + 1}E-{scale}")


@given(st.floats(), st.floats())
def test_floats_are_equal_as_the_server_sees_them(a: float, b: float) -> None:
    same = a == b or (a != a and b != b)
    assert equal(Kind.FLOAT, repr(a), repr(b)) == same


def _shuffled(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict):
        names = list(value)
        chance.shuffle(names)
        return {name: _shuffled(value[name], chance) for name in names}
    if isinstance(value, list):
        return [_shuffled(item, chance) for item in value]
    return value


@given(JSON_VALUES, st.randoms())
def test_the_order_of_json_keys_and_white_space_do_not_matter(
    value: Any, chance: random.Random
) -> None:
    other = json.dumps(_shuffled(value, chance), indent=1)
    assert equal(Kind.JSON, json.dumps(value), other)


def _is_bool_free_equal(a: Any, b: Any) -> bool:
    """Python's equality, but without taking True for 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_is_bool_free_equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_is_bool_free_equal(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


@given(JSON_VALUES, JSON_VALUES)
def test_json_is_equal_exactly_when_its_values_are(a: Any, b: Any) -> None:
    assert equal(Kind.JSON, json.dumps(a), json.dumps(b)) == _is_bool_free_equal(a, b)


def test_json_by_example() -> None:
    def same(a: str, b: str) -> bool:
        return equal(Kind.JSON, a, b)

    assert same('{"a": 1, "b": [1.0]}', '{"b":[1.00],"a":1e0}')
    assert not same("[[1,2]]", "[[1],2]")
    assert not same("1", "true")
    assert not same('"1"', "1")
    assert not same("{}", "[]")
    assert not same("null", "false")
    assert not same('{"a": null}', "{}")
    assert not same('{"a": 1, "a": 2}', '{"a": 2}')
    assert not same("0.1000000000000000055511151231257827", "0.1")
    assert same("[" * 5000 + "]" * 5000, "[" * 5000 + "]" * 5000)
    assert not same("[" * 5000 + "]" * 5000, "[" * 4999 + "]" * 4999)
