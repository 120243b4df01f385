"""A small estate with customers, before any split: it works, and nothing of it stays behind."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from estate.config import load
from rehearsal.children import wait_until
from rehearsal.estate import Estate
from rehearsal.postgres import FASTEST
from rehearsal.recorder import FAILURES, STATUS, WRITES
from rehearsal.seed import seed
from rehearsal.witness import look_up

pytestmark = pytest.mark.rehearsal

WRITES_ENOUGH = 400


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    built = Estate(
        tmp_path_factory.mktemp("estate"),
        soak_s=3,
        settings={**FASTEST, "shared_buffers": "32MB"},
    )
    try:
        built.start_databases()
        built.prepare_old()
        seed(built.database("order"), built.directory, carts=500, returns=100, number=1)
        built.start_old()
        yield built
    finally:
        built.stop()


def status(estate: Estate) -> dict[str, Any]:
    path = estate.directory / STATUS
    return dict(json.loads(path.read_text())) if path.exists() else {"writes": 0}


def test_the_configuration_is_the_example_with_other_addresses(estate: Estate) -> None:
    config = load(estate.config)
    assert config.environment == "rehearsal"
    assert list(config.domains) == estate.domains
    assert config.gateway.urls == estate.gateways
    for domain in config.domains.values():
        assert [phase.percentage for phase in domain.phases] == [10, 50, 100]
        assert {phase.soak.total_seconds() for phase in domain.phases} == {3}
        for mapping in (*domain.forward, *domain.reverse):
            assert mapping.query.is_relative_to(estate.directory)
    for database in config.databases.values():
        with psycopg.connect(database.dsn.reveal()) as connection:
            row = connection.execute(
                "SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user"
            ).fetchone()
        assert row == ("splitctl", False)
    for path in (estate.directory / "secrets").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_gateways_serve_the_old_side_and_want_the_token(estate: Estate) -> None:
    for url in estate.gateways:
        assert httpx.get(f"{url}/admin/flags").status_code == 401
        headers = {"Authorization": f"Bearer {estate.token}"}
        flags = httpx.get(f"{url}/admin/flags", headers=headers).json()
        assert {domain["percentage"] for domain in flags["domains"].values()} == {0}


def test_customers_shop_without_a_failure_and_the_witness_finds_everything(
    estate: Estate,
) -> None:
    estate.start_shoppers(8, 1)
    try:
        enough = wait_until(lambda: status(estate)["writes"] >= WRITES_ENOUGH, 90)
    finally:
        estate.programs.stop("shoppers")
    failures = (estate.directory / FAILURES).read_text()
    assert enough, f"{status(estate)}\n{failures[:2000]}"
    assert failures == ""
    lines = [json.loads(line) for line in (estate.directory / WRITES).read_text().splitlines()]
    found = look_up(
        estate.directory,
        {name: estate.database(name) for name in estate.servers},
        {"checkout": 0, "return": 0},
    )
    assert found["samples"] == []
    assert (found["lost_writes"], found["duplicate_orders"]) == (0, 0)
    # The last flush is written when the process ends: not one write is left out.
    asked = [line for line in lines if not line.get("implied")]
    assert found["acknowledged_writes"] == len(asked) == status(estate)["writes"]
    shares = {domain: sum(line["domain"] == domain for line in asked) for domain in estate.domains}
    assert shares["return"] > len(asked) / 4
    assert shares["checkout"] > len(asked) / 4
    ops = {line["op"] for line in lines}
    assert {"MergeCarts", "ConfirmCheckout", "ApplyPromotion", "ProcessRefund"} <= ops


def test_nothing_is_left_when_it_stops(estate: Estate) -> None:
    pids = [estate.children.get(name).pid for name in estate.children.names()]
    assert pids
    estate.stop()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not (estate.directory / "pids.json").exists()
    mark = str(estate.directory).encode()
    left = [
        path
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if int(path.parent.name) != os.getpid() and _reads(path, mark)
    ]
    assert left == []


def _reads(path: Path, mark: bytes) -> bool:
    try:
        return mark in path.read_bytes()
    except OSError:
        return False
