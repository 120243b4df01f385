"""What is written is what promtool, amtool and Prometheus take; what would not work is told."""

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Gauge

from estate.config import Config, ConfigInvalid
from estate.errors import ExitCode
from rehearsal.children import Children
from rollout.observe import checking, writing
from rollout.observe.alerts import alerts
from rollout.observe.dashboards import dashboards, expressions
from rollout.observe.prometheus import NoReceiver
from rollout.prometheus import Expected
from rollout.prometheus_api import Prometheus
from tests.observe import programs
from tests.observe.conftest import AGAINST_OLD, Configure
from tests.observe.pages import GatewayPage, Page, opened
from tests.observe.programs import needed

MATCHED = "matcher = 'job=\"gateway\"'"
GATEWAY = 'job="gateway",instance="g1",domain="d",side="new"'
OLD = GATEWAY.replace("new", "old")
WORKER = 'job="splitctl",instance="w"'


@pytest.fixture
def config(configure: Configure) -> Config:
    return configure(metrics=MATCHED, extra=AGAINST_OLD)


@pytest.fixture
def written(config: Config, tmp_path: Path) -> Path:
    out = tmp_path / "observe"
    writing.rules(config, out)
    writing.alertmanager(config, out)
    writing.grafana(config, out)
    return out


def run(*command: str) -> str:
    done = subprocess.run(
        [needed(command[0]), *command[1:]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_and_amtool_take_what_is_written(written: Path, config: Config) -> None:
    assert "SUCCESS" in run("promtool", "check", "rules", str(written / writing.RULES))
    out = run("amtool", "check-config", str(written / writing.ALERTMANAGER))
    assert "2 receivers" in out and "1 inhibit rules" in out
    path = str(written / writing.ALERTMANAGER)
    for severity, receiver in (("page", "page"), ("chat", "chat")):
        command = ("amtool", "config", "routes", "test", f"--config.file={path}")
        assert run(*command, f"severity={severity}").strip() == receiver
    assert "a-routing-key" not in "".join(p.read_text() for p in written.rglob("*.*ml"))
    found = alerts(config)
    for kind in ("ErrorRate", "Latency", "DatabaseFailures", "EventFailures"):
        assert any(alert.name.endswith(kind) for alert in found.alerts)


# Each alert's own trouble, one value every 30 s for ten minutes.
STORIES: dict[str, tuple[dict[str, str], str]] = {
    "SplitctlErrorRate": (
        {
            f'gateway_requests_total{{{GATEWAY},status="200"}}': "0+97x20",
            f'gateway_requests_total{{{GATEWAY},status="500"}}': "0+3x20",
        },
        "page",
    ),
    "SplitctlLatency": (
        {
            f'gateway_request_seconds_bucket{{{GATEWAY},le="0.1"}}': "0+90x20",
            f'gateway_request_seconds_bucket{{{GATEWAY},le="1"}}': "0+100x20",
            f'gateway_request_seconds_bucket{{{GATEWAY},le="+Inf"}}': "0+100x20",
            f'gateway_requests_total{{{GATEWAY},status="200"}}': "0+100x20",
        },
        "chat",
    ),
    "SplitctlErrorsAgainstOld": (
        {
            f'gateway_requests_total{{{GATEWAY},status="200"}}': "0+995x20",
            f'gateway_requests_total{{{GATEWAY},status="500"}}': "0+5x20",
            f'gateway_requests_total{{{OLD},status="200"}}': "0+1000x20",
        },
        "chat",
    ),
    "SplitctlLatencyAgainstOld": (
        {
            f'gateway_request_seconds_bucket{{{GATEWAY},le="0.05"}}': "0+0x20",
            f'gateway_request_seconds_bucket{{{GATEWAY},le="0.1"}}': "0+100x20",
            f'gateway_request_seconds_bucket{{{GATEWAY},le="+Inf"}}': "0+100x20",
            f'gateway_requests_total{{{GATEWAY},status="200"}}': "0+100x20",
            f'gateway_request_seconds_bucket{{{OLD},le="0.05"}}': "0+100x20",
            f'gateway_request_seconds_bucket{{{OLD},le="0.1"}}': "0+100x20",
            f'gateway_request_seconds_bucket{{{OLD},le="+Inf"}}': "0+100x20",
            f'gateway_requests_total{{{OLD},status="200"}}': "0+100x20",
        },
        "chat",
    ),
    "ServiceDatabaseFailures": (
        {'database_connection_failures_total{job="shop",service="shop"}': "0+4x20"},
        "page",
    ),
    "ServiceEventFailures": (
        {'event_publish_failures_total{job="jobs",service="jobs"}': "0+4x20"},
        "chat",
    ),
    "SplitctlGatewaysDisagree": (
        {
            'gateway_flag_percentage{job="gateway",instance="g1",domain="d"}': "10x20",
            'gateway_flag_percentage{job="gateway",instance="g2",domain="d"}': "50x20",
        },
        "page",
    ),
    "SplitctlOwnersDisagree": (
        {
            f'splitctl_owner_epoch{{{WORKER},domain="d",side="old"}}': "4x20",
            f'splitctl_owner_epoch{{{WORKER},domain="d",side="new"}}': "5x20",
        },
        "chat",
    ),
    "SplitctlStreamStopped": (
        {f'splitctl_sync_ready{{{WORKER},stream="d.forward"}}': "0x20"},
        "page",
    ),
    "SplitctlSyncLag": (
        {f'splitctl_sync_lag_seconds{{{WORKER},stream="d.reverse"}}': "6x20"},
        "chat",
    ),
    "SplitctlStrays": (
        {f'splitctl_sync_strays_unsettled{{{WORKER},stream="d.forward"}}': "1x20"},
        "chat",
    ),
    "SplitctlSlotBehind": (
        {f'splitctl_sync_slot_retained_bytes{{{WORKER},stream="d.forward"}}': "2e10x20"},
        "chat",
    ),
    "SplitctlLogFull": (
        {f'splitctl_sync_source_log_full_seconds{{{WORKER},stream="d.forward"}}': "600x20"},
        "page",
    ),
    "SplitctlSidesDiffer": (
        {f'splitctl_verify_differing_keys{{{WORKER},domain="d"}}': "1x20"},
        "page",
    ),
    "SplitctlSyncWorkerAway": ({f"up{{{WORKER}}}": "0x20"}, "page"),
    "SplitctlGatewayUnseen": ({'up{job="gateway",instance="g1"}': "0x20"}, "chat"),
}
HEALTHY = {
    f'gateway_requests_total{{{OLD},status="200"}}': "0+9960x20",
    f'gateway_requests_total{{{OLD},status="500"}}': "0+40x20",
    f'gateway_request_seconds_bucket{{{OLD},le="0.1"}}': "0+9900x20",
    f'gateway_request_seconds_bucket{{{OLD},le="+Inf"}}': "0+10000x20",
    f'gateway_requests_total{{{GATEWAY},status="200"}}': "0+995x20",
    f'gateway_requests_total{{{GATEWAY},status="500"}}': "0+5x20",
    f'gateway_request_seconds_bucket{{{GATEWAY},le="0.1"}}': "0+990x20",
    f'gateway_request_seconds_bucket{{{GATEWAY},le="+Inf"}}': "0+1000x20",
    'gateway_flag_percentage{job="gateway",instance="g1",domain="d"}': "10x20",
    'up{job="gateway",instance="g1"}': "1x20",
    f"up{{{WORKER}}}": "1x20",
    f'splitctl_owner_epoch{{{WORKER},domain="d",side="old"}}': "5x20",
    f'splitctl_owner_epoch{{{WORKER},domain="d",side="new"}}': "5x20",
    f'splitctl_sync_ready{{{WORKER},stream="d.forward"}}': "1x20",
    f'splitctl_sync_lag_seconds{{{WORKER},stream="d.forward"}}': "0.02x20",
    f'splitctl_sync_strays_unsettled{{{WORKER},stream="d.forward"}}': "0x20",
    f'splitctl_sync_slot_retained_bytes{{{WORKER},stream="d.forward"}}': "1e6x20",
    f'splitctl_sync_source_log_full_seconds{{{WORKER},stream="d.forward"}}': " ".join(["NaN"] * 21),
    f'splitctl_verify_differing_keys{{{WORKER},domain="d"}}': "0x20",
    'database_connection_failures_total{job="shop",service="shop"}': "2x20",
    'event_publish_failures_total{job="jobs",service="jobs"}': "0x20",
}


def promtool_test(tmp_path: Path, rules: Path, tests: list[dict[str, Any]]) -> str:
    """What `promtool test rules` says."""
    path = tmp_path / "tests.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(rules)], "tests": tests}))
    return run("promtool", "test", "rules", str(path))


def story(series: dict[str, str], alert: str, samples: list[dict[str, Any]]) -> dict[str, Any]:
    asked = f'count by (alertname, severity) (ALERTS{{alertname="{alert}",alertstate="firing"}})'
    return {
        "interval": "30s",
        "input_series": [{"series": name, "values": value} for name, value in series.items()],
        "promql_expr_test": [{"expr": asked, "eval_time": "9m30s", "exp_samples": samples}],
    }


def test_every_alert_fires_on_what_it_is_for(written: Path, config: Config, tmp_path: Path) -> None:
    assert {alert.name for alert in alerts(config).alerts} == set(STORIES)
    tests = [
        story(
            series,
            name,
            [{"labels": f'{{alertname="{name}",severity="{severity}"}}', "value": 1}],
        )
        for name, (series, severity) in STORIES.items()
    ]
    assert "SUCCESS" in promtool_test(tmp_path, written / writing.RULES, tests)


def test_no_alert_fires_where_all_is_well(written: Path, tmp_path: Path) -> None:
    tests = [story(HEALTHY, name, []) for name in STORIES]
    assert "SUCCESS" in promtool_test(tmp_path, written / writing.RULES, tests)


def test_a_rate_of_a_few_requests_wakes_nobody(written: Path, tmp_path: Path) -> None:
    few = {f'gateway_requests_total{{{GATEWAY},status="500"}}': "0+1x20"}
    tests = [story(few, "SplitctlErrorRate", [])]
    assert "SUCCESS" in promtool_test(tmp_path, written / writing.RULES, tests)


def test_limits_are_the_gates_or_ones_own(configure: Configure, tmp_path: Path) -> None:
    def limits(config: Config) -> str:
        found = {alert.name: alert.expr for alert in alerts(config).alerts}
        numbers = re.findall(r"> ([\d.]+)\)", found["SplitctlErrorRate"] + found["SplitctlLatency"])
        return " ".join(numbers)

    assert limits(configure()) == "0.01 0.1"
    stricter = '[[gates]]\nname = "e"\nkind = "error_rate"\nmax = 0.002\ndomains = ["d"]'
    assert limits(configure(extra=stricter)) == "0.002 0.1"


def test_what_has_no_limit_or_no_metric_is_said_to_be_left_out(config: Config) -> None:
    observe = config.observe.model_copy(update={"event_failures": None})
    found = alerts(config.model_copy(update={"gates": [], "observe": observe}))
    assert [item.partition(":")[0] for item in found.left_out] == [
        "d", "d", "d", "observe.event_failures is not set",
    ]  # fmt: skip
    assert not any(a.name == "SplitctlErrorRate" for a in found.alerts)


def test_without_a_receiver_nothing_is_written(config: Config, tmp_path: Path) -> None:
    nobody = config.model_copy(update={"observe": config.observe.model_copy(update={"chat": None})})
    with pytest.raises(NoReceiver, match="chat"):
        writing.alertmanager(nobody, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_dashboard_is_what_grafana_reads(written: Path, config: Config) -> None:
    paths = sorted((written / "dashboards").glob("*.json"))
    assert len(paths) == len(config.domains) + len(config.observe.services) + 1
    for path in paths:
        board = json.loads(path.read_text())
        assert path.stem == board["uid"] and len(board["uid"]) <= 40
        assert re.fullmatch(r"[a-z0-9-]+", board["uid"])
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids) > 0
        places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]]
        assert len(set(places)) == len(places)
        for panel in board["panels"]:
            assert panel["datasource"]["uid"] == "${datasource}"
            assert all(target["expr"] for target in panel["targets"])
        assert [item["name"] for item in board["templating"]["list"]] == ["datasource"]
        assert board["annotations"]["list"], "each step is shown"
    titles = {panel["title"] for panel in dashboards(config)["splitctl-test-domain-d"]["panels"]}
    assert {
        "Requests",
        "Errors",
        "p95",
        "Customers on the new side",
        "Sync lag",
        "Strays",
    } <= titles
    assert "Conversion" in titles


