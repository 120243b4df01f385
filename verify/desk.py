"""Both sides of one domain, with its mappings described: where some keys are compared at a time."""

import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import LiteralString

from estate.config import Config
from migrator.changes import MappingKey
from migrator.mapping import Key, streams
from migrator.prepared import Mappings
from verify.barriers import Barriers, Gate, ends
from verify.diff import subjects_of
from verify.findings import record
from verify.recheck import Settled, settle
from verify.rows import by_key, compare, plain_key
from verify.scan import Suspects, read_keys
from verify.sides import open_both
from verify.subject import Subject, select
from verify.verdict import MappingVerdict

PATIENCE_S, BARRIER_S = 2.0, 2.0
# A look at some keys must not become a scan of the shop's tables: where no index helps, it ends.
HURRIED: LiteralString = "SET statement_timeout = '5s'"


@dataclass(frozen=True)
class Compared:
    """What differs for certain, with its keys; and the keys of which nothing can be told yet."""

    verdicts: list[MappingVerdict] = field(default_factory=list)
    differing: list[MappingKey] = field(default_factory=list)
    unsure: list[MappingKey] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


class Desk:
    """Two connections. Raises on opening what `diff.run` raises; `stop` ends what waits."""

    def __init__(
        self, config: Config, domain: str, barriers: Barriers, stop: threading.Event
    ) -> None:
        self._config, self._domain, self._stop = config, domain, stop
        self._stack, self._barriers = ExitStack(), barriers
        sides = config.domain(domain)
        try:
            old, new = config.database(sides.old), config.database(sides.new)
            self._both = self._stack.enter_context(open_both(old, new))
            for connection in (self._both.old, self._both.new):
                with self._both.asking(connection):
                    connection.execute(HURRIED)
            self._gate([]).check()
            self._subjects: dict[str, Subject] = {}
            self._mappings: dict[str, Mappings] = {}
            for selection in select(config, domain, None):
                mappings = Mappings(selection.stream, *ends(selection.stream, self._both))
                for subject in subjects_of(selection, self._both):
                    self._subjects[subject.name] = subject
                    self._mappings[subject.name] = mappings
        except BaseException:
            self._stack.close()
            raise

    def close(self) -> None:
        """End the connections."""
        self._stack.close()

    def passed(self) -> bool:
        """Whether sync has carried everything that was written, in both directions, by now."""
        return not self._stop.is_set() and self._gate([]).ready()

    def compare(self, names: list[MappingKey]) -> Compared:
        """Compare these keys, as the log has them. Raises ComparisonFailed or ConnectionLost."""
        by_mapping: dict[str, list[Key]] = {}
        for mapping, key in names:
            by_mapping.setdefault(mapping, []).append(key)
        suspects: list[tuple[Subject, Suspects]] = []
        asked: list[dict[Key, Key]] = []
        for mapping, keys in by_mapping.items():
            stored = self._stored(mapping, keys)
            found = self._suspects(self._subjects[mapping], list(stored.values()))
            if found:
                suspects.append((self._subjects[mapping], found))
                asked.append({name: key for key, name in stored.items()})
        if not suspects:
            return Compared()
        reasons: list[str] = []
        gate = self._gate(reasons)

        def ready() -> bool:
            return not self._stop.is_set() and gate.ready()

        done = Compared(reasons=reasons)
        for (subject, _), raw, settled in zip(
            suspects, asked, settle(suspects, self._both, ready, PATIENCE_S), strict=True
        ):
            self._sort(subject, raw, settled, done)
        return done

    def _sort(
        self, subject: Subject, raw: dict[Key, Key], settled: Settled, done: Compared
    ) -> None:
        """Add what became of a mapping's suspects; `raw` leads from a key to the log's text."""
        done.reasons.extend(settled.problems)

        def named(key: tuple[str | None, ...]) -> MappingKey:
            whole = plain_key(key) or ()
            return subject.name, raw.get(whole, whole)

        if settled.confirmed:
            verdict = MappingVerdict(subject.name)
            record(subject, verdict, settled, None)
            done.verdicts.append(verdict)
            done.differing.extend(dict.fromkeys(named(item.key) for item in settled.confirmed))
        done.unsure.extend(named(suspect.key) for suspect in settled.inconclusive)

    def _stored(self, mapping: str, keys: list[Key]) -> dict[Key, Key]:
        """For each key as the log has it: its text in the target."""
        prepared = self._mappings[mapping][mapping]
        if prepared.shape.canonical:
            return {key: key for key in keys}
        source = self._subjects[mapping].source.connection
        parts = [list(part) for part in zip(*keys, strict=True)]
        with self._both.asking(source):
            rows = source.execute(prepared.statements.canonical, parts).fetchall()
        return {key: tuple(row) for key, row in zip(keys, rows, strict=True)}

    def _suspects(self, subject: Subject, keys: list[Key]) -> Suspects:
        """Those whose rows are not equal on both sides now."""
        asked: Suspects = {subject.shape.canonical_key(key): key for key in keys}
        groups = by_key(subject.shape, *read_keys(subject, self._both, asked))
        return {
            key: asked.get(key, rows.key)
            for key, rows in groups.items()
            if compare(subject.shape, rows)
        }

    def _gate(self, reasons: list[str]) -> Gate:
        every = streams(self._config, self._domain)
        return Gate(every, self._both, self._barriers, BARRIER_S, reasons)
