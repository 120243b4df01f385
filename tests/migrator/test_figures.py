"""Figures in constant space: right within their promise, also for whoever reads meanwhile."""

import sys
import threading

from migrator.figures import Quantiles, Rate


def test_quantiles_are_right_within_two_percent() -> None:
    sketch = Quantiles()
    assert sketch.at(0.5) is None
    for number in range(1, 1001):
        sketch.add(number / 1000)
    for share, exact in ((0.5, 0.5), (0.95, 0.95), (0.99, 0.99), (1.0, 1.0)):
        found = sketch.at(share)
        assert found is not None and exact <= found <= exact * 1.021
    assert sketch.count == 1000


def test_what_is_longer_than_the_sketch_is_its_largest() -> None:
    sketch = Quantiles()
    sketch.add(1e9)
    assert sketch.at(0.5) == sketch.largest == 1e9


def test_a_reader_never_meets_a_half_written_sketch() -> None:
    """The page's thread asks while the stream's own writes: one moment's answer, in order."""
    sketch = Quantiles()
    sketch.add(1.0)
    stop = threading.Event()
    interval = sys.getswitchinterval()

    def write() -> None:
        step = 0
        while not stop.is_set():
            step += 1
            # New durations all the time: a sketch that grows while it is read would show.
            sketch.add(1e-6 * 1.02 ** (step % 1200))

    writer = threading.Thread(target=write)
    sys.setswitchinterval(1e-6)
    writer.start()
    try:
        for _ in range(2000):
            found = [value for value in sketch.at_each((0.0, 0.5, 0.95, 1.0)) if value is not None]
            assert len(found) == 4
            assert found == sorted(found)
            assert found[-1] <= sketch.largest
    finally:
        stop.set()
        writer.join()
        sys.setswitchinterval(interval)


def test_a_rate_is_of_the_last_seconds_and_begins_anew_with_its_total() -> None:
    rate = Rate(10.0)
    rate.add(0.0, 0)
    assert rate.per_s is None
    for second in range(1, 21):
        rate.add(float(second), 100 * second)
    assert rate.per_s == 100
    for second in range(21, 41):
        rate.add(float(second), 2000)
    assert rate.per_s == 0
    rate.add(41.0, 5)
    assert rate.per_s is None
    rate.add(42.0, 15)
    assert rate.per_s == 10
