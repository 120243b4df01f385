"""Which rows of the target somebody else wrote since the opposite stream looked."""

from hypothesis import given
from hypothesis import strategies as st

from migrator.parts import Own


def test_rows_since_the_horizon_are_fresh_but_for_our_own() -> None:
    own = Own()
    own.begin(90, 91, 50)
    own.begin(100, 101, 50)
    assert own.is_fresh(50)
    assert own.is_fresh(99)
    assert not own.is_fresh(49)
    assert not own.is_fresh(90)
    assert not own.is_fresh(100)


def test_a_writer_that_began_after_us_and_committed_before_our_look_is_fresh() -> None:
    """Way 2: taken for frozen, its row would be written over without a trace."""
    own = Own()
    own.begin(100, 110, 50)
    assert own.is_fresh(105)
    assert not own.is_fresh(110)


def test_without_a_horizon_nothing_is_fresh() -> None:
    own = Own()
    own.begin(100, 101, None)
    assert not own.is_fresh(99)


@given(st.integers(3, 2**40), st.integers(0, 1000), st.integers(0, 1000))
def test_it_holds_across_the_wrap_of_32_bits(number: int, back: int, ahead: int) -> None:
    own = Own()
    number += 2000
    horizon, following = number - 1000, number + 1 + ahead
    own.begin(number, following, horizon)
    writer = number - back
    assert own.is_fresh(writer % 2**32) == (horizon <= writer and writer != number)
