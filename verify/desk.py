"""Both sides of one domain, with its mappings described: where some keys are compared at a time."""

import threading
from collections.abc import Hashable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import LiteralString

import psycopg

from estate.config import Config
from migrator.changes import MappingKey
from migrator.mapping import Key, streams
from migrator.opposite import keys_of_rows
from migrator.prepared import Mappings
from verify.barriers import Barriers, Gate, ends
from verify.diff import subjects_of
from verify.findings import record
from verify.recheck import Confirmed, Settled, Suspect
from verify.rows import by_key, compare, plain_key
from verify.scan import Suspects, read_keys
from verify.sides import ComparisonFailed, open_both
from verify.subject import Subject, select
from verify.verdict import MappingVerdict

BARRIER_S = 2.0
# Keys under suspicion, by mapping and value, with what their looks have shown.
Looking = dict[tuple[str, tuple[Hashable, ...]], Suspect]
# A look at some keys must not become a scan of the shop's tables: where no index helps, it ends.
HURRIED: LiteralString = "SET statement_timeout = '5s'"
# A rewrite changes rows of which no log tells: its table has other files afterwards.
FORMS: LiteralString = """
SELECT concat_ws(' ', c.relname, pg_relation_filenode(c.oid), string_agg(
         concat_ws(' ', a.attname, a.atttypid, a.atttypmod), ',' ORDER BY a.attnum))
  FROM unnest(%s::text[]) AS t(name)
  JOIN pg_class c ON c.oid = to_regclass(format('public.%%I', t.name))
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 GROUP BY c.oid, c.relname ORDER BY c.relname
"""


@dataclass(frozen=True)
class Compared:
    """What differs for certain, with its keys; and the keys of which nothing can be told yet.

    Keys are written as the log of their stream's source has them.
    """

    verdicts: list[MappingVerdict] = field(default_factory=list)
    differing: list[MappingKey] = field(default_factory=list)
    unsure: list[MappingKey] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


@dataclass
class _Read:
    """What one mapping's keys gave: those that are not equal, those that are, and how the log
    writes each key."""

    suspects: Suspects = field(default_factory=dict)
    equal: list[tuple[Hashable, ...]] = field(default_factory=list)
    logged: dict[Key, Key] = field(default_factory=dict)

    def named(self, mapping: str, key: tuple[str | None, ...]) -> MappingKey:
        """A key as the log has it."""
        whole = plain_key(key) or ()
        return mapping, self.logged.get(whole, whole)


class Desk:
    """Two connections. Raises on opening what `diff.run` raises; `stop` ends what waits."""

    def __init__(
        self, config: Config, domain: str, barriers: Barriers, stop: threading.Event
    ) -> None:
        self._streams, self._stop = streams(config, domain), stop
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

    def forms(self) -> list[str]:
        """The form of every table that takes part: other columns or other files are another one."""
        found: list[str] = []
        for stream in self._streams:
            for connection, names in zip(
                ends(stream, self._both),
                (stream.tables, [mapping.target for mapping in stream.mappings]),
                strict=True,
            ):
                with self._both.asking(connection):
                    rows = connection.execute(FORMS, (list(names),)).fetchall()
                found += [str(row[0]) for row in rows]
        return found

    def compare(self, names: Iterable[MappingKey], looking: Looking) -> Compared:
        """Compare these keys, and those of the other direction to which their rows lead.

        What is not equal is read again after one barrier, and no more than that: each barrier makes
        sync hurry. `looking` remembers what earlier looks have shown, until a key is told.
        Raises ConnectionLost.
        """
        done = Compared()
        found: dict[str, _Read] = {}
        known = list(names)
        led = self._read(known, found, done)
        # What sync wrote it skips on the way back: nobody hears of these.
        self._read([name for name in led if name not in set(known)], found, done)
        suspects = [
            (self._subjects[mapping], read) for mapping, read in found.items() if read.suspects
        ]
        for mapping, read in found.items():
            for key in read.equal:
                looking.pop((mapping, key), None)
        if suspects and (self._stop.is_set() or not self._gate(done.reasons).ready()):
            done.unsure.extend(
                read.named(subject.name, key)
                for subject, read in suspects
                for key in read.suspects.values()
            )
            return done
        for subject, read in suspects:
            self._look(subject, read, looking, done)
        return done

    def _look(self, subject: Subject, read: _Read, looking: Looking, done: Compared) -> None:
        """Read a mapping's suspects once more, after a barrier, and note what that shows."""
        try:
            rows = read_keys(subject, self._both, read.suspects)
        except ComparisonFailed as error:
            done.reasons.append(f"{subject.name}: {error}")
            done.unsure.extend(read.named(subject.name, key) for key in read.suspects.values())
            return
        groups = by_key(subject.shape, *rows)
        settled = Settled([], [])
        for canonical, key in read.suspects.items():
            group = groups.get(canonical)
            differences = compare(subject.shape, group) if group else []
            name = (subject.name, canonical)
            if not differences:
                looking.pop(name, None)
                continue
            suspect = looking.setdefault(name, Suspect(key))
            proved = suspect.look(differences)
            if proved:
                del looking[name]
                now = datetime.now(UTC)
                settled.confirmed.extend(Confirmed(key, item, now) for item in proved)
                done.differing.append(read.named(subject.name, key))
            else:
                done.unsure.append(read.named(subject.name, key))
        if settled.confirmed:
            verdict = MappingVerdict(subject.name)
            record(subject, verdict, settled, None)
            done.verdicts.append(verdict)

    def _read(
        self, names: Iterable[MappingKey], found: dict[str, _Read], done: Compared
    ) -> list[MappingKey]:
        """Read these keys on both sides; returns the opposite stream's keys behind their rows."""
        by_mapping: dict[str, list[Key]] = {}
        for mapping, key in dict.fromkeys(names):
            by_mapping.setdefault(mapping, []).append(key)
        led: dict[MappingKey, None] = {}
        for mapping, keys in by_mapping.items():
            read = found.setdefault(mapping, _Read())
            led |= dict.fromkeys(self._read_keys(mapping, keys, read, done))
        return list(led)

    def _read_keys(
        self, mapping: str, keys: list[Key], read: _Read, done: Compared
    ) -> Iterable[MappingKey]:
        subject = self._subjects[mapping]
        shape = subject.shape
        try:
            stored = self._stored(mapping, keys)
            asked: Suspects = {shape.canonical_key(key): key for key in stored.values()}
            source, target = read_keys(subject, self._both, asked)
        except ComparisonFailed as error:
            if isinstance(error.__cause__, psycopg.DataError) and len(keys) > 1:
                # One of them is no value of its column's type: the others can be told.
                for key in keys:
                    yield from self._read_keys(mapping, [key], read, done)
            else:
                done.reasons.append(f"{mapping}: {error}")
                done.unsure.extend((mapping, key) for key in keys)
            return
        read.logged |= {name: key for key, name in stored.items()}
        groups = by_key(shape, source, target)
        for canonical, group in groups.items():
            if compare(shape, group):
                read.suspects[canonical] = asked.get(canonical, group.key)
        read.equal += [canonical for canonical in asked if canonical not in read.suspects]
        ways = self._mappings[mapping][mapping].statements.ways
        yield from keys_of_rows(ways, shape.names, (values for _, values in (*source, *target)))

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

    def _gate(self, reasons: list[str]) -> Gate:
        return Gate(self._streams, self._both, self._barriers, BARRIER_S, reasons)
