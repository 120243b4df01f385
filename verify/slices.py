"""Which relation may be read slice by slice, and how: blocks of one table, whose sums add up.

A query's rows may be cut by the blocks of a table if each of them comes from exactly one row of
it, whatever its other rows are. Whether that is so is told by the server's own plan of the query:
the table is scanned once, nothing above it groups, limits or numbers rows, and no outer join could
make up a row where the table has none in these blocks.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

BLOCK_BYTES = 8192
# A first slice of 4 MB takes some 50 ms.
FIRST_BLOCKS = 512
SLICE_S = 0.5
GROWTH = 4.0
# What each slice does before its first row (a hash of another table, say) is done again for each:
# it may take so much of the whole.
SHARE_OF_STARTS = 0.1
MOST_SLICES = 100_000

# Of a partitioned table the largest partition: each slice reads those blocks of every one.
SIZES: LiteralString = """
SELECT t.name, greatest(1, max(pg_relation_size(c.oid)) / %s)::bigint
  FROM unnest(%s::text[]) AS t(name),
       LATERAL (SELECT to_regclass(format('public.%%I', t.name)) AS oid) AS r,
       LATERAL (SELECT r.oid UNION SELECT relid FROM pg_partition_tree(r.oid)) AS c
 WHERE r.oid IS NOT NULL
 GROUP BY t.name
