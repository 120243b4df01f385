"""What is asked, served, owned and measured, what of it disagrees, and the next command.

Asks everybody at once, each with an end, and is true also while some part is away: that part is
named, and what it would have told is left out, never guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from estate.config import Config
from estate.errors import ExitCode
from migrator.mapping import Side
from migrator.ownership import Ownership
from migrator.status import StreamStatus
from rollout import marks, proof
from rollout.counters import Snapshot, Window
from rollout.following import after_rampdown, ending
from rollout.phases import PER_PERCENT, Stage
from rollout.proof import Proof
from rollout.sight import Books, Seen, look
from rollout.survey import Survey
from rollout.tools import Tools
from rollout.world import SIDES

if TYPE_CHECKING:
    from estate.ledger import ActRecord, Rollout


@dataclass(frozen=True)
class Served:
    """What one gateway serves. `held` requests wait at its fence now."""

    gateway: str
    percentage: int | None
    epoch: int | None
    held: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class Owned:
    """What one side's database says: the percentage that belongs to new."""

    side: str
    percentage: float | None
    epoch: int | None
    problem: str | None = None


@dataclass(frozen=True)
class DomainStatus:
    """One domain. Percentages 0..100; `measured` is the new side's share since the phase began.

    wanted: gates that wait for a person's answer in this phase
    proof: whether customers show that the percentage asked for is served; None where none are asked
    way_back: what the old code lacks that is kept beside after a finish
    """

    domain: str
    stage: str
    asked: int | None
    served: list[Served]
    owned: list[Owned]
    measured: float | None
    requests: int
    soak_s: float | None
    soak_required_s: float | None
    verified: str | None
    sync: list[StreamStatus]
    unfinished: list[str]
    disagreements: list[str]
    next_command: str
    paused: str | None = None
    drift: str | None = None
    wanted: list[str] = field(default_factory=list)
    proof: Proof | None = None
    way_back: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For a person."""
        asked = "unknown" if self.asked is None else f"{self.asked} %"
        share = "-" if self.measured is None else f"{self.measured:.1f} %"
        lines = [
            f"{self.domain}: {self.stage}, asked {asked}, measured {share} "
            f"of {self.requests:,} requests"
        ]
        if self.soak_required_s:
            lines.append(f"  soaked   {self.soak_s or 0:,.0f} s of {self.soak_required_s:,.0f} s")
        for item in self.served:
            told = item.problem or f"{item.percentage} % under epoch {item.epoch}"
            held = f", holds {item.held}" if item.held else ""
            lines.append(f"  served   {item.gateway}: {told}{held}")
        for owner in self.owned:
            told = owner.problem or f"{owner.percentage:g} % to new under epoch {owner.epoch}"
            lines.append(f"  owned    {owner.side}: {told}")
        if self.proof is not None:
            word = "proven" if self.proof.proven else "UNPROVEN"
            lines.append(f"  {word:<8} {self.proof.told}")
        lines += [f"  sync     {stream.stream}: {_carried(stream)}" for stream in self.sync]
        never = "unknown" if self.asked is None else "never"
        lines.append(f"  verified {self.verified or never}")
        lines += [f"  ! {self.paused}"] if self.paused else []
        lines += [f"  ! drift: {self.drift}"] if self.drift else []
        lines += [f"  ! an answer is wanted: {gate}" for gate in self.wanted]
        lines += [f"  ! unfinished: {act}" for act in self.unfinished]
        lines += [f"  ! {item}" for item in self.disagreements]
        lines += [f"  ! way back: {item}" for item in self.way_back]
        return [*lines, f"  next     {self.next_command}"]


@dataclass(frozen=True)
class EstateStatus:
    """The whole estate. `away`: parts that did not answer, with the reason."""

    domains: list[DomainStatus]
    operator: str | None
    away: dict[str, str]
    next_command: str

    @property
    def exit_code(self) -> ExitCode:
        """Inconclusive while somebody could not be asked (law L6)."""
        return ExitCode.INCONCLUSIVE if self.away else ExitCode.DONE

    def to_text(self) -> str:
        """For a person."""
        lines = [line for item in self.domains for line in [*item.lines(), ""]]
        if self.operator:
            lines.append(f"lock: {self.operator}")
        lines += [f"away: {what}: {why}" for what, why in self.away.items()]
        return "\n".join(lines).rstrip()


def status(config: Config, *, tools: Tools | None = None) -> EstateStatus:
    """Look at everything, change nothing."""
    tools = tools or Tools.of(config)
    seen = look(config, tools)
    domains = [_domain(config, name, seen) for name in config.domains]
    lock = seen.books.lock if seen.books else None
    operator = None
    if lock is not None:
        operator = f"{lock.operator} on {lock.host} since {lock.since:%H:%M:%S}: {lock.command}"
    urgent = [d for d in domains if d.disagreements or d.unfinished or d.drift or d.way_back]
    following = (urgent or domains)[0].next_command
    return EstateStatus(domains, operator, seen.away, following)


# One domain


def _carried(stream: StreamStatus) -> str:
    """How a stream stands, for a person; `away` says why one is unknown."""
    if stream.spooled is None or stream.waiting is None:
        return "unknown"
    lag = "unknown" if stream.lag_ms is None else f"{stream.lag_ms:.0f} ms"
    alive = "" if stream.worker_alive else ", NO LIVING WORKER"
    pending = stream.spooled + stream.waiting
    return f"lag {lag}, pending {pending}, strays {stream.strays}{alive}"


def _domain(config: Config, name: str, seen: Seen) -> DomainStatus:
    books = seen.books or Books()
    row = books.rollouts.get(name)
    streams = [item for item in seen.streams or [] if item.stream.rsplit(".", 1)[0] == name]
    stage = row.stage if row else _stage(streams, seen)
    asked = row.percentage if row else (0 if seen.books is not None else None)
    window = _window(row, seen.snapshot, name)
    requests = int(window.side("new").requests + window.side("old").requests)
    verdict = books.verdicts.get(name)
    unfinished = [act for act in books.unfinished if act.domain == name]
    survey = _survey(name, seen)
    disagreements = _disagreements(name, asked, survey, seen)
    required = _required(config, row)
    return DomainStatus(
        domain=name,
        stage=stage,
        asked=asked,
        served=_served(name, seen),
        owned=_owned(name, seen),
        measured=None if window.share is None else round(100 * window.share, 2),
        requests=requests,
        soak_s=round(row.soak_evidence_s, 1) if row else None,
        soak_required_s=required,
        verified=f"{verdict.verdict}, {verdict.age_s:.0f} s ago" if verdict else None,
        sync=streams,
        unfinished=[_told(act, books) for act in unfinished],
        disagreements=disagreements,
        next_command=_next(
            config, name, stage, asked, row, survey, seen, unfinished, disagreements
        ),
        paused=marks.why_paused(books.paused[name]) if name in books.paused else None,
        drift=marks.why_drifted(books.drift[name]) if name in books.drift else None,
        wanted=books.unanswered.get(name, []),
        proof=_proof(config, row, window, books, seen),
        way_back=_way_back(name, stage, seen),
    )


def _way_back(name: str, stage: str, seen: Seen) -> list[str]:
    """Once it is complete nobody comes back."""
    return [] if stage == Stage.COMPLETE else list(seen.ways_back.get(name, ()))


def _stage(streams: list[StreamStatus], seen: Seen) -> str:
    """Before the rollout was started, the sync tells."""
    if seen.streams is None or any(stream.problem for stream in streams):
        return "unknown"
    enabled = len(streams) == 2 and all(stream.enabled for stream in streams)
    return Stage.DUAL_WRITE if enabled else Stage.OFF


def _window(row: "Rollout | None", snapshot: Snapshot | None, name: str) -> Window:
    kept: Mapping[str, Any] = row.evidence.get("window", {}) if row else {}
    window = Window.from_json(kept)
    return window.advanced(snapshot, name) if snapshot is not None and kept else window


def _proof(
    config: Config, row: "Rollout | None", window: Window, books: Books, seen: Seen
) -> Proof | None:
    """As it was written down, or else as it stands at this look; that is kept by who watches."""
    if row is None or not proof.wanted(row):
        return None
    from rollout import evidence

    if row.domain in books.proven:
        return Proof.from_json(books.proven[row.domain].outcome or {})
    snapshot = seen.snapshot or Snapshot(problems={"metrics": "no answer"})
    blind = evidence.of_phase(row, snapshot).problems
    found = proof.judge(
        row.percentage,
        row.evidence.get("from"),
        window,
        blind,
        proof.tolerance(config, row.domain),
    )
    if found.proven:
        return replace(found, word="open", reason="not written down yet: watch it")
    return found


def _survey(name: str, seen: Seen) -> Survey:
    owners: dict[Side, Ownership] = {
        side: owner for side in SIDES if (owner := seen.owners.get((name, side))) is not None
    }
    return Survey(name, tuple(seen.gateways), owners)


def _served(name: str, seen: Seen) -> list[Served]:
    items = []
    for gateway in seen.gateways:
        flags = gateway.domains.get(name)
        if flags is not None:
            held = seen.held.get((name, gateway.url), 0)
            items.append(Served(gateway.url, flags.served, flags.epoch, held))
        else:
            why = gateway.problem or f"it knows no domain '{name}'"
            items.append(Served(gateway.url, None, None, problem=why))
    return items


def _owned(name: str, seen: Seen) -> list[Owned]:
    items = []
    for side in SIDES:
        owner = seen.owners.get((name, side))
        if owner is not None:
            items.append(Owned(side, owner.new_below / PER_PERCENT, owner.epoch))
        elif (why := seen.owner_problems.get((name, side))) is not None:
            items.append(Owned(side, None, None, why))
    return items


def _disagreements(name: str, asked: int | None, survey: Survey, seen: Seen) -> list[str]:
    if asked is None:
        # Without the ledger the databases say what should be served.
        asked = survey.owned_percentage
    told = survey.disagreements(asked) if asked is not None else []
    if seen.books is not None and seen.books.lock is None:
        told += [
            f"{url} holds customers and no command is at work: its lease will end by itself"
            for (domain, url) in seen.held
            if domain == name
        ]
    return told


def _required(config: Config, row: "Rollout | None") -> float | None:
    if (
        row is None
        or row.percentage == 0
        or not 0 <= row.phase < len(config.domain(row.domain).phases)
    ):
        return None
    if row.soak_required_s is not None:
        return row.soak_required_s
    return config.domain(row.domain).phases[row.phase].soak.total_seconds()


def _told(act: "ActRecord", books: Books) -> str:
    """An unfinished act, and whether its command is still at work."""
    at_work = books.lock is not None and books.lock.command == act.command
    how = "at work" if at_work else "its command is gone"
    target = f" to {act.intent['to']} %" if "to" in act.intent else ""
    return f"{act.kind}{target} of {act.at:%Y-%m-%d %H:%M:%S} UTC by {act.operator}: {how}"


def _next(
    config: Config,
    name: str,
    stage: str,
    asked: int | None,
    row: "Rollout | None",
    survey: Survey,
    seen: Seen,
    unfinished: "list[ActRecord]",
    disagreements: list[str],
) -> str:
    """The next sensible command of one domain."""
    if unfinished:
        return ending(unfinished[0].kind, name)
    if (beside := _way_back(name, stage, seen)) or disagreements:
        # Whatever else is to be done, who comes back needs somebody to come back to.
        return "splitctl deploy apply --dry-run" if beside else _mending(name, survey)
    books = seen.books or Books()
    if name in books.drift:
        return f"splitctl rollout start {name}"
    if name in books.paused:
        return f"splitctl rollout resume {name}"
    percentage = asked or 0
    if stage == Stage.OFF:
        return f"splitctl sync enable {name}"
    if stage == Stage.DUAL_WRITE:
        return _towards_start(name, seen)
    if stage == Stage.RAMPDOWN:
        flagged = any(flags.epoch for flags in survey.served.values())
        return after_rampdown(config, name) if flagged else f"splitctl decommission archive {name}"
    if stage == Stage.COMPLETE:
        return f"splitctl sync teardown {name}"
    if stage != Stage.LIVE:
        return "splitctl doctor"
    for gate in books.unanswered.get(name, []):
        return f"splitctl rollout answer {name} --gate '{gate}' --yes|--no"
    required = _required(config, row)
    if required is not None and row is not None and row.soak_evidence_s < required:
        return f"splitctl rollout watch {name}"
    if percentage == 100:
        return f"splitctl decommission rampdown {name}"
    return f"splitctl rollout advance {name}"


def _mending(name: str, survey: Survey) -> str:
    """What brings a domain together again: back when anybody went back, else in line."""
    owned = [owner.epoch for owner in survey.owners.values()]
    served = [flags.epoch for flags in survey.served.values() if not flags.served]
    if served and owned and max(served) > max(owned):
        return f"splitctl rollback {name}"  # one was begun and did not reach the owners
    return f"splitctl rollout start {name}"


def _towards_start(name: str, seen: Seen) -> str:
    streams = [item for item in seen.streams or [] if item.stream.rsplit(".", 1)[0] == name]
    if any(not item.worker_alive for item in streams):
        return "splitctl sync run"
    if any(set(item.states.values()) != {"live"} for item in streams):
        return f"splitctl backfill run {name}"
    verdict = seen.books.verdicts.get(name) if seen.books else None
    if verdict is None or verdict.verdict != "equal":
        return f"splitctl verify run --domain {name}"
    return f"splitctl rollout start {name}"
