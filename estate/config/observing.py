"""Observing: what alerts and dashboards are made from, beside the gates."""

from datetime import timedelta
from pathlib import PurePosixPath
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from estate.config.metrics import Matchers
from estate.config.model import Model
from estate.config.values import Duration, HttpUrl, Size

SHORTEST_INTERVAL = timedelta(milliseconds=100)


class ReceiverConfig(Model):
    """Where Alertmanager sends a kind of alert.

    `file` is a path on Alertmanager's machine. It holds the routing key of `pagerduty`, or the
    address of `slack` or a `webhook`. `url` is PagerDuty's own by default; a webhook has either.
    """

    kind: Literal["pagerduty", "slack", "webhook"]
    url: HttpUrl | None = None
    file: PurePosixPath | None = None

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        if self.kind == "pagerduty" and self.file is None:
            raise ValueError("pagerduty needs file: where its routing key is kept")
        if self.kind == "slack" and (self.file is None or self.url is not None):
            raise ValueError("slack needs file and no url: its address is a secret")
        if self.kind == "webhook" and (self.file is None) == (self.url is None):
            raise ValueError("a webhook needs either url, or file that holds it")
        return self


class ServiceConfig(Model):
    """A service with a dashboard of its own; `matcher` chooses its series."""

    name: str = Field(min_length=1, max_length=60)
    matcher: Matchers


class PanelConfig(Model):
    """One more panel of a domain's dashboard, for instance a conversion."""

    domain: str
    title: str = Field(min_length=1, max_length=120)
    expr: str = Field(min_length=1)
    unit: Literal["percentunit", "reqps", "s", "short"] = "short"


class ObserveConfig(Model):
    """What `splitctl observe` writes. Limits that are left out are those of the gates.

    `interval` is how often Prometheus scrapes: every window of an alert is a multiple of it.
    `gateways` and `worker` choose the gateways' and the sync worker's pages. The failures are
    counters, with or without matchers. Below `min_requests` in the window no rate is judged.
    """

    interval: Duration = timedelta(seconds=15)
    gateways: Matchers | None = None
    worker: Matchers = 'job="splitctl"'
    page: ReceiverConfig | None = None
    chat: ReceiverConfig | None = None
    error_rate: float | None = Field(default=None, gt=0, lt=1)
    p95_ms: float | None = Field(default=None, gt=0)
    lag_ms: float | None = Field(default=None, gt=0)
    min_requests: int = Field(default=100, ge=1)
    slot: Size = 10 * 2**30
    log_left: Duration = timedelta(hours=1)
    database_failures: str | None = None
    event_failures: str | None = None
    requests: str = "service_requests_total"
    seconds: str = "service_request_seconds"
    operation: str = "method"
    services: list[ServiceConfig] = Field(default_factory=list)
    panels: list[PanelConfig] = Field(default_factory=list)

    @field_validator("interval")
    @classmethod
    def _scraped(cls, value: timedelta) -> timedelta:
        if value < SHORTEST_INTERVAL:
            raise ValueError("Prometheus scrapes at most every 100ms")
        return value
