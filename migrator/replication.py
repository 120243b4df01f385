"""Reading a replication slot: COPY BOTH over a bare libpq connection, answers to the server.

What is confirmed to the slot is only ever a position that the target has committed (law L4), or
the ledger in its place, while the target is away.
"""

import select
import struct
import time
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import pq, sql
from psycopg.pq.abc import PGconn

from estate.config import DatabaseConfig
from estate.connections import replication_connection
from estate.errors import ExitCode, SplitctlError
from migrator.pgoutput import EPOCH_US, lsn_number, lsn_text

DATA: Final = ord("w")
KEEPALIVE: Final = ord("k")
STATUS_INTERVAL_S = 1.0
END_LIMIT_S = 0.5
# How much is handed over at once.
RUN = 500
RUN_BYTES = 4 << 20
_DATA_HEAD = struct.Struct("!QQq")
_KEEPALIVE = struct.Struct("!QqB")
_STATUS = struct.Struct("!cQQQqB")
START = sql.SQL(
    "START_REPLICATION SLOT {slot} LOGICAL {start}"
    " (proto_version '1', publication_names {publication}, messages 'true')"
)


class ReplicationEnded(SplitctlError):
    """The log of database '{database}' can no longer be read: {reason}."""

    hint = "splitctl sync status"
    exit_code = ExitCode.PRECONDITION


class SlotBusy(SplitctlError):
    """The slot '{slot}' in database '{database}' is read by somebody else."""

    hint = "splitctl sync status"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class System:
    """Which server, on which timeline, and how far its log has come."""

    system_id: str
    timeline: int
    lsn: int


