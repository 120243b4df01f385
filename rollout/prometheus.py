"""The gateways' counters as a Prometheus has them: the same snapshots as their own pages give.

Asked for raw counters, never for rates: what belongs to a phase, and what a restart means, is
judged in one place (`rollout.counters`). Every sample of a scrape has the time of `up`, so `up`
tells whether a gateway is seen at all, and how long ago. Ages are counted on Prometheus' own clock.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from estate.config import Config
from estate.errors import SplitctlError
from rollout import sums
from rollout.counters import Snapshot
from rollout.prometheus_api import NoPrometheus, Prometheus, Sample
from rollout.sums import REQUESTS, SAMPLES, Sums, Unreadable

UP = "up"


@dataclass(frozen=True)
class Expected:
    """The gateways there must be: each by its label `instance`, or how many."""

    number: int
    instances: tuple[str, ...] = ()
    staleness_s: float = 45.0

    @classmethod
    def of(cls, config: Config) -> "Expected":
        """As the configuration has them, by default as many as are switched."""
        named = tuple(config.metrics.instances)
        number = config.metrics.gateways or len(named) or len(config.gateway.urls)
        return cls(number, named, config.metrics.staleness.total_seconds())


class PrometheusMetrics:
    """Reads every gateway's counters from one Prometheus."""

    def __init__(self, prometheus: Prometheus, matcher: str, expected: Expected) -> None:
        self._prometheus, self._expected = prometheus, expected
        names = "|".join((UP, *SAMPLES))
        self._scraped = f"timestamp({UP}{{{matcher}}})"
        self._counted = f'{{__name__=~"{names}",{matcher}}}'

    @classmethod
    def of(cls, config: Config) -> "PrometheusMetrics":
        """Of this estate. Raises NoPrometheus."""
        if config.metrics.matcher is None:
            raise NoPrometheus
        return cls(Prometheus.of(config), config.metrics.matcher, Expected.of(config))

    def scrape(self) -> Snapshot:
        """One look; whatever is wrong with it is told as a problem. Never raises."""
        try:
            scraped = self._prometheus.instant(self._scraped)
            # Both answers are of one moment, whichever clock is right.
            at = scraped[0].at if scraped else None
            counted = self._prometheus.instant(self._counted, at) if scraped else []
        except SplitctlError as error:
            behind_s = self._expected.staleness_s
            return Snapshot(problems={"prometheus": str(error)}, behind_s=behind_s)
        return seen(self._expected, at or 0.0, scraped, counted)

    def history(
        self, start: datetime, end: datetime, step_s: float
    ) -> Iterator[tuple[float, Snapshot]]:
        """What a look would have seen at each moment of the past, in seconds since 1970.

        Raises PrometheusSilent, SecretMissing.
        """
        # Whole milliseconds: else the moments asked and those answered would drift apart.
        bounds = start.timestamp(), end.timestamp(), max(round(step_s, 3), 0.001)
        scraped = self._prometheus.range(self._scraped, *bounds)
        counted = self._prometheus.range(self._counted, *bounds)
        for (moments, some_scraped), (_, some_counted) in zip(scraped, counted, strict=True):
            times, samples = _by_moment(some_scraped), _by_moment(some_counted)
            # A moment without any series is a moment, too: nobody was seen then.
            for at in moments:
                yield at, seen(self._expected, at, times.get(at, []), samples.get(at, []))


def seen(
    expected: Expected, at: float, scraped: Sequence[Sample], counted: Sequence[Sample]
) -> Snapshot:
    """The look that these samples of the moment `at` give. Pure.

    `scraped` holds for each target when it was scraped last, `counted` its `up` and its counters.
    """
    times = _by_instance(scraped)
    samples = _by_instance(counted)
    found: dict[str, Sums] = {}
    problems: dict[str, str] = {}
    for name in sorted({*times, *expected.instances}):
        try:
            _believed(expected, at, times.get(name, []), samples.get(name, []))
            found[name] = _sums(samples[name])
        except Unreadable as error:
            problems[name] = str(error)
    if len(times) < expected.number:
        told = f"{len(times)} of {expected.number} gateways are scraped"
        problems["prometheus"] = told
    return sums.snapshot(found, problems, expected.staleness_s)


def _believed(
    expected: Expected, at: float, times: Sequence[Sample], samples: Sequence[Sample]
) -> None:
    """Raises Unreadable unless these are one target's, fresh, and scraped with success."""
    if not times:
        raise Unreadable("it is not scraped")
    if len(times) > 1:
        raise Unreadable("several targets have this instance: make metrics.matcher narrower")
    age = at - times[0].value
    if age > expected.staleness_s:
        raise Unreadable(f"its last sample is too old ({age:.0f} s)")
    if [sample.value for sample in samples if sample.labels["__name__"] == UP] != [1.0]:
        raise Unreadable("it cannot be scraped")


def _sums(samples: Sequence[Sample]) -> Sums:
    """What one gateway has counted. Raises Unreadable."""
    found = Sums()
    try:
        for sample in samples:
            found.add(sample.labels["__name__"], sample.labels, sample.value)
    except (ValueError, KeyError) as error:
        raise Unreadable("its counters are not what a gateway counts") from error
    if not (found.requests or found.customers):
        raise Unreadable(f"it has no counter {REQUESTS}_total")
    return found


def _by_instance(samples: Sequence[Sample]) -> Mapping[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.labels.get("instance", "(no instance)"), []).append(sample)
    return found


def _by_moment(samples: Sequence[Sample]) -> Mapping[float, list[Sample]]:
    found: dict[float, list[Sample]] = {}
    for sample in samples:
        found.setdefault(round(sample.at, 3), []).append(sample)
    return found
