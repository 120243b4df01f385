"""The verifier, verified: known differences are seeded, and each must be found, and no other.

Per mapping, a few of its own rows (made up where it has none) are laid out as relations of
literals on both sides. Each case changes the target's rows in one way and goes through the very
checksums and comparisons that a run uses. Nothing is written, not even a temporary table, so the
tool's ordinary role is enough.
"""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, LiteralString

from psycopg import sql

from estate.config import Config
from estate.errors import ExitCode
from verify import checksum, perturb, pgtypes
from verify.checksum import Column, Hashing
from verify.diff import subjects_of
from verify.reading import Whole
from verify.rows import Difference, by_key, compare
from verify.scan import ROWS_IN_HAND, Scan, read_keys
from verify.sides import Both, open_both
from verify.subject import Subject, TableArchived, select

SAMPLED_ROWS = 4
BASE_ROWS = 3
ENUM_LABELS: LiteralString = (
    "SELECT enumlabel::text FROM pg_enum WHERE enumtypid = %s ORDER BY enumsortorder"
)

Values = tuple[str | None, ...]
# What is wrong, the driving key by value, and the columns (empty for a whole row).
Finding = tuple[Difference, tuple[Hashable, ...], frozenset[str]]


@dataclass(frozen=True)
class Case:
    """Rows for both sides (the source's as the query gives them), and what must be found."""

    name: str
    source: list[Values]
    target: list[Values]
    expected: frozenset[Finding]
    whole_rows: bool = False


@dataclass(frozen=True)
class Missed:
    """A case in which the verifier did not find exactly what was seeded."""

    mapping: str
    case: str
    not_found: list[str]
    invented: list[str]


@dataclass
class SelfTest:
    """The result. `unexercised` columns are of a type for which no change could be made up."""

    result: Literal["pass", "fail"]
    mappings: int
    cases: int
    missed: list[Missed] = field(default_factory=list)
    unexercised: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def exit_code(self) -> ExitCode:
        """0 when everything was found, else 3."""
        return ExitCode.DONE if self.result == "pass" else ExitCode.CHECK_FAILED

    @property
    def next_command(self) -> str:
        """What to do with this result."""
        return "splitctl verify run" if self.result == "pass" else "splitctl doctor"

    def to_text(self) -> str:
        """A line for a person, then one per case that was missed."""
        lines = [
            f"{self.result.upper()}: {self.cases} known differences over {self.mappings} mappings,"
            f" {len(self.missed)} missed, in {self.seconds:.1f} s"
        ]
        for missed in self.missed:
            lines.append(f"  {missed.mapping}: {missed.case}")
            lines += [f"    not found: {what}" for what in missed.not_found]
            lines += [f"    found, but not there: {what}" for what in missed.invented]
        lines += [f"  not exercised: {column}" for column in self.unexercised]
        return "\n".join(lines)


def run(
    config: Config,
    domain: str | None = None,
    mappings: list[str] | None = None,
    *,
    on_progress: Callable[[str], None] | None = None,
) -> SelfTest:
    """Check the verifier on every mapping asked for; of all domains, on those with two sides.

    Raises what `diff.run` raises.
    """
    started = time.monotonic()
    report = SelfTest("pass", 0, 0)
    for selection in select(config, domain, mappings):
        sides = selection.stream.domain
        with open_both(config.database(sides.old), config.database(sides.new)) as both:
            hashing = both.calibrate()
            try:
                subjects = subjects_of(selection, both)
            except TableArchived:
                if domain is not None or mappings is not None:
                    raise
                continue
            for subject in subjects:
                before = report.cases
                check(subject, both, hashing, report)
                if on_progress:
                    on_progress(f"{subject.name}: {report.cases - before} known differences")
    report.seconds = time.monotonic() - started
    report.result = "fail" if report.missed else "pass"
    return report


def check(subject: Subject, both: Both, hashing: Hashing, report: SelfTest) -> None:
    """Run all cases of one mapping and add what was missed to the report."""
    report.mappings += 1
    labels = {
        column.name: _labels(subject, both, column, held)
        for column, held in zip(subject.source.columns, subject.target.columns, strict=True)
    }
    base = _Base(subject, labels, *_base_rows(subject, both, labels))
    for case in _cases(base):
        report.cases += 1
        found = _found(subject, both, hashing, case)
        if found != case.expected:
            report.missed.append(
                Missed(
                    subject.name,
                    case.name,
                    _shown(subject, case.expected - found),
                    _shown(subject, found - case.expected),
                )
            )
    report.unexercised += [f"{subject.name}.{name}" for name in base.unexercised]


def _labels(subject: Subject, both: Both, column: Column, held: Column) -> list[str]:
    """The labels that a value may have on both sides, when one of the types is an enum."""
    known: list[list[str]] = []
    for side, kind in ((subject.source, column.here), (subject.target, held.here)):
        if kind.oid >= pgtypes.FIRST_USER_OID:
            rows = side.connection.execute(ENUM_LABELS, (kind.oid,)).fetchall()
            known.append([str(row[0]) for row in rows])
    if not known:
        return []
    return [label for label in known[0] if all(label in labels for labels in known)]


