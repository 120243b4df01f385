"""What is written in one transaction, what came of it, and what waits."""

import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from migrator.changes import MappingKey
from migrator.visibility import widen

POSTPONED = "asked for by the opposite stream while its mapping was not live"


@dataclass(frozen=True)
class Position:
    """How far the source's log is carried once a part is written."""

    lsn: int
    committed: datetime
    heartbeat: datetime | None


@dataclass(frozen=True)
class Part:
    """Keys that are written in one transaction.

    `carry` are written now, `spool` are put down for later. `generations`: the carried keys come
    from the spool of one mapping and leave it. `quiet`: keys that nobody changed here; when they
    are not ours to write, that is no stray. `asked`: those among them that the opposite stream
    asked for, having given up its own version; they are never forgotten. `collisions`: (mapping,
    unique index) whose holders step aside first. `merged`: keys added for the values they hold;
    `held`: such keys of a part that was halved since. They are not merged again. `settled`: keys
    whose rows are written already, as far as they are named anywhere in the bookkeeping. `since`:
    nothing that it stands for was committed on the source before this position; None: that is not
    known, or stands in the spool. `taken`: how often somebody else was quicker with a row.
    `postponed`: keys that the opposite stream asked for, whose mapping is not live now. `begins`:
    more of the same comes after it, so that deletes which something hangs on are held back until
    then; `late`: keys that were held back already, and are no more.
    """

    carry: tuple[MappingKey, ...] = ()
    spool: tuple[MappingKey, ...] = ()
    position: Position | None = None
    xids: frozenset[int] = frozenset()
    generations: dict[MappingKey, int] | None = None
    quiet: frozenset[MappingKey] = frozenset()
    asked: frozenset[MappingKey] = frozenset()
    collisions: frozenset[tuple[str, str]] = frozenset()
    merged: frozenset[MappingKey] = frozenset()
    held: frozenset[MappingKey] = frozenset()
    settled: tuple[MappingKey, ...] = ()
    since: int | None = None
    taken: int = 0
    postponed: frozenset[MappingKey] = frozenset()
    begins: bool = False
    late: frozenset[MappingKey] = frozenset()

    @property
    def waits(self) -> "Waits":
        """What has to wait whatever becomes of the rest."""
        return dict.fromkeys(self.postponed, ("asked", POSTPONED))

    def beginning(self, carry: tuple[MappingKey, ...]) -> "Part":
        """A part with these of its keys, to be written before the rest: the books come last."""
        return replace(
            self,
            carry=carry,
            spool=(),
            settled=(),
            postponed=frozenset(),
            position=None,
            begins=True,
        )

    def after(self, outcome: "Outcome") -> "Part":
        """The rest, when this came of its beginning: what was held back is held back once."""
        return replace(self, late=self.late.union(outcome.late))

    @property
    def state(self) -> str:
        """The state that the mappings of its carried keys must have."""
        return "live" if self.generations is None else "drain"


@dataclass
class Outcome:
    """What was written: rows, keys put to the spool, strays.

    `across`: of the strays, those that were written over the owner's version. `late`: keys that
    were held back, to be carried after the rest.
    """

    upserted: int = 0
    deleted: int = 0
    spooled: int = 0
    strays: int = 0
    across: int = 0
    late: tuple[MappingKey, ...] = ()

    def add(self, other: "Outcome") -> None:
        """Count the other's in. What it held back is for whoever carries the rest."""
        self.upserted += other.upserted
        self.deleted += other.deleted
        self.spooled += other.spooled
        self.strays += other.strays
        self.across += other.across


Waits = dict[MappingKey, tuple[str, str]]


@dataclass
class Waiting:
    """A key that is parked in the target: why, how often it was tried, and when it is due again."""

    reason: str
    attempts: int = 0
    due: float = 0.0


# Of two 32-bit ids farther apart than this nobody can tell which is the older one.
HALF = 1 << 31


class Own:
    """Which of the target's rows somebody else wrote since the opposite stream looked.

    Told by the transaction id that wrote the row. Ids below the horizon have been looked at. Our
    own since then are remembered, `earlier` ones too, which the target keeps for every process.
    Several appliers may begin at once.
    """

    def __init__(self, earlier: Iterable[int] = ()) -> None:
        self._lock = threading.Lock()
        self._ids = set(earlier)
        self._next = 0
        self._horizon: int | None = None

    def begin(self, number: int, following: int, horizon: int | None) -> None:
        """A transaction of ours has looked. Without a horizon nothing counts as fresh.

        `following` is an id that nobody had yet when the rows were looked at: others may have
        begun after us and committed before our look.
        """
        with self._lock:
            if horizon != self._horizon:
                self._ids = {own for own in self._ids if horizon is not None and own >= horizon}
            self._next, self._horizon = following, horizon
            self._ids.add(number)

    def look_again(self, following: int) -> None:
        """The same transaction has looked once more; see `begin`."""
        with self._lock:
            self._next = max(self._next, following)

    def __len__(self) -> int:
        """How many of our own ids are kept."""
        return len(self._ids)

    def numbers(self) -> list[int]:
        """Our own ids, as rows have them: 32 bits of each."""
        with self._lock:
            return [own & 0xFFFFFFFF for own in self._ids]

    def is_fresh(self, xmin: int) -> bool:
        """Whether a row with this 32-bit xmin was written by somebody else since the horizon.

        An id that nobody has yet is an old one whose row was frozen long ago.
        """
        if self._horizon is None:
            return False
        writer = widen(xmin, self._next)
        return self._horizon <= writer < self._next and writer not in self._ids

    def is_older(self, xmin: int, horizon: int, ours: Collection[int] = ()) -> bool:
        """Whether a row with this 32-bit xmin was surely written below the horizon, or by `ours`.

        Not sure without anybody who looks from the other side, or when the horizon is so long ago
        that ids have been used again since.
        """
        if self._horizon is None or self._next - horizon >= HALF:
            return False
        writer = widen(xmin, self._next)
        return writer < horizon or writer >= self._next or writer in ours