"""
# Nodes under which one row may come from several, or from none.
GROUPING = frozenset({
    "Aggregate", "Group", "WindowAgg", "Unique", "SetOp", "Limit", "LockRows", "CTE Scan",
    "Recursive Union", "WorkTable Scan", "Tid Scan", "Sample Scan", "BitmapAnd", "BitmapOr",
})  # fmt: skip
# On which side of a join each row of the result stems from one row of the table.
SOUND_SIDES = {
    "Inner": ("Outer", "Inner"),
    "Left": ("Outer",),
    "Right": ("Inner",),
    "Semi": ("Outer",),
    "Anti": ("Outer",),
    "Right Semi": ("Inner",),
    "Right Anti": ("Inner",),
}
APPENDING = frozenset({"Append", "Merge Append"})
LITERAL = re.compile(r"'(?:[^']|'')*'")
CTID = re.compile(r"\bctid\b")
SLICE_NODE = "Tid Range Scan"
Plan = dict[str, Any]


@dataclass(frozen=True)
class Slice:
    """Blocks `first` <= b < `end` of a table; None is no end."""

    first: int
    end: int | None


@dataclass(frozen=True)
class Cut:
    """How a relation may be cut: by the blocks of a table, into no more than so many slices."""

    table: str
    blocks: int
    slices: int


def relation(query: sql.Composable, table: str | None, within: Slice | None) -> sql.Composable:
    """The query as it stands in FROM; where a slice is given, it sees only that of the table."""
    if table is None or within is None:
        return sql.SQL("(\n{}\n)").format(query)
    name = sql.Identifier(table)
    conditions = [sql.SQL("ctid >= {}::tid").format(sql.Literal(f"({within.first},0)"))]
    if within.end is not None:
        conditions.append(sql.SQL("ctid < {}::tid").format(sql.Literal(f"({within.end},0)")))
    return sql.SQL(
        "(WITH {} AS NOT MATERIALIZED (SELECT * FROM {} WHERE {}) SELECT * FROM (\n{}\n) AS q)"
    ).format(name, sql.Identifier("public", table), sql.SQL(" AND ").join(conditions), query)


def cut(
    connection: psycopg.Connection[Any],
    query: sql.Composable,
    columns: Sequence[str],
    condition: sql.Composable | None,
    tables: Sequence[str],
) -> Cut | None:
    """How these columns of a query's rows may be read in slices, by the largest table that allows.

    `condition` is what is asked of a row of it, called r. None if by none of these tables. Raises
    psycopg.Error when the server cannot plan the query at all.
    """
    found = connection.execute(SIZES, (BLOCK_BYTES, list(tables))).fetchall()
    sizes = {str(name): int(blocks) for name, blocks in found}
    whole = explained(connection, relation(query, None, None), columns, condition)
    for table in sorted(sizes, key=lambda name: -sizes[name]):
        part = relation(query, table, Slice(0, 1))
        try:
            # A savepoint, in case there is a transaction: this may not be allowed.
            with connection.transaction():
                plan = explained(connection, part, columns, condition)
        except (psycopg.errors.SyntaxErrorOrAccessRuleViolation, psycopg.NotSupportedError):
            continue
        # Other tables than in the whole: ONLY, or a name that was meant for something else.
        if sliced(plan) and _tables(plan) == _tables(whole):
            start = max(float(plan["Total Cost"]), 1.0)
            most = SHARE_OF_STARTS * float(whole["Total Cost"]) / start
            return Cut(table, sizes[table], max(1, min(int(most), MOST_SLICES)))
    return None


def explained(
    connection: psycopg.Connection[Any],
    what: sql.Composable,
    columns: Sequence[str],
    condition: sql.Composable | None,
) -> Plan:
    """The server's plan of a relation's rows. Raises psycopg.Error."""
    # Binary: a condition that holds another statement is refused.
    cursor = connection.execute(
        sql.SQL("EXPLAIN (VERBOSE, FORMAT JSON) SELECT {} FROM {} AS r WHERE {}").format(
            sql.SQL(", ").join(sql.Identifier("r", name) for name in columns),
            what,
            sql.SQL("true") if condition is None else condition,
        ),
        binary=True,
    )
    row = cursor.fetchone()
    assert row is not None
    told = json.loads(row[0]) if isinstance(row[0], str | bytes) else row[0]
    return dict(told[0]["Plan"])


def _tables(plan: Plan) -> Counter[tuple[str, str]]:
    """Every table that is scanned, with its schema, as often as it is."""
    found: Counter[tuple[str, str]] = Counter()
    if "Relation Name" in plan:
        found[str(plan.get("Schema")), str(plan["Relation Name"])] += 1
    for child in plan.get("Plans", ()):
        found += _tables(child)
    return found


def sliced(plan: Plan) -> bool:
    """Whether the plan reads one table by blocks, and each row of its result from one row of it."""
    scans = list(_scans(plan, sound=True))
    return any(by_range for by_range, _ in scans) and all(sound for _, sound in scans)


def _scans(plan: Plan, *, sound: bool) -> Iterator[tuple[bool, bool]]:
    """Each scan of only some blocks: whether it reads no others, and whether all above keeps its
    rows apart."""
    if "Relation Name" in plan:
        conditions = (plan.get(kind, "") for kind in ("Filter", "TID Cond", "Recheck Cond"))
        if any(CTID.search(LITERAL.sub("", str(condition))) for condition in conditions):
            # A small partition is read whole for each slice, which its cost tells.
            yield plan["Node Type"] == SLICE_NODE, sound
    children = plan.get("Plans", ())
    cut_ones = [bool(list(_scans(child, sound=True))) for child in children]
    if plan["Node Type"] in APPENDING:
        # What is added to a slice without being cut itself would be added to each of them.
        sound = sound and all(cut_ones)
    elif sum(cut_ones) > 1:
        # Two scans that meet are two references to the table: only equal blocks would meet.
        sound = False
    for child in children:
        yield from _scans(child, sound=sound and _keeps_apart(plan, child))


def _keeps_apart(plan: Plan, child: Plan) -> bool:
    relationship = str(child.get("Parent Relationship", ""))
    if plan["Node Type"] in GROUPING or relationship in ("SubPlan", "InitPlan"):
        return False
    join = plan.get("Join Type")
    return join is None or relationship in SOUND_SIDES.get(str(join), ())


class Slicing:
    """The slices of one side, in turn, each as large as takes SLICE_S. Not for several threads."""

    def __init__(self, blocks: int, most: int) -> None:
        self._blocks, self._least = blocks, math.ceil(blocks / most)
        self._next: int | None = 0
        self._size = max(self._least, FIRST_BLOCKS)

    def take(self) -> Slice | None:
        """The next slice; None when there is none. The last one has no end: the table may grow."""
        if self._next is None:
            return None
        first, end = self._next, self._next + self._size
        self._next = None if end >= self._blocks else end
        return Slice(first, self._next)

    def took(self, part: Slice, seconds: float) -> None:
        """That slice took so long."""
        if part.end is not None:
            wanted = (part.end - part.first) * SLICE_S / max(seconds, 0.001)
            self._size = max(self._least, int(min(wanted, self._size * GROWTH)), 1)
