"""Whether the written files are those of the configuration, and whether they would work.

An alert over a series that nobody exports is quiet for ever, like a gate that can never fail: so
Prometheus is asked for each of them.
"""

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from estate.config import Config
from estate.errors import ExitCode, in_one_line
from rollout.observe import writing
from rollout.observe.alerts import Alert, alerts
from rollout.observe.dashboards import dashboards, expressions
from rollout.prometheus_api import Prometheus, PrometheusSilent, QueryRefused

State = Literal["ok", "wrong", "unknown"]
PROGRAM_LIMIT_S = 30.0


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and why; `unknown` where nobody could be asked."""

    what: str
    state: State
    reason: str = ""


@dataclass(frozen=True)
class Checked:
    """Everything that was looked at."""

    findings: list[Finding]

    @property
    def exit_code(self) -> ExitCode:
        """3 when something is wrong, 4 when something could not be told."""
        states = {finding.state for finding in self.findings}
        if "wrong" in states:
            return ExitCode.CHECK_FAILED
        return ExitCode.INCONCLUSIVE if "unknown" in states else ExitCode.DONE

    @property
    def next_command(self) -> str:
        """What mends it."""
        if self.exit_code is ExitCode.DONE:
            return "load the files: docs/observe.md"
        return "mend what is named above, then the same command again"

    def to_text(self) -> str:
        """For a person: what is not right first."""
        order = {"wrong": 0, "unknown": 1, "ok": 2}
        found = sorted(self.findings, key=lambda finding: order[finding.state])
        lines = [f"{f.state:<8} {f.what}{f': {f.reason}' if f.reason else ''}" for f in found]
        return "\n".join(lines)


def check(config: Config, out: Path, prometheus: Prometheus | None = None) -> Checked:
    """Look at the files below `out`, and ask promtool, amtool and Prometheus where they are there.

    `prometheus` is the configuration's, if it names one.
    """
    found = alerts(config)
    files = {**writing.rule_files(config, found), **writing.dashboard_files(config)}
    if config.observe.page or config.observe.chat:
        files |= writing.alertmanager_files(config)
    findings = [*_same(out, files)]
    findings.append(_asked_program("promtool", "check", "rules", str(out / writing.RULES)))
    if writing.ALERTMANAGER in files:
        path = str(out / writing.ALERTMANAGER)
        findings.append(_asked_program("amtool", "check-config", path))
    if prometheus is None and config.metrics.url is not None:
        prometheus = Prometheus.of(config)
    if prometheus is None:
        reason = "metrics.url is not set: nobody knows whether the series are there"
        findings.append(Finding("prometheus", "unknown", reason))
    else:
        findings += _answered(config, found.alerts, prometheus)
    return Checked(findings)


def _same(out: Path, files: Mapping[Path, str]) -> Iterator[Finding]:
    """Whether each file is what the configuration gives now."""
    for name, text in files.items():
        try:
            there = (out / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            yield Finding(str(out / name), "wrong", f"it cannot be read: {reason}")
            continue
        if there == text:
            yield Finding(str(out / name), "ok")
        else:
            yield Finding(str(out / name), "wrong", "the configuration gives another text now")


def _asked_program(program: str, *arguments: str) -> Finding:
    what = " ".join((program, *arguments))
    path = shutil.which(program)
    if path is None:
        return Finding(what, "unknown", f"{program} is not installed here")
    try:
        done = subprocess.run(
            [path, *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=PROGRAM_LIMIT_S,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(what, "unknown", in_one_line(error))
    if done.returncode:
        return Finding(what, "wrong", in_one_line(done.stderr or done.stdout))
    return Finding(what, "ok")


def _answered(
    config: Config, found: tuple[Alert, ...], prometheus: Prometheus
) -> Iterator[Finding]:
    """Whether Prometheus takes every expression, and has the series that the alerts need."""
    asked = {f"alert {alert}": alert.expr for alert in found}
    for uid, dashboard in dashboards(config).items():
        for number, expr in enumerate(expressions(dashboard)):
            asked[f"dashboard {uid}, expression {number + 1}"] = expr
    needed = {selector: alert for alert in found for selector in alert.reads}
    try:
        for what, expr in asked.items():
            refused = _refused(prometheus, expr)
            if refused:
                yield Finding(what, "wrong", refused)
        yield Finding(f"{len(asked)} expressions asked of {prometheus.url}", "ok")
        for selector, alert in needed.items():
            if not prometheus.instant(f"count({selector})"):
                reason = f"no such series: alert {alert} can never fire"
                yield Finding(selector, "unknown", reason)
    except PrometheusSilent as error:
        yield Finding("prometheus", "unknown", str(error))


def _refused(prometheus: Prometheus, expr: str) -> str | None:
    try:
        prometheus.instant(expr)
    except QueryRefused as error:
        return str(error)
    return None
