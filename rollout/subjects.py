"""Subjects: what customers began, and how it ended; counted by a gate's SQL inside a database.

A gate's query gives one row per subject: `route` (the customer's stable id, as text), `at` (when it
began) and, by kind, `succeeded_at` or `done_at`, which may be NULL. Where cohorts are compared,
each customer counts once, by the first subject that lies in the window: what one customer does
twice is not independent.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, LiteralString, Protocol

import psycopg
from psycopg import sql

from estate.config import BUCKETS, Config, GateConfig, Problem
from estate.connections import connect
from estate.errors import ExitCode, SplitctlError, in_one_line
from migrator.ownership import bucket
from rollout.statistics import Sample

PURPOSE = "gates"
# The column that tells the end of a subject, where the kind looks at that.
OUTCOME = {"conversion": "succeeded_at", "duration": "done_at"}
TEXTS, TIMES = ("text", "varchar", "bpchar"), ("timestamptz",)

LIMITS: LiteralString = """
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;
SET LOCAL statement_timeout = '5s'; SET LOCAL jit = off;
SET LOCAL max_parallel_workers_per_gather = 0
"""
SLICES: LiteralString = """
SELECT floor(extract(epoch FROM f.at - {start}) / {seconds})::int,
       int4range({low}, {high}) @> splitctl_sync.bucket(f.route),
       count(*), count(*) FILTER (WHERE f.good)
  FROM (SELECT DISTINCT ON (q.route) q.route, q.at, {good} AS good
          FROM (
{query}
               ) AS q
         WHERE q.at >= {start} AND q.at < {upto} AND q.route IS NOT NULL
         ORDER BY {order}) AS f
 WHERE f.at >= {since}
 GROUP BY 1, 2 ORDER BY 1, 2
"""
GOOD: LiteralString = "coalesce(q.succeeded_at <= q.at + {after}, false)"
DUE: LiteralString = """
SELECT count(*), count(*) FILTER (WHERE q.done_at <= q.at + {within})
  FROM (
{query}
       ) AS q
 WHERE q.at >= {since} AND q.at < {upto}
   AND int4range({low}, {high}) @> splitctl_sync.bucket(q.route)
"""
COLUMNS: LiteralString = "SELECT * FROM (\n{query}\n) AS q LIMIT 0"
ANY: LiteralString = """
SELECT EXISTS (SELECT FROM (
{query}
) AS q WHERE q.at >= now() - {baseline} AND q.{column} IS NOT NULL)
"""


class GateQueryFailed(SplitctlError):
    """The query of gate '{gate}' ({file}) could not be asked on database '{database}': {reason}."""

    hint = "splitctl doctor"
    exit_code = ExitCode.INCONCLUSIVE


@dataclass(frozen=True)
class Span:
    """Subjects that began from `since` on and before `upto`; firsts are told since `start`.

    Slices of so many `seconds` are numbered from `start`.
    """

    start: datetime
    since: datetime
    upto: datetime
    seconds: float

    def earlier(self, by: timedelta) -> "Span":
        """The same span so long before."""
        return Span(self.start - by, self.since - by, self.upto - by, self.seconds)


@dataclass(frozen=True)
class Cohort:
    """The customers whose bucket is in [low, high)."""

    low: int
    high: int = BUCKETS


@dataclass(frozen=True)
class Slice:
    """Customers of a slice, inside of the cohort or outside; `good`: who succeeded in time."""

    number: int
    inside: bool
    sample: Sample


class Subjects(Protocol):
    """Where subjects are counted. Every method may raise a SplitctlError."""

    def slices(self, gate: GateConfig, domain: str, span: Span, cohort: Cohort) -> list[Slice]:
        """Customers by their first subject in the span."""

    def due(
        self, gate: GateConfig, domain: str, since: datetime, upto: datetime, cohort: Cohort
    ) -> Sample:
        """The cohort's subjects that began in [since, upto), and how many were done in time."""

    def problems(self, domain: str) -> list[Problem]:
        """What keeps a domain's gates from ever failing or passing."""


