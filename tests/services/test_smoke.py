"""The shipped flows against the real services: through a gateway, and each side directly."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from estate.config import Config, UnknownName, load
from migrator import control, ownership
from migrator.ownership import bucket
from rehearsal import configuration, shipped
from rehearsal.postgres import free_port
from rollout import load as loading
from rollout import load_plan
from rollout import smoke as room
from rollout.flows import FlowInvalid, NoFlow
from rollout.placing import OwnersUnknown, OwnsNobody
from rollout.smoke import Run, SmokeReport
from services.gateway.app import Gateway, Settings
from services.gateway.flags import DomainFlags
from tests.pages.commands import Typed, commands
from tests.services.conftest import ROOT, Host, Shop

TOKEN = "a-token"
NEW = {"checkout": "checkout", "return": "return"}


class Estate:
    """The shop behind a gateway, with a configuration."""

    def __init__(self, shop: Shop, gateway: str, directory: Path) -> None:
        self.shop, self.gateway, self.directory = shop, gateway, directory
        self.epoch = 1

    @property
    def config(self) -> Config:
        return load(self.directory / "config.toml")

    def serve(self, percentage: int, *, owned: int | None = None) -> None:
        """The gateway serves this percentage; the owners are the same, or others."""
        self.epoch += 1
        flags = {"enabled": True, "percentage": percentage, "epoch": self.epoch}
        for domain in NEW:
            url = f"{self.gateway}/admin/flags/{domain}"
            answer = httpx.put(url, json=flags, headers={"Authorization": f"Bearer {TOKEN}"})
            assert answer.is_success, answer.text
        below = 100 * (percentage if owned is None else owned)
        for database in self.shop.dsns.values():
            with psycopg.connect(database, autocommit=True) as connection:
                control.install(connection)
                for domain in NEW:
                    ownership.create(connection, domain)
                    ownership.switch(connection, domain, below, self.epoch)

    def forget_owners(self) -> None:
        """As before sync was enabled."""
        for database in self.shop.dsns.values():
            with psycopg.connect(database, autocommit=True) as connection:
                control.drop(connection)

    def customers_of(self, table: str, database: str) -> set[str]:
        """Whose rows stand there."""
        name = "coalesce(legacy_customer_id, customer_id::text)" if database != "order" else ""
        query = f"SELECT DISTINCT {name or 'customer_id'} FROM {table}"
        return {row[0] for row in self.shop.sql(database, query) if row[0]}


@pytest.fixture(scope="module")
def estate(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    directory = tmp_path_factory.mktemp("estate")
    url = f"http://127.0.0.1:{free_port()}"
    shipped.copy_named(directory)
    write(directory, shop, url)
    host = Host()
    flags = {domain: DomainFlags(True, 0, 0) for domain in NEW}
    urls = {domain: shop.urls[name] for domain, name in NEW.items()}
    gateway: Any = Gateway(Settings("gw", TOKEN, shop.urls["order"], urls, flags))
    host.serve(gateway, int(url.rpartition(":")[2]))
    found = Estate(shop, url, directory)
    yield found
    host.stop()
    found.forget_owners()


def write(directory: Path, shop: Shop, gateway: str) -> None:
    """The shipped configuration with this shop's addresses."""
    toml, secret = configuration.toml, configuration.write_secret
    values = {
        ("ledger", "dsn"): toml(secret(directory, "ledger.dsn", shop.dsns["order"])),
        ("gateway", "urls"): toml([gateway]),
        ("gateway", "token"): toml(secret(directory, "token", TOKEN)),
    }
    for name, dsn in shop.dsns.items():
        values[f"databases.{name}", "dsn"] = toml(secret(directory, f"{name}.dsn", dsn))
    for domain, name in NEW.items():
        values[f"flows.urls.{domain}", "old"] = toml(shop.urls["order"])
        values[f"flows.urls.{domain}", "new"] = toml(shop.urls[name])
    text = configuration.rewrite(shipped.configuration(), values)
    (directory / "config.toml").write_text(text, encoding="utf-8")


def walks(report: SmokeReport) -> list[Run]:
    """What was walked, without the questions for health."""
    return [run for run in report.runs if run.flow != "health"]


def all_ok(report: SmokeReport) -> bool:
    return (report.verdict, report.exit_code) == ("passed", 0)


def test_at_ten_percent_a_customer_of_each_side_walks_every_flow(estate: Estate) -> None:
    estate.serve(10)
    report = room.smoke(estate.config)
    assert all_ok(report), report.to_text()
    found = [(run.flow, run.side) for run in walks(report)]
    assert sorted(found) == sorted(
        (flow, side) for flow in ("cart", "checkout", "return") for side in ("old", "new")
    )
    for run in walks(report):
        assert run.customer is not None
        assert run.customer.startswith(estate.config.flows.customer)
        assert (bucket(run.customer) < 1000) == (run.side == "new")
        served = {step.served_by for step in run.steps}
        assert f"{run.domain}/{run.side}/10" in served


