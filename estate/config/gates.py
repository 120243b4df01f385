"""Gates: the questions put to evidence."""

from typing import Literal, Self

from pydantic import Field, model_validator

from estate.config.model import Model
from estate.config.values import Duration

GateKind = Literal[
    "error_rate", "latency_p95", "consistency", "sync_lag", "strays", "share", "question"
]
# What a `fail` brings: the customers back, no further step, or only a word to whoever watches.
OnFail = Literal["rollback", "hold", "tell"]
GATE_LIMITS: dict[str, str] = {
    "error_rate": "max",
    "latency_p95": "max_ms",
    "consistency": "max_age",
    "sync_lag": "max_ms",
    "strays": "max",
    "share": "tolerance",
    "question": "question",
}


class GateConfig(Model):
    """A question put to evidence before a step. Each kind has one limit of its own.

    A `question` is put to a person, `asked_of`, in every phase; `good` is the answer that passes.
    """

    name: str
    kind: GateKind
    max: float | None = Field(default=None, ge=0)
    max_ms: float | None = Field(default=None, gt=0)
    max_age: Duration | None = None
    tolerance: float | None = Field(default=None, gt=0, lt=1)
    question: str | None = Field(default=None, min_length=1)
    good: Literal["yes", "no"] | None = None
    asked_of: str | None = Field(default=None, min_length=1)
    on_fail: OnFail = "rollback"
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
        person = (self.good, self.asked_of)
        if self.kind == "question" and None in person:
            raise ValueError("a question says which answer is good, and by name who is asked_of")
        if self.kind != "question" and person != (None, None):
            raise ValueError(f"good and asked_of belong to a question, not to {self.kind}")
        return self
