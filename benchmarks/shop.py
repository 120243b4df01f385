"""What the shop feels: order writes at half of what the machine can do, with sync on and off."""

import re
import subprocess
import tempfile
from pathlib import Path

from benchmarks.contest import Figure, Result, Tell, alternate
from benchmarks.ground import Ground, program

SHOP = Figure("order writes at half load, p95", "sync off", "ms", "at most", 1.1)
SECONDS = 20
CLIENTS = 4
SCRIPT = """\\set id random(1, {items})
UPDATE cart_items SET quantity = 1 + quantity % 9, updated_at = now() WHERE id = :id;
"""
TPS = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)


def felt(ground: Ground, rounds: int, tell: Tell) -> list[Result]:
    """The same rate for both: half of what saturates the machine while sync is off."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "write.sql"
        script.write_text(SCRIPT.format(items=ground.items), encoding="utf-8")
        most = TPS.search(_pgbench(ground, Path(folder), ["-T", str(SECONDS)]))
        assert most is not None
        rate = float(most[1]) / 2
        tell(f"{SHOP.name}: {rate:,.0f} writes/s, half of what saturates the machine")

        def p95() -> float:
            ground.settle()
            ground.checkpoint()
            # Both begin warm.
            _pgbench(ground, Path(folder), ["-T", "5"])
            _pgbench(ground, Path(folder), ["-T", str(SECONDS), "-R", f"{rate:.0f}", "-l"])
            return _p95(Path(folder))

        def ours() -> float:
            with ground.enabled():
                ground.backfill()
                return p95()

        result = alternate(SHOP, ours, p95, rounds, tell)
    result.notes["writes a second"] = rate
    return [result]


def _pgbench(ground: Ground, folder: Path, options: list[str]) -> str:
    server = ground.estate.servers["order"]
    command = [program("pgbench"), "-n", "-h", "127.0.0.1", "-p", str(server.port)]
    command += ["-U", "postgres", "-c", str(CLIENTS), "-j", "1", "-f", "write.sql", *options]
    done = subprocess.run(
        [*command, "order_db"], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout


def _p95(folder: Path) -> float:
    """Milliseconds from the time that a write was due; the log tells microseconds and the lag."""
    found: list[float] = []
    for path in folder.glob("pgbench_log.*"):
        for line in path.read_text(encoding="ascii").splitlines():
            found.append(float(line.split()[2]) / 1e3)
        path.unlink()
    return sorted(found)[int(len(found) * 0.95)]
