"""What can be known of a stray: whether the owner's row is unchanged, and which version is newer.

Looked up inside the target's open transaction, for the few keys that are foreign. A row tells who
wrote it last, by its xmin; that somebody deleted a row, nothing tells. So a stray is proven
harmless only where it changes rows that stand on both sides, and deletes none: whatever else the
owner did meanwhile, to rows below it or beside it, is not written over.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, LiteralString

from psycopg import sql

from migrator import fragments as f
from migrator import ownership as o
from migrator import statements as s
from migrator.changes import MappingKey
from migrator.mapping import Key, Stream, target_types
from migrator.ownership import Move, Ownership
from migrator.parts import Own, Part
from migrator.plan import Routed, Standing, Values, Work, foreign, owns, pick
from migrator.reading import Connection, Prepared
from migrator.rules import Facts
from migrator.strays import given, held
from migrator.visibility import widen

# Our own writes over a foreign row: the owner did not change it by them.
CARRIED: LiteralString = """
SELECT s.mapping, s.key::text, s.carried_in::text FROM splitctl_sync.stray s
  JOIN unnest(%s::text[], %s::text[]) AS u(mapping, key)
    ON s.mapping = u.mapping AND s.key = u.key::jsonb
 WHERE s.stream = %s AND s.carried_in IS NOT NULL
"""
DECIDED: LiteralString = """
SELECT s.mapping, s.key::text, s.source_rows FROM splitctl_sync.stray s
  JOIN unnest(%s::text[], %s::text[]) AS u(mapping, key)
    ON s.mapping = u.mapping AND s.key = u.key::jsonb
 WHERE s.stream = %s AND s.outcome = 'stopped' AND s.settled_at IS NOT NULL
"""
# A null loses, and so does a key of which the other side has nothing: it may have been deleted.
NEWER = sql.SQL(
    "SELECT {names} FROM (SELECT {names}, max(given::{type}) AS given"
    " FROM unnest({arrays}) AS v({names}, given) GROUP BY {names}) AS u"
    " CROSS JOIN LATERAL (SELECT count(*) AS rows, max(t.{column}) AS held"
    " FROM {table} AS t WHERE {condition}) AS h"
    " WHERE h.rows > 0 AND u.given IS NOT NULL AND (h.held IS NULL OR u.given > h.held)"
)


@dataclass(frozen=True)
class Owned:
    """Who owns what in one database, and since when."""

    ownership: Ownership | None
    moves: Sequence[Move]

    def since(self, route: str | None) -> int | None:
        """The horizon of the move that gave this stable id's bucket to its present owner."""
        if self.ownership is None:
            return None
        return o.owned_since(self.ownership, self.moves, o.bucket(route or ""))


