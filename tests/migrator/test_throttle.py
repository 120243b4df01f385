"""When a backfill slows down: by what the source feels, and it says why."""

import pytest

from migrator.throttle import FIRST_PAUSE_S, LONGEST_PAUSE_S, Brake, Limits, Sample

LIMITS = Limits(lag_ms=10_000, active=8, probe_ms=250)
WELL = Sample(lag_ms=20, active=2, probe_ms=1)


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (Sample(12_000, 2, 1), "a standby lags 12,000 ms (limit 10,000)"),
        (Sample(None, 9, 1), "9 sessions are at work (limit 8)"),
        (Sample(None, 2, 900), "a trivial query takes 900 ms (limit 250)"),
    ],
)
def test_it_slows_down_and_says_why(sample: Sample, reason: str) -> None:
    brake = Brake(LIMITS)
    brake.feel(sample)
    assert (brake.pause_s, brake.reason) == (FIRST_PAUSE_S, reason)
    for _ in range(20):
        brake.feel(sample)
    assert brake.pause_s == LONGEST_PAUSE_S


def test_it_recovers_step_by_step_and_then_has_no_reason() -> None:
    brake = Brake(LIMITS)
    for _ in range(4):
        brake.feel(Sample(12_000, 2, 1))
    pauses = []
    while brake.pause_s:
        assert brake.reason is not None
        brake.feel(WELL)
        pauses.append(brake.pause_s)
    assert len(pauses) > 3
    assert pauses == sorted(pauses, reverse=True)
    assert brake.reason is None


def test_one_slow_answer_among_fast_ones_is_chance() -> None:
    brake = Brake(LIMITS)
    for _ in range(5):
        brake.feel(WELL)
    brake.feel(Sample(None, 2, 700))
    assert brake.pause_s == 0.0


def test_a_source_without_standbys_or_rights_to_see_them_is_no_reason() -> None:
    brake = Brake(LIMITS)
    brake.feel(Sample(None, 0, 1))
    assert (brake.pause_s, brake.reason) == (0.0, None)
