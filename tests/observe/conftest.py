"""Real Prometheus and Alertmanager over pages that the test fills."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from estate.config import Config, load
from rehearsal.children import Children
from tests.conftest import ConfigWriter
from tests.rollout.conftest import DOMAIN

NOWHERE = "host=127.0.0.1 port=1 dbname=x user=y"
GATES = """
[[gates]]
name = "errors"
kind = "error_rate"
max = 0.01
min_samples = 100
[[gates]]
name = "latency"
kind = "latency_p95"
max_ms = 100
min_samples = 100
[[gates]]
name = "share"
kind = "share"
tolerance = 0.05
min_samples = 100
[[gates]]
name = "lag"
kind = "sync_lag"
max_ms = 5000
"""
# Gates beside those, which compare the sides.
AGAINST_OLD = """
[[gates]]
name = "errors against old"
kind = "error_rate"
max = 0.01
times = 2
[[gates]]
name = "latency against old"
kind = "latency_p95"
max_ms = 100
times = 1.5
"""
OBSERVED = """
[observe]
interval = "{interval}"
min_requests = 20
database_failures = "database_connection_failures_total"
event_failures = "event_publish_failures_total"
[observe.page]
kind = "pagerduty"
file = "{directory}/page.key"
url = "{receiver}/page"
[observe.chat]
kind = "slack"
file = "{directory}/chat.url"
[[observe.services]]
name = "shop"
matcher = 'service="shop"'
[[observe.panels]]
domain = "d"
title = "Conversion"
expr = 'sum by (side) (rate(gateway_requests_total{{status="201"}}[5m]))'
unit = "percentunit"
"""
Configure = Callable[..., Config]


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    """Processes that end with the test."""
    found = Children(tmp_path / "children")
    try:
        yield found
    finally:
        found.stop_all()


@pytest.fixture
def configure(
    write_config: ConfigWriter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Configure:
    """A function that writes a configuration with gates and [observe], and loads it.

    configure(metrics="url = ...", interval="15s", receiver="http://...", gateway="urls = ...")
    """

    def work(
        *, metrics: str = "", interval: str = "15s", receiver: str = "http://127.0.0.1:1",
        extra: str = "", gateway: str = "",
    ) -> Config:  # fmt: skip
        monkeypatch.setenv("SPLITCTL_STATE_DIR", str(tmp_path / "state"))
        (tmp_path / "page.key").write_text("a-routing-key")
        (tmp_path / "chat.url").write_text(f"{receiver}/chat")
        observed = OBSERVED.format(interval=interval, directory=tmp_path, receiver=receiver)
        path = write_config(
            databases={"a": f"{NOWHERE} application_name=a", "b": NOWHERE},
            domains=DOMAIN,
            mappings={"q.sql": "SELECT id, id::text AS splitctl_route FROM t"},
            extra=f"[metrics]\n{metrics}\n{GATES}\n{observed}\n{extra}",
        )
        if gateway:
            text = path.read_text()
            path.write_text(re.sub(r"urls = .*\ntoken = .*", gateway, text, count=1))
        return load(path)

    return work
