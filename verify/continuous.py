"""The continuous verifier: every key that sync has carried is compared some time later.

Between two whole runs trust need not age: what nobody touched is as it was, and what sync carried
is looked at here, at a set rate, in the worker's own process, where the keys are known. What
differs goes the way of every suspect: again and again after a barrier.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from estate.config import Config
from estate.errors import SplitctlError, in_one_line
from estate.ledger import LedgerUnreachable, open_ledger
from migrator.changes import MappingKey
from migrator.mapping import Key, streams
from verify.barriers import Barriers, Gate, SyncBarriers
from verify.diff import subjects_of
from verify.findings import record
from verify.recheck import settle
from verify.rows import by_key, compare
from verify.scan import Suspects, read_keys
from verify.sides import Both, open_both
from verify.subject import Subject, select
from verify.verdict import CHECKED, FOUND, VERIFY, MappingVerdict, mapping_data

ROOM = 100_000
TICK_S = 1.0
TOLD_EACH_S = 60.0
PATIENCE_S = 10.0
BARRIER_S = 10.0
# After an error: the pause before the next look, the first and the longest.
PAUSES_S = (1.0, 60.0)
log = logging.getLogger(__name__)


class Due:
    """Keys that wait to be looked at, each once, in the order in which they are due. Thread-safe.

    `since`: of everything that was heard of from this moment on, nothing was left out.
    """

    def __init__(self, delay_s: float, now: float, room: int = ROOM) -> None:
        self._delay_s, self._room = delay_s, room
        self._waiting: dict[MappingKey, float] = {}
        self._lock = threading.Lock()
        self.since, self.left_out = now, 0

    def add(self, names: Iterable[MappingKey], now: float) -> None:
        """Carried now. One that waits already keeps its turn: it is read as it is then."""
        with self._lock:
            for name in names:
                if name in self._waiting:
                    continue
                if len(self._waiting) >= self._room:
                    self.since = now
                    self.left_out += 1
                else:
                    self._waiting[name] = now + self._delay_s

    def left(self, now: float) -> None:
        """Something was carried that will not be looked at."""
        with self._lock:
            self.since = now

    def take(self, now: float, most: int) -> list[MappingKey]:
        """So many of those that are due."""
        with self._lock:
            taken: list[MappingKey] = []
            for name, due in self._waiting.items():
                if due > now or len(taken) >= most:
                    break
                taken.append(name)
            for name in taken:
                del self._waiting[name]
        return taken

    def behind_s(self, now: float) -> float:
        """How long ago the key was carried that waits longest; 0 when none waits."""
        with self._lock:
            due = next(iter(self._waiting.values()), now + self._delay_s)
        return max(now + self._delay_s - due, 0.0)

    def __len__(self) -> int:
        return len(self._waiting)


@dataclass
class Tally:
    """What was found in one domain: keys looked at, and how many of them differed for certain."""

    checked: int = 0
    differing: int = 0


class _Figures:
    """The same for Prometheus."""

    def __init__(self, domains: Iterable[str]) -> None:
        self._registry = CollectorRegistry()
        ours, label = self._registry, ("domain",)
        self.checked = Counter(
            "splitctl_verify_keys", "Carried keys that were compared", label, registry=ours
        )
        self.differing = Counter(
            "splitctl_verify_differing_keys", "Of these, proved to differ", label, registry=ours
        )
        self.waiting = Gauge(
            "splitctl_verify_waiting_keys", "Carried, not compared yet", registry=ours
        )
        self.covered = Gauge(
            "splitctl_verify_covered_seconds",
            "For so long every key that was carried has been compared, or waits for it",
            label,
            registry=ours,
        )
        for name in domains:
            self.checked.labels(name)
            self.differing.labels(name)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class Continuous:
    """Hears of carried keys (any thread), and compares them in a thread of its own."""

    def __init__(
        self,
        config: Config,
        *,
        barriers: Barriers | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._clock = config, clock
        self._barriers = barriers or SyncBarriers()
        self._rate = config.verify.continuous
        self._due = Due(config.verify.continuous_after.total_seconds(), clock())
        self._desks: dict[str, _Desk] = {}
        self._tallies = {name: Tally() for name in config.domains}
        self._figures = _Figures(config.domains)
        self._unrecorded: list[tuple[str, MappingVerdict]] = []
        self._told_at = clock()
        # Streams that are carried in this process, and since when.
        self._began: dict[str, float] = {}

    # What the worker calls

    def began(self, stream: str) -> None:
        """This process carries the stream from now on."""
        self._began[stream] = self._clock()

    def ended(self, stream: str) -> None:
        """It does not any more."""
        self._began.pop(stream, None)

    def heard(self, names: Iterable[MappingKey]) -> None:
        """These keys were carried now."""
        self._due.add(names, self._clock())

    def missed(self) -> None:
        """Keys were put aside, to be carried at a time of which nothing is heard."""
        self._due.left(self._clock())

    def metrics(self) -> bytes:
        """For /metrics."""
        self._figures.waiting.set(len(self._due))
        for domain in self._tallies:
            covered = self.covered_s(domain)
            self._figures.covered.labels(domain).set(covered if covered is not None else math.nan)
        return self._figures.text()

    def to_json(self) -> dict[str, Any]:
        """For /status."""
        return {
            "waiting": len(self._due),
            "behind_s": round(self._due.behind_s(self._clock()), 1),
            "left_out": self._due.left_out,
            "domains": {
                name: vars(tally) | {"covered_s": self.covered_s(name)}
                for name, tally in self._tallies.items()
            },
        }

    def covered_s(self, domain: str) -> float | None:
        """For so long every key of the domain that was carried was heard of, whoever carries it;
        None when that is not known: another process carries one of its streams, or nobody does."""
        began = dict(self._began)
        names = [stream.name for stream in streams(self._config, domain)]
        if any(name not in began for name in names):
            return None
        return self._clock() - max(self._due.since, *(began[name] for name in names))

    # The thread

    def run(self, stop: threading.Event) -> None:
        """Look at what is due, until `stop` is set."""
        pause = TICK_S
        try:
            while not stop.wait(pause):
                try:
                    self.look()
                    pause = TICK_S
                except (SplitctlError, psycopg.Error, OSError) as error:
                    log.warning("carried keys are not compared now: %s", in_one_line(error))
                    self._close()
                    pause = min(max(pause * 2, PAUSES_S[0]), PAUSES_S[1])
        finally:
            self._close()

    def look(self) -> None:
        """Compare what is due, as much as the rate allows in a tick; now and then tell the ledger.

        Keys that could not be compared wait again. Raises what the databases raise.
        """
        now = self._clock()
        names = self._due.take(now, max(1, int(self._rate * TICK_S)))
        by_domain: dict[str, list[MappingKey]] = {}
        for name in names:
            by_domain.setdefault(name[0].split(".", 1)[0], []).append(name)
        while by_domain:
            domain, wanted = by_domain.popitem()
            try:
                open_ones = self._compare(domain, wanted)
            except BaseException:
                self._due.add([*wanted, *(n for rest in by_domain.values() for n in rest)], now)
                raise
            self._due.add(open_ones, self._clock())
        self._tell()

    def _compare(self, domain: str, names: list[MappingKey]) -> list[MappingKey]:
        """Returns the keys of which nothing can be told yet."""
        desk = self._desks.get(domain)
        if desk is None:
            desk = self._desks[domain] = _Desk(self._config, domain, self._barriers)
        tally = self._tallies[domain]
        found, open_ones = desk.compare(names)
        checked = len(names) - len(open_ones)
        tally.checked += checked
        self._figures.checked.labels(domain).inc(checked)
        for verdict in found:
            log.error("%s: %s, among keys that sync had carried", verdict.mapping, verdict.told())
            tally.differing += len(verdict.differing)
            self._figures.differing.labels(domain).inc(len(verdict.differing))
            self._unrecorded.append((domain, verdict))
        return open_ones

    def _tell(self) -> None:
        """What was found at once, and once a minute since when everything is looked at."""
        now = self._clock()
        if not self._unrecorded and now - self._told_at < TOLD_EACH_S:
            return
        try:
            with open_ledger(self._config) as ledger:
                while self._unrecorded:
                    domain, verdict = self._unrecorded[0]
                    data = {"mappings": [mapping_data(verdict)]}
                    ledger.add_verdict(domain, VERIFY, FOUND, "different", data)
                    self._unrecorded.pop(0)
                if now - self._told_at >= TOLD_EACH_S:
                    self._told_at = now
                    behind_s = self._due.behind_s(now)
                    for domain, tally in self._tallies.items():
                        covered = self.covered_s(domain)
                        if covered is not None:
                            told = vars(tally) | {"behind_s": behind_s}
                            ledger.add_verdict(
                                domain, VERIFY, CHECKED, "equal", told, seconds=covered
                            )
        except LedgerUnreachable as error:
            log.warning("what was compared is not recorded yet: %s", error)

    def _close(self) -> None:
        while self._desks:
            self._desks.popitem()[1].close()


@dataclass
class _Desk:
    """Connections to both sides of a domain, and its mappings described."""

    config: Config
    domain: str
    barriers: Barriers
    _stack: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        sides = self.config.domain(self.domain)
        try:
            old, new = self.config.database(sides.old), self.config.database(sides.new)
            self.both: Both = self._stack.enter_context(open_both(old, new))
            self.subjects: dict[str, Subject] = {
                subject.name: subject
                for selection in select(self.config, self.domain, None)
                for subject in subjects_of(selection, self.both)
            }
        except BaseException:
            self._stack.close()
            raise

    def close(self) -> None:
        """End the connections."""
        self._stack.close()

    def compare(self, names: list[MappingKey]) -> tuple[list[MappingVerdict], list[MappingKey]]:
        """What differs for certain, and the keys of which nothing can be told yet."""
        by_mapping: dict[str, list[Key]] = {}
        for mapping, key in names:
            by_mapping.setdefault(mapping, []).append(key)
        suspects = [
            (subject, found)
            for mapping, keys in by_mapping.items()
            if (found := self._suspects(subject := self.subjects[mapping], keys))
        ]
        if not suspects:
            return [], []
        reasons: list[str] = []
        gate = Gate(streams(self.config, self.domain), self.both, self.barriers, BARRIER_S, reasons)
        verdicts: list[MappingVerdict] = []
        open_ones: list[MappingKey] = []
        for (subject, _), settled in zip(
            suspects, settle(suspects, self.both, gate.ready, PATIENCE_S), strict=True
        ):
            if settled.confirmed:
                verdict = MappingVerdict(subject.name, rows_compared=len(by_mapping[subject.name]))
                record(subject, verdict, settled, None)
                verdicts.append(verdict)
            for suspect in settled.inconclusive:
                key = tuple(str(part) for part in suspect.key)
                open_ones.append((subject.name, key))
        return verdicts, open_ones

    def _suspects(self, subject: Subject, keys: list[Key]) -> Suspects:
        """Those of the keys whose rows are not equal on both sides now."""
        asked: Suspects = {subject.shape.canonical_key(key): key for key in keys}
        groups = by_key(subject.shape, *read_keys(subject, self.both, asked))
        return {
            key: rows.key
            for key, rows in groups.items()
            if key in asked and compare(subject.shape, rows)
        }


@contextmanager
def running(config: Config, stop: threading.Event) -> Iterator[Continuous | None]:
    """A continuous verifier at work, until the end or `stop`; None where its rate is 0."""
    if not config.verify.continuous:
        yield None
        return
    verifier = Continuous(config)
    thread = threading.Thread(target=verifier.run, args=(stop,), name="verifier", daemon=True)
    thread.start()
    try:
        yield verifier
    finally:
        stop.set()
        thread.join(PATIENCE_S)
