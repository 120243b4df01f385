"""Looks up every acknowledged write on the side that should hold it, outside the tool.

It reads the shoppers' own record and both sides' tables, and knows one rule of the split: a
customer whose bucket lies below the percentage belongs to the new side.
"""

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from rehearsal import witness_sql
from rehearsal.recorder import FAILURES, WRITES, read_lines

BATCH = 2000
SAMPLES = 20
# The clean-up job leaves a cart alone for this long after its last write.
CLEANUP_IDLE_S = 3600.0
SET_ASIDE = ("abandoned", "expired")
Content = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """One kind of thing that is written: its domain, and where either side keeps it."""

    domain: str
    old: tuple[str, str, LiteralString]
    new: tuple[str, str, LiteralString]


KINDS = {
    "cart": Kind(
        "checkout",
        ("order", "cart_sessions", witness_sql.OLD_CARTS),
        ("checkout", "carts", witness_sql.NEW_CARTS),
    ),
    "checkout": Kind(
        "checkout",
        ("order", "checkout_sessions", witness_sql.OLD_CHECKOUTS),
        ("checkout", "checkouts", witness_sql.NEW_CHECKOUTS),
    ),
    "return": Kind(
        "return",
        ("order", "return_requests", witness_sql.OLD_RETURNS),
        ("return", "return_requests", witness_sql.NEW_RETURNS),
    ),
    # Orders stay where they are, whatever moves around them.
    "order": Kind(
        "",
        ("order", "orders", witness_sql.ORDERS),
        ("order", "orders", witness_sql.ORDERS),
    ),
}


@dataclass
class Entity:
    """What was acknowledged of one cart, checkout, return or order."""

    kind: str
    id: str
    route: str
    writes: int = 0
    versions: tuple[int, ...] = ()
    op: str = ""
    at: float = 0.0
    expect: Content | None = None
    uncertain: bool = False


@dataclass(frozen=True)
class Lost:
    """A row that does not hold what was acknowledged."""

    kind: str
    id: str
    route: str
    side: str
    database: str
    table: str
    op: str
    writes: int
    problem: str


def bucket(route: str) -> int:
    """The bucket (0..9999) of a customer's stable id."""
    return int(hashlib.md5(route.encode(), usedforsecurity=False).hexdigest()[:8], 16) % 10_000


def look_up(
    directory: Path, databases: Mapping[str, str], percentages: Mapping[str, int]
) -> dict[str, Any]:
    """Look up everything in DIR/writes.jsonl. `databases`: connection strings by name,
    `percentages`: what each domain is served at now.

    Returns acknowledged_writes, lost_writes, duplicate_orders, samples of both, and
    uncertain: things whose last write failed at the shopper, so that either content is right.
    """
    began = time.monotonic()
    acknowledged, entities = _read_writes(directory / WRITES)
    _mark_uncertain(directory / FAILURES, entities)
    lost: list[Lost] = []
    places: dict[tuple[str, str], list[Entity]] = defaultdict(list)
    for entity in entities.values():
        share = percentages.get(KINDS[entity.kind].domain, 0)
        side = "new" if bucket(entity.route) < share * 100 else "old"
        places[entity.kind, side].append(entity)
    for (kind, side), group in sorted(places.items()):
        database, table, query = getattr(KINDS[kind], side)
        with psycopg.connect(databases[database], autocommit=True) as connection:
            for entity, found in _fetch(connection, query, group):
                problem = compare(entity, found)
                if problem:
                    count = _lost_writes(entity, found)
                    about = (kind, entity.id, entity.route, side, database, table, entity.op)
                    lost.append(Lost(*about, count, problem))
    with psycopg.connect(databases["order"], autocommit=True) as connection:
        twice = connection.execute(witness_sql.DUPLICATES).fetchall()
    duplicates = {number for _, _, numbers in twice for number in sorted(numbers)[1:]}
    samples: list[dict[str, Any]] = [asdict(item) for item in lost[:SAMPLES]]
    samples += [
        {"kind": "order", "problem": f"{len(numbers)} orders of one {what}", "id": key}
        for what, key, numbers in twice[:SAMPLES]
    ]
    return {
        "acknowledged_writes": acknowledged,
        "entities": len(entities),
        "lost_writes": sum(item.writes for item in lost),
        "duplicate_orders": len(duplicates),
        "uncertain": sum(entity.uncertain for entity in entities.values()),
        "samples": samples,
        "seconds": round(time.monotonic() - began, 2),
    }


