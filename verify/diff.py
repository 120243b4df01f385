"""The run: a barrier, a pass over every mapping, suspects looked at again, a verdict."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import psycopg

from estate.config import Config
from estate.errors import ExitCode, SplitctlError
from migrator import barrier
from migrator.barrier import Marker, Passing
from migrator.mapping import Stream, streams
from verify.checksum import Hashing
from verify.recheck import Settled, settle
from verify.rows import Difference, RowDifference, Values
from verify.scan import ROWS_PER_RANGE, Scan, Suspects
from verify.sides import Both, Connection, open_both
from verify.subject import Selection, Subject, prepare, select
from verify.verdict import HotKey, MappingVerdict, Sample, Verdict, Word


class SyncNotEnabled(SplitctlError):
    """Sync of '{stream}' is not enabled in database '{database}', so nothing can be told about it.
    Nothing was changed."""

    hint = "splitctl sync enable {domain}"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Limits:
    """How far a run goes: sizes in rows, times in seconds."""

    rows_per_range: int = ROWS_PER_RANGE
    suspects: int = 10_000
    samples: int = 20
    patience_s: float = 30.0
    barrier_s: float = 30.0


@dataclass(frozen=True)
class Progress:
    """How far a mapping is; `str()` of it is a line for a person."""

    mapping: str
    ranges_done: int
    ranges_total: int
    rows: int
    rows_per_second: float
    eta_s: float | None
    suspects: int

    def __str__(self) -> str:
        eta = "" if self.eta_s is None else f", {self.eta_s:.0f} s left"
        return (
            f"{self.mapping}: {self.ranges_done} of {self.ranges_total} ranges, "
            f"{self.rows:,} rows, {self.rows_per_second:,.0f} rows/s{eta}, "
            f"{self.suspects:,} to look at again"
        )


OnProgress = Callable[[Progress], None]


class Barriers(Protocol):
    """Where the run asks whether sync has caught up; the shipped one asks the sync itself."""

    def check(self, target: Connection, stream: Stream) -> None:
        """Raise SyncNotEnabled when the stream cannot ever pass a barrier."""

    def mark(self, source: Connection, stream: str) -> Marker:
        """Write a marker on the stream's source."""

    def wait_for(self, target: Connection, marker: Marker, timeout_s: float) -> Passing:
        """Wait until the target has everything from before the marker."""


class SyncBarriers:
    """Barriers of the real sync."""

    def check(self, target: Connection, stream: Stream) -> None:
        """Raise SyncNotEnabled when the target knows no progress of this stream."""
        query = "SELECT 1 FROM splitctl_sync.progress WHERE stream = %s"
        try:
            known = target.execute(query, (stream.name,)).fetchone()
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            known = None
        if known is None:
            raise SyncNotEnabled(
                stream=stream.name, database=stream.target.name, domain=stream.domain.name
            )

    def mark(self, source: Connection, stream: str) -> Marker:
        """See migrator.barrier.mark."""
        return barrier.mark(source, stream)

    def wait_for(self, target: Connection, marker: Marker, timeout_s: float) -> Passing:
        """See migrator.barrier.wait_for."""
        return barrier.wait_for(target, marker, timeout_s)


@dataclass
class _Gate:
    """Barriers of both directions of one domain, always passed together.

    A key owned by the new side reaches the old one through the reverse stream, so a difference
    seen in the forward mapping means something only when both directions have nothing pending.
    """

    streams: list[Stream]
    both: Both
    barriers: Barriers
    timeout_s: float
    reasons: list[str]

    def check(self) -> None:
        """Raise SyncNotEnabled unless both directions are."""
        for stream in self.streams:
            target = ends(stream, self.both)[1]
            with self.both.asking(target):
                self.barriers.check(target, stream)

    def passed(self) -> dict[str, str] | None:
        """Wait for all; the positions by stream, or None with a reason noted."""
        started = time.monotonic()
        marked = []
        for stream in self.streams:
            source, target = ends(stream, self.both)
            with self.both.asking(source):
                marked.append((stream, target, self.barriers.mark(source, stream.name)))
        for stream, target, marker in marked:
            elapsed = time.monotonic() - started
            with self.both.asking(target):
                state = self.barriers.wait_for(target, marker, max(self.timeout_s - elapsed, 0))
            if not state.passed:
                self.reasons.append(
                    f"{stream.name}: the barrier at {marker.lsn} was not passed within "
                    f"{time.monotonic() - started:.1f} s ({state.pending:,} keys pending); "
                    "is `splitctl sync run` running?"
                )
                return None
        return {stream.name: marker.lsn for stream, _, marker in marked}


def ends(stream: Stream, both: Both) -> tuple[Connection, Connection]:
    """The connections to a stream's source and target."""
    return (both.old, both.new) if stream.direction == "forward" else (both.new, both.old)


def run(
    config: Config,
    domain: str | None = None,
    mappings: list[str] | None = None,
    *,
    on_progress: OnProgress | None = None,
    barriers: Barriers | None = None,
    limits: Limits | None = None,
) -> Verdict:
    """Compare both sides through the mapping queries, beside live writes.

    Equal means equal at some instant between the barriers b0 and b1 of each stream. Raises
    UnknownName, UnknownMapping, TableArchived, MappingNotComparable, SyncNotEnabled,
    DatabaseUnreachable, ConnectionLost or ComparisonFailed.
    """
    started = datetime.now(UTC)
    chosen = select(config, domain, mappings)
    verdict = Verdict("equal", started, started, {}, [])
    by_domain: dict[str, list[Selection]] = {}
    for selection in chosen:
        by_domain.setdefault(selection.stream.domain.name, []).append(selection)
    for name, selections in by_domain.items():
        _run_domain(
            config,
            name,
            selections,
            verdict,
            on_progress,
            barriers or SyncBarriers(),
            limits or Limits(),
        )
    verdict.finished_at = datetime.now(UTC)
    verdict.verdict = _word(verdict)
    return verdict