@dataclass
class _Base:
    """Base rows in both forms: `raw` as the query gives them, `stored` as the target holds them."""

    subject: Subject
    labels: dict[str, list[str]]
    raw: list[Values]
    stored: list[Values]
    unexercised: list[str] = field(default_factory=list)

    def key(self, row: Values) -> tuple[Hashable, ...]:
        """The driving key of a stored row, by value."""
        names = self.subject.shape.names
        parts = tuple(row[names.index(column.name)] for column in self.subject.source.key)
        return self.subject.shape.canonical_key(parts)

    def target_with(self, **rows: Values) -> list[Values]:
        """The stored rows with some replaced: r0=..., r1=..."""
        return [rows.get(f"r{n}", row) for n, row in enumerate(self.stored)]


def _base_rows(
    subject: Subject, both: Both, labels: dict[str, list[str]]
) -> tuple[list[Values], list[Values]]:
    """At least BASE_ROWS rows with different driving keys, and no NULL in the first two."""
    raw = [pgtypes.as_text(sql.Identifier("r", c.name), c.here) for c in subject.source.columns]
    query = sql.SQL("SELECT {} FROM {} AS r LIMIT {}").format(
        checksum.COMMA.join(raw), subject.source.relation(), sql.Literal(SAMPLED_ROWS)
    )
    sampled = both.fetch(subject.source.connection, query)
    rows: list[Values] = []
    keys: set[Values] = set()
    made = (_made_up(subject, labels, n) for n in range(BASE_ROWS))
    for row in (*sampled, *made):
        whole = tuple(row)
        if len(rows) < 2:
            filled = _made_up(subject, labels, 7 + len(rows))
            whole = tuple(a if a is not None else b for a, b in zip(whole, filled, strict=True))
        names = subject.shape.names
        key = tuple(whole[names.index(c.name)] for c in subject.source.key)
        if key not in keys:
            keys.add(key)
            rows.append(whole)
    numbered = _query(subject.source.columns, rows, numbered=True)
    texts = [pgtypes.as_text(c.value, c.target) for c in subject.source.columns]
    query = sql.SQL("SELECT {} FROM ({}) AS r ORDER BY r.splitctl_n").format(
        checksum.COMMA.join(texts), numbered
    )
    return rows, [tuple(row) for row in both.fetch(subject.source.connection, query)]


def _made_up(subject: Subject, labels: dict[str, list[str]], n: int) -> Values:
    return tuple(
        perturb.invented(column.here, column.target, labels[column.name], n)
        for column in subject.source.columns
    )


def _query(
    columns: Sequence[Column], rows: Sequence[Values], *, numbered: bool = False
) -> sql.Composed:
    """The rows as literals, in place of a query or a table."""
    names = [sql.Identifier(column.name) for column in columns]
    if numbered:
        names.append(sql.Identifier("splitctl_n"))
    lines = []
    for n, row in enumerate(rows or [(None,) * len(columns)]):
        parts: list[sql.Composable] = [
            sql.SQL("{}::{}").format(sql.Literal(text), sql.SQL(column.here.bare))
            for column, text in zip(columns, row, strict=True)
        ]
        if numbered:
            parts.append(sql.Literal(n))
        lines.append(sql.SQL("({})").format(checksum.COMMA.join(parts)))
    return sql.SQL("SELECT * FROM (VALUES {}) AS v({}) WHERE {}").format(
        checksum.COMMA.join(lines), checksum.COMMA.join(names), sql.Literal(bool(rows))
    )


def _found(subject: Subject, both: Both, hashing: Hashing, case: Case) -> frozenset[Finding]:
    """What the run's own path finds between the case's rows."""
    seeded = replace(
        subject,
        source=replace(subject.source, query=_query(subject.source.columns, case.source), cut=None),
        target=replace(subject.target, query=_query(subject.target.columns, case.target), cut=None),
    )
    # Where whole rows differ, buckets are checked too.
    scan = Scan(seeded, Whole(both), hashing, rows_in_hand=0 if case.whole_rows else ROWS_IN_HAND)
    suspects = scan.run()
    groups = by_key(seeded.shape, *read_keys(seeded, both, suspects)) if suspects else {}
    return frozenset(
        (
            found.what,
            key,
            frozenset(found.pairs if found.what is Difference.MISMATCHED else ()),
        )
        for key, rows in groups.items()
        if key in suspects
        for found in compare(seeded.shape, rows)
    )


