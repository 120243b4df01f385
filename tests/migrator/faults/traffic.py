"""Writers on both sides, and what was acknowledged to them.

A writer is owner-aware, as a job is: it asks for the owner inside its own transaction. What it is
told about a commit is remembered. A commit whose answer never came is looked up once it has ended.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from migrator.mapping import Side
from migrator.ownership import bucket

HOLDERS = 40
PAUSE_S = 0.02
STATEMENT_LIMIT = "-c statement_timeout=4s -c lock_timeout=3s"
END_LIMIT_S = 60.0
# Lost connections, servers that stop, a full disk, a lock not given. Anything else is a finding.
FAILED = (psycopg.OperationalError, psycopg.InterfaceError)
OWNS = "SELECT splitctl_sync.owns('post', %s, %s)"


Thing = tuple[str, Any]
States = dict[Thing, str | None]
PLACES: dict[Side, str] = {
    "old": "SELECT region, code, name, ARRAY(SELECT jsonb_array_elements_text(tags)) FROM depots",
    "new": """
SELECT s.region, s.number, s.title, ARRAY(
       SELECT g.tag FROM station_tags g WHERE (g.region, g.number) = (s.region, s.number))
  FROM stations s
""",
}
PARCELS: dict[Side, str] = {
    "old": "SELECT id, note FROM parcels",
    "new": "SELECT id, note FROM shipments",
}


def look(connection: psycopg.Connection[Any], side: Side) -> States:
    """Everything that stands on this side: names, tags, notes."""
    found: States = {}
    for region, code, name, tags in connection.execute(PLACES[side].encode()).fetchall():
        place = (region, int(code))
        found |= {("place", place): name, ("tags", place): " ".join(sorted(tags))}
    parcels = connection.execute(PARCELS[side].encode()).fetchall()
    return found | {("parcel", number): note for number, note in parcels}


@dataclass
class Truth:
    """What may stand for each thing at the end: its last acknowledged state, or a later one that
    was never answered and could not be looked up. None: it is gone."""

    possible: dict[Thing, set[str | None]] = field(default_factory=dict)
    acknowledged: Counter[str] = field(default_factory=Counter)

    def acknowledge(self, states: States, where: str) -> None:
        """These states are committed."""
        self.acknowledged[where] += bool(states)
        for thing, token in states.items():
            self.possible[thing] = {token}

    def doubt(self, states: States) -> None:
        """These states may be committed or not."""
        for thing, token in states.items():
            self.possible.setdefault(thing, {None}).add(token)


class Door:
    """Lets writers of a holder in, unless a step holds the holder's bucket."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._held: range = range(0)
        self._inside: dict[str, int] = {}

    @contextmanager
    def through(self, holder: str, stop: threading.Event) -> Iterator[bool]:
        """Inside, this writer is alone with the holder. Yields False when there was no way in."""
        with self._condition:
            while bucket(holder) in self._held or self._inside.get(holder):
                if stop.is_set():
                    break
                self._condition.wait(0.1)
            entered = not stop.is_set()
            if entered:
                self._inside[holder] = 1
        try:
            yield entered
        finally:
            if entered:
                with self._condition:
                    del self._inside[holder]
                    self._condition.notify_all()

    @contextmanager
    def held(self, low: int, high: int) -> Iterator[None]:
        """Nobody of these buckets is inside."""
        with self._condition:
            self._held = range(low, high)
            while any(bucket(holder) in self._held for holder in self._inside):
                self._condition.wait(0.1)
        try:
            yield
        finally:
            with self._condition:
                self._held = range(0)
                self._condition.notify_all()


