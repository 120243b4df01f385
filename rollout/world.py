"""The part of the world that a step and a rollback act on beside the gateways: two databases.

`World` is one domain's: who owns, has everybody stopped writing, has everything crossed. The
shipped `DatabaseWorld` asks the databases; `InMemoryWorld` keeps the same promises in memory.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, LiteralString, Protocol

import httpx
import psycopg
from psycopg import sql

from estate.config import Config, WriterConfig
from estate.connections import DatabaseUnreachable, connect
from estate.errors import ExitCode, SplitctlError, in_one_line
from migrator import archive, barrier, ownership
from migrator.barrier import Marker
from migrator.mapping import Direction, Side, Stream, other, streams
from migrator.ownership import Ownership

Connection = psycopg.Connection[Any]
SIDES: tuple[Side, Side] = ("old", "new")

LOCK_LIMIT = sql.SQL("SET lock_timeout = {}")
# What has reached the target's books and was not carried, for whatever reason.
PENDING: LiteralString = """
SELECT mapping, key, 'spooled' FROM splitctl_sync.spool WHERE stream = %(stream)s
 UNION ALL
SELECT mapping, key, reason FROM splitctl_sync.waiting WHERE stream = %(stream)s
 UNION ALL
SELECT mapping, key, 'stray' FROM splitctl_sync.stray
 WHERE stream = %(stream)s AND settled_at IS NULL AND owner_epoch >= %(epoch)s
 LIMIT 10000
"""
LAST: LiteralString = "SELECT lsn::text, heartbeat_at FROM splitctl_sync.progress WHERE stream = %s"


class SideAway(SplitctlError):
    """Database '{database}' ({side} side) does not answer: {reason}."""

    hint = "splitctl doctor"
    exit_code = ExitCode.PRECONDITION


class WriterUnpaused(SplitctlError):
    """Writer '{writer}' could not be paused: {reason}. Nobody was held and nothing was changed."""

    hint = "bring the writer's pause_url to life, then type the same command again"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Crossing:
    """The end of a wait at a barrier. `pending` keys had not been carried.

    `ended`: whether everybody had stopped writing on the source before the mark. `disputed`: those
    that are pending were changed on both sides, and wait until one owner is told.
    """

    passed: bool
    seconds: float
    pending: int
    marker: Marker | None = None
    ended: bool = True
    disputed: bool = False


@dataclass(frozen=True)
class Quiet:
    """The end of a wait for writing transactions; `holdouts` are those still there."""

    quiet: bool
    seconds: float = 0.0
    holdouts: tuple[str, ...] = ()


class World(Protocol):
    """One domain's two databases. Every method may raise SideAway."""

    def owner(self, side: Side) -> Ownership:
        """What a side's database says. Raises OwnerMissing when sync was never enabled."""

    def quiesce(self, side: Side, timeout_s: float) -> Quiet:
        """Wait until every transaction that now writes to the side's tables has ended."""

    def cross(self, direction: Direction, timeout_s: float) -> Crossing:
        """Mark now, and wait until everything before the mark has been carried."""

    def switch_owner(self, side: Side, new_below: int, epoch: int, timeout_s: float) -> None:
        """Move the owner in one side's database. Raises EpochConflict."""

    def left_behind(self, marker: Marker | None, epoch: int, timeout_s: float) -> list[Any]:
        """What had not crossed from new to old when `epoch` began there, by name if it can be."""

    def archived(self) -> bool:
        """Whether the old side's tables have been archived."""

    def close(self) -> None:
        """Close what is open."""


