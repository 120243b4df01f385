"""Reading ahead: what gathers while nobody takes, and what is never gathered without an end."""

import struct
import threading
from collections.abc import Iterable, Iterator

import pytest

from migrator import apply, capture, lanes, replication
from migrator.capture import Capture
from migrator.changes import Collector, TableTruncated
from migrator.parts import Outcome, Part
from migrator.writing import Writer
from tests.migrator.parcels import Post, carrying, until, working
from tests.migrator.test_changes import mapping, stream

SHIPMENTS = "post.forward.shipments"
THINGS = "d.forward.things"


def begin(number: int) -> bytes:
    return b"B" + struct.pack("!QqI", number * 100, 0, number)


def change(key: int) -> bytes:
    text = str(key).encode()
    return b"I" + struct.pack("!I", 7) + b"N" + struct.pack("!hci", 1, b"t", len(text)) + text


def commit(number: int) -> bytes:
    return b"C" + struct.pack("!BQQq", 0, number * 100, number * 100 + 50, 0)


def message(prefix: str, content: str = "") -> bytes:
    data = b"M" + struct.pack("!BQ", 1, 9) + prefix.encode() + b"\0"
    return data + struct.pack("!I", len(content)) + content.encode()


def transaction(number: int, *keys: int) -> list[bytes]:
    return [begin(number), *map(change, keys), commit(number)]


RELATION = b"R" + struct.pack("!I", 7) + b"public\0items\0d" + struct.pack("!h", 1)
RELATION += b"\1id\0" + struct.pack("!Ii", 20, -1)
TRUNCATE = b"T" + struct.pack("!IBI", 1, 0, 7)


class Tape:
    """A log that was written before: it gives `run` messages at once, and nothing in the end."""

    def __init__(self, *messages: bytes, run: int = 500) -> None:
        self.run = run
        self.messages = [begin(1), RELATION, commit(1), *messages]
        self.read_out = threading.Event()
        self.ended = threading.Event()
        self.more = threading.Event()
        self.confirmed = self.answers = self.wal_end = 0
        self.dry = True

    def read(self, timeout_s: float) -> list[bytes]:
        if self.messages and not self.messages[0]:
            # The server asked whether we are here, and that was all.
            self.messages.pop(0)
            return []
        if self.messages:
            messages, self.messages = self.messages[: self.run], self.messages[self.run :]
            if TRUNCATE in messages:
                self.ended.set()
            return messages
        self.read_out.set()
        if timeout_s:
            self.more.wait(timeout_s)
        return []

    def confirm(self, lsn: int) -> None:
        self.confirmed = lsn

    def keep_alive(self) -> None:
        self.answers += 1

    def close(self) -> None:
        pass


class Endless(Tape):
    """A log into which somebody writes all the time: a new key whenever it is read."""

    def read(self, timeout_s: float) -> list[bytes]:
        self.wal_end += 1
        first, self.messages = self.messages, []
        return first or transaction(self.wal_end + 1, self.wal_end)


@pytest.fixture
def played() -> Iterator[list[Capture]]:
    made: list[Capture] = []
    yield made
    for each in made:
        each.close()


def play(played: list[Capture], tape: Tape) -> Capture:
    collector = Collector(stream(mapping("things", ("id",), items={"id": "id"})))
    made = Capture(tape, collector, {7: "items"})
    played.append(made)
    made.start()
    return made


def keys(*numbers: int) -> list[tuple[str, tuple[str, ...]]]:
    return [(THINGS, (str(number),)) for number in numbers]


def test_a_key_that_changes_all_the_time_is_carried_once(played: list[Capture]) -> None:
    """While nobody takes the batch it gathers; a key has one place in it, its transactions all."""
    tape = Tape(*[part for n in range(2, 502) for part in transaction(n, 7, 8)])
    made = play(played, tape)
    assert tape.read_out.wait(5)
    batch = made.take(5)
    assert batch is not None
    assert list(batch.keys) == keys(7, 8)
    assert len(batch.xids) == len(batch.commit_us) == 500
    assert batch.lsn == 501 * 100 + 50
    assert made.take(0) is None


