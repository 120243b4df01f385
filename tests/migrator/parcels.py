"""A small split of its own for these tests: depots become stations, parcels become shipments.

Composite key, a JSON list that becomes rows, a unique name, a numeric that is rounded.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from estate.config import Config, SyncConfig, load
from migrator import barrier, ownership, sync
from migrator.health import Board
from migrator.mapping import Side, Stream, shape, streams
from migrator.worker import carry, run
from rehearsal.postgres import free_port
from tests.conftest import ConfigWriter, FreshDatabase

OLD = """
CREATE TABLE depots (
    region text, code integer, name varchar(40) NOT NULL UNIQUE, holder text NOT NULL,
    tags jsonb NOT NULL DEFAULT '[]', PRIMARY KEY (region, code));
CREATE TABLE parcels (
    id bigserial PRIMARY KEY, region text NOT NULL, code integer NOT NULL,
    weight numeric(10,2), revised timestamptz,
    note text, FOREIGN KEY (region, code) REFERENCES depots ON DELETE CASCADE);
"""
NEW = """
CREATE TABLE stations (
    region text, number bigint, title varchar(40) NOT NULL UNIQUE, holder text NOT NULL,
    PRIMARY KEY (region, number));
CREATE TABLE station_tags (
    region text, number bigint, tag text, PRIMARY KEY (region, number, tag),
    FOREIGN KEY (region, number) REFERENCES stations ON DELETE CASCADE);
CREATE TABLE shipments (
    id bigserial PRIMARY KEY, region text NOT NULL, number bigint NOT NULL,
    weight numeric(10,2) CHECK (weight < 1000), revised timestamptz, note text,
    FOREIGN KEY (region, number) REFERENCES stations ON DELETE CASCADE);
"""
MAPPINGS = {
    "post/forward/stations.sql": """
SELECT d.region, d.code::bigint AS number, d.name AS title, d.holder, d.holder AS splitctl_route
  FROM depots d
""",
    "post/forward/station_tags.sql": """
SELECT d.region, d.code::bigint AS number, g.tag, d.holder AS splitctl_route
  FROM depots d
  CROSS JOIN LATERAL (SELECT DISTINCT jsonb_array_elements_text(d.tags) AS tag) g
 WHERE g.tag NOT LIKE '%secret%'
""",
    "post/forward/shipments.sql": """
SELECT p.id, p.region, p.code::bigint AS number, p.weight, p.revised, p.note,
       d.holder AS splitctl_route
  FROM parcels p JOIN depots d USING (region, code)
""",
    "post/reverse/depots.sql": """
SELECT s.region, s.number::integer AS code, s.title AS name, s.holder,
       coalesce((SELECT jsonb_agg(g.tag ORDER BY g.tag COLLATE "C") FROM station_tags g
                  WHERE g.region = s.region AND g.number = s.number), '[]') AS tags,
       s.holder AS splitctl_route
  FROM stations s
""",
    "post/reverse/parcels.sql": """
SELECT h.id, h.region, h.number::integer AS code, h.weight, h.revised, h.note,
       s.holder AS splitctl_route
  FROM shipments h JOIN stations s USING (region, number)
