"""PromQL: selectors, windows, and the questions that alerts and dashboards share. Pure."""

from dataclasses import dataclass, replace
from datetime import timedelta

from estate.config import Config
from estate.config.values import UNITS
from rollout.counters import Side
from rollout.sums import CUSTOMERS, REQUESTS, SECONDS

ANY_GATEWAY = 'job="gateway"'
PERCENTAGE = "gateway_flag_percentage"
OWNED = "splitctl_owner_percentage"
OWNER_EPOCH = "splitctl_owner_epoch"


def series(name: str, *matchers: str) -> str:
    """A selector; the name may have matchers of its own already: `errors_total{kind="io"}`."""
    bare, _, own = name.partition("{")
    inside = [own.rstrip().removesuffix("}").strip(), *matchers]
    found = ",".join(part for part in inside if part)
    return f"{bare.strip()}{{{found}}}" if found else bare.strip()


def labelled(name: str, value: str) -> str:
    """A matcher for exactly this value."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name}="{escaped}"'


def span(length: timedelta) -> str:
    """A duration as Prometheus writes it, in the largest unit that leaves nothing over."""
    milliseconds = round(length.total_seconds() * 1000)
    for unit, seconds in sorted(UNITS.items(), key=lambda item: -item[1]):
        whole, rest = divmod(milliseconds, round(1000 * seconds))
        if whole and not rest:
            return f"{whole}{unit}"
    return f"{milliseconds}ms"


@dataclass(frozen=True)
class Windows:
    """How far back questions look, in scrape intervals: two missed scrapes must not matter."""

    interval: timedelta

    @property
    def rate(self) -> str:
        """What a rate is made of."""
        return span(20 * self.interval)

    @property
    def short(self) -> str:
        """What has just happened."""
        return span(4 * self.interval)

    @property
    def hold(self) -> str:
        """So long something must be wrong before anybody is told."""
        return span(8 * self.interval)


@dataclass(frozen=True)
class Questions:
    """What is asked of the gateways about one domain, each by side."""

    gateways: str
    domain: str
    windows: Windows

    def of(self, side: Side) -> "Questions":
        """The same, asked about one side alone."""
        return replace(self, gateways=f"{self.gateways},{labelled('side', side)}")

    @property
    def requests(self) -> str:
        """The counter of its requests."""
        return series(f"{REQUESTS}_total", self.gateways, labelled("domain", self.domain))

    @property
    def buckets(self) -> str:
        """The histogram of its requests' seconds."""
        return series(f"{SECONDS}_bucket", self.gateways, labelled("domain", self.domain))

    def rate(self) -> str:
        """Requests a second."""
        return f"sum by (domain, side) (rate({self.requests}[{self.windows.rate}]))"

    def number(self) -> str:
        """Requests in the window."""
        return f"sum by (domain, side) (increase({self.requests}[{self.windows.rate}]))"

    @property
    def failed(self) -> str:
        """The counter of those answered with 5xx."""
        return series(self.requests, 'status=~"5.."')

    def errors(self) -> str:
        """Errors in the window."""
        return f"sum by (domain, side) (increase({self.failed}[{self.windows.rate}]))"

    def error_share(self) -> str:
        """The share answered with 5xx."""
        return f"sum by (domain, side) (rate({self.failed}[{self.windows.rate}])) / {self.rate()}"

    def p95(self) -> str:
        """Seconds."""
        rates = f"sum by (domain, side, le) (rate({self.buckets}[{self.windows.rate}]))"
        return f"histogram_quantile(0.95, {rates})"

    def served(self) -> str:
        """The percentage that gateways serve from the new side."""
        return series(PERCENTAGE, self.gateways, labelled("domain", self.domain))

    def observed(self) -> str:
        """The share of the customers that the new side served since the flags last changed."""
        customers = series(CUSTOMERS, self.gateways, labelled("domain", self.domain))
        new = series(customers, labelled("side", "new"))
        return f"sum by (domain) ({new}) / sum by (domain) ({customers})"


def gateways_of(config: Config) -> str:
    """The matcher of the gateways' series."""
    return config.observe.gateways or config.metrics.matcher or ANY_GATEWAY


def questions(config: Config, domain: str) -> Questions:
    """What is asked of this estate's gateways about a domain."""
    return Questions(gateways_of(config), domain, Windows(config.observe.interval))


def streams(config: Config, name: str, domain: str) -> str:
    """A series of the sync worker, for both directions of a domain."""
    # A domain's name has only letters that mean themselves in a regular expression.
    return series(name, config.observe.worker, f'stream=~"{domain}[.](forward|reverse)"')
