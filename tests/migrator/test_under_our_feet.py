"""What changes under a running sync is carried, or stops it with the table's name and a way on."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest

from migrator import apply, lanes, sync, teardown
from migrator.publication import TableNotPublished
from migrator.readiness import NotReady
from tests.conftest import ConfigWriter, FreshDatabase
from tests.migrator import mirror
from tests.migrator.parcels import Post, until, working
from tests.migrator.test_apply import carrier
from tests.versions import pair

TABLE = "CREATE TABLE {} (id bigint PRIMARY KEY, holder text NOT NULL, note text, amount integer)"
COLUMNS = ("id", "holder", "note", "amount")
NEW_OWNS = 10_000


@pytest.fixture
def post(fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter) -> Iterator[Post]:
    """One table on each side, live, without a worker."""
    built = mirror.build(
        fresh_databases,
        write_config,
        old=TABLE.format(mirror.OLD_TABLE),
        new=TABLE.format(mirror.NEW_TABLE),
        columns=COLUMNS,
    )
    with mirror.closing(built):
        mirror.enable_live(built)
        yield built


def standing(post: Post, stream: str = "post.forward") -> dict[str, Any]:
    """What the worker tells of a stream."""
    url = f"http://{post.config.sync.listen}/status"
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            found: dict[str, Any] = json.load(answer)["streams"][stream]
    except (urllib.error.URLError, ConnectionError) as error:
        return {"state": f"not there yet: {error}", "reason": ""}
    return found


def reason(post: Post, *words: str, stream: str = "post.forward", state: str = "stopped") -> str:
    """Wait until the stream stands so, for a reason that has all these words."""

    def told() -> str | None:
        found = standing(post, stream)
        text = str(found["reason"])
        return text if found["state"] == state and all(word in text for word in words) else None

    return str(until(told, timeout_s=15))


def add(connection: psycopg.Connection[Any], table: str, *numbers: int) -> None:
    for number in numbers:
        connection.execute(
            f"INSERT INTO {table} (id, holder, note) VALUES (%s, 'ann', %s)".encode(),
            (number, f"note {number}"),
        )


def agree(post: Post, *numbers: int, columns: tuple[str, ...] = COLUMNS) -> None:
    """Nothing waits, both sides hold these rows, and the verifier finds them equal."""
    post.settle(timeout_s=20)
    old, new = mirror.held(post, columns)
    assert old == new
    assert [row[0] for row in new] == list(numbers)
    mirror.verified(post)


def begin_anew(post: Post) -> None:
    """What most hints end with; a worker runs."""
    teardown.teardown(post.config, "post")
    sync.enable(post.config, "post")
    mirror.copy(post)


# Columns and tables


@pytest.mark.every_version
def test_a_column_that_no_mapping_carries_may_come_and_go(post: Post) -> None:
    with working(post.config):
        add(post.old, "things", 1)
        agree(post, 1)
        with post.old.transaction():
            add(post.old, "things", 2)
            post.old.execute("ALTER TABLE things ADD extra text DEFAULT 'x', ADD other integer")
            add(post.old, "things", 3)
            post.old.execute("ALTER TABLE things DROP other")
            add(post.old, "things", 4)
        post.old.execute("ALTER TABLE things DROP extra")
        add(post.old, "things", 5)
        agree(post, 1, 2, 3, 4, 5)
        assert standing(post)["state"] == "running"


def test_a_column_is_added_on_the_side_that_is_written_to(post: Post) -> None:
    with working(post.config):
        add(post.old, "things", 1)
        agree(post, 1)
        post.new.execute("ALTER TABLE goods ADD extra text NOT NULL DEFAULT 'x'")
        add(post.old, "things", 2)
        agree(post, 1, 2)
        post.own(NEW_OWNS, 2)
        post.new.execute("UPDATE goods SET note = 'by new', extra = 'y' WHERE id = 1")
        agree(post, 1, 2)


def test_a_carried_column_that_goes_is_named_and_carried_on_when_the_mapping_is_corrected(
    post: Post,
) -> None:
    with working(post.config):
        add(post.old, "things", 1)
        agree(post, 1)
        post.old.execute("ALTER TABLE things RENAME amount TO quantity")
        add(post.old, "things", 2)
        post.old.execute("DELETE FROM things WHERE id = 1")
        reason(post, "post.forward.goods", "amount", state="retrying")
        assert post.new.execute("SELECT id FROM goods").fetchall() == [(1,)]
        post.old.execute("ALTER TABLE things RENAME quantity TO amount")
        agree(post, 2)


def test_a_carried_column_that_goes_on_the_other_side_is_named(post: Post) -> None:
    with working(post.config):
        add(post.old, "things", 1)
        agree(post, 1)
        post.new.execute("ALTER TABLE goods RENAME note TO remark")
        add(post.old, "things", 2)
        reason(post, "post.forward.goods", "goods", "note", state="retrying")
        post.new.execute("ALTER TABLE goods RENAME remark TO note")
        agree(post, 1, 2)


@pytest.mark.parametrize("many", [False, True])
def test_a_column_of_the_target_gets_another_type(post: Post, many: bool) -> None:
    """Nothing is rounded or cut by what the worker knew of the column before."""
    count = 2_000 if many else 1
    fill = "INSERT INTO things SELECT n, 'ann', 'x', %s FROM generate_series(%s::int, %s::int) n"
    with working(post.config):
        post.old.execute(fill, (1, 1, count))
        post.settle()
        for connection, table in ((post.new, "goods"), (post.old, "things")):
            connection.execute(f"ALTER TABLE {table} ALTER amount TYPE numeric(12,2)".encode())
        post.old.execute(fill, ("0.25", count + 1, 2 * count))
        post.settle()
        post.new.execute("ALTER TABLE goods ALTER amount TYPE double precision")
        post.old.execute("UPDATE things SET amount = 3000000000.5")
        post.settle()
        post.new.execute("ALTER TABLE goods ALTER amount TYPE numeric(20,2)")
        post.old.execute("UPDATE things SET amount = 0.75")
        agree(post, *range(1, 2 * count + 1))


def test_a_column_of_the_target_is_not_rounded_any_more(post: Post) -> None:
    """Only the target changes: the log of the source says nothing of it."""
    post.old.execute("ALTER TABLE things ALTER amount TYPE numeric")
    with working(post.config):
        post.old.execute("INSERT INTO things VALUES (1, 'ann', 'x', 1.5)")
        post.settle()
        assert post.new.execute("SELECT amount FROM goods").fetchall() == [(2,)]
        post.new.execute("ALTER TABLE goods ALTER amount TYPE numeric(9,1)")
        post.old.execute("INSERT INTO things VALUES (2, 'ann', 'x', 1.5)")
        post.settle()
        assert post.new.execute("SELECT amount FROM goods WHERE id = 2").fetchall()[0][0] == 1.5
        post.new.execute("ALTER TABLE goods ALTER amount TYPE numeric")
        post.old.execute("UPDATE things SET amount = 1.25")
        agree(post, 1, 2)


def test_a_key_column_that_is_renamed_stops_the_stream_until_it_is_given_back(post: Post) -> None:
    with working(post.config):
        add(post.old, "things", 1)
        agree(post, 1)
        post.old.execute("ALTER TABLE things RENAME id TO thing_id")
        post.old.execute("UPDATE things SET note = 'late'")
        reason(post, "things", "id")
    post.old.execute("ALTER TABLE things RENAME thing_id TO id")
    with working(post.config):
        # The log says for ever what the table was called then.
        reason(post, "things", "id")
        begin_anew(post)
        agree(post, 1)


def test_a_table_that_is_renamed_stops_the_stream_until_it_has_its_name_back(post: Post) -> None:
    with working(post.config):
        add(post.old, "things", 1)
        agree(post, 1)
        post.old.execute("ALTER TABLE things RENAME TO stuff")
        add(post.old, "stuff", 2)
        post.old.execute("DELETE FROM stuff WHERE id = 1")
        reason(post, "stuff")
    post.old.execute("ALTER TABLE stuff RENAME TO things")
    with working(post.config):
        agree(post, 2)


def test_a_table_that_takes_the_others_name_stops_the_stream(post: Post) -> None:
    """Copy, swap, drop: how many tools change a big table. Its log would say nothing any more."""
    with working(post.config):
        add(post.old, "things", 1)
        agree(post, 1)
        with post.old.transaction():
            post.old.execute("CREATE TABLE made_anew (LIKE things INCLUDING ALL)")
            post.old.execute("INSERT INTO made_anew SELECT * FROM things")
            post.old.execute("ALTER TABLE things RENAME TO things_before")
            post.old.execute("ALTER TABLE made_anew RENAME TO things")
        add(post.old, "things", 2)
        post.old.execute("DELETE FROM things WHERE id = 1")
        reason(post, "things", "splitctl_post_forward")
        begin_anew(post)
        agree(post, 2)


def test_enable_does_not_hide_that_a_table_was_replaced(post: Post) -> None:
    with post.old.transaction():
        post.old.execute("ALTER TABLE things RENAME TO things_before")
        post.old.execute("CREATE TABLE things (LIKE things_before INCLUDING ALL)")
    add(post.old, "things", 1)
    with pytest.raises(TableNotPublished, match="things"):
        sync.enable(post.config, "post")
    with working(post.config):
        begin_anew(post)
        agree(post, 1)


def test_a_truncate_is_settled_by_beginning_anew(post: Post) -> None:
    with working(post.config):
        add(post.old, "things", 1, 2)
        agree(post, 1, 2)
        post.old.execute("TRUNCATE things")
        add(post.old, "things", 3)
        reason(post, "things", "truncated")
        assert post.new.execute("SELECT id FROM goods ORDER BY 1").fetchall() == [(1,), (2,)]
        begin_anew(post)
        agree(post, 3)


# Keys and identities


def test_a_key_that_changes_moves_its_row(post: Post) -> None:
    with working(post.config):
        add(post.old, "things", 1, 2, 3)
        agree(post, 1, 2, 3)
        post.old.execute("UPDATE things SET id = id + 10 WHERE id > 1")
        agree(post, 1, 12, 13)
        post.own(NEW_OWNS, 2)
        post.new.execute("UPDATE goods SET id = 2 WHERE id = 12")
        agree(post, 1, 2, 13)


def test_a_primary_key_over_other_columns_stops_before_a_change_is_missed(post: Post) -> None:
    with working(post.config):
        add(post.old, "things", 1, 2)
        agree(post, 1, 2)
        post.old.execute("ALTER TABLE things DROP CONSTRAINT things_pkey, ADD PRIMARY KEY (note)")
        add(post.old, "things", 3)
        post.old.execute("DELETE FROM things WHERE id = 1")
        reason(post, "things", "id", "replica identity")
        assert (3,) in until(lambda: post.new.execute("SELECT id FROM goods").fetchall())
        post.old.execute("ALTER TABLE things REPLICA IDENTITY FULL")
        begin_anew(post)
        agree(post, 2, 3)


def test_the_primary_key_of_the_target_may_change(post: Post) -> None:
    with working(post.config):
        add(post.old, "things", 1)
        agree(post, 1)
        post.new.execute("ALTER TABLE goods REPLICA IDENTITY FULL")
        post.new.execute(
            "ALTER TABLE goods DROP CONSTRAINT goods_pkey, ADD PRIMARY KEY (id, holder)"
        )
        post.old.execute("UPDATE things SET note = 'later'")
        add(post.old, "things", 2)
        agree(post, 1, 2)


def test_a_table_that_loses_its_identity_carries_inserts_and_stops_at_the_rest(post: Post) -> None:
    """Without any identity PostgreSQL itself refuses the rest, which the shop would feel."""
    with working(post.config):
        add(post.old, "things", 1)
        agree(post, 1)
        post.old.execute("ALTER TABLE things REPLICA IDENTITY NOTHING")
        add(post.old, "things", 2)
        agree(post, 1, 2)
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            post.old.execute("UPDATE things SET note = 'x'")
        post.old.execute("ALTER TABLE things REPLICA IDENTITY DEFAULT")
        post.old.execute("UPDATE things SET note = 'x'")
        agree(post, 1, 2)


# Slots and servers


def test_a_slot_that_was_dropped_or_lost_stops_the_stream_until_it_begins_anew(post: Post) -> None:
    with working(post.config):
        add(post.old, "things", 1)
        agree(post, 1)
    post.old.execute("SELECT pg_drop_replication_slot(%s)", (post.forward.slot,))
    add(post.old, "things", 2)
    post.old.execute("DELETE FROM things WHERE id = 1")
    with working(post.config):
        reason(post, post.forward.slot)
        begin_anew(post)
        agree(post, 2)


def test_a_slot_that_the_server_gave_up_stops_the_stream_until_it_begins_anew(post: Post) -> None:
    """The source's disk was worth more: max_slot_wal_keep_size."""
    with working(post.config):
        add(post.old, "things", 1)
        agree(post, 1)
    post.old.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
    try:
        post.old.execute("SELECT pg_reload_conf()")
        post.old.execute("DELETE FROM things WHERE id = 1")
        add(post.old, "things", 2)

        def lost() -> bool:
            post.old.execute("SELECT pg_switch_wal()")
            post.old.execute("CHECKPOINT")
            add(post.old, "things", 3)
            post.old.execute("DELETE FROM things WHERE id = 3")
            row = post.old.execute(
                "SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s",
                (post.forward.slot,),
            ).fetchone()
            return row == ("lost",)

        until(lost, timeout_s=30)
    finally:
        post.old.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
        post.old.execute("SELECT pg_reload_conf()")
    with working(post.config):
        reason(post, post.forward.slot, "lost")
        assert post.new.execute("SELECT id FROM goods").fetchall() == [(1,)]
        begin_anew(post)
        agree(post, 2)