class DatabaseWorld:
    """The real one. Connections are opened when first used and kept until `close`."""

    def __init__(self, config: Config, domain: str, purpose: str = "step") -> None:
        self._domain, self._purpose = domain, purpose
        self._databases = ownership.sides(config, domain)
        both = {stream.direction: stream for stream in streams(config, domain)}
        self._streams: dict[Direction, Stream] = {
            "forward": both["forward"],
            "reverse": both["reverse"],
        }
        self._open: dict[Side, Connection] = {}

    def __enter__(self) -> "DatabaseWorld":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close both connections."""
        for side in SIDES:
            self._drop(side)

    def _drop(self, side: Side) -> None:
        connection = self._open.pop(side, None)
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()

    @contextmanager
    def _on(self, side: Side) -> Iterator[Connection]:
        """The side's connection; one that broke is opened anew next time."""
        database = self._databases[side]
        try:
            if side not in self._open:
                self._open[side] = connect(database, self._purpose)
            yield self._open[side]
        except (psycopg.Error, DatabaseUnreachable) as error:
            self._drop(side)
            reason = error.facts["reason"] if isinstance(error, SplitctlError) else error
            raise SideAway(database=database.name, side=side, reason=in_one_line(reason)) from error

    def owner(self, side: Side) -> Ownership:
        """What a side's database says."""
        with self._on(side) as connection:
            found = ownership.read(connection, self._domain)
        if found is None:
            name = self._databases[side].name
            raise ownership.OwnerMissing(database=name, domain=self._domain)
        return found

    def _tables(self, side: Side) -> list[str]:
        """What the side's programs write to: sources of one direction, targets of the other."""
        source: Direction = "forward" if side == "old" else "reverse"
        target: Direction = "reverse" if side == "old" else "forward"
        names = [*self._streams[source].tables]
        names += [mapping.target for mapping in self._streams[target].mappings]
        return list(dict.fromkeys(names))

    def quiesce(self, side: Side, timeout_s: float) -> Quiet:
        """Wait for writing transactions, prepared ones too."""
        with self._on(side) as connection:
            found = barrier.quiesce(connection, self._tables(side), timeout_s)
        return Quiet(found.quiet, found.seconds, found.holdouts)

    def cross(self, direction: Direction, timeout_s: float) -> Crossing:
        """Mark on the source, wait at the target."""
        started = time.monotonic()
        stream = self._streams[direction]
        source, target = stream.source_side, other(stream.source_side)
        with self._on(target) as at_target:
            with self._on(source) as at_source:
                marker = barrier.mark(at_source, stream.name)
            left = timeout_s - (time.monotonic() - started)
            state = barrier.wait_for(at_target, marker, left)
        seconds = time.monotonic() - started
        return Crossing(state.passed, seconds, state.pending, marker, disputed=state.disputed)

    def switch_owner(self, side: Side, new_below: int, epoch: int, timeout_s: float) -> None:
        """Move the owner; waits for transactions that asked for it, at most so long."""
        with self._on(side) as connection:
            limit = sql.Literal(f"{max(int(1000 * timeout_s), 1)}ms")
            connection.execute(LOCK_LIMIT.format(limit))
            ownership.switch(connection, self._domain, new_below, epoch)

    def left_behind(self, marker: Marker | None, epoch: int, timeout_s: float) -> list[Any]:
        """Keys by name from the old side's books, after giving late ones some time to arrive.

        Nobody is held meanwhile. A key that arrives now is carried where nobody has worked on the
        old row since, else kept as a stray; with both versions in either case.
        """
        stream = self._streams["reverse"]
        with self._on("old") as old:
            reached = False
            deadline = time.monotonic() + timeout_s
            while marker is not None and not reached and time.monotonic() < deadline:
                reached = barrier.look(old, marker).position_passed
                if not reached:
                    time.sleep(0.1)
            values = {"stream": stream.name, "epoch": epoch}
            rows = old.execute(PENDING, values).fetchall()
            named: list[Any] = [
                {"mapping": str(row[0]), "key": row[1], "why": str(row[2])} for row in rows
            ]
            if not reached:
                last = old.execute(LAST, (stream.name,)).fetchone()
                named.append(_statement(stream, last))
        return named

    def archived(self) -> bool:
        """Whether any of the old tables stands only under its archived name."""
        with self._on("old") as old:
            return archive.is_archived(old, self._streams["reverse"])


