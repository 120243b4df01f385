"""The certificate: what was measured, and whether it passes. Pure: records in, JSON out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

LEAST_WRITES_PER_STAGE = 500
# The whole story has to see so many times as much: 20,000 writes.
STAGES_WORTH = 40
MOST_SAMPLES = 20


@dataclass
class Evidence:
    """Everything that was measured, before it is judged. Times in ms where a name says so."""

    seed: int
    seconds: float = 0.0
    requests: int = 0
    failed_requests: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    writes: list[dict[str, Any]] = field(default_factory=list)
    witness: dict[str, Any] = field(default_factory=dict)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    rollbacks: list[dict[str, Any]] = field(default_factory=list)
    strays: int = 0
    lag_ms_p99: dict[str, float | None] = field(default_factory=dict)
    backfills: list[dict[str, Any]] = field(default_factory=list)
    commands: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def build(evidence: Evidence) -> dict[str, Any]:
    """The certificate of a run. `result` is "pass" only when `reasons` is empty."""
    diff = _add(evidence.verdicts)
    backfill_rows = sum(int(item["rows"]) for item in evidence.backfills)
    backfill_seconds = sum(float(item["seconds"]) for item in evidence.backfills)
    certificate: dict[str, Any] = {
        "result": "fail",
        "reasons": [],
        "acknowledged_writes": int(evidence.witness.get("acknowledged_writes", 0)),
        "lost_writes": int(evidence.witness.get("lost_writes", 0)),
        "duplicate_orders": int(evidence.witness.get("duplicate_orders", 0)),
        "requests": evidence.requests,
        "failed_requests": evidence.failed_requests,
        "writes_per_stage": evidence.writes,
        "diff": diff,
        "verdicts": [
            {key: verdict.get(key) for key in ("verdict", "started_at", "finished_at", "barriers")}
            for verdict in evidence.verdicts
        ],
        "steps": [_step(step) for step in evidence.steps],
        "rollbacks": evidence.rollbacks,
        "sync": {"strays": evidence.strays, "lag_ms_p99": evidence.lag_ms_p99},
        "backfill": {
            "rows": backfill_rows,
            "rows_per_second": round(backfill_rows / backfill_seconds) if backfill_seconds else 0,
        },
        "commands": evidence.commands,
        "seconds": round(evidence.seconds, 1),
        "seed": evidence.seed,
        "lost_samples": evidence.witness.get("samples", []),
        "diff_samples": _samples(evidence.verdicts),
        "failure_samples": evidence.failures[:MOST_SAMPLES],
    }
    certificate["reasons"] = _reasons(certificate, evidence)
    certificate["result"] = "fail" if certificate["reasons"] else "pass"
    return certificate


def _add(verdicts: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    total = {"rows_compared": 0, "mismatched": 0, "missing": 0, "extra": 0}
    for verdict in verdicts:
        for mapping in verdict.get("mappings", []):
            for name in total:
                total[name] += int(mapping.get(name, 0))
    return total


def _samples(verdicts: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows that verifications named as different, a few of each mapping."""
    return [
        {"mapping": mapping["mapping"], **sample}
        for verdict in verdicts
        for mapping in verdict.get("mappings", [])
        for sample in mapping.get("samples", [])
    ][:MOST_SAMPLES]


def _step(step: Mapping[str, Any]) -> dict[str, Any]:
    names = ("fence_ms", "held_requests", "held_ms_max", "barrier_ms", "flags_ms", "moving_ms")
    figures = {name: round(float(step.get(name) or 0)) for name in names}
    proof = step.get("proof") or {}
    measured = {name: proof.get(name) for name in ("measured", "low", "high", "customers")}
    told = {"domain": step["domain"], "from": step["from"], "to": step["to"], **figures}
    return {**told, "proven": proof.get("word") == "proven", **measured}


def _reasons(certificate: Mapping[str, Any], evidence: Evidence) -> list[str]:
    reasons = list(evidence.problems)
    must_be_zero = {
        "lost writes": certificate["lost_writes"],
        "duplicate orders": certificate["duplicate_orders"],
        "failed requests": certificate["failed_requests"],
        "strays": certificate["sync"]["strays"],
        **{
            f"{name} rows": certificate["diff"][name] for name in ("mismatched", "missing", "extra")
        },
    }
    reasons += [f"{count} {name}" for name, count in must_be_zero.items() if count]
    if certificate["acknowledged_writes"] == 0:
        reasons.append("no acknowledged write was seen: nothing is proven")
    if certificate["diff"]["rows_compared"] == 0:
        reasons.append("no row was compared: nothing is proven")
    not_equal = [v.get("verdict") for v in evidence.verdicts if v.get("verdict") != "equal"]
    reasons += [f"a verification ended {verdict}" for verdict in not_equal]
    # Gateways without a fence hold nobody: there the services refuse while the owner moves.
    tried = ("held_requests", "flags_ms")
    held = {step["domain"] for step in certificate["steps"] if any(step[name] for name in tried)}
    unheld = sorted({step["domain"] for step in certificate["steps"]} - held)
    reasons += [f"no step of {domain} held a request: its fence was not tried" for domain in unheld]
    reasons += [
        f"{step['domain']} to {step['to']} %: not proven to be served"
        for step in certificate["steps"]
        if not step["proven"]
    ]
    at_risk = sum(len(item.get("at_risk") or []) for item in certificate["rollbacks"])
    if at_risk:
        reasons.append(f"{at_risk} keys at risk after a rollback")
    return reasons
