"""The worker's figures in the Prometheus format. What is not known is NaN, so no alert fires on it.

`splitctl_sync_source_log_full_seconds < 3600` wakes somebody while there is time.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from estate.config import BUCKETS
from migrator.parked import REASONS
from migrator.stream_health import StreamHealth
from migrator.watch import Seen

DELAYS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# What a stream knows of itself, and what it saw at its last look: read when somebody asks.
OWN: dict[str, tuple[str, Callable[[StreamHealth], float | None]]] = {
    "lag_seconds": ("Commit on the source to commit here", lambda h: h.last_lag_s),
    "lag_bytes": ("Log of the source not carried yet", lambda h: h.lag_bytes),
    "pending_keys": (
        "Keys gathered, spooled, waiting, in refuge",
        lambda h: h.gathered + h.waiting + h.spooled + h.refuge,
    ),
    "refuge_keys": ("Keys that the ledger keeps while the target is away", lambda h: h.refuge),
    "heartbeat_age_seconds": (
        "Since the last heartbeat that came round was sent",
        lambda h: h.heartbeat_age_s,
    ),
    "heartbeat_round_trip_seconds": (
        "From the source, through its log, to the commit in the target",
        lambda h: h.round_trip_s,
    ),
    "rows_per_second": ("Rows written or deleted, of late", lambda h: h.rows_per_s),
    "ready": ("1 while the stream does what it should", lambda h: h.ready),
}
LAST_LOOK: dict[str, tuple[str, Callable[[Seen], float | None]]] = {
    "strays_unsettled": ("Strays that nobody has settled", lambda seen: seen.unsettled),
    "slot_retained_bytes": (
        "Log that the slot makes the source keep",
        lambda seen: seen.log.retained_bytes,
    ),
    "slot_spilled_bytes": (
        "Transactions too large for the decoder's memory, since its statistics began",
        lambda seen: seen.log.spilled_bytes,
    ),
    "source_log_bytes_per_second": (
        "Log written on the source, of late",
        lambda seen: seen.log.written_per_s,
    ),
    "source_log_left_bytes": (
        "Log that the source can still keep: then the disk is full, or the slot lost",
        lambda seen: seen.log.room.left_bytes,
    ),
    "source_log_full_seconds": (
        "Until then, were nothing confirmed from now on",
        lambda seen: seen.log.room.seconds,
    ),
    "oldest_transaction_seconds": (
        "Age of the oldest transaction on the source that has written; 0 without any",
        lambda seen: seen.log.oldest.age_s if seen.log.oldest else 0.0,
    ),
}


class Delays(Collector):
    """A histogram that counts many transactions of the same delay at once."""

    def __init__(self, names: list[str]) -> None:
        # For each stream how many lie in each bucket, the last one without an end; and their sum.
        self._counts = {name: [0] * (len(DELAYS) + 1) for name in names}
        self._sums = dict.fromkeys(names, 0.0)

    def add(self, stream: str, seconds: float, count: int) -> None:
        """Count transactions that took this long."""
        self._counts[stream][bisect_left(DELAYS, seconds)] += count
        self._sums[stream] += seconds * count

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The family, as the registry asks for it."""
        family = HistogramMetricFamily(
            "splitctl_sync_delay_seconds",
            "Commit on the source to commit here, each transaction",
            labels=["stream"],
        )
        for stream, counts in self._counts.items():
            names = [*map(floatToGoString, DELAYS), "+Inf"]
            buckets = list(zip(names, map(float, accumulate(counts)), strict=True))
            family.add_metric([stream], buckets, self._sums[stream])
        yield family


class Owners(Collector):
    """Who owns which share of each domain, as each side's database says; what is not known has no
    sample. A change of the epoch is a step or a rollback."""

    def __init__(self) -> None:
        self.streams: Mapping[str, StreamHealth] = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The families, as the registry asks for them."""
        labels = ["domain", "side"]
        share = GaugeMetricFamily(
            "splitctl_owner_percentage", "Of the customers, owned by the new side", labels=labels
        )
        epoch = GaugeMetricFamily("splitctl_owner_epoch", "Of the owner", labels=labels)
        # Both streams of a domain read both databases: either will do.
        told = {
            key: owner for health in self.streams.values() for key, owner in health.owners.items()
        }
        for key, owner in sorted(told.items()):
            share.add_metric(key, 100 * owner.new_below / BUCKETS)
            epoch.add_metric(key, owner.epoch)
        yield share
        yield epoch


class Gauges:
    """All figures of a worker's streams."""

    def __init__(self, names: list[str]) -> None:
        self._registry = CollectorRegistry()
        label = ["stream"]
        self._gauges = {
            name: Gauge(f"splitctl_sync_{name}", text, label, registry=self._registry)
            for name, (text, _) in [*OWN.items(), *LAST_LOOK.items()]
        }
        self._parked = Gauge(
            "splitctl_sync_parked_keys",
            "Keys put aside in the target, by what they wait for",
            [*label, "reason"],
            registry=self._registry,
        )
        self._rows = Counter(
            "splitctl_sync_applied_rows", "Rows written or deleted", label, registry=self._registry
        )
        self._across = Counter(
            "splitctl_sync_strays_across",
            "Strays that were carried over the owner's version, by their rule",
            label,
            registry=self._registry,
        )
        self._strays = Counter(
            "splitctl_sync_strays",
            "Changes on the side that does not own",
            label,
            registry=self._registry,
        )
        self._delays, self._owners = Delays(names), Owners()
        self._registry.register(self._delays)
        self._registry.register(self._owners)
        for name in names:
            self._rows.labels(name)
            self._strays.labels(name)
            self._across.labels(name)

    def delay(self, stream: str, seconds: float, count: int) -> None:
        """Count transactions that took this long."""
        self._delays.add(stream, seconds, count)

    def carried(self, stream: str, rows: int, strays: int, across: int) -> None:
        """Count a batch that was committed; `across` are strays that were written too."""
        self._rows.labels(stream).inc(rows)
        self._strays.labels(stream).inc(strays)
        self._across.labels(stream).inc(across)

    def text(self, streams: Mapping[str, StreamHealth]) -> bytes:
        """The body of /metrics."""
        self._owners.streams = streams
        for stream, health in streams.items():
            # Taken once: the stream's own thread may replace it meanwhile.
            seen = health.seen
            for name, (_, of) in OWN.items():
                self._set(name, stream, of(health))
            for name, (_, of_look) in LAST_LOOK.items():
                self._set(name, stream, of_look(seen) if seen else None)
            for reason in REASONS:
                count = seen.parked.get(reason, 0) if seen else math.nan
                self._parked.labels(stream, reason).set(count)
        return generate_latest(self._registry)

    def _set(self, name: str, stream: str, value: float | None) -> None:
        self._gauges[name].labels(stream).set(math.nan if value is None else value)
