"""A local journal: what a command did while the ledger was away, until the ledger takes it in.

JSON lines in `$SPLITCTL_STATE_DIR` or `~/.local/state/splitctl/`, one file for each configuration.
"""

import fcntl
import hashlib
import json
import os
import re
import socket
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from estate.config import Config
from estate.connections import operator


@dataclass(frozen=True)
class Entry:
    """One act. `rollout` says where the domain stands after it: stage, percentage, epoch.

    `act_id` names the ledger's own intent that this is the outcome of, where there is one.
    """

    kind: str
    domain: str | None
    intent: dict[str, Any]
    outcome: dict[str, Any] | None
    state: str = "done"
    rollout: dict[str, Any] | None = None
    act_id: int | None = None
    command: str = ""
    operator: str = field(default_factory=operator)
    host: str = field(default_factory=socket.gethostname)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    finished_at: datetime | None = None

    def line(self) -> str:
        """The entry as one line of JSON."""
        data = asdict(self)
        data["at"] = self.at.isoformat()
        data["finished_at"] = self.finished_at.isoformat() if self.finished_at else None
        return json.dumps(data, ensure_ascii=False, separators=(",", ":"), default=str) + "\n"

    @classmethod
    def parse(cls, line: str) -> "Entry | None":
        """The entry of a line, or None for a line that was not written to its end."""
        try:
            data = json.loads(line)
            data["at"] = datetime.fromisoformat(data["at"])
            if data["finished_at"]:
                data["finished_at"] = datetime.fromisoformat(data["finished_at"])
            return cls(**data)
        except (ValueError, TypeError, KeyError):
            return None


class Journal:
    """One file of entries that wait. Safe for several commands at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entry: Entry) -> None:
        """Write an entry down; it is on disk when this returns. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked(), self.path.open("ab+") as file:
            # A line that a kill cut short must not swallow this one.
            if file.tell() and not self._ends_whole():
                file.write(b"\n")
            file.write(entry.line().encode())
            file.flush()
            os.fsync(file.fileno())

    def pending(self) -> list[Entry]:
        """What waits, oldest first."""
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        entries = (Entry.parse(line) for line in text.splitlines())
        return [entry for entry in entries if entry is not None]

    def merged(self, entries: Sequence[Entry]) -> None:
        """Put these away, beside the journal; what came meanwhile stays."""
        if not entries:
            return
        done = {entry.id for entry in entries}
        with self._locked():
            rest = [entry for entry in self.pending() if entry.id not in done]
            with self.path.with_suffix(".merged.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(entry.line() for entry in entries)
            fresh = self.path.with_suffix(".new")
            fresh.write_text("".join(entry.line() for entry in rest), encoding="utf-8")
            fresh.replace(self.path)

    def _ends_whole(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self.path.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def directory() -> Path:
    """Where the journal is kept."""
    given = os.environ.get("SPLITCTL_STATE_DIR")
    return Path(given) if given else Path.home() / ".local" / "state" / "splitctl"


def of(config: Config) -> Journal:
    """The journal of this configuration."""
    name = re.sub(r"[^a-z0-9]+", "-", config.environment.lower()).strip("-") or "estate"
    mark = hashlib.sha256(str(config.path).encode()).hexdigest()[:8]
    return Journal(directory() / f"journal-{name}-{mark}.jsonl")
