"""A slot, read ahead: one thread decodes while another writes what came before.

While a batch is written the next one gathers, so a key that changes all the time is carried once
for all its changes. What is gathered is bounded: when it is full, the log waits at the source. A
transaction that alone is too large for memory is handed over in parts, before its end.
"""

import math
import threading
import time
from collections.abc import Mapping
from typing import Protocol

from migrator.changes import Batch, Collector
from migrator.pgoutput import Decoder

# So many keys (or transactions) wait in memory, some 250 bytes each; and so many keys of one
# unfinished transaction.
MOST = 200_000
PART_KEYS = 100_000
# So many are gathered before the next batch; more by a stream that is behind: what changes again
# and again is then carried once for all of it.
ENOUGH = 20_000
PLENTY = 100_000
IDLE_S = 0.1
HANDOVER_S = 0.1
END_S = 5.0


class Log(Protocol):
    """What is read: `migrator.replication.Reader`."""

    @property
    def wal_end(self) -> int: ...
    @property
    def dry(self) -> bool: ...
    def read(self, timeout_s: float) -> list[bytes]: ...
    def confirm(self, lsn: int) -> None: ...
    def keep_alive(self) -> None: ...
    def close(self) -> None: ...


class Capture:
    """Owns the reader: but for `confirm`, its own thread alone touches it after `start`.

    `names`: see `pgoutput.Decoder`. `wal_end`: how far the source's log is, as far as it told.
    """

    def __init__(self, reader: Log, collector: Collector, names: Mapping[int, str]) -> None:
        self._reader, self._collector = reader, collector
        self._decoder = Decoder(collector.wanted, names)
        self._turn = threading.Condition()
        # From when on the other thread wants what is there.
        self._wanted_at, self._stopping = math.inf, False
        self._enough, self._silent, self._heard_at = ENOUGH, False, math.inf
        self._gulp_s, self._taken_at = 0.0, -math.inf
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self.wal_end = 0

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
        if not self._thread.is_alive():
            self._reader.close()

    def take(
        self, patience_s: float, gather_s: float = 0.0, enough: int = ENOUGH, gulp_s: float = 0.0
    ) -> Batch | None:
        """What has been gathered and is worth storing, or None when nothing came in this time.

        With something there it waits for more until `gather_s` after the last time, or `enough` is
        held, unless somebody waits for the position itself. With `gulp_s` the log is left alone for
        so long, from now on, when all that came has been read: to wake for each of some thousand
        transactions a second costs the worker and its walsender more than all the rest. Raises what
        ended the reading, once everything before it has been taken.
        """
        with self._turn:
            self._wanted_at = max(self._taken_at + gather_s, time.monotonic())
            self._enough, self._gulp_s = enough, gulp_s
            self._turn.wait_for(lambda: self._ready or self._error is not None, patience_s)
            if self._ready:
                self._turn.wait_for(lambda: self._due or self._error is not None, gather_s)
            self._wanted_at, self._taken_at = math.inf, time.monotonic()
            batch = self._collector.take() if self._collector.worth_storing else None
            if batch is None and self._oversized:
                batch = self._collector.take_part()
            self._turn.notify_all()
            if batch is None and self._error is not None:
                raise self._error
            return batch

    def rest(self, seconds: float) -> None:
        """Leave the cores to others for so long, unless somebody waits for the position itself."""
        with self._turn:
            self._turn.wait_for(lambda: self._collector.urgent or self._stopping, seconds)

    def confirm(self, lsn: int) -> None:
        """The target has committed this position."""
        self._reader.confirm(lsn)

    @property
    def pending(self) -> int:
        """How many keys have been gathered."""
        return self._collector.pending

    @property
    def _ready(self) -> bool:
        return self._collector.worth_storing or self._oversized

    @property
    def _due(self) -> bool:
        """Whether the other thread wants what is there now."""
        if self._wanted_at == math.inf:
            return False
        enough = self._silent or self._oversized or self._collector.held >= self._enough
        return enough or self._collector.urgent or time.monotonic() >= self._wanted_at

    @property
    def _oversized(self) -> bool:
        return self._collector.unfinished >= PART_KEYS

    @property
    def _full(self) -> bool:
        return self._oversized or self._collector.held >= MOST

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._reader.keep_alive()
                messages = self._reader.read(0.0 if self._gulp_s else IDLE_S)
                self.wal_end = self._reader.wal_end
                with self._turn:
                    # Silence for a while: what is there is all there is. Nothing may also mean that
                    # the server only wanted to know whether we are here.
                    now = time.monotonic()
                    self._heard_at = now if messages else self._heard_at
                    self._silent = now - self._heard_at >= IDLE_S
                    self._collector.take_in(self._decoder, messages)
                    self._hand_over()
                    if self._gulp_s and self._reader.dry:
                        self._turn.wait_for(lambda: self._stopping, self._gulp_s)
        except BaseException as error:  # noqa: BLE001 - it is raised where the batches are taken
            with self._turn:
                self._error = error
                self._turn.notify_all()

    def _hand_over(self) -> None:
        """Let the other thread take it, if it waits; when full, wait for it."""
        if self._ready:
            self._turn.notify_all()
            if self._due:
                self._turn.wait_for(lambda: not self._due or self._stopping, HANDOVER_S)
        while self._full and not self._stopping:
            # The server must not think that nobody reads.
            self._reader.keep_alive()
            self._turn.wait(IDLE_S)
