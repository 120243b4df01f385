"""The sync worker: one thread per stream, each begun again after an error until told to stop."""

import gc
import logging
import random
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import psycopg

from estate.config import Config, SyncConfig
from estate.connections import connect
from estate.errors import SplitctlError, in_one_line
from migrator.apply import Superseded
from migrator.changes import StreamStopped
from migrator.health import Board, Listener, StreamHealth, serve
from migrator.mapping import Stream, streams
from migrator.refuge import Absence, take_refuge
from migrator.replication import SlotBusy
from migrator.session import NotEnabled, Session, Standby, still_stands
from migrator.strays import StoppedAtStrays, waits_for_a_person

log = logging.getLogger(__name__)
LOOK_S = 0.5
RECHECK_S = 2.0
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
END_S = 5.0
# Keys that wait in memory look like garbage in the making: collecting at the usual moments took a
# sixth of a burst's time. What refers to itself is rare here, and is still found.
COLLECT = (100_000, 50, 100)
# Every worker that ever carried has a greater one than a stream that was just enabled.
FIRST_EPOCH = 1


@dataclass(frozen=True)
class Ended:
    """How each stream stood when the worker was ended."""

    streams: dict[str, str]

    @property
    def next_command(self) -> str:
        """Somebody has to carry."""
        return "splitctl sync run  (meanwhile, what changes waits in the source's log)"


def run(config: Config, stop: threading.Event, listener: Listener | None = None) -> Ended:
    """Carry every stream of the estate until `stop` is set; then finish the batches under way.

    Streams that are not enabled are looked for twice a second. `listener` hears which keys were
    carried. Raises AddressTaken.
    """
    gc.set_threshold(*COLLECT)
    found = streams(config)
    board = Board([stream.name for stream in found], listener)
    server = serve(config.sync.listen, board)
    threads = [
        threading.Thread(
            target=carry, args=(stream, board, stop, config.sync), name=stream.name, daemon=True
        )
        for stream in found
    ]
    try:
        for thread in threads:
            thread.start()
        stop.wait()
        for thread in threads:
            thread.join(END_S)
    finally:
        server.shutdown()
        server.server_close()
    return Ended({name: health.state for name, health in board.streams.items()})


def carry(stream: Stream, board: Board, stop: threading.Event, settings: SyncConfig) -> None:
    """One stream's thread: sessions, one after the other, until `stop` is set.

    Between two of them, when the target has been away for long, it takes refuge in the ledger.
    """
    health = board.streams[stream.name]
    absence = Absence(stream.target, settings.refuge_after.total_seconds())
    pause, epoch = FIRST_PAUSE_S, FIRST_EPOCH
    while not stop.is_set():
        reading = False
        try:
            try:
                session = Session(stream, board, settings.appliers)
                reading, epoch = True, session.epoch
                with closing(session):
                    pause = FIRST_PAUSE_S
                    absence.ended()
                    session.run(stop)
            except (NotEnabled, Standby, Superseded, StreamStopped):
                absence.ended()
                raise
            except (SplitctlError, psycopg.Error, OSError) as error:
                if not absence.is_long(error):
                    raise
                reading = True
                take_refuge(stream, health, stop, absence)
                pause = FIRST_PAUSE_S
        except NotEnabled:
            health.turn("disabled")
            stop.wait(LOOK_S)
        except (Standby, Superseded, SlotBusy):
            health.turn("standby")
            stop.wait(LOOK_S)
        except StoppedAtStrays as error:
            health.turn("stopped", str(error))
            _until(stop, stream, partial(_settled, stream))
        except StreamStopped as error:
            health.turn("stopped", str(error))
            if reading:
                # At what it read it would only stop again.
                _until(stop, stream, partial(_torn_down, stream, epoch))
            else:
                # Found before anything was read: asked anew it is found again, or was set right.
                stop.wait(RECHECK_S)
        except (SplitctlError, psycopg.Error, OSError) as error:
            pause = _retry(health, in_one_line(error), pause, stop)
        except Exception as error:
            log.exception("%s: unexpected", stream.name)
            pause = _retry(health, f"{type(error).__name__}: {error}", pause, stop)


def _retry(health: StreamHealth, reason: str, pause: float, stop: threading.Event) -> float:
    """Wait before the next attempt, longer each time. Returns the next pause."""
    health.turn("retrying", reason)
    # Jitter: streams that lost the same server must not all come back at once.
    stop.wait(pause * random.uniform(0.5, 1.5))
    return min(pause * 2, LONGEST_PAUSE_S)


def _until(stop: threading.Event, stream: Stream, condition: Callable[[], bool]) -> None:
    """A stream that stopped stays so until a person has done what it waits for."""
    while not stop.wait(LOOK_S):
        try:
            if condition():
                return
        except (SplitctlError, psycopg.Error) as error:
            log.info("%s: %s", stream.name, error)


def _torn_down(stream: Stream, epoch: int) -> bool:
    return not still_stands(stream, epoch)


def _settled(stream: Stream) -> bool:
    with connect(stream.target, f"look {stream.name}") as target:
        return not waits_for_a_person(target, stream)