@pytest.mark.parametrize(("percentage", "side"), [(0, "old"), (100, "new")])
def test_where_one_side_has_everybody_only_that_one_is_asked(
    percentage: int, side: str, estate: Estate
) -> None:
    estate.serve(percentage)
    report = room.smoke(estate.config)
    assert all_ok(report), report.to_text()
    assert {run.side for run in walks(report)} == {side}


@pytest.mark.parametrize("side", ["old", "new"])
def test_a_side_is_asked_directly_on_behalf_of_its_own_customers(side: Any, estate: Estate) -> None:
    estate.serve(50)
    report = room.smoke(estate.config, ["return", "checkout"], side)
    assert all_ok(report), report.to_text()
    assert len(walks(report)) == 3
    for run in walks(report):
        assert run.customer is not None
        assert (bucket(run.customer) < 5000) == (side == "new")
        table, other = ("carts", "cart_sessions") if side == "new" else ("cart_sessions", "carts")
        here, there = ("checkout", "order") if side == "new" else ("order", "checkout")
        assert run.customer in estate.customers_of(table, here)
        assert run.customer not in estate.customers_of(other, there)


def test_a_bucket_is_a_sides_only_where_everybody_says_so(estate: Estate) -> None:
    estate.serve(10, owned=50)
    for side in ("old", "new"):
        report = room.smoke(estate.config, ["checkout"], side)
        assert all_ok(report), report.to_text()
        for run in walks(report):
            assert run.customer is not None
            low, high = (0, 1000) if side == "new" else (5000, 10_000)
            assert low <= bucket(run.customer) < high


def rows(estate: Estate) -> int:
    return len(estate.customers_of("carts", "checkout"))


def test_a_side_that_owns_nobody_is_asked_for_its_health_alone(estate: Estate) -> None:
    estate.serve(0)
    before = rows(estate)
    report = room.smoke(estate.config, ["checkout"], "new", confirm="checkout")
    assert (report.verdict, report.exit_code) == ("inconclusive", 4)
    assert [run.flow for run in report.runs] == ["health"]
    assert "every write there would be a stray" in report.to_text()
    assert rows(estate) == before
    healthy = room.smoke(estate.config, ["checkout"], "new", health_only=True)
    assert all_ok(healthy)
    with pytest.raises(OwnsNobody):
        load_plan.plan(estate.config, through="new", customers=1, seconds=1)


def test_before_sync_is_enabled_the_new_side_is_written_to_when_that_is_confirmed(
    estate: Estate,
) -> None:
    estate.serve(0)
    estate.forget_owners()
    before = rows(estate)
    report = room.smoke(estate.config, ["checkout"], "new")
    assert report.exit_code == 4
    assert "--confirm checkout" in report.to_text()
    assert rows(estate) == before
    assert all_ok(room.smoke(estate.config, ["checkout"], "new", confirm="checkout"))
    assert rows(estate) == before + 2


