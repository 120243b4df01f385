"""Metrics: where evidence comes from."""

import re
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from estate.config.model import Model
from estate.config.values import Duration, HttpUrl
from estate.secrets import SecretRef

MATCHER = r'\s*[a-zA-Z_]\w*\s*(?:=|!=|=~|!~)\s*"(?:[^"\\]|\\.)*"\s*'
MATCHERS = re.compile(rf"{MATCHER}(?:,{MATCHER})*")


def _matchers(value: str) -> str:
    if not MATCHERS.fullmatch(value):
        raise ValueError("label matchers are expected, like 'job=\"gateway\"'")
    return value.strip()


# What stands between the braces of a selector: `job="gateway",env="prod"`.
Matchers = Annotated[str, AfterValidator(_matchers)]


class MetricsConfig(Model):
    """Where evidence comes from: `scrape` reads the gateways' own /metrics pages, `prometheus` asks
    a Prometheus that scrapes them.

    `matcher` chooses the gateways among all that Prometheus scrapes. How many there must be:
    `instances` names each by its label `instance`, or `gateways` is their number; by default there
    are as many as `gateway.urls`. A sample older than `staleness` is none: give at least two
    scrape intervals.
    """

    driver: Literal["scrape", "prometheus"] = "scrape"
    urls: list[HttpUrl] = Field(default_factory=list)
    url: HttpUrl | None = None
    token: SecretRef | None = None
    matcher: Matchers | None = None
    instances: list[str] = Field(default_factory=list)
    gateways: int | None = Field(default=None, ge=1)
    staleness: Duration = timedelta(seconds=45)

    @model_validator(mode="after")
    def _prometheus_can_be_asked(self) -> Self:
        if self.driver == "prometheus" and not (self.url and self.matcher):
            raise ValueError("the driver prometheus needs url and matcher")
        if self.instances and self.gateways is not None:
            raise ValueError("give either instances or gateways: the names, or how many there are")
        if self.staleness <= timedelta():
            raise ValueError("staleness is longer than nothing")
        return self
