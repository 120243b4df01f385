"""A split of one table that has the same columns on both sides, for what a value or a table can be.

Old: `things`; new: `goods`. Both directions carry every column that is named, by the driving key.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from psycopg import sql

from estate.config import load
from migrator import backfill, sync
from rehearsal.postgres import free_port
from tests.conftest import ConfigWriter, FreshDatabase
from tests.migrator.parcels import COPIED, LIVE, Post
from verify import diff
from verify.passes import Limits

OLD_TABLE, NEW_TABLE = "things", "goods"
HEAD = """
[domains.post]
old = "order"
new = "checkout"
flag = "USE_POST"
percentage = "POST_PERCENTAGE"
phases = [{ percentage = 100, soak = "1s" }]
"""
LINE = """
[[domains.post.{direction}]]
target = "{target}"
query = "mappings/{direction}/{target}.sql"
key = {key}
route = "t.holder"
sources = {{ {source} = {{ {leads} }} }}
"""
LIMITS = Limits(barrier_s=30)


def build(
    databases: dict[str, FreshDatabase],
    write_config: ConfigWriter,
    *,
    old: str,
    new: str,
    columns: Sequence[str],
    back: Sequence[str] | None = None,
    key: Sequence[str] = ("id",),
    role: str | None = None,
) -> Post:
    """Both databases with their tables, and the configuration; sync is not enabled.

    `columns` are carried forward, `back` (the same by default) in reverse; each has `holder`, the
    stable id. With `role` the tool is this role, a member of the table's owner.
    """
    connections = databases["order"].connect(), databases["checkout"].connect()
    for connection, ddl in zip(connections, (old, new), strict=True):
        connection.execute(ddl.encode())
    lines = [("forward", OLD_TABLE, NEW_TABLE), ("reverse", NEW_TABLE, OLD_TABLE)]
    toml, mappings = HEAD, {}
    for direction, source, target in lines:
        leads = ", ".join(f"{toml_key(part)} = {toml_key(part)}" for part in key)
        toml += LINE.format(
            direction=direction,
            source=source,
            target=target,
            key="[" + ", ".join(toml_key(part) for part in key) + "]",
            leads=leads,
        )
        chosen = columns if direction == "forward" or back is None else back
        listed = sql.SQL(", ").join(map(sql.Identifier, chosen)).as_string()
        query = f"SELECT {listed}, holder AS splitctl_route FROM {source}"
        mappings[f"{direction}/{target}.sql"] = query
    path = write_config(
        databases={
            name: databases[name].dsn_as(role) if role else databases[name].dsn
            for name in ("order", "checkout")
        },
        domains=toml,
        mappings=mappings,
        extra=f'[sync]\nlisten = "127.0.0.1:{free_port()}"',
    )
    return Post(load(path), *connections)


def toml_key(name: str) -> str:
    """A column's name as TOML writes a quoted key or a text."""
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def enable_live(post: Post) -> None:
    """Sync enabled, and everything live without a copy: for tables that are empty."""
    sync.enable(post.config, "post")
    for connection in (post.old, post.new):
        connection.execute(LIVE)
        connection.execute(COPIED)


def copy(post: Post) -> None:
    """The backfill, to its end. A worker runs."""
    backfill.run(post.config, "post", on_progress=lambda *_: None)


@contextmanager
def closing(post: Post) -> Iterator[Post]:
    """The split, with its connections closed at the end."""
    try:
        yield post
    finally:
        post.old.close()
        post.new.close()


def held(post: Post, columns: Sequence[str]) -> tuple[list[Any], list[Any]]:
    """What each side holds, as psycopg reads it and as the server writes it, in the key's order."""
    found = []
    for connection, table in ((post.old, OLD_TABLE), (post.new, NEW_TABLE)):
        names = [sql.Identifier(name) for name in columns]
        query = sql.SQL("SELECT {}, {} FROM {} ORDER BY 1").format(
            sql.SQL(", ").join(names),
            sql.SQL(", ").join(sql.SQL("{}::text").format(name) for name in names),
            sql.Identifier(table),
        )
        found.append(connection.execute(query).fetchall())
    return found[0], found[1]


def verified(post: Post) -> None:
    """The project's own verifier finds both sides equal. A worker runs."""
    verdict = diff.run(post.config, limits=LIMITS)
    assert verdict.verdict == "equal", verdict.to_text()
