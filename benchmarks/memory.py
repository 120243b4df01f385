"""One transaction of ten million rows: what the worker needs to carry it."""

from pathlib import Path

from benchmarks.catchup import STREAM
from benchmarks.contest import Figure, Result, Tell
from benchmarks.ground import Ground, position

ROWS = 10_000_000
MEMORY = Figure(f"peak memory, one transaction of {ROWS:,} rows", "400 MB", "MB", "at most", 1)
LIMIT_MB = 400.0
INSERT = f"""
INSERT INTO cart_items (cart_session_id, product_sku, quantity, unit_price, total_price)
SELECT id, 'SKU-1', 1, 1, 1 FROM cart_sessions, generate_series(1, 1 + {ROWS} / %s) LIMIT {ROWS}
"""


def peak(ground: Ground, rounds: int, tell: Tell) -> list[Result]:
    """Once, whatever the rounds: the kernel's own high-water mark of the process."""
    del rounds
    with ground.enabled():
        ground.backfill()
        ground.stop_worker()
        ground.start_worker()
        with ground.old() as source:
            source.execute("SET synchronous_commit = off")
            source.execute(INSERT.encode(), (ground.carts,))
            end = position(source)
        ground.await_carried(end, STREAM)
        pid = ground.estate.children.get("sync").pid
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    megabytes = int(found.split()[1]) / 1024
    tell(f"{MEMORY.name}: {megabytes:,.0f} MB")
    return [Result(MEMORY, [megabytes], [LIMIT_MB])]
