"""The run: a barrier, a pass over every mapping, suspects looked at again, a verdict."""

import hashlib
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import LiteralString

from estate.config import Config, InvariantConfig
from estate.connections import ConnectionBudgetExceeded, DatabaseUnreachable
from estate.errors import SplitctlError
from migrator.mapping import Stream, streams
from verify.barriers import Barriers, Gate, SyncBarriers, ends
from verify.calm import Calm
from verify.findings import record
from verify.invariants import judge
from verify.passes import Limits, OnProgress, Passes
from verify.recheck import settle
from verify.scan import Suspects
from verify.scope import WHOLE, Scope
from verify.sides import Both, ComparisonFailed, ConnectionLost, open_both, open_readers
from verify.subject import Selection, Subject, TableArchived, prepare, select
from verify.unfinished import Unfinished, fingerprint
from verify.verdict import InvariantVerdict, MappingVerdict, Verdict, word

FIRST_PAUSE_S = 0.5
PAUSE_GROWTH = 2.0
LONGEST_PAUSE_S = 10.0
WENT_ON_S = 15.0
MAY_IDENTIFY: LiteralString = """
SELECT has_function_privilege('pg_control_system()', 'EXECUTE')
   AND has_function_privilege('pg_control_checkpoint()', 'EXECUTE')
"""
# Positions of one server's log say nothing about another's, nor after it was restored.
IDENTITY: LiteralString = """
SELECT s.system_identifier::text, c.timeline_id, current_database()::text
  FROM pg_control_system() AS s, pg_control_checkpoint() AS c
"""


def run(
    config: Config,
    domain: str | None = None,
    mappings: list[str] | None = None,
    *,
    on_progress: OnProgress | None = None,
    barriers: Barriers | None = None,
    scope: Scope = WHOLE,
    limits: Limits | None = None,
    unfinished: Unfinished | None = None,
) -> Verdict:
    """Compare both sides through the mapping queries, beside live writes.

    Equal means equal at some instant between the barriers b0 and b1 of each stream. With
    `unfinished` it goes on where an earlier run was cut off, and keeps there how far it is. Raises
    UnknownName, UnknownMapping, UnknownColumn, NoTouchedColumn, TableArchived,
    MappingNotComparable, SyncNotEnabled, DatabaseUnreachable, ConnectionLost or ComparisonFailed.
    """
    limits = limits or Limits(config.verify.workers)
    chosen = select(config, domain, mappings)
    kept = unfinished or Unfinished(datetime.now(UTC), "in memory")
    if not kept.b0:
        # What came before, like a self-test, is no part of it.
        kept.started_at = datetime.now(UTC)
    deadline = None if limits.timeout_s is None else time.monotonic() + limits.timeout_s
    verdict = Verdict("equal", kept.started_at, kept.started_at, {}, [], scope=str(scope))
    by_domain: dict[str, list[Selection]] = {}
    for selection in chosen:
        by_domain.setdefault(selection.stream.domain.name, []).append(selection)
    plan = _Plan(config, scope, limits, deadline, on_progress, barriers or SyncBarriers(), kept)
    archived: TableArchived | None = None
    for name, selections in by_domain.items():
        whole = mappings is None and scope.whole
        domain_run = _Domain(name, selections, plan, invariants_of(config, name) if whole else [])
        try:
            _go_on_until_done(domain_run, verdict)
        except TableArchived as error:
            # Its end was earned: of all domains those are compared that have two sides.
            if domain is not None or mappings is not None:
                raise
            verdict.left_out[name] = str(error)
            archived = error
        except SplitctlError as error:
            if not verdict.mappings:
                raise
            # What is known of the domains before stays known.
            verdict.reasons.append(f"{name}: {error}")
            verdict.mappings += domain_run.not_compared()
    if archived is not None and not verdict.mappings:
        raise archived
    if all(mapping.mapping in kept.read for mapping in verdict.mappings):
        kept.done()
    verdict.finished_at = datetime.now(UTC)
    verdict.verdict = word(verdict.reasons, verdict.mappings, verdict.invariants)
    return verdict


