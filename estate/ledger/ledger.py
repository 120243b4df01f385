"""The ledger itself: open it, take the lock, write intents and outcomes, read what is true."""

import shlex
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import psycopg
import sqlalchemy
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from estate import journal
from estate.config import Config, DatabaseConfig
from estate.connections import DatabaseUnreachable, connect, operator
from estate.errors import ExitCode, SplitctlError, in_one_line
from estate.ledger import lock, merging, migrate
from estate.ledger.models import ActRow, RolloutRow, SampleRow, VerdictRow
from estate.ledger.records import (
    ActRecord,
    LockRecord,
    Rollout,
    SampleRecord,
    VerdictRecord,
)
from estate.ledger.rows import (
    Author,
    Change,
    act_of,
    latest,
    rollout_of,
    save,
    verdict_of,
    write,
)

LEDGER = "ledger"


class LedgerUnreachable(SplitctlError):
    """The ledger cannot be used: {reason}. Nothing was changed."""

    hint = "splitctl doctor  (splitctl rollback works without the ledger)"
    exit_code = ExitCode.PRECONDITION


class LedgerNewer(SplitctlError):
    """The ledger was written by a newer splitctl (its revision is {revision}). Nothing was
    changed."""

    hint = "upgrade splitctl here, then type the same command again"
    exit_code = ExitCode.PRECONDITION


class LockHeld(SplitctlError):
    """{who} holds the operator lock since {since} with `{command}`. Nothing was changed."""

    hint = "splitctl status; wait for that command, or end it"
    exit_code = ExitCode.PRECONDITION


def open_ledger(config: Config, command: str | None = None) -> "Ledger":
    """Open the ledger, bring its schema up to date, and take in what the journal kept.

    Raises LedgerUnreachable or LedgerNewer.
    """
    ledger = Ledger(config.ledger_database, command or shlex.join(sys.argv[1:]) or "python")
    try:
        ledger.prepare()
        ledger.merge(journal.of(config))
    except BaseException:
        ledger.close()
        raise
    return ledger


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except DatabaseUnreachable as error:
        raise LedgerUnreachable(reason=error.facts.get("reason", str(error))) from error
    except (sqlalchemy.exc.DBAPIError, psycopg.Error) as error:
        cause = getattr(error, "orig", None) or error
        raise LedgerUnreachable(reason=in_one_line(cause)) from error