class Proof:
    """Finds the facts about one stream's foreign keys."""

    def __init__(self, stream: Stream, source: Connection, target: Connection) -> None:
        self._stream, self._source, self._target = stream, source, target

    def facts(
        self,
        works: Sequence[Work],
        ownership: Ownership | None,
        prepared: Mapping[str, Prepared],
        part: Part,
        quiet: Collection[MappingKey],
        own: Own,
    ) -> list[Work]:
        """The works with what is known of their foreign keys. `quiet` are in the target's text."""
        side = self._stream.source_side
        strangers = {work.mapping: foreign(work, ownership, side) for work in works}
        # What was asked for is no change of this side's either: carried, it could change places
        # with the version that the opposite stream carries just now.
        quiet = {*quiet, *((work.mapping, key) for work in works for key in work.asked)}
        loud = [(name, key) for name, keys in strangers.items() for key in keys]
        loud = [name for name in loud if name not in quiet]
        if not loud:
            # Nothing of these has to be known: the owner's version stands.
            return [_with_quiet(work, quiet) for work in works]
        domain = self._stream.domain.name
        here = Owned(ownership, o.moves(self._target, domain))
        # Read after the rows: a side that claims a bucket now claimed it when they were read.
        there = Owned(o.read(self._source, domain), o.moves(self._source, domain))
        xids = self._wide(part.xids)
        ours = self._carried(loud)
        found = []
        for work in works:
            keys = [key for key in strangers[work.mapping] if (work.mapping, key) not in quiet]
            facts = Facts(
                unchanged=frozenset(
                    key
                    for key in keys
                    if _updates_only(work, key)
                    and _unchanged(work, key, here, own, ours.get((work.mapping, key), set()))
                ),
                late=frozenset(key for key in keys if self._late(work, key, here, there, xids)),
                newer=self._newer(work, keys, prepared[work.mapping]),
                settled=self._settled(work, keys, prepared),
            )
            found.append(_with_quiet(replace(work, facts=facts), quiet))
        return found

    def _late(self, work: Work, key: Key, here: Owned, there: Owned, xids: set[int]) -> bool:
        """Whether the source's side still owned the key when it was changed there.

        Told by the source's own owner row, or by the transactions of a part that all ended before
        it moved. Of a part that has later ones, and of keys that waited, it is not known.
        """
        side = self._stream.source_side
        routes = {item.route for item in work.rows.get(key, [])}
        routes = routes or {item.route or "" for item in work.standing.get(key, [])}
        lost = {route for route in routes if not owns(here.ownership, side, route)}
        for route in lost:
            if owns(there.ownership, side, route):
                continue
            since = there.since(route)
            if since is None or not xids or max(xids) >= since:
                return False
        return bool(lost)

    def _wide(self, xids: Collection[int]) -> set[int]:
        """These 32-bit ids of the source in 64 bits."""
        row = self._source.execute(s.NEXT_ID).fetchone()
        assert row is not None
        return {widen(xid, int(row[0])) for xid in xids}

    def _carried(self, names: list[MappingKey]) -> dict[MappingKey, set[int]]:
        columns = s.name_arguments(names)
        found: dict[MappingKey, set[int]] = {}
        for name, key, xid in self._target.execute(CARRIED, (*columns, self._stream.name)):
            found.setdefault((name, tuple(json.loads(key))), set()).add(int(xid))
        return found

    def _newer(self, work: Work, keys: list[Key], prepared: Prepared) -> frozenset[Key]:
        column, shape = work.rule.column, prepared.shape
        if column is None:
            return frozenset()
        position = shape.columns.index(column)
        asked = [
            (*key, item.row[position])
            for key in keys
            if not _deletes(work, key)
            for item in work.rows.get(key, [])
        ]
        if not asked:
            return frozenset()
        names = shape.mapping.key
        query = NEWER.format(
            names=f.names(len(names)),
            arrays=f.arrays(len(names) + 1),
            type=f.verbatim(shape.cast(column)),
            column=f.identifier(column),
            table=f.table(shape.table.name),
            condition=f.equal("t", names, target_types(shape, names)),
        )
        arguments: list[Any] = [list(values) for values in zip(*asked, strict=True)]
        return frozenset(tuple(row) for row in self._target.execute(query, arguments))

    def _settled(
        self, work: Work, keys: list[Key], prepared: Mapping[str, Prepared]
    ) -> frozenset[Key]:
        if work.rule.name != "stop" or not keys:
            return frozenset()
        names = [(work.mapping, key) for key in keys]
        rows = self._target.execute(
            DECIDED, (*s.name_arguments(names), self._stream.name)
        ).fetchall()
        decided: dict[Key, list[Any]] = {}
        for _, key, version in rows:
            decided.setdefault(tuple(json.loads(key)), []).append(version)
        found = set()
        stands = held(self._target, [(work.mapping, key) for key in decided], prepared)
        for key, versions in decided.items():
            mine = [item.row for item in work.rows.get(key, [])]
            now = json.loads(given(prepared[work.mapping].shape, mine))
            # Either the version that was looked at, or what it was decided for has arrived here.
            if now in versions or sorted(mine, key=str) == sorted(
                stands[(work.mapping, key)].rows, key=str
            ):
                found.add(key)
        return frozenset(found)


def _with_quiet(work: Work, quiet: Collection[MappingKey]) -> Work:
    here = frozenset(key for key in work.keys if (work.mapping, key) in quiet)
    return replace(work, facts=replace(work.facts, quiet=here)) if here else work


def _primaries(work: Work, rows: Sequence[Routed | Standing]) -> set[Values]:
    return {
        row.primary if isinstance(row, Standing) else pick(row.row, work.primary_positions)
        for row in rows
    }


def _deletes(work: Work, key: Key) -> bool:
    rows, standing = work.rows.get(key, []), work.standing.get(key, [])
    moved = any(item.elsewhere for item in standing)
    return moved or not _primaries(work, standing) <= _primaries(work, rows)


def _updates_only(work: Work, key: Key) -> bool:
    rows, standing = work.rows.get(key, []), work.standing.get(key, [])
    return (
        bool(rows)
        and not any(item.elsewhere for item in standing)
        and _primaries(work, rows) == _primaries(work, standing)
    )


def _unchanged(work: Work, key: Key, here: Owned, own: Own, ours: Collection[int]) -> bool:
    """Whether nobody but sync has written these rows since their bucket came to the target's side.

    Fresh rows are older changes of that side which were a stray themselves, and are not decided.
    """
    if key in work.undecided:
        return False
    for item in work.standing.get(key, []):
        since = here.since(item.route)
        if item.route is None or item.fresh or since is None:
            return False
        if not own.is_older(item.xmin, since, ours):
            return False
    return True
