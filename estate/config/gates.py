"""Gates: the questions put to evidence."""

from typing import Literal, Self

from pydantic import Field, model_validator

from estate.config.model import Model
from estate.config.values import Duration

GateKind = Literal["error_rate", "latency_p95", "consistency", "sync_lag", "strays", "share"]
GATE_LIMITS: dict[str, str] = {
    "error_rate": "max",
    "latency_p95": "max_ms",
    "consistency": "max_age",
    "sync_lag": "max_ms",
    "strays": "max",
    "share": "tolerance",
}


class GateConfig(Model):
    """A question put to evidence before a step. Each kind has one limit of its own."""

    name: str
    kind: GateKind
    max: float | None = Field(default=None, ge=0)
    max_ms: float | None = Field(default=None, gt=0)
    max_age: Duration | None = None
    tolerance: float | None = Field(default=None, gt=0, lt=1)
    min_samples: int = Field(default=200, ge=1)
    domains: list[str] | None = None

    @model_validator(mode="after")
    def _limit_of_its_kind(self) -> Self:
        wanted = GATE_LIMITS[self.kind]
        given = [name for name in set(GATE_LIMITS.values()) if getattr(self, name) is not None]
        if given != [wanted]:
            raise ValueError(f"a gate of kind {self.kind} has exactly one limit: {wanted}")
        if self.kind == "error_rate" and (self.max or 0) >= 1:
            raise ValueError("max is a share below 1; a gate that can never fail is refused")
        return self
