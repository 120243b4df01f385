"""Gateways, fences, writers and phases: how customers are moved."""

from datetime import timedelta
from typing import Literal, Self

from pydantic import Field, model_validator

from estate.config.model import Model
from estate.config.values import Duration, HttpUrl
from estate.secrets import SecretRef

# What each driver needs to be told.
DRIVERS: dict[str, tuple[str, ...]] = {
    "admin": ("urls", "token"),
    "environment": ("deployment",),
    "config-map": ("deployment", "config_map"),
    "http-route": ("route", "owners_refuse", "services_pass_on"),
}


class GatewayConfig(Model):
    """The gateways that send customers to a side, and how their flags are changed.

    `admin`: each by its endpoint, with a fence. `environment`: variables of a Deployment, whose
    pods start anew. `config-map`: files that the pods read again. `http-route`: weights of a
    Gateway API route. All but the first have no fence; with `owners_refuse` the services answer 421
    to whom they do not own and the gateways ask the other side, so none is needed. With
    `services_pass_on` the services ask it themselves; a route, which asks nobody anew, needs both.
    `settle`: how long every gateway may take to serve a change. `port` of the pods' pages.
    """

    driver: Literal["admin", "environment", "config-map", "http-route"] = "admin"
    urls: list[HttpUrl] = Field(default_factory=list)
    token: SecretRef | None = None
    deployment: str | None = None
    container: str = "gateway"
    config_map: str | None = None
    route: str | None = None
    port: int = Field(default=8080, ge=1, le=65535)
    owners_refuse: bool = False
    services_pass_on: bool = False
    settle: Duration = timedelta(minutes=10)

    @model_validator(mode="after")
    def _what_the_driver_needs(self) -> Self:
        missing = [name for name in DRIVERS[self.driver] if not getattr(self, name)]
        if missing:
            raise ValueError(f"driver {self.driver} needs {', '.join(missing)}")
        return self

    @property
    def by_chance(self) -> bool:
        """Whether a request gets its first side without a look at its customer."""
        return self.driver == "http-route"

    @property
    def ends(self) -> bool:
        """Whether `rollout finish` can end it: flags in a cluster, and an old side by domain."""
        return self.driver in ("environment", "config-map")


class BackendsConfig(Model):
    """The Services of a domain's two sides, as the rules of an HTTPRoute name them."""

    old: str
    new: str


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


class RolloutConfig(Model):
    """`proof`: how long `rollout advance` waits for the customers who prove a step.

    deployments: whose images and configuration are not to change during a phase, beside the
    gateways' and those of the manifests
    """

    proof: Duration = timedelta(minutes=1)
    deployments: list[str] = Field(default_factory=list)


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
