"""The plots of a run: shoppers' figures by second, and what the monitor saw."""

from collections.abc import Collection, Mapping
from pathlib import Path

from rehearsal.recorder import read_lines
from rehearsal.report import Plot

Series = dict[str, list[tuple[float, float | None]]]


def load_series(
    requests: Path,
    seen: Mapping[str, list[tuple[float, float | None]]],
    wall: float,
    domains: Collection[str],
) -> list[Plot]:
    """Plots of latency, traffic share, rates and lag; `wall` is the epoch time of the start, s."""
    latency: Series = {}
    share: Series = {}
    rate: Series = {"requests/s": [], "acknowledged writes/s": []}
    before: tuple[float, int, int] | None = None
    for second in read_lines(requests):
        at = round(second["at"] - wall, 2)
        counts: dict[str, dict[str, int]] = {}
        for item in second["sides"]:
            name = f"{item['domain']} {item['side']}"
            if item["side"] in ("old", "new") and item["domain"] in domains:
                latency.setdefault(f"{name} p95", []).append((at, item["p95_ms"]))
                counts.setdefault(item["domain"], {})[item["side"]] = item["count"]
        for domain, sides in counts.items():
            new = sides.get("new", 0)
            points = share.setdefault(domain, [])
            points.append((at, 100 * new / (new + sides.get("old", 0))))
        if before and at > before[0]:
            seconds = at - before[0]
            rate["requests/s"].append((at, (second["requests"] - before[1]) / seconds))
            rate["acknowledged writes/s"].append((at, (second["writes"] - before[2]) / seconds))
        before = (at, second["requests"], second["writes"])
    lag = {name.removeprefix("lag "): points for name, points in seen.items()}
    return [
        ("Traffic on the new side", "% of requests", share, False),
        ("Latency at the shopper", "ms", latency, True),
        ("Lag of sync", "ms", lag, True),
        ("Load", "per second", rate, False),
    ]
