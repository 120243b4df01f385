"""Alerts: what is wrong when, whom it wakes, what it means, and what to type. Pure.

Limits are those of the gates, so that nobody is woken by what no gate minds, nor left asleep.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from estate.config import Config
from rollout.gates import threshold
from rollout.observe.expressions import (
    OWNER_EPOCH,
    Windows,
    gateways_of,
    labelled,
    questions,
    series,
    streams,
)
from rollout.prometheus import UP, Expected
from rollout.traffic_gates import FEWEST_ERRORS

Severity = Literal["page", "chat"]


@dataclass(frozen=True)
class Alert:
    """One alert. `hold`: so long `expr` must be true; `reads`: the series without which it never
    could be. `summary` may use Prometheus' templates."""

    name: str
    severity: Severity
    expr: str
    hold: str
    summary: str
    meaning: str
    next_command: str
    reads: tuple[str, ...]
    domain: str | None = None

    def __str__(self) -> str:
        return f"{self.name}{f' ({self.domain})' if self.domain else ''}"


@dataclass(frozen=True)
class Alerts:
    """All alerts of an estate, and what there is none for, with the reason."""

    alerts: tuple[Alert, ...]
    left_out: tuple[str, ...]


def alerts(config: Config) -> Alerts:
    """Every alert that the configuration gives."""
    found: list[Alert] = [*_of_gateways(config)]
    left_out: list[str] = []
    for domain in config.domains:
        found += _of_domain(config, domain)
        for kind, own in (("error_rate", config.observe.error_rate),
                          ("latency_p95", config.observe.p95_ms),
                          ("sync_lag", config.observe.lag_ms)):  # fmt: skip
            if limit(config, domain, kind, own) is None:
                left_out.append(f"{domain}: no gate of kind {kind}, and no limit in [observe]")
    found += _of_services(config)
    for key in ("database_failures", "event_failures"):
        if getattr(config.observe, key) is None:
            left_out.append(f"observe.{key} is not set: nobody is told of them")
    found += _of_worker(config)
    return Alerts(tuple(found), tuple(left_out))


def limit(config: Config, domain: str, kind: str, own: float | None = None) -> float | None:
    """What is too much for a domain: the limit given, or the strictest gate's; None without one."""
    if own is not None:
        return own
    gates = [gate for gate in config.gates if gate.kind == kind]
    limits = [threshold(gate) for gate in gates if gate.domains is None or domain in gate.domains]
    return min(limits, default=None)


def _of_gateways(config: Config) -> Iterator[Alert]:
    up = series(UP, gateways_of(config))
    windows, number = Windows(config.observe.interval), Expected.of(config).number
    yield Alert(
        "SplitctlGatewayUnseen", "chat",
        f"(count({up} == 1) or vector(0)) < {number}", windows.hold,
        f"{{{{ $value }}}} of {number} gateways are seen",
        "Without every gateway no gate is sure: steps wait, and nobody is rolled back.",
        "splitctl status", (up,),
    )  # fmt: skip


