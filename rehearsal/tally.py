"""Counts acknowledged writes by stage, percentage, side and domain, from the shoppers' own log."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


class Place(NamedTuple):
    """Where a write was acknowledged."""

    stage: str
    percentage: int
    side: str
    domain: str


@dataclass
class Tally:
    """Follows a growing file of JSON lines; `read` takes what came since."""

    path: Path
    counts: Counter[Place] = field(default_factory=Counter)
    _offset: int = 0

    def read(self) -> None:
        """Count the lines that are complete by now."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            write = json.loads(line)
            if not write["stage"] or write.get("implied"):
                continue  # orders stay where they are; an implied write was counted already
            percentage = int(write["percentage"])
            # Gateways serve a new percentage a moment before the command that asked for it ends.
            early = write["stage"] == "dual-write" and percentage > 0
            stage = "live" if early else write["stage"]
            self.counts[Place(stage, percentage, write["side"], write["domain"])] += 1

    def at(self, stage: str, percentage: int, side: str) -> int:
        """Writes of all domains at this stage and percentage on this side."""
        return sum(
            count
            for place, count in self.counts.items()
            if (place.stage, place.percentage, place.side) == (stage, percentage, side)
        )

    @property
    def total(self) -> int:
        """All writes that were counted."""
        return self.counts.total()

    def rows(self) -> list[dict[str, Any]]:
        """One row per stage, percentage and side, with the domains beside the sum."""
        rows: dict[tuple[str, int, str], Counter[str]] = {}
        for place, count in self.counts.items():
            key = (place.stage, place.percentage, place.side)
            rows.setdefault(key, Counter())[place.domain] += count
        return [
            {
                "stage": stage,
                "percentage": percentage,
                "side": side,
                "writes": sum(domains.values()),
                "by_domain": dict(sorted(domains.items())),
            }
            for (stage, percentage, side), domains in rows.items()
        ]


def sides_in_use(percentage: int) -> tuple[str, ...]:
    """Which sides serve customers at a percentage."""
    if percentage <= 0:
        return ("old",)
    return ("new",) if percentage >= 100 else ("old", "new")
