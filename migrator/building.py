"""After the last range: what sync knows better goes out, then keys, indexes and foreign keys stand.

The order is that of PROTOCOL row 11: drain decoding past the copy, delete the rows of spooled keys,
then build; the spool is applied by the worker afterwards.
"""

import logging
import queue
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import sql

from estate.connections import connect
from estate.errors import ExitCode, SplitctlError, in_one_line
from migrator import barrier, control, setaside
from migrator import fragments as f
from migrator.mapping import Key, Shape, Stream
from migrator.setaside import Part
from migrator.statements import SPOOL, name_arguments

Connection = psycopg.Connection[Any]
T = TypeVar("T")
log = logging.getLogger(__name__)
# The worker gets this long to read nothing at all before we say that it does not run.
DECODE_LIMIT_S = 60.0
PAUSE_S = 0.02
BATCH_KEYS = 10_000
MEMORY_KB = 512 * 1024
# A table with so many wrong values in one index is not the one that the mapping was made for.
ATTEMPTS = 5

DECODED: LiteralString = "SELECT lsn::text FROM splitctl_sync.progress WHERE stream = %s"
SESSION: LiteralString = """
SELECT set_config('statement_timeout', '0', false),
       set_config('maintenance_work_mem', greatest(setting::bigint, %s)::text || 'kB', false)
  FROM pg_settings WHERE name = 'maintenance_work_mem'
"""
LOCK: LiteralString = """
SELECT b.mapping FROM splitctl_sync.backfill b
 WHERE b.stream = %s AND b.mapping = ANY(%s) AND b.state = 'copying' AND b.way = 'fill' FOR UPDATE
"""
BUILD: LiteralString = """
UPDATE splitctl_sync.backfill SET way = 'build' WHERE stream = %s AND mapping = ANY(%s)
"""
SPOOLED: LiteralString = "SELECT key FROM splitctl_sync.spool WHERE stream = %s AND mapping = %s"
KEYS = sql.SQL("CREATE TEMP TABLE splitctl_keys ({columns}) ON COMMIT DROP")
KEYS_IN = sql.SQL("COPY pg_temp.splitctl_keys FROM STDIN")
CANONICAL = sql.SQL("SELECT {texts} FROM unnest({arrays}) AS u({names})")
DELETE = sql.SQL(
    "DELETE FROM {table} AS t USING (SELECT DISTINCT * FROM pg_temp.splitctl_keys) AS u"
    " WHERE {condition}"
)
FORGET_KEYS: LiteralString = "DROP TABLE pg_temp.splitctl_keys"
ORPHANS = sql.SQL("""
DELETE FROM {table} AS t WHERE {given} AND NOT EXISTS (SELECT FROM {parent} AS p WHERE {match})
RETURNING {key}
""")
# The first one that holds a value keeps it, as where rows are inserted one after the other. Of a
# primary key's doubles none is known to be right: all go, and the worker reads the key again.
DOUBLES = sql.SQL("""
WITH held AS (
    SELECT t.ctid AS place, row_number() OVER w AS number, count(*) OVER w AS many
      FROM {table} AS t WHERE {condition} WINDOW w AS (PARTITION BY {expressions}))
DELETE FROM {table} AS t USING held h
 WHERE t.ctid = h.place AND h.many > 1 AND h.number > {kept}
RETURNING {key}
""")

ANALYZE = sql.SQL("ANALYZE {}")

Tell = Callable[[str, str | None], None]


class WorkerSilent(SplitctlError):
    """All rows of domain '{domain}' are copied, but their keys cannot be built yet: the sync worker
    has read nothing of the source's log for {seconds:.0f} s, so what changed meanwhile is not
    known. What was copied stays."""

    hint = "splitctl sync run  (as a service), then: splitctl backfill run {domain}"
    exit_code = ExitCode.PRECONDITION


class NotRestored(SplitctlError):
    """Table '{table}' was filled, but {kind} '{name}' cannot be put back: {reason}. How it was
    stands in splitctl_sync.set_aside."""

    hint = "mend the rows, then: splitctl backfill run {domain}"
    exit_code = ExitCode.PRECONDITION