def invariants(config: Config, domain: str | None, barriers: Barriers | None = None) -> Verdict:
    """Ask the invariants alone, of one domain or of all.

    Raises UnknownName, TableArchived, MappingNotComparable, SyncNotEnabled, DatabaseUnreachable or
    ConnectionLost.
    """
    started = datetime.now(UTC)
    verdict = Verdict("equal", started, started, {}, [])
    limits = Limits()
    for name in [domain] if domain is not None else list(config.domains):
        every, sides = streams(config, name), config.domain(name)
        old, new = config.database(sides.old), config.database(sides.new)
        with open_both(old, new) as both:
            for selection in select(config, name, None):
                # Raises TableArchived: nothing is known of tables with other names.
                subjects_of(selection, both)
            asked = barriers or SyncBarriers()
            gate = Gate(every, both, asked, limits.barrier_s, verdict.reasons)
            gate.check()
            verdict.invariants += judge(
                invariants_of(config, name),
                both,
                gate.ready,
                limits.patience_s,
            )
    verdict.finished_at = datetime.now(UTC)
    verdict.verdict = word(verdict.reasons, [], verdict.invariants)
    return verdict


def begun(
    config: Config,
    domain: str | None,
    mappings: list[str] | None,
    scope: Scope,
    since: str | None,
    limits: Limits,
    folder: Path,
) -> Unfinished:
    """A run that begins now, kept in a file of this folder; `since` as it was typed.

    Raises UnknownName or UnknownMapping.
    """
    chosen = select(config, domain, mappings)
    name = fingerprint(config.environment, chosen, scope, since, limits.suspects)
    path = folder / f"verify-{name}.json"
    return Unfinished(datetime.now(UTC), name, path, scope.since)


def invariants_of(config: Config, domain: str) -> list[tuple[str, InvariantConfig]]:
    """The invariants of a domain, each under its full name. Raises UnknownName."""
    return [(f"{domain}: {item.name}", item) for item in config.domain(domain).invariants]


@dataclass(frozen=True)
class _Plan:
    config: Config
    scope: Scope
    limits: Limits
    deadline: float | None
    on_progress: OnProgress | None
    barriers: Barriers
    kept: Unfinished


def _go_on_until_done(domain: "_Domain", verdict: Verdict) -> None:
    """Run one domain; a lost connection is opened again, and what was read stays read."""
    pause, lost_at = FIRST_PAUSE_S, None
    while True:
        began = time.monotonic()
        try:
            domain.run(verdict)
            return
        except (ConnectionLost, DatabaseUnreachable, ConnectionBudgetExceeded) as error:
            # What cannot be reached at all when the run begins is told at once.
            if lost_at is None and not isinstance(error, ConnectionLost):
                raise
            now = time.monotonic()
            if lost_at is None or now - began > WENT_ON_S:
                # It went on for a while since the last time: this is another loss.
                pause, lost_at = FIRST_PAUSE_S, now
            if now + pause - lost_at > domain.plan.limits.lost_s:
                raise
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * PAUSE_GROWTH, LONGEST_PAUSE_S)


