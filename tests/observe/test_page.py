"""Every command of docs/observe.md, typed against a real Prometheus that has a past."""

import operator
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rehearsal.children import Children
from splitctl.main import app
from tests.observe import programs
from tests.observe.conftest import Configure
from tests.pages.commands import commands
from tests.rollout.rig import DOMAIN

# Prometheus looks back for five minutes.
EVERY = timedelta(minutes=4)
A_DAY, HALF_A_DAY = timedelta(days=1), timedelta(hours=12)
AS_TYPED = "%Y-%m-%dT%H:%M"
EDGES = ("0.025", "0.1", "+Inf")
WORKER, STREAM = 'job="splitctl"', f'job="splitctl",stream="{DOMAIN}.forward"'
# What `check` looks for beside: each alert's series, now.
OTHERS = (
    ("gateway_flag_percentage", f'instance="gateway-1",job="gateway",domain="{DOMAIN}"'),
    ("splitctl_owner_epoch", f'{WORKER},domain="{DOMAIN}"'),
    ("splitctl_verify_differing_keys", f'{WORKER},domain="{DOMAIN}"'),
    ("up", WORKER),
    ("splitctl_sync_ready", STREAM),
    ("splitctl_sync_lag_seconds", STREAM),
    ("splitctl_sync_strays_unsettled", STREAM),
    ("splitctl_sync_slot_retained_bytes", STREAM),
    ("splitctl_sync_source_log_full_seconds", STREAM),
    ("database_connection_failures_total", 'service="shop"'),
    ("event_publish_failures_total", 'service="shop"'),
)
LINES = """
driver = "prometheus"
url = "{url}"
matcher = 'job="gateway"'
gateways = 1
staleness = "10m"
"""


def past(now: datetime, day: datetime) -> Iterator[str]:
    """One gateway in OpenMetrics, since `day` for a day and until `now` for half of one.

    Of a thousand requests between two moments a hundred go to the new side, all are quick.
    """
    moments = [day + n * EVERY for n in range(A_DAY // EVERY)]
    moments += [now - HALF_A_DAY + n * EVERY for n in range(HALF_A_DAY // EVERY + 1)]
    gateway = 'instance="gateway-1",job="gateway"'
    yield from series("up", gateway, moments, partial(always, 1))
    for side, share in (("old", 900), ("new", 100)):
        labels = f'{gateway},domain="{DOMAIN}",side="{side}"'
        requests = partial(operator.mul, share)
        yield from series("gateway_requests_total", f'{labels},status="200"', moments, requests)
        yield from series("gateway_request_seconds_count", labels, moments, requests)
        for edge in EDGES:
            name = "gateway_request_seconds_bucket"
            yield from series(name, f'{labels},le="{edge}"', moments, requests)
        yield from series("gateway_customers", labels, moments, partial(always, share))
    for name, labels in OTHERS:
        yield from series(name, labels, moments[-1:], partial(always, 1))
    yield "# EOF"


def always(value: int, _: int) -> int:
    return value


def series(
    name: str, labels: str, moments: list[datetime], value: Callable[[int], int]
) -> Iterator[str]:
    for n, moment in enumerate(moments):
        yield f"{name}{{{labels}}} {value(n)} {moment.timestamp():.0f}"


@pytest.fixture
def day() -> datetime:
    """When the page's day in January began, for this test."""
    return datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(days=5)


@pytest.fixture
def prometheus(tmp_path: Path, children: Children, day: datetime) -> str:
    """Its address."""
    told = tmp_path / "past.txt"
    told.write_text("\n".join([*past(datetime.now(UTC), day), ""]), encoding="utf-8")
    storage = tmp_path / "prometheus"
    command = [programs.needed("promtool"), "tsdb", "create-blocks-from", "openmetrics"]
    subprocess.run([*command, "-q", str(told), str(storage)], check=True, timeout=60)
    return programs.start(tmp_path, children, {}).url


def test_every_command_of_the_page_ends_as_it_says(
    prometheus: str,
    day: datetime,
    configure: Configure,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = configure(metrics=LINES.format(url=prometheus))
    monkeypatch.chdir(tmp_path)
    named = [
        ("checkout", DOMAIN),
        ("2026-01-31T08:00", f"{day:{AS_TYPED}}"),
        ("2026-02-01T08:00", f"{day + A_DAY:{AS_TYPED}}"),
    ]
    for command in commands("docs/observe.md"):
        words = [*command.words(named=named), "--config", str(config.path)]
        typed = CliRunner().invoke(app, words)
        command.ended(typed.exit_code, typed.output)
