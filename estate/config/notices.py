"""Notices: who is told of every change of state."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from estate.config.model import Model
from estate.config.values import HttpUrl
from estate.secrets import SecretRef

Event = Literal[
    "started", "stepped", "failed", "held", "went_on", "paused", "resumed", "drifted", "asked",
    "unfinished", "rolled_back", "finished",
]  # fmt: skip


class NotifyConfig(Model):
    """A webhook that is told of every change of state, or only of some `events`.

    `url` may be a secret: a chat's webhook needs nothing else to be written to. With `secret` each
    notice in the format `json` is signed.
    """

    name: str = Field(min_length=1, max_length=60)
    url: SecretRef | HttpUrl
    format: Literal["slack", "json"] = "json"
    secret: SecretRef | None = None
    events: Sequence[Event] | None = None

    @field_validator("url", mode="before")
    @classmethod
    def _secret_or_plain(cls, value: Any, info: ValidationInfo) -> Any:
        """One kind of value each, so that a mistake is told once."""
        if isinstance(value, str) and value.startswith(("env:", "file:")):
            return SecretRef(value, (info.context or {}).get("base"))
        return value