def test_long_names_give_dashboards_of_their_own(config: Config) -> None:
    long = config.model_copy(update={"environment": "e" * 60})
    assert len(dashboards(long)) == len(dashboards(config))
    assert all(len(uid) <= 40 for uid in dashboards(long))


def test_check_asks_prometheus_and_names_what_could_never_fire(
    written: Path, configure: Configure, tmp_path: Path, children: Children
) -> None:
    page = GatewayPage()
    with opened(page):
        prometheus = programs.start(tmp_path, children, {"gateway": [page.address]})
        prometheus.await_value('gateway_customers{side="new"}', 0)
        config = configure(metrics=MATCHED, extra=AGAINST_OLD)
        asked = Prometheus(prometheus.url)
        found = checking.check(config, written, asked)
        states = {finding.what: finding for finding in found.findings}
        assert [f for f in found.findings if f.state == "wrong"] == []
        number = len(alerts(config).alerts) + sum(
            len(list(expressions(board))) for board in dashboards(config).values()
        )
        assert f"{number} expressions asked of {prometheus.url}" in states
        # Nobody exports it here; the gateways' own series are there.
        missing = states["event_publish_failures_total"]
        assert missing.state == "unknown" and "can never fire" in missing.reason
        assert 'gateway_flag_percentage{job="gateway",domain="d"}' not in states
        assert found.exit_code is ExitCode.INCONCLUSIVE

        (written / writing.RULES).write_text("groups: []\n")
        broken = configure(
            metrics=MATCHED,
            extra='[[observe.panels]]\ndomain = "d"\ntitle = "x"\nexpr = "sum("',
        )
        found = checking.check(broken, written, asked)
        wrong = {
            finding.what: finding.reason for finding in found.findings if finding.state == "wrong"
        }
        assert found.exit_code is ExitCode.CHECK_FAILED
        assert "another text" in wrong[str(written / writing.RULES)]
        assert any("parse error" in reason for reason in wrong.values())
        prometheus.stop("prometheus")
        found = checking.check(config, written, asked)
        assert any(f.what == "prometheus" and f.state == "unknown" for f in found.findings)


