"""The report is one file that can be mailed: everything is in it, nothing is fetched."""

import re

from rehearsal.certificate import build
from rehearsal.plots import Mark
from rehearsal.report import render
from tests.rehearsal.test_certificate import ROLLBACK, flawless, verdict


def page() -> str:
    evidence = flawless()
    evidence.problems = ["the story stopped at <here>"]
    series = {"things": [(0.0, 1.0), (1.0, None), (2.0, 3.0)]}
    plots = [("Traffic", "% of requests", series, False), ("Latency", "ms", series, True)]
    return render(build(evidence), "test", plots, [Mark(1.0, "10 %")], [verdict()])


def test_it_is_self_contained() -> None:
    text = page()
    assert "<script" not in text
    assert not re.findall(r'(?:src|href)="https?:', text)
    assert text.count("<svg") == 2


def test_it_says_why_it_failed_and_trusts_no_text() -> None:
    text = page()
    assert "&lt;here&gt;" in text
    assert "<here>" not in text
    assert "Why it failed" in text


def test_the_plots_mark_the_steps() -> None:
    assert "10 %" in page()


def test_a_rollback_that_a_gateway_never_served_is_told() -> None:
    evidence = flawless()
    evidence.rollbacks = [{**ROLLBACK, "seconds_until_every_gateway_serves_it": None}]
    assert "never" in render(build(evidence), "test", [], [], [])


def test_an_empty_run_still_has_a_page() -> None:
    evidence = flawless()
    evidence.steps, evidence.rollbacks, evidence.writes, evidence.verdicts = [], [], [], []
    assert "<svg" in render(build(evidence), "test", [("Load", "per second", {}, False)], [], [])