class DatabaseSubjects:
    """Asks the databases, in transactions that can only read, five seconds for a statement."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def slices(self, gate: GateConfig, domain: str, span: Span, cohort: Cohort) -> list[Slice]:
        """Customers by their first subject in the span."""
        ends = gate.kind == "conversion"
        good = sql.SQL(GOOD if ends else "false").format(after=sql.Literal(gate.after))
        order = sql.SQL("q.route, q.at, q.succeeded_at" if ends else "q.route, q.at")
        question = sql.SQL(SLICES).format(
            query=sql.SQL(gate.sql),
            good=good,
            order=order,
            start=sql.Literal(span.start),
            since=sql.Literal(span.since),
            upto=sql.Literal(span.upto),
            seconds=sql.Literal(span.seconds),
            low=sql.Literal(cohort.low),
            high=sql.Literal(cohort.high),
        )
        with self._on(gate, domain) as connection:
            rows = connection.execute(question, binary=True).fetchall()
        return [Slice(row[0], row[1], Sample(row[2], row[3])) for row in rows]

    def due(
        self, gate: GateConfig, domain: str, since: datetime, upto: datetime, cohort: Cohort
    ) -> Sample:
        """The cohort's subjects that began in [since, upto), and how many were done in time."""
        question = sql.SQL(DUE).format(
            query=sql.SQL(gate.sql),
            within=sql.Literal(gate.within),
            since=sql.Literal(since),
            upto=sql.Literal(upto),
            low=sql.Literal(cohort.low),
            high=sql.Literal(cohort.high),
        )
        with self._on(gate, domain) as connection:
            row = connection.execute(question, binary=True).fetchone()
        return Sample(*row) if row else Sample()

    def problems(self, domain: str) -> list[Problem]:
        """What keeps a domain's gates from ever failing or passing: columns, and no data."""
        return [
            problem
            for gate in self._config.gates
            if gate.from_data and domain in (gate.domains or [domain])
            for problem in self._problems(gate, domain)
        ]

    def _problems(self, gate: GateConfig, domain: str) -> Iterator[Problem]:
        key = f"gates.{gate.name}"
        try:
            with self._on(gate, domain) as connection:
                wrong = _wrong_columns(gate, connection)
                lacking = None if wrong else self._lacking(gate, connection)
        except SplitctlError as error:
            yield Problem(key, str(error).rstrip("."), "Mend the query, or take the gate out.")
            return
        for reason in wrong:
            remedy = f"Give it in {gate.query}."
            yield Problem(key, reason, remedy)
        if lacking:
            remedy = f"Mend {gate.query}, or take the gate out."
            yield Problem(key, f"{lacking}: it could never tell", remedy)

    @staticmethod
    def _lacking(gate: GateConfig, connection: psycopg.Connection[Any]) -> str | None:
        """Why the gate would find nothing, from what the data of late hold."""
        back = max(gate.baseline, 2 * gate.behind)
        for column in ("at", *([OUTCOME[gate.kind]] if gate.kind in OUTCOME else [])):
            question = sql.SQL(ANY).format(
                query=sql.SQL(gate.sql),
                baseline=sql.Literal(back),
                column=sql.Identifier(column),
            )
            if connection.execute(question, binary=True).fetchone() != (True,):
                return f"no row with {column} in the last {back.total_seconds() / 3600:g} h"
        return None

    @contextmanager
    def _on(self, gate: GateConfig, domain: str) -> Iterator[psycopg.Connection[Any]]:
        """A transaction on the gate's database. Raises GateQueryFailed, DatabaseUnreachable."""
        settings = self._config.domain(domain)
        database = self._config.database(settings.new if gate.side == "new" else settings.old)
        with connect(database, PURPOSE) as connection:
            try:
                with connection.transaction():
                    connection.execute(LIMITS)
                    yield connection
            except psycopg.Error as error:
                file = gate.query.name if gate.query else ""
                raise GateQueryFailed(
                    gate=gate.name, file=file, database=database.name, reason=in_one_line(error)
                ) from error


def _wrong_columns(gate: GateConfig, connection: psycopg.Connection[Any]) -> list[str]:
    question = sql.SQL(COLUMNS).format(query=sql.SQL(gate.sql))
    described = connection.execute(question, binary=True).description or []
    found = {column.name: column.type_display for column in described}
    wanted = {"route": TEXTS, "at": TIMES}
    if gate.kind in OUTCOME:
        wanted[OUTCOME[gate.kind]] = TIMES
    wrong = []
    for name, types in wanted.items():
        given = found.get(name)
        if given is None:
            wrong.append(f"{gate.query} gives no column {name}")
        elif given.partition("(")[0] not in types:
            wrong.append(f"{gate.query} gives {name} as {given}, not as {types[0]}")
    return wrong


@dataclass(frozen=True)
class Subject:
    """One row of a gate's query; `ended` is succeeded_at or done_at."""

    route: str
    at: datetime
    ended: datetime | None = None


@dataclass
class InMemorySubjects:
    """The same promises for rows in memory. `away` is raised instead of an answer."""

    rows: list[Subject] = field(default_factory=list)
    away: SplitctlError | None = None
    wrong: list[Problem] = field(default_factory=list)

    def slices(self, gate: GateConfig, domain: str, span: Span, cohort: Cohort) -> list[Slice]:
        """Customers by their first subject in the span."""
        del domain
        found: dict[tuple[int, bool], Sample] = {}
        for first in _firsts(self._between(span.start, span.upto)):
            if first.at < span.since:
                continue
            inside = cohort.low <= bucket(first.route) < cohort.high
            good = first.ended is not None and first.ended <= first.at + gate.after
            number = int((first.at - span.start).total_seconds() // span.seconds)
            before = found.get((number, inside), Sample())
            found[number, inside] = before + Sample(1, int(good and gate.kind == "conversion"))
        return [Slice(*key, sample) for key, sample in sorted(found.items())]

    def due(
        self, gate: GateConfig, domain: str, since: datetime, upto: datetime, cohort: Cohort
    ) -> Sample:
        """The cohort's subjects that began in [since, upto), and how many were done in time."""
        del domain
        within = gate.within or timedelta()
        mine = [
            row
            for row in self._between(since, upto)
            if cohort.low <= bucket(row.route) < cohort.high
        ]
        done = [row for row in mine if row.ended is not None and row.ended <= row.at + within]
        return Sample(len(mine), len(done))

    def problems(self, domain: str) -> list[Problem]:
        """What was set."""
        del domain
        return list(self.wrong)

    def _between(self, since: datetime, upto: datetime) -> list[Subject]:
        if self.away is not None:
            raise self.away
        return [row for row in self.rows if since <= row.at < upto]


def _firsts(rows: Iterable[Subject]) -> list[Subject]:
    """Each customer's first subject; of several at one moment that which ended first."""
    firsts: dict[str, Subject] = {}
    for row in sorted(rows, key=lambda row: (row.at, row.ended is None, row.ended or row.at)):
        firsts.setdefault(row.route, row)
    return list(firsts.values())
