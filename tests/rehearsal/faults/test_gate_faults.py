"""A new service that fails is left by itself; without metrics nothing is decided."""

from pathlib import Path

import httpx
import pytest

from rehearsal.children import wait_until
from rehearsal.configuration import rewrite, toml
from rehearsal.postgres import free_port
from tests.rehearsal.faults.ground import Split

pytestmark = pytest.mark.rehearsal


def percentages(split: Split, domain: str) -> set[int]:
    return {gateway["percentage"] for gateway in split.domain(domain)["served"]}


def test_a_new_service_that_fails_is_rolled_back_by_itself(split: Split) -> None:
    split.verify("--domain", "checkout")
    split.type("rollout", "advance", "checkout")
    assert percentages(split, "checkout") == {10}
    assert split.verify("--domain", "checkout")["verdict"] == "equal"
    fault = f"{split.estate.ports.url('checkout')}/admin/fault"
    httpx.post(fault, json={"rate": 0.05}).raise_for_status()
    try:
        answer = split.type("rollout", "watch", "checkout", "--soak", "90s", expect=(6,))
    finally:
        httpx.post(fault, json={"rate": 0}).raise_for_status()
    gates = {gate["name"]: gate for gate in answer.data["gates"]}
    assert gates["errors"]["verdict"] == "fail", gates
    assert gates["errors"]["measured"] > 0.01
    (back,) = answer.data["rollbacks"]
    assert (back["domain"], back["from"], back["to"], back["at_risk"]) == ("checkout", 10, 0, [])
    stands = split.domain("checkout")
    assert {gateway["percentage"] for gateway in stands["served"]} == {0}
    assert {owner["percentage"] for owner in stands["owned"]} == {0}
    assert (stands["disagreements"], stands["unfinished"]) == ([], [])
    # Customers are served by old again, and nothing that new had acknowledged is lost.
    split.customers_leave()
    failed_before, writes_before = len(split.failures()), split.writes()
    assert failed_before > 0
    split.customers_come()
    assert wait_until(lambda: split.writes() > writes_before + 50, 60)
    split.customers_leave()
    try:
        assert len(split.failures()) == failed_before
        assert split.verify()["verdict"] == "equal"
        found = split.witness()
        assert (found["lost_writes"], found["duplicate_orders"]) == (0, 0), found["samples"]
    finally:
        split.customers_come()


@pytest.mark.parametrize("page", ["silent", "404"])
def test_without_metrics_nothing_is_decided(split: Split, page: str, tmp_path: Path) -> None:
    if percentages(split, "return") != {10}:
        split.verify("--domain", "return")
        split.type("rollout", "advance", "return")
    assert split.verify("--domain", "return")["verdict"] == "equal"
    blind = {
        "silent": [f"http://127.0.0.1:{free_port()}/metrics"],
        "404": [f"{url}/no-such-page" for url in split.estate.gateways],
    }[page]
    config = split.estate.directory / f"blind-{page}.toml"
    text = split.estate.config.read_text(encoding="utf-8")
    config.write_text(rewrite(text, {("metrics", "urls"): toml(blind)}), encoding="utf-8")
    watch = ("rollout", "watch", "return", "--soak", "1s", "--timeout", "6s")
    answer = split.type(*watch, "--config", str(config), expect=(4,))
    verdicts = {gate["kind"]: gate["verdict"] for gate in answer.data["gates"]}
    traffic = {kind: verdicts[kind] for kind in ("error_rate", "latency_p95", "share")}
    assert set(traffic.values()) == {"inconclusive"}, verdicts
    assert answer.data["rollbacks"] == []
    (watched,) = answer.data["domains"]
    assert (watched["percentage"], watched["soak_s"]) == (10, 0)
    # Held: neither back at 0 % nor let on to 50 %.
    split.type("rollout", "advance", "return", "--config", str(config), expect=(4, 7))
    stands = split.domain("return")
    assert (stands["stage"], stands["asked"]) == ("live", 10)
    assert {gateway["percentage"] for gateway in stands["served"]} == {10}
