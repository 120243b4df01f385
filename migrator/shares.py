"""Which numbers each side hands out now, and how many are left.

Two sequences are a pair when a mapping carries the column they feed. Identity columns have a
sequence too; GENERATED ALWAYS makes no difference to it.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from estate.catalog import Column, table
from estate.config import Config, Problem
from estate.connections import connect
from migrator.mapping import Side, Stream, columns, streams

Connection = psycopg.Connection[Any]
STEP = 2
REMAINDER: dict[Side, int] = {"old": 1, "new": 0}
SHARES: dict[Side, str] = {"old": "odd", "new": "even"}
# Beyond this share of its numbers, somebody has to widen the column before they are used up.
NEARLY_USED = 0.8
GREATEST = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}

SETTINGS: LiteralString = """
SELECT n.nspname, c.relname, s.seqincrement, s.seqmax, s.seqcycle
  FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE s.seqrelid = to_regclass(%s)
"""


# Whether this domain was ever enabled here: numbers are shared out before the first position.
SHARED: LiteralString = (
    "SELECT 1 FROM splitctl_sync.mapping_state WHERE split_part(stream, '.', 1) = %s"
)


@dataclass(frozen=True)
class Member:
    """One sequence: the side it counts on, and the column it feeds, of this type."""

    side: Side
    table: str
    column: str
    sequence: str
    type: str
    always: bool

    def __str__(self) -> str:
        return f"{self.side}.{self.table}.{self.column}"


@dataclass(frozen=True)
class Count:
    """A sequence as it is now; `following` is the number it hands out next."""

    name: sql.Identifier
    step: int
    limit: int
    following: int
    cycles: bool


@dataclass(frozen=True)
class Share:
    """What one side hands out for a column. `left` numbers remain until sequence or type end.

    `hands_out` is odd or even once it is shared out; None: anything. `problem` says how ids could
    meet, or end; empty when they cannot. `generated`: always, or by default. `widening` is the SQL
    that gives it more numbers.
    """

    column: str
    sequence: str
    hands_out: str | None
    step: int
    position: int
    left: int
    used: float
    generated: str
    widening: str
    problem: str = ""
    fix: str | None = None


def shares(config: Config, domain: str) -> list[Share]:
    """Every sequence that feeds a mapped column, on both sides. Changes nothing.

    Raises DatabaseUnreachable, MappingMismatch, TableMissing.
    """
    with sides(config, domain) as connections:
        return [
            share(member, read(connections[member.side], member.sequence), domain)
            for group in groups(config, domain, connections)
            for member in group
        ]


def check(config: Config, domain: str) -> list[Problem]:
    """Every sequence of mapped tables that could hand out a number of the other side, or none."""
    return [
        Problem(found.column, found.problem, "Its share is set by:", found.fix)
        for found in shares(config, domain)
        if found.problem
    ]


def share(member: Member, count: Count, domain: str) -> Share:
    """What a sequence hands out, and what is wrong with it. Pure."""
    limit = min(count.limit, GREATEST.get(member.type, count.limit))
    shared = _is_right(count, member.side)
    left = max((limit - count.following) // abs(count.step) + 1, 0)
    widening = (
        f"ALTER TABLE {sql.Identifier('public', member.table).as_string()}"
        f" ALTER COLUMN {sql.Identifier(member.column).as_string()} TYPE bigint;"
        f" ALTER SEQUENCE {count.name.as_string()} AS bigint;"
    )
    problem, fix = "", None
    name = member.sequence
    if not shared:
        problem = (
            f"{name} goes on at {count.following} by {count.step}, not with"
            f" {SHARES[member.side]} numbers by {STEP}: it may hand out numbers of the other side"
        )
        fix = f"splitctl sync enable {domain}"
    elif count.cycles:
        problem = f"{name} begins anew at its end, with numbers that were used"
        fix = f"ALTER SEQUENCE {count.name.as_string()} NO CYCLE;"
    elif not left:
        problem = f"{name} has no number left below {limit}"
        fix = widening
    return Share(
        column=str(member),
        sequence=name,
        hands_out=SHARES[member.side] if shared else None,
        step=count.step,
        position=count.following,
        left=left,
        used=round(min(max(count.following / limit, 0.0), 1.0), 4),
        generated="always" if member.always else "by default",
        widening=widening,
        problem=problem,
        fix=fix,
    )


@contextmanager
def sides(config: Config, domain: str) -> Iterator[dict[Side, Connection]]:
    names = config.domains[domain]
    with ExitStack() as stack:
        yield {
            "old": stack.enter_context(connect(config.database(names.old), "sequences")),
            "new": stack.enter_context(connect(config.database(names.new), "sequences")),
        }


def groups(
    config: Config, domain: str, connections: dict[Side, Connection]
) -> list[tuple[Member, ...]]:
    """Sequences that count for the same logical column; a lone one is shared out all the same.

    Two columns are the same when each one's table is a source of the other one's mapping and they
    have the same name, or are the only carried ones.
    """
    both = {stream.direction: stream for stream in streams(config, domain)}
    new = _carried(connections["old"], connections["new"], both["forward"], "new")
    old = _carried(connections["new"], connections["old"], both["reverse"], "old")
    groups: list[tuple[Member, ...]] = []
    paired: set[Member] = set()
    for member, origins in new.items():
        near = [
            other
            for other, sources in old.items()
            if other.table in origins and member.table in sources and other not in paired
        ]
        same_name = [other for other in near if other.column == member.column]
        match = same_name or (near if len(near) == 1 else [])
        groups.append((match[0], member) if match else (member,))
        paired.update(match[:1])
    return groups + [(member,) for member in old if member not in paired]


def _carried(
    source: Connection, target: Connection, stream: Stream, side: Side
) -> dict[Member, set[str]]:
    """Sequence-fed columns that the mappings write, with the base tables they come from."""
    found = {}
    for mapping in stream.mappings:
        found_table = table(target, mapping.target)
        written = set(columns(source, mapping))
        for column, sequence in found_table.sequences.items():
            if column in written:
                member = _member(side, mapping.target, found_table.column(column), sequence)
                found[member] = set(mapping.config.sources)
    return found


def _member(side: Side, table_name: str, column: Column | None, sequence: str) -> Member:
    assert column is not None, sequence
    return Member(side, table_name, column.name, sequence, column.type, column.always)


def is_right(connection: Connection, member: Member) -> bool:
    """Whether it hands out its side's numbers, and only those."""
    return _is_right(read(connection, member.sequence), member.side)


def _is_right(count: Count, side: Side) -> bool:
    return count.step == STEP and count.following % STEP == REMAINDER[side]


def read(connection: Connection, sequence: str) -> Count:
    """A sequence as it is now."""
    row = connection.execute(SETTINGS, (sequence,)).fetchone()
    assert row is not None, sequence
    name = sql.Identifier(str(row[0]), str(row[1]))
    step, limit = int(row[2]), int(row[3])
    query = sql.SQL("SELECT last_value, is_called FROM {}").format(name)
    value = connection.execute(query).fetchone()
    assert value is not None
    last, called = int(value[0]), bool(value[1])
    following = last + step if called else last
    return Count(name, step, limit, following, bool(row[4]))
