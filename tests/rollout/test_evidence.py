"""The soak clock counts only time with evidence, once, whoever looks."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from estate.ledger import Rollout, VerdictRecord
from migrator.status import StreamStatus
from rollout import evidence, proof
from rollout.counters import Count, Side, Snapshot
from rollout.evidence import Look
from tests.rollout.rig import START, healthy


def look(new: float, problems: dict[str, str] | None = None, lag: float | None = 20.0) -> Look:
    counts: dict[Side, Count] = {"new": Count(new), "old": Count(9 * new)}
    streams = (replace(healthy("forward"), lag_ms=lag), healthy("reverse"))
    return Look(Snapshot({"gw": {"d": counts}}, problems or {}), START, streams)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def counted(row: Rollout, seen: Look, began: float, ended: float | None = None) -> Rollout:
    """A look that began at this second, and was counted at once or later."""
    ended = began if ended is None else ended
    return evidence.counted(row, replace(seen, at=at(began)), at(ended))


def begun() -> Rollout:
    first = look(100)
    return Rollout(
        "d", "live", 10, 0, counted_at=START, evidence=evidence.opened(first.snapshot, "d")
    )


def test_time_with_traffic_and_every_gateway_seen_counts() -> None:
    row = counted(begun(), look(110), 1)
    row = counted(row, look(120), 2.5)
    assert row.soak_evidence_s == 2.5


def test_a_look_that_missed_a_gateway_counts_nothing_nor_what_lies_before_it() -> None:
    row = counted(begun(), look(110), 1)
    row = counted(row, look(120, {"gw-2": "refused"}), 2)
    row = counted(row, look(130), 3)
    assert row.soak_evidence_s == 2.0


def test_without_requests_on_the_new_side_the_clock_stops_soon() -> None:
    row = begun()
    for second in range(1, 6):
        row = counted(row, look(100 + second), second)
    for second in range(6, 60):
        row = counted(row, look(105), second)
    assert row.soak_evidence_s == 5 + evidence.TRAFFIC_WITHIN_S


def test_traffic_that_is_told_late_is_traffic() -> None:
    """A Prometheus shows growth only where it has scraped again."""
    row, late = begun(), 30.0
    for second in range(1, 60):
        seen = look(100 + 50 * (second // 30))
        snapshot = replace(seen.snapshot, behind_s=late)
        row = counted(row, replace(seen, snapshot=snapshot), second)
    assert row.soak_evidence_s == 30, "since growth was seen first"


def test_a_phase_is_judged_by_nothing_that_was_seen_before_its_step() -> None:
    early = replace(look(9000).snapshot, epochs={"gw": {"d": 3.0}})
    row = replace(begun(), evidence=evidence.opened(early, "d", 4))
    row = counted(row, Look(early, START, look(0).streams), 1)
    found = evidence.of(row, Look(early, START), None)
    assert found.blind == {"gw": "it was not seen under the flags of the step yet"}
    assert found.window.side("new").requests == 0
    assert row.soak_evidence_s == 0


@pytest.mark.parametrize("epochs", [{}, {"gw": {"d": 0.0}}], ids=["none", "from the environment"])
def test_a_store_that_tells_no_epoch_is_believed_when_nothing_of_it_can_be_from_before(
    epochs: dict[str, dict[str, float]],
) -> None:
    """Thousands at 0 %, then 10 %: what was scraped before the step, and after, are one figure."""

    def late(new: float, old: float) -> Look:
        counts: dict[Side, Count] = {"new": Count(new), "old": Count(old)}
        snapshot = Snapshot({"gw": {"d": counts}}, epochs=epochs, behind_s=45.0)
        return Look(snapshot, at(99), look(0).streams)

    opened = evidence.opened(late(0, 0).snapshot, "d", 4, 0)
    row = replace(begun(), phase_started_at=START, evidence=opened)
    row = evidence.counted(row, late(1, 9000), at(15))
    found = evidence.of(row, late(1, 9000), None)
    assert "tells no epoch of its flags, so for 45 s" in found.blind["gw"]
    assert proof.judge(10, 0, found.window, found.blind, 0.05).word == "open"
    row = evidence.counted(row, late(100, 9900), at(46))
    row = evidence.counted(row, late(300, 11700), at(60))
    found = evidence.of(row, late(300, 11700), None)
    assert (found.blind, found.window.share) == ({}, 0.1)
    assert proof.judge(10, 0, found.window, found.blind, 0.05).proven


@pytest.mark.parametrize(
    "streams",
    [(), (healthy("forward"), replace(healthy("reverse"), worker_alive=False))],
    ids=["not to be asked", "a direction without a worker"],
)
def test_without_a_living_sync_the_clock_stands(streams: tuple[StreamStatus, ...]) -> None:
    row = counted(begun(), look(110), 1)
    row = counted(row, replace(look(120), streams=streams), 2)
    assert row.soak_evidence_s == 1.0


def test_a_pause_without_looks_counts_little() -> None:
    row = counted(begun(), look(110), 1)
    row = counted(row, look(9000), 7200)
    assert row.soak_evidence_s == 1 + evidence.LONGEST_COUNT_S


def test_two_watches_count_each_second_once() -> None:
    row = begun()
    for half in range(1, 21):
        row = counted(row, look(100 + half), half / 2)
    assert row.soak_evidence_s == pytest.approx(10)


def test_a_clock_that_went_back_counts_nothing() -> None:
    row = counted(begun(), look(110), -5)
    assert row.soak_evidence_s == 0


def test_lags_are_kept_and_an_unknown_one_is_none() -> None:
    row = begun()
    for number in range(15):
        row = counted(row, look(100, lag=float(100 + number)), number)
    row = counted(row, look(100, lag=None), 20)
    seen = evidence.of(row, look(100, lag=None), None)
    assert len(seen.lags) == 10
    assert seen.lags[-2:] == (114.0, None)


def test_only_the_domains_own_streams_are_seen() -> None:
    other = StreamStatus("d.e.forward", True, True, 9999.0, 0, 0, 0, 7, {}, 1.0, 0, None)
    seen = evidence.of(begun(), replace(look(100), streams=(other, healthy("forward"))), None)
    assert [stream.name for stream in seen.streams] == ["d.forward"]


def test_a_verification_covers_what_came_before_it_only() -> None:
    record = VerdictRecord(at(60), at(30), "d", "verify", "verify", "equal", {}, 5.0)
    for moved, covers in [(None, True), (at(10), True), (at(40), False)]:
        seen = evidence.verdict_seen(record, moved)
        assert seen is not None
        assert seen.covers_now is covers
    assert evidence.verdict_seen(None, None) is None


def test_an_epoch_that_only_owners_have_hides_no_gateway() -> None:
    """A step that was taken back leaves owners at an epoch that no gateway was given."""
    seen = look(110)
    served = Look(replace(seen.snapshot, epochs={"gw": {"d": 4.0}}), START, seen.streams)
    row = replace(begun(), epoch=5, evidence=evidence.opened(look(100).snapshot, "d", 4))
    assert counted(row, served, 1).soak_evidence_s == 1.0


def test_of_two_watches_whose_looks_cross_the_older_counts_nothing() -> None:
    """B looked later and was counted first: A's smaller counters are no gateway that began anew."""
    row = counted(begun(), look(110), 1)
    by_b = counted(row, look(130, lag=30.0), 2.5, 2.6)
    by_a = counted(by_b, look(120, lag=99.0), 2, 3)
    assert by_a == by_b
    window = evidence.of(by_a, look(120), None).window
    assert window.side("new").requests == 30
    assert counted(by_a, look(140), 4).soak_evidence_s == 4


def test_a_look_from_before_the_phase_is_not_counted_for_it() -> None:
    """A step, or a phase that begins anew, was faster than a watch that had looked already."""
    row = counted(begun(), look(90), -1, 1)
    assert row.evidence["window"] == begun().evidence["window"]
    assert (row.soak_evidence_s, row.counted_at) == (0, START)


def test_a_clock_that_was_put_back_leaves_no_watch_blind() -> None:
    row = counted(counted(begun(), look(110), 3600), look(130), 10)
    assert evidence.of(row, look(130), None).window.side("new").requests == 30
