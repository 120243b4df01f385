"""A real Prometheus in between: the gates say the same, and nothing when it cannot be known."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from estate.config import Config
from estate.errors import ExitCode
from rehearsal.children import Children, wait_until
from rollout import metrics
from rollout.counters import Snapshot, Window
from rollout.gates import Evidence, GateResult, asked, evaluate
from rollout.metrics import Metrics, ScrapeMetrics
from rollout.prometheus import PrometheusMetrics
from rollout.replay import NothingToReplay, replay
from tests.observe import programs
from tests.observe.conftest import Configure
from tests.observe.pages import GatewayPage, opened
from tests.observe.programs import Monitoring

COUNTED = ("error_rate", "latency_p95", "share")
LINES = 'driver = "prometheus"\nurl = "{url}"\nmatcher = \'job="gateway"\'\nstaleness = "2s"\n'


@dataclass
class Watched:
    """Two gateways' pages, and the Prometheus that scrapes them."""

    pages: tuple[GatewayPage, GatewayPage]
    prometheus: Monitoring
    config: Config

    @property
    def scraped(self) -> Metrics:
        return ScrapeMetrics([page.url for page in self.pages])

    @property
    def asked(self) -> Metrics:
        return metrics.of(self.config)

    def settle(self) -> None:
        """Prometheus has seen what the pages tell now."""
        for page in self.pages:
            for side in ("old", "new"):
                number = page.registry.get_sample_value(
                    "gateway_customers", {"domain": "d", "side": side}
                )
                query = f'gateway_customers{{instance="{page.address}",side="{side}"}}'
                self.prometheus.await_value(query, number or 0)

    def verdicts(self, window: Window, seen: Snapshot) -> dict[str, GateResult]:
        gates = [gate for gate in asked(self.config.gates, "d", 10) if gate.kind in COUNTED]
        evidence = Evidence("d", 10, window, seen.problems)
        return {gate.name: evaluate(gate, evidence) for gate in gates}


def soon() -> datetime:
    """Steps end before the end that is asked for: beyond now lies what was scraped last."""
    return datetime.now(UTC) + timedelta(seconds=0.5)


@pytest.fixture
def watched(tmp_path: Path, children: Children, configure: Configure) -> Iterator[Watched]:
    pages = (GatewayPage(), GatewayPage())
    with opened(*pages):
        targets = {"gateway": [page.address for page in pages]}
        found = programs.start(tmp_path, children, targets)
        config = configure(metrics=LINES.format(url=found.url) + "gateways = 2")
        watched = Watched(pages, found, config)
        watched.settle()
        yield watched


def test_the_gates_say_the_same_as_by_scraping(watched: Watched) -> None:
    first, second = watched.pages
    first.served("old", 50)
    watched.settle()
    windows = {}
    for name, source in (("page", watched.scraped), ("prometheus", watched.asked)):
        seen = source.scrape()
        assert seen.complete, seen.problems
        windows[name] = Window.opened(seen, "d")
    for page in watched.pages:
        page.served("old", 900)
        page.served("new", 98)
    second.served("new", 2, status=500, seconds=0.8)
    # One begins anew, and so do its counters.
    watched.settle()
    both = ((watched.scraped, "page"), (watched.asked, "prometheus"))
    for source, name in both:
        windows[name] = windows[name].advanced(source.scrape(), "d")
    first.begin()
    first.served("new", 10)
    first.served("old", 90)
    watched.settle()
    said = {}
    for source, name in both:
        seen = source.scrape()
        windows[name] = windows[name].advanced(seen, "d")
        said[name] = watched.verdicts(windows[name], seen)
    assert windows["prometheus"].side("new") == windows["page"].side("new")
    assert windows["prometheus"].side("new").requests == 208
    assert said["prometheus"] == said["page"]
    assert {name: result.verdict for name, result in said["page"].items()} == {
        "errors": "pass", "latency": "pass", "share": "pass",
    }  # fmt: skip


