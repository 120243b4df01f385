"""A real Prometheus in between: the gates say the same, and nothing when it cannot be known."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from estate.config import Config
from estate.errors import ExitCode
from rehearsal.children import Children, wait_until
from rollout.counters import Snapshot, Window
from rollout.gates import GateResult, asked, evaluate
from rollout.gateways import metrics_of
from rollout.metrics import Metrics, ScrapeMetrics
from rollout.prometheus import PrometheusMetrics
from rollout.replay import NothingToReplay, Replay, replay
from rollout.seen import Evidence
from tests.observe import programs
from tests.observe.conftest import Configure
from tests.observe.pages import GatewayPage, opened
from tests.observe.programs import Monitoring

T = TypeVar("T")
COUNTED = ("error_rate", "latency_p95", "share")
LINES = 'driver = "prometheus"\nurl = "{url}"\nmatcher = \'job="gateway"\'\nstaleness = "10s"\n'


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
        return metrics_of(self.config)

    def look(self, wanted: Callable[[Snapshot], bool] = lambda seen: seen.complete) -> Snapshot:
        """Prometheus' look, as soon as it is as wanted: on a busy machine a scrape may fail."""
        return awaited(self.asked.scrape, wanted)

    def replayed(self, code: ExitCode, began: datetime, **options: Any) -> Replay:
        """The replay up to now, as soon as it ends like this."""

        def work() -> Replay:
            # Steps end before the end that is asked for: beyond now lies what was scraped last.
            end = datetime.now(UTC) + timedelta(seconds=0.5)
            return replay(self.config, ["d"], began, end, 0.25, **options)

        return awaited(work, lambda found: found.exit_code is code)

    def settle(self) -> None:
        """Prometheus has seen what the pages tell now."""
        for page in self.pages:
            for side in ("old", "new"):
                number = page.registry.get_sample_value(
                    "gateway_customers", {"domain": "d", "side": side}
                )
                query = f'gateway_customers{{instance="{page.address}",side="{side}"}}'
                self.prometheus.await_value(query, number or 0)

    def verdicts(
        self, window: Window, seen: Snapshot, percentage: int = 10
    ) -> dict[str, GateResult]:
        gates = asked(self.config.gates, "d", percentage)
        gates = [gate for gate in gates if gate.kind in COUNTED]
        evidence = Evidence("d", percentage, window, seen.problems)
        return {gate.name: evaluate(gate, evidence) for gate in gates}


def awaited(work: Callable[[], T], wanted: Callable[[T], bool]) -> T:
    """What `work` gives, once it is as wanted."""
    found: list[T] = []

    def there() -> bool:
        found[:] = [work()]
        return wanted(found[0])

    assert wait_until(there, 30), found
    return found[0]


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
    both = (("page", watched.scraped.scrape), ("prometheus", watched.look))
    for name, look in both:
        windows[name] = Window.opened(look(), "d")
    for page in watched.pages:
        page.served("old", 900)
        page.served("new", 98)
    second.served("new", 2, status=500, seconds=0.8)
    # One begins anew, and so do its counters.
    watched.settle()
    for name, look in both:
        windows[name] = windows[name].advanced(look(), "d")
    first.begin()
    first.served("new", 10)
    first.served("old", 90)
    watched.settle()
    said = {}
    for name, look in both:
        seen = look()
        windows[name] = windows[name].advanced(seen, "d")
        said[name] = watched.verdicts(windows[name], seen)
    assert windows["prometheus"].side("new") == windows["page"].side("new")
    assert windows["prometheus"].side("new").requests == 208
    assert said["prometheus"] == said["page"]
    assert {name: result.verdict for name, result in said["page"].items()} == {
        "errors": "pass", "latency": "pass", "share": "pass",
    }  # fmt: skip


