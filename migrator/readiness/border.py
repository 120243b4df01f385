"""The border: what refers from tables that move to tables that stay, and the other way round."""

from collections.abc import Iterable
from typing import Any, LiteralString

import psycopg

from estate.config import Config, DomainConfig
from migrator.mapping import Side
from migrator.readiness.findings import Findings

Connection = psycopg.Connection[Any]

FOREIGN_KEYS: LiteralString = """
SELECT o.conname::text, a.relname::text, b.relname::text, o.confdeltype::text
  FROM pg_constraint o JOIN pg_class a ON a.oid = o.conrelid JOIN pg_class b ON b.oid = o.confrelid
 WHERE o.contype = 'f' AND o.conparentid = 0 AND a.relnamespace = 'public'::regnamespace
   AND (a.relname = ANY(%(mapped)s)) <> (b.relname = ANY(%(mapped)s)) ORDER BY 2, 1
"""
TABLES: LiteralString = """
SELECT relname::text FROM pg_class
 WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
   AND relname <> 'alembic_version' ORDER BY relname
"""
DELETED = {
    "c": "a deletion that is carried deletes its rows too",
    "n": "a deletion that is carried empties its reference",
    "d": "a deletion that is carried changes its reference",
}


def mapped(domain: DomainConfig, side: Side) -> set[str]:
    """The tables of one side that the domain's mappings read or write."""
    forward = {name for mapping in domain.forward for name in mapping.sources}
    reverse = {name for mapping in domain.reverse for name in mapping.sources}
    if side == "old":
        return forward | {mapping.target for mapping in domain.reverse}
    return reverse | {mapping.target for mapping in domain.forward}


def crossing(found: Findings, domain: DomainConfig, side: Side, connection: Connection) -> None:
    """Foreign keys with one end in the domain. A table named in unmapped_<side> is known of."""
    moving = mapped(domain, side)
    declared = domain.unmapped_old if side == "old" else domain.unmapped_new
    rows = connection.execute(FOREIGN_KEYS, {"mapped": sorted(moving)}).fetchall()
    for constraint, table, referenced, on_delete in rows:
        stays = referenced if table in moving else table
        if stays in declared:
            continue
        if stays == table:
            harm = DELETED.get(on_delete, "a deletion that is carried, and that it forbids, waits")
            reason = (
                f"{table} refers to {referenced} ({constraint}), which moves: here its rows can"
                f" only follow what was carried, and {harm}"
            )
        else:
            reason = (
                f"{table} refers to {referenced} ({constraint}), which is not of this domain: what"
                " is carried here waits until its row is there, and the other side cannot know"
            )
        _declare(found, domain.name, side, reason, [*declared, stays])


def strangers(found: Findings, config: Config, domain: DomainConfig, new: Connection) -> None:
    """Tables of the new database that nobody fills and nobody has declared."""
    known = {
        name
        for other in config.domains.values()
        if other.new == domain.new
        for name in [*(mapping.target for mapping in other.forward), *other.unmapped_new]
    }
    for (table,) in new.execute(TABLES).fetchall():
        if table not in known:
            reason = f"table {table} of {domain.new} has no mapping"
            _declare(found, domain.name, "new", reason, [*domain.unmapped_new, table])


def _declare(found: Findings, domain: str, side: Side, reason: str, tables: Iterable[str]) -> None:
    listed = ", ".join(f'"{table}"' for table in dict.fromkeys(tables))
    found.warning(
        f"domains.{domain}.unmapped_{side}",
        reason,
        f"If that is meant, say so in [domains.{domain}]:",
        f"unmapped_{side} = [{listed}]",
    )