def _read_writes(path: Path) -> tuple[int, dict[tuple[str, str], Entity]]:
    acknowledged = 0
    entities: dict[tuple[str, str], Entity] = {}
    last: dict[tuple[str, str], int] = {}
    for write in read_lines(path):
        key = (write["kind"], write["id"])
        entity = entities.setdefault(key, Entity(*key, write["route"]))
        if not write.get("implied"):
            acknowledged += 1
        entity.writes += 1
        version = write["expect"].get("version")
        if version is not None:
            entity.versions += (version,)
        if write["n"] > last.get(key, 0):
            last[key] = write["n"]
            entity.op, entity.at, entity.expect = write["op"], write["at"], write["expect"]
    return acknowledged, entities


def _mark_uncertain(path: Path, entities: Mapping[tuple[str, str], Entity]) -> None:
    for failure in read_lines(path):
        # What was acknowledged is certain even when the answer looked wrong.
        if failure.get("method") == "GET" or failure.get("acknowledged"):
            continue
        for kind, entity_id in failure.get("subjects", ()):
            entity = entities.get((kind, entity_id))
            if entity is not None:
                entity.uncertain = True


def _fetch(
    connection: psycopg.Connection[Any], query: LiteralString, group: Sequence[Entity]
) -> Iterator[tuple[Entity, Content | None]]:
    for start in range(0, len(group), BATCH):
        batch = group[start : start + BATCH]
        rows = dict(connection.execute(query, [[entity.id for entity in batch]]).fetchall())
        for entity in batch:
            yield entity, _normal(rows.get(entity.id))


def _normal(found: Content | None) -> Content | None:
    """An empty list is NULL in SQL, and the order of promotions carries no meaning."""
    if found is None:
        return None
    if "items" in found:
        found["items"] = found["items"] or {}
    if "promotions" in found:
        found["promotions"] = sorted(code for code in found["promotions"] or [] if code)
    if "history" in found:
        found["history"] = found["history"] or []
    return found


def compare(entity: Entity, found: Content | None, now: float | None = None) -> str:
    """What is wrong with a row, in words; empty when it holds what was acknowledged."""
    expect = entity.expect or {}
    if found is None:
        return "the row is not there"
    if entity.uncertain:
        version = expect.get("version")
        behind = version is not None and found["version"] < version
        return f"version {found['version']} is older than {version}" if behind else ""
    if _set_aside(entity, expect, found, time.time() if now is None else now):
        expect = {**expect, "status": found["status"], "version": found["version"]}
    wrong = [name for name in expect if found.get(name) != expect[name]]
    return "; ".join(f"{name}: {found.get(name)} instead of {expect[name]}" for name in wrong)


def _set_aside(entity: Entity, expect: Content, found: Content, now: float) -> bool:
    """Whether the clean-up job wrote the cart last, and was allowed to."""
    return (
        entity.kind == "cart"
        and expect.get("status") == "active"
        and found["status"] in SET_ASIDE
        and found["version"] == expect["version"] + 1
        and now - entity.at > CLEANUP_IDLE_S
    )


def _lost_writes(entity: Entity, found: Content | None) -> int:
    """How many acknowledged writes are not in the row: at least one, as it differs."""
    if found is None:
        return entity.writes
    version: int = found.get("version", 0)
    return max(1, sum(acknowledged > version for acknowledged in entity.versions))
