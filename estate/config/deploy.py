"""Deployment: where the manifests are, and how long they may take."""

from datetime import timedelta
from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator

from estate.config.model import Model, beside
from estate.config.values import Duration, HttpUrl


class DeployConfig(Model):
    """What `splitctl deploy` applies: `manifests`/overlays/`overlay`, by default the environment's.

    `limit` is the longest that all rollouts together may take. `health`: addresses that have to
    answer with success afterwards.
    """

    manifests: Path
    overlay: str | None = None
    limit: Duration = timedelta(minutes=5)
    health: list[HttpUrl] = Field(default_factory=list)

    @field_validator("manifests")
    @classmethod
    def _relative_to_config(cls, value: Path, info: ValidationInfo) -> Path:
        return beside(value, info)