class Writer:
    """One writer with a connection to each side. `side_of` tells where a holder is served."""

    def __init__(
        self,
        number: int,
        seed: int,
        dsns: dict[Side, str],
        door: Door,
        truth: Truth,
        side_of: Callable[[str], Side],
        stop: threading.Event,
    ) -> None:
        self.name = f"w{number}"
        self._chance = random.Random(f"{seed} {number}")
        self._dsns, self._door, self._truth = dsns, door, truth
        self._side_of, self._stop = side_of, stop
        self._connections: dict[Side, psycopg.Connection[Any]] = {}
        self._count = 0

    def run(self) -> None:
        """Write until stopped."""
        try:
            while not self._stop.wait(PAUSE_S * self._chance.random() * 2):
                holder = f"holder {self._chance.randrange(HOLDERS)}"
                with self._door.through(holder, self._stop) as entered:
                    if entered:
                        self._write(holder)
        finally:
            for connection in self._connections.values():
                connection.close()

    def _write(self, holder: str) -> None:
        side = self._side_of(holder)
        try:
            connection = self._connection(side)
            owned = connection.execute(OWNS, (holder, side)).fetchone()
            # Inside the door no step is under way.
            assert owned is not None and owned[0], f"{side} does not own {holder}"
            states = Hand(connection, side, self._chance, holder, self._token()).act()
        except FAILED:
            # Nothing was committed: the commit was never asked for.
            self._drop(side)
            return
        try:
            connection.commit()
        except FAILED:
            self._drop(side)
            self._truth.doubt(states)
            self._look_up(side, states)
            return
        self._truth.acknowledge(states, side)

    def _look_up(self, side: Side, states: States) -> None:
        """Wait until the commit that was not answered has ended, and see what came of it."""
        limit = time.monotonic() + END_LIMIT_S
        while time.monotonic() < limit:
            try:
                connection = self._connection(side)
                query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
                row = connection.execute(query, (self.name,)).fetchone()
                connection.rollback()
                if row is not None and row[0] == 1:
                    found = look(connection, side)
                    connection.rollback()
                    self._truth.acknowledge({thing: found.get(thing) for thing in states}, side)
                    return
            except FAILED:
                self._drop(side)
            time.sleep(0.05)

    def _connection(self, side: Side) -> psycopg.Connection[Any]:
        connection = self._connections.get(side)
        if connection is None or connection.closed:
            connection = psycopg.connect(
                self._dsns[side],
                application_name=self.name,
                options=STATEMENT_LIMIT,
                connect_timeout=3,
            )
            self._connections[side] = connection
        return connection

    def _drop(self, side: Side) -> None:
        connection = self._connections.pop(side, None)
        if connection is not None:
            connection.close()

    def _token(self) -> str:
        self._count += 1
        return f"{self.name}-{self._count}"


Place = tuple[str, int]
ACTS = {
    "open": 3,
    "rename": 5,
    "tag": 4,
    "swap": 2,
    "close": 1,
    "send": 6,
    "many": 1,
    "weigh": 6,
    "move": 2,
    "lose": 3,
}


