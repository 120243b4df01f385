"""What the shoppers write down: each acknowledged write, each failure, figures per second.

Files in DIR: `writes.jsonl`, `failures.jsonl`, `requests.jsonl` (a line per second), and
`shoppers.json`, which is replaced each second for whoever watches.
"""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rehearsal.children import write_whole

WRITES, FAILURES, REQUESTS = "writes.jsonl", "failures.jsonl", "requests.jsonl"
STATUS, STAGE = "shoppers.json", "stage.json"
SHARE_WINDOW = 5


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """What was written down in one of these files; nothing where it was never begun."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


@dataclass(frozen=True)
class Served:
    """Who answered, from the header X-Served-By: `domain/side/percentage`."""

    domain: str
    side: str
    percentage: int

    @classmethod
    def parse(cls, header: str | None) -> "Served | None":
        """None when the header is not there or is not of this form."""
        parts = (header or "").split("/")
        if len(parts) != 3 or not parts[2].isdigit():
            return None
        return cls(parts[0], parts[1], int(parts[2]))


def percentile(values: Iterable[float], share: float) -> float | None:
    """The value below which `share` of all lie (nearest rank); None without values."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Stages:
    """The present stage of each domain, from DIR/stage.json, which the story replaces."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._told: dict[str, Any] | None = None

    def of(self, domain: str) -> str:
        """The stage of a domain: "off" before anything is written, "" for what does not move."""
        told = self._read()
        return "off" if told is None else str(told["domains"].get(domain, {}).get("stage", ""))

    @property
    def pace(self) -> int:
        """How many times as fast as usual customers click."""
        return int((self._read() or {}).get("pace", 1))

    def reluctance(self, side: str) -> float:
        """The share of those who would have bought that a side puts off."""
        told: dict[str, float] = (self._read() or {}).get("reluctance", {})
        return told.get(side, 0.0)

    def _read(self) -> dict[str, Any] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        mark = (stat.st_mtime_ns, stat.st_ino)
        if mark != self._seen:
            self._told = json.loads(self._path.read_text(encoding="utf-8"))
            self._seen = mark
        return self._told


@dataclass
class Recorder:
    """Collects, and writes to the files when `flush` is called (once a second, and at the end)."""

    directory: Path
    writes: int = 0
    requests: int = 0
    failed: int = 0
    _sequence: int = 0
    _lines: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _seconds: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    _recent: list[Counter[tuple[str, str]]] = field(default_factory=list)
    _files: dict[str, TextIO] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stages = Stages(self.directory / STAGE)
        for name in (WRITES, FAILURES, REQUESTS):
            self._files[name] = (self.directory / name).open("a", encoding="utf-8")

    def request(self, served: Served | None, seconds: float) -> None:
        """Count an answered request; `seconds` as the shopper saw it."""
        self.requests += 1
        key = (served.domain, served.side) if served else ("unknown", "unknown")
        self._seconds[key].append(seconds)

    def unanswered(self) -> None:
        """Count a request that got no answer."""
        self.requests += 1

    def write(self, served: Served, entry: Mapping[str, Any]) -> None:
        """Write down an acknowledged write: op, kind, id, route and the content expected."""
        self.writes += 1
        self.implied_write(served, entry)

    def implied_write(self, served: Served, entry: Mapping[str, Any]) -> None:
        """Write down what an acknowledged write changed besides its subject."""
        self._sequence += 1
        line = {
            "n": self._sequence,
            "at": round(time.time(), 4),
            "domain": served.domain,
            "side": served.side,
            "percentage": served.percentage,
            "stage": self.stages.of(served.domain),
            **entry,
        }
        self._lines[WRITES].append(json.dumps(line, separators=(",", ":")))

    def failure(self, entry: Mapping[str, Any]) -> None:
        """Write down a request that failed at the shopper."""
        self.failed += 1
        self._lines[FAILURES].append(json.dumps({"at": round(time.time(), 4), **entry}))

    def flush(self) -> None:
        """Append what was collected, and replace the status file."""
        moment = round(time.time(), 3)
        counted: Counter[tuple[str, str]] = Counter()
        sides: list[dict[str, Any]] = []
        for (domain, side), values in sorted(self._seconds.items()):
            counted[domain, side] = len(values)
            figures = {
                f"p{round(100 * share)}_ms": round(1000 * (percentile(values, share) or 0.0), 2)
                for share in (0.5, 0.95, 0.99)
            }
            sides.append({"domain": domain, "side": side, "count": len(values), **figures})
        self._seconds.clear()
        line = {
            "at": moment,
            "writes": self.writes,
            "requests": self.requests,
            "failed": self.failed,
            "sides": sides,
        }
        self._lines[REQUESTS].append(json.dumps(line))
        for name, lines in self._lines.items():
            if lines:
                self._files[name].write("\n".join(lines) + "\n")
                self._files[name].flush()
                lines.clear()
        self._recent = [*self._recent, counted][-SHARE_WINDOW:]
        status = {**line, "share_new": self._share_new()}
        write_whole(self.directory / STATUS, json.dumps(status))

    def close(self) -> None:
        """Flush for the last time."""
        self.flush()
        for file in self._files.values():
            file.close()

    def _share_new(self) -> dict[str, float | None]:
        total: Counter[tuple[str, str]] = Counter()
        for counted in self._recent:
            total.update(counted)
        sides = {domain for domain, side in total if side in ("old", "new")}
        domains = {domain for domain in sides if self.stages.of(domain)}
        return {
            domain: total[domain, "new"] / (total[domain, "new"] + total[domain, "old"])
            for domain in sorted(domains)
        }