def _cases(base: _Base) -> Iterator[Case]:
    first, second = base.stored[0], base.stored[1]
    whole = frozenset[str]()
    missing = (Difference.MISSING, base.key(first), whole)
    extra = (Difference.EXTRA, base.key(first), whole)
    yield Case("nothing differs", base.raw, base.stored, frozenset())
    for name, raw, stored, finding in (
        ("a row is missing", base.raw, base.stored[1:], missing),
        ("a row is too many", base.raw[1:], base.stored, extra),
        ("a row is there twice", base.raw, [first, *base.stored], extra),
        ("the query gives a row twice", [base.raw[0], *base.raw], base.stored, missing),
    ):
        yield Case(name, raw, stored, frozenset({finding}), whole_rows=True)
    fixed = {c.name for c in base.subject.source.key}
    fixed |= {base.subject.shape.names[n] for n in base.subject.shape.identity}
    swapped_types: set[int] = set()
    for n, column in enumerate(base.subject.source.columns):
        taken = {row[n] for row in base.stored}
        other = perturb.changed(first[n], column.target, base.labels[column.name], taken)
        if other == first[n]:
            base.unexercised.append(column.name)
            continue
        row = (*first[:n], other, *first[n + 1 :])
        if column.name in fixed:
            expected = frozenset({missing, (Difference.EXTRA, base.key(row), whole)})
        else:
            expected = frozenset(
                {(Difference.MISMATCHED, base.key(first), frozenset({column.name}))}
            )
        yield Case(f"{column.name} changed", base.raw, base.target_with(r0=row), expected)
        # What a swap can slip through is a matter of the type: one column of each is enough.
        if column.name in fixed or column.target.oid in swapped_types:
            continue
        if first[n] != second[n]:
            swapped_types.add(column.target.oid)
            swapped = base.target_with(
                r0=(*first[:n], second[n], *first[n + 1 :]),
                r1=(*second[:n], first[n], *second[n + 1 :]),
            )
            pair = frozenset(
                (Difference.MISMATCHED, base.key(row), frozenset({column.name}))
                for row in (first, second)
            )
            yield Case(f"{column.name} swapped between two rows", base.raw, swapped, pair)
    yield from _special_cases(base, fixed)


@dataclass(frozen=True)
class _Special:
    name: str
    source: str | None
    target: str | None
    differs: bool = True


TEXT_CASES = (
    _Special("NULL against empty text", None, ""),
    _Special("empty text against NULL", "", None),
    _Special("letter case", "Abc d", "abc d"),
    _Special("a trailing space", "Abc d", "Abc d "),
)
JSON_CASES = (
    _Special("JSON key order", '{"a": 1, "b": [1, 2]}', '{"b": [1, 2], "a": 1}', differs=False),
    _Special("JSON number's scale", '{"a": 1.0}', '{"a": 1.00}', differs=False),
    _Special("JSON value", '{"a": 1, "b": 2}', '{"a": 1, "b": 3}'),
    _Special("JSON nesting", "[[1, 2]]", "[[1], 2]"),
    _Special("JSON number against text", '{"a": 1}', '{"a": "1"}'),
    _Special("JSON null against nothing", '{"a": null}', "{}"),
    _Special("JSON null against NULL", "null", None),
)
NUMBER_CASES = (_Special("a number's scale", "1.0", "1.00", differs=False),)
ZONE_CASES = (
    _Special("a time zone", "2024-02-28 10:00:00+00", "2024-02-28 10:00:00+01"),
    _Special("the same instant", "2024-02-28 10:00:00+00", "2024-02-28 11:00:00+01", differs=False),
)


def _special_cases(base: _Base, fixed: set[str]) -> Iterator[Case]:
    """Cases of one kind of type, each on the first free column of that kind."""
    json_types = frozenset({pgtypes.JSON, pgtypes.JSONB})
    kinds = (
        (TEXT_CASES, pgtypes.TEXTS, pgtypes.TEXTS),
        (JSON_CASES, json_types | pgtypes.TEXTS, json_types),
        (NUMBER_CASES, frozenset({pgtypes.NUMERIC}), frozenset({pgtypes.NUMERIC})),
        (
            ZONE_CASES,
            frozenset({pgtypes.TIMESTAMPTZ}),
            frozenset({pgtypes.TIMESTAMPTZ}),
        ),
    )
    for specials, sources, targets in kinds:
        for n, column in enumerate(base.subject.source.columns):
            if (
                column.name not in fixed
                and column.here.oid in sources
                and column.target.oid in targets
            ):
                for special in specials:
                    yield _special_case(base, n, column.name, special)
                break


def _special_case(base: _Base, n: int, name: str, special: _Special) -> Case:
    raw, stored = base.raw[0], base.stored[0]
    finding = (Difference.MISMATCHED, base.key(stored), frozenset({name}))
    return Case(
        f"{name}: {special.name}",
        [(*raw[:n], special.source, *raw[n + 1 :]), *base.raw[1:]],
        [(*stored[:n], special.target, *stored[n + 1 :]), *base.stored[1:]],
        frozenset({finding}) if special.differs else frozenset(),
    )


def _shown(subject: Subject, findings: frozenset[Finding]) -> list[str]:
    key_names = [column.name for column in subject.source.key]
    shown = []
    for what, key, columns in findings:
        place = ", ".join(f"{n}={v}" for n, v in zip(key_names, key, strict=True))
        shown.append(f"{what.value} row {place} {', '.join(sorted(columns))}".strip())
    return sorted(shown)
