"""One look at domains that soak: what is served, what was counted, what the gates say of it.

Everything that matters is kept in the ledger; what is remembered here only tells changes apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from estate.config import Config, Event
from estate.errors import ExitCode, SplitctlError
from estate.ledger import Ledger, LedgerUnreachable, Rollout
from rollout import asking, drift, evidence, marks, phases
from rollout.asking import Asked
from rollout.drift import Sight
from rollout.evidence import Look
from rollout.flags import GatewayFlags
from rollout.gates import GateResult
from rollout.phases import Decision, Move
from rollout.proof import Proof
from rollout.step_plan import CONTRADICTED
from rollout.telling import Teller
from rollout.tools import Tools
from rollout.versions import Seen

SHORTEST_LOOK_S, LONGEST_LOOK_S = 1.0, 10.0
# Without any progress for this long (or a tenth of the soak) a person is told.
PATIENCE_S = 30.0
IN_LINE = "what is served is what was asked for again"


class NothingToWatch(SplitctlError):
    """No customer is on the new side of {domains}: there is nothing to watch."""

    hint = "splitctl status"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Watched:
    """Where a domain was at the last look. Seconds of soak; `measured` of whom, and its bounds."""

    domain: str
    percentage: int
    result: str
    reason: str
    soak_s: float
    soak_required_s: float
    measured: str = ""


@dataclass(frozen=True)
class Progress:
    """One look, for whoever watches; `str()` of it is a line."""

    domains: tuple[Watched, ...]
    gates: tuple[GateResult, ...]

    def __str__(self) -> str:
        parts = [
            f"{item.domain} {item.percentage} %: {item.soak_s:.0f}/{item.soak_required_s:.0f} s, "
            f"{item.result}" + (f" ({item.reason})" if item.reason else "")
            for item in self.domains
        ]
        return "; ".join(parts)


@dataclass
class Subject:
    """A domain that is looked at again and again. `moved_on_at`: by the command's own clock.

    drifted: the act of the drift that was told last
    """

    name: str
    decision: Decision = field(default_factory=lambda: Decision(Move.SOAK))
    results: list[GateResult] = field(default_factory=list)
    percentage: int = 0
    soak_s: float = 0.0
    required_s: float = 0.0
    evident: bool = False
    proof: Proof | None = None
    marker: Any = None
    moved_on_at: float = 0.0
    told: dict[str, str] = field(default_factory=dict)
    drifted: int | None = None
    sight: Sight = field(init=False)

    def __post_init__(self) -> None:
        self.sight = Sight(self.name)

    def view(self) -> Watched:
        """For whoever watches."""
        return Watched(
            self.name,
            self.percentage,
            self.decision.move.value,
            self.decision.reason,
            round(self.soak_s, 1),
            self.required_s,
            str(self.proof or ""),
        )

    def stuck(self, clock: float) -> bool:
        """Whether it made no progress for longer than anybody should wait."""
        return clock - self.moved_on_at >= max(PATIENCE_S, self.required_s / 10)


def progress(subjects: Sequence[Subject]) -> Progress:
    """All of them, as they were at the last look."""
    results = tuple(result for item in subjects for result in item.results)
    return Progress(tuple(item.view() for item in subjects), results)


def pause_s(subjects: Sequence[Subject]) -> float:
    """Seconds until the next look: every second, less often when days are to soak."""
    shortest = min((item.required_s for item in subjects), default=0.0)
    return min(LONGEST_LOOK_S, max(SHORTEST_LOOK_S, shortest / 3600))


def look(config: Config, subjects: Sequence[Subject], ledger: Ledger, tools: Tools) -> None:
    """One look at everything, for all of them at once."""
    try:
        # Before the gateways: a step in between shows in the row that is read under its lock.
        rows = {item.name: ledger.rollout(item.name) for item in subjects}
        gateways = tools.flags.served()
        seen = evidence.look(tools, config, ledger, [item.name for item in subjects])
    except LedgerUnreachable as error:
        for item in subjects:
            _unknown(item, error)
        return
    versions = tools.versions.lately()
    for item in subjects:
        before = rows[item.name]
        if before is None:
            raise NothingToWatch(domains=item.name)
        try:
            _one(config, item, before, gateways, seen, versions, ledger, tools)
        except LedgerUnreachable as error:
            _unknown(item, error)


def _unknown(item: Subject, error: LedgerUnreachable) -> None:
    """Neither passed nor failed: the clock stands until the ledger is back."""
    item.decision, item.evident = Decision(Move.HOLD, str(error)), False


def _one(
    config: Config,
    item: Subject,
    before: Rollout,
    gateways: Sequence[GatewayFlags],
    seen: Look,
    versions: Seen | None,
    ledger: Ledger,
    tools: Tools,
) -> None:
    served = drift.served(before, gateways)
    drift.ended(before, served, seen.snapshot, ledger, IN_LINE)
    drift.runs(before, versions, seen.snapshot, ledger)
    stands = drift.note(item.sight, served, before, ledger, tools.provenance, tools.clock)
    drifted = marks.drift(ledger, before) if stands else None
    if drifted is not None and drifted.id != item.drifted:
        following = f"splitctl rollout start {item.name}"
        why = marks.why_drifted(drifted)
        Teller(config, tools).tell_meanwhile(item.name, "drifted", following, reason=why)
    item.drifted = drifted.id if drifted is not None else None
    asked = asking.count(config, item.name, ledger, seen, stands=stands)
    if asked is None:
        raise NothingToWatch(domains=item.name)
    item.results = asked.results
    item.decision = phases.on_watch(asked.position, asked.results)
    item.proof = asked.proof
    # Before the step is proven, customers who come are the evidence.
    comes = asked.proof is not None and asked.proof.word == "open" and asked.proof.customers > 0
    item.evident = comes or asked.row.soak_evidence_s > before.soak_evidence_s
    item.percentage = asked.row.percentage
    item.soak_s, item.required_s = asked.row.soak_evidence_s, asked.position.soak_s
    if not stands and asked.position.contradicted and _is_news(asked, ledger):
        following = CONTRADICTED.format(domain=item.name)
        why = f"the step is contradicted: {asked.position.contradicted}"
        Teller(config, tools).tell_meanwhile(item.name, "failed", following, reason=why)
    _progress(item, asked, tools.clock())
    for event, result in _keep(item, asked, ledger):
        following = f"splitctl rollout status  ({result.name})"
        if event == "asked":
            following = f"splitctl rollout answer {item.name} --gate '{result.name}' --yes|--no"
        Teller(config, tools).tell_meanwhile(
            item.name, event, following, reason=result.reason, verdicts=(result,)
        )


def _is_news(asked: Asked, ledger: Ledger) -> bool:
    """Write down that customers speak against the step. False: it was known, to whoever looked."""
    if asked.proof is None or marks.contradicted(ledger, asked.row) is not None:
        return False
    with ledger.changing(asked.row.domain) as change:
        row = change.rollout
        if row is None or row.epoch != asked.row.epoch or marks.contradicted(change, row):
            return False  # customers moved meanwhile, or another watch was faster
        told = {"how": asked.proof.told, **asked.proof.to_json()}
        change.record(row.domain, marks.CONTRADICTED, {"epoch": row.epoch}, told)
    return True


def _progress(item: Subject, asked: Asked, clock: float) -> None:
    """Progress is more soak, or more samples for a gate, or a proof, that is not sure yet."""
    unsure = tuple((r.name, r.samples) for r in item.results if r.verdict == "inconclusive")
    soaked = None if asked.position.soaked else round(item.soak_s, 3)
    known = asked.proof.customers if asked.proof and asked.proof.word == "open" else None
    marker = (item.percentage, soaked, unsure, known)
    # Who paused waits for nothing, and who has soaked has nothing to wait for.
    at_rest = item.decision.move in (Move.SOAKED, Move.PAUSED)
    if marker != item.marker or at_rest:
        item.marker, item.moved_on_at = marker, clock


def _keep(item: Subject, asked: Asked, ledger: Ledger) -> list[tuple[Event, GateResult]]:
    """The figures of the look; of the gates' answers those that are new.

    Returns what is news to whoever does not watch: a gate that fails, a person who is asked.
    """
    news: list[tuple[Event, GateResult]] = []
    measured = {result.name: result.measured for result in item.results}
    sample = {**evidence.sample(asked.found, asked.row), "gates": measured}
    ledger.add_sample(item.name, "watch", sample)
    for result in item.results:
        if item.told.get(result.name) != result.verdict:
            item.told[result.name] = result.verdict
            ledger.add_verdict(item.name, "gate", result.name, result.verdict, vars(result))
            if result.verdict == "fail":
                news.append(("failed", result))
            elif result.kind == "question" and result.verdict == "inconclusive":
                news.append(("asked", result))
    return news
