"""What must be true of the data whatever the mappings say: SQL that gives the rows which break it.

One side by itself, or both sides against each other. What breaks it at one look may be on its way:
sync writes a parent and its children in transactions of their own. It is broken when the same rows
break it at LOOKS barriers in a row.
"""

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from psycopg import sql

from estate.config import InvariantConfig
from estate.errors import ExitCode
from verify.sides import Both, ComparisonFailed, Connection
from verify.verdict import InvariantVerdict, Verdict, told

LOOKS = 3
FIRST_PAUSE_S = 0.1
PAUSE_GROWTH = 2.0
LONGEST_PAUSE_S = 5.0
# Of one invariant. More that break it are counted as so many; more parts cannot be compared.
MOST_ROWS = 10_000
MOST_PARTS = 100_000

# What names a row that breaks an invariant; and what breaks it there, on either side.
Name = tuple[str, str]
Row = dict[str, Any]
Broken = dict[Name, Row]


class NotComparable(Exception):
    """What two queries give cannot be told row by row."""


@dataclass(frozen=True)
class Report:
    """What `splitctl verify invariants` tells: a verdict without mappings."""

    verdict: Verdict

    @property
    def exit_code(self) -> ExitCode:
        """0 all hold, 3 one is broken, 4 inconclusive."""
        return self.verdict.exit_code

    @property
    def next_command(self) -> str:
        """What to do with it."""
        return self.verdict.next_command

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "verdict": self.verdict.verdict,
            "reasons": self.verdict.reasons,
            "invariants": [item.to_json() for item in self.verdict.invariants],
        }

    def to_text(self) -> str:
        """A line for each, then the rows that break it."""
        told_ones = [line for item in self.verdict.invariants for line in told(item)]
        reasons = [f"  {reason}" for reason in self.verdict.reasons]
        return "\n".join([*reasons, *(told_ones or ["The configuration names no invariants."])])


@dataclass
class _Asked:
    """One invariant, and the rows that broke it at each look since some look, with how many."""

    name: str
    config: InvariantConfig
    runs: dict[Name, tuple[Row, int]] = field(default_factory=dict)
    settled: bool = False
    asked: bool = False
    problem: str | None = None
    seconds: float = 0.0

    def ask(self, both: Both, number: int) -> None:
        """Look once more. Raises ConnectionLost."""
        began = time.monotonic()
        try:
            self.look(_broken(self.config, both), number)
            self.asked = True
        except (ComparisonFailed, NotComparable) as error:
            self.runs, self.settled, self.problem = {}, True, str(error)
        self.seconds += time.monotonic() - began

    def verdict(self) -> InvariantVerdict:
        """What is known by now."""
        proved = [row for row, times in self.runs.values() if times >= LOOKS]
        return InvariantVerdict(
            self.name,
            asked=self.asked,
            broken=len(proved),
            moving=len(self.runs) - len(proved),
            rows=proved,
            problem=self.problem,
            seconds=self.seconds,
        )

    def look(self, found: Broken, number: int) -> None:
        """Note what broke it at this look, of which the first has the number 1.

        What did not at one of them, held then; it is not looked for any more.
        """
        before = self.runs
        self.runs = {}
        for name, row in found.items():
            if name in before or number == 1:
                last, times = before.get(name, (row, 0))
                self.runs[name] = (row, times + 1 if last == row else 1)
        self.settled = all(times >= LOOKS for _, times in self.runs.values())


def judge(
    invariants: Iterable[tuple[str, InvariantConfig]],
    both: Both,
    barrier: Callable[[], bool],
    patience_s: float,
    deadline: float | None = None,
) -> list[InvariantVerdict]:
    """Ask each invariant until it holds, is broken, or patience ends; in the order given.

    `barrier` waits until everything written before its call was carried, and says whether that
    came true: without it nothing is told. What a database refuses to answer is told of that
    invariant alone. Raises ConnectionLost.
    """
    asked = [_Asked(name, config) for name, config in invariants]
    started = time.monotonic()
    looks, pause = 0, FIRST_PAUSE_S
    unknown: str | None = None
    while open_ := [item for item in asked if not item.settled]:
        now = time.monotonic()
        if deadline is not None and now > deadline:
            unknown = "the time that was given was over"
            break
        if looks >= LOOKS and now - started > patience_s:
            break
        if looks:
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(pause * PAUSE_GROWTH, LONGEST_PAUSE_S)
        if not barrier():
            unknown = "sync was not seen to have caught up"
            break
        looks += 1
        for item in open_:
            item.ask(both, looks)
    for item in asked:
        if not item.settled and item.problem is None:
            item.problem = unknown
    return [item.verdict() for item in asked]


def _broken(config: InvariantConfig, both: Both) -> Broken:
    """What breaks it now. Raises ConnectionLost, ComparisonFailed or NotComparable."""
    sides = {"old": both.old, "new": both.new}
    if config.query is not None:
        return {
            name: {"side": side, **row}
            for side in config.sides
            for name, row in _named(side, _rows(both, sides[side], config.text("query"), MOST_ROWS))
        }
    # At once: what is written between two looks would differ.
    old, new = both.together(
        lambda: _rows(both, both.old, config.text("old"), MOST_PARTS + 1),
        lambda: _rows(both, both.new, config.text("new"), MOST_PARTS + 1),
    )
    named = _by_first(old, "old"), _by_first(new, "new")
    columns = {tuple(row) for rows in (old, new) for row in rows}
    if len(columns) > 1:
        raise NotComparable("its two queries give columns of different names")
    return {
        ("both", name): {"old": named[0].get(name), "new": named[1].get(name)}
        for name in sorted(named[0].keys() | named[1].keys())
        if named[0].get(name) != named[1].get(name)
    }


def _named(side: str, rows: list[Row]) -> Iterator[tuple[Name, Row]]:
    """Rows by their first column, several of one name in the order of what they hold.

    Not by all they hold: a row that is broken otherwise at each look was never sound.
    """
    seen: Counter[str] = Counter()
    for row in sorted(rows, key=lambda row: json.dumps(row, default=str)):
        first = str(next(iter(row.values()), None))
        seen[first] += 1
        yield (side, f"{first} {seen[first]}"), row


def _by_first(rows: list[Row], side: str) -> dict[str, Row]:
    if len(rows) > MOST_PARTS:
        raise NotComparable(f"its query gives more than {MOST_PARTS:,} rows on the {side} side")
    named = {str(next(iter(row.values()), None)): row for row in rows}
    if len(named) < len(rows):
        raise NotComparable(f"its first column names several rows on the {side} side")
    return named


def _rows(both: Both, connection: Connection, text: str, most: int) -> list[Row]:
    """The first rows of a query, in a transaction that can only read.

    As JSON, so that there is no value (an infinite date, say) that Python could not hold.
    """
    query = sql.SQL("SELECT row_to_json(q)::text FROM (\n{}\n) AS q LIMIT {}").format(
        sql.SQL(text), sql.Literal(most)
    )
    with both.asking(connection), connection.transaction():
        connection.execute("SET TRANSACTION READ ONLY")
        # It may read whole tables; the run has a deadline of its own.
        connection.execute("SET LOCAL statement_timeout = 0")
        # The same rows first at every look.
        connection.execute("SET LOCAL synchronize_seqscans = off")
        # In binary form: a statement that holds another is refused.
        found = connection.execute(query, binary=True).fetchall()
    return [json.loads(row[0], parse_float=Decimal, object_pairs_hook=_row) for row in found]


def _row(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise NotComparable("two of its columns have one name")
    return row