def test_what_prometheus_saw_before_a_step_does_not_judge_the_phase_after_it(
    watched: Watched,
) -> None:
    for page in watched.pages:
        page.served("old", 900)
        page.served("new", 100, status=500)
    watched.settle()
    late = watched.look()
    for page in watched.pages:
        page.flags(2, 50)
    # What the first look after the step gets, when nothing was scraped since.
    window = Window.opened(late.under("d", 2), "d")
    seen = late.under("d", 2)
    results = watched.verdicts(window.advanced(seen, "d"), seen, 50)
    assert {result.verdict for result in results.values()} == {"inconclusive"}
    seen = watched.look(lambda seen: seen.under("d", 2).complete)
    window = window.advanced(seen.under("d", 2), "d")
    for page in watched.pages:
        page.served("old", 300)
        page.served("new", 300)
    watched.settle()
    seen = watched.look().under("d", 2)
    window = window.advanced(seen, "d")
    assert (window.side("new").requests, window.side("new").errors) == (600, 0)
    results = watched.verdicts(window, seen, 50)
    assert {name: result.verdict for name, result in results.items()} == {
        "errors": "pass", "latency": "pass", "share": "pass",
    }  # fmt: skip


def test_a_prometheus_that_died_is_inconclusive_and_never_a_fail(watched: Watched) -> None:
    window = Window.opened(watched.look(), "d")
    watched.pages[0].served("new", 500, status=500)
    watched.settle()
    seen = watched.look()
    window = window.advanced(seen, "d")
    assert watched.verdicts(window, seen)["errors"].verdict == "fail"
    watched.prometheus.stop("prometheus")
    seen = watched.asked.scrape()
    assert not seen.complete and "does not tell" in seen.problems["prometheus"]
    results = watched.verdicts(window.advanced(seen, "d"), seen)
    assert {result.verdict for result in results.values()} == {"inconclusive"}


def test_a_gateway_that_cannot_be_scraped_is_named(watched: Watched) -> None:
    gone = watched.pages[1]
    window = Window.opened(watched.look(), "d")
    gone.close()
    seen = watched.look(lambda seen: seen.problems == {gone.address: "it cannot be scraped"})
    results = watched.verdicts(window.advanced(seen, "d"), seen)
    assert {result.verdict for result in results.values()} == {"inconclusive"}
    assert gone.address in results["errors"].reason
    gone.open()
    watched.look()


def test_a_gateway_that_nobody_scrapes_is_noticed(watched: Watched, configure: Configure) -> None:
    lines = LINES.format(url=watched.prometheus.url)
    missed = {"prometheus": "2 of 3 gateways are scraped"}
    by_number = PrometheusMetrics.of(configure(metrics=lines + "gateways = 3"))
    awaited(by_number.scrape, lambda seen: seen.problems == missed)
    names = [page.address for page in watched.pages]
    named = configure(metrics=f"{lines}instances = {[*names, 'gateway-3:8080']!r}")
    by_name = PrometheusMetrics.of(named)
    seen = awaited(by_name.scrape, lambda seen: set(seen.gateways) == set(names))
    assert seen.problems == {"gateway-3:8080": "it is not scraped", **missed}


def test_the_past_is_judged_by_the_same_gates(watched: Watched) -> None:
    began = datetime.now(UTC)
    watched.pages[0].served("new", 400)
    watched.pages[0].served("old", 3600)
    watched.settle()
    found = watched.replayed(ExitCode.DONE, began)
    (domain,) = found.domains
    gates = {gate.last.name: gate for gate in domain.gates}
    assert set(gates) == {"errors", "latency"}
    assert gates["errors"].inconclusive > 0, "before there were samples enough"
    assert any("lag (sync_lag)" in item for item in found.left_out)

    good_until = datetime.now(UTC)
    watched.pages[1].served("new", 100, status=503)
    watched.settle()
    found = watched.replayed(ExitCode.CHECK_FAILED, began, percentage=10)
    gates = {gate.last.name: gate for gate in found.domains[0].gates}
    assert gates["errors"].first_fail is not None
    assert gates["errors"].first_fail > good_until
    assert gates["latency"].failed == 0
    assert gates["share"].last.samples > 0
    assert (found.domains[0].requests, found.domains[0].errors) == (500, 100)

    old = watched.replayed(ExitCode.DONE, began, side="old", percentage=10)
    assert old.domains[0].requests == 3600


def test_a_past_that_nobody_saw_is_inconclusive(watched: Watched) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    found = replay(watched.config, [], yesterday, yesterday + timedelta(hours=5), 30)
    assert (found.moments, found.evidenced) == (601, 0)
    assert found.exit_code is ExitCode.INCONCLUSIVE
    assert {gate.last.verdict for gate in found.domains[0].gates} == {"inconclusive"}
    with pytest.raises(NothingToReplay):
        replay(watched.config, [], yesterday, yesterday - timedelta(hours=1), 30)