class Ledger:
    """One command's view of the ledger. Every method is a transaction of its own."""

    def __init__(self, settings: DatabaseConfig, command: str) -> None:
        self._settings = settings
        self.operator, self.host, self.command = operator(), socket.gethostname(), command
        self._author = Author(self.operator, self.host, self.command)
        self._engine = sqlalchemy.create_engine(
            "postgresql+psycopg://",
            creator=lambda: connect(settings, LEDGER, autocommit=False),
            pool_size=1,
            max_overflow=1,
            pool_pre_ping=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._engine.dispose()

    def prepare(self) -> None:
        """Make or upgrade the schema where it is not as this version of the tool wants it."""
        with _reachable():
            with self._engine.begin() as connection:
                revision = migrate.current(connection)
            if revision == migrate.HEAD:
                return
            if revision is not None and not migrate.known(revision):
                raise LedgerNewer(revision=revision)
            with self._engine.begin() as connection:
                migrate.upgrade(connection)

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with _reachable(), Session(self._engine) as session, session.begin():
            yield session

    # The operator lock

    @contextmanager
    def lock(self, who: str | None = None, command: str | None = None) -> Iterator[None]:
        """Hold the operator lock for a while. Raises LockHeld at once when another holds it."""
        with _reachable():
            connection = connect(self._settings, "operator lock")
        with lock.closing(connection):
            with _reachable():
                command = command or self.command
                if not lock.take(connection, who or self.operator, self.host, command):
                    raise self._held(lock.holder(connection))
            yield

    @staticmethod
    def _held(other: LockRecord | None) -> LockHeld:
        if other is None:
            return LockHeld(who="Another operator", since="a moment", command="unknown")
        since = other.since.isoformat(timespec="seconds")
        who = f"{other.operator} on {other.host}"
        return LockHeld(who=who, since=since, command=other.command)

    def lock_holder(self) -> LockRecord | None:
        """Who holds the operator lock now."""
        with _reachable(), connect(self._settings, "operator lock") as connection:
            return lock.holder(connection)

    # Acts

    def begin(self, domain: str | None, kind: str, intent: Mapping[str, Any]) -> ActRecord:
        """Write an intent down; it is durable when this returns."""
        with self._session() as session:
            return write(session, self._author, domain, kind, intent)

    def finish(
        self,
        act: ActRecord,
        outcome: Mapping[str, Any],
        *,
        state: str = "done",
        rollout: Rollout | None = None,
    ) -> None:
        """Write the outcome, and where the domain stands now, in one transaction."""
        with self._session() as session:
            session.execute(
                update(ActRow)
                .where(ActRow.id == act.id, ActRow.state == "intended")
                .values(outcome=dict(outcome), state=state, finished_at=func.clock_timestamp())
            )
            if rollout is not None:
                save(session, rollout)

    def unfinished(self, domain: str | None = None) -> list[ActRecord]:
        """Intents without an outcome, oldest first."""
        query = select(ActRow).where(ActRow.state == "intended").order_by(ActRow.id)
        if domain is not None:
            query = query.where(ActRow.domain == domain)
        with self._session() as session:
            return [act_of(row) for row in session.scalars(query)]

    def latest(self, domain: str, kinds: Sequence[str]) -> ActRecord | None:
        """The newest act of these kinds that was done."""
        with self._session() as session:
            return latest(session, domain, kinds)

    def history(
        self,
        domain: str | None = None,
        limit: int = 30,
        since: datetime | None = None,
        kinds: Sequence[str] | None = None,
    ) -> list[ActRecord]:
        """The last acts, of some kinds or all, newest last."""
        query = select(ActRow).order_by(ActRow.at.desc(), ActRow.id.desc()).limit(limit)
        if domain is not None:
            query = query.where(ActRow.domain == domain)
        if since is not None:
            query = query.where(ActRow.at >= since)
        if kinds is not None:
            query = query.where(ActRow.kind.in_(kinds))
        with self._session() as session:
            return [act_of(row) for row in session.scalars(query)][::-1]

    # Where a domain stands

    def now(self) -> datetime:
        """The ledger's clock: the only one that its times are compared with."""
        with self._session() as session:
            moment: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
            return moment

    def rollout(self, domain: str) -> Rollout | None:
        """Where a domain stands; None when its rollout was never started."""
        with self._session() as session:
            row = session.get(RolloutRow, domain)
            return rollout_of(row) if row else None

    def save_rollout(self, rollout: Rollout) -> None:
        """Write where a domain stands."""
        with self._session() as session:
            save(session, rollout)

    @contextmanager
    def changing(self, domain: str) -> Iterator[Change]:
        """Read and write one domain's row under its lock: for clocks that several may count.

        Nothing is written unless `save` is called. Must be short.
        """
        with self._session() as session:
            row = session.get(RolloutRow, domain, with_for_update=True)
            moment: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
            yield Change(session, rollout_of(row) if row else None, moment, self._author)

    # Samples and verdicts

    def add_sample(self, domain: str, source: str, data: Mapping[str, Any]) -> None:
        """Keep what was measured now."""
        with self._session() as session:
            session.add(SampleRow(domain=domain, source=source, data=dict(data)))

    def samples(
        self, domain: str, since: datetime | None = None, limit: int = 10_000
    ) -> list[SampleRecord]:
        """What was measured, oldest first; the newest `limit` of it."""
        query = select(SampleRow).where(SampleRow.domain == domain)
        if since is not None:
            query = query.where(SampleRow.at >= since)
        query = query.order_by(SampleRow.id.desc()).limit(limit)
        with self._session() as session:
            rows = list(session.scalars(query))[::-1]
            return [SampleRecord(row.at, row.domain, row.source, row.data) for row in rows]

    def add_verdict(
        self,
        domain: str,
        kind: str,
        name: str,
        verdict: str,
        data: Mapping[str, Any],
        *,
        seconds: float = 0.0,
    ) -> None:
        """Keep an answer. `seconds`: how long ago the gathering of its evidence began."""
        began = func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, seconds)
        with self._session() as session:
            session.add(
                VerdictRow(
                    domain=domain,
                    kind=kind,
                    name=name,
                    verdict=verdict,
                    data=dict(data),
                    started_at=began,
                )
            )

    def latest_verdict(self, domain: str, name: str) -> VerdictRecord | None:
        """The newest answer of this name for the domain."""
        return next(iter(self.verdicts(domain, name, 1)), None)

    def verdicts(self, domain: str, name: str, limit: int) -> list[VerdictRecord]:
        """So many answers of this name for the domain, the newest first."""
        age = func.extract("epoch", func.clock_timestamp() - VerdictRow.at)
        query = (
            select(VerdictRow, age)
            .where(VerdictRow.domain == domain, VerdictRow.name == name)
            .order_by(VerdictRow.id.desc())
            .limit(limit)
        )
        with self._session() as session:
            return [verdict_of(row, seconds) for row, seconds in session.execute(query)]

    def turns(
        self, domain: str | None = None, limit: int = 30, since: datetime | None = None
    ) -> list[VerdictRecord]:
        """The last answers that were not the same as the one before them, newest last."""
        before = func.lag(VerdictRow.verdict).over(
            partition_by=(VerdictRow.domain, VerdictRow.name), order_by=VerdictRow.id
        )
        told = select(VerdictRow.id, before.label("before")).subquery()
        age = func.extract("epoch", func.clock_timestamp() - VerdictRow.at)
        query = (
            select(VerdictRow, age)
            .join(told, told.c.id == VerdictRow.id)
            .where(VerdictRow.verdict.is_distinct_from(told.c.before))
            .order_by(VerdictRow.id.desc())
            .limit(limit)
        )
        if domain is not None:
            query = query.where(VerdictRow.domain == domain)
        if since is not None:
            query = query.where(VerdictRow.at >= since)
        with self._session() as session:
            return [verdict_of(row, seconds) for row, seconds in session.execute(query)][::-1]

    # The journal

    def merge(self, kept: journal.Journal) -> int:
        """Take in what was written locally while the ledger was away. Returns how many entries."""
        entries = kept.pending()
        for entry in entries:
            with self._session() as session:
                merging.take_in(session, entry)
        kept.merged(entries)
        return len(entries)
