"""Grafana's dashboards, as plain data: one for each domain, one for each service, one for the sync.

Each step appears on them as an annotation, made from the owners' epochs that the sync worker tells.
Written for Grafana 9 and newer. Pure.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from estate.config import Config, ServiceConfig
from rollout.observe.alerts import limit, times
from rollout.observe.expressions import (
    OWNED,
    OWNER_EPOCH,
    Windows,
    gateways_of,
    labelled,
    questions,
    series,
    streams,
)

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS, WIDTH, HEIGHT = 2, 12, 8
SCHEMA = 37
LONGEST_UID = 40


@dataclass(frozen=True)
class Panel:
    """A panel: lines by their legend. `red` is the value from which on it is too much."""

    title: str
    unit: str
    lines: tuple[tuple[str, str], ...]
    told: str = ""
    red: float | None = None


def dashboards(config: Config) -> dict[str, dict[str, Any]]:
    """Every dashboard by its uid, which is also its file's name."""
    moves = [_moved(config, domain) for domain in config.domains]
    found = [
        _dashboard(config, f"domain {name}", of_domain(config, name), [_moved(config, name)])
        for name in config.domains
    ]
    found += [
        _dashboard(config, f"service {service.name}", of_service(config, service), moves)
        for service in config.observe.services
    ]
    found.append(_dashboard(config, "sync", of_sync(config), moves))
    return {str(item["uid"]): item for item in found}


def expressions(dashboard: dict[str, Any]) -> Iterator[str]:
    """All that a dashboard asks Prometheus."""
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["expr"]


def of_domain(config: Config, domain: str) -> Iterator[Panel]:
    """Traffic by side, shares, and how the data is carried."""
    ask, own = questions(config, domain), config.observe
    errors = limit(config, domain, "error_rate", own.error_rate)
    slow = limit(config, domain, "latency_p95", own.p95_ms)
    late = limit(config, domain, "sync_lag", own.lag_ms)
    owned = series(OWNED, own.worker, labelled("domain", domain))
    yield Panel("Requests", "reqps", ((ask.rate(), "{{side}}"),))
    yield Panel(
        "Errors", "percentunit", ((ask.error_share(), "{{side}}"),),
        f"Answered with 5xx.{_beside(config, domain, 'error_rate')}", errors,
    )  # fmt: skip
    yield Panel(
        "p95", "s", ((ask.p95(), "{{side}}"),),
        f"As seen at the gateways, holds included.{_beside(config, domain, 'latency_p95')}",
        None if slow is None else slow / 1000,
    )  # fmt: skip
    yield Panel(
        "Customers on the new side", "percentunit",
        (
            (f"max by (side) ({owned}) / 100", "owned, {{side}} database"),
            (f"max by (domain) ({ask.served()}) / 100", "served, highest gateway"),
            (f"min by (domain) ({ask.served()}) / 100", "served, lowest gateway"),
            (ask.observed(), "observed"),
        ),
        "Owned and served are what was asked for, observed is what came of it.",
    )  # fmt: skip
    yield _by_stream(config, domain, "Sync lag", "s", "splitctl_sync_lag_seconds",
                     None if late is None else late / 1000)  # fmt: skip
    yield _by_stream(config, domain, "Keys that wait", "short", "splitctl_sync_pending_keys")
    yield _by_stream(config, domain, "Strays", "short", "splitctl_sync_strays_unsettled",
                     (limit(config, domain, "strays") or 0) + 1)  # fmt: skip
    differing = series("splitctl_verify_differing_keys", own.worker, labelled("domain", domain))
    yield Panel(
        "Carried keys that differ", "short", ((f"max by (domain) ({differing})", "{{domain}}"),),
        "Of those that the sync worker compares after it has carried them.", 1,
    )  # fmt: skip
    for panel in own.panels:
        if panel.domain == domain:
            yield Panel(panel.title, panel.unit, ((panel.expr, "__auto"),))


def _beside(config: Config, domain: str, kind: str) -> str:
    """What a panel says of a limit that is no line: it moves with the old side."""
    most = times(config, domain, kind)
    return "" if most is None else f" The new side: at most {most:g} times the old side's."


