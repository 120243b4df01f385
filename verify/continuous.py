"""The continuous verifier: every key that sync has carried is compared some time later.

Between two whole runs trust need not age: what nobody touched is as it was, and what sync carried
is looked at here, at a set rate, in the worker's own process, where the keys are known. What
differs goes the way of every suspect: again and again after a barrier.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from estate.config import Config
from estate.errors import SplitctlError, in_one_line
from estate.ledger import Ledger
from migrator.changes import MappingKey
from migrator.mapping import streams
from verify.barriers import Barriers, SyncBarriers, SyncNotEnabled
from verify.desk import Desk, Looking
from verify.due import Due
from verify.subject import TableArchived
from verify.verdict import CHECKED, FOUND, VERIFY, MappingVerdict, mapping_data

TICK_S = 1.0
TOLD_EACH_S = 60.0
# Connections are given back when nothing was due for so long.
IDLE_S = 30.0
# After an error: the first pause, and the longest.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0
END_S = 6.0
# Differences that the ledger could not be told of yet.
MOST_UNRECORDED = 100
log = logging.getLogger(__name__)


class Watch:
    """One domain: the keys that wait, the desk where they are compared, and what came of it."""

    def __init__(self, config: Config, domain: str, barriers: Barriers, now: float) -> None:
        self.domain, self.checked, self.differing = domain, 0, 0
        self.due = Due(config.verify.continuous_after.total_seconds(), now)
        self.names = [stream.name for stream in streams(config, domain)]
        # Streams that are carried in this process, and since when.
        self.began: dict[str, float] = {}
        self.stale, self.next_at, self.pause_s = False, now, 0.0
        self._config, self._barriers = config, barriers
        self._desk: Desk | None = None
        self._used_at = now
        self._passed_at: float | None = None
        self._forms: list[str] | None = None
        self._looking: Looking = {}
        # Proved to differ once, by mappings that may have been described before an ALTER TABLE.
        self._accused: set[MappingKey] = set()

    def covered_s(self, now: float) -> float | None:
        """For so long every key that was carried was heard of, whoever carried it; None where
        that is not known: another process carries one of the streams, or nobody does."""
        began = dict(self.began)
        if any(name not in began for name in self.names):
            return None
        return now - max(self.due.since, *began.values())

    def look(self, now: float, most: int, stop: threading.Event) -> list[MappingVerdict]:
        """Compare what is due; returns what differs for certain. What could not be told waits
        again. Raises what the databases raise."""
        taken = self.due.take(now, most)
        if not taken:
            if now - self._used_at > IDLE_S:
                self.close()
            return []
        self._used_at = now
        names = dict(taken)
        try:
            done = self._at(stop).compare(names, self._looking)
        except (SyncNotEnabled, TableArchived):
            self.due.forget(now)
            self._looking.clear()
            self.close()
            return []
        except BaseException:
            self.due.put_back(taken, now)
            self.close()
            raise
        for reason in done.reasons:
            log.info("%s: carried keys cannot be told yet: %s", self.domain, reason)
        accused = [name for name in done.differing if name not in self._accused]
        if accused:
            # Columns may have another type since the mappings were described: once more, with
            # mappings that are described anew.
            self._accused.update(accused)
            self.stale = True
        # Also keys of the other direction to which these lead: as old as what led there.
        oldest = min(names.values())
        again = [*done.unsure, *(done.differing if accused else ())]
        self.due.put_back([(name, names.get(name, oldest)) for name in again], now)
        self.checked += len(names.keys() - set(again))
        self._accused.difference_update(names.keys() - set(again))
        if accused or not done.differing:
            return []
        self.differing += len(done.differing)
        # An equal run of before is not made younger by what comes now.
        self.due.left(now)
        return done.verdicts

    def compared_until(self, clock: Callable[[], float], stop: threading.Event) -> float | None:
        """Everything that was carried before this moment was compared; None if nobody knows.

        It is the moment of the barrier before this one: by now each key of then was heard of.
        """
        before, self._passed_at = self._passed_at, None
        marked_at = clock()
        if self.covered_s(marked_at) is None:
            return None
        desk = self._at(stop)
        forms = desk.forms()
        if forms != self._forms:
            # Rewritten, perhaps: then rows have changed of which no log tells.
            if self._forms is not None:
                self.due.left(marked_at)
                self.stale = True
            self._forms = forms
            return None
        if not desk.passed():
            return None
        self._passed_at = self._used_at = marked_at
        return None if before is None else min(before, self.due.oldest(marked_at))

    def _at(self, stop: threading.Event) -> Desk:
        if self._desk is None or self.stale:
            self.close()
            self.stale = False
            self._desk = Desk(self._config, self.domain, self._barriers, stop)
        return self._desk

    def close(self) -> None:
        """Give the connections back."""
        desk, self._desk = self._desk, None
        if desk is not None:
            with suppress(Exception):
                desk.close()


class Continuous:
    """Hears of carried keys in any thread, and compares them in one of its own."""

    def __init__(
        self,
        config: Config,
        *,
        barriers: Barriers | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._clock = config, clock
        now = clock()
        barriers = barriers or SyncBarriers()
        self._watches = {name: Watch(config, name, barriers, now) for name in config.domains}
        self._of_stream = {
            stream: watch for watch in self._watches.values() for stream in watch.names
        }
        # What the ledger does not have yet, and when it was proved.
        self._unrecorded: list[tuple[str, list[MappingVerdict], float]] = []
        self._tell_at, self._retry_at = now + TOLD_EACH_S, now
        self._looked_at = now
        self._registry = CollectorRegistry()
        self._gauges = {
            name: Gauge(f"splitctl_verify_{name}", told, ("domain",), registry=self._registry)
            for name, told in (
                ("compared_keys", "Keys that sync had carried and that were compared"),
                ("differing_keys", "Of these, proved to differ"),
                ("waiting_keys", "Carried, not compared yet"),
                ("covered_seconds", "For so long every key that was carried was heard of"),
            )
        }

    # What the worker calls, in the threads of its streams

    def began(self, stream: str) -> None:
        """This process carries the stream from now on."""
        self._of_stream[stream].began[stream] = self._clock()

    def ended(self, stream: str) -> None:
        """It does not any more."""
        self._of_stream[stream].began.pop(stream, None)

    def heard(self, stream: str, names: Iterable[MappingKey]) -> None:
        """These keys were carried now."""
        self._of_stream[stream].due.add(names, self._clock())

    def missed(self, stream: str) -> None:
        """Keys were put aside, to be carried when nobody hears of it."""
        self._of_stream[stream].due.left(self._clock())

    def altered(self, stream: str) -> None:
        """A base table has other columns than before: rows may have changed without a word."""
        watch = self._of_stream[stream]
        watch.due.left(self._clock())
        watch.stale = True

    # What its pages show

    def metrics(self) -> bytes:
        """For /metrics."""
        now = self._clock()
        for domain, watch in self._watches.items():
            covered = watch.covered_s(now)
            self._gauges["compared_keys"].labels(domain).set(watch.checked)
            self._gauges["differing_keys"].labels(domain).set(watch.differing)
            self._gauges["waiting_keys"].labels(domain).set(len(watch.due))
            self._gauges["covered_seconds"].labels(domain).set(
                math.nan if covered is None else covered
            )
        return generate_latest(self._registry)

    def to_json(self) -> dict[str, Any]:
        """For /status."""
        now = self._clock()
        return {
            "looked_s_ago": round(now - self._looked_at, 1),
            "domains": {
                domain: {
                    "compared": watch.checked,
                    "differing": watch.differing,
                    "waiting": len(watch.due),
                    "oldest_s": round(now - watch.due.oldest(now), 1),
                    "left_out": watch.due.left_out,
                    "covered_s": watch.covered_s(now),
                }
                for domain, watch in self._watches.items()
            },
        }

    # Its own thread

    def run(self, stop: threading.Event) -> None:
        """Look at what is due and tell the ledger, until `stop` is set."""
        pause = TICK_S
        while not stop.wait(pause):
            started = time.monotonic()
            for watch in self._watches.values():
                self._look(watch, stop)
            self.tell(stop)
            self._looked_at = self._clock()
            pause = max(TICK_S - (time.monotonic() - started), 0.0)
        for watch in self._watches.values():
            watch.close()

    def _look(self, watch: Watch, stop: threading.Event) -> None:
        """One domain's turn; what it meets is its own affair, and it rests before the next one."""
        now = self._clock()
        if now < watch.next_at:
            return
        try:
            self.look(watch.domain, stop)
            watch.pause_s = 0.0
        except (SplitctlError, psycopg.Error, OSError) as error:
            log.warning("%s: carried keys are not compared: %s", watch.domain, in_one_line(error))
        except Exception:
            log.exception("%s: carried keys are not compared", watch.domain)
        else:
            return
        watch.close()
        watch.pause_s = min(max(watch.pause_s * 2, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        watch.next_at = now + watch.pause_s

    def look(self, domain: str, stop: threading.Event) -> None:
        """Compare what is due in a domain, as much as its rate allows in a tick."""
        now = self._clock()
        most = max(1, int(self._config.verify.continuous * TICK_S))
        found = self._watches[domain].look(now, most, stop)
        for verdict in found:
            first = ", ".join(f"{name}={text}" for name, text in verdict.found[0].key.items())
            log.error("%s: carried, and different: %s", verdict.mapping, first)
        if found and len(self._unrecorded) < MOST_UNRECORDED:
            self._unrecorded.append((domain, found, now))

    def tell(self, stop: threading.Event) -> None:
        """What differs, at once; and now and then until when everything was compared."""
        now = self._clock()
        whole = now >= self._tell_at
        if now < self._retry_at or not (whole or self._unrecorded):
            return
        try:
            until = self._until(stop) if whole else {}
            if not until and not self._unrecorded:
                return
            # Neither made nor brought up to date here: that is for who works with it.
            with Ledger(self._config.ledger_database, "splitctl sync run") as ledger:
                while self._unrecorded:
                    domain, verdicts, proved_at = self._unrecorded[0]
                    data = {"mappings": [mapping_data(verdict) for verdict in verdicts]}
                    age_s = self._clock() - proved_at
                    ledger.add_verdict(domain, VERIFY, FOUND, "different", data, seconds=age_s)
                    self._unrecorded.pop(0)
                for domain, (moment, covered_s) in until.items():
                    behind_s = self._clock() - moment
                    told = {"compared": self._watches[domain].checked, "behind_s": behind_s}
                    ledger.add_verdict(domain, VERIFY, CHECKED, "equal", told, seconds=covered_s)
        except Exception as error:  # noqa: BLE001 - a worker does not end for want of its books
            log.warning("what was compared is not recorded yet: %s", in_one_line(error))
            self._retry_at = self._clock() + LONGEST_PAUSE_S
        if whole:
            self._tell_at = now + TOLD_EACH_S

    def _until(self, stop: threading.Event) -> dict[str, tuple[float, float]]:
        """For each domain of which it is known: until when all was compared, and heard of since."""
        found: dict[str, tuple[float, float]] = {}
        for domain, watch in self._watches.items():
            if watch.covered_s(self._clock()) is None:
                continue
            try:
                moment = watch.compared_until(self._clock, stop)
            except (SplitctlError, psycopg.Error, OSError) as error:
                log.info("%s: no barrier: %s", domain, in_one_line(error))
                watch.close()
                continue
            covered_s = watch.covered_s(self._clock())
            if moment is not None and covered_s is not None:
                found[domain] = (moment, covered_s)
        return found


@contextmanager
def running(config: Config, stop: threading.Event) -> Iterator[Continuous | None]:
    """A continuous verifier at work, until the end or `stop`; None where its rate is 0."""
    if not config.verify.continuous:
        yield None
        return
    verifier = Continuous(config)
    thread = threading.Thread(target=verifier.run, args=(stop,), name="verifier", daemon=True)
    thread.start()
    try:
        yield verifier
    finally:
        stop.set()
        thread.join(END_S)
