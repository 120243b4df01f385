"""`python -m tests.faulty FAULT COMMAND...`: the real program, with one mistake wrapped around it.

drop-key:N                  the Nth row that would be updated is forgotten, then and later
reorder:N                   from the Nth carried key on: the first key that changes once more gets
                            its earlier version back
skip-delete:N               the Nth row to delete stays
drop-each:N                 each Nth row that would be updated is forgotten
skip-each-delete:N          each Nth row to delete stays
skip-column:MAPPING.COLUMN  the verifier's checksums of a mapping leave a column out

With these, tests prove that the checks can fail.
"""

import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from unittest.mock import patch

from migrator import writing
from migrator.mapping import Key, Side
from migrator.ownership import Ownership
from migrator.plan import Plan, Routed, Values, Work, decide, pick
from migrator.reading import Connection, Prepared, Seen, read
from splitctl.main import main
from verify import checksum
from verify.checksum import Checksum
from verify.scan import Scan

Name = tuple[str, Values]
Wrap = AbstractContextManager[object]


class Nth:
    """The Nth row that passes by, over all streams of the process, each time that it does."""

    def __init__(self, number: str) -> None:
        self._left = int(number)
        self._found: Name | None = None
        self._lock = threading.Lock()

    def hit(self, name: Name) -> bool:
        """Whether it is this row."""
        with self._lock:
            if self._found is None:
                self._left -= 1
                if self._left == 0:
                    self._found = name
            return name == self._found


class Each:
    """Each Nth row that passes by."""

    def __init__(self, number: str) -> None:
        self._every, self._seen = int(number), 0
        self._lock = threading.Lock()

    def hit(self, name: Name) -> bool:
        """Whether it is one of these."""
        del name
        with self._lock:
            self._seen += 1
            return self._seen % self._every == 0


class Stale:
    """Versions of all keys, of which one is kept back from the Nth on."""

    def __init__(self, number: str) -> None:
        self._left = int(number)
        self._earlier: dict[Name, list[Routed]] = {}
        self._victim: Name | None = None
        self._lock = threading.Lock()

    def version(self, name: Name, rows: list[Routed]) -> list[Routed]:
        """The rows to write for a key: the ones read now, or its earlier ones."""
        with self._lock:
            self._left -= 1
            if self._left <= 0:
                earlier = self._earlier.setdefault(name, rows)
                if self._victim is None and earlier != rows:
                    self._victim = name
            return self._earlier[name] if name == self._victim else rows


def drop_key(victim: Nth | Each) -> Wrap:
    def forget(plan: Plan, work: Work) -> None:
        held = {item.primary for rows in work.standing.values() for item in rows}
        plan.upserts[work.mapping] = [
            row
            for row in plan.upserts[work.mapping]
            if (primary := pick(row, work.primary_positions)) not in held
            or not victim.hit((work.mapping, primary))
        ]

    return planned_otherwise(forget)


def skip_delete(victim: Nth | Each) -> Wrap:
    def spare(plan: Plan, work: Work) -> None:
        plan.deletes[work.mapping] = [
            primary
            for primary in plan.deletes[work.mapping]
            if not victim.hit((work.mapping, primary))
        ]

    return planned_otherwise(spare)


def planned_otherwise(err: Callable[[Plan, Work], None]) -> Wrap:
    def faulty(works: Sequence[Work], ownership: Ownership | None, side: Side) -> Plan:
        plan = decide(works, ownership, side)
        # As deletes go: from children to parents.
        for work in reversed(works):
            err(plan, work)
        return plan

    return patch.object(writing, "decide", faulty)


def reorder(number: str) -> Wrap:
    stale = Stale(number)

    def faulty(
        connection: Connection,
        opposite: str,
        wanted: Mapping[str, tuple[Prepared, list[Key]]],
        xids: Iterable[int],
    ) -> Seen:
        seen = read(connection, opposite, wanted, xids)
        for name, reading in seen.readings.items():
            # A row that is gone stays gone: without its parent an old one could not be written.
            for key, rows in reading.rows.items():
                reading.rows[key] = stale.version((name, key), rows)
        return seen

    return patch.object(writing, "read", faulty)


def skip_column(place: str) -> Wrap:
    mapping, _, column = place.rpartition(".")
    whole = Scan.checksums

    def without(side: checksum.Side) -> checksum.Side:
        return replace(side, columns=tuple(c for c in side.columns if c.name != column))

    def checksums(self: Scan) -> tuple[Checksum, Checksum]:
        seen = self.subject
        if seen.name != mapping:
            return whole(self)
        seen = replace(seen, source=without(seen.source), target=without(seen.target))
        return whole(replace(self, subject=seen))

    return patch.object(Scan, "checksums", checksums)


FAULTS: dict[str, Callable[[str], Wrap]] = {
    "drop-key": lambda number: drop_key(Nth(number)),
    "drop-each": lambda number: drop_key(Each(number)),
    "reorder": reorder,
    "skip-delete": lambda number: skip_delete(Nth(number)),
    "skip-each-delete": lambda number: skip_delete(Each(number)),
    "skip-column": skip_column,
}


def fault(text: str) -> Wrap:
    """While it lasts, this process makes the mistake."""
    kind, _, rest = text.partition(":")
    return FAULTS[kind](rest)


if __name__ == "__main__":
    with fault(sys.argv[1]):
        sys.argv = ["splitctl", *sys.argv[2:]]
        main()
