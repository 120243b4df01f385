"""Whether the log still tells of every base table of a stream: what it would leave out is lost.

A publication holds tables, not names: one that was dropped and made again, or that took the name of
another, is not in it. A partition keeps a replica identity of its own, whatever its parent says.
"""

import json
from collections.abc import Iterable
from typing import Any, LiteralString

import psycopg

from estate.config import MappingConfig
from migrator.changes import KeyNotInIdentity, StreamStopped
from migrator.mapping import Stream

Connection = psycopg.Connection[Any]

# The tables of these names that are there, and whatever the publication holds. One that a backfill
# fills is out of it meanwhile, and nobody else can write there.
TABLES: LiteralString = """
SELECT c.oid, c.relname, p.oid IS NOT NULL OR EXISTS (
           SELECT FROM splitctl_sync.set_aside a
            WHERE a.kind = 'publication' AND a.name = %(publication)s AND a.table_name = c.relname)
  FROM pg_class c LEFT JOIN (pg_publication_rel r JOIN pg_publication p
                             ON p.oid = r.prpubid AND p.pubname = %(publication)s)
    ON r.prrelid = c.oid
 WHERE p.oid IS NOT NULL
    OR c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
       AND c.relname = ANY(%(names)s::text[])
"""
# Partitions of which a changed row would not tell these columns' old values.
PARTITIONS: LiteralString = """
SELECT w.name, c.relname
  FROM jsonb_to_recordset(%s::jsonb) AS w(name text, columns jsonb)
 CROSS JOIN LATERAL pg_partition_tree(to_regclass(format('public.%%I', w.name))) t
  JOIN pg_class c ON c.oid = t.relid
 WHERE t.isleaf AND t.parentrelid IS NOT NULL AND c.relkind = 'r' AND c.relreplident <> 'f'
   AND NOT EXISTS (
       SELECT FROM pg_index i
        WHERE i.indrelid = c.oid AND (c.relreplident = 'd' AND i.indisprimary
                                      OR c.relreplident = 'i' AND i.indisreplident)
          AND ARRAY(SELECT a.attname::text FROM pg_attribute a
                     WHERE a.attrelid = c.oid AND a.attnum = ANY(i.indkey))
              @> ARRAY(SELECT jsonb_array_elements_text(w.columns)))
 ORDER BY c.relname
"""


class TableNotPublished(StreamStopped):
    """Stream '{stream}' stops: the log does not tell of table '{table}' any more. It was dropped,
    another one took its name, or it was taken out of the publication {publication}. What changed
    in it since then is not known."""

    hint = (
        "if its name was changed, give it back, then start: splitctl sync run; else splitctl sync"
        " teardown {domain}, then enable, backfill and verify anew"
    )


def check(source: Connection, stream: Stream) -> dict[int, str]:
    """The stream's base tables by oid. Raises TableNotPublished or KeyNotInIdentity."""
    wanted = stream.tables
    arguments = {"publication": stream.publication, "names": list(wanted)}
    found = source.execute(TABLES, arguments).fetchall()
    there = {str(name): bool(published) for _, name, published in found if name in wanted}
    # Under another name it is told of still; the stream stops at its first change.
    renamed = sum(1 for _, name, _ in found if name not in wanted)
    absent = [name for name in wanted if name not in there]
    lost = [name for name, published in there.items() if not published]
    lost += absent[renamed:]
    if lost:
        raise TableNotPublished(
            stream=stream.name,
            domain=stream.domain.name,
            table=", ".join(lost),
            publication=stream.publication,
        )
    _check_partitions(source, stream)
    return {int(oid): str(name) for oid, name, _ in found if name in wanted}


def _check_partitions(source: Connection, stream: Stream) -> None:
    mappings = [mapping.config for mapping in stream.mappings]
    columns = {table: leading(mappings, table) for table in stream.tables}
    for table, partition in unfit_partitions(source, columns):
        raise KeyNotInIdentity(
            stream=stream.name,
            domain=stream.domain.name,
            table=partition,
            columns=", ".join(columns[table]),
        )


def leading(mappings: Iterable[MappingConfig], table: str) -> list[str]:
    """The columns of a base table that lead to the driving keys of these mappings."""
    found = (mapping.sources.get(table, {}).values() for mapping in mappings)
    return sorted({column for columns in found for column in columns})


def unfit_partitions(source: Connection, columns: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Tables, each with a partition whose replica identity has not all of the table's columns."""
    wanted = [{"name": table, "columns": names} for table, names in columns.items()]
    rows = source.execute(PARTITIONS, (json.dumps(wanted),)).fetchall()
    return [(str(table), str(partition)) for table, partition in rows]