def _statement(stream: Stream, last: Any) -> dict[str, Any]:
    since = last[1].isoformat(timespec="milliseconds") if last and last[1] else "the beginning"
    return {
        "mapping": f"every mapping of {stream.name}",
        "key": None,
        "why": (
            f"changes made on database '{stream.source.name}' since {since} may not have been "
            f"carried (last position {last[0] if last else 'none'}); they are still there"
        ),
    }


class Writers(Protocol):
    """Programs that write beside the gateway and can be paused."""

    def pause(self) -> None:
        """Pause all. Raises WriterUnpaused, and then none is paused."""

    def resume(self) -> list[str]:
        """Let all go on; returns those that could not be told, with the reason."""


class HttpWriters:
    """Declared writers of discipline `paused`, told by POST."""

    def __init__(self, writers: list[WriterConfig]) -> None:
        self._writers = [writer for writer in writers if writer.discipline == "paused"]

    def pause(self) -> None:
        """POST to every pause_url."""
        for writer in self._writers:
            problem = _post(str(writer.pause_url))
            if problem:
                self.resume()
                raise WriterUnpaused(writer=writer.name, reason=problem)

    def resume(self) -> list[str]:
        """POST to every resume_url; twice where the first did not arrive."""
        problems = []
        for writer in self._writers:
            problem = _post(str(writer.resume_url)) and _post(str(writer.resume_url))
            if problem:
                problems.append(f"writer '{writer.name}' could not be resumed: {problem}")
        return problems


def _post(url: str) -> str | None:
    try:
        answer = httpx.post(url, timeout=2.0, trust_env=False)
    except httpx.HTTPError as error:
        return in_one_line(error)
    return None if answer.is_success else f"it answers {answer.status_code}"


@dataclass
class InMemoryWorld:
    """Two databases in memory. `log` gets every act; `before` may raise, or change things."""

    owners: dict[Side, Ownership] = field(
        default_factory=lambda: {"old": Ownership(0, 1), "new": Ownership(0, 1)}
    )
    log: list[str] = field(default_factory=list)
    before: Callable[[str], None] = lambda _: None
    away: set[Side] = field(default_factory=set)
    quiet: bool = True
    caught_up: bool = True
    disputed: bool = False
    is_archived: bool = False
    behind: list[Any] = field(default_factory=list)

    def _act(self, name: str, side: Side | None = None) -> None:
        self.before(name)
        self.log.append(name)
        if side in self.away:
            raise SideAway(database=side, side=side, reason="away")

    def owner(self, side: Side) -> Ownership:
        """What a side says."""
        self._act(f"read {side}", side)
        return self.owners[side]

    def quiesce(self, side: Side, timeout_s: float) -> Quiet:
        """As `quiet` says."""
        del timeout_s
        self._act(f"quiesce {side}", side)
        return Quiet(self.quiet, 0.0, () if self.quiet else ("3/42",))

    def cross(self, direction: Direction, timeout_s: float) -> Crossing:
        """As `caught_up` says."""
        del timeout_s
        self._act(f"cross {direction}", "new" if "new" in self.away else None)
        pending = 0 if self.caught_up else 7
        return Crossing(self.caught_up, 0.001, pending, disputed=self.disputed)

    def switch_owner(self, side: Side, new_below: int, epoch: int, timeout_s: float) -> None:
        """The same rules as in a database."""
        del timeout_s
        self._act(f"own {side}", side)
        wanted = Ownership(new_below, epoch)
        if ownership.turns(self.owners[side], wanted, "d", side):
            self.owners[side] = wanted

    def left_behind(self, marker: Marker | None, epoch: int, timeout_s: float) -> list[Any]:
        """What was set."""
        del marker, epoch, timeout_s
        self._act("left behind", "old")
        return list(self.behind)

    def archived(self) -> bool:
        """What was set."""
        self._act("archived?", "old")
        return self.is_archived

    def close(self) -> None:
        """Nothing is open."""