def test_a_step_appears_on_every_dashboard_of_its_domain(
    configure: Configure, tmp_path: Path, children: Children
) -> None:
    worker = Page()
    epoch = Gauge("splitctl_owner_epoch", "n", ["domain", "side"], registry=worker.registry)
    config = configure(interval="1s")
    (board,) = [item for uid, item in dashboards(config).items() if uid.endswith("domain-d")]
    (moved,) = [item["expr"] for item in board["annotations"]["list"]]
    with opened(worker):
        epoch.labels("d", "old").set(4)
        prometheus = programs.start(tmp_path, children, {"splitctl": [worker.address]})
        prometheus.await_value('splitctl_owner_epoch{side="old"}', 4)
        began = time.time()
        assert prometheus.value(moved) is None
        epoch.labels("d", "old").set(5)
        prometheus.await_value('splitctl_owner_epoch{side="old"}', 5)
        found = list(Prometheus(prometheus.url).range(moved, began - 1, time.time() + 1, 0.25))
    shown = [sample for _, samples in found for sample in samples]
    assert shown and {sample.labels["domain"] for sample in shown} == {"d"}


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ('[[observe.panels]]\ndomain = "z"\ntitle = "x"\nexpr = "1"', "observe.panels.1.domain"),
        ('[[observe.services]]\nname = "x"\nmatcher = "job=x"', "observe.services.1.matcher"),
    ],
)
def test_a_mistake_is_told_by_its_key(configure: Configure, lines: str, key: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        configure(extra=lines)
    assert key in [problem.key for problem in caught.value.problems]


@pytest.mark.parametrize(
    "lines",
    [
        'driver = "prometheus"',
        'driver = "prometheus"\nurl = "http://p:9090"',
        'instances = ["a"]\ngateways = 2',
        'staleness = "0s"',
    ],
)
def test_metrics_that_could_not_be_asked_are_refused(configure: Configure, lines: str) -> None:
    with pytest.raises(ConfigInvalid):
        configure(metrics=lines)


def test_gateways_that_nobody_counts_are_refused(configure: Configure) -> None:
    """Pods have no addresses in the configuration: one that is not scraped would not be missed."""
    cluster = 'driver = "environment"\ndeployment = "gateway"'
    asked = f"driver = 'prometheus'\nurl = 'http://p:9090'\n{MATCHED}"
    config = configure(metrics=f"{asked}\ngateways = 3", gateway=cluster)
    assert Expected.of(config).number == 3
    with pytest.raises(ConfigInvalid, match="how many gateways there must be"):
        configure(metrics=asked, gateway=cluster)