def test_when_it_is_full_the_log_waits_and_the_server_is_answered(
    played: list[Capture], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "MOST", 10)
    tape = Tape(*[part for n in range(2, 102) for part in transaction(n, n)], run=4)
    made = play(played, tape)
    until(lambda: tape.answers > 20)
    left = len(tape.messages)
    assert left > 200
    batch = made.take(5)
    assert batch is not None
    assert 10 <= len(batch.keys) < 20
    carried = len(batch.keys)
    while (batch := made.take(1)) is not None:
        carried += len(batch.keys)
    assert carried == 100


def test_a_transaction_that_is_too_large_comes_in_parts_without_a_position(
    played: list[Capture], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "PART_KEYS", 10)
    tape = Tape(*transaction(2, 1), begin(3), *map(change, range(100, 145)), commit(3), run=4)
    made = play(played, tape)
    first = made.take(5)
    assert first is not None
    assert (list(first.keys), first.part, first.lsn) == (keys(1), False, 250)
    found: list[tuple[str, tuple[str, ...]]] = []
    while (batch := made.take(5)) is not None and batch.part:
        assert (batch.lsn, batch.xids, batch.since) == (0, {3}, 300)
        assert len(batch.keys) < 20
        found += batch.keys
    assert batch is not None
    assert batch.lsn == 350
    assert sorted(found + list(batch.keys)) == sorted(keys(*range(100, 145)))


def test_what_came_before_an_error_is_handed_over_first(played: list[Capture]) -> None:
    tape = Tape(*transaction(2, 1), begin(3), TRUNCATE)
    made = play(played, tape)
    assert tape.ended.wait(5)
    batch = made.take(5)
    assert batch is not None
    assert list(batch.keys) == keys(1)
    with pytest.raises(TableTruncated):
        made.take(5)


def test_our_own_transactions_lead_nowhere_and_their_tables_are_still_known(
    played: list[Capture],
) -> None:
    own = [begin(2), message("splitctl.applied", "d.reverse"), change(5), commit(2)]
    tape = Tape(*own, *transaction(3, 6))
    batch = play(played, tape).take(5)
    assert batch is not None
    assert list(batch.keys) == keys(6)


def test_silence_ends_the_gathering(played: list[Capture]) -> None:
    """What has come is all there is: a stream that is behind does not sit on its last keys."""
    batch = play(played, Tape(*transaction(2, 1))).take(5, gather_s=3600)
    assert batch is not None
    assert list(batch.keys) == keys(1)


def test_nothing_for_a_moment_is_no_silence(played: list[Capture]) -> None:
    """In small batches a busy stream takes the cores that the shop needs."""
    asked = [b""] * 5
    tape = Tape(*transaction(2, 1), *asked, *transaction(3, 2), *asked, *transaction(4, 3), run=1)
    batch = play(played, tape).take(5, gather_s=3600)
    assert batch is not None
    assert list(batch.keys) == keys(1, 2, 3)


def test_enough_ends_the_gathering(played: list[Capture]) -> None:
    batch = play(played, Endless()).take(5, gather_s=3600, enough=10)
    assert batch is not None
    assert len(batch.keys) >= 10


def test_a_marker_ends_the_gathering(played: list[Capture]) -> None:
    """Somebody holds customers at the gateway until the position is passed."""
    tape = Tape(*transaction(2, 1), begin(3), message("splitctl.marker"), commit(3))
    batch = play(played, tape).take(5, gather_s=60)
    assert batch is not None
    assert batch.urgent


def test_while_much_is_gathered_the_log_is_read_in_gulps(played: list[Capture]) -> None:
    """To wake up for each transaction of a busy shop takes cores that the shop needs."""
    tape = Tape()
    made = play(played, tape)
    assert tape.read_out.wait(5)
    before = tape.answers
    assert made.take(1, gulp_s=3600) is None
    assert tape.answers - before <= 2, "it was read again within a gulp"


def test_a_log_that_has_more_is_read_on(played: list[Capture]) -> None:
    """A stream that falls behind must not sleep while the log waits."""
    tape = Endless()
    tape.dry = False
    made = play(played, tape)
    # The first batch is taken at once, whatever it has.
    assert made.take(5) is not None
    batch = made.take(5, gather_s=3600, enough=500, gulp_s=3600)
    assert batch is not None
    assert len(batch.keys) >= 500


