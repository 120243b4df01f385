"""A slot, read ahead: one thread decodes while another writes what came before.

While a batch is written the next one gathers, so a key that changes all the time is carried once
for all its changes. What is gathered is bounded: when it is full, the log waits at the source. A
transaction that alone is too large for memory is handed over in parts, before its end.
"""

import threading
from collections.abc import Mapping
from typing import Protocol

from migrator.changes import Batch, Collector
from migrator.pgoutput import CHANGES, Decoder

# So many keys wait in memory, some 250 bytes each; and so many of one unfinished transaction.
MOST_KEYS = 200_000
PART_KEYS = 100_000
# Nothing is gained by gathering more than so many before the next batch.
ENOUGH_KEYS = 20_000
RUN = 500
IDLE_S = 0.1
HANDOVER_S = 0.1
END_S = 5.0


class Log(Protocol):
    """What is read: `migrator.replication.Reader`."""

    @property
    def wal_end(self) -> int: ...
    def read(self, timeout_s: float) -> bytes | None: ...
    def confirm(self, lsn: int) -> None: ...
    def keep_alive(self) -> None: ...
    def close(self) -> None: ...


class Capture:
    """Owns the reader: nobody else may touch it after `start`. `names`: see `pgoutput.Decoder`."""

    def __init__(
        self, reader: Log, collector: Collector, names: Mapping[int, str] | None = None
    ) -> None:
        self._reader, self._collector = reader, collector
        self._decoder = Decoder(collector.wanted, names)
        self._turn = threading.Condition()
        self._asked = self._stopping = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    def start(self) -> None:
        """Begin to read ahead."""
        self._thread.start()

    def close(self) -> None:
        """End the reading and let go of the slot."""
        with self._turn:
            self._stopping = True
            self._turn.notify_all()
        if self._thread.is_alive():
            self._thread.join(END_S)
        self._reader.close()

    def take(self, patience_s: float, gather_s: float = 0.0) -> Batch | None:
        """What has been gathered and is worth storing, or None when nothing came in this time.

        With something there it waits for more as long as `gather_s`, unless somebody waits for the
        position itself. Raises what ended the reading, once everything before it has been taken.
        """
        with self._turn:
            self._asked = not gather_s
            self._turn.wait_for(lambda: self._ready or self._error is not None, patience_s)
            if gather_s and self._ready:
                self._turn.wait_for(lambda: self._pressing or self._error is not None, gather_s)
            self._asked = False
            batch = self._collector.take() if self._collector.batch.worth_storing else None
            if batch is None and self._oversized:
                batch = self._collector.take_part()
            self._turn.notify_all()
            if batch is None and self._error is not None:
                raise self._error
            return batch

    def confirm(self, lsn: int) -> None:
        """The target has committed this position."""
        self._reader.confirm(lsn)

    @property
    def failed(self) -> bool:
        """Whether the reading has ended with an error, which `take` will raise."""
        return self._error is not None

    @property
    def pending(self) -> int:
        """How many keys have been gathered."""
        return self._collector.pending

    @property
    def wal_end(self) -> int:
        """How far the source's log is, as far as it told."""
        return self._reader.wal_end

    @property
    def _ready(self) -> bool:
        return self._collector.batch.worth_storing or self._oversized

    @property
    def _pressing(self) -> bool:
        batch = self._collector.batch
        return batch.urgent or len(batch.keys) >= ENOUGH_KEYS or self._oversized

    @property
    def _oversized(self) -> bool:
        return self._collector.unfinished >= PART_KEYS

    @property
    def _full(self) -> bool:
        return self._oversized or len(self._collector.batch.keys) >= MOST_KEYS

    def _run(self) -> None:
        try:
            while not self._stopping:
                message = self._reader.read(IDLE_S)
                with self._turn:
                    self._feed(message)
                    self._hand_over()
        except BaseException as error:  # noqa: BLE001 - it is raised where the batches are taken
            with self._turn:
                self._error = error
                self._turn.notify_all()

    def _feed(self, message: bytes | None) -> None:
        """Take in what has arrived. It never waits for more."""
        collector, decode, read = self._collector, self._decoder.decode, self._reader.read
        for _ in range(RUN):
            if message is None:
                return
            # Our own transactions are long sometimes, and nobody needs their rows.
            if not (collector.skipping and message[0] in CHANGES):
                collector.feed(decode(message))
            message = read(0.0)
        if message is not None:
            collector.feed(decode(message))

    def _hand_over(self) -> None:
        """Let the other thread take it, if it waits; when full, wait for it."""
        self._reader.keep_alive()
        if self._ready:
            self._turn.notify_all()
            if self._asked:
                self._turn.wait_for(lambda: not self._asked or self._stopping, HANDOVER_S)
        while self._full and not self._stopping:
            # The server must not think that nobody reads.
            self._reader.keep_alive()
            self._turn.wait(IDLE_S)