class Building:
    """The end of a copy into empty tables of a stream; `shapes` are theirs."""

    def __init__(
        self,
        source: Connection,
        target: Connection,
        stream: Stream,
        shapes: list[Shape],
        workers: int,
        tell: Tell,
    ) -> None:
        self._source, self._target, self._stream = source, target, stream
        self._shapes = {shape.mapping.name: shape for shape in shapes}
        self._tables = {shape.table.name: shape for shape in shapes}
        self._workers, self._tell = workers, tell

    def run(self) -> None:
        """Settle what changed, then restore everything. A killed run is taken up where it was.

        Raises WorkerSilent, NotRestored, or what a server says.
        """
        names = list(self._shapes)
        if self._unsettled(names):
            self._await_decoded()
            self._settle(names)
        self._build()
        self._side_by_side(list(self._tables), _analyze)
        for kind in ("key", "identity", "foreign key", "trigger", "publication", "guard"):
            for part in self._parts(kind):
                self._restore(part)

    def _parts(self, kind: str) -> list[Part]:
        found = [p for p in setaside.parts(self._target, [self._stream.name]) if p.kind == kind]
        return _parents_first(found) if kind == "foreign key" else found

    # What changed meanwhile

    def _unsettled(self, names: list[str]) -> bool:
        with self._target.transaction():
            return bool(self._target.execute(LOCK, (self._stream.name, names)).fetchall())

    def _await_decoded(self) -> None:
        """Until every change that a range may have seen is in the spool."""
        marker = barrier.mark(self._source, self._stream.name)
        seen, since = None, time.monotonic()
        while not barrier.look(self._target, marker).position_passed:
            row = self._target.execute(DECODED, (self._stream.name,)).fetchone()
            if row != seen:
                seen, since = row, time.monotonic()
            seconds = time.monotonic() - since
            if seconds > DECODE_LIMIT_S:
                raise WorkerSilent(domain=self._stream.domain.name, seconds=seconds)
            self._tell("decoding", None)
            time.sleep(PAUSE_S)

    def _settle(self, names: list[str]) -> None:
        """Take out the rows of changed keys, and those that then hang in the air.

        All in one transaction, and only once: later a foreign key that stands again would take
        others along.
        """
        target, name = self._target, self._stream.name
        with target.transaction():
            control.mark(target, name)
            target.execute(setaside.FILLING)
            target.execute(setaside.NO_LIMIT)
            unsettled = [str(row[0]) for row in target.execute(LOCK, (name, names)).fetchall()]
            gone = sum(self._forget_changed(self._shapes[item]) for item in unsettled)
            if gone:
                self._spool_orphans(self._parts("foreign key"))
            target.execute(BUILD, (name, unsettled))

    def _forget_changed(self, shape: Shape) -> int:
        target, parts = self._target, range(len(shape.mapping.key))
        columns = f.listed(sql.SQL("{} text").format(sql.Identifier(f"u{n}")) for n in parts)
        target.execute(KEYS.format(columns=columns))
        found = 0
        with target.cursor(name="splitctl_spooled") as cursor:
            cursor.execute(SPOOLED, (self._stream.name, shape.mapping.name))
            while rows := cursor.fetchmany(BATCH_KEYS):
                found += len(rows)
                keys = self._canonical(shape, [tuple(row[0]) for row in rows])
                with target.cursor().copy(KEYS_IN) as copy:
                    for key in keys:
                        copy.write_row(key)
        gone = 0
        if found:
            # As texts: a key that the target's type refuses has no row there.
            same = f.together(
                sql.SQL("t.{}::text = {}").format(f.identifier(name), f.value(n))
                for n, name in enumerate(shape.mapping.key)
            )
            table = f.table(shape.table.name)
            gone = target.execute(DELETE.format(table=table, condition=same), ()).rowcount
        target.execute(FORGET_KEYS)
        return gone

    def _canonical(self, shape: Shape, keys: list[Key]) -> Iterable[Key]:
        """Keys of the log as the target writes them."""
        if shape.canonical:
            return keys
        texts = f.listed(
            sql.SQL("{}::{}::{}::text").format(
                f.value(n), f.verbatim(kind), f.verbatim(shape.cast(name))
            )
            for n, (name, kind) in enumerate(zip(shape.mapping.key, shape.key_types, strict=True))
        )
        width = len(shape.mapping.key)
        query = CANONICAL.format(texts=texts, arrays=f.arrays(width), names=f.names(width))
        parts = [list(part) for part in zip(*keys, strict=True)]
        return self._source.execute(query, parts).fetchall()

    def _spool_orphans(self, references: list[Part]) -> int:
        """Rows without their parent wait in the spool, and those that hang on them. To the last."""
        total, found = 0, True
        while found:
            found = False
            for part in references:
                shape = self._tables.get(part.table)
                if shape is None:
                    continue
                key, references_to = part.reference, f.table(part.reference.referenced_table)
                pairs = list(zip(key.columns, key.referenced_columns, strict=True))
                given = f.together(
                    sql.SQL("t.{} IS NOT NULL").format(f.identifier(own)) for own, _ in pairs
                )
                match = f.together(
                    sql.SQL("p.{} = t.{}").format(f.identifier(theirs), f.identifier(own))
                    for own, theirs in pairs
                )
                statement = ORPHANS.format(
                    table=f.table(part.table),
                    given=given,
                    parent=references_to,
                    match=match,
                    key=_key(shape),
                )
                gone = self._target.execute(statement, ()).fetchall()
                self._spool(shape, gone)
                found = found or bool(gone)
                total += len(gone)
        return total

    def _spool(self, shape: Shape, rows: Iterable[tuple[Any, ...]]) -> None:
        keys = list(dict.fromkeys(tuple(row) for row in rows))
        if keys:
            names = name_arguments((shape.mapping.name, key) for key in keys)
            # When they changed nobody knows: older than any barrier.
            self._target.execute(SPOOL, (self._stream.name, None, *names))

    # Keys and indexes

    def _build(self) -> None:
        """All of them, several at a time; values that cannot stand go out first where need be."""
        for attempt in range(ATTEMPTS + 1):
            left = self._parts("index")
            if not left:
                return
            self._tell("building", left[0].mapping)
            failed = self._build_once(left)
            for part, error in failed:
                refused = isinstance(error, psycopg.errors.UniqueViolation)
                if not refused or attempt == ATTEMPTS:
                    raise self._not_restored(part, error) from error
                self._take_out_doubles(part)

    def _build_once(self, parts: list[Part]) -> list[tuple[Part, psycopg.Error]]:
        """Build these; returns those whose rows are refused. Raises any other error."""
        failed: list[tuple[Part, psycopg.Error]] = []

        def build(target: Connection, part: Part) -> None:
            try:
                self._put_back(target, part)
            except psycopg.IntegrityError as error:
                failed.append((part, error))

        self._side_by_side(parts, build)
        return failed

    def _side_by_side(self, items: Sequence[T], act: Callable[[Connection, T], None]) -> None:
        """Do this with each of them, over several connections. Raises the first error."""
        todo: queue.SimpleQueue[T] = queue.SimpleQueue()
        for item in items:
            todo.put(item)

        def work() -> None:
            with connect(self._stream.target, "backfill build") as target:
                target.execute(SESSION, (MEMORY_KB,))
                with suppress(queue.Empty):
                    while True:
                        act(target, todo.get_nowait())

        workers = min(self._workers, len(items))
        with ThreadPoolExecutor(workers, "backfill build") as pool:
            for future in [pool.submit(work) for _ in range(workers)]:
                future.result()

    def _put_back(self, target: Connection, part: Part) -> None:
        with target.transaction():
            control.mark(target, self._stream.name)
            setaside.put_back(target, part)

    def _take_out_doubles(self, part: Part) -> None:
        """Rows whose value another row holds: their keys wait, and the worker settles or parks
        them."""
        shape, facts = self._tables[part.table], part.facts
        # They name columns of the table without an alias, which only t has here.
        expressions = [f.verbatim(text) for text in facts["expressions"]]
        conditions: list[sql.Composable] = [sql.SQL("TRUE")]
        if "NULLS NOT DISTINCT" not in " ".join(part.restore):
            conditions += [sql.SQL("({}) IS NOT NULL").format(item) for item in expressions]
        if facts["predicate"]:
            conditions.append(sql.SQL("({})").format(f.verbatim(facts["predicate"])))
        statement = DOUBLES.format(
            table=f.table(part.table),
            condition=f.together(conditions),
            expressions=f.listed(expressions),
            kept=sql.Literal(0 if facts["primary"] else 1),
            key=_key(shape),
        )
        with self._target.transaction():
            control.mark(self._target, self._stream.name)
            self._target.execute(setaside.FILLING)
            self._target.execute(setaside.NO_LIMIT)
            gone = self._target.execute(statement, ()).fetchall()
            self._spool(shape, gone)
        log.warning("%s: %d row(s) wait, %s", part.mapping, len(gone), part.name)

    # The rest

    def _restore(self, part: Part) -> None:
        self._tell("building", part.mapping)
        for attempt in (1, 2):
            try:
                with self._target.transaction():
                    control.mark(self._target, self._stream.name)
                    self._target.execute(setaside.NO_LIMIT)
                    setaside.put_back(self._target, part)
                return
            except psycopg.errors.ForeignKeyViolation as error:
                if attempt == 2 or part.table not in self._tables:
                    raise self._not_restored(part, error) from error
                with self._target.transaction():
                    control.mark(self._target, self._stream.name)
                    self._target.execute(setaside.FILLING)
                    self._target.execute(setaside.NO_LIMIT)
                    self._spool_orphans(self._parts("foreign key"))

    def _not_restored(self, part: Part, error: psycopg.Error) -> NotRestored:
        return NotRestored(
            table=part.table,
            kind=part.kind,
            name=part.name,
            reason=in_one_line(error.diag.message_detail or error.diag.message_primary or error),
            domain=self._stream.domain.name,
        )


def _analyze(target: Connection, table: str) -> None:
    """Whoever reads the table next needs a plan that knows its rows."""
    target.execute(ANALYZE.format(f.table(table)))


def _key(shape: Shape) -> sql.Composed:
    return f.texts_of("t", shape.mapping.key, [shape.cast(part) for part in shape.mapping.key])


def _parents_first(parts: list[Part]) -> list[Part]:
    """Foreign keys of tables nearer to the roots first: until a table's own stand, rows may be
    taken out of it without taking others along."""
    children: dict[str, set[str]] = {}
    for part in parts:
        children.setdefault(part.facts["table"], set()).add(part.table)
    depth: dict[str, int] = {}

    def descend(table: str, level: int, path: frozenset[str]) -> None:
        if level <= depth.get(table, -1) or table in path:
            return
        depth[table] = level
        for child in children.get(table, ()):
            descend(child, level + 1, path | {table})

    for table in children:
        descend(table, 0, frozenset())
    return sorted(parts, key=lambda part: (depth.get(part.table, 0), part.id))