def test_a_rest_ends_when_somebody_waits_for_the_position(played: list[Capture]) -> None:
    tape = Tape()
    made = play(played, tape)
    assert tape.read_out.wait(5)
    tape.messages += [begin(3), message("splitctl.marker"), commit(3)]
    tape.more.set()
    made.rest(3600)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a transaction of some hundred rows is larger than memory."""
    monkeypatch.setattr(capture, "PART_KEYS", 50)
    monkeypatch.setattr(replication, "RUN", 20)


@pytest.mark.usefixtures("small_parts")
def test_a_transaction_larger_than_memory_arrives_whole_and_goes_live_again(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not plain goes to the spool in parts, its mappings drain, and customers' changes
    join the queue."""
    monkeypatch.setattr(apply, "DRAIN", 30)
    post.old.execute("INSERT INTO depots VALUES ('n', 1, 'A', 'ann', '[]')")
    with carrying(post.forward):
        post.settle(post.forward)
        post.old.execute(
            "INSERT INTO parcels (region, code, weight)"
            " SELECT 'n', 1, n % 900 FROM generate_series(1, 1000) AS n"
        )
        post.old.execute("UPDATE parcels SET note = 'later' WHERE id % 7 = 0")
        post.settle(post.forward)
        drained = (
            "SELECT state = 'live' AND changed_at >"
            " (SELECT max(changed_at) FROM splitctl_sync.owner) FROM splitctl_sync.mapping_state"
            " WHERE mapping = %s"
        )
        until(lambda: post.new.execute(drained, (SHIPMENTS,)).fetchone() == (True,))
        assert post.differences(post.forward) == {}
    left = post.new.execute("SELECT count(*) FROM splitctl_sync.spool").fetchone()
    assert left == (0,)


@pytest.mark.usefixtures("small_parts")
def test_what_is_plain_of_a_transaction_larger_than_memory_is_written_at_once(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten million rows would be put to the spool, read there, and taken out of it again."""
    monkeypatch.setattr(apply, "MANY", 1)
    monkeypatch.setattr(apply, "DRAIN", 30)
    monkeypatch.setattr(lanes, "WORTH_A_LANE", 1)
    put_down: list[int] = []
    real = Writer.spill

    def spill(self: Writer, part: Part, live: Iterable[str]) -> Outcome:
        put_down.append(len(part.spool))
        return real(self, part, live)

    monkeypatch.setattr(Writer, "spill", spill)
    post.old.execute("INSERT INTO depots VALUES ('n', 1, 'A', 'ann', '[]')")
    with carrying(post.forward):
        post.settle(post.forward)
        post.old.execute(
            "INSERT INTO parcels (region, code, weight)"
            " SELECT 'n', 1, n % 900 FROM generate_series(1, 1000) AS n"
        )
        post.settle(post.forward)
        assert put_down == []
        assert post.differences(post.forward) == {}
        # Deletes are not plain (the old side has every second id). They are drained before the
        # next part, which lanes write again.
        with post.old.transaction():
            post.old.execute("DELETE FROM parcels WHERE id <= 80")
            post.old.execute("UPDATE parcels SET note = 'later'")
        post.settle(post.forward)
        assert sum(put_down) == 40
        assert post.differences(post.forward) == {}


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("many", [1, apply.MANY])
def test_a_worker_that_ends_between_the_parts_reads_the_transaction_again(
    post: Post, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    """What was written or spooled stays, the position does not move, nothing is lost."""
    monkeypatch.setattr(apply, "MANY", many)
    post.old.execute("INSERT INTO depots VALUES ('n', 1, 'A', 'ann', '[]')")
    with carrying(post.forward):
        post.settle(post.forward)
    post.old.execute(
        "INSERT INTO parcels (region, code, weight)"
        " SELECT 'n', 1, n % 900 FROM generate_series(1, 2000) AS n"
    )
    begun = "SELECT EXISTS (SELECT FROM splitctl_sync.spool) OR EXISTS (SELECT FROM shipments)"
    with carrying(post.forward):
        until(lambda: post.new.execute(begun).fetchone() == (True,))
    within = (
        "SELECT count(*) < 2000 FROM"
        " (SELECT id::text FROM shipments UNION SELECT key->>0 FROM splitctl_sync.spool) AS there"
    )
    assert post.new.execute(within).fetchone() == (True,), "it ended within the transaction"
    with working(post.config):
        post.settle()
        assert post.differences(post.forward) == {}