@dataclass(frozen=True)
class _Domain:
    """The run of one domain."""

    name: str
    selections: list[Selection]
    plan: _Plan
    invariants: list[tuple[str, InvariantConfig]]

    def run(self, verdict: Verdict) -> None:
        """Everything that is left of it; the verdict gets it all or nothing."""
        config, limits = self.plan.config, self.plan.limits
        sides = config.domains[self.name]
        old, new = config.database(sides.old), config.database(sides.new)
        with (
            open_both(old, new) as both,
            open_readers(old, limits.workers) as old_readers,
            open_readers(new, limits.workers) as new_readers,
        ):
            every = streams(config, self.name)
            reasons: list[str] = []
            gate = Gate(
                every, both, self.plan.barriers, limits.barrier_s, reasons, self.plan.deadline
            )
            gate.check()
            subjects = [
                subject
                for selection in self.selections
                for subject in subjects_of(selection, both, self.plan.scope)
            ]
            self.plan.kept.at(self.name, place(both, subjects))
            results = [MappingVerdict(subject.name) for subject in subjects]
            hashing = both.calibrate()
            calm = Calm((both.old, old.name), (both.new, new.name), config.verify, limits.share)
            passes = Passes(
                old_readers,
                new_readers,
                hashing,
                self.plan.on_progress,
                limits,
                calm,
                self.plan.deadline,
            )
            last = None
            judged: list[InvariantVerdict] = []
            if self._begun(gate):
                suspects = [
                    (subject, self._read(subject, result, passes, reasons))
                    for subject, result in zip(subjects, results, strict=True)
                ]
                if passes.skipped:
                    reasons.append(self._out_of_time(passes.skipped))
                reasons += self._settle(suspects, results, both, gate)
                judged = judge(
                    self.invariants,
                    both,
                    gate.ready,
                    limits.patience_s,
                    self.plan.deadline,
                )
                last = gate.passed() if not reasons else None
        verdict.invariants += judged
        verdict.hashing = hashing.value
        verdict.reasons += reasons
        verdict.mappings += results
        verdict.barriers |= self._positions(every, last)

    def _begun(self, gate: Gate) -> bool:
        """Whether there is a barrier before everything that was read: an earlier one, or now."""
        kept = self.plan.kept
        if all(stream.name in kept.b0 for stream in gate.streams):
            return gate.ready()
        first = gate.passed()
        if first is not None:
            kept.b0 |= first
            kept.save()
        return first is not None

    def _read(
        self, subject: Subject, result: MappingVerdict, passes: Passes, reasons: list[str]
    ) -> Suspects:
        """A mapping's suspects, from an earlier pass or from one that is made now."""
        read = self.plan.kept.read.get(subject.name)
        if read is None:
            try:
                read = passes.over(subject)
            except ComparisonFailed as error:
                # The other mappings can be told all the same.
                reasons.append(f"{subject.name}: {error}")
            if read is None:
                result.inconclusive += 1
                return {}
            self.plan.kept.keep(subject.name, read)
        result.rows_compared, result.inconclusive = read.rows, read.unexamined
        result.seconds = read.seconds
        return {subject.shape.canonical_key(key): key for key in read.suspects}

    def _settle(
        self,
        suspects: list[tuple[Subject, Suspects]],
        results: list[MappingVerdict],
        both: Both,
        gate: Gate,
    ) -> list[str]:
        """Look at all suspects again and write down what became of them; returns what failed."""
        limits = self.plan.limits
        settled = settle(
            suspects,
            both,
            gate.ready,
            limits.patience_s,
            self.plan.deadline,
        )
        for (subject, _), result, outcome in zip(suspects, results, settled, strict=True):
            read = self.plan.kept.read.get(subject.name)
            record(subject, result, outcome, read.at if read else None)
        return [problem for outcome in settled for problem in outcome.problems]

    def not_compared(self) -> list[MappingVerdict]:
        """Verdicts of mappings that could not be reached."""
        names = [name for selection in self.selections for name in selection.mappings]
        return [MappingVerdict(name, inconclusive=1) for name in names]

    def _out_of_time(self, skipped: list[str]) -> str:
        return (
            f"{self.name}: the time that was given ({self.plan.limits.timeout_s:g} s) was over "
            f"before {', '.join(skipped)} could be compared"
        )

    def _positions(
        self, every: list[Stream], last: dict[str, str] | None
    ) -> dict[str, dict[str, str | None]]:
        b0 = self.plan.kept.b0
        return {
            stream.name: {"b0": b0.get(stream.name), "b1": (last or {}).get(stream.name)}
            for stream in every
        }


def place(both: Both, subjects: list[Subject]) -> str:
    """A name for both databases, as far as they may be asked, and the columns compared."""
    parts: list[object] = []
    for connection in (both.old, both.new):
        with both.asking(connection):
            row = connection.execute(MAY_IDENTIFY).fetchone()
            if row and row[0]:
                row = connection.execute(IDENTITY).fetchone()
            parts.append(row)
    parts += [(s.name, s.source.columns, s.target.columns) for s in subjects]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def subjects_of(selection: Selection, both: Both, scope: Scope = WHOLE) -> list[Subject]:
    """The mappings of one selection, described on both sides. Raises what `prepare` raises."""
    stream = selection.stream
    source, target = ends(stream, both)
    with both.asking(source, target):
        return [
            prepare(stream, mapping.config, mapping.name, source, target, scope)
            for mapping in stream.mappings
            if mapping.name in selection.mappings
        ]
