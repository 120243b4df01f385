"""Two tables of a million rows, written to on both sides at a set rate, and damage planted in them.

Amounts are numbers on the old side and whole cents on the new one. Of every eight ids one is left
alone by the writers: there the damage goes, marked as sync's own writes, so that sync leaves it.
"""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from migrator import ownership
from tests.migrator.library import DOMAIN, Library

OLD = """
CREATE TABLE accounts (
    id bigserial PRIMARY KEY, holder text NOT NULL, balance numeric(12,2) NOT NULL, note text,
    changed timestamptz NOT NULL DEFAULT now());
CREATE TABLE entries (
    id bigserial PRIMARY KEY, account_id bigint NOT NULL, holder text NOT NULL,
    amount numeric(12,2) NOT NULL, memo text);
"""
NEW = """
CREATE TABLE wallets (
    id bigserial PRIMARY KEY, holder text NOT NULL, cents bigint NOT NULL, remark text,
    changed timestamptz NOT NULL DEFAULT now());
CREATE TABLE postings (
    id bigserial PRIMARY KEY, wallet_id bigint NOT NULL, holder text NOT NULL,
    cents bigint NOT NULL, memo text);
"""
QUERIES = {
    "forward/wallets.sql": "SELECT id, holder, (balance * 100)::bigint AS cents, note AS remark,"
    " changed, holder AS splitctl_route FROM accounts",
    "forward/postings.sql": "SELECT id, account_id AS wallet_id, holder,"
    " (amount * 100)::bigint AS cents, memo, holder AS splitctl_route FROM entries",
    "reverse/accounts.sql": "SELECT id, holder, (cents / 100.0)::numeric(12,2) AS balance,"
    " remark AS note, changed, holder AS splitctl_route FROM wallets",
    "reverse/entries.sql": "SELECT id, wallet_id AS account_id, holder,"
    " (cents / 100.0)::numeric(12,2) AS amount, memo, holder AS splitctl_route FROM postings",
}
PAIRS = (("accounts", "wallets"), ("entries", "postings"))
TOML = """
[domains.lending]
old = "main"
new = "branch"
flag = "USE_BRANCH"
percentage = "BRANCH_PERCENTAGE"
phases = [{ percentage = 100, soak = "1s" }]
""" + "".join(
    f"""
[[domains.lending.{direction}]]
target = "{target}"
query = "mappings/{direction}/{target}.sql"
key = ["id"]
route = "t.holder"
sources = {{ {source} = {{ id = "id" }} }}
"""
    for old, new in PAIRS
    for direction, source, target in (("forward", old, new), ("reverse", new, old))
)
FILL = """
INSERT INTO accounts (holder, balance, note, changed)
SELECT 'holder-' || i % 40000, (i % 100000) / 100.0, 'note ' || i, '2026-01-01'
  FROM generate_series(1, {rows}) AS i;
INSERT INTO entries (account_id, holder, amount, memo)
SELECT i, 'holder-' || i % 40000, (i % 9000) / 100.0, 'memo ' || i
  FROM generate_series(1, {rows}) AS i;
ANALYZE;
"""
# One id in so many is no writer's.
LEFT_ALONE = 8
HOT = 10
# What one transaction does to its rows, by side.
WRITES = {
    "old": (
        "UPDATE accounts SET balance = balance + 0.01, changed = clock_timestamp()"
        " WHERE id = ANY(%(ids)s)",
        "UPDATE accounts SET note = 'note ' || random() WHERE id = ANY(%(ids)s)",
        "UPDATE entries SET amount = amount + 1 WHERE id = ANY(%(ids)s)",
        "INSERT INTO entries (account_id, holder, amount, memo)"
        " SELECT id, holder, 1, 'fresh' FROM accounts WHERE id = ANY(%(ids)s)",
        "DELETE FROM entries WHERE id = ANY(%(ids)s)",
    ),
    "new": (
        "UPDATE wallets SET cents = cents + 1, changed = clock_timestamp() WHERE id = ANY(%(ids)s)",
        "UPDATE wallets SET remark = 'note ' || random() WHERE id = ANY(%(ids)s)",
        "UPDATE postings SET cents = cents + 100 WHERE id = ANY(%(ids)s)",
        "INSERT INTO postings (wallet_id, holder, cents, memo)"
        " SELECT id, holder, 100, 'fresh' FROM wallets WHERE id = ANY(%(ids)s)",
        "DELETE FROM postings WHERE id = ANY(%(ids)s)",
    ),
}
CHOICES = (4, 2, 4, 2, 1)
# A row as the forward mapping sees it: its table on the new side, its id, what is wrong with it.
Damage = tuple[str, int, str]