def _of_domain(config: Config, domain: str) -> Iterator[Alert]:
    ask = questions(config, domain)
    own, hold = config.observe, ask.windows.hold
    enough = f"{ask.number()} >= {own.min_requests}"
    errors = limit(config, domain, "error_rate", own.error_rate)
    if errors is not None:
        yield Alert(
            "SplitctlErrorRate", "page",
            f"({ask.error_share()} > {errors:g}) and ({enough})", hold,
            f"{domain}, {{{{ $labels.side }}}} side: {{{{ $value | humanizePercentage }}}} of the"
            " answers are errors",
            f"More than {100 * errors:g} % of the requests are answered 5xx. On the new side a"
            " watched rollout is brought back by its gate; an unwatched one by a person.",
            f"splitctl rollback {domain}", (ask.requests,), domain,
        )  # fmt: skip
    slow = limit(config, domain, "latency_p95", own.p95_ms)
    if slow is not None:
        yield Alert(
            "SplitctlLatency", "chat",
            f"({ask.p95()} > {slow / 1000:g}) and ({enough})", hold,
            f"{domain}, {{{{ $labels.side }}}} side: p95 is {{{{ $value | humanizeDuration }}}}",
            f"One request in twenty takes longer than {slow:g} ms, as seen at the gateways.",
            "splitctl status", (ask.buckets,), domain,
        )  # fmt: skip
    yield from _against_old(config, domain, enough_of=own.min_requests)
    served = ask.served()
    yield Alert(
        "SplitctlGatewaysDisagree", "page",
        f"max by (domain) ({served}) != min by (domain) ({served})", hold,
        f"{domain}: gateways serve different percentages",
        "A customer may alternate between the sides with each request.",
        "splitctl status", (served,), domain,
    )  # fmt: skip
    epoch = series(OWNER_EPOCH, own.worker, labelled("domain", domain))
    yield Alert(
        "SplitctlOwnersDisagree", "chat",
        f"max by (domain) ({epoch}) != min by (domain) ({epoch})", hold,
        f"{domain}: the two databases do not agree who owns the customers",
        "A step or a rollback is half done. What it moves belongs to nobody, and is written once.",
        "splitctl status", (epoch,), domain,
    )  # fmt: skip
    yield from _of_sync(config, domain, hold)


def _against_old(config: Config, domain: str, enough_of: int) -> Iterator[Alert]:
    """The new side against the old one, where gates ask for that."""
    ask = questions(config, domain)
    new, old, hold = ask.of("new"), ask.of("old"), ask.windows.hold
    both = f"({new.number()} >= {enough_of}) and on (domain) ({old.number()} >= {enough_of})"
    more = times(config, domain, "error_rate")
    if more is not None:
        # Where nobody was answered 5xx there is no such series.
        others = f"({old.error_share()} or 0 * {old.rate()})"
        yield Alert(
            "SplitctlErrorsAgainstOld", "chat",
            f"({new.error_share()} > on (domain) {more:g} * {others}) and on (domain)"
            f" ({new.errors()} >= {FEWEST_ERRORS}) and on (domain) {both}", hold,
            f"{domain}: {{{{ $value | humanizePercentage }}}} of the new side's answers are errors,"
            f" more than {more:g} times the old side's share",
            "The new side fails where the old one does not. The gate fails when chance cannot"
            " explain it.",
            "splitctl status", (new.requests, old.requests), domain,
        )  # fmt: skip
    slower = times(config, domain, "latency_p95")
    if slower is not None:
        yield Alert(
            "SplitctlLatencyAgainstOld", "chat",
            f"({new.p95()} > on (domain) {slower:g} * {old.p95()}) and on (domain) {both}", hold,
            f"{domain}: the new side's p95 is {{{{ $value | humanizeDuration }}}}, more than"
            f" {slower:g} times the old side's",
            "Customers of the new side wait longer than those of the old one, at the same time.",
            "splitctl status", (new.buckets, old.buckets), domain,
        )  # fmt: skip


def times(config: Config, domain: str, kind: str) -> float | None:
    """What is too much against the old side: the strictest gate's; None where none asks."""
    gates = [g for g in config.gates if g.kind == kind and domain in (g.domains or [domain])]
    return min((gate.times for gate in gates if gate.times is not None), default=None)


