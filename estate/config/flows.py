"""Flows: what test customers do, against which addresses, and how they are recognised."""

import re
from datetime import timedelta
from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator

from estate.config.model import Model, beside
from estate.config.values import Duration, HttpUrl

# Eight hexadecimal digits leave a test customer's id a uuid.
CUSTOMER = "5317c71e"
PREFIX = re.compile(r"[a-z0-9-]{4,13}")


class SideUrls(Model):
    """Where each side of a domain is asked directly, past the gateways."""

    old: HttpUrl
    new: HttpUrl


class FlowsConfig(Model):
    """The flow files; `urls` by domain; `customer` is what every test customer's id begins with.

    `health` is the path that says whether a service or a gateway is ready.
    """

    files: list[Path] = Field(default_factory=list)
    customer: str = CUSTOMER
    urls: dict[str, SideUrls] = Field(default_factory=dict)
    health: str = Field(default="/health/ready", pattern="^/")
    request_timeout: Duration = timedelta(seconds=10)

    @field_validator("files")
    @classmethod
    def _relative_to_config(cls, value: list[Path], info: ValidationInfo) -> list[Path]:
        return [beside(path, info) for path in value]

    @field_validator("customer")
    @classmethod
    def _recognisable(cls, value: str) -> str:
        if not PREFIX.fullmatch(value):
            raise ValueError("4 to 13 lower-case letters, digits or hyphens are expected")
        return value

    @field_validator("request_timeout")
    @classmethod
    def _some_time(cls, value: timedelta) -> timedelta:
        if value <= timedelta(0):
            raise ValueError("a request needs some time")
        return value
