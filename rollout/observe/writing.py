"""The files that others are fed with: rules, routes, dashboards. Written whole or not at all."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estate.config import Config
from estate.errors import ExitCode, SplitctlError
from rollout.observe import prometheus
from rollout.observe.alerts import Alerts, alerts
from rollout.observe.dashboards import dashboards

RULES, ALERTMANAGER, DASHBOARDS = Path("splitctl-rules.yml"), Path("alertmanager.yml"), "dashboards"


class NotWritable(SplitctlError):
    """{path} cannot be written: {reason}."""

    hint = "the same command with another --out DIRECTORY"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Written:
    """The files, what alerts there are, and what there is none for."""

    files: list[Path]
    alerts: list[dict[str, Any]]
    left_out: list[str]
    next_command: str

    def to_text(self) -> str:
        """For a person."""
        lines = [f"written: {path}" for path in self.files]
        for alert in self.alerts:
            domain = f" ({alert['domain']})" if alert["domain"] else ""
            lines.append(f"  {alert['severity']}: {alert['name']}{domain}")
        lines += [f"left out: {item}" for item in self.left_out]
        return "\n".join(lines)


def rules(config: Config, out: Path) -> Written:
    """Write Prometheus' alert rules. Raises NotWritable."""
    found = alerts(config)
    told = [{"name": a.name, "domain": a.domain, "severity": a.severity} for a in found.alerts]
    return Written(_put(out, rule_files(config, found)), told, [*found.left_out], _check(out))


def alertmanager(config: Config, out: Path) -> Written:
    """Write Alertmanager's configuration. Raises NoReceiver, NotWritable."""
    return Written(_put(out, alertmanager_files(config)), [], [], _check(out))


def grafana(config: Config, out: Path) -> Written:
    """Write Grafana's dashboards, one file each. Raises NotWritable."""
    return Written(_put(out, dashboard_files(config)), [], [], _check(out))


def rule_files(config: Config, found: Alerts) -> dict[Path, str]:
    """The text of the rules."""
    return {RULES: _yaml(config, "rules", prometheus.rules(config, found))}


def alertmanager_files(config: Config) -> dict[Path, str]:
    """The text of the routes. Raises NoReceiver."""
    return {ALERTMANAGER: _yaml(config, "alertmanager", prometheus.alertmanager(config))}


def dashboard_files(config: Config) -> dict[Path, str]:
    """The text of every dashboard."""
    return {
        Path(DASHBOARDS, f"{uid}.json"): json.dumps(item, ensure_ascii=False, indent=2) + "\n"
        for uid, item in dashboards(config).items()
    }


def _yaml(config: Config, command: str, data: Mapping[str, Any]) -> str:
    import yaml

    heading = f"# Made by `splitctl observe {command}` for {json.dumps(config.environment)}."
    body = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=100)
    return f"{heading} Change config.toml instead.\n{body}"


def _put(out: Path, files: Mapping[Path, str]) -> list[Path]:
    written = []
    for name, text in files.items():
        path = out / name
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(text, encoding="utf-8")
            # Whoever reads it at this moment sees the old text or the new one.
            draft.replace(path)
        except OSError as error:
            raise NotWritable(path=path, reason=error.strerror or error) from error
        written.append(path)
    return written


def _check(out: Path) -> str:
    return f"splitctl observe check --out {out}"