def test_a_side_other_than_the_customers_is_a_failure(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate.serve(10)
    # Somebody moves the flags between the question and the walk.
    asked = room.errands
    monkeypatch.setattr(
        room, "errands", lambda *given: (asked(*given), estate.serve(0, owned=10))[0]
    )
    report = room.smoke(estate.config, ["checkout"])
    assert (report.verdict, report.exit_code) == ("failed", 3)
    text = report.to_text()
    assert "served by the old side instead of the new side" in text
    assert "not run" in text
    assert {run.outcome for run in walks(report) if run.side == "old"} == {"ok"}


def test_a_service_that_fails_is_told_with_its_answer(estate: Estate) -> None:
    estate.serve(10)
    estate.shop.services["checkout"].faults.rate = 1.0
    try:
        report = room.smoke(estate.config, ["checkout"])
    finally:
        estate.shop.services["checkout"].faults.rate = 0.0
    assert (report.verdict, report.exit_code) == ("failed", 3)
    failed = [step for run in walks(report) for step in run.steps if step.outcome == "failed"]
    assert [step.status for step in failed] == [500, 500]
    assert all("a fault that was asked for" in (step.answer or "") for step in failed)
    assert {run.outcome for run in walks(report) if run.side == "old"} == {"ok"}


def test_what_cannot_be_reached_is_not_called_broken(estate: Estate, tmp_path: Path) -> None:
    estate.serve(10)
    config = estate.config
    away = f"http://127.0.0.1:{free_port()}"
    urls = {name: url.model_copy(update={"old": away}) for name, url in config.flows.urls.items()}
    flows = config.flows.model_copy(update={"urls": urls})
    config = config.model_copy(update={"flows": flows})
    report = room.smoke(config, ["checkout"], "old")
    assert (report.verdict, report.exit_code) == ("inconclusive", 4)
    assert report.count("failed") == 0 < report.count("unreached")
    # The time for the whole run ends as well.
    late = room.smoke(estate.config, ["checkout"], whole_s=0.0)
    assert late.exit_code == 4
    assert "the time for the whole run is over" in late.to_text()


def test_nobody_who_could_say_who_owns_whom(estate: Estate) -> None:
    config = estate.config
    nowhere = "host=127.0.0.1 port=1 dbname=x user=y"
    folder = estate.directory / "secrets"
    kept = {path: path.read_text() for path in folder.glob("*.dsn")}
    for path in kept:
        path.write_text(nowhere)
    away = config.gateway.model_copy(update={"urls": [f"http://127.0.0.1:{free_port()}"]})
    try:
        with pytest.raises(OwnersUnknown, match="Nobody could be asked") as error:
            room.smoke(config.model_copy(update={"gateway": away}), ["checkout"])
        assert error.value.exit_code == 4
    finally:
        for path, text in kept.items():
            path.write_text(text)


def test_a_dry_run_sends_nothing(estate: Estate) -> None:
    estate.serve(10)
    before = rows(estate)
    told = room.plan(estate.config, ["checkout"]).to_text()
    assert f"POST {estate.gateway}/carts" in told
    assert rows(estate) == before


def test_typed_wrong(estate: Estate) -> None:
    with pytest.raises(UnknownName, match="checkout, return"):
        room.smoke(estate.config, ["nothing"])
    config = estate.config
    only = config.flows.model_copy(update={"files": config.flows.files[:1]})
    with pytest.raises(NoFlow, match="Domain 'return'"):
        room.smoke(config.model_copy(update={"flows": only}), ["return"])
    with pytest.raises(NoFlow, match="cart, checkout, return"):
        load_plan.plan(config, names=["card"], customers=1, seconds=1)
    path = estate.directory / f"flows/wrong-{secrets.token_hex(4)}.toml"
    path.write_text((config.flows.files[0]).read_text().replace("{cart}", "{crat}"))
    mistaken = config.flows.model_copy(update={"files": [path]})
    with pytest.raises(FlowInvalid, match=r"nothing has given a value to \{crat\}") as error:
        room.smoke(config.model_copy(update={"flows": mistaken}))
    assert error.value.exit_code == 2


def test_a_load_tells_both_sides_of_the_gateway_apart(estate: Estate) -> None:
    estate.serve(50)
    asked = load_plan.plan(estate.config, customers=10, seconds=3, think_s=0.05)
    report = loading.load(asked)
    assert {side.name for side in report.sides} == {"checkout/old", "checkout/new"}
    assert report.failed == 0, report.to_text()
    assert sum(step.requests for step in report.steps) == report.requests > 50


def test_a_load_of_one_side_is_made_of_its_own_customers(estate: Estate) -> None:
    estate.serve(10)
    before = estate.customers_of("carts", "checkout")
    asked = load_plan.plan(
        estate.config, names=["cart"], through="new", customers=5, seconds=2, think_s=0.02
    )
    report = loading.load(asked)
    assert [side.name for side in report.sides] == ["checkout/new"]
    assert report.failed == 0, report.to_text()
    new = estate.customers_of("carts", "checkout") - before
    assert len(new) >= 5
    assert all(bucket(customer) < 1000 for customer in new)


@pytest.mark.parametrize("command", commands("docs/traffic.md"), ids=str)
def test_every_command_of_the_page_does_what_it_says(
    command: Typed, estate: Estate, tmp_path: Path
) -> None:
    estate.serve(50)
    arguments = command.words()
    loads = arguments[0] == "load"
    # The last of an option that is given twice counts: a page's load is too long for a test.
    short = ["--for", "1s"] if loads else []
    if loads and "--rate" not in arguments:
        short += ["--customers", "5"]
    found = subprocess.run(
        [sys.executable, "-m", "splitctl", *arguments, *short],
        cwd=ROOT,
        env={
            **os.environ,
            "SPLITCTL_CONFIG": str(estate.directory / "config.toml"),
            "SPLITCTL_STATE_DIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    told = found.stdout + found.stderr
    # How quick this machine is now is not what is tested.
    quick = command.code if loads and found.returncode in (3, 4) else found.returncode
    command.ended(quick, told)
    assert found.stderr.splitlines()[-1].startswith("Next: ")
    if loads:
        assert " 0 failed" in found.stdout
