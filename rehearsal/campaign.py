"""`make rehearse-ten`: the same rehearsal with many seeds, one after the other."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rehearsal.certificate import LEAST_WRITES_PER_STAGE, STAGES_WORTH

FIGURES = ("lost_writes", "duplicate_orders", "failed_requests")
LEAST_WRITES = LEAST_WRITES_PER_STAGE * STAGES_WORTH


def main() -> int:
    """Run every seed, print a line for each, and fail when one falls short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("rehearsal-out"))
    known, passed_on = parser.parse_known_args()
    results = []
    for seed in range(known.first, known.first + known.seeds):
        out = known.out / f"seed-{seed}"
        started = time.monotonic()
        command = [sys.executable, "-m", "splitctl", "rehearse", "--seed", str(seed)]
        code = subprocess.call([*command, "--out", str(out), *passed_on])
        shortfalls = judge(code, out / "certificate.json")
        results.append({"seed": seed, "exit_code": code, "shortfalls": shortfalls})
        told = "; ".join(shortfalls) or "holds"
        sys.stdout.write(f"seed {seed}: {told} ({time.monotonic() - started:.0f} s)\n")
        sys.stdout.flush()
    known.out.mkdir(parents=True, exist_ok=True)
    (known.out / "campaign.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    return 1 if any(result["shortfalls"] for result in results) else 0


def judge(exit_code: int, path: Path) -> list[str]:
    """What a certificate falls short of; an empty list means that it holds."""
    if not path.is_file():
        return [f"no certificate, exit code {exit_code}"]
    certificate: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    shortfalls = [f"exit code {exit_code}"] if exit_code else []
    shortfalls += [f"{name} is {certificate[name]}" for name in FIGURES if certificate[name]]
    differences = ("mismatched", "missing", "extra")
    shortfalls += [
        f"diff.{n} is {certificate['diff'][n]}" for n in differences if certificate["diff"][n]
    ]
    if certificate["sync"]["strays"]:
        shortfalls.append(f"strays is {certificate['sync']['strays']}")
    if certificate["acknowledged_writes"] < LEAST_WRITES:
        shortfalls.append(f"only {certificate['acknowledged_writes']} acknowledged writes")
    return shortfalls + _thin(certificate)


def _thin(certificate: dict[str, Any]) -> list[str]:
    shortfalls = []
    in_use = {0: ("old",), 100: ("new",)}
    written: dict[tuple[str, int], dict[str, int]] = {}
    for row in certificate["writes_per_stage"]:
        written.setdefault((row["stage"], row["percentage"]), {})[row["side"]] = row["writes"]
    for (stage, percentage), sides in written.items():
        for side in in_use.get(percentage, ("old", "new")):
            if sides.get(side, 0) < LEAST_WRITES_PER_STAGE:
                shortfalls.append(f"{stage} {percentage} % {side}: {sides.get(side, 0)} writes")
    held = {step["domain"] for step in certificate["steps"] if step["held_requests"]}
    moved = {step["domain"] for step in certificate["steps"]}
    return shortfalls + [f"no step of {name} held requests" for name in sorted(moved - held)]


if __name__ == "__main__":
    sys.exit(main())
