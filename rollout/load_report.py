"""What a load came to, held against its limits."""

from dataclasses import dataclass, field
from typing import Any, Literal

from estate.errors import ExitCode, SplitctlError
from rollout.latencies import NOBODY, Figures

# Beyond this (99th percentile) the machine that makes the load is what was measured.
LATEST_MS = 20.0
# Fewer requests of a side say nothing about its 95th percentile.
ENOUGH = 100
COLUMNS = ("requests", "failed", "p50", "p95", "p99", "max", "service p95")
MOST_REASONS = 5

Model = Literal["closed", "open"]


class LoadToolMissing(SplitctlError):
    """A load needs '{module}', which is not installed."""

    hint = "pip install 'splitctl[load]'"
    exit_code = ExitCode.PRECONDITION


class SocketsScarce(SplitctlError):
    """{customers} customers need {needed} open files, and this machine allows {allowed}.
    Nothing was sent."""

    hint = "ulimit -n {needed}, or fewer --customers"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Limits:
    """What the load is checked against; None: not. `p95_ms`, `p99_ms`: of each side by itself."""

    p95_ms: float | None = None
    p99_ms: float | None = None
    errors: int | None = None


@dataclass(frozen=True)
class Generator:
    """How well the load was made: lateness in ms that is nobody else's, and its share of a core."""

    late_p50: float
    late_p99: float
    late_max: float
    cpu: float

    @property
    def kept_up(self) -> bool:
        """Whether the figures are the server's and not this machine's."""
        return self.late_p99 <= LATEST_MS


@dataclass(frozen=True)
class LoadReport:
    """Milliseconds, `throughput` in answers a second; `rate` is the one asked of an open model."""

    model: Model
    through: str
    flows: list[str]
    customers: int
    rate: float | None
    seconds: float
    requests: int
    failed: int
    throughput: float
    sides: list[Figures]
    steps: list[Figures]
    reasons: dict[str, int]
    generator: Generator
    limits: Limits = field(default_factory=Limits)
    interrupted: bool = False

    @property
    def broken(self) -> list[str]:
        """Each limit that does not hold, as a sentence."""
        told = []
        if self.limits.errors is not None and self.failed > self.limits.errors:
            told.append(f"{self.failed:,} requests failed, {self.limits.errors:,} may")
        return told + self._slow()

    def _slow(self) -> list[str]:
        limits = (("p95", self.limits.p95_ms), ("p99", self.limits.p99_ms))
        return [
            f"{name} of {side.name} is {getattr(side, name):,.1f} ms, {limit:,.1f} may be"
            for name, limit in limits
            for side in self._judged
            if limit is not None and getattr(side, name) > limit
        ]

    @property
    def _judged(self) -> list[Figures]:
        """The sides about which there is enough to say."""
        return [s for s in self.sides if s.name != NOBODY and s.requests >= ENOUGH]

    @property
    def doubts(self) -> list[str]:
        """Why the figures cannot be believed, each as a sentence."""
        told = []
        if not self.generator.kept_up:
            told.append(
                "the generator was behind: one request in a hundred was sent "
                f"{self.generator.late_p99:,.1f} ms late or more ({LATEST_MS:g} may be), so less "
                "was asked at a time than you meant"
            )
        if not self._judged:
            told.append(f"no side answered {ENOUGH} requests")
        return told

    @property
    def verdict(self) -> str:
        """`broken`, `inconclusive`, `held`; `measured` where no limit was given.

        A failed request is one, whoever was late; a slow one may be the generator's doing.
        """
        limited = self.limits != Limits()
        if len(self.broken) > len(self._slow()):
            return "broken"
        if self.doubts:
            return "inconclusive"
        if self.broken:
            return "broken"
        return "held" if limited else "measured"

    @property
    def exit_code(self) -> ExitCode:
        """What the verdict tells a script; an interrupt goes before it."""
        if self.interrupted:
            return ExitCode.INTERRUPTED
        codes = {"broken": ExitCode.CHECK_FAILED, "inconclusive": ExitCode.INCONCLUSIVE}
        return codes.get(self.verdict, ExitCode.DONE)

    @property
    def next_command(self) -> str:
        """What comes after it."""
        if not self._judged:
            return "splitctl smoke"
        if not self.generator.kept_up:
            fewer = max(1, self.customers // 2)
            return f"splitctl load --customers {fewer}  (or from a machine with more to spare)"
        return "splitctl status"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        told = {"verdict": self.verdict, "broken": self.broken, "doubts": self.doubts}
        return {**told, **vars(self), "kept_up": self.generator.kept_up}

    def to_text(self) -> str:
        """For a person."""
        how = f"{self.rate:g} requests a second, taken by" if self.rate else "closed model,"
        lines = [
            f"{', '.join(self.flows)} through {self.through}: {how} {self.customers:,} customers, "
            f"{self.seconds:,.1f} s{', interrupted' if self.interrupted else ''}",
            f"{self.requests:,} requests, {self.throughput:,.1f} answers a second, "
            f"{self.failed:,} failed",
            "",
            *_table("side", self.sides),
            "",
            *_table("step", self.steps),
            "",
            COUNTED[self.model],
            f"the generator sent half of them within {self.generator.late_p50:.1f} ms, 99 % within "
            f"{self.generator.late_p99:.1f} ms of when they were due (at most "
            f"{self.generator.late_max:.1f}), and took {100 * self.generator.cpu:.0f} % of a core",
        ]
        most = sorted(self.reasons.items(), key=lambda item: -item[1])
        lines += [f"failed: {count:,} x {reason}" for reason, count in most[:MOST_REASONS]]
        lines += [f"broken: {item}" for item in self.broken]
        lines += [f"inconclusive: {item}" for item in self.doubts]
        return "\n".join([*lines, self.verdict])


COUNTED = {
    "open": "Milliseconds from the moment each request was due, whatever the one before it took.",
    "closed": "Milliseconds from the moment each customer meant to ask. A customer who waits asks "
    "nothing: a stall is met once by each. With --rate those who would have come meanwhile count.",
}


def _table(title: str, rows: list[Figures]) -> list[str]:
    """Columns of figures, right-aligned."""
    cells = [[title, *COLUMNS]]
    for row in rows:
        figures = (row.p50, row.p95, row.p99, row.max, row.service_p95)
        counts = (f"{row.requests:,}", f"{row.failed:,}")
        cells.append([row.name, *counts, *(f"{value:,.1f}" for value in figures)])
    widths = [max(len(line[n]) for line in cells) for n in range(len(cells[0]))]
    return [
        "  ".join(
            [
                line[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)),
            ]
        )
        for line in cells
    ]