def _of_sync(config: Config, domain: str, hold: str) -> Iterator[Alert]:
    own = config.observe

    def worst(name: str) -> str:
        return f"max by (stream) ({streams(config, name, domain)})"

    def reads(name: str) -> tuple[str, ...]:
        return (streams(config, name, domain),)

    ready, lag = "splitctl_sync_ready", "splitctl_sync_lag_seconds"
    strays, kept = "splitctl_sync_strays_unsettled", "splitctl_sync_slot_retained_bytes"
    full, differing = "splitctl_sync_source_log_full_seconds", "splitctl_verify_differing_keys"
    yield Alert(
        "SplitctlStreamStopped", "page", f"{worst(ready)} == 0", hold,
        "{{ $labels.stream }} is not carried",
        "Changes wait in the source's log. The sides drift apart, and a rollback has to wait for"
        " what the new side wrote.",
        "splitctl sync status", reads(ready), domain,
    )  # fmt: skip
    late = limit(config, domain, "sync_lag", own.lag_ms)
    if late is not None:
        yield Alert(
            "SplitctlSyncLag", "chat", f"{worst(lag)} > {late / 1000:g}", hold,
            "{{ $labels.stream }} is {{ $value | humanizeDuration }} behind",
            "A step would hold customers for longer than it may, and so does not begin.",
            "splitctl sync status", reads(lag), domain,
        )  # fmt: skip
    many = limit(config, domain, "strays") or 0
    yield Alert(
        "SplitctlStrays", "chat", f"{worst(strays)} > {many:g}", hold,
        "{{ $labels.stream }} has {{ $value }} strays that nobody has settled",
        "Rows were changed on the side that does not own them. Both versions are kept.",
        f"splitctl sync strays {domain}", reads(strays), domain,
    )  # fmt: skip
    yield Alert(
        "SplitctlSlotBehind", "chat", f"{worst(kept)} > {own.slot}", hold,
        "{{ $labels.stream }} makes its source keep {{ $value | humanize1024 }}B of log",
        "The worker does not keep up, or an old transaction holds the log.",
        "splitctl sync status", reads(kept), domain,
    )  # fmt: skip
    left_s = own.log_left.total_seconds()
    soonest = f"min by (stream) ({streams(config, full, domain)})"
    yield Alert(
        "SplitctlLogFull", "page", f"{soonest} < {left_s:g}", hold,
        "{{ $labels.stream }}: its source's log is full in {{ $value | humanizeDuration }}",
        "Then the old side's database stops, or the slot is lost and everything is copied anew.",
        "splitctl sync status", reads(full), domain,
    )  # fmt: skip
    compared = series(differing, own.worker, labelled("domain", domain))
    yield Alert(
        "SplitctlSidesDiffer", "page", f"max by (domain) ({compared}) > 0", hold,
        f"{domain}: {{{{ $value }}}} keys were carried and differ",
        "The sides do not hold the same. No step is made until a whole comparison is equal.",
        f"splitctl verify run --domain {domain}", (compared,), domain,
    )  # fmt: skip


def _of_services(config: Config) -> Iterator[Alert]:
    windows = Windows(config.observe.interval)

    def growing(name: str, severity: Severity, metric: str, what: str, meaning: str) -> Alert:
        failed = series(metric)
        return Alert(
            name, severity,
            f"sum by (job, service) (increase({failed}[{windows.short}])) > 0", windows.short,
            f"{{{{ $labels.job }}}} {{{{ $labels.service }}}}: {what}", meaning,
            "splitctl status", (failed,),
        )  # fmt: skip

    if config.observe.database_failures is not None:
        yield growing(
            "ServiceDatabaseFailures", "page", config.observe.database_failures,
            "connections to its database fail",
            "Customers get errors, or will soon. On the new side alone: bring them back.",
        )  # fmt: skip
    if config.observe.event_failures is not None:
        yield growing(
            "ServiceEventFailures", "chat", config.observe.event_failures,
            "events are not published",
            "They wait in the outbox and are published later; whoever listens is behind.",
        )  # fmt: skip


def _of_worker(config: Config) -> Iterator[Alert]:
    up = series(UP, config.observe.worker)
    yield Alert(
        "SplitctlSyncWorkerAway", "page", f"absent({up} == 1)",
        Windows(config.observe.interval).hold,
        "no sync worker is seen",
        "Nothing is carried between the sides. Changes wait in the sources' logs, which grow.",
        "splitctl sync run", (up,),
    )  # fmt: skip
