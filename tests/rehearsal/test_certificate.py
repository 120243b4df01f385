"""A certificate passes only when everything was proven, and says why when it does not."""

import json
from pathlib import Path
from typing import Any

import pytest

from rehearsal.campaign import judge
from rehearsal.certificate import Evidence, build


def verdict(**differences: int) -> dict[str, Any]:
    mapping = {"mapping": "m", "rows_compared": 10, "mismatched": 0, "missing": 0, "extra": 0}
    return {
        "verdict": "different" if differences else "equal",
        "started_at": "a",
        "finished_at": "b",
        "mappings": [{**mapping, **differences}],
    }


PROOF = {"word": "proven", "measured": 9.8, "low": 6.2, "high": 14.2, "customers": 1204}


def step(domain: str, held: int) -> dict[str, Any]:
    figures = {"fence_ms": 90.4, "held_requests": held, "held_ms_max": 80.6, "barrier_ms": 7}
    return {"domain": domain, "from": 0, "to": 10, **figures, "proof": PROOF}


ROLLBACK: dict[str, Any] = {
    "domain": "things",
    "from": 50,
    "to": 0,
    "seconds_until_every_gateway_serves_it": 0.1,
    "at_risk": [],
}


def flawless() -> Evidence:
    return Evidence(
        seed=1,
        seconds=300.0,
        requests=50_000,
        witness={"acknowledged_writes": 30_000, "lost_writes": 0, "duplicate_orders": 0},
        writes=[
            {"stage": "live", "percentage": 10, "side": side, "writes": 600, "by_domain": {}}
            for side in ("old", "new")
        ],
        verdicts=[verdict()],
        steps=[step("things", 0), step("things", 3)],
        rollbacks=[ROLLBACK],
        lag_ms_p99={"forward": 20.0, "reverse": 18.0},
        backfills=[{"rows": 1000, "seconds": 2.0}],
    )


def test_a_flawless_run_passes() -> None:
    made = build(flawless())
    assert made["result"] == "pass", made["reasons"]
    assert made["backfill"] == {"rows": 1000, "rows_per_second": 500}
    assert made["steps"][0]["fence_ms"] == 90
    assert (made["steps"][0]["measured"], made["steps"][0]["customers"]) == (9.8, 1204)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"witness": {"acknowledged_writes": 9, "lost_writes": 1}}, "1 lost writes"),
        ({"witness": {"acknowledged_writes": 9, "duplicate_orders": 2}}, "2 duplicate orders"),
        ({"witness": {}}, "no acknowledged write"),
        ({"failed_requests": 1}, "1 failed requests"),
        ({"strays": 4}, "4 strays"),
        ({"verdicts": []}, "no row was compared"),
        ({"verdicts": [verdict(mismatched=1)]}, "1 mismatched rows"),
        ({"verdicts": [verdict(), {**verdict(), "verdict": "inconclusive"}]}, "inconclusive"),
        ({"steps": [step("things", 0)]}, "its fence was not tried"),
        ({"steps": [step("things", 3) | {"proof": None}]}, "things to 10 %: not proven"),
        ({"rollbacks": [{**ROLLBACK, "at_risk": ["k"]}]}, "at risk"),
        ({"problems": ["the story stopped"]}, "the story stopped"),
    ],
)
def test_each_flaw_fails_it_and_is_named(change: dict[str, Any], reason: str) -> None:
    evidence = flawless()
    for name, value in change.items():
        setattr(evidence, name, value)
    made = build(evidence)
    assert made["result"] == "fail"
    assert any(reason in text for text in made["reasons"])


def test_the_campaign_asks_for_more_than_a_pass(tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    assert judge(1, path) == ["no certificate, exit code 1"]
    path.write_text(json.dumps(build(flawless())))
    assert judge(0, path) == []
    thin = flawless()
    thin.writes[1]["writes"] = 499
    thin.witness["acknowledged_writes"] = 19_999
    path.write_text(json.dumps(build(thin)))
    assert judge(0, path) == ["only 19999 acknowledged writes", "live 10 % new: 499 writes"]