class Hand:
    """Does one thing to a holder's places and parcels, in the words of its side.

    A place's state is its name, and its tags beside it; a parcel's is its note.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        side: Side,
        chance: random.Random,
        holder: str,
        token: str,
    ) -> None:
        self._connection, self._chance = connection, chance
        self._holder, self._token = holder, token
        self._old = side == "old"
        self._places, self._code, self._title, self._parcels = (
            ("depots", "code", "name", "parcels")
            if self._old
            else ("stations", "number", "title", "shipments")
        )

    def act(self) -> States:
        """Do it. Returns what stands now for everything that was touched."""
        found = [
            (str(region), int(code))
            for region, code in self._all(
                f"SELECT region, {self._code} FROM {self._places} WHERE holder = %s ORDER BY 1, 2",
                (self._holder,),
            )
        ]
        act = self._chance.choices(list(ACTS), list(ACTS.values()))[0]
        if act == "open" or len(found) < 2:
            return self._open(found)
        place, other = self._chance.sample(found, 2)
        match act:
            case "rename":
                return self._rename(place, self._token)
            case "tag":
                return self._tag(place)
            case "swap":
                return self._swap(place, other)
            case "close":
                return self._close(place)
            case "send":
                return self._send(place, self._token)
            case "many":
                sent: States = {}
                for number in range(30):
                    sent |= self._send(place, f"{self._token}.{number}")
                return sent
            case _:
                return self._parcel(act, place, other)

    def _open(self, found: list[Place]) -> States:
        # Few numbers, so that a place that was closed is opened again under its old key.
        place = (self._holder, self._chance.randrange(5))
        if place in found:
            return self._rename(place, self._token)
        self._do(
            f"INSERT INTO {self._places} (region, {self._code}, {self._title}, holder)"
            " VALUES (%s, %s, %s, %s)",
            (*place, self._token, self._holder),
        )
        return {("place", place): self._token, ("tags", place): ""}

    def _rename(self, place: Place, name: str) -> States:
        self._do(
            f"UPDATE {self._places} SET {self._title} = %s WHERE (region, {self._code}) = (%s, %s)",
            (name, *place),
        )
        return {("place", place): name}

    def _swap(self, one: Place, two: Place) -> States:
        """Two places exchange their names, which are unique, by way of a third one."""
        names = {
            place: str(
                self._all(
                    f"SELECT {self._title} FROM {self._places}"
                    f" WHERE (region, {self._code}) = (%s, %s)",
                    place,
                )[0][0]
            )
            for place in (one, two)
        }
        self._rename(one, self._token)
        return self._rename(two, names[one]) | self._rename(one, names[two])

    def _tag(self, place: Place) -> States:
        tags = [f"t{n}" for n in range(5) if self._chance.random() < 0.5]
        if self._old:
            self._do(
                "UPDATE depots SET tags = to_jsonb(%s::text[]) WHERE (region, code) = (%s, %s)",
                (tags, *place),
            )
        else:
            self._do("DELETE FROM station_tags WHERE (region, number) = (%s, %s)", place)
            for tag in tags:
                self._do("INSERT INTO station_tags VALUES (%s, %s, %s)", (*place, tag))
        return {("tags", place): " ".join(tags)}

    def _close(self, place: Place) -> States:
        gone = self._all(
            f"SELECT id FROM {self._parcels} WHERE (region, {self._code}) = (%s, %s)", place
        )
        self._do(f"DELETE FROM {self._places} WHERE (region, {self._code}) = (%s, %s)", place)
        lost: States = {("parcel", row[0]): None for row in gone}
        return lost | {("place", place): None, ("tags", place): None}

    def _send(self, place: Place, token: str) -> States:
        rows = self._all(
            f"INSERT INTO {self._parcels} (region, {self._code}, weight, note)"
            " VALUES (%s, %s, %s, %s) RETURNING id",
            (*place, self._chance.randrange(1, 900), token),
        )
        return {("parcel", rows[0][0]): token}

    def _parcel(self, act: str, place: Place, other: Place) -> States:
        rows = self._all(
            f"SELECT id FROM {self._parcels} WHERE (region, {self._code}) = (%s, %s)"
            " ORDER BY id LIMIT 20",
            place,
        )
        if not rows:
            return self._send(place, self._token)
        number = self._chance.choice(rows)[0]
        if act == "lose":
            self._do(f"DELETE FROM {self._parcels} WHERE id = %s", (number,))
            return {("parcel", number): None}
        if act == "move":
            self._do(
                f"UPDATE {self._parcels} SET region = %s, {self._code} = %s, note = %s"
                " WHERE id = %s",
                (*other, self._token, number),
            )
        else:
            self._do(
                f"UPDATE {self._parcels} SET weight = %s, note = %s WHERE id = %s",
                (self._chance.randrange(1, 900), self._token, number),
            )
        return {("parcel", number): self._token}

    def _all(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        return self._connection.execute(query.encode(), values).fetchall()

    def _do(self, query: str, values: tuple[Any, ...]) -> None:
        self._connection.execute(query.encode(), values)
