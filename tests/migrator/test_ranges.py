"""Which ranges are missing, and how big the next one is: decided without a database."""

import random

from hypothesis import given
from hypothesis import strategies as st

from migrator.ranges import DECODED_BYTES, FEWEST_KEYS, FIRST_KEYS, MOST_KEYS, Pace, Range, missing


def test_nothing_done_everything_is_missing() -> None:
    assert missing([]) == ([], Range(1, None, None))


def test_the_end_is_known_by_its_open_bound() -> None:
    assert missing([Range(1, None, None)]) == ([], None)
    assert missing([Range(1, None, ("m",)), Range(2, ("m",), None)]) == ([], None)


def test_what_a_killed_run_left_out_is_copied_again_and_nothing_else() -> None:
    done = [Range(1, None, ("c",)), Range(4, ("f",), ("h",)), Range(6, ("k",), None)]
    assert missing(done) == ([Range(2, ("c",), ("f",)), Range(5, ("h",), ("k",))], None)


@given(st.lists(st.integers(1, 500), unique=True), st.randoms())
def test_however_often_it_is_killed_every_key_is_copied_once(
    bounds: list[int], chance: random.Random
) -> None:
    """Done ranges and missing ones always make the whole, without overlap."""
    keys = [None, *((f"{n:03}",) for n in sorted(bounds)), None]
    whole = [Range(n, keys[n - 1], keys[n]) for n in range(1, len(keys))]
    done = [part for part in whole if chance.random() < 0.5]
    for _ in range(3):
        gaps, rest = missing(done)
        left = [*gaps, *([rest] if rest else [])]
        parts = sorted([*done, *left], key=lambda part: part.number)
        assert len({part.number for part in parts}) == len(parts)
        assert [part.lower for part in parts] == [None, *(part.upper for part in parts[:-1])]
        assert parts[-1].upper is None
        done += [part for part in left if chance.random() < 0.7]


def test_a_range_aims_at_a_time_and_grows_step_by_step() -> None:
    pace = Pace(1.0)
    assert pace.keys == FIRST_KEYS
    pace.took(FIRST_KEYS, 0.01)
    assert pace.keys == FIRST_KEYS * 4
    for _ in range(30):
        pace.took(pace.keys, pace.keys / 50_000)
    assert 49_000 < pace.keys < 51_000
    pace.took(pace.keys, 600.0)
    assert pace.keys < 30_000
    for _ in range(30):
        pace.took(pace.keys, 600.0)
    assert pace.keys == FEWEST_KEYS
    for _ in range(30):
        pace.took(pace.keys, 0.0)
    assert pace.keys == MOST_KEYS


def test_a_range_is_no_more_than_the_opposite_stream_decodes_in_memory() -> None:
    pace = Pace(1.0)
    for _ in range(30):
        pace.weighed(pace.keys, rows=2 * pace.keys, size=2 * pace.keys * 1_000)
        pace.took(pace.keys, 0.0)
    assert DECODED_BYTES / 2_400 < pace.keys < DECODED_BYTES / 2_000
    for _ in range(30):
        pace.weighed(pace.keys, rows=0, size=0)
        pace.took(pace.keys, 0.0)
    assert pace.keys == MOST_KEYS, "keys that lead to no rows cost nothing"
