"""The library's programs: how each side writes, and what each side holds.

Both sides are told the same acts; each writes them into its own tables. `held` reads a side back
into one common form, so that it can be compared with what readers were promised.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import date
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

Act = Mapping[str, Any]
Write = Callable[[psycopg.AsyncConnection[Any], Act], Awaitable[None]]
LoanKey = tuple[str, int]

# Statements by act. Each must find its row: none found is an error.
OLD: dict[str, tuple[LiteralString, ...]] = {
    "join": (
        "INSERT INTO readers (reader_no, name, email, prefs)"
        " VALUES (%(reader)s, %(name)s, %(email)s, %(prefs)s)",
    ),
    "prefer": (
        "UPDATE readers SET prefs = %(prefs)s, email = %(email)s WHERE reader_no = %(reader)s",
    ),
    "lend": (
        "INSERT INTO loans (branch_code, loan_no, reader_no, title, due, details)"
        " VALUES (%(branch)s, %(number)s, %(reader)s, %(title)s, %(due)s, %(details)s)",
    ),
    "renew": (
        "UPDATE loans SET due = %(due)s WHERE (branch_code, loan_no) = (%(branch)s, %(number)s)",
        "INSERT INTO renewals (branch_code, loan_no, days)"
        " VALUES (%(branch)s, %(number)s, %(days)s)",
    ),
    "charge": (
        "UPDATE loans SET fine = %(fine)s WHERE (branch_code, loan_no) = (%(branch)s, %(number)s)",
    ),
    "waive": (
        "UPDATE loans SET fine = NULL WHERE (branch_code, loan_no) = (%(branch)s, %(number)s)",
    ),
    "close": (
        "UPDATE loans SET state = %(state)s"
        " WHERE (branch_code, loan_no) = (%(branch)s, %(number)s)",
    ),
    "note": (
        "UPDATE loans SET note = %(note)s WHERE (branch_code, loan_no) = (%(branch)s, %(number)s)",
    ),
    # Renewals go with it, by cascade.
    "forget": ("DELETE FROM loans WHERE (branch_code, loan_no) = (%(branch)s, %(number)s)",),
}
NEW: dict[str, tuple[LiteralString, ...]] = {
    "join": (
        "INSERT INTO members (member_id, full_name, email, preferences)"
        " VALUES (%(reader)s, %(name)s, %(email)s, %(prefs)s)",
    ),
    "prefer": (
        "UPDATE members SET preferences = %(prefs)s, email = %(email)s"
        " WHERE member_id = %(reader)s",
    ),
    "lend": (
        "INSERT INTO lendings (branch, number, member_id, title, due_on, extra)"
        " VALUES (%(branch)s, %(number)s, %(reader)s, %(title)s, %(due)s, %(details)s)",
    ),
    "renew": (
        "UPDATE lendings SET due_on = %(due)s WHERE (branch, number) = (%(branch)s, %(number)s)",
        "INSERT INTO extensions (branch, number, days) VALUES (%(branch)s, %(number)s, %(days)s)",
    ),
    "charge": (
        "INSERT INTO fines (branch, number, amount) VALUES (%(branch)s, %(number)s, %(fine)s)"
        " ON CONFLICT (branch, number) DO UPDATE SET amount = excluded.amount",
    ),
    "waive": ("DELETE FROM fines WHERE (branch, number) = (%(branch)s, %(number)s)",),
    "close": (
        "UPDATE lendings SET status ="
        " (CASE %(state)s WHEN 'returned' THEN 'closed' ELSE 'missing' END)::loan_state"
        " WHERE (branch, number) = (%(branch)s, %(number)s)",
    ),
    "note": (
        "UPDATE lendings SET remark = %(note)s WHERE (branch, number) = (%(branch)s, %(number)s)",
    ),
    "forget": ("DELETE FROM lendings WHERE (branch, number) = (%(branch)s, %(number)s)",),
}
READERS: dict[str, LiteralString] = {
    "old": "SELECT reader_no AS reader, name, email, prefs FROM readers",
    "new": "SELECT member_id AS reader, full_name AS name, email, preferences AS prefs"
    " FROM members",
}
LOANS: dict[str, LiteralString] = {
    "old": """
SELECT l.branch_code AS branch, l.loan_no AS number, l.reader_no AS reader, l.title,
       l.state::text AS state, l.due::text AS due, l.note, l.fine::text AS fine, l.details,
       coalesce((SELECT jsonb_agg(w.days ORDER BY w.days) FROM renewals w
                  WHERE (w.branch_code, w.loan_no) = (l.branch_code, l.loan_no)), '[]') AS renewals
  FROM loans l
""",
    "new": """
SELECT n.branch, n.number, n.member_id AS reader, n.title,
       CASE n.status WHEN 'active' THEN 'out' WHEN 'closed' THEN 'returned' ELSE 'lost'
        END AS state,
       n.due_on::text AS due, n.remark AS note, f.amount::text AS fine, n.extra AS details,
       coalesce((SELECT jsonb_agg(e.days ORDER BY e.days) FROM extensions e
                  WHERE (e.branch, e.number) = (n.branch, n.number)), '[]') AS renewals
  FROM lendings n LEFT JOIN fines f USING (branch, number)
""",
}


class NothingThere(Exception):
    """An act did not find the row it speaks of."""


async def write(connection: psycopg.AsyncConnection[Any], side: str, act: Act) -> None:
    """Do one act in one transaction. Raises NothingThere, psycopg.Error."""
    values = {
        name: Jsonb(value) if name in ("prefs", "details") and value is not None else value
        for name, value in act.items()
    }
    async with connection.transaction():
        for statement in (OLD if side == "old" else NEW)[act["act"]]:
            cursor = await connection.execute(statement, values)
            if cursor.rowcount != 1:
                raise NothingThere(f"{side}: {act} found {cursor.rowcount} rows")


def held(dsn: str, side: str) -> tuple[dict[int, dict[str, Any]], dict[LoanKey, dict[str, Any]]]:
    """Readers by number and loans by (branch, number), as a side's tables have them."""
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        readers = connection.execute(READERS[side]).fetchall()
        loans = connection.execute(LOANS[side]).fetchall()
    return (
        {row["reader"]: row for row in readers},
        {(row["branch"], row["number"]): row for row in loans},
    )


def later(due: str, days: int) -> str:
    """A date so many days later, as text."""
    return date.fromordinal(date.fromisoformat(due).toordinal() + days).isoformat()