@dataclass
class Fire:
    """Writers under way: the rows that they have written, and since when."""

    rows: list[int] = field(default_factory=lambda: [0, 0])
    began: float = field(default_factory=time.monotonic)
    failures: list[BaseException] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Rows written a second, both sides together."""
        return sum(self.rows) / (time.monotonic() - self.began)


@contextmanager
def writers(library: Library, rows: int, rate: float) -> Iterator[Fire]:
    """Write so many rows a second, half of them on each side, each on the side that owns it.

    Transactions write one row or ten; a few accounts get a fifth of what is written to accounts.
    """
    stop, fire = threading.Event(), Fire()
    sides = (("old", library.old.info.dsn, "accounts"), ("new", library.new.info.dsn, "wallets"))

    def write(n: int, side: str, dsn: str, table: str) -> None:
        try:
            _write(n, side, dsn, table)
        except BaseException as error:  # noqa: BLE001 - told by whoever waits for the writers
            fire.failures.append(error)

    def _write(n: int, side: str, dsn: str, table: str) -> None:
        chance = random.Random(n)
        query = (
            f"SELECT id FROM {table} WHERE id %% {LEFT_ALONE} > 0 AND id <= {rows}"
            " AND splitctl_sync.owns(%s, holder, %s) ORDER BY id"
        )
        with psycopg.connect(dsn, autocommit=True) as connection:
            ids = [row[0] for row in connection.execute(query.encode(), (DOMAIN, side))]
            due = time.monotonic()
            while not stop.is_set():
                count = chance.choice((1, 10))
                (kind,) = chance.choices(range(len(CHOICES)), CHOICES)
                pool = ids[:HOT] if kind < 2 and chance.random() < 0.2 else ids
                chosen = sorted(set(chance.choices(pool, k=count)))
                written = connection.execute(WRITES[side][kind].encode(), {"ids": chosen})
                fire.rows[n] += written.rowcount
                due += max(written.rowcount, 1) / (rate / 2)
                stop.wait(max(due - time.monotonic(), 0))

    threads = [threading.Thread(target=write, args=(n, *side)) for n, side in enumerate(sides)]
    for thread in threads:
        thread.start()
    try:
        yield fire
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if fire.failures:
        raise fire.failures[0]


def plant(library: Library, rows: int, number: int) -> Damage:
    """The number-th damage: a row changed, deleted or added on one side, by turns in each table."""
    place, table = number % 2, PAIRS[number // 2 % 2]
    kind = ("mismatched", "missing", "extra")[number // 4 % 3]
    connection = (library.new, library.old)[place]
    stream = (f"{DOMAIN}.forward", f"{DOMAIN}.reverse")[place]
    name = table[1 - place]
    # Far apart, and none of them twice.
    step = rows // LEFT_ALONE // 250
    number_ = (1 + number * step) * LEFT_ALONE
    what = kind
    if kind == "mismatched":
        column = {"accounts": "note", "wallets": "remark"}.get(name, "memo")
        text = f"UPDATE {name} SET {column} = {column} || ' ' WHERE id = {number_}"
    elif kind == "missing":
        text = f"DELETE FROM {name} WHERE id = {number_}"
    else:
        number_ = -number_
        columns = _columns(connection, name)
        text = (
            f"INSERT INTO {name} (id, {columns}) SELECT {number_}, {columns} FROM {name}"
            f" WHERE id = {-number_}"
        )
    if place == 1 and kind != "mismatched":
        # Seen from the new side: what the old one lacks is too many, and the other way round.
        what = {"missing": "extra", "extra": "missing"}[kind]
    with connection.transaction():
        connection.execute(
            "SELECT pg_logical_emit_message(true, 'splitctl.applied', %s)", (stream,)
        )
        assert connection.execute(text.encode()).rowcount == 1, text
    return table[1], number_, what


def _columns(connection: psycopg.Connection[Any], table: str) -> str:
    rows = connection.execute(
        "SELECT attname::text FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 1 AND NOT attisdropped ORDER BY attnum",
        (table,),
    ).fetchall()
    return ", ".join(row[0] for row in rows)


def mirrored(damage: set[Damage]) -> set[Damage]:
    """The same, as the reverse mapping sees it."""
    tables = {new: old for old, new in PAIRS}
    other = {"missing": "extra", "extra": "missing", "mismatched": "mismatched"}
    return {(tables[table], number, other[what]) for table, number, what in damage}


def share_out(library: Library) -> None:
    """Half of the holders to each side."""
    ownership.switch_both(library.config, DOMAIN, 5000, 2, "old")