""",
}
OF_STATION = "(SELECT s.holder FROM stations s WHERE (s.region, s.number) = (t.region, t.number))"
OF_DEPOT = "(SELECT d.holder FROM depots d WHERE (d.region, d.code) = (t.region, t.code))"
DOMAIN = f"""
[domains.post]
old = "order"
new = "checkout"
flag = "USE_POST"
percentage = "POST_PERCENTAGE"
phases = [{{ percentage = 100, soak = "1s" }}]
[[domains.post.forward]]
target = "stations"
query = "mappings/post/forward/stations.sql"
key = ["region", "number"]
route = "t.holder"
sources = {{ depots = {{ region = "region", number = "code" }} }}
[[domains.post.forward]]
target = "station_tags"
query = "mappings/post/forward/station_tags.sql"
key = ["region", "number"]
route = "{OF_STATION}"
sources = {{ depots = {{ region = "region", number = "code" }} }}
[[domains.post.forward]]
target = "shipments"
query = "mappings/post/forward/shipments.sql"
key = ["id"]
route = "{OF_STATION}"
sources = {{ parcels = {{ id = "id" }} }}
[[domains.post.reverse]]
target = "depots"
query = "mappings/post/reverse/depots.sql"
key = ["region", "code"]
route = "t.holder"
[domains.post.reverse.sources]
stations = {{ region = "region", code = "number" }}
station_tags = {{ region = "region", code = "number" }}
[[domains.post.reverse]]
target = "parcels"
query = "mappings/post/reverse/parcels.sql"
key = ["id"]
route = "{OF_DEPOT}"
sources = {{ shipments = {{ id = "id" }} }}
"""
LIVE = "UPDATE splitctl_sync.mapping_state SET state = 'live'"
COPIED = "UPDATE splitctl_sync.backfill SET state = 'copied'"


@dataclass
class Post:
    """The split: its configuration, both databases, both streams."""

    config: Config
    old: psycopg.Connection[Any]
    new: psycopg.Connection[Any]

    @property
    def forward(self) -> Stream:
        return streams(self.config, "post")[0]

    @property
    def reverse(self) -> Stream:
        return streams(self.config, "post")[1]

    def target(self, stream: Stream) -> psycopg.Connection[Any]:
        return self.new if stream.direction == "forward" else self.old

    def source(self, stream: Stream) -> psycopg.Connection[Any]:
        return self.old if stream.direction == "forward" else self.new

    def own(self, new_below: int, epoch: int) -> None:
        """Switch the owner in both databases, by hand: no move is recorded."""
        for connection in (self.old, self.new):
            connection.execute(
                "UPDATE splitctl_sync.owner SET new_below = %s, epoch = %s", (new_below, epoch)
            )

    def move(self, new_below: int, epoch: int, *sides: Side) -> None:
        """Move the owner as a step does it, in both databases or on these sides alone."""
        for side in sides or ("old", "new"):
            connection = self.old if side == "old" else self.new
            ownership.switch(connection, "post", new_below, epoch)

    def own_apart(self, *, old: tuple[int, int], new: tuple[int, int]) -> None:
        """Owner rows (threshold, epoch) as they stand between the two moves of a step."""
        for connection, owner in ((self.old, old), (self.new, new)):
            connection.execute("UPDATE splitctl_sync.owner SET new_below = %s, epoch = %s", owner)

    def settle(self, *chosen: Stream, timeout_s: float = 30.0) -> None:
        """Wait until these streams (both by default) have passed a barrier."""
        for stream in chosen or (self.forward, self.reverse):
            result = barrier.wait(stream, timeout_s)
            assert result.passed, (result, self.pending(stream))

    def pending(self, stream: Stream) -> list[Any]:
        return (
            self.target(stream)
            .execute(
                "SELECT mapping, key, reason, detail FROM splitctl_sync.waiting WHERE stream = %s",
                (stream.name,),
            )
            .fetchall()
        )

    def strays(self, stream: Stream) -> list[Any]:
        query = (
            "SELECT mapping, key, source_rows, target_rows, owner_epoch FROM splitctl_sync.stray"
            " WHERE stream = %s ORDER BY id"
        )
        return self.target(stream).execute(query, (stream.name,)).fetchall()

    def unsettled(self, stream: Stream) -> int:
        query = "SELECT count(*) FROM splitctl_sync.stray WHERE stream = %s AND settled_at IS NULL"
        row = self.target(stream).execute(query, (stream.name,)).fetchone()
        assert row is not None
        return int(row[0])

    def await_heartbeats(self, stream: Stream, number: int) -> None:
        """Wait until so many more heartbeats have made the round trip."""
        query = "SELECT heartbeat_at FROM splitctl_sync.progress WHERE stream = %s"
        seen = {self.target(stream).execute(query, (stream.name,)).fetchone()}

        def enough() -> bool:
            seen.add(self.target(stream).execute(query, (stream.name,)).fetchone())
            return len(seen) > number

        until(enough)

    def differences(self, stream: Stream) -> dict[str, Any]:
        """What the mapping queries give on the source and the target does not hold, or reverse."""
        found = {}
        source, target = self.source(stream), self.target(stream)
        for mapping in stream.mappings:
            it = shape(source, target, mapping)
            texts = sql.SQL(", ").join(
                sql.SQL("{}::{}::text").format(sql.Identifier(name), sql.SQL(cast))
                for name, cast in zip(it.columns, it.casts, strict=True)
            )
            wanted = source.execute(
                sql.SQL("SELECT {} FROM ({}) q").format(texts, sql.SQL(mapping.config.sql))
            ).fetchall()
            held = target.execute(
                sql.SQL("SELECT {} FROM {}").format(texts, sql.Identifier(mapping.target))
            ).fetchall()
            if sorted(wanted) != sorted(held):
                found[mapping.name] = (
                    sorted(set(wanted) - set(held)),
                    sorted(set(held) - set(wanted)),
                )
        return found


def build(
    databases: dict[str, FreshDatabase],
    write_config: ConfigWriter,
    strays: dict[str, str] | None = None,
    domain: str = DOMAIN,
    more_old: str = "",
    *,
    ledger: str | None = None,
    refuge_after: str = "10s",
) -> Post:
    """Both databases with their tables, and the configuration; sync is not enabled.

    `strays`: for a target table, the rule for strays as the configuration writes it. `domain` is
    another configuration, `more_old` more DDL for the old side.
    """
    for table, rule in (strays or {}).items():
        named = f'target = "{table}"\n'
        assert named in domain
        domain = domain.replace(named, f"{named}stray = {rule}\n")
    old, new = databases["order"].connect(), databases["checkout"].connect()
    old.execute(f"{OLD}{more_old}".encode())
    new.execute(NEW)
    path = write_config(
        databases={name: databases[name].dsn for name in ("order", "checkout")},
        domains=domain,
        mappings=MAPPINGS,
        ledger=ledger,
        extra=f'[sync]\nlisten = "127.0.0.1:{free_port()}"\nrefuge_after = "{refuge_after}"',
    )
    return Post(load(path), old, new)


def make(
    databases: dict[str, FreshDatabase],
    write_config: ConfigWriter,
    strays: dict[str, str] | None = None,
    domain: str = DOMAIN,
    more_old: str = "",
) -> Post:
    """The same with sync enabled and everything live."""
    post = build(databases, write_config, strays, domain, more_old)
    enable(post)
    return post


def enable(post: Post) -> None:
    """Enable sync, with everything live."""
    sync.enable(post.config, "post")
    for connection in (post.old, post.new):
        connection.execute(LIVE)
        connection.execute(COPIED)


@contextmanager
def working(config: Config) -> Iterator[None]:
    """A sync worker in a thread."""
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(config, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


@contextmanager
def carrying(stream: Stream, opposite: str = "disabled") -> Iterator[None]:
    """A worker of one stream alone; `opposite` is the state in which it sees the other."""
    stop = threading.Event()
    board = Board([stream.name, stream.opposite])
    thread = threading.Thread(target=carry, args=(stream, board, stop, SyncConfig()))
    board.streams[stream.opposite].turn(opposite)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


def until(condition: Any, timeout_s: float = 30.0) -> Any:
    """Wait for a condition to be true and return it."""
    limit = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < limit, "it did not come true in time"
        time.sleep(0.02)
