"""Metrics: where evidence comes from."""

from typing import Literal

from pydantic import Field

from estate.config.model import Model
from estate.config.values import HttpUrl


class MetricsConfig(Model):
    """Where evidence comes from; `scrape` reads the gateways' own /metrics pages."""

    driver: Literal["scrape"] = "scrape"
    urls: list[HttpUrl] = Field(default_factory=list)
