"""Gathers what the gates look at, and counts the soak clock.

One look reads every gateway's counters and how the sync stands. What belongs to the present phase
(the window, the latest lags, the clock) is kept in the ledger, so that another operator on another
machine goes on from there.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from estate.config import Config
from estate.errors import SplitctlError
from estate.ledger.records import Rollout, VerdictRecord
from migrator.status import StreamStatus
from rollout import pod_health, trials
from rollout.counters import Snapshot, Window
from rollout.gates import LAG_LOOKS, GateResult, asked, evaluate
from rollout.parallel import Outcome
from rollout.phases import Phase, Position, Stage
from rollout.pod_health import Pods
from rollout.seen import Evidence, StreamSeen, VerdictSeen
from rollout.tools import Tools
from rollout.trials import Counted
from verify.verdict import CHECKED, FOUND, INVARIANTS, VERIFY

if TYPE_CHECKING:
    from estate.ledger import Ledger

# Among so many runs the last one that could tell is looked for.
LATEST = 20
# The clock never counts more than this between two looks: nobody looked meanwhile.
LONGEST_COUNT_S = 30.0
# What ran when the phase began.
VERSIONS = "versions"
# Without a request on the new side for so long, there is no evidence.
TRAFFIC_WITHIN_S = 15.0


@dataclass(frozen=True)
class Look:
    """What was seen at one moment. `streams` is empty when `streams_problem` says why.

    at: by the ledger's clock, before any gateway was asked
    counted: what gates counted in the data, by domain and name
    pods: those that gates look at, by domain and Deployment
    """

    snapshot: Snapshot
    at: datetime
    streams: tuple[StreamStatus, ...] = ()
    streams_problem: str | None = None
    counted: Mapping[str, Mapping[str, Counted]] = field(default_factory=dict)
    pods: Mapping[str, Pods] = field(default_factory=dict)


def look(tools: Tools, config: Config, ledger: "Ledger", domains: Sequence[str]) -> Look:
    """Ask gateways for counters, databases for the sync and what these domains' gates count, and
    the cluster for the pods that they look at.

    Raises LedgerUnreachable.
    """
    at = ledger.now()
    coming = pod_health.begin(config, domains, tools.cluster)
    try:
        streams, problem = tuple(tools.sync()), None
    except SplitctlError as error:
        streams, problem = (), str(error)
    seen = Look(tools.metrics.scrape(), at, streams, problem)
    found: dict[str, Mapping[str, Counted]] = {}
    for domain in domains:
        if not trials.any_asked(config, domain):
            continue
        try:
            row, now = ledger.rollout(domain), ledger.now()
        except SplitctlError:
            continue  # whoever counts this look will meet it, too
        if row is not None:
            found[domain] = trials.count(config, row, tools.subjects, _lag_s(domain, seen), now)
    outcomes = coming.wait(pod_health.ANSWER_S)
    pods: dict[str, Mapping[str, Outcome[list[pod_health.PodNow]]]] = {
        domain: {name: outcomes[name] for name in sorted(pod_health.names(config, domain))}
        for domain in domains
    }
    return replace(seen, counted=found, pods=pods)


def opened(
    snapshot: Snapshot, domain: str, epoch: int = 0, before: int | None = None
) -> dict[str, Any]:
    """The evidence of a phase that begins now, with a step from `before` % that has this epoch."""
    window = Window.opened(snapshot.under(domain, epoch, since_s=0.0), domain)
    return {"window": window.to_json(), "lags": [], "epoch": epoch, "from": before}


def counted(rollout: Rollout, seen: Look, now: datetime) -> Rollout:
    """The row after one more look: window, lags and soak clock moved on.

    They stand where another look was counted after this one had begun: its counters may be older,
    and one that seems to have shrunk would be taken for a new process, and counted from zero.
    """
    kept = rollout.evidence
    data = trials.kept(rollout, seen.counted.get(rollout.domain, {}))
    if _overtaken(rollout, seen, now):
        return replace(rollout, evidence={**kept, "data": data})
    snapshot = of_phase(replace(rollout, counted_at=now), seen.snapshot)
    before = Window.from_json(kept.get("window", {}))
    window = before.advanced(snapshot, rollout.domain)
    grew = window.side("new").requests > before.side("new").requests
    traffic_at = now if grew else _moment(kept.get("traffic_at"))
    lags = [*kept.get("lags", []), _worst_lag(rollout.domain, seen)][-LAG_LOOKS:]
    # Nobody looked for longer than this: what happened meanwhile is not known.
    since = (now - rollout.counted_at).total_seconds() if rollout.counted_at else 0.0
    passed = max(0.0, min(since, LONGEST_COUNT_S))
    evidence = {
        "window": window.to_json(),
        "lags": lags,
        "traffic_at": traffic_at.isoformat() if traffic_at else None,
        "epoch": kept.get("epoch", 0),
        "from": kept.get("from"),
        VERSIONS: kept.get(VERSIONS),
        "data": data,
        "pods": pod_health.kept(rollout, seen.pods.get(rollout.domain, {}), passed),
    }
    within_s = TRAFFIC_WITHIN_S + snapshot.behind_s
    fresh = traffic_at is not None and (now - traffic_at).total_seconds() <= within_s
    evident = snapshot.complete and fresh and _carried(rollout.domain, seen)
    return replace(
        rollout,
        evidence=evidence,
        counted_at=now,
        soak_evidence_s=rollout.soak_evidence_s + (passed if evident else 0.0),
    )


def _overtaken(rollout: Rollout, seen: Look, now: datetime) -> bool:
    # What was counted in the future was so before the ledger's clock was put back.
    return rollout.counted_at is not None and seen.at < rollout.counted_at <= now


def of(rollout: Rollout, seen: Look, verdict: VerdictRecord | None) -> Evidence:
    """What the gates of a domain may look at; `rollout` has counted this look already."""
    lags = tuple(rollout.evidence.get("lags", []))
    return Evidence(
        domain=rollout.domain,
        percentage=rollout.percentage,
        window=Window.from_json(rollout.evidence.get("window", {})),
        blind=of_phase(rollout, seen.snapshot).problems,
        verdict=verdict_seen(verdict, rollout.moved_at),
        streams=_streams(rollout.domain, seen.streams),
        streams_problem=seen.streams_problem,
        lags=lags,
        data=trials.seen(rollout.evidence),
        pods=pod_health.seen(rollout.evidence),
    )


def of_phase(rollout: Rollout, snapshot: Snapshot) -> Snapshot:
    """What was seen since the step that opened the phase; `rollout` has counted this look."""
    began, now = rollout.phase_started_at, rollout.counted_at
    since_s = (now - began).total_seconds() if began and now else math.inf
    # The step's epoch and not the row's: owners may have a newer one that no gateway was given.
    return snapshot.under(rollout.domain, int(rollout.evidence.get("epoch", 0)), since_s)


def ask(config: Config, evidence: Evidence) -> list[GateResult]:
    """Every gate that applies, asked."""
    before = config.domain(evidence.domain).before(evidence.percentage)
    gates = asked(config.gates, evidence.domain, evidence.percentage, before)
    return [evaluate(gate, evidence) for gate in gates]


def position(config: Config, rollout: Rollout) -> Position:
    """Where the domain is, for the phase machine."""
    phases = tuple(
        Phase(phase.percentage, phase.soak.total_seconds())
        for phase in config.domain(rollout.domain).phases
    )
    return Position(
        stage=Stage(rollout.stage),
        percentage=rollout.percentage,
        # The phases of the configuration may have become fewer since.
        phase=min(rollout.phase, len(phases) - 1),
        phases=phases,
        evidence_s=rollout.soak_evidence_s,
        required_s=rollout.soak_required_s,
    )


def sample(evidence: Evidence, rollout: Rollout) -> dict[str, Any]:
    """The figures of one look, for the ledger."""
    new, old = evidence.window.side("new"), evidence.window.side("old")
    seconds = new.quantile(0.95)
    return {
        "percentage": evidence.percentage,
        "requests_new": new.requests,
        "requests_old": old.requests,
        "errors_new": new.errors,
        "p95_ms": None if seconds is None or seconds == float("inf") else round(1000 * seconds, 2),
        "share": evidence.window.share,
        "lag_ms": evidence.lags[-1] if evidence.lags else None,
        "strays": sum(stream.strays for stream in evidence.streams),
        "soak_s": round(rollout.soak_evidence_s, 1),
        "blind": sorted(evidence.blind),
    }


def verdict_seen(record: VerdictRecord | None, moved_at: datetime | None) -> VerdictSeen | None:
    """A verification as the gates see it: `covers_now` when it began after customers moved."""
    if record is None:
        return None
    covers = moved_at is None or record.started_at >= moved_at
    return VerdictSeen(record.verdict, record.age_s, covers)


def trusted(ledger: "Ledger", domain: str) -> VerdictRecord | None:
    """The last verification of a domain, with what was found out since.

    What sync carried and then proved to differ, or an invariant that is broken, counts until a
    whole run that could tell has begun after that. Where everything that was carried since an
    equal run began was compared too, the run is as young as the last of these comparisons; if it
    asked invariants, as young as the last time that these were asked.
    """
    runs = ledger.verdicts(domain, VERIFY, LATEST)
    if not runs:
        return None
    whole = runs[0]
    told = next((run.started_at for run in runs if run.verdict != "inconclusive"), None)
    for name in (FOUND, INVARIANTS):
        found = ledger.latest_verdict(domain, name)
        worse = found is not None and found.verdict == "different"
        if found is not None and worse and (told is None or found.started_at > told):
            return replace(whole, verdict="different", age_s=found.age_s, data=found.data)
    checked = ledger.latest_verdict(domain, CHECKED)
    if whole.verdict != "equal" or checked is None or checked.started_at > whole.started_at:
        return whole
    age_s = checked.age_s + float(checked.data["behind_s"])
    if whole.data.get("invariants"):
        asked = ledger.latest_verdict(domain, INVARIANTS)
        if asked is None or asked.verdict != "equal":
            return whole
        age_s = max(age_s, asked.age_s)
    return replace(whole, age_s=min(whole.age_s, age_s))


def _streams(domain: str, statuses: Sequence[StreamStatus]) -> tuple[StreamSeen, ...]:
    return tuple(
        StreamSeen(
            name=status.stream,
            alive=bool(status.enabled and status.worker_alive),
            lag_ms=status.lag_ms,
            heartbeat_age_ms=status.heartbeat_age_ms,
            # What could not be asked has a problem, and so no gate passes on it.
            strays=status.strays or 0,
            waiting=status.waiting or 0,
            problem=status.problem,
        )
        for status in statuses
        if of_domain(status, domain)
    )


def of_domain(status: StreamStatus, domain: str) -> bool:
    """Whether a stream is one of the domain's two."""
    return status.stream in (f"{domain}.forward", f"{domain}.reverse")


def _carried(domain: str, seen: Look) -> bool:
    """Whether both directions are known to be at work: else nobody would notice what goes wrong."""
    streams = _streams(domain, seen.streams)
    return bool(streams) and all(item.alive and not item.problem for item in streams)


def _worst_lag(domain: str, seen: Look) -> float | None:
    lags = [stream.lag_ms for stream in _streams(domain, seen.streams)]
    known = [lag for lag in lags if lag is not None]
    return max(known) if known and len(known) == len(lags) else None


def _lag_s(domain: str, seen: Look) -> float | None:
    """The lag of the slower direction in seconds; None when a direction does not carry."""
    worst = _worst_lag(domain, seen) if _carried(domain, seen) else None
    return None if worst is None else worst / 1000


def _moment(text: Mapping[str, Any] | str | None) -> datetime | None:
    return datetime.fromisoformat(text) if isinstance(text, str) else None
