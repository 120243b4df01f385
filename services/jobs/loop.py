"""Rounds of jobs until told to stop; a database that is away is tried again."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg

from services.jobs.ownership import Connection, Side
from services.jobs.report import PUBLISHER, Report
from services.jobs.tables import CARTS, CartTables, Shape
from services.jobs.work import Cleanup, Compensation, Job, Relay

log = logging.getLogger("jobs")

JOBS = ("cleanup", PUBLISHER, "compensation")
SESSION = (
    "-c statement_timeout=10s -c lock_timeout=2s -c idle_in_transaction_session_timeout=10s"
    " -c timezone=UTC -c search_path=public"
)
LONGEST_PAUSE = 10.0
EXISTS = "SELECT to_regclass(%s) IS NOT NULL"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the jobs need to know. `shape` None: found out from the tables that are there.

    alone: whether this side owns everything where nothing is carried; None: the old side does.
    """

    side: Side
    database_url: str
    jobs: tuple[str, ...]
    interval_s: float
    idle: timedelta
    release: Callable[[str], None]
    shape: Shape | None = None
    alone: bool | None = None


class Rounds:
    """Runs the jobs in turn."""

    def __init__(self, settings: Settings, report: Report, stop: threading.Event) -> None:
        self._settings = settings
        self._report = report
        self._stop = stop
        self._jobs: dict[str, Job] = {}
        self._shape: Shape | None = None

    def run(self) -> None:
        """Until stopped. A batch under way is finished first."""
        pause = self._settings.interval_s
        while not self._stop.is_set():
            try:
                with self._connect() as connection:
                    while not self._stop.is_set():
                        self.round(connection)
                        pause = self._settings.interval_s
                        self._stop.wait(pause)
            except psycopg.OperationalError as error:
                self._report.unconnected()
                log.warning("database: %s", str(error).strip())
                self._stop.wait(pause)
                pause = min(max(pause, 0.1) * 2, LONGEST_PAUSE)

    def round(self, connection: Connection) -> None:
        """One batch of each job. Raises psycopg.OperationalError when the connection is lost."""
        began = time.monotonic()
        for name, job in self._present(connection).items():
            if self._stop.is_set():
                return
            try:
                self._report.settled(name, job.run(connection))
            except (psycopg.Error, OSError) as error:
                self._report.failed(name)
                log.warning("%s: %s", name, str(error).strip())
                if connection.closed:
                    raise psycopg.OperationalError("the connection is lost") from error
        self._report.round_ended(time.monotonic() - began)

    def _connect(self) -> Connection:
        return psycopg.connect(
            self._settings.database_url,
            autocommit=True,
            connect_timeout=5,
            application_name=f"jobs-{self._settings.side}",
            options=SESSION,
        )

    def _present(self, connection: Connection) -> Mapping[str, Job]:
        """The jobs whose tables are there. Tables come and go: they are made, moved, archived."""
        wanted = self._settings.jobs
        shape = self._settings.shape or self._found(connection)
        if shape != self._shape or shape is None:
            self._shape = shape
            self._jobs = {}
        tables = CARTS.get(shape) if shape is not None else None
        carts = tables is not None and _exists(connection, tables.carts)
        outbox = _exists(connection, "outbox")
        present: dict[str, Job] = {}
        for name in wanted:
            if not outbox or (name != PUBLISHER and not carts):
                continue
            if name not in self._jobs:
                self._jobs[name] = self._make(name, tables)
            present[name] = self._jobs[name]
        return present

    def _found(self, connection: Connection) -> Shape | None:
        for shape, tables in CARTS.items():
            if _exists(connection, tables.carts):
                return shape
        return None

    def _make(self, name: str, tables: CartTables | None) -> Job:
        settings = self._settings
        if name == PUBLISHER or tables is None:
            return Relay()
        if name == "cleanup":
            return Cleanup(settings.side, tables, settings.idle, settings.alone)
        return Compensation(settings.side, tables, settings.release, settings.alone)


def _exists(connection: Connection, table: str) -> bool:
    row: tuple[Any, ...] | None = connection.execute(EXISTS, [table]).fetchone()
    return row is not None and bool(row[0])