def test_a_prometheus_that_died_is_inconclusive_and_never_a_fail(watched: Watched) -> None:
    window = Window.opened(watched.asked.scrape(), "d")
    watched.pages[0].served("new", 500, status=500)
    watched.settle()
    window = window.advanced(watched.asked.scrape(), "d")
    assert watched.verdicts(window, watched.asked.scrape())["errors"].verdict == "fail"
    watched.prometheus.stop("prometheus")
    seen = watched.asked.scrape()
    assert not seen.complete and "does not tell" in seen.problems["prometheus"]
    results = watched.verdicts(window.advanced(seen, "d"), seen)
    assert {result.verdict for result in results.values()} == {"inconclusive"}


def test_a_gateway_that_cannot_be_scraped_is_named(watched: Watched) -> None:
    gone = watched.pages[1]
    window = Window.opened(watched.asked.scrape(), "d")
    gone.close()
    assert wait_until(lambda: bool(watched.asked.scrape().problems), 20)
    seen = watched.asked.scrape()
    assert seen.problems == {gone.address: "it cannot be scraped"}
    results = watched.verdicts(window.advanced(seen, "d"), seen)
    assert {result.verdict for result in results.values()} == {"inconclusive"}
    assert gone.address in results["errors"].reason
    gone.open()
    assert wait_until(lambda: watched.asked.scrape().complete, 20)


def test_a_gateway_that_nobody_scrapes_is_noticed(watched: Watched, configure: Configure) -> None:
    lines = LINES.format(url=watched.prometheus.url)
    by_number = PrometheusMetrics.of(configure(metrics=lines + "gateways = 3")).scrape()
    assert by_number.problems == {"prometheus": "2 of 3 gateways are scraped"}
    names = [page.address for page in watched.pages]
    named = configure(metrics=f"{lines}instances = {[*names, 'gateway-3:8080']!r}")
    by_name = PrometheusMetrics.of(named).scrape()
    assert by_name.problems["gateway-3:8080"] == "it is not scraped"
    assert set(by_name.gateways) == set(names)


def test_the_past_is_judged_by_the_same_gates(watched: Watched) -> None:
    began = datetime.now(UTC)
    watched.pages[0].served("new", 400)
    watched.pages[0].served("old", 3600)
    watched.settle()
    good_until = datetime.now(UTC)
    found = replay(watched.config, ["d"], began, soon(), 0.25)
    (domain,) = found.domains
    gates = {gate.last.name: gate for gate in domain.gates}
    assert set(gates) == {"errors", "latency"}
    assert found.exit_code is ExitCode.DONE
    assert gates["errors"].inconclusive > 0, "before there were samples enough"
    assert any("lag (sync_lag)" in item for item in found.left_out)

    watched.pages[1].served("new", 100, status=503)
    watched.settle()
    found = replay(watched.config, [], began, soon(), 0.25, percentage=10)
    gates = {gate.last.name: gate for gate in found.domains[0].gates}
    assert found.exit_code is ExitCode.CHECK_FAILED
    assert gates["errors"].first_fail is not None
    assert gates["errors"].first_fail > good_until - timedelta(seconds=0.5)
    assert gates["latency"].failed == 0
    assert gates["share"].last.samples > 0
    assert (found.domains[0].requests, found.domains[0].errors) == (500, 100)

    old = replay(watched.config, [], began, soon(), 0.25, side="old", percentage=10)
    assert old.exit_code is ExitCode.DONE
    assert old.domains[0].requests == 3600


def test_a_past_that_nobody_saw_is_inconclusive(watched: Watched) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    found = replay(watched.config, [], yesterday, yesterday + timedelta(hours=5), 30)
    assert (found.moments, found.evidenced) == (601, 0)
    assert found.exit_code is ExitCode.INCONCLUSIVE
    assert {gate.last.verdict for gate in found.domains[0].gates} == {"inconclusive"}
    with pytest.raises(NothingToReplay):
        replay(watched.config, [], yesterday, yesterday - timedelta(hours=1), 30)
