"""The gates over the past: what they would have said, had a phase begun then.

A gate that has never been tried either never fails or fails at night. Its limits are tried on what
Prometheus remembers, with the same code that judges a rollout. Only what gateways count can be
replayed: how sync stood, and what a verification found, nobody has kept moment by moment.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from estate.config import Config, GateConfig
from estate.errors import ExitCode, SplitctlError
from rollout.counters import Count, Counts, Side, Snapshot, Window
from rollout.gates import GateResult, evaluate
from rollout.prometheus import PrometheusMetrics
from rollout.seen import Evidence

# What gateways count.
COUNTED = ("error_rate", "latency_p95", "share")
MOST_MOMENTS = 100_000
# Nobody has said how many were on the new side: some. Gates that ask how many are left out then.
SOME, ALL = 1, 100
NOBODY = "nobody was seen"


class NothingToReplay(SplitctlError):
    """From {start} to {end} in steps of {step_s:g} s there are {number} moments; between 1 and
    {most} can be replayed. Nothing was changed."""

    hint = "the same command with other --from, --to or --step"
    exit_code = ExitCode.USAGE


class NoCountedGate(SplitctlError):
    """No gate of {domains} looks at what gateways count; these kinds do: {kinds}. Nothing was
    changed."""

    hint = "add a gate of one of these kinds to config.toml"
    exit_code = ExitCode.USAGE


@dataclass(frozen=True)
class GateReplayed:
    """One gate over the whole window. `last` is its answer at the end, the rest counts moments.

    why: what it said when it failed first
    """

    last: GateResult
    passed: int = 0
    failed: int = 0
    inconclusive: int = 0
    first_pass: datetime | None = None
    first_fail: datetime | None = None
    why: str = ""

    def after(self, result: GateResult, at: datetime) -> "GateReplayed":
        """One moment later."""
        verdict = result.verdict
        return GateReplayed(
            result,
            self.passed + (verdict == "pass"),
            self.failed + (verdict == "fail"),
            self.inconclusive + (verdict == "inconclusive"),
            self.first_pass or (at if verdict == "pass" else None),
            self.first_fail or (at if verdict == "fail" else None),
            self.why or (result.reason if verdict == "fail" else ""),
        )

    def lines(self) -> list[str]:
        """For a person."""
        told = [f"{self.last}"]
        counts = f"{self.passed} pass, {self.failed} fail, {self.inconclusive} inconclusive"
        told.append(f"    moments: {counts}")
        firsts = ("passed", self.first_pass, ""), ("failed", self.first_fail, self.why)
        for word, at, why in firsts:
            if at is not None:
                line = f"    first {word} at {at:%Y-%m-%d %H:%M:%S} UTC"
                told.append(f"{line}: {why}" if why else line)
        return told

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            **vars(self.last),
            "moments": {
                "pass": self.passed, "fail": self.failed, "inconclusive": self.inconclusive,
            },
            "first_pass": self.first_pass,
            "first_fail": self.first_fail,
            "first_fail_reason": self.why or None,
        }  # fmt: skip


@dataclass(frozen=True)
class DomainReplayed:
    """One domain: what was counted from the first moment to the last, and its gates."""

    domain: str
    requests: float
    errors: float
    p95_ms: float | None
    share: float | None
    gates: list[GateReplayed]


@dataclass(frozen=True)
class Replay:
    """The gates of the domains over a window. `evidenced` of `moments` saw every gateway."""

    start: datetime
    end: datetime
    step_s: float
    side: Side
    moments: int
    evidenced: int
    problems: list[str]
    left_out: list[str]
    domains: list[DomainReplayed]

    @property
    def exit_code(self) -> ExitCode:
        """3 when any gate would have failed, 4 when one could not tell at the end."""
        gates = [gate for domain in self.domains for gate in domain.gates]
        if any(gate.failed for gate in gates):
            return ExitCode.CHECK_FAILED
        told = all(gate.last.verdict == "pass" for gate in gates)
        return ExitCode.DONE if told else ExitCode.INCONCLUSIVE

    @property
    def next_command(self) -> str:
        """Limits are set before a rollout is begun."""
        if self.exit_code is ExitCode.DONE:
            return f"splitctl plan {self.domains[0].domain}"
        return "look at the limits of [[gates]], then the same command again"

    def to_text(self) -> str:
        """For a person."""
        span = f"{self.start:%Y-%m-%d %H:%M} to {self.end:%Y-%m-%d %H:%M} UTC"
        lines = [
            f"replayed {span}, every {self.step_s:g} s, the {self.side} side's traffic",
            f"every gateway was seen at {self.evidenced} of {self.moments} moments",
            *(f"  {problem}" for problem in self.problems),
            *(f"left out: {item}" for item in self.left_out),
        ]
        for found in self.domains:
            p95 = "-" if found.p95_ms is None else f"{found.p95_ms:.1f} ms"
            counts = f"{found.requests:,.0f} requests, {found.errors:,.0f} answered 5xx, p95 {p95}"
            lines += ["", f"{found.domain}: {counts}"]
            lines += [f"  {line}" for gate in found.gates for line in gate.lines()]
        return "\n".join(lines)


@dataclass
class _Domain:
    """What a replay remembers of one domain."""

    name: str
    gates: Sequence[GateConfig]
    percentage: int
    window: Window | None = None
    answers: dict[str, GateReplayed] = field(default_factory=dict)

    def look(self, at: datetime, snapshot: Snapshot) -> None:
        """One moment later."""
        first = self.window is None
        before = self.window or Window.opened(snapshot, self.name)
        self.window = before if first else before.advanced(snapshot, self.name)
        blind = dict(snapshot.problems)
        if not snapshot.gateways:
            blind.setdefault("gateways", NOBODY)
        evidence = Evidence(self.name, self.percentage, self.window, blind)
        for gate in self.gates:
            result = evaluate(gate, evidence)
            before_it = self.answers.get(gate.name) or GateReplayed(result)
            self.answers[gate.name] = before_it.after(result, at)

    def end(self) -> DomainReplayed:
        """What it comes to."""
        window = self.window or Window()
        count = window.side("new")
        seconds = count.quantile(0.95)
        finite = seconds is not None and seconds != float("inf")
        p95_ms = round(1000 * seconds, 2) if finite and seconds is not None else None
        gates = list(self.answers.values())
        return DomainReplayed(self.name, count.requests, count.errors, p95_ms, window.share, gates)


def replay(
    config: Config,
    domains: Sequence[str],
    start: datetime,
    end: datetime,
    step_s: float,
    *,
    side: Side = "new",
    percentage: int | None = None,
    metrics: PrometheusMetrics | None = None,
) -> Replay:
    """Ask the gates that look at traffic at every step of the past, as if a phase began at `start`.

    `side`: whose traffic the gates judge; the old side's before there is any on the new one.
    `percentage` is what was asked for then; without it no share is judged. Raises NoPrometheus,
    PrometheusSilent, NothingToReplay, NoCountedGate, UnknownName.
    """
    names = list(domains) or list(config.domains)
    for name in names:
        config.domain(name)
    number = int((end - start).total_seconds() // step_s) + 1 if step_s > 0 else 0
    if not 1 <= number <= MOST_MOMENTS:
        raise NothingToReplay(
            start=start.isoformat(), end=end.isoformat(), step_s=step_s, number=max(number, 0),
            most=MOST_MOMENTS,
        )  # fmt: skip
    judged, left_out = chosen(config.gates, side, percentage)
    asked_for = percentage or (SOME if side == "new" else ALL)
    watched = [
        _Domain(name, [g for g in judged if not g.domains or name in g.domains], asked_for)
        for name in names
    ]
    if not any(item.gates for item in watched):
        raise NoCountedGate(domains=", ".join(names), kinds=", ".join(COUNTED))
    metrics = metrics or PrometheusMetrics.of(config)
    moments, evidenced, problems = over(watched, metrics.history(start, end, step_s), side)
    return Replay(
        start, end, step_s, side, moments, evidenced, problems, left_out,
        [item.end() for item in watched],
    )  # fmt: skip


def chosen(
    gates: Iterable[GateConfig], side: Side, percentage: int | None
) -> tuple[list[GateConfig], list[str]]:
    """The gates that can be replayed, and why each of the others cannot."""
    judged, left_out = [], []
    for gate in gates:
        if gate.kind not in COUNTED:
            left_out.append(f"{gate.name} ({gate.kind}): it looks at what nobody has kept")
        elif gate.kind == "share" and (percentage is None or side == "old"):
            left_out.append(f"{gate.name} (share): needs --percentage, and the new side's traffic")
        else:
            judged.append(gate if side == "new" else gate.model_copy(update={"times": None}))
            if side == "old" and gate.times is not None:
                alone = "it is the old side itself that is judged"
                left_out.append(f"{gate.name}: {gate.times:g} times the old side: {alone}")
    return judged, left_out


def over(
    watched: Sequence[_Domain], looks: Iterable[tuple[float, Snapshot]], side: Side
) -> tuple[int, int, list[str]]:
    """Show every look to every domain. How many looks, how many of them saw every gateway, and
    what was wrong with the others."""
    moments, evidenced = 0, 0
    problems: dict[str, int] = {}
    for at, look in looks:
        moments += 1
        evidenced += look.complete
        for name, why in look.problems.items():
            # The same trouble has another age at every moment.
            told = f"{name}: {why.partition(' (')[0]}"
            problems[told] = problems.get(told, 0) + 1
        snapshot = look if side == "new" else old_as_new(look)
        for item in watched:
            item.look(datetime.fromtimestamp(at, UTC), snapshot)
    return moments, evidenced, [f"{told} ({n} moments)" for told, n in problems.items()]


def old_as_new(snapshot: Snapshot) -> Snapshot:
    """The same look, with the old side's traffic where the new one's would stand."""

    def turned(counts: Counts) -> Counts:
        return {"new": counts.get("old", Count())}

    gateways = {
        name: {domain: turned(counts) for domain, counts in domains.items()}
        for name, domains in snapshot.gateways.items()
    }
    return replace(snapshot, gateways=gateways)