def of_service(config: Config, service: ServiceConfig) -> Iterator[Panel]:
    """Rate, errors and latency by operation, and what it fails at."""
    own, windows = config.observe, Windows(config.observe.interval)
    requests = series(own.requests, service.matcher)
    failed = series(requests, 'status=~"5.."')
    buckets = series(f"{own.seconds}_bucket", service.matcher)

    def rate(of: str, by: str = "") -> str:
        return f"sum {f'by ({by}) ' if by else ''}(rate({of}[{windows.rate}]))"

    yield Panel("Requests", "reqps", ((rate(requests, own.operation), f"{{{{{own.operation}}}}}"),))
    yield Panel("Errors", "percentunit", ((f"{rate(failed)} / {rate(requests)}", "5xx"),))
    yield Panel(
        "Latency", "s",
        tuple((f"histogram_quantile({share}, {rate(buckets, 'le')})", name)
              for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))),
    )  # fmt: skip
    by_operation = rate(buckets, f"le, {own.operation}")
    yield Panel(
        "p95 by operation", "s",
        ((f"histogram_quantile(0.95, {by_operation})", f"{{{{{own.operation}}}}}"),),
    )  # fmt: skip
    for title, metric in (("Database connection failures", own.database_failures),
                          ("Event publish failures", own.event_failures)):  # fmt: skip
        if metric is not None:
            grown = f"sum by (service) (increase({series(metric)}[{windows.short}]))"
            yield Panel(title, "short", ((grown, "{{service}}"),), "Of every service.", 1)


def of_sync(config: Config) -> Iterator[Panel]:
    """Every stream, and what it does to its source."""
    for title, unit, name in (
        ("Ready", "short", "splitctl_sync_ready"),
        ("Heartbeat age", "s", "splitctl_sync_heartbeat_age_seconds"),
        ("Lag", "s", "splitctl_sync_lag_seconds"),
        ("Keys that wait", "short", "splitctl_sync_pending_keys"),
        ("Rows a second", "short", "splitctl_sync_rows_per_second"),
        ("Log kept by the slot", "bytes", "splitctl_sync_slot_retained_bytes"),
        ("Until the source's log is full", "s", "splitctl_sync_source_log_full_seconds"),
        ("Oldest transaction on the source", "s", "splitctl_sync_oldest_transaction_seconds"),
        ("Keys in refuge", "short", "splitctl_sync_refuge_keys"),
        ("Strays", "short", "splitctl_sync_strays_unsettled"),
    ):
        found = series(name, config.observe.worker)
        yield Panel(title, unit, ((f"max by (stream) ({found})", "{{stream}}"),))
    up = series("up", gateways_of(config))
    yield Panel("Gateways seen", "short", ((f"count({up} == 1)", "gateways"),))


def _by_stream(
    config: Config, domain: str, title: str, unit: str, name: str, red: float | None = None
) -> Panel:
    found = streams(config, name, domain)
    return Panel(title, unit, ((f"max by (stream) ({found})", "{{stream}}"),), red=red)


def _moved(config: Config, domain: str) -> dict[str, Any]:
    """An annotation where the owner's epoch changes: at each step and each rollback."""
    old = series(
        OWNER_EPOCH, config.observe.worker, labelled("domain", domain), labelled("side", "old")
    )
    window = Windows(config.observe.interval).short
    return {
        "name": f"{domain} moved",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "blue",
        "expr": f"max by (domain) (changes({old}[{window}])) > 0",
        "step": span_of_step(config),
        "titleFormat": f"{domain} moved",
        "textFormat": "The owner's epoch changed: a step, or a rollback.",
    }


def span_of_step(config: Config) -> str:
    """As often as Prometheus scrapes: else a step could fall between two points."""
    return f"{max(1, round(config.observe.interval.total_seconds()))}s"


def _dashboard(
    config: Config, name: str, panels: Iterable[Panel], annotations: list[dict[str, Any]]
) -> dict[str, Any]:
    title = f"splitctl {config.environment}: {name}"
    return {
        "uid": _uid(f"splitctl {config.environment} {name}"),
        "title": title,
        "tags": ["splitctl", config.environment],
        "timezone": "utc",
        "schemaVersion": SCHEMA,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "label": "Prometheus", "type": "datasource",
                      "query": "prometheus", "hide": 0}]
        },
        "annotations": {"list": annotations},
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }  # fmt: skip


def _uid(name: str) -> str:
    """Letters that may stand in an address; a long name ends in its digest."""
    plain = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in name)
    if len(plain) <= LONGEST_UID:
        return plain.lower()
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{plain[: LONGEST_UID - 9]}-{digest}".lower()


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red is not None:
        steps.append({"color": "red", "value": panel.red})
    style = "off" if panel.red is None else "line"
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.told,
        "datasource": SOURCE,
        "gridPos": {
            "x": WIDTH * (number % COLUMNS), "y": HEIGHT * (number // COLUMNS),
            "w": WIDTH, "h": HEIGHT,
        },
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "thresholds": {"mode": "absolute", "steps": steps},
                "custom": {"thresholdsStyle": {"mode": style}},
            },
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": expr,
             "legendFormat": legend}
            for index, (expr, legend) in enumerate(panel.lines)
        ],
    }  # fmt: skip
