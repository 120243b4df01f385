"""Gateways, fences, writers and phases: how customers are moved."""

from typing import Literal, Self

from pydantic import Field, model_validator

from estate.config.model import Model
from estate.config.values import Duration, HttpUrl
from estate.secrets import SecretRef


class GatewayConfig(Model):
    """The gateways that send customers to a side, reached at their admin endpoints."""

    driver: Literal["admin"] = "admin"
    urls: list[HttpUrl] = Field(min_length=1)
    token: SecretRef


class FenceConfig(Model):
    """How long a step may hold customers (budget), and when a gateway lets go by itself (lease)."""

    budget_ms: int = Field(default=2000, ge=100, le=30_000)
    lease_ms: int = Field(default=5000, ge=200, le=60_000)

    @model_validator(mode="after")
    def _lease_outlives_budget(self) -> Self:
        if self.lease_ms <= self.budget_ms:
            raise ValueError("lease_ms must be greater than budget_ms")
        return self


class RollbackConfig(Model):
    """The longest that a returning customer is held, in ms (law L8: at most 1000)."""

    hold_ms: int = Field(default=1000, ge=0, le=1000)


class WriterConfig(Model):
    """A program that writes to mapped tables beside the gateway."""

    name: str
    discipline: Literal["owner-aware", "paused"]
    pause_url: HttpUrl | None = None
    resume_url: HttpUrl | None = None

    @model_validator(mode="after")
    def _paused_writers_can_be_paused(self) -> Self:
        if self.discipline == "paused" and not (self.pause_url and self.resume_url):
            raise ValueError("a paused writer needs pause_url and resume_url")
        return self


class PhaseConfig(Model):
    """A percentage and how long it soaks before the next step."""

    percentage: int = Field(ge=1, le=100)
    soak: Duration