def _word(verdict: Verdict) -> Word:
    if any(mapping.different for mapping in verdict.mappings):
        return "different"
    if verdict.reasons or any(mapping.inconclusive for mapping in verdict.mappings):
        return "inconclusive"
    return "equal"


def _run_domain(
    config: Config,
    domain: str,
    selections: list[Selection],
    verdict: Verdict,
    on_progress: OnProgress | None,
    barriers: Barriers,
    limits: Limits,
) -> None:
    every = streams(config, domain)
    sides = config.domains[domain]
    with open_both(config.database(sides.old), config.database(sides.new)) as both:
        gate = _Gate(every, both, barriers, limits.barrier_s, verdict.reasons)
        gate.check()
        subjects = [s for selection in selections for s in subjects_of(selection, both)]
        results = [MappingVerdict(subject.name) for subject in subjects]
        verdict.mappings.extend(results)
        first = gate.passed()
        for stream in every:
            verdict.barriers[stream.name] = {"b0": (first or {}).get(stream.name), "b1": None}
        if first is None:
            return
        hashing = both.calibrate()
        verdict.hashing = hashing.value
        suspects = [
            (subject, _pass(subject, both, hashing, result, on_progress, limits))
            for subject, result in zip(subjects, results, strict=True)
        ]
        settled = settle(suspects, both, lambda: gate.passed() is not None, limits.patience_s)
        for subject, result, outcome in zip(subjects, results, settled, strict=True):
            _record(subject, result, outcome, limits.samples)
        last = gate.passed() if not verdict.reasons else None
        for stream in every:
            verdict.barriers[stream.name]["b1"] = (last or {}).get(stream.name)


def subjects_of(selection: Selection, both: Both) -> list[Subject]:
    """The mappings of one selection, described on both sides."""
    stream = selection.stream
    source, target = ends(stream, both)
    with both.asking(source, target):
        return [
            prepare(stream, mapping.config, mapping.name, source, target)
            for mapping in stream.mappings
            if mapping.name in selection.mappings
        ]


def _pass(
    subject: Subject,
    both: Both,
    hashing: Hashing,
    result: MappingVerdict,
    on_progress: OnProgress | None,
    limits: Limits,
) -> Suspects:
    started = time.monotonic()
    scan = Scan(subject, both, hashing, limits.rows_per_range, limits.suspects)
    suspects: Suspects = {}
    for scanned in scan.results():
        suspects.update(scanned.suspects)
        result.rows_compared += scanned.rows
        result.seconds = time.monotonic() - started
        if on_progress:
            rate = result.rows_compared / result.seconds if result.seconds else 0.0
            left = subject.estimated_rows - result.rows_compared
            eta = max(left, 0) / rate if rate and subject.estimated_rows else None
            on_progress(
                Progress(
                    subject.name,
                    scan.done,
                    scan.total,
                    result.rows_compared,
                    rate,
                    eta,
                    len(suspects),
                )
            )
    result.inconclusive += scan.unexamined
    return suspects


def _record(subject: Subject, result: MappingVerdict, settled: Settled, samples: int) -> None:
    columns: Counter[str] = Counter()
    for key, difference in settled.confirmed:
        if difference.what is Difference.MISMATCHED:
            result.mismatched += 1
            columns.update(list(difference.pairs))
        elif difference.what is Difference.MISSING:
            result.missing += 1
        else:
            result.extra += 1
        if len(result.samples) < samples:
            result.samples.extend(_samples(subject, key, difference))
    result.samples = result.samples[:samples]
    result.columns = dict(sorted(columns.items()))
    result.inconclusive += len(settled.inconclusive)
    for suspect in settled.inconclusive[:samples]:
        unequal = sorted({column for _, column in suspect.unequal if column is not None})
        result.hot_keys.append(HotKey(_key(subject, suspect.key), unequal, suspect.looks))


def _key(subject: Subject, key: Values) -> dict[str, str | None]:
    names = [column.name for column in subject.source.key]
    return dict(zip(names, key, strict=True))


def _samples(subject: Subject, key: Values, difference: RowDifference) -> list[Sample]:
    # The driving key alone does not name a row of a key with several; its own key is added.
    shown = _key(subject, key)
    if subject.shape.identity:
        names = [subject.shape.names[n] for n in subject.shape.identity]
        shown |= dict(zip(names, difference.identity, strict=True))
    forward = subject.direction == "forward"
    what: Literal["mismatched", "missing", "extra"] = difference.what.value
    if difference.what is Difference.MISMATCHED:
        return [
            Sample(shown, what, column, *(pair if forward else pair[::-1]))
            for column, pair in difference.pairs.items()
        ]
    side = 0 if difference.what is Difference.MISSING else 1
    row: dict[str, Any] = {column: pair[side] for column, pair in difference.pairs.items()}
    on_source = difference.what is Difference.MISSING
    on_old = on_source == forward
    return [Sample(shown, what, None, row if on_old else None, None if on_old else row)]
