"""The gates over the past, against the old side too: with a Prometheus that is played."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from estate.config import Config, GateConfig
from estate.errors import ExitCode
from rollout.counters import Count, Counts, Snapshot
from rollout.replay import Replay, replay
from tests.rollout.rig import DOMAIN, START

STEP_S = 60.0


class Past:
    """Counters that grow evenly: requests and errors of each side at each moment."""

    def __init__(self, old: tuple[int, int], new: tuple[int, int]) -> None:
        self.old, self.new = old, new

    def history(
        self, start: datetime, end: datetime, step_s: float
    ) -> Iterator[tuple[float, Snapshot]]:
        for number in range(int((end - start).total_seconds() // step_s) + 1):
            counts: Counts = {
                "old": Count(number * self.old[0], number * self.old[1]),
                "new": Count(number * self.new[0], number * self.new[1]),
            }
            at = start.timestamp() + number * step_s
            yield at, Snapshot({"gw-1": {DOMAIN: counts}})


@pytest.fixture
def compared(plain_config: Config) -> Config:
    gate = GateConfig(name="errors", kind="error_rate", max=0.01, times=1.5)
    return plain_config.model_copy(update={"gates": [gate]})


def replayed(config: Config, past: Any, **options: Any) -> Replay:
    end = START + timedelta(minutes=30)
    return replay(config, [DOMAIN], START, end, STEP_S, metrics=past, **options)


@pytest.mark.parametrize("asked", [{}, {"percentage": 10}])
def test_a_side_that_did_worse_than_the_other_would_have_failed(
    compared: Config, asked: dict[str, int]
) -> None:
    found = replayed(compared, Past(old=(900, 1), new=(100, 1)), **asked)
    assert found.exit_code is ExitCode.CHECK_FAILED
    (gate,) = found.domains[0].gates
    assert gate.last.ratio == pytest.approx(9.0)
    assert gate.inconclusive, "a few errors may be chance"
    assert "1 % errors, the old side 0.111 % of 9,000: 9 times" in found.to_text()
    assert gate.to_json()["first_fail_reason"] == gate.why


def test_sides_that_did_alike_pass(compared: Config) -> None:
    found = replayed(compared, Past(old=(900, 9), new=(100, 1)))
    assert found.exit_code is ExitCode.DONE, found.to_text()


def test_the_old_side_is_judged_by_the_absolute_limit_alone(compared: Config) -> None:
    found = replayed(compared, Past(old=(900, 1), new=(0, 0)), side="old")
    assert found.exit_code is ExitCode.DONE
    assert found.domains[0].gates[0].last.times is None
    assert found.left_out == [
        "errors: 1.5 times the old side: it is the old side itself that is judged"
    ]


def test_without_an_old_side_the_comparison_cannot_tell(compared: Config) -> None:
    found = replayed(compared, Past(old=(0, 0), new=(100, 0)))
    assert found.exit_code is ExitCode.INCONCLUSIVE
    assert "0 of 200 samples of the old side" in found.to_text()
    assert replayed(compared, Past((0, 0), (100, 0)), percentage=100).exit_code is ExitCode.DONE