def test_another_timeline_behind_what_was_read_stops_the_stream(post: Post) -> None:
    """PROTOCOL 6: the source failed over to a replica that had less."""
    with working(post.config):
        add(post.old, "things", 1)
        agree(post, 1)
    # As if more had been read on a timeline that the server has never been on.
    post.new.execute(
        "UPDATE splitctl_sync.progress SET timeline = 2, lsn = lsn + 1000000"
        " WHERE stream = 'post.forward'"
    )
    add(post.old, "things", 2)
    with working(post.config):
        reason(post, "timeline")
        begin_anew(post)
        agree(post, 1, 2)


# Columns that make their values themselves


@pytest.mark.every_version
def test_identity_and_generated_columns_on_either_side(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> None:
    columns = ("id", "holder", "note", "serial")
    built = mirror.build(
        fresh_databases,
        write_config,
        old="CREATE TABLE things (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,"
        " holder text NOT NULL, note text, serial bigint GENERATED BY DEFAULT AS IDENTITY,"
        " loud text GENERATED ALWAYS AS (upper(note)) STORED)",
        new="CREATE TABLE goods (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
        " holder text NOT NULL, note text, serial bigserial,"
        " length integer GENERATED ALWAYS AS (length(note)) STORED)",
        columns=columns,
    )
    with mirror.closing(built), working(built.config):
        for number in range(5):
            built.old.execute(
                "INSERT INTO things (holder, note) VALUES ('ann', %s)", (str(number),)
            )
        sync.enable(built.config, "post")
        mirror.copy(built)
        built.old.execute("UPDATE things SET note = 'changed' WHERE id > 3")
        built.old.execute("INSERT INTO things (holder, note) VALUES ('ann', 'new')")
        built.settle()
        old, new = mirror.held(built, columns)
        assert old == new and len(new) == 6
        assert built.new.execute("SELECT DISTINCT length FROM goods ORDER BY 1").fetchall() == [
            (1,),
            (3,),
            (7,),
        ]
        built.own(NEW_OWNS, 2)
        built.new.execute("INSERT INTO goods (holder, note) VALUES ('ann', 'from new')")
        built.new.execute("UPDATE goods SET note = 'x' WHERE id = 1")
        built.settle()
        old, new = mirror.held(built, columns)
        assert old == new and len(new) == 7
        loud = built.old.execute("SELECT loud FROM things ORDER BY id DESC").fetchone()
        assert loud == ("FROM NEW",)
        mirror.verified(built)


def test_a_target_that_makes_a_carried_value_itself_is_told_before_anything_is_made(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> None:
    built = mirror.build(
        fresh_databases,
        write_config,
        old="CREATE TABLE things (id bigint PRIMARY KEY, holder text NOT NULL, n bigint, g text)",
        new="CREATE TABLE goods (id bigint PRIMARY KEY, holder text NOT NULL,"
        " n bigint GENERATED ALWAYS AS IDENTITY, g text GENERATED ALWAYS AS (holder) STORED)",
        columns=("id", "holder", "n", "g"),
    )
    with mirror.closing(built), pytest.raises(NotReady) as refused:
        sync.enable(built.config, "post")
    told = {problem.reason for problem in refused.value.problems}
    assert any("goods.n is GENERATED ALWAYS AS IDENTITY" in reason for reason in told)
    assert any("gives g, which goods generates itself" in reason for reason in told)


# Partitions

PARTITIONED = """
CREATE TABLE {0} (id bigint, holder text NOT NULL, note text, amount integer, PRIMARY KEY (id))
  PARTITION BY RANGE (id);
CREATE TABLE {0}_low PARTITION OF {0} FOR VALUES FROM (MINVALUE) TO (100);
CREATE TABLE {0}_high PARTITION OF {0} FOR VALUES FROM (100) TO (MAXVALUE);
"""


@pytest.mark.every_version
def test_partitioned_tables_on_both_sides(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> None:
    built = mirror.build(
        fresh_databases,
        write_config,
        old=PARTITIONED.format("things"),
        new=PARTITIONED.format("goods"),
        columns=COLUMNS,
    )
    with mirror.closing(built):
        add(built.old, "things", 1, 2, 101)
        sync.enable(built.config, "post")
        with working(built.config):
            mirror.copy(built)
            agree(built, 1, 2, 101)
            # From one partition to another, written to the partition itself, and a new partition.
            built.old.execute("UPDATE things SET id = 102 WHERE id = 2")
            add(built.old, "things_low", 3)
            built.old.execute("ALTER TABLE things DETACH PARTITION things_high")
            built.old.execute("ALTER TABLE things ATTACH PARTITION things_high DEFAULT")
            add(built.old, "things", 103)
            agree(built, 1, 3, 101, 102, 103)
            built.own(NEW_OWNS, 2)
            built.new.execute("UPDATE goods SET id = id + 101 WHERE id = 3")
            built.new.execute("DELETE FROM goods_low")
            agree(built, 101, 102, 103, 104)


def test_a_partition_without_the_identity_of_its_table_is_named(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> None:
    """FULL on the parent says nothing of its partitions: a delete would not tell its key."""
    ddl = (
        "CREATE TABLE {0} (id bigint, holder text NOT NULL, note text, amount integer,"
        " part integer NOT NULL, PRIMARY KEY (id, part)) PARTITION BY LIST (part);"
        "CREATE TABLE {0}_1 PARTITION OF {0} FOR VALUES IN (1);"
        "CREATE TABLE {0}_2 PARTITION OF {0} FOR VALUES IN (2);"
        "ALTER TABLE {0} REPLICA IDENTITY FULL; ALTER TABLE {0}_1 REPLICA IDENTITY FULL;"
    )
    columns = (*COLUMNS, "part")
    built = mirror.build(
        fresh_databases,
        write_config,
        old=ddl.format("things"),
        new=ddl.format("goods"),
        columns=columns,
        key=("note",),
    )
    with mirror.closing(built):
        with pytest.raises(NotReady, match="things_2") as refused:
            sync.enable(built.config, "post")
        assert "goods_2" in str(refused.value) and "things_1" not in str(refused.value)
        for connection, table in ((built.old, "things_2"), (built.new, "goods_2")):
            connection.execute(f"ALTER TABLE {table} REPLICA IDENTITY FULL".encode())
        mirror.enable_live(built)
        with working(built.config):
            built.old.execute(
                "INSERT INTO things SELECT n, 'ann', 'note ' || n, n, 1 + n % 2"
                " FROM generate_series(1, 4) n"
            )
            agree(built, 1, 2, 3, 4, columns=columns)
            built.old.execute("DELETE FROM things WHERE id = 1")
            built.old.execute("UPDATE things SET note = 'moved' WHERE id = 2")
            agree(built, 2, 3, 4, columns=columns)
            built.old.execute("CREATE TABLE things_3 PARTITION OF things FOR VALUES IN (3)")
            reason(built, "things_3", "replica identity")


# Values


def test_a_label_that_is_added_to_an_enum_under_way(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> None:
    """On the source first, the wrong order: what has the label waits, nothing else does."""
    ddl = (
        "CREATE TYPE mood AS ENUM ('sad', 'ok');"
        "CREATE TABLE {} (id bigint PRIMARY KEY, holder text NOT NULL, note text, feeling mood)"
    )
    columns = ("id", "holder", "note", "feeling")
    built = mirror.build(
        fresh_databases,
        write_config,
        old=ddl.format("things"),
        new=ddl.format("goods"),
        columns=columns,
    )
    with mirror.closing(built):
        mirror.enable_live(built)
        with working(built.config):
            built.old.execute("INSERT INTO things VALUES (1, 'ann', 'x', 'ok')")
            agree(built, 1, columns=columns)
            built.old.execute("ALTER TYPE mood ADD VALUE 'so-so' BEFORE 'ok'")
            built.old.execute("INSERT INTO things VALUES (2, 'ann', 'x', 'so-so')")
            built.old.execute("INSERT INTO things VALUES (3, 'ann', 'x', 'sad')")
            until(lambda: built.new.execute("SELECT id FROM goods WHERE id = 3").fetchall())
            ((mapping, key, why, detail),) = until(lambda: built.pending(built.forward))
            assert (mapping, key, why) == ("post.forward.goods", ["2"], "unwritable")
            assert "so-so" in detail
            built.new.execute("ALTER TYPE mood ADD VALUE 'so-so'")
            agree(built, 1, 2, 3, columns=columns)


def test_a_null_in_a_driving_key_leads_nowhere_and_comes_back_with_a_value(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> None:
    ddl = (
        "CREATE TABLE {} (id bigint PRIMARY KEY, holder text NOT NULL, part text, amount integer);"
        "ALTER TABLE {} REPLICA IDENTITY FULL"
    )
    columns = ("id", "holder", "part", "amount")
    built = mirror.build(
        fresh_databases,
        write_config,
        old=ddl.format("things", "things"),
        new=ddl.format("goods", "goods"),
        columns=columns,
        key=("part",),
    )
    with mirror.closing(built):
        built.old.execute("INSERT INTO things VALUES (1, 'ann', 'a', 1), (2, 'ann', NULL, 2)")
        sync.enable(built.config, "post")
        with working(built.config):
            mirror.copy(built)
            built.settle()
            there = "SELECT id FROM goods ORDER BY id"
            assert built.new.execute(there).fetchall() == [(1,)]
            built.old.execute("UPDATE things SET part = 'a' WHERE id = 2")
            agree(built, 1, 2, columns=columns)
            built.old.execute("UPDATE things SET part = NULL WHERE id = 1")
            built.settle()
            assert built.new.execute(there).fetchall() == [(2,)]
            built.old.execute("UPDATE things SET part = 'b'")
            agree(built, 1, 2, columns=columns)


@pytest.mark.every_version
def test_rows_of_megabytes_and_large_values_that_were_not_touched(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> None:
    """The driving column itself is one that the log leaves out when it was not touched."""
    ddl = (
        "CREATE TABLE {0} (id bigint PRIMARY KEY, holder text NOT NULL, part text, body text,"
        " data bytea, n integer); ALTER TABLE {0} ALTER body SET STORAGE EXTERNAL,"
        " ALTER data SET STORAGE EXTERNAL, ALTER part SET STORAGE EXTERNAL;"
        "ALTER TABLE {0} REPLICA IDENTITY FULL"
    )
    columns = ("id", "holder", "part", "body", "data", "n")
    built = mirror.build(
        fresh_databases,
        write_config,
        old=ddl.format("things"),
        new=ddl.format("goods"),
        columns=columns,
        key=("part",),
    )
    fill = (
        "INSERT INTO things SELECT n, 'ann', repeat('key ' || n, 1500), repeat('text', 1000000),"
        " decode(repeat('00ff', 1000000), 'hex'), 0 FROM generate_series(%s::int, %s::int) n"
    )
    with mirror.closing(built):
        built.old.execute(fill, (1, 3))
        sync.enable(built.config, "post")
        with working(built.config):
            mirror.copy(built)
            agree(built, 1, 2, 3, columns=columns)
            built.old.execute(fill, (4, 6))
            built.old.execute("UPDATE things SET n = 1 WHERE id < 5")
            built.old.execute("DELETE FROM things WHERE id = 2")
            agree(built, 1, 3, 4, 5, 6, columns=columns)
            built.own(NEW_OWNS, 2)
            built.new.execute("UPDATE goods SET n = 2")
            agree(built, 1, 3, 4, 5, 6, columns=columns)


@contextmanager
def loosely(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> Iterator[Post]:
    """Tables whose keys and notes have a collation to which é, e and E are the same."""
    ddl = (
        "CREATE COLLATION loose"
        " (provider = icu, locale = 'und-u-ks-level1', deterministic = false);"
        "CREATE TABLE {0} (id text COLLATE loose PRIMARY KEY, holder text NOT NULL,"
        " note text COLLATE loose, amount integer)"
    )
    built = mirror.build(
        fresh_databases,
        write_config,
        old=ddl.format("things"),
        new=ddl.format("goods"),
        columns=COLUMNS,
    )
    with mirror.closing(built):
        yield built


@pytest.mark.parametrize("many", [apply.MANY, 1], ids=["one by one", "in lanes"])
@pytest.mark.parametrize("versions", [pair(15, 17)], indirect=True)
def test_collations_that_call_different_texts_equal(
    fresh_databases: dict[str, FreshDatabase],
    write_config: ConfigWriter,
    many: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Letters that only differ in case are a change, in a value and in the key."""
    monkeypatch.setattr(apply, "MANY", many)
    monkeypatch.setattr(lanes, "WORTH_A_LANE", 1)
    with loosely(fresh_databases, write_config) as built:
        built.old.execute("INSERT INTO things VALUES ('é', 'ann', 'Note', 1)")
        sync.enable(built.config, "post")
        with working(built.config):
            mirror.copy(built)
            built.old.execute("UPDATE things SET note = 'nöte'")
            built.old.execute("INSERT INTO things VALUES ('b', 'ann', 'x', 1)")
            built.settle()
            old, new = mirror.held(built, COLUMNS)
            assert old == new and len(new) == 2
            built.old.execute("UPDATE things SET id = 'E' WHERE id = 'e'")
            built.settle()
            old, new = mirror.held(built, COLUMNS)
            assert old == new and len(new) == 2
            mirror.verified(built)


@pytest.mark.parametrize("many", [apply.MANY, 1], ids=["one by one", "in lanes"])
@pytest.mark.parametrize("versions", [pair(15, 17)], indirect=True)
def test_a_row_that_a_collation_finds_under_a_key_with_other_letters(
    fresh_databases: dict[str, FreshDatabase],
    write_config: ConfigWriter,
    many: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A change of 'é' is carried though its row is 'E' by now: the stream does not stumble."""
    monkeypatch.setattr(apply, "MANY", many)
    with loosely(fresh_databases, write_config) as built:
        built.old.execute("INSERT INTO things VALUES ('é', 'ann', 'note', 1)")
        sync.enable(built.config, "post")
        with working(built.config):
            mirror.copy(built)
            built.settle()
        epoch = built.new.execute(
            "SELECT worker_epoch FROM splitctl_sync.progress WHERE stream = 'post.forward'"
        ).fetchone()
        assert epoch is not None
        forward = carrier(built, int(epoch[0]))
        with closing(forward.source), closing(forward.target), closing(forward.applier):
            batch = forward.batch(("post.forward.goods", ("é",)))
            built.old.execute("UPDATE things SET id = 'E'")
            forward.applier.apply(batch)
        with working(built.config):
            built.settle()
            old, new = mirror.held(built, COLUMNS)
            assert old == new and len(new) == 1
            mirror.verified(built)


# Names


@pytest.mark.every_version
def test_names_that_need_quotes_in_tables_and_keys(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> None:
    key, columns = ("Id %s", 'or"der'), ("Id %s", 'or"der', "holder", "select", "%")
    ddl = (
        'CREATE TABLE {} ("Id %s" integer, "or""der" text, holder text NOT NULL, "select" text,'
        ' "%" integer, PRIMARY KEY ("Id %s", "or""der"))'
    )
    built = mirror.build(
        fresh_databases,
        write_config,
        old=ddl.format("things"),
        new=ddl.format("goods"),
        columns=columns,
        key=key,
    )
    with mirror.closing(built):
        built.old.execute(
            "INSERT INTO things VALUES (1, 'a', 'ann', 'x', 1), (2, 'b', 'ann', 'y', 2)"
        )
        sync.enable(built.config, "post")
        with working(built.config):
            mirror.copy(built)
            agree(built, 1, 2, columns=columns)
            built.old.execute("""UPDATE things SET "or""der" = 'c', "%" = 5 WHERE "Id %s" = 2""")
            built.old.execute("INSERT INTO things VALUES (3, 'a', 'ann', 'x', 1)")
            agree(built, 1, 2, 3, columns=columns)
            built.own(NEW_OWNS, 2)
            built.new.execute("""UPDATE goods SET "select" = 'z', "%" = "%" + 1""")
            agree(built, 1, 2, 3, columns=columns)
