"""Gates: the questions put to evidence."""

from datetime import timedelta
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from estate.config.model import Model, beside, sql_of
from estate.config.values import ALIVE_WITHIN_MS, HEARTBEAT_EVERY_MS, Duration

GateKind = Literal[
    "error_rate",
    "latency_p95",
    "consistency",
    "sync_lag",
    "strays",
    "share",
    "conversion",
    "rate",
    "duration",
    "question",
    "pods",
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
    "conversion": "drop",
    "rate": "drop",
    "duration": "share",
    "question": "question",
    "pods": "max",
}
# The kinds that may have a limit against the old side beside their own.
AGAINST_OLD = frozenset({"error_rate", "latency_p95"})
# A limit that nobody could ever meet is none.
MOST_TIMES = 100
# The kinds whose evidence is SQL: what each needs beside its limit, and what else it may say.
SEQUENTIAL = ("alpha", "beta", "baseline")
FROM_DATA: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "conversion": (frozenset({"query", "side", "after"}), frozenset(SEQUENTIAL)),
    "rate": (frozenset({"query", "side"}), frozenset({"after", *SEQUENTIAL})),
    "duration": (frozenset({"query", "side", "within"}), frozenset()),
}
# Of these, those that compare cohorts of customers.
COMPARING = frozenset({"conversion", "rate"})
DATA_KEYS = frozenset({"query", "side", "after", "within", *SEQUENTIAL})
POD_KEYS = frozenset({"deployments", "shared", "grace"})
# What a commit, and sync, need until a row is seen where it is asked for.
SETTLING = timedelta(minutes=1)


class GateConfig(Model):
    """A question put to evidence before a step. Each kind has one limit of its own.

    `times`: the new side's errors or p95 may also be at most so many times the old side's at the
    same time. `alpha`: how often, at most, that is told to be broken, or a drop, though it is not.
    Kinds that are asked of the data have a `query` for one side's database. `after`: how long a
    subject is given to succeed; `beta`: how often, at most, a drop as large as `drop` passes;
    `baseline`: how far back that lies what a cohort is compared with where nobody stayed to compare
    it with; `within`: how long it may take the `share` of all.
    A `question` is put to a person, `asked_of`, in every phase; `good` is the answer that passes.
    `pods` of the new side's `deployments` restart at most `max` times each in a phase, and none is
    longer than `grace` without being ready. Those of `shared` serve both sides: they never fail.
    """

    name: str
    kind: GateKind
    max: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    max_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    times: float | None = Field(default=None, ge=1, le=MOST_TIMES)
    max_age: Duration | None = None
    tolerance: float | None = Field(default=None, gt=0, lt=1)
    drop: float | None = Field(default=None, gt=0, lt=1)
    share: float | None = Field(default=None, gt=0, lt=1)
    question: str | None = Field(default=None, min_length=1)
    good: Literal["yes", "no"] | None = None
    asked_of: str | None = Field(default=None, min_length=1)
    on_fail: OnFail = "rollback"
    min_samples: int = Field(default=200, ge=1)
    domains: list[str] | None = None
    query: Path | None = None
    side: Literal["old", "new"] | None = None
    after: Duration = SETTLING
    within: Duration | None = None
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    beta: float = Field(default=0.2, gt=0, lt=0.5)
    baseline: Duration = timedelta(days=7)
    deployments: list[str] = Field(default_factory=list)
    shared: list[str] = Field(default_factory=list)
    grace: Duration = timedelta(minutes=2)
    _sql: str = PrivateAttr(default="")

    @property
    def sql(self) -> str:
        """The query, as its file holds it, without a trailing semicolon; empty where none is."""
        return self._sql

    @property
    def from_data(self) -> bool:
        """Whether it is asked of the data, by SQL."""
        return self.kind in FROM_DATA

    @property
    def compares(self) -> bool:
        """Whether it compares cohorts of customers."""
        return self.kind in COMPARING

    @property
    def settling(self) -> timedelta:
        """What a row is given until it must be seen on the side that is asked."""
        return min(self.after, SETTLING)

    @property
    def behind(self) -> timedelta:
        """So long after its beginning a subject's outcome is known for good."""
        return self.after + self.settling if self.kind == "conversion" else self.after

    @field_validator("query")
    @classmethod
    def _relative_to_config(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        return None if value is None else beside(value, info)

    @field_validator("after", "within", "baseline", "grace")
    @classmethod
    def _some_time(cls, value: timedelta | None) -> timedelta | None:
        if value is not None and value <= timedelta():
            raise ValueError("some time is needed here")
        return value

    @model_validator(mode="after")
    def _limit_of_its_kind(self) -> Self:
        wanted = GATE_LIMITS[self.kind]
        given = [name for name in set(GATE_LIMITS.values()) if getattr(self, name) is not None]
        if given != [wanted]:
            raise ValueError(f"a gate of kind {self.kind} has exactly one limit: {wanted}")
        if self.kind == "error_rate" and (self.max or 0) >= 1:
            raise ValueError("max is a share below 1; a gate that can never fail is refused")
        furthest = ALIVE_WITHIN_MS - HEARTBEAT_EVERY_MS
        if self.kind == "sync_lag" and (self.max_ms or 0) >= furthest:
            # Further behind a stream counts as one without a worker: not known, and so no fail.
            raise ValueError(f"max_ms of a lag is below {furthest:,}; beyond that it never fails")
        person = (self.good, self.asked_of)
        if self.kind == "question" and None in person:
            raise ValueError("a question says which answer is good, and by name who is asked_of")
        if self.kind != "question" and person != (None, None):
            raise ValueError(f"good and asked_of belong to a question, not to {self.kind}")
        return self

    @model_validator(mode="after")
    def _evidence_of_its_kind(self) -> Self:
        if self.times is not None and self.kind not in AGAINST_OLD:
            raise ValueError(f"a gate of kind {self.kind} knows no times")
        nothing = frozenset[str]()
        needed, allowed = FROM_DATA.get(self.kind, (nothing, nothing))
        if self.kind == "pods":
            needed, allowed = frozenset({"deployments"}), frozenset({"shared", "grace"})
        elif self.times is not None:
            allowed = frozenset({"alpha"})
        told = self.model_fields_set & (DATA_KEYS | POD_KEYS)
        if missing := sorted(needed - told):
            raise ValueError(f"a gate of kind {self.kind} needs {', '.join(missing)}")
        if surplus := sorted(told - needed - allowed):
            raise ValueError(f"a gate of kind {self.kind} knows no {', '.join(surplus)}")
        if self.kind == "pods" and not self.deployments:
            raise ValueError("deployments names at least one; a gate that looks at none is refused")
        if self.query is not None:
            self._sql = sql_of(self.query, "query")
        return self
