"""What a run has read so far, kept so that it can go on after it was cut off.

A mapping that was read is not read again: its suspects are looked at anew in any case, and the
verdict of the whole says "between b0 and b1", where b0 is the barrier before its first part.
"""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from verify.rows import Values
from verify.scope import Scope
from verify.subject import Selection

FORM = 1
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Read:
    """One mapping that was read: see MappingVerdict; the suspects by their driving keys' texts.

    `at` is when the suspects were seen to differ for the first time.
    """

    at: datetime
    rows: int
    unexamined: int
    seconds: float
    suspects: list[Values]


@dataclass
class Unfinished:
    """The parts of a run that are done; `path` None keeps them in memory alone.

    `since` is the time of the run's scope, which a person may have given as "2h". `places` say, by
    domain, in which databases and with which columns.
    """

    started_at: datetime
    fingerprint: str
    path: Path | None = None
    since: datetime | None = None
    b0: dict[str, str] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    read: dict[str, Read] = field(default_factory=dict)

    def at(self, domain: str, place: str) -> None:
        """A domain's run is at this place; what was read elsewhere is of no use to it."""
        known = self.places.setdefault(domain, place)
        if known != place:
            logger.warning("%s: the databases or their columns have changed: begun anew", domain)
            self.places[domain] = place
            self.b0 = {n: lsn for n, lsn in self.b0.items() if not n.startswith(f"{domain}.")}
            self.read = {n: read for n, read in self.read.items() if not n.startswith(f"{domain}.")}

    def keep(self, mapping: str, read: Read) -> None:
        """A mapping was read."""
        self.read[mapping] = read
        self.save()

    def save(self) -> None:
        """Write all that is known, at once or not at all; a run goes on where it cannot be kept."""
        if self.path is None:
            return
        try:
            self._write(self.path)
        except OSError as error:
            logger.warning("%s: what was compared so far cannot be kept: %s", self.path, error)

    def _write(self, path: Path) -> None:
        told = {
            "form": FORM,
            "started_at": self.started_at.isoformat(),
            "fingerprint": self.fingerprint,
            "since": self.since.isoformat() if self.since else None,
            "b0": self.b0,
            "places": self.places,
            "read": {
                name: asdict(read) | {"at": read.at.isoformat()} for name, read in self.read.items()
            },
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}")
        try:
            # Keys may be names of people.
            beside.touch(mode=0o600)
            beside.write_text(json.dumps(told), encoding="utf-8")
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)

    def done(self) -> None:
        """The run has its verdict: nothing is left to go on with."""
        if self.path is not None:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)

    def earlier(self) -> "Unfinished | None":
        """What a run of the very same comparison that was cut off has left; None if nothing has."""
        try:
            told: dict[str, Any] = json.loads((self.path or Path()).read_text(encoding="utf-8"))
            if (told["form"], told["fingerprint"]) != (FORM, self.fingerprint):
                return None
            read = {
                str(name): Read(
                    datetime.fromisoformat(item["at"]),
                    int(item["rows"]),
                    int(item["unexamined"]),
                    float(item["seconds"]),
                    [tuple(key) for key in item["suspects"]],
                )
                for name, item in told["read"].items()
            }
            started = datetime.fromisoformat(told["started_at"])
            since = datetime.fromisoformat(told["since"]) if told["since"] else None
            b0, places = dict(told["b0"]), dict(told["places"])
            return Unfinished(started, self.fingerprint, self.path, since, b0, places, read)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def __str__(self) -> str:
        """For a person: when it began, and how far it came."""
        return f"{len(self.read)} mapping(s) read since {self.started_at:%Y-%m-%d %H:%M:%S} UTC"


@contextmanager
def claimed(path: Path | None) -> Iterator[bool]:
    """Whether this process alone may keep a run's parts there, as long as it lasts."""
    if path is None:
        yield True
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_suffix(".lock").open("w", encoding="utf-8")
    except OSError:
        yield True
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        # The file stays: who has it open already must meet whoever comes next.
        yield True


def fingerprint(
    environment: str, selections: Iterable[Selection], scope: Scope, since: str | None, most: int
) -> str:
    """A name for what is compared, and how far: runs of one name can go on with each other.

    `since` is the scope's, as a person gave it: the same words name the same run.
    """
    parts: list[object] = [environment, str(replace(scope, since=None)), since, most]
    for selection in selections:
        sides = (selection.stream.source.name, selection.stream.target.name)
        for mapping in selection.stream.mappings:
            if mapping.name in selection.mappings:
                config = mapping.config
                parts.append((mapping.name, sides, config.sql, config.target, config.key))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
