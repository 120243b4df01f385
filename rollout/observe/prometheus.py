"""The alerts as Prometheus' rules, and Alertmanager's routes, as plain data. Pure.

Written for Prometheus 2.42 and Alertmanager 0.25 and newer; a webhook whose address is a secret
needs Alertmanager 0.26, the first that reads it from a file.
"""

from typing import Any

from estate.config import Config, ReceiverConfig
from estate.errors import ExitCode, SplitctlError
from rollout.observe.alerts import Alert, Alerts
from rollout.observe.expressions import span

HEADING = (
    "{{ .CommonLabels.alertname }} {{ .CommonLabels.domain }} ({{ .CommonLabels.environment }})"
)
EACH = (
    "{{ range .Alerts }}{{ .Annotations.summary }}\n{{ .Annotations.description }}\n"
    "Next: {{ .Annotations.next }}\n{{ end }}"
)


class NoReceiver(SplitctlError):
    """The configuration names nobody for alerts of severity '{severity}'. Nothing was written."""

    hint = "add [observe.{severity}] to config.toml, then the same command again"
    exit_code = ExitCode.USAGE


def rules(config: Config, found: Alerts) -> dict[str, Any]:
    """A file of rules: one group for each domain, and one for what belongs to none."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for alert in found.alerts:
        groups.setdefault(alert.domain or "estate", []).append(rule(config, alert))
    interval = span(config.observe.interval)
    return {
        "groups": [
            {"name": f"splitctl {name}", "interval": interval, "rules": list_}
            for name, list_ in groups.items()
        ]
    }


def rule(config: Config, alert: Alert) -> dict[str, Any]:
    """One alert."""
    labels = {"severity": alert.severity, "environment": config.environment}
    return {
        "alert": alert.name,
        "expr": alert.expr,
        "for": alert.hold,
        "labels": labels | ({"domain": alert.domain} if alert.domain else {}),
        "annotations": {
            "summary": alert.summary,
            "description": alert.meaning,
            "next": alert.next_command,
        },
    }


def alertmanager(config: Config) -> dict[str, Any]:
    """Routes by severity: `page` wakes somebody, everything else goes to the chat.

    Raises NoReceiver.
    """
    interval = config.observe.interval
    receivers = {"page": config.observe.page, "chat": config.observe.chat}
    for name, receiver in receivers.items():
        if receiver is None:
            raise NoReceiver(severity=name)
    return {
        "route": {
            "receiver": "chat",
            "group_by": ["alertname", "environment", "domain"],
            "group_wait": span(2 * interval),
            "group_interval": span(20 * interval),
            "repeat_interval": "4h",
            "routes": [{"receiver": "page", "matchers": ['severity="page"']}],
        },
        # A worker that is away explains what it does not do.
        "inhibit_rules": [
            {
                "source_matchers": ['alertname="SplitctlSyncWorkerAway"'],
                "target_matchers": ['alertname=~"SplitctlStreamStopped|SplitctlSyncLag"'],
                "equal": ["environment"],
            }
        ],
        "receivers": [
            {"name": name, **_receiver(receiver)}
            for name, receiver in receivers.items()
            if receiver
        ],
    }


def _receiver(receiver: ReceiverConfig) -> dict[str, Any]:
    secret = str(receiver.file)
    match receiver.kind:
        case "pagerduty":
            settings: dict[str, Any] = {
                "routing_key_file": secret,
                "description": "{{ .CommonAnnotations.summary }}",
                "details": {"next": "{{ .CommonAnnotations.next }}"},
            }
            if receiver.url is not None:
                settings["url"] = receiver.url
            return {"pagerduty_configs": [settings]}
        case "slack":
            settings = {"api_url_file": secret, "title": HEADING, "text": EACH}
            return {"slack_configs": [{**settings, "send_resolved": True}]}
        case "webhook":
            place = {"url_file": secret} if receiver.url is None else {"url": receiver.url}
            return {"webhook_configs": [{**place, "send_resolved": True}]}
