"""What the gateway tells at /metrics."""

from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.gateway.buckets import BUCKETS
from services.gateway.fence import Door
from services.gateway.flags import DomainFlags, Side

# Seconds. Fine around 50 and 100 ms, where the gates ask.
EDGES = (
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.075, 0.1,
    0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 3.0, 5.0, 10.0,
)  # fmt: skip
SIDES: tuple[Side, ...] = ("old", "new")


class Customers:
    """Which of a domain's buckets were served since its flags last changed, and by which side.

    An owner may move without the flags: then all are counted anew. For the new side owns buckets
    from 0 up to a threshold, so that one which it serves must lie below all that the old side has
    served. To forget only what contradicts would be unfair: those who stayed were seen for longer.
    """

    def __init__(self) -> None:
        self._begin(None)

    def _begin(self, flags: DomainFlags | None) -> None:
        self._flags = flags
        self._served: dict[Side, set[int]] = {"old": set(), "new": set()}
        self._lowest_old, self._highest_new = BUCKETS, -1

    def add(self, flags: DomainFlags, buckets: Sequence[int], sides: Sequence[Side]) -> None:
        """Buckets that were served under these flags; late ones of an older epoch do not count."""
        if self._flags is not None and flags.epoch < self._flags.epoch:
            return
        if flags != self._flags:
            self._begin(flags)
        for bucket, side in zip(buckets, sides, strict=True):
            moved = self._lowest_old <= bucket if side == "new" else bucket <= self._highest_new
            if moved:
                self._begin(flags)
            if side == "new":
                self._highest_new = max(self._highest_new, bucket)
            else:
                self._lowest_old = min(self._lowest_old, bucket)
            if not moved:
                # Whoever tells that the owner has moved is no chance: the first to be counted
                # would always be one of those who moved. He counts when he comes again.
                self._served[side].add(bucket)

    def count(self, flags: DomainFlags, side: Side) -> int:
        """How many under these flags."""
        return len(self._served[side]) if flags == self._flags else 0


class Doors(Collector):
    """Reads the doors when somebody asks, so that a request pays nothing for these figures."""

    def __init__(self, doors: Mapping[str, Door], customers: Mapping[str, Customers]) -> None:
        self._doors, self._customers = doors, customers

    def collect(self) -> Iterable[Metric]:
        """The families, read now."""
        held = CounterMetricFamily(
            "gateway_held_requests", "Requests that waited at a fence.", labels=["domain"]
        )
        longest = GaugeMetricFamily(
            "gateway_longest_hold_seconds", "Longest wait at a fence so far.", labels=["domain"]
        )
        share = GaugeMetricFamily(
            "gateway_flag_percentage", "Share that the new side serves.", labels=["domain"]
        )
        epoch = GaugeMetricFamily(
            "gateway_flag_epoch", "Epoch of the flags served.", labels=["domain"]
        )
        under_way = GaugeMetricFamily(
            "gateway_in_flight", "Requests whose upstream works.", labels=["domain", "side"]
        )
        customers = GaugeMetricFamily(
            "gateway_customers",
            "Buckets served since the flags last changed.",
            labels=["domain", "side"],
        )
        for domain, door in self._doors.items():
            held.add_metric([domain], door.held_total)
            longest.add_metric([domain], door.longest_hold)
            share.add_metric([domain], door.flags.served)
            epoch.add_metric([domain], door.flags.epoch)
            for side in SIDES:
                under_way.add_metric([domain, side], door.in_flight(side))
                number = self._customers[domain].count(door.flags, side)
                customers.add_metric([domain, side], number)
        return [held, longest, share, epoch, under_way, customers]


class Metrics:
    """Counters of the proxied requests, and the doors' figures."""

    def __init__(self, doors: Mapping[str, Door]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "gateway_requests_total",
            "Requests answered.",
            ["domain", "side", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "gateway_request_seconds",
            "From the request's arrival to its answer, holds included.",
            ["domain", "side"],
            buckets=EDGES,
            registry=self._registry,
        )
        self._customers = {domain: Customers() for domain in doors}
        self._registry.register(Doors(doors, self._customers))
        # Looking labels up costs more than counting; there are only a few combinations.
        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._histograms: dict[tuple[str, str], Histogram] = {}

    def answered(self, domain: str, side: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        counter = self._counters.get((domain, side, status))
        if counter is None:
            counter = self._requests.labels(domain, side, str(status))
            self._counters[domain, side, status] = counter
        histogram = self._histograms.get((domain, side))
        if histogram is None:
            histogram = self._seconds.labels(domain, side)
            self._histograms[domain, side] = histogram
        counter.inc()
        histogram.observe(seconds)

    def visited(
        self, domain: str, flags: DomainFlags, buckets: Sequence[int], sides: Sequence[Side]
    ) -> None:
        """Count the buckets of a request, each once, on the sides that served them.

        Of a domain without a door they are not counted: nobody knows when its flags changed.
        """
        if domain in self._customers:
            self._customers[domain].add(flags, buckets, sides)

    def expect(self, domain: str) -> None:
        """Tell of a domain before its first request: nothing is a number, too."""
        for side in SIDES:
            self._requests.labels(domain, side, "200")
            self._seconds.labels(domain, side)

    def text(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self._registry)