class Reader:
    """One slot's stream of messages, on a connection of its own.

    `dry`: the last reading took all that had come.
    """

    def __init__(self, database: DatabaseConfig, purpose: str) -> None:
        self._database = database
        self._connection: PGconn = replication_connection(database, purpose)
        self._confirmed = 0
        self._received = 0
        self._wal_end = 0
        self._head: memoryview | None = None
        self._next_status = 0.0
        self._end: str | None = None
        self.dry = True

    def system(self) -> System:
        """Ask the server who it is. Only before `start`."""
        result = self._command("IDENTIFY_SYSTEM")
        values = [(result.get_value(0, column) or b"").decode() for column in range(3)]
        return System(values[0], int(values[1]), lsn_number(values[2]))

    def timeline_ends(self, timeline: int) -> dict[int, int]:
        """Where each earlier timeline ended, by its number. Only before `start`."""
        if timeline == 1:
            return {}
        result = self._command(f"TIMELINE_HISTORY {int(timeline)}")
        text = (result.get_value(0, 1) or b"").decode()
        lines = [line.split() for line in text.splitlines() if line.strip()[:1].isdigit()]
        return {int(words[0]): lsn_number(words[1]) for words in lines}

    def start(self, slot: str, publication: str, lsn: int) -> None:
        """Begin to read behind this position. Raises SlotBusy or ReplicationEnded."""
        command = START.format(
            slot=sql.Identifier(slot),
            start=sql.SQL(lsn_text(lsn)),
            publication=sql.Literal(publication),
        )
        result = self._connection.exec_(command.as_bytes(None))
        if result.status != pq.ExecStatus.COPY_BOTH:
            if result.error_field(pq.DiagnosticField.SQLSTATE) == b"55006":
                raise SlotBusy(slot=slot, database=self._database.name)
            raise self._ended(result.get_error_message())
        self._connection.nonblocking = 1
        self._confirmed = self._received = self._wal_end = lsn
        self._next_status = time.monotonic() + STATUS_INTERVAL_S

    @property
    def wal_end(self) -> int:
        """How far the server's log was when it sent its last message."""
        head = self._head
        if head is not None:
            start, end, _ = _DATA_HEAD.unpack_from(head, 1)
            self._received, self._wal_end = max(self._received, start), max(self._wal_end, end)
        return self._wal_end

    def read(self, timeout_s: float) -> list[bytes]:
        """The next messages, as far as they are there; none when none came within this time.

        Raises ReplicationEnded.
        """
        messages: list[bytes] = []
        try:
            size = self._arrived(messages, 0)
        except psycopg.OperationalError as error:
            raise self._ended(str(error)) from error
        if self._end is not None and not messages:
            raise self._ended(self._end)
        if not messages:
            self.keep_alive()
        self.dry = False
        # libpq takes some kilobytes at a time.
        while self._end is None and len(messages) < RUN and size < RUN_BYTES:
            patience_s = 0.0 if messages else timeout_s
            ready, _, _ = select.select([self._connection.socket], [], [], patience_s)
            if not ready:
                self.dry = True
                break
            before = size
            try:
                self._connection.consume_input()
                size = self._arrived(messages, size)
            except psycopg.OperationalError as error:
                if not messages:
                    raise self._ended(str(error)) from error
                # What came before the end is handed over first.
                self._end = str(error)
            if before == size:
                # Not a change: the server asked whether we are here, or half of one has come.
                break
        return messages

    def confirm(self, lsn: int) -> None:
        """The target has committed this position. The server is told with the next answer.

        Any thread may say so; everything else is for the one that reads.
        """
        self._confirmed = max(self._confirmed, lsn)

    def keep_alive(self) -> None:
        """Answer the server, if it is time."""
        if time.monotonic() >= self._next_status:
            self._answer()

    def close(self) -> None:
        """Tell the server the last position, end the stream and let go of the slot."""
        try:
            if self._connection.status == pq.ConnStatus.OK:
                self._answer()
                self._connection.put_copy_end()
                self._connection.flush()
                self._drain()
        except (psycopg.Error, SplitctlError):
            pass
        finally:
            self._connection.finish()

    def _drain(self) -> None:
        """Let the server end its side, so that the slot is free when this returns."""
        limit = time.monotonic() + END_LIMIT_S
        while time.monotonic() < limit:
            length, _ = self._connection.get_copy_data(1)
            if length < 0:
                return
            if length == 0:
                select.select([self._connection.socket], [], [], 0.05)
                self._connection.consume_input()

    def _arrived(self, messages: list[bytes], size: int) -> int:
        """Add what has arrived already, up to so many messages or bytes. Returns all their size."""
        head = self._head
        take = self._connection.get_copy_data
        while self._end is None and len(messages) < RUN and size < RUN_BYTES:
            length, data = take(1)
            if length == 0:
                break
            if length < 0:
                result = self._connection.get_result()
                self._end = result.get_error_message() if result else "the server ended the stream"
                continue
            if data[0] == DATA:
                head = data
                messages.append(bytes(data[25:]))
                size += length
            elif data[0] == KEEPALIVE:
                end, _, wanted = _KEEPALIVE.unpack_from(data, 1)
                self._received = max(self._received, end)
                self._wal_end = max(self._wal_end, end)
                if wanted:
                    self._answer()
        # Some hundred thousand of them a second: the positions wait for whoever asks.
        self._head = head
        return size

    def _answer(self) -> None:
        now = time.time_ns() // 1000 - EPOCH_US
        confirmed, _ = self._confirmed, self.wal_end
        received = max(self._received, confirmed)
        status = _STATUS.pack(b"r", received, confirmed, confirmed, now, 0)
        try:
            self._connection.put_copy_data(status)
            while self._connection.flush():
                select.select([], [self._connection.socket], [], 1.0)
        except psycopg.OperationalError as error:
            raise self._ended(str(error)) from error
        self._next_status = time.monotonic() + STATUS_INTERVAL_S

    def _command(self, command: str) -> pq.abc.PGresult:
        result = self._connection.exec_(command.encode())
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise self._ended(result.get_error_message())
        return result

    def _ended(self, reason: str) -> ReplicationEnded:
        return ReplicationEnded(database=self._database.name, reason=" ".join(reason.split()))
